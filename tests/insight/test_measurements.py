"""Measurements before a training: equal to a plain computation, and without a trace."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import FAMO, MGDA, Balancer, CAGrad, Equal
from lepton.insight import (
    RangeTest,
    advise_learning_rate,
    advise_scale,
    advise_weights,
    bins_of,
    bootstrap,
    certain_values,
    constant_output,
    explained_share,
    learning_rate_range,
    measure_gradients,
    ranks,
    read_range,
    score_outputs,
)
from lepton.tasks import Classification, MultiLabel, Regression
from lepton.train import TrainStep

Batch = tuple[Tensor, dict[str, Tensor]]


def model_of(balancer: Balancer, view: str = "fork_layer", scale: float = 1.0) -> lepton.LeptonModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6))
    tasks = [Classification("kind", classes=3, loss_weight=2.0), Regression("size", std=1 / scale)]
    return lepton.LeptonModel(trunk, tasks, balancer=balancer, gradients=view)


def batches(n: int = 3) -> list[Batch]:
    random = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(16, 5, generator=random),
            {
                "kind": torch.randint(3, (16,), generator=random),
                "size": torch.randn(16, generator=random),
            },
        )
        for _ in range(n)
    ]


def plain_gradients(model: lepton.LeptonModel, batch: Batch, of: str) -> dict[str, Tensor]:
    """Each task's gradient by a backward of its own, with no fork."""
    found = {}
    for name in model.task_names:
        with lepton.no_balancing():
            features = model.trunk(batch[0])
            output = model.task(name).finish(model.heads[name](features))
        total, count = model.task(name).total_loss(output, batch[1][name])
        if of == "parameters":
            parts = torch.autograd.grad(total / count, list(model.trunk.parameters()))
            found[name] = torch.cat([part.flatten() for part in parts])
        else:
            (cotangent,) = torch.autograd.grad(total / count, features)
            found[name] = (features.detach().T @ cotangent).flatten()
    return found


@pytest.mark.parametrize("balancer", [Equal, MGDA, FAMO])
@pytest.mark.parametrize("view", ["parameters", "fork_layer"])
def test_losses_and_gradients_are_those_of_plain_backwards(balancer: Any, view: str) -> None:
    model = model_of(balancer())
    record = measure_gradients(model, batches(), gradients=view)
    for number, batch in enumerate(batches()):
        plain = plain_gradients(model, batch, view)
        stacked = torch.stack(list(plain.values()))
        torch.testing.assert_close(record.gramians[number], stacked @ stacked.T, rtol=1e-4, atol=1e-6)
        cosine = torch.cosine_similarity(stacked[0], stacked[1], 0)
        torch.testing.assert_close(record.cosines[number, 0, 1], cosine, rtol=1e-4, atol=1e-5)
    outputs, _ = model.eval()(batches()[0][0])
    total, count = model.task("kind").total_loss(outputs["kind"], batches()[0][1]["kind"])
    torch.testing.assert_close(record.losses[0, 0], (total / count).detach())


@pytest.mark.parametrize("balancer", [CAGrad, FAMO])
def test_measuring_leaves_no_trace(balancer: Any) -> None:
    model = model_of(balancer()).eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measure_gradients(model, batches())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.state_dict().keys() == before.keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert model.fork.gramian is None and model.fork.max_task_grad_norm is None
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_task_without_labels_is_not_counted() -> None:
    (inputs, targets), other = batches(2)
    missing = (inputs, {**targets, "size": torch.full((16,), torch.nan)})
    record = measure_gradients(model_of(Equal()), [missing, other])
    assert record.loss["kind"].n == 2 and record.loss["size"].n == 1
    assert record.cosine["kind", "size"].n == 1


def test_losses_of_different_scale_are_advised_upon_and_equal_ones_are_not() -> None:
    far = measure_gradients(model_of(Equal(), scale=30.0), batches())
    assert [item.confidence for item in advise_scale(far) if item.about == "losses"] == ["high"]
    near = measure_gradients(model_of(Equal()), batches())
    assert not [item for item in advise_scale(near) if item.about == "losses"]


def test_a_task_that_the_balancer_nearly_leaves_out_is_named() -> None:
    """MGDA gives a loss that is 30 times larger nearly no weight; equal weights leave nobody out."""
    starved = [item.words for item in advise_weights(measure_gradients(model_of(MGDA(), scale=30.0), batches()))]
    assert len(starved) == 1 and "'size'" in starved[0]
    assert not list(advise_weights(measure_gradients(model_of(Equal(), scale=30.0), batches())))


