"""One set of a mixture, from which any number of rows is taken at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from lepton.data._batches import n_rows, sliced
from lepton.data._loading import Batch

__all__ = ["SetLoader", "SetReader"]


class SetLoader(Protocol):
    """What a mixture asks of the loader of a set; every loader of this package is one, except a mixture."""

    n_rows: int
    drop_last: bool
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over an epoch, or what is left of it."""

    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from; its `epoch` is that of this batch."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on from there."""

    def skip_rest(self) -> None:
        """Make the next iteration begin with a new epoch."""


class SetReader:
    """Takes rows from a loader, pass after pass.

    A pass counts as many rows as the process with the most has. Where this one has fewer, since its share is smaller or
    had rows that cannot be used, the last ones are just not there, so that all processes begin the next pass together.

    Args:
        loader: gives the rows.
    """

    def __init__(self, loader: SetLoader) -> None:
        self.loader = loader
        self.rows = self.left = -(-loader.n_rows // loader.world_size)
        self._batches: Iterator[Batch] | None = None
        self._held: Batch | None = None
        self._row = 0
        self._over = False
        self._before: dict[str, Any] = {}

    @property
    def begun(self) -> bool:
        """Whether a row of this pass was taken or a position loaded that lies in one."""
        return self.left < self.rows

    def take(self, number: int) -> Iterator[Batch]:
        """Yield so many rows in parts; behind the end of a pass come the rows of the next one."""
        while number:
            size = min(number, self.left)
            yield from self._some(size)
            number -= size
            self.left -= size
            if not self.left:
                self.restart()

    def none(self) -> Batch:
        """Return a batch without rows: for a process that has none where others do. Taken at the end of a pass only."""
        state = self.loader.state_dict()
        batch = next(iter(self.loader))
        self.loader.load_state_dict(state)
        return sliced(batch, 0, 0)

    def restart(self) -> None:
        """Begin a new pass with the next row."""
        self._batches = self._held = None
        self._row, self.left, self._over = 0, self.rows, False
        self.loader.skip_rest()

    def _some(self, number: int) -> Iterator[Batch]:
        while number and (batch := self._open()) is not None:
            part = sliced(batch, self._row, self._row + number)
            self._row += n_rows(part)
            number -= n_rows(part)
            yield part

    def _open(self) -> Batch | None:
        """Return a batch with rows that were not taken yet; None if the pass has no more."""
        while self._held is None or self._row >= n_rows(self._held):
            if self._batches is None:
                self._batches = iter(self.loader)
            self._before = self.loader.state_dict()
            self._held, self._row = next(self._batches, None), 0
            if self._held is None:
                self._over = True
                return None
        return self._held

    # -- position ---------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the next row comes from: the position of its batch and the row in it."""
        now = self.loader.state_dict()
        if self._held is not None and self._row < n_rows(self._held):
            return {"loader": self._before, "row": self._row, "left": self.left, "over": False}
        ended = self._batches is not None and now["epoch"] != self._before["epoch"]
        return {"loader": now, "row": 0, "left": self.left, "over": self._over or ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next row that of `state_dict`."""
        self.loader.load_state_dict(state["loader"])
        self.left, self._before, self._over = state["left"], state["loader"], state["over"]
        self._batches = iter(()) if self._over else None
        self._held, self._row = None, 0
        if state["row"]:
            self._batches = iter(self.loader)
            self._held, self._row = next(self._batches), state["row"]
