"""`UNet`: an encoder and a decoder for tasks that want something for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.nn._prunable import Width
from lepton.nn.trunks._convolution import (
    ImageInput,
    Norm,
    Residual,
    check_image_trunk,
    convolution,
    given_widths,
    norm_channels,
    norm_unit,
)

__all__ = ["UNet"]


class UNet(nn.Module):
    """Images [B, C, H, W] to features [B, D, H, W]: down, up again, and across at every size.

    The encoder halves the map `depth` times; the decoder enlarges it again and reads, at every size, what the encoder
    saw there. Images whose sides are no multiple of 2^depth are padded with copies of their border, and the features
    are cropped. A linear head or a segmentation head of 1 x 1 convolutions reads the features as they are.

    Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015; here
    with residual blocks, norms, and interpolation in the place of transposed convolutions.

    Args:
        channels: channels of the images.
        width: channels at full resolution, and D.
        depth: how often the map is halved.
        max_width: bound on the channels, which double with every halving.
        widths: channels of the encoder at full resolution and after each halving; by default `width`, doubled up to
            `max_width`.
        up_widths: channels of the decoder from full resolution on, whose first is D; by default the encoder's.
        inner: channels inside each block, between its convolutions: on the way down, then on the way up; by default
            those that the block gives.
        norm: `"batch"` normalises over the batch, `"group"` within each image: for batches of a few images.
        mean: mean of the images' channels on the scale 0 to 1, one number or one for each channel.
        std: their standard deviation, likewise.

    Attributes:
        out_features: D, which is `width` unless `up_widths` says otherwise.

    Raises:
        ConfigurationError: a size or a name that is not allowed.

    Example:
        >>> import torch
        >>> UNet(width=8, depth=2)(torch.zeros(1, 3, 21, 30, dtype=torch.uint8)).shape
        torch.Size([1, 8, 21, 30])
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 32,
        depth: int = 4,
        *,
        max_width: int = 256,
        widths: Sequence[int] | None = None,
        up_widths: Sequence[int] | None = None,
        inner: Sequence[int] | None = None,
        norm: Norm = "batch",
        mean: float | Sequence[float] = 0.45,
        std: float | Sequence[float] = 0.25,
    ) -> None:
        super().__init__()
        check_image_trunk("UNet", norm, channels=channels, width=width, depth=depth, max_width=max_width)
        self.depth = depth
        doubled = [width, *(min(width * 2**level, max(width, max_width)) for level in range(1, depth + 1))]
        down = given_widths("UNet", "widths", widths, doubled, "at full resolution, and after each halving")
        up = given_widths("UNet", "up_widths", up_widths, down[:-1], "at full resolution first")
        usual = [*down[1:], *reversed(up)]
        within = given_widths("UNet", "inner", inner, usual, "each block's on the way down, then on the way up")
        self.input = ImageInput("UNet", channels, mean, std)
        self.stem = convolution(channels, down[0], norm)
        self.down = nn.ModuleList(
            Residual(fine, coarse, norm, hidden, stride=2)
            for (fine, coarse), hidden in zip(pairwise(down), within[:depth], strict=True)
        )
        coarse = [down[-1], *reversed(up)][:-1]
        self.up = nn.ModuleList(
            Residual(across + below, fine, norm, hidden, projects=True)
            for across, below, fine, hidden in zip(
                reversed(down[:-1]), coarse, reversed(up), within[depth:], strict=True
            )
        )
        # In a tuple, so that it is not registered twice; an adapter may stand in the place of the block.
        self._last = (self._blocks()[-1].norm,)

    @property
    def out_features(self) -> int:
        """D."""
        return norm_channels(self._last[0])

    def _blocks(self) -> list[Residual]:
        return [block for block in (*self.down, *self.up) if isinstance(block, Residual)]

    def _outputs(self) -> list[nn.Conv2d]:
        """Return the convolutions at which the channels of the stem, and of each block, are counted."""
        stem: nn.Conv2d = self.stem[0]  # type: ignore[assignment]
        return [stem, *(block.output for block in self._blocks())]

    def prunable(self) -> list[Width]:
        """Return the widths that may shrink: see `Prunable`."""
        names = [
            *(f"widths[{level}]" for level in range(self.depth + 1)),
            *(f"up_widths[{level}]" for level in reversed(range(self.depth))),
        ]
        units = [norm_unit(self.stem[1]), *(norm_unit(block.norm) for block in self._blocks())]
        found = [
            Width(name, (layer,), unit)
            for name, layer, unit in zip(names, self._outputs(), units, strict=True)
            if unit is not None
        ]
        return [*found, *(w for n, block in enumerate(self._blocks()) for w in block.prunable(f"inner[{n}]"))]

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths: see `Prunable`."""
        found = [layer.out_channels for layer in self._outputs()]
        return {
            "widths": found[: self.depth + 1],
            "up_widths": found[: self.depth : -1],
            "inner": [block.inner.out_channels for block in self._blocks()],
        }

    def forward(self, image: Tensor) -> Tensor:
        """Return the features [B, D, H, W].

        Args:
            image: [B, C, H, W], uint8 in 0 to 255 or floating point in 0 to 1.

        Raises:
            DataError: images of another shape.
        """
        height, width = image.shape[-2:]
        features = self.stem(self._padded(self.input(image)))
        seen = []
        for layer in self.down:
            seen.append(features)
            features = layer(features)
        for layer, across in zip(self.up, reversed(seen), strict=True):
            larger = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = layer(torch.cat([across, larger], dim=1))
        return features[..., :height, :width]  # type: ignore[no-any-return]

    def _padded(self, image: Tensor) -> Tensor:
        """Return the images with sides that can be halved `depth` times."""
        multiple = 2**self.depth
        right, bottom = -image.shape[-1] % multiple, -image.shape[-2] % multiple
        return F.pad(image, (0, right, 0, bottom), mode="replicate") if right or bottom else image
