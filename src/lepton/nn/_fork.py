"""`fork`: one line between a trunk and its heads, on a model of one's own."""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lepton.balance import VIEWS, Balancer
from lepton.errors import ConfigurationError, ForkError, is_number, is_whole, nearest, require
from lepton.gradients import ForkPlan, apply_fork, balancing_enabled, ledger_of
from lepton.nn._shared import Shared, checked_shared, shared_parameters

__all__ = ["Fork", "Leaves", "fork", "is_per_task"]


def fork(
    features: Any,
    tasks: Sequence[str],
    *,
    balancer: Balancer,
    gradients: str = "fork_layer",
    feature_dim: int | None = None,
    shared: Shared | None = None,
    memory_budget: float | None = None,
) -> dict[str, Any]:
    """Hand the shared features to every task; in backward, weigh the tasks' gradients before they enter the trunk.

    Forward is an identity. Backward is called once by autograd, when the cotangents c_k = dL_k/dz of all tasks have
    arrived; the balancer turns their Gramian into weights w_k, and the trunk receives sum_k w_k c_k. The tasks' heads
    receive their own gradients, unweighted. Use each task's features for that task's loss only.

    Args:
        features: the trunk's output: a tensor [B, D], [B, L, D] or [B, C, H, W], or a nest (tuple, list, dict) of
            tensors; or a mapping task -> features, if the trunk ran once for each task.
        tasks: the tasks' names.
        balancer: the method, kept by the caller from step to step. Register it in your model
            (`self.balancer = ...`) so that `eval()`, `to()` and `state_dict()` reach it.
        gradients: the view of the gradients that are compared: `"fork_layer"`, `"features"` or `"parameters"`.
        feature_dim: the dimension of the features; by default 1 for tensors of four or more dimensions
            (feature maps) and the last one otherwise.
        shared: for the view `"parameters"`, the modules or parameters to differentiate; by default every parameter
            that the features depend on.
        memory_budget: for the view `"parameters"`: the most that all tasks' gradients may take, in bytes, or as a share
            of the device's memory if it is at most 1. Where they need more, they are compared in parts, exactly, which
            costs further backward passes. By default they are held at once, in one matrix.

    Returns:
        A dict task -> features, of the features' structure.

    Raises:
        ForkError: the features are not something that can be differentiated, or backward comes once for each task.
        ConfigurationError: unknown view, no task, a task named twice.

    Example:
        >>> import torch, lepton
        >>> from lepton.balance import UPGrad
        >>> trunk, price, churn = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1), torch.nn.Linear(8, 2)
        >>> balancer = UPGrad()
        >>> z = lepton.fork(trunk(torch.ones(2, 4)), ["price", "churn"], balancer=balancer)
        >>> loss = price(z["price"]).square().mean() + churn(z["churn"]).logsumexp(1).mean()
        >>> loss.backward()
        >>> trunk.weight.grad.shape
        torch.Size([8, 4])
    """
    names = check_names(tasks)
    check_view(balancer, gradients)
    bound = checked_budget(memory_budget)
    return _fork(features, names, balancer, gradients, feature_dim, shared, bound, active=active(balancer))


def _fork(
    features: Any,
    names: tuple[str, ...],
    balancer: Balancer,
    gradients: str,
    feature_dim: int | None,
    shared: Shared | None,
    memory_budget: float | None,
    *,
    active: bool,
) -> dict[str, Any]:
    leaves = Leaves.of(features, names, feature_dim)
    if balancer.n_tasks != len(names) and leaves is not None and not torch.compiler.is_compiling():
        balancer.bind(len(names)).to(leaves.tensors[0].device)
    if leaves is None or not active:
        return {name: features[name] if is_per_task(features, names) else features for name in names}
    leaves.check_view(gradients)
    plan = ForkPlan(gradients, tuple(range(len(names))), (), leaves.dims, leaves.per_task)
    ones = torch.ones(len(names), device=leaves.tensors[0].device)
    parameters = shared_parameters(shared, leaves.tensors) if gradients == "parameters" else []
    outputs = apply_fork(plan, balancer, ones, leaves.tensors, shared=parameters, memory_budget=memory_budget)
    return leaves.rebuild(outputs)


