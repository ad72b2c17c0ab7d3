from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lepton.balance.base import LossBalancer
from lepton.errors import require, shape_of

__all__ = ["Fixed"]


@final
class Fixed(LossBalancer):
    """Weights that the user chose, for example by a search: the strongest simple baseline (Xin 2022).

    The loss is sum_k a_k L_k over the present tasks.

    - `loss_weight`: linear, it multiplies a_k.
    - The weights are a, as given, and sum to what the user chose. The gradient scales with the losses.

    Args:
        weights: a, one finite number for each task, not negative, not all zero.

    Raises:
        ConfigurationError: the weights are not of that kind, or their number is not the number of tasks.

    Example:
        >>> Fixed([1.0, 0.5]).bind(2).task_weights()
        tensor([1.0000, 0.5000])
    """

    aliases = ("constant",)
    _weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        allowed = "a list of numbers, finite, not negative and not all zero"
        require(len(shape_of(weights) or ()) == 1, "Fixed", "weights", weights, allowed)
        values = [float(value) for value in weights]
        valid = all(math.isfinite(v) and v >= 0 for v in values) and any(values)
        require(valid, "Fixed", "weights", values, allowed)
        self.register_buffer("_weights", torch.tensor(values))

    def _build(self, n_tasks: int) -> None:
        require(len(self._weights) == n_tasks, "Fixed", "weights", self._weights.tolist(), f"{n_tasks} numbers")

    def task_weights(self) -> Tensor:
        """Return a [T]; see `Balancer.task_weights`."""
        return self._weights

    def extra_repr(self) -> str:
        """Return the weights."""
        return f"weights={[round(value, 4) for value in self._weights.tolist()]}"
