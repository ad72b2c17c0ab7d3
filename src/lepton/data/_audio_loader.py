"""`AudioLoader`: batches of recordings of like length, read and augmented by workers, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lepton.data._audio_rows import AudioRows
from lepton.data._augment_audio import AugmentAudio
from lepton.data._loading import Batch, OrderedLoader, read_by_workers
from lepton.data._sequence_data import pooled_order

__all__ = ["AudioLoader"]


class AudioLoader(OrderedLoader):
    """Iterates over `AudioRows` in batches; one pass is an epoch, whose order and draws are fixed by seed and epoch.

    With `shuffle`, recordings of like length come together, as texts do in `LengthLoader`, so that little of a batch
    is padding. The number of workers changes nothing in the batches: every batch's draws come from its own number. The
    position, also within an epoch, is in `state_dict`.

    Args:
        rows: the rows.
        batch_size: rows per batch.
        shuffle: whether every epoch has a new order, of batches of like length.
        seed: with the epoch's number, fixes order and augmentation.
        drop_last: leave out a last batch that is not full; with `shuffle`, random rows are.
        augment: applied to the recordings of a batch, by the worker that read them.
        workers: processes that read; 0 reads in this one.
        by_length: without `shuffle`, take the rows from the shortest to the longest instead of in their order.
        rank: number of this process among those that share the rows, from 0.
        world_size: how many processes share the rows: batch g of all together is that of one process with so many
            times the batch size, except for its augmentation.

    Example:
        >>> import numpy, soundfile
        >>> paths = [f"{samples}.wav" for samples in (900, 100, 800)]
        >>> for path in paths:
        ...     soundfile.write(path, numpy.full(int(path[:-4]), 0.1), 8000)
        >>> rows = AudioRows(paths, sample_rate=8000, max_seconds=20.0)
        >>> [inputs["samples"].tolist() for inputs, targets in AudioLoader(rows, batch_size=2, by_length=True)]
        [[100, 800], [900]]
    """

    def __init__(
        self,
        rows: AudioRows,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        augment: AugmentAudio | None = None,
        workers: int = 0,
        by_length: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
        super().__init__(len(rows), batch_size, **order, workers=workers, rank=rank, world_size=world_size)
        self.rows = rows
        self.augment = augment
        self.by_length = by_length

    def _read(self, batches: Sequence[Tensor], first: int) -> Iterable[Batch]:
        return read_by_workers(self, partial(_batch, self.rows, self.augment), batches, first)

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The labels that are not made of the recordings, of all rows."""
        return self.rows.targets

    def _order(self) -> Tensor:
        lengths = self.rows.lengths.numpy()
        lengths = lengths if self.among is None else lengths[self.among.numpy()]
        if self.shuffle:
            return pooled_order(lengths, self.joint_size, drop_last=self.drop_last, generator=self._generator())
        return torch.from_numpy(lengths.argsort(kind="stable")) if self.by_length else super()._order()


def _batch(rows: AudioRows, augment: AugmentAudio | None, index: Tensor, generator: torch.Generator) -> Batch:
    if len(index):
        return rows.batch(index, augment=augment, generator=generator)
    inputs, targets = rows.batch(torch.tensor([0]), augment=None, generator=generator)  # the shapes of a row
    return {name: value[:0] for name, value in inputs.items()}, {name: value[:0] for name, value in targets.items()}
