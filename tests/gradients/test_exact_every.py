"""A cheap view corrected by the exact Gramian at every n-th step: what is exact, what is kept, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import lepton
from lepton.balance import MGDA, Equal, GradDrop, Log, UPGrad
from lepton.errors import ConfigurationError, ForkError
from lepton.gradients import exact_due
from lepton.gradients._correction import Correction
from lepton.linalg import present_tasks
from tests.conftest import Inverse, Lagging, gradients, loss_of, make_batch, make_model, parameters

CHEAP = ["features", "fork_layer"]
HEADS = ["linear", "own", "mixed"]


def backward(model, x: Tensor, targets: dict[str, Tensor]):
    model.zero_grad()
    loss_of(model, x, targets).backward()
    return model


def train(model, seeds, rate: float = 0.05) -> list[Tensor]:
    """Take a step for each seed; return the Gramians."""
    optimizer = torch.optim.SGD(model.parameters(), rate)
    found = []
    for seed in seeds:
        backward(model, *make_batch(seed=seed))
        found.append(model.fork.gramian)
        optimizer.step()
    return found


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("view", CHEAP)
def test_every_third_step_is_that_of_the_exact_view(view: str, heads: str) -> None:
    model = make_model(Inverse(), heads, gradients=view, exact_every=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(7):
        assert exact_due(model.balancer) == (step % 3 == 0)
        exact, plain = (make_model(Inverse(), heads, gradients=name) for name in ("parameters", view))
        for other in (exact, plain):
            other.trunk.load_state_dict(model.trunk.state_dict())
            other.heads.load_state_dict(model.heads.state_dict())
            backward(other, *make_batch(seed=step))
        backward(model, *make_batch(seed=step))
        if step % 3 == 0:
            torch.testing.assert_close(model.fork.gramian, exact.fork.gramian)
            torch.testing.assert_close(gradients(model), gradients(exact))
        else:
            correction = model.balancer.correction
            torch.testing.assert_close(model.fork.gramian, correction.corrected(plain.fork.gramian))
        optimizer.step()


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("view", CHEAP)
def test_norms_are_exact_while_nothing_changes(view: str, heads: str) -> None:
    model = make_model(Inverse(), heads, gradients=view, exact_every=3)
    exact, corrected = train(model, [0, 0], rate=0.0)
    plain = train(make_model(Inverse(), heads, gradients=view), [0])[0]
    torch.testing.assert_close(corrected.diagonal(), exact.diagonal())
    assert (plain.diagonal() / exact.diagonal() - 1).abs().max() > 0.1


def random_gramian(rows: int = 4, rank: int = 6) -> Tensor:
    jacobian = torch.randn(rows, rank)
    return jacobian @ jacobian.T


def test_a_difference_of_norms_is_undone() -> None:
    correction = Correction(4, every=3)
    factor = torch.tensor([0.1, 3.0, 1.0, 20.0])
    for _ in range(3):
        cheap = random_gramian()
        correction.learn(cheap, cheap * factor[:, None] * factor)
    cheap = random_gramian()
    torch.testing.assert_close(correction.corrected(cheap), cheap * factor[:, None] * factor)


def test_what_is_learned_does_not_depend_on_the_order_of_the_tasks_or_the_size_of_their_losses() -> None:
    plain, turned = Correction(4, every=3), Correction(4, every=3)
    order, scale = torch.tensor([2, 0, 3, 1]), torch.tensor([1.0, 1e-6, 1e5, 7.0])
    grown = scale[:, None] * scale
    for _ in range(3):
        cheap, exact = random_gramian(), random_gramian()
        plain.learn(cheap, exact)
        turned.learn((cheap * grown)[order][:, order], (exact * grown)[order][:, order])
    cheap = random_gramian()
    expected = (plain.corrected(cheap) * grown)[order][:, order]
    torch.testing.assert_close(turned.corrected((cheap * grown)[order][:, order]), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e18])
def test_what_comes_out_is_a_gramian(size: float) -> None:
    correction = Correction(5, every=3)
    absent = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    for step in range(6):
        mask = absent.roll(step)
        cheap, exact = random_gramian(5, 2), size * random_gramian(5, 3)
        correction.learn(cheap * mask[:, None] * mask, exact * mask[:, None] * mask)
        found = correction.corrected(cheap * mask[:, None] * mask)
        assert torch.isfinite(found).all()
        assert torch.equal(present_tasks(found), mask > 0)
        torch.testing.assert_close(found, found.T)
        values = torch.linalg.eigvalsh(found.double())
        assert values[0] > -1e-5 * values[-1]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0])
def test_a_task_that_is_absent_or_not_finite_keeps_what_is_known_of_it(wrong: float) -> None:
    correction = Correction(3, every=2)
    cheap = random_gramian(3)
    correction.learn(cheap, 4 * cheap)
    spoiled = 4 * cheap
    spoiled[1], spoiled[:, 1] = wrong, wrong
    correction.learn(cheap, spoiled)
    torch.testing.assert_close(correction.corrected(cheap), 4 * cheap)


# -- state --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("view", CHEAP)
@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_training_goes_on_where_its_state_was_saved(view: str, cut: int) -> None:
    options = {"gradients": view, "exact_every": 3}
    whole, first = make_model(Lagging(), **options), make_model(Lagging(), **options)
    train(whole, range(8))
    train(first, range(cut))
    second = make_model(Lagging(), seed=7, **options)
    train(second, range(2))  # what it was before must not matter
    second.load_state_dict(first.state_dict())
    copied = copy.deepcopy(first)
    for model in (second, copied):
        train(model, range(cut, 8))
        for name, value in whole.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name


def test_a_step_that_was_skipped_leaves_nothing_behind_but_its_count() -> None:
    model = make_model(Lagging(), exact_every=2)
    train(model, range(2))
    before = {name: value.clone() for name, value in model.balancer.state_dict().items()}
    backward(model, *make_batch(seed=2))  # exact; no optimiser's step follows
    after = model.state_dict()
    assert after["fork.balancer.correction.windows"] == 3
    for name, value in before.items():
        assert name == "correction.windows" or torch.equal(value, after[f"fork.balancer.{name}"]), name
    assert not exact_due(model.balancer)


def test_an_overflow_behind_a_scaler_teaches_nothing() -> None:
    x, targets = make_batch()
    model = make_model(MGDA(), exact_every=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(4):
        optimizer.zero_grad()
        loss = loss_of(model, x, targets)
        scaler.scale(loss * (float("inf") if step == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.isfinite(parameters(model)).all()
    assert model.balancer.correction.seen.tolist() == [1, 1, 1]
    assert torch.isfinite(model.fork.gramian).all()


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("view", CHEAP)
def test_a_window_of_micro_batches_is_one_step(view: str, heads: str) -> None:
    """As one large batch: the exact Gramian, what is learned from it, and the corrected one after it."""
    whole = make_model(Inverse(), heads, gradients=view, exact_every=2)
    micro = make_model(Inverse(), heads, gradients=view, exact_every=2, gradient_accumulation_steps=4)
    optimizers = [torch.optim.SGD(model.parameters(), 0.0) for model in (whole, micro)]
    for seed in range(3):
        x, targets = make_batch(seed=seed)
        backward(whole, x, targets)
        micro.zero_grad()
        for i in range(0, 12, 3):
            (loss_of(micro, x[i : i + 3], {k: v[i : i + 3] for k, v in targets.items()}) / 4).backward()
        torch.testing.assert_close(micro.fork.gramian, whole.fork.gramian, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(micro.balancer.correction.ratio, whole.balancer.correction.ratio)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_factor_from_outside_changes_nothing(scale: float) -> None:
    found = []
    for factor in (1.0, scale):
        model = make_model(Inverse(), "mixed", exact_every=2)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        for seed in range(2):
            model.zero_grad()
            (factor * loss_of(model, *make_batch(seed=seed))).backward()
            optimizer.step()
        found.append(model.fork.gramian)
    torch.testing.assert_close(*found)


def test_weights_are_as_with_a_budget_of_memory() -> None:
    held, parts = (make_model(MGDA(), exact_every=2, memory_budget=budget) for budget in (None, 1500))
    for a, b in zip(train(held, range(4)), train(parts, range(4)), strict=True):
        torch.testing.assert_close(a, b)


def test_methods_that_look_at_losses_only_are_left_alone() -> None:
    model = make_model(Equal(), exact_every=2)
    assert not exact_due(model.balancer)
    assert not [name for name in model.state_dict() if "correction" in name]


def test_a_composition_is_corrected_as_one_method() -> None:
    model = make_model(Log(UPGrad()), exact_every=2)
    train(model, range(3))
    assert [name for name in model.state_dict() if name.endswith("correction.ratio")] == [
        "fork.balancer.correction.ratio"
    ]


# -- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [0, 1, 2.5, True, "10"])
def test_what_is_no_number_of_steps_is_refused(every: object) -> None:
    with pytest.raises(ConfigurationError, match="exact_every"):
        make_model(MGDA(), exact_every=every)


def test_views_and_methods_that_have_no_use_for_it_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="exact in every step"):
        make_model(MGDA(), gradients="parameters", exact_every=10)
    with pytest.raises(ConfigurationError, match="GradDrop sees no Gramian"):
        make_model(GradDrop(), exact_every=10)


def test_a_graph_of_the_whole_model_is_refused() -> None:
    model = make_model(MGDA(), exact_every=10)
    torch._dynamo.reset()
    with pytest.raises((ForkError, torch._dynamo.exc.TorchDynamoException), match="compile the trunk only"):
        torch.compile(model, fullgraph=True, backend="eager")(make_batch()[0])
    torch._dynamo.reset()


def test_it_can_be_switched_off_and_on() -> None:
    model = make_model(MGDA(), exact_every=2)
    model.fork.exact_every = None
    assert not exact_due(model.balancer)
    assert not [name for name in model.state_dict() if "correction" in name]
    model.fork.exact_every = 4
    assert exact_due(model.balancer)
    assert isinstance(lepton.Fork(["a", "b"], MGDA(), exact_every=3).balancer.correction, Correction)
