"""The fork: one autograd node where the shared trunk ends and the tasks begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.balance import Balancer
from lepton.errors import ConfigurationError, ForkError
from lepton.gradients._ledger import Ledger, ledger_of
from lepton.gradients._views import (
    features_gramian,
    fork_layer_gramian,
    fork_layer_kernel,
    fork_layer_statistic,
    index_tensor,
    parameters_gramian,
    rows,
    rows_overlap,
    segment_index,
    wide,
)
from lepton.linalg import holds, readable

__all__ = ["ForkPlan", "apply_fork"]


@dataclass(frozen=True)
class ForkPlan:
    """What one fork does, apart from tensors.

    Attributes:
        view: `"features"`, `"fork_layer"` or `"parameters"`.
        order: for each task at the fork, fused ones first, its place among the model's tasks.
        segments: number of outputs of each fused linear head; the fused tasks are the first `len(segments)`.
        feature_dims: the feature dimension of each leaf.
        per_task: every task has features of its own (per-task trunk passes) instead of sharing them.
    """

    view: str
    order: tuple[int, ...]
    segments: tuple[int, ...] = ()
    feature_dims: tuple[int, ...] = (-1,)
    per_task: bool = False

    @property
    def own_heads(self) -> int:
        """Number of tasks K whose heads are not fused."""
        return len(self.order) - len(self.segments)


def apply_fork(
    plan: ForkPlan,
    handle: Tensor,
    priority: Tensor,
    leaves: Sequence[Tensor],
    linear: tuple[Tensor, Tensor] | None = None,
    shared: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Hand the features to the tasks; on the way back, weigh the tasks' gradients.

    Args:
        plan: what the fork does.
        handle: the balancer's handle.
        priority: [T], multiplies the balancer's weights.
        leaves: the features' L tensors; K * L tensors if the plan is `per_task`.
        linear: weight [C, D] and bias [C] of the fused linear heads; needs exactly one leaf.
        shared: the shared parameters, for the view `parameters`.

    Returns:
        The outputs [.., C] of the fused heads if there are any, then for each of the other tasks the L leaves.
    """
    if plan.view == "parameters" and torch.compiler.is_compiling():
        # With fullgraph=True this ends the compilation; without it, the frame is run eagerly instead.
        raise ForkError(
            'gradients="parameters" differentiates the trunk inside backward, which a graph of the whole model cannot '
            'hold: compile the trunk only, or choose gradients="fork_layer".'
        )
    tensors = (*leaves, *(linear or ()))
    apply: Any = _Fork.apply
    outputs: tuple[Tensor, ...] = apply(
        handle,
        priority,
        plan.view,
        plan.order,
        plan.segments,
        plan.feature_dims,
        plan.per_task,
        tuple(shared),
        *tensors,
    )
    return outputs


