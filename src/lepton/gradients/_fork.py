"""The fork: one autograd node where the shared trunk ends and the tasks begin."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.balance import Balancer
from lepton.errors import ForkError
from lepton.gradients._door import open_door
from lepton.gradients._ledger import SECOND_VISIT
from lepton.gradients._parameters import Handed, prepare_state, weigh_parameters
from lepton.gradients._upstream import Upstream
from lepton.gradients._views import rows, segment_index, wide
from lepton.linalg import readable

__all__ = ["ForkPlan", "apply_fork"]


@dataclass(frozen=True)
class ForkPlan:
    """What one fork does, apart from tensors.

    Attributes:
        view: `"features"`, `"fork_layer"` or `"parameters"`; or `"signs"`, for a balancer that weighs tasks at each
            feature.
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
    balancer: Balancer,
    priority: Tensor,
    leaves: Sequence[Tensor],
    linear: tuple[Tensor, Tensor] | None = None,
    shared: Sequence[Tensor] = (),
    memory_budget: float | None = None,
) -> tuple[Tensor, ...]:
    """Hand the features to the tasks; on the way back, weigh the tasks' gradients.

    Args:
        plan: what the fork does.
        balancer: the method.
        priority: [T], multiplies the balancer's weights.
        leaves: the features' L tensors; K * L tensors if the plan is `per_task`.
        linear: weight [C, D] and bias [C] of the fused linear heads; needs exactly one leaf.
        shared: the shared parameters, for the view `parameters`.
        memory_budget: for the view `parameters`, see `lepton.fork`.

    Returns:
        The outputs [.., C] of the fused heads if there are any, then for each of the other tasks the L leaves.
    """
    view = "signs" if balancer.uses_signs else plan.view
    if view == "parameters" and torch.compiler.is_compiling():
        # With fullgraph=True this ends the compilation; without it, the frame is run eagerly instead.
        raise ForkError(
            'gradients="parameters" differentiates the trunk inside backward, which a graph of the whole model cannot '
            'hold: compile the trunk only, or choose gradients="fork_layer".'
        )
    if torch.compiler.is_compiling():
        balancer.passes.add_(1)  # a graph's context cannot remember a visit; the door counts backward passes instead
    upstream = None
    if view == "parameters":
        upstream = Upstream.of(leaves, shared, memory_budget, balancer.uses_jacobian)
        if balancer.uses_jacobian:
            prepare_state(balancer, upstream)
    tensors = (*leaves, *(linear or ()))
    if upstream is not None and upstream.whole:
        # The parameters get their gradients straight from the fork, and backward does not enter the trunk.
        tensors = (*(leaf.detach() for leaf in leaves), *(linear or ()), *upstream.shared)
    apply: Any = _Fork.apply
    outputs: tuple[Tensor, ...] = apply(
        balancer.handle,
        priority,
        view,
        plan.order,
        plan.segments,
        plan.feature_dims,
        plan.per_task,
        upstream,
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
        upstream: Upstream | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.plan = (view, order, segments, feature_dims, per_task)
        ctx.upstream = upstream
        if upstream is not None and upstream.whole:
            tensors = tensors[: len(tensors) - len(upstream.shared)]
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
            needs = ctx.needs_input_grad[8 : 8 + len(tensors)]
            found = _backward(plan, handle, priority, tensors, ctx.upstream, grads, needs)
        ctx.upstream = None  # lets the trunk's graph go
        return (None,) * 8 + found


def _refuse_second_visit(ctx: Any) -> None:
    if torch.is_grad_enabled():
        raise ForkError(
            "the fork cannot be differentiated twice (create_graph=True): the balancer's weights have no derivative. "
            "For a gradient penalty, run its forward pass inside `with lepton.no_balancing():`."
        )
    if ctx.visited:
        raise ForkError(SECOND_VISIT)
    ctx.visited = True


def _backward(
    plan: ForkPlan,
    handle: Tensor,
    priority: Tensor,
    tensors: Sequence[Tensor],
    upstream: Upstream | None,
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of all leaves, the fused heads' weight and bias, and the parameters that are handed some."""
    leaves = list(tensors[:-2]) if plan.segments else list(tensors)
    outputs = grads[0] if plan.segments else None
    cotangents = list(grads[1:] if plan.segments else grads)
    if all(grad is None for grad in grads):
        return (None,) * (len(tensors) + (len(upstream.shared) if upstream is not None and upstream.whole else 0))
    idle = plan.segments and outputs is None
    if idle:  # zeros, so that the statistics have the same shapes in every micro-batch and process
        outputs = leaves[0].new_zeros(*leaves[0].shape[:-1], sum(plan.segments))
    fused = _FusedHeads(leaves[0], tensors[-2], outputs) if outputs is not None else None
    handed: Handed | None = None
    if upstream is None:
        weights = _weigh(plan, handle, priority, leaves, cotangents, fused)
    else:
        rows_of = functools.partial(_rows_of, plan, upstream.leaves, cotangents, fused)
        weights, handed = weigh_parameters(handle, priority, plan.order, upstream, rows_of)
    weighted = _combine(plan, leaves, cotangents, fused, weights) if handed is None else [None] * len(leaves)
    if upstream is not None and upstream.whole and handed is None:
        handed, weighted = upstream.gradient(weighted), [None] * len(leaves)
    own: tuple[Tensor | None, ...] = () if not plan.segments else (None, None)
    if fused is not None and not idle:
        own = (fused.weight_gradient(), fused.bias_gradient() if needs[-1] else None)
    return (*weighted, *own, *(handed or ()))


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
        if each.ndim == 2:  # a weight for each output and feature
            used = torch.where((each != 0).any(1), self.outputs, 0)
            return (used @ torch.where(each != 0, self.weight * each, 0)).reshape(self.shape)
        # A task of weight zero may have outputs or head weights that are not finite: selected, not multiplied.
        weight = torch.where((each != 0)[:, None], self.weight, 0)
        outputs = torch.where(each != 0, self.outputs, 0)
        return ((outputs * each) @ weight).reshape(self.shape)


def _combine(
    plan: ForkPlan,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    fused: _FusedHeads | None,
    weights: Tensor,
) -> list[Tensor | None]:
    """Return sum_k w_k c_k for every leaf; where the weight is zero the cotangent is not looked at.

    Weights are [T], or [T, D] over the features of all leaves.
    """
    if weights.ndim == 2:
        return _combine_at_features(plan, leaves, cotangents, fused, weights)
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


def _combine_at_features(
    plan: ForkPlan,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    fused: _FusedHeads | None,
    weights: Tensor,
) -> list[Tensor | None]:
    """Return sum_k w_k c_k for every leaf, with a weight for each task and feature."""
    count, n_leaves = len(plan.segments), len(plan.feature_dims)
    total: list[Tensor | None] = [None] * len(leaves)
    if fused is not None:
        total[0] = fused.trunk_gradient(weights[:count], plan.segments).to(leaves[0].dtype)
    sizes = [leaves[index].shape[dim] for index, dim in enumerate(plan.feature_dims)]
    columns = torch.split(weights, sizes, 1)
    for position, cotangent in enumerate(cotangents):
        task, leaf = divmod(position, n_leaves)
        place = position if plan.per_task else leaf
        if cotangent is not None:
            dim = plan.feature_dims[leaf]
            shape = [1] * cotangent.ndim
            shape[dim] = sizes[leaf]
            total[place] = _add_weighted(total[place], cotangent, columns[leaf][count + task].reshape(shape))
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
) -> Tensor:
    """Return the weights [T] in the fork's order, through the opaque door."""
    count = len(plan.feature_dims)
    order, segments = list(plan.order), list(plan.segments)
    own = [
        [None if c is None else rows(c.detach(), dim) for c in cotangents[leaf::count]]
        for leaf, dim in enumerate(plan.feature_dims if cotangents else ())
    ]
    dims = plan.feature_dims if own else ()
    z = [rows(leaf.detach(), dim) for index, dim in enumerate(dims) for leaf in leaves[index::count]]
    places = [k for column in own for k, c in enumerate(column) if c is not None]
    present = [c for column in own for c in column if c is not None]
    per_leaf = [sum(c is not None for c in column) for column in own]
    if plan.view == "signs" and not z:
        z = [rows(leaf.detach(), dim) for leaf, dim in zip(leaves, plan.feature_dims, strict=True)]
    linear = [] if fused is None else [fused.gradient, fused.outputs, fused.weight]
    where = [len(own), *per_leaf, *places]
    return open_door(handle, priority, plan.view, order, z, present, where, linear, segments)


def _rows_of(
    plan: ForkPlan, leaves: Sequence[Tensor], cotangents: Sequence[Tensor | None], fused: _FusedHeads | None, index: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the features and cotangents of one task at the fork; nothing where it is absent."""
    own = index - len(plan.segments)
    if own < 0:
        if fused is None:
            return []
        one = torch.zeros(len(plan.segments), device=fused.outputs.device, dtype=fused.outputs.dtype)
        one[index] = 1.0
        return [(leaves[0], fused.trunk_gradient(one, plan.segments))]
    count = len(plan.feature_dims)
    mine = leaves[own * count : (own + 1) * count] if plan.per_task else leaves
    pairs = zip(mine, cotangents[own * count : (own + 1) * count], strict=True)
    return [(leaf, cotangent) for leaf, cotangent in pairs if cotangent is not None and leaf.requires_grad]
