"""What the trunks of images are made of: their input, convolutions with a norm, residual pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, DataError, is_whole, nearest, require
from lepton.nn._prunable import Width

__all__ = [
    "ImageInput",
    "Norm",
    "Residual",
    "check_image_trunk",
    "convolution",
    "given_widths",
    "norm_channels",
    "norm_unit",
]

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


def given_widths(owner: str, name: str, given: Sequence[int] | None, default: Sequence[int], each: str) -> list[int]:
    """Return the given widths, or the default ones if there are none; `each` says what each of them belongs to."""
    if given is None:
        return list(default)
    fits = not isinstance(given, str) and len(given) == len(default) and all(is_whole(width) for width in given)
    require(fits, owner, name, given, f"{len(default)} integers >= 1: {each}")
    return list(given)


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


def norm_unit(norm: nn.Module) -> int | None:
    """Return the channels that stay or go together; None where all share their statistics, so that none can go."""
    if not isinstance(norm, nn.GroupNorm):
        return 1
    return norm.num_channels // norm.num_groups if norm.num_groups > 1 else None


def norm_channels(norm: nn.Module) -> int:
    """Return how many channels a normalisation reads."""
    found: int = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features  # type: ignore[assignment]
    return found


def convolution(inputs: int, outputs: int, norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution that keeps the size (divided by the stride), a norm and a ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, _make_norm(norm, outputs), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions beside a path that changes no more than it must.

    Args:
        inputs: channels that it reads.
        outputs: channels that it gives.
        norm: see `ConvTrunk`.
        inner: channels between the convolutions; `outputs` by default.
        stride: of the first convolution.
        projects: whether the path is a convolution too; by default where sizes change.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: Norm,
        inner: int | None = None,
        *,
        stride: int = 1,
        projects: bool | None = None,
    ) -> None:
        super().__init__()
        inner = outputs if inner is None else inner
        self.layers = nn.Sequential(
            *convolution(inputs, inner, norm, stride=stride),
            nn.Conv2d(inner, outputs, 3, padding=1, bias=False),
            _make_norm(norm, outputs),
        )
        self.beside: nn.Module = nn.Identity()
        if (inputs != outputs or stride != 1) if projects is None else projects:
            project = nn.Conv2d(inputs, outputs, 1, bias=False)
            # The mean of the positions that the stride skips: a strided 1 x 1 convolution would not look at them.
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.beside = nn.Sequential(pool, project, _make_norm(norm, outputs))

    @property
    def inner(self) -> nn.Conv2d:
        """The first convolution."""
        return self.layers[0]  # type: ignore[return-value]

    @property
    def output(self) -> nn.Conv2d:
        """The second convolution."""
        return self.layers[3]  # type: ignore[return-value]

    @property
    def norm(self) -> nn.Module:
        """The normalisation of what the second convolution gives."""
        return self.layers[4]

    def prunable(self, name: str) -> list[Width]:
        """Return the width between the convolutions, if it may shrink."""
        unit = norm_unit(self.layers[1])
        return [] if unit is None else [Width(name, (self.inner,), unit)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map [B, outputs, H / stride, W / stride], rounded up."""
        return torch.relu(self.beside(x) + self.layers(x))
