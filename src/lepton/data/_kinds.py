"""What the columns of a table hold: numbers, categories, dates, text, pictures, sound, labels, or nothing to learn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from lepton.data._arrays import as_numbers, as_words, decoded
from lepton.data._dates import as_dates, date_formats
from lepton.data._source import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from lepton.errors import ConfigurationError, DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FEW", "Column", "Kind", "describe_columns", "find_column"]

Kind = Literal["number", "category", "boolean", "date", "text", "tokens", "words", "image", "audio", "labels", "ignore"]

MOSTLY = 0.95
"""Share of the values that must be of a kind for the others to count as missing."""

FEW = 20
"""Up to so many different whole numbers that repeat a target is a class."""

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
        date_format: what dates in words look like, as `strptime` says it, such as `%d.%m.%Y`; empty for ISO dates.
    """

    name: str
    kind: Kind
    why: str
    missing: float
    distinct: int
    example: str
    date_format: str = ""


def find_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of a table.

    Args:
        table: the rows.
        name: the column's name.

    Raises:
        DataError: there is none of that name; the nearest one is offered.
    """
    if table.schema.get_field_index(name) < 0:  # the list of names would be made anew for every column
        names = table.column_names
        shown = names if len(names) <= 12 else [*names[:12], "..."]
        raise DataError(f"there is no column {name!r}; the columns are {shown}.{nearest(name, names)}")
    return table.column(name)


def describe_columns(
    table: pa.Table, kinds: Mapping[str, Kind] | None = None, date_formats: Mapping[str, str] | None = None
) -> list[Column]:
    """Say for every column what it holds: as told in `kinds`, otherwise by its type and its values.

    Args:
        table: the rows to look at; for words, the first 20 000.
        kinds: column -> kind, for those where you know better.
        date_formats: column -> what its dates look like, as `strptime` says it, such as `%d/%m/%Y`; for words whose
            day and month cannot be told apart.

    Raises:
        DataError: `kinds` or `date_formats` names a column that is not there.
        ConfigurationError: `kinds` names a kind that does not exist.

    Example:
        >>> from lepton.data import read_table
        >>> table = read_table({"age": [31, 42], "city": ["Ulm", "Ulm"], "paid": [True, False]})
        >>> [(column.name, column.kind) for column in describe_columns(table)]
        [('age', 'number'), ('city', 'ignore'), ('paid', 'boolean')]
    """
    told, formats = dict(kinds or {}), dict(date_formats or {})
    for name in formats:
        find_column(table, name)
    for name, kind in told.items():
        find_column(table, name)
        allowed = get_args(Kind)
        if kind not in allowed:
            hint = nearest(str(kind), allowed)
            raise ConfigurationError(f"column {name!r}: kind is {kind!r}, but must be one of {allowed}.{hint}")
    return [_describe(name, table.column(name), told.get(name), formats.get(name, "")) for name in table.column_names]


def _describe(name: str, column: pa.ChunkedArray, told: Kind | None, date_format: str) -> Column:
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
        kind, why = _infer(name, present, distinct, date_format)
    shape = date_format or _date_format(present) if kind == "date" else ""
    return Column(name, kind, why, missing, distinct, example, shape)


def _date_format(present: pa.ChunkedArray) -> str:
    """Return the format of dates in words, if it is plain; empty for ISO dates and for a date type."""
    import pyarrow as pa

    if not pa.types.is_string(decoded(present).type):
        return ""
    sample = as_words(present.slice(0, _SAMPLE))
    formats = date_formats(sample, MOSTLY) if _nan_share(as_dates(sample)) > 1 - MOSTLY else []
    return formats[0] if len(formats) == 1 else ""


def _lists_words(column: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    inner = kind.value_type
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_integer(inner))


def _infer(name: str, present: pa.ChunkedArray, distinct: int, date_format: str) -> tuple[Kind, str]:
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
        return _infer_words(present, distinct, date_format)
    return "ignore", f"the type {present.type} cannot be learned from"


def _is_identifier(name: str, present: pa.ChunkedArray, distinct: int) -> bool:
    """Whether whole numbers only name the rows; a column without a name is the index that pandas writes."""
    words = set(re.split(r"[\W_]+", name.lower()))
    unnamed = not name.strip() or name.startswith("Unnamed:")
    return distinct == len(present) > 20 and (unnamed or bool({"id", "index", "uuid", "key"} & words))


def _infer_words(present: pa.ChunkedArray, distinct: int, date_format: str) -> tuple[Kind, str]:
    sample = as_words(present.slice(0, _SAMPLE))
    words = [word.lower() for word in sample.to_pylist()]
    if date_format:
        return _dates(sample, f"dates of the format {date_format}", date_format)
    if sum(word.endswith(IMAGE_SUFFIXES) for word in words) >= MOSTLY * len(words):
        return "image", "paths of pictures"
    if sum(word.endswith(AUDIO_SUFFIXES) for word in words) >= MOSTLY * len(words):
        return "audio", "paths of recordings"
    share = 1 - _nan_share(as_numbers(sample))
    if share >= MOSTLY:
        return "number", "numbers" if share == 1 else f"{share:.1%} are numbers; the rest counts as missing"
    if 1 - _nan_share(as_dates(sample)) >= MOSTLY:
        return _dates(sample, "ISO dates")
    formats = date_formats(sample, MOSTLY)
    if len(formats) == 1:
        return _dates(sample, f"dates of the format {formats[0]}", formats[0])
    kind, why = _infer_language(present, sample, distinct)
    return kind, f"{why}; or dates, {' or '.join(formats)}: nothing tells which" if formats else why


def _dates(sample: pa.ChunkedArray, words: str, date_format: str = "") -> tuple[Kind, str]:
    share = 1 - _nan_share(as_dates(sample, date_format))
    return "date", words if share == 1 else f"{share:.1%} are {words}; the rest counts as missing"


def _infer_language(present: pa.ChunkedArray, sample: pa.ChunkedArray, distinct: int) -> tuple[Kind, str]:
    import pyarrow.compute as pc

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
