"""Structured pruning: whole channels, hidden units and attention heads go, and the network becomes a smaller one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, import_extra, is_number, nearest, require
from lepton.nn import AdaptedTrunk, Adapter, LeptonModel, LoRA, MultiTaskLoss, Prunable

__all__ = ["Pruned", "prune"]

IMPORTANCES = ("magnitude", "taylor")
SPREADS = ("uniform", "global")

LEAST = 0.1
"""Share of a width that a global threshold leaves at least: a layer that is all but gone passes nothing on."""

ROUNDS = 12
"""Bisections of the share of channels: with 2^-12 of them, widths of some thousand are found to the last channel."""


@dataclass(frozen=True)
class Pruned:
    """A pruned model, and how to build it.

    Attributes:
        model: a new model in the mode of the old one; its outputs have the same shapes.
        options: options of the trunk's constructor that say its widths; the others are as they were.
        heads: task -> options of its head's constructor, for heads that say their widths.
        ratio: share of the model's parameters that is gone.
        parameters_before: number of parameters of the old model.
        parameters: number of parameters now.
        widths: name of each width -> how many outputs its layers had, and how many they have.
    """

    model: LeptonModel
    options: dict[str, Any]
    heads: dict[str, dict[str, Any]]
    ratio: float
    parameters_before: int
    parameters: int
    widths: dict[str, tuple[int, int]]


def prune(
    model: LeptonModel,
    inputs: Any,
    ratio: float,
    *,
    importance: str = "magnitude",
    spread: str = "uniform",
    batches: Iterable[tuple[Any, Mapping[str, Tensor]]] = (),
) -> Pruned:
    """Return a copy of a model without the least important channels of its trunk, to be fine-tuned.

    Nothing is masked: the layers of the copy are smaller, and `Pruned.options` are the options of the trunk's
    constructor that describe them. Layers that depend on each other, as those whose outputs are added, lose the same
    channels (Fang et al., "DepGraph: Towards Any Structural Pruning", 2023; torch-pruning computes the dependencies).
    The tasks' outputs stay, and so do embeddings of columns, vocabularies, and the size of an attention head. A task's
    own head is cut inside if it is `Prunable` too; any other head only reads less.

    A channel's importance is the mean, over the layers of its group, of

        magnitude:  sum of w^2        taylor:  sum of |w dL/dw|

    over its weights w, divided by the group's mean; L is the criterion on `batches`, added up (Li et al., "Pruning
    Filters for Efficient ConvNets", 2017; Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019).

    Args:
        model: the model. It is not changed.
        inputs: a batch of inputs as the model takes them; two rows are enough. Each task's output must depend on it.
        ratio: share of the model's parameters, those of the heads included, that goes at least, in (0, 1).
        importance: `"magnitude"` or `"taylor"`.
        spread: `"uniform"` takes the same share of every width, `"global"` the least important ones wherever they are.
        batches: for `"taylor"`: some batches of (inputs, targets).

    Raises:
        MissingExtraError: torch-pruning is not installed.
        ConfigurationError: a trunk that does not say its widths or cannot be pruned so far, or an option that is not
            allowed.

    Example:
        >>> import torch, lepton
        >>> from lepton.compress import prune
        >>> from lepton.nn import ConvTrunk
        >>> from lepton.tasks import Classification
        >>> model = lepton.LeptonModel(ConvTrunk(width=16, stages=2, blocks=1), [Classification("kind", classes=3)])
        >>> pruned = prune(model, torch.rand(2, 3, 16, 16), 0.5)
        >>> pruned.options, round(pruned.ratio, 2)
        ({'widths': [11, 11, 22], 'inner': [11, 22]}, 0.52)
        >>> outputs, task_weights = pruned.model(torch.rand(2, 3, 16, 16))
        >>> outputs["kind"].shape
        torch.Size([2, 3])
    """
    tp = import_extra("torch_pruning", "compress", "pruning")
    given = list(batches) if importance == "taylor" else []
    _check(model, ratio, importance, spread, given)
    surgery = _Surgery(tp, model, inputs)
    scores, layers = surgery.look(given)
    plan = _Plan(_widths(model), scores, spread)
    before = _count(model)
    share = _share(lambda share: before - _lost(layers, plan.gone(share)), before, ratio, plan)
    found = surgery.without(plan.gone(share))
    widths = {w.name: (w.size, n * w.unit) for w, n in zip(plan.widths, plan.kept(share), strict=True)}
    _check_followed(found, plan.widths, widths, inputs)
    after = _count(found)
    sizes = {name: part.sizes() for name, part in _parts(found).items()}
    return Pruned(found, sizes.pop(""), sizes, 1 - after / before, before, after, widths)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check(model: LeptonModel, ratio: float, importance: str, spread: str, batches: Sequence[object]) -> None:
    require(is_number(ratio) and 0 < ratio < 1, "prune", "ratio", ratio, "in (0, 1)")
    for name, value, known in (("importance", importance, IMPORTANCES), ("spread", spread, SPREADS)):
        if value not in known:
            raise ConfigurationError(
                f"prune: {name} must be one of {list(known)}, but it is {value!r}.{nearest(str(value), known)}"
            )
    if importance == "taylor" and not batches:
        raise ConfigurationError(
            "prune: importance 'taylor' needs the gradients of some batches: give batches=[(inputs, targets), ...]."
        )
    trunk = model.trunk
    if any(isinstance(module, (AdaptedTrunk, Adapter, LoRA)) for module in model.modules()):
        raise ConfigurationError(
            "prune: this model has adapters, whose sizes are those of the layers that they change: merge them with "
            "lepton.nn.merge_lora, or prune the model before it gets them."
        )
    if not isinstance(trunk, Prunable):
        raise ConfigurationError(
            f"prune: {type(trunk).__name__} does not say which of its widths may shrink, and which options of its "
            "constructor describe them: give it the two methods of lepton.nn.Prunable, or distil it into a smaller one."
        )
    if not trunk.prunable():
        raise ConfigurationError(
            f"prune: no width of this {type(trunk).__name__} may shrink: all channels share the statistics of one "
            "normalisation."
        )


def _check_followed(
    model: LeptonModel, planned: Sequence[_NamedWidth], widths: Mapping[str, tuple[int, int]], inputs: Any
) -> None:
    """Refuse a network in which something else went than what was asked for."""
    found = {width.name: {_outputs(model.get_submodule(name)) for name in width.layers} for width in planned}
    wrong = [name for name, (_, size) in widths.items() if found[name] != {size}]
    try:
        with torch.no_grad():
            model.outputs_of(inputs, model.task_names)
    except RuntimeError as error:
        wrong = [*wrong, str(error).splitlines()[0]]
    if wrong:
        raise ConfigurationError(
            f"prune: torch-pruning cannot follow what depends on what in this {type(model.trunk).__name__}: {wrong}. "
            "Leave the width out of what its method `prunable` names."
        )


# -- which channels go ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _NamedWidth:
    """A width whose layers are known by their names, which are the same in every copy of the model."""

    name: str
    layers: tuple[str, ...]
    size: int
    unit: int

    @property
    def units(self) -> int:
        return self.size // self.unit


def _parts(model: LeptonModel) -> dict[str, Prunable]:
    """Return what says its widths: the trunk, whose name is empty, and heads by their tasks."""
    parts = {"": model.trunk, **{name: model.heads[name] for name in model.task_names}}
    return {name: part for name, part in parts.items() if isinstance(part, Prunable)}


def _widths(model: LeptonModel) -> list[_NamedWidth]:
    names = {id(module): name for name, module in model.named_modules()}
    return [
        _NamedWidth(
            f"heads.{task}.{width.name}" if task else width.name,
            tuple(names[id(layer)] for layer in width.layers),
            _outputs(width.layers[0]),
            width.unit,
        )
        for task, part in _parts(model).items()
        for width in part.prunable()
    ]


def _outputs(layer: nn.Module) -> int:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.shape[1 if isinstance(layer, nn.Embedding) else 0]


class _Plan:
    """Which channels go, for a share of the channels that go.

    Args:
        widths: what may shrink.
        scores: layer -> importance of each of its outputs.
        spread: see `prune`.
    """

    def __init__(self, widths: Sequence[_NamedWidth], scores: Mapping[str, Tensor], spread: str) -> None:
        self.widths = widths
        self.spread = spread
        self.scores = {
            name: scores[name].reshape(width.units, width.unit).mean(1) for width in widths for name in width.layers
        }

    def kept(self, share: float) -> list[int]:
        """Return how many units of each width stay."""
        if self.spread == "uniform":
            return [max(1, round(width.units * (1 - share))) for width in self.widths]
        pooled = torch.cat(list(self.scores.values())).sort().values
        threshold = pooled[min(int(share * len(pooled)), len(pooled) - 1)]
        found = []
        for width in self.widths:
            above = sum(int((self.scores[name] >= threshold).sum()) for name in width.layers) / len(width.layers)
            found.append(max(1, math.ceil(LEAST * width.units), round(above)))
        return found

    def gone(self, share: float) -> dict[str, list[int]]:
        """Return the outputs that go, for each layer."""
        found = {}
        for width, kept in zip(self.widths, self.kept(share), strict=True):
            for name in width.layers:
                lowest = self.scores[name].argsort()[: width.units - kept].sort().values
                outputs = lowest[:, None] * width.unit + torch.arange(width.unit)
                found[name] = [int(place) for place in outputs.flatten()]
        return found


@dataclass
class _Layer:
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


def _lost(layers: Iterable[_Layer], gone: Mapping[str, Sequence[int]]) -> int:
    return sum(layer.lost(gone) for layer in layers)


def _share(count: Callable[[float], int], before: int, ratio: float, plan: _Plan) -> float:
    """Return about the smallest share of channels with which so many parameters go."""
    target = (1 - ratio) * before
    low, high = 0.0, 1.0
    if (least := count(high)) > target:
        raise ConfigurationError(
            f"prune: ratio is {ratio}, but at most {math.floor(1000 * (1 - least / before)) / 10:g} % of this "
            f"model's {before} parameters can go: the rest is what the inputs and the tasks' outputs need."
        )
    for _ in range(ROUNDS):
        if plan.kept(low) == plan.kept(high):
            break
        middle = (low + high) / 2
        low, high = (low, middle) if count(middle) <= target else (middle, high)
    return high


# -- the network ------------------------------------------------------------------------------------------------------
WRAPPED = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Embedding,
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)
"""Layers whose parameters torch-pruning cuts as parts of the layer."""


class _Traced(nn.Module):
    """A model as torch-pruning can trace it: nothing is balanced, and every head is called by itself."""

    def __init__(self, model: LeptonModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> list[Tensor]:
        return list(self.model.outputs_of(inputs, self.model.task_names).values())


class _Surgery:
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

    def look(self, batches: Sequence[tuple[Any, Mapping[str, Tensor]]]) -> tuple[dict[str, Tensor], list[_Layer]]:
        """Return layer -> importance of its outputs, in units of the mean of its group, and what hangs on them.

        The Taylor importance, where there are batches, is the norm L1 of the products w dL/dw: they stand in the place
        of the weights.
        """
        found = copy.deepcopy(self.model).eval()
        score = self.tp.importance.GroupMagnitudeImportance(p=1 if batches else 2, group_reduction="mean")
        scores: dict[str, Tensor] = {}
        layers: dict[nn.Module, _Layer] = {}
        with found.heads_apart():
            if batches:
                _weigh_by_gradient(found, batches)
            graph = self._graph(found)
            for name in [name for width in _widths(self.model) for name in width.layers]:
                group = self._group(graph, found.get_submodule(name))
                scores[name] = score(group).nan_to_num(0).cpu()
                for item in group:
                    module = item.dep.target.module
                    if isinstance(module, WRAPPED):
                        layer = layers.setdefault(module, _layer(module))
                        side = 0 if graph.is_out_channel_pruning_fn(item.dep.handler) else 1
                        layer.cut.setdefault(name, ([], []))[side].extend(item.root_idxs)
        return scores, list(layers.values())

    def without(self, gone: Mapping[str, Sequence[int]]) -> LeptonModel:
        """Return a copy without the given outputs of the given layers."""
        found = copy.deepcopy(self.model).eval()
        learns = {name: parameter.requires_grad for name, parameter in found.named_parameters()}
        per_group = {name: _per_group(norm) for name, norm in found.named_modules() if isinstance(norm, nn.GroupNorm)}
        with found.heads_apart():
            graph = self._graph(found)
            for name, outputs in gone.items():
                if outputs:
                    self._group(graph, found.get_submodule(name), outputs).prune(record_history=False)
        for name, size in per_group.items():
            norm: nn.GroupNorm = found.get_submodule(name)  # type: ignore[assignment]
            norm.num_groups = norm.num_channels // size if size else 1
        for name, parameter in found.named_parameters():
            parameter.requires_grad_(learns[name])
            parameter.grad = None
        return found.train(self.model.training)

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


def _layer(module: nn.Module) -> _Layer:
    shapes = [parameter.shape for parameter in module.parameters(recurse=False)]
    matrix = next((shape for shape in shapes if len(shape) > 1), None)
    vector = sum(shape[0] for shape in shapes if len(shape) == 1)
    if matrix is None:
        return _Layer(0, vector, shapes[0][0] if shapes else 1, 1, {})
    inputs, outputs = (matrix[0], matrix[1]) if isinstance(module, nn.Embedding) else (matrix[1], matrix[0])
    return _Layer(matrix.numel(), vector, outputs, inputs, {})


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
