"""`Task`: everything that the rest of Lepton needs to know of one task."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, LeptonError, TargetError, is_number, require

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Task"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes output and target, returns one loss per label: a tensor whose leading dimensions are the labels'."""


class Task(nn.Module):
    """One task: its head, its masked loss, its metrics and the rule that says which labels are missing.

    The other kinds of this package are ready; this class itself takes a head, a loss and metrics of your own. It is a
    module, so that statistics and class weights follow `.to()` and
    `state_dict()`; they stay float32 under `.bfloat16()` and `.half()`.

    The loss of a task over a batch is  sum_i l_i / sum_i n_i , where i runs over the labels, l_i is the loss at
    label i and n_i its count (1, or the weight of its class). A missing label has l_i = n_i = 0.

    Args:
        name: name of the task, in every dictionary of targets, outputs and metrics. It becomes the name of a
            module, so it has no `.`.
        head: your own head, features [B, ..., D] to raw output.
        loss: your own loss, `loss(output, target)`: one value per label, in a tensor whose leading dimensions are
            the labels' (more dimensions are averaged). Where it has fewer dimensions than the target, such as one
            value [B] for targets [B, 3], a label is present if all its numbers are.
        metrics: name to torchmetrics metric, or to a function that makes one. The first is the primary one.
            None: the mean loss.
        higher_is_better: whether more is better, for each metric that does not say so itself.
        missing: the value that marks a missing label. Floating-point labels that are not finite are always
            missing.
        loss_weight: factor of this task's loss, before balancing; > 0.
        priority: factor of this task's weight, after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a name or a number that is not allowed.

    Example:
        >>> import torch
        >>> absolute = lambda output, target: (output.squeeze(-1) - target).abs()
        >>> task = Task("depth", head=torch.nn.Linear(8, 1), loss=absolute)
        >>> losses, counts = task.label_losses(torch.zeros(2, 1), torch.tensor([3.0, float("nan")]))
        >>> losses.tolist(), counts.tolist()
        ([3.0, 0.0], [1.0, 0.0])
    """

    loss_buffer: ClassVar[str | None] = None
    search_metrics: ClassVar[Mapping[str, bool]] = {}
    """Metrics that need more than outputs, such as a search for the best text, and whether more is better."""
    primary_metric: str
    higher_is_better: dict[str, bool]

    def __init__(
        self,
        name: str,
        *,
        head: nn.Module | None = None,
        loss: Loss | None = None,
        metrics: Mapping[str, Metric | Callable[[], Metric]] | None = None,
        higher_is_better: Mapping[str, bool] | None = None,
        missing: float = math.nan,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.name = _checked_name(name)
        owner = f"Task {name!r}"
        zero = f"{POSITIVE} (to train a task without judging by it, use auxiliary=True; to drop one, leave it out)"
        require(is_positive(loss_weight), owner, "loss_weight", loss_weight, zero)
        require(is_positive(priority), owner, "priority", priority, POSITIVE)
        require(isinstance(auxiliary, bool), owner, "auxiliary", auxiliary, "True or False")
        require(is_number(missing), owner, "missing", missing, "a number, such as -999 or float('nan')")
        require(head is None or isinstance(head, nn.Module), owner, "head", head, "a module, or None")
        require(loss is None or callable(loss), owner, "loss", loss, "a function of output and target")
        if type(self).unmasked_losses is Task.unmasked_losses and (loss is None or head is None):
            raise ConfigurationError(
                f"{owner}: a Task of your own needs head= and loss=. "
                "Otherwise use Classification, MultiLabel, Regression or another kind of lepton.tasks."
            )
        self.loss_weight = float(loss_weight)
        self.priority = float(priority)
        self.auxiliary = auxiliary
        self.missing = math.nan if math.isnan(missing) else missing
        self.loss = loss
        self._label_dims: int | None = None  # seen at the first loss: only a loss of the user's own can tell
        # In a tuple, so that it is no submodule here: the model owns the heads, and must not hold them twice.
        self._own_head = (head,)
        made = isinstance(metrics, Mapping) and all(callable(m) or hasattr(m, "update") for m in metrics.values())
        require(not metrics or made, owner, "metrics", metrics, "a mapping from names to torchmetrics metrics")
        self._own_metrics = dict(metrics or {})
        self._describe_metrics(higher_is_better or {})

    # -- head -------------------------------------------------------------------------------------------------
    @property
    def own_head(self) -> nn.Module | None:
        """The head that the user gave, if any."""
        return self._own_head[0]

    @property
    def owner(self) -> str:
        """Kind and name, as messages say it: `Regression 'price'`."""
        return f"{type(self).__name__} {self.name!r}"

    @property
    def out_features(self) -> int:
        """Number of raw outputs per label position, the last dimension of the head."""
        raise ConfigurationError(f"{self.owner}: only its own head knows its number of outputs.")

    def make_head(self, features: int) -> nn.Module:
        """Return the task's own head, or a new linear layer from `features` to `out_features`."""
        own = self._own_head[0]
        return own if own is not None else self._new_head(features)

    def _new_head(self, features: int) -> nn.Module:
        return nn.Linear(features, self.out_features)

    def finish(self, raw: Tensor) -> Tensor:
        """Return the task's output for the raw output of its head."""
        return raw

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return what a user wants to see of an output, by name."""
        return {"value": output}

    # -- labels -----------------------------------------------------------------------------------------------
    def mask(self, target: Tensor) -> Tensor:
        """Return a bool tensor of the target's shape: True where a label is present."""
        present = torch.isfinite(target) if target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
        return present if math.isnan(self.missing) else present & (target != self.missing)

    def check_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `target`, cast to the dtype of the loss, after checking that it fits `output`.

        Shapes and dtypes are checked always; values only on the CPU, because reading them elsewhere waits for
        the device.

        Raises:
            TargetError: naming the task, what is expected, what came, and the way out.
        """
        if target.ndim == 0 or output.ndim == 0 or target.shape[0] != output.shape[0]:
            raise TargetError(
                f"{self.owner}: target {list(target.shape)} and output {list(output.shape)} differ in their first "
                "dimension, the samples."
            )
        return target.float() if target.dtype == torch.float64 and output.dtype != torch.float64 else target

    # -- loss -------------------------------------------------------------------------------------------------
    def label_losses(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and counts, both of the labels' shape and at least float32.

        A missing label has loss 0, count 0 and no gradient, whatever output and target hold there.

        Args:
            output: the finished output, see `finish`.
            target: the labels, see `check_target`.
        """
        return self._masked_losses(output, target, self.loss_parameter)

    def total_loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses and the sum of the counts, two 0-d tensors; their ratio is the mean loss."""
        losses, counts = self.label_losses(output, target)
        return losses.sum(), counts.sum()

    def label_count(self, target: Tensor) -> Tensor:
        """Return the sum of the counts of a target, 0-d: what `total_loss` divides by, known without an output."""
        present = self.mask(target)
        if self._label_dims is not None and present.ndim > self._label_dims:
            present = present.flatten(self._label_dims).all(-1)
        return present.float().sum()

    @property
    def loss_parameter(self) -> Tensor | None:
        """The tensor in which the losses of two tasks of equal `group_key` may differ: the buffer `loss_buffer`."""
        return None if self.loss_buffer is None else self._buffers[self.loss_buffer]

    def unmasked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return losses and counts as if no label were missing: the hook that a kind of task writes.

        Args:
            output: at least float32, zero where the label is missing; [G, ...] for a group of G tasks.
            target: zero where missing; [G, ...] for a group.
            parameter: the task's `loss_parameter`; stacked [G, ...] for a group.
        """
        assert self.loss is not None  # the constructor saw to it
        try:
            losses = self.loss(output, target)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, (LeptonError, torch.OutOfMemoryError)):
                raise
            shapes = f"an output {list(output.shape)} and a target {list(target.shape)} in {target.dtype}"
            raise ConfigurationError(f"{self.owner}: its loss failed for {shapes}: {error}") from error
        if not isinstance(losses, Tensor) or losses.numel() > max(output.numel(), target.numel()):
            raise ConfigurationError(f"{self.owner}: {_broadcast(output, target, losses)}")
        return losses, torch.ones_like(losses)

    def _masked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        present = self.mask(target)
        # Before the loss, not after it: the derivative of a NaN is NaN even where its value is not selected.
        safe_output = self._masked_output(at_least_float32(output), present)
        losses, counts = self.unmasked_losses(safe_output, target.where(present, 0), parameter)
        losses, present = self._per_label(losses, present)
        counts = counts if counts.shape == losses.shape else torch.ones_like(losses)
        return losses.where(present, 0.0), counts.where(present, 0.0)

    def _masked_output(self, output: Tensor, present: Tensor) -> Tensor:
        """Return `output` with zeros where only missing labels look."""
        return output.where(self._outputs_of(present, output), 0.0)

    def _outputs_of(self, present: Tensor, output: Tensor) -> Tensor:
        """Return a mask that broadcasts over `output`: the entries that only missing labels look at are False."""
        if output.shape == present.shape:
            return present
        rows = present.flatten(1).any(1) if present.ndim > 1 else present
        return rows.view(-1, *[1] * (output.ndim - 1))

    def _per_label(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Bring losses and mask of a loss of the user's own to one shape."""
        labels = min(losses.ndim, present.ndim)
        if losses.shape[:labels] != present.shape[:labels] or labels == 0:
            raise ConfigurationError(
                f"{self.owner}: the loss returned {list(losses.shape)} for labels {list(present.shape)}; it must "
                "return one loss per label, so use reduction='none'."
            )
        if not torch.compiler.is_compiling():
            self._label_dims = labels
        losses = losses.flatten(labels).mean(-1) if losses.ndim > labels else losses
        present = present.flatten(labels).all(-1) if present.ndim > labels else present
        return losses, present

    # -- groups -----------------------------------------------------------------------------------------------
    @property
    def group_key(self) -> Hashable | None:
        """Tasks of equal key can be computed together; None for a task that cannot."""
        return None

    @classmethod
    def group_losses(cls, tasks: Sequence[Self], outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of losses [G] and of counts [G] of G tasks of equal `group_key`, in one pass.

        Args:
            tasks: the G tasks.
            outputs: their finished outputs [G, ...].
            targets: their targets [G, ...].
        """
        parameter = None if cls.loss_buffer is None else cls._stacked(tasks, cls.loss_buffer)
        losses, counts = tasks[0]._masked_losses(outputs, targets, parameter)
        return losses.flatten(1).sum(1), counts.flatten(1).sum(1)

    @classmethod
    def group_finish(cls, tasks: Sequence[Self], raw: Tensor) -> Tensor:
        """Return the outputs [G, ...] of G tasks of equal `group_key` for their heads' raw outputs [G, ...]."""
        return raw

    @staticmethod
    def _stacked(tasks: Sequence[Task], buffer: str) -> Tensor | None:
        # Not by getattr: for a thousand tasks, looking the attributes up took longer than the whole loss.
        buffers = [task._buffers[buffer] for task in tasks]
        return None if buffers[0] is None else torch.stack(cast("list[Tensor]", buffers))

    # -- metrics ----------------------------------------------------------------------------------------------
    def metrics(self) -> dict[str, Metric]:
        """Return new metrics by name, to be fed by `update_metrics`. One that saw no label computes to NaN."""
        from torchmetrics import MeanMetric

        from lepton.tasks._metrics import Counted

        own = {name: _new_metric(made) for name, made in self._own_metrics.items()} or {"loss": MeanMetric()}
        return {name: Counted(metric) for name, metric in own.items()}

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch to the metrics that `metrics` returned; missing labels do not count."""
        if not self._own_metrics:
            losses, counts = self.label_losses(output, target)
            metrics["loss"].update((counts > 0).sum(), losses / counts.clamp(min=1e-38), counts)
            return
        present = self.mask(target)
        if output.shape[: present.ndim] != present.shape:
            present = present.flatten(1).all(1)
        for metric in metrics.values():
            metric.update(present.sum(), output[present], target[present])

    def _describe_metrics(self, told: Mapping[str, bool]) -> None:
        self.primary_metric = next(iter(self._own_metrics), "loss")
        self.higher_is_better = {} if self._own_metrics else {"loss": False}
        for name, made in self._own_metrics.items():
            better = told.get(name, _new_metric(made).higher_is_better)
            if better is None:
                raise ConfigurationError(
                    f"{self.owner}: metric {name!r} does not say whether more is better. "
                    f"Pass higher_is_better={{{name!r}: True}} or False."
                )
            self.higher_is_better[name] = better

    # -- module -----------------------------------------------------------------------------------------------
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A mean of 200 000 rounded to bfloat16 is off by hundreds, in every output and in the checkpoint.
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self._buffers.items():
            kept = before[name]
            if buffer is not None and kept is not None and buffer.itemsize < kept.itemsize:
                self._buffers[name] = kept.to(buffer.device)
        return self

    def extra_repr(self) -> str:
        """Name, and the numbers that are not 1."""
        shown = [repr(self.name)]
        shown += [f"loss_weight={self.loss_weight:g}"] if self.loss_weight != 1 else []
        shown += [f"priority={self.priority:g}"] if self.priority != 1 else []
        return ", ".join(shown + (["auxiliary"] if self.auxiliary else []))


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return `tensor` as float32 if it has less precision than that."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


POSITIVE = "> 0, and a number that float32 can hold"


def is_positive(value: object) -> bool:
    """Return whether `value` is a number greater than 0 that neither vanishes nor overflows in float32."""
    range32 = torch.finfo(torch.float32)
    return is_number(value) and range32.tiny <= cast(float, value) <= range32.max


def _broadcast(output: Tensor, target: Tensor, losses: Any) -> str:
    if not isinstance(losses, Tensor):
        return f"the loss must return a tensor with one loss per label, but it returned a {type(losses).__name__}."
    return (
        f"for an output {list(output.shape)} and a target {list(target.shape)} the loss returned "
        f"{list(losses.shape)}, more values than there are: the two were broadcast against each other. Squeeze them to "
        "one shape in the loss, for example output.squeeze(-1); a loss over pairs of rows must average over its pairs."
    )


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name or "." in name:
        raise ConfigurationError(
            f"The name of a task must be a nonempty string without '.', because it names a module, but it is {name!r}."
        )
    return name


def _new_metric(made: Any) -> Any:
    """Return a fresh metric from a metric or from a function or class that makes one."""
    if isinstance(made, type) or not hasattr(made, "update"):
        return made()
    fresh = copy.deepcopy(made)
    fresh.reset()
    return fresh
