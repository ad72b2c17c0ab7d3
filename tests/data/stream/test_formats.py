"""Shards of every format give the same rows, from files, folders and URLs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from lepton.data import Shards, StreamLoader
from lepton.data.stream import _lines
from lepton.errors import DataError
from tests.data.stream.sources import FORMATS, Ids, ids_of, rows, write


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "STRETCH", 1 << 10)  # so that a small file has many groups


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_file_gives_all_its_rows_with_their_labels(tmp_path: Path, name: str, shuffle: bool) -> None:
    content = rows(0, 300)
    shards = Shards(write(tmp_path / name, content))
    batches = list(StreamLoader(shards, Ids(), 32, window=50, shuffle=shuffle))
    assert [len(inputs) for inputs, _ in batches] == [32] * 9 + [12]
    found = {int(n): label for inputs, targets in batches for n, label in zip(inputs, targets["label"], strict=True)}
    assert found.keys() == set(range(300)) and len(shards) == 300
    assert all(
        bool(found[n].isnan()) if row["label"] is None else found[n] == row["label"] for n, row in enumerate(content)
    )
    order = ids_of(batches)
    assert (order == sorted(order)) != shuffle


@pytest.mark.parametrize("name", FORMATS)
def test_words_with_quotation_marks_and_line_breaks_come_through(tmp_path: Path, name: str) -> None:
    shards = Shards(write(tmp_path / name, rows(0, 100)))
    found = [word for g in range(len(shards.groups)) for block in shards.blocks(g) for word in block.table["word"]]
    assert [word.as_py() for word in found] == [row["word"] for row in rows(0, 100)]


def test_a_folder_joins_shards_of_all_formats_and_a_column_that_one_lacks_is_missing(tmp_path: Path) -> None:
    for place, name in enumerate(FORMATS):
        content = rows(100 * place, 100 * (place + 1))
        if name == "a.jsonl":
            content = [{"id": row["id"], "word": row["word"]} for row in content]
        write(tmp_path / name, content)
    shards = Shards(tmp_path)
    batches = list(StreamLoader(shards, Ids(), 64, window=128, shuffle=True))
    assert sorted(ids_of(batches)) == list(range(800))
    labels = torch.cat([targets["label"] for _, targets in batches])
    ids = torch.cat([inputs for inputs, _ in batches])
    place = FORMATS.index("a.jsonl")
    of_it = (ids >= 100 * place) & (ids < 100 * (place + 1))
    assert labels[of_it].isnan().all() and 0 < int(labels[~of_it].isnan().sum()) == 700 // 5


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_urls_are_read_through_fsspec_by_workers_too(tmp_path: Path, protocol: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    folder = f"{tmp_path}/rows" if protocol == "file" else "/rows"
    system = fsspec.filesystem(protocol)
    system.makedirs(folder, exist_ok=True)
    for place, name in enumerate(("a.parquet", "b.csv", "c.jsonl.gz")):
        path = write(tmp_path / name, rows(50 * place, 50 * (place + 1)))
        system.pipe(f"{folder}/{name}", path.read_bytes())
    shards = Shards(f"{protocol}://{folder}")
    assert ids_of(StreamLoader(shards, Ids(), 20, window=30, workers=2)) == list(range(150))
    system.rm(folder, recursive=True)


def test_numbers_of_different_types_meet_in_one_column(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": pa.array([0, 1]), "label": pa.nulls(2)}), tmp_path / "0.parquet")
    parquet.write_table(pa.table({"id": pa.array([2.0, 3.0], pa.float32()), "label": [1, 2]}), tmp_path / "1.parquet")
    shards = Shards(tmp_path)
    assert shards.schema.field("id").type == pa.float64() and shards.schema.field("label").type == pa.int64()
    assert ids_of(StreamLoader(shards, Ids(), 2)) == [0, 1, 2, 3]


def test_a_row_group_larger_than_what_is_read_at_once_is_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton.data.stream._columnar.AT_ONCE", 10)
    shards = Shards(write(tmp_path / "a.parquet", rows(0, 300), group=150))
    assert ids_of(StreamLoader(shards, Ids(), 7, window=40)) == list(range(300))
    assert sorted(ids_of(StreamLoader(shards, Ids(), 7, window=40, shuffle=True, workers=2))) == list(range(300))


def test_a_table_in_memory_and_a_dataset_are_sources_too() -> None:
    class Numbers(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, row: int):
            return torch.tensor(float(row)), {"label": row}

    assert ids_of(StreamLoader(Shards(pa.table({"id": np.arange(10.0), "label": [0] * 10})), Ids(), 4)) == [*range(10)]
    assert ids_of(StreamLoader(Shards(Numbers()), batch_size=4)) == list(range(10))
    with pytest.raises(DataError, match="no length"):
        Shards(Endless())


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from iter(int, 1)


def test_what_is_no_shard_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        Shards(tmp_path / "none.parquet")
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(DataError, match="nothing that can be streamed"):
        Shards(tmp_path / "a.xlsx")
    shards = Shards(write(tmp_path / "a.csv", rows(0, 3)))
    with pytest.raises(DataError, match=r"no column 'label'.*Did you mean"):
        StreamLoader(Shards(write(tmp_path / "b.csv", [{"id": 1.0, "labels": 2.0}])), Ids(), 2)
    assert len(Shards(tmp_path / "a.csv", limit=2)) == 2 < len(shards)
