"""What the demonstration may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lepton.errors import require

__all__ = ["DigitsConfig"]


@dataclass(frozen=True)
class DigitsConfig:
    """Settings of the demonstration.

    Attributes:
        folder: where the results are written.
        seeds: number of seeds; each draws its own scenes, missing labels, initial weights and order.
        train_scenes: number of training scenes.
        test_scenes: number of validation and of test scenes, each.
        missing: share of the training labels that is missing, for each task at random.
        epochs: passes over the training scenes, for every model alike.
        batch_size: scenes per step.
        learning_rate: peak learning rate of AdamW, for every model alike.
        balancer: the gradient balancer to show, by its name in `lepton.balance`.
        candidates: fixed weights that are tried before the best are trained; together they take about as long as
            one training.
    """

    folder: Path = Path("runs/demo")
    seeds: int = 3
    train_scenes: int = 2400
    test_scenes: int = 1000
    missing: float = 0.3
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    balancer: str = "CAGrad"
    candidates: int = 4

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "demo", "seeds", self.seeds, "at least 1")
        require(self.epochs >= 1, "demo", "epochs", self.epochs, "at least 1")
        require(self.candidates >= 1, "demo", "candidates", self.candidates, "at least 1")
        require(0 <= self.missing < 1, "demo", "missing", self.missing, "in [0, 1)")
        require(self.train_scenes >= self.batch_size, "demo", "train_scenes", self.train_scenes, "at least one batch")
