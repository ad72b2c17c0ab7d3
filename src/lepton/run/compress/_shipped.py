"""The metrics of an exported folder: of what is shipped, and not of the network that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.data import Rows, rows_at_once
from lepton.evaluate import to_device
from lepton.export import ExportedModel
from lepton.nn import LeptonModel
from lepton.run._rows import make_loader
from lepton.run._run import Run
from lepton.tasks import Classification, LanguageModeling, MultiLabel, Segmentation, Task, TokenClassification

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Scores", "outputs_in_torch", "shipped_scores", "torch_scores"]

Scores = dict[str, dict[str, float]]
"""Task -> metric -> value."""


@torch.no_grad()
def shipped_scores(exported: ExportedModel, run: Run, rows: Rows, table: pa.Table) -> Scores:
    """Return the metrics of every task that an exported folder predicts, on rows with labels.

    The folder reads the rows by its own rules. The metrics are those of the tasks, computed from what the graph says:
    from probabilities and labels instead of logits. Of a language model that is the perplexity alone.

    Args:
        exported: the folder.
        run: a run of the same tasks, for their metrics.
        rows: the same rows as the run encodes them, for their labels.
        table: the rows.
    """
    tasks = {name: copy.deepcopy(run.model.task(name)).cpu() for name in exported.tasks}
    metrics = {name: task.metrics() for name, task in tasks.items()}
    size = rows_at_once(rows)
    labels = make_loader(rows, run.config, batch_size=size)
    for inputs, (_, targets) in zip(
        exported.manifest.reading.batches(exported.encoder, table, size), labels, strict=True
    ):
        said = exported.outputs(inputs)
        for name, task in tasks.items():
            keys = {port.key: said[port.name] for port in exported.manifest.outputs[name]}
            _update(task, metrics[name], keys, targets[name])
    told = {name: {"perplexity"} for name, task in tasks.items() if isinstance(task, LanguageModeling)}
    return {
        name: {key: float(metric.compute()) for key, metric in found.items() if key in told.get(name, found)}
        for name, found in metrics.items()
    }


def outputs_in_torch(model: nn.Module, inputs: Any) -> Mapping[str, Tensor]:
    """Return the outputs of the tasks that a `LeptonModel` gives, or a copy of one that only predicts."""
    found = model(inputs)
    return found[0] if isinstance(model, LeptonModel) else found  # type: ignore[no-any-return]


@torch.no_grad()
def torch_scores(model: nn.Module, run: Run, rows: Rows, like: Scores) -> Scores:
    """Return the metrics of what a network in torch says of rows with labels, those only that an export has too.

    Args:
        model: see `outputs_in_torch`; in eval mode, where the run's model is.
        run: whose tasks they are.
        rows: the rows.
        like: the metrics that are wanted.
    """
    device = run.model.device
    tasks = {name: copy.deepcopy(run.model.task(name)).to(device) for name in like}
    metrics = {name: {key: metric.to(device) for key, metric in task.metrics().items()} for name, task in tasks.items()}
    for inputs, targets in make_loader(rows, run.config):
        outputs = outputs_in_torch(model, to_device(inputs, device))
        for name, task in tasks.items():
            task.update_metrics(metrics[name], outputs[name], targets[name].to(device))
    return {name: {key: float(metrics[name][key].compute()) for key in found} for name, found in like.items()}


def _update(task: Task, metrics: Mapping[str, Any], said: Mapping[str, Tensor], target: Tensor) -> None:
    if isinstance(task, LanguageModeling):
        counts = task.mask(target).sum(1)
        metrics["perplexity"].update(said["perplexity"].log().repeat_interleave(counts))
        return
    task.update_metrics(metrics, _output(task, said), target)


def _output(task: Task, said: Mapping[str, Tensor]) -> Tensor:
    """Return an output of the task that says what the graph says of it."""
    if isinstance(task, (Classification, TokenClassification)):
        return said["probability"].clamp(min=torch.finfo(torch.float32).tiny).log()
    if isinstance(task, MultiLabel):
        return said["probability"].logit(eps=1e-7)
    if isinstance(task, Segmentation):
        return F.one_hot(said["label"], task.classes).movedim(-1, task.class_dim).float()
    return said["logits"] if "logits" in said else said["value"]
