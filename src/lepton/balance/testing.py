"""The contract of balancers, to be run by their tests: also by those of a balancer that lives elsewhere.

    from lepton.balance.testing import GradientTraits, check_gradient_balancer

    def test_contract():
        check_gradient_balancer(lambda: MyBalancer(), GradientTraits(total=1.0))

Each property is a function of its own, named after what it demands; `GRADIENT_PROPERTIES` and `LOSS_PROPERTIES` list
them. A property that does not hold raises an `AssertionError` that says which numbers differ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from lepton.balance.base import Balancer
from lepton.errors import ConfigurationError

__all__ = [
    "GRADIENT_PROPERTIES",
    "LOSS_PROPERTIES",
    "GradientTraits",
    "LossTraits",
    "check_gradient_balancer",
    "check_loss_balancer",
    "gramians",
]

Make = Callable[[], Balancer]

NUMBERS = 7
"""Numbers in the shared parameters of the samples, for balancers that follow gradients."""


@dataclass(frozen=True)
class GradientTraits:
    """What a gradient balancer documents about its weights w.

    Attributes:
        total: what w sums to; None if that depends on the Gramian.
        degree: the power of s by which w grows when all losses are multiplied by s; 0 for no change.
        loss_weight: for two orthogonal gradients of norm 1 and 3, the ratio of their weights w_2 / w_1.
        conflict_free: each weight times the number of tasks, for orthogonal gradients of equal norm.
        two_tasks: the closed form of w for the Gramian [[1, -0.5], [-0.5, 2]].
        random: w depends on draws, so that permuting the tasks permutes its mean only.
        duplicates_share: a task and its copy get equal weights.
        symmetric: permuting the tasks permutes the weights; false for a method that is told what each task is.
        invalid: hyperparameters that must be refused, for the class that `make` gives.
        precision: relative error up to which the properties hold, for float64 Gramians.
        singular: relative error up to which an absent task changes nothing where the Gramian is rank-deficient; larger
            for a method that has no solution at a Pareto-stationary point, whose weights only rounding keeps finite.
    """

    total: float | None = None
    degree: float = 0.0
    loss_weight: float | None = None
    conflict_free: float | None = None
    two_tasks: tuple[float, float] | None = None
    random: bool = False
    duplicates_share: bool = True
    symmetric: bool = True
    invalid: tuple[Mapping[str, Any], ...] = ()
    precision: float = 1e-5
    singular: float = 1e-9


@dataclass(frozen=True)
class LossTraits:
    """What a loss balancer documents about its loss.

    Attributes:
        total: what `task_weights` sums to at first, for three tasks.
        gradient: weights of the task gradients at first, for losses (1, 2, 4); None to leave them open.
        degree: the power of s by which the gradient grows when all losses are multiplied by s; None if by no power.
        invalid: hyperparameters that must be refused, for the class that `make` gives.
        precision: relative error up to which the properties hold.
    """

    total: float | None = None
    gradient: tuple[float, float, float] | None = None
    degree: float | None = 1.0
    invalid: tuple[Mapping[str, Any], ...] = field(default=())
    precision: float = 1e-5


# -- samples ----------------------------------------------------------------------------------------------------
def _gramian(jacobian: Tensor) -> Tensor:
    return jacobian @ jacobian.mT


def gramians(n_tasks: int, seed: int = 0) -> dict[str, Tensor]:
    """Return Gramians [T, T] float64 by name: random, conflicting, of very different norms, of low rank."""
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(n_tasks, n_tasks + 3, dtype=torch.float64, generator=generator)
    norms = torch.logspace(-1, 1, n_tasks, dtype=torch.float64)
    low = jacobian[:, : max(1, n_tasks // 2)]
    return {
        "random": _gramian(jacobian),
        "conflicting": _gramian(jacobian - 0.9 * jacobian.mean(0)),
        "ill-conditioned": _gramian(norms[:, None] * jacobian),
        "rank-deficient": _gramian(low + 0.5),
    }


def _weights(make: Make, gramian: Tensor) -> Tensor:
    balancer = make().bind(len(gramian))
    losses = torch.linspace(0.5, 2, len(gramian), dtype=gramian.dtype, device=gramian.device)
    losses = torch.where(torch.diagonal(gramian) > 0, losses, 0.0)
    return balancer.weights(gramian, losses=losses if balancer.wants_losses else None)


def assert_close(actual: Tensor, expected: Tensor, precision: float, message: str) -> None:
    bound = precision * max(1.0, float(expected.abs().max()))
    worst = float((actual - expected).abs().max())
    assert worst <= bound, f"{message}: {actual.tolist()} is not {expected.tolist()} (differs by {worst:.2g})"


# -- properties of gradient balancers -----------------------------------------------------------------------------
def gives_one_weight_for_each_task_in_the_dtype_of_the_gramian(make: Make, traits: GradientTraits) -> None:
    """The result is a fresh finite tensor [T] of the Gramian's dtype, and the Gramian stays as it was."""
    for dtype in (torch.float32, torch.float64):
        for name, gramian in gramians(4).items():
            given = gramian.to(dtype)
            weights = _weights(make, given)
            assert weights.shape == (4,) and weights.dtype == dtype, f"{name}: {weights.dtype} {weights.shape}"
            assert bool(weights.isfinite().all()), f"{name}: {weights.tolist()}"
            assert torch.equal(given, gramian.to(dtype)), f"{name}: the Gramian was changed"