class _Fork(torch.autograd.Function):
    """Forward: aliases of the features, and the fused heads' outputs. Backward: one weighted cotangent."""

    @staticmethod
    def forward(
        ctx: Any,
        handle: Tensor,
        priority: Tensor,
        view: str,
        order: tuple[int, ...],
        segments: tuple[int, ...],
        feature_dims: tuple[int, ...],
        per_task: bool,
        shared: tuple[Tensor, ...],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.plan = (view, order, segments, feature_dims, per_task)
        ctx.shared = shared
        ctx.visited = False
        if not torch.compiler.is_compiling():
            ctx.balancer = Balancer.of(handle)  # alive until backward, even if the caller keeps no reference
        ctx.save_for_backward(handle, priority, *tensors)
        own = len(order) - len(segments)
        leaves = tensors[:-2] if segments else tensors
        fused = (F.linear(leaves[0], tensors[-2], tensors[-1]),) if segments else ()
        if per_task:
            return tuple(leaf.view_as(leaf) for leaf in leaves)
        return (*fused, *(leaf.view_as(leaf) for _ in range(own) for leaf in leaves))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        view, order, segments, feature_dims, per_task = ctx.plan
        if not torch.compiler.is_compiling():
            _refuse_second_visit(ctx)
        handle, priority, *tensors = ctx.saved_tensors
        # The user's autocast region may reach into backward: gradients must not be rounded twice.
        with torch.autocast(tensors[0].device.type, enabled=False):
            plan = ForkPlan(view, order, segments, feature_dims, per_task)
            found = _backward(plan, handle, priority, tensors, ctx.shared, grads, ctx.needs_input_grad[8:])
        return (None,) * 8 + found


def _refuse_second_visit(ctx: Any) -> None:
    if ctx.visited:
        raise ForkError(
            "backward() reached the fork a second time in one step. Balancing needs the gradients of all tasks at "
            "once: add the losses up and call loss.backward() once (lepton.MultiTaskLoss does). For gradients of "
            "single tasks, run the forward pass inside `with lepton.no_balancing():`."
        )
    ctx.visited = True


def _backward(
    plan: ForkPlan,
    handle: Tensor,
    priority: Tensor,
    tensors: Sequence[Tensor],
    shared: tuple[Tensor, ...],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of all leaves, and of the fused heads' weight and bias."""
    leaves = list(tensors[:-2]) if plan.segments else list(tensors)
    outputs = grads[0] if plan.segments else None
    cotangents = list(grads[1:] if plan.segments else grads)
    fused = _FusedHeads(leaves[0], tensors[-2], outputs) if plan.segments and outputs is not None else None
    if fused is None and all(cotangent is None for cotangent in cotangents):
        return (None,) * len(tensors)
    weights = _weigh(plan, handle, priority, leaves, cotangents, fused, shared)
    weighted = _combine(plan, leaves, cotangents, fused, weights)
    if not plan.segments:
        return tuple(weighted)
    if fused is None:
        return (*weighted, None, None)
    return (*weighted, fused.weight_gradient(), fused.bias_gradient() if needs[-1] else None)


class _FusedHeads:
    """The backward pass of all fused linear heads, which receive their own, unweighted gradients."""

    def __init__(self, z: Tensor, weight: Tensor, outputs: Tensor) -> None:
        self.shape = z.shape
        self.dtype = weight.dtype
        self.z = rows(z, -1)
        self.outputs = wide(outputs.reshape(-1, outputs.shape[-1]))
        self.weight = wide(weight)
        self.gradient = self.outputs.T @ wide(self.z)

    def weight_gradient(self) -> Tensor:
        return self.gradient.to(self.dtype)

    def bias_gradient(self) -> Tensor:
        return self.outputs.sum(0).to(self.dtype)

    def trunk_gradient(self, weights: Tensor, segments: tuple[int, ...]) -> Tensor:
        """Return sum over fused tasks of w_k E_k W_k, in one product for all of them."""
        each = weights[segment_index(segments, weights.device)] if max(segments) > 1 else weights
        return ((self.outputs * each) @ self.weight).reshape(self.shape)


def _combine(
    plan: ForkPlan,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    fused: _FusedHeads | None,
    weights: Tensor,
) -> list[Tensor | None]:
    """Return sum_k w_k c_k for every leaf; where the weight is zero the cotangent is not looked at."""
    count = len(plan.segments)
    n_leaves = len(plan.feature_dims)
    total: list[Tensor | None] = [None] * len(leaves)
    if fused is not None:
        total[0] = fused.trunk_gradient(weights[:count], plan.segments).to(leaves[0].dtype)
    # Reading costs nothing on the CPU, and saves two passes over every cotangent.
    known = weights.tolist() if not torch.compiler.is_compiling() and readable(weights) else None
    for position, cotangent in enumerate(cotangents):
        task, leaf = divmod(position, n_leaves)
        place = position if plan.per_task else leaf
        if cotangent is not None:
            factor = weights[count + task] if known is None else known[count + task]
            total[place] = _add_weighted(total[place], cotangent, factor)
    return total


def _add_weighted(total: Tensor | None, cotangent: Tensor, weight: Tensor | float) -> Tensor:
    if isinstance(weight, float):
        if total is None:
            return cotangent * weight if weight else torch.zeros_like(cotangent)
        return total.add(cotangent, alpha=weight) if weight else total
    # Selected, not multiplied: zero times a value that is not finite is not zero.
    term = torch.where(weight != 0, cotangent, 0) * weight.to(cotangent.dtype)
    return term if total is None else total + term


# -- the door ---------------------------------------------------------------------------------------------------
def _weigh(
    plan: ForkPlan,
    handle: Tensor,
    priority: Tensor,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    fused: _FusedHeads | None,
    shared: tuple[Tensor, ...],
) -> Tensor:
    """Return the weights [T] in the fork's order, through the opaque door."""
    own = [[None if c is None else c.detach() for c in cotangents]]
    count = len(plan.feature_dims)
    if cotangents:
        own = [
            [None if c is None else rows(c.detach(), dim) for c in cotangents[leaf::count]]
            for leaf, dim in enumerate(plan.feature_dims)
        ]
    else:
        own = []
    if plan.view == "parameters":
        jacobian = _jacobian(plan, leaves, cotangents, fused, shared)
        return _open_door(handle, priority, plan.view, list(plan.order), [], [], [], [jacobian], list(plan.segments))
    if plan.per_task:
        z = [
            torch.stack([rows(leaf.detach(), dim) for leaf in leaves[index::count]])
            for index, dim in enumerate(plan.feature_dims)
        ]
    else:
        z = [rows(leaf.detach(), dim) for leaf, dim in zip(leaves, plan.feature_dims, strict=True)]
    places = [k for column in own for k, c in enumerate(column) if c is not None]
    present = [c for column in own for c in column if c is not None]
    per_leaf = [sum(c is not None for c in column) for column in own]
    linear = [] if fused is None else [fused.gradient, fused.outputs, fused.weight]
    return _open_door(
        handle,
        priority,
        plan.view,
        list(plan.order),
        z if own else [],
        present,
        [*per_leaf, *places],
        linear,
        list(plan.segments),
    )


def _jacobian(
    plan: ForkPlan,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    fused: _FusedHeads | None,
    shared: tuple[Tensor, ...],
) -> Tensor:
    """Return each task's gradient over the shared parameters, [T, P], by one backward pass of the trunk per task."""
    gradients = []
    n_leaves = len(plan.feature_dims)
    for index in range(len(plan.order)):
        at: list[tuple[Tensor, Tensor]] = []
        own = index - len(plan.segments)
        if own < 0:
            if fused is not None:
                one = torch.zeros(len(plan.order), device=fused.outputs.device, dtype=fused.outputs.dtype)
                one[index] = 1.0
                at = [(leaves[0], fused.trunk_gradient(one[: len(plan.segments)], plan.segments))]
        else:
            mine = leaves[own * n_leaves : (own + 1) * n_leaves] if plan.per_task else leaves
            for leaf, cotangent in zip(mine, cotangents[own * n_leaves : (own + 1) * n_leaves], strict=True):
                if cotangent is not None and leaf.requires_grad:
                    at.append((leaf, cotangent))
        gradients.append(_task_gradient(at, shared))
    return torch.stack(gradients)


def _task_gradient(at: list[tuple[Tensor, Tensor]], shared: tuple[Tensor, ...]) -> Tensor:
    if not at:
        found: Sequence[Tensor | None] = [None] * len(shared)
    else:
        found = torch.autograd.grad(
            [leaf for leaf, _ in at],
            shared,
            [cotangent.to(leaf.dtype) for leaf, cotangent in at],
            retain_graph=True,
            allow_unused=True,
        )
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(shared, found, strict=True)]
    return torch.cat([wide(part).flatten() for part in parts])


def _open_door(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    # The operator costs some ten microseconds of dispatch that only a compiled graph needs.
    door = _weigh_op if torch.compiler.is_compiling() else _weigh_behind_door
    weights: Tensor = door(handle, priority, view, order, z, cotangents, places, linear, segments)
    return weights


def _weigh_behind_door(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    """Form the Gramian, ask the balancer, record; always eager. Returns a fresh tensor [T] in the fork's order.

    `places` holds for each leaf its number of present cotangents and then, for each of them, its task.
    """
    balancer = Balancer.of(handle).bind(len(order))
    ledger = ledger_of(balancer)
    note = ledger.take_note()
    scale, losses, _, whole_window = note or (None, None, None, False)
    own = _by_leaf(len(order) - len(segments), z, cotangents, places)
    device_type = priority.device.type if not z else z[0].device.type
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        # Before anything is squared: the square of a scaled gradient may not fit into float32.
        unscale = None if scale is None or holds(scale == 1) else 1 / scale
        gramian = _gramian(ledger, view, own, z, linear, tuple(segments), whole_window, unscale)
        if segments and not linear and view != "parameters":  # none of the fused tasks is present
            gramian = F.pad(gramian, (len(segments), 0, len(segments), 0))
        if order == sorted(order):
            return ledger.solve(gramian, losses) * priority.to(gramian)
        forth = index_tensor(tuple(order), gramian.device)
        back = index_tensor(tuple(order.index(task) for task in range(len(order))), gramian.device)
        weights: Tensor = ledger.solve(gramian[back][:, back], losses) * priority.to(gramian)
        return weights[forth]


_weigh_op = torch.library.custom_op("lepton::weigh", _weigh_behind_door, mutates_args=())


@_weigh_op.register_fake
def _(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    like = linear[0] if linear else wide(z[0][..., :0])
    return like.new_empty(len(order))


def _by_leaf(
    n_own: int, z: Sequence[Tensor], cotangents: Sequence[Tensor], places: Sequence[int]
) -> list[list[Tensor | None]]:
    """Put the present cotangents back into one row of K entries for each leaf."""
    counts, tasks = places[: len(z)], places[len(z) :]
    columns: list[list[Tensor | None]] = []
    start = 0
    for count in counts:
        column: list[Tensor | None] = [None] * n_own
        for position in range(start, start + count):
            column[tasks[position]] = cotangents[position]
        columns.append(column)
        start += count
    return columns


def _gramian(
    ledger: Ledger,
    view: str,
    own: list[list[Tensor | None]],
    z: Sequence[Tensor],
    linear: Sequence[Tensor],
    segments: tuple[int, ...],
    whole_window: bool,
    unscale: Tensor | None,
) -> Tensor:
    if view == "parameters":
        jacobian = _average(ledger, linear[0] if unscale is None else linear[0] * unscale)
        (window,) = ledger.accumulate([jacobian], whole_window)
        return parameters_gramian(window)
    if unscale is not None and linear:
        linear = [linear[0] * unscale, linear[1] * unscale, linear[2]]
    if view == "features":
        return _features(ledger, _scaled(own, unscale), linear, segments, whole_window)
    gradient, _, weight = linear or (None, None, None)
    single = ledger.world_size == 1 and ledger.window == 1
    if single and gradient is None and len(z) == 1 and z[0].ndim == 2 and z[0].shape[0] < z[0].shape[1]:
        return fork_layer_kernel(z[0], _scaled(own, unscale)[0])
    statistics = [fork_layer_statistic(leaf, column) for leaf, column in zip(z, own, strict=True)]
    if unscale is not None:
        statistics = [statistic * unscale for statistic in statistics]
    additive = [_average(ledger, tensor) for tensor in [*statistics, *([] if gradient is None else [gradient])]]
    summed = ledger.accumulate(additive, whole_window)
    if gradient is None:
        return fork_layer_gramian(summed, None, None, segments)
    return fork_layer_gramian(summed[:-1], summed[-1], weight, segments)


def _scaled(own: list[list[Tensor | None]], factor: Tensor | None) -> list[list[Tensor | None]]:
    if factor is None:
        return own
    return [[None if c is None else wide(c) * factor for c in column] for column in own]


def _average(ledger: Ledger, statistic: Tensor) -> Tensor:
    """Average over the processes, as data parallelism averages gradients."""
    if ledger.world_size == 1:
        return statistic
    statistic = statistic.clone()
    ledger.all_reduce(statistic)
    return statistic / ledger.world_size


def _features(
    ledger: Ledger,
    own: list[list[Tensor | None]],
    linear: Sequence[Tensor],
    segments: tuple[int, ...],
    whole_window: bool,
) -> Tensor:
    outputs, weight = (linear[1], linear[2]) if linear else (None, None)
    gramian = features_gramian(own, outputs, weight, segments)
    if ledger.world_size > 1:
        ledger.all_reduce(gramian)
        gramian = gramian / ledger.world_size**2
    if ledger.overlap_checks > 0:
        _refuse_disjoint_rows(ledger, own, outputs, segments)
    if ledger.window == 1:
        return gramian
    # Micro-batches hold different rows: their Gramians add up.
    (window,) = ledger.accumulate([gramian], whole_window, power=2)
    return window


def _refuse_disjoint_rows(
    ledger: Ledger, own: list[list[Tensor | None]], outputs: Tensor | None, segments: tuple[int, ...]
) -> None:
    """Look, in the first steps only because it reads from the device, whether some pair of tasks never shares a row."""
    overlap, n_rows = rows_overlap(own, outputs, segments)
    if ledger.world_size > 1:
        ledger.all_reduce(overlap)
        n_rows *= ledger.world_size
    each = overlap.diagonal()
    if ledger.never_together(overlap, each[:, None] * each[None] / n_rows):
        raise ConfigurationError(
            'gradients="features" compares the tasks row by row, but some tasks share no row with each other: their '
            'inner products would be zero by construction. Choose gradients="fork_layer" (the default), which '
            "compares them over the whole batch."
        )
