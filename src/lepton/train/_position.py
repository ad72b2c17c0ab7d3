"""Where an epoch's iteration over the training batches stands, and the random numbers around it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from lepton.train._step import Batch

__all__ = ["Position", "random_state", "restore_random_state"]


@runtime_checkable
class Resumable(Protocol):
    """A loader that knows its position, such as `TensorLoader` or torchdata's `StatefulDataLoader`."""

    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration go on from there."""


@runtime_checkable
class Counting(Protocol):
    """A loader that counts epochs itself, since those of its parts are not those of the training."""

    def epochs(self) -> dict[str, float]:
        """Return a metric's name -> epochs so far."""


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators of torch (the device's too), numpy and Python.

    Their hundreds of numbers are tensors: as JSON they were most of the time that writing a small checkpoint took.
    """
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, second = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(kind), torch.tensor([int(key) for key in keys]), int(place), int(has_gauss), float(gauss)],
        "python": [version, torch.tensor(internal), second],
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), place, has_gauss, gauss))
    version, internal, second = state["python"]
    random.setstate((version, tuple(int(number) for number in internal), second))


class Position:
    """Iterates over an epoch's batches and can go on within it after a restart.

    A loader with `state_dict` and `load_state_dict` is asked for its position. Any other is iterated again from the
    generators' state at the beginning of the epoch, and the batches that were trained on are passed over; that gives
    the same batches if their order depends on nothing but these generators.

    Args:
        batches: the training batches.
        device: whose generator is kept beside the CPU's.

    Example:
        >>> position = Position([("a", {}), ("b", {}), ("c", {})], torch.device("cpu"))
        >>> _ = next(iter(position))
        >>> again = Position([("a", {}), ("b", {}), ("c", {})], torch.device("cpu"))
        >>> again.load_state_dict(position.state_dict())
        >>> [inputs for inputs, _ in again]
        ['b', 'c']
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches = batches
        self.device = device
        self.taken = 0
        self._begin: dict[str, Any] | None = None
        self._resumed = False

    def __iter__(self) -> Iterator[Batch]:
        resumed, self._resumed = self._resumed, False
        skip = self.taken if resumed and not isinstance(self.batches, Resumable) else 0
        if not resumed:
            self.taken = 0
        now = random_state(self.device)
        if skip and self._begin is not None:
            restore_random_state(self._begin, self.device)
        else:
            self._begin = now
        batches = iter(self.batches)
        for _ in range(skip):
            next(batches, None)
        if skip:
            restore_random_state(now, self.device)
        for batch in batches:
            self.taken += 1
            yield batch
        self.close()

    def close(self) -> None:
        """Note that the epoch is over, also if it was left early."""
        self.taken, self._begin = 0, None

    def again(self) -> Iterator[Batch]:
        """Iterate over the batches between two epochs, and leave position and generators as they were."""
        before = random_state(self.device)
        loader = self.batches.state_dict() if isinstance(self.batches, Resumable) else None
        yield from self.batches
        if isinstance(self.batches, Resumable) and loader is not None:
            self.batches.load_state_dict(loader)
        restore_random_state(before, self.device)

    def row(self) -> dict[str, float]:
        """Return what the batches count themselves, such as the epochs of each task in a `Mixture`."""
        return self.batches.epochs() if isinstance(self.batches, Counting) else {}

    # -- saving -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        loader = self.batches.state_dict() if isinstance(self.batches, Resumable) else None
        return {"taken": self.taken, "loader": loader, "begin": None if loader is not None else self._begin}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on from a saved position."""
        self.taken, self._begin = state["taken"], state["begin"]
        self._resumed = self.taken > 0
        if isinstance(self.batches, Resumable) and state["loader"] is not None:
            self.batches.load_state_dict(state["loader"])
