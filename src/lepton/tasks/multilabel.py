"""Several yes-or-no labels per sample."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lepton.errors import TargetError, is_number, require
from lepton.tasks._categorical import along, checked_weights, label_names, label_shape, may_read, reshaping
from lepton.tasks.base import Task, at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["MultiLabel"]


class MultiLabel(Task):
    """n independent yes-or-no labels: logits [..., n], labels [..., n] in {0, 1}, NaN where missing.

    With logit x, label y, smoothing e, s = y (1 - e) + e / 2 and weight v of the positives, the loss of one label is

        -v s log sigmoid(x) - (1 - s) log(1 - sigmoid(x)).

    Source: Szegedy et al., "Rethinking the Inception Architecture", 2016, for two classes.

    Args:
        name: name of the task, without `.`.
        labels: their number n, or their names.
        label_smoothing: e, by which every label moves towards one half, in [0, 1).
        positive_weights: v, factors of the positive labels in the loss, n numbers >= 0.
        missing: a further value that marks a missing label, such as -1.
        head: your own head, features to logits; None makes a linear layer.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = MultiLabel("attributes", labels=["smiling", "glasses"])
        >>> loss, count = task.total_loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))
        >>> round(loss.item(), 4), count.item()
        (0.6931, 1.0)
    """

    loss_buffer = "positive_weights"
    positive_weights: Tensor | None

    def __init__(
        self,
        name: str,
        labels: int | Sequence[str],
        *,
        label_smoothing: float = 0.0,
        positive_weights: Sequence[float] | Tensor | None = None,
        missing: float = math.nan,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(
            name, head=head, missing=missing, loss_weight=loss_weight, priority=priority, auxiliary=auxiliary
        )
        self.label_names = label_names(self.owner, "labels", labels, at_least=1)
        self.labels = len(self.label_names)
        smoothing = is_number(label_smoothing) and 0 <= label_smoothing < 1
        require(smoothing, self.owner, "label_smoothing", label_smoothing, "a number in [0, 1)")
        require(missing not in (0, 1), self.owner, "missing", missing, "a value other than 0 and 1")
        self.label_smoothing = float(label_smoothing)
        weights = checked_weights(self.owner, "positive_weights", positive_weights, self.labels)
        self.register_buffer("positive_weights", weights)
        self.primary_metric = "auroc"
        self.higher_is_better = {"auroc": True, "average_precision": True, "accuracy": True}

    @property
    def out_features(self) -> int:
        """The number of labels n."""
        return self.labels

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `label` [..., n] (bool) and `probability` [..., n]."""
        return {"label": output > 0, "probability": output.float().sigmoid()}

    # -- labels -----------------------------------------------------------------------------------------------
    def check_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `target` as floats, after checking its shape, its dtype and, on the CPU, that it is 0 or 1."""
        label_shape(self.owner, output, -1, self.labels)
        if target.shape != output.shape:
            raise TargetError(f"{self.owner}: target {list(target.shape)}: {reshaping(target.shape, output.shape)}.")
        if target.is_complex():
            raise TargetError(f"{self.owner}: target is {target.dtype} where 0, 1 or NaN in float32 is expected.")
        target = target.to(at_least_float32(output).dtype)
        if may_read(target):
            wrong = self.mask(target) & (target != 0) & (target != 1)
            if wrong.any():
                raise TargetError(
                    f"{self.owner}: target holds the value {target[wrong][0].item():g}; allowed are 0 and 1, and "
                    f"{self._missing_values()} for a missing label."
                )
        return target

    def _missing_values(self) -> str:
        return "NaN" if math.isnan(self.missing) else f"NaN or {self.missing:g}"

    # -- loss -------------------------------------------------------------------------------------------------
    def unmasked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of logits."""
        smooth = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = None if parameter is None else along(parameter, output.ndim, -1)
        losses = nn.functional.binary_cross_entropy_with_logits(output, smooth, pos_weight=weights, reduction="none")
        return losses, torch.ones_like(losses)

    @property
    def group_key(self) -> Hashable | None:
        """Kind, labels, smoothing, missing value and whether positives are weighted."""
        missing = None if math.isnan(self.missing) else self.missing
        key = (type(self), self.labels, self.label_smoothing, missing, self.positive_weights is not None)
        return key if type(self) is MultiLabel else None

    # -- metrics ----------------------------------------------------------------------------------------------
    def metrics(self) -> dict[str, Metric]:
        """Return `auroc` and `average_precision`, means over the labels where they are defined, and `accuracy`.

        The area under the ROC needs negatives and positives of a label, the average precision needs positives.
        """
        from torchmetrics.classification import BinaryAccuracy

        from lepton.tasks._metrics import Counted, RankingMetric

        return {
            "auroc": RankingMetric("auroc", self.labels),
            "average_precision": RankingMetric("average_precision", self.labels),
            "accuracy": Counted(BinaryAccuracy(validate_args=False)),
        }

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and labels; missing entries do not count, label by label."""
        target = self.check_target(output, target).reshape(-1, self.labels)
        output = at_least_float32(output).reshape(-1, self.labels)
        present = self.mask(target)
        for name in ("auroc", "average_precision"):
            metrics[name].update(output, target.where(present, torch.nan))
        metrics["accuracy"].update(present.sum(), (output > 0)[present].long(), target[present].long())
