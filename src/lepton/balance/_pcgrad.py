from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import is_whole, require
from lepton.linalg import counter_uniform, present_tasks

__all__ = ["PCGrad", "pcgrad_weights", "random_orders"]


def random_orders(present: Tensor, seed: int, step: Tensor) -> Tensor:
    """Return [T, T] int64: in row i the tasks in the random order in which task i meets them.

    The draws are numbered by the rank among the present tasks, so that an absent task does not change them.
    """
    rank = present.cumsum(0)
    draws = counter_uniform(seed, step, rank[:, None], rank[None, :])
    return torch.where(present, draws, 2.0).argsort(dim=1, stable=True)


def pcgrad_weights(gramian: Tensor, orders: Tensor) -> Tensor:
    """Return the weights [T] of the sum of the gradients, each freed of its conflicts one after the other.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        orders: [T, T], in row i the order in which task i meets the others.
    """
    present = present_tasks(gramian)
    exact = gramian.double()
    own = torch.arange(len(gramian), device=gramian.device)
    inverse = torch.where(present, -1 / torch.where(present, torch.diagonal(exact), 1.0), 0.0)
    lengths = torch.where(orders == own[:, None], 0.0, inverse[orders])
    rows = torch.diag(present.double())
    for other, length in zip(orders.unbind(1), lengths.unbind(1), strict=True):
        product = (rows * exact.index_select(0, other)).sum(1)
        rows.scatter_add_(1, other.unsqueeze(1), (product.clamp_max(0) * length).unsqueeze(1))
    return rows.sum(0).to(gramian.dtype)


@final
class PCGrad(GradientBalancer):
    r"""Projecting conflicting gradients: gradient surgery.

    Every gradient g_i meets the others in a random order, and where <g_i, g_j> < 0 loses that part:

        g_i <- g_i - <g_i, g_j> / ||g_j||^2  g_j

    with g_j as it was at first. The trunk gets the sum of the results. Yu 2020; no hyperparameters.

    - `loss_weight`: linear where nothing conflicts; the part that is removed from g_i scales with it too.
    - The weights sum to at least n, the number of present tasks, and are one where nothing conflicts.
    - They do not change with the scale of all losses.
    - The order comes from `seed` and a counter in the state, equal on all devices and processes.

    Args:
        seed: of the random orders.

    Example:
        >>> import torch
        >>> PCGrad().weights(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
        tensor([1.5000, 1.5000])
    """

    _step: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        require(is_whole(seed, 1 - 2**63) and seed < 2**63, "PCGrad", "seed", seed, "an integer of 64 bits")
        self.seed = seed
        self.register_buffer("_step", torch.zeros((), dtype=torch.int64))

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the weights [T]; see `Balancer.weights`."""
        del losses
        orders = random_orders(present_tasks(gramian), self.seed, self._step.to(gramian.device))
        self._step += 1
        return pcgrad_weights(gramian, orders)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"seed={self.seed}"
