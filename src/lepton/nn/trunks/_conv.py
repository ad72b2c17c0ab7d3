"""`ConvTrunk`: a small residual network for images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

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
        widths: channels of the stem and of each stage; by default `width`, and width * 2^s for stage s from 0 on.
        inner: channels inside each block, between its convolutions; by default those of its stage.
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
        widths: Sequence[int] | None = None,
        inner: Sequence[int] | None = None,
        norm: Norm = "batch",
        stem_stride: int = 1,
        mean: float | Sequence[float] = 0.45,
        std: float | Sequence[float] = 0.25,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "width": width, "stages": stages, "blocks": blocks, "stem_stride": stem_stride}
        check_image_trunk("ConvTrunk", norm, **sizes)
        self.input = ImageInput("ConvTrunk", channels, mean, std)
        doubled = [width, *(width * 2**stage for stage in range(stages))]
        found = given_widths("ConvTrunk", "widths", widths, doubled, "the stem's, and each stage's")
        usual = [after for after in found[1:] for _ in range(blocks)]
        within = given_widths("ConvTrunk", "inner", inner, usual, "each block's, stage by stage")
        self.blocks = blocks
        self.stem = convolution(channels, found[0], norm, stride=stem_stride)
        layers: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(found)):
            first, *others = within[stage * blocks : (stage + 1) * blocks]
            layers.append(Residual(before, after, norm, first, stride=2))
            layers += [Residual(after, after, norm, hidden) for hidden in others]
        self.stages = nn.Sequential(*layers)
        # In a tuple, so that it is not registered twice; an adapter may stand in the place of the block.
        self._last = (self._blocks()[-1].norm,)

    @property
    def out_features(self) -> int:
        """D."""
        return norm_channels(self._last[0])

    def _blocks(self) -> list[Residual]:
        return [block for block in self.stages if isinstance(block, Residual)]

    def _outputs(self) -> list[nn.Conv2d]:
        """Return the convolution that the channels of the stem, and those of each stage, are counted at."""
        stem: nn.Conv2d = self.stem[0]  # type: ignore[assignment]
        return [stem, *(block.output for block in self._blocks()[:: self.blocks])]

    def prunable(self) -> list[Width]:
        """Return the widths that may shrink: see `Prunable`."""
        units = [norm_unit(self.stem[1]), *(norm_unit(block.norm) for block in self._blocks()[:: self.blocks])]
        found = [
            Width(f"widths[{place}]", (layer,), unit)
            for place, (layer, unit) in enumerate(zip(self._outputs(), units, strict=True))
            if unit is not None
        ]
        return [*found, *(w for n, block in enumerate(self._blocks()) for w in block.prunable(f"inner[{n}]"))]

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths: see `Prunable`."""
        return {
            "widths": [layer.out_channels for layer in self._outputs()],
            "inner": [block.inner.out_channels for block in self._blocks()],
        }

    def forward(self, image: Tensor) -> Tensor:
        """Return the feature map [B, D, h, w].

        Args:
            image: [B, C, H, W], uint8 in 0 to 255 or floating point in 0 to 1.

        Raises:
            DataError: images of another shape.
        """
        return self.stages(self.stem(self.input(image)))  # type: ignore[no-any-return]
