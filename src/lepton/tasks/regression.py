"""Numbers, in units of their own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from lepton.errors import TargetError, is_whole, nearest, require, shape_of
from lepton.tasks._categorical import along, label_shape, reshaping
from lepton.tasks.base import Task, at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Regression"]

LOSSES = ("mse", "mae", "huber")


class Regression(Task):
    """One number, or several, per label position: outputs and labels [...], or [..., outputs] for several.

    The head works in standardised units and `finish` maps to the original ones: output = raw * std + mean. Losses
    act on r = (output - target) / std:

        mse: r^2        mae: |r|        huber: r^2 / 2 where |r| < 1, otherwise |r| - 1/2  (Huber, 1964).

    Args:
        name: name of the task, without `.`.
        outputs: how many numbers are predicted.
        mean: mean of the training targets in original units, one number or one per output; None: 0 until
            `fit_statistics`.
        std: their standard deviation, > 0; None: 1 until `fit_statistics`.
        loss: "mse", "mae" or "huber".
        missing: a further value that marks a missing label, such as -999.
        head: your own head, features to raw outputs [..., outputs]; None makes a linear layer.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = Regression("price").fit_statistics(torch.tensor([100.0, 300.0, float("nan")]))
        >>> task.finish(torch.tensor([[0.0], [1.0]])).tolist()
        [200.0, 300.0]
        >>> losses, counts = task.label_losses(torch.tensor([200.0]), torch.tensor([400.0]))
        >>> losses.tolist()
        [4.0]
    """

    loss_buffer = "std"
    mean: Tensor
    std: Tensor
    has_statistics: Tensor

    def __init__(
        self,
        name: str,
        outputs: int = 1,
        *,
        mean: float | Sequence[float] | Tensor | None = None,
        std: float | Sequence[float] | Tensor | None = None,
        loss: Literal["mse", "mae", "huber"] = "mse",
        missing: float = math.nan,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(
            name, head=head, missing=missing, loss_weight=loss_weight, priority=priority, auxiliary=auxiliary
        )
        require(is_whole(outputs), self.owner, "outputs", outputs, "an integer >= 1")
        suggestion = nearest(loss, LOSSES) if isinstance(loss, str) else ""
        require(loss in LOSSES, self.owner, "loss", loss, f"one of {', '.join(LOSSES)}{suggestion}")
        self.outputs = outputs
        self.loss_name = loss
        self.register_buffer("mean", self._statistic("mean", 0.0 if mean is None else mean))
        self.register_buffer("std", self._statistic("std", 1.0 if std is None else std))
        require(bool((self.std > 0).all()), self.owner, "std", std, "> 0")
        self.register_buffer("has_statistics", torch.tensor(mean is not None or std is not None))
        self.primary_metric = "rmse"
        self.higher_is_better = {"mae": False, "rmse": False, "r2": True}

    def _statistic(self, argument: str, given: float | Sequence[float] | Tensor) -> Tensor:
        allowed = f"one finite number or {self.outputs}, one per output"
        require(shape_of(given) in ((), (1,), (self.outputs,)), self.owner, argument, given, allowed)
        value = torch.as_tensor(given, dtype=torch.float32).detach()
        require(bool(torch.isfinite(value).all()), self.owner, argument, given, allowed)
        return value.expand(self.outputs).clone()

    # -- statistics -------------------------------------------------------------------------------------------
    @property
    def fitted(self) -> bool:
        """Whether `mean` and `std` were given, fitted or loaded."""
        return bool(self.has_statistics)

    @torch.no_grad()
    def fit_statistics(self, targets: Tensor) -> Self:
        """Set `mean` and `std` from the training targets, ignoring missing labels; return the task.

        The standard deviation is the one of the population (divided by N); that of a constant output is set to 1.

        Args:
            targets: [N, ...] for one output, [N, ..., outputs] for several, in original units.

        Raises:
            TargetError: no tensor of real numbers, an output without a label, a last dimension that is not `outputs`.
        """
        if not isinstance(targets, Tensor) or targets.is_complex():
            kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
            raise TargetError(f"{self.owner}: statistics need a tensor of real numbers, but the targets are {kind}.")
        if self.outputs > 1 and (targets.ndim == 0 or targets.shape[-1] != self.outputs):
            raise TargetError(
                f"{self.owner}: targets {list(targets.shape)} have {self.outputs} outputs: [N, {self.outputs}]."
            )
        columns = targets.detach().cpu().double().reshape(-1, self.outputs)
        present = self.mask(columns)
        labels = present.sum(0)
        if not labels.all():
            raise TargetError(f"{self.owner}: output {int(labels.argmin())} has no label to fit statistics from.")
        mean = columns.where(present, 0).sum(0) / labels
        variance = (columns - mean).where(present, 0).square().sum(0) / labels
        lowest, highest = columns.where(present, math.inf).amin(0), columns.where(present, -math.inf).amax(0)
        # Equal, not a small variance: rounding gives equal numbers a variance that is not quite zero.
        std = variance.sqrt().float()
        self.mean.copy_(mean)
        self.std.copy_(std.where((highest > lowest) & (std > 0), 1.0))
        self.has_statistics.fill_(True)
        return self

    # -- head -------------------------------------------------------------------------------------------------
    @property
    def out_features(self) -> int:
        """How many numbers are predicted."""
        return self.outputs

    def finish(self, raw: Tensor) -> Tensor:
        """Return outputs in original units: [..., 1] to [...] for one output, [..., outputs] for several."""
        label_shape(self.owner, raw, -1, self.outputs)
        output = at_least_float32(raw) * self.std + self.mean
        return output.squeeze(-1) if self.outputs == 1 else output

    @classmethod
    def group_finish(cls, tasks: Sequence[Self], raw: Tensor) -> Tensor:
        """Return the outputs [G, ...] in original units of raw outputs [G, ..., outputs]."""
        std, mean = cls._stacked(tasks, "std"), cls._stacked(tasks, "mean")
        assert std is not None and mean is not None
        output = at_least_float32(raw) * along(std, raw.ndim, -1) + along(mean, raw.ndim, -1)
        return output.squeeze(-1) if tasks[0].outputs == 1 else output

    # -- labels -----------------------------------------------------------------------------------------------
    def check_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `target` as floats, after checking its shape and dtype."""
        if self.outputs > 1:
            label_shape(self.owner, output, -1, self.outputs)
        if target.shape != output.shape:
            raise TargetError(f"{self.owner}: target {list(target.shape)}: {reshaping(target.shape, output.shape)}.")
        if target.is_complex() or target.dtype == torch.bool:
            raise TargetError(f"{self.owner}: target is {target.dtype} where float32 is expected: cast with .float().")
        return target.to(at_least_float32(output).dtype)

    # -- loss -------------------------------------------------------------------------------------------------
    def unmasked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of the standardised residual."""
        assert parameter is not None
        residual = (output - target) / along(parameter, output.ndim, -1)
        if self.loss_name == "mse":
            losses = residual.square()
        elif self.loss_name == "mae":
            losses = residual.abs()
        else:
            losses = nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="none")
        return losses, torch.ones_like(losses)

    @property
    def group_key(self) -> Hashable | None:
        """Kind, outputs, loss and missing value."""
        missing = None if math.isnan(self.missing) else self.missing
        return (type(self), self.outputs, self.loss_name, missing) if type(self) is Regression else None

    # -- metrics ----------------------------------------------------------------------------------------------
    def metrics(self) -> dict[str, Metric]:
        """Return `mae` and `rmse` in original units and `r2`, each the mean over the outputs that have labels."""
        from lepton.tasks._metrics import RegressionMetric

        return {
            "mae": RegressionMetric("mae", self.outputs),
            "rmse": RegressionMetric("rmse", self.outputs),
            "r2": RegressionMetric("r2", self.outputs),
        }

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch in original units; missing entries do not count."""
        target = self.check_target(output, target).reshape(-1, self.outputs)
        present = self.mask(target)
        for metric in metrics.values():
            metric.update(output.reshape(-1, self.outputs), target, present)
