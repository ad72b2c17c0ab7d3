"""What the balancers that take a balancer have in common."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lepton.balance.base import Balancer
from lepton.errors import ConfigurationError, require

__all__ = ["Composition", "GradientComposition"]


class Composition(Balancer):
    """A balancer around a balancer: every hook is passed on, and a subclass changes one of them.

    It is on the side of the losses or of the gradients as the balancer that it takes is, so compositions nest.

    Args:
        balancer: the balancer that is taken.

    Attributes:
        nesting: where compositions are named without an order, as in a configuration, the smaller stands inside.
    """

    nesting: ClassVar[int] = 0

    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        require(isinstance(balancer, Balancer), type(self).__name__, "balancer", balancer, "a balancer, such as MGDA()")
        self.balancer = balancer
        self.wants_losses = balancer.wants_losses
        self.reevaluates = balancer.reevaluates
        self.logarithmic = balancer.logarithmic
        self.views = balancer.views
        self.uses_signs = balancer.uses_signs
        self.uses_jacobian = balancer.uses_jacobian
        self.replaces_gradient = balancer.replaces_gradient

    @property
    def uses_gramian(self) -> bool:
        """Whether the balancer that is taken uses it."""
        return self.balancer.uses_gramian

    def _build(self, n_tasks: int) -> None:
        self.balancer.bind(n_tasks, self.task_names)

    def takes_logarithms(self, present: Tensor) -> Tensor:
        """Pass on; see `Balancer.takes_logarithms`."""
        return self.balancer.takes_logarithms(present)

    def task_weights(self) -> Tensor:
        """Pass on; see `Balancer.task_weights`."""
        return self.balancer.task_weights()

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Pass on; see `Balancer.combine`."""
        return self.balancer.combine(losses, weights, present)

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Pass on; see `Balancer.observe`."""
        self.balancer.observe(losses, present)

    def reobserve(self, losses: Tensor, present: Tensor) -> None:
        """Pass on; see `Balancer.reobserve`."""
        self.balancer.reobserve(losses, present)

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Pass on; see `Balancer.weights`."""
        return self.balancer.weights(gramian, losses=losses)

    def masks(self, pulls: Tensor) -> Tensor:
        """Pass on; see `Balancer.masks`."""
        return self.balancer.masks(pulls)

    def bind_parameters(self, number: int, device: torch.device) -> None:
        """Pass on; see `Balancer.bind_parameters`."""
        self.balancer.bind_parameters(number, device)

    def track(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Pass on; see `Balancer.track`."""
        return self.balancer.track(jacobian)


class GradientComposition(Composition):
    """A composition that changes the weights of the gradients, so it needs a balancer that gives some.

    Args:
        balancer: a gradient balancer, or a composition around one.

    Raises:
        ConfigurationError: `balancer` acts on the losses only.
    """

    def __init__(self, balancer: Balancer) -> None:
        super().__init__(balancer)
        if not balancer.uses_gramian:
            raise ConfigurationError(
                f"{type(self).__name__}: {type(balancer).__name__} acts on the losses and gives no weights to the "
                f"gradients, so there is nothing to change. Use {type(balancer).__name__} alone, or put "
                f"{type(self).__name__} around a gradient balancer such as MGDA()."
            )
