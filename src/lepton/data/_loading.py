"""What all loaders share: an order that seed and epoch fix, a process's share of it, and a position in it."""

from __future__ import annotations

import abc
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lepton.errors import DataError, is_whole, require

__all__ = ["Batch", "Deal", "OrderedLoader", "check_loader", "read_by_workers", "seeded_generator"]

Batch = tuple[Any, dict[str, Tensor]]
"""Inputs, and targets by task."""


class Deal(Protocol):
    """Which rows of a pass over all rows fall to one of several processes, as someone else decided."""

    def places(self) -> Tensor:
        """Return the places in the order of the pass that fall to this process, ascending [M]."""

    def stretch(self) -> tuple[int, int]:
        """Return the first of so many places in a row, and the one after the last: no two processes share one."""


class OrderedLoader(abc.ABC):
    """Iterates over rows in batches; one pass is an epoch, in an order fixed by the seed and the epoch.

    With several processes, batch g of all of them together holds the rows that one process with `world_size` times the
    batch size would have in its batch g: process r takes every `world_size`-th of them from the r-th on. So every
    process has the same number of batches, and no row comes twice; in a last batch that is not full some processes may
    have one row less than others, or none.

    Args:
        n_rows: number of rows.
        batch_size: rows per batch.
        shuffle: whether every epoch has a new order.
        seed: with the epoch's number, fixes the order.
        drop_last: leave out a last batch that is not full.
        workers: processes that read rows; 0 reads in this one.
        rank: number of this process among those that share the rows, from 0.
        world_size: how many processes share the rows.
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_loader(type(self).__name__, batch_size, workers, rank, world_size)
        if n_rows == 0:
            raise DataError("there are no rows to make batches of.")
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.workers = workers
        self.rank = rank
        self.world_size = world_size
        self.among: Tensor | None = None
        self.epoch = 0
        self._counts_all = False  # whether `batch_size` rows are those of all processes
        self._deal: Callable[[], Deal] | None = None
        self._first = self._done = 0

    def restrict(self, rows: Tensor) -> None:
        """Take some of the rows only, before the first batch.

        Args:
            rows: their numbers [M].
        """
        self.among, self.n_rows = rows, len(rows)

    def __len__(self) -> int:
        whole, rest = divmod(self.n_rows, self.joint_size)
        return whole if self.drop_last or not rest else whole + 1

    @property
    def joint_size(self) -> int:
        """Rows of a batch of all processes together."""
        return self.batch_size if self._counts_all else self.batch_size * self.world_size

    def shared(self, rank: int, world_size: int) -> Self:
        """Return a loader of one process's rows of the same batches: `batch_size` rows are those of all together.

        Args:
            rank: number of the process, from 0.
            world_size: how many processes share each batch.
        """
        check_loader(type(self).__name__, self.batch_size, self.workers, rank, world_size)
        found = copy.copy(self)
        found.rank, found.world_size, found._counts_all = rank, world_size, True
        return found

    def dealt(self, rank: int, world_size: int, deal: Callable[[], Deal]) -> Self:
        """Return a loader of the same batches with one process's rows only, which somebody else deals out.

        Args:
            rank: number of the process, from 0.
            world_size: how many processes share the rows.
            deal: called when a pass begins or goes on.
        """
        found = self.shared(rank, world_size)
        found._deal = deal
        return found

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        batches = torch.split(order if self.among is None else self.among[order], self.joint_size)[: len(self)]
        first, self._first = self._first, 0
        self._done = first
        read = self._read(self._own(batches)[first:], first)
        self.epoch += 1
        for place, batch in enumerate(read, first):
            self._done = place + 1
            yield batch
        self._done = 0

    def _own(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Return this process's rows of the batches of all."""
        if self._deal is None:
            return [batch[self.rank :: self.world_size] for batch in batches]
        places = self._deal().places()
        cuts = torch.searchsorted(places, torch.arange(len(batches) + 1) * self.joint_size).tolist()
        rows = torch.cat(list(batches))[places]
        return [rows[first:last] for first, last in itertools.pairwise(cuts)]

    @abc.abstractmethod
    def _read(self, batches: Sequence[Tensor], first: int) -> Iterable[Batch]:
        """Return the batches of the rows [B] of each, the first of which has the number `first` in this epoch.

        What depends on the epoch is read before it returns: `self.epoch` is the next one's afterwards.
        """

    # -- position ---------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from: the epoch, counted from 0, and the batch in it."""
        if 0 < self._done < len(self):
            return {"epoch": self.epoch - 1, "batch": self._done}
        return {"epoch": self.epoch, "batch": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration begin where `state_dict` stood."""
        self.epoch, self._first, self._done = state["epoch"], state["batch"], 0

    def begin(self, epoch: int) -> None:
        """Make the next iteration that of an epoch, counted from 0, from its first batch on."""
        self.epoch, self._first, self._done = epoch, 0, 0

    # -- order ------------------------------------------------------------------------------------------------
    def _order(self) -> Tensor:
        """Return the rows of this epoch in their order [N]."""
        return torch.randperm(self.n_rows, generator=self._generator()) if self.shuffle else torch.arange(self.n_rows)

    def _generator(self) -> torch.Generator:
        """Return the draws of this epoch's order."""
        return seeded_generator(self.seed, self.epoch, 0)


def check_loader(owner: str, batch_size: int, workers: int, rank: int, world_size: int) -> None:
    """Refuse what cannot be an argument of a loader.

    Args:
        owner: the loader's name.
        batch_size: rows per batch.
        workers: processes that read.
        rank: of this process.
        world_size: how many processes share the rows.
    """
    require(is_whole(batch_size), owner, "batch_size", batch_size, "a whole number of at least 1")
    require(is_whole(workers, 0), owner, "workers", workers, "a whole number of at least 0")
    require(is_whole(world_size), owner, "world_size", world_size, "a whole number of at least 1")
    of_them = is_whole(rank, 0) and rank < world_size
    require(of_them, owner, "rank", rank, f"a whole number from 0 to {world_size - 1}")


def seeded_generator(*numbers: int) -> torch.Generator:
    """Return a generator that whole numbers, such as a seed, an epoch and a batch, fix together."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return torch.Generator().manual_seed(seed)


class _Numbered(Dataset[Batch]):
    """The batches of an epoch by their number, so that a loader's worker makes a whole one."""

    def __init__(self, make: Callable[[Tensor, torch.Generator], Batch], batches: Sequence[Tensor], seeds: Any) -> None:
        self.make = make
        self.batches = batches
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> Batch:
        return self.make(self.batches[place], seeded_generator(*self.seeds[place]))


def read_by_workers(
    loader: OrderedLoader,
    make: Callable[[Tensor, torch.Generator], Batch],
    batches: Sequence[Tensor],
    first: int,
) -> Iterable[Batch]:
    """Return batches made by a loader's workers; every one's draws come from its own number.

    Args:
        loader: tells seed, epoch, workers and share.
        make: rows [B] and draws -> a batch.
        batches: the rows of each.
        first: number of the first batch in the epoch.
    """
    numbers = range(first, first + len(batches))
    seeds = [(loader.seed, loader.epoch, number * loader.world_size + loader.rank + 1) for number in numbers]
    # An epoch's workers are new: they inherit its order, and the rows that earlier ones decoded. A generator of its
    # own, since a loader without one takes a number from torch's, which a training that goes on would miss.
    generator = seeded_generator(loader.seed)
    return DataLoader(_Numbered(make, batches, seeds), batch_size=None, num_workers=loader.workers, generator=generator)
