"""Quadratic programs over the nonnegative orthant: guess the face, else an interior-point method.

The multipliers z = Mx + q of the constraints x >= 0 satisfy x z = 0 at the solution. On the CPU the positive x are
found by pivoting (`_pivoting`), or, of many programs over one matrix, all at once (`_together`). Elsewhere, and should
rounding defeat it, x z = mu is followed for a falling mu (Wright 1997), about twenty factorisations whatever the
conditioning. A last solve on the variables that stayed positive removes what mu left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.linalg._device import holds, readable
from lepton.linalg._pivoting import TOLERANCE, pivot
from lepton.linalg._together import solve_together

__all__ = ["solve_nonnegative"]

_ITERATIONS = 26  # random programs of 2 variables take 12, ill-conditioned ones of 40 about 24
_GAP = 1e-14  # mean of x z, relative to the start, at which the CPU stops
_TO_BOUNDARY = 0.995
_MANY = 40  # variables, and programs over one matrix; with fewer, pivoting is as fast


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.unsqueeze(-1))[..., 0]


def _on_face(matrix: Tensor, linear: Tensor, basis: Tensor) -> Tensor:
    inside = basis.unsqueeze(-1) & basis.unsqueeze(-2)
    identity = torch.eye(linear.shape[-1], dtype=linear.dtype, device=linear.device)
    square = torch.where(inside, matrix, identity)
    solution, _ = torch.linalg.solve_ex(square, (basis * -linear).unsqueeze(-1), check_errors=False)
    x: Tensor = solution.squeeze(-1)
    return x


def _wrong_signs(matrix: Tensor, linear: Tensor, x: Tensor, basis: Tensor, exists: Tensor) -> Tensor:
    value = torch.where(basis, x, _times(matrix, x) + linear)
    return exists & ~(value >= -TOLERANCE * (1 + x.abs().amax(-1, keepdim=True)))


def _longest(value: Tensor, step: Tensor) -> Tensor:
    """Return the longest step in [0, 1] along `step` that keeps `value` positive."""
    ratio = torch.where(step < 0, -_TO_BOUNDARY * value / step, 1.0)
    return ratio.amin(-1, keepdim=True).clamp(0.0, 1.0)


def _follow_path(matrix: Tensor, linear: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and z near the solution of the program; where nothing `exists` both stay one."""
    number = exists.sum(-1, keepdim=True).clamp_min(1)
    x = torch.ones_like(linear)
    z = torch.where(exists, (_times(matrix, x) + linear).clamp_min(1.0), 1.0)
    length = torch.zeros_like(x[..., :1])
    start = z.sum(-1, keepdim=True) / number
    for _ in range(_ITERATIONS):
        gap = torch.where(exists, x * z, 0.0).sum(-1, keepdim=True) / number
        if holds(gap <= _GAP * start):
            break
        center = gap * (1 - length).square().clamp(1e-3, 0.3)
        residual = _times(matrix, x) + linear - z
        factor, _ = torch.linalg.cholesky_ex(matrix + torch.diag_embed(z / x), check_errors=False)
        right = torch.where(exists, center / x - z - residual, 0.0)
        dx = torch.cholesky_solve(right[..., None], factor)[..., 0]
        dz = torch.where(exists, (center - z * dx) / x - z, 0.0)
        length = torch.minimum(_longest(x, dx), _longest(z, dz))
        length = torch.where(torch.isfinite(dx).all(-1, keepdim=True), length, 0.0)
        x = x + length * dx.nan_to_num()
        z = z + length * dz.nan_to_num()
    return x, z


def _interior(matrix: Tensor, linear: Tensor, exists: Tensor) -> Tensor:
    x, z = _follow_path(matrix, linear, exists)
    basis = exists & (x > z)
    exact = _on_face(matrix, linear, basis)
    solved = ~_wrong_signs(matrix, linear, exact, basis, exists).any(-1, keepdim=True)
    return torch.where(exists, torch.where(solved, exact.clamp_min(0), x), 0.0)


def _find_faces(matrix: Tensor, linear: Tensor, exists: Tensor) -> Tensor | None:
    """Return the solutions, for tensors that can be read, or None if rounding hides them."""
    if matrix.dim() > 2 or linear.dim() != 2 or min(linear.shape) < _MANY:
        return pivot(matrix, linear, exists)
    found, solved = solve_together(matrix.detach().numpy(), linear.detach().numpy())
    x, left = torch.from_numpy(found), torch.from_numpy(~solved)
    if left.any():
        others = pivot(matrix, linear[left], exists[left])
        if others is None:
            return None
        x[left] = others
    return x


def solve_nonnegative(matrix: Tensor, linear: Tensor, present: Tensor | None = None) -> Tensor:
    """Return the minimiser of x'Mx/2 + q'x over x >= 0, for a batch of problems.

    Args:
        matrix: M [..., T, T], positive definite; at best with entries of order one.
        linear: q [..., T].
        present: [..., T] bool, the variables that exist; the others are zero and change nothing.

    Returns:
        x [..., T] float64, never negative.

    Example:
        >>> solve_nonnegative(torch.eye(2), torch.tensor([-1.0, 2.0]))
        tensor([1., 0.], dtype=torch.float64)
    """
    linear = linear.double()
    exists = torch.ones_like(linear, dtype=torch.bool) if present is None else present.expand(linear.shape)
    matrix = matrix.double()
    if not holds(exists):
        linear = torch.where(exists, linear, 0.0)
        matrix = torch.where(exists[..., :, None] & exists[..., None, :], matrix, 0.0)
    # The scale of q is the scale of x, and the path starts at x = 1.
    scale = linear.abs().amax(-1, keepdim=True)
    linear = linear / torch.where(scale > 0, scale, 1.0)
    x = _find_faces(matrix, linear, exists) if readable(linear) else None
    return scale * (_interior(matrix, linear, exists) if x is None else x)
