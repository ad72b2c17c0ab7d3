"""The words of a run's report: what was found, and what must not be overlooked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from lepton.insight.measure import Interval, signature_notes
from lepton.insight.page import (
    Block,
    Flag,
    Points,
    Table,
    TableCell,
    TableRow,
    Tone,
    as_count,
    as_duration,
    as_large,
    as_number,
    listed,
    plural,
)
from lepton.insight.run_report._facts import LabelFacts, RunFacts, TaskFacts

__all__ = [
    "PART_WORDS", "chance_scores", "flags", "labels_of", "metric_words", "results_table",
    "summary_blocks",
]  # fmt: skip

SHOWN_TASKS = 100
"""Tasks in the table of results; all are in results.json."""

PART_WORDS = {"train": "training", "val": "validation", "test": "test"}


def labels_of(facts: RunFacts, task: TaskFacts) -> LabelFacts | None:
    """Return what is known of a task's labels."""
    found = facts.data.labels if facts.data is not None else ()
    return next((labels for labels in found if labels.task == task.name), None)


def chance_scores(task: TaskFacts, labels: LabelFacts | None, part: str) -> dict[str, float]:
    """Return the metrics of a predictor that ignores the inputs: the class most frequent in training, or the mean.

    Metrics for which that is not known are left out.
    """
    found = {"auroc": 0.5, "r2": 0.0} if task.kind in ("classification", "multi_label", "regression") else {}
    if labels is None:
        return found
    if task.kind == "classification" and {"train", part} <= labels.counts.keys():
        usual = labels.counts["train"].index(max(labels.counts["train"]))
        total = sum(labels.counts[part])
        if total:
            found["accuracy"] = labels.counts[part][usual] / total
    if task.kind == "regression" and {"train", part} <= labels.mean.keys():
        found["rmse"] = math.hypot(labels.std[part], labels.mean[part] - labels.mean["train"])
    return found


# -- sentences ----------------------------------------------------------------------------------------------------
def summary_blocks(facts: RunFacts) -> tuple[Block, ...]:
    """Return the words that open the report."""
    return (
        _opening(facts),
        Points(tuple(_task_words(facts, task) for task in facts.tasks[:12])),
        *([f"The other {len(facts.tasks) - 12} tasks are in the table below."] if len(facts.tasks) > 12 else []),
        *_against_alone(facts),
        *(Flag(text) for text in flags(facts)[:12]),
    )


def _against_alone(facts: RunFacts) -> Iterator[str]:
    """Return delta_m over the tasks alone, with its interval and what it allows to say."""
    found, trained = facts.delta_m, [task.name for task in facts.tasks if task.alone]
    if found is None or not trained:
        return
    above = [name for name in trained if name not in facts.at_chance]
    if not above:
        yield "Every task alone is at chance level: whether sharing helps cannot be said."
        return
    of = f" over {listed(above)}" if len(above) < len(facts.tasks) else ""
    yield (
        f"Against networks of their own delta_m is {found.text(1, signed=True)} % per task{of}: the mean relative "
        f"improvement, positive where sharing is better. {_verdict(found)}"
    )
    if facts.at_chance:
        yield f"At chance alone, and left out: {listed(facts.at_chance)}."


def _verdict(found: Interval) -> str:
    if math.isnan(found.low):
        return "Its interval over held-out rows is not known, so this is no evidence."
    words = {1: "Sharing is better", -1: "Sharing is worse", 0: "No difference is seen"}[found.sign]
    return f"{words}, by its 95 % interval over held-out rows; another seed may change more."


def _opening(facts: RunFacts) -> str:
    n, columns = len(facts.tasks), len(facts.inputs)
    parameters = facts.cost.shared + sum(facts.cost.private.values())
    rows = f" from {as_count(facts.data.rows.get('train', 0))} rows" if facts.data is not None else ""
    best = "" if facts.best_epoch is None else f", of which epoch {facts.best_epoch:.0f} was kept"
    epochs = plural(len(facts.history), "epoch")
    return (
        f"One network with {as_large(parameters)} parameters predicts {plural(n, 'target')} from "
        f"{plural(columns, 'column')}. It learned{rows} in {as_duration(facts.cost.seconds)} and {epochs}{best}."
    )


