"""The point of smallest norm in the convex hull of gradients, from their Gramian."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.linalg._device import holds
from lepton.linalg._gramian import EXACT_SIZE, normalize, present_tasks, ridge
from lepton.linalg._nonnegative import solve_nonnegative

__all__ = ["frank_wolfe", "min_norm_weights", "solve_simplex"]


def solve_simplex(matrix: Tensor, present: Tensor) -> Tensor:
    """Return the minimiser of w'Hw/2 over the simplex w >= 0, sum(w) = 1, for a batch of problems.

    The rays of the orthant stand for the points of the simplex: w = x / sum(x), where x minimises
    x'(H + a 11')x/2 - 1'x over x >= 0 for any a that keeps it positive definite. A linear term g'w goes into H as
    (g1' + 1g')/2, on the simplex the same function.

    Args:
        matrix: H [..., T, T], positive definite.
        present: [..., T] bool, the variables that exist; the others are zero and change nothing.

    Returns:
        w [..., T] float64, in the simplex, or all zero where nothing is present.

    Example:
        >>> solve_simplex(torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([True, True]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    exact = matrix.double()
    number = present.sum(-1).clamp_min(1)
    mean = torch.where(present, torch.diagonal(exact, dim1=-2, dim2=-1), 0.0).sum(-1) / number
    lifted = exact / torch.where(mean > 0, mean, 1.0)[..., None, None] + 1.0
    x = solve_nonnegative(lifted, -present.double(), present)
    return x / x.sum(-1, keepdim=True).clamp_min(1e-300)


def min_norm_weights(gramian: Tensor, iterations: int = 200) -> Tensor:
    """Return w [T] float64 in the simplex with the smallest w'Gw.

    Args:
        gramian: G [T, T], positive semidefinite; tasks with a zero diagonal get zero.
        iterations: steps of Frank-Wolfe beyond `EXACT_SIZE` tasks.

    Example:
        >>> min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    present = present_tasks(gramian)
    if gramian.shape[-1] <= EXACT_SIZE:
        return solve_simplex(ridge(normalize(gramian), gramian.dtype), present)
    return frank_wolfe(normalize(gramian, gramian.dtype), present, iterations).double()


def frank_wolfe(gramian: Tensor, present: Tensor, iterations: int, tolerance: float = 1e-9) -> Tensor:
    """Return w [T] in the simplex with a small w'Gw, by pairwise Frank-Wolfe (Lacoste-Julien and Jaggi 2015).

    A step moves weight from the worst task in use to the best one. Gw is kept up to date, so a step costs
    O(T). It starts at the solution for orthogonal gradients, w_k ~ 1 / G_kk.

    Args:
        gramian: G [T, T], of trace one.
        present: [T] bool; the others get zero.
        iterations: number of steps; the CPU stops earlier when the duality gap is below `tolerance` times w'Gw.
        tolerance: see `iterations`.
    """
    diagonal = torch.diagonal(gramian)
    w = torch.where(present, 1 / torch.where(present, diagonal, 1.0), 0.0)
    w = w / w.sum().clamp_min(1e-30)
    slope = gramian @ w + torch.where(present, 0.0, torch.inf)
    for step in range(iterations):
        best = slope.argmin(keepdim=True)
        worst = torch.where(w > 0, slope, -torch.inf).argmax(keepdim=True)
        pair = torch.cat([best, worst])
        gains, rows = slope.index_select(0, pair), gramian.index_select(0, pair)
        if step % 16 == 0 and holds(gains[1] - gains[0] <= tolerance * gains[1].abs()):
            break
        direction = rows[0] - rows[1]
        ends = direction.index_select(0, pair)
        length = (
            ((gains[1] - gains[0]) / (ends[0] - ends[1]).clamp_min(1e-30))
            .minimum(w.index_select(0, worst))
            .clamp_min(0)
        )
        w.index_add_(0, pair, torch.cat([length, -length]))
        slope.addcmul_(direction, length)
    return torch.where(present, w.clamp_min(0), 0.0)
