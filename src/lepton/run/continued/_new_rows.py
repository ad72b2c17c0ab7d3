"""The rows that a run is continued with: read, compared with its rules, split and encoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton.config import Config
from lepton.data import (
    PARTS,
    Column,
    Encoder,
    LabelRule,
    Rows,
    Split,
    class_names,
    describe_columns,
    find_column,
)
from lepton.errors import DataError, nearest
from lepton.run._encoding import encode_rows
from lepton.run._prepare import read_source, split_rule, split_tables
from lepton.run._rows import labelled_rows
from lepton.run._run import Run
from lepton.run._summary import seen_words

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NewRows", "divided", "new_classes", "read_new_rows"]

log = logging.getLogger(__name__)


@dataclass
class NewRows:
    """Rows to go on with.

    Attributes:
        table: as they were read.
        columns: what their columns were taken for.
        rules: of the tasks that they have columns for.
        split: row numbers of the parts.
        tables: part -> rows as they were read.
        data: part -> encoded rows.
    """

    table: pa.Table
    columns: list[Column]
    rules: list[LabelRule]
    split: Split
    tables: dict[str, pa.Table]
    data: dict[str, Rows]


def read_new_rows(run: Run, source: Any) -> tuple[pa.Table, list[LabelRule]]:
    """Read rows, and return them with the run's rules of the tasks that they have columns for.

    Raises:
        DataError: a column that the run reads is missing, or all columns of its tasks are.
    """
    table = read_source(run.config, source)
    for name in run.encoder.names:
        find_column(table, name)
    rules = [rule for rule in run.rules if set(rule.columns) <= set(table.column_names)]
    if not rules or not any(rule.columns for rule in rules):
        wanted = {rule.task: list(rule.columns) for rule in run.rules}
        raise DataError(
            f"the new rows hold labels of no task: the columns of the run's tasks are {wanted}, but theirs are "
            f"{table.column_names[:12]}.{_nearest_column(run, table)}"
        )
    if seen_words(run, table):
        log.warning(
            "These are the rows that the run was trained on: to go on with them teaches nothing new, and its held-out "
            "rows are divided anew, so that the results below are too good."
        )
    return table, rules


def _nearest_column(run: Run, table: pa.Table) -> str:
    wanted = [column for rule in run.rules for column in rule.columns]
    return next((words for column in wanted if (words := nearest(column, table.column_names))), "")


def new_classes(rules: Sequence[LabelRule], table: pa.Table) -> dict[str, list[str]]:
    """Return task -> words among the labels that are none of its classes; of kinds whose classes are words in one
    column.
    """
    found = {}
    for rule in rules:
        if rule.kind not in ("classification", "multi_label", "token_classification") or rule.from_masks:
            continue
        if len(rule.columns) > 1 or (rule.kind == "multi_label" and rule.columns == rule.classes):
            continue
        words = [word for word in class_names(table, rule.columns[0]) if word not in rule.classes]
        if words:
            found[rule.task] = words
    return found


def divided(config: Config, encoder: Encoder, rules: Sequence[LabelRule], table: pa.Table, notes: list[str]) -> NewRows:
    """Divide rows as the configuration's split says, and encode them.

    Args:
        config: that of the new run.
        encoder: the old run's.
        rules: of the tasks that the rows have columns for.
        table: the rows.
        notes: gets sentences about what looks odd.

    Raises:
        DataError: there are too few rows, or no training row has a label.
    """
    kinds = {name: told.kind for name, told in (config.data.inputs or {}).items()}
    known = {name: kind for name, kind in {**config.data.kinds, **kinds}.items() if name in table.column_names}
    columns = describe_columns(table, known, config.data.date_formats)
    by_name = {column.name: column for column in columns}
    split = split_rule(config, rules, by_name).apply(table)
    tables = split_tables(config, table, split)
    data = {part: encode_rows(config, encoder, rules, tables[part], notes, part) for part in PARTS if part in tables}
    if not any(bool(labelled_rows(data["train"], rule.task).any()) for rule in rules):
        raise DataError(
            f"no task has a label among the {len(data['train'])} new training rows: the columns "
            f"{sorted({column for rule in rules for column in rule.columns})} are empty there."
        )
    return NewRows(table, columns, list(rules), split, tables, data)
