"""Steps of one model in several views of the gradients, in turns on the same batches."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton.balance import Balancer
from lepton.errors import LeptonError
from lepton.evaluate import to_device
from lepton.insight.views._peak import PeakMemory
from lepton.nn import LeptonModel, MultiTaskLoss, Shared

__all__ = ["Lane", "Turn", "generators_kept", "run_lanes"]

Batch = tuple[Any, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Turn:
    """What one lane showed on one batch.

    Attributes:
        gramian: [T, T] float64, of the gradients before the balancer weighed anything.
        weights: [T] float64, of the balancer in the loss and at the fork together, before `priority`.
    """

    gramian: Tensor
    weights: Tensor


@dataclass
class Lane:
    """One way to take a step: a balancer with its own state, and the view that it is given.

    Attributes:
        balancer: serves this lane only.
        gradients: the view.
        shared: for the view `parameters`.
        bound: of each task's weighted gradient norm, or None.
        seconds: of forward and backward, for each batch so far.
        turns: one for each batch so far; none for a balancer that forms no Gramian.
        peak: bytes at the peak of the first step, beside weights and rows.
        refused: why it cannot be taken, in words; empty if it can.
    """

    balancer: Balancer
    gradients: str
    shared: Shared | None = None
    bound: float | None = None
    seconds: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    peak: int | None = None
    refused: str = ""


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the generators of torch, numpy and Python as they were."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def run_lanes(
    model: LeptonModel, lanes: Mapping[str, Lane], batches: Iterable[Batch], *, seed: int, max_seconds: float | None
) -> None:
    """Take a step in every lane on every batch, in turns, and note in the lanes what they show.

    Nothing is moved but the model's statistics and the lanes' balancers: no optimiser steps. Every lane sees the same
    dropout on a batch. A lane that raises a `LeptonError` is refused from there on, unless it balances nothing.

    Args:
        model: a copy that may be changed, in the mode in which it trains.
        lanes: name -> lane.
        batches: pairs (inputs, targets).
        seed: of the draws on the first batch.
        max_seconds: after which no further batch is begun, but for the second one.
    """
    criterion, start = MultiTaskLoss(model), time.perf_counter()
    for number, batch in enumerate(batches):
        moved = to_device((batch[0], dict(batch[1])), model.device)
        if number == 0:
            for lane in lanes.values():
                _count_memory(model, criterion, lane, moved, seed)
        for lane in lanes.values():
            _turn(model, criterion, lane, moved, seed + number)
        if max_seconds is not None and number > 0 and time.perf_counter() - start > max_seconds:
            break


def _count_memory(model: LeptonModel, criterion: MultiTaskLoss, lane: Lane, batch: Any, seed: int) -> None:
    """Note the peak of a step whose results are thrown away, which warms the lane up as well."""
    state = copy.deepcopy(lane.balancer)
    memory = PeakMemory()
    with memory:
        _turn(model, criterion, lane, batch, seed)
    lane.balancer, lane.seconds, lane.turns = state, [], []
    lane.peak = None if lane.refused else memory.peak


def _turn(model: LeptonModel, criterion: MultiTaskLoss, lane: Lane, batch: Any, seed: int) -> None:
    if lane.refused:
        return
    fork = model.fork
    fork.balancer = lane.balancer
    model.zero_grad()
    with generators_kept():  # the batches may be drawn from the same generators
        _seed(seed)
        try:
            fork.set_view(lane.gradients, shared=lane.shared)
            fork.max_task_grad_norm = lane.bound  # kept with the balancer, so it is told each one
            start = _clock(model.device)
            outputs, task_weights = model(batch[0])
            criterion(outputs, batch[1], task_weights).backward()
            seconds = _clock(model.device) - start
        except LeptonError as error:
            if not lane.balancer.acts_at_fork:
                raise  # no view is to blame
            lane.refused = str(error)
            return
    lane.seconds.append(seconds)
    if fork.gramian is not None and fork.weights is not None:
        lane.turns.append(_turn_of(fork.gramian, fork.weights, task_weights / model.loss_weight))
    elif lane.balancer.acts_at_fork:
        lane.refused = "nothing was balanced: no parameter of the trunk can be trained."


def _turn_of(gramian: Tensor, weights: Tensor, in_loss: Tensor) -> Turn:
    """Return what was seen at the fork, with what some methods weigh in the loss brought to the weights' side."""
    gramian, weights, in_loss = (found.detach().double().cpu() for found in (gramian, weights, in_loss))
    safe = torch.where(in_loss != 0, in_loss, 1.0)
    return Turn(gramian / (safe[:, None] * safe), weights * in_loss)


def _clock(device: torch.device) -> float:
    """Return seconds of this process, which other processes do not lengthen; of the wall where a device computes."""
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
