from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lepton.balance.base import LossBalancer
from lepton.errors import require

__all__ = ["Uncertainty"]


@final
class Uncertainty(LossBalancer):
    """Uncertainty weighting: a learned noise variance for each task.

    With one learned number s_k = log sigma_k^2 for each task the loss over the present tasks is

        sum_k  exp(-s_k) L_k + s_k / 2                     (Kendall 2018)
        sum_k  exp(-s_k) L_k + log(1 + exp(s_k))           (Liebel 2018: the regulariser is never negative)

    The factor 1/2 that Kendall gives squared errors belongs into `loss_weight`. s starts at zero, as equal weights.

    - `loss_weight`: cancels at the optimum, which is exp(-s_k) = 1 / (2 L_k) for Kendall's form; linear until
      s has followed.
    - The weights are exp(-s) and sum to no fixed number. At the optimum of s the gradient does not change
      with the scale of any loss.
    - s is a parameter: the optimiser must be given it, without weight decay at best.

    Args:
        nonnegative: whether Liebel's regulariser takes the place of Kendall's.

    Example:
        >>> import torch
        >>> balancer = Uncertainty().bind(2)
        >>> balancer.combine(torch.tensor([1.0, 2.0]), balancer.task_weights(), torch.tensor([True, True])).item()
        3.0
    """

    aliases = ("uw", "uncertainty_weighting")
    log_variance: nn.Parameter

    def __init__(self, *, nonnegative: bool = False) -> None:
        super().__init__()
        require(isinstance(nonnegative, bool), "Uncertainty", "nonnegative", nonnegative, "True or False")
        self.nonnegative = nonnegative

    def _build(self, n_tasks: int) -> None:
        self.log_variance = nn.Parameter(torch.zeros(n_tasks))

    def task_weights(self) -> Tensor:
        """Return the precisions exp(-s) [T]; see `Balancer.task_weights`."""
        return torch.exp(-self.log_variance)

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss with the regulariser of the present tasks; see `Balancer.combine`."""
        s = self.log_variance
        penalty = nn.functional.softplus(s) if self.nonnegative else s / 2
        return (losses * weights).sum() + torch.where(present, penalty, 0.0).sum()

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"nonnegative={self.nonnegative}"
