from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._composition import GradientComposition
from lepton.balance.base import Balancer
from lepton.errors import is_number, require
from lepton.linalg import present_tasks

__all__ = ["Smooth"]


@final
class Smooth(GradientComposition):
    """The running average of another balancer's weights of the gradients, since one batch's are noisy.

        a <- decay a + (1 - decay) w,    weights a_k / (1 - decay^m_k)

    with w the other balancer's weights and m_k the number of batches in which task k was present: the first
    weights are w itself. An absent task keeps its average. As the moving average of MoCo (Fernando 2023), but of
    the weights.

    - `loss_weight`, sum of the weights and scale: as of the other balancer, averaged over time.

    Args:
        balancer: a gradient balancer, or a composition around one.
        decay: in [0, 1); 0.9 averages over about ten batches.

    Raises:
        ConfigurationError: `balancer` acts on the losses only, or `decay` is out of range.

    Example:
        >>> import torch
        >>> from lepton.balance import MGDA
        >>> balancer = Smooth(MGDA(), decay=0.5).bind(2)
        >>> for _ in range(2):
        ...     weights = balancer.weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        >>> weights
        tensor([0.7500, 0.2500])
    """

    nesting = 1

    _average: Tensor
    _steps: Tensor

    def __init__(self, balancer: Balancer, decay: float = 0.9) -> None:
        super().__init__(balancer)
        require(is_number(decay) and 0 <= decay < 1, "Smooth", "decay", decay, "a number in [0, 1)")
        self.decay = decay

    def _build(self, n_tasks: int) -> None:
        super()._build(n_tasks)
        self.register_buffer("_average", torch.zeros(n_tasks))
        self.register_buffer("_steps", torch.zeros(n_tasks))

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the averaged weights [T]; see `Balancer.weights`."""
        present = present_tasks(gramian)
        fresh = self.balancer.weights(gramian, losses=losses).to(self._average.dtype)
        self._average.copy_(torch.where(present, fresh.lerp(self._average, self.decay), self._average))
        self._steps += present
        corrected = self._average / (1 - self.decay ** self._steps.clamp_min(1))
        return torch.where(present, corrected, 0.0).to(gramian.dtype)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"decay={self.decay}"
