"""Steps that were left out because their gradient was not finite: how many, and how many in a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lepton.train._state import TrainState
from lepton.train._step import StepResult

__all__ = ["SkippedSteps"]


class SkippedSteps:
    """Counts skipped steps; where only the device knows of them, it is asked once in `limit` steps.

    Args:
        limit: so many in a row are too many; None for any number.
        device: where the steps are computed.
    """

    def __init__(self, limit: int | None, device: torch.device) -> None:
        self.limit = limit
        self.in_a_row = 0
        self._row = torch.zeros((), dtype=torch.int64, device=device)
        self._new = torch.zeros_like(self._row)
        self._unread = 0

    def add(self, result: StepResult, state: TrainState) -> bool:
        """Count one step; return whether there are too many in a row."""
        if result.taken is not None:
            self.in_a_row = 0 if result.taken else self.in_a_row + 1
            state.skipped_steps += not result.taken
            return self._too_many()
        skipped = ~torch.isfinite(result.grad_norm)
        self._row = (self._row + 1) * skipped
        self._new = self._new + skipped
        self._unread += 1
        if self.limit is None or self._unread < self.limit:
            return False
        self.read(state)
        return self._too_many()

    def read(self, state: TrainState) -> None:
        """Enter what only the device knew into the state."""
        if self._unread:
            self.in_a_row, new = torch.stack([self._row, self._new]).tolist()
            state.skipped_steps += new
            self._new = torch.zeros_like(self._new)
            self._unread = 0

    def _too_many(self) -> bool:
        return self.limit is not None and self.in_a_row >= self.limit

    def restart(self) -> None:
        """Begin a training."""
        self.load_state_dict({"in_a_row": 0})

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps in a row were skipped; `read` comes first."""
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved count."""
        self.in_a_row = state["in_a_row"]
        self._row = torch.full_like(self._row, self.in_a_row)
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
        return (
            f"{self.in_a_row} steps in a row were left out, because their gradient was not finite (step {step}). The "
            f"model has the weights {weights}{good}. Lower learning_rate, check the inputs, or allow more with "
            "max_skipped_steps."
        )
