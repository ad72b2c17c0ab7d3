"""A model with more tasks than before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from lepton.balance import Balancer
from lepton.errors import ConfigurationError, require
from lepton.nn import AdaptedTrunk, LeptonModel, add_adapter, add_lora, freeze
from lepton.tasks import Task

__all__ = ["AdapterName", "extended", "separate_head"]

AdapterName = Literal["none", "head", "lora", "adapter"]
"""What learns of a model that gets more tasks: everything, the new heads, or adapters and the new heads."""


class SingleHead(nn.Linear):
    """A linear head that is computed by itself: in one product with the others, it would change their last bits."""


def extended(
    model: LeptonModel,
    tasks: Sequence[Task],
    *,
    adapter: AdapterName = "none",
    size: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    balancer: Balancer | None = None,
) -> LeptonModel:
    """Return a copy of a model with more tasks; its trunk and its heads stay as they were learned.

    With `adapter="lora"` or `"adapter"` each new task reads the trunk through an adapter of its name, and with
    `"head"` as it is; then nothing else learns (`freeze`), and in eval mode the old tasks' outputs stay the same bit
    for bit, whatever the new tasks learn. With `"none"` everything learns: see `LwF`, `EWC`, `Replay` and `AGEM`.

    Args:
        model: a model, which is left alone.
        tasks: the new tasks.
        adapter: see above.
        size: rank of `"lora"`, features of the bottleneck of `"adapter"`.
        alpha: of `"lora"`; see `LoRA.add`.
        targets: layers that get an adapter; see `add_lora` and `add_adapter`.
        balancer: method of the new model; `Equal()` by default, since a method with state is made for its tasks.

    Raises:
        ConfigurationError: a task of a name that exists, an unknown adapter, layers that are not there.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification
        >>> from lepton.transfer import extended
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        >>> model = lepton.LeptonModel(trunk, [Classification("old", classes=3)]).eval()
        >>> more = extended(model, [Classification("new", classes=2)], adapter="lora", size=2).eval()
        >>> x = torch.randn(5, 4)
        >>> torch.equal(more(x)[0]["old"], model(x)[0]["old"]), list(more(x)[0])
        (True, ['old', 'new'])
    """
    names = get_args(AdapterName)
    require(adapter in names, "extended", "adapter", adapter, f"one of {names}")
    taken = [task.name for task in tasks if task.name in model.task_names]
    if taken:
        raise ConfigurationError(
            f"the model already has tasks {taken}; its tasks are {list(model.task_names)}: choose other names."
        )
    every = [model.task(name) for name in model.task_names]
    # Together, so that what is named as shared is a part of the copied trunk.
    trunk, shared, old = copy.deepcopy((model.trunk, model.fork.shared, every))
    if adapter != "none":
        freeze(trunk)
        trunk = _adapted(trunk, model.task_names, tasks, adapter, size, alpha, targets)
    found = LeptonModel(
        trunk,
        [*old, *tasks],
        balancer=balancer,
        gradients=model.fork.gradients,
        memory_budget=model.fork.memory_budget,
        features=_head_width(model),
        output=model.output,
        feature_dim=model.fork.feature_dim,
        shared=None if model.fork.shared is model.trunk else shared,
        gradient_accumulation_steps=model.fork.gradient_accumulation_steps,
    ).to(model.device)
    _take_over_heads(model, found)
    if adapter == "head":
        for task in tasks:
            separate_head(found, task.name)
    if adapter != "none":
        for name in model.task_names:
            found.heads[name].requires_grad_(False)
    return found.train(model.training)


def _adapted(
    trunk: nn.Module,
    old: Sequence[str],
    tasks: Sequence[Task],
    adapter: str,
    size: int,
    alpha: float | None,
    targets: Sequence[str] | None,
) -> nn.Module:
    """Return the trunk with an adapter for each new task."""
    inner, before = trunk, dict.fromkeys(old, None)
    if isinstance(trunk, AdaptedTrunk):
        inner, before = trunk.trunk, trunk.adapters
    if adapter == "head":
        return trunk if inner is trunk else AdaptedTrunk(inner, {**before, **{task.name: None for task in tasks}})
    for task in tasks:
        if adapter == "lora":
            add_lora(inner, task.name, rank=size, alpha=alpha, targets=targets)
        else:
            add_adapter(inner, task.name, size=size, targets=targets)
    return AdaptedTrunk(inner, {**before, **{task.name: task.name for task in tasks}})


def _head_width(model: LeptonModel) -> int | None:
    """Return the number of features that the linear heads read."""
    widths = [head.in_features for head in model.heads.values() if isinstance(head, nn.Linear)]
    return widths[0] if widths else None


@torch.no_grad()
def _take_over_heads(model: LeptonModel, found: LeptonModel) -> None:
    """Give the old heads their weights, and the new ones their dtype."""
    stacks = [module for module in found.children() if module is not found.trunk]
    dtype = next((p.dtype for name in model.task_names for p, _ in model.head_state(name)), torch.float32)
    for module in stacks:
        module.to(dtype)
    for name in model.task_names:
        pairs = zip(found.head_state(name), model.head_state(name), strict=True)
        for (new, new_rows), (old, old_rows) in pairs:
            new[new_rows] = old[old_rows]


def separate_head(model: LeptonModel, name: str) -> None:
    """Let a plain linear head of a model be computed by itself, and not in one product with the others.

    In one product, a further head would change the last bits of the others' outputs.

    Args:
        model: changed in place.
        name: the task.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification
        >>> from lepton.transfer import separate_head
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Classification("new", classes=2)])
        >>> separate_head(model, "new")
        >>> type(model.heads["new"]).__name__
        'SingleHead'
    """
    head = model.heads[name]
    if type(head) is nn.Linear:
        single = SingleHead(head.in_features, head.out_features).to(head.weight.device, head.weight.dtype)
        single.load_state_dict(head.state_dict())
        model.heads[name] = single
