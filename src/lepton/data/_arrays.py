"""Arrow columns to numbers and words: the only conversions that the readers of columns share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_numbers", "as_words", "decoded", "places", "plain", "reading"]

_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+|\d{1,3}(,\d{3})+(\.\d*)?)([eE][-+]?\d+)?\s*$"

_EXACT = 2.0**53
"""From here on a float64 no longer tells every whole number from its neighbours."""


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as one of the few types that the rest of this room knows, with null for what is missing.

    Text of any storage becomes strings, decimals floats, durations and times of the day seconds, NaN null, types of
    extensions what they store. Dictionaries stay, since they say that a column is a category.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = column.cast(kind.storage_type)
        kind = column.type
    if pa.types.is_run_end_encoded(kind):
        return plain(pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_duration(kind):
        return _seconds(column.cast(pa.duration("us"), safe=False))
    if pa.types.is_time(kind):
        return _seconds(column.cast(pa.time64("us"), safe=False))
    if pa.types.is_floating(kind):
        column = column.cast(pa.float32()) if pa.types.is_float16(kind) else column
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


def _seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.divide(pc.cast(pc.cast(column, pa.int64()), pa.float64(), safe=False), 1e6)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a dictionary-encoded column as its values, and any other as it is."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column
    return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn what Arrow says about a type that cannot be converted into a sentence about the column `name`."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        words = str(error).splitlines()[0]
        raise DataError(f"column {name!r} cannot be read as {what}: {words}.") from error


def as_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the column as float64 [N]; NaN where a value is missing, infinite, or a word that is no number.

    Words may group their thousands by commas: `1,234.5`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = decoded(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        matches = pc.match_substring_regex(column, _NUMBER)
        column = pc.utf8_trim_whitespace(pc.if_else(matches, column, pa.scalar(None, column.type)))
        column = pc.replace_substring(column, ",", "")
    numbers = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def as_words(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as strings; numbers without a fraction lose the point: a missing value elsewhere in the
    column, which makes integers floats, must not make `3` another word than `3.0`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = decoded(column)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), _EXACT))
        small = pc.if_else(pc.fill_null(whole, False), column, pa.scalar(None, column.type))
        words = pc.cast(pc.cast(small, pa.int64()), pa.string())
        return pc.coalesce(words, pc.cast(column, pa.string()))
    return pc.utf8_trim_whitespace(pc.cast(column, pa.string()))


def places(words: pa.ChunkedArray, values: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return where each word stands among `values` [N]; -1 where it is missing or none of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    index = pc.index_in(words, value_set=pa.array(values, pa.string()), skip_nulls=True)
    return np.asarray(pc.cast(pc.fill_null(index, -1), pa.int64()).to_numpy(zero_copy_only=False), np.int64)
