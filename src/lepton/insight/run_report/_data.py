"""What a run was trained on, what it costs, and where it was made."""

from __future__ import annotations

from collections.abc import Iterator

from lepton.insight.page import (
    Block,
    Code,
    Fold,
    Matrix,
    Points,
    Section,
    Table,
    TableCell,
    TableRow,
    as_bytes,
    as_count,
    as_duration,
    as_large,
    as_number,
    as_percent,
)
from lepton.insight.run_report._facts import CostFacts, DataFacts, RunFacts, TaskFacts
from lepton.insight.run_report._words import PART_WORDS

__all__ = ["cost_section", "data_section", "environment_section"]

SHOWN_CLASSES = 10
SHOWN_TASKS = 20


# -- cost ---------------------------------------------------------------------------------------------------------
def cost_section(facts: RunFacts) -> Section:
    """Return the account of the shared model against a model for each task."""
    return Section("Cost", (_cost_table(facts.cost, len(facts.tasks)), *_private(facts)))


def _cost_table(cost: CostFacts, tasks: int) -> Table:
    """Return the table: one shared model, a model for each task, saved."""
    private = sum(cost.private.values())
    heads = cost.weight_bytes - cost.trunk_bytes
    rows = [
        _account("parameters", "", cost.shared + private, tasks * cost.shared + private, as_large),
        _account("memory of the weights", "", cost.weight_bytes, tasks * cost.trunk_bytes + heads, as_bytes),
    ]
    if cost.trunk_flops is not None and cost.head_flops is not None:
        each = (cost.trunk_flops + cost.head_flops, tasks * cost.trunk_flops + cost.head_flops)
        rows.insert(1, _account("operations for one row", "matrix products and convolutions", *each, as_large))
    if cost.disk_bytes is not None:
        disk = cost.disk_bytes + (tasks - 1) * cost.trunk_bytes
        rows.append(_account("checkpoint on disk", "", cost.disk_bytes, disk, as_bytes))
    alone = sum(cost.alone_seconds.values())
    complete = len(cost.alone_seconds) == tasks
    rows.append(_account("time of training", "", cost.seconds, alone if complete else None, as_duration))
    notes = ["A model for each task has the same trunk: its cost follows from the shared model's parts."]
    if not complete:
        notes.append("The time of single models is known once they are trained: lepton baseline.")
    single = f"{tasks} single models" if tasks > 1 else "1 single model"
    return Table("What one shared model saves", ("one shared model", single, "saved"), tuple(rows), tuple(notes))


def _account(name: str, remark: str, shared: float, single: float | None, words: object) -> TableRow:
    assert callable(words)
    if single is None:
        return TableRow(TableCell(name, remark), (TableCell(words(shared)), TableCell("not measured"), TableCell("")))
    share = 1 - shared / single if single else 0.0
    saved = TableCell(as_percent(share)) if share >= 0 else TableCell(f"{as_percent(-share)} more", "", "worse")
    return TableRow(TableCell(name, remark), (TableCell(words(shared)), TableCell(words(single)), saved))


def _private(facts: RunFacts) -> Iterator[Block]:
    cost = facts.cost
    rows = [TableRow(TableCell("shared", f"trunk: {facts.trunk}"), (TableCell(as_count(cost.shared)),))]
    names = list(cost.private)[:SHOWN_TASKS]
    rows += [TableRow(TableCell(name, "head"), (TableCell(as_count(cost.private[name])),)) for name in names]
    more = len(cost.private) - len(names)
    notes = (f"{more} further heads.",) if more > 0 else ()
    yield Fold("Parameters of each part", (Table("Parameters", ("parameters",), tuple(rows), notes),))


# -- data ---------------------------------------------------------------------------------------------------------
def data_section(facts: RunFacts) -> Section:
    """Return rows, columns, labels and what looked odd."""
    if facts.data is None:
        return Section("Data", ("Not recorded: this run was trained by a version that wrote no summary of its data.",))
    return Section("Data", tuple(_data(facts.data, facts)))


