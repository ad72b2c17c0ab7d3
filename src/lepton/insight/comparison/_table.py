"""The table of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lepton.errors import ConfigurationError, nearest
from lepton.insight._estimate import Estimate, digits_for
from lepton.insight.comparison._comparison import (
    Comparison,
    DeltaMEstimate,
    MethodSummary,
    ScoreCell,
    Verdict,
    verdict_of,
)
from lepton.insight.page import Table, TableCell, TableRow, Tone

__all__ = ["comparison_table"]


def comparison_table(comparison: Comparison, reference: str | None = None) -> Table:
    """Return the table of a comparison: tasks, delta_m and costs in rows; methods in columns, baseline first.

    Args:
        comparison: what to show.
        reference: the method whose time per step counts as 1; by default the first one.

    Returns:
        A table that fits a terminal of 100 columns, in several parts if there are many methods.

    Raises:
        ConfigurationError: if no method is called `reference`.

    Example:
        `console.print(comparison_table(comparison, reference="equal weighting"))`
    """
    rows = [*_task_rows(comparison), *_delta_rows(comparison), *_cost_rows(comparison, reference)]
    return Table(
        title="Scores on the held-out test set, mean ± half width of the 95 % interval",
        columns=(comparison.baseline.method, *(method.method for method in comparison.methods)),
        rows=tuple(rows),
        footnotes=tuple(_footnotes(comparison)),
    )


def _task_rows(comparison: Comparison) -> Iterator[TableRow]:
    for task, metrics in comparison.metrics.items():
        for metric in metrics:
            cells = [comparison.cell(method.method, task, metric.name) for method in comparison.methods]
            digits = comparison.digits(task, metric.name)
            name = TableCell(f"{task} {metric.name}", metric.direction)
            drawn = (_baseline_cell(cells, digits), *(_score_cell(cell, digits) for cell in cells))
            yield TableRow(name, drawn)


def _baseline_cell(cells: Sequence[ScoreCell], digits: int) -> TableCell:
    if not cells:
        return TableCell("")
    mark = "*" if cells[0].baseline_at_chance else ""
    return TableCell(cells[0].baseline.text(digits) + mark)


def _score_cell(cell: ScoreCell, digits: int) -> TableCell:
    mark = "*" if cell.method_at_chance else ""
    return TableCell(cell.score.text(digits) + mark, *_remark(cell.verdict, cell.difference, digits))


def _remark(verdict: Verdict, difference: Estimate, digits: int) -> tuple[str, Tone]:
    if verdict == "better" or verdict == "worse":
        return f"{verdict} {difference.mean:+.{digits}f}", verdict
    if verdict == "not known":
        return "one seed" if difference.n == 1 else verdict, "muted"
    return "no difference", "muted"


def _delta_rows(comparison: Comparison) -> Iterator[TableRow]:
    yield from _delta_pair("", [method.delta_m for method in comparison.methods])
    without = [method.delta_m_above_chance for method in comparison.methods]
    if any(without):
        yield from _delta_pair("above chance, ", without)


def _delta_pair(which: str, deltas: Sequence[DeltaMEstimate | None]) -> Iterator[TableRow]:
    per_task = [None if delta is None else delta.per_task for delta in deltas]
    flat = [None if delta is None else delta.flat for delta in deltas]
    digits = min(max(digits_for([delta for delta in per_task + flat if delta is not None]), 1), 2)
    for name, row in (("delta_m % per task", per_task), ("delta_m % flat", flat)):
        cells = (TableCell("reference"), *(_delta_cell(delta, digits) for delta in row))
        yield TableRow(TableCell(name, f"{which}+ is better"), cells, new_group=row is per_task)


def _delta_cell(delta: Estimate | None, digits: int) -> TableCell:
    if delta is None:
        return TableCell("none left")
    verdict = verdict_of(delta)
    tone: Tone = verdict if verdict == "better" or verdict == "worse" else "muted"
    remark = {"no difference seen": "no difference", "not known": "one seed" if delta.n == 1 else "not known"}
    return TableCell(delta.text(digits, signed=True), remark.get(verdict, verdict), tone)


def _cost_rows(comparison: Comparison, reference: str | None) -> Iterator[TableRow]:
    summaries = (comparison.baseline, *comparison.methods)
    unit = _reference(comparison, reference)
    yield TableRow(TableCell("parameters", "all tasks together"), tuple(map(_parameter_cell, summaries)), True)
    steps = tuple(_step_cell(summary, unit) for summary in summaries)
    yield TableRow(TableCell("time per step", f"× {unit.method}"), steps)
    yield TableRow(TableCell("training time", "per seed"), tuple(TableCell(_duration(s.seconds)) for s in summaries))


def _reference(comparison: Comparison, name: str | None) -> MethodSummary:
    methods = {method.method: method for method in comparison.methods}
    if name is None:
        return comparison.methods[0] if comparison.methods else comparison.baseline
    if name not in methods:
        raise ConfigurationError(
            f"comparison_table: reference must be one of {list(methods)}, but it is {name!r}.{nearest(name, methods)}"
        )
    return methods[name]


def _parameter_cell(summary: MethodSummary) -> TableCell:
    return TableCell(_count(summary.parameters["total"]), f"{_count(summary.parameters['shared'])} shared")


def _step_cell(summary: MethodSummary, unit: MethodSummary) -> TableCell:
    milliseconds = summary.seconds_per_step.mean * 1000
    ratio = summary.seconds_per_step.mean / unit.seconds_per_step.mean
    return TableCell(f"{ratio:.2f} ×", f"{milliseconds:.{1 if milliseconds < 100 else 0}f} ms")


def _count(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            digits = 0 if number >= 100 * size else 1 if number >= 10 * size else 2
            return f"{number / size:.{digits}f} {letter}"
    return str(number)


def _duration(seconds: Estimate) -> str:
    return f"{seconds.mean:.1f} s" if seconds.mean < 120 else f"{seconds.mean / 60:.1f} min"


def _footnotes(comparison: Comparison) -> Iterator[str]:
    yield (
        f"{comparison.baseline.method}: one network per task; its parameters and times are the sums over the tasks. "
        "better / worse: the difference to it, paired by seed, has a 95 % interval without 0."
    )
    yield (
        "delta_m: mean relative improvement over the tasks trained alone, percent, positive is better than alone; "
        "per task: every task counts the same; flat: every metric counts the same."
    )
    if any(cell.at_chance for cell in comparison.cells):
        yield "* not better than a predictor that ignores the input, beyond its interval."
    if comparison.left_out:
        yield f"Left out of delta_m, because a baseline is zero: {', '.join(comparison.left_out)}."
