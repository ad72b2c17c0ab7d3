from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lepton.errors import ConfigurationError, DataError, nearest
from lepton.evaluate import relative_improvement
from lepton.insight._estimate import Estimate, digits_for
from lepton.insight._results import MetricInfo, RunResult

__all__ = ["Comparison", "DeltaM", "DeltaMEstimate", "MethodSummary", "ScoreCell", "Verdict", "delta_m", "verdict_of"]

Scores = Mapping[str, Mapping[str, float]]
Metrics = Mapping[str, Sequence[MetricInfo]]
Verdict = Literal["better", "worse", "no difference seen", "not known"]
"""By whether the paired interval excludes 0; not known: a single seed, or nothing measured."""


@dataclass(frozen=True)
class DeltaM:
    """Relative improvement over the tasks trained alone, in percent; **positive is better than alone**.

    Args:
        per_task: mean over the tasks of the mean over a task's metrics: every task counts the same.
        flat: mean over all metrics of all tasks: a task counts as often as it has metrics.
        tasks: task name to the mean over its metrics; NaN where all of them were left out.
        left_out: `task/metric` of those that have no relative improvement, because their baseline is zero.
    """

    per_task: float
    flat: float
    tasks: dict[str, float]
    left_out: tuple[str, ...] = ()


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def delta_m(scores: Scores, baseline: Scores, info: Metrics) -> DeltaM:
    r"""Return the relative improvement of multi-task scores over the tasks trained alone.

        delta_m = 100 / T  sum_t  1 / K_t  sum_k  (-1)^{l_tk} (M_tk - B_tk) / |B_tk|        (per task)
        delta_m = 100 / K  sum_tk  (-1)^{l_tk} (M_tk - B_tk) / |B_tk|                       (flat)

    with M_tk the score of metric k of task t, B_tk that of the task trained alone, l_tk = 1 where lower is better
    and else 0, T tasks, K_t metrics of task t, and K metrics altogether. Maninis, Radosavovic, Kokkinos 2019
    ("Attentive single-tasking of multiple tasks"), Vandenhende et al. 2021 ("Multi-task learning for dense
    prediction tasks: a survey").

    **Positive is better than alone**, as in those two papers. Many papers on task balancing print the opposite
    sign ("lower is better"): turn it before comparing with them.

    A metric whose baseline is zero, or a millionth of the score, has no relative improvement: it is left out of
    both averages and named in `left_out`. If score and baseline are equal it counts as 0, even if both are zero.
    NaN scores give NaN.

    Args:
        scores: task name to metric name to value.
        baseline: the same, of each task trained alone.
        info: task name to its metrics; only these tasks and metrics count.

    Raises:
        DataError: if a task or a metric of `info` has no score.

    Example:
        >>> info = {"digit": [MetricInfo("accuracy", True)], "sum": [MetricInfo("mae", False)]}
        >>> shared = {"digit": {"accuracy": 0.72}, "sum": {"mae": 1.5}}
        >>> alone = {"digit": {"accuracy": 0.80}, "sum": {"mae": 2.0}}
        >>> result = delta_m(shared, alone, info)
        >>> round(result.per_task, 6), {task: round(value, 6) for task, value in result.tasks.items()}
        (7.5, {'digit': -10.0, 'sum': 25.0})
    """
    values: dict[str, list[float]] = {task: [] for task in info}
    left_out = []
    for task, metrics in info.items():
        for metric in metrics:
            pair = _lookup(scores, task, metric, "the scores"), _lookup(baseline, task, metric, "the baseline")
            relative = relative_improvement(*pair, higher_is_better=metric.higher_is_better)
            if relative is None:
                left_out.append(f"{task}/{metric.name}")
            else:
                values[task].append(relative)
    tasks = {task: _mean(those) for task, those in values.items()}
    return DeltaM(
        per_task=_mean([tasks[task] for task, those in values.items() if those]),
        flat=_mean([value for those in values.values() for value in those]),
        tasks=tasks,
        left_out=tuple(left_out),
    )


