"""What all loaders share: an order, a process's share of it, and a position in it, with and without workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lepton.data import (
    AudioLoader,
    AudioRows,
    Augment,
    AugmentAudio,
    ImageLoader,
    ImageRows,
    LengthLoader,
    SequenceData,
    TensorData,
    TensorLoader,
)
from lepton.errors import ConfigurationError, DataError

ROWS = 23


def tensors(**options: Any) -> TensorLoader:
    return TensorLoader(TensorData(torch.arange(float(ROWS))[:, None], {"id": torch.arange(ROWS)}), 3, **options)


def sequences(**options: Any) -> LengthLoader:
    lengths = torch.arange(ROWS) % 7 + 1
    return LengthLoader(
        SequenceData({"tokens": torch.ones(ROWS, 7)}, {"id": torch.arange(ROWS)}, {"tokens": lengths}), 3, **options
    )


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., Any]]:
    soundfile = pytest.importorskip("soundfile")
    folder: Path = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        soundfile.write(folder / f"{row}.wav", 0.1 * rng.standard_normal(100 + 10 * row), 8000)
    images = ImageRows(
        [str(folder / f"{row}.png") for row in range(ROWS)], size=(4, 4), targets={"id": torch.arange(ROWS)}
    )
    sounds = AudioRows(
        [str(folder / f"{row}.wav") for row in range(ROWS)],
        sample_rate=8000,
        max_seconds=1.0,
        targets={"id": torch.arange(ROWS)},
    )
    return {
        "tensors": tensors,
        "sequences": sequences,
        "images": lambda **options: ImageLoader(images, 3, augment=Augment(), **options),
        "sounds": lambda **options: AudioLoader(sounds, 3, augment=AugmentAudio(), **options),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


WITH_WORKERS = [("tensors", 0), ("sequences", 0), ("images", 0), ("images", 2), ("sounds", 0), ("sounds", 2)]


@pytest.mark.parametrize(("kind", "workers"), WITH_WORKERS)
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_every_loader_goes_on_with_the_very_next_row(loaders: Any, kind: str, workers: int, stop: int) -> None:
    options = {"shuffle": True, "seed": 2} | ({"workers": workers} if workers else {})
    first = loaders[kind](**options)
    list(first)  # so that it is not the first epoch
    whole = list(first)
    again = loaders[kind](**options)
    list(again)
    batches = iter(again)
    for _ in range(stop):
        next(batches)
    state = json.loads(json.dumps(again.state_dict()))
    resumed = loaders[kind](**options)
    resumed.load_state_dict(state)
    rest = list(resumed)
    expected = whole[stop:] or list(first)
    assert len(rest) == len(expected)
    for (inputs, targets), (other, labels) in zip(rest, expected, strict=True):
        assert same(inputs, other) and same(targets, labels)


@pytest.mark.parametrize("kind", ["tensors", "sequences", "images", "sounds"])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_the_batches_of_one_that_has_all(
    loaders: Any, kind: str, drop_last: bool, world_size: int
) -> None:
    shares = [
        [
            targets["id"].tolist()
            for _, targets in loaders[kind](shuffle=True, drop_last=drop_last, rank=rank, world_size=world_size)
        ]
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    together = [sorted(row for share in shares for row in share[place]) for place in range(len(shares[0]))]
    every = [row for batch in together for row in batch]
    assert len(set(every)) == len(every) and (drop_last or sorted(every) == list(range(ROWS)))
    joint = loaders[kind](shuffle=True, drop_last=drop_last)
    joint.batch_size = 3 * world_size
    assert together == [sorted(targets["id"].tolist()) for _, targets in joint]


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="TensorLoader: rank must be a whole number from 0 to 1"):
        tensors(rank=2, world_size=2)
    with pytest.raises(ConfigurationError, match="world_size must be a whole number of at least 1"):
        tensors(world_size=0)
    with pytest.raises(DataError, match="no rows"):
        TensorLoader(TensorData(torch.zeros(0, 1), {}), 1)
