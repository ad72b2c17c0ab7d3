"""`UNet`: an encoder and a decoder for tasks that want something for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.nn.trunks._convolution import ImageInput, Norm, Residual, check_image_trunk, convolution

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
        norm: `"batch"` normalises over the batch, `"group"` within each image: for batches of a few images.
        mean: mean of the images' channels on the scale 0 to 1, one number or one for each channel.
        std: their standard deviation, likewise.

    Attributes:
        out_features: D = width.

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
        norm: Norm = "batch",
        mean: float | Sequence[float] = 0.45,
        std: float | Sequence[float] = 0.25,
    ) -> None:
        super().__init__()
        check_image_trunk("UNet", norm, channels=channels, width=width, depth=depth, max_width=max_width)
        self.depth = depth
        self.out_features = width
        widths = [width, *(min(width * 2**level, max(width, max_width)) for level in range(1, depth + 1))]
        self.input = ImageInput("UNet", channels, mean, std)
        self.stem = convolution(channels, width, norm)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(Residual(fine, coarse, norm, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(Residual(fine + coarse, fine, norm) for fine, coarse in reversed(pairs))

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
