"""Adam for a balancer's own numbers, which no optimiser of the user's knows."""

from __future__ import annotations

from torch import Tensor

__all__ = ["adam_step"]

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


def adam_step(
    values: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor, Tensor], rate: float, at: Tensor
) -> None:
    """Move `values` [T] in place against `gradient` [T] (Kingma and Ba 2015), each entry counting its own steps.

    Args:
        values: what is moved.
        gradient: of what is minimised.
        moments: running mean, running mean of squares, number of steps [T], updated in place.
        rate: learning rate.
        at: [T] bool, the entries that take a step.
    """
    mean, square, steps = moments
    steps += at
    mean.copy_(mean.lerp(gradient, 1 - _BETAS[0]).where(at, mean))
    square.copy_(square.lerp(gradient.square(), 1 - _BETAS[1]).where(at, square))
    taken = steps.clamp_min(1)
    root = (square / (1 - _BETAS[1] ** taken)).sqrt() + _EPSILON
    values -= (rate * mean / (1 - _BETAS[0] ** taken) / root).where(at, mean.new_zeros(()))
