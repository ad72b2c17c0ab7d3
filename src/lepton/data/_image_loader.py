"""`ImageLoader`: batches of image rows, decoded and augmented by worker processes, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lepton.data._augment import Augment
from lepton.data._image_rows import ImageRows
from lepton.errors import is_whole, require

__all__ = ["ImageLoader", "seeded_generator"]

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


class ImageLoader:
    """Iterates over `ImageRows` in batches; one pass is an epoch, whose order and draws are fixed by seed and epoch.

    The number of workers changes nothing in the batches: every batch's draws come from its own number.

    Args:
        rows: the rows.
        batch_size: rows per batch.
        shuffle: whether every epoch has a new order.
        seed: with the epoch's number, fixes order and augmentation.
        drop_last: leave out a last batch that is not full.
        augment: applied to images and masks of a batch, by the worker that decoded it.
        workers: processes that decode; 0 decodes in this one.

    Example:
        >>> import torch
        >>> from PIL import Image
        >>> Image.new("RGB", (8, 8), "red").save("red.png")
        >>> rows = ImageRows(["red.png"] * 5, size=(6, 6), targets={"kind": torch.arange(5)})
        >>> [len(targets["kind"]) for inputs, targets in ImageLoader(rows, batch_size=2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        rows: ImageRows,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        augment: Augment | None = None,
        workers: int = 0,
    ) -> None:
        require(is_whole(batch_size), "ImageLoader", "batch_size", batch_size, "a whole number of at least 1")
        require(is_whole(workers, 0), "ImageLoader", "workers", workers, "a whole number of at least 0")
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.augment = augment
        self.workers = workers
        self.epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(len(self.rows))
        if self.shuffle:
            order = torch.randperm(len(order), generator=seeded_generator(self.seed, self.epoch, 0))
        batches = torch.split(order, self.batch_size)[: len(self)]
        dataset = _Batches(self.rows, batches, self.augment, self.seed, self.epoch)
        self.epoch += 1
        # An epoch's workers are new: they inherit its order, and the rows that earlier ones decoded.
        loader: DataLoader[Batch] = DataLoader(dataset, batch_size=None, num_workers=self.workers)
        yield from loader

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The labels that are no masks, of all rows."""
        return self.rows.targets


class _Batches(Dataset[Batch]):
    """The batches of one epoch by their number, so that a loader's worker makes a whole one."""

    def __init__(
        self, rows: ImageRows, batches: tuple[Tensor, ...], augment: Augment | None, seed: int, epoch: int
    ) -> None:
        self.rows = rows
        self.batches = batches
        self.augment = augment
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        collated: Any = default_collate([self.rows[row] for row in self.batches[number].tolist()])
        inputs, targets = collated
        if self.augment is not None:
            self._augment(inputs, targets, seeded_generator(self.seed, self.epoch, number + 1))
        return inputs, targets

    def _augment(self, inputs: dict[str, Tensor], targets: dict[str, Tensor], generator: torch.Generator) -> None:
        assert self.augment is not None
        image = inputs["image"]
        if image.ndim == 5:  # K images for each row, and no masks
            flat, _ = self.augment(image.flatten(0, 1), generator=generator)
            inputs["image"] = flat.reshape(image.shape)
            return
        names = list(self.rows.masks)
        start = generator.get_state()
        inputs["image"], moved = self.augment(image, targets[names[0]] if names else None, generator=generator)
        if moved is not None:
            targets[names[0]] = moved
        for name in names[1:]:  # with the same draws
            generator.set_state(start)
            _, further = self.augment(image, targets[name], generator=generator)
            assert further is not None
            targets[name] = further


def seeded_generator(*numbers: int) -> torch.Generator:
    """Return a generator that whole numbers, such as a seed, an epoch and a batch, fix together."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return torch.Generator().manual_seed(seed)
