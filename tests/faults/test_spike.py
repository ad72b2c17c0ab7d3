"""A loss spike: skipped, gone back from, or the end, and a guard that a resumed training still has. Row 6."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import lepton
from lepton.errors import ConfigurationError, TrainingError
from lepton.train import Callback, Trainer
from tests.conftest import make_model
from tests.faults.children import Die, digest, finish
from tests.faults.settings import BALANCERS
from tests.train.conftest import loader, state_equal

SPIKE = 35
"""The step at which the labels of one task are thirty times as far away, so that its loss is nearly 1000 times."""


def batches(steps: int = 60, spike: int | None = SPIKE) -> list[Any]:
    every = [batch for _ in range(steps // 6) for batch in loader(shuffle=True)]
    if spike is not None:
        x, targets = every[spike - 1]
        every[spike - 1] = x, {**targets, "width": targets["width"] * 30}
    return every


def fitted(balancer: str = "equal") -> lepton.LeptonModel:
    model = make_model(BALANCERS[balancer]())
    data = loader().data
    for name in ("slant", "width"):
        model.task(name).fit_statistics(data.targets[name])
    return model


def run(model: lepton.LeptonModel, **options: Any) -> Trainer:
    return Trainer(model, max_epochs=1, schedule="constant", warmup=0.0, learning_rate=0.01, **options)


FEW = {"equal", "every(smooth(log(pcgrad)))"}
NAMES = [pytest.param(name, marks=() if name in FEW else pytest.mark.faults) for name in BALANCERS]


@pytest.mark.parametrize("balancer", NAMES)
def test_a_skipped_spike_leaves_no_trace(balancer: str, caplog: pytest.LogCaptureFixture) -> None:
    """The weights, and the balancer's state, are those of a training that never had this batch."""
    without = fitted(balancer)
    run(without).fit([batch for place, batch in enumerate(batches()) if place != SPIKE - 1])
    model = fitted(balancer)
    state = run(model, on_spike="skip").fit(batches())
    assert state_equal(model, without)
    assert (state.spikes, state.skipped_steps, state.step) == (1, 1, 60)
    assert "step 35 is a loss spike: 'width' has" in caplog.text


def test_without_a_guard_the_spike_does_harm() -> None:
    without, model = fitted(), fitted()
    run(without).fit([batch for place, batch in enumerate(batches()) if place != SPIKE - 1])
    assert run(model).fit(batches()).spikes == 0
    assert not state_equal(model, without)


def test_rolled_back_to_the_last_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept: dict[str, Any] = {}
    model = fitted()

    class Look(Callback):
        def on_step_end(self, state: Any, result: Any) -> None:
            if state.step in (30, SPIKE):
                moments = trainer.optimizer.state_dict()["state"]
                kept[state.step] = [p.detach().clone() for p in model.parameters()], moments[0]["exp_avg"].clone()

    trainer = run(model, on_spike="rollback", folder=tmp_path, checkpoint_every=10, callbacks=[Look()])
    state = trainer.fit(batches())
    assert all(torch.equal(one, other) for one, other in zip(kept[30][0], kept[SPIKE][0], strict=True))
    assert torch.equal(kept[30][1], kept[SPIKE][1])
    assert (state.spikes, state.step) == (1, 60)
    assert "went back to those of step 30; the data go on" in caplog.text


def test_a_spike_may_end_the_training_with_a_checkpoint_from_before_it(tmp_path: Path) -> None:
    model = fitted()
    with pytest.raises(TrainingError, match=r"step 35 is a loss spike: 'width' has .* the training stops"):
        run(model, on_spike="stop", folder=tmp_path).fit(batches())
    without = fitted()
    run(without).fit(batches(spike=None)[: SPIKE - 1])
    assert state_equal(model, without)
    again = fitted()
    state = run(again, folder=tmp_path, on_spike="stop", resume_from_checkpoint="auto").fit(batches())
    assert (state.step, state.spikes) == (60, 1)


def train(folder: Path, policy: str, death: tuple[int, str] | None = None) -> None:
    callbacks = [] if death is None else [Die(*death)]
    options = {"folder": folder, "checkpoint_every": 3, "resume_from_checkpoint": "auto", "callbacks": callbacks}
    run(fitted("every(smooth(log(pcgrad)))"), on_spike=policy, **options).fit(batches())


@pytest.mark.parametrize("policy", ["skip", pytest.param("rollback", marks=pytest.mark.faults)])
def test_the_guard_survives_sigkill(policy: str, tmp_path: Path) -> None:
    """Killed two steps before the spike: a guard that began anew would not have seen enough to know it."""
    assert finish(train, tmp_path / "whole", policy) == 0
    assert finish(train, tmp_path / "killed", policy, (SPIKE - 1, "on_step_end")) == -9
    assert finish(train, tmp_path / "killed", policy) == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert '"spikes": 1' in (tmp_path / "killed" / "checkpoints" / "last" / "state.json").read_text()


def test_noise_and_a_slow_rise_are_no_spikes() -> None:
    from lepton.train._spikes import SpikeGuard

    torch.manual_seed(0)
    guard, here = SpikeGuard(3, "skip", 10.0, torch.device("cpu")), torch.tensor([True, True, True])
    sigma = torch.tensor([0.02, 0.25, 0.5])  # of the logarithm; without it, the last one has false spikes
    for step in range(6000):
        losses = (1 + step / 1500) * (sigma * torch.randn(3)).exp()  # and five times as high at the end
        assert not guard.judge(losses, here).any()
        guard.keep(losses, here)
    assert guard.judge(101 * guard.medians, here).all()
    assert not guard.judge(101 * guard.medians, ~here).any()


def test_the_median_is_the_median() -> None:
    from lepton.train._spikes import ENOUGH, WINDOW, SpikeGuard

    guard, seen = SpikeGuard(1, "skip", 10.0, torch.device("cpu")), []
    for step in range(3 * WINDOW):
        loss = torch.rand(1)
        guard.keep(loss, torch.tensor([True]))
        seen = [*seen, loss.item()][-WINDOW:]
        assert guard.medians.item() == torch.tensor(seen).median().item()
        middle = torch.tensor(seen).log().median()
        spread = (torch.tensor(seen).log() - middle).abs().median()
        bound = 10 * torch.maximum(1.4826 * spread, torch.tensor(2.0).log() / 10)
        edge = (middle + bound.clamp(max=math.log(100))).exp()
        found = [bool(guard.judge(edge[None] * factor, torch.tensor([True]))) for factor in (0.999, 1.001)]
        assert found == [False, step + 1 >= ENOUGH]


def test_losses_that_are_negative_are_judged_without_a_logarithm() -> None:
    from lepton.train._spikes import ENOUGH, SpikeGuard

    guard, here = SpikeGuard(1, "skip", 10.0, torch.device("cpu")), torch.tensor([True])
    seen = torch.linspace(-3, -1, ENOUGH + 1)
    for loss in seen:
        guard.keep(loss[None], here)
    spread = (seen - seen.median()).abs().median()
    edge = seen.median() + 10 * 1.4826 * spread
    assert [bool(guard.judge(edge[None] + more, here)) for more in (-0.01, 0.01)] == [False, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_spike": "skp"}, r"on_spike must be one of .*Did you mean 'skip'"),
        ({"on_spike": "rollback"}, "without a folder and save_last"),
        ({"on_spike": "skip", "spike_factor": 0}, "spike_factor must be a number, positive"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run(fitted(), **options)