def active(balancer: Balancer, bounded: bool = False) -> bool:
    """Return whether a fork must do anything here; `bounded` if it clips the tasks' gradients."""
    wanted = balancer.acts_at_fork or bounded
    return wanted and balancer.training and balancing_enabled() and torch.is_grad_enabled()


def check_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the task names, refusing none, duplicates and a bare string."""
    if isinstance(tasks, str) or not isinstance(tasks, Collection) or not tasks:
        raise ConfigurationError(f"tasks must be a list of at least one name, but it is {tasks!r}.")
    twice = sorted({name for name in tasks if list(tasks).count(name) > 1}) if len(set(tasks)) < len(tasks) else []
    if twice:
        raise ConfigurationError(f"task names must differ, but {twice} stand there more than once.")
    return tuple(tasks)


def check_view(balancer: Balancer, gradients: str) -> None:
    """Refuse a view that does not exist or that the balancer cannot be given."""
    if not isinstance(balancer, Balancer):
        raise ConfigurationError(f"balancer must be an instance of a balancer, such as MGDA(), but it is {balancer!r}.")
    if not isinstance(gradients, str) or gradients not in VIEWS:
        raise ConfigurationError(
            f"gradients must be one of {sorted(VIEWS)}, but it is {gradients!r}.{nearest(str(gradients), VIEWS)}"
        )
    if (balancer.uses_gramian or balancer.uses_jacobian) and gradients not in balancer.views:
        raise ConfigurationError(
            f"{type(balancer).__name__} works in the views {sorted(balancer.views)}, not in {gradients!r}: "
            f"choose gradients={min(balancer.views)!r}."
        )


def checked_budget(budget: float | None) -> float | None:
    """Return a budget of memory, refusing what is none."""
    good = budget is None or (is_number(budget) and 0 < budget < math.inf)
    require(good, "Fork", "memory_budget", budget, "a number of bytes, a share of the memory in (0, 1], or None")
    return budget


def is_per_task(features: Any, names: Sequence[str]) -> bool:
    """Return whether the features are a mapping from every task to features of its own."""
    return isinstance(features, Mapping) and set(features) == set(names)


@dataclass
class Leaves:
    """The differentiable tensors of the features, and how to put the fork's outputs back into their structure."""

    names: tuple[str, ...]
    nested: list[Any]
    spec: Any
    where: tuple[int, ...]
    dims: tuple[int, ...]
    per_task: bool

    @classmethod
    def of(cls, features: Any, names: tuple[str, ...], feature_dim: int | None) -> Leaves | None:
        """Find the leaves; None if nothing upstream can be trained, so that there is nothing to balance."""
        per_task = is_per_task(features, names)
        flat, spec = pytree.tree_flatten([features[name] for name in names] if per_task else features)
        tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
        if not any(tensor.is_floating_point() for tensor in tensors):
            kinds = [str(tensor.dtype) for tensor in tensors] or [type(features).__name__]
            raise ForkError(
                f"the fork needs features of a floating dtype, but the trunk gave {kinds}: a fork stands where "
                "gradients can flow."
            )
        where = tuple(i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor) and leaf.requires_grad)
        if not where:
            return None
        if per_task:
            where = _alike(where, flat, [features[name] for name in names], names)
        dims = tuple(feature_dimension(flat[i], feature_dim) for i in where)
        dims = dims[: len(dims) // len(names)] if per_task else dims
        return cls(names, flat, spec, where, dims, per_task)

    def check_view(self, gradients: str) -> None:
        """Refuse the view that compares features with features of their own."""
        if self.per_task and gradients == "features":
            raise ConfigurationError(
                'gradients="features" compares the tasks at the same features, but each task has features of its own '
                'here: choose gradients="fork_layer".'
            )

    @property
    def tensors(self) -> list[Tensor]:
        """The leaves, as the fork takes them."""
        return [self.nested[i] for i in self.where]

    def rebuild(self, outputs: Sequence[Tensor]) -> dict[str, Any]:
        """Return task -> features from the fork's outputs."""
        if self.per_task:
            flat = list(self.nested)
            for i, output in zip(self.where, outputs, strict=True):
                # Past the fork, a task whose trunk pass learns nothing is absent there, as it should be.
                flat[i] = output if flat[i].requires_grad else flat[i]
            return dict(zip(self.names, pytree.tree_unflatten(flat, self.spec), strict=True))
        count = len(self.where)
        found = {}
        for k, name in enumerate(self.names):
            flat = list(self.nested)
            for i, output in zip(self.where, outputs[k * count : (k + 1) * count], strict=True):
                flat[i] = output
            found[name] = pytree.tree_unflatten(flat, self.spec)
        return found


def _alike(where: Sequence[int], flat: Sequence[Any], each: Sequence[Any], names: Sequence[str]) -> tuple[int, ...]:
    """Return, for every task, the leaves that require a gradient for any task."""
    size = len(flat) // len(names)
    places = sorted({i % size for i in where}) if len({str(pytree.tree_structure(nest)) for nest in each}) == 1 else []
    found = tuple(k * size + place for k in range(len(names)) for place in places)
    if not found or not all(isinstance(flat[i], Tensor) for i in found):
        raise ForkError(f"with features for each task, those of all tasks {list(names)} must have the same structure.")
    return found


def feature_dimension(tensor: Tensor, feature_dim: int | None) -> int:
    """Return the feature dimension of one leaf, counted from the end where it is the last."""
    if tensor.ndim < 2:
        raise ForkError(
            f"the fork needs features with a batch and a feature dimension, like [B, D], but got {list(tensor.shape)}: "
            "features of one number each want unsqueeze(-1)."
        )
    if tensor.layout != torch.strided:
        raise ForkError(f"the fork needs dense features, but they are {tensor.layout}: use features.to_dense().")
    if tensor.is_complex():
        raise ForkError("the fork cannot weigh complex features: give it torch.view_as_real(features).flatten(-2).")
    if feature_dim is None:
        return 1 if tensor.ndim >= 4 else -1
    if not isinstance(feature_dim, int) or not -tensor.ndim <= feature_dim < tensor.ndim:
        raise ConfigurationError(f"feature_dim is {feature_dim}, but the features have the shape {list(tensor.shape)}.")
    return -1 if feature_dim in (-1, tensor.ndim - 1) else feature_dim


def _own(balancer: Balancer) -> Balancer:
    """Refuse a balancer that already serves a fork: state, windows and results would mix."""
    if not isinstance(balancer, Balancer):
        raise ConfigurationError(
            f"balancer must be an instance of a balancer, such as MGDA(), but it is {balancer!r}; the methods are in "
            "lepton.balance."
        )
    owner = ledger_of(balancer).owner
    if owner is not None and owner() is not None:
        raise ConfigurationError(
            f"this {type(balancer).__name__} already serves another model or fork: create one balancer for each."
        )
    return balancer


class Fork(nn.Module):
    """The fork as a module: what `LeptonModel.fork` is, and where its results are read.

    Args:
        tasks: the tasks' names.
        balancer: the method.
        gradients: the view; see `lepton.fork`.
        feature_dim: the features' dimension; see `lepton.fork`.
        shared: for the view `"parameters"`; see `lepton.fork`.
        memory_budget: for the view `"parameters"`; see `lepton.fork`.
        gradient_accumulation_steps: number of micro-batches that end in one optimiser step.
        max_task_grad_norm: bound on each task's weighted gradient norm, sqrt(G_kk) w_k, in the chosen view; also
            works with balancers that act on the losses alone.

    Example:
        >>> import torch, lepton
        >>> from lepton.balance import MGDA
        >>> fork = lepton.Fork(["a", "b"], MGDA())
        >>> z = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> features = fork(z)
        >>> (features["a"].sum() - features["b"].sum()).backward()
        >>> [round(weight, 3) for weight in fork.weights.tolist()]
        [0.5, 0.5]
    """

    def __init__(
        self,
        tasks: Sequence[str],
        balancer: Balancer,
        *,
        gradients: str = "fork_layer",
        feature_dim: int | None = None,
        shared: Shared | None = None,
        memory_budget: float | None = None,
        gradient_accumulation_steps: int = 1,
        max_task_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.tasks = check_names(tasks)
        check_view(balancer, gradients)
        self.balancer = _own(balancer).bind(len(self.tasks))
        self.gradients = gradients
        whole = feature_dim is None or is_whole(feature_dim, -64)
        require(whole, "Fork", "feature_dim", feature_dim, "a dimension's number, or None")
        self.feature_dim = feature_dim
        # In a tuple, so that the trunk's modules are not registered a second time here.
        self._shared = (checked_shared(shared),)
        self.memory_budget = checked_budget(memory_budget)
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.max_task_grad_norm = max_task_grad_norm
        ledger_of(self.balancer).owner = weakref.ref(self)

    def forward(self, features: Any) -> dict[str, Any]:
        """Return task -> features."""
        options = (self.gradients, self.feature_dim, self.shared, self.memory_budget)
        return _fork(features, self.tasks, self.balancer, *options, active=self.active)

    @property
    def shared(self) -> Shared | None:
        """What the view `"parameters"` differentiates."""
        return self._shared[0]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # A copied balancer starts a ledger of its own.
        self.gradient_accumulation_steps = self._steps
        self.max_task_grad_norm = self._max_norm

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            hint = nearest(name, ["weights", "gramian", "cosines", "mean_weights", "left_out", "balancer"])
            raise AttributeError(f"Fork has no attribute {name!r}.{hint}") from None

    @property
    def gradient_accumulation_steps(self) -> int:
        """Number of micro-batches that end in one optimiser step."""
        return self._steps

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, steps: int) -> None:
        require(is_whole(steps), "Fork", "gradient_accumulation_steps", steps, "a whole number of at least 1")
        self._steps = ledger_of(self.balancer).window = steps

    @property
    def max_task_grad_norm(self) -> float | None:
        """Bound on each task's weighted gradient norm at the fork; None for no bound."""
        return self._max_norm

    @max_task_grad_norm.setter
    def max_task_grad_norm(self, bound: float | None) -> None:
        bounded = bound is None or (is_number(bound) and 0 < bound < math.inf)
        require(bounded, "Fork", "max_task_grad_norm", bound, "a number, positive and finite, or None")
        if bound is not None and self.balancer.acts_at_fork and not self.balancer.uses_gramian:
            raise ConfigurationError(
                f"max_task_grad_norm bounds a task's gradient by the Gramian, and {type(self.balancer).__name__} forms "
                "none, or does not weigh by it: bound the norm of all gradients (max_grad_norm, or "
                "torch.nn.utils.clip_grad_norm_) instead."
            )
        self._max_norm = ledger_of(self.balancer).max_task_norm = bound

    def take_back(self) -> None:
        """Take back what the balancer's state learned from the last backward: for a step that you leave out yourself.

        A step that `GradScaler` or an optimiser's hook leaves out is noticed without it.
        """
        ledger_of(self.balancer).take_back()

    @property
    def active(self) -> bool:
        """Whether the fork balances here, or is an identity."""
        return active(self.balancer, self._max_norm is not None)

    @property
    def weights(self) -> Tensor | None:
        """[T] the balancer's weights in the last backward; None before the first. Zero for an absent task."""
        return ledger_of(self.balancer).weights

    @property
    def mean_weights(self) -> Tensor | None:
        """[T] mean of the weights over the steps so far in which each task was present."""
        return ledger_of(self.balancer).mean_weights

    @property
    def gramian(self) -> Tensor | None:
        """[T, T] Gramian of the tasks' gradients in the last backward."""
        return ledger_of(self.balancer).gramian

    @property
    def cosines(self) -> Tensor | None:
        """[T, T] cosines between the tasks' gradients in the last backward; zero where a task was absent."""
        gramian = self.gramian
        if gramian is None:
            return None
        norms = gramian.diagonal().clamp(min=0).sqrt()
        outer = norms[:, None] * norms[None]
        return torch.where(outer > 0, gramian / torch.where(outer > 0, outer, 1), 0)

    @property
    def left_out(self) -> dict[str, int]:
        """How often each task was left out of a step because of a value that is not finite. Reads the device."""
        return dict(zip(self.tasks, self.left_out_counts.tolist(), strict=True))

    @property
    def left_out_counts(self) -> Tensor:
        """[T] the numbers of `left_out`, where the gradients are; nothing is read."""
        counts = ledger_of(self.balancer).left_out
        return torch.zeros(len(self.tasks), dtype=torch.int64) if counts is None else counts
