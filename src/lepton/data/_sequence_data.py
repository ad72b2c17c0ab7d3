"""Padded sequences held in memory, and a loader that puts those of like length into a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton.data._tensors import TensorData, TensorLoader
from lepton.errors import DataError, nearest

__all__ = ["LengthLoader", "SequenceData", "pooled_order"]

POOL = 64
"""Batches' worth of rows, at most, that are drawn together and sorted by length: enough that little padding is left."""

POOLS = 2
"""Pools, at least, so that a row meets others in every epoch: in one pool the longest rows would always be the same."""


@dataclass(frozen=True)
class SequenceData(TensorData):
    """Inputs and targets of N rows in memory, of which some are padded sequences.

    Whole numbers are kept as small as they are given (`SequenceEncoder` gives 16 bits each), and become int64 in
    batches, without the padding that all rows of a batch share.

    Args:
        inputs: name -> tensor [N, L, ...].
        targets: name -> tensor [N, ...].
        lengths: name of an input or a target -> how many of the L places of each row are filled [N]; of H sequences in
            each row, [N, H, L, ...], how many of each [N, H].

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[2, 7, 3, 0], [2, 3, 0, 0]], dtype=torch.int16)
        >>> data = SequenceData({"tokens": tokens}, {}, {"tokens": torch.tensor([3, 2])})
        >>> data.batch(torch.tensor([1, 0]))[0]["tokens"]
        tensor([[2, 3, 0],
                [2, 7, 3]])
    """

    lengths: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inputs, Mapping):
            raise DataError(f"inputs must map names to tensors, but they are a {type(self.inputs).__name__}.")
        padded = {**self.inputs, **self.targets}
        for name, lengths in self.lengths.items():
            if name not in padded:
                raise DataError(
                    f"there are lengths of {name!r}, which is none of {list(padded)}.{nearest(name, padded)}"
                )
            shape = padded[name].shape
            places = lengths.ndim  # the dimension that they count along
            if places == 0 or len(shape) <= places or lengths.shape != shape[:places]:
                raise DataError(
                    f"{name!r} is {list(shape)}, but its lengths are {list(lengths.shape)}, not [N] of [N, L] or "
                    "[N, H] of [N, H, L]."
                )
            wrong = lengths[(lengths < 0) | (lengths > shape[places])]
            if len(wrong):
                raise DataError(
                    f"the lengths of {name!r} must lie between 0 and {shape[places]}, but reach {int(wrong[0])}."
                )

    def rows(self, index: Tensor) -> SequenceData:
        """Return the rows named by `index` [M], as wide as before."""
        found = super().rows(index)
        lengths = {name: lengths[index] for name, lengths in self.lengths.items()}
        return SequenceData(found.inputs, found.targets, lengths)

    def only(self, *names: str) -> SequenceData:
        """Return the same rows with the targets of the named tasks."""
        left_out = set(self.targets) - set(names)
        lengths = {name: lengths for name, lengths in self.lengths.items() if name not in left_out}
        return SequenceData(self.inputs, super().only(*names).targets, lengths)

    def batch(self, index: Tensor) -> tuple[Tensor | Mapping[str, Tensor], dict[str, Tensor]]:
        """Return inputs and targets of the rows named by `index` [M], whole numbers as int64.

        A sequence is cut after the last place that any of the rows fills.
        """
        assert isinstance(self.inputs, Mapping)
        inputs = {name: self._trimmed(name, tensor, index) for name, tensor in self.inputs.items()}
        return inputs, {name: self._trimmed(name, tensor, index) for name, tensor in self.targets.items()}

    def _trimmed(self, name: str, tensor: Tensor, index: Tensor) -> Tensor:
        if name in self.lengths:
            lengths = self.lengths[name]
            longest = int(lengths[index].max()) if len(index) else 0
            tensor = tensor.narrow(lengths.ndim, 0, min(tensor.shape[lengths.ndim], max(1, longest)))
        found = tensor[index]
        return found if found.is_floating_point() or found.dtype == torch.bool else found.long()


class LengthLoader(TensorLoader):
    """Iterates over `SequenceData` in batches of rows of like length, without the padding that they share.

    With `shuffle`, rows are drawn at random into pools of 64 batches, or of half of the rows if that is less. A pool
    is sorted by length (of all inputs of a row together, of H sequences the longest, equal ones at random) and cut
    into batches, whose order is random again. Without it the rows keep their order, and batches are only cut to their
    longest row. Seed and epoch fix everything, as in `TensorLoader`, and `state_dict` holds the position.

    Args:
        data: the rows.
        batch_size: rows per batch.
        shuffle: whether every epoch has a new order, of batches of like length.
        seed: with the epoch's number, fixes the order.
        drop_last: leave out a last batch that is not full; with `shuffle`, random rows are.
        by_length: without `shuffle`, take the rows from the shortest to the longest instead of in their order, for
            what does not depend on it: texts in the order of a file may cost several times as much.
        rank: number of this process among those that share the rows, from 0.
        world_size: how many processes share the rows: batch g of all together is that of one process with so many
            times the batch size.

    Example:
        >>> import torch
        >>> lengths = torch.tensor([3, 1, 1, 5])
        >>> data = SequenceData({"tokens": torch.ones(4, 5)}, {}, {"tokens": lengths})
        >>> [list(inputs["tokens"].shape) for inputs, targets in LengthLoader(data, 2)]
        [[2, 3], [2, 5]]
    """

    def __init__(
        self,
        data: SequenceData,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        by_length: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
        super().__init__(data, batch_size, **order, rank=rank, world_size=world_size)
        self._lengths = sum(
            (_longest(lengths) for name, lengths in data.lengths.items() if name in data.inputs),
            torch.zeros(len(data), dtype=torch.int64),
        ).numpy()
        self.by_length = by_length

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.from_numpy(self._lengths.argsort(kind="stable")) if self.by_length else super()._order()
        return pooled_order(self._lengths, self.joint_size, drop_last=self.drop_last, generator=self._generator())


def pooled_order(lengths: npt.NDArray[np.int64], size: int, *, drop_last: bool, generator: torch.Generator) -> Tensor:
    """Return an order of rows that, cut into batches, puts those of like length together, as `LengthLoader` says.

    Args:
        lengths: of each row [N].
        size: rows per batch.
        drop_last: leave out the rows of a batch that is not full.
        generator: fixes the draws.
    """
    drawn = torch.randperm(len(lengths), generator=generator).numpy()
    full = len(drawn) // size
    if drop_last:  # before they are sorted, or the longest would be left out
        drawn = drawn[: full * size]
    pools = np.arange(len(drawn)) // (size * max(1, min(POOL, full // POOLS)))
    rows = torch.from_numpy(drawn[np.lexsort((lengths[drawn], pools))])
    batches = torch.randperm(full, generator=generator)
    return torch.cat([rows[: full * size].view(full, size)[batches].flatten(), rows[full * size :]])


def _longest(lengths: Tensor) -> Tensor:
    """Return the largest length of each row [N]."""
    return lengths.long() if lengths.ndim == 1 else lengths.long().flatten(1).amax(1)
