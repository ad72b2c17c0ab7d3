from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lepton.balance.base import LossBalancer
from lepton.errors import is_number, is_whole, require

__all__ = ["DynamicWeightAverage", "dwa_weights"]


def dwa_weights(ratios: Tensor, temperature: float) -> Tensor:
    """Return T * softmax(ratios / temperature) for the ratios [T] of each task's last two average losses."""
    return len(ratios) * torch.softmax(ratios / temperature, 0)


@final
class DynamicWeightAverage(LossBalancer):
    """Dynamic weight average (DWA): more weight to the tasks whose losses fall more slowly.

    With the average losses A_k of the last two epochs and the temperature tau the loss is sum_k w_k L_k,

        w = T softmax(r / tau),    r_k = A_k(last) / A_k(before)

    r_k = 1 until task k has two averages. Liu 2019, tau = 2.

    An epoch is `window` batches in which the task was present, counted for each task by itself, since a plain
    loop has no epochs and a task may be absent. With `window=None` epochs end when `end_epoch()` is called.

    - `loss_weight`: linear; the ratios do not see it.
    - The weights sum to T. The gradient scales with the losses, the weights do not.

    Args:
        temperature: tau; the larger, the more equal the weights.
        window: batches with a label of the task that count as one epoch; None: epochs end with `end_epoch()`.

    Example:
        >>> import torch
        >>> balancer = DynamicWeightAverage(window=1).bind(2)
        >>> for losses in ([4.0, 4.0], [4.0, 2.0]):
        ...     balancer.observe(torch.tensor(losses), torch.tensor([True, True]))
        >>> balancer.task_weights()
        tensor([1.1244, 0.8756])
    """

    aliases = ("dwa",)
    _sum: Tensor
    _count: Tensor
    _last: Tensor
    _before: Tensor
    _closed: Tensor

    def __init__(self, temperature: float = 2.0, *, window: int | None = 100) -> None:
        super().__init__()
        owner = type(self).__name__
        valid = is_number(temperature) and 0 < temperature < math.inf
        require(valid, owner, "temperature", temperature, "a number greater than 0 and finite")
        require(window is None or is_whole(window), owner, "window", window, "a whole number, at least 1, or None")
        self.temperature = temperature
        self.window = window

    def _build(self, n_tasks: int) -> None:
        for name in ("_sum", "_last", "_before"):
            self.register_buffer(name, torch.zeros(n_tasks))
        for name in ("_count", "_closed"):
            self.register_buffer(name, torch.zeros(n_tasks, dtype=torch.int64))

    def task_weights(self) -> Tensor:
        """Return w [T]; see `Balancer.task_weights`."""
        known = (self._closed >= 2) & (self._before > 0)
        ratios = torch.where(known, self._last / torch.where(known, self._before, 1.0), 1.0)
        return dwa_weights(ratios, self.temperature)

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Add the losses to the running averages; see `Balancer.observe`."""
        self._sum += torch.where(present, losses, 0.0)
        self._count += present
        if self.window is not None:
            self._close(self._count >= self.window)

    def end_epoch(self) -> None:
        """Close the running average of every task that was seen since the last one was closed."""
        self._close(self._count > 0)

    def _close(self, due: Tensor) -> None:
        self._before.copy_(torch.where(due, self._last, self._before))
        self._last.copy_(torch.where(due, self._sum / self._count.clamp_min(1), self._last))
        self._sum.masked_fill_(due, 0.0)
        self._count.masked_fill_(due, 0)
        self._closed += due

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"temperature={self.temperature}, window={self.window}"
