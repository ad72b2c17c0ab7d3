"""NaN and infinity in a label, a loss or an input: who takes no part, and that the others do not notice. Row 5."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.errors import TrainingError
from lepton.train import Trainer
from tests.conftest import make_model, parameters, tasks
from tests.faults.settings import BALANCERS
from tests.train.conftest import loader, state_equal

FAULTS = {"label": math.inf, "loss": 1e30}
"""What stands in a task's labels: infinity, or a number whose square is."""

FEW = {("learned_weights", "loss"), ("dynamic_weight_average", "loss"), ("cagrad", "loss"), ("equal", "label")}
FEW |= {("every(smooth(log(pcgrad)))", "loss"), ("famo", "loss"), ("uncertainty", "loss")}
CASES = [
    pytest.param(*case, marks=() if case in FEW else pytest.mark.faults, id="-".join(case))
    for case in ((balancer, fault) for balancer in BALANCERS for fault in FAULTS)
]


def fitted(balancer: str, heads: str = "mixed") -> lepton.LeptonModel:
    model = make_model(BALANCERS[balancer](), heads)
    for name in ("slant", "width"):
        model.task(name).fit_statistics(loader().data.targets[name])
    return model


def batches(value: float, faulty: range) -> list[Any]:
    """Two epochs; in the faulty steps all labels of `slant` hold the value."""
    every = [batch for _ in range(2) for batch in loader(shuffle=True)]
    for place in faulty:
        x, targets = every[place]
        every[place] = x, {**targets, "slant": torch.full_like(targets["slant"], value)}
    return every


@pytest.mark.parametrize(("balancer", "fault"), CASES)
def test_the_others_train_as_in_a_step_without_it(balancer: str, fault: str, tmp_path: Path) -> None:
    """Weights, heads, the balancer's state and the optimiser's: the same as if the task had had no label there."""
    found = []
    for name, value in (("missing", math.nan), ("broken", FAULTS[fault])):
        model = fitted(balancer)
        trainer = Trainer(model, max_epochs=1, learning_rate=0.02)
        state = trainer.fit(batches(value, range(4, 7)))
        found.append((model, trainer.optimizer.state_dict()["state"]))
        assert state.skipped_steps == 0
        left_out = state.history[0]["train/slant/left_out"]
        assert left_out == (3 if (name, fault) == ("broken", "loss") else 0)
    (one, moments), (other, others) = found
    assert state_equal(one, other)
    assert moments.keys() == others.keys()
    for parameter, values in moments.items():
        assert all(torch.equal(value, others[parameter][key]) for key, value in values.items())


def test_a_task_that_is_broken_n_times_in_a_row_ends_the_training(tmp_path: Path) -> None:
    model = fitted("cagrad")
    with pytest.raises(TrainingError, match=r"\['slant'\] took no part in 5 steps in a row.*good checkpoint is .*last"):
        Trainer(model, max_epochs=1, folder=tmp_path, checkpoint_every=2, max_skipped_steps=5).fit(
            batches(1e30, range(3, 12))
        )
    state = json.loads((tmp_path / "checkpoints" / "last" / "state.json").read_text())["training"]["state"]
    assert state["step"] == 6
    Trainer(fitted("cagrad"), max_epochs=1, folder=tmp_path, resume_from_checkpoint="auto", max_skipped_steps=9).fit(
        batches(1e30, range(3, 4))
    )


class Nested(nn.Module):
    """A trunk whose inputs lie too deep for rows to be taken out, with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, deep: dict[str, Tensor]) -> Tensor:
        return self.inner(deep["x"])


@pytest.mark.parametrize("balancer", ["equal", "every(smooth(log(pcgrad)))"])
def test_an_input_that_is_not_finite_skips_the_step_and_nothing_else(balancer: str) -> None:
    found = []
    for broken in (False, True):
        torch.manual_seed(0)
        model = lepton.LeptonModel(Nested(), tasks(), balancer=BALANCERS[balancer](), features=8)
        every = [({"deep": {"x": x}}, targets) for x, targets in loader()]
        for name in ("slant", "width"):
            model.task(name).fit_statistics(loader().data.targets[name])
        if broken:
            x = every[2][0]["deep"]["x"].clone()
            x[3] = math.nan
            every.insert(2, ({"deep": {"x": x}}, every[2][1]))
        state = Trainer(model, max_epochs=1, schedule="constant", warmup=0.0, optimizer="adamw").fit(every)
        assert state.skipped_steps == broken
        found.append(model)
    assert state_equal(*found)
    assert torch.isfinite(parameters(found[1])).all()
