"""A model, losses and a loop of your own, and four lines of Lepton.

    python examples/your_own_model.py

The class below is an ordinary module with two heads. The lines marked (1) to (4) are all that balancing needs: the
losses, the loop and the optimiser know nothing of it.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from digits import Digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lepton
from lepton.balance import UPGrad  # (1)


class DigitNet(nn.Module):
    """A convolutional trunk, and one head for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
        )
        self.digit = nn.Linear(64, 10)
        self.slant = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.balancer = UPGrad()  # (2) registered here, so that eval(), to() and state_dict() reach it

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, 10] and the slant [B]."""
        z = self.trunk(pixels)
        z = lepton.fork(z, ["digit", "slant"], balancer=self.balancer)  # (3)
        return self.digit(z["digit"]), self.slant(z["slant"]).squeeze(1)  # (4) each head reads its own branch


def loss_of(model: DigitNet, pixels: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Return the sum of both losses: one scalar, so that backward reaches the fork once."""
    logits, slant = model(pixels)
    return F.cross_entropy(logits, targets["digit"]) + F.mse_loss(slant, targets["slant"])


@torch.no_grad()
def evaluate(model: DigitNet, test: Digits) -> dict[str, float]:
    """Return the accuracy and the mean absolute error on all test rows."""
    model.eval()
    logits, slant = model(test.pixels)
    model.train()
    correct = (logits.argmax(1) == test.targets["digit"]).float().mean()
    return {"digit/accuracy": correct.item(), "slant/mae": (slant - test.targets["slant"]).abs().mean().item()}


def main(epochs: int = 10, seed: int = 0) -> dict[str, float]:
    """Train, print held-out metrics, and return them."""
    torch.manual_seed(seed)
    train, test = Digits(train=True), Digits(train=False)
    model = DigitNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for pixels, targets in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            loss_of(model, pixels, targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
    found = evaluate(model, test)
    for name, value in found.items():
        print(f"{name:16s} {value:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
