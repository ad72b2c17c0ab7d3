"""Which heads are computed together, and how their common output is cut into the tasks' outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton.tasks import Task

__all__ = ["Layout", "is_plain_linear"]


def is_plain_linear(head: nn.Module) -> bool:
    """Return whether fusing the head cannot bypass anything: a subclass or a hook may do more than the product."""
    return type(head) is nn.Linear and not (
        head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks
    )


@dataclass(frozen=True)
class Run:
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
        runs: the fused tasks in groups that are finished together.
    """

    fused: tuple[str, ...]
    own: tuple[str, ...]
    order: tuple[int, ...]
    segments: tuple[int, ...]
    heads: tuple[nn.Linear, ...]
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, tasks: Mapping[str, Task], heads: Mapping[str, nn.Module], fuse: Sequence[bool]) -> Layout:
        """Lay out the tasks; `fuse` says for each whether its head is fused."""
        names = list(tasks)
        fused = tuple(name for name, wanted in zip(names, fuse, strict=True) if wanted)
        own = tuple(name for name, wanted in zip(names, fuse, strict=True) if not wanted)
        linear = tuple(head for name in fused if isinstance(head := heads[name], nn.Linear))
        place = {name: number for number, name in enumerate(names)}
        order = tuple(place[name] for name in [*fused, *own])
        segments = tuple(head.out_features for head in linear)
        return cls(fused, own, order, segments, linear, _runs(tasks, fused, segments))

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C] of the fused heads together."""
        # Not by attribute: for a thousand heads the module's look-up takes longer than the copy.
        weights: list[Tensor | None] = [head._parameters["weight"] for head in self.heads]
        biases: list[Tensor | None] = [head._parameters["bias"] for head in self.heads]
        present = [weight for weight in weights if weight is not None]
        filled = [
            weight.new_zeros(size) if bias is None else bias
            for weight, bias, size in zip(present, biases, self.segments, strict=True)
        ]
        return torch.cat(present), torch.cat(filled)

    def finish(self, found: dict[str, Tensor], together: Tensor) -> None:
        """Cut the fused outputs [.., C] into finished outputs by task, written into `found`."""
        start = 0
        for run in self.runs:
            size = run.width * len(run.names)
            raw = together[..., start : start + size]
            start += size
            if len(run.names) == 1:
                found[run.names[0]] = run.tasks[0].finish(raw)
                continue
            stacked = raw.reshape(*raw.shape[:-1], len(run.names), run.width).movedim(-2, 0)
            finished = type(run.tasks[0]).group_finish(run.tasks, stacked)
            found.update(zip(run.names, finished.unbind(0), strict=True))


def _runs(tasks: Mapping[str, Task], fused: Sequence[str], segments: Sequence[int]) -> tuple[Run, ...]:
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
    return tuple(Run(tuple(names), tuple(tasks[name] for name in names), width) for names, width in runs)
