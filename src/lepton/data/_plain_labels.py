"""Labels that are stored as numbers already: no words have to be made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["plain_numbers", "whole_numbers"]


def plain_numbers(column: pa.ChunkedArray, largest: float) -> npt.NDArray[Any] | None:
    """Return a column of fractions as it is [N], NaN where missing; None where one is infinite or beyond `largest`."""
    import pyarrow as pa

    if not pa.types.is_floating(column.type) or not len(column):
        return None
    numbers = column.to_numpy()
    low, high = np.fmin.reduce(numbers), np.fmax.reduce(numbers)
    if np.isnan(low):  # none is there
        return numbers if np.isnan(high) else None
    if low < -largest or high > largest:
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
    if not len(column):
        return None
    if column.type != pa.int64():
        column = pc.cast(column, pa.int64(), safe=False)
    numbers: npt.NDArray[np.int64] = pc.fill_null(column, -100).to_numpy() if column.null_count else column.to_numpy()
    low, high = numbers.min(), numbers.max()
    if high >= len(classes) or (low < 0 and ((numbers < 0) & (numbers != -100)).any()):
        return None
    if low == -100 and not column.null_count:
        return None
    return numbers if numbers.flags.writeable else numbers.copy()
