from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lepton.balance.base import LossBalancer

__all__ = ["IMTLL"]


@final
class IMTLL(LossBalancer):
    """Impartial losses: a learned scale for each task, which brings all losses to the same size.

    With one learned number s_k for each task the loss over the present tasks is

        sum_k  exp(s_k) L_k - s_k

    whose optimum in s_k is exp(s_k) = 1 / L_k: every scaled loss is then one. IMTL-L, Liu 2021; no hyperparameters.
    s starts at zero, as equal weights.

    - `loss_weight`: cancels at the optimum; linear until s has followed.
    - The weights are exp(s) and sum to no fixed number. At the optimum of s the gradient does not change with the
      scale of any loss.
    - s is a parameter: the optimiser must be given it, without weight decay at best.

    Example:
        >>> import torch
        >>> balancer = IMTLL().bind(2)
        >>> balancer.combine(torch.tensor([1.0, 2.0]), balancer.task_weights(), torch.tensor([True, True])).item()
        3.0
    """

    aliases = ("imtl_l",)

    log_scale: nn.Parameter

    def _build(self, n_tasks: int) -> None:
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))

    def task_weights(self) -> Tensor:
        """Return the scales exp(s) [T]; see `Balancer.task_weights`."""
        return torch.exp(self.log_scale)

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss with the regulariser of the present tasks; see `Balancer.combine`."""
        return (losses * weights).sum() - torch.where(present, self.log_scale, 0.0).sum()
