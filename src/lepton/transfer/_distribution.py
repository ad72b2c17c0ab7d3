"""What a task's outputs say of its labels: as a distribution, for the procedures that hold on to it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.errors import ConfigurationError
from lepton.tasks import Classification, MultiLabel, Regression, Segmentation, Task

__all__ = ["check_kinds", "own_log_likelihood"]

_KINDS = (Classification, Segmentation, MultiLabel, Regression)


def check_kinds(owner: str, tasks: Iterable[Task]) -> None:
    """Refuse tasks whose outputs are not known to be a distribution of their labels."""
    strangers = [task.owner for task in tasks if not isinstance(task, _KINDS)]
    if strangers:
        known = [kind.__name__ for kind in _KINDS]
        raise ConfigurationError(
            f"{owner}: {strangers} cannot be held on to by their outputs; the kinds that can are {known}. Leave these "
            "tasks out, or replay rows of theirs."
        )


def own_log_likelihood(task: Task, output: Tensor, generator: torch.Generator) -> Tensor:
    """Return log p(y | output), 0-d, of labels y that are drawn from that very distribution."""
    if isinstance(task, (Classification, Segmentation)):
        log_p = output.movedim(task.class_dim, -1).flatten(0, -2).log_softmax(-1)
        drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        return log_p.gather(1, drawn).sum()
    if isinstance(task, MultiLabel):
        probability = output.detach().sigmoid()
        drawn = torch.bernoulli(probability, generator=generator)
        return -F.binary_cross_entropy_with_logits(output, drawn, reduction="sum")
    assert isinstance(task, Regression)
    scale = task.std if task.outputs > 1 else task.std.squeeze(-1)
    noise = torch.randn(output.shape, generator=generator, device=output.device) * scale
    return -0.5 * ((output.detach() + noise - output) / scale).square().sum()
