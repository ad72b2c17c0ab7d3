"""Which rows of a mixture's batches fall to each of several processes: every world_size-th of each batch of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["PassDeal", "SetDeal", "own_number"]

Number = TypeVar("Number", int, Tensor)


def own_number(first: Number, number: Number, rank: int, world_size: int) -> Number:
    """Return how many of so many places in a batch fall to a process, which takes the places r, r + n, r + 2 n, ...

    Args:
        first: the first of the places, or [G] of several batches.
        number: how many there are, or [G].
        rank: r, the number of the process.
        world_size: n, how many processes share the batch.

    Example:
        >>> own_number(3, 4, rank=0, world_size=2), own_number(3, 4, rank=1, world_size=2)  # the places 3, 4, 5, 6
        (2, 2)
    """
    return (first + number - 1 - rank) // world_size - (first - 1 - rank) // world_size


@dataclass(frozen=True)
class PassDeal:
    """One process's rows of a pass over a set, or of that part of it that an epoch gives.

    Attributes:
        first: of the batches that hold rows of the pass: the place of the first of these in the batch [G].
        number: how many these are [G].
        rank: number of the process.
        world_size: how many processes share the rows.
    """

    first: Tensor
    number: Tensor
    rank: int
    world_size: int

    def places(self) -> Tensor:
        """Return the places in the order of the pass that fall to this process, ascending [M]."""
        before = self.number.cumsum(0) - self.number
        in_batch = torch.arange(int(self.number.sum())) + (self.first - before).repeat_interleave(self.number)
        return (in_batch % self.world_size == self.rank).nonzero().flatten()

    def stretch(self) -> tuple[int, int]:
        """Return the first row of this process's stretch of the pass, and the one after the last."""
        shares = [int(own_number(self.first, self.number, r, self.world_size).sum()) for r in range(self.rank + 1)]
        return sum(shares[:-1]), sum(shares)


@dataclass(frozen=True)
class SetDeal:
    """The rows of one set in the batches of an epoch.

    Attributes:
        plan: rows of each set in every batch [G, K].
        place: of the set among them.
        rank: number of this process.
        world_size: how many processes share every batch.
    """

    plan: Tensor
    place: int
    rank: int
    world_size: int

    def own(self, first: int, number: int) -> int:
        """Return how many of so many rows, from one place in a batch on, fall to this process."""
        return own_number(first, number, self.rank, self.world_size)

    def of_pass(self, begin: int, rows: int) -> PassDeal:
        """Return what falls to this process of a pass.

        Args:
            begin: rows of the set that the epoch gave before.
            rows: of the pass; the epoch may end before its last one.
        """
        number = self.plan[:, self.place]
        ends = number.cumsum(0)
        starts = ends - number
        low, high = (edge.clamp(begin, begin + rows) for edge in (starts, ends))
        first = self.plan[:, : self.place].sum(1) + low - starts
        held = high > low
        return PassDeal(first[held], (high - low)[held], self.rank, self.world_size)
