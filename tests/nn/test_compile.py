"""Compiled training equals eager training: stateless and stateful balancers, many models, copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lepton
from lepton.balance import MGDA, Equal, Log, LogSum, Smooth
from tests.conftest import Lagging, loss_of, make_batch, make_model, parameters

STEPS = 10


def train(model: nn.Module, step, steps: int = STEPS) -> torch.Tensor:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for seed in range(steps):
        optimizer.zero_grad()
        step(*make_batch(seed=seed)).backward()
        optimizer.step()
    return parameters(model)


def eager(make, heads: str, **options) -> torch.Tensor:
    model = make_model(make(), heads, **options)
    return train(model, lambda x, targets: loss_of(model, x, targets))


def whole_step(model: nn.Module, backend: str):
    criterion = lepton.MultiTaskLoss(model)

    def step(x, targets):
        outputs, task_weights = model(x)
        return criterion(outputs, targets, task_weights)

    return torch.compile(step, fullgraph=True, backend=backend)


MAKERS = {
    "equal": Equal,
    "log_sum": LogSum,
    "mgda": MGDA,
    "lagging": Lagging,
    "smooth": lambda: Smooth(Log(MGDA()), 0.9),
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("heads", ["linear", "mixed"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_compiled_step_trains_as_the_eager_one(name: str, heads: str) -> None:
    model = make_model(MAKERS[name](), heads)
    compiled = train(model, whole_step(model, "aot_eager"))
    torch.testing.assert_close(compiled, eager(MAKERS[name], heads), rtol=1e-4, atol=1e-5)


def test_inductor_trains_as_eager_with_state() -> None:
    model = make_model(Lagging(), "mixed")
    compiled = train(model, whole_step(model, "inductor"))
    torch.testing.assert_close(compiled, eager(Lagging, "mixed"), rtol=1e-4, atol=1e-5)
    assert model.balancer.steps == STEPS


@pytest.mark.parametrize("view", ["features", "fork_layer"])
def test_a_compiled_model_under_an_eager_criterion(view: str) -> None:
    model = make_model(Lagging(), "mixed", gradients=view)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    criterion = lepton.MultiTaskLoss(compiled)

    def step(x, targets):
        outputs, task_weights = compiled(x)
        return criterion(outputs, targets, task_weights)

    torch.testing.assert_close(train(model, step), eager(Lagging, "mixed", gradients=view), rtol=1e-4, atol=1e-5)


def test_nine_models_in_one_process_share_one_graph() -> None:
    """A Python number as handle would recompile for each model and reach the limit at the ninth."""
    expected = eager(Lagging, "linear")
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    # The tasks are the same objects' twins: only the balancer's handle differs from model to model.
    for _ in range(9):
        model = make_model(Lagging())
        compiled = torch.compile(model, fullgraph=True, backend=counter)

        def step(x, targets, compiled=compiled, model=model):
            return lepton.MultiTaskLoss(model)(*_order(compiled(x), targets))

        torch.testing.assert_close(train(model, step), expected, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def _order(result, targets):
    outputs, task_weights = result
    return outputs, targets, task_weights


def test_a_deep_copy_of_a_compiled_model_has_its_own_state() -> None:
    model = make_model(Lagging())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def step_of(call, inner):
        return lambda x, targets: lepton.MultiTaskLoss(inner)(*_order(call(x), targets))

    train(model, step_of(compiled, model), 3)
    twin = copy.deepcopy(model)
    reference = copy.deepcopy(model)
    again = torch.compile(twin, fullgraph=True, backend="aot_eager")
    found = train(twin, step_of(again, twin), 3)
    assert model.balancer.steps == 3
    assert twin.balancer.steps == 6
    torch.testing.assert_close(found, train(reference, step_of(reference, reference), 3), rtol=1e-4, atol=1e-5)


def test_absent_tasks_under_compile() -> None:
    """A compiled graph hands zeros, not None, to what has no gradient: the balancer must drop them all the same."""
    model, plain = make_model(Lagging(), "mixed"), make_model(Lagging(), "mixed")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x, targets = make_batch()
    del targets["slant"]
    outputs, task_weights = compiled(x)
    lepton.MultiTaskLoss(model)(outputs, targets, task_weights).backward()
    loss_of(plain, x, targets).backward()
    torch.testing.assert_close(model.fork.weights, plain.fork.weights)
    assert model.fork.weights[1] == 0


def test_separate_backward_calls_through_a_compiled_model_are_refused() -> None:
    model = make_model(MGDA(), "mixed")
    outputs, _ = torch.compile(model, fullgraph=True, backend="aot_eager")(make_batch()[0])
    outputs["slant"].sum().backward(retain_graph=True)
    with pytest.raises(Exception, match="all tasks at once"):
        outputs["digit"].sum().backward(retain_graph=True)


def test_the_parameters_view_refuses_a_graph_of_the_whole_model_and_takes_a_compiled_trunk() -> None:
    x, targets = make_batch()
    model = make_model(MGDA(), gradients="parameters")
    with pytest.raises(Exception, match="compile the trunk only"):
        torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    reference = make_model(MGDA(), gradients="parameters")
    loss_of(reference, x, targets).backward()
    broken = make_model(MGDA(), gradients="parameters")  # without fullgraph, the fork runs between two graphs
    outputs, task_weights = torch.compile(broken, backend="aot_eager")(x)
    lepton.MultiTaskLoss(broken)(outputs, targets, task_weights).backward()
    torch.testing.assert_close(broken.fork.gramian, reference.fork.gramian, rtol=1e-4, atol=1e-6)
    model.trunk = torch.compile(model.trunk, backend="aot_eager")
    loss_of(model, x, targets).backward()
    torch.testing.assert_close(model.fork.gramian, reference.fork.gramian, rtol=1e-4, atol=1e-6)
