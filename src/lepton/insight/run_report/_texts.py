"""What a report shows of tasks that predict texts, or something for every word of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton.insight.page import (
    Block,
    Card,
    Gallery,
    Heading,
    Plot,
    Table,
    TableCell,
    TableRow,
    Trace,
    as_count,
    as_number,
    as_percent,
)
from lepton.insight.run_report._classes import SHOWN_CLASSES, class_table, confusion_block
from lepton.insight.run_report._facts import SampleFacts, TaskFacts, TextPredictions
from lepton.insight.run_report._scores import confusion_matrix
from lepton.tasks import TokenClassification

__all__ = ["histogram", "short_text", "text_blocks"]

SHOWN_TEXTS = 10
LONGEST = 300
"""Letters of a text that are shown."""

UNSEEN = TokenClassification.unseen
"""The number of a tag that training does not have."""


def text_blocks(task: TaskFacts, found: TextPredictions, sample: SampleFacts) -> Iterator[Block]:
    """Yield what is shown of a task that predicts texts or tags."""
    drawn = "" if len(sample.rows) == sample.total else f", drawn from {as_count(sample.total)}"
    yield f"On {as_count(len(found.texts))} {sample.part} texts{drawn}."
    match task.kind:
        case "translation":
            yield from _translations(found)
        case "language_modeling":
            yield from _surprises(found)
        case "token_classification":
            yield from _tags(task, found)


# -- translations -------------------------------------------------------------------------------------------------
def _translations(found: TextPredictions) -> Iterator[Block]:
    places = np.linspace(0, len(found.texts) - 1, min(len(found.texts), SHOWN_TEXTS)).astype(int)
    yield from _translation_cards("Samples: the text, its translation, the reference", found, places)
    scores = np.asarray(found.scores, dtype=np.float64)
    known = np.isfinite(scores)
    if known.any():
        yield Plot(
            "How near the translations are to their references",
            "chrF of a text",
            "texts",
            (histogram(scores[known], (0.0, 100.0)),),
            "chrF compares n-grams of characters: 100 is the reference itself. A good translation in other words has "
            "less.",
            x_range=(0.0, 100.0),
        )
        worst = np.argsort(np.where(known, scores, np.inf), kind="stable")[: min(SHOWN_TEXTS, int(known.sum()))]
        yield from _translation_cards("Furthest from their references", found, worst)


def _translation_cards(title: str, found: TextPredictions, places: Any) -> Iterator[Block]:
    cards = []
    for place in places:
        near = f", chrF {as_number(found.scores[place], 3)}" if found.truth[place] is not None and found.scores else ""
        lines = (
            (short_text(found.texts[place]), "muted"),
            (short_text(found.predicted[place]) or "(nothing)", "plain"),
            (f"Reference{near}: {short_text(found.truth[place] or 'none')}", "muted"),
        )
        cards.append(Card((), lines))
    yield Heading(title)
    yield Gallery(title, tuple(cards), "wide")


# -- language models ----------------------------------------------------------------------------------------------
def _surprises(found: TextPredictions) -> Iterator[Block]:
    values = np.asarray(found.predicted, dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        yield "No text has a perplexity that is finite."
        return
    yield Plot(
        "Perplexity of the texts",
        "perplexity, logarithm to base 10",
        "texts",
        (histogram(np.log10(values[known])),),
        "One over the mean probability, geometric, that the model gave the tokens of a text: among so many equally "
        "likely ones it chose at each place.",
    )
    order = np.argsort(np.where(known, values, np.inf), kind="stable")
    for title, places in (("Most expected texts", order), ("Most surprising texts", order[: known.sum()][::-1])):
        rows = tuple(
            TableRow(TableCell(as_number(values[place], 3)), (TableCell(short_text(found.texts[place])),))
            for place in places[: SHOWN_TEXTS // 2]
        )
        yield Table(title, ("text",), rows, ("In front: its perplexity.",), words_last=True)


def histogram(values: NDArray[np.float64], span: tuple[float, float] | None = None, name: str = "texts") -> Trace:
    """Return how many of the values [N] lie in each of twenty equal parts of the span."""
    counts, edges = np.histogram(values, bins=20, range=span)
    return Trace(name, ((edges[1:] + edges[:-1]) / 2).tolist(), counts.tolist(), "bars")


# -- tags ---------------------------------------------------------------------------------------------------------
def _tags(task: TaskFacts, found: TextPredictions) -> Iterator[Block]:
    numbers = {name: place for place, name in enumerate(task.classes)}
    pairs = [(true, said) for true, said in zip(found.truth, found.predicted, strict=True) if true is not None]
    truth, predicted = (_flat([pair[side] for pair in pairs], numbers) for side in (0, 1))
    known = (truth != -1) & (predicted != -1)
    truth, predicted = truth[known], predicted[known]
    if not len(truth):
        yield "None of the words looked at has a tag."
        return
    right = float((truth == predicted).mean())
    strange = int((truth == UNSEEN).sum())
    more = f"; {as_count(strange)} have a tag that training does not have" if strange else ""
    yield f"{as_count(len(truth))} words with a tag, of which {as_percent(right)} got the right one{more}."
    confusion = confusion_matrix(truth, predicted, len(task.classes), unseen=UNSEEN)
    if len(task.classes) <= SHOWN_CLASSES:
        yield confusion_block(task.classes, confusion)
    yield class_table(task.classes, confusion, "words", "Scores of each tag")
    yield from _wrong_tags(found)


def _flat(rows: Sequence[Any], numbers: dict[str, int]) -> NDArray[np.int64]:
    """Return the numbers of all tags; -1 where there is none, `UNSEEN` for one that training does not have."""
    found = [-1 if tag is None else numbers.get(tag, UNSEEN) for tags in rows for tag in tags]
    return np.asarray(found, dtype=np.int64)


def _wrong_tags(found: TextPredictions) -> Iterator[Block]:
    wrong = [
        [
            place
            for place, (true, said) in enumerate(zip(truth or (), tags or (), strict=False))
            if true not in (None, said)
        ]
        for truth, tags in zip(found.truth, found.predicted, strict=True)
    ]
    order = sorted(range(len(wrong)), key=lambda row: -len(wrong[row]))[:SHOWN_TEXTS]
    rows = []
    for row in order:
        if not wrong[row]:
            continue
        words = found.texts[row].split(" ")
        shown = [
            f"{words[place]}: {found.predicted[row][place]} for {found.truth[row][place]}"
            for place in wrong[row][:SHOWN_TEXTS]
            if place < len(words)
        ]
        rows.append(
            TableRow(
                TableCell(short_text(found.texts[row])), (TableCell(str(len(wrong[row]))), TableCell("; ".join(shown)))
            )
        )
    if not rows:
        yield "No word was wrong."
        return
    yield Heading("Worst errors: sentences with the most wrong tags")
    yield Table("Sentences", ("wrong", "predicted for true"), tuple(rows), words_last=True)


def short_text(text: str) -> str:
    """Return a text, cut where it is too long for a table."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
