from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._log import log_losses
from lepton.balance.base import LossBalancer

__all__ = ["GeometricMean"]


@final
class GeometricMean(LossBalancer):
    """The geometric mean of the losses: the geometric loss strategy (GLS).

    Over the n present tasks the loss is

        (prod_k L_k)^(1/n) = exp(1/n sum_k log L_k),    with gradient  M / n  sum_k g_k / L_k,  M the mean

    the direction of `LogSum`, with a step that follows the losses. Chennupati 2019; no hyperparameters.

    - Losses must be positive.
    - `loss_weight`: cancels, but for a factor that all tasks share.
    - `task_weights` are ones and sum to T; they stand before the logarithms. The weights of the gradients sum to at
      least one, and to one where all losses are equal. The gradient scales with the losses.

    Example:
        >>> import torch
        >>> balancer = GeometricMean().bind(2)
        >>> balancer.combine(torch.tensor([2.0, 8.0]), balancer.task_weights(), torch.tensor([True, True]))
        tensor(4.)
    """

    aliases = ("gls",)
    logarithmic = True

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the mean over the present tasks, zero where none is; see `Balancer.combine`."""
        logs = (log_losses(losses, present) * weights).sum() / present.sum().clamp_min(1)
        return torch.where(present.any(), logs.exp(), 0.0)
