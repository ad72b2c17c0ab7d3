"""The report of a run: its sections in the order in which a person asks."""

from __future__ import annotations

from collections.abc import Iterator

from lepton.insight.page import Block, Card, Gallery, Section, Table, TableCell, TableRow, Tone
from lepton.insight.run_report._data import cost_section, data_section, environment_section
from lepton.insight.run_report._facts import Predictions, RunFacts, SampleFacts, TaskFacts
from lepton.insight.run_report._speech import recording_sections
from lepton.insight.run_report._tasks import inputs_of, prediction_words, shown_inputs, task_sections
from lepton.insight.run_report._training import training_sections
from lepton.insight.run_report._words import results_table, summary_blocks

__all__ = ["run_sections"]

SHOWN_SAMPLES = 12
SHOWN_TARGETS = 12


def run_sections(facts: RunFacts) -> list[Section]:
    """Return the sections of a run's report, for `write_report`.

    Args:
        facts: what is known of the run. What is not known is left out, or said to be missing.
    """
    return [
        Section("", summary_blocks(facts)),
        Section("Results", (results_table(facts),)),
        cost_section(facts),
        *training_sections(facts),
        *recording_sections(facts),
        *_samples_section(facts),
        *task_sections(facts),
        data_section(facts),
        environment_section(facts),
    ]


def _samples_section(facts: RunFacts) -> list[Section]:
    blocks = tuple(_samples(facts, facts.sample)) if facts.sample is not None else ()
    return [Section("Samples", blocks)] if blocks else []


def _samples(facts: RunFacts, sample: SampleFacts) -> Iterator[Block]:
    places = range(min(SHOWN_SAMPLES, len(sample.rows)))
    tasks = [t for t in facts.tasks if isinstance(t.predictions, Predictions) and t.kind != "segmentation"]
    shown = tasks[:SHOWN_TARGETS]
    if not shown:
        return
    yield f"{len(places)} {sample.part} rows drawn at random, as the model sees them."
    if sample.picture is not None:
        cards = [
            Card((("input", sample.picture(place)),), tuple(_line(task, place) for task in shown)) for place in places
        ]
        yield Gallery("Samples", tuple(cards))
        return
    names, notes = shown_inputs(sample)
    rows = tuple(
        TableRow(
            TableCell(f"row {sample.rows[place] + 1}"),
            (*(_cell(task, place) for task in shown), *inputs_of(sample, names, place)),
        )
        for place in places
    )
    columns = (*(f"{task.name} (predicted)" for task in shown), *names)
    yield Table("Predictions with the truth below them, and the inputs", columns, rows, notes)


def _cell(task: TaskFacts, place: int) -> TableCell:
    said, true, tone = _judged(task, place)
    truth = true if true == "no label" else f"true {true}"
    return TableCell(said, truth if tone != "worse" else f"wrong: {truth}", tone)


def _line(task: TaskFacts, place: int) -> tuple[str, str]:
    said, true, tone = _judged(task, place)
    return f"{task.name}: {said}, " + (true if true == "no label" else f"true {true}"), tone


def _judged(task: TaskFacts, place: int) -> tuple[str, str, Tone]:
    assert isinstance(task.predictions, Predictions)
    said, true = prediction_words(task, task.predictions, place)
    tone: Tone = "muted"
    if task.kind == "classification" and true != "no label":
        tone = "muted" if task.predictions.truth[place] == task.predictions.predicted[place] else "worse"
    return said, true, tone
