"""Metrics that know how many labels they have seen. Imported inside functions only: torchmetrics is slow to import."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat


class NaNWithoutLabels(Metric):  # type: ignore[misc]  # torchmetrics is not typed
    """A metric that is NaN, without a warning, until it has seen a label."""

    full_state_update = True
    update_called = True  # torchmetrics warns of a value asked too early; here that value is defined


class Counted(NaNWithoutLabels):
    """Wraps a metric and counts the labels it has seen, over all processes.

    Args:
        metric: the metric to wrap.
    """

    seen: Tensor

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool | None:
        """What the wrapped metric says."""
        better: bool | None = self.metric.higher_is_better
        return better

    def update(self, seen: Tensor, *batch: Tensor) -> None:
        """Add the number of labels `seen` [], and the batch to the metric unless it holds none."""
        self.seen = self.seen + seen.to(self.seen.device)
        if seen > 0:
            self.metric.update(*batch)

    def compute(self) -> Any:
        """Return the metric's value."""
        if self.seen == 0:  # the same on every process, because `seen` is summed over them here
            return torch.full((), torch.nan, device=self.seen.device)
        with warnings.catch_warnings():
            # This process may have no label where another has.
            warnings.simplefilter("ignore", UserWarning)
            return self.metric.compute()

    def reset(self) -> None:
        """Forget all labels."""
        super().reset()
        self.metric.reset()


class RankingMetric(NaNWithoutLabels):
    """Area under the ROC or average precision, per label over its entries present, then averaged.

    Labels without positives are left out, and for the area labels without negatives.
    """

    is_differentiable = False
    higher_is_better = True
    outputs: list[Tensor] | Tensor
    targets: list[Tensor] | Tensor

    def __init__(self, statistic: Literal["auroc", "average_precision"], labels: int) -> None:
        super().__init__()
        self.statistic = statistic
        self.labels = labels
        # Flat and of one dtype: a process without batches takes part with an empty float tensor.
        self.add_state("outputs", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add logits [N, labels] and float targets [N, labels], NaN where missing."""
        assert isinstance(self.outputs, list) and isinstance(self.targets, list)
        self.outputs.append(output.flatten())
        self.targets.append(target.flatten())

    def compute(self) -> Tensor:
        """Return the mean over the labels that have a value."""
        if len(self.outputs) == 0:
            return torch.full((), torch.nan)
        columns = zip(*(dim_zero_cat(x).view(-1, self.labels).T for x in (self.outputs, self.targets)), strict=True)
        values = [self._value(output[~target.isnan()], target[~target.isnan()]) for output, target in columns]
        defined = [value for value in values if value is not None]
        return torch.stack(defined).mean() if defined else torch.full((), torch.nan)

    def _value(self, output: Tensor, target: Tensor) -> Tensor | None:
        if not target.any() or (self.statistic == "auroc" and target.all()):
            return None
        if output.isnan().any():
            return torch.full((), torch.nan, device=output.device)
        metric = binary_auroc if self.statistic == "auroc" else binary_average_precision
        # Ranks in [0, 1): torchmetrics would take the sigmoid of logits, and large ones would become ties.
        ranks = torch.unique(output, return_inverse=True)[1].double() / output.numel()
        value: Tensor = metric(ranks, target.long(), validate_args=False)
        return value.float()


class RegressionMetric(NaNWithoutLabels):
    """Mean absolute error, root mean squared error or R2, per output over the labels present, then averaged."""

    is_differentiable = False
    labels: Tensor
    sums: Tensor

    def __init__(self, statistic: Literal["mae", "rmse", "r2"], outputs: int) -> None:
        super().__init__()
        self.statistic = statistic
        self.add_state("labels", torch.zeros(outputs, dtype=torch.int64), dist_reduce_fx="sum")
        # float64: the variance of R2 is a difference of two large sums
        self.add_state("sums", torch.zeros(4, outputs, dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:
        """Of R2 only."""
        return self.statistic == "r2"

    def update(self, output: Tensor, target: Tensor, present: Tensor) -> None:
        """Add a batch of shape [N, outputs]; entries where `present` is False do not count."""
        target = target.double().where(present, 0.0)
        error = (output.double() - target).where(present, 0.0)
        sums = torch.stack([error.abs(), error.square(), target, target.square()]).sum(1)
        self.labels = self.labels + present.sum(0).to(self.labels.device)
        self.sums = self.sums + sums.to(self.sums.device)

    def compute(self) -> Tensor:
        """Return the mean over the outputs that have labels (R2: two different ones at least)."""
        absolute, squared, total, squares = self.sums[:, self.labels > 0].unbind()
        labels = self.labels[self.labels > 0]
        if self.statistic == "mae":
            return (absolute / labels).mean().float()
        if self.statistic == "rmse":
            return (squared / labels).sqrt().mean().float()
        variance = squares - total.square() / labels
        # Rounding leaves equal labels a variance of about 1e-16 times the sum of their squares.
        return (1 - squared / variance)[variance > 1e-13 * squares].mean().float()


class LabelMean(NaNWithoutLabels):
    """The mean of one value per label over all labels, such as the share that is right."""

    is_differentiable = False
    higher_is_better = True
    labels: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("labels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # float64: the values of millions of tokens are added up
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, labels: int | None = None) -> None:
        """Add values [N]: one per label, or of that many labels together."""
        self.labels = self.labels + (values.numel() if labels is None else labels)
        self.total = self.total + values.sum(dtype=torch.float64).to(self.total.device)

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.labels  # 0 / 0 is NaN: what no label shall give


class ErrorMean(LabelMean):
    """The errors of all labels over their number."""

    higher_is_better = False


class Perplexity(LabelMean):
    """exp of the mean cross-entropy of all labels."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """Return the perplexity; infinite where a label was held to be impossible."""
        return super().compute().exp()


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Return the least number of insertions, deletions and substitutions that turn one sequence into the other.

    Column by column of the table of distances, which neighbours leave by at most 1: the bits of whole numbers hold
    where a column goes up and where down (Myers 1999, as in Hyyro 2003).
    """
    places: dict[Hashable, int] = {}
    for place, part in enumerate(one):
        places[part] = places.get(part, 0) | 1 << place
    every = (1 << len(one)) - 1
    last, distance, up, down = 1 << len(one) >> 1, len(one), every, 0
    for part in other:
        equal = places.get(part, 0)
        level = ((((equal & up) + up) ^ up) | equal | down) & every
        right_up, right_down = down | (every & ~(level | up)), up & level
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1 | 1) & every, right_down << 1 & every
        up, down = right_down | (every & ~(level | right_up)), right_up & level
    return distance if one else len(other)


class MacroF1(NaNWithoutLabels):
    """F1 of every class that is a label or was predicted, then their mean; labels outside 0 to C - 1 are of no class.

    Args:
        classes: their number C.
    """

    is_differentiable = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", torch.zeros(3, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add classes that were predicted [N] and labels [N]."""
        known = target[(target >= 0) & (target < self.classes)]
        counts = [torch.bincount(x, minlength=self.classes) for x in (predicted[predicted == target], predicted, known)]
        self.counts = self.counts + torch.stack(counts).to(self.counts.device)

    def compute(self) -> Tensor:
        """Return the mean over the classes that occur."""
        right, predicted, labels = self.counts.double().unbind()
        occurring = predicted + labels > 0
        return (2 * right / (predicted + labels))[occurring].mean()
