"""Rows of different lengths in one flat array, and padded to a rectangle: without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Ragged", "compact"]

Ints = npt.NDArray[Any]


@dataclass(frozen=True)
class Ragged:
    """N rows of numbers, one after the other.

    Attributes:
        flat: all numbers [M, ...].
        lengths: how many belong to each row [N]; they add up to M.
        missing: which rows were missing [N]; their length is 0.
    """

    flat: Ints
    lengths: Ints
    missing: Ints

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], missing: Ints) -> Self:
        """Put lists one after the other."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths, missing)

    def cut(self, longest: int) -> Ragged:
        """Return the rows without what is beyond `longest` numbers."""
        if not len(self.lengths) or self.lengths.max() <= longest:
            return self
        starts = np.cumsum(self.lengths) - self.lengths
        places = np.arange(len(self.flat)) - np.repeat(starts, self.lengths)
        return Ragged(self.flat[places < longest], np.minimum(self.lengths, longest), self.missing)

    def padded(self, width: int, first: int, fill: int) -> Ints:
        """Return [N, width, ...] filled with `fill`, each row's numbers beginning at the place `first`."""
        found = np.full((len(self.lengths), width, *self.flat.shape[1:]), fill, dtype=np.int32)
        places = np.arange(width)
        found[(places >= first) & (places < first + self.lengths[:, None])] = self.flat
        return found


def compact(numbers: Ints) -> Tensor:
    """Return a tensor of 16 bits each where that is enough, which it nearly always is, of 32 otherwise."""
    bound = np.iinfo(np.int16)
    small = not numbers.size or (numbers.min() >= bound.min and numbers.max() <= bound.max)
    return torch.from_numpy(numbers.astype(np.int16 if small else np.int32))
