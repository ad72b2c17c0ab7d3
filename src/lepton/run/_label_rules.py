"""The rules of the labels that a configuration asks for, and what can be wrong with them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lepton.data import (
    SEQUENCE_KINDS,
    SPEECH_KINDS,
    Column,
    LabelRule,
    Rows,
    class_names,
    decode_mask,
    find_column,
    infer_task,
    is_list,
    too_many_classes,
)
from lepton.errors import ConfigurationError, DataError
from lepton.run._rows import has_label

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["check_labels", "check_names", "is_transcript", "label_rule", "with_training_tags"]


def label_rule(name: str, section: Any, table: pa.Table, columns: Mapping[str, Column]) -> LabelRule:
    """Return the rule of one task's labels.

    Args:
        name: the task's name.
        section: its entry in the configuration.
        table: the source.
        columns: what its columns were taken for.

    Returns:
        The rule, of tags without its classes: see `with_training_tags`.

    Raises:
        DataError: nothing can be learned from the column.
        ConfigurationError: the column does not fit the kind of task.
    """
    told = section.column or section.columns or name in table.column_names
    if section.type == "language_modeling" and not told:
        return LabelRule(name, section.type, ())  # it predicts the text that is read, whichever that is
    names = tuple(section.columns or [section.column or name])
    for column in names:
        find_column(table, column)
    if not name or "." in name:
        raise ConfigurationError(
            f"a task cannot be named {name!r}, since it names a module: give it another name, "
            f'such as targets={{"price": {{"column": {names[0]!r}}}}}.'
        )
    first = columns[names[0]]
    kind = section.type
    if kind == "auto":
        kind = "multi_label" if len(names) > 1 else _inferred(table, first, columns)
    _check_kind(name, kind, names, columns)
    masks = first.kind == "image"
    classes: tuple[str, ...] = ()
    if masks:
        classes = _mask_classes(name, section, table, names[0])
    elif kind != "token_classification":
        classes = _classes(kind, section, table, names)
    missing = int(getattr(section, "missing", 255)) if kind == "segmentation" else _mask_missing(section)
    return LabelRule(name, kind, names, classes, missing, masks and kind == "multi_label", section.min_share)


def with_training_tags(rule: LabelRule, section: Any, train: pa.Table) -> LabelRule:
    """Return the rule with the tags of the training rows as its classes, unless it was told some; others as they are.

    A tag that only other rows have could be learned from none, and would take a row of the head and of every table.

    Args:
        rule: of one task.
        section: its entry in the configuration.
        train: the training rows.

    Raises:
        DataError: there are fewer than two tags, or not as many as the configuration says.
    """
    if rule.kind != "token_classification":
        return rule
    return dataclasses.replace(rule, classes=_classes(rule.kind, section, train, rule.columns))


def is_transcript(table: pa.Table, column: Column, columns: Mapping[str, Column]) -> bool:
    """Return whether a column holds what is said in recordings: texts beside them, too many to be classes."""
    heard = any(other.kind == "audio" for other in columns.values())
    return heard and column.kind in ("text", "category", "ignore") and too_many_classes(table, column)


def _inferred(table: pa.Table, column: Column, columns: Mapping[str, Column]) -> str:
    """Return the kind of task: lists as long as a column of words are its tags, texts of recordings transcripts."""
    import pyarrow.compute as pc

    if is_transcript(table, column, columns):
        return "speech_recognition"
    tags = table.column(column.name)
    if column.kind == "labels":
        for name in ("words", "tokens"):
            words = table.column(name) if name in table.column_names and name != column.name else None
            if words is not None and is_list(words) and pc.list_value_length(words).equals(pc.list_value_length(tags)):
                return "token_classification"
    return infer_task(table, column)


def _check_kind(name: str, kind: str, names: Sequence[str], columns: Mapping[str, Column]) -> None:
    """Refuse columns that a task of this kind cannot learn."""
    for column in names:
        if columns[column].missing == 1:
            raise DataError(f"target {column!r}: every value is missing.")
    first = columns[names[0]]
    if kind in (*SEQUENCE_KINDS, *SPEECH_KINDS):
        return _check_sequence(name, kind, names, first)
    if len(names) > 1 and kind not in ("regression", "multi_label"):
        raise ConfigurationError(f"task {name!r}: a {kind} reads one column, not {list(names)}.")
    if (first.kind == "image") != (kind == "segmentation") and not (first.kind == "image" and kind == "multi_label"):
        raise ConfigurationError(
            f"task {name!r}: masks, a column of pictures, give a segmentation or a multi_label, and nothing else does; "
            f"but column {first.name!r} is of the kind {first.kind!r}, and the task a {kind}."
        )
    if kind == "regression" and all(columns[column].distinct == 1 for column in names):
        raise DataError(f"target {first.name!r} has one value only, {first.example!r}: there is nothing to learn.")


def _check_sequence(name: str, kind: str, names: Sequence[str], column: Column) -> None:
    """Refuse columns that hold no texts, or no tags."""
    if len(names) > 1:
        raise ConfigurationError(f"task {name!r}: a {kind} reads one column, not {list(names)}.")
    tags = kind == "token_classification"
    if (tags and column.kind != "labels") or column.kind in ("number", "boolean", "date", "image", "audio"):
        wanted = "a list of tags for each row" if tags else "text"
        readable = not tags and column.kind in ("number", "boolean", "date")
        raise ConfigurationError(
            f"task {name!r}: a {kind} needs a column with {wanted}, but column {column.name!r} is of the kind "
            f"{column.kind!r}: {column.why}."
            + (f" If they are texts, say so: data: {{kinds: {{{column.name}: text}}}}." if readable else "")
        )


def check_names(rules: Sequence[LabelRule]) -> None:
    """Refuse tasks that would give two columns of the predictions one name."""
    names = [name for rule in rules for name in rule.predicted]
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None:
        raise ConfigurationError(f"two columns of the predictions would be named {twice!r}: rename a task.")


def _mask_missing(section: Any) -> int:
    told = getattr(section, "missing", None)
    return int(told) if isinstance(told, (int, float)) and told == told else 255


def _mask_classes(name: str, section: Any, table: pa.Table, column: str) -> tuple[str, ...]:
    """Return the names of the classes in masks: as told, or their numbers as found in the first masks."""
    told = getattr(section, "classes", None) or getattr(section, "labels", None)
    if isinstance(told, list):
        return tuple(told)
    if told is None:
        paths = [path for path in table.column(column).to_pylist() if path is not None][:100]
        seen = {
            number for path in paths for number in decode_mask(path).flatten().bincount().nonzero().flatten().tolist()
        }
        told = max(seen - {_mask_missing(section)}) + 1
        if told < 2 or told > 255:
            raise DataError(f"target {name!r}: the masks hold the numbers {sorted(seen)[:10]}: give classes.")
    return tuple(str(number) for number in range(told))


def _classes(kind: str, section: Any, table: pa.Table, names: Sequence[str]) -> tuple[str, ...]:
    if kind in ("regression", "language_modeling", "translation", *SPEECH_KINDS):
        return ()
    told = getattr(section, "classes", None) or getattr(section, "labels", None)
    if isinstance(told, list):
        return tuple(told)
    if len(names) > 1 or (kind == "multi_label" and not is_list(table.column(names[0]))):
        return tuple(names)
    found = class_names(table, names[0])
    if len(found) < 2:
        seen = f"one value only, {found!r}" if found else "no value in the training rows"
        raise DataError(f"target {names[0]!r} has {seen}: there is nothing to learn.")
    if isinstance(told, int) and len(found) != told:
        raise DataError(
            f"target {names[0]!r} has {len(found)} classes, but the configuration says {told}: give their names."
        )
    return tuple(found)


def check_labels(rules: Sequence[LabelRule], data: Mapping[str, Rows], notes: list[str]) -> None:
    """Refuse parts without labels, and note tasks that have none in one.

    Args:
        rules: rules of the labels.
        data: part -> rows.
        notes: gets the sentences.
    """
    for part, rows in data.items():
        # A mask is decoded when its row is read, so nothing is known about it here.
        empty = [rule for rule in rules if rule.task in rows.targets and not has_label(rows.targets[rule.task]).any()]
        if empty and part == "train":
            raise DataError(f"target {empty[0].task!r} has no label among the {len(rows)} training rows.")
        if len(empty) == len(rules) and part == "val":
            raise DataError(
                f"no target has a label among the {len(rows)} validation rows: give validation a larger share, or none "
                "(val=0)."
            )
        notes += [f"{rule.task!r} has no label in the part {part!r}." for rule in empty]
