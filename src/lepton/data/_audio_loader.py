"""`AudioLoader`: batches of recordings of like length, read and augmented by workers, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lepton.data._audio_rows import AudioRows
from lepton.data._augment_audio import AugmentAudio
from lepton.data._image_loader import seeded_generator
from lepton.data._sequence_data import pooled_order
from lepton.errors import is_whole, require

__all__ = ["AudioLoader"]

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


class AudioLoader:
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
    ) -> None:
        require(is_whole(batch_size), "AudioLoader", "batch_size", batch_size, "a whole number of at least 1")
        require(is_whole(workers, 0), "AudioLoader", "workers", workers, "a whole number of at least 0")
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.augment = augment
        self.workers = workers
        self.by_length = by_length
        self.epoch = 0
        self._first = self._done = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        batches = torch.split(self._order(), self.batch_size)[: len(self)]
        first, self._first = self._first, 0
        dataset = _Batches(self.rows, batches, first, self.augment, self.seed, self.epoch)
        self.epoch += 1
        # An epoch's workers are new: they inherit its order, and the recordings that earlier ones read. A generator of
        # its own, since a loader without one takes a number from torch's, which a training that goes on would miss.
        loader: DataLoader[Batch] = DataLoader(
            dataset, batch_size=None, num_workers=self.workers, generator=seeded_generator(self.seed)
        )
        for place, batch in enumerate(loader, first):
            self._done = place + 1
            yield batch
        self._done = 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from: the epoch, counted from 0, and the batch in it."""
        if 0 < self._done < len(self):
            return {"epoch": self.epoch - 1, "batch": self._done}
        return {"epoch": self.epoch, "batch": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration begin where `state_dict` stood."""
        self.epoch, self._first, self._done = state["epoch"], state["batch"], 0

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The labels that are not made of the recordings, of all rows."""
        return self.rows.targets

    def _order(self) -> Tensor:
        lengths = self.rows.lengths.numpy()
        if self.shuffle:
            generator = seeded_generator(self.seed, self.epoch, 0)
            return pooled_order(lengths, self.batch_size, drop_last=self.drop_last, generator=generator)
        if self.by_length:
            return torch.from_numpy(lengths.argsort(kind="stable"))
        return torch.arange(len(self.rows))


class _Batches(Dataset[Batch]):
    """The batches of one epoch from the number `first` on, so that a loader's worker makes a whole one."""

    def __init__(
        self,
        rows: AudioRows,
        batches: tuple[Tensor, ...],
        first: int,
        augment: AugmentAudio | None,
        seed: int,
        epoch: int,
    ) -> None:
        self.rows = rows
        self.batches = batches
        self.first = first
        self.augment = augment
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches) - self.first

    def __getitem__(self, place: int) -> Batch:
        number = self.first + place
        generator = seeded_generator(self.seed, self.epoch, number + 1)
        return self.rows.batch(self.batches[number], augment=self.augment, generator=generator)
