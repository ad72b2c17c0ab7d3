"""What a step costs: time, measured in turns, and memory, counted."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lepton.evaluate import to_device
from lepton.insight._estimate import Estimate
from lepton.nn import LeptonModel, MultiTaskLoss

__all__ = ["MemoryCount", "count_memory", "time_in_turns"]


def time_in_turns(
    actions: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int = 2
) -> dict[str, Estimate]:
    """Return the seconds of each action, measured in turns so that a busy machine slows all of them alike.

    Args:
        actions: name -> what is to be timed.
        repeats: measurements of each.
        warm_up: runs of each that are not counted.

    Example:
        >>> found = time_in_turns({"nothing": lambda: None, "sum": lambda: sum(range(1000))}, repeats=5)
        >>> found["nothing"].mean < found["sum"].mean
        True
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm_up + repeats):
        for name, action in actions.items():
            _settle()
            start = time.perf_counter()
            action()
            _settle()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Estimate.of(_without_outliers(times)) for name, times in seconds.items()}


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _without_outliers(times: list[float]) -> list[float]:
    """Leave the slowest fifth out: something else ran then."""
    return sorted(times)[: max(1, round(0.8 * len(times)))]


@dataclass(frozen=True)
class MemoryCount:
    """Bytes that a training needs at the same time, counted tensor by tensor.

    Attributes:
        weights: parameters and buffers.
        gradients: of the parameters.
        optimizer: two moments of each parameter, as Adam keeps them.
        activations: what the graph of one batch keeps for the backward pass.
        view: what the view of the gradients adds, such as the T gradients of all parameters.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    view: int

    @property
    def total(self) -> int:
        """The sum; temporary results of single operations come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.view


def count_memory(model: LeptonModel, batch: tuple[Any, Mapping[str, Tensor]]) -> MemoryCount:
    """Count the bytes of a training step on one batch, on a copy of the model.

    Args:
        model: the model.
        batch: inputs and targets of one micro-batch.

    Example:
        >>> from lepton.tasks import Regression
        >>> model = LeptonModel(torch.nn.Linear(2, 4, bias=False), [Regression("a")])
        >>> count_memory(model, (torch.ones(8, 2), {"a": torch.ones(8)})).gradients
        52
    """
    measured = copy.deepcopy(model).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*measured.parameters(), *measured.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs, targets = to_device((batch[0], dict(batch[1])), measured.device)
    with torch.random.fork_rng(), saved_tensors_hooks(note, lambda tensor: tensor):
        outputs, task_weights = measured(inputs)
        loss = MultiTaskLoss(measured)(outputs, targets, task_weights)
    del loss
    parameters = _bytes(measured.parameters())
    trainable = _bytes(p for p in measured.parameters() if p.requires_grad)
    view = 0
    if measured.fork.active and measured.fork.gradients == "parameters":
        view = len(measured.task_names) * _bytes(p for p in measured.trunk.parameters() if p.requires_grad)
    buffers = _bytes(measured.buffers())
    return MemoryCount(parameters + buffers, trainable, 2 * trainable, sum(kept.values()), view)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
