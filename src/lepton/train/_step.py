"""One optimiser step: forward, loss, backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lepton.errors import DataError, TrainingError, is_number, require
from lepton.evaluate import to_device
from lepton.nn import LeptonModel, MultiTaskLoss
from lepton.train._clip import clip_adaptively, clip_rows
from lepton.train._layers import LayerNorms
from lepton.train._memory import (
    Buffers,
    MemoryPolicy,
    MicroBatches,
    Sparing,
    is_out_of_memory,
    is_process_lost,
    without_rows,
)
from lepton.train._processes import Processes, local, local_rows, whole
from lepton.train._spikes import SpikeGuard

__all__ = ["Batch", "PrecisionName", "StepResult", "TrainStep"]

PrecisionName = Literal["32", "bf16-mixed", "fp16-mixed"]
"""Number formats of a step."""

_HALF = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}

_IN_BACKWARD = (
    "memory ran out in the backward pass of one of several processes, while the others waited for its gradients: they "
    "cannot begin the step again. The weights are those from before the step. Lower batch_size, or raise "
    "gradient_accumulation_steps, and go on from the last checkpoint."
)
_OTHER_ENDED = (
    "another process ended in the midst of a step, as its own message says. The weights are those from before the step."
)

Batch = tuple[Any, Mapping[str, Tensor]]
"""Inputs, and targets by task."""


@dataclass(frozen=True)
class StepResult:
    """What a step leaves for the record; tensors on the device, not read.

    Attributes:
        losses: [T] mean losses before any weight, zero where absent.
        present: [T] tasks that had labels.
        factors: [T] what each task's loss was multiplied by in the sum that was differentiated.
        grad_norm: norm of all gradients before clipping.
        taken: whether the optimiser moved; None where only the device knows.
        left_out: [T] tasks that the step left out because their loss or gradient is not finite.
        spikes: [T] tasks whose loss is a spike; None without a guard.
    """

    losses: Tensor
    present: Tensor
    factors: Tensor
    grad_norm: Tensor
    taken: bool | None
    left_out: Tensor
    spikes: Tensor | None = None

    @property
    def skipped(self) -> Tensor:
        """Whether the optimiser did not move, on the device."""
        if self.taken is not None:
            return torch.tensor(not self.taken, device=self.losses.device)
        return _unusable(self)


class TrainStep:
    """One step on one accumulation window of batches.

    Args:
        model: the model.
        optimizer: any torch optimiser over its parameters.
        max_grad_norm: bound on the norm of all gradients; None for no bound.
        max_task_grad_norm: bound on the norm of each task's own gradient: of its head, and at the fork.
        adaptive_clip: bound on each unit's gradient relative to its weights, in the trunk; None for no bound.
        precision: `"32"`, `"bf16-mixed"`, or `"fp16-mixed"`, where a `GradScaler` keeps small gradients from vanishing.
        compile: run the model through `torch.compile`. The criterion and what surrounds it stay eager.
        layers: samples the gradients of the layers before they are clipped.
        guard: tells loss spikes, whose steps are left out; None to take every step.
        on_out_of_memory: `"halve"` the micro-batches and begin the step again, or `"stop"`.
        processes: those that train together; None for this one alone.
    """

    def __init__(
        self,
        model: LeptonModel,
        optimizer: Optimizer,
        *,
        max_grad_norm: float | None = 1.0,
        max_task_grad_norm: float | None = None,
        adaptive_clip: float | None = None,
        precision: PrecisionName = "32",
        compile: bool = False,
        layers: LayerNorms | None = None,
        guard: SpikeGuard | None = None,
        on_out_of_memory: MemoryPolicy = "halve",
        processes: Processes | None = None,
    ) -> None:
        bounded = max_grad_norm is None or (is_number(max_grad_norm) and 0 < max_grad_norm < math.inf)
        require(bounded, "TrainStep", "max_grad_norm", max_grad_norm, "a number, positive and finite, or None")
        names = get_args(PrecisionName)
        require(precision in names, "TrainStep", "precision", precision, f"one of {names}")
        bounded = adaptive_clip is None or (is_number(adaptive_clip) and 0 < adaptive_clip < math.inf)
        require(bounded, "TrainStep", "adaptive_clip", adaptive_clip, "a number, positive and finite, or None")
        self.model = model
        # Beside the model, not around it: the names in its state_dict stay as they are.
        self.processes = Processes() if processes is None else processes
        forward: Any = torch.compile(model) if compile else model
        self._sparing = Sparing(forward) if self.processes.together else None
        self.forward: Any = self.processes.wrap(self._sparing or forward, model.device)
        self.layers = layers
        self.adaptive_clip = adaptive_clip
        self.criterion = MultiTaskLoss(model)
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.max_task_grad_norm = model.fork.max_task_grad_norm = max_task_grad_norm
        self.precision = precision
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = model.device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16-mixed")
        self.guard = guard
        self.micro = MicroBatches(on_out_of_memory, self.processes)
        self._buffers = Buffers(model.trunk, model.heads)
        self._has_old_gradients = False

    def __call__(self, window: Sequence[Batch]) -> StepResult:
        """Take one optimiser step on the micro-batches of a window."""
        if not window:
            raise DataError("a step needs at least one batch (inputs, targets).")
        batches = [to_device((inputs, dict(targets)), self.device) for inputs, targets in window]
        generator_state = self._generators() if self.model.balancer.reevaluates else None
        self._buffers.keep()
        before = self.model.fork.left_out_counts.to(self.device)
        batches, counts, results = self._accumulate(batches)
        self.scaler.unscale_(self.optimizer)
        losses = torch.stack([losses for losses, _, _, _ in results]).sum(0)
        present = torch.stack([present for _, present, _, _ in results]).any(0)
        left_out = torch.stack([bad for _, _, _, bad in results]).any(0) | (self.model.fork.left_out_counts > before)
        idle = self._release_idle_heads(self._idle(window, present, left_out))
        grad_norm = self._grad_norm()
        if self.device.type == "cpu" and not bool(torch.isfinite(grad_norm)):
            # A head may be broken inside, behind the guard on its output: then it alone is left out.
            broken = {name for name in self.model.task_names if not self._has_finite_gradient(name)}
            broken = set().union(*self.processes.gather(broken))
            idle += self._release_idle_heads(broken)
            left_out = left_out | torch.tensor([name in broken for name in self.model.task_names])
            grad_norm = self._grad_norm()
        if self.layers is not None:
            self.layers.sample()
        self._clip(grad_norm)
        spikes = None if self.guard is None else self.guard.judge(losses, present)
        with _rows_kept(idle, self.optimizer):
            result = StepResult(losses, present, results[-1][2], grad_norm, None, left_out, spikes)
            taken = self._move(result)
        result = replace(result, taken=taken)
        self._after(result)
        if generator_state is not None and taken is not False:
            self._reevaluate(batches, counts, generator_state)
        return result

    # -- parts of a step --------------------------------------------------------------------------------------
    def _generators(self) -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    def _autocast(self) -> Any:
        if self.precision == "32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_HALF[self.precision])

    def _accumulate(
        self, batches: list[Batch]
    ) -> tuple[list[Batch], Tensor | None, list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """Add up the gradients of all batches; return the micro-batches, their label counts, and what each gave.

        Raises:
            TrainingError: memory ran out, and smaller micro-batches are no way out.
        """
        while True:
            pieces = self.micro.cut(batches)
            if self.micro.pieces > 1:
                self.model.fork.gradient_accumulation_steps = len(pieces)
            self._forget_gradients(now=self.device.type != "cpu")
            counts = self._counts(pieces)
            found, error = self._attempt(pieces, counts)
            if not self.processes.any(error is not None):
                return pieces, counts, found
            self._undo()
            self.micro.halve(error, batches)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(
        self, pieces: list[Batch], counts: Tensor | None
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor, Tensor]], BaseException | None]:
        """Return what all micro-batches gave, or the error that memory ran out.

        Raises:
            TrainingError: it did in the midst of a sum over several processes, or one of the others has ended.
        """
        if self._sparing is None:
            try:
                return self._micro_batches(pieces, counts), None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return [], error.with_traceback(None)  # which holds on to the tensors of the attempt
        self._sparing.error = None
        try:
            return self._micro_batches(pieces, counts), self._sparing.error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) and not is_process_lost(error):
                raise
            self._undo()
            raise TrainingError(_IN_BACKWARD if is_out_of_memory(error) else _OTHER_ENDED) from error

    def _forget_gradients(self, *, now: bool) -> None:
        """Free the gradients of the last step, or leave that to the first backward pass.

        On the CPU the new gradients then lie where the old ones lay. Freed before the forward pass, its activations
        took that place, and fresh pages of the operating system cost 4 % of a small convolutional network's step.
        """
        self._has_old_gradients = not now
        if now:
            self.optimizer.zero_grad(set_to_none=True)

    def _undo(self) -> None:
        """Leave nothing of a step that was begun."""
        self.optimizer.zero_grad(set_to_none=True)
        self._buffers.restore()
        self.model.fork.take_back()

    def _counts(self, batches: Sequence[Batch]) -> Tensor | None:
        """Return the window's label counts [T]; None where one batch is the whole window."""
        if len(batches) == 1:
            return None
        return torch.stack([self.criterion.count(targets) for _, targets in batches]).sum(0)

    def _micro_batches(
        self, batches: list[Batch], counts: Tensor | None
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Take all micro-batches of a window; the processes add their gradients up with the last one."""
        quiet = self.forward.no_sync if isinstance(self.forward, DistributedDataParallel) else nullcontext
        found = []
        for batch in batches[:-1]:
            with quiet():
                found.append(self._micro_batch(batch, counts))
        return [*found, self._micro_batch(batches[-1], counts)]

    def _micro_batch(self, batch: Batch, counts: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs, targets = batch
        self.model.fork.rewind()
        with self._autocast():
            outputs, task_weights = self.forward(inputs)
            if self._sparing is not None and self._sparing.error is not None:
                targets = without_rows(targets)
            loss = self.criterion(outputs, targets, task_weights, label_counts=counts)
        if self._has_old_gradients:
            self._forget_gradients(now=True)
        self.scaler.scale(loss).backward()
        losses, present, factors = self.criterion.last_losses, self.criterion.last_present, self.criterion.last_factors
        bad = self.criterion.last_not_finite
        assert losses is not None and present is not None and factors is not None and bad is not None
        if self.scaler.is_enabled():
            factors = factors / self.scaler.scale(torch.ones_like(factors))
        return losses, present, factors, bad

    def _idle(self, window: Sequence[Batch], present: Tensor, left_out: Tensor) -> set[str]:
        """Return the tasks that take no part in this step; on one accelerator, those without a target at all."""
        names, penalised = self.model.task_names, self.criterion.penalised
        if present.device.type != "cpu" and not self.processes.together:
            return set(names) - penalised - {name for _, targets in window for name in targets}
        idle = {name for name, there in zip(names, present.tolist(), strict=True) if not there} - penalised
        return idle | {name for name, left in zip(names, left_out.tolist(), strict=True) if left}

    def _has_finite_gradient(self, name: str) -> bool:
        state = self.model.head_state(name)
        there = [local(p.grad)[local_rows(p, rows)] for p, rows in state if p.grad is not None]
        return all(bool(torch.isfinite(gradient).all()) for gradient in there)

    def _release_idle_heads(self, idle: set[str]) -> list[tuple[nn.Parameter, slice]]:
        """Take the gradients of idle heads away; return rows of shared parameters, which cannot be without one."""
        # With zero gradients an optimiser with momentum or weight decay would still move an idle head.
        rows = []
        for name in self.model.task_names:
            if name in idle:
                for parameter, own in self.model.head_state(name):
                    if own == slice(None):
                        parameter.grad = None
                    else:
                        if parameter.grad is not None:
                            local(parameter.grad)[local_rows(parameter, own)] = 0
                        rows.append((parameter, own))
        return rows

    def _grad_norm(self) -> Tensor:
        """Clip each task's head if that is wanted; return the norm of all gradients."""
        if self.max_task_grad_norm is not None:
            for name in self.model.task_names:
                clip_rows(self.model.head_state(name), self.max_task_grad_norm)
        return self._norm()

    def _norm(self) -> Tensor:
        return whole(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))

    def _clip(self, grad_norm: Tensor) -> None:
        """Bound each unit's gradient, then all gradients together."""
        if self.adaptive_clip is not None:
            # The trunk only: the paper leaves the last layer alone, and a head is usually that.
            clip_adaptively(self.model.trunk.parameters(), self.adaptive_clip)
            if self.max_grad_norm is not None:
                grad_norm = self._norm()
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, grad_norm)

    def _move(self, result: StepResult) -> bool | None:
        """Let the optimiser move, if it may; return whether it did.

        Raises:
            TrainingError: memory ran out in the middle.
        """
        try:
            if self.scaler.is_enabled():
                return self._scaled_update(result.spikes)
            return self._update(result.skipped)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                "memory ran out in the optimiser's update, which may be half done: the weights are not to be used. "
                "Lower batch_size or take an optimiser with less state, and go on from the last checkpoint."
            ) from error

    def _scaled_update(self, spikes: Tensor | None) -> bool | None:
        """Take the optimiser's step unless the scaler found an overflow; the fork notices a skipped one by itself."""
        before = self.scaler.get_scale() if self.device.type == "cpu" else 0.0
        spike = spikes is not None and bool(spikes.any())  # waits for the device: the scaler has its own flag there
        if spike:
            self.model.fork.take_back()
        else:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if spike:
            return False
        return self.scaler.get_scale() >= before if self.device.type == "cpu" else None

    def _update(self, unusable: Tensor) -> bool | None:
        """Take the optimiser's step unless the gradient is not finite or the loss a spike."""
        if unusable.device.type == "cpu" or not self.optimizer.defaults.get("fused"):
            good = not bool(unusable)  # waits for the device: only a fused optimiser can be told there
            if good:
                self.optimizer.step()
            else:
                self.model.fork.take_back()
            return good
        # What GradScaler tells a fused optimiser: the kernel skips the update without asking the host.
        self.optimizer.found_inf = unusable.float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.found_inf, self.optimizer.grad_scale  # type: ignore[attr-defined]
        return None

    def _after(self, result: StepResult) -> None:
        """Leave nothing of a step that was left out in the buffers, and let the guard see one that was not."""
        if result.taken is False:
            self._buffers.restore()
        if self.guard is not None:
            skipped = result.skipped
            if result.taken is None:
                self._buffers.restore(skipped)
            self.guard.keep(result.losses, result.present & ~result.left_out & ~skipped)

    def _reevaluate(self, batches: Sequence[Batch], counts: Tensor | None, generators: list[Tensor]) -> None:
        """Show the balancer the losses of the same batches after the step, and leave no other trace."""
        found = []
        with torch.no_grad(), torch.random.fork_rng(), _buffers_kept(self.model.trunk, self.model.heads):
            torch.set_rng_state(generators[0])  # the same dropout masks as before the step
            if len(generators) > 1:
                torch.cuda.set_rng_state(generators[1], self.device)
            for inputs, targets in batches:
                with self._autocast():
                    outputs, _ = self.model(inputs)
                    found.append(self.criterion.task_losses(outputs, targets, label_counts=counts))
        losses = torch.stack([losses for losses, _ in found]).sum(0) * self.model.loss_weight
        self.model.balancer.reobserve(losses, torch.stack([present for _, present in found]).any(0))


