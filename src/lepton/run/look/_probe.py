"""`probe`: a few batches of the real model on real rows, and what they speak for."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.config import Config, check_config, content_of
from lepton.data import ImageRows, Loader, Rows, without_nan
from lepton.errors import is_whole, require
from lepton.evaluate import evaluate
from lepton.insight import (
    Advice,
    Estimate,
    Fidelity,
    GradientRecord,
    MemoryCount,
    RangeTest,
    advise_conflict,
    advise_cost,
    advise_learning_rate,
    advise_scale,
    advise_weights,
    count_memory,
    fidelity,
    learning_rate_range,
    measure_gradients,
    sorted_advice,
    time_in_turns,
)
from lepton.nn import LeptonModel
from lepton.run._build import initial_model
from lepton.run._prepare import Prepared, prepare
from lepton.run._rows import in_memory, label_overlap
from lepton.run._train import make_loaders, make_trainer, steps_per_epoch

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["LabelMap", "Probe", "StepCost", "probe"]

Batch = tuple[Any, Any]
Window = list[Batch]

PLAIN = {"method": "equal"}
VIEW_BYTES = 2**30
"""Memory for the tasks' gradients of all shared parameters; where they need more, they are compared in parts."""
VIEW_BATCHES = 10
VIEW_SECONDS = 20.0
MOST_BATCHES = 100
LATER = 60
"""Steps after which the gradients are measured again."""


@dataclass(frozen=True)
class LabelMap:
    """Which labels there are in the training rows.

    Attributes:
        share: task -> share of the rows with a label.
        both: pairs of tasks -> share of the rows with labels of both.
    """

    share: dict[str, float]
    both: dict[tuple[str, str], float]


@dataclass(frozen=True)
class StepCost:
    """What the training will need; predicted, on this machine as busy as it is.

    Attributes:
        step: seconds of an optimiser step with the chosen balancer.
        plain: the same with equal weights.
        epoch_seconds: an epoch, validation included.
        training_seconds: the whole training, if it does not stop early.
        memory: bytes, without the rows.
        rows: bytes of the rows, which tables keep in memory.
    """

    step: Estimate
    plain: Estimate
    epoch_seconds: float
    training_seconds: float
    memory: MemoryCount
    rows: int

    @property
    def ratio(self) -> float:
        """Time of a step over that with equal weights."""
        return self.step.mean / self.plain.mean


