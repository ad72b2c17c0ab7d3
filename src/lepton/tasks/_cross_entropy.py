"""Cross-entropy over many classes, in fewer passes over the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["cross_entropy"]


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return for each label y  -(1 - e) log p_y - e / C sum_c log p_c,  p = softmax(logits).

    The derivative, p - (1 - e) [c = y] - e / C, is written over the softmax. Torch's own first makes a tensor of zeros
    with the label's entry, and from it the derivative of log_softmax: two more passes over the logits.

    Args:
        logits: [..., C], at least float32.
        labels: int64 [...], classes.
        label_smoothing: e in [0, 1).
    """
    apply: Any = _CrossEntropy.apply
    losses: Tensor = apply(logits, labels, label_smoothing)
    return losses


class _CrossEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        log_p = logits.log_softmax(-1)
        losses = -log_p.gather(-1, labels[..., None]).squeeze(-1)
        if label_smoothing == 0:
            return losses
        return (1 - label_smoothing) * losses - label_smoothing * log_p.mean(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        logits, labels, ctx.label_smoothing = inputs
        ctx.save_for_backward(logits, labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, labels = ctx.saved_tensors
        smoothing, classes = ctx.label_smoothing, logits.shape[-1]
        p = logits.softmax(-1)
        if torch.is_grad_enabled():  # differentiated again: nothing may be overwritten
            hot = torch.arange(classes, device=labels.device) == labels[..., None]
            expected = (1 - smoothing) * hot + smoothing / classes
            return (p - expected) * grad[..., None], None, None
        chosen = labels[..., None]
        p.scatter_add_(-1, chosen, torch.full_like(chosen, smoothing - 1, dtype=p.dtype))
        if smoothing:
            p.sub_(smoothing / classes)
        return p.mul_(grad[..., None]), None, None
