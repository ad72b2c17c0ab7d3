"""Arrow columns to numbers and words: the only conversions that the readers of columns share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_dates", "as_numbers", "as_words"]

_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_ISO_DATE = r"^\s*\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[-+]\d{2}:?\d{2})?)?\s*$"


def as_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the column as float64 [N]; NaN where a value is missing, infinite, or a word that is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        matches = pc.match_substring_regex(column, _NUMBER)
        column = pc.utf8_trim_whitespace(pc.if_else(matches, column, pa.scalar(None, column.type)))
    numbers = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def as_dates(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the column as seconds since 1970 [N], UTC; NaN where a value is missing or no ISO date."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        matches = pc.match_substring_regex(column, _ISO_DATE)
        words = pc.if_else(matches, column, pa.scalar(None, column.type)).to_pylist()
        column = pa.chunked_array([pa.array(_parsed(words), pa.timestamp("us"))])
    if not pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us"))
    micros = pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64())
    numbers: npt.NDArray[np.float64] = pc.cast(micros, pa.float64()).to_numpy(zero_copy_only=False)
    return numbers / 1e6


def _parsed(words: list[Any]) -> list[Any]:
    from datetime import UTC, datetime

    found = []
    for word in words:
        try:
            moment = None if word is None else datetime.fromisoformat(word.strip())
        except ValueError:  # the 30th of February
            moment = None
        found.append(moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment)
    return found


def as_words(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as strings; numbers without a fraction lose the point: a missing value elsewhere in the
    column, which makes integers floats, must not make `3` another word than `3.0`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        whole = pc.fill_null(pc.equal(pc.floor(column), column), False)
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        small = pc.if_else(whole, column, pa.scalar(None, column.type))
        words = pc.cast(pc.cast(small, pa.int64(), safe=False), pa.string())
        return pc.coalesce(words, pc.cast(column, pa.string()))
    if pa.types.is_string(column.type):
        return pc.utf8_trim_whitespace(column)
    return pc.cast(column, pa.string())
