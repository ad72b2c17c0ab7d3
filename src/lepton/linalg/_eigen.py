"""Eigenvalues of a symmetric matrix: torch's, or Jacobi's rotations where the host must not wait."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.linalg._device import readable

__all__ = ["jacobi", "symmetric_eigen"]

_SWEEPS = 10  # 40 tasks of conditioning 1e8 take 7


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues [T] of a symmetric matrix [T, T], ascending, and its eigenvectors as columns [T, T].

    Example:
        >>> values, vectors = symmetric_eigen(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        >>> values
        tensor([1., 3.])
    """
    if readable(matrix):
        values, vectors = torch.linalg.eigh(matrix)
    else:
        values, vectors = jacobi(matrix)
    return values, vectors


def jacobi(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `symmetric_eigen` does, by rounds of rotations of disjoint pairs (Brent and Luk 1985).

    A fixed number of products of small matrices: `torch.linalg.eigh` reports its success to the host.
    """
    size = len(matrix)
    even = size + size % 2
    state = torch.nn.functional.pad(matrix, (0, even - size, 0, even - size))
    vectors = torch.eye(even, dtype=matrix.dtype, device=matrix.device)
    moved = _round_robin(even, matrix.device)
    for _ in range(_SWEEPS * (even - 1)):
        cosine, sine = _rotations(state)
        state = _rotate(_rotate(state, cosine, sine).T, cosine, sine)
        vectors = _rotate(vectors, cosine, sine)
        state, vectors = state[moved][:, moved], vectors[moved]
    order = torch.diagonal(state).where(vectors[:, :size].abs().sum(1) > 0.5, torch.inf).argsort()[:size]
    return torch.diagonal(state)[order], vectors[order][:, :size].T


def _round_robin(size: int, device: torch.device) -> Tensor:
    """Return the permutation after which neighbours are new pairs: after `size - 1` of them all have met."""
    place = torch.arange(size, device=device)
    # Even places hold one row of players, odd ones the other; the first stays, the rest goes round.
    above = torch.where(place == 2, 1, place - 2)
    below = torch.where(place == size - 1, max(size - 2, 1), place + 2)
    return torch.where(place == 0, 0, torch.where(place % 2 == 0, above, below))


def _rotations(state: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [T / 2] of the rotations that make each pair of neighbours orthogonal."""
    diagonal, beside = torch.diagonal(state), torch.diagonal(state, 1)[::2]
    first, second = diagonal[::2], diagonal[1::2]
    ratio = (second - first) / (2 * torch.where(beside == 0, 1.0, beside))
    sign = torch.where(ratio < 0, -1.0, 1.0)
    tangent = torch.where(beside == 0, 0.0, sign / (ratio.abs() + (1 + ratio.square()).sqrt()))
    cosine = (1 + tangent.square()).rsqrt()
    return cosine, tangent * cosine


def _rotate(rows: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    pairs = rows.reshape(len(cosine), 2, -1)
    first, second = pairs[:, 0], pairs[:, 1]
    c, s = cosine[:, None], sine[:, None]
    return torch.stack([c * first - s * second, s * first + c * second], 1).reshape(rows.shape)
