from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lepton.balance.base import LossBalancer
from lepton.errors import is_number, require

__all__ = ["SmoothTchebycheff"]


@final
class SmoothTchebycheff(LossBalancer):
    """Smooth Tchebycheff scalarisation (STCH): the largest loss, made smooth.

    Over the n present tasks the loss is

        mu log sum_k exp(v_k L_k / mu),    v_k = 1 / n

    which nears max_k v_k L_k as mu falls, and whose gradient is sum_k v_k p_k g_k with p = softmax(v L / mu): the task
    that is worst counts most. Lin 2024, with the ideal point at zero, the infimum of the usual losses.

    - Default: mu = 1, the largest of the values that the paper tries (0.01, 0.1, 0.5, 1).
    - The losses should be of one kind: put `Log` around it where they are not, as the paper does for networks.
    - `loss_weight`: more than linear, as it also makes the task the worst one.
    - `task_weights` are ones and sum to T. The weights of the gradients sum to 1 / n. The gradient follows no power
      of the losses' scale: s times the losses is mu / s.

    Args:
        mu: the smaller, the nearer to the maximum.

    Example:
        >>> import torch
        >>> balancer = SmoothTchebycheff(mu=0.01).bind(2)
        >>> balancer.combine(torch.tensor([1.0, 3.0]), balancer.task_weights(), torch.tensor([True, True]))
        tensor(1.5000)
    """

    aliases = ("stch",)

    def __init__(self, mu: float = 1.0) -> None:
        super().__init__()
        require(
            is_number(mu) and 0 < mu < math.inf, "SmoothTchebycheff", "mu", mu, "a number greater than 0 and finite"
        )
        self.mu = mu

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss, zero where no task is present; see `Balancer.combine`."""
        scaled = losses * weights / present.sum().clamp_min(1)
        exponents = torch.where(present | ~present.any(), scaled, -torch.inf)
        worst = exponents.max().detach()  # taken out before dividing, so that a small mu overflows nowhere
        value = worst + self.mu * torch.logsumexp((exponents - worst) / self.mu, 0)
        return torch.where(present.any(), value, 0.0)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"mu={self.mu}"
