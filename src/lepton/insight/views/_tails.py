"""The tails of a trunk: its last layers, in the order in which a backward pass comes to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lepton.nn import LeptonModel

__all__ = ["Layer", "trunk_layers"]

Layer = tuple[list[str], list[nn.Parameter]]
"""Names of modules within the trunk, and of parameters that it holds itself; and their own parameters."""


def trunk_layers(model: LeptonModel, inputs: Any) -> list[Layer]:
    """Return the trunk's layers, the last one first.

    A layer is a module that holds a trainable tensor of two or more dimensions; what has fewer, such as a
    normalisation, counts to the layer before it. The order is that in which gradients arrive, since the order of
    registration need not be that of the computation, and modules may be used without being called.

    Args:
        model: whose trunk; its gradients are left as None.
        inputs: one batch.
    """
    names = {id(parameter): name for name, parameter in model.trunk.named_parameters() if parameter.requires_grad}
    order: list[nn.Parameter] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(order.append)  # type: ignore[no-untyped-call]
        for parameter in model.trunk.parameters()
        if parameter.requires_grad
    ]
    try:
        leaves = [leaf for leaf in pytree.tree_leaves(model.features(inputs)) if isinstance(leaf, Tensor)]
        roots = [leaf for leaf in leaves if leaf.requires_grad]
        if roots:
            torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad()
    return _grouped([(names[id(parameter)], parameter) for parameter in order])


def _grouped(order: Sequence[tuple[str, nn.Parameter]]) -> list[Layer]:
    """Join the parameters of each module, and modules without a matrix with the next one."""
    modules: dict[str, list[nn.Parameter]] = {}
    for name, parameter in order:
        modules.setdefault(name.rpartition(".")[0] or name, []).append(parameter)
    layers: list[Layer] = []
    names: list[str] = []
    waiting: list[nn.Parameter] = []
    for name, parameters in modules.items():
        names, waiting = [name, *names], [*waiting, *parameters]
        if any(parameter.ndim >= 2 for parameter in parameters):
            layers.append((names, waiting))
            names, waiting = [], []
    if waiting and layers:
        layers[-1] = [*names, *layers[-1][0]], [*layers[-1][1], *waiting]
    return layers
