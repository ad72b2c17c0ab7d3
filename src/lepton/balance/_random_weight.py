from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lepton.balance.base import LossBalancer
from lepton.errors import is_whole, require
from lepton.linalg import counter_uniform

__all__ = ["RandomWeight", "counter_normal"]


def counter_normal(seed: int, step: Tensor, size: int) -> Tensor:
    """Return `size` draws of a standard normal, float64, fixed by the seed and the step (Box and Muller 1958)."""
    place = torch.arange(size, device=step.device)
    radius = (-2 * (1 - counter_uniform(seed, step, 2 * place)).log()).sqrt()
    return radius * (2 * math.pi * counter_uniform(seed, step, 2 * place + 1)).cos()


@final
class RandomWeight(LossBalancer):
    """Random loss weighting (RLW): new weights for every batch, the litmus test of the other methods.

        w = softmax(x),    x_k ~ N(0, 1) anew in every step

    and the loss is sum_k w_k L_k. Lin 2022; no hyperparameters. What does not beat it has not balanced anything.

    - `loss_weight`: linear.
    - The weights sum to one, and are 1/T on average. The gradient scales with the losses.
    - The draws come from `seed` and a counter in the state, equal on all devices and processes.

    Args:
        seed: of the draws.

    Example:
        >>> round(RandomWeight().bind(3).task_weights().sum().item(), 6)
        1.0
    """

    aliases = ("rlw", "random")
    _step: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        require(is_whole(seed, 1 - 2**63) and seed < 2**63, "RandomWeight", "seed", seed, "an integer of 64 bits")
        self.seed = seed
        self.register_buffer("_step", torch.zeros((), dtype=torch.int64))

    def task_weights(self) -> Tensor:
        """Return w [T], the same until a step was taken; see `Balancer.task_weights`."""
        assert self.n_tasks is not None, "bind() comes first"
        return torch.softmax(counter_normal(self.seed, self._step, self.n_tasks), 0).float()

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Count the step; see `Balancer.observe`."""
        del losses, present
        self._step += 1

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"seed={self.seed}"