@dataclass(frozen=True)
class Probe:
    """What a few batches showed. `console.print(probe)` shows it.

    Attributes:
        config: the resolved configuration.
        gradients: losses and gradients of every task, at initialisation.
        later: the same after `later_steps` steps: before the first one, cosines are those of random heads.
        later_steps: see `later`.
        labels: which labels there are.
        learning_rate: the range test.
        cost: time and memory.
        views: how far each view of the gradients is from the exact one, after `later_steps` steps; None for a method
            that compares no gradients, or a single task.
        advice: recommendations, the surest first.
        seconds: what the probe took.
    """

    config: Config
    gradients: GradientRecord
    later: GradientRecord
    later_steps: int
    labels: LabelMap
    learning_rate: RangeTest
    cost: StepCost
    views: Fidelity | None
    advice: tuple[Advice, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; null where nothing could be measured."""
        content = {
            "view": self.gradients.view,
            "batches": len(self.gradients.losses),
            "first": _gradients_dict(self.gradients),
            "later": {"steps": self.later_steps, **_gradients_dict(self.later)},
            "label_share": self.labels.share,
            "labels_of_both": [{"tasks": pair, "share": share} for pair, share in self.labels.both.items()],
            "learning_rate": dataclasses.asdict(self.learning_rate),
            "cost": {**dataclasses.asdict(self.cost), "ratio": self.cost.ratio},
            "views": None if self.views is None else self.views.to_dict(),
            "advice": [dataclasses.asdict(item) for item in self.advice],
            "seconds": self.seconds,
        }
        return without_nan(content)  # type: ignore[no-any-return]

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows."""
        from lepton.run.look._probe_view import probe_view

        return probe_view(self)


def _gradients_dict(record: GradientRecord) -> dict[str, Any]:
    return {
        "losses": {name: dataclasses.asdict(found) for name, found in record.loss.items()},
        "gradient_norms": {name: dataclasses.asdict(found) for name, found in record.norm.items()},
        "weight_share": {name: dataclasses.asdict(found) for name, found in record.weight_share.items()},
        "cosines": [{"tasks": pair, **dataclasses.asdict(found)} for pair, found in record.cosine.items()],
    }


def probe(config: Config | Prepared, source: Any = None, *, batches: int = 20, trust: bool = False) -> Probe:
    """Run a few batches of the real model on real rows, and say what they speak for.

    Everything runs on copies: torch's random numbers and whatever was made of the configuration stay as they are.
    Losses and norms are measured before the first step, cosines and views after some steps; how they look later the
    training itself records.

    Args:
        config: the configuration, or what `prepare` made of it.
        source: rows in memory, instead of `config.data.source`.
        batches: batches that losses and gradients are measured on; more narrow the intervals.
        trust: whether classes that the configuration names may be imported.

    Raises:
        DataError: nothing can be learned from the rows.
        ConfigurationError: the configuration does not fit them.

    Example:
        >>> from lepton.run import make_config
        >>> rows = {"size": [float(i % 17) for i in range(120)], "kind": ["x", "y"] * 60}
        >>> rows["price"] = [2 * size for size in rows["size"]]
        >>> found = probe(make_config(source=None, targets=["kind", "price"], data={}, rest={}), rows, batches=3)
        >>> sorted(found.gradients.loss), found.cost.ratio > 0
        (['kind', 'price'], True)
    """
    require(is_whole(batches, 2), "probe", "batches", batches, "a whole number of at least 2")
    start = time.perf_counter()
    prepared = config if isinstance(config, Prepared) else prepare(config, source)
    with torch.random.fork_rng():
        model = initial_model(prepared, trust=trust)
        loaded = _batches(prepared, batches)
        windows = _windows(loaded, prepared.config.training.gradient_accumulation_steps)
        seen = list(itertools.islice(itertools.cycle(loaded), batches))
        record = measure_gradients(model, seen)
        trained = _some_steps(prepared.config, model, windows)
        later = measure_gradients(trained, seen)
        views = _views(trained, seen)
        times = _times(prepared, model, windows, batches, trust)
        cost = _cost(prepared, model, times, seen[0])
        trainer = make_trainer(prepared.config, copy.deepcopy(model), None)
        trainer.model.train()
        sweep = learning_rate_range(trainer.step, windows)
    advice = [
        *advise_scale(record),
        *advise_weights(later),
        *advise_conflict(later, f"after {LATER} steps"),
        *advise_learning_rate(sweep, prepared.config.training.learning_rate),
        *_view_advice(views),
        *advise_cost(times, "chosen", "plain"),
    ]
    seconds = time.perf_counter() - start
    return Probe(
        prepared.config, record, later, LATER, _labels(prepared), sweep, cost, views, sorted_advice(advice), seconds
    )


# -- model and rows -----------------------------------------------------------------------------------------------
def _batches(prepared: Prepared, wanted: int) -> list[Batch]:
    """Return the batches of the first epoch, or as many as a probe can use: pictures fill the memory."""
    loader, _ = make_loaders(prepared)
    pictures = isinstance(in_memory(prepared.data["train"]), ImageRows)
    return list(itertools.islice(loader, wanted if pictures else max(wanted, MOST_BATCHES)))


def _windows(batches: Sequence[Batch], size: int) -> list[Window]:
    if len(batches) < size:
        return [list(batches)]
    return [list(batches[place : place + size]) for place in range(0, len(batches) - size + 1, size)]


def _labels(prepared: Prepared) -> LabelMap:
    names = [rule.task for rule in prepared.rules]
    train = prepared.data["train"]
    both = (label_overlap(train, names) / len(in_memory(train))).tolist()
    pairs = itertools.combinations(range(len(names)), 2)
    return LabelMap(
        {name: both[place][place] for place, name in enumerate(names)},
        {(names[a], names[b]): both[a][b] for a, b in pairs},
    )


def _some_steps(config: Config, model: LeptonModel, windows: Sequence[Window]) -> LeptonModel:
    """Return a copy of the model after some steps at the configured learning rate."""
    step = _Stepper(config, copy.deepcopy(model), windows)
    for _ in range(LATER):
        step()
    return step.model


# -- views --------------------------------------------------------------------------------------------------------
def _views(model: LeptonModel, batches: Sequence[Batch]) -> Fidelity | None:
    """Return how far each view is from the exact one; None where none matters."""
    balancer = model.balancer
    if len(model.task_names) < 2 or not (balancer.uses_gramian or balancer.uses_jacobian):
        return None
    budget = model.fork.memory_budget or VIEW_BYTES
    return fidelity(model, batches[:VIEW_BATCHES], memory_budget=budget, max_seconds=VIEW_SECONDS)


def _view_advice(views: Fidelity | None) -> Iterator[Advice]:
    found = None if views is None else views.recommendation
    if found is not None:
        yield Advice("view", found.words, found.confidence)


# -- cost ---------------------------------------------------------------------------------------------------------
def _times(
    prepared: Prepared, model: LeptonModel, windows: Sequence[Window], repeats: int, trust: bool
) -> dict[str, Estimate]:
    plain = check_config({**content_of(prepared.config), "balance": PLAIN})
    models = {
        "chosen": copy.deepcopy(model),
        "plain": initial_model(dataclasses.replace(prepared, config=plain), trust=trust),
    }
    configs = {"chosen": prepared.config, "plain": plain}
    return time_in_turns({name: _Stepper(configs[name], models[name], windows) for name in models}, repeats)


class _Stepper:
    """Takes a step of a training on the next window whenever it is called."""

    def __init__(self, config: Config, model: LeptonModel, windows: Sequence[Window]) -> None:
        self.model = model.train()
        self.step = make_trainer(config, model, None).step
        self.turns: Iterator[Window] = itertools.cycle(windows)

    def __call__(self) -> None:
        self.step(next(self.turns))


def _cost(prepared: Prepared, model: LeptonModel, times: dict[str, Estimate], batch: Batch) -> StepCost:
    training = prepared.config.training
    _, val = make_loaders(prepared)
    steps = max(1, steps_per_epoch(prepared))
    epoch = steps * times["chosen"].mean + _evaluation_seconds(model, val)
    epochs = training.max_steps / steps if training.max_steps else training.max_epochs
    rows = sum(_bytes_of(data) for data in prepared.data.values())
    memory = count_memory(model, batch)
    return StepCost(times["chosen"], times["plain"], epoch, epoch * epochs, memory, rows)


def _evaluation_seconds(model: LeptonModel, val: Loader | None) -> float:
    if val is None:
        return 0.0
    few = list(itertools.islice(val, 4))
    start = time.perf_counter()
    evaluate(model, few)
    return (time.perf_counter() - start) * len(val) / len(few)


def _bytes_of(rows: Rows) -> int:
    held = in_memory(rows)
    inputs = held.inputs
    tensors = [*([inputs] if isinstance(inputs, Tensor) else inputs.values()), *held.targets.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
