"""Memory that runs out in one of several processes. Row 9."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import DynamicWeightAverage, Equal, Smooth, UPGrad
from lepton.errors import TrainingError
from lepton.train import Trainer
from tests.conftest import make_batch, parameters, tasks, trunk
from tests.faults.test_memory import FailsBackward
from tests.processes.trainings import Losses
from tests.processes.world import several

pytestmark = pytest.mark.xdist_group("processes")

BALANCERS = {"equal": Equal, "average": lambda: DynamicWeightAverage(window=2), "smooth": lambda: Smooth(UPGrad())}


class Cramped(nn.Module):
    """A trunk that has room for so many rows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner, self.room = trunk(), room

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return self.inner(x)


def model_of(inner: nn.Module, balancer: str) -> lepton.LeptonModel:
    torch.manual_seed(0)
    for layer in inner.inner:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    model = lepton.LeptonModel(inner, tasks(), balancer=BALANCERS[balancer](), features=8)
    _, targets = make_batch(60)
    for name in ("slant", "width"):
        model.task(name).fit_statistics(targets[name])
    return model


def batches(rank: int, world: int) -> list[Any]:
    """Twelve rows of all processes in each of three steps."""
    x, targets = make_batch(36)
    targets["slant"][:5] = float("nan")
    found = []
    for first in range(0, 36, 12):
        rows = torch.arange(first, first + 12)[rank::world]
        found.append((x[rows], {name: target[rows] for name, target in targets.items()}))
    return found


def outcome(rank: int, world: int, rooms: tuple[int, ...], balancer: str, pieces: int, **options: Any) -> Any:
    """Return losses and weights of a training, and in how many pieces it cut its batches in the end."""
    model = model_of(Cramped(rooms[rank]), balancer)
    losses = Losses()
    trainer = Trainer(model, max_epochs=2, learning_rate=0.01, callbacks=[losses], **options)
    trainer.step.micro.pieces = pieces
    begin = trainer._begin

    def cut_from_the_beginning(*told: Any) -> Any:
        state = begin(*told)
        trainer.step.micro.pieces = pieces
        return state

    trainer._begin = cut_from_the_beginning  # type: ignore[method-assign]
    trainer.fit(batches(rank, world))
    return torch.stack(losses.found), trainer.whole_state(), trainer.step.micro.pieces


CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in BALANCERS],
    ("smooth", {"parallel": "fsdp"}),
]


def outcomes(rank: int, world: int, rooms: tuple[int, ...], pieces: int) -> list[Any]:
    return [outcome(rank, world, rooms, name, pieces, **options) for name, options in CASES]


@pytest.mark.parametrize(("rooms", "pieces"), [((99, 3), 2), pytest.param((1, 99), 8, marks=pytest.mark.faults)])
def test_all_halve_where_one_runs_out(rooms: tuple[int, ...], pieces: int) -> None:
    """They go on together as if the batches had come in pieces from the beginning, and as one process would."""
    found = several(outcomes, 2, 2, rooms, 1)
    cut = several(outcomes, 2, 2, (99, 99), pieces)
    for place, (name, _) in enumerate(CASES):
        for rank in range(2):
            losses, state, now = found[rank][place]
            assert now == pieces
            assert torch.equal(losses, cut[rank][place][0]), name
            assert all(torch.equal(value, cut[rank][place][1][key]) for key, value in state.items()), name
        if name in ("equal", "average"):  # whose weights do not depend on how a window is cut
            single = outcome(0, 1, (99,), name, 1)
            torch.testing.assert_close(found[0][place][0], single[0], rtol=0, atol=2e-6)


def stopped(rank: int) -> str:
    model = model_of(Cramped(99 if rank else 3), "equal")
    before = parameters(model)
    with pytest.raises(TrainingError) as error:
        Trainer(model, max_epochs=1, on_out_of_memory="stop").fit(batches(rank, 2))
    assert torch.equal(parameters(model), before)
    return str(error.value)


def test_a_policy_of_stopping_stops_all() -> None:
    for message in several(stopped, 2):
        assert "micro-batches of 6 rows, and on_out_of_memory is 'stop'" in message


def in_backward(rank: int, folder: Path) -> None:
    model = model_of(FailsBackward(rank), "equal")
    try:
        Trainer(model, max_epochs=1).fit(batches(rank, 2))
    except TrainingError as error:
        (folder / str(rank)).write_text(str(error))
        raise


@pytest.mark.faults
def test_a_backward_pass_without_memory_ends_all_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match="another process ended in the midst of a step"):
        several(in_backward, 2, tmp_path)
    assert time.monotonic() - start < 120
    assert "in the backward pass of one of several processes" in (tmp_path / "1").read_text()
