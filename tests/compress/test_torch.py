"""Torch models in eight bits, trained for it, and in bfloat16, on real handwritten digits."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn

from lepton.compress import (
    Inference,
    bytes_of,
    measured_together,
    quantisation_aware,
    quantise_onnx,
    quantise_torch,
    to_bf16,
)
from lepton.data import TensorData, TensorLoader
from lepton.errors import ConfigurationError, MissingExtraError
from lepton.nn import LeptonModel
from lepton.tasks import Classification, Regression
from lepton.train import Trainer

pytest.importorskip("torchao")
datasets = pytest.importorskip("sklearn.datasets")


def scans(train: bool) -> TensorData:
    found = datasets.load_digits()
    rows = slice(0, 1200) if train else slice(1200, None)
    pixels = torch.tensor(found.data[rows] / 16, dtype=torch.float32)
    return TensorData(pixels, {"digit": torch.tensor(found.target[rows]), "ink": pixels.mean(1)})


def fitted(model: LeptonModel, epochs: int, rate: float) -> LeptonModel:
    Trainer(model, max_epochs=epochs, learning_rate=rate).fit(TensorLoader(scans(True), 100, shuffle=True, seed=0))
    return model.eval()


@pytest.fixture(scope="module")
def trained() -> LeptonModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    return fitted(LeptonModel(trunk, [Classification("digit", classes=10), Regression("ink")]), 10, 3e-3)


def digits_of(model: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        said = model(pixels)
    return (said if isinstance(model, Inference) else said[0])["digit"].argmax(1)


def accuracy(model: nn.Module) -> float:
    test = scans(False)
    assert isinstance(test.inputs, Tensor)
    return float((digits_of(model, test.inputs) == test.targets["digit"]).float().mean())


def test_eight_bits_compiled(trained: LeptonModel) -> None:
    before = copy.deepcopy(trained.state_dict())
    small = quantise_torch(trained, scans(True).inputs)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert bytes_of(trained) / bytes_of(small) > 3.6
    assert accuracy(trained) > 0.9 and abs(accuracy(small) - accuracy(trained)) < 0.01
    costs = measured_together({"float32": trained, "int8": small}, scans(False).inputs, (256,), seconds=0.2)
    assert costs["int8"].times_faster(costs["float32"], 256) > 1


def test_eager_is_refused(trained: LeptonModel) -> None:
    with pytest.raises(ConfigurationError, match=r"5 times at one row, measured"):
        quantise_torch(trained, torch.zeros(2, 64), compiled=False)
    with pytest.raises(ConfigurationError, match="Conv2d has no linear layers"):
        quantise_torch(nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 4, 4))


def test_bf16(trained: LeptonModel) -> None:
    small = to_bf16(trained)
    assert bytes_of(trained) / bytes_of(small) == pytest.approx(2, rel=1e-3)
    test = scans(False).inputs
    assert isinstance(test, Tensor)
    expected, found = trained(test)[0]["digit"], small(test)["digit"]
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max() and not found.requires_grad
    assert abs(accuracy(small) - accuracy(trained)) < 0.01


# -- trained for it -----------------------------------------------------------------------------------------------
def rounded(x: Tensor, low: Tensor, high: Tensor, least: int, most: int) -> Tensor:
    """The formula by itself: numbers from `low` to `high` on whole numbers and back."""
    scale = (high - low).clamp_min(1e-9) / (most - least)
    zero = (least - torch.round(low / scale)).clamp(least, most)
    return (torch.round(x / scale + zero).clamp(least, most) - zero) * scale


def test_inside_layers_round_and_afterwards_they_do_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16))
    inputs, weight, bias = torch.randn(5, 32), model[0].weight, model[0].bias
    plain = model(inputs)
    with quantisation_aware(model):
        found = model(inputs)
        found.square().sum().backward()
    x = rounded(inputs, inputs.amin(1, keepdim=True).clamp_max(0), inputs.amax(1, keepdim=True).clamp_min(0), -128, 127)
    largest = weight.detach().abs().amax(1, keepdim=True)
    w = (weight.detach() / (largest / 127.5)).round().clamp(-128, 127) * (largest / 127.5)
    apart = (found - x @ w.T - bias).abs().mean()  # a few numbers lie between two steps, and are rounded the other way
    assert apart < 0.05 * (found - plain).abs().mean()
    assert type(model[0]) is nn.Linear and model[0].weight is weight and torch.equal(model(inputs), plain)
    straight = 2 * found.detach().T @ x  # the gradient as if nothing was rounded; a weight that was cut off has none
    same = torch.isclose(weight.grad, straight, rtol=1e-3, atol=1e-2) | (weight.grad == 0)
    assert same.all() and (weight.grad != 0).float().mean() > 0.9


def test_fine_tuned_with_the_ordinary_trainer(trained: LeptonModel) -> None:
    model = copy.deepcopy(trained)
    with quantisation_aware(model):
        assert {type(layer).__name__ for layer in model.trunk if hasattr(layer, "weight")} == {"FakeQuantizedLinear"}
        fitted(model, 1, 1e-4)
    assert {type(layer) for layer in model.trunk} == {nn.Linear, nn.ReLU}
    assert not torch.equal(model.trunk[0].weight, trained.trunk[0].weight)
    assert accuracy(quantise_torch(model, scans(True).inputs)) > accuracy(trained) - 0.01


def test_a_training_that_fails_leaves_plain_layers(trained: LeptonModel) -> None:
    model = copy.deepcopy(trained)
    with pytest.raises(RuntimeError, match="stop"), quantisation_aware(model):
        raise RuntimeError("stop")
    assert {type(layer) for layer in model.trunk} == {nn.Linear, nn.ReLU}


@pytest.mark.parametrize("module", ["torchao", "onnx"])
def test_without_the_extra(module: str, trained: LeptonModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs '{module}'.*Install it with:.*compress"):
        if module == "onnx":
            quantise_onnx("a.onnx", "b.onnx")
        else:
            quantise_torch(trained, scans(True).inputs)
