"""`ConvTrunk`: a small residual network for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lepton.nn.trunks._convolution import ImageInput, Norm, Residual, check_image_trunk, convolution

__all__ = ["ConvTrunk"]


class ConvTrunk(nn.Module):
    """Images [B, C, H, W] to a feature map [B, D, h, w]: a stem and stages of residual blocks (He et al., 2016).

    Every stage halves the height and the width and, after the first one, doubles the channels: D = width *
    2^(stages - 1), and h = H / (stem_stride * 2^stages), rounded up. A linear head reads the map's mean over positions.

    Args:
        channels: channels of the images.
        width: channels of the stem and the first stage.
        stages: number of stages.
        blocks: residual blocks per stage.
        norm: `"batch"` normalises over the batch, `"group"` within each image: for batches of a few images.
        stem_stride: 1 for small images; 2 halves large ones before the first stage, for a quarter of the cost.
        mean: mean of the images' channels on the scale 0 to 1, one number or one for each channel.
        std: their standard deviation, likewise.

    Attributes:
        out_features: D.

    Raises:
        ConfigurationError: a size or a name that is not allowed.

    Example:
        >>> import torch
        >>> trunk = ConvTrunk(width=8, stages=2, blocks=1)
        >>> trunk(torch.zeros(2, 3, 32, 20, dtype=torch.uint8)).shape
        torch.Size([2, 16, 8, 5])
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 32,
        stages: int = 3,
        blocks: int = 2,
        *,
        norm: Norm = "batch",
        stem_stride: int = 1,
        mean: float | Sequence[float] = 0.45,
        std: float | Sequence[float] = 0.25,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "width": width, "stages": stages, "blocks": blocks, "stem_stride": stem_stride}
        check_image_trunk("ConvTrunk", norm, **sizes)
        self.input = ImageInput("ConvTrunk", channels, mean, std)
        self.stem = convolution(channels, width, norm, stride=stem_stride)
        layers: list[nn.Module] = []
        before = width
        for stage in range(stages):
            after = width * 2**stage
            layers.append(Residual(before, after, norm, stride=2))
            layers += [Residual(after, after, norm) for _ in range(blocks - 1)]
            before = after
        self.stages = nn.Sequential(*layers)
        self.out_features = before

    def forward(self, image: Tensor) -> Tensor:
        """Return the feature map [B, D, h, w].

        Args:
            image: [B, C, H, W], uint8 in 0 to 255 or floating point in 0 to 1.

        Raises:
            DataError: images of another shape.
        """
        return self.stages(self.stem(self.input(image)))  # type: ignore[no-any-return]
