from __future__ import annotations

from typing import final

from torch import Tensor

from lepton.balance._log import log_losses
from lepton.balance.base import LossBalancer

__all__ = ["LogSum"]


@final
class LogSum(LossBalancer):
    """The sum of the logarithms of the losses: the scale-invariant baseline.

    The loss is sum_k log L_k over the present tasks, with gradient sum_k g_k / L_k: the same as `Log(Equal())`.
    Named scale-invariant (SI) among the baselines of Navon 2022 (Nash-MTL).

    - Losses must be positive.
    - `loss_weight`: cancels, since log(a L) = log a + log L.
    - The weights on the logarithms are ones and sum to the number of tasks. The gradient does not change with
      the scale of any loss.

    Example:
        >>> import torch
        >>> balancer = LogSum().bind(2)
        >>> balancer.combine(torch.tensor([1.0, 2.0]), balancer.task_weights(), torch.tensor([True, True]))
        tensor(0.6931)
    """

    aliases = ("si", "scale_invariant")
    logarithmic = True

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss; see `Balancer.combine`."""
        return (log_losses(losses, present) * weights).sum()
