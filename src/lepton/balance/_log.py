from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._composition import Composition
from lepton.balance.base import Balancer
from lepton.errors import ConfigurationError

__all__ = ["SMALLEST_LOSS", "Log", "log_losses"]

SMALLEST_LOSS = 1e-12
"""Losses below it count as this and pass no gradient: nothing is left to learn, and 1 / L would overflow."""


def log_losses(losses: Tensor, present: Tensor) -> Tensor:
    """Return the logarithms of `losses` [T] where present, zero elsewhere."""
    return torch.where(present, losses, 1.0).clamp_min(SMALLEST_LOSS).log()


@final
class Log(Composition):
    """Balance the logarithms of the losses instead of the losses.

    The balancer that it takes receives log L_k for L_k, hence gradients g_k / L_k: tasks of different units become
    comparable. It helps nearly every method (Lin 2023, DB-MTL's ablation).

    - Losses must be positive (a cross-entropy or squared error is).
    - `loss_weight`: cancels, since log(a L) = log a + log L.
    - The weights are those of the balancer that it takes. They do not change with the scale of any loss.
    - Losses handed to `observe` and `weights` stay as they are.

    Args:
        balancer: any balancer that does not take logarithms itself.

    Raises:
        ConfigurationError: `balancer` takes logarithms already.

    Example:
        >>> import torch
        >>> from lepton.balance import Equal
        >>> balancer = Log(Equal()).bind(2)
        >>> balancer.combine(torch.tensor([1.0, 2.0]), balancer.task_weights(), torch.tensor([True, True]))
        tensor(0.6931)
    """

    def __init__(self, balancer: Balancer) -> None:
        super().__init__(balancer)
        if balancer.logarithmic:
            raise ConfigurationError(
                f"Log: {type(balancer).__name__} takes the logarithms of the losses itself: use it without Log."
            )
        self.logarithmic = True

    def takes_logarithms(self, present: Tensor) -> Tensor:
        """Return all that are present; see `Balancer.takes_logarithms`."""
        return present

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss of the logarithms; see `Balancer.combine`."""
        return super().combine(log_losses(losses, present), weights, present)
