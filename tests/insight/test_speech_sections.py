"""A run's report of speech: how much sound it holds, and that its counts of errors are those of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.insight import (
    Grid,
    Matrix,
    MetricInfo,
    Plot,
    RunFacts,
    SampleFacts,
    Section,
    SpeechExample,
    Table,
    TaskFacts,
    TextPredictions,
    model_card,
    run_sections,
)
from tests.insight.test_run_sections import blocks, classification, facts

RATE = 8000
NAMES = {"exact": True, "cer": False}


def example(seconds: float = 0.4, title: str = "one", **more: Any) -> SpeechExample:
    return SpeechExample(title, np.sin(np.arange(round(seconds * RATE))), RATE, None, "one", "one", **more)


def sections(**more: Any) -> dict[str, Section]:
    return {section.heading: section for section in run_sections(facts(classification("speaker", 0.9), **more))}


def recognition(said: Sequence[str], truth: Sequence[str | None]) -> RunFacts:
    names = [f"{i}.wav" for i in range(len(said))]
    task = TaskFacts(
        "words",
        "speech_recognition",
        (),
        tuple(MetricInfo(name, better) for name, better in NAMES.items()),
        {"test": {"exact": 0.5, "cer": 0.1}},
        {"test": 20.0},
        predictions=TextPredictions(names, truth, said),
    )
    sample = SampleFacts("test", np.arange(len(said)), len(said), {"audio": list(names)})
    return facts(task, sample=sample, inputs={"audio": "audio"})


def words_of(run: RunFacts) -> str:
    (section,) = (s for s in run_sections(run) if s.heading == "words")
    return " ".join(block for block in section.blocks if isinstance(block, str))


# -- sound ---------------------------------------------------------------------------------------------------------
def test_a_run_without_sound_has_no_such_sections() -> None:
    assert {"Recordings", "Speech"}.isdisjoint(sections())


def shown(section: Section) -> list[SpeechExample]:
    found: list[SpeechExample] = []

    def look(those: tuple[Any, ...]) -> None:
        for block in those:
            found.extend([block] if isinstance(block, SpeechExample) else [])
            look(getattr(block, "blocks", ()))

    look(section.blocks)
    return found


def test_no_more_recordings_than_fit_into_a_page() -> None:
    section = sections(recordings=tuple(example(title=str(i)) for i in range(20)))["Recordings"]
    assert [one.title for one in shown(section)] == [str(i) for i in range(12)]
    assert section.blocks[0].startswith("12 test recordings")  # type: ignore[union-attr]
    assert "8 further ones would make the page too large." in section.blocks


@pytest.mark.parametrize(("lengths", "left"), [([30.0, 40.0, 20.0], [30.0, 20.0]), ([70.0], [])])
def test_a_minute_of_sound_at_eight_kilohertz_is_the_most(lengths: list[float], left: list[float]) -> None:
    found = sections(recordings=tuple(example(seconds) for seconds in lengths))
    assert [one.seconds for one in (shown(found["Recordings"]) if left else [])] == left
    assert ("Recordings" in found) == bool(left)


def test_short_ones_stand_side_by_side_and_long_ones_have_the_page() -> None:
    section = sections(recordings=(example(), example(4.0), example()))["Recordings"]
    (grid,) = (block for block in section.blocks if isinstance(block, Grid))
    assert [one.seconds for one in grid.blocks] == [0.4, 0.4]  # type: ignore[union-attr]
    assert [block.seconds for block in section.blocks if isinstance(block, SpeechExample)] == [4.0]


def test_the_size_of_the_sound_is_said() -> None:
    section = sections(recordings=(example(), example()))["Recordings"]
    assert "The sound takes 17.2 kB of this page." in str(section.blocks[0])  # 2 x (44 + 2 x 3200) x 4 / 3


def test_a_person_and_the_model_have_one_scale_of_time() -> None:
    section = sections(speech=((example(0.4), example(0.7)), (example(0.4), example(3.0))))["Speech"]
    assert [one.end for one in shown(section)] == [0.7, 0.7, 3.0, 3.0]
    assert [type(block) for block in section.blocks[1:]] == [Grid, SpeechExample, SpeechExample]


# -- recognition ---------------------------------------------------------------------------------------------------
SAID = ["one", "tree", "fife", "zeroo", "", "two four", "sefen"]
TRUTH = ["one", "three", "five", "zero", "six", "two or", None]


def test_the_character_error_rate_is_that_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    known = [(said, true) for said, true in zip(SAID, TRUTH, strict=True) if true is not None]
    rate = jiwer.cer([true for _, true in known], [said for said, _ in known])
    text = words_of(recognition(SAID, TRUTH))
    assert f"Character error rate: {100 * rate:.0f} %." in text
    assert "1 of 6 texts are found exactly" in text


def test_a_confusion_counts_every_true_character_once() -> None:
    run = recognition(SAID, TRUTH)
    (matrix,) = blocks(run, Matrix)[:1]
    assert matrix.columns == ("f", "h", "i", "o", "s", "u", "v", "x", "left out")  # those with an error
    counts = [[int(cell or 0) for cell in row] for row in matrix.cells]
    spoken = "".join(text for text in TRUTH if text)
    for name, row in zip(matrix.rows[:-1], counts[:-1], strict=True):
        assert sum(row) == spoken.count(name)
    table = dict(zip(matrix.rows, counts, strict=True))
    assert table["v"][matrix.columns.index("f")] == 1 and table["h"][-1] == 1
    assert table["added"][matrix.columns.index("o")] == 1 and table["added"][-1] == 0
    assert not np.isfinite(matrix.shades[-1]).any()


@given(st.lists(st.tuples(st.text("ab ", max_size=6), st.text("ab ", max_size=6)), min_size=1, max_size=5))
def test_rows_of_a_confusion_add_up(pairs: list[tuple[str, str]]) -> None:
    run = recognition([said for said, _ in pairs], [true for _, true in pairs])
    spoken = "".join(true for _, true in pairs)
    for matrix in [m for m in blocks(run, Matrix) if m.corner == "true / found"]:
        for name, row in zip(matrix.rows[:-1], matrix.cells[:-1], strict=True):
            character = " " if name == "space" else name
            inside = sum(int(cell or 0) for cell in row)
            assert inside <= spoken.count(character)
            if len(matrix.rows) == 1 + len({c for text in pairs for c in "".join(text)}):
                assert inside == spoken.count(character)


def test_the_table_of_errors_begins_with_the_most_frequent() -> None:
    run = recognition(["fife", "sefen", "tree"], ["five", "seven", "three"])
    (table,) = (t for t in blocks(run, Table) if t.title.startswith("The most frequent errors"))
    rows = [(row.name.value, *(cell.value for cell in row.cells)) for row in table.rows]
    assert rows == [("v", "f", "2", "100 %", "five → fife"), ("h", "left out", "1", "100 %", "three → tree")]


def test_the_worst_text_stands_first() -> None:
    run = recognition(["on", "xxx", "two"], ["one", "six", "two"])
    (table,) = (t for t in blocks(run, Table) if t.title == "Recordings")
    assert [row.name.value for row in table.rows] == ["1.wav", "0.wav"]


def test_all_right_and_nothing_known_need_no_tables() -> None:
    right, unknown = recognition(["one"], ["one"]), recognition(["one"], [None])
    assert "1 of 1 texts are found exactly" in words_of(right) and "error rate: 0 %" in words_of(right)
    assert "None of the recordings looked at has a text." in words_of(unknown)
    for run in (right, unknown):
        assert not [m for m in blocks(run, Matrix) if m.corner == "true / found"]


# -- synthesis -----------------------------------------------------------------------------------------------------
def synthesis(values: list[float]) -> RunFacts:
    task = TaskFacts(
        "voice",
        "speech_synthesis",
        (),
        (MetricInfo("distortion", False),),
        {"test": {"distortion": 5.0}},
        {"test": 900.0},
        predictions=TextPredictions([f"text {i}" for i in range(len(values))], [], values),
    )
    sample = SampleFacts("test", np.arange(len(values)), 100, {"audio": [""] * len(values)})
    return facts(task, sample=sample, inputs={"audio": "audio"})


def test_distortions_are_counted_and_ordered() -> None:
    run = synthesis([5.0, float("nan"), 3.0, 9.0])
    (plot,) = (p for p in blocks(run, Plot) if "synthesised" in p.title)
    assert sum(plot.traces[0].y) == 3
    nearest, furthest = (t for t in blocks(run, Table) if t.title.endswith("the recording"))
    assert [row.cells[0].value for row in nearest.rows] == ["text 2", "text 0", "text 3"]
    assert [row.name.value for row in furthest.rows] == ["9", "5", "3"]


def test_without_a_known_distortion_there_is_a_sentence() -> None:
    (section,) = (s for s in run_sections(synthesis([float("nan")])) if s.heading == "voice")
    assert section.blocks[-1] == "No recording has a distortion that is finite."


def test_the_card_says_what_kind_of_model_it_is() -> None:
    tags = {run.tasks[0].kind: model_card(run) for run in (recognition(["a"], ["a"]), synthesis([1.0]))}
    assert "pipeline_tag: automatic-speech-recognition" in tags["speech_recognition"]
    assert "pipeline_tag: text-to-speech" in tags["speech_synthesis"]
    speaker = model_card(facts(classification("speaker", 0.9), inputs={"audio": "audio"}))
    assert re.search(r"pipeline_tag: audio-classification", speaker)
