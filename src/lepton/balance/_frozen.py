from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lepton.balance.base import LossBalancer
from lepton.errors import require, shape_of

__all__ = ["Frozen"]


@final
class Frozen(LossBalancer):
    """The plain weighted sum with weights taken from an earlier run of another balancer.

    Run a balancer briefly, record its weights w(1), ..., w(N), and train on with the loss

        sum_k a_k L_k,    a = T * mean_n w(n) / sum(mean_n w(n))

    at the cost of no balancer. About as good as balancing all the way (Gama 2025, "extract weights").

    - `loss_weight`: linear; use the same ones as in the run from which the weights come.
    - The weights sum to T, the number of tasks. The gradient scales with the losses.
    - A gradient balancer's weights touched the trunk only; here the heads are weighted too.

    Args:
        weights: [T] or [N, T], or a list of N tensors [T], the recorded weights; their mean must not be negative nor
            all zero.

    Raises:
        ConfigurationError: the weights are not of that kind, or their number is not the number of tasks.

    Example:
        >>> import torch
        >>> recorded = torch.tensor([[0.2, 0.8], [0.3, 0.7]])
        >>> Frozen(recorded).bind(2).task_weights()
        tensor([0.5000, 1.5000])
    """

    _weights: Tensor

    def __init__(self, weights: Tensor | Sequence[Tensor | float]) -> None:
        super().__init__()
        shape = shape_of(weights) or (0,)
        require(len(shape) <= 2 and 0 not in shape, "Frozen", "weights", weights, "numbers of shape [T] or [N, T]")
        values = torch.stack([torch.as_tensor(row, dtype=torch.float32).detach() for row in weights])
        mean = values.reshape(-1, values.shape[-1]).mean(0)
        valid = bool(torch.isfinite(mean).all() and (mean >= 0).all() and mean.sum() > 0)
        require(valid, "Frozen", "weights", mean.tolist(), "finite, on average not negative and not all zero")
        self.register_buffer("_weights", mean * (len(mean) / mean.sum()))

    def _build(self, n_tasks: int) -> None:
        require(len(self._weights) == n_tasks, "Frozen", "weights", self._weights.tolist(), f"{n_tasks} numbers")

    def task_weights(self) -> Tensor:
        """Return a [T]; see `Balancer.task_weights`."""
        return self._weights

    def extra_repr(self) -> str:
        """Return the weights."""
        return f"weights={[round(value, 4) for value in self._weights.tolist()]}"
