"""The equation Gw = w^-p of bargaining and fairness: the minimum of a convex function, by Newton's method."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.linalg._device import holds

__all__ = ["solve_power"]

_ITERATIONS = 40  # random Gramians take 6 to 12, ill-conditioned ones of 200 tasks about 30
_LENGTHS = 24  # of a step, each two thirds of the one before
_TO_BOUNDARY = 0.99
_PAST = 0.3  # of the slope at the start, by which a step may go past the lowest point
_ROUNDING = 1e-13
_SETTLED = 1e-8  # relative length of a step after which the CPU stops: the next one is its square


def solve_power(gramian: Tensor, power: float, present: Tensor) -> Tensor:
    """Return the only w > 0 with (Gw)_k = w_k^-p for all k.

    It minimises w'Gw/2 - sum_k h(w_k), h'(w) = w^-p, which is convex. In the variables u_k = w_k / a_k, a_k the
    solution for orthogonal gradients, the tasks' norms do not matter to the conditioning. Each Newton step goes
    as far as the longest of a row of lengths that does not go far past the lowest point.

    Args:
        gramian: G [T, T], positive definite on the present tasks.
        power: p > 0.
        present: [T] bool; the others get zero and change nothing.

    Returns:
        w [T] float64.

    Example:
        >>> solve_power(torch.diag(torch.tensor([4.0, 16.0])), 1.0, torch.tensor([True, True]))
        tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    exact = gramian.double()
    diagonal = torch.where(present, torch.diagonal(exact), 1.0)
    start = diagonal ** (-1 / (1 + power))
    both = present[:, None] & present[None, :]
    identity = torch.eye(len(exact), dtype=torch.float64, device=exact.device)
    matrix = torch.where(both, exact * start[:, None] * start[None, :], identity)
    pulls = torch.where(present, start ** (1 - power), 1.0)  # c in  Su = c u^-p
    u = torch.where(present, _along_ray(torch.where(both, matrix, 0.0), torch.where(present, pulls, 0.0), power), 1.0)
    for _ in range(_ITERATIONS):
        before, u = u, _newton_step(matrix, pulls, power, u)
        if holds((u / before - 1).abs() <= _SETTLED):
            break
    return torch.where(present, u * start, 0.0)


def _along_ray(matrix: Tensor, pulls: Tensor, power: float) -> Tensor:
    """Return the best point t 1: t^2 1'S1 = t^(1-p) sum(c)."""
    ones = torch.ones_like(pulls)
    square = (matrix.sum()).clamp_min(1e-12 * len(pulls))
    return ones * (pulls.sum() / square).clamp(1e-6, 1e6) ** (1 / (1 + power))


def _newton_step(matrix: Tensor, pulls: Tensor, power: float, u: Tensor) -> Tensor:
    force, products = pulls * u**-power, matrix @ u
    factor, _ = torch.linalg.cholesky_ex(matrix + torch.diag(power * force / u), check_errors=False)
    step = torch.cholesky_solve((force - products)[:, None], factor)[:, 0]
    longest = torch.where(step < 0, -_TO_BOUNDARY * u / step, torch.inf).amin().clamp_max(1.0)
    lengths = longest * (2 / 3) ** torch.arange(_LENGTHS, dtype=u.dtype, device=u.device)
    # Slopes and not values are compared along the step: near the end the values differ by rounding only.
    slopes = step @ products + lengths * (step @ (matrix @ step))
    slopes = slopes - ((force * step) * (1 + lengths[:, None] * (step / u)) ** -power).sum(1)
    fine = slopes <= _PAST * (step @ (force - products)).abs() + _ROUNDING * (force @ u)
    best = lengths.index_select(0, fine.to(torch.uint8).argmax(keepdim=True))
    moved = torch.where(fine.any(), u + best * step, u + lengths[-1] * step)
    return torch.where(moved.isfinite().all(), moved, u)
