"""Split-MNIST: five tasks of two digits, learned one after the other, with every way of not forgetting.

python benchmarks/split_mnist.py [--seeds 3] [--methods ewc lwf ...] [--choose]

The tasks are told apart (a head for each), the trunk is shared. The figure is the mean accuracy over the five tasks on
the test digits after the last one. What each method may choose is in `SETTINGS`; it was chosen as `--choose` does, on
10 000 training digits that are held out, with seeds of its own. Then a fifth task with 400 labels beside four that
were learned together: through LoRA, where the four stay as they are bit for bit, by its head alone, and alone from
scratch. MNIST is read from $LEPTON_DATA/mnist.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lepton import LeptonModel, MultiTaskLoss
from lepton.data import TensorData, TensorLoader
from lepton.tasks import Classification
from lepton.transfer import AGEM, EWC, LwF, Replay, extended

NAMES = ["0/1", "2/3", "4/5", "6/7", "8/9"]
SETTINGS: dict[str, dict[str, float]] = {
    "joint": {},
    "fine-tuning": {},
    "LwF": {"strength": 2.0},
    "EWC": {"strength": 10000.0},
    "replay": {"rows": 64},
    "A-GEM": {"rows": 64},
}
GRIDS: dict[str, dict[str, Sequence[float]]] = {
    "LwF": {"strength": (0.5, 1.0, 2.0)},
    "EWC": {"strength": (1e3, 1e4, 1e5, 1e6)},
    "replay": {"rows": (32, 64)},
    "A-GEM": {"rows": (64, 256)},
}
MEMORY = 1000
EPOCHS, BATCH, RATE = 1, 64, 1e-3
HELD_OUT = 10_000
FISHER_ROWS = 500
CHOICE_SEEDS = (100, 101)
LABELS, FEW_STEPS, RANK = 400, 600, 8


def read_mnist(part: str) -> tuple[Tensor, Tensor]:
    """Return the digits [N, 784] in 0 to 1 and their labels [N]."""
    folder = Path(os.environ["LEPTON_DATA"]) / "mnist"
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = torch.from_numpy(np.frombuffer(images, np.uint8, offset=16).copy()).view(-1, 784)
    return pixels.float() / 255, torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).copy()).long()


def split(digits: Tensor, labels: Tensor) -> list[TensorData]:
    """Return the rows of each task."""
    parts = []
    for place, name in enumerate(NAMES):
        rows = labels // 2 == place
        parts.append(TensorData(digits[rows], {name: labels[rows] % 2}))
    return parts


def new_model(names: Sequence[str]) -> LeptonModel:
    """Return a multi-layer perceptron with a head for each task."""
    trunk = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return LeptonModel(trunk, [Classification(name, classes=2) for name in names])


@torch.no_grad()
def accuracies(model: LeptonModel, parts: Sequence[TensorData]) -> list[float]:
    """Return each task's accuracy in percent."""
    model.eval()
    found = []
    for part in parts:
        ((name, target),) = part.targets.items()
        correct = model(part.inputs)[0][name].argmax(1) == target
        found.append(100 * correct.float().mean().item())
    return found


