"""What `lepton train` runs, with its folder, metrics and checkpoints, against a loop by hand with the same DataLoader.

python benchmarks/train_command.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from by_hand import train_by_hand
from PIL import Image
from timing import describe

import lepton
from lepton.config import check_config
from lepton.run import Prepared, build_model, make_loaders, make_trainer, prepare
from lepton.tasks import Regression

EPOCHS = 1
PAIRS = 7


def table(folder: Path) -> Prepared:
    """16 384 rows of six numbers and three categories, two tasks."""
    del folder
    draw = np.random.default_rng(0)
    rows = {f"n{i}": draw.normal(size=16384) for i in range(6)}
    rows |= {f"c{i}": draw.integers(0, 8, 16384).astype(str) for i in range(3)}
    rows |= {"price": rows["n0"] * 2 + draw.normal(size=16384), "sold": (rows["n1"] > 0).astype(str)}
    return _prepared(["price", "sold"], rows, {"batch_size": 256})


def pictures(folder: Path) -> Prepared:
    """2048 pictures of 48x48, two tasks: an epoch of 54 steps, which ends in a checkpoint."""
    draw = np.random.default_rng(0)
    for row in range(2048):
        Image.fromarray(draw.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    paths = [str(folder / f"{row}.png") for row in range(2048)]
    rows = {"image": paths, "kind": draw.integers(0, 5, 2048).astype(str), "size": draw.normal(size=2048)}
    return _prepared(["kind", "size"], rows, {"batch_size": 32, "num_workers": 0})


def _prepared(tasks: list[str], rows: dict[str, object], training: dict[str, object]) -> Prepared:
    content = {"tasks": tasks, "data": {"split": {"test": 0.0}}, "training": {**training, "max_epochs": EPOCHS}}
    return prepare(check_config(content), rows)


def new_model(prepared: Prepared) -> lepton.LeptonModel:
    model = build_model(prepared.config, prepared.encoder, prepared.rules)
    for name in model.task_names:
        task = model.task(name)
        if isinstance(task, Regression):
            task.fit_statistics(prepared.data["train"].targets[name])
    return model


def by_command(prepared: Prepared) -> float:
    model = new_model(prepared)
    train, _ = make_loaders(prepared)
    with tempfile.TemporaryDirectory() as place, process_time() as seconds:
        make_trainer(prepared.config, model, Path(place)).fit(train)
    return seconds[0]


def by_hand(prepared: Prepared) -> float:
    model = new_model(prepared)
    train, _ = make_loaders(prepared)
    with process_time() as seconds:
        train_by_hand(model, train, EPOCHS)
    return seconds[0]


@contextmanager
def process_time() -> Iterator[list[float]]:
    found: list[float] = []
    start = time.process_time()
    yield found
    found.append(time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    print(describe())
    print(f"\n| rows | samples per second over those of the loop by hand, median of {PAIRS} pairs | quartiles |")
    print("|---|---|---|")
    for make in (table, pictures):
        with tempfile.TemporaryDirectory() as place:
            prepared = make(Path(place))
            by_command(prepared), by_hand(prepared)
            ratios = sorted(by_hand(prepared) / by_command(prepared) for _ in range(PAIRS))
        quarter = PAIRS // 4
        low, high = ratios[quarter], ratios[-1 - quarter]
        print(f"| {make.__name__} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
