"""What the trunks of images are made of: their input, convolutions with a norm, residual pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, DataError, is_whole, nearest, require

__all__ = ["ImageInput", "Norm", "Residual", "check_image_trunk", "convolution"]

Norm = Literal["batch", "group"]
GROUP = 8
"""Channels that share a mean and a variance, where the number of channels allows it."""


def check_image_trunk(owner: str, norm: str, **sizes: int) -> None:
    """Refuse a norm that is not known and sizes that are no whole numbers of at least 1."""
    for name, value in sizes.items():
        require(is_whole(value), owner, name, value, "an integer >= 1")
    if norm not in ("batch", "group"):
        raise ConfigurationError(
            f"{owner}: norm must be 'batch' or 'group', but it is {norm!r}.{nearest(norm, ['batch', 'group'])}"
        )


class ImageInput(nn.Module):
    """Images as they travel, bytes or numbers in 0 to 1, to standardised numbers.

    Args:
        owner: who takes the images, for messages.
        channels: number of channels C.
        mean: mean of each channel, on the scale 0 to 1; one number for all of them, or C.
        std: standard deviation of each channel, likewise.
    """

    mean: Tensor
    rate: Tensor

    def __init__(self, owner: str, channels: int, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.owner = owner
        self.channels = channels
        means, stds = _per_channel(owner, "mean", mean, channels), _per_channel(owner, "std", std, channels)
        require(bool((stds > 0).all()), owner, "std", std, "positive")
        self.register_buffer("mean", means[:, None, None])
        self.register_buffer("rate", 1 / stds[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Return the images [B, C, H, W], standardised, in the trunk's dtype."""
        if image.ndim != 4 or image.shape[1] != self.channels:
            raise DataError(
                f"{self.owner}: images must be [B, {self.channels}, H, W], as the trunk was built, but they are "
                f"{list(image.shape)}."
            )
        scaled = image.to(self.mean.dtype)
        if image.dtype == torch.uint8:
            scaled = scaled / 255
        # Convolutions keep this order of memory to the end, and take 0.8 (ConvTrunk) to 0.95 (UNet) of the time.
        return ((scaled - self.mean) * self.rate).contiguous(memory_format=torch.channels_last)


def _per_channel(owner: str, name: str, value: float | Sequence[float], channels: int) -> Tensor:
    found = [float(value)] * channels if isinstance(value, (int, float)) else [float(number) for number in value]
    require(len(found) == channels, owner, name, value, f"one number or {channels} of them, one for each channel")
    return torch.tensor(found)


def _make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return a normalisation of feature maps; groups do not look at the other images of a batch."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


def convolution(inputs: int, outputs: int, norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution that keeps the size (divided by the stride), a norm and a ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, _make_norm(norm, outputs), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions beside a path that changes no more than it must."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, *, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(inputs, outputs, norm, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            _make_norm(norm, outputs),
        )
        self.beside: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            project = nn.Conv2d(inputs, outputs, 1, bias=False)
            # The mean of the positions that the stride skips: a strided 1 x 1 convolution would not look at them.
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.beside = nn.Sequential(pool, project, _make_norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map [B, outputs, H / stride, W / stride], rounded up."""
        return torch.relu(self.beside(x) + self.layers(x))
