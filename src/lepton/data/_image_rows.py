"""`ImageRows`: rows whose images and masks are files, decoded in a loader's workers."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lepton.data._images import Path, Size, check_size, image_and_size, mask_numbers, resize_mask
from lepton.errors import ConfigurationError, DataError, require

__all__ = ["ImageRows"]

Row = tuple[dict[str, Tensor], dict[str, Tensor]]
UINT8_CLASSES = 255
"""Classes that a byte can tell beside the missing one."""


class ImageRows(Dataset[Row]):
    """Rows of image files, other inputs, labels, and mask files, for `torch.utils.data.DataLoader`.

    A row is decoded when it is asked for: in the loader's workers, if it has some. Small sets can be kept in memory
    once decoded. The memory is shared with workers that are forked and outlives them; workers that are started anew
    (`spawn`, `forkserver`) have one each.

    Args:
        images: for each row the path of its image, or a sequence of K paths for K image columns, with None for an
            image that is missing.
        size: (height, width) of all images and masks.
        channels: 1, 3 or 4, as in `decode_image`.
        inputs: other inputs, name -> tensor [N, ...].
        targets: labels, name -> tensor [N, ...].
        masks: name of the task -> for each row the path of its mask, or None where there is none. Only beside one
            image column.
        classes: name of the task -> number of classes in its masks.
        missing: what pixels without a class hold.
        cache_bytes: bound on the memory for decoded rows, in bytes: the first rows that fit are kept.

    Raises:
        ConfigurationError: options that do not fit together.
        DataError: columns of different lengths; and, when a row is read, a file that cannot be used: it is named.

    Example:
        >>> import torch
        >>> from PIL import Image
        >>> Image.new("RGB", (8, 8), "red").save("red.png")
        >>> rows = ImageRows(["red.png"] * 4, size=(6, 6), targets={"kind": torch.arange(4)})
        >>> batches = torch.utils.data.DataLoader(rows, batch_size=2)
        >>> inputs, targets = next(iter(batches))
        >>> inputs["image"].shape, targets["kind"].tolist()
        (torch.Size([2, 3, 6, 6]), [0, 1])
    """

    def __init__(
        self,
        images: Sequence[Path] | Sequence[Sequence[Path | None]],
        *,
        size: Size,
        channels: int = 3,
        inputs: Mapping[str, Tensor] | None = None,
        targets: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, Sequence[Path | None]] | None = None,
        classes: Mapping[str, int] | None = None,
        missing: int = 255,
        cache_bytes: int = 0,
    ) -> None:
        check_size("ImageRows", size)
        require(cache_bytes >= 0, "ImageRows", "cache_bytes", cache_bytes, "at least 0")
        self.single = all(not isinstance(row, Sequence) or isinstance(row, str) for row in images)
        self.images = [_paths(row) for row in images]
        self.size = size
        self.channels = channels
        self.inputs = dict(inputs or {})
        self.targets = dict(targets or {})
        self.masks = {name: list(paths) for name, paths in (masks or {}).items()}
        self.classes = dict(classes or {})
        self.missing = missing
        self._check()
        self.columns = len(self.images[0])
        pixels = size[0] * size[1]
        mask_bytes = [pixels * _mask_dtype(self.classes[name], missing).itemsize for name in self.masks]
        self._parts = [self.columns * channels * pixels, *mask_bytes]
        self._cache = Cache(len(self.images), sum(self._parts), cache_bytes)

    def _check(self) -> None:
        if not self.images:
            raise DataError("ImageRows: there are no rows.")
        lengths = {name: len(column) for name, column in (self.inputs | self.targets).items()}
        lengths |= {name: len(paths) for name, paths in self.masks.items()}
        for name, length in lengths.items():
            if length != len(self.images):
                raise DataError(f"ImageRows: there are {len(self.images)} rows of images, but {length} of {name!r}.")
        widths = {len(row) for row in self.images}
        if len(widths) > 1 or widths == {0}:
            raise DataError(f"ImageRows: rows have different numbers of image columns: {sorted(widths)}.")
        absent = [row for row, paths in enumerate(self.images) if self.single and paths[0] is None]
        if absent:
            raise DataError(
                f"ImageRows: row {absent[0]} has no image: give each row's paths as a list, such as [None]."
            )
        if self.masks and not self.single:
            raise ConfigurationError("ImageRows: masks go with one image for each row, not with a list of images.")
        if set(self.masks) != set(self.classes):
            raise ConfigurationError(
                f"ImageRows: classes must name the tasks of the masks, {sorted(self.masks)}, but it names "
                f"{sorted(self.classes)}."
            )
        double = set(self.masks) & set(self.targets)
        if double:
            raise ConfigurationError(f"ImageRows: {sorted(double)} are among the targets and among the masks.")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Row:
        """Return the inputs and the targets of one row.

        The inputs hold `image`, uint8 [C, H, W]; or, with K columns, [K, C, H, W] and `image_missing` [K].
        """
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        parts = self._read(row)
        inputs = {name: column[row] for name, column in self.inputs.items()}
        targets = {name: column[row] for name, column in self.targets.items()}
        if self.single:
            inputs["image"] = parts[0][0]
        else:
            inputs["image"] = parts[0]
            inputs["image_missing"] = torch.tensor([path is None for path in self.images[row]])
        return inputs, targets | dict(zip(self.masks, parts[1:], strict=True))

    def _read(self, row: int) -> list[Tensor]:
        """Return the images [K, C, H, W] and the masks [H, W] of a row, out of the cache if they are there."""
        kept = self._cache.get(row)
        if kept is None:
            parts = self._decode(row)
            self._cache.put(row, torch.cat([part.flatten().view(torch.uint8) for part in parts]))
            return parts
        image, *masks = torch.split(kept, self._parts)
        dtypes = [_mask_dtype(self.classes[name], self.missing) for name in self.masks]
        # Cloned, since a view as int64 must begin at a multiple of 8 bytes.
        shaped = [mask.clone().view(dtype).reshape(self.size) for mask, dtype in zip(masks, dtypes, strict=True)]
        return [image.reshape(self.columns, self.channels, *self.size), *shaped]

    def _decode(self, row: int) -> list[Tensor]:
        images = torch.zeros(self.columns, self.channels, *self.size, dtype=torch.uint8)
        found: Size = self.size
        for place, path in enumerate(self.images[row]):
            if path is not None:
                images[place], found = image_and_size(path, self.size, self.channels)
        return [images, *(self._mask(name, row, found) for name in self.masks)]

    def _mask(self, name: str, row: int, image_size: Size) -> Tensor:
        path, classes = self.masks[name][row], self.classes[name]
        dtype = _mask_dtype(classes, self.missing)
        if path is None:
            return torch.full(self.size, self.missing, dtype=dtype)
        mask = mask_numbers(path)
        if tuple(mask.shape) != image_size:
            raise DataError(
                f"{path}: the mask of {name!r} is {list(mask.shape)} pixels high and wide, but its image "
                f"{self.images[row][0]} is {list(image_size)}."
            )
        seen = torch.bincount(mask.flatten()).nonzero().flatten().tolist()
        strange = [number for number in seen if not 0 <= number < classes and number != self.missing]
        if strange:
            raise DataError(
                f"{path}: the mask of {name!r} holds {strange[:5]}; allowed are the classes 0 to {classes - 1}, and "
                f"{self.missing} for pixels without one."
            )
        return resize_mask(mask, self.size).to(dtype)


def _paths(row: Any) -> list[Path | None]:
    return list(row) if isinstance(row, Sequence) and not isinstance(row, str) else [row]


def _mask_dtype(classes: int, missing: int) -> torch.dtype:
    return torch.uint8 if classes <= UINT8_CLASSES and 0 <= missing <= UINT8_CLASSES else torch.int64


class Cache:
    """Rows of a fixed number of bytes in one piece of memory that forked workers share.

    Two workers that decode one row at the same time write the same bytes, so nothing is locked: a row's mark is set
    after its bytes are.
    """

    def __init__(self, rows: int, row_bytes: int, limit: int) -> None:
        self.rows = min(rows, limit // (row_bytes + 1))
        self.row_bytes = row_bytes
        self._map()

    def _map(self) -> None:
        # Not under /dev/shm, which is small in containers; pages are taken up when they are first written.
        self._memory = torch.frombuffer(mmap.mmap(-1, max(1, self.rows * (self.row_bytes + 1))), dtype=torch.uint8)
        self._marks = self._memory[: self.rows]
        self._slots = self._memory[self.rows : self.rows * (self.row_bytes + 1)].view(self.rows, self.row_bytes)

    def get(self, row: int) -> Tensor | None:
        """Return a copy of a row's bytes, or None."""
        return self._slots[row].clone() if row < self.rows and bool(self._marks[row]) else None

    def put(self, row: int, values: Tensor) -> None:
        """Keep a row's bytes, if it is one of those that fit."""
        if row < self.rows:
            self._slots[row] = values
            self._marks[row] = 1

    def __getstate__(self) -> dict[str, int]:
        return {"rows": self.rows, "row_bytes": self.row_bytes}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state)
        self._map()
