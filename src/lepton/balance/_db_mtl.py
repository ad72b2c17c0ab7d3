from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._log import log_losses
from lepton.balance._tracking import TrackingBalancer, scale_of_rows
from lepton.errors import is_number, require

__all__ = ["DBMTL"]


@final
class DBMTL(TrackingBalancer):
    r"""Dual balancing (DB-MTL): logarithms of the losses, and averaged gradients of equal norm.

        a_k <- beta_m a_k + (1 - beta_m) g_k,    the trunk gets  max_j ||a_j||  sum_k a_k / ||a_k||

    with g_k this batch's gradient of log L_k over the shared parameters, a_k its average, which starts at zero, and
    beta_m = beta / m^beta_sigma in the m-th batch with task k. Lin 2023, Algorithm 1; its authors choose beta and the
    power for each data set, and 0.9 and 0 are the defaults of their code, LibMTL.

    - Only in the view `parameters`, and the trunk's gradient is given by the method itself. It keeps T numbers for
      each shared parameter, and a copy while a step is under way.
    - Losses must be positive; `Log` would take the logarithms twice and refuses.
    - `loss_weight`: cancels, since log(a L) = log a + log L.
    - The weight of the task of the largest norm is 1 and no weight is smaller, so they sum to T at least. They do not
      change with the scale of any loss.
    - An absent task keeps its average and gives nothing.

    Args:
        beta: of the average, in [0, 1).
        beta_sigma: power of its decay, not negative.

    Raises:
        ConfigurationError: an option is out of range.

    Example:
        >>> import torch
        >>> balancer = DBMTL(beta=0.0).bind(2)
        >>> balancer.bind_parameters(2, torch.device("cpu"))
        >>> weights, rows = balancer.track(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> weights @ rows
        tensor([2., 2.])
    """

    aliases = ("db_mtl",)
    logarithmic = True
    replaces_gradient = True
    _steps: Tensor

    def __init__(self, beta: float = 0.9, beta_sigma: float = 0.0) -> None:
        super().__init__()
        require(is_number(beta) and 0 <= beta < 1, "DBMTL", "beta", beta, "a number in [0, 1)")
        require(is_number(beta_sigma) and beta_sigma >= 0, "DBMTL", "beta_sigma", beta_sigma, "a number, at least 0")
        self.beta = beta
        self.beta_sigma = beta_sigma

    def _build(self, n_tasks: int) -> None:
        self.register_buffer("_steps", torch.zeros(n_tasks))

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the sum of the logarithms; see `Balancer.combine`."""
        return (log_losses(losses, present) * weights).sum()

    def track(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights [T] and the averages [T, P]; see `Balancer.track`."""
        _, present = scale_of_rows(jacobian)
        self._steps += present
        kept = self.beta / self._steps.clamp_min(1) ** self.beta_sigma
        self.tracked.lerp_(jacobian.to(self.tracked.dtype), torch.where(present, 1 - kept, 0.0)[:, None])
        norms, moved = scale_of_rows(self.tracked)
        present = present & moved
        largest = torch.where(present, norms, 0.0).max()
        return torch.where(present, largest / torch.where(present, norms, 1.0), 0.0), self.tracked

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"beta={self.beta}, beta_sigma={self.beta_sigma}"
