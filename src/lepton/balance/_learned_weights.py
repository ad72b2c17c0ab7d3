from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lepton.balance.base import LossBalancer
from lepton.errors import is_number, require

__all__ = ["LearnedWeights"]


@final
class LearnedWeights(LossBalancer):
    """Adaptive weights: a parameter for each task, trained with the network.

    With learned numbers a_k, zero at first, and T tasks the loss is sum_k w_k L_k over the present tasks,

        w = T ((1 - f) softmax(a) + f / T)

    f, the floor, bounds the entropy of w / T from below: minimised together with the training loss the softmax
    alone gives nearly all weight to the easiest task (measured: .96, .03, .01), so f may not be zero.

    - Own method of this library; default f = 0.1.
    - `loss_weight`: linear at first; then inverted, as the weights move to the smallest loss.
    - The weights sum to T and none is below f. The gradient scales with the losses.
    - a is a parameter: the optimiser must be given it.

    Args:
        floor: f, the least weight of a task, in (0, 1].

    Example:
        >>> LearnedWeights().bind(3).task_weights().tolist()
        [1.0, 1.0, 1.0]
    """

    aliases = ("adaptive_weights",)
    logits: nn.Parameter

    def __init__(self, *, floor: float = 0.1) -> None:
        super().__init__()
        require(is_number(floor) and 0 < floor <= 1, "LearnedWeights", "floor", floor, "a number in (0, 1]")
        self.floor = floor

    def _build(self, n_tasks: int) -> None:
        self.logits = nn.Parameter(torch.zeros(n_tasks))

    def task_weights(self) -> Tensor:
        """Return w [T]; see `Balancer.task_weights`."""
        return len(self.logits) * (1 - self.floor) * torch.softmax(self.logits, 0) + self.floor

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"floor={self.floor}"
