"""`AdaptedTrunk`: a trunk that some tasks read through adapters of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lepton.errors import ConfigurationError, nearest, require
from lepton.nn._adapted import adapter_names, use_adapter

__all__ = ["AdaptedTrunk", "plain_trunk"]


class AdaptedTrunk(nn.Module):
    """A trunk with adapters, and which task reads it through which.

    It runs the trunk once without any adapter, for the tasks that have none, and once for every adapter. What the
    tasks without one get is, bit for bit, what the trunk gave before it had adapters, and in eval mode a `LeptonModel`
    computes their linear heads in one product as before: their outputs stay the same under `torch.equal`, as long as
    nothing but adapters and the heads of other tasks is trained (`freeze`).

    The features are a mapping task -> features, which the fork takes as features for each task: a balancer compares
    the tasks whose pass learns something. Tasks with adapters of their own on a frozen trunk share nothing that
    learns, and there is nothing to balance between them. Activation checkpointing inside the trunk does not go with
    it: blocks that are run again in backward would be run without their adapter.

    Args:
        trunk: a trunk that `add_lora` or `add_adapter` gave adapters.
        adapters: task -> name of its adapter, or None: for all tasks of the model.

    Attributes:
        trunk: the trunk.
        adapters: the mapping.

    Raises:
        ConfigurationError: no task, or an adapter that the trunk does not have.

    Example:
        >>> import torch, lepton
        >>> from lepton.nn import AdaptedTrunk, add_lora, freeze
        >>> from lepton.tasks import Classification
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        >>> frozen = freeze(trunk)
        >>> names = add_lora(trunk, "new", rank=2)
        >>> tasks = [Classification("old", classes=3), Classification("new", classes=2)]
        >>> model = lepton.LeptonModel(AdaptedTrunk(trunk, {"old": None, "new": "new"}), tasks)
        >>> outputs, task_weights = model(torch.ones(2, 4))
        >>> outputs["new"].shape, sum(p.numel() for p in model.trunk.parameters() if p.requires_grad)
        (torch.Size([2, 2]), 24)
    """

    def __init__(self, trunk: nn.Module, adapters: Mapping[str, str | None]) -> None:
        super().__init__()
        require(isinstance(trunk, nn.Module), "AdaptedTrunk", "trunk", trunk, "a module")
        if isinstance(trunk, AdaptedTrunk):
            raise ConfigurationError(
                "AdaptedTrunk: this trunk is one already: pass its .trunk, and the adapters of all tasks together."
            )
        named = isinstance(adapters, Mapping) and bool(adapters)
        require(named, "AdaptedTrunk", "adapters", adapters, "a mapping from every task to its adapter's name or None")
        known = adapter_names(trunk)
        for task, name in adapters.items():
            if name is not None and name not in known:
                raise ConfigurationError(
                    f"AdaptedTrunk: the adapter of {task!r} is {name!r}, which the trunk does not have; its adapters "
                    f"are {known}.{nearest(str(name), known)}"
                )
        self.trunk = trunk
        self.adapters = dict(adapters)

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Return task -> features, from the inputs that the trunk takes."""
        passes: dict[str | None, Any] = {}
        for name in dict.fromkeys(self.adapters.values()):
            with use_adapter(self.trunk, name):
                passes[name] = self.trunk(*inputs, **named)
        return {task: _of_task(passes[name], task, self.adapters) for task, name in self.adapters.items()}

    def extra_repr(self) -> str:
        """The adapters by task."""
        return f"adapters={self.adapters}"


def plain_trunk(trunk: nn.Module) -> nn.Module:
    """Return the trunk itself, which knows its arguments and its width, out of an `AdaptedTrunk`."""
    return trunk.trunk if isinstance(trunk, AdaptedTrunk) else trunk


def _of_task(found: Any, task: str, tasks: Mapping[str, str | None]) -> Any:
    """Return a task's features; a trunk may itself give a mapping from all tasks."""
    return found[task] if isinstance(found, Mapping) and set(found) == set(tasks) else found
