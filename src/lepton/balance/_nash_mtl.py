from __future__ import annotations

import math
from typing import final

from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import is_number, require
from lepton.linalg import present_tasks, ridge, rounded_trace, solve_power

__all__ = ["NashMTL", "nash_weights"]


def nash_weights(gramian: Tensor) -> Tensor:
    """Return the weights [T], float64, of the Nash bargaining solution: (G / ||G||) w = 1 / w, ||G|| of Frobenius.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
    """
    scaled = gramian.double() / rounded_trace(gramian)
    size = scaled.square().sum().sqrt()
    return size.sqrt() * solve_power(ridge(scaled, gramian.dtype), 1.0, present_tasks(gramian))


@final
class NashMTL(GradientBalancer):
    r"""The Nash bargaining solution: no task can gain in proportion more than the others lose.

    The weights are the only positive ones with

        (G / ||G||) w = 1 / w    (entry by entry; ||G|| the Frobenius norm)

    so that every task's own part w_k g_k has the same product with the sum: w_k <g_k, d> = ||G|| for all k. The minimum
    of a convex function, found exactly by Newton's method; the paper approximates it by a sequence of programs. Then
    the sum d = sum_k w_k g_k is cut to the length `max_norm`. Navon 2022, max_norm = 1; its division by ||G|| stands in
    the published code.

    - `loss_weight`: cancels, the contribution w_k g_k stays as it is.
    - The weights sum to no fixed number. Where `max_norm` does not cut they do not change with the scale of all
      losses; where it does, d has always that length, and the learning rate alone decides the step.
    - At Pareto-stationary points no solution exists; the diagonal grows by the rounding of the Gramian's type, so that
      the weights stay finite.
    - `Every(NashMTL(), n)` is the paper's variant that solves in every n-th step only.

    Args:
        max_norm: largest length of d; None not to cut it.

    Example:
        >>> import torch
        >>> NashMTL(max_norm=None).weights(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([1.2910, 1.1180])
    """

    aliases = ("nash",)

    def __init__(self, max_norm: float | None = 1.0) -> None:
        super().__init__()
        valid = max_norm is None or (is_number(max_norm) and 0 < max_norm < math.inf)
        require(valid, "NashMTL", "max_norm", max_norm, "a number greater than 0 and finite, or None")
        self.max_norm = max_norm

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        found = nash_weights(gramian)
        if self.max_norm is not None:
            length = (found @ gramian.double() @ found).clamp_min(0).sqrt()
            found = found * (self.max_norm / length.clamp_min(1e-300)).clamp_max(1.0)
        return found.to(gramian.dtype)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"max_norm={self.max_norm}"
