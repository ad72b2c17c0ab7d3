"""Events of a training, and the listeners that come with Lepton."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.train._state import TrainState
from lepton.train._step import StepResult

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Callback", "JsonLines", "Progress"]


class Callback:
    """A listener. Every method does nothing until it is overridden; none may change the state.

    Example:
        >>> class Count(Callback):
        ...     steps = 0
        ...     def on_step_end(self, state, result):
        ...         self.steps += 1
    """

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first step."""

    def on_step_end(self, state: TrainState, result: StepResult) -> None:
        """After every optimiser step. Reading `result` waits for the device."""

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """After every epoch's evaluation, with its row of metrics."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last step, also when the training was interrupted."""


class JsonLines(Callback):
    """Appends every epoch's metrics to a file, one JSON object on each line.

    A value that is not finite is written as null, because JSON has no word for it.

    Args:
        path: the file, usually `metrics.jsonl` in a run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Append the row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        clean = {key: value if math.isfinite(value) else None for key, value in row.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")


class Progress(Callback):
    """Shows a bar with the epoch and the monitored value, on a `rich` progress display.

    Args:
        display: a started `rich.progress.Progress`.
        description: what is being trained.
        every: steps between updates.
    """

    def __init__(self, display: RichProgress, description: str, every: int = 10) -> None:
        self.display = display
        self.description = description
        self.every = every
        self._bar: TaskID | None = None

    def on_train_begin(self, state: TrainState) -> None:
        """Add the bar."""
        self._bar = self.display.add_task(self.description, total=state.max_steps)

    def on_step_end(self, state: TrainState, result: StepResult) -> None:
        """Move the bar."""
        if self._bar is not None and state.step % self.every == 0:
            self.display.update(self._bar, completed=state.step)

    def on_train_end(self, state: TrainState) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self.display.remove_task(self._bar)


def announce(callbacks: list[Callback], event: str, *arguments: Any) -> None:
    """Call one event on every listener, in order."""
    for callback in callbacks:
        getattr(callback, event)(*arguments)
