"""One section for each task: where its predictions are right, where they are wrong, and how sure they are."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton.insight.page import (
    Block,
    Card,
    Gallery,
    Grid,
    Heading,
    Plot,
    Section,
    Table,
    TableCell,
    TableRow,
    Trace,
    as_count,
    as_number,
    as_percent,
)
from lepton.insight.run_report._classes import SHOWN_CLASSES, class_table, confusion_block, share_cell
from lepton.insight.run_report._facts import Predictions, RunFacts, SampleFacts, TaskFacts, TextPredictions
from lepton.insight.run_report._scores import calibration, class_scores, confusion_matrix, mask_overlap
from lepton.insight.run_report._speech import SPEECH_KINDS, speech_blocks
from lepton.insight.run_report._texts import text_blocks

__all__ = ["inputs_of", "prediction_words", "shown_inputs", "task_sections"]

SHOWN_TASKS = 30
SHOWN_ERRORS = 10
SHOWN_INPUTS = 12
SHOWN_PICTURES = 6
POINTS = 600
"""Rows in a cloud: more hide each other, and weigh."""

_MASK_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (120, 120, 120), (148, 82, 200), (140, 86, 45), (160, 220, 160), (60, 60, 90),
)  # fmt: skip


def task_sections(facts: RunFacts) -> list[Section]:
    """Return a section for each task whose predictions are known, for the first ones of many."""
    sample = facts.sample
    if sample is None:
        return [Section("Predictions", (f"Not shown: {facts.no_sample}",))]
    found = []
    for task in facts.tasks[:SHOWN_TASKS]:
        if isinstance(task.predictions, TextPredictions):
            told = speech_blocks if task.kind in SPEECH_KINDS else text_blocks
            found.append(Section(task.name, tuple(told(task, task.predictions, sample))))
        elif task.predictions is not None:
            found.append(Section(task.name, tuple(_blocks(task, task.predictions, sample))))
    return found


def _blocks(task: TaskFacts, predictions: Predictions, sample: SampleFacts) -> Iterator[Block]:
    match task.kind:
        case "classification":
            yield from _classification(task, predictions, sample)
        case "regression":
            yield from _regression(task, predictions, sample)
        case "multi_label":
            yield from _multi_label(task, predictions, sample)
        case "segmentation":
            yield from _segmentation(task, predictions, sample)


def _rows_words(sample: SampleFacts, labelled: int, part: str) -> str:
    drawn = "" if len(sample.rows) == sample.total else f", drawn from {as_count(sample.total)}"
    return f"On {as_count(labelled)} {part} rows with a label{drawn}."


# -- classes ------------------------------------------------------------------------------------------------------
def _classification(task: TaskFacts, predictions: Predictions, sample: SampleFacts) -> Iterator[Block]:
    known = predictions.truth >= 0
    if not known.any():
        yield "None of the rows looked at has a label."
        return
    truth, predicted = predictions.truth[known], predictions.predicted[known]
    assert predictions.probability is not None
    confidence = predictions.probability[known].max(1).astype(np.float64)
    confusion = confusion_matrix(truth, predicted, len(task.classes))
    yield _rows_words(sample, int(known.sum()), sample.part)
    if len(task.classes) <= SHOWN_CLASSES:
        yield confusion_block(task.classes, confusion)
    yield class_table(task.classes, confusion, "rows", "Scores of each class")
    yield Grid((_reliability(confidence, truth == predicted), _confidences(confidence, truth == predicted)))
    yield from _wrong_classes(task, predictions, sample)


def _reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Plot:
    found = calibration(confidence, right)
    word = "over" if (confidence.mean() > right.mean()) else "under"
    labels = tuple(f"{as_count(n)} rows" for n in found.rows)
    return Plot(
        f"Reliability: expected calibration error {found.error:.3f}",
        "confidence",
        "share of right predictions",
        (
            Trace("predictions", found.confidence.tolist(), found.share.tolist(), "points", labels),
            Trace("perfectly calibrated", [0.0, 1.0], [0.0, 1.0], "guide"),
        ),
        f"Predictions of equal confidence, taken together: on the dashed line confidences are what they say. Here they "
        f"are {as_percent(float(confidence.mean()))} on average and {as_percent(float(right.mean()))} are right, so "
        f"the model is {word}confident.",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def _confidences(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Plot:
    edges = np.linspace(0.0, 1.0, 21)
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    every, wrong = (np.histogram(values, edges)[0].tolist() for values in (confidence, confidence[~right]))
    return Plot(
        "Confidences",
        "confidence",
        "rows",
        (Trace("all rows", middle, every, "bars"), Trace("wrong ones", middle, wrong, "bars")),
        "A model that knows what it does not know is wrong on the left only.",
        x_range=(0.0, 1.0),
    )


def _wrong_classes(task: TaskFacts, predictions: Predictions, sample: SampleFacts) -> Iterator[Block]:
    assert predictions.probability is not None
    wrong = np.flatnonzero((predictions.truth >= 0) & (predictions.truth != predictions.predicted))
    if not len(wrong):
        yield "No row was wrong."
        return
    confidence = predictions.probability.max(1)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN_ERRORS]
    yield Heading("Worst errors: most sure, and wrong")
    yield from _error_blocks(task, predictions, sample, worst)


# -- numbers ------------------------------------------------------------------------------------------------------
def _regression(task: TaskFacts, predictions: Predictions, sample: SampleFacts) -> Iterator[Block]:
    truth = predictions.truth.reshape(len(predictions.truth), -1).astype(np.float64)
    predicted = predictions.predicted.reshape(len(truth), -1).astype(np.float64)
    names = task.classes if truth.shape[1] > 1 else (task.name,)
    yield _rows_words(sample, int(np.isfinite(truth).any(1).sum()), sample.part)
    for column, name in enumerate(names[:SHOWN_PICTURES]):
        known = np.isfinite(truth[:, column])
        if known.any():
            yield Grid(_number_plots(name, truth[known, column], predicted[known, column], np.flatnonzero(known)))
    with np.errstate(invalid="ignore"):
        scale = np.nanstd(truth, axis=0)
        error = np.nanmax(np.abs(predicted - truth) / np.where(scale > 0, scale, 1.0), axis=1, initial=-1.0)
    worst = np.argsort(-error, kind="stable")[:SHOWN_ERRORS]
    worst = worst[error[worst] >= 0]
    if len(worst):
        yield Heading("Worst errors: furthest from the truth")
        yield from _error_blocks(task, predictions, sample, worst)


def _number_plots(name: str, truth: Any, predicted: Any, places: Any) -> tuple[Plot, Plot]:
    keep = np.linspace(0, len(truth) - 1, min(len(truth), POINTS)).astype(int)
    t, p = truth[keep], predicted[keep]
    labels = tuple(f"row {place + 1} of the sample" for place in places[keep])
    low, high = float(min(t.min(), p.min())), float(max(t.max(), p.max()))
    line = Trace("perfect", [low, high], [low, high], "guide")
    cloud = Plot(
        f"{name}: predicted against true",
        "true value",
        "predicted value",
        (Trace("rows", t.tolist(), p.tolist(), "points", labels), line),
        "On the dashed line a prediction is exact.",
    )
    counts, edges = np.histogram(predicted - truth, bins=min(30, max(5, len(truth) // 8)))
    middle = (edges[1:] + edges[:-1]) / 2
    bias = as_number(float((predicted - truth).mean()), 3)
    residuals = Plot(
        f"{name}: errors",
        "predicted minus true",
        "rows",
        (Trace("rows", middle.tolist(), counts.tolist(), "bars"),),
        f"The mean is {bias}; the further from 0, the more the model errs to one side.",
    )
    return cloud, residuals


# -- several labels -----------------------------------------------------------------------------------------------
def _multi_label(task: TaskFacts, predictions: Predictions, sample: SampleFacts) -> Iterator[Block]:
    truth = predictions.truth.astype(np.float64)
    assert predictions.probability is not None
    yield _rows_words(sample, int(np.isfinite(truth).any(1).sum()), sample.part)
    rows = []
    for place, name in enumerate(task.classes[: 2 * SHOWN_CLASSES]):
        known = np.isfinite(truth[:, place])
        yes, said = truth[known, place] > 0.5, predictions.predicted[known, place].astype(bool)
        scores = class_scores(confusion_matrix(yes.astype(np.int64), said.astype(np.int64), 2))
        sure = calibration(predictions.probability[known, place].astype(np.float64), yes)
        values = (scores.precision[1], scores.recall[1], scores.f1[1], sure.error)
        share = as_percent(float(yes.mean())) if known.any() else "no label"
        rows.append(TableRow(TableCell(name), (TableCell(share), *(share_cell(float(value)) for value in values))))
    columns = ("share", "precision", "recall", "F1", "calibration error")
    more = f"The first {len(rows)} of {len(task.classes)} labels." if len(rows) < len(task.classes) else ""
    yield Table("Scores of each label", columns, tuple(rows), (more,) if more else ())
    wrong = np.where(np.isfinite(truth), np.abs(predictions.probability - np.nan_to_num(truth)), 0.0).max(1)
    worst = np.argsort(-wrong, kind="stable")[:SHOWN_ERRORS]
    worst = worst[wrong[worst] > 0.5]
    if len(worst):
        yield Heading("Worst errors: most sure of a label, and wrong")
        yield from _error_blocks(task, predictions, sample, worst)


# -- masks --------------------------------------------------------------------------------------------------------
def _segmentation(task: TaskFacts, predictions: Predictions, sample: SampleFacts) -> Iterator[Block]:
    truth, predicted = predictions.truth, predictions.predicted
    overlap = mask_overlap(truth, predicted, len(task.classes))
    yield _rows_words(sample, len(truth), sample.part)
    rows = tuple(
        TableRow(
            TableCell(name),
            (
                share_cell(float(overlap[i])),
                TableCell(as_percent(float((truth == i).sum() / max(1, _labelled(task, truth))))),
            ),
        )
        for i, name in enumerate(task.classes)
    )
    yield Table("Intersection over union of each class", ("IoU", "share of the pixels"), rows)
    known = truth != task.missing
    right = ((truth == predicted) & known).reshape(len(truth), -1).sum(1)
    share = right / np.maximum(known.reshape(len(truth), -1).sum(1), 1)
    order = np.argsort(share, kind="stable")
    for heading, chosen in (
        ("Samples", np.linspace(0, len(truth) - 1, min(len(truth), SHOWN_PICTURES)).astype(int)),
        ("Worst errors: fewest right pixels", order[:SHOWN_PICTURES]),
    ):
        yield Heading(heading)
        yield Gallery(
            heading, tuple(_mask_card(task, predictions, sample, int(i), float(share[i])) for i in chosen), "wide"
        )
    yield _mask_legend(task)


def _labelled(task: TaskFacts, truth: Any) -> int:
    return int((truth != task.missing).sum())


def _mask_card(task: TaskFacts, predictions: Predictions, sample: SampleFacts, place: int, share: float) -> Card:
    picture = [("input", sample.picture(place))] if sample.picture is not None else []
    masks = [
        ("truth", _mask_png(predictions.truth[place], task)),
        (
            "prediction",
            _mask_png(
                np.where(_absent(task, predictions.truth[place]), task.missing, predictions.predicted[place]), task
            ),
        ),
    ]
    return Card(
        (*picture, *masks), ((f"row {sample.rows[place] + 1}: {as_percent(share)} of the pixels right", "muted"),)
    )


def _absent(task: TaskFacts, mask: Any) -> Any:
    return mask == task.missing


def _mask_png(mask: Any, task: TaskFacts) -> bytes:
    """Return a mask as a picture of at most 160 pixels, each class in its colour, pixels without one white."""
    from PIL import Image

    step = max(1, math.ceil(max(mask.shape) / 160))
    small = np.asarray(mask)[::step, ::step]
    image = Image.fromarray(np.where(small == task.missing, 255, small).astype(np.uint8), "P")
    palette = [(255, 255, 255)] * 256
    for number in range(min(len(task.classes), 255)):
        palette[number] = _mask_colour(number)
    image.putpalette([part for colour in palette for part in colour])
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _mask_colour(number: int) -> tuple[int, int, int]:
    base = _MASK_COLOURS[number % len(_MASK_COLOURS)]
    dimmed = 1 - 0.35 * (number // len(_MASK_COLOURS) % 3)
    return tuple(int(part * dimmed) for part in base)  # type: ignore[return-value]


def _mask_legend(task: TaskFacts) -> Gallery:
    cards = []
    for number, name in enumerate(task.classes[:SHOWN_CLASSES]):
        cards.append(Card((("", _mask_png(np.full((4, 24), number), task)),), ((name, "muted"),)))
    return Gallery("Colours of the classes", tuple(cards), "small")


# -- samples ------------------------------------------------------------------------------------------------------
def _error_blocks(
    task: TaskFacts, predictions: Predictions, sample: SampleFacts, worst: Sequence[Any] | Any
) -> Iterator[Block]:
    if sample.picture is not None:
        cards = []
        for place in worst[:SHOWN_PICTURES]:
            said, true = prediction_words(task, predictions, place)
            lines = ((f"predicted {said}", "worse"), (f"true {true}", "plain"), (_row(sample, place), "muted"))
            cards.append(Card((("input", sample.picture(int(place))),), lines))
        yield Gallery("Worst errors", tuple(cards))
        return
    names, notes = shown_inputs(sample)
    rows = []
    for place in worst:
        said, true = prediction_words(task, predictions, place)
        rows.append(
            TableRow(
                TableCell(_row(sample, place)), (TableCell(true), TableCell(said), *inputs_of(sample, names, place))
            )
        )
    yield Table("Rows, with their inputs", ("true", "predicted", *names), tuple(rows), notes)


def _row(sample: SampleFacts, place: int) -> str:
    return f"{sample.part} row {as_count(sample.rows[place] + 1)}"


def shown_inputs(sample: SampleFacts) -> tuple[list[str], tuple[str, ...]]:
    """Return the columns that a table of rows has room for, and a footnote on the others."""
    names = list(sample.inputs)[:SHOWN_INPUTS]
    more = len(sample.inputs) - len(names)
    return names, (f"{more} further columns are not shown.",) if more > 0 else ()


def inputs_of(sample: SampleFacts, names: Sequence[str], place: int) -> list[TableCell]:
    """Return the cells of a row's inputs, shortened."""
    return [TableCell(_value(sample.inputs[name][place])) for name in names]


def _value(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, float):
        return as_number(value) if math.isfinite(value) else "missing"
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def prediction_words(task: TaskFacts, predictions: Predictions, place: int) -> tuple[str, str]:
    """Return what was predicted and what is true of a row, as words."""
    truth, predicted = predictions.truth[place], predictions.predicted[place]
    if task.kind == "classification":
        assert predictions.probability is not None
        sure = as_percent(float(predictions.probability[place].max()))
        return f"{task.classes[predicted]} ({sure})", task.classes[truth] if truth >= 0 else "no label"
    if task.kind == "multi_label":
        said = ", ".join(name for name, yes in zip(task.classes, predicted, strict=True) if yes)
        true = ", ".join(name for name, yes in zip(task.classes, truth, strict=True) if yes == 1)
        return said or "none", "no label" if np.isnan(truth).all() else true or "none"
    if task.kind == "regression":
        return _numbers(predicted), _numbers(truth)
    return "a mask", "a mask"


def _numbers(values: Any) -> str:
    found = [as_number(float(value)) for value in np.atleast_1d(values)[:SHOWN_INPUTS]]
    return ", ".join("no label" if word == "not measured" else word for word in found)
