"""Everything about a training under way, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["TrainState"]


@dataclass
class TrainState:
    """Where a training stands; written by the loop, read by everybody.

    Attributes:
        step: optimiser steps taken.
        epoch: whole passes over the training rows.
        max_steps: where it will end.
        seconds: time spent in training steps, evaluation not counted.
        best_value: best value of the monitored quantity so far.
        best_step: the step at which it was reached.
        stale: evaluations since then.
        best_by_task: task -> best value of its primary metric so far, if a checkpoint is kept for each task.
        skipped_steps: steps left out because their gradient was not finite or their loss a spike.
        spikes: loss spikes among them.
        dropped_rows: rows left out because an input was not finite.
        dead_layers: layers that had no gradient to speak of in a whole epoch.
        exploding_layers: layers whose gradient grew a hundredfold over that of the first epoch.
        failed_saves: checkpoints that could not be written.
        history: one row for each epoch, as in `metrics.jsonl`.
        stopped: why the training ended before `max_steps`, or an empty string. A callback may set it: the epoch is
            then evaluated as far as it went, and the training ends.
    """

    step: int = 0
    epoch: int = 0
    max_steps: int = 0
    seconds: float = 0.0
    best_value: float | None = None
    best_step: int = 0
    stale: int = 0
    best_by_task: dict[str, float] = field(default_factory=dict)
    skipped_steps: int = 0
    spikes: int = 0
    dropped_rows: int = 0
    dead_layers: list[str] = field(default_factory=list)
    exploding_layers: list[str] = field(default_factory=list)
    failed_saves: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""
