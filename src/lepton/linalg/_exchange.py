"""Exchanging one variable at a time: parametric principal pivoting, on arrays whose numbers can be read.

In x, z >= 0, x z = 0, z = Mx + q every variable has one of two sides: in the basis x_k is in use and z_k = 0, outside
z_k is and x_k = 0. While q moves along a line, one variable after another reaches zero and changes sides
(Cottle 1968). For a positive definite M this cannot cycle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bools", "Floats", "exchange", "exchange_to_length", "solve_on_face"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_PER_VARIABLE = 4  # exchanges; the worst ill-conditioned programs take two
_RISING = 1e-13  # slopes below it are rounding


def solve_on_face(matrix: Floats, right: Floats, basis: Bools) -> Floats:
    """Return U [..., n, k] with MX - Z = `right`: x on `basis` and z elsewhere, the others being zero.

    Where rounding has made the system singular everything is nan, which has no right sign.

    Args:
        matrix: M [n, n] or [..., n, n].
        right: [..., n, k].
        basis: [..., n] bool.
    """
    try:
        sides = np.where(basis[..., None, :], matrix, -np.eye(basis.shape[-1]))
        return np.linalg.solve(sides, right).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)


def _tableau(matrix: Floats, linear: Floats, basis: Bools) -> Floats:
    """Return [T, -t, p] [S, n, n + 2]: each variable in use, u = T v + t + p s, by those that are not, v.

    s >= 0 is added to whatever has the wrong sign, so that for large s all of u is positive.
    """
    others = np.where(basis[:, None, :], np.eye(linear.shape[-1]), -matrix)
    solved = solve_on_face(matrix, np.concatenate([others, linear[..., None]], -1), basis)
    return np.concatenate([solved, solved[..., -1:] > 0], -1)


def _next(table: Floats) -> tuple[Floats, Indices]:
    """Return for each problem the largest s at which a variable reaches zero, and which variable does."""
    slope = table[..., -1]
    at = np.where(slope > _RISING, table[..., -2], -np.inf) / np.maximum(slope, _RISING)
    return at.max(-1), at.argmax(-1)


def _change_sides(table: Floats, index: Indices) -> None:
    """Exchange variable `index` [S] of each problem, in place."""
    problem = np.arange(len(table))
    row, column = table[problem, index], table[problem, :, index]
    pivot = row[problem, index]
    row[problem, index] -= 1
    column[problem, index] += 1
    column /= pivot[:, None]
    table -= column[:, :, None] * row[:, None, :]


def _close_ranks(moving: Bools) -> Indices:
    """Return the indices of the true entries, as many as possible of them at their own place."""
    true = np.flatnonzero(moving)
    order = np.arange(len(true))
    gaps = np.flatnonzero(~moving[: len(true)])
    order[gaps] = true[len(true) - len(gaps) :]
    return order


def exchange(matrix: Floats, linear: Floats, basis: Bools) -> Bools:
    """Return the basis [S, n] of the solutions of min x'Mx/2 + q'x over x >= 0, for S problems.

    Args:
        matrix: M [n, n], [1, n, n] or [S, n, n], positive definite.
        linear: q [S, n].
        basis: [S, n] bool, where to begin: the nearer, the fewer exchanges.
    """
    table, basis = _tableau(matrix, linear, basis), basis.copy()
    problem = np.arange(len(table))
    for _ in range(_PER_VARIABLE * linear.shape[-1]):
        at, index = _next(table)
        moving = at > 0
        if not moving.any():
            break
        if not moving.all():  # the tableaus are large: only those are moved that fill a gap
            order = _close_ranks(moving)
            gaps = order != np.arange(len(order))
            table[: len(order)][gaps] = table[order[gaps]]
            table, problem, index = table[: len(order)], problem[order], index[order]
        _change_sides(table, index)
        basis[problem, index] ^= True
    return basis


def exchange_to_length(matrix: Floats, linear: Floats, exists: Bools, length: float) -> Bools:
    """Return the basis [n] of min x'Mx/2 + (q - l)'x over x >= 0, for the l where x'Mx reaches r^2.

    x is zero for a small l, and x'Mx grows with l: s = -l falls.

    Args:
        matrix: M [n, n], positive definite.
        linear: q [n].
        exists: [n] bool, the variables that exist; the others are zero.
        length: r.
    """
    table = np.concatenate([matrix, -linear[:, None], exists[:, None]], 1)[None]
    basis = np.zeros_like(exists)
    for _ in range(_PER_VARIABLE * len(linear)):
        at, index = _next(table)
        x = np.where(basis, at * table[0, :, -1] - table[0, :, -2], 0.0)
        if not -x @ (linear + at) < length**2:
            break
        _change_sides(table, index)
        basis[index] ^= True
    return basis
