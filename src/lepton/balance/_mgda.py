from __future__ import annotations

from typing import Literal, final, get_args

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import is_whole, require
from lepton.linalg import min_norm_weights, present_tasks

__all__ = ["MGDA", "Normalization", "mgda_weights"]

Normalization = Literal["none", "l2", "loss", "loss+"]


def mgda_weights(gramian: Tensor, divisors: Tensor | None = None, iterations: int = 200) -> Tensor:
    """Return the weights [T] of the smallest point in the convex hull of the gradients g_k / d_k.

    Args:
        gramian: [T, T], inner products of the gradients g_k; zero rows are absent tasks.
        divisors: d [T], positive where the task is present; ones by default.
        iterations: see `lepton.linalg.min_norm_weights`.
    """
    scaled = gramian
    if divisors is not None:
        safe = torch.where(present_tasks(gramian), divisors.double(), 1.0)
        scaled = _rescaled(gramian.double() / safe[:, None] / safe[None, :], gramian.dtype)
    return min_norm_weights(scaled, iterations).to(gramian.dtype)


def _rescaled(exact: Tensor, dtype: torch.dtype) -> Tensor:
    # Divided gradients may leave the range of float32, whose precision the Gramian still has.
    return (exact / torch.diagonal(exact).amax().clamp_min(torch.finfo(torch.float64).tiny)).to(dtype)


@final
class MGDA(GradientBalancer):
    r"""The common descent direction of smallest norm: multiple-gradient descent.

    With the task gradients g_k and positive divisors d_k the weights are

        w = argmin  || sum_k w_k g_k / d_k ||^2    over  w_k >= 0, sum_k w_k = 1

    and the trunk gets sum_k w_k g_k. Every g_k has a nonnegative product with the minimiser, so a small step
    along it increases no loss. Desideri 2012 (theory); Sener and Koltun 2018 (networks, divisors).

    - Default: no divisors, as in the papers' equations.
    - `loss_weight`: inverted. A loss of weight 10 gets about a tenth of the weight, because its gradient is
      longer; `normalization="l2"` or `"loss"` makes the weights indifferent to it.
    - The weights sum to one. They do not change with the scale of all losses.
    - Exact up to 64 tasks; beyond, `iterations` steps of pairwise Frank-Wolfe.

    Args:
        normalization: d_k. `"none"` 1, `"l2"` ||g_k||, `"loss"` L_k, `"loss+"` L_k ||g_k||. As published, the
            divisors choose the weights only: what is summed are the gradients themselves.
        iterations: steps of the solver beyond 64 tasks; up to 64 the solution is exact.

    Example:
        >>> import torch
        >>> MGDA().weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([0.7500, 0.2500])
    """

    def __init__(self, normalization: Normalization = "none", *, iterations: int = 200) -> None:
        super().__init__()
        allowed = get_args(Normalization)
        require(normalization in allowed, "MGDA", "normalization", normalization, f"one of {allowed}")
        require(is_whole(iterations), "MGDA", "iterations", iterations, "a whole number, at least 1")
        self.normalization = normalization
        self.iterations = iterations
        self.wants_losses = normalization in ("loss", "loss+")

    def _divisors(self, gramian: Tensor, losses: Tensor | None) -> Tensor | None:
        norms = torch.diagonal(gramian).double().clamp_min(0).sqrt()
        if self.normalization == "none":
            return None
        if self.normalization == "l2":
            return norms
        assert losses is not None, "wants_losses"
        positive = losses.double().abs().clamp_min(1e-12)
        return positive if self.normalization == "loss" else positive * norms

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        return mgda_weights(gramian, self._divisors(gramian, losses), self.iterations)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"normalization={self.normalization!r}, iterations={self.iterations}"
