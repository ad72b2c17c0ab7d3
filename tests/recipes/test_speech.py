"""The speech recipes, on a few of the real recordings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lepton.errors import ConfigurationError, DataError
from lepton.recipes.speech import FSDD, WORDS, RecipeConfig, run_recipe, say

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("jiwer")

SMALL = ("trunk.width=32", "trunk.depth=1", "trunk.heads=2")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


def test_the_official_test_in_seconds(data_folder: Path, tmp_path: Path) -> None:
    """All tasks together, each alone, the judges, and a voice for every speaker; and what is spoken is written."""
    place = tmp_path / "speech"
    settings = RecipeConfig(data_folder / "fsdd", place, epochs=1, limit=60, overrides=SMALL)
    (found,) = run_recipe("speech", settings, quiet=True)
    (seed,) = json.loads((place / "results.json").read_text())["seeds"]
    assert set(seed["alone"]) == set(found.run.tasks) == {"transcript", "speaker", "speech"}
    assert set(seed["together"]["scores"]["test"]) == set(found.run.tasks)
    assert seed["spoken"]["sounds"] == 60 and len(seed["spoken"]["wrong"]) <= 60
    assert len(list((place / "seed-0" / "spoken").glob("*.wav"))) == 60
    assert (place / "judge-transcript" / "run.json").exists() and (place / "judge-speaker" / "run.json").exists()
    spoken = say("seven", "nicolas", place)
    assert spoken.text == "seven" and spoken.voice == "nicolas" and np.isfinite(spoken.waveform).all()
    with pytest.raises(ConfigurationError, match=r"'nicola'.*Did you mean 'nicolas'"):
        say("seven", "nicola", place)


def test_speakers_that_are_left_out(data_folder: Path, tmp_path: Path) -> None:
    """Each speaker tests the training that did not hear it, and is in none of its other parts."""
    settings = RecipeConfig(data_folder / "fsdd", tmp_path / "unseen", epochs=1, limit=60, overrides=SMALL)
    found = list(run_recipe("speech_unseen", settings, quiet=True))
    assert [one.further["left_out"] for one in found] == list(SPEAKERS)
    for one in found:
        tables = one.run.tables()
        assert set(tables["test"].column("speaker").to_pylist()) == {one.further["left_out"]}
        heard = {*tables["train"].column("speaker").to_pylist(), *tables["val"].column("speaker").to_pylist()}
        assert heard == set(SPEAKERS) - {one.further["left_out"]}


def test_the_parts(data_folder: Path) -> None:
    """The official test is the first five of every digit and speaker; a few rows are drawn evenly."""
    rows = FSDD.rows(data_folder / "fsdd")
    assert Counter(row.part for row in rows) == {"train": 2400, "val": 300, "test": 300}
    assert {Path(row.audio).stem.rsplit("_", 1)[1] for row in rows if row.part == "test"} == set("01234")
    few = FSDD.rows(data_folder / "fsdd" / "recordings", limit=60)
    assert set(Counter(row.part for row in few).values()) == {60}
    assert set(Counter((row.part, row.word, row.speaker) for row in few).values()) == {1}
    assert {row.word for row in few} == set(WORDS) and {row.speaker for row in few} == set(SPEAKERS)


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"7_jackson_32\.wav.*github\.com/Jakobovski"):
            list(run_recipe("speech", RecipeConfig(folder, tmp_path / "run"), quiet=True))
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'speech'"):
        list(run_recipe("speach", RecipeConfig(tmp_path, tmp_path / "run"), quiet=True))


def test_nothing_is_said_without_a_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="train it first, lepton recipe speech"):
        say("seven", "nicolas", tmp_path)
