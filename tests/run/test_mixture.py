"""A run on several data sets, each with its own tasks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import lepton
from lepton.config import Config, config_yaml
from lepton.data import Mixture, StreamSets, read_table
from lepton.errors import ConfigurationError, DataError
from lepton.run import check, prepare, resume_run, train_run
from lepton.run._train import make_loaders
from tests.conftest import Interrupt

DATA = Path(os.environ.get("LEPTON_DATA", "../shared/data"))


def write_sets(folder: Path) -> dict[str, Any]:
    """A file and a folder of shards with labels of a task each; `b` lacks one input and has a label that is not its."""
    rng = np.random.default_rng(0)

    def rows(size: int) -> dict[str, Any]:
        a, b = rng.standard_normal((2, size))
        return {"a": a, "b": b, "x": 2 * a + b, "y": np.where(a > 0, "yes", "no")}

    first = rows(300)
    parquet.write_table(pa.table({key: first[key] for key in ("a", "b", "x")}), folder / "a.parquet")
    (folder / "b").mkdir()
    for shard in range(2):
        found = rows(60)
        found["x"] = found["x"] * 0 + 1000
        parquet.write_table(pa.table({key: found[key] for key in ("a", "x", "y")}), folder / "b" / f"{shard}.parquet")
    return {"a": str(folder / "a.parquet"), "b": {"source": str(folder / "b"), "tasks": ["y"], "weight": 2}}


def config_of(sources: dict[str, Any], stream: bool, **mixture: Any) -> Config:
    if not stream:  # a table in memory is one file
        source = sources["b"]["source"]
        shards = [parquet.read_table(path) for path in sorted(Path(source).iterdir())]
        table = Path(source).parent / "b.parquet"
        parquet.write_table(pa.concat_tables(shards), table)
        sources = {**sources, "b": {**sources["b"], "source": str(table)}}
    data = {"sources": sources, "mixture": {"strategy": "temperature", **mixture}, "stream": stream, "window": 64}
    return Config.model_validate(
        {
            "data": data,
            "tasks": {"x": "regression", "y": "classification"},
            "training": {"max_epochs": 3, "batch_size": 32, "num_workers": 0, "checkpoint_every": 10},
            "trunk": {"type": "tabular", "width": 16, "depth": 1},
            "balance": {"method": "upgrad"},
        }
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module", params=[False, True], ids=["memory", "stream"])
def run(request: pytest.FixtureRequest, sources: dict[str, Any], tmp_path_factory: Any) -> lepton.run.Run:
    return train_run(config_of(sources, request.param), tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_run_learns_each_task_from_its_set_and_counts_its_epochs(run: lepton.run.Run) -> None:
    assert run.results["test"]["x"].metrics["r2"] > 0.3  # labels of 1000 in the other set would spoil it
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert last["train/x/epochs"] == last["train/sets/a/epochs"] >= 3
    assert last["train/y/epochs"] == last["train/sets/b/epochs"] > last["train/x/epochs"]
    assert rows[0]["train/x/epochs"] == pytest.approx(last["train/x/epochs"] / 3)


def test_a_loaded_run_evaluates_predicts_and_reports(run: lepton.run.Run, sources: dict[str, Any]) -> None:
    again = lepton.load(run.folder)
    for part in ("val", "test"):
        found = again.evaluate(part=part)
        assert {name: result.metrics for name, result in found.items()} == {
            name: result.metrics for name, result in run.results[part].items()
        }
    labels = sum(again.evaluate(part=part)["x"].n_labels for part in ("train", "val", "test"))
    assert labels == 300
    said = again.predict(sources["a"])
    assert len(said) == 300 and {"x", "y"} <= set(said.columns)
    page = again.report().read_text()
    assert "Passes over the rows" in page and "Recommendation: " in page


def with_own_parts(sources: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`a` is validated on a file of its own and has a test of a tenth; `b` has no test, and a folder for validation."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 40))
    parquet.write_table(pa.table({"a": a, "b": b, "x": 2 * a + b}), folder / "a-val.parquet")
    (folder / "b-val").mkdir()
    parquet.write_table(pa.table({"a": a, "y": np.where(a > 0, "yes", "no")}), folder / "b-val" / "0.parquet")
    return {
        "a": {"source": sources["a"], "val": str(folder / "a-val.parquet"), "test": 0.1},
        "b": {**sources["b"], "val": str(folder / "b-val" / "0.parquet"), "test": 0.0},
    }


@pytest.mark.parametrize("stream", [False, True], ids=["memory", "stream"])
def test_a_source_may_have_a_validation_and_a_share_of_its_own(
    sources: dict[str, Any], stream: bool, tmp_path: Path
) -> None:
    told = with_own_parts(sources, tmp_path)
    run = train_run(config_of(told, stream), tmp_path / "run", quiet=True)
    labels = {part: {t: r.n_labels for t, r in run.evaluate(part=part).items()} for part in ("train", "val", "test")}
    assert labels["val"] == {"x": 40, "y": 40}
    assert labels["test"]["y"] == 0 and labels["train"]["y"] == 120
    assert labels["train"]["x"] + labels["test"]["x"] == 300 and labels["test"]["x"] == pytest.approx(30, abs=12)
    assert run.results["val"]["x"].metrics["r2"] > 0.3  # the file is that of the task
    with pytest.raises(KeyboardInterrupt):
        train_run(config_of(told, stream), tmp_path / "broken", quiet=True, callbacks=[Interrupt(17)])
    broken = resume_run(tmp_path / "broken", quiet=True)
    weights = run.model.state_dict()
    assert all(value.equal(weights[name]) for name, value in broken.model.state_dict().items())


def test_a_part_of_all_sources_together_is_refused_with_the_way_out(sources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give val to each of them, sources: \{NAME: \{val: FILE\}\}"):
        Config.model_validate({"data": {"sources": sources, "val": "val.csv"}, "tasks": ["x"]})
    wrong = {**sources, "a": {"source": sources["a"], "val": 0.6, "test": 0.6}}
    for stream in (False, True):
        with pytest.raises(ConfigurationError, match=r"1\.2"):
            prepare(config_of(wrong, stream))


@pytest.mark.parametrize("stream", [False, True], ids=["memory", "stream"])
def test_a_run_that_was_broken_off_goes_on_at_the_very_next_row(
    sources: dict[str, Any], stream: bool, tmp_path: Path
) -> None:
    config = config_of(sources, stream)
    whole = train_run(config, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "broken", quiet=True, callbacks=[Interrupt(17)])
    broken = resume_run(tmp_path / "broken", quiet=True)
    weights = whole.model.state_dict()
    assert all(value.equal(weights[name]) for name, value in broken.model.state_dict().items())
    assert [row["train/y/epochs"] for row in broken.history] == [row["train/y/epochs"] for row in whole.history]


def test_prepared_sets_keep_to_themselves(sources: dict[str, Any]) -> None:
    prepared = prepare(config_of(sources, True))
    assert isinstance(prepared.data["train"], StreamSets) and len(prepared.data["train"]) < 420
    assert "lepton.set" not in prepared.encoder.names
    train, _ = make_loaders(prepared)
    assert isinstance(train, Mixture)
    for _, targets in train:
        numbers = targets["x"][targets["x"].isfinite()]
        assert not len(numbers) or numbers.max() < 100  # the labels that `b` is told not to have
        assert not (targets["x"].isfinite() & (targets["y"] >= 0)).any()


def test_check_warns_where_a_balancer_meets_one_task_at_a_time(sources: dict[str, Any]) -> None:
    for stream in (False, True):
        found = check(config_of(sources, stream, batches="single")).findings
        assert [one.about for one in found if one.kind == "lone_set"] == [("x",), ("y",)]
    assert not [one for one in check(config_of(sources, False)).findings if one.kind == "lone_set"]
    content = config_of(sources, False, batches="single").model_dump(mode="json") | {"balance": {"method": "equal"}}
    assert not [one for one in check(Config.model_validate(content)).findings if one.kind == "lone_set"]


def test_sources_that_do_not_go_together_are_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixture needs several sources"):
        Config.model_validate({"data": {"source": "a.csv", "mixture": {"strategy": "uniform"}}, "tasks": ["x"]})
    with pytest.raises(ValueError, match="cannot both be given"):
        Config.model_validate({"data": {"source": "a.csv", "sources": {"b": "b.csv"}}, "tasks": ["x"]})
    for tasks, words in ((["z"], "'z'"), (["y"], "no source has the task 'x'")):
        told = {name: {"source": sources["a"], "tasks": tasks} for name in ("a", "b")}
        with pytest.raises(ConfigurationError, match=words):
            prepare(Config.model_validate({"data": {"sources": told}, "tasks": ["x", "y"]}))
    parquet.write_table(pa.table({"a": ["one", "two"] * 40, "y": ["yes", "no"] * 40}), tmp_path / "words.parquet")
    told = {"a": {"source": sources["a"]}, "w": {"source": str(tmp_path / "words.parquet")}}
    for stream in (False, True):
        with pytest.raises(DataError, match="different types"):
            prepare(Config.model_validate({"data": {"sources": told, "stream": stream}, "tasks": ["x", "y"]}))


@pytest.mark.skipif(not (DATA / "molecules").is_dir(), reason="needs the molecules of $LEPTON_DATA")
def test_two_real_sets_with_disjoint_tasks(tmp_path: Path) -> None:
    """Toxicity of one set of molecules and side effects of another, on the characters of both."""
    tables = {name: read_table(DATA / "molecules" / f"{name}.csv.gz") for name in ("tox21", "sider")}
    tasks = {"tox21": "NR-AhR", "sider": "Eye disorders"}
    for name, table in tables.items():
        smiles = [str(one) for one in table.column("smiles").to_pylist()]
        counts = {f"count {c}": [one.count(c) for one in smiles] for c in "CNOSF=#(1c"}
        rows = pa.table({**counts, tasks[name]: table.column(tasks[name]), "length": [len(one) for one in smiles]})
        parquet.write_table(rows, tmp_path / f"{name}.parquet")
    content = {
        "data": {
            "sources": {name: {"source": str(tmp_path / f"{name}.parquet"), "tasks": [tasks[name]]} for name in tables},
            "mixture": {"strategy": "temperature", "temperature": 2.0},
        },
        "tasks": dict.fromkeys(tasks.values(), "classification"),
        "training": {"max_epochs": 3, "batch_size": 128, "num_workers": 0},
        "trunk": {"type": "tabular", "width": 32, "depth": 1},
    }
    (tmp_path / "config.yaml").write_text(config_yaml(Config.model_validate(content)))
    run = train_run(Config.model_validate(content), tmp_path / "run", quiet=True)
    assert run.results["test"]["NR-AhR"].metrics["auroc"] > 0.65
    last = run.history[-1]
    assert last["train/Eye disorders/epochs"] > last["train/NR-AhR/epochs"] >= 3
    assert len(lepton.load(run.folder).evaluate(part="test")) == 2
