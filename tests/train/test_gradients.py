"""Gradients in the Trainer: norms of layers, alarms, adaptive clipping, half precision, skipped steps, compile."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import MGDA, DynamicWeightAverage, Equal, LogSum
from lepton.data import TensorData, TensorLoader
from lepton.errors import TrainingError
from lepton.tasks import Classification, Regression
from lepton.train import StepResult, Trainer, TrainState, TrainStep
from lepton.train._skips import SkippedSteps
from tests.conftest import Lagging, loss_of, make_batch, make_model, parameters, tasks, trunk
from tests.train.conftest import loader, rows, state_equal, trainer


def two_tasks(own_trunk: nn.Module, balancer=None, **options) -> lepton.LeptonModel:
    own = [Classification("digit", 3), Regression("slant", mean=0.0, std=1.0)]
    return lepton.LeptonModel(own_trunk, own, balancer=balancer or Equal(), features=8, **options)


def two_columns(n: int = 96) -> TensorLoader:
    return TensorLoader(rows(n).only("digit", "slant"), 16)


# -- layers -------------------------------------------------------------------------------------------------------
def test_the_norms_of_the_layers_are_those_before_clipping() -> None:
    model, other = make_model(MGDA(), "mixed"), make_model(MGDA(), "mixed")
    for one in (model, other):
        for name in ("slant", "width"):
            one.task(name).fit_statistics(rows().targets[name])
    data = loader(16)
    row = Trainer(model, max_epochs=1, max_grad_norm=1e-3).fit(data).history[0]
    loss_of(other, *next(iter(loader(16)))).backward()
    for name, module in other.named_modules():
        own = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
        if own and not name.startswith("fork"):
            norm = torch.cat([g.flatten() for g in own]).norm().item()
            assert row[f"train/grad_norm/{name}"] == pytest.approx(norm, rel=1e-5)


def test_samples_are_taken_every_so_often_and_averaged() -> None:
    one = trainer(max_epochs=1, grad_norm_every=3, learning_rate=1e-9).fit(loader()).history[0]
    batches = list(loader())
    found = []
    for place in (0, 3):
        model = make_model(Equal(), "mixed")
        for name in ("slant", "width"):
            model.task(name).fit_statistics(rows().targets[name])
        loss_of(model, *batches[place]).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.trunk[0].parameters()]).norm().item())
    assert one["train/grad_norm/trunk.0"] == pytest.approx(sum(found) / 2, rel=1e-4)
    assert not any(
        key.startswith("train/grad_norm/")
        for key in trainer(max_epochs=1, grad_norm_every=None).fit(loader()).history[0]
    )


class Gate(nn.Module):
    """A trunk with a layer that gets no gradient to speak of."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.alive, self.dead = nn.Linear(6, 8), nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(torch.tanh(self.alive(x))) + self.factor * self.dead(x)


@pytest.mark.parametrize("factor", [0.0, 1e-9])
def test_a_dead_layer_is_named_once(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    state = Trainer(two_tasks(Gate(factor)), max_epochs=3).fit(two_columns())
    assert state.dead_layers == ["trunk.dead"]
    assert caplog.text.count("layer 'trunk.dead' is dead") == 1


def test_layers_that_live_raise_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    state = trainer(MGDA(), max_epochs=3).fit(loader())
    assert state.dead_layers == state.exploding_layers == []
    assert "layer" not in caplog.text


def test_the_head_of_a_task_that_has_no_labels_is_not_dead(caplog: pytest.LogCaptureFixture) -> None:
    inputs, targets = make_batch(32)
    found = trainer(max_epochs=2)
    found.step.criterion.unlabelled.update(["digit", "width"])  # as a procedure does that keeps old tasks
    state = found.fit([(inputs, {"slant": targets["slant"]})])
    assert state.dead_layers == [] and "dead" not in caplog.text


def test_an_exploding_layer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(6, 8), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.layer(x * (1.0 if self.calls <= 6 else 1e4))

    torch.manual_seed(0)
    state = Trainer(two_tasks(Growing()), max_epochs=3, learning_rate=1e-9).fit(two_columns())
    assert "trunk.layer" in state.exploding_layers
    assert caplog.text.count("layer 'trunk.layer' explodes") == 1


# -- clipping -----------------------------------------------------------------------------------------------------
def test_adaptive_clipping_bounds_every_unit_of_the_trunk_and_spares_the_heads() -> None:
    bound = 0.01
    model, other = make_model(Equal(), "linear"), make_model(Equal(), "linear")
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    TrainStep(model, optimizer, max_grad_norm=None, adaptive_clip=bound)([make_batch()])
    loss_of(other, *make_batch()).backward()
    clipped = 0
    for layer, raw in ((model.trunk[0], other.trunk[0]), (model.trunk[2], other.trunk[2])):
        for weights, gradient, before in zip(layer.weight, layer.weight.grad, raw.weight.grad, strict=True):
            allowed = bound * max(weights.norm().item(), 1e-3)
            expected = before * min(1.0, allowed / before.norm().item())
            torch.testing.assert_close(gradient, expected)
            clipped += before.norm().item() > allowed
    assert clipped > 0
    for name in model.heads:
        torch.testing.assert_close(model.heads[name].weight.grad, other.heads[name].weight.grad)


def test_the_norm_of_all_gradients_is_bounded_after_that() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    TrainStep(model, optimizer, max_grad_norm=0.5, adaptive_clip=10.0)([make_batch()])
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert norm == pytest.approx(0.5, rel=1e-4)


# -- precision and compile ----------------------------------------------------------------------------------------
def test_float16_training_learns() -> None:
    model = make_model(LogSum(), "mixed")
    state = Trainer(model, max_epochs=10, learning_rate=1e-2, precision="fp16-mixed").fit(loader(), loader(48, seed=1))
    assert state.best_value < 0.9


def test_the_recorded_weights_do_not_see_the_scaler() -> None:
    model = make_model(LogSum(), "mixed")
    row = Trainer(model, max_epochs=1, learning_rate=1e-9, precision="fp16-mixed").fit(loader(16)).history[0]
    for name in model.task_names:
        assert row[f"train/{name}/weight"] == pytest.approx(1 / row[f"train/{name}/loss"], rel=1e-2)


def test_an_overflow_in_float16_skips_the_step_and_lowers_the_scale() -> None:
    model = make_model(Lagging(), "mixed")
    step = TrainStep(model, torch.optim.AdamW(model.parameters(), 0.1, fused=True), precision="fp16-mixed")
    x, targets = make_batch()
    before, scale = parameters(model), step.scaler.get_scale()
    result = step([(x, {**targets, "slant": 1e5 * targets["slant"]})])
    assert result.taken is False
    assert torch.equal(before, parameters(model))
    assert step.scaler.get_scale() == scale / 2
    assert model.state_dict()["fork.balancer.steps"] == 0


def test_a_compiled_training_equals_the_eager_one_and_keeps_its_names(monkeypatch) -> None:
    torch._dynamo.reset()
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: original(model, backend="aot_eager"))
    compiled, eager = make_model(Lagging(), "mixed"), make_model(Lagging(), "mixed")
    Trainer(compiled, max_epochs=1, compile=True).fit(loader(64))
    Trainer(eager, max_epochs=1).fit(loader(64))
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    torch.testing.assert_close(parameters(compiled), parameters(eager), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


# -- steps that are left out --------------------------------------------------------------------------------------
class NaNAfter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bad):
        ctx.bad = bad
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return (grad * math.nan if ctx.bad else grad), None


