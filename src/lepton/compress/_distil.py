"""`Distil`: a small model learns what large ones say of every row."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lepton.errors import ConfigurationError, TrainingError, is_number, nearest, require
from lepton.nn import Attached, LeptonModel, MultiTaskLoss, NotedInputs, Penalty, trunk_features
from lepton.tasks import DISTILLED, MultiLabel, Regression, Task, Translation, distillation

__all__ = ["Distil"]


class Distil(Penalty):
    """Distillation (Hinton, Vinyals and Dean, 2015): a student is taught by the outputs of teachers, beside its labels.

        penalty = strength * sum_t L_t + features * sum_teachers mean (W z + b - z')^2
        L_t = T^2 mean_labels sum_c q_c (log q_c - log p_c),   q = softmax(x'_t / T),   p = softmax(x_t / T)

    x'_t are the teacher's outputs for a row and task t, x_t the student's, T the temperature; T^2 keeps the size of
    the gradient when T changes. The mean runs over rows, pixels (segmentation), tokens that are no padding (tags, next
    tokens) or frames that are no padding (CTC). Labels that are 0 or 1 take the same divergence of two outcomes each;
    for a regression L_t is the mean squared difference in units of the standardised targets, without T^2. Every row
    teaches, with or without a label.

    With `features` the student's features z are also drawn to the teacher's z' through a learned linear map W, b (at
    pixels a convolution of size 1), as FitNets are (Romero et al., 2015). W, b belong to the optimiser and not to the
    student: they are gone when the training ends.

    On small data this often gains nothing: train the same student without it, beside it.

    Args:
        teachers: one model of several tasks, or task -> the model that teaches it. They are copied, and read the same
            inputs as the student.
        tasks: what is taught; None for all tasks of the teachers that the student has.
        strength: of the outputs' part, > 0.
        temperature: T, > 0.
        features: of the features' part, >= 0; 0 leaves it out.

    Attributes:
        regressors: W and b of each teacher, once attached.

    Raises:
        ConfigurationError: a number that is not allowed, a task that its teacher does not have, or of a kind whose
            outputs are no distribution.

    Example:
        >>> import torch, lepton
        >>> from lepton.compress import Distil
        >>> from lepton.tasks import Classification
        >>> large = lepton.LeptonModel(torch.nn.Linear(4, 64), [Classification("kind", classes=3)])
        >>> small = lepton.LeptonModel(torch.nn.Linear(4, 2), [Classification("kind", classes=3)])
        >>> criterion = lepton.MultiTaskLoss(small)
        >>> attached = Distil(large, temperature=4.0).attach(criterion)
        >>> outputs, task_weights = small(torch.randn(8, 4))
        >>> criterion(outputs, {}, task_weights).backward()  # no label at all
        >>> small.heads["kind"].weight.grad is not None
        True
    """

    def __init__(
        self,
        teachers: LeptonModel | Mapping[str, LeptonModel],
        *,
        tasks: Sequence[str] | None = None,
        strength: float = 1.0,
        temperature: float = 2.0,
        features: float = 0.0,
    ) -> None:
        for argument, value in (("strength", strength), ("temperature", temperature)):
            fits = is_number(value) and 0 < value < math.inf
            require(fits, "Distil", argument, value, "a number, positive and finite")
        fits = is_number(features) and 0 <= features < math.inf
        require(fits, "Distil", "features", features, "a number >= 0 and finite; 0 leaves the features out")
        self.strength, self.temperature, self.features = strength, temperature, features
        given = _by_task(teachers, tasks)
        self.tasks: tuple[str, ...] = tuple(given)
        self._teachers = _copied(given)
        self.regressors = nn.ModuleList()
        self._noted = NotedInputs("Distil")
        self._student: LeptonModel | None = None
        self._student_features: Any = None

    def attach(self, criterion: MultiTaskLoss, optimizer: Optimizer | None = None) -> Attached:
        """Add the penalty to the loss of a training.

        Args:
            criterion: that of the student's training; a Trainer's is `trainer.step.criterion`.
            optimizer: gets the parameters of W and b as one more group; needed with `features`.

        Raises:
            ConfigurationError: the student does not have the tasks, or other classes; `features` without an optimiser.
        """
        student = criterion.model
        wanted = [name for name in self.tasks if name in student.task_names]
        if not wanted:
            raise ConfigurationError(
                f"Distil: the teachers teach {list(self.tasks)}, but the student's tasks are "
                f"{list(student.task_names)}: they have none in common.{nearest(self.tasks[0], student.task_names)}"
            )
        self.tasks = tuple(wanted)
        for teacher, names in self._teachers:
            for name in set(names) & set(wanted):
                _check_alike(student.task(name), teacher.task(name))
        self._student = student
        handles = [criterion.register_penalty(self), self._noted.watch(student)]
        if self.features:
            handles.append(self._match_features(student, optimizer))
        criterion.unlabelled.update(self.tasks)
        return Attached(*handles)

    def _match_features(self, student: LeptonModel, optimizer: Optimizer | None) -> RemovableHandle:
        if optimizer is None:
            raise ConfigurationError(
                "Distil: features= learns a map from the student's features to the teacher's: say which optimiser "
                "trains it, attach(criterion, optimizer); a Trainer's is trainer.optimizer."
            )
        width = trunk_features(student.trunk)
        like = next(student.parameters())
        self.regressors = nn.ModuleList(
            nn.Linear(width, trunk_features(teacher.trunk), device=like.device, dtype=like.dtype)
            for teacher, _ in self._teachers
        )
        optimizer.add_param_group({"params": list(self.regressors.parameters())})
        return student.trunk.register_forward_hook(self._note_features)

    def _note_features(self, trunk: nn.Module, inputs: Any, features: Any) -> None:
        self._student_features = features

    # -- loss -------------------------------------------------------------------------------------------------
    def __call__(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty, 0-d."""
        inputs = self._noted.take()
        student_features, self._student_features = self._student_features, None
        terms: list[Tensor] = []
        for place, (teacher, names) in enumerate(self._teachers):
            taught = [name for name in names if name in self.tasks]
            features, recorded = self._said(teacher.to(outputs[self.tasks[0]].device), inputs, taught)
            terms += [self.strength * self._apart(name, outputs, recorded, inputs) for name in taught]
            if self.features:
                regressor = self.regressors[place]
                terms.append(self.features * self._features_apart(regressor, student_features, features, inputs))
        return torch.stack(terms).sum()

    @torch.no_grad()
    def _said(self, teacher: LeptonModel, inputs: Any, names: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        """Return a teacher's features, where they are wanted, and its outputs."""
        if not self.features:
            return None, teacher.outputs_of(inputs, names)
        features = teacher.features(inputs)
        return features, teacher.predict_from(features, inputs)

    def _apart(self, name: str, outputs: Mapping[str, Tensor], recorded: Mapping[str, Tensor], inputs: Any) -> Tensor:
        assert self._student is not None
        task = self._student.task(name)
        places = _places(self._student.trunk, task, outputs[name], inputs)
        if isinstance(task, Regression):
            return distillation(task, outputs[name], recorded[name])
        cross = distillation(task, outputs[name], recorded[name], self.temperature, places)
        with torch.no_grad():  # a divergence is 0 where nothing is left to learn, a cross-entropy is not
            entropy = distillation(task, recorded[name], recorded[name], self.temperature, places)
        return self.temperature**2 * (cross - entropy)

    def _features_apart(self, regressor: nn.Module, own: Any, wanted: Any, inputs: Any) -> Tensor:
        assert self._student is not None
        if not (isinstance(own, Tensor) and isinstance(wanted, Tensor)):
            raise TrainingError(
                "Distil: features= needs trunks that give one tensor of features; these give "
                f"{type(own).__name__} and {type(wanted).__name__}: leave it out."
            )
        own, wanted = _features_last(own), _features_last(wanted)
        if own.shape[:-1] != wanted.shape[:-1]:
            raise TrainingError(
                f"Distil: the student's features lie at {list(own.shape[:-1])} places and the teacher's at "
                f"{list(wanted.shape[:-1])}: to match them both trunks need the same strides. Leave features= out."
            )
        found = regressor(own)
        losses = F.mse_loss(found.float(), wanted.float(), reduction="none").mean(-1)
        places = _token_places(self._student.trunk, "tokens", losses, inputs)
        return losses.mean() if places is None else losses.where(places, 0.0).sum() / places.sum().clamp(min=1)


# -- teachers -----------------------------------------------------------------------------------------------------
def _by_task(teachers: LeptonModel | Mapping[str, LeptonModel], tasks: Sequence[str] | None) -> dict[str, LeptonModel]:
    """Return task -> teacher."""
    if isinstance(teachers, LeptonModel):
        given = dict.fromkeys(teachers.task_names if tasks is None else tasks, teachers)
    else:
        fits = isinstance(teachers, Mapping) and all(isinstance(each, LeptonModel) for each in teachers.values())
        require(fits and bool(teachers), "Distil", "teachers", teachers, "a LeptonModel, or task -> LeptonModel")
        chosen = list(teachers) if tasks is None else list(tasks)
        for name in chosen:
            if name not in teachers:
                raise ConfigurationError(f"Distil: nobody teaches {name!r}; there are teachers of {list(teachers)}.")
        given = {name: teachers[name] for name in chosen}
    require(bool(given), "Distil", "tasks", tasks, "at least one task, or None for all")
    strangers = [task.owner for name, each in given.items() if not isinstance(task := each.task(name), DISTILLED)]
    if strangers:
        raise ConfigurationError(
            f"Distil: {strangers} cannot be taught by outputs, which say no distribution of their labels. Name the "
            "other tasks with tasks=."
        )
    return given


def _copied(given: Mapping[str, LeptonModel]) -> list[tuple[LeptonModel, list[str]]]:
    """Return every teacher once, frozen, with the tasks that it teaches."""
    found: dict[int, tuple[LeptonModel, list[str]]] = {}
    for name, teacher in given.items():
        if id(teacher) not in found:
            found[id(teacher)] = (copy.deepcopy(teacher).eval().requires_grad_(False), [])
        found[id(teacher)][1].append(name)
    return list(found.values())


def _check_alike(student: Task, teacher: Task) -> None:
    """Refuse a task that is another one to the teacher."""
    mine, theirs = _described(student), _described(teacher)
    if mine != theirs:
        raise ConfigurationError(
            f"Distil: {student.name!r} is a {mine[0]} of {_shortly(mine[1])} to the student, and a {theirs[0]} of "
            f"{_shortly(theirs[1])} to its teacher: they must be the same, in the same order."
        )


def _described(task: Task) -> tuple[str, Any]:
    """Return the kind of a task, and the names of what it tells apart or the number of its numbers."""
    attributes = ("class_names", "label_names", "characters", "outputs")
    return type(task).__name__, next(getattr(task, name) for name in attributes if hasattr(task, name))


def _shortly(what: Any) -> str:
    if isinstance(what, tuple):
        return f"{list(what[:8])}" + (f" and {len(what) - 8} more" if len(what) > 8 else "")
    return f"{what} numbers"


# -- places -------------------------------------------------------------------------------------------------------
def _places(trunk: nn.Module, task: Task, output: Tensor, inputs: Any) -> Tensor | None:
    """Return which positions of a sequence hold a token, bool [B, L]; None where every position counts."""
    if output.ndim != 3 or isinstance(task, (Regression, MultiLabel)):
        return None
    return _token_places(trunk, "target" if isinstance(task, Translation) else "tokens", output[..., 0], inputs)


def _token_places(trunk: nn.Module, name: str, like: Tensor, inputs: Any) -> Tensor | None:
    ids = inputs.get(name) if isinstance(inputs, Mapping) else None
    if ids is None or ids.shape != like.shape:
        return None
    padding = cast(int, getattr(trunk, "padding", 0))
    # Behind the last token: some models pad with an id that is a token elsewhere.
    return cast(Tensor, (ids != padding).flip(1).long().cumsum(1).flip(1) > 0)


def _features_last(features: Tensor) -> Tensor:
    return features.movedim(1, -1) if features.ndim >= 4 else features
