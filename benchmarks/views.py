"""The three views of a task's gradient on MultiMNIST + reconstruction: what a cheap view loses, and what it saves.

    python benchmarks/views.py --data FOLDER --choose
    python benchmarks/views.py --data FOLDER --results views.jsonl [--seeds 5] [--views ...] [--raw]
    python benchmarks/views_table.py views.jsonl [--picture views.png]

A scene is two digits, overlaid on 36 x 36 pixels (one in the upper left corner, one in the lower right) and resized to
28 x 28. Three tasks on a LeNet: which digit is left, which is right, and the picture of the right one (mean squared
error per pixel, times 400). Training scenes are drawn anew for each seed; the test scenes are made of the test digits
and are the same for all. A finished run is one line of the results, and is not repeated. The learning rate and its
schedule are chosen by `--choose`: with equal weighting, on scenes of training digits that are held out, by the sum of
the three losses, which is what equal weighting minimises. `--raw` leaves the pixels between 0 and 1, where they are
standardised otherwise. FOLDER holds MNIST's four files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton import LeptonModel, MultiTaskLoss
from lepton.balance import FAMO, IMTLG, MGDA, AlignedMTL, Balancer, Equal, Log, LogSum, Uncertainty, UPGrad
from lepton.tasks import Classification, Regression, Task

TASKS = ("left", "right", "picture")
METHODS: dict[str, Callable[[], Balancer]] = {
    "MGDA": MGDA,
    "IMTL-G": IMTLG,
    "Aligned-MTL": AlignedMTL,
    "UPGrad": UPGrad,
    "log + UPGrad": lambda: Log(UPGrad()),
    "log + MGDA": lambda: Log(MGDA()),
}
BASELINES: dict[str, Callable[[], Balancer]] = {
    "equal": Equal,
    "log-sum": LogSum,
    "uncertainty": Uncertainty,
    "FAMO": FAMO,
}
VIEWS = ("features", "fork_layer", "parameters")
TAILS = {"last layer": 7, "last two layers": 3}
FEATURES, PIXELS, SCALE = 50, 784, 400.0
PIXEL_MEAN, PIXEL_STD = 0.15, 0.3
SCENES, TEST_SCENES, HELD_OUT = 20_000, 10_000, 10_000
EPOCHS, BATCH = 8, 256
RATE, SCHEDULE = 2e-3, "constant"
RATES, SCHEDULES, CHOICE_SEEDS = (1e-3, 2e-3, 4e-3), ("constant", "cosine"), (100, 101)


# -- scenes -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scenes:
    """Scenes [N, 1, 28, 28], right digits [N, 784] in 0 to 1, and the labels [N] of both digits."""

    inputs: Tensor
    targets: dict[str, Tensor]

    def batches(self, size: int, order: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield batches in this order; what does not fill the last one is left out."""
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield self.inputs[rows], {name: target[rows] for name, target in self.targets.items()}


def read_digits(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return the digits [N, 28, 28] in 0 to 1 and their labels [N]."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = torch.from_numpy(np.frombuffer(images, np.uint8, offset=16).copy()).view(-1, 28, 28)
    return pixels.float() / 255, torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).copy()).long()


def make_scenes(digits: Tensor, labels: Tensor, count: int, seed: int, raw: bool = False) -> Scenes:
    """Overlay random pairs of digits."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randint(len(digits), (2, count), generator=generator)
    canvas = torch.zeros(count, 36, 36)
    canvas[:, :28, :28] = digits[left]
    canvas[:, 8:, 8:] = torch.maximum(canvas[:, 8:, 8:], digits[right])
    inputs = F.interpolate(canvas[:, None], size=(28, 28), mode="bilinear", align_corners=False, antialias=True)
    inputs = inputs if raw else (inputs - PIXEL_MEAN) / PIXEL_STD
    return Scenes(inputs, {"left": labels[left], "right": labels[right], "picture": digits[right].flatten(1)})


# -- a run ------------------------------------------------------------------------------------------------------
def new_task(name: str) -> Task:
    """Return one of the three tasks."""
    if name != "picture":
        return Classification(name, classes=10)
    decoder = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, PIXELS), nn.Sigmoid())
    return Regression(name, outputs=PIXELS, head=decoder, loss_weight=SCALE)


def lenet() -> nn.Sequential:
    """Return the trunk: two convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(320, FEATURES), nn.ReLU()),
    )


def new_model(tasks: Sequence[str], balancer: Balancer, view: str) -> LeptonModel:
    """Return a model with some view of the tasks' gradients."""
    trunk = lenet()
    options: dict[str, Any] = {} if view == "none" else {"gradients": view}
    if view in TAILS:
        options = {"gradients": "parameters", "shared": list(trunk)[TAILS[view] :]}
    return LeptonModel(trunk, [new_task(name) for name in tasks], balancer=balancer, features=FEATURES, **options)


