"""Channels are taken out of copies of a model, with everything that depends on them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lepton.compress._widths import named_widths
from lepton.errors import ConfigurationError
from lepton.nn import LeptonModel, MultiTaskLoss

__all__ = ["Layer", "Surgery", "parameters_lost"]

WRAPPED = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Embedding,
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)
"""Layers whose parameters torch-pruning cuts as parts of the layer."""


@dataclass
class Layer:
    """A layer that something hangs on, and what hangs on which outputs of others.

    Attributes:
        matrix: numbers in its weight of several dimensions.
        vector: numbers in its other parameters, as many for each output.
        outputs: number of outputs.
        inputs: number of inputs.
        cut: layer whose outputs go -> for each of this layer's outputs (first list) or inputs (second) that hangs on
            it, the number of that output.
    """

    matrix: int
    vector: int
    outputs: int
    inputs: int
    cut: dict[str, tuple[list[int], list[int]]]

    def lost(self, gone: Mapping[str, Sequence[int]]) -> int:
        """Return how many parameters go with the given outputs of other layers."""
        without = {name: set(outputs) for name, outputs in gone.items()}
        left = [self.outputs, self.inputs]
        for name, sides in self.cut.items():
            for side, roots in enumerate(sides):
                left[side] -= sum(root in without[name] for root in roots)
        matrix = self.matrix * left[0] * left[1] // (self.outputs * self.inputs)
        return self.matrix + self.vector - matrix - self.vector * left[0] // self.outputs


def parameters_lost(layers: Iterable[Layer], gone: Mapping[str, Sequence[int]]) -> int:
    return sum(layer.lost(gone) for layer in layers)


class _Traced(nn.Module):
    """A model as torch-pruning can trace it: nothing is balanced, and every head is called by itself."""

    def __init__(self, model: LeptonModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> list[Tensor]:
        return list(self.model.outputs_of(inputs, self.model.task_names).values())


class Surgery:
    """Takes channels out of copies of a model.

    Args:
        tp: the module torch_pruning.
        model: the model, which stays as it is.
        inputs: a batch of inputs to trace it with.
    """

    def __init__(self, tp: Any, model: LeptonModel, inputs: Any) -> None:
        self.tp = tp
        self.model = model
        self.inputs = inputs

    def look(self, batches: Sequence[tuple[Any, Mapping[str, Tensor]]]) -> tuple[dict[str, Tensor], list[Layer]]:
        """Return layer -> importance of its outputs, in units of the mean of its group, and what hangs on them.

        The Taylor importance, where there are batches, is the norm L1 of the products w dL/dw: they stand in the place
        of the weights.
        """
        found = copy.deepcopy(self.model).eval()
        score = self.tp.importance.GroupMagnitudeImportance(p=1 if batches else 2, group_reduction="mean")
        scores: dict[str, Tensor] = {}
        layers: dict[nn.Module, Layer] = {}
        with found.heads_apart():
            if batches:
                _weigh_by_gradient(found, batches)
            graph, modules = self._graph(found), dict(found.named_modules())
            for name in [name for width in named_widths(self.model) for name in width.layers]:
                group = self._group(graph, modules[name])
                scores[name] = score(group).nan_to_num(0).cpu()
                for item in group:
                    module = item.dep.target.module
                    if isinstance(module, WRAPPED):
                        layer = layers.setdefault(module, _layer(module))
                        side = 0 if graph.is_out_channel_pruning_fn(item.dep.handler) else 1
                        layer.cut.setdefault(name, ([], []))[side].extend(item.root_idxs)
        return scores, list(layers.values())

    def without(self, gone: Mapping[str, Sequence[int]]) -> LeptonModel:
        """Return a copy, in eval mode, without the given outputs of the given layers."""
        found = copy.deepcopy(self.model).eval()
        learns = {name: parameter.requires_grad for name, parameter in found.named_parameters()}
        norms = [(norm, _per_group(norm)) for norm in found.modules() if isinstance(norm, nn.GroupNorm)]
        with found.heads_apart():
            graph, modules = self._graph(found), dict(found.named_modules())
            for name, outputs in gone.items():
                if outputs:
                    self._group(graph, modules[name], outputs).prune(record_history=False)
        for norm, size in norms:
            norm.num_groups = norm.num_channels // size if size else 1
        for name, parameter in found.named_parameters():
            parameter.requires_grad_(learns[name])
            parameter.grad = None
        return found

    def _graph(self, found: LeptonModel) -> Any:
        """Return the graph of what depends on what.

        Parameters of several dimensions that belong to no usual layer, such as tables of columns, count as constants:
        torch-pruning would take any that lies before a concatenation for a class token and no longer follow it.
        """
        for module in found.modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(isinstance(module, WRAPPED) or parameter.ndim == 1)
        graph = self.tp.DependencyGraph()
        with torch.enable_grad():
            graph.build_dependency(
                _Traced(found), self.inputs, forward_fn=lambda network, inputs: network(inputs), verbose=False
            )
        return graph

    def _group(self, graph: Any, layer: nn.Module, outputs: Sequence[int] | None = None) -> Any:
        if layer not in graph.module2node:
            raise ConfigurationError(
                f"prune: no output depends on the layer {type(layer).__name__} with these inputs, so that what depends "
                "on it cannot be told: give a batch of inputs in which every input of the model is there."
            )
        cut = graph.get_pruner_of_module(layer).prune_out_channels
        every = range(graph.get_out_channels(layer)) if outputs is None else outputs
        return graph.get_pruning_group(layer, cut, list(every))


def _layer(module: nn.Module) -> Layer:
    shapes = [parameter.shape for parameter in module.parameters(recurse=False)]
    matrix = next((shape for shape in shapes if len(shape) > 1), None)
    vector = sum(shape[0] for shape in shapes if len(shape) == 1)
    if matrix is None:
        return Layer(0, vector, shapes[0][0] if shapes else 1, 1, {})
    inputs, outputs = (matrix[0], matrix[1]) if isinstance(module, nn.Embedding) else (matrix[1], matrix[0])
    return Layer(matrix.numel(), vector, outputs, inputs, {})


def _per_group(norm: nn.GroupNorm) -> int:
    """Return the channels of each group; 0 where there is one group of all of them."""
    return norm.num_channels // norm.num_groups if norm.num_groups > 1 else 0


def _weigh_by_gradient(model: LeptonModel, batches: Sequence[tuple[Any, Mapping[str, Tensor]]]) -> None:
    """Replace every weight w by w dL/dw, with the loss L of all batches together."""
    criterion = MultiTaskLoss(model)
    model.requires_grad_(True).zero_grad()
    for inputs, targets in batches:
        outputs, task_weights = model(inputs)
        criterion(outputs, targets, task_weights).backward()
    for parameter in model.parameters():
        parameter.data.mul_(0 if parameter.grad is None else parameter.grad)
