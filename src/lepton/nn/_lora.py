"""`LoRA`: a low-rank change of a linear layer or a convolution that can be switched on and off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lepton.errors import ConfigurationError, is_number, is_whole, nearest, require
from lepton.nn._adapted import Adapted, chosen_layers, replace_modules

__all__ = ["LoRA", "add_lora", "merge_lora"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""What can be given a low-rank change."""


class LoRA(Adapted):
    """A linear layer or a convolution with low-rank changes beside it, of which at most one is active.

        y = base(x) + (alpha / rank) B(A(x))

    A maps to `rank` features and B from them to the layer's outputs; B is zero at first, so that a new adapter changes
    nothing. For a convolution A has the kernel, the stride, the padding and the groups of the layer, `rank` features
    for each group, and B is a 1 x 1 convolution with as many groups (Hu et al., 2021, "LoRA: Low-Rank Adaptation of
    Large Language Models"). Without an active adapter the output is that of the layer, bit for bit.

    Args:
        base: `nn.Linear`, `nn.Conv1d` or `nn.Conv2d`; it becomes a part of this module.

    Attributes:
        base: the layer.
        adapters: name -> A and B.
        active: the name of the adapter that takes part, or None.

    Raises:
        ConfigurationError: another kind of layer.

    Example:
        >>> import torch
        >>> layer = LoRA(torch.nn.Linear(4, 3))
        >>> layer.add("fifth", rank=2)
        >>> layer.active = "fifth"
        >>> layer(torch.ones(2, 4)).shape, [tuple(p.shape) for p in layer.adapters["fifth"].parameters()]
        (torch.Size([2, 3]), [(2, 4), (3, 2)])
    """

    base: nn.Linear | nn.Conv1d | nn.Conv2d
    closed = True

    def __init__(self, base: nn.Module) -> None:
        if not isinstance(base, LAYERS):
            raise ConfigurationError(f"LoRA takes {_kinds()}, but got {type(base).__name__}.")
        if isinstance(base.weight, UninitializedParameter):
            raise ConfigurationError(
                f"LoRA: this {type(base).__name__} does not know its inputs yet: call it once, then add the adapter."
            )
        super().__init__(base)

    def add(self, name: str, *, rank: int = 8, alpha: float | None = None) -> None:
        """Add an adapter that changes nothing yet; it is not active.

        Args:
            name: its name.
            rank: features between A and B; for each group of a convolution.
            alpha: with the rank, the scale alpha / rank of the change; by default the rank, for a scale of 1.

        Raises:
            ConfigurationError: a name that is taken, or a number that is not allowed.
        """
        require(is_whole(rank), "LoRA", "rank", rank, "a whole number of at least 1")
        scales = alpha is None or (is_number(alpha) and 0 < alpha < math.inf)
        require(scales, "LoRA", "alpha", alpha, "a number, positive and finite, or None")
        groups = 1 if isinstance(self.base, nn.Linear) else self.base.groups
        self._enter(name, LowRank(self.base.weight, rank, 1.0 if alpha is None else alpha / rank, groups))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the layer, with the active adapter's change."""
        y: Tensor = self.base(x)
        if self.active is None:
            return y
        change = self._pair(self.active)
        if isinstance(self.base, nn.Linear):
            return y + change.scale * F.linear(F.linear(x, change.A), change.B)
        inner = self.base._conv_forward(x, change.A, None)  # with the layer's stride, padding and dilation
        outer = F.conv1d if isinstance(self.base, nn.Conv1d) else F.conv2d
        return y + change.scale * outer(inner, change.B, groups=self.base.groups)

    @property
    def weight(self) -> Tensor:
        """The weight with the active adapter's change, for modules that read it instead of calling the layer."""
        return self.base.weight if self.active is None else self.base.weight + self.change(self.active)

    def change(self, name: str) -> Tensor:
        """Return what an adapter adds to the layer's weight, of its shape."""
        return self._pair(name).change()

    @torch.no_grad()
    def merge(self, name: str) -> nn.Module:
        """Add an adapter's change to the layer's weight and return the layer, which computes as fast as before.

        Raises:
            ConfigurationError: there is no such adapter, or another one, which was trained beside the weight as it is.
        """
        change = self.change(name)
        others = [other for other in self.adapters if other != name]
        if others:
            raise ConfigurationError(
                f"the adapter {name!r} cannot be merged: {others} were trained beside the same weight, and would no "
                "longer fit. Merge in a copy of the model without them."
            )
        self.base.weight += change
        return self.base

    def _pair(self, name: str) -> LowRank:
        found = self._named(name)
        assert isinstance(found, LowRank)
        return found


