"""Steps that were left out, and tasks that were left out of steps: how many, and how many in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lepton.errors import is_whole, require
from lepton.train._state import TrainState
from lepton.train._step import StepResult

__all__ = ["SkippedSteps"]


class SkippedSteps:
    """Counts skipped steps, and tasks that were left out; a device that alone knows is asked once in `limit` steps.

    Args:
        limit: so many in a row are too many; None for any number.
        names: of the T tasks.
        device: where the steps are computed.
    """

    def __init__(self, limit: int | None, names: Sequence[str], device: torch.device) -> None:
        counts = limit is None or is_whole(limit)
        require(counts, "Trainer", "max_skipped_steps", limit, "a whole number of at least 1, or None")
        self.limit = limit
        self.names = list(names)
        self._row = torch.zeros(len(names) + 1, dtype=torch.int64, device=device)  # of the steps, then of each task
        self._new = torch.zeros(2, dtype=torch.int64, device=device)  # skipped, and of these spikes
        self._unread = 0
        self._read = [0] * len(self._row)

    @property
    def in_a_row(self) -> int:
        """Steps in a row that were skipped, when the device was last asked."""
        return self._read[0]

    def add(self, result: StepResult, state: TrainState) -> bool:
        """Count one step; return whether there are too many in a row."""
        if result.taken and not any(self._read) and not bool(result.left_out.any()):
            return False  # known here, and nothing to count
        skipped, spikes = result.skipped, result.spikes
        spike = torch.zeros_like(skipped) if spikes is None else spikes.any()
        self._new = self._new + torch.stack([skipped, spike])
        # A task without labels in a step says nothing of itself.
        seen = result.present | result.left_out
        tasks = torch.where(seen, (self._row[1:] + 1) * result.left_out, self._row[1:])
        self._row = torch.cat([((self._row[0] + 1) * skipped)[None], tasks])
        self._unread += 1
        if result.taken is None and (self.limit is None or self._unread < self.limit):
            return False
        self.read(state)
        return self.limit is not None and max(self._read) >= self.limit

    def read(self, state: TrainState) -> None:
        """Enter what only the device knew into the state."""
        if self._unread:
            skipped, spikes, *self._read = torch.cat([self._new, self._row]).tolist()
            state.skipped_steps += skipped
            state.spikes += spikes
            self._new = torch.zeros_like(self._new)
            self._unread = 0

    def restart(self) -> None:
        """Begin a training."""
        self.load_state_dict({"in_a_row": [0] * len(self._read)})

    def state_dict(self) -> dict[str, Any]:
        """Return how many in a row were skipped; `read` comes first."""
        return {"in_a_row": self._read}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved count."""
        self._read = list(state["in_a_row"])
        self._row = torch.tensor(self._read, device=self._row.device)
        self._new = torch.zeros_like(self._new)
        self._unread = 0

    def message(self, step: int, weights: str, last: Path | None) -> str:
        """Return why the training ends.

        Args:
            step: at which it ends.
            weights: which ones the model is left with.
            last: the last checkpoint, if there is one.
        """
        good = "" if last is None else f"; the last good checkpoint is {last}"
        steps, *tasks = self._read
        broken = [name for name, row in zip(self.names, tasks, strict=True) if row == max(self._read)]
        if steps >= max(tasks):
            what = f"{steps} steps in a row were left out, because their gradient was not finite or their loss a spike"
        else:
            what = f"{broken} took no part in {max(tasks)} steps in a row, because the loss or gradient was not "
            what += "finite, or the loss negative where its logarithm is taken"
        return (
            f"{what} (step {step}). The model has the weights {weights}{good}. Lower learning_rate, check inputs and "
            "targets, or allow more with max_skipped_steps."
        )
