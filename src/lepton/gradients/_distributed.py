"""Sums over the processes of a data-parallel run, on a group of the fork's own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from lepton.balance import Balancer
from lepton.gradients._ledger import ledger_of

__all__ = ["is_distributed", "sum_over_processes"]


def is_distributed() -> bool:
    """Return whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.library.custom_op("lepton::sum_over_processes", mutates_args=())
def _sum_over_processes(handle: Tensor, values: Tensor) -> Tensor:
    summed = values.detach().clone()
    ledger_of(Balancer.of(handle)).all_reduce(summed)
    return summed


@_sum_over_processes.register_fake
def _(handle: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(values)


def sum_over_processes(handle: Tensor, values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes, detached; the values themselves in a single process."""
    if not is_distributed():
        return values.detach()
    summed: Tensor = _sum_over_processes(handle, values.detach())
    return summed
