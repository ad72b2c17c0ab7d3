from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lepton.balance._adam import adam_step
from lepton.balance._log import log_losses
from lepton.balance.base import LossBalancer
from lepton.errors import is_number, require

__all__ = ["FAMO", "famo_gradient"]


def famo_gradient(logits: Tensor, fall: Tensor, compared: Tensor) -> Tensor:
    """Return the gradient [T] of the logits: the softmax's Jacobian times the fall of the log losses.

    Args:
        logits: xi [T].
        fall: log loss before minus log loss after [T].
        compared: [T] bool, where `fall` is known; the softmax runs over these.
    """
    z = torch.softmax(torch.where(compared, logits, -torch.inf), 0).nan_to_num()
    fall = torch.where(compared, fall, 0.0)
    return z * (fall - (z * fall).sum())


@final
class FAMO(LossBalancer):
    """Fast adaptive multitask optimisation: keep all log losses falling at the same rate.

    With the logits xi and z = softmax(xi) the loss over the present tasks is

        c sum_k z_k log L_k,    c = 1 / sum_k (z_k / L_k), held constant

    and after every step Adam with weight decay moves xi along J' (log L(before) - log L(after)), J the softmax's
    Jacobian, so that a task whose loss fell more gets less. Liu 2023; learning rate 0.025, decay 0.001.

    As published the losses after the step are those of the same batch: `reobserve`, which a Trainer calls. In a
    plain loop the next batch's losses stand in for them (lazily, with the next `observe`); a task is then
    compared with the last batch in which it was present.

    - Losses must be positive.
    - `loss_weight`: cancels, since log(a L) = log a + log L.
    - `task_weights` z sum to one; the gradient's weights c z_k / L_k sum to one too. So the gradient does not
      change with the scale of any loss, up to the common factor c.

    Args:
        learning_rate: of Adam on the logits.
        decay: of the logits, added to their gradient.

    Example:
        >>> import torch
        >>> balancer, both = FAMO().bind(2), torch.tensor([True, True])
        >>> balancer.observe(torch.tensor([1.0, 1.0]), both)
        >>> balancer.reobserve(torch.tensor([0.5, 1.0]), both)
        >>> balancer.task_weights()
        tensor([0.4875, 0.5125])
    """

    reevaluates = True
    logarithmic = True
    _logits: Tensor
    _mean: Tensor
    _square: Tensor
    _steps: Tensor
    _log_losses: Tensor
    _stored: Tensor

    def __init__(self, *, learning_rate: float = 0.025, decay: float = 1e-3) -> None:
        super().__init__()
        moves = is_number(learning_rate) and 0 < learning_rate < math.inf
        require(moves, "FAMO", "learning_rate", learning_rate, "a number greater than 0 and finite")
        decays = is_number(decay) and 0 <= decay < math.inf
        require(decays, "FAMO", "decay", decay, "a number, at least 0 and finite")
        self.learning_rate = learning_rate
        self.decay = decay

    def _build(self, n_tasks: int) -> None:
        for name in ("_logits", "_mean", "_square", "_steps", "_log_losses"):
            self.register_buffer(name, torch.zeros(n_tasks))
        self.register_buffer("_stored", torch.zeros(n_tasks, dtype=torch.bool))

    def task_weights(self) -> Tensor:
        """Return z [T]; see `Balancer.task_weights`."""
        return torch.softmax(self._logits, 0)

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss; see `Balancer.combine`."""
        logs = log_losses(losses, present)
        inverse = torch.where(present, weights * torch.exp(-logs), 0.0).sum()
        scale = 1 / torch.where(inverse > 0, inverse, 1.0).detach()
        return scale * torch.where(present, weights * logs, 0.0).sum()

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Compare with the stored losses where nothing else did, then store these; see `Balancer.observe`."""
        logs = log_losses(losses, present)
        self._update(logs, self._stored & present)
        self._log_losses.copy_(torch.where(present, logs, self._log_losses))
        self._stored |= present

    def reobserve(self, losses: Tensor, present: Tensor) -> None:
        """Compare with the stored losses of the same batch, which are used up by it; see `Balancer.reobserve`."""
        compared = self._stored & present
        self._update(log_losses(losses, present), compared)
        self._stored &= ~compared

    def _update(self, logs: Tensor, compared: Tensor) -> None:
        gradient = famo_gradient(self._logits, self._log_losses - logs, compared) + self.decay * self._logits
        moments = (self._mean, self._square, self._steps)
        adam_step(self._logits, gradient, moments, self.learning_rate, compared)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"learning_rate={self.learning_rate}, decay={self.decay}"
