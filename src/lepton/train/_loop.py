"""The loop around the step: epochs, evaluation, the best checkpoint, and when to stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from lepton.data import TensorLoader, drop_rows_not_finite
from lepton.errors import ConfigurationError, DataError, TargetError, is_number, is_whole, nearest, require
from lepton.evaluate import TaskResult, checked_batch, evaluate
from lepton.nn import LeptonModel
from lepton.tasks import Regression
from lepton.train._checkpoint import save_checkpoint
from lepton.train._events import Callback, JsonLines, announce
from lepton.train._record import EpochRecord
from lepton.train._schedule import warmup_cosine
from lepton.train._state import TrainState
from lepton.train._step import Batch, TrainStep

__all__ = ["Trainer"]

log = logging.getLogger("lepton")


def _adamw(model: LeptonModel, learning_rate: float, weight_decay: float) -> Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigurationError("the model has no trainable parameter.")
    return torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay, fused=True)


def _check_parameters(model: LeptonModel, optimizer: Optimizer) -> None:
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"]):
        raise ConfigurationError("the optimizer holds no parameter of this model: it would train nothing.")


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


class Trainer:
    """Trains a `LeptonModel`: AdamW, warm-up and cosine, clipping, evaluation, best weights, early stopping.

    Selection looks at validation data only. `val/relative_loss`, which is monitored by default, is the mean over the
    tasks (auxiliary ones left out) of the validation loss divided by its value before training: it has no unit, so
    that no task decides alone because its loss is measured in larger numbers.

    Args:
        model: the model; it is trained in place and ends with its best weights.
        learning_rate: peak learning rate of AdamW.
        weight_decay: of AdamW.
        max_epochs: passes over the training batches; the schedule is laid out for them.
        max_steps: if given, the number of optimiser steps instead.
        warmup: share of the steps in which the learning rate rises.
        max_grad_norm: bound on the norm of all gradients; None for no bound.
        max_task_grad_norm: bound on the norm of each task's own gradient, at its head and at the fork.
        gradient_accumulation_steps: micro-batches per optimiser step.
        precision: `"32"` or `"bf16-mixed"`.
        monitor: a column of the metrics; its best row's weights are kept.
        mode: `"min"` or `"max"`.
        patience: evaluations without a better value before stopping; None to go on.
        folder: where `metrics.jsonl` and `checkpoints/best` are written; None to write nothing.
        callbacks: listeners.
        optimizer: an optimiser of your own instead of AdamW.

    Example:
        >>> import torch, lepton
        >>> from lepton.data import TensorData, TensorLoader
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Regression("size"), Regression("age")])
        >>> rows = TensorData(torch.randn(64, 2), {"size": torch.randn(64), "age": torch.randn(64)})
        >>> batches = TensorLoader(rows, batch_size=16, shuffle=True)
        >>> state = lepton.Trainer(model, max_epochs=2).fit(batches, batches)
        >>> state.step, state.epoch
        (8, 2)
    """

    def __init__(
        self,
        model: LeptonModel,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        max_epochs: int = 10,
        max_steps: int | None = None,
        warmup: float = 0.05,
        max_grad_norm: float | None = 1.0,
        max_task_grad_norm: float | None = None,
        gradient_accumulation_steps: int = 1,
        precision: str = "32",
        monitor: str = "val/relative_loss",
        mode: str = "min",
        patience: int | None = None,
        folder: Path | str | None = None,
        callbacks: Sequence[Callback] = (),
        optimizer: Optimizer | None = None,
    ) -> None:
        if not isinstance(cast(object, model), LeptonModel):
            raise ConfigurationError(f"Trainer needs a LeptonModel, but got {type(model).__name__}.")
        whole = "a whole number of at least 1"
        require(is_whole(max_epochs), "Trainer", "max_epochs", max_epochs, whole)
        require(max_steps is None or is_whole(max_steps), "Trainer", "max_steps", max_steps, f"{whole}, or None")
        require(patience is None or is_whole(patience), "Trainer", "patience", patience, f"{whole}, or None")
        moves = is_number(learning_rate) and 0 < learning_rate < math.inf
        require(moves, "Trainer", "learning_rate", learning_rate, "a number, positive and finite")
        decays = is_number(weight_decay) and 0 <= weight_decay < math.inf
        require(decays, "Trainer", "weight_decay", weight_decay, "a number, at least 0 and finite")
        require(is_number(warmup) and 0 <= warmup <= 1, "Trainer", "warmup", warmup, "a number between 0 and 1")
        require(mode in ("min", "max"), "Trainer", "mode", mode, "'min' or 'max'")
        require(isinstance(monitor, str), "Trainer", "monitor", monitor, "the name of a column, such as 'val/a/loss'")
        path = folder is None or isinstance(folder, (str, Path))
        require(path, "Trainer", "folder", folder, "a path, or None")
        listen = isinstance(callbacks, Sequence) and all(isinstance(one, Callback) for one in callbacks)
        require(listen, "Trainer", "callbacks", callbacks, "a list of Callback objects")
        stepping = optimizer is None or isinstance(optimizer, Optimizer)
        require(stepping, "Trainer", "optimizer", optimizer, "a torch optimiser, or None for AdamW")
        self.model = model
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.warmup = warmup
        self.monitor = monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.patience = patience
        self.folder = None if folder is None else Path(folder)
        self.window = gradient_accumulation_steps
        model.fork.gradient_accumulation_steps = gradient_accumulation_steps
        self.optimizer = optimizer or _adamw(model, learning_rate, weight_decay)
        _check_parameters(model, self.optimizer)
        self.step = TrainStep(
            model,
            self.optimizer,
            max_grad_norm=max_grad_norm,
            max_task_grad_norm=max_task_grad_norm,
            precision=precision,
        )
        self.state = TrainState()
        self.callbacks = list(callbacks)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.callbacks.append(JsonLines(self.folder / "metrics.jsonl"))
        self._best: dict[str, Tensor] | None = None
        self._initial: dict[str, float] = {}

    def fit(self, train: Iterable[Batch], val: Iterable[Batch] | None = None) -> TrainState:
        """Train, and leave the model with the weights of its best evaluation (the last ones without `val`).

        Args:
            train: batches (inputs, targets) with a length, iterated once in each epoch.
            val: batches to select by.

        Returns:
            The final state; its `history` has one row for each epoch.

        Raises:
            DataError: there is no batch, or a task has no label in a whole epoch.
            ConfigurationError: `monitor` is no column of the metrics.
        """
        require(train is not None, "Trainer", "train", train, "batches, a loader or a list")
        self._check_batches(train, val)
        state = self.state = TrainState()
        self._best = None
        state.max_steps = self.max_steps or self.max_epochs * self._steps_per_epoch(train)
        schedule = warmup_cosine(self.optimizer, max(1, round(self.warmup * state.max_steps)), state.max_steps)
        self._fit_statistics(train)
        if val is not None:
            self._initial = self._first_losses(val)
        self.model.train()
        announce(self.callbacks, "on_train_begin", state)
        try:
            while state.step < state.max_steps and not state.stopped:
                self._epoch(train, val, schedule)
        finally:
            announce(self.callbacks, "on_train_end", state)
        if self._best is not None:
            self.model.load_state_dict(self._best)
        return state

    # -- one epoch --------------------------------------------------------------------------------------------
    def _epoch(self, train: Iterable[Batch], val: Iterable[Batch] | None, schedule: Any) -> None:
        record = EpochRecord(self.model)
        start = time.perf_counter()
        for window in self._windows(train):
            result = self.step(window)
            schedule.step()
            record.add(result)
            self.state.step += 1
            self.state.skipped_steps += result.taken is False
            announce(self.callbacks, "on_step_end", self.state, result)
            if self.state.step >= self.state.max_steps:
                break
        if not record.steps:
            raise DataError("an epoch gave no step: there were no batches, or no row of them could be used.")
        row = record.row()
        self.state.seconds += time.perf_counter() - start
        self.state.epoch += 1
        self._refuse_unlabelled(row)
        row |= {"step": self.state.step, "epoch": self.state.epoch, "seconds": self.state.seconds}
        row["train/learning_rate"] = schedule.get_last_lr()[0]
        if val is not None:
            row |= self._validation(evaluate(self.model, val))
            self._select(row)
        self.state.history.append(row)
        announce(self.callbacks, "on_epoch_end", self.state, row)

    def _windows(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        """Return the accumulation windows of an epoch, without rows that cannot be used; a rest is left out."""
        window: list[Batch] = []
        for batch in batches:
            inputs, targets = checked_batch(batch)
            inputs, targets, dropped = drop_rows_not_finite(inputs, targets)
            self.state.dropped_rows += dropped
            if dropped and not any(len(target) for target in targets.values()):
                continue
            window.append((inputs, targets))
            if len(window) == self.window:
                yield window
                window = []

    def _steps_per_epoch(self, train: Iterable[Batch]) -> int:
        if not isinstance(train, Sized):
            raise ConfigurationError("training batches without a length need max_steps.")
        if len(train) < self.window:
            raise DataError(f"there are {len(train)} batches, fewer than one accumulation window of {self.window}.")
        return len(train) // self.window

    def _check_batches(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> None:
        """Refuse what cannot be iterated twice, and a monitor that no evaluation will give."""
        for name, batches in (("train", train), ("val", val)):
            if batches is not None and not isinstance(batches, Iterable):
                raise DataError(f"{name} must be batches, a loader or a list, but it is {batches!r}.")
            if isinstance(batches, Iterator):
                raise DataError(f"{name} is an iterator, which is empty after one pass: give a loader or a list.")
        columns = {"val/relative_loss"}
        for name in self.model.task_names:
            metrics = ["loss", *self.model.task(name).higher_is_better]
            columns |= {f"val/{name}/{metric}" for metric in metrics}
        if val is not None and self.monitor not in columns:
            raise ConfigurationError(
                f"monitor is {self.monitor!r}, which is no column of the metrics.{nearest(self.monitor, columns)}"
            )

    def _first_losses(self, val: Iterable[Batch]) -> dict[str, float]:
        """Return what the validation losses are divided by: their values before training, or 1 where those are 0."""
        found = evaluate(self.model, val)
        if not any(result.n_labels for result in found.values()):
            raise DataError("the validation batches hold no label of any task.")
        return {name: result.loss if result.loss > 0 else 1.0 for name, result in found.items()}

    def _fit_statistics(self, train: Iterable[Batch]) -> None:
        """Give the tasks that want them the statistics of the training targets."""
        every = [self.model.task(name) for name in self.model.task_names]
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
        for task in wanting:
            if targets[task.name]:
                task.fit_statistics(_together(task, targets[task.name]))

    def _refuse_unlabelled(self, row: Mapping[str, float]) -> None:
        never = [name for name in self.model.task_names if math.isnan(row[f"train/{name}/loss"])]
        broken = [name for name in self.model.task_names if row[f"train/{name}/left_out"] > 0]
        for name in broken:
            log.warning(
                "task %r was left out of %d steps: its gradient was not finite", name, row[f"train/{name}/left_out"]
            )
        if never:
            raise DataError(
                f"the tasks {never} had no usable label or no finite loss in a whole epoch: check the names and the "
                "missing values of their targets and the learning rate, or leave these tasks out."
            )

    # -- selection --------------------------------------------------------------------------------------------
    def _validation(self, results: Mapping[str, TaskResult]) -> dict[str, float]:
        row: dict[str, float] = {}
        for name, result in results.items():
            row[f"val/{name}/loss"] = result.loss
            row |= {f"val/{name}/{metric}": value for metric, value in result.metrics.items()}
        main = [name for name in results if not self.model.task(name).auxiliary] or list(results)
        ratios = [results[name].loss / self._initial[name] for name in main if results[name].n_labels > 0]
        row["val/relative_loss"] = sum(ratios) / len(ratios) if ratios else math.nan
        return row

    def _select(self, row: Mapping[str, float]) -> None:
        state, value = self.state, row[self.monitor]
        better = state.best_value is None or self.sign * value < self.sign * state.best_value
        if math.isfinite(value) and better:
            state.best_value, state.best_step, state.stale = value, state.step, 0
            self._best = {key: tensor.detach().clone() for key, tensor in self.model.state_dict().items()}
            if self.folder is not None:
                described = {"step": state.step, "epoch": state.epoch, self.monitor: value}
                save_checkpoint(self.folder / "checkpoints" / "best", self.model, described)
            return
        state.stale += 1
        if self.patience is not None and state.stale >= self.patience:
            state.stopped = f"{self.monitor} has not improved for {self.patience} evaluations"
