"""How far the cheap views of the gradients are from the exact one on the demonstration's network, method by method.

    python benchmarks/fidelity.py [--epochs 3] [--scenes 2000] [--batches 20]

The network of `lepton demo` is trained on its four tasks with each method, in the view `fork_layer`; then the views are
compared on training batches with the weights that came of it. One seed: the intervals are over batches.
"""

from __future__ import annotations

import argparse
import itertools

import torch

from lepton.balance import IMTLG, MGDA, AlignedMTL, Balancer, CAGrad, NashMTL, PCGrad, UPGrad
from lepton.data import TensorLoader
from lepton.insight import Fidelity, fidelity
from lepton.recipes.digits.data import make_scenes
from lepton.recipes.digits.model import make_model
from lepton.train import Trainer

TASKS = ("left", "right", "pixels", "sum")


def measured(balancer: Balancer, loader: TensorLoader, epochs: int, batches: int) -> Fidelity:
    """Train with a method and compare its views."""
    model = make_model(TASKS, balancer, seed=0)
    Trainer(model, max_epochs=epochs, learning_rate=2e-3).fit(loader)
    return fidelity(model, itertools.islice(loader, batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=20)
    told = parser.parse_args()
    torch.set_num_threads(1)
    loader = TensorLoader(make_scenes(told.scenes, 100, seed=0).train, 64, shuffle=True, seed=0, drop_last=True)
    names: list[str] = []
    for make in (MGDA, PCGrad, CAGrad, IMTLG, NashMTL, AlignedMTL, UPGrad):
        found = measured(make(), loader, told.epochs, told.batches)
        if not names:
            names = [view.name for view in found.views]
            print("| method | equal weights | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2))
        cells = [f"{v.weights.text(2)}; {v.direction.mean:.3f}; {v.time.value:.2f}" for v in found.views]
        print(f"| {found.balancer} | {found.equal.text(2)} | " + " | ".join(cells) + " |", flush=True)
    print("\nweights apart from the exact ones; cosine of the updates; process time over equal weighting")


if __name__ == "__main__":
    main()
