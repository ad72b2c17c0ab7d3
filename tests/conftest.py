"""Small models and batches that most tests share."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import Balancer, Equal, GradientBalancer
from lepton.tasks import Classification, Regression, Task
from lepton.train import Callback, TrainState

torch.set_num_threads(1)
hypothesis.settings.register_profile("lepton", derandomize=True)
hypothesis.settings.load_profile("lepton")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers on every run and in any order: one that fails once can be looked at again."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


class Inverse(GradientBalancer):
    """Weights 1 / (1 + G_kk): neither scale invariant nor equivariant, so that every wrong factor shows."""

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        return 1 / (1 + gramian.diagonal())


class Lagging(GradientBalancer):
    """Weights from an average over the steps: state that must advance once per step and never otherwise."""

    def _build(self, n_tasks: int) -> None:
        self.register_buffer("average", torch.ones(n_tasks))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        present = gramian.diagonal() > 0
        self.average.copy_(torch.where(present, 0.5 * self.average + 0.5 * gramian.diagonal().sqrt(), self.average))
        self.steps += 1
        return 1 / self.average


class Interrupt(Callback):
    """Ends a training after so many steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, state: TrainState, result: object) -> None:
        if state.step == self.steps:
            raise KeyboardInterrupt


def trunk(inputs: int = 6, features: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, features))


def own_head(outputs: int = 1, features: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Tanh(), nn.Linear(features, 5), nn.Tanh(), nn.Linear(5, outputs))


def tasks(heads: str = "linear", **kind: Any) -> list[Task]:
    """Three tasks; `heads` is linear (all fused), own (none fused) or mixed."""
    own = {"linear": (False, False, False), "own": (True, True, True), "mixed": (True, False, True)}[heads]
    head: list[Callable[[int], dict[str, Any]]] = [
        lambda n, use=use: {"head": own_head(n)} if use else {}  # type: ignore[misc]
        for use in own
    ]
    return [
        Classification("digit", classes=3, **head[0](3), **kind),
        Regression("slant", **head[1](1), **kind),
        Regression("width", outputs=2, **head[2](2), **kind),
    ]


def make_model(balancer: Balancer | None = None, heads: str = "linear", seed: int = 0, **options: Any):
    torch.manual_seed(seed)
    return lepton.LeptonModel(trunk(), tasks(heads), balancer=balancer or Equal(), **options)


def make_batch(rows: int = 12, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator)
    digit = torch.randint(0, 3, (rows,), generator=generator)
    noise = torch.randn(rows, generator=generator)
    return x, {"digit": digit, "slant": x[:, 0] - 2 * x[:, 1] + noise, "width": x[:, 2:4] ** 2 - 1}


def loss_of(model: nn.Module, x: Any, targets: dict[str, Tensor], **options: Any) -> Tensor:
    outputs, task_weights = model(x)
    loss: Tensor = lepton.MultiTaskLoss(model)(outputs, targets, task_weights, **options)
    return loss


def gradients(module: nn.Module) -> Tensor:
    """All gradients of a module in one vector; a missing one counts as zero."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in module.parameters()]
    )


def parameters(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("LEPTON_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not here ({folder}); set LEPTON_DATA")
    return folder