def follows_a_permutation_of_the_tasks(make: Make, traits: GradientTraits) -> None:
    """Permuting the tasks permutes the weights, or their mean over many draws if the method draws."""
    if not traits.symmetric:
        return
    order = torch.tensor([2, 0, 3, 1])
    for name, gramian in gramians(4).items():
        if name == "rank-deficient" and not traits.duplicates_share:
            continue
        moved = gramian[order][:, order]
        losses = torch.ones(4, dtype=torch.float64)
        first, second = make().bind(4), make().bind(4)
        draws = 400 if traits.random else 1
        a = torch.stack([first.weights(gramian, losses=losses) for _ in range(draws)])
        b = torch.stack([second.weights(moved, losses=losses) for _ in range(draws)])
        noise = float(5 * a.std(0).max() / draws**0.5) if traits.random else 0.0
        assert_close(b.mean(0), a.mean(0)[order], traits.precision + noise, f"{name}, permuted")


def sums_to_its_documented_total(make: Make, traits: GradientTraits) -> None:
    """The weights of the present tasks sum to `total`."""
    if traits.total is None:
        return
    for size in (1, 2, 5):
        for name, gramian in gramians(size).items():
            total = _weights(make, gramian).sum()
            assert_close(total, torch.tensor(traits.total, dtype=torch.float64), traits.precision, name)


def scales_as_documented(make: Make, traits: GradientTraits) -> None:
    """Multiplying all gradients by s multiplies the weights by s ** `degree`, for s^2 from 1e-15 to 1e15."""
    for name, gramian in gramians(4).items():
        expected = _weights(make, gramian)
        for square in (1e-15, 1e-6, 1e6, 1e15):
            weights = _weights(make, gramian * square) / square ** (traits.degree / 2)
            assert_close(weights, expected, traits.precision, f"{name}, Gramian times {square:g}")


def treats_loss_weight_as_documented(make: Make, traits: GradientTraits) -> None:
    """A loss weight of three on one of two orthogonal tasks changes the ratio of their weights to `loss_weight`."""
    if traits.loss_weight is None:
        return
    weights = _weights(make, torch.diag(torch.tensor([1.0, 9.0], dtype=torch.float64)))
    expected = torch.tensor(traits.loss_weight, dtype=torch.float64)
    assert_close(weights[1] / weights[0], expected, 1e-3, "ratio of the weights")


def ignores_an_absent_task(make: Make, traits: GradientTraits) -> None:
    """A zero row and column get weight zero and leave the other weights as they are without them."""
    kept = torch.tensor([0, 2, 3])
    for name, gramian in gramians(3).items():
        wide = torch.zeros(4, 4, dtype=torch.float64)
        wide[kept[:, None], kept] = gramian
        losses = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        without = make().bind(3).weights(gramian, losses=losses)
        weights = make().bind(4).weights(wide, losses=torch.zeros(4, dtype=torch.float64).index_copy(0, kept, losses))
        assert float(weights[1]) == 0.0, f"{name}: the absent task got {float(weights[1])}"
        precision = traits.singular if name == "rank-deficient" else 1e-9
        assert_close(weights[kept], without, precision, f"{name}, with an absent task")


