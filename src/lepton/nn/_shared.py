"""Which parameters the view `parameters` differentiates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lepton.errors import ConfigurationError, ForkError, require
from lepton.gradients import ends_upstream

__all__ = ["Shared", "checked_shared", "shared_parameters"]

Shared = nn.Module | Tensor | Iterable[nn.Module | Tensor]
"""What may be named as shared: a module, a parameter, or any iterable of them."""


def shared_parameters(shared: Shared | None, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the trainable parameters to differentiate in the view `parameters`."""
    if shared is None:
        return _leaves_upstream(tensors)
    named: Iterable[Any] = [shared] if isinstance(shared, (nn.Module, Tensor)) else shared
    found: dict[int, Tensor] = {}
    for item in named:
        for parameter in item.parameters() if isinstance(item, nn.Module) else [item]:
            if parameter.requires_grad:
                found[id(parameter)] = parameter
    if not found:
        raise ConfigurationError('shared names no trainable parameter for gradients="parameters".')
    _refuse_sharded(found.values())
    return list(found.values())


def checked_shared(shared: Shared | None) -> Shared | None:
    """Return what is named as shared, refusing what is neither a module nor a tensor."""
    if shared is None or isinstance(shared, (nn.Module, Tensor)):
        return shared
    found = tuple(shared) if isinstance(shared, Iterable) else ()
    good = bool(found) and all(isinstance(item, (nn.Module, Tensor)) for item in found)
    require(good, "Fork", "shared", shared, "a module, a parameter, or several of them")
    return found


def _leaves_upstream(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters that the graph upstream ends in."""
    ends, _ = ends_upstream(tensors)
    found: list[Tensor] = [
        end for end in ends.values() if isinstance(end, nn.Parameter)
    ]  # inputs may require gradients too
    _refuse_sharded(found)
    return found


def _refuse_sharded(parameters: Iterable[Tensor]) -> None:
    from torch.distributed.tensor import DTensor  # imports torch.distributed: only where it may matter

    if any(isinstance(parameter, DTensor) for parameter in parameters):
        raise ForkError(
            'gradients="parameters" needs whole parameters, but these are sharded (FSDP2): choose '
            'gradients="fork_layer" or "features".'
        )
