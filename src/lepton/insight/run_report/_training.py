"""How a training went: losses, scores, weights, conflicts, norms of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lepton.insight._results import conflict_keys
from lepton.insight.page import (
    CONFLICT_WARNING,
    Block,
    Flag,
    Fold,
    Grid,
    Matrix,
    Plot,
    Section,
    Trace,
    as_count,
    listed,
)
from lepton.insight.run_report._facts import RunFacts, TaskFacts
from lepton.insight.run_report._words import metric_words
from lepton.insight.views import fidelity_blocks

__all__ = ["training_sections"]

POINTS = 500
"""Positions of a curve: a screen shows no more."""

SHOWN_LINES = 12
SHOWN_PAIRS = 10
SHOWN_MATRIX = 20


def training_sections(facts: RunFacts) -> list[Section]:
    """Return curves, weights, conflict and gradient norms."""
    if not facts.history:
        return [Section("Training", ("No epoch was recorded.",))]
    found = {
        "Curves": tuple(_curves(facts)),
        "Task weights": tuple(_weights(facts)),
        "Conflict between tasks": tuple(_conflict(facts)),
        "Views of the gradients": tuple(_views(facts)),
        "Gradient norms": tuple(_norms(facts)),
    }
    return [Section(heading, blocks) for heading, blocks in found.items() if blocks]


def _trace(facts: RunFacts, key: str, name: str, *, divide: bool = False, shown: bool = True) -> Trace | None:
    """Return a column of the history over the epochs, thinned; divided by its first value if wanted."""
    rows = [row for row in facts.history if key in row and "epoch" in row]
    if not any(math.isfinite(row[key]) for row in rows):
        return None
    keep = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).astype(int))
    x = [float(rows[i]["epoch"]) for i in keep]
    y = [float(rows[i][key]) for i in keep]
    first = next((value for value in y if math.isfinite(value) and value > 0), math.nan)
    return Trace(name, x, [value / first for value in y] if divide and first == first else y, shown=shown)


def _traces(found: Sequence[Trace | None]) -> tuple[Trace, ...]:
    return tuple(trace for trace in found if trace is not None)


def _marks(facts: RunFacts) -> tuple[tuple[float, str], ...]:
    return () if facts.best_epoch is None else ((facts.best_epoch, "kept"),)


# -- curves -------------------------------------------------------------------------------------------------------
def _curves(facts: RunFacts) -> Iterator[Block]:
    tasks = facts.tasks[:SHOWN_LINES]
    held_out = any(f"val/{task.name}/loss" in row for task in tasks for row in facts.history)
    part = "val" if held_out else "train"
    lines = _traces([_trace(facts, f"{part}/{t.name}/loss", t.name, divide=True) for t in tasks])
    if lines:
        yield Plot(
            f"{'Validation' if held_out else 'Training'} loss of each task, over its value in the first epoch",
            "epoch",
            "loss / first loss",
            lines,
            "Divided by its first value, so that tasks in different units can be drawn together. Where a line turns "
            "upwards, its task begins to learn its rows by heart while others may still improve.",
            marks=_marks(facts),
        )
    if len(facts.tasks) > len(tasks):
        yield f"The first {len(tasks)} of {len(facts.tasks)} tasks are drawn; metrics.jsonl holds them all."
    pairs = [plot for task in tasks for plot in _task_curves(facts, task)]
    if len(tasks) > 4:
        yield Fold(f"Loss and score of each of {len(tasks)} tasks", (Grid(tuple(pairs)),))
    elif pairs:
        yield Grid(tuple(pairs))
    passes = _traces([_trace(facts, f"train/{task.name}/epochs", task.name) for task in tasks])
    if passes:
        yield Plot(
            "Passes over the rows of each task",
            "epoch of the training",
            "epochs of the task",
            passes,
            "Several sets were mixed: small ones may come more often than once while the largest is passed over.",
            marks=_marks(facts),
        )
    rate = _traces([_trace(facts, "train/learning_rate", "learning rate")])
    if rate:
        yield Fold("Learning rate", (Plot("Learning rate", "epoch", "learning rate", rate),))


def _task_curves(facts: RunFacts, task: TaskFacts) -> Iterator[Plot]:
    losses = _traces(
        [_trace(facts, f"train/{task.name}/loss", "training"), _trace(facts, f"val/{task.name}/loss", "validation")]
    )
    if losses:
        yield Plot(f"{task.name}: loss", "epoch", "loss", losses, marks=_marks(facts))
    words = metric_words(task.metrics[0].name)
    scores = _traces([_trace(facts, f"val/{task.name}/{task.metrics[0].name}", "validation")])
    if scores and task.metrics[0].name != "loss":
        yield Plot(f"{task.name}: validation {words}", "epoch", words, scores, marks=_marks(facts))


# -- weights ------------------------------------------------------------------------------------------------------
def _weights(facts: RunFacts) -> Iterator[Block]:
    lines = _traces([_trace(facts, f"train/{t.name}/weight", t.name) for t in facts.tasks[:SHOWN_LINES]])
    values = [y for line in lines for y in line.y if math.isfinite(y)]
    if not values:
        return
    told = [
        f"{task.name} has loss_weight {task.loss_weight:g} and priority {task.priority:g}"
        for task in facts.tasks
        if (task.loss_weight, task.priority) != (1.0, 1.0)
    ]
    if told:
        yield f"Set by hand, before and after balancing: {listed(told)}; all others have 1."
    if max(values) - min(values) < 1e-6 * max(map(abs, values)):
        yield f"The method {facts.method} gave every task the weight {values[0]:.4g} in every epoch."
        return
    yield Plot(
        f"Weights under {facts.method}",
        "epoch",
        "weight",
        lines,
        "The factor on each task's gradient in the trunk, mean over the epoch's steps. Only the proportions can be "
        "read: a common factor acts like a learning rate.",
        marks=_marks(facts),
    )


# -- conflict -----------------------------------------------------------------------------------------------------
def _pairs(facts: RunFacts) -> dict[tuple[str, str], str]:
    keys = {key for row in facts.history for key in row if key.startswith("conflict/")}
    names = [task.name for task in facts.tasks]
    found = {}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for key in conflict_keys(first, second):
                if key in keys:
                    found[first, second] = key
    return found


def _conflict(facts: RunFacts) -> Iterator[Block]:
    if len(facts.tasks) < 2:
        return
    pairs = _pairs(facts)
    if not pairs:
        yield (
            f"Not recorded: the method {facts.method} needs no gradients of single tasks, so that none were compared. "
            "Train with a method that does, such as --set balance.method=pcgrad or mgda, to see them."
        )
        return
    yield CONFLICT_WARNING
    names = [task.name for task in facts.tasks[:SHOWN_MATRIX]]
    last = facts.history[-1]
    values = [
        [1.0 if a == b else last.get(pairs.get((a, b)) or pairs.get((b, a), ""), math.nan) for b in names]
        for a in names
    ]
    yield Matrix(
        "Cosine of every two tasks' gradients, mean over the last epoch",
        tuple(names),
        tuple(names),
        tuple(tuple(_cosine_words(v) for v in row) for row in values),
        tuple(tuple(math.nan if a == b else values[a][b] for b in range(len(names))) for a in range(len(names))),
        caption="+1 pulls the same way (blue), 0 is unrelated, -1 pulls against each other (orange). "
        f"View of the gradients: {facts.view}.",
    )
    drawn = sorted(pairs, key=lambda pair: last.get(pairs[pair], math.inf))[:SHOWN_PAIRS]
    lines = _traces([_trace(facts, pairs[a, b], f"{a} and {b}") for a, b in drawn])
    if lines:
        more = "" if len(drawn) == len(pairs) else f"The {len(drawn)} pairs that disagree most of {len(pairs)}."
        yield Plot("Cosines over time", "epoch", "cosine", lines, more, marks=_marks(facts))


def _cosine_words(value: float) -> str:
    return "–" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # -0.00 is 0


# -- views --------------------------------------------------------------------------------------------------------
def _views(facts: RunFacts) -> Iterator[Block]:
    if facts.views is not None:
        yield from fidelity_blocks(facts.views)
        yield (
            "Measured on a few training batches with the weights that were kept, when this page was written. Whether "
            "the distance matters for the results only a training in each view can tell."
        )
    elif facts.no_views:
        yield f"Not measured: {facts.no_views}"


# -- gradient norms -----------------------------------------------------------------------------------------------
def _norms(facts: RunFacts) -> Iterator[Block]:
    tasks = {task.name for task in facts.tasks}
    prefix = "train/grad_norm/"
    names = dict.fromkeys(key for row in facts.history for key in row if key.startswith(prefix))
    layers = [
        key
        for key in names
        if not ("grad_norm" in tasks and key.removeprefix(prefix) in ("loss", "weight", "left_out"))
    ]
    last = facts.history[-1]
    layers.sort(key=lambda key: -last.get(key, 0.0) if math.isfinite(last.get(key, 0.0)) else 0.0)
    total = _trace(facts, "train/grad_norm", "all parameters")
    shown = _traces([_trace(facts, key, key.removeprefix(prefix), shown=i < 5) for i, key in enumerate(layers[:24])])
    if total is not None or shown:
        yield Plot(
            "Norms of the gradients",
            "epoch",
            "norm",
            (*_traces([total]), *shown),
            "Before clipping, mean over the epoch's steps. A layer near 0 learns nothing; one that grows without end "
            "explodes." + (f" The 24 largest of {len(layers)} layers." if len(layers) > 24 else ""),
            log=True,
            marks=_marks(facts),
        )
    for task in facts.tasks:
        steps = sum(row.get(f"train/{task.name}/left_out", 0.0) for row in facts.history)
        if steps > 0:
            yield Flag(f"{task.name} was left out of {as_count(steps)} steps, because its gradient was not finite.")