def _lookup(scores: Scores, task: str, metric: MetricInfo, where: str) -> float:
    if task not in scores:
        raise DataError(f"Task {task!r} is not in {where} (there: {sorted(scores)}).{nearest(task, scores)}")
    if metric.name not in scores[task]:
        there = sorted(scores[task])
        raise DataError(
            f"Metric {metric.name!r} of task {task!r} is not in {where} (there: {there}).{nearest(metric.name, there)}"
        )
    return float(scores[task][metric.name])


@dataclass(frozen=True)
class DeltaMEstimate:
    """`delta_m` in both averagings over the seeds, percent, positive is better than alone.

    Args:
        per_task: every task counts the same.
        flat: every metric counts the same.
        tasks: task name to the mean over its metrics.
    """

    per_task: Estimate
    flat: Estimate
    tasks: dict[str, Estimate]

    @classmethod
    def of(cls, seeds: Sequence[DeltaM]) -> DeltaMEstimate:
        """Return the estimates from one `DeltaM` per seed, each paired with the baseline of its seed."""
        return cls(
            Estimate.of(seed.per_task for seed in seeds),
            Estimate.of(seed.flat for seed in seeds),
            {task: Estimate.of(seed.tasks[task] for seed in seeds) for task in seeds[0].tasks},
        )


@dataclass(frozen=True)
class ScoreCell:
    """One metric of one task under one method, beside the same task trained alone.

    Args:
        method: name of the method.
        task: name of the task.
        metric: which metric.
        score: over the method's seeds, in the metric's unit.
        baseline: of the task trained alone.
        difference: score minus baseline, paired by seed, in the metric's unit.
        baseline_at_chance: alone, the task is not better than chance beyond its interval.
        method_at_chance: neither is it under this method.
    """

    method: str
    task: str
    metric: MetricInfo
    score: Estimate
    baseline: Estimate
    difference: Estimate
    baseline_at_chance: bool
    method_at_chance: bool

    @property
    def at_chance(self) -> bool:
        """Whether either side is not better than chance."""
        return self.baseline_at_chance or self.method_at_chance

    @property
    def verdict(self) -> Verdict:
        """Whether the method is better than the task alone, by its paired 95 % interval."""
        return verdict_of(self.difference, self.metric.higher_is_better)


def verdict_of(difference: Estimate, higher_is_better: bool = True) -> Verdict:
    """Return what a difference to the baseline is evidence of."""
    if not difference.has_interval:
        return "not known"
    if difference.sign == 0:
        return "no difference seen"
    return "better" if (difference.sign > 0) == higher_is_better else "worse"


