"""Rows that a run keeps: balanced from sorted data, of pictures, and what is not kept."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lepton
from lepton.config import read_config
from lepton.data import TensorData
from lepton.run import Run, continue_run, load, prepare
from lepton.run._replay import keep_rows, read_kept_rows, remember, rows_in
from lepton.run.report import read_profiles
from lepton.tasks import Classification, Regression
from tests.run.continued.conftest import ONE, hashes, table

pd = pytest.importorskip("pandas")


def test_a_memory_of_rows_that_are_sorted_by_class_is_balanced_by_class_and_task() -> None:
    """Row 13 of the table of faults: of data that are sorted by class, many a memory holds one class."""
    kind = torch.arange(5).repeat_interleave(torch.tensor([4000, 1000, 300, 100, 600]))
    rows = TensorData(
        torch.arange(6000.0)[:, None], {"kind": kind, "size": torch.where(kind > 2, torch.nan, 1.0 * kind)}
    )
    tasks = [Classification("kind", classes=5), Regression("size")]
    memory = remember(tasks, rows, 200)
    by_task = Counter({"kind": 0, "size": 0})
    for (name, _), count in memory.counts.items():
        by_task[name] += count
    assert len(memory) == 200 and abs(by_task["kind"] - by_task["size"]) <= 2
    assert all(20 <= memory.counts["kind", number] <= 21 for number in range(5))
    kept = rows_in(memory)
    assert kept is not None and isinstance(kept.inputs, torch.Tensor)
    places = kept.inputs[:, 0].long()
    assert len(places.unique()) == 200 and torch.equal(kept.targets["kind"], kind[places])


def test_a_run_on_sorted_rows_keeps_as_many_of_each_class(run: Run) -> None:
    assert pd.read_parquet(run.config.data.source)["kind"].is_monotonic_increasing
    prepared = prepare(read_config(run.folder / "config.yaml"))
    tasks = [run.model.task(name) for name in run.tasks]
    memory = keep_rows(tasks, prepared.data, 90, 0).train
    assert all(memory.counts["kind", number] in (10, 11) for number in range(3))
    assert all(memory.counts[name, -1] in (29, 30, 31) for name in ("price", "tags"))


def test_what_a_run_keeps_are_rows_of_its_parts(run: Run) -> None:
    kept = read_kept_rows(run.folder, [run.model.task(name) for name in run.tasks])
    told = json.loads((run.folder / "replay" / "state.json").read_text())["note"]
    assert "rows of the data" in told and set(kept.held_out) == {"val", "test"}
    for part, memory in {"train": kept.train, **kept.held_out}.items():
        rows = rows_in(memory)
        assert rows is not None
        every = run.encoder.encode(run.tables()[part])["numbers"]
        assert len(rows) == len(every)  # there are fewer than it may keep
        assert {tuple(row) for row in rows.inputs["numbers"].tolist()} == {tuple(row) for row in every.tolist()}


def test_old_and_new_rows_are_weighed_by_their_numbers() -> None:
    """A held-out memory stays a sample of all rows, also where it forgot most of the old ones."""
    task = Classification("kind", classes=2)
    share = []
    for seed in range(40):
        old = TensorData(torch.zeros(900, 1), {"kind": torch.zeros(900).long()})
        new = TensorData(torch.ones(300, 1), {"kind": torch.ones(300).long()})
        first = remember([task], old, 60, balanced=False, seed=seed)
        rows = rows_in(remember([task], new, 60, balanced=False, seed=seed, before=first))
        assert rows is not None and isinstance(rows.inputs, torch.Tensor)
        assert torch.equal(rows.inputs[:, 0].long(), rows.targets["kind"])
        share.append(float(rows.inputs.mean()))
    assert np.mean(share) == pytest.approx(0.25, abs=0.03)


def test_new_rows_may_lack_labels_that_old_ones_have() -> None:
    tasks = [Classification("kind", classes=2), Regression("size")]
    old = TensorData(torch.zeros(30, 1), {"kind": torch.zeros(30).long(), "size": torch.zeros(30)})
    new = TensorData(torch.ones(30, 1), {"kind": torch.ones(30).long()})
    rows = rows_in(remember(tasks, new, 40, before=remember(tasks, old, 40)))
    assert rows is not None and isinstance(rows.inputs, torch.Tensor)
    fresh = rows.inputs[:, 0] == 1
    assert fresh.any() and rows.targets["size"][fresh].isnan().all() and (rows.targets["size"][~fresh] == 0).all()


def pictures(folder: Path, classes: dict[str, int], n: int = 24) -> Path:
    """A folder of pictures for each class, with its brightness."""
    from PIL import Image

    rng = np.random.default_rng(len(classes))
    for name, level in classes.items():
        (folder / name).mkdir(parents=True)
        for row in range(n):
            noise = rng.integers(-9, 9, (8, 8, 3))
            Image.fromarray((level + noise).astype(np.uint8)).save(folder / name / f"{name}{row}.png")
    return folder


def test_pictures_are_kept_replayed_and_compared(tmp_path: Path) -> None:
    old = pictures(tmp_path / "old", {"dark": 20, "grey": 120})
    training = {"max_epochs": 2, "num_workers": 0, "batch_size": 8}
    run = lepton.fit(old, ["label"], training=training, folder=tmp_path / "run", quiet=True)
    new = pictures(tmp_path / "new", {"dark": 20, "white": 240})
    (tmp_path / "old").rename(tmp_path / "gone")
    found = continue_run(run, new, new_classes=True, overrides=["training.max_epochs=2"], quiet=True)
    assert found.run.rules[0].classes == ("dark", "grey", "white") and "keeps" in found.notes[-1]
    kept = read_kept_rows(found.run.folder, [found.run.model.task("label")])
    assert {number for _, number in kept.train.counts} == {0, 1, 2}
    rows = rows_in(kept.train)
    assert rows is not None and rows.inputs["image"].dtype == torch.uint8
    levels = rows.inputs["image"].double().mean((1, 2, 3))
    for number, level in enumerate((20, 120, 240)):
        assert (levels[rows.targets["label"] == number] - level).abs().max() < 5
    assert found.drift is not None
    moved = [column.name for column in found.drift.moved]
    assert "image: red mean" in moved and found.drift.columns[0].role in ("input", "target")


def test_texts_are_compared_by_words_that_old_ones_have_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["house", "garden", "street", "window", "door", "roof", "wall", "tree"]

    def notes(vocabulary: list[str], n: int) -> Any:
        texts = [" ".join(rng.choice(vocabulary, 5)) for _ in range(n)]
        return pd.DataFrame({"note": texts, "dear": ["yes" if "garden" in text else "no" for text in texts]})

    options: dict[str, Any] = {"kinds": {"note": "text"}, "folder": tmp_path / "run", "quiet": True}
    run = lepton.fit(notes(words, 200), ["dear"], training={"max_epochs": 1}, **options)
    found = continue_run(run, notes([*words, "lift", "garage"], 100), overrides=ONE, quiet=True)
    assert found.drift is not None
    told = {column.name: column for column in found.drift.columns}
    assert told["note: unknown words"].moved and not told["note: words"].moved
    again = continue_run(found.run, notes([*words, "lift", "garage"], 100), overrides=ONE, quiet=True)
    assert again.drift is not None  # what the run has learned since is known to its profiles: rows are counted in
    assert again.drift.old > found.drift.old


def test_a_run_of_an_older_version_is_compared_by_its_source_or_not_at_all(run: Run, tmp_path: Path) -> None:
    known = read_profiles(run.folder)
    about = json.loads((run.folder / "data.json").read_text())
    del about["profiles"]
    (run.folder / "data.json").write_text(json.dumps(about))
    assert known is not None and read_profiles(run.folder) is None
    new = table(100, shift=2.0, seed=1)
    found = continue_run(run, new, tmp_path / "first", overrides=ONE, quiet=True)
    assert found.drift is not None and "x" in [column.name for column in found.drift.moved]
    (tmp_path / "old.parquet").unlink()
    blind = continue_run(run, new, tmp_path / "second", overrides=ONE, quiet=True)
    assert blind.drift is None and any("no drift report" in note for note in blind.notes)
    assert not (tmp_path / "second" / "drift.json").exists()


def test_rows_like_the_old_ones_move_nothing(run: Run) -> None:
    found = continue_run(run, table(300, seed=11), overrides=ONE, quiet=True)
    assert found.drift is not None and len(found.drift.moved) <= 1
    told = json.loads((found.run.folder / "drift.json").read_text())
    assert told["rows"] == {"old": 280, "new": 300} and set(told["metrics"]) >= {"old rows, before", "new rows, before"}


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files here")
def test_a_full_disk_leaves_the_old_run_alone(run: Run, tmp_path: Path) -> None:
    import resource

    before = hashes(run.folder)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):  # the command line makes one line of it
            continue_run(run, table(100, seed=1), tmp_path / "new", overrides=ONE, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert hashes(run.folder) == before


def test_a_run_trained_with_no_rows_to_keep(tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": {"max_epochs": 1}, "folder": tmp_path / "run", "quiet": True}
    run = lepton.fit(table(80).drop(columns="tags"), ["kind"], data={"replay": 0}, **options)
    assert not (run.folder / "replay").exists() and load(run.folder).config.data.replay == 0
