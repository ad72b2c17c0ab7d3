"""Learning-rate range test: how the loss answers to a learning rate that rises from step to step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lepton.train import TrainStep

__all__ = ["RangeTest", "learning_rate_range", "read_range"]

SMOOTHING = 0.85
DIVERGED = 4.0
LEAST_FALL = 0.05
BELOW_MINIMUM = 4.0
"""The rate at which the loss stops falling is too high to train with: the range ends so far below it."""


@dataclass(frozen=True)
class RangeTest:
    """A sweep of learning rates.

    Attributes:
        rates: learning rate of each step.
        losses: mean over the tasks of the loss divided by its value at the start, smoothed over the steps.
        low: lower end of the range that the sweep speaks for; None if the loss never fell.
        high: upper end.
        diverged: the rate at which the loss had grown beyond control; None if it had not.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    low: float | None
    high: float | None
    diverged: float | None


def learning_rate_range(
    step: TrainStep, windows: Iterable[Sequence[Any]], *, low: float = 1e-6, high: float = 1.0, steps: int = 80
) -> RangeTest:
    """Train with a learning rate that rises exponentially from step to step, and read off where the loss falls.

    The step's model and optimiser **are trained and end in a bad state**: give it a copy. From Smith, "Cyclical
    learning rates for training neural networks" (2017). Of each window's losses those of the same window
    before the sweep are taken away, and their mean over all windows is added: small batches differ by more than a few
    steps change, and the smallest loss would be that of the easiest batch.

    Args:
        step: a step on a copy of the model.
        windows: accumulation windows of batches; they are gone through again and again, and once beforehand.
        low: first learning rate.
        high: last one.
        steps: number of steps.
    """
    every = list(itertools.islice(windows, steps))
    before = torch.stack([_losses(step, window, 0.0) for window in every])
    usual = before.nanmean(0)
    rates, found = [], []
    for number, (window, first) in enumerate(itertools.islice(itertools.cycle(zip(every, before, strict=True)), steps)):
        rate = low * (high / low) ** (number / max(1, steps - 1))
        losses = _losses(step, window, rate) - first + usual
        if number > steps // 4 and not bool(torch.isfinite(losses).any()):
            break
        rates.append(rate)
        found.append(losses)
    return read_range(rates, torch.stack(found))


def _losses(step: TrainStep, window: Sequence[Any], rate: float) -> Tensor:
    """Take a step and return the tasks' losses before it [T], NaN where a task had no label."""
    for group in step.optimizer.param_groups:
        group["lr"] = rate
    result = step(window)
    return torch.where(result.present, result.losses, torch.nan).cpu()


def read_range(rates: Sequence[float], losses: Tensor) -> RangeTest:
    """Return what a sweep says.

    The range ends a quarter of the rate of the smallest smoothed loss and begins a tenth of that. A sweep in which
    the loss falls by less than a twentieth speaks for nothing.

    Args:
        rates: the S learning rates, rising.
        losses: [S, T] each task's loss before each step, in any unit, NaN where it had no label.

    Example:
        >>> rates = [10.0 ** (place / 10 - 6) for place in range(61)]
        >>> fall = torch.tensor([[1.0 if rate < 1e-4 else 0.5 if rate < 1e-2 else 50.0] for rate in rates])
        >>> test = read_range(rates, fall)
        >>> test.low < 1e-3 < test.high < 1e-2 <= test.diverged
        True
    """
    first = losses[: max(1, len(losses) // 8)].nanmean(0)
    relative = (losses / first).nanmean(1).tolist()
    smooth, average, weight = [], 0.0, 0.0
    for value in relative:
        value = value if math.isfinite(value) else DIVERGED * 10
        average, weight = SMOOTHING * average + (1 - SMOOTHING) * value, SMOOTHING * weight + 1 - SMOOTHING
        smooth.append(average / weight)
    best = min(range(len(smooth)), key=smooth.__getitem__)
    beyond = [rate for rate, value in zip(rates, smooth, strict=True) if rate > rates[best] and value > DIVERGED]
    diverged = beyond[0] if beyond else None
    if smooth[best] > 1 - LEAST_FALL:
        return RangeTest(tuple(rates), tuple(smooth), None, None, diverged)
    high = rates[best] / BELOW_MINIMUM
    return RangeTest(tuple(rates), tuple(smooth), high / 10, high, diverged)
