"""One class per sample, or per position of a sequence."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lepton.tasks._categorical import Categorical
from lepton.tasks.base import at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Classification"]


class Classification(Categorical):
    """One of C classes, by cross-entropy: logits [..., C], labels [...] with any leading dimensions.

    With logits x, label y, class weights v (1 where not given) and smoothing e, the loss of one label is

        (1 - e) v_y (-log p_y) + e / C sum_c v_c (-log p_c),   p = softmax(x),

    and its count v_y, so that the mean is the one of `torch.nn.functional.cross_entropy`.
    Source: label smoothing from Szegedy et al., "Rethinking the Inception Architecture", 2016.

    Args:
        name: name of the task, without `.`.
        classes: their number C >= 2, or their names.
        label_smoothing: e, the share of every label that is spread over all classes, in [0, 1).
        class_weights: v, factors of the classes in the loss, C numbers >= 0.
        missing: the label that marks a missing one.
        head: your own head, features to logits; None makes a linear layer.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = Classification("digit", classes=3)
        >>> loss, count = task.total_loss(torch.zeros(2, 3), torch.tensor([1, -100]))
        >>> round(loss.item(), 4), count.item()
        (1.0986, 1.0)
    """

    class_dim = -1

    def __init__(
        self,
        name: str,
        classes: int | Sequence[str],
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Tensor | None = None,
        missing: int = -100,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(
            name,
            classes,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            missing=missing,
            head=head,
            loss_weight=loss_weight,
            priority=priority,
            auxiliary=auxiliary,
        )
        self.primary_metric = "accuracy"
        self.higher_is_better = {"accuracy": True, "f1_macro": True} | ({"auroc": True} if self.classes == 2 else {})

    @property
    def group_key(self) -> Hashable | None:
        """Kind, classes, smoothing, missing value and whether there are class weights."""
        return self._key() if type(self) is Classification else None

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `label` [...], the most probable class, and `probability` [..., C]."""
        return {"label": output.argmax(-1), "probability": output.float().softmax(-1)}

    def metrics(self) -> dict[str, Metric]:
        """Return `accuracy`, over labels, `f1_macro`, over the classes that occur, and with two classes `auroc`.

        `auroc` is the area under the ROC of the second class.
        """
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        from lepton.tasks._metrics import Counted, RankingMetric

        found = {
            "accuracy": Counted(MulticlassAccuracy(self.classes, average="micro", validate_args=False)),
            "f1_macro": Counted(MulticlassF1Score(self.classes, average="macro", validate_args=False)),
        }
        return found | ({"auroc": RankingMetric("auroc", 1)} if self.classes == 2 else {})

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and classes to `metrics`; missing labels do not count."""
        super().update_metrics({name: metric for name, metric in metrics.items() if name != "auroc"}, output, target)
        if "auroc" in metrics:
            margin = (at_least_float32(output[..., 1]) - at_least_float32(output[..., 0])).reshape(-1, 1)
            target = self.check_target(output, target).reshape(-1, 1)
            metrics["auroc"].update(margin, target.to(margin.dtype).where(self.mask(target), torch.nan))
