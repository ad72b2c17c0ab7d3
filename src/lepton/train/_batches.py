"""What the loop asks of its batches: windows of them, their number, and the statistics of their targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized

import torch
from torch import Tensor

from lepton.data import TensorLoader, drop_rows_not_finite
from lepton.errors import ConfigurationError, DataError, TargetError
from lepton.evaluate import checked_batch
from lepton.nn import LeptonModel
from lepton.tasks import Regression
from lepton.train._processes import Processes
from lepton.train._state import TrainState
from lepton.train._step import Batch

__all__ = ["fit_statistics", "refuse_iterators", "steps_per_epoch", "usable_batch", "windows"]


def refuse_iterators(train: Iterable[Batch], val: Iterable[Batch] | None) -> None:
    """Refuse what cannot be iterated twice."""
    for name, batches in (("train", train), ("val", val)):
        if batches is not None and not isinstance(batches, Iterable):
            raise DataError(f"{name} must be batches, a loader or a list, but it is {batches!r}.")
        if isinstance(batches, Iterator):
            raise DataError(f"{name} is an iterator, which is empty after one pass: give a loader or a list.")


def steps_per_epoch(train: Iterable[Batch], window: int) -> int:
    """Return the number of whole accumulation windows in an epoch."""
    if not isinstance(train, Sized):
        raise ConfigurationError("training batches without a length need max_steps.")
    if len(train) < window:
        raise DataError(f"there are {len(train)} batches, fewer than one accumulation window of {window}.")
    return len(train) // window


def usable_batch(batch: Batch, *, keep_empty: bool = False) -> tuple[Batch | None, int]:
    """Return a batch without the rows that are not finite, None if none is left, and how many these were."""
    inputs, targets, dropped = drop_rows_not_finite(*checked_batch(batch))
    if keep_empty:
        return (inputs, targets), dropped
    return None if dropped and not any(len(target) for target in targets.values()) else (inputs, targets), dropped


def windows(
    batches: Iterable[Batch], size: int, state: TrainState, *, keep_empty: bool = False
) -> Iterator[list[Batch]]:
    """Return the accumulation windows of an epoch, without rows that cannot be used; a rest is left out.

    Args:
        batches: of the epoch.
        size: micro-batches of a window.
        state: where the rows left out are counted.
        keep_empty: keep a batch of which no row is left, since other processes have rows in theirs.
    """
    window: list[Batch] = []
    for batch in batches:
        usable, dropped = usable_batch(batch, keep_empty=keep_empty)
        state.dropped_rows += dropped
        if usable is None:
            continue
        window.append(usable)
        if len(window) == size:
            yield window
            window = []


def fit_statistics(model: LeptonModel, train: Iterable[Batch], processes: Processes) -> None:
    """Give the tasks that want them the statistics of the training targets, of all processes."""
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
    rows: Iterable[Batch] = [(None, train.data.targets)] if isinstance(train, TensorLoader) else train
    targets: dict[str, list[Tensor]] = {task.name: [] for task in wanting}
    for row in rows:
        _, batch = checked_batch(row)
        for name, found in targets.items():
            if name in batch:
                found.append(batch[name])
    if not isinstance(train, TensorLoader):  # which has the targets of all processes
        shares = processes.gather(targets)
        targets = {name: [target for share in shares for target in share[name]] for name in targets}
    for task in wanting:
        if targets[task.name]:
            task.fit_statistics(_together(task, targets[task.name]))


def _together(task: Regression, targets: Sequence[Tensor]) -> Tensor:
    """Return the targets of all batches in one tensor."""
    try:
        return torch.cat(list(targets))
    except (RuntimeError, TypeError) as error:
        kinds = {str(list(t.shape[1:])) if isinstance(t, Tensor) else type(t).__name__ for t in targets}
        raise TargetError(
            f"{task.owner}: the targets of all batches must be tensors of one shape after the first dimension, but "
            f"there are {sorted(kinds)}."
        ) from error
