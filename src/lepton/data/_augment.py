"""Images that look a little different in every epoch, and their masks with them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.errors import DataError, require

__all__ = ["Augment"]


class Augment:
    """Random mirroring, moving, enlarging, turning and light, for a whole batch at once, on its device.

    Image and mask move together: the image is interpolated bilinearly, the mask takes the nearest pixel's class. What
    comes in from outside is black in the image and `missing` in the mask. Every row has its own draw; the draws are
    the same whatever the options are, so that a changed brightness leaves the mirrored rows mirrored.

    Args:
        flip: probability of a left-right mirror image.
        vertical_flip: probability of an upside-down mirror image.
        crop: largest move, up or down and left or right, as a share of the side, in whole pixels.
        zoom: enlargement by a factor between 1 - zoom and 1 + zoom.
        rotate: largest turn, in degrees.
        brightness: factor on all values between 1 - brightness and 1 + brightness.
        contrast: factor on the distance from the image's mean, likewise.
        saturation: factor on the distance from grey, likewise; images of 3 channels only.
        missing: class of the mask's pixels that come in from outside.

    Raises:
        ConfigurationError: a value that is not allowed.

    Example:
        >>> import torch
        >>> augment = Augment(flip=1.0, crop=0.0, brightness=0.0, contrast=0.0)
        >>> image = torch.tensor([[[[0, 100, 200]]]], dtype=torch.uint8)
        >>> augment(image, generator=torch.Generator().manual_seed(0))[0].tolist()
        [[[[200, 100, 0]]]]
    """

    def __init__(
        self,
        *,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        crop: float = 0.1,
        zoom: float = 0.0,
        rotate: float = 0.0,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.0,
        missing: int = 255,
    ) -> None:
        for name, value in [("flip", flip), ("vertical_flip", vertical_flip)]:
            require(0 <= value <= 1, "Augment", name, value, "in [0, 1]")
        light = [("brightness", brightness), ("contrast", contrast), ("saturation", saturation)]
        for name, value in [("crop", crop), ("zoom", zoom), *light]:
            require(0 <= value < 1, "Augment", name, value, "in [0, 1)")
        require(0 <= rotate <= 180, "Augment", "rotate", rotate, "in [0, 180] degrees")
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.crop = crop
        self.zoom = zoom
        self.rotate = rotate
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.missing = missing

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Return new images, and new masks if there are any.

        Args:
            image: [B, C, H, W], uint8 in 0 to 255 or floating point in 0 to 1.
            mask: classes [B, H, W], below 2^24.
            generator: fixes the draws; a CPU generator serves images on any device.

        Returns:
            Tensors of the same shapes and dtypes.

        Raises:
            DataError: images of another shape, or masks that do not fit them.
        """
        if image.ndim != 4:
            raise DataError(f"Augment: images must be [B, C, H, W], but they are {list(image.shape)}.")
        expected = (len(image), *image.shape[2:])
        if mask is not None and mask.shape != expected:
            raise DataError(f"Augment: masks of these images must be {list(expected)}, but are {list(mask.shape)}.")
        draws = torch.rand(9, len(image), generator=generator, device=generator.device).to(image.device)
        scale = 255.0 if image.dtype == torch.uint8 else 1.0
        values = image.float() / scale
        if self.flip or self.vertical_flip or self.crop or self.zoom or self.rotate:
            grid = self._grid(draws[:6], image.shape)
            values = F.grid_sample(values, grid, mode="bilinear", align_corners=False)
            mask = mask if mask is None else self._moved(mask, grid)
        values = self._lit(values, draws[6:]).clamp(0, 1) * scale
        return (values.round() if scale > 1 else values).to(image.dtype), mask

    def _grid(self, draws: Tensor, shape: torch.Size) -> Tensor:
        """Return where every pixel of the new images [B, H, W, 2] lies in the old ones, from -1 to 1."""
        height, width = shape[2:]
        across = torch.where(draws[0] < self.flip, -1.0, 1.0)
        down = torch.where(draws[1] < self.vertical_flip, -1.0, 1.0)
        # In whole pixels: a move by a part of one would blur the image, and let the mask disagree with it.
        right = (_around_zero(draws[2]) * self.crop * width).round() * 2 / width
        below = (_around_zero(draws[3]) * self.crop * height).round() * 2 / height
        factor = 1 / (1 + _around_zero(draws[4]) * self.zoom)
        angle = _around_zero(draws[5]) * math.radians(self.rotate)
        cos, sin = angle.cos() * factor, angle.sin() * factor
        # The turn is one of pixels; the coordinates count half sides.
        first = torch.stack([across * cos, -across * sin * height / width, right], 1)
        second = torch.stack([down * sin * width / height, down * cos, below], 1)
        grid: Tensor = F.affine_grid(torch.stack([first, second], 1), list(shape), align_corners=False)
        return grid

    def _moved(self, mask: Tensor, grid: Tensor) -> Tensor:
        # Sampling gives zeros for what lies outside, so zero stands for `missing` meanwhile.
        shifted = (mask[:, None].to(torch.int64) - self.missing).float()
        sampled: Tensor = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)
        return (sampled[:, 0].long() + self.missing).to(mask.dtype)

    def _lit(self, values: Tensor, draws: Tensor) -> Tensor:
        brightness, contrast, saturation = _around_zero(draws)[..., None, None, None].unbind()
        if self.saturation and values.shape[1] == 3:
            values = torch.lerp(values.mean(1, keepdim=True), values, 1 + self.saturation * saturation)
        if self.contrast:
            values = torch.lerp(values.mean((1, 2, 3), keepdim=True), values, 1 + self.contrast * contrast)
        return values * (1 + self.brightness * brightness)


def _around_zero(draws: Tensor) -> Tensor:
    """Return draws from [0, 1) as draws from [-1, 1)."""
    return 2 * draws - 1
