"""Balancers that follow the tasks' gradients over time, in a model: against their papers' equations written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import ExcessMTLWeighting

import lepton
from lepton.balance import DBMTL, Balancer, ExcessMTL, Log, MoCo
from lepton.errors import ConfigurationError, ForkError
from tests.conftest import gradients, loss_of, make_batch, make_model
from tests.gradients.test_views import brute_jacobian, single_losses

Paper = Callable[[list[Tensor]], Tensor]


def moco(rows: list[Tensor]) -> Tensor:
    """Fernando 2023, equations 7 and 9a, with a projection found by bisection; the last step's direction."""
    averages, share = torch.zeros_like(rows[0]), torch.full((len(rows[0]),), 1 / len(rows[0]))
    for t, jacobian in enumerate(rows, 1):
        averages = averages - 0.5 / t**0.5 * (averages - jacobian)
        moved = share - 0.1 / t**0.5 * (averages @ averages.T @ share)
        low, high = moved.min() - 1, moved.max()
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (moved - middle).clamp(min=0).sum() > 1 else (low, middle)
        share = (moved - low).clamp(min=0)
    return share @ averages


def db_mtl(rows: list[Tensor]) -> Tensor:
    """Lin 2023, Algorithm 1; the rows are gradients of the logarithms."""
    averages = torch.zeros_like(rows[0])
    for jacobian in rows:
        averages = 0.9 * averages + 0.1 * jacobian
    norms = averages.norm(dim=1)
    return norms.max() * (averages / norms[:, None]).sum(0)


def excess_mtl(rows: list[Tensor]) -> Tensor:
    """As the authors' code does, one batch of warm-up: TorchJD without one moves its weights in that batch already."""
    oracle = ExcessMTLWeighting(1.0, n_warmup_steps=1)
    for jacobian in rows:
        weights = oracle(jacobian)
    return weights @ rows[-1]


METHODS: dict[str, tuple[Callable[[], Balancer], Paper, bool]] = {
    "moco": (MoCo, moco, False),
    "log moco": (lambda: Log(MoCo()), moco, True),
    "db_mtl": (DBMTL, db_mtl, True),
    "excess_mtl": (ExcessMTL, excess_mtl, False),
}


def tracked(model: Any) -> Tensor:
    balancer = model.balancer
    return (balancer.balancer if isinstance(balancer, Log) else balancer).tracked


def jacobian_of(model: Any, x: Tensor, targets: dict[str, Tensor], log: bool) -> Tensor:
    jacobian = brute_jacobian(model, x, targets)
    if log:
        jacobian = jacobian / torch.stack([loss.detach() for loss in single_losses(model, x, targets)])[:, None]
    return jacobian


