"""The rows of a run that gets more tasks: the old ones, the new ones, and both in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton.config import AddedTasks, check_config, content_of
from lepton.data import LabelRule, Rows
from lepton.errors import ConfigurationError, DataError
from lepton.run._encoding import encode_rows
from lepton.run._prepare import Prepared, prepare
from lepton.run._run import Run
from lepton.run._start import OF_THE_ENCODER

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["OldRows", "check_new_rules", "joined", "new_rows", "old_rows", "part_column"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class OldRows:
    """The rows that a run was trained on, or why they are not at hand.

    Attributes:
        tables: part -> rows; empty without them.
        data: part -> the same, encoded.
        reason: why there are none; empty otherwise.
    """

    tables: Mapping[str, pa.Table]
    data: Mapping[str, Rows]
    reason: str = ""


def old_rows(run: Run) -> OldRows:
    """Return the rows of a run, if its source is still there and as it was."""
    try:
        tables = run.tables()
    except (ConfigurationError, DataError) as error:
        return OldRows({}, {}, str(error))
    notes: list[str] = []
    data = {part: encode_rows(run.config, run.encoder, run.rules, rows, notes, part) for part, rows in tables.items()}
    return OldRows(tables, data)


def new_rows(run: Run, config: AddedTasks, source: Any = None) -> Prepared:
    """Return the new rows with their labels, their inputs made by the rules of the run.

    The configuration in it is that of the new tasks alone, on the run's trunk, from scratch.

    Args:
        run: the run.
        config: the new tasks.
        source: rows in memory, instead of `config.data.source`.

    Raises:
        DataError: a column is missing, or nothing can be learned from the rows.
        ConfigurationError: a task of a name that exists, or a column that is used already.
    """
    _check_tasks(run, config)
    content, before = content_of(config), content_of(run.config)
    data = content["data"]
    # What its inputs are is the run's, whatever the file says; `started_config` refuses the same for `start`.
    strange = [key for key in OF_THE_ENCODER if key in data and data[key] != before["data"].get(key)]
    told = [key for key in strange if key in config.data.model_fields_set]
    if told:
        raise ConfigurationError(f"data.{told[0]} is decided by the run {str(run.folder)!r}: leave it out.")
    data |= {key: before["data"][key] for key in (*OF_THE_ENCODER, "image_size") if key in before["data"]}
    data["date_formats"] = before["data"].get("date_formats", {}) | data.get("date_formats", {})
    data["augment"] = before["data"].get("augment", True)
    parts = {key: content[key] for key in ("tasks", "balance", "training", "seed")}
    alone = check_config({"data": data, **parts, "trunk": before["trunk"]})
    return prepare(alone, source, kept=(run.encoder, run.rules))


def _check_tasks(run: Run, config: AddedTasks) -> None:
    taken = [name for name in config.tasks if name in run.tasks]
    if taken:
        raise ConfigurationError(
            f"the run {str(run.folder)!r} already has a task {taken[0]!r}; its tasks are {run.tasks}. A task that is "
            "there keeps its head and its classes: give the new one another name, with column: for its labels."
        )
    speaks = [rule.task for rule in run.rules if rule.kind == "speech_synthesis"]
    speaks += [name for name, section in config.tasks.items() if section.type == "speech_synthesis"]
    if speaks:
        raise ConfigurationError(
            f"task {speaks[0]!r} is a speech_synthesis, which is trained together with the others: no task is added to "
            "or beside it. Train all of them anew."
        )


def check_new_rules(run: Run, rules: Sequence[LabelRule]) -> None:
    """Refuse new tasks whose labels stand in a column of an old task.

    Raises:
        ConfigurationError: such a task.
    """
    owners = {column: rule.task for rule in run.rules for column in rule.columns}
    for rule in rules:
        both = [column for column in rule.columns if column in owners]
        if both:
            raise ConfigurationError(
                f"the new task {rule.task!r} reads its labels from the column {both[0]!r}, which is that of the old "
                f"task {owners[both[0]]!r}: old and new rows are kept in one table, so rename it in the new rows."
            )


# -- one table ----------------------------------------------------------------------------------------------------
def joined(run: Run, old: OldRows, new: Prepared, where: str) -> pa.Table:
    """Return old and new rows in one table, each with the labels of its own tasks, and a column that says which part.

    Args:
        run: the old run.
        old: the old rows.
        new: the new rows.
        where: name of the column of parts.

    Raises:
        DataError: a column holds other values in the new rows than in the old ones.
    """
    import pyarrow as pa

    inputs = list(run.encoder.names)
    tables = []
    for part in PARTS:
        for rows, rules in ((old.tables, run.rules), (new.tables, new.rules)):
            if part in rows:
                names = list(dict.fromkeys([*inputs, *(column for rule in rules for column in rule.columns)]))
                chosen = rows[part].select(names)
                tables.append(chosen.append_column(where, pa.array([part] * chosen.num_rows, pa.string())))
    try:
        found = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"old and new rows do not go into one table: {_clash(tables)} ({error}).") from error
    for rule in run.rules:
        for column in rule.columns:
            if column not in found.column_names:
                found = found.append_column(column, pa.nulls(found.num_rows, _empty_type(rule)))
    return found


def _clash(tables: Sequence[pa.Table]) -> str:
    types: dict[str, list[str]] = {}
    for table in tables:
        for field in table.schema:
            types.setdefault(field.name, []).append(str(field.type))
    several = {name: sorted(set(found)) for name, found in types.items() if len(set(found)) > 1}
    return "; ".join(f"the column {name!r} holds {' and '.join(found)}" for name, found in several.items())


def _empty_type(rule: LabelRule) -> pa.DataType:
    """Return the type of a column of labels that no row has."""
    import pyarrow as pa

    if rule.kind == "token_classification" or (rule.kind == "multi_label" and len(rule.columns) == 1):
        return pa.list_(pa.string())
    return pa.float64() if rule.kind in ("regression", "multi_label") else pa.string()


def part_column(run: Run, rules: Sequence[LabelRule]) -> str:
    """Return a name for the column of parts that no other column has."""
    taken = {*run.encoder.names, *(column for rule in [*run.rules, *rules] for column in rule.columns)}
    return next(name for name in ("part", *(f"part_{n}" for n in range(len(taken) + 1))) if name not in taken)
