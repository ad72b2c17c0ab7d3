"""A nest of tensors and plain values to JSON and a flat dict of tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lepton.errors import CheckpointError

__all__ = ["pack", "unpack"]

_TENSOR, _TUPLE, _ITEMS, _NUMBER = "$tensor", "$tuple", "$items", "$number"


def pack(nest: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Return what JSON can hold of a nest; its tensors go into `tensors`, under their path.

    Args:
        nest: dicts, lists, tuples, tensors, strings, numbers, booleans and None.
        tensors: filled.
        path: of the nest, for the names and for messages.

    Raises:
        CheckpointError: a value of another kind, which only pickle could keep.

    Example:
        >>> import torch
        >>> tensors = {}
        >>> pack({"lr": 0.1, "betas": (0.9, 0.99), "step": torch.tensor(3)}, tensors)
        {'lr': 0.1, 'betas': {'$tuple': [0.9, 0.99]}, 'step': {'$tensor': 'step'}}
        >>> tensors
        {'step': tensor(3)}
    """
    if isinstance(nest, Tensor):
        tensors[path] = nest.detach()
        return {_TENSOR: path}
    if isinstance(nest, Mapping):
        inside = [(key, pack(value, tensors, f"{path}/{key}".lstrip("/"))) for key, value in nest.items()]
        # JSON turns every key into a string; an optimiser's state is by number.
        return dict(inside) if all(isinstance(key, str) for key in nest) else {_ITEMS: [list(item) for item in inside]}
    if isinstance(nest, (list, tuple)):
        inside_list = [pack(value, tensors, f"{path}/{place}") for place, value in enumerate(nest)]
        return {_TUPLE: inside_list} if isinstance(nest, tuple) else inside_list
    if isinstance(nest, float) and not math.isfinite(nest):
        return {_NUMBER: str(nest)}
    if nest is None or type(nest) in (str, int, float, bool):
        return nest
    raise CheckpointError(f"{path} is a {type(nest).__name__}, which cannot be saved without pickle.")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the nest that `pack` took apart.

    Example:
        >>> tensors = {}
        >>> unpack(pack({0: (1, math.inf)}, tensors), tensors)
        {0: (1, inf)}
    """
    if isinstance(packed, list):
        return [unpack(value, tensors) for value in packed]
    if not isinstance(packed, dict):
        return packed
    if set(packed) == {_TENSOR}:
        return tensors[packed[_TENSOR]]
    if set(packed) == {_TUPLE}:
        return tuple(unpack(value, tensors) for value in packed[_TUPLE])
    if set(packed) == {_ITEMS}:
        return {key: unpack(value, tensors) for key, value in packed[_ITEMS]}
    if set(packed) == {_NUMBER}:
        return float(packed[_NUMBER])
    return {key: unpack(value, tensors) for key, value in packed.items()}
