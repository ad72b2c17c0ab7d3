"""`LeptonModel`: one trunk, a fork, and a head for every task."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.balance import Balancer, Equal
from lepton.errors import ConfigurationError, ForkError, is_whole, nearest, require
from lepton.gradients import ForkPlan, apply_fork, guard_outputs, ledger_of
from lepton.nn._adapted_trunk import AdaptedTrunk, plain_trunk
from lepton.nn._chain import Chain
from lepton.nn._fork import Fork, Leaves, is_per_task
from lepton.nn._layout import STACK_SIZE, ByTask, Layout, StackedHead, StackedHeads, is_plain_linear
from lepton.nn._reading import ReadingHead
from lepton.nn._refusals import (
    MODULE_ERRORS,
    checked_output,
    checked_tasks,
    explain_features,
    explain_head,
    explain_inputs,
    inplace_message,
    refuse_size,
)
from lepton.nn._shared import Shared, shared_parameters
from lepton.nn._width import trunk_features
from lepton.tasks import Task

__all__ = ["LeptonModel"]

_models: weakref.WeakKeyDictionary[Task, weakref.ref[LeptonModel]] = weakref.WeakKeyDictionary()
"""The model that each task serves. Not in the task: a copy of a task serves no model yet."""


class LeptonModel(nn.Module):
    """A network for several tasks that balances itself under a plain `loss.backward()`.

        inputs -> trunk -> [fork] -> head of task 1 -> output 1
                              '----> head of task T -> output T

    Linear heads on one feature tensor are computed together with the fork, in one product for all of them. A linear
    head on a feature map [B, C, H, W] reads the map's mean over positions.

    Args:
        trunk: any module. A mapping of inputs calls `trunk(**inputs)`. It returns a tensor, a nest of tensors for
            heads of your own, a mapping task -> features (one trunk pass per task), or a Hugging Face `ModelOutput`.
        tasks: what is predicted. A task object serves one model at a time; a copy of a model has copies of them.
        balancer: the method; `Equal()` by default.
        gradients: the view of the tasks' gradients that a gradient balancer compares.
        features: number of features D that the trunk gives; by default read off the trunk.
        output: for a trunk that returns a mapping, the entry that holds the features; for a `ModelOutput` by default
            `pooler_output` where there is one, otherwise `last_hidden_state`.
        feature_dim: the features' dimension; see `lepton.fork`.
        shared: for the view `"parameters"`: the part of the trunk to differentiate, by default all of it.
        memory_budget: for the view `"parameters"`; see `lepton.fork`.
        gradient_accumulation_steps: micro-batches per optimiser step, for the balancer's state.

    Attributes:
        fork: the fork: after a backward, `.weights`, `.gramian`, `.cosines`.
        heads: name -> module. From 64 linear heads on, those that the tasks make are rows of one parameter, in
            `stacked_heads`.

    Raises:
        ConfigurationError: tasks that cannot go together, or a trunk whose number of features is not known.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification, Regression
        >>> from lepton.balance import CAGrad
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> tasks = [Classification("kind", classes=3), Regression("size")]
        >>> model = lepton.LeptonModel(trunk, tasks, balancer=CAGrad(c=0.4))
        >>> loss_with_weights = lepton.MultiTaskLoss(model)
        >>> outputs, task_weights = model(torch.ones(2, 4))
        >>> loss = loss_with_weights(outputs, {"kind": torch.tensor([0, 2]), "size": torch.ones(2)}, task_weights)
        >>> loss.backward()
        >>> model.fork.weights.shape
        torch.Size([2])
    """

    loss_weight: Tensor
    priority: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        tasks: Sequence[Task],
        *,
        balancer: Balancer | None = None,
        gradients: str = "fork_layer",
        features: int | None = None,
        output: str | None = None,
        feature_dim: int | None = None,
        shared: Shared | None = None,
        memory_budget: float | None = None,
        gradient_accumulation_steps: int = 1,
    ) -> None:
        super().__init__()
        tasks = checked_tasks(trunk, tasks)
        self._refuse_served(tasks)
        require(features is None or is_whole(features), "LeptonModel", "features", features, "a whole number, or None")
        self.trunk = trunk
        self.output = output
        names = [task.name for task in tasks]
        self.fork = Fork(
            names,
            balancer if balancer is not None else Equal(),
            gradients=gradients,
            feature_dim=feature_dim,
            shared=trunk if shared is None else shared,
            memory_budget=memory_budget,
            gradient_accumulation_steps=gradient_accumulation_steps,
        )
        needs_size = features is None and any(task.own_head is None for task in tasks)
        size = trunk_features(plain_trunk(trunk)) if needs_size else features or 0
        self.tasks = ByTask({task.name: task for task in tasks})
        self.heads = ByTask({task.name: task.make_head(size) for task in tasks})
        self._stack_heads({task.name for task in tasks if task.own_head is None})
        self.register_buffer("loss_weight", torch.tensor([t.loss_weight for t in tasks]), persistent=False)
        self.register_buffer("priority", torch.tensor([t.priority for t in tasks]), persistent=False)
        self._kept_layout: tuple[tuple[int, ...], Layout] | None = None
        self._check_chains()
        self._beside = beside_trunk(trunk, self.heads.values())
        self._watch()
        self._claim_tasks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._kept_layout = None
        self._watch()
        self._claim_tasks()

    def _refuse_served(self, tasks: Sequence[Task]) -> None:
        served = [task.owner for task in tasks if task in _models and _models[task]() is not None]
        if served:
            raise ConfigurationError(
                f"these tasks already serve another model, with which they would share heads and statistics: {served}. "
                "Make new ones for each model, or pass copy.deepcopy(tasks)."
            )

    def _claim_tasks(self) -> None:
        for name in self.task_names:
            task = self.task(name)
            if task not in _models or _models[task]() is None:  # a shallow copy of a model holds the same tasks
                _models[task] = weakref.ref(self)

    def _stack_heads(self, made: set[str]) -> None:
        """Store many linear heads that were made here, not given, as one parameter."""
        linear = {n: head for n, head in self.heads.items() if n in made and type(head) is nn.Linear}
        if len(linear) < STACK_SIZE:
            return
        self.stacked_heads = StackedHeads(linear)
        for name in linear:
            self.heads[name] = StackedHead(self.stacked_heads, name)

    @contextmanager
    def heads_apart(self) -> Iterator[None]:
        """Hold every head as a module of its own, for what looks at layers, and stack them again behind it."""
        stacked = {name: head for name, head in self.heads.items() if isinstance(head, StackedHead)}
        for name, head in stacked.items():
            self.heads[name] = head.apart()
        if stacked:
            del self.stacked_heads
        try:
            yield
        finally:
            self._stack_heads(set(stacked))

    def _watch(self) -> None:
        model = weakref.ref(self)
        ledger_of(self.balancer).watch(lambda: [] if (alive := model()) is None else alive.parameters())

    def _check_chains(self) -> None:
        seen: list[str] = []
        for name, head in self.heads.items():
            for upstream in read_outputs(head):
                if upstream not in seen:
                    raise ConfigurationError(
                        f"the head of {name!r} reads the output of {upstream!r}, which is not among the tasks before "
                        f"it: {seen}.{nearest(upstream, seen)}"
                    )
            seen.append(name)

    @property
    def balancer(self) -> Balancer:
        """The balancing method, whose state is part of this model's `state_dict`."""
        return self.fork.balancer

    def head_state(self, name: str) -> list[tuple[nn.Parameter, slice]]:
        """Return the parameters of a task's head, each with the rows that are its own."""
        head = self.heads[self.task(name).name]
        if isinstance(head, StackedHead):
            return [(head.stack.weight, head.rows), (head.stack.bias, head.rows)]
        return [(parameter, slice(None)) for parameter in head.parameters()]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.loss_weight.device

    def task(self, name: str) -> Task:
        """Return one task.

        Raises:
            ConfigurationError: there is none of that name; the nearest one is offered.
        """
        found = self.tasks._modules.get(name)
        if not isinstance(found, Task):
            raise ConfigurationError(
                f"this model has no task {name!r}; its tasks are {list(self.task_names)}."
                f"{nearest(str(name), self.task_names)}"
            )
        return found

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks' names in their order, which is the order of every tensor [T]."""
        return self.fork.tasks

    def task_weights(self) -> Tensor:
        """Return the weights [T] on the losses: `loss_weight` times what the balancer knows before the batch."""
        weights = self.balancer.task_weights()
        if not self.balancer.acts_at_fork:
            weights = weights * self.priority
        return weights * self.loss_weight

    # -- forward ----------------------------------------------------------------------------------------------
    def forward(self, inputs: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Return the outputs of all tasks, in original units, and the task weights [T]."""
        outputs, weights = self.predict_from(self.features(inputs), inputs), self.task_weights()
        if not torch.compiler.is_compiling():
            weights.handle = self.balancer.handle  # type: ignore[attr-defined]  # whose they are: see MultiTaskLoss
        return outputs, weights

    def features(self, inputs: Any) -> Any:
        """Return the shared features of a batch of inputs.

        Raises:
            ConfigurationError: the trunk gave no output `output`.
        """
        found = self._trunk_output(inputs)
        if isinstance(self.trunk, AdaptedTrunk):
            return {task: self._picked(each) for task, each in found.items()}
        return self._picked(found)

    def _picked(self, found: Any) -> Any:
        """Return the features in what a trunk gave."""
        if self.output is not None:
            try:
                return found[self.output]
            except (KeyError, IndexError, TypeError):
                known = list(found) if isinstance(found, Mapping) else type(found).__name__
                raise ConfigurationError(f"the trunk gave no output {self.output!r}; it gave {known}.") from None
        if hasattr(found, "last_hidden_state"):
            pooled = getattr(found, "pooler_output", None)
            return found.last_hidden_state if pooled is None else pooled
        return found

    def _trunk_output(self, inputs: Any) -> Any:
        try:
            if isinstance(inputs, Mapping):
                return self.trunk(**{name: value for name, value in inputs.items() if name not in self._beside})
            return self.trunk(inputs)
        except MODULE_ERRORS as error:
            explain_inputs(error, self.trunk, inputs)
            raise

    def predict_from(self, features: Any, inputs: Any = None) -> dict[str, Tensor]:
        """Return the outputs of all tasks from the shared features.

        Args:
            features: what `features` gave.
            inputs: the inputs, for heads that read some of them.
        """
        layout = self._layout(features)
        try:
            return self._predict(features, layout, inputs)
        except RuntimeError as error:
            explain_features(error, features, layout)
            raise

    def outputs_of(self, inputs: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of some tasks, computing no other head than those and the ones that they read.

        For predictions: nothing is balanced here, and what only other heads read may be missing from the inputs.

        Args:
            inputs: a batch of inputs.
            tasks: names of the tasks.

        Raises:
            ConfigurationError: there is no such task.
        """
        wanted = {self.task(name).name for name in tasks}
        for name in reversed(self.task_names):  # what is read stands before what reads it
            wanted |= set(read_outputs(self.heads[name])) if name in wanted else set()
        features = self.features(inputs)
        per_task = is_per_task(features, self.task_names)
        found: dict[str, Tensor] = {}
        for name in self.task_names:
            if name in wanted:
                branch = features[name] if per_task else features
                found[name] = self.task(name).finish(self._own_head(name, self.heads[name], branch, found, inputs))
        return {name: found[name] for name in tasks}

    def _predict(self, features: Any, layout: Layout, inputs: Any) -> dict[str, Tensor]:
        if self.training:  # also where nothing is balanced: a wrong trunk is wrong with every balancer
            leaves = Leaves.of(features, layout.own or self.task_names, self.fork.feature_dim)
            if leaves is not None and self.fork.active:
                return self._balanced(leaves, layout, inputs)
        return self._unbalanced(features, layout, inputs)

    def _layout(self, features: Any) -> Layout:
        """Return which heads are fused: plain linear layers on the last dimension of one tensor."""
        heads = self.heads._modules
        common, readers = self._common_features(features)
        fusable = common is not None and _features_last(common, self.fork.feature_dim)
        fuse = tuple(
            [fusable and name in readers and is_plain_linear(head) for name, head in heads.items() if head is not None]
        )
        # By identity: a head that was replaced must not be served by the old one.
        key = fuse if torch.compiler.is_compiling() else (*fuse, *map(id, heads.values()))
        layout = self._kept_layout[1] if self._kept_layout is not None and self._kept_layout[0] == key else None
        if layout is None or torch.compiler.is_compiling():
            named = {name: head for name, head in heads.items() if head is not None}
            layout = Layout.of({name: self.task(name) for name in self.task_names}, named, fuse)
            if not torch.compiler.is_compiling():
                self._kept_layout = key, layout
        if common is not None and any(width != common.shape[-1] for width in layout.widths):
            refuse_size(common, layout, {name: self.task(name).own_head is not None for name in layout.fused})
        return layout

    def _common_features(self, features: Any) -> tuple[Tensor | None, Collection[str]]:
        """Return the tensor whose linear heads are computed in one product, and the tasks that read it."""
        if isinstance(features, Tensor):
            return features, self.task_names
        if self.training or not is_per_task(features, self.task_names):
            return None, ()
        # Tasks without an adapter read the same tensor, and get the product, bit for bit, that they had before.
        readers: dict[int, list[str]] = {}
        for name in self.task_names:
            readers.setdefault(id(features[name]), []).append(name)
        most = max(readers.values(), key=len)
        common = features[most[0]]
        return (common, most) if isinstance(common, Tensor) else (None, ())

    def _balanced(self, leaves: Leaves, layout: Layout, inputs: Any) -> dict[str, Tensor]:
        gradients = self.fork.gradients
        leaves.check_view(gradients)
        plan = ForkPlan(gradients, layout.order, layout.segments, leaves.dims, leaves.per_task)
        shared = shared_parameters(self.fork.shared, leaves.tensors) if gradients == "parameters" else ()
        linear = layout.weight_and_bias() if layout.fused else None
        budget = self.fork.memory_budget
        forked = apply_fork(plan, self.balancer, self.priority, leaves.tensors, linear, shared, budget)
        branches = leaves.rebuild(forked[1:] if layout.fused else forked) if layout.own else {}
        return self._outputs(branches, layout, forked[0] if layout.fused else None, inputs)

    def _unbalanced(self, features: Any, layout: Layout, inputs: Any) -> dict[str, Tensor]:
        common = self._common_features(features)[0] if layout.fused else None
        together = None if common is None else F.linear(common, *layout.weight_and_bias())
        per_task = is_per_task(features, self.task_names)
        branches = {name: features[name] if per_task else features for name in layout.own}
        counted = isinstance(features, Tensor) and not (torch.compiler.is_compiling() or features.is_inference())
        version = features._version if counted else None
        outputs = self._outputs(branches, layout, together, inputs)
        if version is not None and features._version != version:
            raise ForkError(inplace_message(layout.own))
        return outputs

    def _outputs(
        self, branches: Mapping[str, Any], layout: Layout, together: Tensor | None, inputs: Any
    ) -> dict[str, Tensor]:
        """Run the heads that are not fused, put a guard on all outputs in training, and finish them."""
        raw = self._own_heads(branches, layout, together, inputs)
        if self.training and torch.is_grad_enabled():
            every = (*(() if together is None else (together,)), *raw.values())
            guarded = guard_outputs(self.balancer.handle, layout.order, layout.segments, every)
            raw = dict(zip(raw, guarded if together is None else guarded[1:], strict=True))
            together = None if together is None else guarded[0]
        found = {name: self.task(name).finish(value) for name, value in raw.items()}
        if together is not None:
            layout.finish(found, together)
        return {name: found[name] for name in self.task_names}

    def _own_heads(
        self, branches: Mapping[str, Any], layout: Layout, together: Tensor | None, inputs: Any
    ) -> dict[str, Tensor]:
        """Run the heads that are not fused; some may read the outputs before them."""
        raw: dict[str, Tensor] = {}
        readable: dict[str, Tensor] = {}
        chained = any(read_outputs(self.heads[name]) for name in layout.own)
        if chained and together is not None:
            layout.finish(readable, together)
        for name in layout.own:
            head = self.heads[name]
            try:
                found = self._own_head(name, head, branches[name], readable, inputs)
            except MODULE_ERRORS as error:
                explain_head(error, name, head, branches[name], readable)
                raise
            raw[name] = checked_output(name, found)
            if chained:
                readable[name] = self.task(name).finish(raw[name])
        return raw

    def _own_head(self, name: str, head: nn.Module, features: Any, readable: Mapping[str, Tensor], inputs: Any) -> Any:
        if isinstance(head, Chain):
            upstream = head.upstream
            return head(features, readable, lambda z: self._output(upstream, z))
        if isinstance(head, ReadingHead):
            return head(features, head.context(inputs, readable))
        return self._apply_head(name, features)

    def _apply_head(self, name: str, features: Any) -> Tensor:
        head = self.heads[name]
        if isinstance(head, (nn.Linear, StackedHead)) and isinstance(features, Tensor) and features.ndim >= 4:
            dim = 1 if self.fork.feature_dim is None else self.fork.feature_dim
            if dim % features.ndim != features.ndim - 1:
                features = features.movedim(dim, 1).flatten(2).mean(-1)
        if isinstance(head, (nn.Linear, StackedHead)) and not isinstance(features, Tensor):
            raise ForkError(
                f"the linear head of {name!r} needs one tensor of features, but the trunk gave a "
                f"{type(features).__name__}: name the entry with output=... in LeptonModel, or give the task a head."
            )
        result: Tensor = head(features)
        return result

    def _output(self, name: str, features: Any) -> Tensor:
        """Evaluate one task's head on given features."""
        return self.task(name).finish(self._apply_head(name, features))


def read_outputs(head: nn.Module) -> tuple[str, ...]:
    """Return the tasks whose outputs a head reads."""
    if isinstance(head, Chain):
        return (head.upstream,)
    return head.outputs if isinstance(head, ReadingHead) else ()


def beside_trunk(trunk: nn.Module, heads: Iterable[nn.Module]) -> frozenset[str]:
    """Return the names of the inputs that heads read, and that the trunk has no argument for."""
    read = {name for head in heads if isinstance(head, ReadingHead) for name in head.inputs}
    return frozenset(read - inspect.signature(plain_trunk(trunk).forward).parameters.keys()) if read else frozenset()


def _features_last(features: Tensor, feature_dim: int | None) -> bool:
    if feature_dim is None:
        return 2 <= features.ndim < 4
    return feature_dim % features.ndim == features.ndim - 1
