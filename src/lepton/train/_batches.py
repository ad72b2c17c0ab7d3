"""What the loop asks of its batches: windows of them, their number, and the statistics of their targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

import torch
from torch import Tensor

from lepton.data import TensorLoader, drop_rows_not_finite
from lepton.errors import ConfigurationError, DataError
from lepton.nn import LeptonModel
from lepton.tasks import Regression
from lepton.train._state import TrainState
from lepton.train._step import Batch

__all__ = ["fit_statistics", "refuse_iterators", "steps_per_epoch", "windows"]


def refuse_iterators(train: Iterable[Batch], val: Iterable[Batch] | None) -> None:
    """Refuse what cannot be iterated twice."""
    for name, batches in (("train", train), ("val", val)):
        if isinstance(batches, Iterator):
            raise DataError(f"{name} is an iterator, which is empty after one pass: give a loader or a list.")


def steps_per_epoch(train: Iterable[Batch], window: int) -> int:
    """Return the number of whole accumulation windows in an epoch."""
    if not isinstance(train, Sized):
        raise ConfigurationError("training batches without a length need max_steps.")
    if len(train) < window:
        raise DataError(f"there are {len(train)} batches, fewer than one accumulation window of {window}.")
    return len(train) // window


def windows(batches: Iterable[Batch], size: int, state: TrainState) -> Iterator[list[Batch]]:
    """Return the accumulation windows of an epoch, without rows that cannot be used; a rest is left out."""
    window: list[Batch] = []
    for inputs, targets in batches:
        inputs, targets, dropped = drop_rows_not_finite(inputs, targets)
        state.dropped_rows += dropped
        if dropped and not any(len(target) for target in targets.values()):
            continue
        window.append((inputs, targets))
        if len(window) == size:
            yield window
            window = []


def fit_statistics(model: LeptonModel, train: Iterable[Batch]) -> None:
    """Give the tasks that want them the statistics of the training targets."""
    every = [model.task(name) for name in model.task_names]
    wanting = [task for task in every if isinstance(task, Regression) and not task.fitted]
    if not wanting:
        return
    if not isinstance(train, Sized):
        raise ConfigurationError(
            f"a stream cannot be read for the statistics of {[task.name for task in wanting]} first: pass mean= "
            "and std= to these tasks, or call fit_statistics."
        )
    # A TensorLoader's own rows, so that its epochs, and with them the order of the batches, are left alone.
    rows = [(None, train.data.targets)] if isinstance(train, TensorLoader) else train
    targets: dict[str, list[Tensor]] = {task.name: [] for task in wanting}
    for _, batch in rows:
        for name, found in targets.items():
            if name in batch:
                found.append(batch[name])
    for task in wanting:
        if targets[task.name]:
            task.fit_statistics(torch.cat(targets[task.name]))
