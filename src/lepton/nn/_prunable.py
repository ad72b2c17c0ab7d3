"""What a trunk says of its widths, so that it can be made narrower and described by its options again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

__all__ = ["Prunable", "Width", "one_or_all"]


@dataclass(frozen=True)
class Width:
    """A number of outputs that an option of a trunk says.

    Attributes:
        name: the option, with a place where it is a list: `"width"`, `"inner[2]"`.
        layers: the layers with so many outputs; which of them go is chosen for each layer, how many for all together.
            Layers whose outputs are added to theirs follow by themselves and are not named.
        unit: outputs that stay or go together, such as the features of an attention head, or the channels that a
            `GroupNorm` normalises together.
    """

    name: str
    layers: tuple[nn.Module, ...]
    unit: int = 1


@runtime_checkable
class Prunable(Protocol):
    """A module whose widths can be pruned: one of Lepton's trunks, or one of your own with these two methods.

    Example:
        >>> import torch, lepton
        >>> from lepton.nn import Prunable, Width
        >>> class Trunk(torch.nn.Module):
        ...     def __init__(self, inner=64):
        ...         super().__init__()
        ...         self.enter, self.leave = torch.nn.Linear(4, inner), torch.nn.Linear(inner, 8)
        ...     def forward(self, input):
        ...         return self.leave(self.enter(input).relu())
        ...     def prunable(self):
        ...         return [Width("inner", (self.enter,))]
        ...     def sizes(self):
        ...         return {"inner": self.enter.out_features}
        >>> isinstance(Trunk(), Prunable), Trunk().sizes()
        (True, {'inner': 64})
    """

    def prunable(self) -> Sequence[Width]:
        """Return the widths that may shrink; inputs, and outputs that something outside fixes, are not among them."""
        ...

    def sizes(self) -> dict[str, Any]:
        """Return the options with which the constructor makes layers of the sizes that they have now."""
        ...


def one_or_all(sizes: Sequence[int]) -> int | list[int]:
    """Return one number where all are equal, otherwise all of them."""
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)
