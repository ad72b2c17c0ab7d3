"""One set of a mixture, from which any number of rows is taken at a time."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch

from lepton.data._batches import n_rows, sliced, without_rows
from lepton.data._loading import Batch, Deal, OrderedLoader
from lepton.data.mixture._deal import PassDeal, SetDeal
from lepton.errors import ConfigurationError

__all__ = ["SetLoader", "SetReader", "reader_of"]


class SetLoader(Protocol):
    """What a mixture asks of the loader of a set; every loader of this package is one, except a mixture."""

    n_rows: int
    drop_last: bool
    batch_size: int
    rank: int
    world_size: int
    epoch: int

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over an epoch, or what is left of it."""

    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from; its `epoch` is that of this batch."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on from there."""

    def begin(self, epoch: int) -> None:
        """Make the next iteration that of an epoch, from its first row on."""


@runtime_checkable
class _Dealt(Protocol):
    """A loader whose rows somebody else deals out among processes."""

    def dealt(self, rank: int, world_size: int, deal: Callable[[], Deal]) -> Any: ...


def reader_of(loader: SetLoader) -> SetReader:
    """Return the reader of a set."""
    return OrderedReader(loader) if isinstance(loader, OrderedLoader) else TokenReader(loader)


class SetReader(abc.ABC):
    """Takes rows from a loader, pass after pass.

    A pass counts as many rows as the process with the most has. Where this one has fewer, since its share is smaller or
    had rows that cannot be used, the last ones are just not there, so that all processes begin the next pass together.
    The reader of a shared mixture counts the rows of all processes, and gives its own.

    Args:
        loader: gives the rows.
    """

    def __init__(self, loader: SetLoader) -> None:
        self.loader: Any = loader
        self.rows = self.left = -(-loader.n_rows // loader.world_size)
        self.n_rows = loader.n_rows
        self._all = loader
        self._deal: SetDeal | None = None
        self._given = 0  # rows that the epoch gave, of all processes
        self._pass = loader.epoch
        self._batches: Iterator[Batch] | None = None
        self._held: Batch | None = None
        self._row = 0
        self._nothing: Batch | None = None

    def shared(self, rank: int, world_size: int) -> Self:
        """Return a reader of one process's rows.

        Args:
            rank: number of the process, from 0.
            world_size: how many processes share the rows.

        Raises:
            ConfigurationError: the loader's rows cannot be dealt out.
        """
        if not isinstance(self._all, _Dealt):
            raise ConfigurationError(
                f"a {type(self._all).__name__} cannot share the rows of a mixture among {world_size} processes: take "
                "a loader of lepton.data."
            )
        found = type(self)(self._all)
        found.loader = self._all.dealt(rank, world_size, found._of_pass)
        found._pass = self._pass
        found.loader.begin(found._pass)
        return found

    def enter(self, deal: SetDeal, given: int) -> None:
        """Begin or go on with an epoch whose rows are dealt out.

        Args:
            deal: which rows fall to this process.
            given: rows of the set that the epoch gave so far, to all processes.
        """
        self._deal, self._given = deal, given

    @property
    def begun(self) -> bool:
        """Whether a row of this pass was taken or a position loaded that lies in one."""
        return self.left < self.rows

    def take(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Yield so many rows in parts; behind the end of a pass come the rows of the next one.

        Args:
            number: rows, of all processes that share them.
            first: place of the first one in its batch.
        """
        while number:
            size = min(number, self.left)
            yield from self._some(size if self._deal is None else self._deal.own(first, size))
            number -= size
            first += size
            self.left -= size
            self._given += size
            if not self.left:
                self.restart()

    def none(self) -> Batch:
        """Return a batch without rows: for a process that has none where others do."""
        if self._nothing is None:
            whole = copy.copy(self._all)
            whole.begin(0)
            self._nothing = without_rows(next(iter(whole)))
        return self._nothing

    def restart(self) -> None:
        """Begin a new pass with the next row."""
        self._pass += 1
        self._batches = self._held = None
        self._row, self.left = 0, self.rows
        self.loader.begin(self._pass)  # by its number: a process without a row of a pass has not opened it

    def _some(self, number: int) -> Iterator[Batch]:
        while number and (batch := self._open()) is not None:
            if self._nothing is None:
                self._nothing = without_rows(batch)
            part = sliced(batch, self._row, self._row + number)
            self._row += n_rows(part)
            number -= n_rows(part)
            yield part

    def _open(self) -> Batch | None:
        """Return a batch with rows that were not taken yet; None if the pass has no more."""
        if self._batches is None:
            self._batches = iter(self.loader)
            self._row = self._seek()
            self._held = self._next(self._batches)
        while self._held is not None and self._row >= n_rows(self._held):
            self._row -= n_rows(self._held)
            self._held = self._next(self._batches)
        return self._held

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        return next(batches, None)

    def _of_pass(self) -> PassDeal:
        """Return which rows of the pass under way fall to this process."""
        assert self._deal is not None
        return self._deal.of_pass(self._given - (self.rows - self.left), self.rows)

    # -- position ---------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def _seek(self) -> int:
        """Set the loader to where the pass goes on; return how many of the next rows were taken."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return where the next row comes from."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next row that of `state_dict`."""


class OrderedReader(SetReader):
    """Reads a set whose loader has the rows of an epoch in an order: its place in it, of all processes, is enough."""

    def _seek(self) -> int:
        size: int = self.loader.batch_size
        place = self.rows - self.left
        batch = place // size
        self.loader.load_state_dict({"epoch": self._pass, "batch": batch})
        if self._deal is None or place == 0:
            return place - batch * size
        edges = torch.tensor([batch * size, place])
        first, last = torch.searchsorted(self._of_pass().places(), edges).tolist()
        return int(last - first)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the pass and how many of its rows are left."""
        return {"pass": self._pass, "left": self.left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next row that of `state_dict`."""
        self._pass, self.left = state["pass"], state["left"]
        self._batches = self._held = None


class TokenReader(SetReader):
    """Reads a set whose loader alone can say where it stands: its word, and the row in the batch that follows it."""

    def __init__(self, loader: SetLoader) -> None:
        super().__init__(loader)
        self._before: dict[str, Any] = {}
        self._skip = 0

    def restart(self) -> None:
        """Begin a new pass with the next row."""
        super().restart()
        self._skip = 0

    def _seek(self) -> int:
        return self._skip

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        self._before = self.loader.state_dict()
        return next(batches, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the pass, what is left of it, the position of the next row's batch, the row in it."""
        place = {"pass": self._pass, "left": self.left}
        if self._batches is None:
            return {**place, "loader": self.loader.state_dict(), "row": self._skip, "over": False}
        return {**place, "loader": self._before, "row": self._row, "over": self._held is None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next row that of `state_dict`."""
        self.loader.load_state_dict(state["loader"])
        self._pass, self.left, self._skip = state["pass"], state["left"], state["row"]
        self._before, self._batches, self._held = state["loader"], iter(()) if state["over"] else None, None
