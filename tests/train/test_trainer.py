"""The Trainer: equal to a loop written by hand, selection on validation data, faults in a batch."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import FAMO, MGDA, Balancer, Equal, LogSum
from lepton.data import TensorData, TensorLoader
from lepton.errors import CheckpointError, ConfigurationError, DataError, TargetError
from lepton.evaluate import evaluate
from lepton.tasks import Classification, Regression
from lepton.train import Callback, Trainer, TrainStep, load_weights, warmup_cosine
from tests.conftest import Lagging, gradients, loss_of, make_batch, make_model, parameters, tasks, trunk


def rows(n: int = 96, seed: int = 0) -> TensorData:
    x, targets = make_batch(n, seed)
    return TensorData(x, targets)


def loader(n: int = 96, size: int = 16, seed: int = 0, **options) -> TensorLoader:
    return TensorLoader(rows(n, seed), size, **options)


def test_the_trainer_is_the_loop_written_by_hand() -> None:
    model, by_hand = make_model(Lagging()), make_model(Lagging())
    for one in (model, by_hand):
        for name in ("slant", "width"):
            one.task(name).fit_statistics(rows().targets[name])
    Trainer(model, max_epochs=2, learning_rate=1e-2, warmup=0.25, max_grad_norm=0.5).fit(loader(shuffle=True))
    matrices = [p for p in by_hand.parameters() if p.ndim > 1]
    biases = [p for p in by_hand.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-2, fused=True)
    schedule = warmup_cosine(optimizer, 3, 12)
    batches = loader(shuffle=True)
    by_hand.train()
    for _ in range(2):
        for x, targets in batches:
            optimizer.zero_grad()
            loss_of(by_hand, x, targets).backward()
            nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(parameters(model), parameters(by_hand))
    assert model.state_dict()["fork.balancer.steps"] == by_hand.state_dict()["fork.balancer.steps"] == 12


def test_accumulation_equals_one_large_batch() -> None:
    found = []
    for size, steps in ((32, 1), (8, 4)):
        model = make_model(Equal())
        data = rows()
        data.targets["slant"][::3] = math.nan
        trainer = Trainer(model, max_epochs=2, gradient_accumulation_steps=steps)
        trainer.fit(TensorLoader(data, size))
        found.append(parameters(model))
        assert trainer.state.step == 6
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_it_ends_with_the_best_validation_weights_and_writes_them(tmp_path) -> None:
    model = make_model(MGDA())
    state = Trainer(model, max_epochs=4, learning_rate=0.05, folder=tmp_path).fit(loader(), loader(48, seed=1))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert {"train/slant/loss", "train/slant/weight", "val/slant/rmse", "conflict/digit/slant"} <= set(lines[0])
    best = min(lines, key=lambda line: line["val/relative_loss"])
    assert state.best_value == best["val/relative_loss"]
    losses = evaluate(model, loader(48, seed=1))
    assert losses["slant"].loss == pytest.approx(best["val/slant/loss"], rel=1e-5)
    again = make_model(MGDA(), seed=5)
    load_weights(tmp_path / "checkpoints" / "best", again)
    assert torch.equal(parameters(again), parameters(model))


def test_early_stopping() -> None:
    state = Trainer(make_model(), max_epochs=8, learning_rate=1e-4, patience=2).fit(loader(), loader(48, seed=1))
    stopped = Trainer(make_model(), max_epochs=50, learning_rate=1.0, patience=2).fit(loader(), loader(48, seed=1))
    assert "has not improved for 2 evaluations" in stopped.stopped
    assert stopped.epoch < 50
    assert state.epoch == 8  # each epoch is a little better
    assert state.stopped == ""


def test_auxiliary_tasks_do_not_select() -> None:
    torch.manual_seed(0)
    own = [Regression("slant", auxiliary=True), Regression("width", outputs=2)]
    model = lepton.LeptonModel(trunk(), own)
    data = rows()
    data = TensorData(data.inputs, {name: data.targets[name] for name in ("slant", "width")})
    state = Trainer(model, max_epochs=1).fit(TensorLoader(data, 16), TensorLoader(data, 16))
    row = state.history[0]
    trainer = Trainer(model, max_epochs=1)
    trainer._initial = {"slant": 1.0, "width": 2.0}
    ratio = trainer._validation(evaluate(model, TensorLoader(data, 16)))["val/relative_loss"]
    assert ratio == pytest.approx(evaluate(model, TensorLoader(data, 16))["width"].loss / 2.0)
    assert math.isfinite(row["val/relative_loss"])


def test_regressions_get_their_statistics_from_the_training_targets() -> None:
    model = make_model()
    data = rows()
    Trainer(model, max_epochs=1).fit(TensorLoader(data, 16))
    assert model.task("slant").mean.item() == pytest.approx(data.targets["slant"].mean().item(), rel=1e-4)
    given = lepton.LeptonModel(trunk(), [Regression("slant", mean=5.0, std=2.0)])
    Trainer(given, max_epochs=1).fit(TensorLoader(data.only("slant"), 16))
    assert given.task("slant").mean.item() == 5.0


def test_heads_of_absent_tasks_do_not_drift() -> None:
    model = make_model(Equal())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    step = TrainStep(model, optimizer)
    x, targets = make_batch()
    step([(x, targets)])
    before = {name: parameters(head) for name, head in model.heads.items()}
    state = {name: optimizer.state[model.heads[name].weight]["step"].item() for name in model.heads}
    for missing in ({"digit": targets["digit"]}, {**targets, "slant": torch.full((12,), math.nan)}):
        step([(x, missing)])
    assert torch.equal(before["slant"], parameters(model.heads["slant"]))
    assert optimizer.state[model.heads["slant"].weight]["step"].item() == state["slant"]
    assert not torch.equal(before["digit"], parameters(model.heads["digit"]))


def test_rows_with_inputs_that_are_not_finite_are_dropped_and_counted() -> None:
    data = rows(32)
    clean = make_model(Equal())
    Trainer(clean, max_epochs=1).fit(TensorLoader(data.rows(torch.arange(2, 32)), 30))
    broken = TensorData(data.inputs.clone(), data.targets)
    broken.inputs[0, 0], broken.inputs[1, 2] = math.nan, math.inf
    model = make_model(Equal())
    for name in ("slant", "width"):
        model.task(name).fit_statistics(data.targets[name][2:])
    state = Trainer(model, max_epochs=1).fit(TensorLoader(broken, 32))
    assert state.dropped_rows == 2
    torch.testing.assert_close(parameters(model), parameters(clean))


def test_a_gradient_that_is_not_finite_skips_the_step() -> None:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * math.nan

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trunk()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner[2](Bad.apply(self.inner[:2](x)))

    model = lepton.LeptonModel(Broken(), tasks(), balancer=Lagging(), features=8)
    before = parameters(model)
    step = TrainStep(model, torch.optim.AdamW(model.parameters(), 0.1))
    assert step([make_batch()]).taken is False
    assert torch.equal(before, parameters(model))
    assert model.state_dict()["fork.balancer.steps"] == 0


@pytest.mark.parametrize("balancer", [Equal, MGDA])
def test_each_task_can_be_clipped(balancer: type[Balancer]) -> None:
    model = make_model(balancer(), "mixed")
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    step = TrainStep(model, optimizer, max_grad_norm=None, max_task_grad_norm=1e-3)
    step([make_batch()])
    for head in model.heads.values():
        assert gradients(head).norm() <= 1.001e-3
    norms = model.fork.weights * model.fork.gramian.diagonal().sqrt()
    assert norms.max() == pytest.approx(1e-3, rel=1e-3)


def test_the_second_evaluation_leaves_no_trace() -> None:
    torch.manual_seed(0)
    noisy = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 8))
    model = lepton.LeptonModel(noisy, [Classification("digit", classes=3), Regression("slant")], balancer=FAMO())
    seen: list[Tensor] = []
    original = model.balancer.reobserve
    model.balancer.reobserve = lambda losses, present: (seen.append(losses), original(losses, present))
    step = TrainStep(model, torch.optim.SGD(model.parameters(), 0.05))
    x, targets = make_batch(32)
    batch = (x, {name: targets[name] for name in ("digit", "slant")})
    torch.manual_seed(3)
    first = step([batch])
    state = torch.get_rng_state()
    assert noisy[1].num_batches_tracked == 1
    assert len(seen) == 1
    assert (seen[0] < first.losses).all()  # the same masks, after a step downhill
    torch.manual_seed(3)
    loss_of(model, *batch)
    assert torch.equal(state, torch.get_rng_state())


def test_the_recorded_weight_is_the_factor_on_the_gradient() -> None:
    model = make_model(LogSum())
    state = Trainer(model, max_epochs=1, learning_rate=1e-9).fit(loader(16))
    row = state.history[0]
    for name in model.task_names:
        assert row[f"train/{name}/weight"] == pytest.approx(1 / row[f"train/{name}/loss"], rel=1e-4)
    model = make_model(MGDA())
    row = Trainer(model, max_epochs=1).fit(loader(16)).history[0]
    assert sum(row[f"train/{name}/weight"] for name in model.task_names) == pytest.approx(1, rel=1e-4)


def test_events_come_in_order() -> None:
    class Record(Callback):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_train_begin(self, state) -> None:
            self.seen.append("begin")

        def on_step_end(self, state, result) -> None:
            self.seen.append("step")

        def on_epoch_end(self, state, row) -> None:
            self.seen.append("epoch")

        def on_train_end(self, state) -> None:
            self.seen.append("end")

    record = Record()
    Trainer(make_model(), max_epochs=2, callbacks=[record]).fit(loader(32))
    assert record.seen == ["begin", "step", "step", "epoch", "step", "step", "epoch", "end"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_epochs": 0}, "max_epochs must be a whole number of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be a number, positive"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"mode": "best"}, "mode must be"),
        ({"max_task_grad_norm": 0.0}, "max_task_grad_norm must be a number, positive"),
        ({"gradient_accumulation_steps": 0}, "at least 1"),
        ({"gradient_accumulation_steps": 2.5}, "whole number"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be a number, positive"),
        ({"max_grad_norm": math.nan}, "max_grad_norm must be a number, positive"),
        ({"learning_rate": math.inf}, "learning_rate must be a number, positive and finite"),
        ({"patience": 0}, "patience must be a whole number"),
        ({"max_steps": 2.5}, "max_steps must be a whole number"),
        ({"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)}, "holds no parameter of this model"),
    ],
)
def test_hyperparameters_out_of_range(options, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Trainer(make_model(), **options)


@pytest.mark.parametrize("value", ["fast", ["1"], {}, b"x", 1j, True, print], ids=repr)
def test_options_of_another_type(value) -> None:
    for argument in (
        *("learning_rate", "weight_decay", "max_epochs", "max_steps", "warmup", "max_grad_norm", "max_task_grad_norm"),
        *("gradient_accumulation_steps", "precision", "mode", "patience", "callbacks", "optimizer"),
    ):
        with pytest.raises(ConfigurationError, match=rf": {argument} must be ") as error:
            Trainer(make_model(), **{argument: value})
        assert repr(value) in str(error.value)


@pytest.mark.parametrize("argument", ["learning_rate", "weight_decay", "max_epochs", "warmup", "monitor", "callbacks"])
def test_options_that_cannot_be_none(argument: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Trainer: {argument} must be .*None"):
        Trainer(make_model(), **{argument: None})


@pytest.mark.parametrize(("argument", "value"), [("folder", 5), ("callbacks", [Callback]), ("callbacks", Callback())])
def test_listeners_and_folders_of_another_type(argument: str, value) -> None:
    with pytest.raises(ConfigurationError, match=f"Trainer: {argument} must be"):
        Trainer(make_model(), **{argument: value})


@pytest.mark.parametrize(
    "batch", [torch.ones(4, 6), (torch.ones(4, 6), {}, 1), {"x": 1}, (1, torch.ones(4)), 3], ids=type
)
def test_batches_that_are_no_pairs(batch) -> None:
    for use in (lambda: Trainer(make_model(), max_steps=1).fit([batch]), lambda: evaluate(make_model(), [batch])):
        with pytest.raises(DataError, match=r"must be a pair \(inputs, targets\)") as error:
            use()
        assert type(batch).__name__ in str(error.value)


def test_no_batches_at_all() -> None:
    with pytest.raises(ConfigurationError, match="train must be batches"):
        Trainer(make_model(), max_steps=1).fit(None)
    with pytest.raises(DataError, match="val must be batches, a loader or a list, but it is 5"):
        Trainer(make_model(), max_steps=1).fit(loader(), 5)
    model = make_model()
    with pytest.raises(DataError, match="at least one batch"):
        TrainStep(model, torch.optim.SGD(model.parameters(), 0.1))([])


@pytest.mark.parametrize("other", [torch.ones(4, 3), [[1.0, 2.0]] * 4], ids=["shape", "list"])
def test_targets_that_cannot_be_put_together(other) -> None:
    batches = [(torch.ones(4, 6), {"width": target}) for target in (torch.ones(4, 2), other)]
    with pytest.raises(TargetError, match=r"'width': the targets of all batches must be tensors of one shape"):
        Trainer(make_model(), max_epochs=1).fit(batches)


@pytest.mark.parametrize("steps", ["1", None, 1.5, -1])
def test_a_schedule_of_no_steps(steps) -> None:
    optimizer = torch.optim.SGD(trunk().parameters(), 0.1)
    for argument in ("warmup_steps", "max_steps"):
        with pytest.raises(ConfigurationError, match=f"{argument} must be a whole number"):
            warmup_cosine(optimizer, **{"warmup_steps": 1, "max_steps": 2, argument: steps})


def test_a_monitor_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'val/slant/rmse'"):
        Trainer(make_model(), max_epochs=1, monitor="val/slant/rmsee").fit(loader(), loader())


def test_a_task_without_any_label() -> None:
    data = rows()
    data.targets["slant"].fill_(math.nan)
    model = lepton.LeptonModel(trunk(), [Classification("digit", 3), Regression("slant", mean=0.0, std=1.0)])
    with pytest.raises(DataError, match=r"\['slant'\] had no usable label"):
        Trainer(model, max_epochs=1).fit(TensorLoader(data.only("digit", "slant"), 16))


def test_too_few_batches_for_a_window() -> None:
    with pytest.raises(DataError, match="fewer than one accumulation window"):
        Trainer(make_model(), gradient_accumulation_steps=4).fit(loader(32))


def test_a_damaged_or_missing_checkpoint_is_refused(tmp_path) -> None:
    model = make_model()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_weights(tmp_path, model)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_weights(tmp_path, model)


def test_bfloat16_training_learns() -> None:
    model = make_model(MGDA())
    state = Trainer(model, max_epochs=10, learning_rate=1e-2, precision="bf16-mixed").fit(loader(), loader(48, seed=1))
    assert state.best_value < 0.9
    assert next(model.parameters()).dtype == torch.float32


def test_a_validation_value_that_is_not_a_number_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(make_model(), max_epochs=3)
    values = iter([math.nan, 1.0, 0.5])
    monkeypatch.setattr(trainer, "_validation", lambda results: {"val/relative_loss": next(values)})
    assert trainer.fit(loader(), loader()).best_value == 0.5


def test_what_can_be_iterated_only_once_is_refused() -> None:
    for train, val in ((iter(loader()), None), (loader(), iter(loader()))):
        with pytest.raises(DataError, match="empty after one pass"):
            Trainer(make_model(), max_epochs=1, max_steps=3).fit(train, val)
    with pytest.raises(DataError, match="hold no label"):
        Trainer(make_model(), max_epochs=1).fit(loader(), [])


def test_every_batch_unusable() -> None:
    data = rows(32)
    data.inputs.fill_(math.nan)
    with pytest.raises(DataError, match="gave no step"):
        Trainer(make_model(), max_epochs=1).fit(TensorLoader(data, 16))


def test_statistics_do_not_disturb_the_order_of_the_batches() -> None:
    batches = loader(shuffle=True)
    Trainer(make_model(), max_epochs=1).fit(batches)
    assert batches.epoch == 1


def test_a_frozen_norm_stays_frozen() -> None:
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    model = lepton.LeptonModel(own, tasks(), features=8)
    own[1].eval()
    evaluate(model, loader())
    assert not own[1].training
    assert own[0].training


def test_fit_twice_trains_twice() -> None:
    trainer = Trainer(make_model(), max_epochs=1)
    assert trainer.fit(loader(32)).step == 2
    assert trainer.fit(loader(32)).step == 2


def test_a_task_left_out_is_named_in_the_log_and_its_head_stays(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 1)

        def forward(self, z: Tensor) -> Tensor:
            raw = self.layer(z)
            return raw + raw.sub(raw.detach()).abs().sqrt()  # finite, with a derivative that is not

    torch.manual_seed(0)
    own = [Classification("digit", 3), Regression("slant", head=Broken())]
    model = lepton.LeptonModel(trunk(), own, balancer=MGDA())
    before = parameters(model.heads["slant"]), parameters(model.heads["digit"])
    data = rows(32)
    state = Trainer(model, max_epochs=1, max_steps=2).fit(TensorLoader(data.only("digit", "slant"), 16))
    assert state.skipped_steps == 0
    assert "task 'slant' was left out of 2 steps" in caplog.text
    assert state.history[0]["train/slant/left_out"] >= 2
    assert torch.equal(before[0], parameters(model.heads["slant"]))
    assert not torch.equal(before[1], parameters(model.heads["digit"]))
