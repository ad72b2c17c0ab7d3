"""Commands on recordings: what is typed, what comes out, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import lepton
from lepton.cli._main import app

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("jiwer")

RATE = 8000
TASKS: dict[str, Any] = {
    "said": {"type": "speech_recognition", "column": "text"},
    "who": "classification",
    "voice": {"type": "speech_synthesis", "column": "text", "voice": "who"},
}
TRUNK = {"type": "acoustic", "width": 32, "depth": 1, "heads": 2}


def tone(seconds: float, frequency: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table beside its recordings, whose paths are relative to it, and a run that was trained on it."""
    place = tmp_path_factory.mktemp("cli speech") / "Töne"
    (place / "takes").mkdir(parents=True)
    with (place / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["take", "text", "who", "age"])
        for row in range(40):
            soundfile.write(place / "takes" / f"{row}.wav", tone(0.3, 400 if row % 2 else 1500), RATE)
            rows.writerow([f"takes/{row}.wav", "ab" if row % 2 else "ba", ("ann", "bob")[row % 4 // 2], row % 9])
    lepton.fit(
        place / "rows.csv",
        TASKS,
        ignore=["age"],
        trunk=TRUNK,
        training={"max_epochs": 1, "batch_size": 8, "num_workers": 0},
        folder=place / "run",
        data={"max_seconds": 1.0},
        quiet=True,
    )
    return place


def invoke(*words: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, [str(word) for word in words])
    return found.exit_code, found.stdout, found.stderr


def test_a_recording_is_predicted(folder: Path) -> None:
    code, out, _ = invoke("predict", folder / "run", folder / "takes" / "3.wav", "--json")
    (row,) = json.loads(out)["rows"]
    assert code == 0 and row["take"] == str(folder / "takes" / "3.wav")
    assert set(row) == {"take", "said", "said_probability", "who", "who_probability_ann", "who_probability_bob"}
    assert row["who_probability_ann"] + row["who_probability_bob"] == pytest.approx(1, abs=1e-5)


def test_a_folder_of_recordings_is_predicted_whatever_its_column_is_called(folder: Path) -> None:
    code, out, _ = invoke("predict", folder / "run", folder / "takes", "--task", "who", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and {Path(row["take"]).name for row in rows} == {f"{row}.wav" for row in range(40)}
    assert "notes" not in json.loads(out)


def test_what_is_cut_is_said(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", tone(600, 400), RATE)
    code, out, _ = invoke("predict", folder / "run", tmp_path / "long.flac", "--plain")
    assert code == 0 and "1 of 1 predicted recordings are cut" in " ".join(out.split())
    code, out, _ = invoke("predict", folder / "run", tmp_path / "long.flac", "--json")
    (note,) = json.loads(out)["notes"]
    assert code == 0 and "data.max_seconds = 1" in note


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "words.wav").write_text("no sound")
    for name, words in (("none.wav", "no such file"), ("empty.wav", "is empty"), ("words.wav", "no recording")):
        code, _, err = invoke("predict", folder / "run", tmp_path / name)
        assert code == 2 and name in err and words in err


def test_it_speaks(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sound = tmp_path / "new" / "said.wav"
    words = ("say", folder / "run", "AB ba", "--voice", "ann", "--output", sound)
    code, _, err = invoke(*words)
    assert code == 2 and "' '" in err and "known are ['a', 'b']" in err
    words = ("say", folder / "run", "ABba", "--voice", "ann", "--output", sound)
    code, out, _ = invoke(*words, "--json")
    told = json.loads(out)
    heard, rate = soundfile.read(sound)
    assert code == 0 and told["text"] == "abba" and rate == RATE and len(heard) / rate == pytest.approx(told["seconds"])
    assert sound.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    code, _, err = invoke(*words)
    assert code == 2 and "is there already" in err
    for options, wanted in ((("--voice", "anna"), "Did you mean 'ann'"), ((), "which voice is meant?")):
        code, _, err = invoke("say", folder / "run", "ab", *options, "--output", tmp_path / "other.wav")
        assert code == 2 and wanted in err and not (tmp_path / "other.wav").exists()


def test_a_written_configuration_trains(folder: Path, tmp_path: Path) -> None:
    """Of a table with recordings and more, the recordings are read and the rest stands in comments."""
    path = tmp_path / "run.yaml"
    code, _, _ = invoke("init", "--from", folder / "rows.csv", "--target", "who", "--output", path)
    assert code == 0 and yaml.safe_load(path.read_text())["data"]["inputs"] == {"take": "audio"}
    code, out, err = invoke("validate", path, "--json")
    assert code == 0, err
    assert json.loads(out)["passed"]


def test_baselines_of_recordings(folder: Path) -> None:
    """No tree reads a recording: that is a note, and not a failure after all tasks were trained alone."""
    pytest.importorskip("sklearn")
    code, out, _ = invoke("baseline", folder / "run", "--json")
    assert code == 0 and set(json.loads(out)["alone"]) == set(TASKS)


def test_only_a_speech_recipe_speaks(tmp_path: Path) -> None:
    for words in (("tagging", "say", "one", "--speaker", "x"), ("speech", "say", "one"), ("speech", "say")):
        code, _, err = invoke("recipe", *words, "--folder", tmp_path)
        assert code == 2 and 'lepton recipe speech say "seven" --speaker NAME' in err
