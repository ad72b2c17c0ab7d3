"""Batches put together, cut and shuffled: of tensors, or of names with tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lepton.data._loading import Batch
from lepton.errors import DataError

__all__ = ["cut", "joined", "n_rows", "sliced", "taken", "without_rows"]


def n_rows(batch: Batch) -> int:
    """Return how many rows a batch has."""
    inputs, _ = batch
    return len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))


def _mapped(change: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    inputs, targets = batch
    changed = change(inputs) if isinstance(inputs, Tensor) else {name: change(value) for name, value in inputs.items()}
    return changed, {name: change(value) for name, value in targets.items()}


def taken(batch: Batch, index: Tensor) -> Batch:
    """Return the rows named by `index` [M], in its order."""
    places = index.numpy()

    def change(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bfloat16:  # which numpy has not
            return tensor.index_select(0, index)
        return torch.from_numpy(tensor.numpy().take(places, 0))  # rows of 20 numbers: twice as fast as torch's

    return _mapped(change, batch)


def sliced(batch: Batch, start: int, stop: int | None = None) -> Batch:
    """Return the rows from one to before another."""
    return _mapped(lambda tensor: tensor[start:stop], batch)


def without_rows(batch: Batch) -> Batch:
    """Return a batch of the same shapes that has no rows, and does not hold on to these."""
    return _mapped(lambda tensor: tensor.new_empty((0, *tensor.shape[1:])), batch)


def joined(
    batches: Sequence[Batch],
    missing: Mapping[str, float] | None = None,
    pads: Mapping[str, float] | None = None,
) -> Batch:
    """Return the rows of several batches, one after the other; padded texts become as wide as the widest.

    Args:
        batches: with the same inputs. A task that some of them lack has the missing value in their rows.
        missing: task -> its missing value; by default NaN, and -100 for whole numbers.
        pads: input -> what fills the places beyond its end; by default 0.

    Raises:
        DataError: they have different inputs.
    """
    if len(batches) == 1:
        return batches[0]
    inputs = [inputs for inputs, _ in batches]
    names = dict.fromkeys(name for _, targets in batches for name in targets)
    targets = {name: _labels(name, batches, missing or {}) for name in names}
    if all(isinstance(one, Tensor) for one in inputs):
        return _cat(inputs), targets
    if len({None if isinstance(one, Tensor) else frozenset(one) for one in inputs}) > 1:
        shown = [sorted(one) if isinstance(one, Mapping) else "one tensor" for one in inputs]
        raise DataError(f"rows with different inputs cannot be one batch: {shown}.")
    fills = pads or {}
    return {name: _cat([one[name] for one in inputs], fills.get(name, 0)) for name in inputs[0]}, targets


def _labels(name: str, batches: Sequence[Batch], missing: Mapping[str, float]) -> Tensor:
    """Return the labels of a task in several batches, of which some may lack it."""
    known = next(targets[name] for _, targets in batches if name in targets)
    fill = missing.get(name, math.nan if known.is_floating_point() else -100)
    found = []
    for batch in batches:
        _, targets = batch
        found.append(targets[name] if name in targets else known.new_full((n_rows(batch), *known.shape[1:]), fill))
    return _cat(found, fill)


def _cat(tensors: Sequence[Tensor], fill: float = 0) -> Tensor:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    if len({tensor.ndim for tensor in tensors}) > 1:
        raise DataError(f"rows of different shapes cannot be one batch: {[list(one.shape[1:]) for one in tensors]}.")
    shape = [max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    kind = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))  # texts: 16 bits, or 32
    wide = torch.full((sum(map(len, tensors)), *shape), fill, dtype=kind)
    row = 0
    for tensor in tensors:
        wide[(slice(row, row + len(tensor)), *(slice(side) for side in tensor.shape[1:]))] = tensor
        row += len(tensor)
    return wide


def cut(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the rows, so many at a time; the last ones may be fewer."""
    inputs, targets = batch
    # All pieces of a tensor at once: a slice for each would cost as much as reading the rows.
    labels = zip(*(torch.split(target, size) for target in targets.values()), strict=True) if targets else None
    names = list(targets)
    if isinstance(inputs, Mapping):
        keys = list(inputs)
        parts: Any = (
            dict(zip(keys, part, strict=True))
            for part in zip(*(torch.split(value, size) for value in inputs.values()), strict=True)
        )
    else:
        parts = torch.split(inputs, size)
    for part in parts:
        yield part, dict(zip(names, next(labels), strict=True)) if labels is not None else {}
