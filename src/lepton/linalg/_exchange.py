"""The face of a quadratic program by exchanging one variable at a time: parametric principal pivoting."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import threshold

__all__ = ["exchange"]

_PER_VARIABLE = 4  # exchanges; the worst ill-conditioned programs take two
_IN_PYTHON = 2000  # numbers in the tableaus, up to which lists are faster than tensors
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


def _flips(table: list[list[float]]) -> list[bool]:
    """Return the variables of one problem that change sides."""
    flips = [False] * len(table)
    for _ in range(_PER_VARIABLE * len(table)):
        rising = ((row[-2] / row[-1], k) for k, row in enumerate(table) if row[-1] > _RISING)
        at, index = max(rising, default=(0.0, 0))
        if at <= 0:
            break
        pivot = table[index][index]
        scaled = [value / pivot for value in table[index]]
        for row in table:
            factor = row[index]
            row[:] = [value - factor * other for value, other in zip(row, scaled, strict=True)]
            row[index] = factor / pivot
        table[index] = [-value for value in scaled]
        table[index][index] = 1 / pivot
        flips[index] = not flips[index]
    return flips


def _flips_together(table: Tensor) -> Tensor:
    """Return the same as `_flips`, [S, n] bool, for many problems or variables."""
    size = table.shape[1]
    height, slope = table[..., size], table[..., size + 1]
    units = torch.eye(size, size + 2, dtype=table.dtype)
    rows = torch.arange(len(table)).unsqueeze(-1)
    flips = torch.zeros_like(height)
    for _ in range(_PER_VARIABLE * size):
        at, index = (height / threshold(slope, _RISING, math.inf)).max(-1, keepdim=True)
        moving = (at > 0).double()
        if not moving.any():
            break
        unit, row = units[index], table[rows, index]
        column = table[rows, :, index].add_(unit[..., :size])
        weight = moving / row.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        table.baddbmm_(column.mT, row.sub_(unit).mul_(weight.unsqueeze(-1)), alpha=-1)
        flips.scatter_add_(-1, index, moving)
    return flips % 2 > 0


def exchange(matrix: Tensor, linear: Tensor, basis: Tensor) -> Tensor:
    """Return the basis [S, n] of the solutions of min x'Mx/2 + q'x over x >= 0, for S problems on the CPU.

    With s added to whatever has the wrong sign, `basis` is right for a large s. As s falls to zero, one variable
    after another reaches zero and changes sides (Cottle 1968). For a positive definite M this cannot cycle.

    Args:
        matrix: M [n, n] or [S, n, n].
        linear: q [S, n].
        basis: [S, n] bool, where to begin: the nearer, the fewer exchanges.
    """
    table = _tableau(matrix, linear, basis)
    if table.numel() > _IN_PYTHON:
        return basis ^ _flips_together(table)
    return basis ^ torch.tensor([_flips(problem) for problem in table.tolist()])