def shares_between_duplicates(make: Make, traits: GradientTraits) -> None:
    """A task and its copy get equal weights, up to 1e-3: how they share is ill-conditioned, their sum is not."""
    order = torch.tensor([0, 1, 2, 0])
    for name, gramian in gramians(3).items():
        balancer, given = make().bind(4), gramian[order][:, order]
        weights = balancer.weights(given, losses=torch.ones(4, dtype=torch.float64))
        assert bool(weights.isfinite().all()), f"{name}: {weights.tolist()}"
        if traits.duplicates_share:
            assert_close(weights[3], weights[0], 1e-3, f"{name}, the copy")


def weighs_a_single_task(make: Make, traits: GradientTraits) -> None:
    """A Gramian of one task gives a positive weight: whatever is balanced, the trunk learns."""
    for square in (1e-15, 1.0, 1e15):
        weight = _weights(make, torch.tensor([[square]], dtype=torch.float64))
        assert weight.shape == (1,) and float(weight) > 0, f"a single task got {weight.tolist()}"


def has_its_closed_form_for_two_tasks(make: Make, traits: GradientTraits) -> None:
    """The weights for [[1, -0.5], [-0.5, 2]] are `two_tasks`."""
    if traits.two_tasks is not None:
        weights = _weights(make, torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=torch.float64))
        assert_close(weights, torch.tensor(traits.two_tasks, dtype=torch.float64), 1e-3, "two tasks")


def reaches_its_limit_without_conflict(make: Make, traits: GradientTraits) -> None:
    """Orthogonal gradients of equal norm get the weight `conflict_free` / T each."""
    if traits.conflict_free is not None:
        weights = _weights(make, 4 * torch.eye(4, dtype=torch.float64))
        assert_close(weights, torch.full_like(weights, traits.conflict_free / 4), 1e-3, "no conflict")


def stays_finite_on_adversarial_gramians(make: Make, traits: GradientTraits) -> None:
    """All zero, opposite, equal, of extreme norms, and not quite positive semidefinite: finite all the same."""
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    extreme = torch.diag(torch.tensor([1e-30, 1.0, 1e30]))
    indefinite = torch.ones(3, 3) + 1e-6 * torch.tensor([[0.0, 1, 1], [1, -1, 1], [1, 1, -1]])
    tiny = torch.full((3, 3), 1e-38)
    for gramian in (torch.zeros(3, 3), opposite, torch.ones(5, 5), extreme, indefinite, tiny):
        weights = _weights(make, gramian)
        assert bool(weights.isfinite().all()), f"{gramian.tolist()} gives {weights.tolist()}"


def does_not_synchronise_with_the_host(make: Make, traits: GradientTraits) -> None:
    """The weights are computed without reading a value from a tensor: under FakeTensorMode a read raises."""
    del traits
    with FakeTensorMode() as mode, torch.no_grad():
        balancer = faked(make, 5, mode)
        gramian, losses = torch.ones(5, 5), torch.ones(5)
        assert balancer.weights(gramian, losses=losses).shape == (5,)
        balancer.observe(losses, losses > 0)
        balancer.reobserve(losses, losses > 0)


def faked(make: Make, n_tasks: int, mode: FakeTensorMode) -> Balancer:
    """Return a balancer whose state has shapes but no values."""
    with unset_fake_temporarily():
        balancer = make().bind(n_tasks)
    if balancer.uses_jacobian:
        with unset_fake_temporarily():
            balancer.bind_parameters(NUMBERS, torch.device("cpu"))
    for module in balancer.modules():
        for name, value in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(value))
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, mode.from_tensor(parameter))
    return balancer


