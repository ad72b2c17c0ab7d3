"""What a terminal shows of a run beside its baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lepton.insight import Estimate, Interval, MetricInfo, Table, TableCell, TableRow

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lepton.run.baselines._baselines import Baselines, BaselineScore
    from lepton.run.baselines._gains import Gains

__all__ = ["baselines_view"]

HEADINGS = {"alone": "alone", "shared": "shared", "boosting": "boosted trees"}


def baselines_view(found: Baselines) -> RenderableType:
    """Return the table, or a sentence if nothing can be compared."""
    from rich.text import Text

    if found.gains is None:
        return Text("No baseline is ready: there is nothing to compare with.")
    return _baselines_table(found, found.gains)


def _baselines_table(found: Baselines, gains: Gains) -> Table:
    """Return a table of tasks and metrics in rows, and alone, shared and boosted trees in columns."""
    who = ["alone", "shared", *(["boosting"] if found.boosting else [])]
    rows = [
        _metric_row(found, gains, who, task, metric)
        for task, metrics in found.metrics.items()
        if task in found.alone
        for metric in metrics
    ]
    title = f"the run beside its tasks trained alone, {found.part} rows"
    everything = (*rows, *_delta_rows(gains, who), *_cost_rows(found, who))
    return Table(title, tuple(HEADINGS[name] for name in who), everything, tuple(_footnotes(found, gains)))


def _metric_row(found: Baselines, gains: Gains, who: list[str], task: str, metric: MetricInfo) -> TableRow:
    key = f"{task}/{metric.name}"
    digits = _digits([gains.scores[f"{name}/{key}"].value for name in who if f"{name}/{key}" in gains.scores])
    cells = []
    for name in who:
        score, apart = gains.scores.get(f"{name}/{key}"), gains.differences.get(f"{name}/{key}")
        if score is None:
            cells.append(TableCell(""))
        elif apart is None:
            cells.append(TableCell(_seeds(found.alone[task], found.part, metric, digits) + _mark(score, metric)))
        else:
            cells.append(_apart(score, apart, metric, digits))
    return TableRow(TableCell(f"{task} {metric.name}", metric.direction), tuple(cells))


def _seeds(score: BaselineScore, part: str, metric: MetricInfo, digits: int) -> str:
    values = [seed.part(part)[metric.name] for seed in score.seeds]
    return Estimate.of(values).text(digits)


def _apart(score: Interval, apart: Interval, metric: MetricInfo, digits: int) -> TableCell:
    value = f"{score.value:.{digits}f}{_mark(score, metric)}"
    if math.isnan(apart.low):
        return TableCell(value, f"{apart.value:+.{digits}f}")
    better = apart.sign > 0 if metric.higher_is_better else apart.sign < 0
    remark = apart.text(digits, signed=True)
    if apart.sign == 0:
        return TableCell(value, remark)
    return TableCell(value, f"better {remark}", "better") if better else TableCell(value, f"worse {remark}", "worse")


def _mark(score: Interval, metric: MetricInfo) -> str:
    if metric.chance is None or math.isnan(score.value):
        return ""
    gain = score.value - metric.chance
    return "*" if (gain if metric.higher_is_better else -gain) <= 0 else ""


def _digits(values: list[float]) -> int:
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 4) if largest > 0 else 3


def _delta_rows(gains: Gains, who: list[str]) -> Iterator[TableRow]:
    names = {"per_task": "delta_m % per task", "flat": "delta_m % flat"}
    names |= {f"{key}_above_chance": f"{name}, above chance" for key, name in names.items()}
    for key, name in names.items():
        found = [gains.delta_m.get(f"{those}/{key}") for those in who[1:]]
        if any(value is not None for value in found):
            judged = not gains.at_chance or key.endswith("above_chance")
            cells = (TableCell("reference"), *(_delta_cell(value, judged) for value in found))
            yield TableRow(TableCell(name, "+ is better"), cells, new_group=key == "per_task")


def _delta_cell(value: Interval | None, judged: bool) -> TableCell:
    if value is None:
        return TableCell("")
    if not judged:
        return TableCell(value.text(2, signed=True), "with tasks at chance")
    words = {1: "better", -1: "worse", 0: "no difference" if not math.isnan(value.low) else ""}[value.sign]
    return TableCell(value.text(2, signed=True), words, "better" if value.sign > 0 else "muted")


def _cost_rows(found: Baselines, who: list[str]) -> Iterator[TableRow]:
    alone, trees = found.alone.values(), found.boosting.values()
    seconds = {
        "alone": sum(score.seconds for score in alone),
        "shared": found.shared.seconds,
        "boosting": sum(score.seconds for score in trees),
    }
    sizes = {
        "alone": sum(score.parameters for score in alone),
        "shared": sum(found.shared.parameters.values()),
        "boosting": sum(score.parameters for score in trees),
    }
    times = tuple(TableCell(f"{seconds[name]:.1f} s") for name in who)
    yield TableRow(TableCell("training time", "all tasks together"), times, new_group=True)
    counts = tuple(TableCell(f"{sizes[name]:,}") for name in who)
    yield TableRow(TableCell("parameters", "trees: leaves, at most"), counts)


def _footnotes(found: Baselines, gains: Gains) -> Iterator[str]:
    yield (
        "Below a score: its difference to the task alone, with the 95 % interval over resampled rows; better or worse "
        "where that has no 0. Another seed may change more than other rows would: what matters wants several seeds of "
        "the run as well."
    )
    yield "delta_m: mean relative improvement over the tasks alone, every task or every metric counting the same."
    if gains.at_chance:
        yield (
            f"At chance alone, by every metric that can tell: {', '.join(gains.at_chance)}. A relative improvement of "
            "such a task is noise: judge by delta_m above chance, and not at all where there is none."
        )
    yield "* not better than a predictor that ignores its input."
    if gains.left_out:
        yield f"Left out of delta_m, because a baseline is zero: {', '.join(gains.left_out)}."
    if found.interrupted:
        waiting = [task for task in found.metrics if task not in found.alone]
        yield f"Interrupted; not trained alone: {', '.join(waiting) or 'none'}."
    yield from found.notes
