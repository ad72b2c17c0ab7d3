"""Scenes of two real handwritten digits that overlap on one canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton.data import TensorData, split_rows
from lepton.errors import import_extra

__all__ = ["HEIGHT", "PIXEL_CLASSES", "WIDTH", "Scenes", "make_scenes"]

HEIGHT, WIDTH = 10, 14
PIXEL_CLASSES = ("background", "left", "right", "both")
INK = 0.25
"""Share of full ink above which a pixel belongs to a digit."""


@dataclass(frozen=True)
class Scenes:
    """Training, validation and test scenes, composed of digits that no other part uses."""

    train: TensorData
    val: TensorData
    test: TensorData


def make_scenes(train: int, test: int, *, seed: int) -> Scenes:
    """Compose scenes from the 1797 handwritten digits that come with scikit-learn.

    Two digits of 8x8 pixels stand side by side on a canvas of 10x14, shifted at random so that they overlap by none
    to three columns; where they overlap, the darker ink shows. The digits themselves are split first (60 / 20 / 20 %),
    so that no handwriting of the test scenes was seen in training.

    Args:
        train: number of training scenes.
        test: number of validation scenes, and of test scenes.
        seed: fixes digits, pairs and positions.

    Returns:
        Scenes with inputs [N, 1, 10, 14] in [0, 1] and the targets `left` and `right` [N], `pixels` [N, 10, 14]
        (background, left, right, both) and `sum` [N].

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    datasets: Any = import_extra("sklearn.datasets", "demo", "the demonstration")
    digits = datasets.load_digits()
    images = np.asarray(digits.images, dtype=np.float32) / 16.0
    labels = np.asarray(digits.target, dtype=np.int64)
    parts = split_rows(len(images), {"train": 0.6, "val": 0.2, "test": 0.2}, seed=seed)
    found = {}
    for place, (name, size) in enumerate([("train", train), ("val", test), ("test", test)]):
        own = parts[name].numpy()
        found[name] = _compose(images[own], labels[own], size, np.random.default_rng([seed, place]))
    return Scenes(**found)


def _compose(images: Any, labels: Any, size: int, random: np.random.Generator) -> TensorData:
    left, right = random.integers(0, len(images), (2, size))
    rows = random.integers(0, HEIGHT - 8 + 1, (2, size))
    columns = np.stack([random.integers(0, 2, size), random.integers(WIDTH - 8 - 1, WIDTH - 8 + 1, size)])
    layers = np.zeros((2, size, HEIGHT, WIDTH), dtype=np.float32)
    for side, chosen in enumerate((left, right)):
        for scene, digit in enumerate(chosen):
            y, x = rows[side, scene], columns[side, scene]
            layers[side, scene, y : y + 8, x : x + 8] = images[digit]
    inked = layers > INK
    pixels = inked[0].astype(np.int64) + 2 * inked[1]
    targets: dict[str, Tensor] = {
        "left": torch.from_numpy(labels[left]),
        "right": torch.from_numpy(labels[right]),
        "pixels": torch.from_numpy(pixels),
        "sum": torch.from_numpy((labels[left] + labels[right]).astype(np.float32)),
    }
    return TensorData(torch.from_numpy(layers.max(0))[:, None], targets)
