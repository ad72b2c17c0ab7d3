"""What lies upstream of a fork: the variables that the trunk's graph ends in, and whether something looks on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lepton.errors import ForkError

__all__ = ["Upstream", "ends_upstream"]


@dataclass(frozen=True)
class Upstream:
    """The trunk's side of a fork in the view `parameters`.

    Attributes:
        leaves: the features, with the trunk's graph.
        shared: the parameters that the tasks' gradients are taken over.
        whole: nothing else upstream wants a gradient, and nothing looks at gradients on their way: then the trunk's
            gradient is the weighted sum of the tasks' gradients, and a backward pass of the trunk is saved.
        budget: bytes, or a share of the device's memory; None for no bound.
    """

    leaves: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    whole: bool
    budget: float | None

    @classmethod
    def of(cls, leaves: Sequence[Tensor], shared: Sequence[Tensor], budget: float | None, every: bool) -> Upstream:
        """Look at the graph of this forward pass.

        Args:
            leaves: the features.
            shared: the parameters that may be differentiated.
            budget: see `Upstream`.
            every: keep also the parameters that this pass did not use, for state that must not change its shape.
        """
        ends, hooked = ends_upstream(leaves)
        used = tuple(p for p in shared if id(p) in ends)
        if not used:
            raise ForkError(
                'no parameter named by shared= has a gradient from any task: in the view "parameters" it must name a '
                "part of the trunk that the features depend on."
            )
        hooked = (
            hooked or any(_hooked(leaf) for leaf in leaves if not leaf.is_leaf) or any(p._backward_hooks for p in used)
        )
        return cls(tuple(leaves), tuple(shared) if every else used, len(used) == len(ends) and not hooked, budget)

    def gradient(self, weighted: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients of the shared parameters from the weighted cotangents at the leaves."""
        pairs = [
            (leaf, c) for leaf, c in zip(self.leaves, weighted, strict=True) if c is not None and leaf.requires_grad
        ]
        if not pairs:
            return [None] * len(self.shared)
        leaves, cotangents = zip(*pairs, strict=True)
        return list(torch.autograd.grad(leaves, self.shared, cotangents, allow_unused=True, retain_graph=True))


def _hooked(leaf: Tensor) -> bool:
    return bool(leaf._backward_hooks) or leaf.retains_grad


def ends_upstream(tensors: Sequence[Tensor]) -> tuple[dict[int, Tensor], bool]:
    """Return the variables that the graph ends in, by identity, and whether a module on the way has backward hooks."""
    found = {id(tensor): tensor for tensor in tensors if tensor.grad_fn is None and tensor.requires_grad}
    hooked = False
    seen: set[Any] = set()
    stack = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        hooked = hooked or node.name() == "BackwardHookFunctionBackward"
        stack.extend(upstream for upstream, _ in node.next_functions)
    return found, hooked
