"""What a person sees of a run in a terminal: columns, plan, results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lepton.config import wrappers
from lepton.data import SPEECH_KINDS
from lepton.evaluate import TaskResult
from lepton.insight import signature_notes
from lepton.run._own_parts import held_out
from lepton.run._rows import held_out_part

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from lepton.nn import LeptonModel
    from lepton.run._prepare import Prepared
    from lepton.run._run import Run

__all__ = [
    "balance_words",
    "columns_table",
    "count_parameters",
    "metrics_table",
    "plan_table",
    "results_rows",
    "score_notes",
    "seen_words",
]


def columns_table(prepared: Prepared) -> Table:
    """Return a table of what each column was taken for."""
    from rich.table import Table

    taken: dict[str, list[str]] = {}
    for rule in prepared.rules:
        for name in rule.columns:
            taken.setdefault(name, []).append(rule.kind)
    kinds = {column.name: column.kind for column in prepared.encoder.columns}  # as it is read, not as it was found
    table = Table(title="columns", title_justify="left")
    for header in ("column", "read as", "why", "missing", "example"):
        table.add_column(header, justify="right" if header == "missing" else "left")
    for column in prepared.columns:
        roles = [kinds.get(column.name, column.kind)] if column.name in prepared.encoder.names else []
        roles += [f"target: {', '.join(taken[column.name])}"] if column.name in taken else []
        read = "; ".join(roles) or "not used"
        missing = f"{column.missing:.1%}" if column.missing else ""
        table.add_row(column.name, read, column.why, missing, _short(column.example))
    return table


def seen_words(run: Run, table: pa.Table) -> str:
    """Return a warning if a table is the one that a run was trained on, and how to use its other rows; or nothing.

    Args:
        run: the run.
        table: rows that are given to it with their labels.
    """
    if not run.split.is_of(table):
        return ""
    parts = {
        *run.split.parts,
        *(part for one in run.config.data.sources or [None] for part in held_out(run.config, one).others),
    }
    other = held_out_part(parts)
    way = f" The {other} rows alone: part={other!r}, or on the command line --part {other} without a table."
    return (
        f"This is the table that the run was trained on: {len(run.split.parts['train'])} of its {table.num_rows} rows "
        f"trained, so that these results are too good.{way if other else ''}"
    )


def _short(text: str, limit: int = 16) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def balance_words(section: Any) -> str:
    """Return a balancing method with what is wrapped around it, as in `every(log(cagrad))`."""
    words = str(section.method)
    for name, _, _ in wrappers(section):
        words = f"{name}({words})"
    return words


def plan_table(prepared: Prepared, parameters: Mapping[str, int]) -> Table:
    """Return a table of what will be trained."""
    from rich.table import Table

    config = prepared.config
    table = Table(title="plan", title_justify="left", show_header=False)
    sizes = ", ".join(f"{len(rows)} {part}" for part, rows in prepared.data.items())
    tasks = ", ".join(f"{rule.task} ({_kind(rule.kind, len(rule.classes))})" for rule in prepared.rules)
    training = config.training
    length = f"{training.max_steps} steps" if training.max_steps else f"at most {training.max_epochs} epoch(s)"
    for name, value in (
        ("rows", f"{sizes}; split: {prepared.split.how}"),
        ("tasks", tasks),
        ("trunk", f"{config.trunk.type}, {parameters['shared']:,} shared parameters, {parameters['heads']:,} in heads"),
        ("balance", f"{balance_words(config.balance)}, view {config.balance.gradients}"),
        ("training", f"{length}, batches of {training.batch_size}, learning rate {training.learning_rate:g}"),
    ):
        table.add_row(name, value)
    return table


def _kind(kind: str, classes: int) -> str:
    what = "characters" if kind in SPEECH_KINDS else "classes"
    return f"{kind.replace('_', '-')}, {classes} {what}" if classes else kind


def results_rows(run: Run, results: Mapping[str, Mapping[str, TaskResult]]) -> list[list[str]]:
    """Return a header and one row for each task and metric, with a column for each entry of `results`."""
    rows = [["task", "metric", *results]]
    for task in run.tasks:
        kind = run.model.task(task)
        better = {**kind.higher_is_better, **kind.search_metrics}
        for metric in better:
            cells = [_cell(found[task], metric) for found in results.values()]
            rows.append([task, f"{metric} {'↑' if better[metric] else '↓'}", *cells])
    return rows


def _cell(result: TaskResult, metric: str) -> str:
    value = result.metrics.get(metric, math.nan)
    return "" if math.isnan(value) else f"{value:.4g}"


def metrics_table(run: Run, results: Mapping[str, Mapping[str, TaskResult]]) -> Table:
    """Return a table of every task's metrics.

    Args:
        run: whose tasks they are.
        results: heading of a column -> task -> result.
    """
    from rich.table import Table

    header, *rows = results_rows(run, results)
    table = Table(title=f"results of {run.folder}", title_justify="left")
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < 2 else "right")
    last = ""
    for row in rows:
        table.add_row(row[0] if row[0] != last else "", *row[1:])
        last = row[0]
    return table


def score_notes(results: Mapping[str, Mapping[str, TaskResult]]) -> list[str]:
    """Return what must be shown below `metrics_table`: the signatures of the scores that have one, a line each.

    Args:
        results: heading of a column -> task -> result.
    """
    found: dict[str, dict[str, str]] = {}
    for tasks in results.values():
        for task, result in tasks.items():
            found.setdefault(task, {}).update(result.signatures)
    return signature_notes(found)


def count_parameters(model: LeptonModel) -> dict[str, int]:
    """Return how many parameters are shared, and how many belong to heads."""
    shared = sum(parameter.numel() for parameter in model.trunk.parameters())
    every = sum(parameter.numel() for parameter in model.parameters())
    balancer = sum(parameter.numel() for parameter in model.balancer.parameters())
    return {"shared": shared, "heads": every - shared - balancer}
