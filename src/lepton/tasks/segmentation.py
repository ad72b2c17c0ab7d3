"""One class per pixel."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, is_whole, require
from lepton.tasks._categorical import Categorical

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Segmentation"]


class PixelHead(nn.Conv2d):
    """A 1 x 1 convolution that says what it needs: a plain one takes features [C, L, D] for an image."""

    def __init__(self, owner: str, features: int, classes: int) -> None:
        super().__init__(features, classes, kernel_size=1)
        self.owner = owner

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C, h, w] for features [B, D, h, w]."""
        if not isinstance(features, Tensor) or features.ndim != 4:
            found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigurationError(
                f"{self.owner} needs feature maps [B, C, H, W], but the trunk gave {found}: take a trunk that keeps "
                "the positions, or give the task a head of your own. For one class per sample use Classification."
            )
        return super().forward(features)


class Segmentation(Categorical):
    """One of C classes per pixel, by cross-entropy: logits [B, C, H, W], labels [B, H, W].

    The loss of one pixel is that of `Classification`.

    Args:
        name: name of the task, without `.`.
        classes: their number C >= 2, or their names.
        label_smoothing: e, the share of every label that is spread over all classes, in [0, 1).
        class_weights: factors of the classes in the loss, C numbers >= 0.
        missing: the label that marks a pixel without one.
        upsample: factor by which the head enlarges the features, bilinearly.
        head: your own head, features [B, D, h, w] to logits; None makes a 1 x 1 convolution.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = Segmentation("surface", classes=["road", "grass"], upsample=4)
        >>> task.make_head(16)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 2, 32, 32])
    """

    class_dim = -3

    def __init__(
        self,
        name: str,
        classes: int | Sequence[str],
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Tensor | None = None,
        missing: int = 255,
        upsample: int = 1,
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
        require(is_whole(upsample), self.owner, "upsample", upsample, "an integer >= 1")
        self.upsample = upsample
        self.primary_metric = "miou"
        self.higher_is_better = {"miou": True, "pixel_accuracy": True}

    @property
    def group_key(self) -> Hashable | None:
        """Kind, classes, smoothing, missing value and whether there are class weights."""
        return (*self._key(), self.upsample) if type(self) is Segmentation else None

    def _new_head(self, features: int) -> nn.Module:
        head = PixelHead(self.owner, features, self.classes)
        if self.upsample == 1:
            return head
        return nn.Sequential(head, nn.Upsample(scale_factor=self.upsample, mode="bilinear"))

    def _way_out(self, target: Tensor, expected: torch.Size) -> str:
        factor = target.shape[-1] // expected[-1] if target.ndim == 3 and expected[-1] else 0
        if factor > 1 and target.shape == (expected[0], expected[1] * factor, expected[2] * factor):
            return f"{list(expected)} is expected: pass upsample={self.upsample * factor} or resize the labels"
        return super()._way_out(target, expected)

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `label` [B, H, W], the most probable class of each pixel."""
        return {"label": output.argmax(self.class_dim)}

    def metrics(self) -> dict[str, Metric]:
        """Return `miou`, the mean over classes of intersection over union in the whole data, and `pixel_accuracy`."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        from lepton.tasks._metrics import Counted

        return {
            "miou": Counted(MulticlassJaccardIndex(self.classes, average="macro", validate_args=False)),
            "pixel_accuracy": Counted(MulticlassAccuracy(self.classes, average="micro", validate_args=False)),
        }