def trained(model: Any, steps: int, check: Callable[[Any, Tensor, dict[str, Tensor]], None]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for seed in range(steps):
        x, targets = make_batch(12, seed=seed)
        check(model, x, targets)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("heads", ["linear", "mixed"])
@pytest.mark.parametrize("name", METHODS)
def test_the_trunk_gets_what_the_paper_says(name: str, heads: str) -> None:
    make, paper, log = METHODS[name]
    rows: list[Tensor] = []

    def check(model: Any, x: Tensor, targets: dict[str, Tensor]) -> None:
        rows.append(jacobian_of(model, x, targets, log))
        loss_of(model, x, targets).backward()
        torch.testing.assert_close(gradients(model.trunk), paper(rows), rtol=1e-3, atol=1e-6)

    trained(make_model(make(), heads, gradients="parameters"), 4, check)


@pytest.mark.parametrize("name", METHODS)
def test_a_factor_from_outside_multiplies_the_gradient_and_leaves_the_state(name: str) -> None:
    make, _, _ = METHODS[name]
    plain, scaled = (make_model(make(), gradients="parameters") for _ in range(2))
    scaled.load_state_dict(plain.state_dict(), strict=False)
    optimizers = {model: torch.optim.SGD(model.parameters(), 0.0) for model in (plain, scaled)}
    for seed in range(3):
        x, targets = make_batch(12, seed=seed)
        for model, factor in ((plain, 1.0), (scaled, 64.0)):
            model.zero_grad()
            (factor * loss_of(model, x, targets)).backward()
            optimizers[model].step()  # or else a scaled step counts as skipped
        torch.testing.assert_close(gradients(scaled.trunk), 64 * gradients(plain.trunk), rtol=1e-4, atol=1e-5)


def test_a_window_of_micro_batches_is_one_large_batch() -> None:
    """For a method that replaces the gradient the micro-batches hand over what is missing: exact in every step."""
    large = make_model(MoCo(), gradients="parameters")
    small = make_model(MoCo(), gradients="parameters", gradient_accumulation_steps=3)
    small.load_state_dict(large.state_dict(), strict=False)
    optimizers = [torch.optim.SGD(model.parameters(), 0.05) for model in (large, small)]
    for seed in range(3):
        x, targets = make_batch(12, seed=seed)
        loss_of(large, x, targets).backward()
        for part in range(0, 12, 4):
            rows = slice(part, part + 4)
            (loss_of(small, x[rows], {n: t[rows] for n, t in targets.items()}) / 3).backward()
        torch.testing.assert_close(gradients(small.trunk), gradients(large.trunk), rtol=1e-4, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_goes_on_bit_for_bit(name: str) -> None:
    """The state is loaded into a model that has not run yet."""
    make, _, _ = METHODS[name]
    first = make_model(make(), gradients="parameters")
    trained(first, 3, lambda model, x, targets: loss_of(model, x, targets).backward())
    second = make_model(make(), gradients="parameters")
    # A file lays every tensor out row by row, the one of the tracked gradients as well.
    second.load_state_dict({key: value.clone().contiguous() for key, value in first.state_dict().items()})
    assert tracked(second).stride() == tracked(first).stride()
    for model in (first, second):
        model.zero_grad()
        loss_of(model, *make_batch(12, seed=9)).backward()
    assert torch.equal(gradients(first.trunk), gradients(second.trunk))


@pytest.mark.parametrize("name", METHODS)
def test_a_task_without_labels_in_a_batch_is_dropped(name: str) -> None:
    make, _, _ = METHODS[name]
    model = make_model(make(), gradients="parameters")
    loss_of(model, *make_batch(12)).backward()
    x, targets = make_batch(12, seed=1)
    del targets["slant"]
    outputs, weights = model(x)
    lepton.MultiTaskLoss(model)(outputs, targets, weights).backward()
    assert float(model.fork.weights[model.task_names.index("slant")]) == 0
    assert all(p.grad.isfinite().all() for p in model.trunk.parameters())


def test_other_views_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"MoCo works in the views \['parameters'\].*choose gradients="):
        make_model(MoCo())
    with pytest.raises(ConfigurationError, match=r"Log works in the views"):
        make_model(Log(MoCo()), gradients="features")


def test_where_the_trunks_gradient_cannot_be_replaced_a_sentence_says_so() -> None:
    model = make_model(MoCo(), gradients="parameters")
    next(model.trunk.parameters()).register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(ForkError, match="MoCo gives the trunk's gradient itself"):
        loss_of(model, *make_batch())


def test_state_above_the_budget_is_refused_with_the_numbers() -> None:
    model = make_model(DBMTL(), gradients="parameters", memory_budget=1000)
    numbers = len(model.task_names) * sum(p.numel() for p in model.trunk.parameters())
    with pytest.raises(ForkError, match=f"DBMTL follows {numbers:,} numbers.*{12 * numbers:,} bytes"):
        loss_of(model, *make_batch())


def test_another_trunk_is_refused() -> None:
    balancer = MoCo().bind(2)
    balancer.bind_parameters(5, torch.device("cpu"))
    with pytest.raises(ConfigurationError, match="follows 5 numbers in the shared parameters and was given 6"):
        balancer.bind_parameters(6, torch.device("cpu"))


def test_a_bound_by_the_gramian_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not weigh by it"):
        lepton.Fork(["a", "b"], MoCo(), gradients="parameters", max_task_grad_norm=1.0)
