"""`Adapter`: a bottleneck beside a block of a trunk that can be switched on and off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lepton.errors import ConfigurationError, is_whole, require
from lepton.nn._adapted import Adapted, chosen_layers, replace_modules
from lepton.nn._blocks import find_blocks
from lepton.nn._width import trunk_features

__all__ = ["Adapter", "add_adapter"]


class Adapter(Adapted):
    """A block with bottlenecks behind it, of which at most one is active.

        y = f(x),   output = y + W_up relu(W_down y + b_down) + b_up

    f is the block, W_down maps its D features to `size` and W_up maps them back. The weights are drawn from a normal
    distribution of standard deviation 0.01, cut off at two of them, and the biases are zero, so that a new adapter is
    close to the identity (Houlsby et al., 2019, "Parameter-Efficient Transfer Learning for NLP"; relu where the paper
    leaves the function open). Without an active adapter the output is that of the block, bit for bit.

    Args:
        base: the block. It gives a tensor [..., D], a feature map [B, D, h, w] or [B, D, d, h, w], or a tuple whose
            first entry is one.
        features: D; by default read off the block.

    Attributes:
        base: the block.
        adapters: name -> the bottleneck.
        active: the name of the adapter that takes part, or None.

    Raises:
        ConfigurationError: a number of features that is not known.

    Example:
        >>> import torch
        >>> block = Adapter(torch.nn.Linear(4, 8))
        >>> block.add("fifth", size=2)
        >>> block.active = "fifth"
        >>> block(torch.ones(3, 4)).shape
        torch.Size([3, 8])
    """

    def __init__(self, base: nn.Module, features: int | None = None) -> None:
        whole = features is None or is_whole(features)
        require(whole, "Adapter", "features", features, "a whole number of at least 1, or None")
        super().__init__(base)
        self.features = trunk_features(base) if features is None else features

    def add(self, name: str, *, size: int = 16) -> None:
        """Add an adapter that changes next to nothing yet; it is not active.

        Args:
            name: its name.
            size: features of the bottleneck.

        Raises:
            ConfigurationError: a name that is taken, or a size that is not allowed.
        """
        require(is_whole(size), "Adapter", "size", size, "a whole number of at least 1")
        self._enter(name, Bottleneck(self.features, size))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the output of the block, through the active adapter."""
        found = self.base(*inputs, **named)
        if self.active is None:
            return found
        adapter = self._named(self.active)
        return (adapter(found[0]), *found[1:]) if isinstance(found, tuple) else adapter(found)


class Bottleneck(nn.Module):
    """y + W_up relu(W_down y), at every position alike.

    Args:
        features: D.
        size: features between the two matrices.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, size), nn.Linear(size, features)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Return features of the shape of y: [..., D], or [B, D, ...] from four dimensions on."""
        if y.ndim < 4:
            return y + self.up(F.relu(self.down(y)))  # type: ignore[no-any-return]
        last = y.movedim(1, -1)
        return y + self.up(F.relu(self.down(last))).movedim(-1, 1)  # type: ignore[no-any-return]


def add_adapter(module: nn.Module, name: str, *, size: int = 16, targets: Sequence[str] | None = None) -> list[str]:
    """Put a bottleneck adapter behind blocks of a module, and return the blocks' names.

    The blocks are replaced where they are; those that have adapters get one more. To train the new adapter alone,
    call `freeze(module)` first: what is there then does not learn, and what comes after it does.

    Args:
        module: the trunk, or a part of it.
        name: the adapter's name, often that of a task.
        size: features of the bottleneck.
        targets: names of modules, whole or their last parts: `"stages.0"`, `"feedforward"`. None for the blocks that
            `freeze` counts.

    Raises:
        ConfigurationError: modules that are not there, blocks that cannot be told, a name that is taken.

    Example:
        >>> import torch
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        >>> add_adapter(trunk, "fifth", size=2)
        ['0', '2']
    """
    targets = list(find_blocks(module, "add_adapter").blocks) if targets is None else targets
    blocks = chosen_layers(module, targets, (nn.Module,), "add_adapter")
    taken = [block for block, found in blocks.items() if isinstance(found, Adapted) and name in found.adapters]
    if taken:
        raise ConfigurationError(f"add_adapter: {taken} already have an adapter {name!r}: choose another name.")
    made = {block: found if isinstance(found, Adapter) else Adapter(found) for block, found in blocks.items()}
    for adapter in made.values():
        adapter.add(name, size=size)
    replace_modules(module, {id(blocks[block]): adapter for block, adapter in made.items()})
    return list(made)
