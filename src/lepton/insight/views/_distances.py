"""How far two views of the same tasks' gradients are from each other, in numbers without a unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cosine_distance", "direction", "gramian_distance", "share_distance"]


def gramian_distance(gramian: Tensor, exact: Tensor) -> float:
    """Return the sine of the angle between two Gramians as vectors, each gradient measured in its exact length.

    With D = diag(exact)^(-1/2), A = D G D and B = D G_exact D, it is the least of || A / |A| - s B / |B| || over the
    factor s: 0 if the Gramians differ by a common factor only, 1 at most. Measuring each gradient in its exact length
    lets a task with a small loss count as much as one with a large loss.

    Args:
        gramian: [T, T].
        exact: [T, T], float64 like the other.

    Returns:
        NaN without a task that has a gradient in both.
    """
    there = (exact.diagonal() > 0) & (gramian.diagonal() > 0)
    if not there.any():
        return math.nan
    lengths = exact.diagonal()[there].sqrt()
    a, b = ((found[there][:, there] / lengths[:, None] / lengths).flatten() for found in (gramian, exact))
    a, b = a / a.norm(), b / b.norm()
    return min(1.0, float((a - (a @ b) * b).norm()))


def cosine_distance(gramian: Tensor, exact: Tensor) -> float:
    """Return the mean absolute difference of the cosines of every two tasks; NaN where no two have gradients.

    Args:
        gramian: [T, T].
        exact: [T, T].
    """
    differences = (_cosines(gramian) - _cosines(exact)).abs()
    above = torch.ones_like(differences).triu(1) > 0
    return float(differences[above].nanmean())


def _cosines(gramian: Tensor) -> Tensor:
    squares = gramian.diagonal()
    lengths = torch.where(squares > 0, squares, torch.nan).sqrt()
    return gramian / lengths[:, None] / lengths


def share_distance(weights: Tensor, exact: Tensor) -> float:
    """Return half the sum of the absolute differences of the weights, each divided by the sum of their sizes.

    0 is the same but for a common factor, 1 is all weight on other tasks.

    Args:
        weights: [T].
        exact: [T].
    """
    shares = [found / found.abs().sum().clamp(min=torch.finfo(found.dtype).tiny) for found in (weights, exact)]
    return float((shares[0] - shares[1]).abs().sum()) / 2


def direction(weights: Tensor, exact: Tensor, gramian: Tensor) -> float:
    """Return the cosine between the trunk's gradients that two sets of weights make.

    Args:
        weights: [T].
        exact: [T].
        gramian: [T, T] of the exact gradients.

    Returns:
        NaN where one of them makes none.
    """
    squares = (weights @ gramian @ weights) * (exact @ gramian @ exact)
    return float((weights @ gramian @ exact) / squares.sqrt()) if squares > 0 else math.nan
