"""The blocks of a trunk: how far it is frozen, and how fast each of them learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lepton.errors import ConfigurationError, is_number, is_whole, require

__all__ = ["Blocks", "find_blocks", "freeze", "layer_rates"]


@dataclass(frozen=True)
class Blocks:
    """A trunk from its inputs to its features.

    Attributes:
        below: parameters before the first block, such as embeddings or a stem.
        blocks: name -> block, from the inputs on; those without parameters do not count.
        above: parameters behind the last block, such as a last normalisation.
    """

    below: list[nn.Parameter]
    blocks: dict[str, nn.Module]
    above: list[nn.Parameter]


def find_blocks(module: nn.Module, owner: str) -> Blocks:
    """Return the blocks of a module: the entries of its largest list, an `nn.Sequential` or `nn.ModuleList`.

    Raises:
        ConfigurationError: there is no such list.
    """
    lists = [(name, found) for name, found in _lists(module) if any(True for _ in found.parameters())]
    if not lists:
        raise ConfigurationError(
            f"{owner}: this {type(module).__name__} has no nn.Sequential and no nn.ModuleList, so that its blocks "
            "cannot be told: name the layers yourself."
        )
    prefix, largest = max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    blocks = {
        f"{prefix}.{name}" if prefix else name: block
        for name, block in largest.named_children()
        if any(True for _ in block.parameters())
    }
    inside = {id(p) for p in largest.parameters()}
    order = list(module.parameters())
    first = next(place for place, p in enumerate(order) if id(p) in inside)
    below, above = order[:first], [p for p in order[first:] if id(p) not in inside]
    return Blocks(below, blocks, above)


def freeze(module: nn.Module, *, depth: int | None = None) -> int:
    """Let a trunk, or the lowest part of it, learn no more, and return how many numbers that are.

    The parameters get `requires_grad=False`. Normalisations with statistics of the batches among them, such as
    `nn.BatchNorm2d`, keep their statistics and compute as in eval mode, also in `model.train()`: otherwise the old
    tasks' outputs would change without a step. `requires_grad_(True)` takes both back.

    Args:
        module: a trunk.
        depth: number of blocks from the inputs on, with everything before them (embeddings, a stem); 0 for nothing,
            None for the whole module. Blocks are the entries of the largest `nn.Sequential` or `nn.ModuleList`.

    Raises:
        ConfigurationError: more blocks than there are, or blocks that cannot be told.

    Example:
        >>> import torch
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
        >>> freeze(trunk, depth=1), [p.requires_grad for p in trunk.parameters()]
        (9, [False, False, True, True])
    """
    require(depth is None or is_whole(depth, 0), "freeze", "depth", depth, "a whole number of at least 0, or None")
    frozen = list(module.parameters()) if depth is None else _lowest(find_blocks(module, "freeze"), depth)
    for parameter in frozen:
        parameter.requires_grad_(False)
    ids = {id(parameter) for parameter in frozen}
    for norm in module.modules():
        own = [id(parameter) for parameter in norm.parameters()] if isinstance(norm, _NormBase) else []
        if isinstance(norm, _NormBase) and (depth is None or own) and ids.issuperset(own):
            _hold(norm)
    return sum(parameter.numel() for parameter in frozen)


def layer_rates(trunk: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    """Return groups of parameters for a torch optimiser in which lower blocks learn more slowly.

        rate of block b = rate * decay^(N - b),   b = 1, ..., N

    counted from the inputs, where N is the number of blocks; what stands before the first block has b = 0, what
    stands behind the last one `rate` (Howard and Ruder, 2018, "Universal Language Model Fine-tuning for Text
    Classification", where decay is 1 / 2.6). Parameters that do not learn are left out.

    Args:
        trunk: a trunk; see `freeze` for its blocks.
        rate: learning rate of the last block.
        decay: factor from a block to the one below it, in (0, 1].

    Returns:
        `{"params": ..., "lr": ...}` for each block with something to learn, from the inputs on.

    Raises:
        ConfigurationError: a number that is not allowed, or blocks that cannot be told.

    Example:
        >>> import torch
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
        >>> [group["lr"] for group in layer_rates(trunk, 0.01, 0.5)]
        [0.005, 0.01]
    """
    require(is_number(rate) and rate > 0, "layer_rates", "rate", rate, "a number > 0")
    require(is_number(decay) and 0 < decay <= 1, "layer_rates", "decay", decay, "a number in (0, 1]")
    found = find_blocks(trunk, "layer_rates")
    parts = [found.below, *(list(block.parameters()) for block in found.blocks.values()), found.above]
    rates = [rate * decay ** (len(found.blocks) - place) for place in range(len(found.blocks) + 1)] + [rate]
    seen: set[int] = set()  # a parameter that several blocks share learns as the lowest of them
    groups = []
    for part, own_rate in zip(parts, rates, strict=True):
        learning = [p for p in part if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in learning)
        groups += [{"params": learning, "lr": own_rate}] if learning else []
    return groups


def _lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost lists of modules with their names."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        yield prefix, module
        return
    for name, child in module.named_children():
        yield from _lists(child, f"{prefix}.{name}" if prefix else name)


def _lowest(found: Blocks, depth: int) -> list[nn.Parameter]:
    blocks = list(found.blocks.values())
    if depth > len(blocks):
        raise ConfigurationError(
            f"freeze: depth is {depth}, but the trunk has {len(blocks)} blocks: {list(found.blocks)}. "
            "None, in a configuration `all`, freezes all."
        )
    parts: Iterable[nn.Parameter] = found.below if depth else ()
    return [*parts, *(parameter for block in blocks[:depth] for parameter in block.parameters())]


def _hold(norm: nn.Module) -> None:
    norm.eval()
    if _stay_in_eval not in norm._forward_pre_hooks.values():
        norm.register_forward_pre_hook(_stay_in_eval)


def _stay_in_eval(norm: nn.Module, inputs: Any) -> None:
    # A hook, since model.train() reaches every module; a function of this file, so that copies keep it.
    if not any(parameter.requires_grad for parameter in norm.parameters()):
        norm.training = False
