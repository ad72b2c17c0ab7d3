"""Events of a training, and the listener that writes them down."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton.evaluate import TaskResult
from lepton.train._checkpoint import write_atomically
from lepton.train._state import TrainState
from lepton.train._step import StepResult

__all__ = ["Callback", "JsonLines", "announce"]

log = logging.getLogger("lepton")


class Callback:
    """A listener. Every method does nothing until it is overridden.

    The state is the loop's; a callback may write one thing into it, `state.stopped`, to end the training: say why.

    Example:
        >>> class Budget(Callback):
        ...     def on_step_end(self, state, result):
        ...         if state.step == 1000:
        ...             state.stopped = "the budget of 1000 steps is spent"

    Attributes:
        columns: columns that it gives every evaluation, `val/<task>/<metric>` -> whether more is better; they can be
            monitored. It writes the metrics into the results of `on_evaluate_end`.
    """

    columns: Mapping[str, bool] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first step, or the first one after a checkpoint was resumed."""

    def on_epoch_begin(self, state: TrainState) -> None:
        """Before the first step of an epoch; `state.epoch` counts those that are over."""

    def on_step_end(self, state: TrainState, result: StepResult) -> None:
        """After every optimiser step. Reading `result` waits for the device."""

    def on_evaluate_end(self, state: TrainState, results: dict[str, TaskResult]) -> None:
        """After every evaluation during the training, with each task's result; the model is as it was evaluated.

        Selection comes after it: a result may be replaced by one with more metrics, those that `columns` names.
        """

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """After every epoch and its evaluation, with its row of metrics."""

    def on_checkpoint(self, state: TrainState, folder: Path) -> None:
        """After a checkpoint was written: `last`, `best` or `best-TASK`."""

    def on_interrupt(self, state: TrainState) -> None:
        """After Ctrl-C or SIGTERM: the step under way is done and the checkpoint `last` is written."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last step, also when the training was interrupted or failed."""


class JsonLines(Callback):
    """Writes the metrics of all epochs to a file, one JSON object on each line.

    The file is replaced as a whole, so that it never ends in half a line and, after a training was resumed, holds
    no epoch twice. A value that is not finite is written as null, because JSON has no word for it.

    Args:
        path: the file, usually `metrics.jsonl` in a run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Write the rows."""
        lines = [json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}) for row in state.history]
        try:
            write_atomically(self.path, "".join(line + "\n" for line in lines).encode())
        except OSError as error:
            log.error("the metrics could not be written to %s (%s); the next epoch tries again", self.path, error)


def announce(callbacks: list[Callback], event: str, *arguments: Any) -> None:
    """Call one event on every listener, in order."""
    for callback in callbacks:
        getattr(callback, event)(*arguments)