# -- learning rate ------------------------------------------------------------------------------------------------
def test_the_range_test_finds_the_order_of_magnitude_of_a_quadratic() -> None:
    """Gradient descent on a regression with unit inputs diverges beyond 2 / curvature."""
    torch.manual_seed(0)
    trunk = nn.Linear(8, 8)
    model = lepton.LeptonModel(trunk, [Regression("size", mean=0.0, std=1.0)])
    inputs = torch.randn(64, 8)
    batch = (inputs, {"size": inputs @ torch.randn(8)})
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1.0), max_grad_norm=None)
    found = learning_rate_range(step, [[batch]], low=1e-5, high=10.0, steps=60)
    assert found.low is not None and found.high is not None
    assert 1e-3 < found.high < 1.0
    assert found.diverged is not None and found.high < found.diverged


def test_the_range_test_is_not_led_by_the_easiest_batch() -> None:
    """One window among twenty has labels without noise: its loss is small, whatever the learning rate is."""
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = lepton.LeptonModel(nn.Linear(8, 8), [Regression("size", mean=0.0, std=1.0)])
        weights, windows = torch.randn(8), []
        for number in range(20):
            inputs = torch.randn(8, 8)
            windows.append([(inputs, {"size": inputs @ weights + (3.0 if number != seed else 0.0) * torch.randn(8)})])
        step = TrainStep(model, torch.optim.AdamW(model.parameters(), lr=1.0))
        found.append(learning_rate_range(step, windows).high)
    assert all(high is not None and 1e-4 < high < 1.0 for high in found)


@pytest.mark.parametrize(("rate", "near"), [(1e-4, True), (5e-3, True), (0.5, False), (1e-7, False)])
def test_a_learning_rate_is_called_far_beyond_an_order_of_magnitude_only(rate: float, near: bool) -> None:
    test = RangeTest((1e-6, 1.0), (1.0, 0.5), 1e-4, 1e-3, None)
    (advice,) = advise_learning_rate(test, rate)
    assert ("is near enough" in advice.words) is near


def test_a_loss_that_never_falls_speaks_for_nothing() -> None:
    test = read_range([1e-4, 1e-3, 1e-2], torch.ones(3, 2))
    assert test.low is None
    (advice,) = advise_learning_rate(test, 1e-3)
    assert "for none" in advice.words


# -- dependence ---------------------------------------------------------------------------------------------------
def test_explained_share_is_one_for_a_function_and_nothing_for_noise() -> None:
    random = np.random.default_rng(0)
    bins = random.integers(0, 10, 2000)
    assert explained_share(bins, (bins % 3).astype(float)) > 0.999
    assert abs(explained_share(bins, random.normal(size=2000))) < 0.05
    assert explained_share(np.arange(2000), random.normal(size=2000)) == pytest.approx(0, abs=1e-9)


def test_explained_share_approaches_r2() -> None:
    random = np.random.default_rng(0)
    bins = random.integers(0, 4, 50_000)
    noisy = bins + random.normal(size=50_000)
    assert explained_share(bins, noisy) == pytest.approx(1 - 1 / noisy.var(), abs=0.01)


def test_ranks_and_bins_do_not_depend_on_the_scale() -> None:
    numbers = np.random.default_rng(0).normal(size=500)
    assert np.array_equal(ranks(numbers), ranks(np.exp(5 * numbers)))
    assert np.array_equal(bins_of(numbers), bins_of(1e6 * numbers - 3))
    assert ranks(np.array([2.0, 1.0, 2.0])).tolist() == [0.75, 0.0, 0.75]


def test_certain_values_need_rows_and_surprise() -> None:
    bins = np.repeat([0, 1], 200)
    classes = np.eye(2)[np.concatenate([np.zeros(200, int), np.arange(200) % 2])]
    (found,) = [value for value in certain_values(bins, classes) if value.always]
    assert (found.bin, found.label) == (0, 0)
    assert not certain_values(bins[::4], classes[::4])


# -- resampling ---------------------------------------------------------------------------------------------------
def test_the_bootstrap_of_a_mean_has_the_width_of_its_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    found = bootstrap(lambda rows: {"mean": float(values[rows].mean())}, 400, resamples=400)["mean"]
    expected = 2 * 1.96 * float(values.std()) / 20
    assert found.high - found.low == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(
    ("task", "target", "chance"),
    [
        (Classification("a", classes=3), torch.tensor([0, 0, 0, 1, 2, -100]), 0.6),
        (MultiLabel("b", labels=2), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, torch.nan]]), 0.5),
        (Regression("c"), torch.tensor([1.0, 3.0, torch.nan]), 1.0),
    ],
)
def test_the_constant_predictor_reaches_chance(task: Any, target: Tensor, chance: float) -> None:
    output = constant_output(task, target, len(target))
    assert output is not None
    assert score_outputs(task, output, target)[task.primary_metric] == pytest.approx(chance)
