"""Courses of the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lepton.errors import ConfigurationError
from lepton.train import Schedule, Trainer, warmup_cosine
from tests.conftest import make_model
from tests.train.conftest import loader

STEPS = 20


def optimizer(kind: type = torch.optim.SGD) -> torch.optim.Optimizer:
    return kind([nn.Parameter(torch.zeros(1))], lr=1.0)


def course(name: str, warmup: float = 0.2, steps: int = STEPS) -> list[float]:
    own = optimizer()
    schedule = Schedule(name, own, warmup=warmup, max_steps=steps)
    found = []
    for _ in range(steps):
        found.append(schedule.learning_rate)
        own.step()
        schedule.after_step()
    return [*found, schedule.learning_rate]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "step", "plateau"])
def test_every_course_rises_to_the_peak_first(name: str) -> None:
    assert course(name)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_courses_end_where_they_say() -> None:
    assert course("cosine")[-1] == course("linear")[-1] == pytest.approx(0)
    assert course("constant")[-1] == course("plateau")[-1] == 1
    stairs = course("step", warmup=0.0)
    assert (stairs[9], stairs[12], stairs[-1]) == pytest.approx((1, 0.1, 0.01))


def test_cosine_is_warmup_cosine() -> None:
    own = optimizer()
    by_hand = warmup_cosine(own, 4, STEPS)
    found = []
    for _ in range(STEPS):
        found.append(by_hand.get_last_lr()[0])
        own.step()
        by_hand.step()
    assert course("cosine")[:-1] == found


def test_one_cycle_is_torchs() -> None:
    own = optimizer()
    theirs = torch.optim.lr_scheduler.OneCycleLR(own, 1.0, total_steps=STEPS, pct_start=0.2)
    found = []
    for _ in range(STEPS):
        found.append(own.param_groups[0]["lr"])
        own.step()
        theirs.step()
    assert course("one_cycle")[:-1] == pytest.approx(found)
    assert max(found) == pytest.approx(1.0)


def test_plateau_falls_when_the_value_stays_and_is_not_undone() -> None:
    own = optimizer()
    schedule = Schedule("plateau", own, warmup=0.0, max_steps=STEPS, factor=0.5, patience=1)
    for value in (1.0, 1.0, math.nan, 1.0):
        own.step()
        schedule.after_step()
        schedule.after_evaluation(value)
    assert schedule.learning_rate == 0.5
    own.step()
    schedule.after_step()
    assert schedule.learning_rate == 0.5


@pytest.mark.parametrize("name", ["cosine", "linear", "step", "one_cycle", "plateau"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_schedule_goes_on_where_it_was_saved(name: str, kind: type) -> None:
    def run(own: torch.optim.Optimizer, schedule: Schedule, steps: range) -> list[float]:
        found = []
        for step in steps:
            own.step()
            schedule.after_step()
            schedule.after_evaluation(1.0 if step > 3 else -step)
            found.append(schedule.learning_rate)
        return found

    options = {"warmup": 0.1, "max_steps": STEPS, "factor": 0.5, "patience": 2}
    own = optimizer(kind)
    schedule = Schedule(name, own, **options)
    run(own, schedule, range(9))
    saved = own.state_dict(), schedule.state_dict()
    again = optimizer(kind)
    resumed = Schedule(name, again, **options)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert run(own, schedule, range(9, STEPS)) == run(again, resumed, range(9, STEPS))


def test_a_second_fit_has_a_learning_rate_again() -> None:
    trainer = Trainer(make_model(), max_epochs=1, warmup=0.0, learning_rate=0.1)
    trainer.fit(loader(32))
    assert trainer.fit(loader(32)).history[0]["train/learning_rate"] == pytest.approx(0.0, abs=1e-6)
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.1


def test_names_and_needs() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'cosine'"):
        Trainer(make_model(), schedule="cosin")
    with pytest.raises(ConfigurationError, match="pass val to fit"):
        Trainer(make_model(), schedule="plateau").fit(loader())


def test_plateau_in_a_training_follows_the_monitor() -> None:
    trainer = Trainer(
        make_model(), schedule="plateau", plateau_patience=0, plateau_factor=0.1, max_epochs=6, learning_rate=0.5
    )
    rates = [row["train/learning_rate"] for row in trainer.fit(loader(), loader(48, seed=1)).history]
    assert rates[0] == 0.5
    assert trainer.schedule.learning_rate < 0.5
