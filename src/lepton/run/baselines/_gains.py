"""What sharing gained over the tasks alone, with intervals over the rows that were compared."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lepton.insight import (
    Interval,
    MetricInfo,
    constant_output,
    delta_m,
    interval_of,
    resampled_rows,
    score_outputs,
)
from lepton.run._prepare import Prepared
from lepton.run._run import Run
from lepton.tasks import Task

__all__ = ["Gains", "cpu_task", "measure_gains", "metric_infos"]

Scores = dict[str, dict[str, dict[str, float]]]
Kept = Mapping[tuple[str, str], Sequence[Tensor]]
WHO = ("shared", "alone", "boosting")
OTHERS = ("shared", "boosting")


@dataclass(frozen=True)
class Gains:
    """Differences to the tasks alone.

    Attributes:
        scores: `who/task/metric` -> value.
        differences: `who/task/metric` -> value minus that of the task alone; who is `shared` or `boosting`. And
            `shared_over_boosting/task/metric`.
        delta_m: `who/averaging` -> percent, positive is better than alone; the averaging is `per_task` or `flat`, and
            where there are tasks at chance also `per_task_above_chance` and `flat_above_chance`, without them.
        at_chance: tasks that alone are not better than a predictor that ignores its input, by any metric for which
            its score is known.
        left_out: `task/metric` left out of delta_m, because the baseline is zero.
    """

    scores: dict[str, Interval]
    differences: dict[str, Interval]
    delta_m: dict[str, Interval]
    at_chance: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, but for NaN."""
        return dataclasses.asdict(self)


def metric_infos(run: Run, prepared: Prepared, part: str, tasks: Sequence[str]) -> dict[str, tuple[MetricInfo, ...]]:
    """Return task -> its metrics, the primary one first, with what a predictor reaches that ignores its input.

    Only for the primary one, since no constant is the best for all metrics; and for the area under the ROC, which is
    a half for every constant.
    """
    found = {}
    for name in tasks:
        task = cpu_task(run, name)
        better, chance = {**task.higher_is_better, **task.search_metrics}, _chance(task, prepared, part)
        first = MetricInfo(task.primary_metric, better[task.primary_metric], chance if math.isfinite(chance) else None)
        found[name] = (first, *(_further(key, more) for key, more in better.items() if key != first.name))
    return found


def _further(name: str, higher_is_better: bool) -> MetricInfo:
    return MetricInfo(name, higher_is_better, 0.5 if name == "auroc" else None)


def _chance(task: Task, prepared: Prepared, part: str) -> float:
    """Return what a predictor that ignores its input reaches by the task's primary metric; NaN where not known."""
    target = prepared.data[part].targets.get(task.name)
    if target is None:  # masks stay in their files
        return math.nan
    constant = constant_output(task, prepared.data["train"].targets[task.name], len(target))
    return math.nan if constant is None else score_outputs(task, constant, target)[task.primary_metric]


def cpu_task(run: Run, name: str) -> Task:
    """Return a copy of a task where outputs are kept."""
    return copy.deepcopy(run.model.task(name)).cpu()


def measure_gains(
    metrics: Mapping[str, Sequence[MetricInfo]],
    run: Run,
    prepared: Prepared,
    part: str,
    kept: Kept,
    means: Scores,
    resamples: int,
) -> Gains | None:
    """Return the gains over the tasks that have a baseline; None if there is none.

    Args:
        metrics: task -> its metrics.
        run: for the tasks' metrics.
        prepared: rows.
        part: the part that is compared.
        kept: who and task -> outputs on it, one for each seed.
        means: who -> task -> metric -> value, for what has no outputs.
        resamples: draws of the bootstrap.
    """
    ready = {task: those for task, those in metrics.items() if task in means["alone"]}
    if not ready:
        return None
    labels = prepared.data[part].targets
    complete = all((who, task) in kept and task in labels for who in ("shared", "alone") for task in ready)
    targets = {cpu_task(run, task): labels[task] for task in ready if complete}
    rows = resampled_rows(len(prepared.data[part]), resamples if complete else 0)
    drawn = [{who: _scores_of(who, those, kept, targets) for who in WHO} for those in rows]
    found = _intervals(means, drawn, lambda scores: _measured(scores, ready))
    scores = _with(found, "score/")
    chance = tuple(task for task, those in ready.items() if _at_chance(scores, task, those))
    above = {task: those for task, those in ready.items() if task not in chance}
    if chance and above:
        found |= _intervals(means, drawn, lambda scores: _deltas(scores, above, "_above_chance"))
    left_out = delta_m(means["shared"], means["alone"], ready).left_out
    return Gains(scores, _with(found, "difference/"), _with(found, "delta/"), chance, left_out)


