"""Which heads are computed together, and how their common output is cut into the tasks' outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.tasks import Task

__all__ = ["STACK_SIZE", "ByTask", "Layout", "StackedHead", "StackedHeads", "is_plain_linear"]

STACK_SIZE = 64
"""From so many linear heads on, their weights are one parameter: a thousand small ones cost an optimiser more than
the whole balancing."""


class ByTask(nn.ModuleDict):
    """A module for each task. Unlike its base it takes any name, also one that modules use themselves, like `type`."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module


class StackedHeads(nn.Module):
    """The linear heads of many tasks as one weight [C, D] and one bias [C].

    Args:
        heads: name -> linear layer with a bias, whose values are taken over.
    """

    def __init__(self, heads: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([head.weight.detach() for head in heads.values()]))
        self.bias = nn.Parameter(torch.cat([head.bias.detach() for head in heads.values()]))
        self.rows: dict[str, slice] = {}
        start = 0
        for name, head in heads.items():
            self.rows[name] = slice(start, start + head.out_features)
            start += head.out_features


class StackedHead(nn.Module):
    """One task's linear layer: a few rows of a stack. It has no parameters of its own."""

    def __init__(self, stack: StackedHeads, name: str) -> None:
        super().__init__()
        # In a tuple, so that the stack is not registered once for each task.
        self._stack = (stack,)
        self.rows = stack.rows[name]
        self.in_features = stack.weight.shape[1]
        self.out_features = self.rows.stop - self.rows.start

    @property
    def stack(self) -> StackedHeads:
        """The heads that are stored together."""
        return self._stack[0]

    @property
    def weight(self) -> Tensor:
        """[C_k, D], a view."""
        return self.stack.weight[self.rows]

    @property
    def bias(self) -> Tensor:
        """[C_k], a view."""
        return self.stack.bias[self.rows]

    def apart(self) -> nn.Linear:
        """Return the same layer, with its gradient if it has one, in parameters of its own."""
        found = nn.Linear(self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        for own, stacked in ((found.weight, self.stack.weight), (found.bias, self.stack.bias)):
            own.data.copy_(stacked.detach()[self.rows])
            own.requires_grad_(stacked.requires_grad)
            own.grad = None if stacked.grad is None else stacked.grad[self.rows].clone()
        return found

    def forward(self, features: Tensor) -> Tensor:
        """Return the raw output [.., C_k] of features [.., D]."""
        return F.linear(features, self.weight, self.bias)


def is_plain_linear(head: nn.Module) -> bool:
    """Return whether fusing the head cannot bypass anything: a subclass or a hook may do more than the product."""
    return type(head) in (nn.Linear, StackedHead) and not (
        head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks
    )


@dataclass(frozen=True)
class FusedGroup:
    """Neighbouring fused tasks of equal kind and width."""

    names: tuple[str, ...]
    tasks: tuple[Task, ...]
    width: int


@dataclass(frozen=True)
class Layout:
    """The tasks at the fork: fused linear heads first, then heads that are run one by one.

    Attributes:
        fused: names of the tasks with fused heads.
        own: names of the others.
        order: for each of these tasks, fused ones first, its place among the model's tasks.
        segments: number of outputs of each fused head.
        heads: the fused heads.
        widths: the different numbers of features for which they were built.
        sources: the modules whose weights, one below the other, are those of the fused heads.
        groups: the fused tasks in groups that are finished together.
    """

    fused: tuple[str, ...]
    own: tuple[str, ...]
    order: tuple[int, ...]
    segments: tuple[int, ...]
    heads: tuple[nn.Linear | StackedHead, ...]
    widths: tuple[int, ...]
    sources: tuple[nn.Linear | StackedHead | StackedHeads, ...]
    groups: tuple[FusedGroup, ...]

    @classmethod
    def of(cls, tasks: Mapping[str, Task], heads: Mapping[str, nn.Module], fuse: Sequence[bool]) -> Layout:
        """Lay out the tasks; `fuse` says for each whether its head is fused."""
        names = list(tasks)
        fused = tuple(name for name, wanted in zip(names, fuse, strict=True) if wanted)
        own = tuple(name for name, wanted in zip(names, fuse, strict=True) if not wanted)
        linear = tuple(head for name in fused if isinstance(head := heads[name], (nn.Linear, StackedHead)))
        place = {name: number for number, name in enumerate(names)}
        order = tuple(place[name] for name in [*fused, *own])
        segments = tuple(head.out_features for head in linear)
        widths = tuple(dict.fromkeys(head.in_features for head in linear))
        return cls(fused, own, order, segments, linear, widths, _sources(linear), _groups(tasks, fused, segments))

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C] of the fused heads together."""
        if len(self.sources) == 1 and self.sources[0].bias is not None:
            return self.sources[0].weight, self.sources[0].bias
        weights: list[Tensor] = [source.weight for source in self.sources]
        biases: list[Tensor] = [
            weight.new_zeros(len(weight)) if source.bias is None else source.bias
            for source, weight in zip(self.sources, weights, strict=True)
        ]
        return torch.cat(weights), torch.cat(biases)

    def finish(self, found: dict[str, Tensor], together: Tensor) -> None:
        """Cut the fused outputs [.., C] into finished outputs by task, written into `found`."""
        start = 0
        for group in self.groups:
            size = group.width * len(group.names)
            raw = together[..., start : start + size]
            start += size
            if len(group.names) == 1:
                found[group.names[0]] = group.tasks[0].finish(raw)
                continue
            stacked = raw.reshape(*raw.shape[:-1], len(group.names), group.width).movedim(-2, 0)
            finished = type(group.tasks[0]).group_finish(group.tasks, stacked)
            found.update(zip(group.names, finished.unbind(0), strict=True))


def _sources(
    heads: Sequence[nn.Linear | StackedHead],
) -> tuple[nn.Linear | StackedHead | StackedHeads, ...]:
    """Return the heads, with a stack in the place of its heads if all of them stand there in its order."""
    found: list[nn.Linear | StackedHead | StackedHeads] = []
    for place, head in enumerate(heads):
        if not isinstance(head, StackedHead):
            found.append(head)
            continue
        count = len(head.stack.rows)
        rows = [h.rows for h in heads[place : place + count] if isinstance(h, StackedHead) and h.stack is head.stack]
        if rows == list(head.stack.rows.values()):
            found.append(head.stack)
        elif head.stack not in found:
            found.append(head)
    return tuple(found)


def _groups(tasks: Mapping[str, Task], fused: Sequence[str], segments: Sequence[int]) -> tuple[FusedGroup, ...]:
    runs: list[tuple[list[str], int]] = []
    last: Hashable = None
    for name, width in zip(fused, segments, strict=True):
        key = tasks[name].group_key
        kind = None if key is None else (key, width)
        if kind is not None and kind == last:
            runs[-1][0].append(name)
        else:
            runs.append(([name], width))
        last = kind
    return tuple(FusedGroup(tuple(names), tuple(tasks[name] for name in names), width) for names, width in runs)
