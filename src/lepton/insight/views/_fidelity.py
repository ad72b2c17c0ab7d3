"""`fidelity`: on a model and its batches, how far each view of the gradients is from the exact one, at what cost."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lepton.balance import Balancer, Equal
from lepton.errors import ConfigurationError, DataError, nearest
from lepton.evaluate import to_device
from lepton.gradients import no_balancing
from lepton.insight._estimate import Estimate
from lepton.insight.measure import Interval, bootstrap
from lepton.insight.page import Table
from lepton.insight.views._distances import cosine_distance, direction, gramian_distance, share_distance
from lepton.insight.views._found import EXACT, ViewFidelity
from lepton.insight.views._lanes import Lane, generators_kept, run_lanes
from lepton.insight.views._recommend import Recommendation, recommend
from lepton.insight.views._show import fidelity_table
from lepton.insight.views._tails import trunk_layers
from lepton.nn import LeptonModel, Shared

__all__ = ["Fidelity", "fidelity"]

FEWEST = 5
"""Batches from which the median of the times has an interval."""

TAILS = (1, 2)
"""Numbers of last layers that are looked at where nothing is named."""

PLAIN = "equal weighting"
CHEAP = ("fork_layer", "features")
OWN = f"{EXACT} of shared="

Batch = tuple[Any, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Fidelity:
    """How far each view is from the exact one. `console.print(found.table)` shows it.

    Attributes:
        balancer: what turned Gramians into weights.
        chosen: name of the view that the model uses.
        views: the cheap ones first.
        equal: how far equal weights are from the exact ones: the yardstick of the other distances.
        spread: how far the exact weights of one batch are from their mean over the batches, as `weights`.
        step_seconds: of a forward and backward with equal weighting, median.
        memory: bytes at its peak, beside weights and rows.
        batches: their number.
        seconds: what the measurement took.
    """

    balancer: str
    chosen: str
    views: tuple[ViewFidelity, ...]
    equal: Estimate
    spread: Estimate
    step_seconds: float
    memory: int
    batches: int
    seconds: float

    def __getitem__(self, name: str) -> ViewFidelity:
        """Return one view by its name.

        Raises:
            ConfigurationError: there is none of that name.
        """
        known = {view.name: view for view in self.views}
        if name not in known:
            raise ConfigurationError(f"there is no view {name!r}; views: {list(known)}.{nearest(name, known)}")
        return known[name]

    @property
    def recommendation(self) -> Recommendation | None:
        """The view to take, by the rule in `fidelity`; None where the exact one could not be measured."""
        return recommend(self.chosen, self.views, self.equal)

    @property
    def table(self) -> Table:
        """What a terminal shows."""
        return fidelity_table(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, but for NaN."""
        return asdict(self) | {"recommendation": None if self.recommendation is None else asdict(self.recommendation)}


