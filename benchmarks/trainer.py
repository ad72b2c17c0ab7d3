"""The Trainer against the same loop written by hand, with the same batches.

python benchmarks/trainer.py
"""

from __future__ import annotations

import statistics
import time

import torch
from by_hand import train_by_hand
from timing import describe
from torch import nn

import lepton
from lepton.balance import CAGrad, Equal
from lepton.data import TensorData, TensorLoader
from lepton.recipes.digits import make_model, make_scenes
from lepton.tasks import Classification, Regression
from lepton.train import Trainer

EPOCHS = 3


def table() -> tuple[lepton.LeptonModel, TensorData, int]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    tasks = [Classification("a", 5), Classification("b", 2), Regression("c", mean=0.0, std=1.0)]
    targets = {"a": torch.randint(0, 5, (8192,)), "b": torch.randint(0, 2, (8192,)), "c": torch.randn(8192)}
    return lepton.LeptonModel(trunk, tasks, balancer=Equal()), TensorData(torch.randn(8192, 32), targets), 256


def pictures() -> tuple[lepton.LeptonModel, TensorData, int]:
    model = make_model(("left", "right", "pixels", "sum"), CAGrad(), seed=0)
    scenes = make_scenes(1024, 64, seed=0)
    model.task("sum").fit_statistics(scenes.train.targets["sum"])
    return model, scenes.train, 64


def by_trainer(make) -> float:
    model, data, size = make()
    trainer = Trainer(model, max_epochs=EPOCHS)
    start = time.process_time()
    trainer.fit(TensorLoader(data, size, shuffle=True))
    return time.process_time() - start


def by_hand(make) -> float:
    model, data, size = make()
    batches = TensorLoader(data, size, shuffle=True)
    start = time.process_time()
    train_by_hand(model, batches, EPOCHS)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    print(describe())
    print("\n| model | Trainer over the loop by hand, median of 15 pairs | quartiles |\n|---|---|---|")
    for make in (table, pictures):
        by_trainer(make), by_hand(make)
        ratios = sorted(by_trainer(make) / by_hand(make) for _ in range(15))
        print(
            f"| {make.__name__} | {statistics.median(ratios):.3f} | {ratios[3]:.3f} to {ratios[11]:.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