def _trajectory(balancer: Balancer, n_steps: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = []
    for step in range(n_steps):
        gramian = gramians(3, seed + step)["conflicting"].float()
        losses = torch.rand(3, generator=generator) + 0.5
        present = torch.tensor([True, step % 3 != 1, True])
        losses, gramian = losses * present, gramian * present * present[:, None]
        balancer.observe(losses, present)
        result.append(balancer.task_weights().detach().clone())
        if balancer.uses_jacobian:
            balancer.bind_parameters(NUMBERS, torch.device("cpu"))
            jacobian = torch.randn(3, NUMBERS, generator=generator) * present[:, None]
            weights, rows = balancer.track(jacobian)
            result.append(weights @ rows)
        if balancer.uses_gramian:
            result.append(balancer.weights(gramian, losses=losses).clone())
    return result


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def restores_its_trajectory_from_the_state_dict(make: Make, traits: object) -> None:
    """A new balancer that loads the `state_dict` goes on bit for bit, and a copy does not move the original."""
    balancer = make().bind(3)
    _trajectory(balancer, 5, seed=0)
    state = {key: value.clone() for key, value in balancer.state_dict().items()}
    restored, twin = make(), copy.deepcopy(balancer)
    restored.bind(3).load_state_dict(state)
    _trajectory(twin, 3, seed=9)
    for key, value in balancer.state_dict().items():
        assert torch.equal(value, state[key]), f"a copy changed {key} of the original"
    assert _same(_trajectory(restored, 5, seed=5), _trajectory(balancer, 5, seed=5)), "the trajectory differs"


def keeps_its_state_in_float32(make: Make, traits: object) -> None:
    """`model.bfloat16()` does not round the state."""
    balancer = make().bind(3)
    _trajectory(balancer, 3, seed=0)
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    for key, value in balancer.bfloat16().state_dict().items():
        assert value.dtype == before[key].dtype and torch.equal(value, before[key]), f"{key} became {value.dtype}"


def refuses_invalid_hyperparameters(make: Make, traits: GradientTraits | LossTraits) -> None:
    """Every set of hyperparameters in `invalid` raises a `ConfigurationError` that names one and its range."""
    for arguments in traits.invalid:
        try:
            type(make())(**arguments)
        except ConfigurationError as error:
            assert any(name in str(error) for name in arguments), f"{error} names none of {list(arguments)}"
            assert " must be " in str(error), f"{error} does not say what is allowed"
        else:
            raise AssertionError(f"{arguments} was accepted")


def serves_one_number_of_tasks(make: Make, traits: object) -> None:
    """Binding twice to the same number changes nothing, to another raises a `ConfigurationError`."""
    balancer = make().bind(3)
    before = dict(balancer.state_dict())
    assert all(
        value is before[key] or torch.equal(value, before[key]) for key, value in balancer.bind(3).state_dict().items()
    )
    try:
        balancer.bind(4)
    except ConfigurationError:
        return
    raise AssertionError("bind(4) after bind(3) was accepted")


# -- properties of loss balancers ---------------------------------------------------------------------------------
def _loss_gradient(balancer: Balancer, losses: Tensor, present: Tensor) -> Tensor:
    leaf = losses.clone().requires_grad_()
    loss = balancer.combine(leaf, balancer.task_weights(), present)
    assert loss.shape == (), f"the loss has shape {tuple(loss.shape)}"
    return torch.autograd.grad(loss, leaf)[0]


def weighs_losses_as_documented(make: Make, traits: LossTraits) -> None:
    """At first `task_weights` sums to `total` and the gradient for losses (1, 2, 4) is `gradient`."""
    balancer, present = make().bind(3), torch.ones(3, dtype=torch.bool)
    weights = balancer.task_weights().detach()
    assert weights.shape == (3,), f"the weights have shape {tuple(weights.shape)}"
    if traits.total is not None:
        assert_close(weights.sum(), torch.tensor(traits.total), traits.precision, "sum of task_weights")
    if traits.gradient is not None:
        gradient = _loss_gradient(balancer, torch.tensor([1.0, 2.0, 4.0]), present)
        assert_close(gradient, torch.tensor(traits.gradient), traits.precision, "weights of the gradients")


def scales_its_gradient_as_documented(make: Make, traits: LossTraits) -> None:
    """Multiplying all L_k by s multiplies the gradient of the network by s ** `degree`."""
    if traits.degree is None:
        return
    present, losses = torch.ones(3, dtype=torch.bool), torch.tensor([1.0, 2.0, 4.0])
    expected = _loss_gradient(make().bind(3), losses, present)
    for scale in (1e-3, 1e3):
        gradient = scale * _loss_gradient(make().bind(3), scale * losses, present) / scale**traits.degree
        assert_close(gradient, expected, 10 * traits.precision, f"losses times {scale:g}")


def leaves_an_absent_task_alone(make: Make, traits: LossTraits) -> None:
    """The loss and the others' gradients do not depend on an absent task's entry, nor does its state move."""
    del traits
    present = torch.tensor([True, False, True])
    results = []
    for entry in (0.0, 7.0):
        balancer = make().bind(3)
        before = {key: value.clone() for key, value in balancer.state_dict().items()}
        losses = torch.tensor([1.0, entry, 2.0])
        for _ in range(3):
            balancer.observe(losses * present, present)
            balancer.reobserve(0.5 * losses * present, present)
        for key, value in balancer.state_dict().items():
            if value.shape == (3,):
                assert torch.equal(value[1], before[key][1]), f"{key} of the absent task moved to {value[1]}"
        results.append(_loss_gradient(balancer, losses * present, present)[present])
    assert_close(results[1], results[0], 0.0, "gradients of the present tasks")


def stays_finite_on_adversarial_losses(make: Make, traits: LossTraits) -> None:
    """Zero, tiny and huge losses, and a batch without any label, give a finite loss and gradient."""
    for values in ([0.0, 0.0, 0.0], [1e-30, 1.0, 1e30], [1e-15, 1e15, 1.0]):
        for flags in ([True, True, True], [True, False, False], [False, False, False]):
            balancer, present = make().bind(3), torch.tensor(flags)
            losses = torch.tensor(values) * present
            for _ in range(3):
                balancer.observe(losses, present)
                balancer.reobserve(losses, present)
            gradient = _loss_gradient(balancer, losses, present)
            finite = bool(gradient.isfinite().all() and balancer.task_weights().isfinite().all())
            assert finite, f"losses {values}, present {flags}: {gradient.tolist()}"


def observes_without_synchronising(make: Make, traits: LossTraits) -> None:
    """`observe` and `reobserve` read no value from a tensor: under FakeTensorMode a read raises."""
    del traits
    with FakeTensorMode() as mode, torch.no_grad():
        balancer = faked(make, 3, mode)
        losses, present = torch.ones(3), torch.ones(3, dtype=torch.bool)
        balancer.observe(losses, present)
        balancer.reobserve(losses, present)
        assert balancer.combine(losses, balancer.task_weights(), present).shape == ()


GRADIENT_PROPERTIES: tuple[Callable[[Make, GradientTraits], None], ...] = (
    gives_one_weight_for_each_task_in_the_dtype_of_the_gramian,
    follows_a_permutation_of_the_tasks,
    sums_to_its_documented_total,
    scales_as_documented,
    treats_loss_weight_as_documented,
    ignores_an_absent_task,
    shares_between_duplicates,
    weighs_a_single_task,
    has_its_closed_form_for_two_tasks,
    reaches_its_limit_without_conflict,
    stays_finite_on_adversarial_gramians,
    does_not_synchronise_with_the_host,
    restores_its_trajectory_from_the_state_dict,
    keeps_its_state_in_float32,
    refuses_invalid_hyperparameters,
    serves_one_number_of_tasks,
)
"""What every gradient balancer must do."""

LOSS_PROPERTIES: tuple[Callable[[Make, LossTraits], None], ...] = (
    weighs_losses_as_documented,
    scales_its_gradient_as_documented,
    leaves_an_absent_task_alone,
    stays_finite_on_adversarial_losses,
    observes_without_synchronising,
    restores_its_trajectory_from_the_state_dict,
    keeps_its_state_in_float32,
    refuses_invalid_hyperparameters,
    serves_one_number_of_tasks,
)
"""What every loss balancer must do."""


def check_gradient_balancer(make: Make, traits: GradientTraits | None = None) -> None:
    """Run every property of `GRADIENT_PROPERTIES` on the balancers that `make` gives.

    Args:
        make: returns a new, unbound balancer at every call.
        traits: what the balancer documents; by default only that its weights ignore the scale of the losses.

    Raises:
        AssertionError: a property does not hold.

    Example:
        >>> from lepton.balance import MGDA
        >>> check_gradient_balancer(MGDA, GradientTraits(total=1.0))
    """
    for holds in GRADIENT_PROPERTIES:
        holds(make, traits or GradientTraits())


def check_loss_balancer(make: Make, traits: LossTraits | None = None) -> None:
    """Run every property of `LOSS_PROPERTIES` on the balancers that `make` gives, for three tasks.

    Args:
        make: returns a new, unbound balancer at every call.
        traits: what the balancer documents; by default that its gradient is linear in the losses.

    Raises:
        AssertionError: a property does not hold.

    Example:
        >>> from lepton.balance import Equal
        >>> check_loss_balancer(Equal, LossTraits(total=3.0))
    """
    for holds in LOSS_PROPERTIES:
        holds(make, traits or LossTraits())
