"""What of a trunk learns, and how fast: adapters in it, blocks that are held still, lower rates for lower blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lepton.config import Config
from lepton.errors import ConfigurationError
from lepton.nn import AdaptedTrunk, Adapter, LeptonModel, LoRA, add_adapter, add_lora, freeze, layer_rates, plain_trunk

__all__ = [
    "adapted_trunk",
    "check_start",
    "has_adapters",
    "hold_still",
    "is_trunk_held",
    "layer_learning_rates",
]

SHARED = "start"
"""Name of the adapter that all tasks read the trunk through, those with one of their own left out."""


# -- adapters -----------------------------------------------------------------------------------------------------
def has_adapters(config: Config) -> bool:
    """Return whether the trunk of a configuration has adapters of any task."""
    own = [section.adapter for section in config.tasks.values() if section.adapter is not None]
    shared = config.start is not None and config.start.adapter is not None
    return shared or any(section.type != "head" for section in own)


def adapted_trunk(trunk: nn.Module, config: Config, tasks: Sequence[str]) -> nn.Module:
    """Return a trunk with the adapters that a configuration describes; the trunk itself if there are none.

    Args:
        trunk: built, without adapters; it is changed.
        config: resolved.
        tasks: names of the model's tasks.

    Raises:
        ConfigurationError: layers that are not there, or a task that cannot be read through an adapter.
    """
    used: dict[str, str | None] = dict.fromkeys(tasks, None)
    start = config.start
    if start is not None and start.adapter is not None:
        _add(trunk, SHARED, start.adapter, start, "start")
        used = dict.fromkeys(tasks, SHARED)
    for name in tasks:
        own = config.tasks[name].adapter
        if own is not None and own.type != "head":
            _add(trunk, name, own.type, own, f"tasks.{name}.adapter")
            used[name] = name
    if not any(used.values()):
        return trunk
    searched = [name for name in tasks if config.tasks[name].type in ("translation", "speech_synthesis")]
    if searched:
        raise ConfigurationError(
            f"task {searched[0]!r}: a {config.tasks[searched[0]].type} steps through the trunk by itself, which does "
            "not go with adapters: leave them out, or the task."
        )
    return AdaptedTrunk(trunk, used)


def _add(trunk: nn.Module, name: str, kind: str, section: Any, place: str) -> None:
    try:
        if kind == "lora":
            add_lora(trunk, name, rank=section.size, alpha=section.alpha, targets=section.targets)
        else:
            add_adapter(trunk, name, size=section.size, targets=section.targets)
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error


# -- what learns, and how fast ------------------------------------------------------------------------------------
def is_trunk_held(config: Config) -> bool:
    """Return whether nothing of the trunk itself learns; an adapter in it may."""
    start = config.start
    return start is not None and (start.freeze == "all" or (start.freeze is None and start.adapter is not None))


def hold_still(model: LeptonModel, config: Config) -> None:
    """Let the parts of the trunk that a configuration names learn no more; adapters always learn.

    Raises:
        ConfigurationError: more blocks than there are, or blocks that cannot be told.
    """
    start = config.start
    if start is None:
        return
    depth = start.freeze if start.freeze is not None else "all" if start.adapter is not None else 0
    if depth == 0:
        return
    trunk = plain_trunk(model.trunk)
    try:
        freeze(trunk, depth=None if depth == "all" else depth)
    except ConfigurationError as error:
        raise ConfigurationError(f"start.{error}") from error
    for found in trunk.modules():
        if isinstance(found, (LoRA, Adapter)):
            found.adapters.requires_grad_(True)


def layer_learning_rates(model: LeptonModel, config: Config) -> dict[str, float] | None:
    """Return the learning rates by the beginnings of parameters' names: as told, and lower ones for lower blocks.

    With `start.layer_decay`, block b of N learns with rate * decay^(N - b), where rate is that of the trunk; see
    `lepton.nn.layer_rates`. A rate that `training.learning_rates` gives a part of the trunk stays.

    Raises:
        ConfigurationError: blocks that cannot be told.
    """
    told: dict[str, float] | None = config.training.learning_rates
    if config.start is None or config.start.layer_decay is None:
        return told
    rates = dict(told or {})
    base = rates.pop("trunk", config.training.learning_rate)
    names = {id(p): f"trunk.{name}" for name, p in model.trunk.named_parameters()}
    for group in layer_rates(model.trunk, base, config.start.layer_decay):
        for parameter in group["params"]:
            name = names[id(parameter)]
            if not any(name == part or name.startswith(f"{part}.") for part in rates if part.startswith("trunk.")):
                rates[name] = group["lr"]
    return rates


def check_start(config: Config) -> None:
    """Refuse to hold a trunk still that has learned nothing.

    Raises:
        ConfigurationError: `start` freezes or adapts a trunk that begins at random.
    """
    start = config.start
    pretrained = getattr(config.trunk, "folder", None) is not None
    if start is None or start.run is not None or start.weights is not None or pretrained:
        return
    for key in ("freeze", "adapter"):
        if getattr(start, key) not in (None, 0):
            raise ConfigurationError(
                f"start.{key} holds a trunk still that has learned nothing: give start.run or start.weights, or a "
                "pre-trained text model, trunk: {hf: FOLDER}."
            )
