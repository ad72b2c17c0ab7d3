"""The tasks' gradients at the fork, measured batch by batch on a copy of the model."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lepton.errors import DataError
from lepton.evaluate import to_device
from lepton.insight._estimate import Estimate
from lepton.nn import LeptonModel, MultiTaskLoss

__all__ = ["GradientRecord", "ViewDistance", "measure_gradients", "view_distance"]

_NEVER_CLIPS = 1e15
"""A bound on the tasks' gradients that makes every fork form the Gramian and changes nothing."""


@dataclass(frozen=True)
class GradientRecord:
    """What N batches showed; estimates have the 95 % interval over the batches.

    Attributes:
        tasks: their names, in the order of T.
        view: how the gradients were looked at.
        losses: [N, T], NaN where a task had no label.
        gramians: [N, T, T], inner products of the gradients of the unweighted losses.
        weights: [N, T], what the balancer gave.
    """

    tasks: tuple[str, ...]
    view: str
    losses: Tensor
    gramians: Tensor
    weights: Tensor

    @property
    def loss(self) -> dict[str, Estimate]:
        """Task -> its mean loss."""
        return {name: _estimate(self.losses[:, place]) for place, name in enumerate(self.tasks)}

    @property
    def norms(self) -> Tensor:
        """[N, T] norms of the tasks' gradients, NaN where there was none."""
        squares = self.gramians.diagonal(dim1=1, dim2=2)
        return torch.where(squares > 0, squares, torch.nan).sqrt()

    @property
    def norm(self) -> dict[str, Estimate]:
        """Task -> norm of its gradient."""
        norms = self.norms
        return {name: _estimate(norms[:, place]) for place, name in enumerate(self.tasks)}

    @property
    def weight_share(self) -> dict[str, Estimate]:
        """Task -> share of the balancer's weights that it got."""
        shares = self.weights / self.weights.abs().sum(1, keepdim=True)
        shares = torch.where(torch.isfinite(self.losses), shares, torch.nan)
        return {name: _estimate(shares[:, place]) for place, name in enumerate(self.tasks)}

    @property
    def cosines(self) -> Tensor:
        """[N, T, T] cosines between the tasks' gradients, NaN where one of them had none."""
        return self.gramians / (self.norms[:, :, None] * self.norms[:, None])

    @property
    def cosine(self) -> dict[tuple[str, str], Estimate]:
        """Pair of tasks -> cosine of their gradients."""
        cosines = self.cosines
        pairs = itertools.combinations(range(len(self.tasks)), 2)
        return {(self.tasks[a], self.tasks[b]): _estimate(cosines[:, a, b]) for a, b in pairs}


def _estimate(values: Tensor) -> Estimate:
    return Estimate.of(values[torch.isfinite(values)].tolist())


def measure_gradients(
    model: LeptonModel,
    batches: Iterable[tuple[Any, Mapping[str, Tensor]]],
    *,
    gradients: str | None = None,
    seed: int = 0,
) -> GradientRecord:
    """Measure losses and gradients of every task on batches, in train mode, without moving anything.

    The model, its balancer and torch's random numbers are as before afterwards: a copy is measured.

    Args:
        model: the model.
        batches: pairs (inputs, targets).
        gradients: the view; by default the model's own.
        seed: fixes dropout, so that two views see the same network.

    Raises:
        DataError: there is no batch.

    Example:
        >>> from lepton.tasks import Regression
        >>> model = LeptonModel(torch.nn.Linear(2, 4), [Regression("a"), Regression("b")])
        >>> batch = torch.randn(8, 2), {"a": torch.ones(8), "b": torch.ones(8)}
        >>> measure_gradients(model, [batch, batch]).cosine["a", "b"].n
        2
    """
    measured = copy.deepcopy(model).train()
    fork = measured.fork
    fork.gradients = fork.gradients if gradients is None else gradients
    fork.max_task_grad_norm, fork.gradient_accumulation_steps = _NEVER_CLIPS, 1
    criterion = MultiTaskLoss(measured)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for inputs, targets in batches:
            found.append(_one(measured, criterion, to_device((inputs, dict(targets)), measured.device)))
    if not found:
        raise DataError("measure_gradients: there are no batches.")
    losses, gramians, weights = (torch.stack(parts).cpu() for parts in zip(*found, strict=True))
    return GradientRecord(measured.task_names, fork.gradients, losses, gramians, weights)


def _one(model: LeptonModel, criterion: MultiTaskLoss, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs, targets = batch
    model.zero_grad()
    outputs, task_weights = model(inputs)
    criterion(outputs, targets, task_weights).backward()
    losses, present, factors = criterion.last_losses, criterion.last_present, criterion.last_factors
    gramian, weights = model.fork.gramian, model.fork.weights
    assert losses is not None and present is not None and factors is not None
    assert gramian is not None and weights is not None, "the bound makes every fork form its Gramian"
    safe = torch.where(factors > 0, factors, 1.0)
    return (
        torch.where(present, losses, torch.nan),
        gramian / (safe[:, None] * safe[None]),
        weights.clone(),
    )


@dataclass(frozen=True)
class ViewDistance:
    """How far a view is from another on the same batches.

    Attributes:
        weights: half the sum of the absolute differences of the balancer's weights, each divided by their sum; 0 is
            the same, 1 is all weight on other tasks.
        cosines: mean absolute difference of the cosines.
    """

    weights: Estimate
    cosines: Estimate


def view_distance(view: GradientRecord, reference: GradientRecord) -> ViewDistance:
    """Return how far one view's weights and cosines are from those of another on the same batches.

    Args:
        view: what was measured by it.
        reference: the same by the other.

    Example:
        >>> from lepton.tasks import Regression
        >>> model = LeptonModel(torch.nn.Linear(2, 4), [Regression("a"), Regression("b")])
        >>> record = measure_gradients(model, [(torch.randn(8, 2), {"a": torch.ones(8), "b": torch.ones(8)})])
        >>> view_distance(record, record).weights.mean
        0.0
    """
    shares = [record.weights / record.weights.abs().sum(1, keepdim=True) for record in (view, reference)]
    apart = (shares[0] - shares[1]).abs().sum(1) / 2
    upper = torch.ones_like(view.gramians[0]).triu(1) > 0
    cosines = (view.cosines - reference.cosines).abs()[:, upper]
    return ViewDistance(_estimate(apart), _estimate(cosines.nanmean(1)))