def train(model: LeptonModel, batches: Iterable[Any], epochs: int, procedure: LwF | EWC | AGEM | None = None) -> None:
    """Train with a plain loop, in which a procedure takes part."""
    model.train()
    criterion = MultiTaskLoss(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATE)
    with ExitStack() as stack:
        if isinstance(procedure, AGEM):
            stack.enter_context(procedure.attach(criterion, optimizer))
        elif procedure is not None:
            stack.enter_context(procedure.attach(criterion))
        for inputs, targets in (batch for _ in range(epochs) for batch in batches):
            outputs, task_weights = model(inputs)
            loss = criterion(outputs, targets, task_weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def joined(parts: Sequence[TensorData]) -> TensorData:
    """Return the rows of several tasks, with -100 where a row has no label of one."""
    targets = {}
    for place, part in enumerate(parts):
        ((name, target),) = part.targets.items()
        before = sum(len(other) for other in parts[:place])
        after = sum(len(other) for other in parts[place + 1 :])
        none = target.new_full
        targets[name] = torch.cat([none((before,), -100), target, none((after,), -100)])
    return TensorData(torch.cat([part.inputs for part in parts]), targets)


def learn(method: str, parts: Sequence[TensorData], seed: int, **settings: float) -> LeptonModel:
    """Return the model after all tasks, one after the other; `joint` has them together."""
    torch.manual_seed(seed)
    model = new_model(NAMES)
    if method == "joint":
        train(model, TensorLoader(joined(parts), BATCH, shuffle=True, seed=seed), EPOCHS)
        return model
    replay = Replay(model.tasks.values(), MEMORY, seed=seed)
    ewc = EWC(settings.get("strength", 1.0))
    for place, part in enumerate(parts):
        loader = TensorLoader(part, BATCH, shuffle=True, seed=seed)
        batches: Iterable[Any] = replay.mix(loader, int(settings["rows"])) if method == "replay" else loader
        procedure: LwF | EWC | AGEM | None = None
        if place and method == "LwF":
            procedure = LwF(model, NAMES[:place], strength=settings["strength"])
        elif place and method == "A-GEM":
            procedure = AGEM(replay, int(settings["rows"]))
        elif place and method == "EWC":
            procedure = ewc
        train(model, batches, EPOCHS, procedure)
        if method in ("replay", "A-GEM"):
            replay.fill(loader)
        if method == "EWC":
            ewc.consolidate(model, loader, tasks=[NAMES[place]], rows=FISHER_ROWS, seed=seed)
    return model


def few_labels(parts: Sequence[TensorData], test: Sequence[TensorData], seed: int) -> dict[str, float]:
    """Return the accuracy of a fifth task with 400 labels, and that of the other four."""
    torch.manual_seed(seed)
    few = parts[4].rows(torch.randperm(len(parts[4]))[:LABELS])
    loader = TensorLoader(few, 40, shuffle=True, seed=seed)
    epochs = FEW_STEPS // len(loader)
    old = new_model(NAMES[:4])
    train(old, TensorLoader(joined(parts[:4]), BATCH, shuffle=True, seed=seed), EPOCHS)
    before = [old.eval()(part.inputs)[0] for part in test]
    found = {"the four": statistics.mean(accuracies(old, test[:4]))}
    for name in ("lora", "head"):
        model = extended(old, [Classification(NAMES[4], classes=2)], adapter=name, size=RANK)
        train(model, loader, epochs)
        found[name] = accuracies(model, test[4:])[0]
        after = [model(part.inputs)[0] for part in test]
        same = [torch.equal(a[task], b[task]) for a, b in zip(after, before, strict=True) for task in NAMES[:4]]
        if not all(same):
            raise AssertionError(f"{name}: outputs of the four tasks changed")
    alone = new_model(NAMES[4:])
    train(alone, loader, epochs)
    return found | {"alone": accuracies(alone, test[4:])[0]}


def shown(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    return f"{statistics.mean(values):.2f} +- {statistics.stdev(values) if len(values) > 1 else 0:.2f}"


def choose(train_parts: Sequence[TensorData], held_out: Sequence[TensorData], methods: Sequence[str]) -> None:
    """Print the accuracy on held-out training digits for every setting of the grids, and take the best ones."""
    for method in [method for method in methods if method in GRIDS]:
        best = 0.0
        for values in itertools.product(*GRIDS[method].values()):
            settings = dict(zip(GRIDS[method], values, strict=True))
            found = [accuracies(learn(method, train_parts, seed, **settings), held_out) for seed in CHOICE_SEEDS]
            means = [statistics.mean(row) for row in found]
            print(f"{method} {settings}: {shown(means)}", flush=True)
            if statistics.mean(means) > best:
                best, SETTINGS[method] = statistics.mean(means), settings


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits, labels = read_mnist("train")
    train_parts = split(digits[HELD_OUT:], labels[HELD_OUT:])
    if options.choose:
        choose(train_parts, split(digits[:HELD_OUT], labels[:HELD_OUT]), options.methods)
    test = split(*read_mnist("t10k"))
    print("| method | mean accuracy | first task | last task | seconds |\n|---|---|---|---|---|")
    for method in options.methods:
        start, each = time.process_time(), []
        for seed in range(options.seeds):
            each.append(accuracies(learn(method, train_parts, seed, **SETTINGS[method]), test))
        means, first, last = [statistics.mean(row) for row in each], [row[0] for row in each], [row[-1] for row in each]
        seconds = (time.process_time() - start) / options.seeds
        print(f"| {method} | {shown(means)} | {shown(first)} | {shown(last)} | {seconds:.1f} |", flush=True)
    rows = [few_labels(train_parts, test, seed) for seed in range(options.seeds)]
    print(f"\n| the fifth task with {LABELS} labels | accuracy |\n|---|---|")
    for key, words in (("lora", "LoRA, rank 8"), ("head", "head alone"), ("alone", "alone, from scratch")):
        print(f"| {words} | {shown([row[key] for row in rows])} |")
    print(f"\nThe other four: {shown([row['the four'] for row in rows])}, every output the same bit for bit.")


if __name__ == "__main__":
    main()
