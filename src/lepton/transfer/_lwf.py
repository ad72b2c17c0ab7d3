"""`LwF`: on new rows, the old tasks go on giving what they gave before."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lepton.errors import is_number, require
from lepton.nn import Attached, LeptonModel, MultiTaskLoss, NotedInputs, Penalty
from lepton.tasks import Classification, MultiLabel, Segmentation, Task, distillation
from lepton.transfer._distribution import check_kinds

__all__ = ["LwF"]


class LwF(Penalty):
    """Learning without forgetting (Li and Hoiem, 2016): the old tasks are taught by the model as it was.

        penalty = strength * sum_t L_t,   L_t = - mean_rows sum_c y'_tc log p'_tc
        y'_c = y_c^(1/T) / sum_j y_j^(1/T),   p'_c = p_c^(1/T) / sum_j p_j^(1/T)

    y are the probabilities that the old model gives a new row for the old task t, p those of the model in training, T
    the temperature. Labels that are 0 or 1 take the same cross-entropy for each of them; for a regression L_t is the
    mean squared difference in the units of the standardised targets. Old heads learn along with the trunk, as in the
    paper, which first trains the new head alone (`freeze(model.trunk)`), and then everything together.

    A task that has got further classes since, behind the old ones, is held on to over the old ones only: their
    probabilities keep their ratios.

    It needs no old row. The old outputs are computed for each batch, so that rows may be augmented.

    Args:
        model: the model as it is before the new task: a copy of it is kept. It may have the new task already.
        tasks: the old tasks; None for all of `model`.
        strength: lambda of the paper, > 0.
        temperature: T, > 0.

    Raises:
        ConfigurationError: a number that is not allowed, a task that the model does not have, or of a kind whose
            outputs are no distribution.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification
        >>> from lepton.transfer import LwF
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        >>> model = lepton.LeptonModel(trunk, [Classification("old", classes=3), Classification("new", classes=2)])
        >>> criterion = lepton.MultiTaskLoss(model)
        >>> attached = LwF(model, ["old"]).attach(criterion)
        >>> outputs, task_weights = model(torch.randn(2, 4))
        >>> criterion(outputs, {"new": torch.tensor([0, 1])}, task_weights).backward()
        >>> model.heads["old"].weight.grad is not None
        True
    """

    def __init__(
        self,
        model: LeptonModel,
        tasks: Sequence[str] | None = None,
        *,
        strength: float = 1.0,
        temperature: float = 2.0,
    ) -> None:
        for argument, value in (("strength", strength), ("temperature", temperature)):
            fits = is_number(value) and 0 < value < math.inf
            require(fits, "LwF", argument, value, "a number, positive and finite")
        self.tasks = tuple(model.task_names if tasks is None else tasks)
        check_kinds("LwF", [model.task(name) for name in self.tasks])
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.strength = strength
        self.temperature = temperature
        self._noted = NotedInputs("LwF")

    def attach(self, criterion: MultiTaskLoss) -> Attached:
        """Add the penalty to the loss of a training, of the same model or of one with more tasks.

        Args:
            criterion: that of the training; a Trainer's is `trainer.step.criterion`. Its model notes the inputs of
                each batch for the teacher.

        Raises:
            ConfigurationError: the model does not have the tasks.
        """
        penalty = criterion.register_penalty(self)
        criterion.unlabelled.update(self.tasks)
        return Attached(penalty, self._noted.watch(criterion.model))

    def __call__(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty, 0-d."""
        inputs = self._noted.take()
        with torch.no_grad():
            recorded = self.teacher.to(next(iter(outputs.values())).device).outputs_of(inputs, self.tasks)
        terms = [
            distillation(task, _as_before(task, outputs[name], recorded[name]), recorded[name], self.temperature)
            for name, task in ((name, self.teacher.task(name)) for name in self.tasks)
        ]
        return self.strength * torch.stack(terms).sum()


def _as_before(task: Task, output: Tensor, recorded: Tensor) -> Tensor:
    """Return the output without the classes that it got since, which stand behind the others."""
    if not isinstance(task, (Classification, Segmentation, MultiLabel)):
        return output
    dim = -1 if isinstance(task, MultiLabel) else task.class_dim
    return output.narrow(dim, 0, recorded.shape[dim])
