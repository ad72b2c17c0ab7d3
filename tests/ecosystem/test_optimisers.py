"""A balancer's state advances once for each step of any optimiser, also where few parameters move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lepton.balance import FAMO, MGDA, Smooth
from tests.conftest import loss_of, make_batch, make_model

STEPS = 4
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adamw one by one": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
}


def train(model: Any, optimizer: torch.optim.Optimizer) -> Any:
    for seed in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, *make_batch(seed=seed)).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_state_advances_with_every_optimiser(name: str) -> None:
    model = make_model(Smooth(MGDA()))
    state = train(model, OPTIMISERS[name](model.parameters()))
    assert state["fork.balancer._steps"].tolist() == [STEPS] * 3


@pytest.mark.parametrize("how", ["frozen", "not optimised"])
def test_state_advances_while_only_the_heads_train(how: str) -> None:
    """As when fine-tuning begins: the model is built first, then its trunk is held."""
    model = make_model(FAMO())
    if how == "frozen":
        model.trunk.requires_grad_(False)
    state = train(model, torch.optim.SGD(model.heads.parameters(), 0.01))
    assert state["fork.balancer._steps"].tolist() == [STEPS - 1] * 3  # the first batch has nothing to compare with


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_is_taken_back_with_every_optimiser(fused: bool) -> None:
    model = make_model(Smooth(MGDA()))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    seen = []
    for seed in range(60):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, *make_batch(seed=seed)) * 1e6).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped = scaler.get_scale() < before
        seen.append((skipped, int(model.state_dict()["fork.balancer._steps"][0])))
    taken = 0
    assert seen[0][0]  # also the very first step, before any sign of an optimiser
    assert not seen[-1][0]
    for skipped, steps in seen:
        taken += not skipped
        assert steps == taken


def test_a_compiled_optimiser_is_noticed() -> None:
    model = make_model(Smooth(MGDA()))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for seed in range(3):
        optimizer.zero_grad()
        loss_of(model, *make_batch(seed=seed)).backward()
        step()
    assert model.state_dict()["fork.balancer._steps"].tolist() == [3] * 3


def test_parameters_updated_past_every_counter_count_as_steps() -> None:
    model = make_model(Smooth(MGDA()))
    for seed in range(3):
        model.zero_grad()
        loss_of(model, *make_batch(seed=seed)).backward()
        for parameter in model.parameters():
            parameter.data -= 0.01 * parameter.grad
    assert model.state_dict()["fork.balancer._steps"].tolist() == [3] * 3


def test_another_models_optimiser_is_no_sign() -> None:
    model, other = make_model(Smooth(MGDA())), make_model(Smooth(MGDA()))
    optimizers = [torch.optim.AdamW(one.parameters(), 0.01, fused=True) for one in (model, other)]
    for turn in range(3):
        for place, one in enumerate((model, other)):
            loss_of(one, *make_batch(seed=turn)).backward()
            if turn == 0 or place == 1:
                optimizers[place].step()
    assert model.state_dict()["fork.balancer._steps"].tolist() == [1] * 3
    assert other.state_dict()["fork.balancer._steps"].tolist() == [3] * 3
