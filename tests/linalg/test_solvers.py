"""The solvers against quadprog and numpy, on Gramians of every kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import quadprog
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lepton.linalg import (
    _nonnegative,
    _pivoting,
    _together,
    cosines,
    counter_uniform,
    frank_wolfe,
    min_norm_weights,
    normalize,
    pivot_to_length,
    present_tasks,
    solve_nonnegative,
    solve_simplex,
    solve_smallest,
)
from lepton.linalg._exchange import exchange, solve_on_face
from lepton.linalg._random import _GAMMA, _mix
from lepton.linalg._together import solve_together

SIZES = (2, 3, 5, 10, 20, 40)


def jacobians(size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(size)
    for columns in (size + 5, max(1, size // 2), 3):
        jacobian = torch.randn(size, columns, dtype=torch.float64, generator=generator)
        yield jacobian
        yield jacobian - 1.5 * jacobian.mean(0)
        yield jacobian * torch.logspace(-2, 0, size, dtype=torch.float64)[:, None]


@pytest.fixture(params=["pivoting", "interior"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to the solution: the one of the CPU, and the one of a device that cannot be read."""
    if request.param == "interior":
        monkeypatch.setattr(_nonnegative, "readable", lambda tensor: False)
    return str(request.param)


@pytest.mark.parametrize("size", SIZES)
def test_nonnegative_program_is_the_one_of_quadprog(size: int, path: str) -> None:
    for jacobian in jacobians(size):
        matrix = normalize(jacobian @ jacobian.mT) + 1e-4 * torch.eye(size, dtype=torch.float64)
        found = solve_nonnegative(matrix, matrix)
        for row in range(0, size, max(1, size // 5)):
            wanted = quadprog.solve_qp(matrix.numpy(), -matrix[row].numpy(), np.eye(size), np.zeros(size))[0]
            assert np.abs(found[row].numpy() - wanted).max() < 1e-4
        assert (found >= 0).all()


def many(kind: str, size: int) -> Tensor:
    """A matrix as UPGrad has it, for as many programs as it has rows."""
    generator = torch.Generator().manual_seed(size)
    rank = {"low rank": size // 2, "one direction": 1}.get(kind, 4 * size)
    rows = torch.randn(size, rank, dtype=torch.float64, generator=generator)
    if kind == "conflicting":
        rows -= 0.9 * rows.mean(0)
    if kind == "ill-conditioned":
        rows *= torch.logspace(-3, 3, size, dtype=torch.float64)[:, None]
    return normalize(rows @ rows.mT) + 1e-4 * torch.eye(size, dtype=torch.float64)


MANY_KINDS = ("conflicting", "ill-conditioned", "low rank", "one direction")


@pytest.mark.parametrize("size", [40, 200])
@pytest.mark.parametrize("kind", MANY_KINDS)
def test_many_programs_over_one_matrix_are_those_of_quadprog(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Tensor) -> Tensor:
        raise AssertionError("pivoting")

    monkeypatch.setattr(_nonnegative, "pivot", never)
    matrix = many(kind, size)
    found = solve_nonnegative(matrix, matrix)
    for row in range(0, size, size // 5):
        wanted = quadprog.solve_qp(matrix.numpy(), -matrix[row].numpy(), np.eye(size), np.zeros(size))[0]
        assert np.abs(found[row].numpy() - wanted).max() < 1e-5 * (1 + wanted.max())
    assert (found >= 0).all()


@pytest.mark.parametrize("kind", MANY_KINDS)
def test_many_programs_and_each_alone_agree_when_variables_are_absent(kind: str) -> None:
    size, present = 60, torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.8
    matrix = many(kind, size)
    found = solve_nonnegative(matrix, matrix, present)
    for row in range(0, size, 7):
        alone = solve_nonnegative(matrix, matrix[row], present)
        torch.testing.assert_close(found[row], alone, rtol=1e-5, atol=1e-6)
    assert not found[:, ~present].any()


def test_programs_that_do_not_end_together_are_pivoted(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = many("low rank", 50)
    wanted = solve_nonnegative(matrix, matrix)
    monkeypatch.setattr(_together, "_DESCENTS", (1,))
    monkeypatch.setattr(_together, "_CORRECTIONS", 6)
    _, solved = solve_together(matrix.numpy(), matrix.numpy())
    assert 0 < solved.sum() < len(solved)
    torch.testing.assert_close(solve_nonnegative(matrix, matrix), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_minimum_norm_is_the_one_of_quadprog(size: int, path: str) -> None:
    constraints = np.concatenate([np.ones((1, size)), np.eye(size)]).T
    bounds = np.array([1.0] + [0.0] * size)
    for jacobian in jacobians(size):
        gramian = normalize(jacobian @ jacobian.mT)
        safe = gramian.numpy() + 1e-10 * np.eye(size)
        wanted = quadprog.solve_qp(safe, np.zeros(size), constraints, bounds, 1)[0]
        found = min_norm_weights(gramian)
        assert float(found @ gramian @ found) < wanted @ gramian.numpy() @ wanted + 1e-8
        assert found.sum().item() == pytest.approx(1.0)
        assert (found >= 0).all()


def test_absent_variables_are_zero_and_change_nothing(path: str) -> None:
    matrix = torch.eye(4, dtype=torch.float64) + 0.5
    linear = torch.tensor([-1.0, -2.0, 3.0, -0.5])
    present = torch.tensor([True, False, True, True])
    found = solve_nonnegative(matrix, linear, present)
    alone = solve_nonnegative(matrix[present][:, present], linear[present])
    assert found[1] == 0
    assert torch.allclose(found[present], alone, atol=1e-12)


def test_a_bounded_search_still_gives_a_feasible_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nonnegative, "_ITERATIONS", 3)
    monkeypatch.setattr(_pivoting, "_ROUNDS", 0)
    jacobian = next(jacobians(20))
    w = solve_simplex(jacobian @ jacobian.mT, torch.ones(20, dtype=torch.bool))
    assert (w >= 0).all()
    assert w.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("size", SIZES)
def test_single_exchanges_end_at_the_solution_from_anywhere(size: int) -> None:
    draws = np.random.default_rng(size)
    for jacobian in jacobians(size):
        matrix = (normalize(jacobian @ jacobian.mT) + 1e-4 * torch.eye(size, dtype=torch.float64)).numpy()
        wanted = solve_nonnegative(torch.from_numpy(matrix), torch.from_numpy(matrix)).numpy()
        basis = exchange(matrix, matrix, draws.random((size, size)) < 0.5)
        value = solve_on_face(matrix, -matrix[..., None], basis)[..., 0]
        assert value.min() > -1e-9 * (1 + wanted.max())
        assert np.abs(np.where(basis, value, 0) - wanted).max() < 1e-6 * (1 + wanted.max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("falling", [0.0, 0.6], ids=["path", "blocks"])
def test_pivoting_to_a_length_meets_the_conditions_of_its_optimum(
    size: int, falling: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pivoting, "_FALLING", falling)
    generator = torch.Generator().manual_seed(size)
    for jacobian in jacobians(size):
        matrix = normalize(jacobian @ jacobian.mT) + 1e-4 * torch.eye(size, dtype=torch.float64)
        linear = matrix @ torch.rand(size, dtype=torch.float64, generator=generator)
        linear[0] -= 0.1
        present = torch.rand(size, generator=generator) < 0.8
        present[0] = True
        x = pivot_to_length(matrix, linear, present, torch.tensor(0.3))
        assert x is not None
        slope = (matrix @ x + linear)[present]
        level = slope[x[present] > 0].mean()
        assert (x @ matrix @ x).sqrt().item() == pytest.approx(0.3, abs=1e-6)
        assert (x >= 0).all() and not x[~present].any()
        assert (slope >= level - 1e-7).all()
        assert torch.allclose(slope[x[present] > 0], level, atol=1e-7)


@pytest.mark.parametrize("size", SIZES)
def test_pivoting_alone_serves_gramians_of_low_rank(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Tensor) -> Tensor:
        raise AssertionError("the slow path")

    monkeypatch.setattr(_nonnegative, "_interior", never)
    for jacobian in jacobians(size):
        for rank in (1, 2, size):
            gramian = (jacobian[:, :rank] @ jacobian[:, :rank].mT).float()
            matrix = normalize(gramian) + 1e-4 * torch.eye(size)
            assert torch.isfinite(solve_nonnegative(matrix, matrix)).all()
            assert min_norm_weights(gramian).sum().item() == pytest.approx(1.0)


def test_a_batch_gives_what_its_problems_give(path: str) -> None:
    matrices = torch.stack([normalize(j @ j.mT) + 1e-3 * torch.eye(5) for j in jacobians(5)])
    linear = torch.randn(len(matrices), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = solve_nonnegative(matrices, linear)
    for k in range(len(matrices)):
        assert torch.allclose(together[k], solve_nonnegative(matrices[k], linear[k]), atol=1e-7)


def test_frank_wolfe_comes_near_the_exact_minimum_and_stays_in_the_simplex() -> None:
    for jacobian in jacobians(40):
        gramian = normalize(jacobian @ jacobian.mT)
        present = present_tasks(gramian)
        exact = min_norm_weights(gramian)
        w = frank_wolfe(gramian, present, 2000)
        uniform = torch.full_like(w, 1 / 40)
        best, start = exact @ gramian @ exact, uniform @ gramian @ uniform
        assert (w >= 0).all()
        assert w.sum().item() == pytest.approx(1.0)
        assert w @ gramian @ w - best < 0.01 * start


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_smallest_solution_is_the_pseudo_inverse(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    for rank in {1, max(1, size // 2), size}:
        orthogonal = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
        values = torch.zeros(size, dtype=torch.float64)
        values[:rank] = torch.logspace(0, -2, rank, dtype=torch.float64)
        gramian = ((orthogonal * values) @ orthogonal.mT).to(dtype)
        scaled = normalize(gramian)
        rhs = torch.randn(size, dtype=torch.float64, generator=generator)
        found = solve_smallest(scaled, rhs, max(40 * torch.finfo(dtype).eps, 1e-8))
        wanted = torch.linalg.pinv(scaled, hermitian=True, rtol=1e-5) @ rhs
        assert (found - wanted).norm() < 1e-4 * wanted.norm() + 1e-6


def test_counter_draws_are_these_bits_everywhere() -> None:
    # splitmix64 of seed 1234567 begins with 6457827717110365317 (the published test vector).
    assert _mix(torch.tensor(1234567) + _GAMMA).item() == 6457827717110365317
    assert counter_uniform(0, torch.tensor(7)).item() == counter_uniform(0, torch.tensor([3, 7]))[1].item()


def test_counter_draws_are_uniform_and_differ_by_every_counter() -> None:
    draws = counter_uniform(3, torch.arange(50)[:, None], torch.arange(1, 101)[None, :])
    assert draws.unique().numel() == 5000
    assert draws.mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.005)
    assert not torch.equal(draws, counter_uniform(4, torch.arange(50)[:, None], torch.arange(1, 101)[None, :]))


def test_cosines_are_bounded_and_zero_where_absent() -> None:
    gramian = torch.tensor([[4.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 1.0]])
    assert torch.allclose(cosines(gramian), torch.tensor([[1.0, 0, -1], [0, 0, 0], [-1, 0, 1]]).double())


def test_no_solver_reads_a_value() -> None:
    with FakeTensorMode():
        gramian = torch.ones(5, 5)
        large = torch.ones(70, 70)
        assert min_norm_weights(gramian).shape == (5,)
        assert min_norm_weights(large).shape == (70,)
        assert solve_nonnegative(gramian, gramian).shape == (5, 5)
        assert solve_smallest(gramian.double(), gramian[0].double(), 1e-8).shape == (5,)
        assert counter_uniform(0, torch.arange(3)).shape == (3,)
