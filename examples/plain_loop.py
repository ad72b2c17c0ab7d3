"""Three tasks, one network, a plain PyTorch loop.

    python examples/plain_loop.py

Which digit is it, how much ink has it, how far does it lean? A third of the training labels is missing. Any other
optimiser, DataLoader or scheduler of torch works in the same place.
"""

from __future__ import annotations

import argparse

import torch
from digits import Digits
from torch import nn
from torch.utils.data import DataLoader

from lepton import LeptonModel, MultiTaskLoss
from lepton.balance import CAGrad
from lepton.evaluate import evaluate
from lepton.tasks import Classification, Regression


def build(train: Digits, seed: int = 0) -> LeptonModel:
    """Return a network with one trunk and three heads."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    tasks = [
        Classification("digit", classes=10, label_smoothing=0.1),
        Regression("ink").fit_statistics(train.targets["ink"]),
        Regression("slant").fit_statistics(train.targets["slant"]),
    ]
    return LeptonModel(trunk, tasks, balancer=CAGrad(c=0.4))


def main(epochs: int = 20, missing: float = 1 / 3, seed: int = 0) -> dict[str, float]:
    """Train, print held-out metrics, and return them."""
    train, test = Digits(train=True, missing=missing), Digits(train=False)
    model = build(train, seed)
    loss_with_weights = MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = DataLoader(train, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed))

    for epoch in range(epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            outputs, task_weights = model(inputs)
            loss = loss_with_weights(outputs, targets, task_weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
        shares = ", ".join(f"{n} {w:.2f}" for n, w in zip(model.task_names, model.fork.mean_weights, strict=True))
        print(f"epoch {epoch + 1:2d}  loss {loss.item():.3f}  weights at the fork: {shares}")

    results = evaluate(model, DataLoader(test, batch_size=256))
    found = {f"{name}/{metric}": value for name, result in results.items() for metric, value in result.metrics.items()}
    for name, value in found.items():
        print(f"{name:16s} {value:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--missing", type=float, default=1 / 3, help="share of the training labels to take away")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
