"""Bounds on gradients: of one head, and of every unit relative to its weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lepton.train._processes import local, local_rows

__all__ = ["clip_adaptively", "clip_rows"]


def clip_rows(state: list[tuple[nn.Parameter, slice]], bound: float) -> None:
    """Bound the joint norm of the gradients of some rows of parameters, in place."""
    there = [(parameter.grad, local_rows(parameter, rows)) for parameter, rows in state if parameter.grad is not None]
    gradients = [local(gradient)[rows] for gradient, rows in there]
    if gradients:
        norm = nn.utils.get_total_norm(gradients)
        if any(hasattr(gradient, "to_local") for gradient, _ in there):
            square = norm.square()
            torch.distributed.all_reduce(square)
            norm = square.sqrt()
        for gradient in gradients:
            gradient.mul_((bound / (norm + 1e-6)).clamp(max=1.0))


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], bound: float, floor: float = 1e-3) -> None:
    """Bound the norm of each unit's gradient relative to the norm of its weights, in place.

        g_i <- g_i min(1, lambda max(|w_i|, floor) / |g_i|)

    with w_i the weights that enter unit i, a row of the parameter (all of it where it has one dimension), g_i their
    gradient, and lambda the bound. Adaptive gradient clipping: Brock, De, Smith and Simonyan 2021.

    Args:
        parameters: whose gradients are bounded; those without one are passed over.
        bound: lambda; the paper takes 0.01 for large batches, more for small ones.
        floor: so that weights that are zero can leave it.

    Example:
        >>> import torch
        >>> parameter = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        >>> parameter.grad = torch.tensor([[0.1, 0.0], [0.1, 0.0]])
        >>> clip_adaptively([parameter], bound=0.1)
        >>> parameter.grad
        tensor([[0.1000, 0.0000],
                [0.0500, 0.0000]])
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            allowed = bound * _unit_norms(parameter).clamp(min=floor)
            gradient.mul_((allowed / _unit_norms(gradient).clamp(min=1e-12)).clamp(max=1.0))


def _unit_norms(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) or None  # a bias is one unit
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    return norms
