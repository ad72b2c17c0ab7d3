"""Evaluation: a model and data to typed results for every task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from lepton.errors import ConfigurationError, DataError, TargetError
from lepton.nn import LeptonModel

__all__ = ["TaskResult", "checked_batch", "evaluate", "relative_improvement", "to_device"]


@dataclass(frozen=True)
class TaskResult:
    """What an evaluation found for one task.

    Attributes:
        loss: mean loss over the labels; NaN without labels.
        metrics: name -> value, in original units; NaN without labels.
        n_labels: number of labels seen (the sum of class weights where a task has them).
        signatures: name of a metric -> how it was computed, for those that cannot be compared without: the signatures
            of sacrebleu.
    """

    loss: float
    metrics: dict[str, float]
    n_labels: float
    signatures: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def evaluate(model: LeptonModel, batches: Iterable[tuple[Any, Mapping[str, Tensor]]]) -> dict[str, TaskResult]:
    """Return the results of every task on held-out batches.

    The model is put into eval mode meanwhile, where the fork is an identity; every module then gets back the mode it
    had, so that a BatchNorm you froze stays frozen.

    In a run of several processes, batches of a loader with a share of the rows (its `world_size` is above 1) are
    evaluated together: every process returns the result of all rows. Any other batches are evaluated by each process
    for itself.

    Args:
        model: the model.
        batches: pairs (inputs, targets), each run once where the model is.

    Raises:
        TargetError: targets of a task that the model does not have, or that do not fit.
        DataError: a batch that is no pair of inputs and targets.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Regression("size")])
        >>> found = evaluate(model, [(torch.zeros(3, 2), {"size": torch.tensor([1.0, 2.0, float("nan")])})])
        >>> sorted(found["size"].metrics), found["size"].n_labels
        (['mae', 'r2', 'rmse'], 2.0)
    """
    if not isinstance(model, LeptonModel):
        raise ConfigurationError(f"evaluate needs a LeptonModel, but got {type(model).__name__}.")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return _collect(model, batches, model.device)
    finally:
        for module, training in modes:
            module.training = training


def _collect(
    model: LeptonModel, batches: Iterable[tuple[Any, Mapping[str, Tensor]]], device: torch.device
) -> dict[str, TaskResult]:
    metrics = {name: model.task(name).metrics() for name in model.task_names}
    shared = getattr(batches, "world_size", 1) > 1 and dist.is_available() and dist.is_initialized()
    for found in metrics.values():
        for metric in found.values():
            metric.to(device)
            for part in metric.modules():  # it would join the processes' states whenever there are several
                part.sync_on_compute = shared
    sums = torch.zeros(2, len(model.task_names), dtype=torch.float64, device=device)
    for batch in batches:
        inputs, targets = checked_batch(batch)
        inputs, targets = to_device(inputs, device), to_device(dict(targets), device)
        outputs, _ = model(inputs)
        for name in targets.keys() - set(model.task_names):
            raise TargetError(f"the targets hold {name!r}, which is no task of this model: {list(model.task_names)}.")
        for place, name in enumerate(model.task_names):
            if name in targets:
                task = model.task(name)
                target = task.check_target(outputs[name], targets[name])
                sums[:, place] += torch.stack(task.total_loss(outputs[name], target)).to(sums)
                task.update_metrics(metrics[name], outputs[name], target)
    if shared:
        dist.all_reduce(sums)
    losses, counts = (sums[0] / sums[1]).tolist(), sums[1].tolist()
    return {
        name: TaskResult(
            losses[place], {key: float(metric.compute()) for key, metric in metrics[name].items()}, counts[place]
        )
        for place, name in enumerate(model.task_names)
    }


def checked_batch(batch: Any) -> tuple[Any, Mapping[str, Tensor]]:
    """Return inputs and targets of a batch, refusing what is no such pair."""
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not isinstance(batch[1], Mapping):
        found = f"a {type(batch).__name__}"
        if isinstance(batch, (tuple, list)):
            found += f" of ({', '.join(type(part).__name__ for part in batch)})"
        raise DataError(
            f"a batch must be a pair (inputs, targets) with targets a mapping from task names to tensors, but it is "
            f"{found}."
        )
    return batch[0], batch[1]


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a nest of tensors on the device; copies from pinned memory do not wait."""
    if device.type == "cpu":
        return batch
    return pytree.tree_map(lambda x: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x, batch)


_ZERO_BASELINE = 1e-6  # a baseline this many times smaller than the score is no measure for it


def relative_improvement(score: float, alone: float, *, higher_is_better: bool) -> float | None:
    """Return by how much a metric is better than that of the task trained alone, in percent: a term of delta_m.

        100 (-1)^l (M - B) / |B|

    with the score M, the baseline B, and l = 1 where lower is better and else 0 (Maninis 2019; Vandenhende 2021).

    Args:
        score: M, with all tasks together.
        alone: B, of the task alone.
        higher_is_better: whether more is better.

    Returns:
        The improvement, positive is better than alone; NaN where something was not measured; None where the baseline
        is zero, or a millionth of the score, so that there is no relative improvement.

    Example:
        >>> relative_improvement(1.5, 2.0, higher_is_better=False)
        25.0
    """
    if score == alone:
        return 0.0
    if abs(alone) <= _ZERO_BASELINE * abs(score):
        return None
    return 100 * (1 if higher_is_better else -1) * (score - alone) / abs(alone)
