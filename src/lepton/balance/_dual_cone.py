"""What the balancers that project onto the dual cone of the gradients have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import is_number, require
from lepton.linalg import normalize

__all__ = ["DualConeBalancer", "regularized"]


def regularized(gramian: Tensor, regularization: float) -> Tensor:
    """Return a Gramian [T, T], float64, whose trace was scaled to one before `regularization` came on its diagonal."""
    scaled = normalize(gramian)
    return scaled + regularization * torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)


class DualConeBalancer(GradientBalancer):
    """A balancer that projects onto {d : J d >= 0}, the directions in which no task gets worse; J, gradients as rows.

    Args:
        regularization: on the diagonal of the Gramian of trace one; it makes the programs strictly convex.

    Raises:
        ConfigurationError: `regularization` is out of range.
    """

    def __init__(self, *, regularization: float = 1e-4) -> None:
        super().__init__()
        valid = is_number(regularization) and 0 < regularization < math.inf
        allowed = "a number greater than 0 and finite"
        require(valid, type(self).__name__, "regularization", regularization, allowed)
        self.regularization = regularization

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"regularization={self.regularization}"
