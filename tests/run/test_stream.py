"""A run whose rows are read while it trains: trained, evaluated, killed and taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import lepton
from lepton.config import Config, config_yaml
from lepton.data import StreamRows
from lepton.errors import ConfigurationError, DataError
from lepton.run import check, prepare, probe, resume_run, run_baselines, train_run
from lepton.run._streaming import is_streamed


def write_shards(folder: Path, rows: int = 300, shards: int = 3) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(shards):
        a, b = rng.standard_normal((2, rows))
        kind = rng.choice(["u", "v"], rows)
        columns = {"a": a, "b": b, "kind": kind, "price": pa.array(2 * a + (kind == "u"), mask=rng.random(rows) < 0.3)}
        if k != 1:  # a shard without the labels of one task
            columns["churn"] = np.where(a + b > 0, "yes", "no")
        parquet.write_table(pa.table(columns), folder / f"{k}.parquet", row_group_size=80)
    return folder


def config_of(source: Path, **training: Any) -> Config:
    data = {"source": str(source), "stream": True, "window": 64}
    told = {"max_epochs": 2, "batch_size": 16, "num_workers": 0, **training}
    trunk = {"type": "tabular", "width": 16, "depth": 1}
    return Config.model_validate({"data": data, "tasks": ["price", "churn"], "training": told, "trunk": trunk})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("stream") / "rows")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> lepton.run.Run:
    return train_run(config_of(shards), tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_run_learns_from_streamed_rows_and_says_so(run: lepton.run.Run) -> None:
    assert run.results["test"]["price"].metrics["r2"] > 0.5
    about = json.loads((run.folder / "data.json").read_text())
    assert sum(about["rows"].values()) == 900 and about["how"] == "a hash of each row's place"
    assert any("read while the model trains" in note for note in about["notes"])
    assert run.config.data.stream is True and not (run.folder / "quarantine.jsonl").exists()


def test_a_loaded_run_evaluates_its_own_parts_and_predicts(run: lepton.run.Run, shards: Path) -> None:
    again = lepton.load(run.folder)
    found = again.evaluate(part="test")
    assert found["price"].metrics == run.results["test"]["price"].metrics
    assert found["churn"].n_labels == run.results["test"]["churn"].n_labels
    assert len(again.predict(str(shards / "0.parquet"))) == 300
    assert again.report().exists() and again.tables().keys() == {"train", "val", "test"}


def test_check_looks_at_the_sample(shards: Path) -> None:
    found = check(config_of(shards))
    assert sum(found.parts.values()) == 900 and 0 < found.tasks[1].labels["train"] < found.parts["train"]


def test_probe_reads_batches_of_the_stream(shards: Path) -> None:
    assert probe(config_of(shards)).config.data.stream is True


def test_streamed_rows_are_encoded_as_rows_in_memory_are(shards: Path) -> None:
    prepared = prepare(config_of(shards))
    rows = prepared.data["val"]
    assert isinstance(rows, StreamRows)
    (inputs, targets) = next(iter(rows.loader(len(rows))))
    for name, value in rows.sample.inputs.items():  # so few rows that the sample holds all
        assert value.equal(inputs[name])
    assert targets["price"].nan_to_num(7).equal(rows.sample.targets["price"].nan_to_num(7))


def test_unusable_rows_are_counted_and_too_many_end_the_training(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    rng = np.random.default_rng(0)
    lines = [json.dumps({"a": a, "price": 2 * a}) + "\n" for a in rng.standard_normal(400).tolist()]
    lines[50] = '{"a": 1.0, "pri\n'
    lines[60] = '{"a": "many", "price": 1.0}\n'
    source.write_text("".join(lines))
    content = {"data": {"source": str(source), "stream": True}, "tasks": ["price"], "training": {"num_workers": 0}}
    config = Config.model_validate(content | {"training": {"max_steps": 20, "num_workers": 0}})
    run = train_run(config, tmp_path / "run", quiet=True)
    kept = [json.loads(line) for line in (run.folder / "quarantine.jsonl").read_text().splitlines()]
    assert {bad["row"] for bad in kept} == {50, 60} and all(bad["file"] == str(source) for bad in kept)
    notes = json.loads((run.folder / "data.json").read_text())["notes"]
    assert any("2 of 400 rows could not be used" in note for note in notes)
    strict = Config.model_validate(content | {"data": {**content["data"], "max_bad_rows": 0.001}})
    with pytest.raises(DataError, match="rows cannot be used"):
        train_run(strict, tmp_path / "strict", quiet=True)


def test_auto_streams_what_is_large_and_what_only_a_url_names(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(source: Any, stream: Any = "auto") -> bool:
        content = {"data": {"source": str(source), "stream": stream}, "tasks": ["price"]}
        return is_streamed(Config.model_validate(content))

    one = shards / "0.parquet"
    assert not told(one) and told(one, True) and told("memory://rows") and not told("memory://rows", False)
    monkeypatch.setattr("lepton.run._streaming._memory", lambda: one.stat().st_size)
    assert told(one) and told(shards)
    with pytest.raises(ConfigurationError, match="in memory already"):
        is_streamed(Config.model_validate({"data": {"stream": True}, "tasks": ["a"]}), {"a": [1]})


def test_a_split_that_needs_all_rows_is_refused(shards: Path) -> None:
    split = {"method": "time", "column": "a"}
    config = Config.model_validate({"data": {"source": str(shards), "stream": True, "split": split}, "tasks": ["b"]})
    with pytest.raises(ConfigurationError, match="needs all rows at once"):
        prepare(config)


def test_other_shards_are_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    source = write_shards(tmp_path / "rows")
    run = train_run(config_of(source, max_epochs=1), tmp_path / "run", quiet=True)
    (source / "2.parquet").unlink()
    with pytest.raises(DataError, match="not those that the run was trained on"):
        resume_run(run.folder, quiet=True)


def test_baselines_of_streamed_rows_are_refused(run: lepton.run.Run) -> None:
    with pytest.raises(ConfigurationError, match=r"need the rows in memory.*data.stream=false"):
        run_baselines(run)


# -- faults -------------------------------------------------------------------------------------------------------
def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "checkpoints" / "last" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_to_the_same_weights(shards: Path, tmp_path: Path, workers: int) -> None:
    config = config_of(shards, num_workers=workers, checkpoint_every=3)
    whole = train_run(config_of(shards, checkpoint_every=3), tmp_path / "whole", quiet=True)
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "lepton", "train", str(tmp_path / "config.yaml"), f"output={killed}"]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    state = killed / "checkpoints" / "last" / "state.json"
    while child.poll() is None and not (state.exists() and _step(state) >= 9):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL, "it ended before it was killed"
    resume_run(killed, quiet=True)
    assert weights_of(killed) == weights_of(whole.folder)


def _step(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["training"]["state"]["step"])
    except (OSError, ValueError):  # it is being replaced
        return 0