@dataclass(frozen=True)
class MethodSummary:
    """What a method costs, and what it gains over all tasks.

    Args:
        method: name of the method.
        seeds: those that have a counterpart among the baselines.
        unpaired: seeds without one, left out.
        delta_m: over all tasks; None for the baseline itself.
        delta_m_above_chance: the same without the tasks that are at chance *alone*; None if there are none, or no
            others. A task that only the method brought down to chance stays in: leaving it out would hide the
            damage.
        seconds_per_step: seconds; for the baseline the sum over the tasks.
        seconds: the same for the whole training.
        parameters: by `"shared"`, `"private"`, `"total"`; for the baseline the sum over the tasks.
        notes: what the runs say of themselves, each once.
    """

    method: str
    seeds: tuple[int, ...]
    unpaired: tuple[int, ...]
    delta_m: DeltaMEstimate | None
    delta_m_above_chance: DeltaMEstimate | None
    seconds_per_step: Estimate
    seconds: Estimate
    parameters: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Methods against single-task baselines, seed by seed. Make one with `Comparison.of`.

    Args:
        metrics: task name to its metrics; the first of each is the primary one.
        baseline: each task trained alone.
        methods: the methods, in the order of the results.
        cells: one per method, task and metric, in that order.
        chance_tasks: tasks with a metric that is not better than chance even when they are trained alone.
        left_out: `task/metric` left out of every delta_m, because a baseline is zero.
    """

    metrics: dict[str, tuple[MetricInfo, ...]]
    baseline: MethodSummary
    methods: tuple[MethodSummary, ...]
    cells: tuple[ScoreCell, ...]
    chance_tasks: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, results: Iterable[RunResult], baselines: Iterable[RunResult], metrics: Metrics) -> Comparison:
        """Compare runs with the baselines of the same seed.

        Args:
            results: any number of methods, one run per method and seed.
            baselines: runs of tasks alone: one per seed and task, or one per seed with all tasks.
            metrics: task name to its metrics, the primary one first. Tasks and metrics that are not named here do
                not count; leave auxiliary tasks out.

        Raises:
            ConfigurationError: if there are no baselines, if a method has two runs of one seed or no seed in common
                with the baselines.
            DataError: if a run lacks a task or a metric.

        Example:
            >>> def run(method, seed, accuracy):
            ...     score = {"digit": TaskScore({"accuracy": accuracy}, n_labels=100)}
            ...     return RunResult(method, seed, score, [], 0.01, 5.0, {"shared": 9, "private": 1, "total": 10})
            >>> from lepton.insight import MetricInfo, RunResult, TaskScore
            >>> comparison = Comparison.of(
            ...     [run("equal", 0, 0.80), run("equal", 1, 0.82), run("equal", 2, 0.81)],
            ...     [run("alone", 0, 0.90), run("alone", 1, 0.91), run("alone", 2, 0.92)],
            ...     {"digit": [MetricInfo("accuracy", True, chance=0.1)]},
            ... )
            >>> comparison.cell("equal", "digit", "accuracy").verdict
            'worse'
        """
        info = {task: tuple(those) for task, those in metrics.items()}
        alone = _by_seed(baselines)
        if not alone:
            raise ConfigurationError("Comparison: there are no baselines; train each task alone with the same seeds.")
        methods = _by_method(results)
        pairs = {method: _pair(method, runs, alone, info) for method, runs in methods.items()}
        cells = tuple(cell for method, pair in pairs.items() for cell in _cells(method, pair, alone, info))
        chance = tuple(t for t in info if any(c.baseline_at_chance for c in cells if c.task == t))
        left_out, counted = _without_zero_baselines(pairs.values(), info)
        summaries = tuple(_summary(m, methods[m], pair, counted, chance) for m, pair in pairs.items())
        return cls(info, _baseline_summary(alone), summaries, cells, chance, left_out)

    def cell(self, method: str, task: str, metric: str | None = None) -> ScoreCell:
        """Return the cell of a metric.

        Args:
            method: name of the method.
            task: name of the task.
            metric: name of the metric; by default the task's primary one.

        Raises:
            ConfigurationError: if there is none.
        """
        for cell in self.cells:
            if (cell.method, cell.task) == (method, task) and metric in (None, cell.metric.name):
                return cell
        raise ConfigurationError(
            f"Comparison: no cell of method {method!r}, task {task!r} and metric {metric!r}. "
            f"Methods: {[m.method for m in self.methods]}, tasks: {list(self.metrics)}."
        )

    def digits(self, task: str, metric: str) -> int:
        """Return the decimals that suit all scores of a metric, so that words, table and figure agree.

        Args:
            task: name of the task.
            metric: name of its metric.
        """
        cells = [cell for cell in self.cells if (cell.task, cell.metric.name) == (task, metric)]
        return digits_for([estimate for cell in cells for estimate in (cell.score, cell.baseline)])


_Pairs = dict[int, tuple[Scores, Scores]]  # seed to the scores of the method and of the baselines


def _by_seed(baselines: Iterable[RunResult]) -> dict[int, list[RunResult]]:
    runs: dict[int, list[RunResult]] = {}
    for run in baselines:
        twice = {task for other in runs.get(run.seed, []) for task in other.tasks} & set(run.tasks)
        if twice:
            raise ConfigurationError(f"Comparison: two baselines of task {min(twice)!r} with seed {run.seed}.")
        runs.setdefault(run.seed, []).append(run)
    return runs


def _by_method(results: Iterable[RunResult]) -> dict[str, dict[int, RunResult]]:
    runs: dict[str, dict[int, RunResult]] = {}
    for run in results:
        seeds = runs.setdefault(run.method, {})
        if run.seed in seeds:
            raise ConfigurationError(f"Comparison: method {run.method!r} has two runs with seed {run.seed}.")
        seeds[run.seed] = run
    return runs


def _scores(runs: Iterable[RunResult]) -> Scores:
    return {task: score.metrics for run in runs for task, score in run.tasks.items()}


def _pair(method: str, runs: Mapping[int, RunResult], alone: Mapping[int, list[RunResult]], info: Metrics) -> _Pairs:
    pairs = {seed: (_scores([run]), _scores(alone[seed])) for seed, run in runs.items() if seed in alone}
    if not pairs:
        raise ConfigurationError(
            f"Comparison: method {method!r} has seeds {sorted(runs)}, the baselines have {sorted(alone)}: "
            "none in common, and runs are compared seed by seed."
        )
    for seed, (scores, baseline) in pairs.items():
        for task, metrics in info.items():
            for metric in metrics:
                _lookup(scores, task, metric, f"method {method!r}, seed {seed}")
                _lookup(baseline, task, metric, f"the baselines, seed {seed}")
    return pairs


def _cells(method: str, pairs: _Pairs, alone: Mapping[int, list[RunResult]], info: Metrics) -> Iterable[ScoreCell]:
    everyone = [_scores(runs) for runs in alone.values()]
    for task, metrics in info.items():
        for metric in metrics:
            name = metric.name
            score = Estimate.of(scores[task][name] for scores, _ in pairs.values())
            baseline = Estimate.of(scores[task][name] for scores in everyone if name in scores.get(task, {}))
            difference = Estimate.of(scores[task][name] - base[task][name] for scores, base in pairs.values())
            chance = _at_chance(baseline, metric), _at_chance(score, metric)
            yield ScoreCell(method, task, metric, score, baseline, difference, *chance)


def _at_chance(score: Estimate, metric: MetricInfo) -> bool:
    """Whether a score is not better than chance beyond its interval; with one seed, not better at all."""
    if metric.chance is None or math.isnan(score.mean):
        return False
    gain = (score.mean - metric.chance) * (1 if metric.higher_is_better else -1)
    return gain <= (score.half_width if score.has_interval else 0.0)


def _without_zero_baselines(pairs: Iterable[_Pairs], info: Metrics) -> tuple[tuple[str, ...], Metrics]:
    """Return what no method may count, so that every method's delta_m averages the same metrics."""
    found = {key for those in pairs for scores in those.values() for key in delta_m(*scores, info).left_out}
    counted = {t: tuple(m for m in metrics if f"{t}/{m.name}" not in found) for t, metrics in info.items()}
    return tuple(f"{t}/{m.name}" for t in info for m in info[t] if f"{t}/{m.name}" in found), counted


