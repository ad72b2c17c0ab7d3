from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._composition import GradientComposition
from lepton.balance.base import Balancer
from lepton.errors import is_whole, require
from lepton.linalg import present_tasks, readable

__all__ = ["Every"]


@final
class Every(GradientComposition):
    """Another balancer's weights of the gradients, computed at every n-th step and held in between.

    A task that is absent when the weights are computed keeps the weight that it had; one that appears without
    having had any makes the weights be computed again at once.

    - `loss_weight`, sum of the weights and scale: as of the other balancer, at the step where they were computed.
    - On the CPU the other balancer rests in between. An accelerator would have to be asked which step it is, so
      there it runs, and its result and its change of state are discarded: the weights are the same.

    Args:
        balancer: a gradient balancer, or a composition around one.
        n: number of steps for which weights are held.

    Raises:
        ConfigurationError: `balancer` acts on the losses only, or `n` is below 1.

    Example:
        >>> import torch
        >>> from lepton.balance import MGDA
        >>> balancer = Every(MGDA(), n=2).bind(2)
        >>> for scale in (3.0, 1.0):
        ...     weights = balancer.weights(torch.tensor([[1.0, 0.0], [0.0, scale]]))
        >>> weights
        tensor([0.7500, 0.2500])
    """

    nesting = 3

    _held: Tensor
    _known: Tensor
    _step: Tensor

    def __init__(self, balancer: Balancer, n: int = 10) -> None:
        super().__init__(balancer)
        require(is_whole(n), "Every", "n", n, "a whole number, at least 1")
        self.n = n
        self.register_buffer("_step", torch.zeros((), dtype=torch.int64))

    def _build(self, n_tasks: int) -> None:
        super()._build(n_tasks)
        self.register_buffer("_held", torch.zeros(n_tasks))
        self.register_buffer("_known", torch.zeros(n_tasks, dtype=torch.bool))

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the held weights [T]; see `Balancer.weights`."""
        present = present_tasks(gramian)
        due = (self._step % self.n == 0) | (present & ~self._known).any()
        if not readable(due):
            self._renew(gramian, losses, present, due)
        elif bool(due):
            self._hold(self.balancer.weights(gramian, losses=losses), present)
        self._step += 1
        return torch.where(present, self._held, 0.0).to(gramian.dtype)

    def _hold(self, fresh: Tensor, where: Tensor) -> None:
        self._held.copy_(torch.where(where, fresh.to(self._held.dtype), self._held))
        self._known |= where

    def _renew(self, gramian: Tensor, losses: Tensor | None, present: Tensor, due: Tensor) -> None:
        state = [(buffer, buffer.clone()) for buffer in self.balancer.buffers()]
        self._hold(self.balancer.weights(gramian, losses=losses), present & due)
        for buffer, old in state:
            buffer.copy_(torch.where(due, buffer, old))

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"n={self.n}"
