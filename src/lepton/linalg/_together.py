"""Many programs over one matrix: min x'Mx/2 + q'x over x >= 0 for hundreds of q at once, on arrays that can be read.

Pivoting solves a linear system for each program and each guess of its face. Here every step is one product of all
programs with M. Accelerated descent (Nesterov 1983, restarted as O'Donoghue and Candes 2015) comes near the faces, and
conjugate gradients on the faces {x > z} (the primal-dual active sets of Hintermueller, Ito and Kunisch 2002) settle
them. Both need directions only and run in float32; residuals, faces and the end are in float64. A program has ended
when |x - max(x - z, 0)| is small, which for a positive definite M bounds the distance to the solution.

Programs of 200 conflicting tasks take forty steps of descent and some twenty of conjugate gradients, those of rank 100
up to ten corrections and 150 conjugate gradients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton.linalg._exchange import Bools, Floats

__all__ = ["solve_together"]

Singles = NDArray[np.float32]

_DESCENTS = (40, 120, 480)  # steps; the later ones for programs whose face is not found from there
_STILL = 1e-5  # of a step, at which descent has done its part
_CORRECTIONS = 12  # of the face
_REDUCTION = 3e-2  # of the residual by the conjugate gradients of one correction
_GRADIENTS = 60  # conjugate gradients of one correction at most
_GAP = 1e-9  # in variables of unit curvature, with |q| at most one
_TINY = np.float32(1e-30)


def _row_products(a: Singles, b: Singles) -> Singles:
    products: Singles = np.einsum("sn,sn->s", a, b)
    return products


def _largest(matrix: Singles) -> np.float32:
    """Return an upper bound of the largest eigenvalue, for many equal ones at most n^(1/16) of it."""
    power = matrix
    for _ in range(3):
        power = np.matmul(power, power, dtype=np.float32)
    return np.float32(np.linalg.norm(power.astype(np.float64)) ** 0.125)


def _descend(matrix: Singles, linear: Singles, x: Singles, steps: int, length: np.float32) -> Singles:
    """Return x [S, n] after so many steps of accelerated projected descent."""
    ahead, momentum = x, np.ones(len(x), np.float32)
    for step in range(steps):
        slope = ahead @ matrix
        slope += linear
        new = ahead - length * slope
        np.maximum(new, 0, out=new)
        move = new - x
        if step % 10 == 9 and np.abs(move).max() < _STILL:
            return new
        momentum[_row_products(slope, move) > 0] = 1  # it overshot: begin again
        following = 0.5 + np.sqrt(0.25 + momentum * momentum, dtype=np.float32)
        move *= ((momentum - 1) / following)[:, None]
        move += new
        x, ahead, momentum = new, move, following
    return x


def _conjugate(matrix: Singles, residual: Singles, face: Singles) -> Singles:
    """Return c with M c = `residual` on each program's face, nearly; zero elsewhere."""
    total, direction, residual = np.zeros_like(residual), residual.copy(), residual.copy()
    square = _row_products(residual, residual)
    goal = _REDUCTION**2 * square
    for _ in range(_GRADIENTS):
        if not (square > goal).any():
            break
        image = direction @ matrix
        image *= face
        length = (square / np.maximum(_row_products(direction, image), _TINY))[:, None]
        image *= length
        residual -= image
        total += length * direction
        before, square = square, _row_products(residual, residual)
        direction *= (square / np.maximum(before, _TINY))[:, None]
        direction += residual
    return total


def _correct(matrix: Floats, half: Singles, x: Floats, z: Floats) -> Floats:
    """Return x moved to the solution on the face {x > z}, nearly; it may leave the orthant there."""
    face = x > z
    on_face = x * face
    residual, off = -z, x - on_face
    some = off.any(1)
    residual[some] += off[some] @ matrix
    residual *= face
    size = np.abs(residual).max(1, keepdims=True)
    size[size == 0] = 1  # so that small residuals are not lost in float32
    moved: Floats = on_face + size * _conjugate(half, (residual / size).astype(np.float32), face.astype(np.float32))
    return moved


def _solve_scaled(matrix: Floats, linear: Floats) -> tuple[Floats, Bools]:
    """Return x [S, n] and which programs have ended, for a matrix with ones on its diagonal."""
    half, found, rows = matrix.astype(np.float32), np.zeros_like(linear), np.arange(len(linear))
    length = 1 / _largest(half)
    start = np.maximum(-linear, 0).astype(np.float32)
    for steps in _DESCENTS:
        start = _descend(half, linear[rows].astype(np.float32), start, steps, length)
        x = start.astype(np.float64)
        z = x @ matrix + linear[rows]
        for _ in range(_CORRECTIONS):
            x = _correct(matrix, half, x, z)
            z = x @ matrix + linear[rows]
            left = ~(np.abs(x - np.maximum(x - z, 0)).max(1) <= _GAP)
            found[rows[~left]] = np.maximum(x[~left], 0)
            rows, start, x, z = rows[left], start[left], x[left], z[left]
            if not len(rows):
                return found, np.ones(len(linear), np.bool_)
    return found, ~np.isin(np.arange(len(linear)), rows)


def solve_together(matrix: Floats, linear: Floats) -> tuple[Floats, Bools]:
    """Return the minimisers x [S, n] of x'Mx/2 + q'x over x >= 0, and which of them [S] are found.

    Args:
        matrix: M [n, n], positive definite; a row of zeros belongs to a variable that does not exist.
        linear: q [S, n], zero where the variable does not exist.
    """
    diagonal = np.diagonal(matrix)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    curved, sloped = matrix * scale * scale[:, None], linear * scale
    size = np.abs(sloped).max(1, keepdims=True)
    size[size == 0] = 1
    if not (np.isfinite(curved).all() and np.isfinite(size).all()):
        return np.zeros_like(linear), np.zeros(len(linear), np.bool_)
    with np.errstate(all="ignore"):
        x, solved = _solve_scaled(curved, sloped / size)
        return x * scale * size, solved
