"""Modules with named adapters beside them, and how one of these is switched on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn

from lepton.errors import ConfigurationError, nearest, require
from lepton.nn._layout import ByTask

__all__ = ["Adapted", "adapter_names", "chosen_layers", "replace_modules", "use_adapter"]


class Adapted(nn.Module):
    """A module with named adapters beside it, of which at most one is active: what `LoRA` and `Adapter` share.

    Attributes:
        base: the module itself. With no active adapter nothing else is computed.
        adapters: name -> the adapter's parameters.
        active: the name of the adapter that takes part, or None.
    """

    base: nn.Module
    closed: ClassVar[bool] = False
    """Whether no adapter may be put inside the module itself."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = ByTask()
        self.active: str | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":  # not yet there, as while a copy is made
                raise
            return getattr(self.base, name)  # sizes and strides, for code that reads them off the layer

    def _enter(self, name: str, adapter: nn.Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ConfigurationError(
                f"the name of an adapter must be a nonempty string without '.', because it names a module, but it is "
                f"{name!r}."
            )
        if name in self.adapters:
            raise ConfigurationError(
                f"this {type(self).__name__} already has an adapter {name!r}; it has {list(self.adapters)}: choose "
                "another name."
            )
        like = next((p for p in self.base.parameters() if p.is_floating_point()), None)
        self.adapters[name] = adapter if like is None else adapter.to(like.device, like.dtype)

    def _named(self, name: str) -> nn.Module:
        if name not in self.adapters:
            known = list(self.adapters)
            raise ConfigurationError(
                f"this {type(self).__name__} has no adapter {name!r}; it has {known}.{nearest(str(name), known)}"
            )
        return self.adapters[name]


def adapter_names(module: nn.Module) -> list[str]:
    """Return the names of the adapters in a module, sorted."""
    return sorted({name for found in module.modules() if isinstance(found, Adapted) for name in found.adapters})


@contextmanager
def use_adapter(module: nn.Module, name: str | None) -> Iterator[None]:
    """Run what is inside with the adapter `name` in every layer that has it, and with no other.

    Args:
        module: a module with adapters, from `add_lora` or `add_adapter`.
        name: the adapter's name; None for the module as it was before it had any.

    Raises:
        ConfigurationError: there is no such adapter.

    Example:
        >>> import torch, lepton.nn
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8))
        >>> names = lepton.nn.add_lora(trunk, "fifth")
        >>> with use_adapter(trunk, "fifth"):
        ...     trunk(torch.ones(2, 4)).shape
        torch.Size([2, 8])
    """
    layers = [found for found in module.modules() if isinstance(found, Adapted)]
    if name is not None and not any(name in layer.adapters for layer in layers):
        known = adapter_names(module)
        raise ConfigurationError(f"there is no adapter {name!r}; the adapters are {known}.{nearest(str(name), known)}")
    before = [layer.active for layer in layers]
    for layer in layers:
        layer.active = name if name is not None and name in layer.adapters else None
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer.active = active


def chosen_layers(
    module: nn.Module, targets: Sequence[str] | None, kinds: tuple[type[nn.Module], ...], owner: str
) -> dict[str, nn.Module]:
    """Return the layers of some kinds that `targets` name, in the module's order; adapters' own do not count."""
    named = {name: found for name, found in _outside_adapters(module) if name}
    fitting = [name for name, found in named.items() if isinstance(found, kinds)]
    if not isinstance(targets, Iterable) or isinstance(targets, str):
        require(targets is None, owner, "targets", targets, "a list of names of layers, or None")
        chosen = set(fitting)
    else:
        chosen = {name for target in targets for name in _matching(owner, target, named, fitting)}
    if not chosen:
        raise ConfigurationError(f"{owner}: this {type(module).__name__} has no layer that could be adapted.")
    return {name: named[name] for name in fitting if name in chosen}


def _matching(owner: str, target: str, named: dict[str, nn.Module], fitting: Sequence[str]) -> list[str]:
    found = [name for name in named if name == target or name.endswith(f".{target}")]
    good = [name for name in found if name in fitting]
    if good:
        return good
    if found:
        raise ConfigurationError(
            f"{owner}: {found[0]!r} is a {type(named[found[0]]).__name__}, which cannot be adapted; what can be is "
            f"{_some(fitting)}."
        )
    raise ConfigurationError(
        f"{owner}: there is no layer {target!r}; the layers are {_some(fitting)}.{nearest(str(target), named)}"
    )


def _some(names: Sequence[str]) -> str:
    return f"{list(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _outside_adapters(module: nn.Module, prefix: str = "") -> Iterable[tuple[str, nn.Module]]:
    yield prefix, module
    for name, child in module.named_children():
        if isinstance(module, Adapted) and (name == "adapters" or module.closed):
            continue
        yield from _outside_adapters(child, f"{prefix}.{name}" if prefix else name)


def replace_modules(module: nn.Module, by_id: dict[int, nn.Module]) -> None:
    """Put modules in the places of others, everywhere where these stand."""
    for parent in list(module.modules()):
        if id(parent) in map(id, by_id.values()):
            continue
        for name, child in parent._modules.items():
            if child is not None and id(child) in by_id:
                parent._modules[name] = by_id[id(child)]
