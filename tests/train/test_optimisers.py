"""Optimisers by name: what decays, own learning rates, options that do not fit."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

import lepton
from lepton.balance import Equal, LearnedWeights
from lepton.errors import ConfigurationError
from lepton.tasks import Regression
from lepton.train import OptimizerName, Trainer, make_optimizer
from tests.conftest import make_model, parameters
from tests.train.conftest import loader


def options_of(optimizer: torch.optim.Optimizer, model: nn.Module, option: str) -> dict[str, float]:
    found = {id(p): group[option] for group in optimizer.param_groups for p in group["params"]}
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_optimiser_trains(name: str) -> None:
    model = make_model(Equal(), "mixed")
    state = Trainer(model, optimizer=name, max_epochs=4, learning_rate=1e-2).fit(loader(), loader(48, seed=1))
    assert state.history[-1]["train/digit/loss"] < state.history[0]["train/digit/loss"]
    assert state.skipped_steps == 0


def test_a_named_optimiser_is_torchs_own() -> None:
    model, other = make_model(), make_model()
    mine = make_optimizer(model, "nadam", learning_rate=0.02, weight_decay=0.0, betas=(0.8, 0.9))
    theirs = torch.optim.NAdam(other.parameters(), 0.02, betas=(0.8, 0.9))
    for optimizer, one in ((mine, model), (theirs, other)):
        for p in one.parameters():
            p.grad = p.detach().sin()
        optimizer.step()
    assert torch.equal(parameters(model), parameters(other))


def test_only_weights_of_the_network_decay() -> None:
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.LayerNorm([2, 2]), nn.Flatten(), nn.Linear(4, 3))
    model = lepton.LeptonModel(trunk, [Regression("a"), Regression("b")], balancer=LearnedWeights(), features=3)
    decay = options_of(make_optimizer(model, weight_decay=0.1), model, "weight_decay")
    assert {name for name, value in decay.items() if value} == {
        "trunk.0.weight",
        "trunk.4.weight",
        "heads.a.weight",
        "heads.b.weight",
    }
    assert decay["fork.balancer.logits"] == 0
    assert decay["trunk.2.weight"] == 0  # of a normalisation, although it has two dimensions


def test_the_longest_prefix_gives_the_learning_rate() -> None:
    model = make_model(heads="linear")
    rates = {"trunk": 1e-4, "trunk.2": 1e-5, "heads.slant": 0.5}
    found = options_of(make_optimizer(model, learning_rate=0.1, learning_rates=rates), model, "lr")
    assert found["trunk.0.weight"] == 1e-4
    assert found["trunk.2.bias"] == 1e-5
    assert found["heads.slant.weight"] == 0.5
    assert found["heads.digit.weight"] == 0.1


def test_the_schedule_keeps_the_ratio_of_the_learning_rates() -> None:
    model = make_model()
    trainer = Trainer(
        model, learning_rate=0.1, learning_rates={"trunk": 0.01}, max_steps=3, schedule="linear", warmup=1.0
    )
    trainer.fit(loader())
    found = options_of(trainer.optimizer, model, "lr")
    assert 0 < found["trunk.0.weight"] == pytest.approx(found["heads.digit.weight"] / 10)


def test_a_prefix_ends_at_a_dot() -> None:
    with pytest.raises(ConfigurationError, match=r"'trun', but no trainable parameter .* Did you mean 'trunk'"):
        make_optimizer(make_model(), learning_rates={"trun": 0.1})


def test_frozen_parameters_are_left_alone() -> None:
    model = make_model()
    model.trunk.requires_grad_(False)
    assert not any(name.startswith("trunk") for name in options_of(make_optimizer(model), model, "lr"))
    with pytest.raises(ConfigurationError, match="no trainable parameter begins with it"):
        make_optimizer(model, learning_rates={"trunk": 0.1})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": "adamW"}, "Did you mean 'adamw'"),
        ({"optimizer": "lbfgs"}, "must be one of"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum must be None with optimizer='adam'"),
        ({"optimizer": "sgd", "betas": (0.9, 0.99)}, "betas must be None with optimizer='sgd'"),
        ({"optimizer": "adam", "betas": (0.9, 1.5)}, "refuses its options"),
        ({"learning_rates": {"trunk": -1.0}}, "must be positive and finite"),
    ],
)
def test_options_that_do_not_fit(options, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Trainer(make_model(), **options)


def test_options_beside_an_object() -> None:
    model = make_model()
    own = torch.optim.SGD(model.parameters(), 0.1)
    assert Trainer(model, optimizer=own).optimizer is own
    with pytest.raises(ConfigurationError, match="set it in its own groups"):
        Trainer(model, optimizer=own, learning_rates={"trunk": 0.1})


def test_heads_that_are_stored_together() -> None:
    model = lepton.LeptonModel(nn.Linear(2, 4), [Regression(f"t{place}") for place in range(64)])
    with pytest.raises(ConfigurationError, match="one parameter: 'stacked_heads'"):
        make_optimizer(model, learning_rates={"heads.t3": 0.1})
    optimizer = make_optimizer(model, learning_rates={"stacked_heads": 0.1})
    assert options_of(optimizer, model, "lr")["stacked_heads.weight"] == 0.1
