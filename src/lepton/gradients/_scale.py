"""The end of the criterion: an identity that notes the factor that comes in from outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lepton.balance import Balancer
from lepton.gradients._ledger import ledger_of

__all__ = ["note_scale"]


def note_scale(loss: Tensor, losses: Tensor, present: Tensor, handle: Tensor, whole_window: bool) -> Tensor:
    """Return `loss`; in its backward, note the incoming factor and show the losses to the balancer.

    GradScaler, accumulation and users multiply the loss. Methods that are not invariant to that, and every average
    of Gramians, need the factor taken out again.

    Args:
        loss: the scalar that will be differentiated.
        losses: [T] detached losses over all processes.
        present: [T] bool.
        handle: the balancer's handle.
        whole_window: the losses are divided by the label counts of the whole accumulation window.
    """
    apply: Any = _NoteScale.apply
    noted: Tensor = apply(loss, losses, present, handle, whole_window)
    return noted


class _NoteScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, losses: Tensor, present: Tensor, handle: Tensor, whole_window: bool) -> Tensor:
        ctx.save_for_backward(losses, present, handle)
        ctx.whole_window = whole_window
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        losses, present, handle = ctx.saved_tensors
        note = _note_op if torch.compiler.is_compiling() else _note
        return note(handle, grad, losses, present, ctx.whole_window), None, None, None, None


def _note(handle: Tensor, grad: Tensor, losses: Tensor, present: Tensor, whole_window: bool) -> Tensor:
    with torch.no_grad():
        ledger_of(Balancer.of(handle)).note(grad.float(), losses, present, whole_window)
    return grad.clone()


_note_op = torch.library.custom_op("lepton::note_scale", _note, mutates_args=())


@_note_op.register_fake
def _(handle: Tensor, grad: Tensor, losses: Tensor, present: Tensor, whole_window: bool) -> Tensor:
    return torch.empty_like(grad)
