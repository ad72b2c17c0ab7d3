"""A model with two old tasks and a new one, and rows of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lepton.balance import Balancer
from lepton.nn import LeptonModel
from lepton.tasks import Classification, MultiLabel, Regression, Task

OLD = ("kind", "size", "marks")


def old_tasks() -> list[Task]:
    return [
        Classification("kind", classes=3),
        Regression("size", mean=5.0, std=2.0),
        MultiLabel("marks", labels=4),
    ]


def make_model(balancer: Balancer | None = None, new: bool = True, **options: Any) -> LeptonModel:
    """In float64, and without dropout, so that every number can be computed again."""
    trunk = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh())
    tasks = [*old_tasks(), *([Classification("new", classes=2)] if new else [])]
    return LeptonModel(trunk, tasks, balancer=balancer, **options).double()


def old_rows(rows: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    targets = {
        "kind": torch.arange(rows) % 3,
        "size": 5 + torch.randn(rows, dtype=torch.float64),
        "marks": torch.randint(0, 2, (rows, 4)).double(),
    }
    return torch.randn(rows, 6, dtype=torch.float64), targets


def new_rows(rows: int = 8) -> tuple[Tensor, dict[str, Tensor]]:
    target = torch.arange(rows) % 2
    x = torch.randn(rows, 6, dtype=torch.float64)
    x[:, 0] += 3 * target
    return x, {"new": target}
