from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._composition import GradientComposition
from lepton.balance.base import Balancer
from lepton.errors import is_number, require
from lepton.linalg import present_tasks

__all__ = ["ClipWeights"]


@final
class ClipWeights(GradientComposition):
    """Another balancer's weights of the gradients, kept between two bounds.

    The weight of a present task is min(max(w_k, lower), upper), w the other balancer's weights; of an absent one 0.

    - `loss_weight` and scale: as of the other balancer, within the bounds.
    - The weights no longer sum to what that balancer's sum to.

    Args:
        balancer: a gradient balancer, or a composition around one.
        min: the lower bound.
        max: the upper bound, not below the lower one.

    Raises:
        ConfigurationError: `balancer` acts on the losses only, or the bounds are not in order.

    Example:
        >>> import torch
        >>> from lepton.balance import MGDA
        >>> ClipWeights(MGDA(), min=0.3, max=1.0).weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([0.7500, 0.3000])
    """

    nesting = 2

    def __init__(self, balancer: Balancer, min: float = 0.0, max: float = float("inf")) -> None:
        super().__init__(balancer)
        require(is_number(max) and max == max, "ClipWeights", "max", max, "a number")
        require(is_number(min) and min <= max, "ClipWeights", "min", min, f"a number at most max, which is {max}")
        self.min = min
        self.max = max

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the clipped weights [T]; see `Balancer.weights`."""
        clipped = self.balancer.weights(gramian, losses=losses).clamp(self.min, self.max)
        return torch.where(present_tasks(gramian), clipped, 0.0)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"min={self.min}, max={self.max}"
