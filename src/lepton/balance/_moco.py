from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._tracking import TrackingBalancer, scale_of_rows
from lepton.errors import is_number, require
from lepton.linalg import project_simplex

__all__ = ["MoCo"]


@final
class MoCo(TrackingBalancer):
    r"""Multi-objective gradient with correction: the min-norm weights of gradients that are averaged over time.

        y_k <- y_k - beta_m (y_k - g_k)
        lambda <- P(lambda - gamma_t (Y Y^T + rho I) lambda),    the trunk gets sum_k lambda_k y_k

    with g_k this batch's gradient of task k over the shared parameters, Y the rows y_k, which start at zero, P the
    projection onto the simplex, and step sizes beta_m = beta / m^beta_sigma for the m-th batch with task k and
    gamma_t = gamma / t^gamma_sigma for the t-th batch. The gradients of single batches would bias MGDA's weights;
    the averages take the bias out. Fernando 2023, Algorithm 1, where the trunk moves along the y_k and lambda of the
    step before; here, as in the authors' code, along the new ones.

    The defaults are those of LibMTL, whose MoCo was made from the authors' code. That code has beta = 0.1 for Office
    and doubles gamma; the paper chooses them for each problem, beta_m = 5 / m^0.5 in its toy problem. LibMTL also
    brings every g_k to the length of its loss and takes a softmax for P, which neither paper nor authors' code do.

    - Only in the view `parameters`, and the trunk's gradient is given by the method itself. It keeps T numbers for
      each shared parameter, and a copy while a step is under way.
    - `loss_weight`: not inverted at once as in MGDA, but lambda drifts that way.
    - The weights sum to 1 over the present tasks. They depend on the scale of the losses.
    - An absent task keeps its y_k and its share of lambda.

    Args:
        beta: step size of the average, in (0, 1].
        beta_sigma: power of its decay, not negative.
        gamma: step size of lambda, positive.
        gamma_sigma: power of its decay, not negative.
        rho: pull of lambda to equal weights, not negative.

    Raises:
        ConfigurationError: an option is out of range.

    Example:
        >>> import torch
        >>> balancer = MoCo(beta=1.0, gamma=0.5).bind(2)
        >>> balancer.bind_parameters(2, torch.device("cpu"))
        >>> weights, rows = balancer.track(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> weights, weights @ rows
        (tensor([0.8750, 0.1250]), tensor([0.8750, 0.2500]))
    """

    aliases = ("moco",)
    replaces_gradient = True
    _lambda: Tensor
    _steps: Tensor
    _step: Tensor

    def __init__(
        self,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
    ) -> None:
        super().__init__()
        require(is_number(beta) and 0 < beta <= 1, "MoCo", "beta", beta, "a number in (0, 1]")
        require(is_number(gamma) and gamma > 0, "MoCo", "gamma", gamma, "a positive number")
        for name, value in (("beta_sigma", beta_sigma), ("gamma_sigma", gamma_sigma), ("rho", rho)):
            require(is_number(value) and value >= 0, "MoCo", name, value, "a number, at least 0")
        self.beta, self.beta_sigma = beta, beta_sigma
        self.gamma, self.gamma_sigma = gamma, gamma_sigma
        self.rho = rho
        self.register_buffer("_step", torch.zeros(()))

    def _build(self, n_tasks: int) -> None:
        self.register_buffer("_lambda", torch.full((n_tasks,), 1 / n_tasks))
        self.register_buffer("_steps", torch.zeros(n_tasks))

    def track(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return lambda [T] and the averages [T, P]; see `Balancer.track`."""
        _, present = scale_of_rows(jacobian)
        self._steps += present
        self._step += present.any()
        rates = self.beta / self._steps.clamp_min(1) ** self.beta_sigma
        self.tracked.lerp_(jacobian.to(self.tracked.dtype), torch.where(present, rates, 0.0)[:, None])
        mass = torch.where(present, self._lambda, 0.0).sum().clamp_min(1e-30)
        mine = torch.where(present, self._lambda, 0.0) / mass
        slope = self.tracked @ (mine @ self.tracked) + self.rho * mine
        moved = project_simplex(mine - self.gamma / self._step.clamp_min(1) ** self.gamma_sigma * slope, present)
        self._lambda.copy_(torch.where(present, mass * moved, self._lambda))
        return moved, self.tracked

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        steps = f"beta={self.beta}, beta_sigma={self.beta_sigma}, gamma={self.gamma}, gamma_sigma={self.gamma_sigma}"
        return f"{steps}, rho={self.rho}"