def _data(data: DataFacts, facts: RunFacts) -> Iterator[Block]:
    parts = ", ".join(f"{as_count(rows)} {PART_WORDS.get(part, part)}" for part, rows in data.rows.items())
    yield f"Rows: {parts}. How they were divided: {data.how}."
    if data.notes:
        yield Points(data.notes)
    yield _columns(data)
    yield _labels(data, {task.name: task for task in facts.tasks})
    if len(facts.tasks) > 1 and data.overlap and any(share < 1 for row in data.overlap for share in row):
        names = tuple(task.name for task in facts.tasks[:SHOWN_TASKS])
        cells = [row[: len(names)] for row in data.overlap[: len(names)]]
        yield Matrix(
            "Label map: share of the training rows that have labels of both tasks",
            names,
            names,
            tuple(tuple(as_percent(share) for share in row) for row in cells),
            tuple(tuple(row) for row in cells),
            caption="On the diagonal: rows with a label of the task at all.",
        )


def _columns(data: DataFacts) -> Table:
    rows = []
    for column in data.columns:
        missing = TableCell(as_percent(column.missing) if column.missing else "none")
        shape = TableCell(column.words or "no histogram", "", bars=column.bars)
        cells = (
            TableCell(column.kind),
            missing,
            TableCell(as_count(column.distinct) if column.distinct else ""),
            shape,
        )
        rows.append(TableRow(TableCell(column.name, column.role), (*cells, TableCell(column.words))))
    more = data.n_columns - len(data.columns)
    notes = (f"{as_count(more)} further columns are not shown.",) if more > 0 else ()
    headings = ("kind", "missing", "distinct", "distribution", "values")
    return Table("Columns", headings, tuple(rows), notes, words_last=True)


def _labels(data: DataFacts, tasks: dict[str, TaskFacts]) -> Table:
    parts = list(data.rows)
    rows = []
    for labels in data.labels:
        task = tasks.get(labels.task)
        shares = tuple(_present(labels.present.get(part)) for part in parts)
        rows.append(TableRow(TableCell(labels.task, "rows with a label"), shares, new_group=True))
        if labels.mean:
            numbers = (
                TableCell(as_number(labels.mean[part]), f"± {as_number(labels.std[part], 3)}")
                if part in labels.mean
                else TableCell("")
                for part in parts
            )
            rows.append(TableRow(TableCell("mean", "± standard deviation"), tuple(numbers)))
        names = task.classes if task is not None else ()
        for place, name in enumerate(names[:SHOWN_CLASSES] if labels.counts else ()):
            counts = tuple(_count(labels.counts.get(part, ()), place) for part in parts)
            rows.append(TableRow(TableCell(name), counts))
        if labels.counts and len(names) > SHOWN_CLASSES:
            rows.append(
                TableRow(
                    TableCell(f"{len(names) - SHOWN_CLASSES} further classes"), tuple(TableCell("") for _ in parts)
                )
            )
    return Table("Labels and balance of the classes", tuple(PART_WORDS.get(part, part) for part in parts), tuple(rows))


def _present(share: float | None) -> TableCell:
    return TableCell("" if share is None else as_percent(share))


def _count(counts: tuple[int, ...], place: int) -> TableCell:
    if place >= len(counts):
        return TableCell("")
    total = sum(counts)
    return TableCell(as_count(counts[place]), as_percent(counts[place] / total) if total else "")


# -- environment --------------------------------------------------------------------------------------------------
def environment_section(facts: RunFacts) -> Section:
    """Return versions, the exact command and the configuration."""
    rows = tuple(TableRow(TableCell(name), (TableCell(value),)) for name, value in facts.environment.items())
    return Section(
        "How to make it again",
        (
            "The command:",
            Code(facts.command, "the command"),
            Table("Environment", ("value",), rows, words_last=True),
            Fold(
                "The configuration with every decision written out: config.yaml", (Code(facts.config, "config.yaml"),)
            ),
        ),
    )
