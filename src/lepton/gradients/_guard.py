"""A guard on the outputs: a task whose gradient is not finite is left out of the step, in its head as in the trunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lepton.balance import Balancer
from lepton.gradients._distributed import is_distributed
from lepton.gradients._ledger import ledger_of
from lepton.gradients._views import by_task, index_tensor, segment_index
from lepton.linalg import holds

__all__ = ["guard_outputs"]


def guard_outputs(
    handle: Tensor, order: tuple[int, ...], segments: tuple[int, ...], outputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return the outputs; in backward, replace the cotangent of a task that is not finite by zero, on all processes.

    Behind a loss scaler (a noted factor above 1) a task whose loss is finite is let through: there the overflow is
    the scaler's own, which it must see to lower its scale.

    Args:
        handle: the balancer's handle.
        order: for each task at the fork, fused ones first, its place among the model's tasks.
        segments: number of columns of each fused task in the first tensor; empty if none is fused.
        outputs: the fused outputs [.., C] if there are any, then one tensor for each other task.
    """
    apply: Any = _Guard.apply
    guarded: tuple[Tensor, ...] = apply(handle, order, segments, *outputs)
    return guarded


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, handle: Tensor, order: tuple[int, ...], segments: tuple[int, ...], *outputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(handle)
        ctx.order, ctx.segments = order, segments
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (handle,) = ctx.saved_tensors
        keep = _kept(handle, ctx.order, ctx.segments, grads)
        if keep is None:
            return (None, None, None, *grads)
        return (None, None, None, *_select(keep, ctx.segments, grads))


def _kept(
    handle: Tensor, order: tuple[int, ...], segments: tuple[int, ...], grads: tuple[Tensor | None, ...]
) -> Tensor | None:
    """Return which tasks stay in the step, [T] bool in the fork's order; None if no gradient arrived."""
    like = next((grad for grad in grads if grad is not None), None)
    if like is None:
        return None
    fused, own = (grads[0], grads[1:]) if segments else (None, grads)
    flags = []
    if segments:
        if fused is None:
            flags.append(like.new_zeros(len(segments), dtype=torch.float32))
        else:
            flags.append(by_task(_not_finite(fused.reshape(-1, fused.shape[-1]), by_column=True), segments))
    zero = like.new_zeros((), dtype=torch.float32)
    if own:
        flags.append(torch.stack([zero if grad is None else _not_finite(grad) for grad in own]))
    judge = _judge_op if torch.compiler.is_compiling() else _judge
    keep: Tensor = judge(handle, torch.cat(flags), list(order))
    return keep


def _not_finite(grad: Tensor, *, by_column: bool = False) -> Tensor:
    """Return 1.0 if any value is not finite, otherwise 0.0; for each column of a matrix [N, C] or for all together.

    The extremes tell, since a NaN is handed on by both. That is one reading pass without a tensor in between: for the
    logits of a vocabulary a tenth of the time of looking at each value.
    """
    if not grad.numel():
        return grad.new_zeros(grad.shape[1:] if by_column else (), dtype=torch.float32)
    low, high = (grad.amin(0), grad.amax(0)) if by_column else torch.aminmax(grad)
    return 1.0 - (torch.isfinite(low) & torch.isfinite(high)).float()


def _select(keep: Tensor, segments: tuple[int, ...], grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    if not torch.compiler.is_compiling() and holds(keep):  # on the CPU looking is free, and saves a pass over each
        return grads
    selected: list[Tensor | None] = []
    if segments:
        columns = keep[: len(segments)]
        if max(segments) > 1:
            columns = columns[segment_index(segments, keep.device)]
        selected.append(None if grads[0] is None else torch.where(columns, grads[0], 0))
    for flag, grad in zip(keep[len(segments) :], grads[1:] if segments else grads, strict=True):
        selected.append(None if grad is None else torch.where(flag, grad, 0))
    return tuple(selected)


def _judge(handle: Tensor, bad: Tensor, order: list[int]) -> Tensor:
    """Return which tasks to keep, agreed over all processes, and count those that are left out."""
    ledger = ledger_of(Balancer.of(handle))
    if is_distributed():
        bad = bad.clone()
        ledger.all_reduce(bad)
    left_out = bad > 0
    places = index_tensor(tuple(order), bad.device)
    scaled = ledger.behind_scaler()
    if scaled is not None:
        left_out = left_out & ~scaled[places]
    ledger.count_left_out(torch.zeros_like(left_out).index_copy(0, places, left_out))
    return ~left_out


_judge_op = torch.library.custom_op("lepton::guard_outputs", _judge, mutates_args=())


@_judge_op.register_fake
def _(handle: Tensor, bad: Tensor, order: list[int]) -> Tensor:
    return torch.empty_like(bad, dtype=torch.bool)