def _unusable(step: StepResult) -> Tensor:
    """Return whether the optimiser must not move, on the device."""
    unusable = ~torch.isfinite(step.grad_norm)
    some = step.left_out.any()
    if some.device.type != "cpu" or bool(some):
        # Without any task left, momentum would still move the trunk.
        unusable = unusable | (some & ~(step.present & ~step.left_out).any())
    return unusable if step.spikes is None else unusable | step.spikes.any()


@contextmanager
def _rows_kept(idle: list[tuple[nn.Parameter, slice]], optimizer: Optimizer) -> Iterator[None]:
    """Restore rows of parameters, and what the optimiser remembers of them, after its step."""
    kept: list[tuple[Tensor, slice, Tensor]] = []
    for parameter, rows in idle:
        remembered = optimizer.state.get(parameter, {}).values()
        alike = [value for value in remembered if isinstance(value, Tensor) and value.shape == parameter.shape]
        own = local_rows(parameter, rows)
        kept += [(part, own, part[own].clone()) for part in (local(tensor.detach()) for tensor in (parameter, *alike))]
    yield
    with torch.no_grad():
        for tensor, rows, value in kept:
            tensor[rows] = value


@contextmanager
def _buffers_kept(*modules: nn.Module) -> Iterator[None]:
    """Restore all buffers, such as BatchNorm's statistics, at the end."""
    kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
