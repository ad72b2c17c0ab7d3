"""Numbers that are stored as such: read from Arrow's buffers, without words or copies that are made for each value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["are_plain", "filled", "plain_numbers", "whole_numbers"]


def are_plain(column: pa.ChunkedArray) -> bool:
    """Return whether a column holds numbers as such, and not words or dates."""
    import pyarrow as pa

    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))


def filled(column: pa.ChunkedArray, missing: float) -> npt.NDArray[Any]:
    """Return a column of numbers [N] with a number in the place of what is missing; do not write to it.

    Args:
        column: whole numbers or fractions, of one chunk or several.
        missing: the number, which the column's type must be able to hold.
    """
    chunks = [_filled(chunk, missing) for chunk in column.chunks if len(chunk)]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate(chunks) if chunks else np.zeros(0, column.type.to_pandas_dtype())


def _filled(chunk: pa.Array, missing: float) -> npt.NDArray[Any]:
    validity, values = chunk.buffers()
    dtype = np.dtype(chunk.type.to_pandas_dtype())
    start, stop = chunk.offset, chunk.offset + len(chunk)
    numbers: npt.NDArray[Any] = np.frombuffer(values, dtype, stop)[start:]
    if validity is None or not chunk.null_count:
        return numbers
    bits = np.frombuffer(validity, np.uint8)[start // 8 : -(-stop // 8)]
    there = np.unpackbits(bits, bitorder="little")[start % 8 :][: len(chunk)]
    # What the buffer holds in the place of a missing value is anything.
    return _either(there, numbers, dtype.type(missing))


def _either(there: npt.NDArray[np.uint8], numbers: npt.NDArray[Any], missing: Any) -> npt.NDArray[Any]:
    """Return the numbers where `there` is 1, and the missing one where it is 0.

    `np.where` takes a branch for each number, and guesses wrong for half of them where half are missing: bits combined
    without a branch take a seventh of its time.
    """
    whole = np.dtype(f"i{numbers.dtype.itemsize}")
    absent = there.astype(whole)
    absent -= 1  # all bits where one is missing, none where it is there
    filling = absent & np.array(missing).view(whole)
    np.invert(absent, out=absent)
    absent &= numbers.view(whole)
    absent |= filling
    return absent.view(numbers.dtype)


def plain_numbers(column: pa.ChunkedArray, largest: float) -> npt.NDArray[Any] | None:
    """Return a column of fractions as it is [N], NaN where missing; None where one is infinite or beyond `largest`."""
    import pyarrow as pa

    if not pa.types.is_floating(column.type) or not len(column):
        return None
    numbers = filled(column, np.nan)
    low, high = np.fmin.reduce(numbers), np.fmax.reduce(numbers)
    if low < -largest or high > largest:  # false where none is there, and both are NaN
        return None
    return numbers if numbers.flags.writeable else numbers.copy()


def whole_numbers(column: pa.ChunkedArray, classes: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Return the classes [N] of a column of whole numbers, -100 where missing.

    None where the classes are not 0, 1, 2 and so on, or a number is none of them: then words must be compared.

    Args:
        column: the labels.
        classes: their words in the order of the classes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type) or any(word != str(place) for place, word in enumerate(classes)):
        return None
    if column.type != pa.int64():
        column = pc.cast(column, pa.int64(), safe=False)
    numbers: npt.NDArray[np.int64] = filled(column, -100)
    if not len(numbers) or numbers.max() >= len(classes) or np.count_nonzero(numbers < 0) != column.null_count:
        return None
    return numbers if numbers.flags.writeable else numbers.copy()
