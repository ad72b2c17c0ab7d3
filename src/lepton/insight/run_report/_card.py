"""The model card of a run: Markdown with the front matter that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from lepton.insight.page import as_bytes, as_count, as_duration, as_number, plural
from lepton.insight.run_report._facts import RunFacts, TaskFacts
from lepton.insight.run_report._words import PART_WORDS, chance_scores, flags, labels_of, metric_words

__all__ = ["model_card"]

SHOWN_COLUMNS = 100
SHOWN_TASKS = 100


def model_card(facts: RunFacts) -> str:
    """Return the card: what is predicted from what, how well, how it was divided, limits, use, and how it was made.

    Args:
        facts: what is known of the run; no row is needed.
    """
    parts = (_front(facts), _what(facts), _results(facts), _training(facts), _limits(facts), _use(facts), _made(facts))
    return "\n".join(line for part in parts for line in part) + "\n"


def _front(facts: RunFacts) -> Iterator[str]:
    # JSON strings are YAML strings, so that no name can break out of its place.
    kinds = sorted({_pipeline(task, facts) for task in facts.tasks})
    yield "---"
    yield "library_name: lepton"
    yield f"pipeline_tag: {kinds[0]}"
    yield "tags:"
    for tag in ("multi-task-learning", "lepton", *kinds[1:]):
        yield f"- {tag}"
    yield "model-index:"
    yield f"- name: {json.dumps(facts.name)}"
    yield "  results:"
    for task in facts.tasks[:SHOWN_TASKS]:
        value = task.results.get(facts.part, {}).get(task.metrics[0].name)
        if value is not None and value == value:
            yield f"  - task: {{type: {_pipeline(task, facts)}, name: {json.dumps(task.name)}}}"
            yield f"    dataset: {{type: private, name: {json.dumps(facts.environment.get('source', 'rows'))}}}"
            yield f"    metrics: [{{type: {task.metrics[0].name}, value: {value:.6g}}}]"
    yield "---"
    yield ""


def _pipeline(task: TaskFacts, facts: RunFacts) -> str:
    speech = {"speech_recognition": "automatic-speech-recognition", "speech_synthesis": "text-to-speech"}
    if task.kind in speech:
        return speech[task.kind]
    if "audio" in facts.inputs.values():
        return "audio-classification"
    pictures = any(kind == "image" for kind in facts.inputs.values())
    if task.kind == "segmentation":
        return "image-segmentation"
    if pictures:
        return "image-classification"
    return "tabular-regression" if task.kind == "regression" else "tabular-classification"


def _what(facts: RunFacts) -> Iterator[str]:
    yield f"# {_plain(facts.name)}"
    yield ""
    yield f"One network that predicts {plural(len(facts.tasks), 'target')} of a row, trained with Lepton."
    yield ""
    yield "## What it predicts"
    yield ""
    yield from _table(("task", "kind", "classes or outputs"), [_task_row(task) for task in facts.tasks[:SHOWN_TASKS]])
    yield ""
    yield "## From which columns"
    yield ""
    shown = list(facts.inputs.items())[:SHOWN_COLUMNS]
    yield ", ".join(f"{_plain(name)} ({kind})" for name, kind in shown) + (
        f", and {len(facts.inputs) - len(shown)} more" if len(facts.inputs) > len(shown) else ""
    )
    yield ""


def _task_row(task: TaskFacts) -> tuple[str, ...]:
    names = ", ".join(task.classes[:10]) + (f", ... ({len(task.classes)})" if len(task.classes) > 10 else "")
    return task.name, task.kind.replace("_", "-") + (", auxiliary" if task.auxiliary else ""), names


def _results(facts: RunFacts) -> Iterator[str]:
    part = facts.part
    yield "## Results"
    yield ""
    found: list[tuple[str, dict[str, Mapping[str, float]]]] = [
        (PART_WORDS[part], {task.name: task.results.get(part, {}) for task in facts.tasks}),
        ("inputs ignored", {task.name: chance_scores(task, labels_of(facts, task), part) for task in facts.tasks}),
        ("alone", {task.name: task.alone.get(part, {}) for task in facts.tasks}),
        ("gradient boosting", {task.name: task.boosting.get(part, {}) for task in facts.tasks}),
    ]
    columns = [(name, scores) for name, scores in found if any(scores.values())]
    rows = []
    for task in facts.tasks[:SHOWN_TASKS]:
        for metric in task.metrics:
            values = (scores[task.name].get(metric.name) for _, scores in columns)
            cells = ("" if value is None else as_number(value) for value in values)
            rows.append((task.name, f"{metric_words(metric.name)} {'↑' if metric.higher_is_better else '↓'}", *cells))
    yield from _table(("task", "metric", *(name for name, _ in columns)), rows)
    yield ""
    signed = [(task, *found) for task in facts.tasks[:SHOWN_TASKS] for found in task.signatures.items()]
    for task, name, signature in signed:
        yield f"- {_plain(task.name)} {metric_words(name)}: sacrebleu `{signature}`"
    if signed:
        yield ""


def _training(facts: RunFacts) -> Iterator[str]:
    yield "## Data and training"
    yield ""
    if facts.data is not None:
        rows = ", ".join(f"{as_count(n)} {PART_WORDS.get(part, part)}" for part, n in facts.data.rows.items())
        yield f"- Rows: {rows}; split: {facts.data.how}."
    best = "" if facts.best_epoch is None else f", of which epoch {facts.best_epoch:.0f} was kept"
    yield f"- {plural(len(facts.history), 'epoch')}{best}; {as_duration(facts.cost.seconds)} of training steps."
    private = sum(facts.cost.private.values())
    yield (
        f"- Trunk: {facts.trunk}, {as_count(facts.cost.shared)} shared parameters, {as_count(private)} in heads, "
        f"{as_bytes(facts.cost.weight_bytes)}."
    )
    yield f"- Balancing: {facts.method}, view {facts.view}."
    yield ""


def _limits(facts: RunFacts) -> Iterator[str]:
    yield "## Limits"
    yield ""
    for text in flags(facts):
        yield f"- {_plain(text)}"
    if not any(task.alone for task in facts.tasks):
        yield "- No task was trained alone beside it: whether sharing helped is not known."
    yield "- One seed: scores vary with the draw of the rows and the initial weights."
    yield "- Rows of another origin than the training rows may be predicted worse than these numbers say."
    yield ""


def _use(facts: RunFacts) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "import lepton"
    yield f"run = lepton.load({facts.name!r})"
    yield 'run.predict("rows.csv")'
    yield "```"
    yield ""


def _made(facts: RunFacts) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    fence = "`" * (3 + facts.command.count("`"))
    yield fence
    yield facts.command
    yield fence
    yield ""
    yield ", ".join(f"{name} {_plain(value)}" for name, value in facts.environment.items()) + "."
    yield ""
    yield "`config.yaml` holds every decision; `report.html`, if it is there, shows the training and the errors."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_plain(cell) for cell in row) + " |"


def _plain(text: str) -> str:
    """Return text that Markdown and HTML take for nothing but text, in one line."""
    text = " ".join(text.split())
    return "".join(f"&#{ord(letter)};" if letter in "<>&|`*_[]\\#" else letter for letter in text)
