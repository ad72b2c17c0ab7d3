"""`run_baselines`: the same tasks trained alone, and boosted trees, beside a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from lepton.data import InputEncoder, without_nan
from lepton.errors import ConfigurationError, DataError, import_extra, is_whole, require
from lepton.evaluate import TaskResult
from lepton.insight import Comparison, MetricInfo, RunResult, TaskScore, score_outputs
from lepton.run._folder import read_json, write_json
from lepton.run._own_rows import run_rows
from lepton.run._prepare import Prepared
from lepton.run._rows import held_out_part
from lepton.run._run import Run
from lepton.run._summary import count_parameters, score_notes
from lepton.run._watch import Watch, watched
from lepton.run.baselines._alone import (
    kept_outputs,
    part_results,
    relative_step_time,
    train_alone,
)
from lepton.run.baselines._boosting import UNREAD, BoostedTrees, boosting_columns, can_boost
from lepton.run.baselines._gains import Gains, cpu_task, measure_gains, metric_infos

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["BaselineScore", "Baselines", "SeedScore", "SharedRun", "run_baselines"]

Budget = Literal["steps", "time"]

KEPT_NUMBERS = 50_000_000
"""Outputs beyond that many numbers are not kept, so that there are no intervals over rows."""


@dataclass(frozen=True)
class SeedScore:
    """One training of a baseline.

    Attributes:
        seed: its seed.
        val: metric -> value on the validation rows.
        test: the same on the test rows.
        seconds: time of the training.
        steps: optimiser steps; 0 for trees.
    """

    seed: int
    val: dict[str, float]
    test: dict[str, float]
    seconds: float
    steps: int = 0

    def part(self, name: str) -> dict[str, float]:
        """Return the scores on `val` or `test`."""
        return self.test if name == "test" else self.val


@dataclass(frozen=True)
class BaselineScore:
    """A baseline of one task.

    Attributes:
        parameters: of its model; for boosted trees at most so many leaves.
        seeds: one for each training.
    """

    parameters: int
    seeds: tuple[SeedScore, ...]

    def mean(self, part: str) -> dict[str, float]:
        """Return metric -> mean over the seeds on a part."""
        found = [seed.part(part) for seed in self.seeds]
        return {name: statistics.fmean(scores[name] for scores in found) for name in found[0]}

    @property
    def seconds(self) -> float:
        """Mean time of a training."""
        return statistics.fmean(seed.seconds for seed in self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """Return what `baselines.json` holds of it."""
        return {
            "val": self.mean("val"),
            "test": self.mean("test"),
            "parameters": self.parameters,
            "seconds": self.seconds,
            "seeds": [vars(seed) for seed in self.seeds],
        }


@dataclass(frozen=True)
class SharedRun:
    """What the run itself was.

    Attributes:
        seed: its seed.
        seconds: time in its training steps.
        steps: how many it took.
        parameters: `shared` and `private` -> how many.
        scores: part -> task -> metric -> value.
    """

    seed: int
    seconds: float
    steps: int
    parameters: dict[str, int]
    scores: dict[str, dict[str, dict[str, float]]]


@dataclass
class Baselines:
    """A run beside its tasks alone and beside boosted trees. `console.print(baselines)` shows it.

    Attributes:
        metrics: task -> its metrics, with what a predictor reaches that ignores its input; auxiliary tasks left out.
        part: the rows that are compared: the test, or the validation where there is no test.
        shared: the run.
        alone: task -> trained alone with the same trunk, options, rows and number of steps.
        boosting: task -> scikit-learn's histogram gradient boosting on the raw columns.
        gains: differences and delta_m with their intervals; None as long as nothing can be compared.
        interrupted: whether it was ended before all baselines were there.
        notes: what a reader must know.
    """

    metrics: dict[str, tuple[MetricInfo, ...]]
    part: str
    shared: SharedRun
    alone: dict[str, BaselineScore] = field(default_factory=dict)
    boosting: dict[str, BaselineScore] = field(default_factory=dict)
    gains: Gains | None = None
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the scores as in `baselines.json`, and the comparison."""
        content = {**self.scores(), "part": self.part, "shared": vars(self.shared), "interrupted": self.interrupted}
        return without_nan({**content, "notes": self.notes})  # type: ignore[no-any-return]

    def scores(self) -> dict[str, Any]:
        """Return what `baselines.json` holds: the scores, and with them the gains once they were measured."""
        found = {
            "alone": {task: score.to_dict() for task, score in self.alone.items()},
            "boosting": {task: score.to_dict() for task, score in self.boosting.items()},
            "gains": {} if self.gains is None else {"part": self.part, **self.gains.to_dict()},
        }
        return without_nan(found)  # type: ignore[no-any-return]

    def comparison(self) -> Comparison:
        """Return the run and the trees against the tasks alone, seed by seed, for report and figures.

        Raises:
            ConfigurationError: there is no baseline yet.
            DataError: a task has none.
        """
        mine, sizes = self.shared, {**self.shared.parameters, "total": sum(self.shared.parameters.values())}
        run = SeedScore(mine.seed, {}, {}, mine.seconds, mine.steps)
        results = [_result("shared", run, mine.scores[self.part], sizes)]
        if self.boosting and set(self.boosting) >= set(self.metrics):
            results += self._results("boosted trees", self.boosting)
        return Comparison.of(results, self._results("each task alone", self.alone), self.metrics)

    def _results(self, method: str, scores: Mapping[str, BaselineScore]) -> list[RunResult]:
        """Return one result for each seed, of all tasks together."""
        total = sum(score.parameters for score in scores.values())
        sizes = {"shared": 0, "private": total, "total": total}
        found = []
        for seeds in zip(*(score.seeds for score in scores.values()), strict=False):
            together = dict(zip(scores, (seed.part(self.part) for seed in seeds), strict=True))
            seconds, steps = sum(seed.seconds for seed in seeds), seeds[0].steps
            found.append(_result(method, SeedScore(seeds[0].seed, {}, {}, seconds, steps), together, sizes))
        return found

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows."""
        from lepton.run.baselines._view import baselines_view

        return baselines_view(self)


def _result(method: str, cost: SeedScore, scores: Mapping[str, Any], sizes: dict[str, int]) -> RunResult:
    tasks = {task: TaskScore(dict(found), 0) for task, found in scores.items()}
    return RunResult(method, cost.seed, tasks, [], cost.seconds / max(1, cost.steps), cost.seconds, sizes)


def run_baselines(
    run: Run,
    *,
    source: Any = None,
    seeds: int = 1,
    budget: Budget = "steps",
    boosting: bool = True,
    resamples: int = 100,
    trust: bool = False,
    quiet: bool = False,
) -> Baselines:
    """Train every task alone with the run's own budget, and boosted trees on its table, and compare.

    Alone means: the same trunk, options, rows and order of the rows, one head, nothing to balance; and the same
    planned number of steps, or as many more as fit into the same time. `baselines.json` in the run's folder is written
    anew after each baseline, so that Ctrl-C keeps those that are done; it holds for `alone` and `boosting` and each
    task `val` and `test` (metric -> value), `parameters`, `seconds` and `seeds`; and as `gains` the differences and
    delta_m with their intervals.

    Args:
        run: the run.
        source: the rows, for a run that was trained on rows in memory.
        seeds: trainings of each baseline, from the run's own seed on.
        budget: what is the same: `"steps"`, or `"time"`: a task alone is trained for as many epochs as take as long as
            those of all tasks together, by the time of a few steps that is measured first.
        boosting: whether trees are trained too; needs the extra `sklearn`.
        resamples: how often the compared rows are drawn anew for the intervals.
        trust: whether classes that the configuration names may be imported.
        quiet: show no progress.

    Raises:
        DataError: the rows are not those that the run was trained on, or none are held out.
        MissingExtraError: `boosting` without scikit-learn.
        CheckpointError: the run's `baselines.json` is damaged.
        ConfigurationError: the run's rows are streamed.
    """
    if run.config.data.stream is True:
        raise ConfigurationError(
            "baselines need the rows in memory, but this run streams them: train one on part of them, such as "
            "data.stream=false data.limit=100000, and compare there."
        )
    require(is_whole(seeds), "run_baselines", "seeds", seeds, "a whole number of at least 1")
    require(budget in get_args(Budget), "run_baselines", "budget", budget, "'steps' or 'time'")
    if boosting:
        import_extra(
            "sklearn.ensemble", "sklearn", "the comparison with boosted trees (boosting=False leaves them out)"
        )
    read_json(run.folder / "baselines.json")  # damaged, it is to be said before hours of training and not after
    prepared = run_rows(run, source)
    tasks = [task for task in run.tasks if not run.model.task(task).auxiliary]
    part = held_out_part(prepared.data)
    if part is None:
        raise DataError("this run has neither test nor validation rows: there is nothing to compare baselines on.")
    results = {name: part_results(run.model, prepared, name, tasks) for name in ("val", "test")}
    metrics = metric_infos(run, prepared, part, tasks)
    found = Baselines(metrics, part, _shared_run(run, results), notes=score_notes(results))
    outputs = kept_outputs(run.model, prepared, part, KEPT_NUMBERS)
    kept = {("shared", task): [output] for task, output in outputs.items()}
    numbers = range(run.config.seed, run.config.seed + seeds)
    with watched(quiet) as watch:
        try:
            _train_all(run, prepared, found, kept, numbers, budget, trust, watch)
            if boosting:
                _boost_all(run, prepared, found, kept, numbers)
        except KeyboardInterrupt:
            found.interrupted = True
    found.gains = measure_gains(found.metrics, run, prepared, part, kept, _means(found), resamples)
    _write(run.folder, found)
    return found


def _shared_run(run: Run, results: Mapping[str, Mapping[str, TaskResult]]) -> SharedRun:
    size, last = count_parameters(run.model), run.history[-1] if run.history else {}
    scores = {part: {task: found.metrics for task, found in tasks.items()} for part, tasks in results.items()}
    parameters = {"shared": size["shared"], "private": size["heads"]}
    return SharedRun(run.config.seed, last.get("seconds", 0.0), int(last.get("step", 0)), parameters, scores)


def _means(found: Baselines) -> dict[str, dict[str, dict[str, float]]]:
    """Return who -> task -> metric -> value on the compared part."""
    return {
        "shared": found.shared.scores[found.part],
        "alone": {task: score.mean(found.part) for task, score in found.alone.items()},
        "boosting": {task: score.mean(found.part) for task, score in found.boosting.items()},
    }


Kept = dict[tuple[str, str], list[Tensor]]
"""Who and task -> outputs on the compared part, one for each seed."""


def _train_all(
    run: Run,
    prepared: Prepared,
    found: Baselines,
    kept: Kept,
    seeds: Sequence[int],
    budget: str,
    trust: bool,
    watch: Watch,
) -> None:
    longer = dict.fromkeys(found.metrics, 1.0)
    if budget == "time":
        longer = {task: relative_step_time(prepared, task, trust=trust) for task in found.metrics}
    for seed in seeds:
        for task in found.metrics:
            callbacks = watch(f"{task} alone, seed {seed}")
            model, state = train_alone(prepared, task, seed, longer=longer[task], trust=trust, callbacks=callbacks)
            results = [part_results(model, prepared, part, [task]) for part in ("val", "test")]
            val, test = (found[task].metrics if found else {} for found in results)
            score = SeedScore(seed, val, test, state.seconds, state.step)
            _enter(found.alone, task, sum(count_parameters(model).values()), score)
            kept.setdefault(("alone", task), []).extend(
                kept_outputs(model, prepared, found.part, KEPT_NUMBERS).values()
            )
            _write(run.folder, found)


def _enter(scores: dict[str, BaselineScore], task: str, parameters: int, seed: SeedScore) -> None:
    before = scores[task].seeds if task in scores else ()
    scores[task] = BaselineScore(parameters, (*before, seed))


def _boost_all(run: Run, prepared: Prepared, found: Baselines, kept: Kept, seeds: Sequence[int]) -> None:
    rules = [rule for rule in run.rules if rule.task in found.metrics and can_boost(run.encoder, rule)]
    found.notes += _boosting_notes(run, found, [rule.task for rule in rules])
    if not rules:
        return
    assert isinstance(run.encoder, InputEncoder)  # nothing else has a rule that trees learn
    read = {part: boosting_columns(run.encoder, table) for part, table in prepared.tables.items()}
    columns, categorical = {part: numbers for part, (numbers, _) in read.items()}, read["train"][1]
    for rule in rules:
        task = cpu_task(run, rule.task)
        for seed in seeds:
            start = time.perf_counter()
            trees = BoostedTrees(rule, categorical, seed)
            trees.fit(columns["train"], prepared.data["train"].targets[rule.task])
            seconds = time.perf_counter() - start
            outputs = {part: trees.outputs(columns[part]) for part in ("val", "test", found.part) if part in columns}
            scores = {
                part: score_outputs(task, output, prepared.data[part].targets[rule.task])
                for part, output in outputs.items()
            }
            score = SeedScore(seed, scores.get("val", {}), scores.get("test", {}), seconds)
            _enter(found.boosting, rule.task, trees.parameters, score)
            kept.setdefault(("boosting", rule.task), []).append(outputs[found.part])
            _write(run.folder, found)


def _boosting_notes(run: Run, found: Baselines, boosted: Sequence[str]) -> Iterator[str]:
    left_out = [column.name for column in run.encoder.columns if column.kind in UNREAD]
    if left_out and boosted:
        yield f"The trees do not read text and pictures: {', '.join(left_out)}."
    without = [task for task in found.metrics if task not in boosted]
    if without:
        yield f"No trees for {', '.join(without)}: they learn numbers, classes and labels from numbers and categories."


def _write(folder: Path, found: Baselines) -> None:
    """Write `baselines.json`; what an earlier call found and this one has not yet, stays."""
    path = folder / "baselines.json"
    before = read_json(path)
    scores = found.scores()
    kept = {kind: {**before.get(kind, {}), **scores[kind]} for kind in ("alone", "boosting")}
    content = {**kept, "gains": scores["gains"]}  # older ones would be those of other trainings
    write_json(path, content)
