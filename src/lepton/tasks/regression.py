"""Numbers, in units of their own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from lepton.errors import TargetError, is_whole, nearest, require
from lepton.tasks._categorical import along, label_shape, reshaping
from lepton.tasks._standardised import Standardised
from lepton.tasks.base import at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Regression"]

LOSSES = ("mse", "mae", "huber")


class Regression(Standardised):
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

    column = "output"

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
        self._set_statistics(outputs, mean, std)
        self.primary_metric = "rmse"
        self.higher_is_better = {"mae": False, "rmse": False, "r2": True}

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
