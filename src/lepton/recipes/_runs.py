"""One seed of a recipe: what was trained, how long it took, and how it is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lepton
from lepton.data import without_nan
from lepton.run import Baselines, Run
from lepton.train import Callback, StepResult, TrainState, write_atomically

__all__ = ["ProcessTime", "RecipeRun", "write_results"]


@dataclass
class RecipeRun:
    """One seed of a recipe.

    Attributes:
        seed: its seed.
        run: all tasks on one network.
        seconds: time of the processor for the training and its evaluations.
        alone: each task trained alone; None where that was not wanted.
        further: what else was measured, name -> value.
    """

    seed: int
    run: Run
    seconds: float
    alone: Baselines | None = None
    further: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what `results.json` holds of it."""
        scores = {
            part: {task: {"loss": found.loss, **found.metrics} for task, found in results.items()}
            for part, results in self.run.results.items()
        }
        signatures = {
            task: found.signatures
            for results in self.run.results.values()
            for task, found in results.items()
            if found.signatures
        }
        place = self.run.folder.name
        together = {"folder": place, "seconds": self.seconds, "scores": scores, "signatures": signatures}
        alone = {} if self.alone is None else {task: score.to_dict() for task, score in self.alone.alone.items()}
        return {"seed": self.seed, "together": together, "alone": alone, **self.further}


class ProcessTime(Callback):
    """Adds `train/process_seconds` to every epoch's row: the processor's time in training steps so far.

    Unlike the clock's it is the same on a machine that has other work; of several threads it is the sum.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._since = 0.0

    def on_epoch_begin(self, state: TrainState) -> None:
        """Begin to count."""
        self._since = time.process_time()

    def on_step_end(self, state: TrainState, result: StepResult) -> None:
        """Count a step."""
        now = time.process_time()
        self.spent += now - self._since
        self._since = now

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Write the time into the row."""
        row["train/process_seconds"] = self.spent


def write_results(path: Path, name: str, done: Sequence[RecipeRun]) -> None:
    """Write `results.json`: every seed that is done, whole or not at all.

    Args:
        path: the file.
        name: the recipe.
        done: its seeds.
    """
    content = {"recipe": name, "lepton": lepton.__version__, "seeds": [found.to_dict() for found in done]}
    write_atomically(path, json.dumps(without_nan(content), indent=1, ensure_ascii=False).encode())
