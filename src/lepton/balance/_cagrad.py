from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import is_number, require
from lepton.linalg import count, normalize, pivot_to_length, present_tasks, readable, ridge, solve_simplex

__all__ = ["CAGrad", "cagrad_weights"]

_STATIONARY = 1e-4  # ||g_w|| relative to the norm of all gradients together, below which no direction is left


def _shifted_minimum(gramian: Tensor, present: Tensor, products: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Return w [S, T] and ||g_w|| [S], where w minimises || g_w + s g_0 || for each s in `shifts`.

    Up to a factor and a constant that is  <g_w, g_0> + c ||g_0|| ||g_w||^2 / (2 t)  with s = t / (c ||g_0||).
    """
    mean = present / count(present)
    both = present[:, None] & present[None, :]
    linear = torch.where(both, products[:, None] + products[None, :], 0.0)
    square = torch.where(both, mean @ products, 0.0)
    shift = shifts[:, None, None]
    w = solve_simplex(gramian + shift * linear + shift.square() * square, present.expand(len(shifts), -1))
    return w, ((w @ gramian) * w).sum(-1).clamp_min(0).sqrt()


def _secant(lengths: Tensor, norms: Tensor) -> Tensor:
    # On one face ||g_w||^2 is affine in t^2 as long as p'Gq = 0, so this root is exact there.
    t, r = lengths.square(), norms.square()
    slope = (r[1] - r[0]) / (t[1] - t[0]).clamp_min(1e-300)
    root = (r[0] - slope * t[0]) / (1 - slope).clamp_min(1e-12)
    return torch.minimum(torch.maximum(root, t[0]), t[1]).sqrt()


def _bracket_length(gramian: Tensor, present: Tensor, products: Tensor, radius: Tensor) -> Tensor:
    """Return w, with ||g_w|| = t enclosed by a grid of t, then twice by a grid within two neighbours."""
    lengths = torch.logspace(-4.5, 0.02, 16, dtype=gramian.dtype, device=gramian.device)
    near = torch.linspace(0, 1, 8, dtype=gramian.dtype, device=gramian.device)
    close = torch.tensor([1 - 1e-4, 1, 1 + 1e-4], dtype=gramian.dtype).to(gramian.device, non_blocking=True)
    for _ in range(3):
        w, norms = _shifted_minimum(gramian, present, products, lengths / radius)
        upper = (norms >= lengths).sum().clamp(1, len(lengths) - 1)
        pair = torch.stack([upper - 1, upper])
        t, r, ends = lengths[pair], norms[pair], w[pair]
        root = _secant(t, r)
        lengths = torch.cat([t[0] + near * (t[1] - t[0]), root * close]).sort().values
    share = (root - t[0]) / (t[1] - t[0]).clamp_min(1e-300)
    return ends[0].lerp(ends[1], share)


def cagrad_weights(gramian: Tensor, c: float = 0.4) -> Tensor:
    """Return the weights [T] of the direction within c ||g_0|| of the mean g_0 that helps the worst task most.

    The dual  min_w <g_w, g_0> + c ||g_0|| ||g_w||  over the simplex is made quadratic by
    ||g_w|| = min_t ||g_w||^2 / (2 t) + t / 2. For the minimising w(t), ||g_w|| / t falls with t: one root.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        c: radius of the ball around the mean gradient, in lengths of it.
    """
    present = present_tasks(gramian)
    scaled = normalize(gramian)
    safe = ridge(scaled, gramian.dtype)
    mean = present / count(present)
    products = safe @ mean
    radius = c * (mean @ products).clamp_min(0).sqrt()
    divisor = radius.clamp_min(1e-6)
    x = pivot_to_length(safe, products, present, divisor) if readable(gramian) else None
    w = _bracket_length(safe, present, products, divisor) if x is None else x / x.sum()
    norm = (w @ scaled @ w).clamp_min(0).sqrt()
    weights = mean + radius / norm.clamp_min(_STATIONARY) * w
    return torch.where(norm > _STATIONARY, weights, 0.0).to(gramian.dtype)


@final
class CAGrad(GradientBalancer):
    r"""Conflict-averse gradient: near the mean gradient, the direction that serves the worst task best.

    With g_0 the mean of the n present gradients and g_w = sum_k w_k g_k the direction is

        d = argmax_d  min_k <g_k, d>    over  ||d - g_0|| <= c ||g_0||
          = g_0 + c ||g_0|| g_w / ||g_w||,    w = argmin <g_w, g_0> + c ||g_0|| ||g_w||  over the simplex

    hence the weights 1/n + c ||g_0|| w_k / ||g_w||. Liu 2021, default c = 0.4.

    - `loss_weight`: near linear for a small c, as in the mean; more towards inverse as c grows.
    - The weights sum to 1 + c ||g_0|| / ||g_w||. They do not change with the scale of all losses.
    - c = 0 is the mean. As published; codes that divide the result by 1 + c or 1 + c^2 differ by that factor,
      which belongs into the learning rate.
    - All weights are zero at a Pareto-stationary point: ||g_w|| below 1e-4 of the gradients' joint norm.

    Args:
        c: radius of the ball, not negative; the paper's convergence theorem is for c < 1.

    Example:
        >>> import torch
        >>> CAGrad(c=0.5).weights(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.7500, 0.7500])
    """

    def __init__(self, c: float = 0.4) -> None:
        super().__init__()
        require(is_number(c) and 0 <= c < math.inf, "CAGrad", "c", c, "a number, at least 0 and finite")
        self.c = c

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the weights [T]; see `Balancer.weights`."""
        del losses
        return cagrad_weights(gramian, self.c)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"c={self.c}"
