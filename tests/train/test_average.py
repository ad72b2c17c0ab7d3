"""Averages of the weights: against a computation by hand, BatchNorm, what is evaluated and kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lepton
from lepton.balance import MGDA, LearnedWeights
from lepton.data import TensorData, TensorLoader
from lepton.errors import ConfigurationError
from lepton.evaluate import evaluate
from lepton.tasks import Classification, Regression
from lepton.train import Callback, Trainer, load_weights
from tests.conftest import Lagging, make_batch, make_model, parameters
from tests.train.conftest import loader


class Weights(Callback):
    """The weights after each step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: list[torch.Tensor] = []

    def on_step_end(self, state, result) -> None:
        self.found.append(parameters(self.model).clone())


def test_swa_is_the_mean_of_the_last_weights() -> None:
    model = make_model()
    weights = Weights(model)
    Trainer(model, average="swa", average_start=0.5, max_epochs=2, callbacks=[weights]).fit(loader())
    torch.testing.assert_close(parameters(model), torch.stack(weights.found[6:]).mean(0))


def test_ema_is_the_recursion() -> None:
    model = make_model()
    weights = Weights(model)
    Trainer(model, average="ema", average_decay=0.3, max_epochs=2, learning_rate=0.1, callbacks=[weights]).fit(loader())
    average = weights.found[0]
    for n, now in enumerate(weights.found[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * now
    torch.testing.assert_close(parameters(model), average)


def test_the_average_is_evaluated_and_the_training_goes_on_from_the_weights() -> None:
    class Evaluated(Callback):
        def __init__(self, model: nn.Module) -> None:
            self.model = model
            self.found: list[torch.Tensor] = []

        def on_evaluate_end(self, state, results) -> None:
            self.found.append(parameters(self.model).clone())

    runs = {}
    for average in ("none", "ema"):
        model = make_model(Lagging())
        weights, evaluated = Weights(model), Evaluated(model)
        options = {"max_epochs": 3, "learning_rate": 0.05, "average_decay": 0.9}
        Trainer(model, average=average, callbacks=[weights, evaluated], **options).fit(loader(), loader(48, seed=1))
        runs[average] = weights.found, evaluated.found
    assert all(torch.equal(a, b) for a, b in zip(runs["none"][0], runs["ema"][0], strict=True))
    assert torch.equal(runs["none"][1][0], runs["none"][0][5])
    assert not torch.equal(runs["ema"][1][0], runs["ema"][0][5])


def test_best_holds_the_average(tmp_path) -> None:
    model = make_model()
    state = Trainer(model, average="ema", max_epochs=2, folder=tmp_path).fit(loader(), loader(48, seed=1))
    again = make_model(seed=4)
    load_weights(tmp_path / "checkpoints" / "best", again)
    assert torch.equal(parameters(again), parameters(model))
    best = min(state.history, key=lambda row: row["val/relative_loss"])
    assert evaluate(again, loader(48, seed=1))["slant"].loss == pytest.approx(best["val/slant/loss"])


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_the_balancer_is_not_averaged(average: str) -> None:
    for balancer, key in ((Lagging(), "fork.balancer.average"), (LearnedWeights(), "fork.balancer.logits")):
        model = make_model(balancer)
        seen: list[torch.Tensor] = []

        class Last(Callback):
            def on_step_end(self, state, result, model=model, seen=seen, key=key) -> None:
                seen.append(model.state_dict()[key].clone())

        Trainer(model, average=average, average_start=0.0, max_epochs=2, learning_rate=0.1, callbacks=[Last()]).fit(
            loader()
        )
        assert torch.equal(model.state_dict()[key], seen[-1])


def normed(dropout: float = 0.0) -> lepton.LeptonModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 8), nn.BatchNorm1d(8)
    )
    return lepton.LeptonModel(trunk, [Classification("digit", 3), Regression("slant")], balancer=MGDA(), features=8)


def data() -> TensorData:
    x, targets = make_batch(96)
    return TensorData(3 * x + 1, {name: targets[name] for name in ("digit", "slant")})


def test_swa_computes_the_statistics_of_batch_norm_anew() -> None:
    model = normed(dropout=0.3)
    batches = TensorLoader(data(), 96)
    Trainer(model, average="swa", average_start=0.0, max_epochs=4, learning_rate=0.1).fit(batches)
    x = data().inputs
    first = model.trunk[0](x)
    torch.testing.assert_close(model.trunk[1].running_mean, first.mean(0))
    torch.testing.assert_close(model.trunk[1].running_var, first.var(0))
    model.eval()
    inside = model.trunk[:5](x)  # without dropout, as in evaluation
    # Not exactly: in training a norm divides by the variance without Bessel's correction.
    torch.testing.assert_close(model.trunk[5].running_mean, inside.mean(0), rtol=0, atol=2e-3)


def test_a_frozen_norm_keeps_its_statistics() -> None:
    model = normed()
    model.trunk[1].train = lambda mode=True: model.trunk[1]  # the usual way to freeze one
    model.trunk[1].training = False
    model.trunk[1].running_mean.fill_(0.5)
    Trainer(model, average="swa", average_start=0.0, max_epochs=2).fit(TensorLoader(data(), 32))
    assert torch.equal(model.trunk[1].running_mean, torch.full((8,), 0.5))
    assert model.trunk[5].running_mean.abs().sum() > 0
    assert model.trunk[5].momentum == 0.1


def test_statistics_do_not_change_the_training() -> None:
    found = []
    for average in ("none", "swa"):
        model = normed(dropout=0.3)
        weights = Weights(model)
        options = {"average_start": 0.0, "max_epochs": 3, "callbacks": [weights]}
        torch.manual_seed(1)
        batches = TensorLoader(data(), 32, shuffle=True)
        Trainer(model, average=average, **options).fit(batches, TensorLoader(data(), 32))
        found.append(torch.stack(weights.found))
    assert torch.equal(found[0], found[1])


def test_ema_averages_the_statistics() -> None:
    model = normed()
    seen: list[torch.Tensor] = []

    class Statistics(Callback):
        def on_step_end(self, state, result) -> None:
            seen.append(model.trunk[1].running_mean.clone())

    Trainer(model, average="ema", average_decay=1e-6, max_epochs=1, callbacks=[Statistics()]).fit(
        TensorLoader(data(), 32)
    )
    torch.testing.assert_close(model.trunk[1].running_mean, seen[-1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"average": "emaa"}, "Did you mean 'ema'"),
        ({"average_decay": 1.0}, "average_decay must be between 0 and 1"),
        ({"average_start": 1.0}, "average_start must be"),
    ],
)
def test_options(options, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Trainer(make_model(), **options)
