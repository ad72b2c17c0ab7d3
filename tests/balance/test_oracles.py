"""The balancers against independent implementations and against what their papers state."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import cvxpy
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import kstest
from torch import Tensor
from torchjd.aggregation import (
    AlignedMTLWeighting,
    CAGradWeighting,
    DualProjWeighting,
    FairGradWeighting,
    GradVacWeighting,
    IMTLGWeighting,
    PCGradWeighting,
    UPGradWeighting,
)
from torchjd.aggregation import ConFIG as TorchJDConFIG
from torchjd.scalarization import DWA, STCH, UW
from torchjd.scalarization import FAMO as TorchJDFAMO
from torchjd.scalarization import IMTLL as TorchJDIMTLL
from torchjd.scalarization import GeometricMean as TorchJDGeometricMean

from lepton.balance import (
    FAMO,
    IMTLG,
    IMTLL,
    MGDA,
    AlignedMTL,
    CAGrad,
    ClipWeights,
    ConFIG,
    DualProj,
    DynamicWeightAverage,
    Equal,
    Every,
    FairGrad,
    GeometricMean,
    GradNorm,
    GradVac,
    LearnedWeights,
    Log,
    LogSum,
    NashMTL,
    PCGrad,
    RandomWeight,
    Smooth,
    SmoothTchebycheff,
    Uncertainty,
    UPGrad,
    _cagrad,
)
from lepton.balance._grad_norm import grad_norm_gradient
from lepton.balance._grad_vac import grad_vac_weights
from lepton.errors import ConfigurationError
from lepton.linalg import normalize
from lepton.linalg._eigen import jacobi

SIZES = (2, 3, 5, 10, 20, 40)
BOTH = torch.tensor([True, True])


def gramians(size: int, dtype: torch.dtype = torch.float64) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(size)
    for columns in (size + 5, max(1, size // 2), 3 * size):
        jacobian = torch.randn(size, columns, dtype=torch.float64, generator=generator)
        for moved in (jacobian, jacobian - 1.5 * jacobian.mean(0)):
            for norms in (0, -1.5):
                scaled = (moved * torch.logspace(norms, 0, size, dtype=torch.float64)[:, None]).to(dtype)
                yield scaled @ scaled.mT


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.abs().max().clamp_min(1e-12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_upgrad_is_the_one_of_torchjd(size: int, dtype: torch.dtype) -> None:
    for gramian in gramians(size, dtype):
        assert relative_error(UPGrad().weights(gramian), UPGradWeighting()(normalize(gramian))) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_imtl_g_is_the_one_of_torchjd(size: int) -> None:
    for gramian in gramians(size):
        assert relative_error(IMTLG().weights(gramian), IMTLGWeighting()(gramian)) < 1e-4


def cagrad_value(gramian: Tensor, weights: Tensor, c: float) -> float:
    """The dual objective at the w inside `weights`, for a Gramian of trace one."""
    mean = torch.full_like(weights, 1 / len(weights))
    w = (weights - mean).clamp_min(0)
    w = w / w.sum()
    return float(w @ gramian @ mean + c * (mean @ gramian @ mean).sqrt() * (w @ gramian @ w).sqrt())


@pytest.mark.parametrize("guess", [True, False], ids=["pivoting", "bracket"])
@pytest.mark.parametrize("c", [0.4, 0.9])
@pytest.mark.parametrize("size", SIZES)
def test_cagrad_is_at_least_as_good_as_clarabel(
    size: int, c: float, guess: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compared by what is minimised: near the optimum it is flat, and Clarabel's own weights are good to 1e-3.
    if not guess:
        monkeypatch.setattr(_cagrad, "pivot_to_length", lambda *_: None)
    for gramian in list(gramians(size))[:: 1 if guess else 3]:
        scaled = normalize(gramian)
        wanted, found = CAGradWeighting(c)(scaled), CAGrad(c).weights(gramian)
        assert bool(wanted.any()) == bool(found.any())
        if wanted.any():
            assert cagrad_value(scaled, found, c) < cagrad_value(scaled, wanted, c) + 1e-6


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_cagrad_of_two_tasks_is_a_search_on_a_line(c: float) -> None:
    for gramian in gramians(2):
        scaled = normalize(gramian)
        mean = torch.full((2,), 0.5, dtype=torch.float64)
        radius = c * float((mean @ scaled @ mean).sqrt())

        def direction(share: float) -> Tensor:
            return torch.tensor([share, 1 - share], dtype=torch.float64)

        def value(share: float, scaled: Tensor = scaled, mean: Tensor = mean, radius: float = radius) -> float:
            w = direction(share)
            return float(w @ scaled @ mean + radius * (w @ scaled @ w).clamp_min(0).sqrt())

        best = direction(minimize_scalar(value, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x)
        norm = float((best @ scaled @ best).sqrt())
        if norm > 2e-4:
            assert relative_error(CAGrad(c).weights(gramian), mean + radius / norm * best) < 1e-4


@pytest.mark.parametrize("size", [2, 3])
def test_pcgrad_has_the_mean_of_torchjd(size: int) -> None:
    torch.manual_seed(0)
    for gramian in list(gramians(size))[::4]:
        ours, theirs = PCGrad(), PCGradWeighting()
        draws = 1 if size == 2 else 400
        found = torch.stack([ours.weights(gramian) for _ in range(draws)])
        wanted = torch.stack([theirs(gramian) for _ in range(draws)])
        noise = 0.0 if size == 2 else float(6 * wanted.std(0).max() / draws**0.5)
        assert float((found.mean(0) - wanted.mean(0)).abs().max()) < 1e-9 + noise


def test_two_tasks_theorem_pcgrad_is_twice_upgrad() -> None:
    for gramian in gramians(2):
        if float(gramian[0, 1]) ** 2 < 0.99 * float(gramian[0, 0] * gramian[1, 1]):
            upgrad = UPGrad(regularization=1e-10).weights(gramian)
            assert relative_error(PCGrad().weights(gramian), 2 * upgrad) < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_upgrad_conflicts_with_no_task(size: int) -> None:
    for gramian in gramians(size):
        scaled = normalize(gramian)
        products = scaled @ UPGrad(regularization=1e-9).weights(scaled)
        assert float(products.min()) > -1e-6


@pytest.mark.parametrize("size", SIZES)
def test_mgda_has_nonnegative_products_with_every_task(size: int) -> None:
    for gramian in gramians(size):
        scaled = normalize(gramian)
        w = MGDA().weights(scaled)
        products = scaled @ w
        assert float(products.min()) > float(w @ products) - 1e-8


@pytest.mark.parametrize("normalization", ["l2", "loss", "loss+"])
def test_mgda_normalizations_divide_the_gradients(normalization: str) -> None:
    for gramian in gramians(3):
        losses = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        norms = torch.diagonal(gramian).sqrt()
        divisor = {"l2": norms, "loss": losses, "loss+": losses * norms}[normalization]
        wanted = MGDA().weights(gramian / divisor[:, None] / divisor[None, :])
        found = MGDA(normalization).weights(gramian, losses=losses)  # type: ignore[arg-type]
        assert relative_error(found, wanted) < 1e-4


@pytest.mark.parametrize("size", [2, 5])
def test_famo_follows_torchjd_when_the_same_batch_is_evaluated_again(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = FAMO().bind(size), TorchJDFAMO(size)
    present = torch.ones(size, dtype=torch.bool)
    for _ in range(50):
        before, after = torch.rand(2, size, generator=generator) + 0.1
        values = before.clone().requires_grad_()
        leaf = before.clone().requires_grad_()
        wanted = theirs(values)
        found = ours.combine(leaf, ours.task_weights(), present)
        assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
        assert torch.allclose(
            torch.autograd.grad(found, leaf)[0], torch.autograd.grad(wanted, values)[0], rtol=1e-4, atol=1e-6
        )
        theirs.update(after)
        ours.observe(before, present)
        ours.reobserve(after, present)
        assert torch.allclose(ours.task_weights(), torch.softmax(theirs._w.detach(), 0), atol=1e-5)


def test_lazy_famo_is_famo_on_the_next_losses() -> None:
    lazy, eager = FAMO().bind(2), FAMO().bind(2)
    losses = [torch.tensor(values) for values in ([1.0, 2.0], [0.5, 1.9], [0.4, 1.0])]
    for before, after in itertools.pairwise(losses):
        eager.observe(before, BOTH)
        eager.reobserve(after, BOTH)
    for values in losses:
        lazy.observe(values, BOTH)
    assert torch.equal(lazy.task_weights(), eager.task_weights())
    assert lazy.task_weights()[0] != 0.5


def test_uncertainty_is_the_one_of_torchjd_for_half_the_losses() -> None:
    ours, theirs = Uncertainty().bind(2), UW(2)
    with torch.no_grad():
        ours.log_variance.copy_(torch.tensor([0.3, -1.2]))
        theirs.log_var.copy_(ours.log_variance)
    losses = torch.tensor([1.5, 0.2])
    assert ours.combine(0.5 * losses, ours.task_weights(), BOTH).item() == pytest.approx(theirs(losses).item())


def test_uncertainty_reaches_its_optimum_and_leaves_absent_tasks_out() -> None:
    balancer = Uncertainty().bind(2)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        balancer.combine(torch.tensor([4.0, 0.0]), balancer.task_weights(), torch.tensor([True, False])).backward()
        optimizer.step()
    assert torch.allclose(balancer.task_weights(), torch.tensor([1 / 8, 1.0]))


def test_liebel_regulariser_is_never_negative() -> None:
    balancer = Uncertainty(nonnegative=True).bind(2)
    with torch.no_grad():
        balancer.log_variance.copy_(torch.tensor([-8.0, 1.0]))
    loss = balancer.combine(torch.zeros(2), balancer.task_weights(), BOTH)
    assert loss.item() == pytest.approx(torch.log1p(torch.tensor([-8.0, 1.0]).exp()).sum().item())


def test_dynamic_weight_average_is_the_one_of_torchjd() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, by_hand, theirs = DynamicWeightAverage(window=4).bind(3), DynamicWeightAverage(window=None).bind(3), DWA()
    present = torch.ones(3, dtype=torch.bool)
    for _ in range(5):
        for _ in range(4):
            losses = torch.rand(3, generator=generator) + 0.1
            wanted = theirs(losses).item()
            assert ours.combine(losses, ours.task_weights(), present).item() == pytest.approx(wanted, rel=1e-5)
            assert by_hand.combine(losses, by_hand.task_weights(), present).item() == pytest.approx(wanted, rel=1e-5)
            ours.observe(losses, present)
            by_hand.observe(losses, present)
        theirs.step()
        by_hand.end_epoch()
    assert ours.task_weights().std() > 0.01


def test_learned_weights_train_and_keep_their_floor() -> None:
    balancer = LearnedWeights().bind(3)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        losses = torch.tensor([0.1, 1.0, 2.0])
        balancer.combine(losses, balancer.task_weights(), torch.ones(3, dtype=torch.bool)).backward()
        optimizer.step()
    weights = balancer.task_weights()
    assert weights.sum().item() == pytest.approx(3.0)
    assert weights[0] > 2.5
    assert 0.1 <= weights.min().item() < 0.15


def test_log_sum_is_log_of_equal() -> None:
    losses = torch.tensor([0.5, 3.0])
    a, b = LogSum().bind(2), Log(Equal()).bind(2)
    assert torch.equal(a.combine(losses, a.task_weights(), BOTH), b.combine(losses, b.task_weights(), BOTH))


@pytest.mark.parametrize("inner", [LogSum, FAMO, lambda: Log(Equal())])
def test_log_refuses_what_takes_logarithms(inner: type) -> None:
    with pytest.raises(ConfigurationError, match="logarithms"):
        Log(inner())


@pytest.mark.parametrize("composition", [Smooth, Every, ClipWeights])
def test_compositions_on_gradient_weights_refuse_loss_balancers(composition: type) -> None:
    with pytest.raises(ConfigurationError, match="acts on the losses"):
        composition(Equal())


def test_smooth_is_a_bias_corrected_average_that_absent_tasks_leave_alone() -> None:
    balancer = Smooth(MGDA(), decay=0.5).bind(2)
    first = balancer.weights(torch.diag(torch.tensor([1.0, 3.0])))
    assert torch.allclose(first, torch.tensor([0.75, 0.25]))
    absent = balancer.weights(torch.diag(torch.tensor([1.0, 0.0])))
    assert torch.allclose(absent, torch.tensor([(0.25 * 0.75 + 0.5 * 1.0) / 0.75, 0.0]))
    last = balancer.weights(torch.diag(torch.tensor([3.0, 1.0])))
    assert last[1].item() == pytest.approx((0.25 * 0.25 + 0.5 * 0.75) / 0.75)


@pytest.mark.parametrize("readable", [True, False])
def test_every_holds_the_weights_and_the_state_in_between(readable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from lepton.balance import _every

    monkeypatch.setattr(_every, "readable", lambda tensor: readable)
    balancer, inner = Every(PCGrad(), n=3).bind(4), PCGrad().bind(4)
    samples = list(gramians(4, torch.float32))[:9]
    for step, gramian in enumerate(samples):
        if step % 3 == 0:
            wanted = inner.weights(gramian)
        assert torch.allclose(balancer.weights(gramian), wanted)


def test_every_computes_again_for_a_task_without_a_weight() -> None:
    balancer = Every(MGDA(), n=10).bind(2)
    assert balancer.weights(torch.diag(torch.tensor([1.0, 0.0]))).tolist() == [1.0, 0.0]
    assert torch.allclose(balancer.weights(torch.diag(torch.tensor([1.0, 3.0]))), torch.tensor([0.75, 0.25]))
    assert balancer.weights(torch.diag(torch.tensor([3.0, 0.0]))).tolist() == [0.75, 0.0]
    assert torch.allclose(balancer.weights(torch.diag(torch.tensor([3.0, 1.0]))), torch.tensor([0.75, 0.25]))


def test_compositions_pass_on_what_they_take() -> None:
    balancer = Every(Smooth(MGDA("loss+")))
    assert balancer.wants_losses and balancer.uses_gramian and not balancer.reevaluates
    assert Log(Equal()).uses_gramian is False


# -- geometric mean, random weights, IMTL-L, Tchebycheff ----------------------------------------------------------
def test_geometric_mean_is_the_one_of_torchjd() -> None:
    losses = torch.tensor([0.3, 2.0, 5.0], requires_grad=True)
    wanted = torch.autograd.grad(TorchJDGeometricMean()(losses), losses)[0]
    ours = GeometricMean().bind(3)
    found = ours.combine(losses, ours.task_weights(), torch.ones(3, dtype=torch.bool))
    assert torch.allclose(torch.autograd.grad(found, losses)[0], wanted)


def test_geometric_mean_leaves_absent_tasks_out() -> None:
    ours = GeometricMean().bind(3)
    found = ours.combine(torch.tensor([2.0, 0.0, 8.0]), ours.task_weights(), torch.tensor([True, False, True]))
    assert found.item() == pytest.approx(4.0)


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0])
def test_smooth_tchebycheff_is_the_one_of_torchjd(mu: float) -> None:
    losses = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    theirs, ours = STCH(mu)(losses), SmoothTchebycheff(mu).bind(3)
    found = ours.combine(losses, ours.task_weights().double(), torch.ones(3, dtype=torch.bool))
    assert found.item() == pytest.approx(theirs.item())
    for a, b in zip(torch.autograd.grad(found, losses), torch.autograd.grad(theirs, losses), strict=True):
        assert torch.allclose(a, b)


def test_imtl_l_follows_torchjd() -> None:
    ours, theirs = IMTLL().bind(3), TorchJDIMTLL(3)
    for parameters in (ours.parameters(), theirs.parameters()):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        balancer = ours if optimizer.param_groups[0]["params"][0] is ours.log_scale else theirs
        for _ in range(20):
            losses = torch.rand(3) + 0.1
            present = torch.ones(3, dtype=torch.bool)
            loss = ours.combine(losses, ours.task_weights(), present) if balancer is ours else theirs(losses)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert torch.allclose(ours.log_scale, theirs.log_scale, atol=1e-6)
    assert ours.log_scale.abs().max() > 0.1


def test_random_weights_are_a_softmax_of_normal_draws() -> None:
    balancer, losses = RandomWeight(seed=3).bind(2), torch.ones(2)
    logits = []
    for _ in range(2000):
        w = balancer.task_weights().double()
        assert torch.equal(balancer.task_weights().double(), w)  # the same until the step was taken
        logits.append(float((w[0] / w[1]).log()))
        balancer.observe(losses, BOTH)
    # log w_1 / w_2 = x_1 - x_2 is normal with variance two.
    assert kstest([value / 2**0.5 for value in logits], "norm").pvalue > 0.01


# -- gradients ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
def test_dual_proj_is_the_one_of_torchjd(size: int) -> None:
    for gramian in gramians(size):
        assert relative_error(DualProj().weights(gramian), DualProjWeighting()(normalize(gramian))) < 1e-4


def full_rank(size: int, columns: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(size)
    for spread in (0.0, -1.5):
        jacobian = torch.randn(size, columns or 2 * size + 3, dtype=torch.float64, generator=generator)
        jacobian = jacobian - 0.8 * jacobian.mean(0)
        yield jacobian * torch.logspace(spread, 0, size, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("size", SIZES)
def test_aligned_mtl_is_the_one_of_torchjd(size: int, scale: Any) -> None:
    for jacobian in full_rank(size):
        gramian = jacobian @ jacobian.mT
        wanted = AlignedMTLWeighting(scale_mode=scale)(gramian)
        assert relative_error(AlignedMTL(scale).weights(gramian), wanted) < 1e-4


@pytest.mark.parametrize("size", [2, 5, 20])
def test_aligned_mtl_of_dependent_gradients_is_the_one_of_torchjd(size: int) -> None:
    for jacobian in full_rank(size, columns=size // 2):
        gramian = jacobian @ jacobian.mT
        assert relative_error(AlignedMTL().weights(gramian), AlignedMTLWeighting()(gramian)) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_config_is_the_one_of_torchjd(size: int) -> None:
    for jacobian in full_rank(size):
        found = ConFIG().weights(jacobian @ jacobian.mT) @ jacobian
        assert relative_error(found, TorchJDConFIG()(jacobian)) < 1e-4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nash_solves_its_equation(size: int, dtype: torch.dtype) -> None:
    for jacobian in full_rank(size):
        gramian = (jacobian @ jacobian.mT).to(dtype)
        w = NashMTL(max_norm=None).weights(gramian).double()
        shares = w * (gramian.double() @ w) / torch.linalg.matrix_norm(gramian.double())
        assert float((shares - 1).abs().max()) < (1e-3 if dtype == torch.float32 else 1e-4) and bool((w > 0).all())


@pytest.mark.parametrize("size", [2, 3, 10])
def test_nash_is_the_maximum_that_cvxpy_finds(size: int) -> None:
    for jacobian in full_rank(size):
        gramian = normalize(jacobian @ jacobian.mT)
        gramian = gramian / torch.linalg.matrix_norm(gramian)
        w = cvxpy.Variable(size, pos=True)
        factor = torch.linalg.cholesky(gramian).mT.numpy()
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(factor @ w) / 2 - cvxpy.sum(cvxpy.log(w)))).solve(
            solver="CLARABEL"
        )
        assert relative_error(NashMTL(max_norm=None).weights(gramian), torch.tensor(w.value)) < 1e-4


def test_nash_cuts_the_step_to_its_norm() -> None:
    gramian = torch.tensor([[3.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    for scale in (1e-6, 1.0, 1e6):
        w = NashMTL(max_norm=0.5).weights(scale * gramian)
        length = float((w @ (scale * gramian) @ w).sqrt())
        assert length == pytest.approx(0.5) or (length < 0.5 and scale == 1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("size", [2, 3, 10, 40])
def test_fair_grad_solves_its_equation(size: int, alpha: float) -> None:
    for jacobian in full_rank(size):
        gramian = jacobian @ jacobian.mT
        w = FairGrad(alpha).weights(gramian)
        assert float(((gramian @ w) * w ** (1 / alpha) - 1).abs().max()) < 1e-4 and bool((w > 0).all())


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fair_grad_is_the_one_of_torchjd(alpha: float) -> None:
    for jacobian in full_rank(3):
        gramian = normalize(jacobian @ jacobian.mT)
        assert relative_error(FairGrad(alpha).weights(gramian), FairGradWeighting(alpha)(gramian)) < 1e-3


@pytest.mark.parametrize("size", [2, 3])
def test_grad_vac_follows_torchjd(size: int) -> None:
    torch.manual_seed(0)
    jacobians = list(full_rank(size))
    draws = 1 if size == 2 else 300
    found, wanted = [], []
    for _ in range(draws):
        ours, theirs = GradVac(beta=0.3, seed=len(found)).bind(size), GradVacWeighting(beta=0.3, eps=0.0)
        for jacobian in (*jacobians, *jacobians):  # the targets have moved after the first
            a, b = ours.weights(jacobian @ jacobian.mT), theirs(jacobian @ jacobian.mT)
        found.append(a)
        wanted.append(b)
    difference = (torch.stack(found).mean(0) - torch.stack(wanted).mean(0)).abs().max()
    noise = 0.0 if size == 2 else float(6 * torch.stack(wanted).std(0).max() / draws**0.5)
    assert float(difference) < 1e-6 + noise


def test_grad_vac_reaches_its_target() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    target = torch.tensor([[0.0, 0.6], [-1.0, 0.0]], dtype=torch.float64)
    orders = torch.tensor([[0, 1], [0, 1]])
    w, met = grad_vac_weights(jacobian @ jacobian.mT, orders, target)
    first = w @ jacobian - jacobian[1]
    cosine = first @ jacobian[1] / first.norm() / jacobian[1].norm()
    assert float(cosine) == pytest.approx(0.6)
    assert float(met[0, 1]) == pytest.approx(-1 / 5**0.5)


def test_grad_norm_moves_along_the_gradient_of_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        logits = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
        lengths, rates = torch.rand(2, 4, generator=generator, dtype=torch.float64) + 0.1
        present = torch.tensor([True, True, False, True])
        shares = torch.softmax(torch.where(present, logits, -torch.inf), 0)
        norms = shares * lengths  # the present tasks' weights have a constant sum
        average = norms.sum() / 3
        relative = rates / (rates[present].mean())
        loss = (norms - (average * relative**1.5).detach())[present].abs().sum()
        wanted = torch.autograd.grad(loss, logits)[0]
        found = grad_norm_gradient(logits.detach(), norms.detach(), rates, 1.5, present)
        assert torch.allclose(found, wanted, atol=1e-9)


def test_grad_norm_brings_the_gradients_to_one_length() -> None:
    balancer = GradNorm(alpha=0.0).bind(3)
    lengths = torch.tensor([0.1, 1.0, 5.0])
    for _ in range(800):
        norms = lengths * balancer.task_weights()
        balancer.weights(torch.diag(norms.square()), losses=torch.ones(3))
    assert float(norms.max() / norms.min()) < 1.1


def test_jacobi_is_eigh() -> None:
    for size in (1, 2, 5, 12, 40):
        for gramian in gramians(size):
            scaled = normalize(gramian)
            values, vectors = jacobi(scaled)
            assert torch.allclose(values, torch.linalg.eigvalsh(scaled), atol=1e-12)
            assert torch.allclose(vectors @ torch.diag(values) @ vectors.mT, scaled, atol=1e-12)
            assert torch.allclose(vectors.mT @ vectors, torch.eye(size, dtype=torch.float64), atol=1e-12)
