"""The loop around the step: epochs, evaluation, the best checkpoint, when to stop, and how to go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, cast

from torch import Tensor
from torch.optim import Optimizer

from lepton.errors import ConfigurationError, DataError, TrainingError, is_whole, require
from lepton.evaluate import TaskResult, evaluate
from lepton.nn import LeptonModel
from lepton.train._average import AverageName, WeightAverage
from lepton.train._batches import fit_statistics, refuse_iterators, steps_per_epoch, windows
from lepton.train._events import Callback, JsonLines, announce
from lepton.train._interrupt import Interrupts
from lepton.train._layers import LayerNorms
from lepton.train._loggers import LoggerName, make_loggers
from lepton.train._memory import MemoryPolicy
from lepton.train._optimisers import OptimizerName, make_optimizer
from lepton.train._position import Position
from lepton.train._processes import ParallelName, Processes, gathered
from lepton.train._progress import ConsoleProgress
from lepton.train._record import EpochRecord
from lepton.train._saving import Checkpoints, Stateful
from lepton.train._schedule import Schedule, ScheduleName, check_schedule
from lepton.train._selection import Selection, first_losses
from lepton.train._skips import SkippedSteps
from lepton.train._spikes import SpikeGuard, SpikePolicy
from lepton.train._state import TrainState
from lepton.train._step import Batch, PrecisionName, StepResult, TrainStep

__all__ = ["Trainer"]

log = logging.getLogger("lepton")

GO_BACK = ("optimizer", "scaler", "average", "guard")
"""What goes back with the weights after a loss spike; data, generators and schedule go on."""


class Trainer:
    """Trains a `LeptonModel`: optimiser, schedule, clipping, evaluation, best weights, early stopping, resumption.

    Selection looks at validation data only. `val/relative_loss`, which is monitored by default, is the mean over the
    tasks (auxiliary ones left out) of the validation loss divided by its value before training: it has no unit, so
    that no task decides alone because its loss is measured in larger numbers.

    Ctrl-C and SIGTERM end the training after the step under way and write `checkpoints/last`; `KeyboardInterrupt`, or
    `SystemExit` with the code 143, is raised then. A second one acts at once.

    In several processes, as torchrun starts them, a loader of Lepton's is shared: each process takes its rows of the
    same batches, and the result is that of one process. The first one writes, prints and logs.

    Args:
        model: the model; it is trained in place and ends with its best weights.
        learning_rate: peak learning rate.
        weight_decay: pull of the weights to zero. Biases, the parameters of normalisations, others of one dimension
            and those of the balancer do not decay.
        max_epochs: passes over the training batches; the schedule is laid out for them.
        max_steps: if given, the number of optimiser steps instead.
        warmup: share of the steps in which the learning rate rises.
        max_grad_norm: bound on the norm of all gradients; None for no bound.
        max_task_grad_norm: bound on the norm of each task's own gradient, at its head and at the fork.
        gradient_accumulation_steps: micro-batches per optimiser step.
        precision: `"32"`, `"bf16-mixed"`, or `"fp16-mixed"` with a loss scaler.
        monitor: a column of the metrics; its best row's weights are kept. `val/<task>/<metric>`, `val/relative_loss`,
            or `val/delta_m` with `baselines`.
        mode: `"min"` or `"max"`; None to take what the monitored metric says of itself.
        patience: evaluations without a better value before stopping; None to go on.
        folder: where `metrics.jsonl` and `checkpoints/` are written; None to write nothing.
        callbacks: listeners.
        optimizer: a name, such as `"adamw"` or `"sgd"`, or an optimiser of your own, which brings its own options.
        momentum: of `"sgd"` (by default 0.9) and `"rmsprop"`; None for the optimiser's own.
        betas: decays of the two averages of Adam's family; None for the optimiser's own.
        learning_rates: prefix of a parameter's name (`"trunk"`, `"trunk.encoder"`, `"heads.price"`) -> peak learning
            rate of these parameters; the longest prefix counts.
        schedule: course of the learning rate after the warm-up: `"cosine"`, `"linear"` (both to zero), `"constant"`,
            `"step"` (a tenth at half of it, a hundredth at three quarters), `"one_cycle"`, or `"plateau"` (lower each
            time the monitored value stays).
        plateau_factor: what the schedule `"plateau"` multiplies the learning rate by.
        plateau_patience: evaluations without a better value before the schedule `"plateau"` does so.
        adaptive_clip: bound on the norm of each unit's gradient relative to the norm of its weights, in the trunk
            (adaptive gradient clipping, Brock 2021; about 0.01); None for no bound.
        compile: run the model through `torch.compile`; names in checkpoints stay as they are.
        average: average of the weights that is evaluated and kept instead of the last ones: `"none"`, `"ema"`
            (exponential) or `"swa"` (uniform over the last part of the training). The balancer is not averaged.
        average_decay: of `"ema"`.
        average_start: share of the steps after which `"swa"` begins.
        baselines: `"task/metric"` -> score of the task trained alone, on the validation data; gives `val/delta_m`,
            in percent, positive is better than alone.
        save_best_per_task: keep `checkpoints/best-TASK`, the weights that were best by that task's primary metric.
        save_last: write `checkpoints/last` after every epoch, from which a training goes on.
        checkpoint_every: write `checkpoints/last` also every so many optimiser steps; None for epochs only.
        resume_from_checkpoint: a folder `checkpoints/last` to go on from, or `"auto"`: the one in `folder`, if there
            is one. The training then continues as if it had not been interrupted.
        max_skipped_steps: so many steps in a row that are left out, or that one task is left out of, because a loss or
            gradient is not finite or a spike, end the training with an error (on an accelerator up to twice as many);
            None for any number.
        on_spike: what is done at a loss spike, a step whose loss for some task is far above its last 64: `"skip"` the
            step; `"rollback"` to weights, optimiser and balancer of `checkpoints/last` and go on with the next rows; or
            `"stop"` with an error. None to take every step. On an accelerator the last two read one number in
            every step, the first one nothing.
        spike_factor: how many of their (robust) standard deviations above the median of its last losses a spike is.
        on_out_of_memory: when memory runs out in a step, `"halve"` its micro-batches and begin it again, or `"stop"`
            with an error.
        parallel: how several processes hold the parameters: `"ddp"`, all of them each, or `"fsdp"`, a share each. One
            process alone has them all.
        grad_norm_every: steps between two looks at the gradients of all layers, for `train/grad_norm/<layer>` and the
            alarm for dead and exploding layers; None for none.
        loggers: dashboards that get the metrics: `"tensorboard"`, `"wandb"`, `"mlflow"`.
        progress: show epoch, step, time left and losses on standard error.

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

    # Of the fit under way.
    schedule: Schedule
    _position: Position
    _record: EpochRecord | None
    _interrupts: Interrupts
    _clock: float

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
        precision: PrecisionName = "32",
        monitor: str = "val/relative_loss",
        mode: Literal["min", "max"] | None = None,
        patience: int | None = None,
        folder: Path | str | None = None,
        callbacks: Sequence[Callback] = (),
        optimizer: OptimizerName | Optimizer = "adamw",
        momentum: float | None = None,
        betas: tuple[float, float] | None = None,
        learning_rates: Mapping[str, float] | None = None,
        schedule: ScheduleName = "cosine",
        plateau_factor: float = 0.1,
        plateau_patience: int = 5,
        adaptive_clip: float | None = None,
        compile: bool = False,
        average: AverageName = "none",
        average_decay: float = 0.999,
        average_start: float = 0.75,
        baselines: Mapping[str, float] | None = None,
        save_best_per_task: bool = False,
        save_last: bool = True,
        checkpoint_every: int | None = None,
        resume_from_checkpoint: Path | str | None = None,
        max_skipped_steps: int | None = 100,
        on_spike: SpikePolicy | None = None,
        spike_factor: float = 10.0,
        on_out_of_memory: MemoryPolicy = "halve",
        parallel: ParallelName = "ddp",
        grad_norm_every: int | None = 10,
        loggers: Sequence[LoggerName] = (),
        progress: bool = False,
    ) -> None:
        if not isinstance(cast(object, model), LeptonModel):
            raise ConfigurationError(f"Trainer needs a LeptonModel, but got {type(model).__name__}.")
        _check_loop(max_epochs, max_steps, checkpoint_every, callbacks)
        _check_folder(folder, save_best_per_task, save_last, checkpoint_every, on_spike)
        check_schedule(schedule, warmup, plateau_factor, plateau_patience)
        self.model = model
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.folder = None if folder is None else Path(folder)
        self.window = gradient_accumulation_steps
        self.save_best_per_task = save_best_per_task
        self.save_last = save_last
        self.checkpoint_every = checkpoint_every
        self.resume_from = resume_from_checkpoint
        model.fork.gradient_accumulation_steps = gradient_accumulation_steps
        self.processes = Processes(parallel)
        if self.processes.together and parallel == "fsdp":
            _check_sharded(optimizer, precision, average)
        self.processes.shard(model)
        self.optimizer = make_optimizer(
            model,
            optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            betas=betas,
            learning_rates=learning_rates,
        )
        self.layers = LayerNorms(model, grad_norm_every)
        device = model.device
        n_tasks = len(model.task_names)
        self.guard = None if on_spike is None else SpikeGuard(n_tasks, on_spike, spike_factor, device)
        self.step = TrainStep(
            model,
            self.optimizer,
            max_grad_norm=max_grad_norm,
            max_task_grad_norm=max_task_grad_norm,
            adaptive_clip=adaptive_clip,
            precision=precision,
            compile=compile,
            layers=self.layers,
            guard=self.guard,
            on_out_of_memory=on_out_of_memory,
            processes=self.processes,
        )
        self.average = WeightAverage(model, average, decay=average_decay, start=average_start)
        given = {column: better for listener in callbacks for column, better in listener.columns.items()}
        self.selection = Selection(model, monitor, mode, patience=patience, baselines=baselines, given=given)
        self._make_schedule = partial(
            Schedule,
            schedule,
            self.optimizer,
            warmup=warmup,
            mode=self.selection.mode,
            factor=plateau_factor,
            patience=plateau_patience,
        )
        self.skipped = SkippedSteps(max_skipped_steps, model.task_names, device)
        self.state = TrainState()
        self.callbacks = list(callbacks)
        if self.folder is not None:
            _make(self.folder)
            if self.processes.is_first:
                self.callbacks.append(JsonLines(self.folder / "metrics.jsonl"))
        if self.processes.is_first:
            self.callbacks += make_loggers(tuple(loggers), self.folder)
        if progress and self.processes.is_first:
            self.callbacks.append(ConsoleProgress(model.task_names))
        self.checkpoints = Checkpoints(self.folder, model, self.callbacks, self.processes)
        self._best: dict[str, Tensor] | None = None
        self._initial: dict[str, float] = {}

    def fit(self, train: Iterable[Batch], val: Iterable[Batch] | None = None) -> TrainState:
        """Train, and leave the model with the weights of its best evaluation (the last ones without `val`).

        Args:
            train: batches (inputs, targets) with a length, iterated once in each epoch. A loader with `state_dict` and
                `load_state_dict` is asked for its position; with any other, a resumed epoch begins with passing over
                the batches it has had, whose order may depend on nothing but the generators of torch, numpy, Python.
            val: batches to select by.

        Returns:
            The final state; its `history` has one row for each epoch.

        Raises:
            DataError: there is no batch, or a task has no label in a whole epoch.
            ConfigurationError: `monitor` is no column of the metrics.
            CheckpointError: the checkpoint to go on from is damaged or of another training.
            TrainingError: too many steps in a row were left out; a loss spike with `on_spike="stop"`; memory that
                runs out, where nothing can be halved.
        """
        require(train is not None, "Trainer", "train", train, "batches, a loader or a list")
        refuse_iterators(train, val)
        if val is not None:
            self.selection.check_monitor()
        self.processes.check_evaluated(val)
        train, val = self.processes.share(train), self.processes.share(val)
        self.processes.check_lengths(train)
        state = self._begin(train, val)
        self.model.train()
        with Interrupts() as self._interrupts:
            announce(self.callbacks, "on_train_begin", state)
            try:
                while state.step < state.max_steps and not state.stopped:
                    self._epoch(val)
            finally:
                announce(self.callbacks, "on_train_end", state)
        if self._best is not None:
            self.model.load_state_dict(self._best)
        elif self.average.running:
            self.average.apply(self._position.again())
        return state

    def whole_state(self) -> dict[str, Tensor]:
        """Return the model's state with whole tensors, also where processes hold shares; all of them must ask."""
        found: dict[str, Tensor] = gathered(self.model.state_dict())
        return found

    # -- before the first step --------------------------------------------------------------------------------
    def _begin(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> TrainState:
        """Set everything to its beginning, or to where a checkpoint was written."""
        state = self.state = TrainState()
        state.max_steps = self.max_steps or self.max_epochs * steps_per_epoch(train, self.window)
        self.schedule = self._make_schedule(max_steps=state.max_steps)
        if self.schedule.follows_evaluations and val is None:
            raise ConfigurationError("Trainer: schedule='plateau' follows the validation data: pass val to fit.")
        self._best = None
        self._position = Position(train, self.model.device)
        self._record = None
        self.average.restart()
        self.skipped.restart()
        self.step.micro.pieces = 1
        if self.guard is not None:
            self.guard.restart()
        checkpoint = self.checkpoints.find(self.resume_from)
        self.checkpoints.keep_previous = checkpoint is not None
        if checkpoint is not None:
            return self._resume(checkpoint)
        fit_statistics(self.model, train, self.processes)
        if val is not None:
            self._initial = first_losses(evaluate(self.model, val))
        if self.guard is not None and self.guard.policy == "rollback":
            self._write_last()  # to go back to from the first epoch
        return state

    # -- one epoch --------------------------------------------------------------------------------------------
    def _epoch(self, val: Iterable[Batch] | None) -> None:
        state = self.state
        self._clock = time.perf_counter()
        if self._record is None:  # otherwise one that was interrupted goes on
            self._record = EpochRecord(self.model)
            self.layers.begin()
            announce(self.callbacks, "on_epoch_begin", state)
        for window in windows(self._position, self.window, state, keep_empty=self.processes.together):
            self._take_step(window, self._record)
            signal, stopped = self._agreed()
            if state.step >= state.max_steps or stopped:
                break
            self._save_within_epoch(signal)
        self._agreed(wait=True)
        if not self._record.steps:
            raise DataError("an epoch gave no step: there were no batches, or no row of them could be used.")
        row = self._row(self._record)
        self._record = None
        self._position.close()
        if val is not None:
            row |= self._evaluate(val)
        state.history.append(row)
        announce(self.callbacks, "on_epoch_end", state, row)
        if self.save_last:
            self._write_last()
        signal, _ = self._agreed(wait=True)
        self._grant_interrupt(signal)

    def _agreed(self, *, wait: bool = False) -> tuple[int, bool]:
        """Return the signal that came, 0 for none, and whether the training is to stop: the same in all processes."""
        state = self.state
        signal, stopped = self.processes.agree(self._interrupts.requested or 0, bool(state.stopped), wait=wait)
        if stopped and not state.stopped:
            state.stopped = "another process was asked to stop"
        return signal, stopped

    def _take_step(self, window: list[Batch], record: EpochRecord) -> None:
        state = self.state
        result = self.step(window)
        self.schedule.after_step()
        record.add(result)
        state.step += 1
        self.average.update(state.step / state.max_steps)
        if self.skipped.add(result, state):
            self._stop_skipping()
        if self.guard is not None:
            self._meet_spike(self.guard, result)
        announce(self.callbacks, "on_step_end", state, result)

    def _row(self, record: EpochRecord) -> dict[str, float]:
        """Close the epoch and return its row, without the evaluation."""
        state = self.state
        row = record.row()
        layers = self.layers.row()
        self._count_time()
        self.skipped.read(state)
        state.epoch += 1
        if not state.stopped:  # an epoch that a callback ended may have been too short
            record.refuse_unlabelled(row, self.step.criterion.unlabelled)
        self.layers.alarm(layers, state, self.step.criterion.unlabelled)
        row |= layers | {"step": state.step, "epoch": state.epoch, "seconds": state.seconds} | self._position.row()
        row["train/learning_rate"] = self.schedule.learning_rate
        return row

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self._clock
        self._clock = now

    def _stop_skipping(self) -> NoReturn:
        last = None if self.folder is None else self.checkpoints.find("auto")
        weights = "from before these steps"
        if self._best is not None:
            self.model.load_state_dict(self._best)
            weights = f"of the best evaluation, at step {self.state.best_step}"
        raise TrainingError(self.skipped.message(self.state.step, weights, last))

    def _meet_spike(self, guard: SpikeGuard, result: StepResult) -> None:
        """Do what is to be done if the step was a loss spike."""
        if guard.policy == "skip" and self.model.device.type != "cpu":
            return  # counted there, and read with the skipped steps
        if result.spikes is None or not bool(result.spikes.any()):
            return
        message = guard.message(result.spikes, result.losses, self.model.task_names, self.state.step)
        if guard.policy == "stop":
            self._write_last()
            raise TrainingError(f"{message} It was left out; the training stops, as on_spike says.")
        log.warning("%s It was left out.", message)
        if guard.policy == "rollback":
            parts = {name: part for name, part in self._parts().items() if name in GO_BACK}
            self.checkpoints.go_back(parts)

    # -- selection --------------------------------------------------------------------------------------------
    def _evaluate(self, val: Iterable[Batch]) -> dict[str, float]:
        """Evaluate the weights, or their average, and keep them where they are the best so far."""
        state, monitor = self.state, self.selection.monitor
        with self.average.applied(self._position.again()):
            self.processes.same_buffers(self.model)
            results = evaluate(self.model, val)
            announce(self.callbacks, "on_evaluate_end", state, results)
            row = self._validation(results)
            if self.selection.is_best(row, state):
                self._best = {key: tensor.detach().clone() for key, tensor in self.model.state_dict().items()}
                self.checkpoints.write_best(state, monitor, row[monitor])
            if self.save_best_per_task:
                for name, column in self.selection.best_of_tasks(row, state):
                    self.checkpoints.write_best(state, column, row[column], name)
        self.schedule.after_evaluation(row[monitor])
        return row

    def _validation(self, results: Mapping[str, TaskResult]) -> dict[str, float]:
        return self.selection.row(results, self._initial)

    # -- to go on later ---------------------------------------------------------------------------------------
    def _save_within_epoch(self, signal: int) -> None:
        """Write `last` if it is due, and end the training if that was asked for; not after an epoch's last step."""
        train, state = self._position.batches, self.state
        if isinstance(train, Sized) and self._position.taken >= len(train):
            return  # the epoch's end comes first: it evaluates, and saves a state that says so
        due = self.checkpoint_every is not None and state.step % self.checkpoint_every == 0
        if due or (signal and self.folder is not None):
            self._count_time()
            self._write_last()
            self._clock = time.perf_counter()
        self._grant_interrupt(signal)

    def _grant_interrupt(self, signal: int) -> None:
        if signal:
            self._interrupts.requested = signal
            announce(self.callbacks, "on_interrupt", self.state)
            self._interrupts.act()

    def _parts(self) -> dict[str, Stateful]:
        """Return what has a state of its own that is not in the model's."""
        return {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.step.scaler,
            "average": self.average,
            "skipped": self.skipped,
            "micro": self.step.micro,
            "layers": self.layers,
            "position": self._position,
            **({} if self.guard is None else {"guard": self.guard}),
        }

    def _write_last(self) -> None:
        self.skipped.read(self.state)
        record = None if self._record is None else self._record.state_dict()
        self.checkpoints.write_last(self.state, self._parts(), {"initial": self._initial, "record": record})

    def _resume(self, checkpoint: Path) -> TrainState:
        """Take everything up where `_write_last` left it."""
        state, extra = self.checkpoints.read_last(checkpoint, self._parts())
        # What may be different this time: how far to go, and why it stopped.
        state.max_steps, state.stopped = self.state.max_steps, ""
        self.state = state
        self._initial = extra["initial"]
        if extra["record"] is not None:
            self._record = EpochRecord(self.model)
            self._record.load_state_dict(extra["record"])
        if state.best_value is not None:
            self._best = self.checkpoints.read_best(checkpoint.parent / "best")
            if self._best is None:
                state.best_value = None
        log.info("going on from %s: epoch %d, step %d", checkpoint, state.epoch, state.step)
        return state


def _check_loop(max_epochs: object, max_steps: object, checkpoint_every: object, callbacks: object) -> None:
    """Refuse what the loop itself cannot use; its parts refuse theirs."""
    whole = "a whole number of at least 1"
    require(is_whole(max_epochs), "Trainer", "max_epochs", max_epochs, whole)
    for argument, count in {"max_steps": max_steps, "checkpoint_every": checkpoint_every}.items():
        require(count is None or is_whole(count), "Trainer", argument, count, f"{whole}, or None")
    listen = isinstance(callbacks, Sequence) and all(isinstance(one, Callback) for one in callbacks)
    require(listen, "Trainer", "callbacks", callbacks, "a list of Callback objects")


def _check_folder(
    folder: object, save_best_per_task: bool, save_last: bool, checkpoint_every: object, on_spike: object
) -> None:
    """Refuse to write without a place to write to."""
    path = folder is None or isinstance(folder, (str, Path))
    require(path, "Trainer", "folder", folder, "a path, or None")
    kept = folder is not None or not (save_best_per_task or checkpoint_every)
    require(kept, "Trainer", "folder", folder, "given for save_best_per_task or checkpoint_every to write to")
    goes_back = on_spike != "rollback" or (folder is not None and save_last)
    require(goes_back, "Trainer", "on_spike", on_spike, "'skip' or 'stop' without a folder and save_last")


def _check_sharded(optimizer: object, precision: str, average: str) -> None:
    """Refuse what parameters in shards do not have."""
    named = "a name: the parameters that an optimizer of your own holds are exchanged for shares"
    require(isinstance(optimizer, str), "Trainer", "optimizer", optimizer, f"{named}, with parallel='fsdp'")
    scaled = precision != "fp16-mixed"
    require(scaled, "Trainer", "precision", precision, "'32' or 'bf16-mixed' with parallel='fsdp', which has no scaler")
    require(average == "none", "Trainer", "average", average, "'none' with parallel='fsdp'")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"Trainer: the folder {folder} cannot be made: {error.strerror}.") from error
