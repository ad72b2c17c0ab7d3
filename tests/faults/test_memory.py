"""Memory that runs out: micro-batches are halved and the step begun again, with nothing of the attempt left. Row 9."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.errors import TrainingError
from lepton.train import Trainer, TrainStep, load_weights, save_checkpoint
from tests.conftest import make_batch, parameters, tasks, trunk
from tests.faults.children import finish
from tests.faults.settings import BALANCERS

MIB = 2**20
PER_ROW = 64 * MIB


class Greedy(nn.Module):
    """A trunk that takes 64 MiB for each row, of which it uses next to nothing."""

    def __init__(self, greedy: bool) -> None:
        super().__init__()
        self.inner, self.greedy = trunk(), greedy

    def forward(self, x: Tensor) -> Tensor:
        if self.greedy:
            torch.empty(len(x), PER_ROW // 4)[:, 0].zero_()
        return self.inner(x)


class Fails(torch.autograd.Function):
    """Raises CUDA's error in the first backward passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, times: list[int]) -> Tensor:
        ctx.times = times
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.times[0]:
            ctx.times[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return grad, None


class FailsBackward(nn.Module):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.inner, self.times = trunk(), [times]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[1:](Fails.apply(self.inner[0](x), self.times))


def model_of(inner: nn.Module, balancer: str = "equal") -> lepton.LeptonModel:
    torch.manual_seed(0)
    for layer in inner.inner:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    model = lepton.LeptonModel(inner, tasks(), balancer=BALANCERS[balancer](), features=8)
    _, targets = make_batch()
    for name in ("slant", "width"):
        model.task(name).fit_statistics(targets[name])
    return model


def batch() -> tuple[Tensor, dict[str, Tensor]]:
    x, targets = make_batch(12)
    targets["slant"][:5] = float("nan")  # pieces with unequal numbers of labels
    targets["digit"][7:] = -100
    return x, targets


def in_little_memory(folder: Path) -> None:
    """Train three steps where 12 rows find no room, and 3 do."""
    step = TrainStep(model := model_of(Greedy(True)), torch.optim.AdamW(model.parameters(), 0.01))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 5 * PER_ROW, resource.RLIM_INFINITY))
    losses = [step([batch()]).losses.tolist() for _ in range(3)]
    save_checkpoint(folder, model, {"pieces": step.micro.pieces, "losses": losses})


def test_a_real_allocation_that_fails_is_halved_until_it_fits(tmp_path: Path) -> None:
    import json

    model = model_of(Greedy(False))
    step = TrainStep(model, torch.optim.AdamW(model.parameters(), 0.01))
    losses = torch.stack([step([batch()]).losses for _ in range(3)])
    assert finish(in_little_memory, tmp_path / "made") == 0
    found = json.loads((tmp_path / "made" / "state.json").read_text())
    assert found["pieces"] == 4
    torch.testing.assert_close(torch.tensor(found["losses"]), losses, rtol=0, atol=1e-6)
    again = model_of(Greedy(False))
    load_weights(tmp_path / "made", again)
    torch.testing.assert_close(parameters(again), parameters(model), rtol=0, atol=1e-5)


WHOLE = {"equal", "fixed", "frozen", "dynamic_weight_average"}
"""Balancers whose weights do not depend on how a window is cut; the others estimate, as in any accumulation."""

FEW = {"uncertainty", "dynamic_weight_average", "every(smooth(log(pcgrad)))"}
NAMES = [pytest.param(name, marks=() if name in FEW else pytest.mark.faults) for name in BALANCERS]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("balancer", NAMES)
def test_an_error_in_backward_leaves_no_partial_step(balancer: str, times: int) -> None:
    """After the failed attempts everything is as if the batch had come in pieces from the beginning."""
    model = model_of(FailsBackward(times), balancer)
    step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.1))
    found = step([batch()])
    pieces = model_of(FailsBackward(0), balancer)
    pieces.fork.gradient_accumulation_steps = 2**times
    size = 12 // 2**times
    x, targets = batch()
    window = [(x[i : i + size], {n: t[i : i + size] for n, t in targets.items()}) for i in range(0, 12, size)]
    torch.manual_seed(1)
    TrainStep(pieces, torch.optim.SGD(pieces.parameters(), 0.1))(window)
    for name, value in pieces.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    whole = model_of(FailsBackward(0), balancer)
    expected = TrainStep(whole, torch.optim.SGD(whole.parameters(), 0.1))([batch()])
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=1e-6)
    if balancer in WHOLE:
        torch.testing.assert_close(parameters(model), parameters(whole), rtol=0, atol=1e-6)


def test_batchnorm_sees_the_failed_attempt_not() -> None:
    inner = FailsBackward(1)
    inner.inner = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))
    model = model_of(inner)
    TrainStep(model, torch.optim.SGD(model.parameters(), 0.1))([batch()])
    assert inner.inner[1].num_batches_tracked == 2


def test_a_policy_of_stopping_and_a_single_row_stop(tmp_path: Path) -> None:
    model = model_of(FailsBackward(1))
    before = parameters(model)
    with pytest.raises(TrainingError, match=r"micro-batches of 12 rows, and on_out_of_memory is 'stop'"):
        Trainer(model, max_epochs=1, on_out_of_memory="stop").fit([batch()])
    assert torch.equal(parameters(model), before)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(TrainingError, match=r"micro-batches of 1 rows, and a single row cannot be halved"):
        Trainer(model_of(FailsBackward(9)), max_epochs=1).fit([batch()])


def test_memory_that_runs_out_in_the_update_is_said_to_have_spoiled_the_weights() -> None:
    class Hungry(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            torch.empty(2**50)

    model = model_of(FailsBackward(0))
    with pytest.raises(TrainingError, match=r"in the optimiser's update, which may be half done"):
        TrainStep(model, Hungry(model.parameters(), 0.1))([batch()])


def test_the_size_of_the_pieces_survives_a_restart(tmp_path: Path) -> None:
    first = Trainer(model_of(FailsBackward(1)), max_epochs=1, folder=tmp_path)
    first.fit([batch()])
    again = Trainer(model_of(FailsBackward(0)), max_epochs=2, folder=tmp_path, resume_from_checkpoint="auto")
    again.fit([batch()])
    assert again.step.micro.pieces == 2


def test_another_error_is_not_taken_for_it() -> None:
    class Broken(FailsBackward):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = model_of(Broken(0))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        TrainStep(model, torch.optim.SGD(model.parameters(), 0.1))([batch()])