def _intervals(
    whole: Scores, drawn: Sequence[Scores], measure: Callable[[Scores], dict[str, float]]
) -> dict[str, Interval]:
    """Return what is measured on all rows, with intervals over what is measured on each resample."""
    samples = [measure(scores) for scores in drawn]
    return {name: interval_of(value, [sample[name] for sample in samples]) for name, value in measure(whole).items()}


def _measured(scores: Scores, metrics: Mapping[str, Sequence[MetricInfo]]) -> dict[str, float]:
    return {**_flat("score", scores, metrics), **_differences(scores, metrics), **_deltas(scores, metrics, "")}


def _with(found: Mapping[str, Interval], prefix: str) -> dict[str, Interval]:
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def _scores_of(who: str, rows: Tensor, kept: Kept, targets: Mapping[Task, Tensor]) -> dict[str, dict[str, float]]:
    """Return task -> metric -> mean over the seeds, on the given rows."""
    found: dict[str, dict[str, float]] = {}
    for task, target in targets.items():
        seeds = [score_outputs(task, output[rows], target[rows]) for output in kept.get((who, task.name), ())]
        if seeds:
            found[task.name] = {name: statistics.fmean(seed[name] for seed in seeds) for name in seeds[0]}
    return found


def _flat(kind: str, scores: Scores, metrics: Mapping[str, Sequence[MetricInfo]]) -> dict[str, float]:
    return {
        f"{kind}/{who}/{task}/{metric.name}": scores[who][task][metric.name]
        for who in scores
        for task, those in metrics.items()
        for metric in those
        if task in scores[who]
    }


def _differences(scores: Scores, metrics: Mapping[str, Sequence[MetricInfo]]) -> dict[str, float]:
    alone = scores["alone"]
    apart = {who: _apart(scores[who], alone) for who in OTHERS}
    apart["shared_over_boosting"] = _apart(scores["shared"], scores["boosting"])
    return _flat("difference", apart, metrics)


def _apart(
    scores: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return task -> metric -> score minus that of the reference, for the tasks that have both."""
    return {
        task: {name: value - reference[task][name] for name, value in found.items()}
        for task, found in scores.items()
        if task in reference
    }


def _deltas(scores: Scores, metrics: Mapping[str, Sequence[MetricInfo]], suffix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for who in OTHERS:
        if all(task in scores[who] for task in metrics):
            value = delta_m(scores[who], scores["alone"], metrics)
            found |= {f"delta/{who}/per_task{suffix}": value.per_task, f"delta/{who}/flat{suffix}": value.flat}
    return found


def _at_chance(scores: Mapping[str, Interval], task: str, metrics: Sequence[MetricInfo]) -> bool:
    """Whether no metric of a task alone is better than chance beyond its interval, and at least one could tell."""
    known = [(scores[f"alone/{task}/{metric.name}"], metric) for metric in metrics if metric.chance is not None]
    known = [(score, metric) for score, metric in known if not math.isnan(score.value)]
    return bool(known) and not any(_beats_chance(score, metric) for score, metric in known)


def _beats_chance(score: Interval, metric: MetricInfo) -> bool:
    assert metric.chance is not None
    worst = score.low if metric.higher_is_better else score.high
    worst = score.value if math.isnan(worst) else worst
    return worst > metric.chance if metric.higher_is_better else worst < metric.chance
