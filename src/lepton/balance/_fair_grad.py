from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import is_number, require
from lepton.linalg import present_tasks, ridge, rounded_trace, solve_power

__all__ = ["FairGrad", "fair_grad_weights"]


def fair_grad_weights(gramian: Tensor, alpha: float) -> Tensor:
    """Return the weights [T] with G w = w^(-1 / alpha).

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        alpha: kind of fairness, > 0.
    """
    power = 1 / alpha
    size = rounded_trace(gramian)
    unit = solve_power(ridge(gramian.double() / size, gramian.dtype), power, present_tasks(gramian))
    # (G / s) u = u^-p  gives  w = s^(-1 / (1 + p)) u;  the limits are those of the result's type.
    found = unit * size ** (-1 / (1 + power))
    return found.clamp_max(torch.finfo(gramian.dtype).max).to(gramian.dtype)


@final
class FairGrad(GradientBalancer):
    r"""Fair resource allocation: the step is divided among the tasks as alpha-fairness wants it.

    The direction d in a ball maximises sum_k <g_k, d>^(1 - alpha) / (1 - alpha), and the weights are the only positive
    ones with

        G w = w^(-1 / alpha)    (entry by entry)

    Proportional fairness, the Nash solution, for alpha = 1; nearer to the worst task alone as alpha grows. The minimum
    of a convex function, found exactly by Newton's method. Ban and Ji 2024, alpha = 1 to 2 in its experiments.

    - `loss_weight`: a loss times s gets the weight times s^(-2 alpha / (1 + alpha)) where gradients are orthogonal; its
      contribution stays as it is for alpha = 1.
    - The weights sum to no fixed number. All losses times s make them s^(-2 alpha / (1 + alpha)) times as large, so
      that for alpha = 1 the step does not follow the losses: clip the gradient, and tune the learning rate anew.
    - At Pareto-stationary points no solution exists; the diagonal grows as in `NashMTL`.

    Args:
        alpha: kind of fairness, in [0.25, 100]; near 0 the sum of the gradients with weights of one kind.

    Example:
        >>> import torch
        >>> FairGrad().weights(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
        tensor([0.5000, 0.2500])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        valid = is_number(alpha) and 0.25 <= alpha <= 100
        require(valid, "FairGrad", "alpha", alpha, "a number in [0.25, 100]")
        self.alpha = alpha

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        return fair_grad_weights(gramian, self.alpha)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"alpha={self.alpha}"
