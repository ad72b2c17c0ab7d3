from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.linalg import cosines, count, present_tasks, solve_smallest, solver_dtype

__all__ = ["ConFIG", "config_weights"]


def config_weights(gramian: Tensor) -> Tensor:
    """Return the weights [T] of the direction with equal cosines to all gradients.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
    """
    present, dtype = present_tasks(gramian), solver_dtype(gramian)
    number = count(present).to(dtype)
    norms = torch.diagonal(gramian.double()).clamp_min(0).sqrt()
    angles = cosines(gramian).to(dtype)
    cutoff = max(40 * torch.finfo(gramian.dtype).eps, 1e-8)
    units = solve_smallest(angles / number, present / number, cutoff)
    products = angles @ units  # of the direction with each unit gradient: one, where all can be met
    square = (units @ products).clamp_min(1e-30)
    length = (norms * products).sum()
    weights = length / square * units / torch.where(present, norms, 1.0)
    return torch.where(present, weights, 0.0).to(gramian.dtype)


@final
class ConFIG(GradientBalancer):
    r"""Conflict-free inverse gradients: equal cosines with every task's gradient, and a length that follows them.

    With the unit gradients u_k = g_k / ||g_k|| as rows of U,

        d = U^+ 1,    the trunk gets  (sum_k <g_k, d / ||d||>)  d / ||d||

    U^+ the pseudo-inverse; from the Gramian, x = C^+ 1 on the cosines C and d = sum_k x_k u_k. Where the gradients are
    independent d has the same positive product with all. Liu 2024; no hyperparameters.

    - `loss_weight`: cancels in the direction; the length grows with the gradient's.
    - The weights sum to no fixed number and may be negative. They do not change with the scale of all losses.
    - For orthogonal gradients of equal norm the sum of the gradients.
    - Directions whose eigenvalue is below 1e-8 of the trace (5e-6 for a float32 Gramian, its rounding) count as
      dependent.

    Example:
        >>> import torch
        >>> ConFIG().weights(torch.tensor([[1.0, 0.0], [0.0, 9.0]]))
        tensor([2.0000, 0.6667])
    """

    aliases = ("config",)

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        return config_weights(gramian)
