"""The rows that all examples train on: real handwritten digits, with three things to predict from each.

scikit-learn brings 1797 scans of 8 x 8 pixels and says which digit each one shows. How much ink there is and how far
the stroke leans follow from the pixels. Some labels of the training rows are taken away, as they are missing in life.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

MISSING = {"digit": -100, "ink": float("nan"), "slant": float("nan")}


class Digits(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Rows of (pixels [64], {"digit": [], "ink": [], "slant": []}).

    Args:
        train: the first 1200 scans, or the rest.
        missing: share of the labels that is taken away, for each task by itself.
    """

    def __init__(self, *, train: bool, missing: float = 0.0) -> None:
        scans = load_digits()
        rows = slice(0, 1200) if train else slice(1200, None)
        self.pixels = torch.tensor(scans.data[rows] / 16, dtype=torch.float32)
        self.targets = {
            "digit": torch.tensor(scans.target[rows]),
            "ink": self.pixels.mean(1),
            "slant": slant(self.pixels.view(-1, 8, 8)),
        }
        draw = torch.Generator().manual_seed(0)
        for name, target in self.targets.items():
            target[torch.rand(len(target), generator=draw) < missing] = MISSING[name]

    def __len__(self) -> int:
        """Return the number of scans."""
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one scan and its labels."""
        return self.pixels[row], {name: target[row] for name, target in self.targets.items()}


def slant(images: Tensor) -> Tensor:
    """Return how many pixels to the right the stroke moves for each pixel that it goes up, [N] for images [N, 8, 8]."""
    place = torch.arange(8.0)
    ink = images / images.sum((1, 2), keepdim=True)
    across = place - (ink.sum(1) @ place)[:, None]
    up = (ink.sum(2) @ place)[:, None] - place
    together = torch.einsum("nyx,ny,nx->n", ink, up, across)
    return together / torch.einsum("nyx,ny->n", ink, up.square())
