"""The network: a small residual trunk, a U-turn for pixels, and a head for every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lepton.balance import Balancer
from lepton.nn import LeptonModel, Width
from lepton.recipes.digits.data import HEIGHT, PIXEL_CLASSES, WIDTH
from lepton.tasks import Classification, Regression, Segmentation, Task

__all__ = ["Trunk", "make_model", "make_tasks"]

CHANNELS, STEM, HIDDEN = 32, 16, 48


class Residual(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    @property
    def enter(self) -> nn.Conv2d:
        """The first convolution."""
        return self.layers[0]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class Trunk(nn.Sequential):
    """Pictures [B, 1, 10, 14] to a feature map [B, channels, 5, 7].

    Args:
        channels: channels of the map.
        depth: number of residual blocks.
        stem: channels of the first convolution.
        inner: channels between the two convolutions of each block; `channels` by default.
    """

    def __init__(
        self, channels: int = CHANNELS, depth: int = 2, *, stem: int = STEM, inner: Sequence[int] | None = None
    ) -> None:
        super().__init__(
            nn.Conv2d(1, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *(Residual(channels, hidden) for hidden in ([channels] * depth if inner is None else inner)),
        )

    def _counted(self) -> tuple[nn.Conv2d, nn.Conv2d, list[nn.Conv2d]]:
        """Return the layers at which the widths are counted: the stem, the map, and inside of each block."""
        stem, channels = (layer for layer in self if isinstance(layer, nn.Conv2d))
        return stem, channels, [block.enter for block in self if isinstance(block, Residual)]

    @property
    def out_features(self) -> int:
        """Channels of the map."""
        return self._counted()[1].out_channels

    def prunable(self) -> list[Width]:
        """Return the widths that may shrink: see `lepton.nn.Prunable`."""
        stem, channels, inner = self._counted()
        within = [Width(f"inner[{n}]", (layer,)) for n, layer in enumerate(inner)]
        return [Width("stem", (stem,)), Width("channels", (channels,)), *within]

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths."""
        stem, channels, inner = self._counted()
        return {
            "channels": channels.out_channels,
            "stem": stem.out_channels,
            "inner": [layer.out_channels for layer in inner],
        }


class VectorHead(nn.Sequential):
    """A head that reads the whole feature map: which digit stands left depends on where it stands.

    Args:
        outputs: numbers that it gives.
        channels: channels of the map.
        hidden: size of the layer between.
    """

    def __init__(self, outputs: int, channels: int = CHANNELS, hidden: int = HIDDEN) -> None:
        size = channels * (HEIGHT // 2) * (WIDTH // 2)
        super().__init__(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def _counted(self) -> nn.Linear:
        return self[1]  # type: ignore[return-value]

    def prunable(self) -> list[Width]:
        """Return the width that may shrink: see `lepton.nn.Prunable`."""
        return [Width("hidden", (self._counted(),))]

    def sizes(self) -> dict[str, Any]:
        """Return the option that says the present width."""
        return {"hidden": self._counted().out_features}


def pixel_head(channels: int) -> nn.Module:
    """Return a head that gives every pixel of the picture its class, four for each position of the map."""
    return nn.Sequential(nn.Conv2d(channels, 4 * len(PIXEL_CLASSES), 1), nn.PixelShuffle(2))


def make_tasks(
    names: Sequence[str] = ("left", "right", "pixels", "sum"),
    channels: int = CHANNELS,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Task]:
    """Return new tasks: which digit stands left and right, whose pixel is whose, and the digits' sum.

    Args:
        names: the tasks.
        channels: channels of the map that their heads read.
        heads: task -> options of its head, such as those of a pruned one.
    """
    told = heads or {}

    def vector(name: str, outputs: int) -> VectorHead:
        return VectorHead(outputs, channels, **told.get(name, {}))

    make: dict[str, Callable[[], Task]] = {
        "left": lambda: Classification("left", classes=10, head=vector("left", 10)),
        "right": lambda: Classification("right", classes=10, head=vector("right", 10)),
        "pixels": lambda: Segmentation("pixels", classes=PIXEL_CLASSES, head=pixel_head(channels)),
        "sum": lambda: Regression("sum", head=vector("sum", 1)),
    }
    return [make[name]() for name in names]


def make_model(
    names: Sequence[str],
    balancer: Balancer,
    *,
    seed: int,
    sizes: Mapping[str, Any] | None = None,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
) -> LeptonModel:
    """Return a new model for some of the tasks, initialised from the seed.

    Args:
        names: the tasks.
        balancer: the method.
        seed: of the initial weights.
        sizes: options of `Trunk`, such as those of a pruned one.
        heads: see `make_tasks`.
    """
    torch.manual_seed(seed)
    trunk = Trunk(**(sizes or {}))
    return LeptonModel(trunk, make_tasks(names, trunk.out_features, heads), balancer=balancer)
