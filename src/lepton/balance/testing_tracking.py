"""The contract of balancers that follow the tasks' gradients, beside `lepton.balance.testing`.

from lepton.balance.testing_tracking import TrackingTraits, check_tracking_balancer


def test_contract():
    check_tracking_balancer(lambda: MyBalancer(), TrackingTraits(total=1.0))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lepton.balance.testing import (
    NUMBERS,
    Make,
    assert_close,
    faked,
    keeps_its_state_in_float32,
    refuses_invalid_hyperparameters,
    restores_its_trajectory_from_the_state_dict,
    serves_one_number_of_tasks,
)

__all__ = ["TRACKING_PROPERTIES", "TrackingTraits", "check_tracking_balancer"]


@dataclass(frozen=True)
class TrackingTraits:
    """What a balancer documents that follows the tasks' gradients.

    Attributes:
        total: what its weights sum to; None if that depends on the gradients.
        first: the trunk's gradient after the first batch with the gradients (1, 0) and (0, 2); None to leave it open.
        invalid: hyperparameters that must be refused, for the class that `make` gives.
        precision: relative error up to which the properties hold.
    """

    total: float | None = None
    first: tuple[float, float] | None = None
    invalid: tuple[Mapping[str, Any], ...] = ()
    precision: float = 1e-5


def _followed(make: Make, steps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the weights and the trunk's gradient of every step."""
    balancer = make().bind(len(steps[0]))
    balancer.bind_parameters(steps[0].shape[1], torch.device("cpu"))
    found = []
    for jacobian in steps:
        weights, rows = balancer.track(jacobian.clone())
        found.append((weights.clone(), weights @ rows))
    return found


def _steps(n_tasks: int, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n_tasks, NUMBERS, generator=generator) for _ in range(count)]


def begins_as_documented(make: Make, traits: TrackingTraits) -> None:
    """The first step's direction is `first`, the weights sum to `total`, and all are finite float32."""
    if traits.first is not None:
        (_, direction), *_ = _followed(make, [torch.tensor([[1.0, 0.0], [0.0, 2.0]])])
        assert_close(direction, torch.tensor(traits.first), 1e-4, "the first step")
    for weights, direction in _followed(make, _steps(5)):
        assert weights.shape == (5,) and weights.dtype == direction.dtype == torch.float32
        assert direction.shape == (NUMBERS,) and bool(direction.isfinite().all())
        if traits.total is not None:
            assert_close(weights.sum(), torch.tensor(traits.total), traits.precision, "sum of the weights")


def follows_a_permutation_of_the_gradients(make: Make, traits: TrackingTraits) -> None:
    """Permuting the tasks permutes the weights and leaves the trunk's gradient as it is."""
    order = torch.tensor([2, 0, 3, 1])
    plain, moved = _followed(make, _steps(4)), _followed(make, [jacobian[order] for jacobian in _steps(4)])
    for (weights, direction), (permuted, same) in zip(plain, moved, strict=True):
        assert_close(permuted, weights[order], traits.precision, "permuted")
        assert_close(same, direction, traits.precision, "the trunk's gradient")


def drops_a_task_that_never_came(make: Make, traits: TrackingTraits) -> None:
    """A zero row gets weight zero and leaves the others and the trunk's gradient as they are without it."""
    kept = torch.tensor([0, 2, 3])
    wide = [torch.zeros(4, NUMBERS).index_copy(0, kept, jacobian) for jacobian in _steps(3)]
    for (weights, direction), (others, same) in zip(_followed(make, wide), _followed(make, _steps(3)), strict=True):
        assert float(weights[1]) == 0.0, f"the absent task got {float(weights[1])}"
        assert_close(weights[kept], others, traits.precision, "with an absent task")
        assert_close(direction, same, traits.precision, "the trunk's gradient with an absent task")


def keeps_the_state_of_an_absent_task(make: Make, traits: TrackingTraits) -> None:
    """A batch without a task does not move the task's numbers in the state."""
    del traits
    balancer, jacobian = make().bind(3), _steps(3, 2)
    balancer.bind_parameters(NUMBERS, torch.device("cpu"))
    balancer.track(jacobian[0].clone())
    before = {key: value.clone() for key, value in balancer.state_dict().items() if value.ndim}
    balancer.track(jacobian[1] * torch.tensor([[1.0], [0.0], [1.0]]))
    after = balancer.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key][..., 1], value[..., 1]), f"{key} of the absent task moved"
    assert any(not torch.equal(after[key][..., 0], value[..., 0]) for key, value in before.items()), "nothing moved"


def stays_finite_on_adversarial_gradients(make: Make, traits: TrackingTraits) -> None:
    """No task at all, opposite, equal and extreme gradients, and a single task."""
    del traits
    row = torch.arange(1.0, 4.0)
    zeros, opposite = torch.zeros(3, 3), torch.stack([row, -row, row])
    extreme = torch.stack([1e-12 * row, row, 1e12 * row])
    for steps in ([zeros, opposite, zeros], [opposite, opposite], [extreme, zeros, extreme], [row[None], row[None]]):
        for weights, direction in _followed(make, steps):
            assert bool(weights.isfinite().all() and direction.isfinite().all()), f"{steps}: {weights} {direction}"


def tracks_without_synchronising(make: Make, traits: TrackingTraits) -> None:
    """`track` reads no value from a tensor: under FakeTensorMode a read raises."""
    del traits
    with FakeTensorMode() as mode, torch.no_grad():
        weights, rows = faked(make, 3, mode).track(torch.ones(3, NUMBERS))
        assert weights.shape == (3,) and rows.shape == (3, NUMBERS)


TRACKING_PROPERTIES: tuple[Callable[[Make, Any], None], ...] = (
    begins_as_documented,
    follows_a_permutation_of_the_gradients,
    drops_a_task_that_never_came,
    keeps_the_state_of_an_absent_task,
    stays_finite_on_adversarial_gradients,
    tracks_without_synchronising,
    restores_its_trajectory_from_the_state_dict,
    keeps_its_state_in_float32,
    refuses_invalid_hyperparameters,
    serves_one_number_of_tasks,
)
"""What every balancer must do that follows the tasks' gradients."""


def check_tracking_balancer(make: Make, traits: TrackingTraits | None = None) -> None:
    """Run every property of `TRACKING_PROPERTIES` on the balancers that `make` gives.

    Args:
        make: returns a new, unbound balancer at every call.
        traits: what the balancer documents; by default nothing.

    Raises:
        AssertionError: a property does not hold.

    Example:
        >>> from lepton.balance import MoCo
        >>> check_tracking_balancer(MoCo, TrackingTraits(total=1.0))
    """
    for holds in TRACKING_PROPERTIES:
        holds(make, traits or TrackingTraits())