def train(model: LeptonModel, scenes: Scenes, seed: int, rate: float, schedule: str) -> float:
    """Train for all epochs; return the process time that it took."""
    criterion = MultiTaskLoss(model)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    steps = EPOCHS * (len(scenes.inputs) // BATCH)
    factor = {"constant": lambda step: 1.0, "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))}
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor[schedule])
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for _ in range(EPOCHS):
        for inputs, targets in scenes.batches(BATCH, torch.randperm(len(scenes.inputs), generator=generator)):
            outputs, task_weights = model(inputs)
            loss = criterion(outputs, targets, task_weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return time.process_time() - start


@torch.no_grad()
def measures(model: LeptonModel, scenes: Scenes) -> dict[str, float]:
    """Return the accuracies in percent, 400 times the mean squared error, and the sum of the losses."""
    model.eval()
    parts = [model(inputs)[0] for inputs in torch.split(scenes.inputs, 1000)]
    found, total = {}, 0.0
    for name in parts[0]:
        output, target = torch.cat([part[name] for part in parts]), scenes.targets[name]
        if name == "picture":
            found[name] = SCALE * (output - target).square().mean().item()
            total += found[name]
        else:
            found[name] = 100 * (output.argmax(1) == target).float().mean().item()
            total += F.cross_entropy(output, target).item()
    return found | {"loss": total}


@dataclass(frozen=True)
class Run:
    """One training: which method, in which view, of which tasks."""

    method: str
    view: str
    tasks: tuple[str, ...]
    seed: int
    raw: bool = False

    @classmethod
    def of(cls, line: str) -> Run:
        """Return the run of a line of the results."""
        found = json.loads(line)["run"]
        return cls(**{**found, "tasks": tuple(found["tasks"])})


def one_run(run: Run, scenes: Scenes, test: Scenes, rate: float = RATE, schedule: str = SCHEDULE) -> dict[str, Any]:
    """Train one model and measure it."""
    torch.manual_seed(run.seed)
    model = new_model(run.tasks, (METHODS | BASELINES)[run.method](), run.view).train()
    own = Scenes(scenes.inputs, {name: scenes.targets[name] for name in run.tasks})
    seconds = train(model, own, run.seed, rate, schedule)
    weights = model.fork.mean_weights
    return measures(model, test) | {"seconds": seconds, "weights": None if weights is None else weights.tolist()}


# -- all runs ---------------------------------------------------------------------------------------------------
def runs_of(seed: int, baselines: Sequence[str], methods: Sequence[str], views: Sequence[str], raw: bool) -> list[Run]:
    """Return all runs of one seed, the baselines first."""
    alone = [Run("equal", "none", (name,), seed, raw) for name in TASKS if "alone" in baselines]
    together = [Run(method, "none", TASKS, seed, raw) for method in baselines if method != "alone"]
    return [*together, *(Run(method, view, TASKS, seed, raw) for method in methods for view in views), *alone]


def finished(path: Path) -> set[Run]:
    """Return the runs that are in the results."""
    return {Run.of(line) for line in path.read_text().splitlines()} if path.exists() else set()


def run_all(
    folder: Path,
    results: Path,
    seeds: int,
    baselines: Sequence[str],
    methods: Sequence[str],
    views: Sequence[str],
    raw: bool,
) -> None:
    """Take the runs that are not finished, seed by seed, and append each to the results at once."""
    digits, labels = read_digits(folder, "train")
    test = make_scenes(*read_digits(folder, "t10k"), TEST_SCENES, -1, raw)
    for seed in range(seeds):
        scenes = make_scenes(digits[HELD_OUT:], labels[HELD_OUT:], SCENES, seed, raw)
        for run in runs_of(seed, baselines, methods, views, raw):
            if run in finished(results):
                continue
            found = {"run": asdict(run)} | one_run(run, scenes, test)
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{run}: " + " / ".join(f"{found[name]:.2f}" for name in run.tasks), flush=True)


def choose(folder: Path) -> None:
    """Print what equal weighting reaches on held-out training digits with each learning rate and schedule."""
    digits, labels = read_digits(folder, "train")
    held_out = make_scenes(digits[:HELD_OUT], labels[:HELD_OUT], TEST_SCENES, seed=-1)
    for schedule in SCHEDULES:
        for rate in RATES:
            found = []
            for seed in CHOICE_SEEDS:
                scenes = make_scenes(digits[HELD_OUT:], labels[HELD_OUT:], SCENES, seed)
                found.append(one_run(Run("equal", "none", TASKS, seed), scenes, held_out, rate, schedule))
            means = {name: statistics.mean(row[name] for row in found) for name in (*TASKS, "loss")}
            print(schedule, rate, {name: round(value, 2) for name, value in means.items()}, flush=True)


def main() -> None:
    """Choose, or take the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("views.jsonl"))
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--baselines", nargs="*", default=[*BASELINES, "alone"], choices=[*BASELINES, "alone"])
    parser.add_argument("--views", nargs="*", default=list(VIEWS), choices=[*VIEWS, *TAILS])
    parser.add_argument("--raw", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.choose:
        choose(options.data)
    else:
        chosen = (options.baselines, options.methods, options.views)
        run_all(options.data, options.results, options.seeds, *chosen, options.raw)


if __name__ == "__main__":
    main()
