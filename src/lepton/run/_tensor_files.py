"""Files of tensors by their names, and these names without what adapters put into them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lepton.errors import CheckpointError

__all__ = ["plain_names", "read_tensors"]

_INSIDE = ("state_dict", "model_state_dict", "model")
"""Keys under which files of whole trainings hold the weights."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by their names; a pickled one only as far as it holds nothing that runs code.

    Args:
        path: `.safetensors`, `.pt`, `.pth` or `.bin`.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {str(path)!r} with weights to start from.")
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"the file {str(path)!r} cannot be read: {_first_line(error)}") from error
    key = next((key for key in _INSIDE if isinstance(found, Mapping) and isinstance(found.get(key), Mapping)), None)
    inside = found if key is None else found[key]
    tensors = (
        {str(name): t for name, t in inside.items() if isinstance(t, Tensor)} if isinstance(inside, Mapping) else {}
    )
    if not tensors:
        raise CheckpointError(f"the file {str(path)!r} holds no tensors by their names, but a {type(found).__name__}.")
    return tensors


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"the file {str(path)!r} is damaged or no safetensors file: {error}.") from error


def _pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # importing that name would import what is not to be used
            raise
        raise CheckpointError(
            f"the file {str(path)!r} holds more than tensors, and reading that would run its code: save the "
            f"state_dict() of the model only, as safetensors if possible. ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def plain_names(names: Iterable[str], *, nested: bool) -> dict[str, str]:
    """Return the names of a trunk's tensors as they would be without adapters -> as they are.

    Names of adapters' own tensors keep the part `.adapters.`, behind the plain name of what they change.

    Args:
        names: of the tensors.
        nested: whether the trunk stands inside an `AdaptedTrunk`.

    Example:
        >>> plain_names(["trunk.0.base.weight", "trunk.0.adapters.new.A", "trunk.1.weight"], nested=True)
        {'0.weight': 'trunk.0.base.weight', '0.adapters.new.A': 'trunk.0.adapters.new.A', '1.weight': 'trunk.1.weight'}
    """
    own = {name.removeprefix("trunk.") if nested else name: name for name in names}
    changed = {name[: place.start()] for name in own for place in re.finditer(r"\.adapters\.", name)}
    changed = {module for module in changed if any(name.startswith(f"{module}.base.") for name in own)}
    return {_plain(name, changed): key for name, key in own.items()}


def _plain(name: str, changed: set[str]) -> str:
    path: list[str] = []
    kept: list[str] = []
    for part in name.split("."):
        if part != "base" or ".".join(path) not in changed:
            kept.append(part)
        path.append(part)
    return ".".join(kept)
