from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._tracking import TrackingBalancer, scale_of_rows
from lepton.errors import is_number, is_whole, require

__all__ = ["ExcessMTL"]

_EPSILON = 1e-7


@final
class ExcessMTL(TrackingBalancer):
    r"""Excess risks: more weight to the tasks that are far from what they can reach, so label noise draws none.

    How far the loss of task k is above its minimum is estimated with a diagonal Hessian from its squared gradients,

        S_k <- S_k + g_k^2,    e_k = sum_i g_ki^2 / sqrt(S_ki + 1e-7)
        w_k <- w_k exp(eta e_k / e_k0) / sum_j w_j exp(eta e_j / e_j0)

    with g_k this batch's gradient of task k over the shared parameters, squares by element, w equal at first, and e_k0
    the mean of e_k over the first `warmup` batches with the task, in which w stays as it is; so tasks of different
    units compare. He 2024, equations 6 to 9. The paper warms up for three epochs, the authors' code for one batch.
    Their README trains Office-Home with eta = 1, the parser of their code has 0.01.

    - Only in the view `parameters`. It keeps T numbers for each shared parameter, and a copy while a step is under way.
    - `loss_weight`: a weight on the gradient; it cancels in w.
    - The weights sum to 1 over the present tasks.
    - An absent task keeps its sums and its share of the weight.

    Args:
        learning_rate: eta, positive.
        warmup: number of batches with a task in which its weight stays equal and e_k0 is measured; at least 1.

    Raises:
        ConfigurationError: an option is out of range.

    Example:
        >>> import torch
        >>> balancer = ExcessMTL().bind(2)
        >>> balancer.bind_parameters(2, torch.device("cpu"))
        >>> for jacobian in torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.5]]]):
        ...     weights, _ = balancer.track(jacobian)
        >>> weights
        tensor([0.6562, 0.3438])
    """

    aliases = ("excess",)
    _log_weights: Tensor
    _first: Tensor
    _steps: Tensor

    def __init__(self, learning_rate: float = 1.0, *, warmup: int = 1) -> None:
        super().__init__()
        good = is_number(learning_rate) and 0 < learning_rate < float("inf")
        require(good, "ExcessMTL", "learning_rate", learning_rate, "a positive number")
        require(is_whole(warmup), "ExcessMTL", "warmup", warmup, "a whole number, at least 1")
        self.learning_rate = learning_rate
        self.warmup = warmup

    def _build(self, n_tasks: int) -> None:
        self.register_buffer("_log_weights", torch.zeros(n_tasks))
        self.register_buffer("_first", torch.zeros(n_tasks))
        self.register_buffer("_steps", torch.zeros(n_tasks))

    def track(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return w [T] and the gradients themselves; see `Balancer.track`."""
        _, present = scale_of_rows(jacobian)
        self._steps += present
        risks = self._risks(jacobian)
        warm = self._steps <= self.warmup
        self._first += torch.where(present & warm, risks / self.warmup, 0.0)
        risks = risks / (self._first + _EPSILON)
        before = torch.where(present, self._log_weights, -torch.inf)
        after = before + self.learning_rate * torch.where(warm, 0.0, risks)
        same_sum = after - after.logsumexp(0) + before.logsumexp(0)
        self._log_weights.copy_(torch.where(present, same_sum, self._log_weights))
        return torch.where(present, after.softmax(0), 0.0).to(jacobian.dtype), jacobian

    def _risks(self, jacobian: Tensor) -> Tensor:
        """Add to the sums of squares, and return the estimates e [T]; row by row, to take no memory for all."""
        found = []
        for sums, row in zip(self.tracked, jacobian, strict=True):
            squares = row.to(sums.dtype).square()
            sums += squares
            found.append(squares.div_((sums + _EPSILON).sqrt_()).sum())
        return torch.stack(found)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"learning_rate={self.learning_rate}, warmup={self.warmup}"