def _task_words(facts: RunFacts, task: TaskFacts) -> str:
    """Return one line: how well a task is predicted, and beside what."""
    part, metric = facts.part, task.metrics[0]
    value = task.results.get(part, {}).get(metric.name, math.nan)
    if not task.results:
        return f"{task.name}: not measured, because no row was held out."
    if math.isnan(value):
        return f"{task.name}: not measured, because the {PART_WORDS[part]} rows have no label of it."
    words = [f"{task.name}: {metric_words(metric.name)} {as_number(value)} on {_labels(task, part)}"]
    chance = chance_scores(task, labels_of(facts, task), part).get(metric.name)
    if chance is not None:
        words.append(f"ignoring the inputs gives {as_number(chance)}")
    for name, found in (("a network of its own", task.alone), ("gradient boosting", task.boosting)):
        if metric.name in found.get(part, {}):
            words.append(f"{name} {as_number(found[part][metric.name])}")
    if metric.name == "rmse" and "r2" in task.results[part]:
        words.append(f"R2 {as_number(task.results[part]['r2'], 3)}")
    return "; ".join(words) + "."


def _labels(task: TaskFacts, part: str) -> str:
    return f"{as_count(task.labels.get(part, 0))} {PART_WORDS[part]} labels"


def flags(facts: RunFacts) -> list[str]:
    """Return sentences on tasks at chance level, worse than alone, or without labels, and on a training cut short."""
    found = [text for task in facts.tasks for text in _task_flags(facts, task)]
    found += [*_behind(facts), *facts.alarms]
    best = facts.best_epoch
    if best is not None and len(facts.history) > 3 and best == facts.history[-1]["epoch"]:
        found.append(
            "The last epoch was the best one: the training may have ended too early. Try more epochs or a larger "
            "learning rate."
        )
    if not any(task.results for task in facts.tasks):
        found.append("No row was held out: how well the model predicts new rows is not known.")
    elif facts.part == "val":
        found.append(
            "There are no test rows: the scores are of the validation rows that also selected the weights, and are "
            "a little too good."
        )
    return found


def _task_flags(facts: RunFacts, task: TaskFacts) -> Iterator[str]:
    part, metric = facts.part, task.metrics[0]
    value = task.results.get(part, {}).get(metric.name, math.nan)
    if math.isnan(value):
        return
    chance = chance_scores(task, labels_of(facts, task), part).get(metric.name)
    sign = 1 if metric.higher_is_better else -1
    spread = _spread(metric.name, value, task.labels.get(part, 0))
    if chance is not None and sign * (value - chance) <= max(2 * spread, 0.01 * abs(chance)):
        yield _chance_words(task, part, metric.name, value, chance)


def _behind(facts: RunFacts) -> Iterator[str]:
    """Say which tasks a network of their own, or gradient boosting, predicts better."""
    part = facts.part
    alone = [words for t in facts.tasks if (words := _beaten_by(t, part, t.alone, t.over_alone))]
    trees = [words for t in facts.tasks if (words := _beaten_by(t, part, t.boosting, t.over_boosting))]
    if alone:
        yield (
            f"Worse than in networks of their own: {listed(alone)}. The run is one seed: repeat with other seeds "
            "before you conclude that sharing does harm."
        )
    if trees:
        yield f"Gradient boosting is better: {listed(trees)}."


def _beaten_by(
    task: TaskFacts, part: str, scores: Mapping[str, Mapping[str, float]], over: Mapping[str, Interval]
) -> str:
    """Return the task and both scores if its first metric is worse beyond the interval; otherwise an empty string."""
    metric = task.metrics[0]
    if metric.name not in over or _sign(over[metric.name], metric.higher_is_better) >= 0:
        return ""
    value, other = task.results[part][metric.name], scores[part][metric.name]
    return f"{task.name} ({metric_words(metric.name)} {as_number(value)} against {as_number(other)})"


def _sign(difference: Interval, higher_is_better: bool) -> int:
    """Return 1 for better and -1 for worse, beyond the interval; 0 where nothing can be told."""
    return difference.sign if higher_is_better else -difference.sign


def _chance_words(task: TaskFacts, part: str, metric: str, value: float, chance: float) -> str:
    beside = (
        f"{metric_words(metric)} {as_number(value)}, not clearly better than the {as_number(chance)} of a predictor "
        "that ignores the inputs"
    )
    area = task.results[part].get("auroc", math.nan)
    if metric == "accuracy" and area > 0.6:
        return (
            f"{task.name}: {beside}; but its ranking is (AUROC {as_number(area, 3)}): one class is rare, and accuracy "
            "hardly shows what was learned."
        )
    return f"{task.name} is at chance level: {beside}. What sharing does to it says nothing."


