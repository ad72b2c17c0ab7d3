"""`ImageLoader`: batches of image rows, decoded and augmented by worker processes, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lepton.data._augment import Augment
from lepton.data._image_rows import ImageRows
from lepton.data._loading import Batch, OrderedLoader, read_by_workers

__all__ = ["ImageLoader", "image_batch"]


class ImageLoader(OrderedLoader):
    """Iterates over `ImageRows` in batches; one pass is an epoch, whose order and draws are fixed by seed and epoch.

    The number of workers changes nothing in the batches: every batch's draws come from its own number. The position,
    also within an epoch, is in `state_dict`.

    Args:
        rows: the rows.
        batch_size: rows per batch.
        shuffle: whether every epoch has a new order.
        seed: with the epoch's number, fixes order and augmentation.
        drop_last: leave out a last batch that is not full.
        augment: applied to images and masks of a batch, by the worker that decoded it.
        workers: processes that decode; 0 decodes in this one.
        rank: number of this process among those that share the rows, from 0.
        world_size: how many processes share the rows: batch g of all together is that of one process with so many
            times the batch size, except for its augmentation.

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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
        super().__init__(len(rows), batch_size, **order, workers=workers, rank=rank, world_size=world_size)
        self.rows = rows
        self.augment = augment

    def _read(self, batches: Sequence[Tensor], first: int) -> Iterable[Batch]:
        return read_by_workers(self, partial(image_batch, self.rows, self.augment), batches, first)

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The labels that are no masks, of all rows."""
        return self.rows.targets


def image_batch(rows: ImageRows, augment: Augment | None, index: Tensor, generator: torch.Generator | None) -> Batch:
    """Return the inputs and targets of rows [B], augmented by the draws of the generator."""
    # An empty share of a last batch still has the shapes of a row.
    found: Any = default_collate([rows[row] for row in index.tolist() or [0]])
    inputs, targets = found
    if augment is not None and generator is not None:
        _augmented(rows, augment, inputs, targets, generator)
    if len(index):
        return inputs, targets
    return {name: value[:0] for name, value in inputs.items()}, {name: value[:0] for name, value in targets.items()}


def _augmented(
    rows: ImageRows,
    augment: Augment,
    inputs: dict[str, Tensor],
    targets: dict[str, Tensor],
    generator: torch.Generator,
) -> None:
    image = inputs["image"]
    if image.ndim == 5:  # K images for each row, and no masks
        flat, _ = augment(image.flatten(0, 1), generator=generator)
        inputs["image"] = flat.reshape(image.shape)
        return
    names = list(rows.masks)
    start = generator.get_state()
    inputs["image"], moved = augment(image, targets[names[0]] if names else None, generator=generator)
    if moved is not None:
        targets[names[0]] = moved
    for name in names[1:]:  # with the same draws
        generator.set_state(start)
        _, further = augment(image, targets[name], generator=generator)
        assert further is not None
        targets[name] = further
