"""What a report shows of speech: recordings to listen to, which characters were confused, how near a voice came."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lepton.insight._edits import Edit, edits
from lepton.insight.page import (
    Block,
    Grid,
    Heading,
    Matrix,
    Plot,
    Section,
    SpeechExample,
    Table,
    TableCell,
    TableRow,
    as_bytes,
    as_count,
    as_number,
    as_percent,
    plural,
)
from lepton.insight.run_report._facts import RunFacts, SampleFacts, TaskFacts, TextPredictions
from lepton.insight.run_report._texts import histogram, short_text
from lepton.insight.run_report._words import PART_WORDS

__all__ = ["SPEECH_KINDS", "recording_sections", "speech_blocks"]

SPEECH_KINDS = ("speech_recognition", "speech_synthesis")

SHOWN = 12
"""Recordings that can be heard in each section."""

MOST_BYTES = 1_000_000
"""Sound in each section, as WAV files: a minute at 8 kHz. In the page it takes a third more."""

SHOWN_EDITS = 15
SHOWN_CHARACTERS = 12
SHOWN_TEXTS = 10

_LEFT_OUT, _ADDED = "left out", "added"


# -- to listen to -------------------------------------------------------------------------------------------------
def recording_sections(facts: RunFacts) -> list[Section]:
    """Return the sections with sound, as far as there is any: recordings, and synthesised speech beside real."""
    found = []
    part = PART_WORDS.get(facts.part, facts.part)
    shown = _affordable([(example,) for example in facts.recordings])
    if shown:
        examples = [example for (example,) in shown]
        words = f"{as_count(len(examples))} {part} recordings and what was found in them. " + _explained(examples)
        left = len(facts.recordings) - len(shown)
        found.append(Section("Recordings", (words, *_not_shown(left), *_placed(examples))))
    pairs = _affordable(facts.speech)
    if pairs:
        flat = [example for pair in pairs for example in pair]
        words = f"{plural(len(pairs), f'{part} text')}, each said by a person and then by the model. "
        blocks = [block for pair in pairs for block in _beside(pair)]
        found.append(
            Section("Speech", (words + _explained(flat), *_not_shown(len(facts.speech) - len(pairs)), *blocks))
        )
    return found


def _affordable(groups: Iterable[Sequence[SpeechExample]]) -> list[Sequence[SpeechExample]]:
    """Return the groups that fit: the first ones, without those that alone are too long."""
    found: list[Sequence[SpeechExample]] = []
    count = size = 0
    for group in groups:
        needed = sum(_size(example) for example in group)
        if count + len(group) <= SHOWN and size + needed <= MOST_BYTES:
            found.append(group)
            count, size = count + len(group), size + needed
    return found


def _size(example: SpeechExample) -> int:
    return 44 + 2 * len(example.samples)


def _explained(examples: Sequence[SpeechExample]) -> str:
    words = ""
    if any(example.log_mel is not None for example in examples):
        words += (
            "The spectrogram has low frequencies at the bottom; light is loud, in decibels below its loudest place. "
        )
    if any(example.characters for example in examples):
        words += "Below it, the characters where they are spoken. "
    return words + f"The sound takes {as_bytes(4 / 3 * sum(map(_size, examples)))} of this page."


def _not_shown(count: int) -> Iterator[str]:
    if count:
        yield f"{plural(count, 'further one')} would make the page too large."


def _placed(examples: Sequence[SpeechExample]) -> Iterator[Block]:
    """Yield short recordings side by side, then the long ones."""
    short = tuple(example for example in examples if not example.wide)
    if short:
        yield Grid(short)
    yield from (example for example in examples if example.wide)


def _beside(pair: Sequence[SpeechExample]) -> Iterator[Block]:
    """Yield both on one scale of time: side by side, or one above the other where one of them is long."""
    end = max(example.end for example in pair)
    scaled = tuple(dataclasses.replace(example, until=end) for example in pair)
    if any(example.wide for example in scaled):
        yield from scaled
    else:
        yield Grid(scaled)


# -- tasks --------------------------------------------------------------------------------------------------------
def speech_blocks(task: TaskFacts, found: TextPredictions, sample: SampleFacts) -> Iterator[Block]:
    """Yield what is shown of a task that finds texts in recordings, or speaks them."""
    drawn = "" if len(sample.rows) == sample.total else f", drawn from {as_count(sample.total)}"
    yield f"On {as_count(len(found.texts))} {PART_WORDS.get(sample.part, sample.part)} recordings{drawn}."
    yield from _recognition(found) if task.kind == "speech_recognition" else _synthesis(found)


def _recognition(found: TextPredictions) -> Iterator[Block]:
    places = [place for place, truth in enumerate(found.truth) if truth is not None]
    steps = {place: edits(found.predicted[place], found.truth[place]) for place in places}
    every = Counter(step for taken in steps.values() for step in taken)
    true = sum(count for (name, _, _), count in every.items() if name != "insert")
    if not true:
        yield "None of the recordings looked at has a text."
        return
    yield _counted(every, true, sum(found.predicted[place] == found.truth[place] for place in places), len(places))
    wrong = Counter({step: count for step, count in every.items() if step[0] != "equal"})
    if wrong:
        yield _edit_table(wrong, every, found, steps)
        yield _confusion(every)
        yield from _worst_texts(found, steps)


def _counted(every: Counter[Edit], true: int, exact: int, texts: int) -> str:
    of = {
        name: sum(count for step, count in every.items() if step[0] == name) for name in ("replace", "delete", "insert")
    }
    return (
        f"{as_count(exact)} of {as_count(texts)} texts are found exactly. Of {as_count(true)} characters, "
        f"{as_count(of['replace'])} ({as_percent(of['replace'] / true)}) are replaced by another and "
        f"{as_count(of['delete'])} ({as_percent(of['delete'] / true)}) left out; {as_count(of['insert'])} are added. "
        f"Character error rate: {as_percent(sum(of.values()) / true)}."
    )


def _edit_table(
    wrong: Counter[Edit], every: Counter[Edit], found: TextPredictions, steps: dict[int, list[Edit]]
) -> Table:
    """Return the most frequent errors, with a text in which each of them happened."""
    spoken = _spoken(every)
    rows = []
    for step, count in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_EDITS]:
        name, old, new = step
        place = next(place for place, taken in steps.items() if step in taken)
        share = TableCell("" if name == "insert" else as_percent(count / spoken[old]))
        words = TableCell(f"{short_text(found.truth[place])} → {short_text(found.predicted[place]) or '(nothing)'}")
        new_name = _LEFT_OUT if name == "delete" else _name(new)
        row = (TableCell(new_name), TableCell(as_count(count)), share, words)
        rows.append(TableRow(TableCell(_ADDED if name == "insert" else _name(old)), row))
    notes = [
        "In front: the true character. Share: of all places where it is true. Last: the first text with the error."
    ]
    if len(wrong) > len(rows):
        notes.append(f"{plural(len(wrong) - len(rows), 'further kind')} of error, each at most as frequent.")
    return Table(
        "The most frequent errors in characters",
        ("found", "times", "share", "example"),
        tuple(rows),
        tuple(notes),
        words_last=True,
    )


def _spoken(every: Counter[Edit]) -> Counter[str]:
    """Return how often each character is true; of the empty one, how many were added."""
    found = Counter[str]()
    for (_, old, _), count in every.items():
        found[old] += count
    return found


def _name(character: str) -> str:
    return "space" if character == " " else character


def _confusion(every: Counter[Edit]) -> Matrix:
    """Return how often each character was found for each true one, for those that are confused most."""
    errors = Counter[str]()
    for (name, old, new), count in every.items():
        if name != "equal":
            errors.update({character: count for character in (old, new) if character})
    names = sorted(sorted(errors, key=lambda character: (-errors[character], character))[:SHOWN_CHARACTERS])
    counts = np.array([[_times(every, old, new) for new in (*names, "")] for old in (*names, "")])
    # What was added has no true character to be a share of.
    spoken = _spoken(every)
    shares = counts / np.array([spoken[name] or np.inf for name in names] + [np.nan])[:, None]
    shades = np.where(counts > 0, np.where(np.eye(len(counts)) > 0, shares, -shares), np.nan)
    shown = tuple(map(_name, names))
    return Matrix(
        "Confusion: how often each character was found for each true one",
        (*shown, _ADDED),
        (*shown, _LEFT_OUT),
        tuple(tuple(as_count(count) if count else "" for count in row) for row in counts.tolist()),
        tuple(tuple(row) for row in shades.tolist()),
        "true / found",
        f"The {len(names)} characters with the most errors. Shaded by the share of the true character: blue for right, "
        "orange for wrong.",
    )


def _times(every: Counter[Edit], old: str, new: str) -> int:
    return sum(every[name, old, new] for name in ("equal", "replace", "delete", "insert"))


def _worst_texts(found: TextPredictions, steps: dict[int, list[Edit]]) -> Iterator[Block]:
    wrong = {place: sum(step[0] != "equal" for step in taken) for place, taken in steps.items()}
    order = [place for place in sorted(wrong, key=lambda place: (-wrong[place], place)) if wrong[place]]
    rows = tuple(
        TableRow(
            TableCell(short_text(found.texts[place])),
            (
                TableCell(as_count(wrong[place])),
                TableCell(short_text(found.predicted[place]) or "(nothing)"),
                TableCell(short_text(found.truth[place])),
            ),
        )
        for place in order[:SHOWN_TEXTS]
    )
    yield Heading("Worst errors: texts with the most wrong characters")
    yield Table("Recordings", ("wrong characters", "found", "true"), rows, words_last=True)


def _synthesis(found: TextPredictions) -> Iterator[Block]:
    """Yield how far the synthesised speech is from the recordings."""
    values = np.asarray(found.predicted, dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        yield "No recording has a distortion that is finite."
        return
    yield Plot(
        "Distance of the synthesised speech from the recordings",
        "mel-cepstral distortion of a recording (dB)",
        "recordings",
        (histogram(values[known], name="recordings"),),
        "Compared frame by frame, with the same characters at the same times; 0 is the recording itself.",
    )
    order = np.argsort(np.where(known, values, np.inf), kind="stable")[: known.sum()]
    for title, places in (("Nearest to the recording", order), ("Furthest from the recording", order[::-1])):
        rows = tuple(
            TableRow(TableCell(as_number(values[place], 3)), (TableCell(short_text(found.texts[place])),))
            for place in places[: SHOWN_TEXTS // 2]
        )
        yield Table(title, ("text",), rows, ("In front: its distortion in dB.",), words_last=True)