class LowRank(nn.Module):
    """A and B of one adapter, beside a weight [out, in / groups, *kernel].

    Args:
        weight: the weight that they change.
        rank: features between them, for each group.
        scale: factor of the change.
        groups: number of groups.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, groups: int) -> None:
        super().__init__()
        outputs, *inputs = weight.shape
        self.scale = scale
        self.groups = groups
        self.A = nn.Parameter(torch.empty(rank * groups, *inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank, *[1] * (len(inputs) - 1)))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # what torch gives a linear layer

    def change(self) -> Tensor:
        """Return scale * B A, in the shape of the weight."""
        outputs, rank = self.B.shape[:2]
        b = self.B.reshape(self.groups, outputs // self.groups, rank)
        a = self.A.reshape(self.groups, rank, -1)
        return self.scale * (b @ a).reshape(outputs, *self.A.shape[1:])


def add_lora(
    module: nn.Module,
    name: str,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
) -> list[str]:
    """Give layers of a module a low-rank adapter each, and return their names.

    The layers are replaced where they are; those that have adapters get one more. To train the new adapter alone,
    call `freeze(module)` first: what is there then does not learn, and what comes after it does.

    Args:
        module: the trunk, or a part of it.
        name: the adapter's name, often that of a task.
        rank: see `LoRA.add`.
        alpha: see `LoRA.add`.
        targets: names of layers, whole or their last parts: `"blocks.0.linear"`, `"linear"`. None for every linear
            layer and convolution.

    Returns:
        The names of the layers in `module`.

    Raises:
        ConfigurationError: layers that are not there or of another kind, a name that is taken.

    Example:
        >>> import torch
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        >>> add_lora(trunk, "fifth", rank=2, targets=["2"])
        ['2']
        >>> add_lora(trunk, "sixth", rank=2)
        ['0', '2']
    """
    layers = chosen_layers(module, targets, (LoRA, *LAYERS), "add_lora")
    taken = [layer for layer, found in layers.items() if isinstance(found, LoRA) and name in found.adapters]
    if taken:
        raise ConfigurationError(f"add_lora: {taken} already have an adapter {name!r}: choose another name.")
    made = {layer: found if isinstance(found, LoRA) else LoRA(found) for layer, found in layers.items()}
    for lora in made.values():
        lora.add(name, rank=rank, alpha=alpha)
    replace_modules(module, {id(layers[layer]): lora for layer, lora in made.items()})
    return list(made)


def merge_lora(module: nn.Module, name: str) -> list[str]:
    """Add an adapter's changes to the weights of its layers, put these back in place, and return their names.

    Args:
        module: what `add_lora` was given.
        name: the adapter's name.

    Raises:
        ConfigurationError: no layer has such an adapter, or a layer has another one beside it.

    Example:
        >>> import torch
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8))
        >>> names = add_lora(trunk, "fifth")
        >>> merge_lora(trunk, "fifth"), trunk
        (['0'], Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
        ))
    """
    layers = {layer: found for layer, found in module.named_modules() if isinstance(found, LoRA)}
    holders = {layer: found for layer, found in layers.items() if name in found.adapters}
    if not holders:
        known = sorted({adapter for found in layers.values() for adapter in found.adapters})
        raise ConfigurationError(
            f"merge_lora: no layer has an adapter {name!r}; the adapters are {known}.{nearest(str(name), known)}"
        )
    crowded = [layer for layer, found in holders.items() if len(found.adapters) > 1]
    if crowded:  # before the first weight is changed
        holders[crowded[0]].merge(name)
    replace_modules(module, {id(found): found.merge(name) for found in holders.values()})
    return list(holders)


def _kinds() -> str:
    return " or ".join(f"nn.{kind.__name__}" for kind in LAYERS)
