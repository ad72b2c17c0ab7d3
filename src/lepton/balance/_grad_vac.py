from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance._pcgrad import random_orders
from lepton.balance.base import GradientBalancer
from lepton.errors import is_number, is_whole, require
from lepton.linalg import present_tasks

__all__ = ["GradVac", "grad_vac_weights"]


def grad_vac_weights(gramian: Tensor, orders: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights [T] of the sum of the vaccinated gradients, and the cosines [T, T] that were met.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        orders: [T, T], in row i the order in which task i meets the others.
        target: [T, T] float64, in [-1, 1]: the cosine that task i is to have with task j at least.
    """
    present = present_tasks(gramian)
    exact = gramian.double()
    own = torch.arange(len(gramian), device=gramian.device)
    meets = present[:, None] & present[orders] & (orders != own[:, None])
    norms = torch.where(meets, torch.diagonal(exact).clamp_min(0).sqrt()[orders], 1.0)
    wanted = target.gather(1, orders)
    wanted_sines = (1 - wanted.square()).sqrt()
    # Nothing is added where no gradient is met, or where the target is an end, which no sum reaches.
    divisors = torch.where(meets & (wanted_sines > 0), norms * wanted_sines, torch.inf)
    squares, products = torch.diagonal(exact).clone(), exact.clone()  # of each changed gradient, with those at first
    steps, cosines = [], []
    for column, other in enumerate(orders.unbind(1)):
        product, norm = products.gather(1, other[:, None])[:, 0], norms[:, column]
        lengths = squares.clamp_min(1e-300).sqrt()
        cosine = (product / (lengths * norm)).clamp(-1, 1)
        sine = (1 - cosine.square()).sqrt()
        lift = wanted[:, column] * sine - cosine * wanted_sines[:, column]  # positive where the cosine is too small
        step = lengths * lift.clamp_min(0) / divisors[:, column]
        squares = squares + step * (2 * product + step * norm.square())
        products.addcmul_(step[:, None], exact.index_select(0, other))
        steps.append(step)
        cosines.append(cosine)
    added = torch.zeros_like(exact).scatter_(1, orders, torch.stack(steps, 1))
    met = target.scatter(1, orders, torch.where(meets, torch.stack(cosines, 1), wanted))
    return (present.double() + added.sum(0)).to(gramian.dtype), met


@final
class GradVac(GradientBalancer):
    r"""Gradient vaccine: every pair of gradients is brought to the cosine that it usually has.

    Every gradient g_i meets the others in a random order. Where its cosine phi with g_j is below the target p_ij,

        g_i <- g_i + ||g_i|| (p sqrt(1 - phi^2) - phi sqrt(1 - p^2)) / (||g_j|| sqrt(1 - p^2))  g_j

    with g_j as it was at first, after which the cosine is p; and the target follows what was met,
    p_ij <- (1 - b) p_ij + b phi. The trunk gets the sum of the results. Targets begin at zero, which is `PCGrad`.
    Wang 2021. With b = 0.01 a target averages over some hundred steps; LibMTL and TorchJD take 0.5, where it follows
    the last two or three.

    - `loss_weight`: linear where no cosine is below its target.
    - The weights sum to at least n, the number of present tasks, once no target is negative.
    - They do not change with the scale of all losses.
    - A pair of which one task is absent keeps its target. The order comes from `seed` and a counter in the state.

    Args:
        beta: b, how fast the targets follow, in [0, 1).
        seed: of the random orders.

    Example:
        >>> import torch
        >>> GradVac().bind(2).weights(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
        tensor([1.5000, 1.5000])
    """

    _step: Tensor
    _target: Tensor

    def __init__(self, beta: float = 0.01, *, seed: int = 0) -> None:
        super().__init__()
        require(is_number(beta) and 0 <= beta < 1, "GradVac", "beta", beta, "a number in [0, 1)")
        require(is_whole(seed, 1 - 2**63) and seed < 2**63, "GradVac", "seed", seed, "an integer of 64 bits")
        self.beta = beta
        self.seed = seed
        self.register_buffer("_step", torch.zeros((), dtype=torch.int64))

    def _build(self, n_tasks: int) -> None:
        self.register_buffer("_target", torch.zeros(n_tasks, n_tasks, dtype=torch.float64))

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the weights [T]; see `Balancer.weights`."""
        del losses
        orders = random_orders(present_tasks(gramian), self.seed, self._step.to(gramian.device))
        found, met = grad_vac_weights(gramian, orders, self._target)
        self._target.lerp_(met, self.beta)
        self._step += 1
        return found

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"beta={self.beta}, seed={self.seed}"
