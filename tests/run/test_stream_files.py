"""Runs that stream texts, recordings and pictures: trained end to end, broken off, and with files that are unusable."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

import lepton
from lepton.config import Config
from lepton.data import StreamRows
from lepton.errors import DataError
from lepton.run import prepare, resume_run, train_run
from lepton.run._rows import make_loader
from tests.conftest import Interrupt

RATE = 8000
TRAINING = {"max_epochs": 2, "batch_size": 8, "num_workers": 0, "checkpoint_every": 3}
TEXT_TRUNK = {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}
SOUND_TRUNK = {"type": "acoustic", "width": 16, "depth": 1, "heads": 2, "mels": 20, "dropout": 0.0, "masks": 0}

Rows = list[dict[str, Any]]


def sentences(folder: Path, size: int) -> Rows:
    del folder
    draw = random.Random(0)
    english = [" ".join(draw.choices(["the", "dog", "runs", "far"], k=draw.randint(1, 9))) for _ in range(size)]
    return [{"en": text, "de": text.replace("dog", "Hund") + ".", "dog": "dog" in text} for text in english]


def tagged(folder: Path, size: int) -> Rows:
    words = [row["en"].split() for row in sentences(folder, size)]
    return [{"words": row, "tags": ["N" if word == "dog" else "X" for word in row]} for row in words]


def recordings(folder: Path, size: int) -> Rows:
    soundfile = pytest.importorskip("soundfile")
    draw, found = np.random.default_rng(0), []
    for row in range(size):
        text = str(draw.choice(["ab", "ba", "b"]))
        tones = [np.sin(np.arange(int(RATE * draw.uniform(0.1, 0.2))) * (0.4 if c == "a" else 1.3)) for c in text]
        soundfile.write(folder / f"{row}.wav", 0.3 * np.concatenate(tones), RATE)
        found.append({"audio": str(folder / f"{row}.wav"), "text": text, "who": "ann" if row % 2 else "bob"})
    return found


def pictures(folder: Path, size: int) -> Rows:
    draw, found = np.random.default_rng(0), []
    for row in range(size):
        mask = (np.arange(12) > draw.integers(2, 9)).astype(np.uint8)[None].repeat(10, 0)
        mask[0, 0] = 2 if row % 3 else 0
        paths = {"image": str(folder / f"{row}.png"), "mask": str(folder / f"{row}-mask.png")}
        Image.fromarray(np.stack([mask * 200] * 3, 2)).save(paths["image"])
        Image.fromarray(mask).save(paths["mask"])
        found.append(paths)
    return found


def described(folder: Path, size: int) -> Rows:
    """A table with numbers and a column of texts that are read as tokens."""
    rows = sentences(folder, size)
    return [{"a": float(n % 7), "en": row["en"], "x": n % 7 + 2.0 * row["dog"]} for n, row in enumerate(rows)]


CASES: dict[str, tuple[Callable[[Path, int], Rows], dict[str, Any]]] = {
    "texts": (
        sentences,
        {
            "tasks": {
                "english": {"type": "language_modeling", "column": "en"},
                "german": {"type": "translation", "column": "de"},
                "dog": "classification",
            },
            "trunk": TEXT_TRUNK,
        },
    ),
    "tags": (tagged, {"tasks": {"tags": "token_classification"}, "trunk": TEXT_TRUNK}),
    "recordings": (
        recordings,
        {
            "tasks": {
                "said": {"type": "speech_recognition", "column": "text"},
                "who": "classification",
                "voice": {"type": "speech_synthesis", "column": "text", "voice": "who"},
            },
            "trunk": SOUND_TRUNK,
        },
    ),
    "pictures": (
        pictures,
        {
            "tasks": {
                "parts": {"type": "segmentation", "column": "mask", "classes": ["sky", "road", "sign"]},
                "there": {"type": "multi_label", "column": "mask", "labels": ["sky", "road", "sign"]},
            },
            "trunk": {"type": "unet", "width": 4},
        },
    ),
    "tokens": (described, {"data": {"kinds": {"en": "tokens"}}, "tasks": ["x"]}),
}
NEEDS = {"texts": ("tokenizers", "sacrebleu"), "recordings": ("soundfile", "jiwer"), "tokens": ("tokenizers",)}


def written(folder: Path, case: str, size: int = 120) -> tuple[Path, Rows]:
    """Two shards of Parquet with groups of 30 rows."""
    for package in NEEDS.get(case, ()):
        pytest.importorskip(package)
    files, shards = folder / "files", folder / "shards"
    files.mkdir(parents=True)
    shards.mkdir()
    rows = CASES[case][0](files, size)
    half = size // 2
    for shard, some in enumerate((rows[:half], rows[half:])):
        parquet.write_table(pa.Table.from_pylist(some), shards / f"{shard}.parquet", row_group_size=30)
    return shards, rows


def config_of(source: Path, case: str, *, stream: bool = True, **training: Any) -> Config:
    told = CASES[case][1]
    data = {"source": str(source), "stream": stream, "vocabulary": 300, **told.get("data", {})}
    data |= {"window": 48} if stream else {}
    return Config.model_validate({**told, "data": data, "training": {**TRAINING, **training}})


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_streamed_files_trains_and_is_loaded(case: str, tmp_path: Path) -> None:
    source, rows = written(tmp_path, case)
    run = train_run(config_of(source, case), tmp_path / "run", quiet=True)
    losses = [value for line in run.history for key, value in line.items() if key.startswith("val/") and "loss" in key]
    assert losses and all(np.isfinite(losses))
    again = lepton.load(run.folder)
    found = again.evaluate(part="test")
    for task, result in found.items():
        assert result.metrics == pytest.approx(run.results["test"][task].metrics, nan_ok=True), task
    assert sum(again.evaluate(part=part)[list(found)[-1]].n_labels > 0 for part in ("train", "val", "test")) == 3
    assert again.report().exists() and not (run.folder / "quarantine.jsonl").exists()
    assert sum(json.loads((run.folder / "data.json").read_text())["rows"].values()) == len(rows)


def by_row(batches: Any) -> list[dict[str, Any]]:
    """The rows of batches, without padding: places that are 0 in all inputs and -100 or NaN in targets are left out."""
    found: list[dict[str, Any]] = []
    for inputs, targets in batches:
        for row in range(len(next(iter(targets.values())))):
            each = {name: value[row] for name, value in inputs.items()}
            each |= {f"target {name}": value[row] for name, value in targets.items()}
            found.append({name: _unpadded(name, value) for name, value in each.items()})
    return found


def _unpadded(name: str, value: torch.Tensor) -> Any:
    if value.ndim == 0 or "image" in name or "parts" in name:
        return value.tolist()
    pad = torch.nan if value.is_floating_point() and "target" in name else -100 if "target" in name else 0
    filled = value.isfinite() if pad != pad else value != pad
    last = filled.flatten(1).any(1) if value.ndim > 1 else filled
    end = int(last.nonzero().max()) + 1 if last.any() else 0
    return value[:end].tolist()


@pytest.mark.parametrize("case", CASES)
def test_streamed_rows_are_those_in_memory_and_no_wider_than_their_batch_needs(case: str, tmp_path: Path) -> None:
    source, _ = written(tmp_path, case)
    rows = prepare(config_of(source, case)).data["val"]
    assert isinstance(rows, StreamRows) and len(rows) > 8
    config = config_of(source, case)
    streamed = list(rows.loader(5))
    held = list(make_loader(rows.sample, config, batch_size=5))  # so few rows that the sample holds all
    assert str(by_row(streamed)) == str(by_row(held))
    for (inputs, targets), (own, labels) in zip(streamed, held, strict=True):
        assert {name: value.shape for name, value in inputs.items()} == {n: value.shape for n, value in own.items()}
        for name, value in targets.items():
            assert value.shape == labels[name].shape and value.dtype == labels[name].dtype, name


def test_rows_of_like_length_come_together(tmp_path: Path) -> None:
    source, _ = written(tmp_path, "texts", 400)
    rows = prepare(config_of(source, "texts")).data["train"]
    assert isinstance(rows, StreamRows)
    rows = dataclasses.replace(rows, window=400)

    def padding(loader: Any) -> float:
        tokens = [inputs["tokens"] for inputs, _ in loader]
        return sum(int((batch == 0).sum()) for batch in tokens) / sum(batch.numel() for batch in tokens)

    assert padding(rows.loader(8, shuffle=True)) < 0.5 * padding(rows.loader(8))


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_broken_off_goes_on_at_the_very_next_row(case: str, tmp_path: Path) -> None:
    """Also in the middle of a part of a window, with other workers, and with draws that change pictures and sounds."""
    source, _ = written(tmp_path, case)
    whole = train_run(config_of(source, case), tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train_run(config_of(source, case, num_workers=2), tmp_path / "broken", quiet=True, callbacks=[Interrupt(7)])
    broken = resume_run(tmp_path / "broken", quiet=True)
    weights = whole.model.state_dict()
    assert all(value.equal(weights[name]) for name, value in broken.model.state_dict().items())


def test_files_that_cannot_be_used_are_written_down_with_their_rows(tmp_path: Path) -> None:
    source, rows = written(tmp_path / "pictures", "pictures")
    Path(rows[7]["image"]).unlink()
    broken = Path(rows[40]["image"])
    broken.write_bytes(broken.read_bytes()[:40])
    Image.fromarray(np.full((10, 12), 9, np.uint8)).save(rows[75]["mask"])  # no class of it
    kept = _quarantined(tmp_path / "run", source, "pictures")
    assert {name: [row for file, row in kept if file == name] for name in ("0.parquet", "1.parquet")} == {
        "0.parquet": [7, 40],
        "1.parquet": [15],
    }


def test_recordings_that_cannot_be_used_are_written_down_with_their_rows(tmp_path: Path) -> None:
    source, rows = written(tmp_path / "sounds", "recordings")
    Path(rows[3]["audio"]).unlink()
    Path(rows[70]["audio"]).write_bytes(b"no sound")
    assert sorted(_quarantined(tmp_path / "run", source, "recordings")) == [("0.parquet", 3), ("1.parquet", 10)]


def test_texts_whose_tags_do_not_fit_are_written_down(tmp_path: Path) -> None:
    source, rows = written(tmp_path / "tags", "tags")
    rows[5]["tags"] = ["X"] * 20
    parquet.write_table(pa.Table.from_pylist(rows[:60]), source / "0.parquet", row_group_size=30)
    assert _quarantined(tmp_path / "run", source, "tags") == [("0.parquet", 5)]


def _quarantined(folder: Path, source: Path, case: str) -> list[tuple[str, int]]:
    told = config_of(source, case).model_dump(mode="json")
    config = Config.model_validate({**told, "data": {**told["data"], "max_bad_rows": 0.1}})
    run = train_run(config, folder, quiet=True)
    kept = [json.loads(line) for line in (run.folder / "quarantine.jsonl").read_text().splitlines()]
    assert any("rows could not be used" in note for note in json.loads((folder / "data.json").read_text())["notes"])
    return sorted((Path(bad["file"]).name, bad["row"]) for bad in kept)


def test_a_source_whose_files_are_all_gone_is_refused(tmp_path: Path) -> None:
    source, rows = written(tmp_path, "pictures")
    for row in rows:
        Path(row["image"]).unlink()
    with pytest.raises(DataError, match=r"none of the \d+ train rows.*\.png: there is no such"):
        prepare(config_of(source, "pictures"))


def test_a_folder_of_pictures_is_streamed(tmp_path: Path) -> None:
    for row in range(60):
        place = tmp_path / "pictures" / ("dark" if row % 2 else "light")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 if row % 2 else 230, np.uint8)).save(place / f"{row}.png")
    content = {"data": {"source": str(tmp_path / "pictures"), "stream": True}, "tasks": ["label"]}
    run = train_run(Config.model_validate(content | {"training": TRAINING}), tmp_path / "run", quiet=True)
    assert run.results["test"]["label"].metrics["accuracy"] > 0.9
