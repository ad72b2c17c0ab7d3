"""The smallest solution of a singular system, without a decomposition that reports to the host."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["solve_smallest"]

_SHARPEN = 3  # 3**3 products: directions ten times above the cut-off keep all but 1e-5


def _keep_range(error: Tensor, vector: Tensor, depth: int) -> Tensor:
    """Apply the filter s(s(...s(h))), s(h) = 3h^2 - 2h^3, of the operator h = 1 - `error` to `vector`.

    McWeeny's purification (1960), on a vector: s pushes eigenvalues above one half to one, those below to zero.
    """
    if depth == 0:
        return vector - error @ vector
    once = _keep_range(error, vector, depth - 1)
    twice = _keep_range(error, once, depth - 1)
    return 3 * twice - 2 * _keep_range(error, twice, depth - 1)


def solve_smallest(matrix: Tensor, rhs: Tensor, cutoff: float) -> Tensor:
    """Return x of smallest norm with `matrix` x = `rhs` on the range of `matrix`: its pseudo-inverse times `rhs`.

    With the cut-off t, h = G (G + t)^-1 has the eigenvalues m / (m + t): near one for those of G above t, near
    zero for those below. A polynomial in h makes that a clean cut, and iterated Tikhonov steps solve what is left.

    Args:
        matrix: G [T, T], symmetric, positive semidefinite up to rounding, of trace about one.
        rhs: b [T], of the same dtype.
        cutoff: t; eigenvalues below count as zero. Those between t and 10 t are partly kept.

    Example:
        >>> ones = torch.ones(2, 2, dtype=torch.float64)
        >>> solve_smallest(ones / 2, torch.tensor([1.0, 1.0], dtype=torch.float64), 1e-8)
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    shifted = matrix + cutoff * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(shifted, check_errors=False)
    inverse = torch.cholesky_inverse(factor)
    error = cutoff * inverse
    kept = _keep_range(error, rhs[:, None], _SHARPEN)
    x = inverse @ kept
    for _ in range(4):
        x = x + inverse @ (kept - matrix @ x)
    return x.squeeze(-1)
