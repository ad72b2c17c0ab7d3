"""What all kinds share whose labels are one of C classes."""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, TargetError, is_number, is_whole, require, shape_of
from lepton.tasks._cross_entropy import cross_entropy
from lepton.tasks.base import Task

if TYPE_CHECKING:
    from torchmetrics import Metric

MANY_CLASSES = 256
"""From so many classes on, the passes over the logits are what a loss costs."""


class Categorical(Task):
    """One of C classes per label. `class_dim` is the dimension of the classes in an output, counted from its end."""

    loss_buffer = "class_weights"
    class_dim: ClassVar[int]
    class_weights: Tensor | None

    def __init__(
        self,
        name: str,
        classes: int | Sequence[str],
        *,
        label_smoothing: float,
        class_weights: Sequence[float] | Tensor | None,
        missing: int,
        head: nn.Module | None,
        loss_weight: float,
        priority: float,
        auxiliary: bool,
    ) -> None:
        super().__init__(
            name, head=head, missing=missing, loss_weight=loss_weight, priority=priority, auxiliary=auxiliary
        )
        self.class_names = self._names_of(classes)
        self.classes = len(self.class_names)
        smoothing = is_number(label_smoothing) and 0 <= label_smoothing < 1
        require(smoothing, self.owner, "label_smoothing", label_smoothing, "a number in [0, 1)")
        self.label_smoothing = float(label_smoothing)
        outside = f"an integer that is no class, so not in 0 to {self.classes - 1}"
        no_class = is_whole(missing, -(2**63)) and not 0 <= missing < self.classes
        require(no_class, self.owner, "missing", missing, outside)
        self.register_buffer("class_weights", checked_weights(self.owner, "class_weights", class_weights, self.classes))

    def _names_of(self, classes: int | Sequence[str]) -> tuple[str, ...]:
        return label_names(self.owner, "classes", classes, at_least=2)

    @property
    def out_features(self) -> int:
        """The number of classes C."""
        return self.classes

    # -- labels -----------------------------------------------------------------------------------------------
    def check_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `target` as int64, after checking its shape, its dtype and, on the CPU, that each is a class."""
        expected = label_shape(self.owner, output, self.class_dim, self.classes)
        if target.shape != expected:
            raise TargetError(f"{self.owner}: target {list(target.shape)}: {self._way_out(target, expected)}.")
        if target.is_floating_point() or target.is_complex():
            raise TargetError(
                f"{self.owner}: target is {target.dtype} where class indices (int64) are expected: replace missing "
                f"values by {self.missing} and cast it with .long()."
            )
        target = target.long()
        if may_read(target):
            self._check_range(target)
        return target

    def _way_out(self, target: Tensor, expected: torch.Size) -> str:
        dim = target.ndim + self.class_dim
        if target.ndim == len(expected) + 1 and target.movedim(dim, -1).shape == (*expected, self.classes):
            return f"{list(expected)} is expected, class indices instead of one-hot vectors: target.argmax({dim})"
        return reshaping(target.shape, expected)

    def _check_range(self, target: Tensor) -> None:
        wrong = ((target < 0) | (target >= self.classes)) & self.mask(target)
        if wrong.any():
            raise TargetError(
                f"{self.owner}: target holds the value {int(target[wrong][0])}; allowed are the classes 0 to "
                f"{self.classes - 1}, and {self._marks()}."
            )

    def _marks(self) -> str:
        return f"{int(self.missing)} for a missing label"

    # -- loss -------------------------------------------------------------------------------------------------
    def unmasked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cross-entropy with class weights and label smoothing; see the kinds for the formula."""
        dim = self.class_dim
        if parameter is None and dim == -1 and self.classes >= MANY_CLASSES and not torch.compiler.is_compiling():
            losses = cross_entropy(output, target, self.label_smoothing)
            return losses, torch.ones_like(losses)
        log_p = output.log_softmax(dim)
        index = target.unsqueeze(dim)
        chosen = -log_p.gather(dim, index).squeeze(dim)
        if parameter is None:
            counts, weighted = torch.ones_like(chosen), log_p
        else:
            weights = along(parameter, output.ndim, dim).to(log_p.dtype)
            counts = weights.expand_as(log_p).gather(dim, index).squeeze(dim)
            weighted, chosen = weights * log_p, counts * chosen
        if self.label_smoothing == 0:
            return chosen, counts
        spread = -weighted.mean(dim)
        return (1 - self.label_smoothing) * chosen + self.label_smoothing * spread, counts

    def label_count(self, target: Tensor) -> Tensor:
        """Return the sum of the labels' class weights, or their number, 0-d."""
        present = self.mask(target)
        if self.class_weights is None:
            return present.float().sum()
        return self.class_weights[target.where(present, 0).long()].where(present, 0.0).sum()

    def _masked_output(self, output: Tensor, present: Tensor) -> Tensor:
        """Return `output` as it is where the logits of missing labels are seen to be finite.

        Cross-entropy has a finite derivative there, of which the loss selects nothing. To mask the logits of a large
        vocabulary takes as long as its softmax, forth and back; to look at those of missing labels next to nothing.
        """
        if may_read(output):
            unseen = output.detach().movedim(self.class_dim, -1)[~present]
            if not unseen.numel() or bool(torch.isfinite(torch.stack(unseen.aminmax())).all()):
                return output
        return super()._masked_output(output, present)

    def _outputs_of(self, present: Tensor, output: Tensor) -> Tensor:
        return present.unsqueeze(self.class_dim)

    def _key(self) -> tuple[Hashable, ...]:
        weighted = self.class_weights is not None
        return (type(self).__name__, self.classes, self.label_smoothing, self.missing, weighted)

    # -- metrics ----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and classes to `metrics`; missing labels do not count."""
        target = self.check_target(output, target)
        present = self.mask(target)
        label, target = output.argmax(self.class_dim)[present], target[present]
        for metric in metrics.values():
            metric.update(present.sum(), label, target)


