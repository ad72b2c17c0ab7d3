"""Views against the exact one: on trunks where the answer is known, by a plain computation, and without a trace."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import DBMTL, FAMO, IMTLG, MGDA, Balancer, Every, GradDrop, GradNorm, Log, Smooth, UPGrad
from lepton.errors import ConfigurationError, DataError, TargetError
from lepton.insight import Estimate, Fidelity, Interval, Plot, ViewFidelity, fidelity, fidelity_blocks
from lepton.insight.views._peak import PeakMemory
from lepton.insight.views._tails import trunk_layers
from lepton.tasks import Classification, Regression
from tests.insight.test_measurements import plain_gradients

Batch = tuple[Tensor, dict[str, Tensor]]


def model_of(trunk: nn.Module, balancer: Balancer | None = None, **more: Any) -> lepton.LeptonModel:
    tasks = [Regression("a", mean=0.0, std=1.0), Regression("b", mean=0.0, std=1.0, priority=2.0)]
    return lepton.LeptonModel(trunk, tasks, balancer=balancer or MGDA(), **more)


def batches(n: int = 3, rows: int = 32, columns: int = 4) -> list[Batch]:
    draws = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws)

    return [(numbers(rows, columns), {"a": numbers(rows) + 1, "b": numbers(rows) - 1}) for _ in range(n)]


def deep_trunk(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), *last)


# -- where the answer is known ------------------------------------------------------------------------------------
def test_a_rotation_as_trunk_makes_the_fork_layer_exact_and_the_features_not() -> None:
    """z = W x with W^T W = 1, so that z^T c and the gradient x^T c have the same products."""
    trunk = nn.Linear(4, 4, bias=False)
    torch.manual_seed(0)
    nn.init.orthogonal_(trunk.weight)
    found = fidelity(model_of(trunk), batches())
    view = found["fork_layer"]
    assert max(view.weights.mean, view.cosines.mean, view.gramian.mean) < 1e-5
    assert view.direction.mean == pytest.approx(1, abs=1e-6)
    assert found["features"].cosines.mean > 0.05
    assert found.recommendation is not None and found.recommendation.view == "fork_layer"
    assert found.recommendation.words.startswith("keep fork_layer: its weights are 0% apart")


def test_an_identity_as_last_layer_is_the_layer_that_the_fork_imagines() -> None:
    last = nn.Linear(4, 4, bias=False)
    nn.init.eye_(last.weight)
    found = fidelity(model_of(deep_trunk(last)), batches())
    view, tail = found["fork_layer"], found["parameters of the last layer"]
    assert tail.shared == ("4",) and found["parameters of the last 2 layers"].shared == ("2", "4")
    for name in ("weights", "direction", "cosines", "gramian"):
        assert getattr(view, name).mean == pytest.approx(getattr(tail, name).mean, abs=1e-5)
    assert view.gramian.mean > 1e-3


class Dimmed(nn.Module):
    """Two halves of the features, of which the trunk's parameters move the second a hundredth as much."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4, bias=False)
        self.register_buffer("scale", torch.tensor([1.0, 1.0, 0.01, 0.01]))

    def forward(self, inputs: Tensor) -> Tensor:
        moved: Tensor = self.layer(inputs) * self.scale
        return moved


