"""`torch.export` of the eval path, and a state_dict that goes through safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lepton
from lepton.balance import FAMO, MGDA, Balancer, DynamicWeightAverage, Every, Fixed, PCGrad, Smooth, Uncertainty
from lepton.tasks import Classification, Regression
from tests.conftest import loss_of, make_batch, make_model, parameters

STATEFUL: dict[str, Callable[[], Balancer]] = {
    "smooth": lambda: Smooth(MGDA(), decay=0.5),
    "every": lambda: Every(PCGrad(), n=2),
    "famo": FAMO,
    "dwa": lambda: DynamicWeightAverage(window=1),
    "uncertainty": Uncertainty,
    "fixed": lambda: Fixed([1.0, 2.0, 3.0]),
}


def train(model: nn.Module, seeds: range) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(model, *make_batch(seed=seed)).backward()
        optimizer.step()
    return model


# -- export -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("heads", ["linear", "own", "mixed"])
def test_an_exported_model_gives_the_outputs_of_the_model_for_any_batch_size(heads: str) -> None:
    model = train(make_model(MGDA(), heads), range(2)).eval()
    x, _ = make_batch()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    for rows in (2, 7, 12):
        exported, weights = program.module()(x[:rows])
        outputs, expected_weights = model(x[:rows])
        assert list(exported) == ["digit", "slant", "width"]
        torch.testing.assert_close(exported, outputs)
        torch.testing.assert_close(weights, expected_weights)


def test_an_exported_program_holds_nothing_of_the_fork() -> None:
    model = make_model(MGDA(), "mixed").eval()
    program = torch.export.export(model, (make_batch()[0],))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators
    assert not [name for name in operators if "lepton" in name]


def test_an_exported_model_survives_a_file(tmp_path: Path) -> None:
    model = make_model(MGDA()).eval()
    x, _ = make_batch()
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    outputs, _ = torch.export.load(tmp_path / "model.pt2").module()(x)
    torch.testing.assert_close(outputs, model(x)[0])


def test_eval_gives_the_training_outputs_without_a_graph() -> None:
    model = make_model(MGDA(), "mixed")
    x, _ = make_batch()
    trained, _ = model(x)
    model.eval()
    with torch.no_grad():
        outputs, _ = model(x)
    assert not any(output.requires_grad for output in outputs.values())
    torch.testing.assert_close(outputs, {name: output.detach() for name, output in trained.items()})


# -- state --------------------------------------------------------------------------------------------------------
def through_a_file(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    save_file(state, folder / "model.safetensors")
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", STATEFUL)
def test_training_goes_on_from_safetensors_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    whole = train(make_model(STATEFUL[name](), "mixed"), range(6))
    first = train(make_model(STATEFUL[name](), "mixed"), range(3))
    second = make_model(STATEFUL[name](), "mixed", seed=7)
    assert not torch.equal(parameters(second), parameters(first))
    second.load_state_dict(through_a_file(first.state_dict(), tmp_path))
    train(second, range(3, 6))
    expected = whole.state_dict()
    assert list(expected) == list(second.state_dict())
    for key, value in second.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_what_a_task_has_fitted_is_in_the_file(tmp_path: Path) -> None:
    def build() -> lepton.LeptonModel:
        tasks = [Regression("price"), Classification("kind", classes=2, class_weights=[1.0, 3.0])]
        return lepton.LeptonModel(nn.Linear(4, 8), tasks)

    model, other = build(), build()
    model.tasks["price"].fit_statistics(torch.tensor([100.0, 300.0]))
    other.load_state_dict(through_a_file(model.state_dict(), tmp_path))
    assert other.tasks["price"].mean.item() == 200
    assert other.tasks["price"].fitted
    x = torch.randn(3, 4)
    torch.testing.assert_close(other(x)[0], model(x)[0])