def _spread(metric: str, value: float, labels: float) -> float:
    """Return the standard error of an accuracy over independent rows; 0 where it is not known."""
    if metric != "accuracy" or labels < 1:
        return 0.0
    return math.sqrt(max(0.0, value * (1 - value)) / labels)


# -- table --------------------------------------------------------------------------------------------------------
def results_table(facts: RunFacts) -> Table:
    """Return the table of every task's metrics: validation, test, chance, alone and boosting where known."""
    part = facts.part
    sources = _sources(facts)
    rows = []
    for task in facts.tasks[:SHOWN_TASKS]:
        chance = chance_scores(task, labels_of(facts, task), part)
        for place, metric in enumerate(task.metrics):
            arrow = "higher is better" if metric.higher_is_better else "lower is better"
            cells = []
            for _, kind, where in sources:
                found = {"result": task.results, "alone": task.alone, "boosting": task.boosting}.get(kind)
                scores = chance if found is None else found.get(where, {})
                own = task.results.get(where, {}).get(metric.name, math.nan)
                over = {"alone": task.over_alone, "boosting": task.over_boosting}.get(kind, {}).get(metric.name)
                cells.append(_score(scores.get(metric.name), own, metric.higher_is_better, kind, over))
            rows.append(
                TableRow(
                    TableCell(f"{task.name} {metric_words(metric.name)}", arrow), tuple(cells), new_group=place == 0
                )
            )
    notes = []
    if any(part in task.results for task in facts.tasks):
        notes.append(f"{PART_WORDS[part].capitalize()} scores decide; validation rows also selected the weights.")
    notes += signature_notes({task.name: task.signatures for task in facts.tasks[:SHOWN_TASKS]})
    if len(facts.tasks) > SHOWN_TASKS:
        notes.append(f"The first {SHOWN_TASKS} of {len(facts.tasks)} tasks; results.json holds them all.")
    if any(task.alone or task.boosting for task in facts.tasks):
        notes.append(
            "In brackets: 95 % interval of the difference over held-out rows. It does not cover what another seed "
            "would change."
        )
    if not any(task.alone for task in facts.tasks):
        notes.append("Whether sharing helped is not known without baselines: lepton baseline trains each task alone.")
    return Table("Scores of the selected weights", tuple(name for name, _, _ in sources), tuple(rows), tuple(notes))


def _sources(facts: RunFacts) -> list[tuple[str, str, str]]:
    parts = [part for part in ("test", "val") if any(part in task.results for task in facts.tasks)]
    found = [(PART_WORDS[part], "result", part) for part in parts]
    found.append(("inputs ignored", "chance", facts.part))
    if any(task.alone for task in facts.tasks):
        found.append(("alone", "alone", facts.part))
    if any(task.boosting for task in facts.tasks):
        found.append(("gradient boosting", "boosting", facts.part))
    return found


def _score(value: float | None, own: float, higher: bool, kind: str, over: Interval | None) -> TableCell:
    if value is None:
        return TableCell("" if kind != "chance" else "–")
    if kind in ("result", "chance") or math.isnan(own) or math.isnan(value):
        return TableCell(as_number(value))
    if over is None or math.isnan(over.low):
        return TableCell(as_number(value), f"shared {own - value:+.3g}, interval not known", "muted")
    remark = f"{over.value:+.3g} [{over.low:+.3g}, {over.high:+.3g}]"
    words: dict[int, tuple[str, Tone]] = {1: ("shared is better", "better"), -1: ("shared is worse", "worse")}
    word, tone = words.get(_sign(over, higher), ("no difference seen", "muted"))
    return TableCell(as_number(value), f"{word}, {remark}", tone)


_METRICS = {
    "auroc": "AUROC",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
    "miou": "mean IoU",
    "f1_macro": "F1 (macro)",
    "average_precision": "average precision",
    "pixel_accuracy": "pixel accuracy",
    "cer": "character error rate",
    "wer": "word error rate",
    "exact": "share of texts found exactly",
    "distortion": "mel-cepstral distortion (dB)",
    "duration_error": "error of the logarithm of durations",
}


def metric_words(name: str) -> str:
    """Return a metric's name as people write it."""
    return _METRICS.get(name, name)
