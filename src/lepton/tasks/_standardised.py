"""What the kinds share whose heads work in standardised units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from lepton.errors import TargetError, require, shape_of
from lepton.tasks.base import Task


class Standardised(Task):
    """Numbers in several columns, each with a mean and a standard deviation of the training targets."""

    loss_buffer = "std"
    column: ClassVar[str]
    """What a column is called in messages."""
    mean: Tensor
    std: Tensor
    has_statistics: Tensor

    def _set_statistics(
        self,
        columns: int,
        mean: float | Sequence[float] | Tensor | None,
        std: float | Sequence[float] | Tensor | None,
    ) -> None:
        """Register the buffers `mean` and `std` [columns]: as given, or 0 and 1."""
        self.register_buffer("mean", self._statistic("mean", 0.0 if mean is None else mean, columns))
        self.register_buffer("std", self._statistic("std", 1.0 if std is None else std, columns))
        require(bool((self.std > 0).all()), self.owner, "std", std, "> 0")
        self.register_buffer("has_statistics", torch.tensor(mean is not None or std is not None))

    def _statistic(self, argument: str, given: float | Sequence[float] | Tensor, columns: int) -> Tensor:
        allowed = f"one finite number or {columns}, one per {self.column}"
        require(shape_of(given) in ((), (1,), (columns,)), self.owner, argument, given, allowed)
        value = torch.as_tensor(given, dtype=torch.float32).detach()
        require(bool(torch.isfinite(value).all()), self.owner, argument, given, allowed)
        return value.expand(columns).clone()

    @property
    def fitted(self) -> bool:
        """Whether `mean` and `std` were given, fitted or loaded."""
        return bool(self.has_statistics)

    @torch.no_grad()
    def fit_statistics(self, targets: Tensor) -> Self:
        """Set `mean` and `std` from the training targets, ignoring missing labels; return the task.

        The standard deviation is the one of the population (divided by N); that of a constant column is set to 1.

        Args:
            targets: [N, ...] for one column, [N, ..., columns] for several, in original units.

        Raises:
            TargetError: no tensor of real numbers, a column without a label, a last dimension of another size.
        """
        number = len(self.mean)
        if not isinstance(targets, Tensor) or targets.is_complex():
            kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
            raise TargetError(f"{self.owner}: statistics need a tensor of real numbers, but the targets are {kind}.")
        if number > 1 and (targets.ndim == 0 or targets.shape[-1] != number):
            raise TargetError(
                f"{self.owner}: targets {list(targets.shape)} have {number} {self.column}s: [N, {number}]."
            )
        columns = targets.detach().cpu().double().reshape(-1, number)
        present = self.mask(columns)
        labels = present.sum(0)
        if not labels.all():
            raise TargetError(
                f"{self.owner}: {self.column} {int(labels.argmin())} has no label to fit statistics from."
            )
        mean = columns.where(present, 0).sum(0) / labels
        variance = (columns - mean).where(present, 0).square().sum(0) / labels
        lowest, highest = columns.where(present, math.inf).amin(0), columns.where(present, -math.inf).amax(0)
        # Equal, not a small variance: rounding gives equal numbers a variance that is not quite zero.
        std = variance.sqrt().float()
        self.mean.copy_(mean)
        self.std.copy_(std.where((highest > lowest) & (std > 0), 1.0))
        self.has_statistics.fill_(True)
        return self
