"""Files to pixels: images as bytes [C, H, W], masks as class numbers [H, W]."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton.errors import DataError, is_whole, require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Path", "Size", "check_size", "decode_image", "decode_mask", "image_and_size", "mask_numbers", "resize_mask"]

Path = str | PathLike[str]
Size = tuple[int, int]
"""Height and width in pixels."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""
TURNED = (5, 6, 7, 8)
"""Its values for which height and width change places."""


def decode_image(path: Path | bytes, size: Size | None = None, channels: int = 3) -> Tensor:
    """Return the pixels of an image file.

    The image is turned as its EXIF orientation says. Transparent parts lie on white, unless there are 4 channels.
    16 bits per channel become 8. Of several frames the first is read.

    Args:
        path: a file of any format that pillow reads, or the bytes of one.
        size: (height, width) to resize to, without regard to the sides' ratio, bilinearly with a filter as wide as the
            reduction; None keeps the size.
        channels: 1 for grey, 3 for red, green and blue, 4 with opacity.

    Returns:
        uint8 [C, H, W].

    Raises:
        DataError: a file that is not there, broken or cut off, or whose kind of pixel is not handled; the message
            names it.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (6, 4), 200).save("grey.png")
        >>> decode_image("grey.png", size=(2, 3)).shape
        torch.Size([3, 2, 3])
    """
    return image_and_size(path, size, channels)[0]


def image_and_size(path: Path | bytes, size: Size | None, channels: int) -> tuple[Tensor, Size]:
    """Return the pixels of an image file, and the size that it has in the file."""
    require(channels in MODES, "decode_image", "channels", channels, f"one of {list(MODES)}")
    check_size("decode_image", size)
    from PIL import Image as images
    from PIL import ImageOps

    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in TURNED
        if size is not None:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the work; never below what is asked for.
            image.draft(None, (max(size), max(size)))
        pixels = _colours(_name(path), ImageOps.exif_transpose(image), channels)
        if size is not None and pixels.size != size[::-1]:
            pixels = pixels.resize(size[::-1], images.Resampling.BILINEAR)
        found = np.array(pixels, dtype=np.uint8)
    tensor = torch.from_numpy(found.reshape(*found.shape[:2], channels)).permute(2, 0, 1).contiguous()
    return tensor, (width, height) if turned else (height, width)


def _colours(path: Path, image: Image, channels: int) -> Image:
    """Return the image in the mode that has the channels."""
    from PIL import Image as images

    if image.mode.startswith("I") or image.mode == "F":
        image = images.fromarray(_eight_bits(path, image))
    if channels == 4:
        return image.convert("RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def _eight_bits(path: Path, image: Image) -> npt.NDArray[np.uint8]:
    """Return the upper 8 of 16 bits: pillow itself would cut every value above 255 off."""
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise DataError(
            f"{path}: pixels of mode {image.mode!r} from {values.min()} to {values.max()} have no known range: save "
            "the image with 8 or 16 bits per channel."
        )
    return (values // 256).astype(np.uint8)


def decode_mask(path: Path, size: Size | None = None) -> Tensor:
    """Return the class numbers in a mask file: the indices of a palette, or grey values as they are.

    Args:
        path: a file with one number for each pixel, without loss: PNG, not JPEG.
        size: (height, width) to resize to, each pixel taking the nearest one's number; None keeps the size.

    Returns:
        [H, W], uint8 for a file of at most 8 bits, otherwise int64.

    Raises:
        DataError: a file that is not there, broken or cut off, or that holds colours; the message names it.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8)).save("mask.png")
        >>> decode_mask("mask.png").tolist()
        [[0, 1], [2, 255]]
    """
    check_size("decode_mask", size)
    numbers = mask_numbers(path)
    return numbers if size is None else resize_mask(numbers, size)


def mask_numbers(path: Path) -> Tensor:
    """Return the class numbers in a mask file, at the file's own size."""
    from PIL import ImageOps

    with _opened(path) as image:
        image = ImageOps.exif_transpose(image)
        values = np.asarray(image)
        if values.ndim == 3 and image.mode == "RGB" and (values == values[..., :1]).all():
            values = values[..., 0]
        if values.ndim != 2 or values.dtype.kind not in "bui":
            raise DataError(
                f"{path}: a mask holds one class number for each pixel, but this file has mode {image.mode!r}: save it "
                "as a palette or greyscale PNG."
            )
        small = values.dtype.kind == "b" or values.dtype.itemsize == 1
        return torch.from_numpy(values.astype(np.uint8 if small else np.int64))


def resize_mask(mask: Tensor, size: Size) -> Tensor:
    """Return a mask [H, W] at another size, each pixel with the number of the one that lies where its centre does."""
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def check_size(owner: str, size: Size | None) -> None:
    """Refuse a size that is no pair of whole numbers of at least 1."""
    good = size is None or (len(size) == 2 and all(is_whole(side) for side in size))
    require(good, owner, "size", size, "(height, width), two whole numbers of at least 1, or None")


def _name(source: Path | bytes) -> Path:
    """Return what messages call an image."""
    return "the picture" if isinstance(source, bytes) else source


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image]:
    """Open an image file; whatever is wrong with it becomes a `DataError` that names it."""
    from PIL import Image as images

    path = _name(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", images.DecompressionBombWarning)
            with images.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such image file.") from None
    except (images.DecompressionBombError, images.DecompressionBombWarning) as error:
        raise DataError(f"{path}: {error} Store it smaller.") from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{path}: this image cannot be read: {error}") from error
