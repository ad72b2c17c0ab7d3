"""Heads that read inputs of the batch and outputs of tasks before them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from lepton.balance import UPGrad
from lepton.errors import ConfigurationError, DataError, ForkError
from lepton.nn import LeptonModel, MultiTaskLoss, ReadingHead
from lepton.tasks import Classification, Regression


class Scaled(ReadingHead):
    """Features and another task's output, times an input."""

    inputs = ("amount",)
    outputs = ("kind",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8 + 3, 1)

    def forward(self, features: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        side = torch.cat([features, context["kind"]], -1)
        found: Tensor = self.layer(side) * context["amount"][:, None]
        return found


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def model_of(**options: object) -> LeptonModel:
    tasks = [Classification("kind", classes=3), Regression("price", head=Scaled())]
    return LeptonModel(Trunk(), tasks, features=8, **options)


def batch() -> dict[str, Tensor]:
    return {"x": torch.randn(5, 4), "amount": torch.rand(5)}


def test_the_head_gets_what_it_names_and_the_trunk_the_rest() -> None:
    model, inputs = model_of(), batch()
    outputs, _ = model(inputs)
    z = model.trunk(inputs["x"])
    head = model.heads["price"]
    side = torch.cat([z, model.heads["kind"](z)], -1)
    assert torch.allclose(outputs["price"], (head.layer(side) * inputs["amount"][:, None]).squeeze(-1))


@pytest.mark.parametrize("balanced", [False, True])
def test_its_loss_does_not_reach_the_task_that_it_reads(balanced: bool) -> None:
    model = model_of(balancer=UPGrad()) if balanced else model_of()
    outputs, weights = model(batch())
    targets = {"price": torch.randn(5)}
    MultiTaskLoss(model)(outputs, targets, weights).backward()
    gradient = model.heads["kind"].weight.grad
    assert gradient is None or not gradient.any()
    assert model.trunk.layer.weight.grad.any()


def test_an_input_that_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"Scaled reads the input 'amount', but the batch has \['x'\]"):
        model_of()({"x": torch.ones(5, 4)})
    with pytest.raises(DataError, match="no names"):
        model_of()(torch.ones(5, 4))


def test_tasks_that_come_later_cannot_be_read() -> None:
    tasks = [Regression("price", head=Scaled()), Classification("kind", classes=3)]
    with pytest.raises(ConfigurationError, match="'kind', which is not among the tasks before"):
        LeptonModel(Trunk(), tasks, features=8)


def test_a_failure_names_the_head_and_what_it_read() -> None:
    model = model_of()
    with pytest.raises(ForkError, match=r"the head of 'price', a Scaled, failed.*\['amount'\]"):
        model({"x": torch.ones(5, 4), "amount": torch.ones(4)})


def test_a_head_without_forward_says_so() -> None:
    model = LeptonModel(Trunk(), [Regression("price", head=ReadingHead())])
    with pytest.raises(ForkError, match="write forward"):
        model(torch.ones(2, 4))
