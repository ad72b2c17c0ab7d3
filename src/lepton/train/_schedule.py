"""Learning-rate schedules."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lepton.errors import is_whole, require

__all__ = ["warmup_cosine"]


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, max_steps: int, final: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly for `warmup_steps` and falls along a half cosine to `final`.

    At step s the learning rate is multiplied by (s + 1) / warmup_steps while s < warmup_steps, and afterwards by
    final + (1 - final) (1 + cos(pi p)) / 2, where p is the part of the remaining steps that is done.

    Args:
        optimizer: whose learning rates are multiplied.
        warmup_steps: steps of the rise.
        max_steps: step at which `final` is reached.
        final: last factor.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = warmup_cosine(optimizer, warmup_steps=2, max_steps=4)
        >>> schedule.get_last_lr()
        [0.5]
    """
    for argument, steps in (("warmup_steps", warmup_steps), ("max_steps", max_steps)):
        require(is_whole(steps, 0), "warmup_cosine", argument, steps, "a whole number, at least 0")
    return LambdaLR(optimizer, partial(_factor, warmup_steps=warmup_steps, max_steps=max_steps, final=final))


def _factor(step: int, warmup_steps: int, max_steps: int, final: float) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