def _summary(
    method: str, runs: Mapping[int, RunResult], pairs: _Pairs, counted: Metrics, chance: Sequence[str]
) -> MethodSummary:
    above = {task: metrics for task, metrics in counted.items() if task not in chance}
    paired = [runs[seed] for seed in pairs]
    return MethodSummary(
        method,
        tuple(pairs),
        tuple(seed for seed in runs if seed not in pairs),
        DeltaMEstimate.of([delta_m(*scores, counted) for scores in pairs.values()]),
        DeltaMEstimate.of([delta_m(*scores, above) for scores in pairs.values()]) if chance and above else None,
        Estimate.of(run.seconds_per_step for run in paired),
        Estimate.of(run.seconds for run in paired),
        dict(paired[0].parameters),
        _notes(paired),
    )


def _baseline_summary(alone: Mapping[int, list[RunResult]]) -> MethodSummary:
    runs = [run for those in alone.values() for run in those]
    names = {run.method for run in runs}
    counts: dict[str, int] = {}
    for run in next(iter(alone.values())):
        for kind, count in run.parameters.items():
            counts[kind] = counts.get(kind, 0) + count
    return MethodSummary(
        names.pop() if len(names) == 1 else "each task alone",
        tuple(alone),
        (),
        None,
        None,
        Estimate.of(sum(run.seconds_per_step for run in those) for those in alone.values()),
        Estimate.of(sum(run.seconds for run in those) for those in alone.values()),
        counts,
        _notes(runs),
    )


def _notes(runs: Iterable[RunResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.notes for run in runs if run.notes))
