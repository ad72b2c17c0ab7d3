"""Small trainings that several processes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lepton.data import TensorData, TensorLoader
from lepton.evaluate import evaluate
from lepton.train import Callback, Trainer, TrainState
from tests.conftest import make_batch, make_model

JOINT = 12
ROWS = 50  # the last batch of 2 rows leaves one of 3 processes without any


def rows(labels: str, world: int = 2, n: int = ROWS) -> TensorData:
    """Rows with unequal labels; or a task whose labels are on the first process only, or in every other batch only."""
    x, targets = make_batch(n)
    place = torch.arange(n)
    targets["digit"][place % 5 == 1] = -100
    targets["slant"][place % 7 < 3] = float("nan")
    if labels == "one rank only":
        targets["slant"][place % JOINT % world != 0] = float("nan")
    if labels == "every other batch":
        targets["width"][place // JOINT % 2 == 1] = float("nan")
    return TensorData(x, targets)


class Losses(Callback):
    """Keeps the losses and the norm of the gradients of every step."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_step_end(self, state: TrainState, result: Any) -> None:
        self.found.append(torch.cat([result.losses, result.grad_norm.reshape(1)]).clone())


def train(data: TensorData, balancer: Any, heads: str = "mixed", view: str = "fork_layer", **options: Any) -> Any:
    """Return what a training gave: losses of the steps, columns of the epochs, weights, and an evaluation."""
    model = make_model(balancer, heads, gradients=view)
    losses = Losses()
    loader = TensorLoader(data, JOINT, shuffle=False)
    val = TensorLoader(rows("unequal", n=23), 8)
    told: dict[str, Any] = {"max_epochs": 2, "learning_rate": 0.01, "patience": 5, **options}
    trainer = Trainer(model, callbacks=[losses], **told)
    state = trainer.fit(loader, val)
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in state.history]
    return torch.stack(losses.found), history, trainer.whole_state()


def evaluated(rank: int, world: int, n: int, size: int, together: bool = True) -> Any:
    """Return the results on rows of which each process has a share, or one all."""
    model = make_model(heads="mixed")
    loader = TensorLoader(rows("one rank only", world, n), size)
    results = evaluate(model, loader.shared(rank, world) if together else loader)
    return {name: (result.loss, result.n_labels, result.metrics) for name, result in results.items()}
