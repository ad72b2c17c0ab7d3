"""What the columns of a table hold: numbers, categories, dates, text, pictures, labels, or nothing to learn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from lepton.data._arrays import as_dates, as_numbers, as_words, decoded
from lepton.data._source import IMAGE_SUFFIXES
from lepton.errors import ConfigurationError, DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FEW", "Column", "Kind", "describe_columns", "find_column"]

Kind = Literal["number", "category", "boolean", "date", "text", "words", "image", "labels", "ignore"]

MOSTLY = 0.95
"""Share of the values that must be of a kind for the others to count as missing."""

FEW = 20
"""Up to so many different whole numbers a target is a class."""

MANY = 10_000
"""Beyond so many different words a column is read as text rather than by a table of categories."""

_SAMPLE = 20_000


@dataclass(frozen=True)
class Column:
    """One column as it was understood.

    Attributes:
        name: its name.
        kind: what it holds.
        why: what spoke for it, in a few words.
        missing: share of the values that are missing.
        distinct: number of different values.
        example: one value.
    """

    name: str
    kind: Kind
    why: str
    missing: float
    distinct: int
    example: str


def find_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of a table.

    Args:
        table: the rows.
        name: the column's name.

    Raises:
        DataError: there is none of that name; the nearest one is offered.
    """
    if name not in table.column_names:
        names = table.column_names
        shown = names if len(names) <= 12 else [*names[:12], "..."]
        raise DataError(f"there is no column {name!r}; the columns are {shown}.{nearest(name, names)}")
    return table.column(name)


def describe_columns(table: pa.Table, kinds: Mapping[str, Kind] | None = None) -> list[Column]:
    """Say for every column what it holds: as told in `kinds`, otherwise by its type and its values.

    Args:
        table: the rows to look at; for words, the first 20 000.
        kinds: column -> kind, for those where you know better.

    Raises:
        DataError: `kinds` names a column that is not there.
        ConfigurationError: `kinds` names a kind that does not exist.

    Example:
        >>> from lepton.data import read_table
        >>> table = read_table({"age": [31, 42], "city": ["Ulm", "Ulm"], "paid": [True, False]})
        >>> [(column.name, column.kind) for column in describe_columns(table)]
        [('age', 'number'), ('city', 'ignore'), ('paid', 'boolean')]
    """
    told = dict(kinds or {})
    for name, kind in told.items():
        find_column(table, name)
        allowed = get_args(Kind)
        if kind not in allowed:
            hint = nearest(str(kind), allowed)
            raise ConfigurationError(f"column {name!r}: kind is {kind!r}, but must be one of {allowed}.{hint}")
    return [_describe(name, table.column(name), told.get(name)) for name in table.column_names]


def _describe(name: str, column: pa.ChunkedArray, told: Kind | None) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    nested = pa.types.is_nested(column.type)
    present = column.drop_null()
    distinct = 0 if nested or not len(present) else pc.count_distinct(decoded(present)).as_py()
    missing = 1 - len(present) / len(column)
    example = str(present[0].as_py())[:40] if len(present) else ""
    if told is not None:
        kind, why = told, "as told"
    elif len(present) == 0:
        kind, why = "ignore", "every value is missing"
    elif nested:
        kind, why = ("labels", "lists of words") if _lists_words(column) else ("ignore", f"the type {column.type}")
    elif distinct == 1:
        kind, why = "ignore", "it has one value only"
    else:
        kind, why = _infer(name, present, distinct)
    return Column(name, kind, why, missing, distinct, example)


def _lists_words(column: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    inner = kind.value_type
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_integer(inner))


def _infer(name: str, present: pa.ChunkedArray, distinct: int) -> tuple[Kind, str]:
    import pyarrow as pa

    if pa.types.is_boolean(present.type):
        return "boolean", "true and false"
    if pa.types.is_timestamp(present.type) or pa.types.is_date(present.type):
        return "date", "a date type"
    if pa.types.is_integer(present.type) and _is_identifier(name, present, distinct):
        return "ignore", "an identifier: every row has another one"
    if pa.types.is_integer(present.type) or pa.types.is_floating(present.type):
        return "number", f"{distinct} different numbers"
    if pa.types.is_dictionary(present.type):
        return "category", f"{distinct} categories"
    if pa.types.is_string(present.type):
        return _infer_words(name, present, distinct)
    return "ignore", f"the type {present.type} cannot be learned from"


def _is_identifier(name: str, present: pa.ChunkedArray, distinct: int) -> bool:
    """Whether whole numbers only name the rows; a column without a name is the index that pandas writes."""
    words = set(re.split(r"[\W_]+", name.lower()))
    unnamed = not name.strip() or name.startswith("Unnamed:")
    return distinct == len(present) > 20 and (unnamed or bool({"id", "index", "uuid", "key"} & words))


def _infer_words(name: str, present: pa.ChunkedArray, distinct: int) -> tuple[Kind, str]:
    import pyarrow.compute as pc

    sample = as_words(present.slice(0, _SAMPLE))
    words = [word.lower() for word in sample.to_pylist()]
    if sum(word.endswith(IMAGE_SUFFIXES) for word in words) >= MOSTLY * len(words):
        return "image", "paths of pictures"
    numbers = as_numbers(sample)
    share = 1 - _nan_share(numbers)
    if share >= MOSTLY:
        return "number", "numbers" if share == 1 else f"{share:.1%} are numbers; the rest counts as missing"
    dates = 1 - _nan_share(as_dates(sample))
    if dates >= MOSTLY:
        return "date", "ISO dates" if dates == 1 else f"{dates:.1%} are ISO dates; the rest counts as missing"
    length = pc.mean(pc.list_value_length(pc.utf8_split_whitespace(sample))).as_py()
    if distinct > 50 and (length >= 3 and distinct > 0.3 * len(present)):
        return "text", f"{length:.0f} words each"
    if distinct == len(present) > 100:
        return "ignore", "an identifier: every row has another one"
    if distinct > MANY:
        return "text", f"{distinct} different words, too many for categories"
    return "category", f"{distinct} categories"


def _nan_share(numbers: npt.NDArray[np.float64]) -> float:
    return float(np.isnan(numbers).mean())
