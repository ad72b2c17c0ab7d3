"""`MultiTaskLoss`: outputs and targets to one scalar."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lepton.errors import ConfigurationError, TargetError, nearest
from lepton.gradients import balancing_enabled, is_distributed, note_scale, sum_over_processes
from lepton.linalg import readable
from lepton.nn._model import LeptonModel
from lepton.tasks import Task

__all__ = ["MultiTaskLoss", "Penalty"]


class Penalty:
    """A term that is added to the loss in training, such as one that holds on to what was learned before.

    Derive a class from this one and register an object of it: `criterion.register_penalty(penalty)`. It is added to
    the scalar that `MultiTaskLoss` returns, behind the balancer, so that `loss.backward()` stays all that anybody
    calls. In an accumulation window with `label_counts` each micro-batch gets its share of it.

    Attributes:
        tasks: tasks whose outputs it reads, so that their heads learn from it in a batch without labels of theirs.

    Example:
        >>> import torch, lepton
        >>> from lepton.nn import Penalty
        >>> from lepton.tasks import Regression
        >>> class Small(Penalty):
        ...     tasks = ("size",)
        ...
        ...     def __call__(self, outputs):
        ...         return 0.1 * outputs["size"].square().mean()
        >>> model = lepton.LeptonModel(torch.nn.Linear(4, 8), [Regression("size"), Regression("age")])
        >>> criterion = lepton.MultiTaskLoss(model)
        >>> outputs, task_weights = model(torch.ones(2, 4))
        >>> before = criterion(outputs, {"age": torch.ones(2)}, task_weights)
        >>> handle = criterion.register_penalty(Small())
        >>> bool(criterion(outputs, {"age": torch.ones(2)}, task_weights) > before)
        True
    """

    tasks: Sequence[str] = ()

    def __call__(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the term, 0-d.

        Args:
            outputs: the model's outputs.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it adds to the loss: write __call__.")


class MultiTaskLoss(nn.Module):
    """The criterion: masked mean losses of all tasks, then the balancer's loss side, to one scalar.

    A task's loss is the sum over its labels divided by their number in the global batch (in training, of all
    processes; of the whole accumulation window if `label_counts` says so). A task without labels contributes nothing.
    A task whose loss is not finite is left out of the step.

    Args:
        model: the model, as it is or wrapped by DistributedDataParallel, FSDP or `torch.compile`.

    Attributes:
        last_losses: [T] the tasks' mean losses of the last call (not under `torch.compile`), detached, unweighted.
        last_present: [T] bool, which tasks had labels in it.
        last_not_finite: [T] bool, which tasks had labels, but a loss that is not finite.
        last_factors: [T] derivative of the scalar by each task's loss, known after backward: the weights that the
            loss side gave, times whatever factor backward was called with.
        unlabelled: tasks that are meant to have no label in this training, because a penalty or a memory looks after
            them; the Trainer otherwise refuses a task without one. To be written to.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(4, 8), [Regression("a"), Regression("b", loss_weight=0.5)])
        >>> loss_with_weights = lepton.MultiTaskLoss(model)
        >>> outputs, task_weights = model(torch.ones(2, 4))
        >>> targets = {"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")])}
        >>> loss_with_weights(outputs, targets, task_weights).ndim
        0
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the model is not registered here and its parameters are not listed twice.
        self._model = (unwrap(model),)
        self.last_losses: Tensor | None = None
        self.last_present: Tensor | None = None
        self.last_not_finite: Tensor | None = None
        self.last_factors: Tensor | None = None
        self.unlabelled: set[str] = set()
        self._penalties: OrderedDict[int, Penalty] = OrderedDict()

    def register_penalty(self, penalty: Penalty) -> RemovableHandle:
        """Add a term to the loss in training; `remove()` of the returned handle takes it away again.

        Raises:
            ConfigurationError: it reads a task that the model does not have.
        """
        for name in penalty.tasks:
            self.model.task(name)
        handle = RemovableHandle(self._penalties)
        self._penalties[handle.id] = penalty
        return handle

    @property
    def penalised(self) -> frozenset[str]:
        """The tasks whose heads learn from a penalty, with labels or without."""
        return frozenset(name for penalty in self._penalties.values() for name in penalty.tasks)

    @property
    def model(self) -> LeptonModel:
        """The model whose tasks and balancer this criterion uses."""
        return self._model[0]

    @property
    def losses(self) -> dict[str, Tensor]:
        """The tasks' losses of the last call, detached, before any weight; zero for a task without labels."""
        return {} if self.last_losses is None else dict(zip(self.model.task_names, self.last_losses, strict=True))

    def forward(
        self,
        outputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        task_weights: Tensor,
        *,
        label_counts: Tensor | None = None,
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            outputs: first result of the model.
            targets: name -> tensor; a task may be missing, and its labels may hold the missing value.
            task_weights: [T], second result of the model.
            label_counts: [T], the sum of `count(targets)` over an accumulation window. The micro-batches' losses
                then add up to the loss of one large batch, and are not to be divided by their number.

        Raises:
            TargetError: an unknown task, or targets that do not fit their task.
            ConfigurationError: the results of another model. It is told by `task_weights` as the model returned them;
                under `torch.compile`, or once they were changed, nobody can tell.
        """
        model = self.model
        _check_per_task("task_weights", task_weights, model)
        handle = getattr(task_weights, "handle", None)  # gone where the user or a compiler made a new tensor of them
        if handle is not None and handle is not model.balancer.handle and int(handle) != int(model.balancer.handle):
            raise ConfigurationError(
                "these task_weights come from another model than the one that this MultiTaskLoss was made for: make "
                "one MultiTaskLoss(model) for each model."
            )
        losses, present = self.task_losses(outputs, targets, label_counts=label_counts)
        if not torch.compiler.is_compiling():
            self._keep(losses, present)
        if model.balancer.logarithmic:
            present = self._without_negative(losses.detach(), present)
            losses = torch.where(present, losses, 0.0)
        weighted = losses * model.loss_weight
        total = model.balancer.combine(weighted, task_weights / model.loss_weight, present)
        if not (model.training and torch.is_grad_enabled()):
            return total
        if balancing_enabled():
            total = note_scale(total, weighted.detach(), present, model.balancer.handle, label_counts is not None)
        share = 1.0 if label_counts is None else 1 / model.fork.gradient_accumulation_steps
        for penalty in self._penalties.values():
            total = total + share * penalty(outputs)
        return total

    def _without_negative(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the present tasks without those whose loss has no logarithm; where that is known, refuse them.

        An accelerator is not asked: there such a task is left out of the step, as one whose loss is not finite is.
        """
        negative = self.model.balancer.takes_logarithms(present) & (losses < 0)
        if torch.compiler.is_compiling():
            return present & ~negative
        if not readable(negative):
            self.last_not_finite = negative if self.last_not_finite is None else self.last_not_finite | negative
            return present & ~negative
        if bool(negative.any()):
            each = zip(self.model.task_names, losses.tolist(), negative.tolist(), strict=True)
            told = ", ".join(f"{name!r} {value:.4g}" for name, value, wrong in each if wrong)
            raise TargetError(
                f"{type(self.model.balancer).__name__} takes logarithms of losses, but some are negative: {told}. "
                "Choose a balancer that takes losses as they are, such as Uncertainty() or MGDA() without Log, or a "
                "loss that is never negative, as by adding a constant to it."
            )
        return present

    def _keep(self, losses: Tensor, present: Tensor) -> None:
        self.last_losses, self.last_present, self.last_factors = losses.detach(), present, None
        if losses.requires_grad:
            losses.register_hook(self._keep_factors)  # type: ignore[no-untyped-call]

    def _keep_factors(self, factors: Tensor) -> None:
        self.last_factors = factors.detach()

    def task_losses(
        self,
        outputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        *,
        label_counts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean losses [T] before any weight, and which tasks are present, [T] bool.

        A task without labels, or whose loss is not finite, is zero and not present.

        Args:
            outputs: as in `forward`, like the rest.
            targets: see there.
            label_counts: see there.
        """
        sums, counts = self._sums(outputs, targets)
        bad = ~torch.isfinite(sums.detach())
        world, (all_sums, all_counts, any_bad) = self._global(sums, counts, bad)
        if not torch.compiler.is_compiling():
            self.last_not_finite = any_bad > 0
        if label_counts is not None:
            _check_per_task("label_counts", label_counts, self.model)
            all_counts = label_counts.to(counts)
            if world > 1:
                all_counts = sum_over_processes(self.model.balancer.handle, all_counts)
        present = (all_counts > 0) & (any_bad == 0)
        divisor = torch.where(present, all_counts, 1.0)
        local = torch.where(present, sums, 0.0) / divisor
        if world == 1:
            return local, present
        # The value is the global mean, to the last digit, so that balancers learn the same in all processes; the
        # gradient is this process's part, times the number of processes, because data parallelism averages gradients.
        value = torch.where(present, all_sums, 0.0) / divisor
        own = local * world
        return value.detach() + (own - own.detach()), present

    def count(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the number of labels (the sum of their class weights) of each task, [T].

        Sum it over the micro-batches of an accumulation window to get `label_counts`.
        """
        like = self.model.loss_weight
        counts = []
        for name in self.model.task_names:
            target = targets.get(name)
            counts.append(like.new_zeros(()) if target is None else self.model.task(name).label_count(target).to(like))
        return torch.stack(counts)

    def _check_names(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        names = self.model.task_names
        for given in (type(outputs), type(targets)):
            if not issubclass(given, Mapping):
                raise TargetError(
                    f"outputs and targets must be mappings from task names to tensors, not a {given.__name__}; the "
                    "model returns two things: outputs, task_weights = model(inputs)."
                )
        for name in targets.keys() - set(names):
            raise TargetError(
                f"the targets hold {name!r}, which is no task of this model; its tasks are "
                f"{list(names)}.{nearest(str(name), names)}"
            )
        for name in set(names) - outputs.keys():
            raise TargetError(f"the outputs hold no {name!r}: pass the model's first result as it is.")
        for name, target in targets.items():
            kind: type = type(target)
            if not issubclass(kind, Tensor):
                raise TargetError(f"the target of {name!r} must be a tensor, but it is a {kind.__name__}.")

    def _sums(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return sums of losses and counts of labels, [T] each; tasks of equal kind and shape in one go."""
        self._check_names(outputs, targets)
        hang = is_distributed() or not targets  # a scalar without a graph could not be differentiated
        zero = self.model.loss_weight.new_zeros(())
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        groups: dict[Hashable, list[str]] = {}
        for name in self.model.task_names:
            if name not in targets:
                sums[name], counts[name] = self._nothing(outputs[name]) if hang else zero, zero
                continue
            key = self.model.task(name).group_key
            shapes = outputs[name].shape, targets[name].shape, targets[name].dtype
            groups.setdefault(name if key is None else (key, *shapes), []).append(name)
        if len(groups) == 1 and not sums:  # the order is the model's: nothing to sort
            (names,) = groups.values()
            return self._group(names, outputs, targets)
        for names in groups.values():
            group_sums, group_counts = self._group(names, outputs, targets)
            sums.update(zip(names, group_sums.unbind(), strict=True))
            counts.update(zip(names, group_counts.unbind(), strict=True))
        order = self.model.task_names
        return torch.stack([sums[name] for name in order]), torch.stack([counts[name] for name in order])

    def _group(
        self, names: Sequence[str], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        tasks = [self.model.task(name) for name in names]
        first, output, target = tasks[0], outputs[names[0]], targets[names[0]]
        if len(names) == 1:
            loss_sum, count = first.total_loss(output, _fitting(first, output, target))
            return loss_sum[None], count[None]
        output = stack_slices([outputs[name] for name in names])
        try:
            target = _fitting(first, output, torch.stack([targets[name] for name in names]))
        except (TargetError, RuntimeError):
            for task in tasks:  # the message must name the task that is wrong, and its own shapes
                _fitting(task, outputs[task.name], targets[task.name])
            raise
        return type(first).group_losses(tasks, output, target)

    @staticmethod
    def _nothing(output: Tensor) -> Tensor:
        """Return a zero that hangs on the output: in a data-parallel run all graphs must be the same."""
        return torch.where(torch.ones_like(output, dtype=torch.bool), 0.0, output).sum()

    def _global(self, sums: Tensor, counts: Tensor, bad: Tensor) -> tuple[int, Tensor]:
        """Return the number of processes, and sums, counts and flags over all of them, [3, T]."""
        finite = torch.where(bad, 0.0, sums.detach())
        stacked = torch.stack([finite, counts.detach(), bad.to(finite)])
        if not (is_distributed() and self.model.training):
            return 1, stacked
        return torch.distributed.get_world_size(), sum_over_processes(self.model.balancer.handle, stacked)


_ORIGIN = {
    "task_weights": "pass the model's second result as it is",
    "label_counts": "pass the sum of criterion.count(targets) over the window",
}


def _check_per_task(argument: str, given: Tensor, model: LeptonModel) -> None:
    """Refuse anything but one number for each task."""
    if not isinstance(given, Tensor) or given.shape != (len(model.task_names),):
        found = f"has the shape {list(given.shape)}" if isinstance(given, Tensor) else f"is a {type(given).__name__}"
        raise TargetError(
            f"{argument} {found}, but must be a tensor with one number for each of the {len(model.task_names)} tasks: "
            f"{_ORIGIN[argument]}."
        )


def _fitting(task: Task, output: Tensor, target: Tensor) -> Tensor:
    """Return the target as the task's loss takes it, after checking where and how it is stored."""
    if target.device != output.device:
        raise TargetError(
            f"{task.owner}: its target is on {target.device}, its output on {output.device}: move the targets where "
            "the model is, target.to(output.device)."
        )
    if target.layout != torch.strided:
        raise TargetError(f"{task.owner}: its target is {target.layout}: make it dense, target.to_dense().")
    return task.check_target(output, target)


def stack_slices(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors stacked; if they are all slices of one tensor, in order, that tensor itself.

    Fused heads finish the outputs of many tasks as one tensor: to cut it up and stack it again, forth and back,
    costs more for a thousand tasks than their losses.
    """
    if torch.compiler.is_compiling() or not tensors[0]._is_view():
        return torch.stack(list(tensors))
    base = tensors[0]._base
    whole = base is not None and base.shape == (len(tensors), *tensors[0].shape) and base.is_contiguous()
    step = tensors[0].numel()
    if whole and all(
        tensor._base is base and tensor.storage_offset() == place * step for place, tensor in enumerate(tensors)
    ):
        assert base is not None
        return base
    return torch.stack(list(tensors))


def unwrap(model: nn.Module) -> LeptonModel:
    """Return the LeptonModel inside DistributedDataParallel, `torch.compile` and their like."""
    inner = model
    while not isinstance(inner, LeptonModel):
        for attribute in ("module", "_orig_mod"):
            wrapped = getattr(inner, attribute, None)
            if isinstance(wrapped, nn.Module):
                inner = wrapped
                break
        else:
            raise ConfigurationError(f"MultiTaskLoss needs a LeptonModel, but got {type(model).__name__}.")
    return inner
