"""Numbers of many columns, standardised together: what `Scaled` does for one column, for all of a table at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lepton.data._plain import filled

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["standardised"]

MOST = 1e30
"""Means and standard deviations beyond which, or beyond whose inverse, 32 bits come to their end."""

BLOCK = 8192
"""Rows at a time: so many of some dozen columns stay in the processor's cache while they are worked on."""


def standardised(
    columns: Sequence[pa.ChunkedArray], means: Sequence[float], stds: Sequence[float], limit: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return (x - mean) / std within the limits, 0 where x is missing or not finite, and 1 where that is so.

    Columns of 32 bits or less are computed with 32 bits; the mean is taken away in two parts, so that the result is
    that of 64 bits up to its last digit.

    Args:
        columns: F columns of N numbers.
        means: of each.
        stds: of each.
        limit: standard deviations beyond which a number counts as that far.

    Returns:
        Numbers and marks [N, F].
    """
    n_rows, width = len(columns[0]), len(columns)
    numbers = np.empty((n_rows, width), np.float32)
    marks = np.zeros((n_rows, width), np.float32)
    arrays = [_array(column) for column in columns]
    small = [_fits(array.dtype, mean, std) for array, mean, std in zip(arrays, means, stds, strict=True)]
    for kind, dtype in ((True, np.float32), (False, np.float64)):
        places = [place for place in range(width) if small[place] == kind]
        if places:
            scale = _Scale(np.array(means)[places], np.array(stds)[places], limit, dtype)
            scale.write([arrays[place] for place in places], places, numbers, marks)
    return numbers, marks


def _array(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column's numbers, NaN where missing; whole numbers with missing ones become fractions for that."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        return filled(column, np.nan)
    return filled(column.cast(pa.float64(), safe=False), np.nan) if column.null_count else filled(column, 0)


def _fits(dtype: np.dtype[Any], mean: float, std: float) -> bool:
    """Return whether 32 bits hold every number of a type, and what becomes of it on the way."""
    bits = 8 * dtype.itemsize * (1 if dtype.kind == "f" else 2)
    return bits <= 32 and abs(mean) < MOST and 1 / MOST < std < MOST


class _Scale:
    """Means and standard deviations of some columns, as numbers of one size."""

    def __init__(self, means: npt.NDArray[np.float64], stds: npt.NDArray[np.float64], limit: float, dtype: Any) -> None:
        self.mean = means.astype(dtype)[:, None]
        rest = (means - self.mean[:, 0].astype(np.float64)).astype(dtype)[:, None]
        self.rest = rest if rest.any() else None
        self.std = stds.astype(dtype)[:, None]
        self.limit = dtype(limit)
        self.dtype = dtype

    def write(
        self,
        arrays: Sequence[npt.NDArray[Any]],
        places: Sequence[int],
        numbers: npt.NDArray[np.float32],
        marks: npt.NDArray[np.float32],
    ) -> None:
        """Fill the places of `numbers` and `marks` that belong to these columns."""
        whole = len(places) == numbers.shape[1]
        buffer = np.empty((len(places), BLOCK), self.dtype)
        for start in range(0, len(numbers), BLOCK):
            rows = slice(start, min(start + BLOCK, len(numbers)))
            block = buffer[:, : rows.stop - start]
            for row, array in enumerate(arrays):
                block[row] = array[rows]
            absent = self._apply(block)
            if whole:
                numbers[rows] = block.T
            else:
                numbers[rows, places] = block.T
            if absent is not None:
                marks[rows, places] = absent.T

    def _apply(self, block: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Standardise in place; return what is missing, or None where nothing is."""
        finite = np.isfinite(block)
        absent = None if finite.all() else ~finite
        if absent is not None:
            block[absent] = np.nan
        with np.errstate(over="ignore"):  # what is infinitely far is as far as the limit
            block -= self.mean
            if self.rest is not None:
                block -= self.rest
            block /= self.std
        np.clip(block, -self.limit, self.limit, out=block)
        if absent is not None:
            block[absent] = 0
        return absent
