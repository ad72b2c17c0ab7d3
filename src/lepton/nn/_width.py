"""How many features a trunk gives."""

from __future__ import annotations

from torch import nn

from lepton.errors import ConfigurationError

__all__ = ["module_width", "trunk_features"]


def trunk_features(trunk: nn.Module) -> int:
    """Read the number of features off a trunk: its own attributes first, then its last layer that has a width.

    Raises:
        ConfigurationError: nothing tells.
    """
    config = getattr(trunk, "config", None)
    for owner, attribute in [(trunk, "out_features"), (trunk, "num_features"), (config, "hidden_size")]:
        value = getattr(owner, attribute, None)
        if isinstance(value, int):
            return value
    for module in reversed(list(trunk.modules())):
        width = module_width(module)
        if width is not None:
            return width
    raise ConfigurationError(
        f"the number of features that {type(trunk).__name__} gives is not known: pass features=... to LeptonModel."
    )


def module_width(module: nn.Module) -> int | None:
    """Return the number of features that one layer gives; None where nothing tells."""
    if isinstance(module, nn.RNNBase):
        return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    for attribute in ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if shape else None