class Breaking(nn.Module):
    """A trunk whose gradient is not a number from some step on."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.inner, self.good, self.calls = trunk(), good, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.inner[2](NaNAfter.apply(self.inner[:2](x), self.calls > self.good))


def test_too_many_skipped_steps_stop_with_the_last_good_checkpoint(tmp_path) -> None:
    torch.manual_seed(0)
    model = lepton.LeptonModel(Breaking(8), tasks(), balancer=Lagging(), features=8)
    run = Trainer(model, max_epochs=9, folder=tmp_path, max_skipped_steps=5)
    with pytest.raises(TrainingError, match=r"5 steps in a row .*step 13.* best evaluation, at step 12; .*last"):
        run.fit(loader(), loader(48, seed=1))
    assert run.state.skipped_steps == 5
    assert all(torch.isfinite(p).all() for p in model.parameters())
    torch.manual_seed(0)
    good = lepton.LeptonModel(Breaking(99), tasks(), balancer=Lagging(), features=8)
    again = Trainer(good, folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto")
    assert again.fit(loader(), loader(48, seed=1)).step == 12


def test_skipped_steps_in_between_do_not_stop() -> None:
    class Now(Breaking):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.inner[2](NaNAfter.apply(self.inner[:2](x), self.calls % 3 != 0))

    model = lepton.LeptonModel(Now(0), tasks(), balancer=Lagging(), features=8)
    state = Trainer(model, max_epochs=2, max_skipped_steps=3).fit(loader())
    assert (state.step, state.skipped_steps) == (12, 8)


def test_a_device_that_keeps_the_answer_is_asked_once_in_a_while() -> None:
    skips, state = SkippedSteps(4, ["a"], torch.device("cpu")), TrainState()

    def add(norm: float) -> bool:
        nothing = torch.zeros(1)
        no = nothing.bool()
        return skips.add(StepResult(nothing, no, nothing, torch.tensor(norm), None, no), state)

    assert not any(add(norm) for norm in (1.0, math.nan, 1.0, math.nan))
    assert (state.skipped_steps, skips.in_a_row) == (2, 1)
    assert [add(math.inf) for _ in range(4)] == [False, False, False, True]
    assert (state.skipped_steps, skips.in_a_row) == (6, 5)


def test_the_other_tasks_train_as_without_the_broken_one() -> None:
    data = rows(32)
    broken = {**data.targets, "slant": torch.full((32,), math.inf)}
    found = []
    for targets in (broken, {**data.targets, "slant": torch.full((32,), math.nan)}):
        model = make_model(Lagging(), "mixed")
        for name in ("slant", "width"):
            model.task(name).fit_statistics(data.targets[name])
        step = TrainStep(model, torch.optim.AdamW(model.parameters(), 0.1))
        for x, batch in TensorLoader(TensorData(data.inputs, targets), 16):
            step([(x, batch)])
        found.append(model)
    assert state_equal(*found)


def test_all_of_a_window_has_the_weights_from_before_it() -> None:
    """A balancer whose state advances with the first micro-batch's losses gives the second one no other weights."""
    found = []
    for pieces in (1, 2):
        model = make_model(DynamicWeightAverage(window=2))
        for name in ("slant", "width"):
            model.task(name).fit_statistics(rows().targets[name])
        step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.1))
        step.micro.pieces = pieces
        for seed in range(6):
            step([make_batch(12, seed)])
        found.append(parameters(model))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
