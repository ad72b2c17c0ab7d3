"""A switch that makes every fork an identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["balancing_enabled", "no_balancing"]

_depth = 0


def balancing_enabled() -> bool:
    """Return whether forks balance here; false inside `no_balancing`."""
    return _depth == 0


@contextmanager
def no_balancing() -> Iterator[None]:
    """Make every fork that is *built* inside an identity, for attribution and for gradients of one task.

    Example:
        >>> import lepton, torch
        >>> from lepton.balance import MGDA
        >>> z = torch.ones(2, 3, requires_grad=True)
        >>> with lepton.no_balancing():
        ...     features = lepton.fork(z, ["a", "b"], balancer=MGDA())
        >>> features["a"] is z
        True
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
