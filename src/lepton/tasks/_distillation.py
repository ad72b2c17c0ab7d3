"""How far a task's outputs are from those of another model: what a teacher's outputs are used for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lepton.errors import ConfigurationError
from lepton.tasks._categorical import Categorical
from lepton.tasks.base import Task, at_least_float32
from lepton.tasks.multilabel import MultiLabel
from lepton.tasks.regression import Regression
from lepton.tasks.speech_recognition import SpeechRecognition, is_padding

__all__ = ["DISTILLED", "distillation"]

DISTILLED: tuple[type[Task], ...] = (Categorical, MultiLabel, Regression, SpeechRecognition)
"""Kinds whose outputs say the distribution of their labels, so that one model can teach it to another."""


def distillation(
    task: Task, output: Tensor, recorded: Tensor, temperature: float = 1.0, places: Tensor | None = None
) -> Tensor:
    """Return the mean over labels of the loss of a model's output against what another model gave, 0-d.

    For classes, pixels, tokens and frames the cross-entropy of tempered distributions, for labels that are 0 or 1 that
    of each of them, for numbers the squared difference in units of the standardised targets:

        - sum_c q_c log p_c,   q = softmax(recorded / T),   p = softmax(output / T);     ((output - recorded) / std)^2

    with the temperature T. It is least where both are equal: it is then the entropy of q, or 0. Whether rows have
    labels does not matter. Frames of speech that `recorded` calls padding do not count. No number is read from the
    device. Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, without its T^2.

    Args:
        task: the task, with the statistics by which numbers are standardised.
        output: the finished output in training, [B, ...].
        recorded: that of the other model, of the same shape; no gradient is wanted for it.
        temperature: T, > 0.
        places: bool [B, L], which positions of a sequence count; None for all.

    Raises:
        ConfigurationError: two shapes, or a kind of task that is not in `DISTILLED`.

    Example:
        >>> import torch
        >>> from lepton.tasks import Classification
        >>> wanted = torch.tensor([[0.0, 0.0]])
        >>> round(distillation(Classification("kind", 2), torch.tensor([[2.0, 2.0]]), wanted).item(), 4)
        0.6931
    """
    if output.shape != recorded.shape:
        raise ConfigurationError(
            f"{task.owner}: one model gives {list(output.shape)} and the other {list(recorded.shape)}: what one is to "
            "learn from the other must have one shape. Leave this task out, or use a trunk of the same stride."
        )
    output, recorded = at_least_float32(output), at_least_float32(recorded)
    if isinstance(task, Regression):
        scale = task.std if task.outputs > 1 else task.std.squeeze(-1)
        return ((output - recorded) / scale).square().mean()
    if isinstance(task, MultiLabel):
        return F.binary_cross_entropy_with_logits(output / temperature, (recorded / temperature).sigmoid())
    if not isinstance(task, DISTILLED):
        raise ConfigurationError(f"{task.owner} cannot be taught by outputs: they say no distribution of its labels.")
    if isinstance(task, SpeechRecognition):
        places = ~is_padding(recorded)
    dim = task.class_dim if isinstance(task, Categorical) else -1
    wanted = (recorded / temperature).softmax(dim)
    losses = -(wanted * (output / temperature).log_softmax(dim)).sum(dim)
    if places is None:
        return losses.mean()
    return losses.where(places, 0.0).sum() / places.sum().clamp(min=1)
