"""Rows that cannot be used: each is written down with its file and its number, and the others are used."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from lepton.data import (
    InputEncoder,
    LabelRule,
    PictureEncode,
    Quarantine,
    Shards,
    SoundEncode,
    StreamLoader,
    describe_columns,
    read_table,
)
from lepton.data.stream import _lines
from lepton.errors import DataError
from tests.data.stream.sources import Ids, ids_of, rows, write


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "STRETCH", 1 << 12)


def used(source: Any, tmp_path: Path, cap: float = 0.5, **options: Any) -> tuple[list[int], list[dict[str, Any]]]:
    """The rows that can be used, and what is written of the others."""
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, cap=cap)
    found = ids_of(StreamLoader(Shards(source), Ids(), 16, window=50, quarantine=quarantine, **options))
    lines = path.read_text().splitlines() if path.exists() else []
    assert sum(json.loads(line)["rows"] for line in lines) == quarantine.rows
    return found, [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_line_of_the_wrong_type_and_a_truncated_one_are_named(tmp_path: Path, name: str, workers: int) -> None:
    path = tmp_path / name
    written = write(tmp_path / name, [{"id": float(n), "label": float(n % 3)} for n in range(400)]).read_bytes()
    text = gzip.decompress(written) if name.endswith(".gz") else written
    lines = text.decode().splitlines(keepends=True)
    head = 1 if ".csv" in name else 0
    lines[head + 123] = lines[head + 123].replace("123.0", '"many"')
    lines[head + 300] = lines[head + 300][:5] + "\n"
    text = "".join(lines).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found, bad = used(path, tmp_path, workers=workers)
    assert found == [n for n in range(400) if n not in (123, 300)]
    assert [(one["file"], one["row"]) for one in bad] == [(str(path), 123), (str(path), 300)]
    assert "many" in bad[0]["text"] and bad[0]["reason"] and bad[1]["text"] == lines[head + 300].strip()


def test_a_wrong_type_in_one_shard_of_parquet_is_found_value_by_value(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", [{"id": float(n), "label": 0.0} for n in range(100)])
    words = [str(n) if n != 130 else "many" for n in range(100, 200)]
    parquet.write_table(pa.table({"id": words, "label": [0.0] * 100}), tmp_path / "1.parquet")
    schema = Shards(tmp_path).schema
    assert schema.field("id").type == pa.string()  # two shards that disagree: nobody knows which is wrong


def test_an_infinite_input_is_named_and_a_missing_one_is_missing(tmp_path: Path) -> None:
    content = [{"id": math.inf if n == 70 else math.nan if n == 71 else float(n), "label": 0.0} for n in range(200)]
    quarantine = Quarantine(tmp_path / "q.jsonl", cap=0.1)
    shards = Shards(write(tmp_path / "a.parquet", content))
    ids = torch.cat([inputs for inputs, _ in StreamLoader(shards, Ids(), 16, window=50, quarantine=quarantine)])
    assert len(ids) == 199 and int(ids.isnan().sum()) == 1
    (bad,) = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert bad["row"] == 70 and bad["reason"] == "an input is infinite"


def test_of_a_damaged_row_group_the_others_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", rows(0, 300), group=100)
    about = parquet.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    start = min(about.dictionary_page_offset or about.data_page_offset, about.data_page_offset)
    data[start : start + about.total_compressed_size] = bytes(about.total_compressed_size)
    path.write_bytes(data)
    found, bad = used(path, tmp_path)
    assert found == list(range(200))
    assert [(one["row"], one["rows"]) for one in bad] == [(200, 100)] and "cannot be read" in bad[0]["reason"]


@pytest.mark.parametrize("name", ["a.feather", "stream.arrow", "a.csv.gz", "a.jsonl.gz"])
def test_of_a_truncated_shard_the_rows_before_are_used(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    content = [{**row, "word": rng.bytes(20).hex()} for row in rows(0, 600)]
    path = write(tmp_path / name, content)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, bad = used(path, tmp_path, cap=1.0)
    assert found == list(range(len(found))) and 100 < len(found) < 500
    assert bad[-1]["row"] >= len(found) and bad[0]["file"] == str(path)


def test_missing_and_truncated_shards_are_lost_whole_and_count_as_much_as_the_others(tmp_path: Path) -> None:
    good = [write(tmp_path / f"{n}.parquet", rows(100 * n, 100 * n + 100)) for n in range(3)]
    broken = write(tmp_path / "broken.parquet", rows(0, 100))
    broken.write_bytes(broken.read_bytes()[:-50])
    source = [*good, tmp_path / "gone.parquet", broken]
    found, bad = used(source, tmp_path)
    assert found == list(range(300))
    assert [(Path(one["file"]).name, one["row"], one["rows"]) for one in bad] == [
        ("gone.parquet", None, 100),
        ("broken.parquet", None, 100),
    ]
    with pytest.raises(DataError, match=r"200 of 500 rows cannot be used.*more than 1%"):
        StreamLoader(Shards(source), Ids(), 16)


def test_a_shard_that_vanishes_while_it_is_read_is_named(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.parquet", rows(100 * n, 100 * n + 100))
    shards = Shards(tmp_path)
    (tmp_path / "1.parquet").unlink()
    quarantine = Quarantine(cap=0.6)
    assert ids_of(StreamLoader(shards, Ids(), 16, quarantine=quarantine)) == list(range(100))
    assert quarantine.rows == 100


def test_a_broken_picture_and_a_broken_recording_are_named(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    for n in range(6):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"{n}.png")
        soundfile.write(tmp_path / f"{n}.wav", np.full(100 + n, 0.1), 8000)
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "4.wav").unlink()
    table = pa.table(
        {
            "image": [str(tmp_path / f"{n}.png") for n in range(6)],
            "audio": [str(tmp_path / f"{n}.wav") for n in range(6)],
            "label": [float(n) for n in range(6)],
        }
    )
    rules = [LabelRule("label", "regression", ("label",))]
    images = describe_columns(read_table(table.select(["image"])), {"image": "image"})
    pictures = PictureEncode(InputEncoder.fit(table, images), rules, size=(4, 4))
    sounds = SoundEncode("audio", rules, sample_rate=8000)
    for encode, lost, reason in ((pictures, 2, "2.png"), (sounds, 4, "4.wav")):
        quarantine = Quarantine(tmp_path / f"{lost}.jsonl", cap=0.5)
        batches = list(StreamLoader(Shards(table), encode, 2, quarantine=quarantine, workers=1))
        assert [n for _, targets in batches for n in targets["label"].tolist()] == [n for n in range(6) if n != lost]
        (bad,) = [json.loads(line) for line in (tmp_path / f"{lost}.jsonl").read_text().splitlines()]
        assert bad["row"] == lost and reason in bad["reason"]


def test_a_folder_of_pictures_is_a_source(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for n in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{kind}{n}.png")
    shards = Shards(tmp_path)
    assert len(shards) == 6 and shards.schema.names == ["image", "label"]


def test_a_dataset_row_that_fails_is_named() -> None:
    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, row: int):
            if row == 5:
                raise ValueError("cannot be decoded")
            return torch.tensor(float("nan") if row == 7 else float(row)), {"label": row}

    quarantine = Quarantine(cap=0.5)
    assert ids_of(StreamLoader(Shards(Rows()), batch_size=4, quarantine=quarantine)) == [0, 1, 2, 3, 4, 6, 8]
    assert quarantine.rows == 2


# -- keeping count ------------------------------------------------------------------------------------------------
def test_too_many_end_the_training_and_one_in_a_hundred_does_not(tmp_path: Path) -> None:
    content = [{"id": float(n), "label": 0.0} for n in range(400)]
    path = write(tmp_path / "a.jsonl", content)
    lines = path.read_text().splitlines(keepends=True)
    for place in (10, 200, 201, 300):
        lines[place] = "{\n"
    path.write_text("".join(lines))
    found, bad = used(path, tmp_path, cap=0.01)
    assert len(found) == 396 and len(bad) == 4
    with pytest.raises(DataError, match=r"4 of 400 rows cannot be used, such as .*a.jsonl, row 10:"):
        ids_of(StreamLoader(Shards(path), Ids(), 16, quarantine=Quarantine(cap=0.0099)))


def test_a_row_counts_once_in_every_epoch_and_after_a_restart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": float(n), "label": 0.0} for n in range(100)])
    path.write_text(path.read_text() + "{broken\n")
    log = tmp_path / "run" / "quarantine.jsonl"
    quarantine = Quarantine(log, cap=0.01)
    loader = StreamLoader(Shards(path), Ids(), 16, quarantine=quarantine)
    first, second = ids_of(loader), ids_of(loader)
    again = Quarantine(log, cap=0.01)
    ids_of(StreamLoader(Shards(path), Ids(), 16, quarantine=again))
    assert first == second and quarantine.rows == again.rows == 1 and len(log.read_text().splitlines()) == 1


def test_half_a_line_that_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    log = tmp_path / "quarantine.jsonl"
    log.write_text('{"file": "a", "row": 1, "reason": "x", "text": "", "rows": 1}\n{"file": "a", "ro')
    assert Quarantine(log).rows == 1 and log.read_text().count("\n") == 1 and log.read_text().endswith("\n")


def test_processes_with_unusable_rows_have_as_many_batches_as_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": float(n), "label": 0.0} for n in range(64)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(["{\n"] * 9 + lines[9:]))
    for drop_last, last in ((False, 0), (True, 8)):
        found = [
            [
                inputs
                for inputs, _ in StreamLoader(
                    Shards(path), Ids(), 8, drop_last=drop_last, rank=rank, world_size=2, quarantine=Quarantine(cap=1.0)
                )
            ]
            for rank in (0, 1)
        ]
        assert [len(batches) for batches in found] == [4, 4]
        assert len(found[0][-1]) == last
