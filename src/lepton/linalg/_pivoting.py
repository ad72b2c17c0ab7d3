"""Quadratic programs by their face: a basis of positive variables, found by one linear solve.

Block principal pivoting (Portugal, Judice and Vicente 1994; Kim and Park 2011) moves every variable of the wrong sign
to the other side, and mostly ends after two to five solves; but on ill-conditioned Gramians of 40 tasks it cycled for
hundreds. Where it slows down, the variables are moved one at a time (`_exchange`), which ends, and the same solve
checks the result. It serves where the end can be seen: on the CPU, whose small arrays numpy handles sooner than torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lepton.linalg._exchange import Bools, Floats, exchange, exchange_to_length, solve_on_face

__all__ = ["TOLERANCE", "pivot", "pivot_to_length"]

_ROUNDS = 8  # of either kind, each checked by a solve
_FALLING = 0.6  # wrong signs left by a block of pivots; where more are, single ones are faster
TOLERANCE = 1e-11  # relative to x; a wrong sign below it is rounding


def _settle(
    look: Callable[[Bools], tuple[Floats, Bools]], walk: Callable[[Bools, Bools], Bools], basis: Bools
) -> Tensor | None:
    """Return x, clear of wrong signs, or None if rounding defeats it.

    Args:
        look: from a basis to x on its face, and where a variable has the wrong sign.
        walk: from a basis and its wrong signs to the basis of the solution, one exchange at a time.
        basis: where to begin.
    """
    before = 2 * basis.size
    with np.errstate(all="ignore"):
        for _ in range(_ROUNDS):
            x, wrong = look(basis)
            number = int(wrong.sum())
            if number == 0:
                return torch.from_numpy(np.maximum(x, 0.0) + 0.0)  # no negative zero
            basis = basis ^ wrong if number <= _FALLING * before else walk(basis, wrong)
            before = number
    return None


def pivot(matrix: Tensor, linear: Tensor, exists: Tensor) -> Tensor | None:
    """Return the minimisers of x'Mx/2 + q'x over x >= 0, or None if rounding defeats it: for tensors that can be read.

    Args:
        matrix: M [T, T] or [..., T, T] float64, positive definite.
        linear: q [..., T] float64.
        exists: [..., T] bool, the variables that exist; the others are zero.
    """
    size = linear.shape[-1]
    square = matrix if matrix.dim() == 2 else matrix.expand(*linear.shape, size)
    m = square.detach().reshape(-1, size, size).numpy()
    q = linear.detach().reshape(-1, size).numpy()
    some = exists.reshape(-1, size).numpy()

    def look(basis: Bools) -> tuple[Floats, Bools]:
        value = solve_on_face(m, -q[..., None], basis)[..., 0]
        x = np.where(basis, value, 0.0)
        return x, some & ~(value >= -TOLERANCE * (1 + np.abs(x).max(-1, keepdims=True)))

    def walk(basis: Bools, wrong: Bools) -> Bools:
        which, basis = wrong.any(-1), basis.copy()
        basis[which] = exchange(m if len(m) == 1 else m[which], q[which], basis[which])
        return basis

    x = _settle(look, walk, some & (q < 0))
    return None if x is None else x.view_as(linear)


def pivot_to_length(matrix: Tensor, linear: Tensor, exists: Tensor, length: Tensor) -> Tensor | None:
    """Return the minimiser of x'Mx/2 + (q - l)'x over x >= 0, for the l where x'Mx = r^2, or None as `pivot`.

    x / sum(x) is the point of the simplex with the smallest q'w + r sqrt(w'Mw).

    Args:
        matrix: M [T, T] float64, positive definite.
        linear: q [T] float64.
        exists: [T] bool, the variables that exist; the others are zero.
        length: r [] float64, positive.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> pivot_to_length(torch.eye(2).double(), torch.zeros(2).double(), torch.tensor([True, True]), one)
        tensor([0.7071, 0.7071], dtype=torch.float64)
    """
    some, r = exists.numpy(), float(length)
    m = np.where(some[:, None] & some, matrix.detach().numpy(), 0.0)
    q = np.where(some, linear.detach().numpy(), 0.0)
    right = np.stack([np.ones_like(q), q], 1)

    def look(basis: Bools) -> tuple[Floats, Bools]:
        a, b = solve_on_face(m, right, basis).T  # x = l a - b on the face, so that x'Mx = r^2 is quadratic in l
        along, across = a[basis].sum(), b[basis].sum()
        root = across**2 - along * (b[basis] @ q[basis] - r**2)
        level = (across + np.sqrt(np.maximum(root, 0.0))) / along  # without a root sum(x) = 0: some sign is wrong
        value = level * a - b
        x = np.where(basis, value, 0.0)
        return x, some & ~(value >= -TOLERANCE * np.where(basis, np.abs(x).sum(), 1.0))

    x = _settle(look, lambda basis, wrong: exchange_to_length(m, q, some, r), some)
    return x if x is not None and bool(x.any()) else None  # zero has no length: rounding has hidden the root