def fidelity(
    model: LeptonModel,
    batches: Iterable[Batch],
    *,
    balancer: Balancer | None = None,
    shared: Mapping[str, Shared] | None = None,
    memory_budget: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
) -> Fidelity:
    """Measure how far each cheap view of the gradients is from the exact one on batches, and what each costs.

    On every batch a forward and a backward pass is run in each view, in turns, without an optimiser: the Gramian, its
    cosines and the balancer's weights are compared with those of the view `parameters` over the whole trunk. Ten
    batches or more make intervals worth reading. Measure after some training: before the first step the gradients are
    those of random heads.

    Everything runs on a copy: parameters, gradients, statistics of normalisations, the balancer's state and the
    generators of torch, numpy and Python are as before afterwards. Under several processes call it in all of them.

    A method that averages or holds its weights over steps begins from its state, which the view in use has formed, and
    moves away from it slowly: its distances are then too small. Name a new one, `balancer=`, to see it begin afresh, or
    look at the Gramians, which do not depend on it.

    The recommendation follows a rule:

    1. A view *agrees* if its weights are at most 10 % apart from the exact ones in the mean over the batches, or if the
       updates that they make have a mean cosine of at least 0.995. The exact view agrees.
    2. If the view in use agrees, it is kept, unless another one that agrees is cheaper: its interval of the time lies
       below, by more than 5 % of a step with equal weighting. Fewer than five batches have no interval; then it is by
       more than half a step.
    3. Otherwise the cheapest view that agrees is taken; of those that cost the same, the first of `fork_layer`,
       `features`, parts of the trunk, `parameters`.

    Whether the distance matters for the results only a training in each view can tell.

    Args:
        model: the model, whatever its view is.
        batches: pairs (inputs, targets), each a micro-batch.
        balancer: the method whose weights are compared; by default the model's own. It is copied.
        shared: name -> modules or parameters of the trunk, that the view `parameters` is restricted to; by default the
            trunk's last layer and its last two, where it has more. An empty mapping for none.
        memory_budget: for the exact view, see `lepton.fork`; by default the model's own.
        max_seconds: after which no further batch is begun, but for the second one; of the wall.
        seed: of dropout and the like, the same in every view.

    Raises:
        ConfigurationError: a balancer that has no use for the view, or a single task.
        DataError: there is no batch.

    Example:
        >>> from lepton.balance import MGDA
        >>> from lepton.tasks import Regression
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
        >>> model = LeptonModel(trunk, [Regression("a"), Regression("b")], balancer=MGDA())
        >>> batch = torch.randn(8, 2), {"a": torch.randn(8), "b": torch.randn(8)}
        >>> found = fidelity(model, [batch, batch])
        >>> [view.name for view in found.views]
        ['fork_layer', 'features', 'parameters of the last layer', 'parameters']
        >>> found["parameters"].weights.mean
        0.0
    """
    start = time.perf_counter()
    method = _checked(model, balancer)
    measured, named, method = copy.deepcopy((model, dict(shared or {}), method))
    if not measured.training:  # a model in training may hold single layers in eval mode: they stay there
        measured.train()
    method.bind(len(model.task_names)).to(model.device).train()
    measured.fork.gradient_accumulation_steps = 1
    measured.fork.memory_budget = measured.fork.memory_budget if memory_budget is None else memory_budget
    with generators_kept():
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise DataError("fidelity: there are no batches.")
        parts = {f"{EXACT} of {name}": Part(part) for name, part in named.items()}
        parts = _tails(measured, first) if shared is None else parts
        parts |= _own_part(measured)
        lanes = _lanes(measured, method, parts)
        run_lanes(measured, lanes, itertools.chain([first], stream), seed=seed, max_seconds=max_seconds)
    chosen = OWN if OWN in parts else model.fork.gradients
    return _judged(lanes, parts, measured.priority, chosen, type(method).__name__, time.perf_counter() - start)


def _checked(model: LeptonModel, named: Balancer | None) -> Balancer:
    """Return the balancer to measure with, refusing what no view matters for."""
    if not isinstance(model, LeptonModel):
        raise ConfigurationError(
            f"fidelity needs a LeptonModel, but got {type(model).__name__}: of a wrapped one, pass what is inside."
        )
    if len(model.task_names) < 2:
        raise ConfigurationError(
            f"fidelity compares how the views weigh several tasks, but this model has one: {list(model.task_names)}."
        )
    balancer = model.balancer if named is None else named
    if not (balancer.uses_gramian or balancer.uses_jacobian):
        raise ConfigurationError(
            f"{type(balancer).__name__} does not compare the tasks' gradients, so that no view of them matters for it: "
            "name a balancer of gradients that you think of, fidelity(model, batches, balancer=...)."
        )
    return balancer


# -- lanes --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Part:
    """A part of the trunk, and the names of its modules where they are known."""

    shared: Shared
    modules: tuple[str, ...] = ()