def dimmed_model(**more: Any) -> lepton.LeptonModel:
    """The first task reads the first half, the second task the other: their gradients are orthogonal in every view."""
    model = model_of(Dimmed(), features=4, **more)
    with torch.no_grad():
        model.heads["a"].weight.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        model.heads["b"].weight.copy_(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    return model


def test_where_the_fork_cannot_see_how_far_the_trunk_reaches_the_exact_view_is_recommended() -> None:
    """MGDA gives orthogonal gradients weights of 1 / |g|^2: nearly all to the task that moves the trunk little."""
    found = fidelity(dimmed_model(), batches())
    assert found["fork_layer"].cosines.mean < 1e-4
    assert found["fork_layer"].weights.mean > 0.3 and found["features"].weights.mean > 0.3
    assert found["fork_layer"].gramian.mean > 0.5
    assert found.recommendation is not None and found.recommendation.view == "parameters"
    assert found.recommendation.words.startswith("use parameters: the weights of fork_layer are ")
    kept = fidelity(dimmed_model(gradients="parameters"), batches()).recommendation
    assert kept is not None and kept.words.startswith("keep parameters")


def disjoint() -> list[Batch]:
    found = batches(rows=64)
    for _, targets in found:
        targets["a"][:32] = targets["b"][32:] = torch.nan
    return found


@pytest.mark.parametrize("chosen", ["fork_layer", "features"])
def test_features_are_refused_for_disjoint_rows_and_the_rest_is_measured(chosen: str) -> None:
    found = fidelity(model_of(deep_trunk(), gradients=chosen), disjoint())
    refused = found["features"]
    assert "share no row" in refused.refused and math.isnan(refused.weights.mean) and refused.memory is None
    assert found["fork_layer"].weights.n == 3 and found["parameters"].time.value > 0
    assert found.recommendation is not None and found.recommendation.view != "features"
    assert ("features, the view in use, cannot be used" in found.recommendation.words) == (chosen == "features")


# -- against a plain computation ----------------------------------------------------------------------------------
def test_distances_are_those_of_a_plain_computation() -> None:
    model = model_of(deep_trunk(), IMTLG())
    found = fidelity(model, batches(2))
    weights, cosines, directions = [], [], []
    for batch in batches(2):
        gradients = [torch.stack([*plain_gradients(model, batch, of).values()]) for of in ("fork", "parameters")]
        gramians = [rows @ rows.T for rows in gradients]
        view, exact = (IMTLG().weights(gramian) for gramian in gramians)
        weights.append(float((view - exact).abs().sum()) / 2)
        apart = [torch.cosine_similarity(rows[0], rows[1], 0) for rows in gradients]
        cosines.append(float((apart[0] - apart[1]).abs()))
        factors = torch.tensor([1.0, 2.0])
        updates = [(factors * each) @ gradients[1] for each in (view, exact)]
        directions.append(float(torch.cosine_similarity(*updates, 0)))
    view = found["fork_layer"]
    assert view.weights.mean == pytest.approx(np.mean(weights), abs=1e-4) and view.weights.mean > 1e-3
    assert view.cosines.mean == pytest.approx(np.mean(cosines), abs=1e-4)
    assert view.direction.mean == pytest.approx(np.mean(directions), abs=1e-4)


def test_every_view_sees_the_same_dropout() -> None:
    trunk = deep_trunk(nn.Dropout(0.5))
    found = fidelity(model_of(trunk), batches(), shared={"the whole": trunk})
    assert found["parameters of the whole"].weights.mean == 0
    assert [view.name for view in found.views] == ["fork_layer", "features", "parameters of the whole", "parameters"]


def test_equal_weights_are_the_yardstick() -> None:
    found = fidelity(dimmed_model(), batches())
    assert found.equal.mean == pytest.approx(found["fork_layer"].weights.mean, abs=0.2)
    assert 0 <= found.spread.mean < 0.1


def test_weights_that_a_method_puts_into_the_loss_count_as_its_weights() -> None:
    """GradNorm leaves the fork alone, and moves its weights of the losses by what the view says of the norms."""
    found = fidelity(dimmed_model(), batches() * 3, balancer=GradNorm(learning_rate=0.5))
    assert found["fork_layer"].weights.mean > 0.005 and found.equal.mean > 0.01
    assert found["fork_layer"].gramian.mean > 0.5


def test_a_part_that_the_model_itself_compares_is_the_view_in_use() -> None:
    trunk = deep_trunk()
    found = fidelity(model_of(trunk, gradients="parameters", shared=trunk[2:]), batches())
    assert found.chosen == "parameters of shared="
    assert found[found.chosen].weights == found["parameters of the last layer"].weights
    assert found["parameters"].weights.mean == 0 and found[found.chosen].gramian.mean > 1e-3


def test_a_batch_without_labels_of_a_task_counts_for_the_others() -> None:
    first, second, third = batches()
    del first[1]["a"]
    found = fidelity(model_of(deep_trunk()), [first, second, third])
    assert found["fork_layer"].weights.n == 3 and found["fork_layer"].cosines.n == 2


# -- without a trace ----------------------------------------------------------------------------------------------
def trained(balancer: Balancer) -> tuple[lepton.LeptonModel, torch.optim.Optimizer]:
    torch.manual_seed(3)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 4))
    model = model_of(trunk, balancer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step(model, optimizer, batches()[0])
    return model, optimizer


def step(model: lepton.LeptonModel, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad()
    outputs, task_weights = model(batch[0])
    lepton.MultiTaskLoss(model)(outputs, batch[1], task_weights).backward()
    optimizer.step()


def trace_of(model: lepton.LeptonModel) -> dict[str, Tensor]:
    found = {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
    found |= {f"parameter {name}": parameter.detach() for name, parameter in model.named_parameters()}
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    found |= {f"gradient {name}": gradient for name, gradient in gradients if gradient is not None}
    assert model.fork.weights is not None and model.fork.gramian is not None
    found |= {"weights": model.fork.weights, "gramian": model.fork.gramian, "torch": torch.get_rng_state()}
    return copy.deepcopy(found)


@pytest.mark.parametrize("make", [lambda: Smooth(MGDA(), decay=0.5), lambda: Log(UPGrad()), lambda: Every(MGDA(), 3)])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_bit_for_bit(make: Any, training: bool) -> None:
    model, optimizer = trained(make())
    model.train(training)
    before, python, numbers = trace_of(model), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    fidelity(model, batches())
    after = trace_of(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert random.getstate() == python and np.random.get_state()[1].tolist() == numbers  # type: ignore[index,union-attr]
    assert model.training is training and model.fork.gradients == "fork_layer"
    assert not [module for module in model.modules() if module._forward_hooks or module._backward_hooks]
    assert not [p for p in model.parameters() if p._post_accumulate_grad_hooks]  # type: ignore[attr-defined]

    twin, other = trained(make())
    for each, its in ((model.train(), optimizer), (twin, other)):
        torch.manual_seed(9)
        step(each, its, batches()[1])
    after, expected = trace_of(model), trace_of(twin)
    assert all(torch.equal(value, expected[name]) for name, value in after.items())


def test_batches_are_drawn_as_without_it() -> None:
    def drawn() -> Iterator[Batch]:
        for _ in range(3):
            inputs = torch.randn(32, 4)
            seen.append(inputs)
            yield inputs, {"a": inputs[:, 0], "b": inputs[:, 1]}

    seen: list[Tensor] = []
    model, state = model_of(deep_trunk(nn.Dropout(0.5))), torch.get_rng_state()
    fidelity(model, drawn())
    once, seen = seen, []
    torch.set_rng_state(state)
    list(drawn())
    assert all(torch.equal(a, b) for a, b in zip(once, seen, strict=True))


def test_a_named_balancer_is_copied_and_need_not_fit_the_models_own() -> None:
    model, named = model_of(deep_trunk(), FAMO()), Smooth(MGDA(), decay=0.5)
    found = fidelity(model, batches(), balancer=named)
    assert found.balancer == "Smooth" and found["features"].weights.n == 3
    assert named.n_tasks is None and type(model.balancer).__name__ == "FAMO"


def test_layers_that_are_held_in_eval_mode_stay_there() -> None:
    """A frozen BatchNorm is part of the network that is trained."""
    modes: list[bool] = []
    model, _ = trained(MGDA())
    norm = model.trunk[1]  # type: ignore[index]
    norm.eval()
    norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    fidelity(model, batches(2))
    assert modes and not any(modes)


# -- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("balancer", [FAMO, GradDrop])
def test_a_method_that_no_view_matters_for_is_refused(balancer: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"does not compare the tasks' gradients.*balancer="):
        fidelity(model_of(deep_trunk(), balancer()), batches())


def test_one_task_and_no_batch_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="has one"):
        fidelity(lepton.LeptonModel(deep_trunk(), [Classification("a", classes=2)], balancer=MGDA()), batches())
    with pytest.raises(ConfigurationError, match="needs a LeptonModel, but got Linear"):
        fidelity(nn.Linear(2, 2), batches())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no batches"):
        fidelity(model_of(deep_trunk()), [])


def test_a_fault_of_the_batches_is_no_fault_of_a_view() -> None:
    (inputs, targets), *_ = batches()
    with pytest.raises(TargetError, match="'c', which is no task"):
        fidelity(model_of(deep_trunk()), [(inputs, {**targets, "c": targets["a"]})])


def test_a_frozen_trunk_leaves_nothing_to_compare() -> None:
    found = fidelity(model_of(deep_trunk().requires_grad_(False)), batches(2))
    assert "no parameter of the trunk" in found["parameters"].refused and found.recommendation is None


def test_a_method_for_the_exact_view_only_has_its_cheap_views_refused() -> None:
    found = fidelity(model_of(deep_trunk(), DBMTL(), gradients="parameters"), batches(2))
    assert "works in the views ['parameters']" in found["fork_layer"].refused
    assert "Share the whole trunk" in found["parameters of the last layer"].refused
    assert found.recommendation is not None
    assert found.recommendation.words.startswith("keep parameters: no cheaper view could be measured.")


def test_an_exact_view_that_does_not_fit_leaves_costs_and_no_recommendation() -> None:
    found = fidelity(model_of(deep_trunk()), batches(2), memory_budget=10)
    assert "memory_budget" in found["parameters"].refused and found.recommendation is None
    assert found["fork_layer"].time.value > 0 and math.isnan(found["fork_layer"].weights.mean)


# -- costs --------------------------------------------------------------------------------------------------------
def test_many_tasks_cost_the_exact_view_more_than_the_fork_layer() -> None:
    torch.manual_seed(0)
    tasks = [Regression(f"t{i}", mean=0.0, std=1.0) for i in range(12)]
    trunk = nn.Sequential(nn.Linear(4, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 16))
    model = lepton.LeptonModel(trunk, tasks, balancer=MGDA())
    batch = torch.randn(64, 4), {f"t{i}": torch.randn(64) for i in range(12)}
    found = fidelity(model, [batch] * 6)
    exact, cheap = found["parameters"], found["fork_layer"]
    assert exact.time.value > 1.5 * cheap.time.value and exact.time.low <= exact.time.value <= exact.time.high
    matrix = 12 * sum(p.numel() for p in trunk.parameters()) * 4
    assert exact.memory is not None and cheap.memory is not None
    assert matrix < exact.memory - found.memory < 3 * matrix
    assert 0 <= cheap.memory - found.memory < 0.1 * matrix


def test_the_time_limit_ends_after_the_second_batch() -> None:
    assert fidelity(model_of(deep_trunk()), batches(5), max_seconds=0.0).batches == 2


def test_a_view_that_was_not_looked_at_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"no view 'fork-layer'.*Did you mean 'fork_layer'"):
        fidelity(model_of(deep_trunk()), batches(2), shared={})["fork-layer"]


def test_it_can_be_written_as_json_but_for_nan() -> None:
    found = fidelity(model_of(deep_trunk()), batches(2))
    assert isinstance(found, Fidelity)
    content = found.to_dict()
    assert content["views"][0]["name"] == "fork_layer" and content["recommendation"]["view"]


# -- the rule -----------------------------------------------------------------------------------------------------
def view(name: str, apart: float, time: float, cosine: float = 0.9, spread: float = 0.02) -> ViewFidelity:
    """A view so far apart, with an interval of so many times."""
    nothing = Estimate.of([])
    interval = Interval(time, time - spread, time + spread)
    weights, direction = Estimate(apart, 0.01, 10), Estimate(cosine, 0.001, 10)
    gradients = name if name in ("features", "fork_layer") else "parameters"
    shared = ("last",) if " of " in name else ()
    return ViewFidelity(name, gradients, shared, weights, direction, nothing, nothing, interval, 1000)


EXACT = view("parameters", 0.0, 2.0, cosine=1.0)
TAIL = "parameters of the last layer"


@pytest.mark.parametrize(
    ("chosen", "views", "answer"),
    [
        ("fork_layer", [view("fork_layer", 0.05, 1.1), view("features", 0.01, 1.08), EXACT], "keep fork_layer: "),
        ("features", [view("fork_layer", 0.05, 1.1), view("features", 0.01, 1.08), EXACT], "keep features: "),
        ("fork_layer", [view("fork_layer", 0.05, 1.5), view("features", 0.01, 1.1), EXACT], "use features: "),
        ("fork_layer", [view("fork_layer", 0.05, 1.5, spread=0.5), view("features", 0.0, 1.1), EXACT], "keep fork_l"),
        ("fork_layer", [view("fork_layer", 0.2, 1.1), view("features", 0.3, 1.1), EXACT], "use parameters: "),
        ("fork_layer", [view("fork_layer", 0.2, 1.1), view("features", 0.05, 1.1), EXACT], "use features: "),
        ("fork_layer", [view("fork_layer", 0.2, 1.1), view(TAIL, 0.05, 1.3), EXACT], f"use {TAIL} (shared: [last]): "),
        ("fork_layer", [view("fork_layer", 0.4, 1.1, cosine=0.999), EXACT], "keep fork_layer: "),
        ("parameters", [view("fork_layer", 0.05, 1.1), EXACT], "use fork_layer: "),
        ("parameters", [view("fork_layer", 0.05, 1.97), EXACT], "keep parameters: "),
        ("parameters", [view("fork_layer", 0.3, 1.1), EXACT], "keep parameters: "),
        ("fork_layer", [view("fork_layer", 0.05, 2.3), EXACT], "use parameters: it takes 2.00 times the time"),
        ("features", [view("fork_layer", 0.05, 1.1), view("features", 0.2, 1.1), EXACT], "use fork_layer: "),
        ("fork_layer", [view("fork_layer", 0.05, 1.5, spread=math.nan), EXACT], "keep fork_layer: "),
        ("parameters", [view("fork_layer", 0.05, 1.4, spread=math.nan), EXACT], "use fork_layer: "),
        ("parameters", [view("fork_layer", 0.05, 1.6, spread=math.nan), EXACT], "keep parameters: "),
    ],
)
def test_the_recommendation_follows_its_rule(chosen: str, views: list[ViewFidelity], answer: str) -> None:
    yardstick = Estimate(0.25, 0.1, 10)
    found = Fidelity("Mine", chosen, tuple(views), yardstick, yardstick, 0.01, 1000, 10, 1.0).recommendation
    assert found is not None and found.words.startswith(answer)
    assert found.view == answer.split(":")[0].split(" (")[0].split(" ", 1)[1] or answer == "keep fork_l"
    assert found.confidence == "medium"


def test_a_distance_whose_interval_holds_the_bound_makes_the_recommendation_unsure() -> None:
    unsure = dataclasses.replace(view("fork_layer", 0.09, 1.1), weights=Estimate(0.09, 0.05, 4))
    yardstick = Estimate(0.25, 0.1, 10)
    found = Fidelity("Mine", "fork_layer", (unsure, EXACT), yardstick, yardstick, 0.01, 1000, 10, 1.0)
    assert found.recommendation is not None and found.recommendation.confidence == "low"


# -- shown --------------------------------------------------------------------------------------------------------
def test_the_table_names_every_view_and_says_why_one_is_missing() -> None:
    found = fidelity(model_of(deep_trunk()), disjoint())
    table = found.table
    assert [row.name.value for row in table.rows] == ["equal weighting", *(view.name for view in found.views)]
    assert [row.name.value for row in table.rows if row.name.remark == "in use"] == ["fork_layer"]
    missing = [row.name.value for row in table.rows if row.cells[0].value == "not measured"]
    assert missing == ["features"]
    assert any(note.startswith("features was not measured: ") for note in table.footnotes)


def test_the_plot_has_a_point_for_every_view_that_was_measured() -> None:
    found = fidelity(model_of(deep_trunk()), disjoint())
    *_, sentence_or_plot, _ = fidelity_blocks(found)
    assert isinstance(sentence_or_plot, Plot)
    points = {trace.name: (trace.x[0], trace.y[0]) for trace in sentence_or_plot.traces if trace.kind == "points"}
    assert points.keys() == {view.name for view in found.views if not view.refused} | {"equal weighting"}
    assert points["fork_layer"] == (found["fork_layer"].time.value, found["fork_layer"].weights.mean)


# -- parts of the trunk, and their memory -------------------------------------------------------------------------
class Backwards(nn.Module):
    """Layers that are registered in another order than they compute, one of them used without being called."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.norm, self.middle, self.first = (
            nn.Linear(4, 4),
            nn.LayerNorm(4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(nn.functional.linear(self.first(inputs), self.middle.weight))
        moved: Tensor = self.last(self.frozen(hidden))
        return moved


def test_the_tail_is_found_by_the_order_of_the_computation() -> None:
    model = model_of(Backwards(), features=4)
    layers = trunk_layers(model, torch.randn(8, 4))
    assert [names for names, _ in layers] == [["last"], ["middle", "norm"], ["first"]]
    trainable = {id(p) for p in model.trunk.parameters() if p.requires_grad} - {id(model.trunk.middle.bias)}
    assert {id(parameter) for _, own in layers for parameter in own} == trainable
    assert all(parameter.grad is None for parameter in model.parameters())


def test_peak_memory_counts_what_is_alive_at_the_same_time() -> None:
    x = torch.ones(1000)
    with PeakMemory() as memory:
        for _ in range(3):
            y = x * 2
            del y
        view = x.view(10, 100)[2:]
        x.add_(1)
        both = [x + 1, x + 2]
        both.clear()
        assert view.sum() > 0
    assert memory.peak == 8000


def test_the_peak_of_a_training_step_is_that_of_its_activations() -> None:
    """Each of the ten layers keeps its [1000, 100] output for the backward pass."""
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(100, 100), nn.Tanh()) for _ in range(10)])
    inputs = torch.randn(1000, 100)
    with PeakMemory() as memory:
        layers(inputs).sum().backward()
    kept = 10 * 1000 * 100 * 4
    assert kept < memory.peak < 1.6 * kept
