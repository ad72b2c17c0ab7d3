"""A model with more tasks: what was learned is still there, bit for bit where nothing else may learn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lepton import LeptonModel, Trainer
from lepton.balance import UPGrad
from lepton.errors import ConfigurationError
from lepton.nn import AdaptedTrunk, ConvTrunk
from lepton.tasks import Classification, Regression, Segmentation
from lepton.transfer import extended
from tests.transfer.conftest import OLD, make_model, new_rows, old_rows


@pytest.mark.parametrize("adapter", ["lora", "adapter", "head"])
def test_old_outputs_stay_the_same_bit_for_bit_in_the_trainer(adapter: Any) -> None:
    model = make_model(new=False).float().eval()
    x = torch.randn(65, 6)
    before, state = model(x)[0], copy.deepcopy(model.state_dict())
    more = extended(model, [Classification("new", classes=2)], adapter=adapter, size=3, balancer=UPGrad())
    batches = [(inputs.float(), targets) for inputs, targets in (new_rows(32) for _ in range(8))]
    found = Trainer(more, max_epochs=30, learning_rate=0.02).fit(batches, batches)
    assert found.history[-1]["val/new/accuracy"] > 0.85
    after = more.eval()(x)[0]
    assert list(after) == [*OLD, "new"]
    for name in OLD:
        assert torch.equal(after[name], before[name]), name
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_without_an_adapter_everything_learns_from_what_was_there() -> None:
    model = make_model(new=False)
    x, _ = old_rows()
    more = extended(model, [Classification("new", classes=2)])
    assert all(p.requires_grad for p in more.parameters())
    for name in OLD:
        torch.testing.assert_close(more.eval()(x)[0][name], model.eval()(x)[0][name])
    assert more.task("size").std == model.task("size").std and more.task("size") is not model.task("size")
    assert not {id(p) for p in more.parameters()} & {id(p) for p in model.parameters()}


def test_one_task_after_the_other() -> None:
    model = make_model(new=False).eval()
    x = torch.randn(9, 6, dtype=torch.float64)
    for place, adapter in enumerate(["lora", "head", "adapter", "lora"]):
        before = model(x)[0]
        model = extended(model, [Classification(f"new{place}", classes=2)], adapter=adapter).eval()  # type: ignore[arg-type]
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert f"new{place}" in name
                nn.init.normal_(p)
        after = model(x)[0]
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert isinstance(model.trunk, AdaptedTrunk)
    assert model.trunk.adapters == {**dict.fromkeys(OLD), "new0": "new0", "new1": None, "new2": "new2", "new3": "new3"}


def test_many_heads_that_are_one_parameter() -> None:
    tasks = [Regression(f"t{k}") for k in range(70)]
    model = LeptonModel(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), tasks).eval()
    x = torch.randn(5, 4)
    before = model(x)[0]
    more = extended(model, [Regression("new")], adapter="lora").eval()
    nn.init.normal_(more.trunk.trunk[0].adapters["new"].B)
    after = more(x)[0]
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_own_heads_maps_and_shared_parts() -> None:
    trunk = ConvTrunk(1, width=8, stages=2, blocks=1)
    head = nn.Sequential(nn.Conv2d(16, 2, 1), nn.Upsample(scale_factor=4))
    model = LeptonModel(
        trunk,
        [Segmentation("mask", classes=2, head=head), Classification("digit", classes=3)],
        shared=trunk.stages,
        gradients="parameters",
        balancer=UPGrad(),
    ).eval()
    x = torch.rand(3, 1, 8, 8)
    before = model(x)[0]
    more = extended(model, [Classification("new", classes=2)], adapter="lora").eval()
    after = more(x)[0]
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert more.fork.shared is more.trunk.trunk.stages and more.fork.gradients == "parameters"
    assert more.heads["mask"] is not head


def test_what_is_refused() -> None:
    model = make_model(new=False)
    with pytest.raises(ConfigurationError, match=r"already has tasks \['size'\]"):
        extended(model, [Regression("size")])
    with pytest.raises(ConfigurationError, match="adapter must be one of"):
        extended(model, [Regression("new")], adapter="lora2")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no layer '7'"):
        extended(model, [Regression("new")], adapter="lora", targets=["7"])
