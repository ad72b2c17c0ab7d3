"""The network: a small residual trunk, a U-turn for pixels, and a head for every task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lepton.balance import Balancer
from lepton.nn import LeptonModel
from lepton.recipes.digits.data import HEIGHT, PIXEL_CLASSES, WIDTH
from lepton.tasks import Classification, Regression, Segmentation, Task

__all__ = ["Trunk", "make_model", "make_tasks"]

CHANNELS = 32


class Residual(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class Trunk(nn.Sequential):
    """Pictures [B, 1, 10, 14] to a feature map [B, 32, 5, 7]."""

    def __init__(self, channels: int = CHANNELS, depth: int = 2) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *(Residual(channels) for _ in range(depth)),
        )


def vector_head(outputs: int) -> nn.Module:
    """Return a head that reads the whole feature map: which digit stands left depends on where it stands."""
    size = CHANNELS * (HEIGHT // 2) * (WIDTH // 2)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 48), nn.ReLU(), nn.Linear(48, outputs))


def pixel_head() -> nn.Module:
    """Return a head that gives every pixel of the picture its class, four for each position of the map."""
    return nn.Sequential(nn.Conv2d(CHANNELS, 4 * len(PIXEL_CLASSES), 1), nn.PixelShuffle(2))


def make_tasks(names: Sequence[str] = ("left", "right", "pixels", "sum")) -> list[Task]:
    """Return new tasks: which digit stands left and right, whose pixel is whose, and the digits' sum."""
    make: dict[str, Callable[[], Task]] = {
        "left": lambda: Classification("left", classes=10, head=vector_head(10)),
        "right": lambda: Classification("right", classes=10, head=vector_head(10)),
        "pixels": lambda: Segmentation("pixels", classes=PIXEL_CLASSES, head=pixel_head()),
        "sum": lambda: Regression("sum", head=vector_head(1)),
    }
    return [make[name]() for name in names]


def make_model(names: Sequence[str], balancer: Balancer, *, seed: int) -> LeptonModel:
    """Return a new model for some of the tasks, initialised from the seed."""
    torch.manual_seed(seed)
    return LeptonModel(Trunk(), make_tasks(names), balancer=balancer)
