from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from lepton.balance._adam import adam_step
from lepton.balance.base import Balancer
from lepton.errors import is_number, require
from lepton.linalg import count, present_tasks

__all__ = ["GradNorm", "grad_norm_gradient"]


def grad_norm_gradient(logits: Tensor, norms: Tensor, rates: Tensor, alpha: float, present: Tensor) -> Tensor:
    """Return the gradient [T] of sum_k | ||w_k g_k|| - G r_k^alpha | in the logits of w, with G and r held constant.

    Args:
        logits: a [T], of the weights w = T softmax(a).
        norms: ||w_k g_k|| [T].
        rates: r [T], each task's loss in parts of its first one.
        alpha: see `GradNorm`.
        present: [T] bool; the softmax runs over these.
    """
    number = count(present).to(norms)
    average = torch.where(present, norms, 0.0).sum() / number
    relative = rates / (torch.where(present, rates, 0.0).sum() / number).clamp_min(1e-30)
    signs = torch.where(present, torch.sign(norms - average * relative**alpha), 0.0)
    # d||w_k g_k|| / d a_k = ||w_k g_k|| (1 - z_k), and for other tasks' logits -||w_k g_k|| z_l.
    shares = torch.softmax(torch.where(present, logits, -torch.inf), 0).nan_to_num()
    pulls = signs * torch.where(present, norms, 0.0)
    return pulls - shares * pulls.sum()


@final
class GradNorm(Balancer):
    """Gradient normalisation: weights of the losses that bring the tasks' gradients to one length, slower tasks more.

    With the weights w = T softmax(a), G_k = ||w_k g_k||, G their mean over the present tasks, and each loss in parts of
    the task's first one, l_k = L_k / L_k(0), relative to their mean, r_k = l_k / mean(l), Adam minimises in a

        sum_k | G_k - G r_k^alpha |,    G and r held constant

    one step for each step of the network. The loss is sum_k w_k L_k, for the heads as well. Chen 2018, alpha = 1.5 as
    on NYUv2 and in LibMTL, from which the softmax is: the paper renormalises w after each step, the softmax keeps it
    positive too. How fast w moves is the learning rate, which LibMTL takes from the network's optimiser.

    - `loss_weight`: cancels once the weights have followed; linear until then.
    - The weights sum to T. They do not change with the scale of all losses, as Adam's steps do not.
    - The gradients' lengths are those of the chosen view; the paper takes those of the last shared layer.

    Args:
        alpha: how much more a task gets that is behind; 0 only makes lengths equal.
        learning_rate: of Adam on a.

    Example:
        >>> import torch
        >>> balancer = GradNorm(alpha=0.0, learning_rate=0.1).bind(2)
        >>> _ = balancer.weights(torch.diag(torch.tensor([1.0, 9.0])), losses=torch.ones(2))
        >>> balancer.task_weights()
        tensor([1.0997, 0.9003])
    """

    wants_losses = True
    _logits: Tensor
    _first: Tensor
    _mean: Tensor
    _square: Tensor
    _steps: Tensor

    def __init__(self, alpha: float = 1.5, *, learning_rate: float = 0.025) -> None:
        super().__init__()
        require(
            is_number(alpha) and 0 <= alpha < math.inf, "GradNorm", "alpha", alpha, "a number, at least 0 and finite"
        )
        moves = is_number(learning_rate) and 0 < learning_rate < math.inf
        require(moves, "GradNorm", "learning_rate", learning_rate, "a number greater than 0 and finite")
        self.alpha = alpha
        self.learning_rate = learning_rate

    def _build(self, n_tasks: int) -> None:
        for name in ("_logits", "_first", "_mean", "_square", "_steps"):
            self.register_buffer(name, torch.zeros(n_tasks))

    @property
    def uses_gramian(self) -> bool:
        """Always true: the lengths of the gradients stand on its diagonal."""
        return True

    def task_weights(self) -> Tensor:
        """Return w [T]; see `Balancer.task_weights`."""
        return len(self._logits) * torch.softmax(self._logits, 0)

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Move w, which the gradients have already, and return ones; see `Balancer.weights`."""
        assert losses is not None, "wants_losses"
        present = present_tasks(gramian)
        now = losses.to(self._first)
        self._first.copy_(torch.where((self._first == 0) & present, now, self._first))
        started = self._first != 0
        rates = torch.where(started, now / torch.where(started, self._first, 1.0), 1.0).clamp_min(0)
        norms = torch.diagonal(gramian).double().clamp_min(0).sqrt()
        norms = (norms / norms.amax().clamp_min(1e-300)).to(self._logits)  # Adam sees no common scale but its epsilon
        gradient = grad_norm_gradient(self._logits, norms, rates, self.alpha, present)
        adam_step(self._logits, gradient, (self._mean, self._square, self._steps), self.learning_rate, present)
        return present.to(gramian.dtype)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"alpha={self.alpha}, learning_rate={self.learning_rate}"
