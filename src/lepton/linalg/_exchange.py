"""The face of a quadratic program by exchanging one variable at a time: parametric principal pivoting."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exchange"]

_PER_VARIABLE = 4  # exchanges; the worst ill-conditioned programs take two
_RISING = 1e-13  # slopes below it are rounding


def _tableau(matrix: Tensor, linear: Tensor, basis: Tensor) -> Tensor:
    """Return [T, -t, p] [S, n, n + 2]: each variable in use, u = T v + t + p s, by those that are not, v.

    u is x on the basis and z elsewhere, v the other way round; s >= 0 for large s, where all of u is positive.
    """
    inside = basis.unsqueeze(-2)
    identity = torch.eye(linear.shape[-1], dtype=linear.dtype)
    left = torch.where(inside, matrix, -identity)
    right = torch.cat([torch.where(inside, identity, -matrix), linear.unsqueeze(-1)], -1)
    solved = torch.linalg.solve_ex(left, right, check_errors=False)[0]
    return torch.cat([solved, (solved[..., -1:] > 0).double()], -1)


def exchange(matrix: Tensor, linear: Tensor, basis: Tensor) -> Tensor:
    """Return the basis [S, n] of the solutions of min x'Mx/2 + q'x over x >= 0, for S problems on the CPU.

    With s added to whatever has the wrong sign, `basis` is right for a large s. As s falls to zero, one variable
    after another reaches zero and changes sides (Cottle 1968). For a positive definite M this cannot cycle.

    Args:
        matrix: M [n, n] or [S, n, n].
        linear: q [S, n].
        basis: [S, n] bool, where to begin: the nearer, the fewer exchanges.
    """
    size = linear.shape[-1]
    table = _tableau(matrix, linear, basis)
    height, slope = table[..., size], table[..., size + 1]
    units = torch.eye(size, size + 2, dtype=table.dtype)
    rows = torch.arange(len(table))
    flips = torch.zeros_like(linear)
    for _ in range(_PER_VARIABLE * size):
        at, index = torch.where(slope > _RISING, height / slope, 0.0).max(-1)
        moving = at > 0
        if not bool(moving.any()):
            break
        unit, row = units[index], table[rows, index]
        weight = moving / row.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        column = (table[rows, :, index] + unit[:, :size]) * weight.unsqueeze(-1)
        table.baddbmm_(column.unsqueeze(-1), (row - unit).unsqueeze(-2), alpha=-1)
        flips.addcmul_(unit[:, :size], moving.unsqueeze(-1))
    return basis ^ (flips % 2 > 0)
