"""Batches put together, cut and shuffled: of tensors, or of names with tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lepton.data._loading import Batch

__all__ = ["cut", "joined", "n_rows", "sliced", "taken"]


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


def joined(batches: Sequence[Batch]) -> Batch:
    """Return the rows of several batches, one after the other; padded texts become as wide as the widest."""
    if len(batches) == 1:
        return batches[0]
    inputs = [inputs for inputs, _ in batches]
    targets = {name: _cat([targets[name] for _, targets in batches]) for name in batches[0][1]}
    if isinstance(inputs[0], Tensor):
        return _cat(inputs), targets
    return {name: _cat([one[name] for one in inputs]) for name in inputs[0]}, targets


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    shape = [max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    wide = torch.zeros(sum(map(len, tensors)), *shape, dtype=tensors[0].dtype)
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
