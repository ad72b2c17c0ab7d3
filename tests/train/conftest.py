"""Rows and loaders for the Trainer's tests."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lepton.balance import Equal
from lepton.data import TensorData, TensorLoader
from lepton.train import Callback, Trainer
from tests.conftest import make_batch, make_model


def rows(n: int = 96, seed: int = 0) -> TensorData:
    x, targets = make_batch(n, seed)
    return TensorData(x, targets)


def loader(n: int = 96, size: int = 16, seed: int = 0, **options) -> TensorLoader:
    return TensorLoader(rows(n, seed), size, **options)


def timeless(history: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """The rows without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def state_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class StopAfter(Callback):
    """Asks the training to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, state, result) -> None:
        if state.step == self.steps:
            state.stopped = f"{self.steps} steps are enough"


def trainer(balancer=None, heads: str = "mixed", **options) -> Trainer:
    return Trainer(make_model(balancer or Equal(), heads), **options)