def label_names(owner: str, argument: str, given: int | Sequence[str], at_least: int) -> tuple[str, ...]:
    """Return the names of classes or labels; "0", "1", ... if only their number is given."""
    if isinstance(given, SupportsIndex) and not isinstance(given, bool):
        number = operator.index(given)
        require(number >= at_least, owner, argument, number, f"at least {at_least}, or a list of names")
        return tuple(str(index) for index in range(number))
    names = tuple(given) if isinstance(given, Iterable) else ()
    good = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names) >= at_least
    allowed = f"a number, or {at_least} or more different names"
    require(not isinstance(given, str) and good, owner, argument, given, allowed)
    return names


def checked_weights(owner: str, argument: str, given: Sequence[float] | Tensor | None, number: int) -> Tensor | None:
    """Return weights as a float32 tensor [number]."""
    if given is None:
        return None
    allowed = f"{number} finite numbers >= 0, not all zero"
    require(shape_of(given) == (number,), owner, argument, given, allowed)
    weights = torch.as_tensor(given, dtype=torch.float32).detach().clone()
    good = all(math.isfinite(w) and w >= 0 for w in weights.tolist()) and bool(weights.any())
    require(good, owner, argument, given, allowed)
    return weights


def label_shape(owner: str, output: Tensor, dim: int, number: int) -> torch.Size:
    """Return the shape of the labels of `output`: its shape without dimension `dim`, which must be `number`."""
    if output.ndim < -dim or output.shape[dim] != number:
        raise ConfigurationError(
            f"{owner}: its head returned {list(output.shape)}, where dimension {dim} must be {number}."
        )
    position = output.ndim + dim
    return output.shape[:position] + output.shape[position + 1 :]


def reshaping(got: torch.Size, expected: torch.Size) -> str:
    """Say how to bring a target to the expected shape."""
    wanted = f"{list(expected)} is expected"
    for dim, size in enumerate(got):
        if size == 1 and got[:dim] + got[dim + 1 :] == expected:
            return f"{wanted}: squeeze it, target.squeeze({dim})"
    for dim, size in enumerate(expected):
        if size == 1 and expected[:dim] + expected[dim + 1 :] == got:
            return f"{wanted}: unsqueeze it, target.unsqueeze({dim})"
    return wanted


def along(parameter: Tensor, ndim: int, dim: int) -> Tensor:
    """Return `parameter` [C], or [G, C] for a group, viewed so that it broadcasts over dimension `dim` < 0."""
    ahead = ndim + dim - (parameter.ndim - 1)
    return parameter.view(*parameter.shape[:-1], *[1] * ahead, parameter.shape[-1], *[1] * (-dim - 1))


def may_read(tensor: Tensor) -> bool:
    """Whether the values can be looked at without waiting for a device or breaking a trace."""
    # The exact type: a fake tensor says that it is on the CPU, too.
    return tensor.device.type == "cpu" and type(tensor) is Tensor and not torch.compiler.is_compiling()