def _tails(model: LeptonModel, batch: Batch) -> dict[str, Part]:
    """Return the trunk's last layer and its last two, where it has more than that."""
    with no_balancing(), generators_kept():
        layers = trunk_layers(model, to_device(batch[0], model.device))
    found = {}
    for size in TAILS:
        if size < len(layers):
            tail = layers[:size]
            name = "the last layer" if size == 1 else f"the last {size} layers"
            parameters = [parameter for _, own in tail for parameter in own]
            modules = tuple(module for names, _ in reversed(tail) for module in names)
            found[f"{EXACT} of {name}"] = Part(parameters, modules)
    return found


def _own_part(model: LeptonModel) -> dict[str, Part]:
    """Return the part of the trunk that the model itself compares, if it is not the whole."""
    shared = model.fork.shared
    if shared is None or shared is model.trunk or model.fork.gradients != EXACT:
        return {}
    return {OWN: Part(shared)}


def _lanes(model: LeptonModel, method: Balancer, parts: Mapping[str, Part]) -> dict[str, Lane]:
    bound = model.fork.max_task_grad_norm
    lanes = {PLAIN: Lane(Equal().bind(len(model.task_names)).to(model.device), CHEAP[0])}
    views: dict[str, tuple[str, Shared | None]] = {view: (view, None) for view in CHEAP}
    views |= {name: (EXACT, part.shared) for name, part in parts.items()}
    for name, (view, shared) in {**views, EXACT: (EXACT, model.trunk)}.items():
        lanes[name] = Lane(copy.deepcopy(method), view, shared, bound)
    return lanes


# -- what they showed ---------------------------------------------------------------------------------------------
def _judged(
    lanes: Mapping[str, Lane], parts: Mapping[str, Part], priority: Tensor, chosen: str, balancer: str, seconds: float
) -> Fidelity:
    plain, exact = lanes[PLAIN], lanes[EXACT]
    factors = priority.double().cpu()
    views = [_view(name, lane, parts.get(name), exact, plain, factors) for name, lane in lanes.items() if name != PLAIN]
    turns = [] if exact.refused else exact.turns
    mean = sum((turn.weights / turn.weights.abs().sum() for turn in turns if turn.weights.any()), torch.zeros(()))
    return Fidelity(
        balancer,
        chosen,
        tuple(views),
        _mean(share_distance((turn.gramian.diagonal() > 0).double(), turn.weights) for turn in turns),
        _mean(share_distance(turn.weights, mean) for turn in turns),
        statistics.median(plain.seconds),
        plain.peak or 0,
        len(plain.seconds),
        seconds,
    )


def _view(name: str, lane: Lane, part: Part | None, exact: Lane, plain: Lane, priority: Tensor) -> ViewFidelity:
    modules = () if part is None else part.modules
    if lane.refused or exact.refused:
        nothing = Estimate.of([])
        time, memory = (Interval(math.nan), None) if lane.refused else (_ratio(lane, plain), lane.peak)
        return ViewFidelity(
            name, lane.gradients, modules, nothing, nothing, nothing, nothing, time, memory, lane.refused
        )
    pairs = list(zip(lane.turns, exact.turns, strict=True))
    return ViewFidelity(
        name,
        lane.gradients,
        modules,
        _mean(share_distance(a.weights, b.weights) for a, b in pairs),
        _mean(direction(a.weights * priority, b.weights * priority, b.gramian) for a, b in pairs),
        _mean(cosine_distance(a.gramian, b.gramian) for a, b in pairs),
        _mean(gramian_distance(a.gramian, b.gramian) for a, b in pairs),
        _ratio(lane, plain),
        lane.peak,
    )


def _mean(values: Iterable[float]) -> Estimate:
    """Return the estimate over the batches in which there was something to compare."""
    return Estimate.of(value for value in values if math.isfinite(value))


def _ratio(lane: Lane, plain: Lane) -> Interval:
    """Return the median over the batches of the time over that of equal weighting on the same batch."""
    ratios = torch.tensor([a / b for a, b in zip(lane.seconds, plain.seconds, strict=True)])
    if len(ratios) < FEWEST:
        return Interval(float(ratios.quantile(0.5)))
    return bootstrap(lambda rows: {"time": float(ratios[rows].quantile(0.5))}, len(ratios), resamples=400)["time"]
