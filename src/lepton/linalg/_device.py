"""Where a solver may look at its own numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["holds", "readable"]


def readable(tensor: Tensor) -> bool:
    """Return whether reading `tensor` costs nothing: a plain tensor on the CPU.

    A subclass is a fake, functional or traced tensor, which has no value to read.
    """
    return type(tensor) is Tensor and tensor.device.type == "cpu"


def holds(condition: Tensor) -> bool:
    """Return whether `condition` is true everywhere, as far as that is known without synchronisation."""
    return readable(condition) and bool(torch.all(condition))
