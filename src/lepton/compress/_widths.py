"""Which channels of a model's widths go, for a share of the channels that goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError
from lepton.nn import LeptonModel, Prunable

__all__ = ["NamedWidth", "Plan", "count_outputs", "find_share", "named_widths", "prunable_parts"]

LEAST = 0.1
"""Share of a width that a global threshold leaves at least: a layer that is all but gone passes nothing on."""

ROUNDS = 12
"""Bisections of the share of channels: with 2^-12 of them, widths of some thousand are found to the last channel."""


@dataclass(frozen=True)
class NamedWidth:
    """A width whose layers are known by their names, which are the same in every copy of the model."""

    name: str
    layers: tuple[str, ...]
    size: int
    unit: int

    @property
    def units(self) -> int:
        return self.size // self.unit


def prunable_parts(model: LeptonModel) -> dict[str, Prunable]:
    """Return what says its widths: the trunk, whose name is empty, and heads by their tasks."""
    parts = {"": model.trunk, **{name: model.heads[name] for name in model.task_names}}
    return {name: part for name, part in parts.items() if isinstance(part, Prunable)}


def named_widths(model: LeptonModel) -> list[NamedWidth]:
    """Return what may shrink in a model: the trunk's widths, then those of heads."""
    names = {id(module): name for name, module in model.named_modules()}
    return [
        NamedWidth(
            f"heads.{task}.{width.name}" if task else width.name,
            tuple(names[id(layer)] for layer in width.layers),
            count_outputs(width.layers[0]),
            width.unit,
        )
        for task, part in prunable_parts(model).items()
        for width in part.prunable()
    ]


def count_outputs(layer: nn.Module) -> int:
    """Return how many outputs a layer has, or how many numbers an embedding."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.shape[1 if isinstance(layer, nn.Embedding) else 0]


class Plan:
    """Which channels go, for a share of the channels that go.

    Args:
        widths: what may shrink.
        scores: layer -> importance of each of its outputs.
        spread: see `prune`.
    """

    def __init__(self, widths: Sequence[NamedWidth], scores: Mapping[str, Tensor], spread: str) -> None:
        self.widths = widths
        self.spread = spread
        self.scores = {
            name: scores[name].reshape(width.units, width.unit).mean(1) for width in widths for name in width.layers
        }

    def kept(self, share: float) -> list[int]:
        """Return how many units of each width stay."""
        if self.spread == "uniform":
            return [max(1, round(width.units * (1 - share))) for width in self.widths]
        pooled = torch.cat(list(self.scores.values())).sort().values
        threshold = pooled[min(int(share * len(pooled)), len(pooled) - 1)]
        found = []
        for width in self.widths:
            above = sum(int((self.scores[name] >= threshold).sum()) for name in width.layers) / len(width.layers)
            found.append(max(1, math.ceil(LEAST * width.units), round(above)))
        return found

    def gone(self, share: float) -> dict[str, list[int]]:
        """Return the outputs that go, for each layer."""
        found = {}
        for width, kept in zip(self.widths, self.kept(share), strict=True):
            for name in width.layers:
                lowest = self.scores[name].argsort()[: width.units - kept].sort().values
                outputs = lowest[:, None] * width.unit + torch.arange(width.unit)
                found[name] = [int(place) for place in outputs.flatten()]
        return found


def find_share(count: Callable[[float], int], before: int, ratio: float, plan: Plan) -> float:
    """Return about the smallest share of channels with which so many parameters go."""
    target = (1 - ratio) * before
    low, high = 0.0, 1.0
    if (least := count(high)) > target:
        raise ConfigurationError(
            f"prune: ratio is {ratio}, but at most {math.floor(1000 * (1 - least / before)) / 10:g} % of this "
            f"model's {before} parameters can go: the rest is what the inputs and the tasks' outputs need."
        )
    for _ in range(ROUNDS):
        if plan.kept(low) == plan.kept(high):
            break
        middle = (low + high) / 2
        low, high = (low, middle) if count(middle) <= target else (middle, high)
    return high
