"""Columns of a table to the labels of tasks: what kind of task a column asks for, and how its values become labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton.data._arrays import as_numbers, as_words, places, reading
from lepton.data._kinds import FEW, Column, find_column
from lepton.data._plain import plain_numbers, whole_numbers
from lepton.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "SEQUENCE_KINDS",
    "SPEECH_KINDS",
    "LabelRule",
    "TaskKind",
    "class_names",
    "infer_task",
    "is_list",
    "too_many_classes",
]

TaskKind = Literal[
    "classification",
    "regression",
    "multi_label",
    "segmentation",
    "language_modeling",
    "translation",
    "token_classification",
    "speech_recognition",
    "speech_synthesis",
]
SEQUENCE_KINDS = ("language_modeling", "translation", "token_classification")
"""Kinds of task that predict something for every position of a text: a `SequenceEncoder` makes their labels."""

SPEECH_KINDS = ("speech_recognition", "speech_synthesis")
"""Kinds of task between recordings and texts: an `AudioEncoder` makes their labels."""


_LARGEST = 1e18
"""Beyond that, squared errors leave the range of float32."""

REPEATS = 3
"""How many rows whole numbers that are classes have for each of them, on average."""

MAX_CLASSES = 1000
"""More different words than that in a target are taken for a mistake unless the kind is given."""


def infer_task(table: pa.Table, column: Column) -> TaskKind:
    """Return what kind of task predicts a column.

    Words, booleans, and whole numbers of at most 20 different values that repeat are classes: each value three times
    on average, or there are two of them. Other numbers are regressions; lists are several labels; pictures are masks.
    Recordings are never a target.

    Args:
        table: the rows.
        column: what `describe_columns` says of the column.

    Raises:
        DataError: nothing can be learned from the column.
    """
    name = column.name
    if column.missing == 1:
        raise DataError(f"target {name!r}: every value is missing.")
    if column.kind == "ignore" and not _learnable(table.column(name)):
        raise DataError(f"target {name!r} holds {table.column(name).type}, which cannot be learned.")
    if column.kind != "labels" and column.distinct < 2:
        raise DataError(f"target {name!r} has one value only, {column.example!r}: there is nothing to learn.")
    if column.kind == "audio":
        raise DataError(
            f"target {name!r} holds paths of recordings, which are listened to, not predicted: name the column that "
            "says what is heard in them, such as a transcript or a speaker."
        )
    if column.kind == "labels":
        return "multi_label"
    if column.kind == "image":
        return "segmentation"
    if column.kind == "number" or (column.kind == "ignore" and _is_numeric(table, name)):
        with reading(name, "numbers"):
            numbers = as_numbers(table.column(name))
        present = numbers[~np.isnan(numbers)]
        return "classification" if _are_classes(present, column.distinct) else "regression"
    if column.kind == "date":
        raise DataError(
            f"target {name!r} is a date: predict a number instead, such as the days since a reference date."
        )
    if too_many_classes(table, column):
        raise DataError(
            f"target {name!r} has {column.distinct} different values in {len(table.column(name))} rows, too many for "
            'classes. If they are meant, say so: targets={"' + name + '": "classification"}; a text to be found is a '
            '"translation", and one to be modelled a "language_modeling".'
        )
    return "classification"


def too_many_classes(table: pa.Table, column: Column) -> bool:
    """Return whether words differ too often to be classes: more than 1000, or half as many as rows; texts do.

    Args:
        table: the rows.
        column: what `describe_columns` says of the column.

    Example:
        >>> from lepton.data import describe_columns, read_table
        >>> table = read_table({"said": [f"take {row}" for row in range(30)], "speaker": ["Ann", "Bob"] * 15})
        >>> [too_many_classes(table, column) for column in describe_columns(table)]
        [True, False]
    """
    present = (1 - column.missing) * len(table.column(column.name))
    return column.distinct > MAX_CLASSES or column.distinct > 0.5 * present > 10


def _are_classes(numbers: npt.NDArray[np.float64], distinct: int) -> bool:
    """Return whether numbers name classes: few, whole, and repeating. A dozen prices are whole and few as well."""
    repeats = distinct == 2 or len(numbers) >= REPEATS * distinct
    return distinct <= FEW and repeats and bool((numbers == np.floor(numbers)).all())


def _learnable(column: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    kind = column.type
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_numeric(table: pa.Table, name: str) -> bool:
    import pyarrow as pa

    kind = table.column(name).type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def class_names(table: pa.Table, column: str) -> list[str]:
    """Return the different values of a column as words: numbers in their order, words in that of the alphabet.

    Lists give the different words in them.

    Args:
        table: the rows.
        column: the column's name.

    Raises:
        DataError: there is no such column.
    """
    import pyarrow.compute as pc

    values = find_column(table, column)
    if is_list(values):
        values = pc.list_flatten(values)
    words = [word for word in as_words(values).unique().to_pylist() if word is not None]
    try:
        return sorted(words, key=float)
    except ValueError:
        return sorted(words)


@dataclass(frozen=True)
class LabelRule:
    """How the labels of one task follow from columns.

    Attributes:
        task: the task's name.
        kind: what kind of task it is.
        columns: the columns that are read: one, or for several labels one for each, of zeros and ones.
        classes: the words that are classes or labels, in the order of their numbers; none for numbers.
        missing: for masks, the pixel value without a label.
        from_masks: several labels that say which classes occur in a mask.
        min_share: share of a mask's pixels from which a class counts as there; with 0, one pixel is enough.
    """

    task: str
    kind: TaskKind
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    missing: int = 255
    from_masks: bool = False
    min_share: float = 0.0

    @property
    def predicted(self) -> list[str]:
        """Names of the columns that `decode` gives."""
        if self.kind == "regression" and len(self.columns) > 1:
            return [f"{self.task}_{column}" for column in self.columns]
        if self.kind == "language_modeling":
            return [f"{self.task}_perplexity"]
        if self.kind == "speech_synthesis":
            return []  # nothing of a recording: it makes one
        if self.kind == "speech_recognition":
            return [self.task, f"{self.task}_probability"]
        if self.kind in ("regression", "segmentation", "translation", "token_classification"):
            return [self.task]
        return [self.task, *(f"{self.task}_probability_{name}" for name in self.classes)]

    def encode(self, table: pa.Table, *, strict: bool = False) -> tuple[Tensor, int]:
        """Return the labels [N] or [N, L], and how many values were no class or number and now count as missing.

        Args:
            table: N rows; a column that is not there raises.
            strict: refuse values that are no class.

        Raises:
            DataError: a column is missing, or a value is no class and `strict`.
        """
        columns = [find_column(table, name) for name in self.columns]
        if self.kind == "regression":
            labels, unknown = self._numbers(columns)
            return (labels[:, 0] if len(columns) == 1 else labels), unknown
        if self.kind == "multi_label":
            return self._several(columns, strict)
        if (known := whole_numbers(columns[0], self.classes)) is not None:
            return torch.from_numpy(known), 0
        index = self._index(columns[0], strict)
        unknown = int(((index < 0) & ~_nulls(as_words(columns[0]))).sum())
        return torch.from_numpy(np.where(index < 0, -100, index)), unknown

    def _numbers(self, columns: Sequence[pa.ChunkedArray]) -> tuple[Tensor, int]:
        found, unknown = [], 0
        for name, column in zip(self.columns, columns, strict=True):
            if (numbers := plain_numbers(column, _LARGEST)) is not None:
                found.append(numbers)
                continue
            with reading(name, "numbers"):
                numbers = as_numbers(column)
            strange = np.isnan(numbers) & ~_nulls(column)
            if strange.any() and strange.sum() == len(column) - column.null_count:
                word = column[int(strange.argmax())].as_py()
                raise DataError(f"target {name!r} must hold numbers, but it holds words such as {word!r}.")
            largest = np.abs(numbers[~np.isnan(numbers)]).max(initial=0)
            if largest > _LARGEST:
                raise DataError(f"target {name!r} holds {largest:g}, but must stay within {_LARGEST:g}: scale it.")
            found.append(numbers)
            unknown += int(strange.sum())
        stacked = found[0][:, None] if len(found) == 1 else np.stack(found, 1)
        return torch.from_numpy(stacked).float(), unknown

    def _index(self, column: pa.ChunkedArray, strict: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        words = as_words(column)
        numbers = places(words, self.classes)
        if strict:
            wrong = (numbers < 0) & ~_nulls(words)
            if wrong.any():
                word = words[int(wrong.argmax())].as_py()
                shown = list(self.classes[:10])
                raise DataError(
                    f"target {self.columns[0]!r}: {word!r} is no class of {self.task!r}; its classes are "
                    f"{shown}{'...' if len(self.classes) > 10 else ''}.{nearest(word, self.classes)}"
                )
        return numbers

    def _several(self, columns: Sequence[pa.ChunkedArray], strict: bool) -> tuple[Tensor, int]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if len(columns) > 1 or not is_list(columns[0]):
            return self._numbers(columns)
        lists = columns[0].combine_chunks()
        parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        index = self._index(pa.chunked_array([pc.list_flatten(lists)]), strict)
        labels = np.where(_nulls(columns[0])[:, None], np.nan, np.zeros((1, len(self.classes))))
        known = index >= 0
        labels[parents[known], index[known]] = 1.0
        return torch.from_numpy(labels).float(), int((~known).sum())

    def decode(self, predicted: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what a task's `predict` gave as columns: names of classes, and a column for each probability.

        Args:
            predicted: `label`, `probability` or `value` of N rows; masks are arrays [H, W] of class numbers.

        Returns:
            Column name -> list or array of N values.
        """
        if self.kind == "regression":
            values = predicted["value"].double().numpy().reshape(-1, len(self.columns))
            return dict(zip(self.predicted, values.T, strict=True))
        if self.kind == "segmentation":
            return {self.task: list(predicted["label"].to(torch.uint8).numpy())}
        names = np.array(self.classes, dtype=object)
        if self.kind == "classification":
            labels: Any = names[predicted["label"].numpy()]
        else:
            labels = [names[row].tolist() for row in predicted["label"].bool().numpy()]
        return dict(zip(self.predicted, [labels, *predicted["probability"].double().numpy().T], strict=True))


def _nulls(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(column.is_null(nan_is_null=True).to_numpy(), dtype=bool)


def is_list(column: pa.ChunkedArray) -> bool:
    """Whether each value of the column is a list."""
    import pyarrow as pa

    return bool(pa.types.is_list(column.type) or pa.types.is_large_list(column.type))
