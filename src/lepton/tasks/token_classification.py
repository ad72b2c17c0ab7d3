"""One class per word or token of a text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lepton.errors import require
from lepton.tasks._positions import PositionLabels

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["TokenClassification"]


class TokenClassification(PositionLabels):
    """One of C classes per word or token, such as its part of speech: logits [B, L, C], labels [B, L].

    The loss of one label is that of `Classification`. A label that training had no class for is `unseen`, -101: it has
    no loss, no gradient and no count, but the metrics count it as what it is, a label that cannot be predicted: wrong
    in `accuracy`, and in `f1_macro` the class that was predicted in its place has one false positive more.

    Args:
        name: name of the task, without `.`.
        classes: their number C >= 2, or their names.
        label_smoothing: e, the share of every label that is spread over all classes, in [0, 1).
        class_weights: factors of the classes in the loss, C numbers >= 0.
        missing: the label of a position without one.
        head: your own head, features to logits; None makes a linear layer.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Attributes:
        unseen: the label of a class that training did not have.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = TokenClassification("upos", classes=["NOUN", "VERB"])
        >>> labels = torch.tensor([[-100, 0, task.unseen, 0, -100]])
        >>> task.total_loss(torch.zeros(1, 5, 2), labels)[1].item()
        2.0
        >>> metrics = task.metrics()
        >>> task.update_metrics(metrics, torch.zeros(1, 5, 2), labels)
        >>> round(metrics["accuracy"].compute().item(), 4), metrics["f1_macro"].compute().item()
        (0.6667, 0.8)
    """

    unseen: ClassVar[int] = -101

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
        taken = f"another number than {self.unseen}, which marks a label of a class that training did not have"
        require(missing != self.unseen, self.owner, "missing", missing, taken)
        self.primary_metric = "accuracy"
        self.higher_is_better = {"accuracy": True, "f1_macro": True}

    @property
    def group_key(self) -> Hashable | None:
        """Kind, classes, smoothing, missing value and whether there are class weights."""
        return self._key() if type(self) is TokenClassification else None

    def mask(self, target: Tensor) -> Tensor:
        """Return a bool tensor of the target's shape: True where there is a label, and training had its class."""
        return super().mask(target) & (target != self.unseen)

    def _marks(self) -> str:
        return f"{super()._marks()}, and {self.unseen} for a label of a class that training did not have"

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `label` [B, L], the most probable class of each position, and `probability` [B, L, C]."""
        return {"label": output.argmax(-1), "probability": output.float().softmax(-1)}

    def metrics(self) -> dict[str, Metric]:
        """Return `accuracy`, over labels, and `f1_macro`, over the classes of training that occur."""
        from lepton.tasks._metrics import LabelMean, MacroF1

        return {"accuracy": LabelMean(), "f1_macro": MacroF1(self.classes)}

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and classes to `metrics`; missing labels do not count, unseen ones do."""
        target = self.check_target(output, target)
        present = super().mask(target)
        label, target = output.argmax(-1)[present], target[present]
        metrics["accuracy"].update(label == target)
        metrics["f1_macro"].update(label, target)
