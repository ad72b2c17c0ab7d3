"""UCI Adult: a run on the younger people goes on with older ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lepton
from lepton.run import continue_run
from tests.export.test_adult import adult
from tests.run.continued.conftest import hashes

pd = pytest.importorskip("pandas")


def test_older_people_than_those_that_the_run_knows(data_folder: Path, tmp_path: Path) -> None:
    rows = adult(data_folder / "adult" / "adult.data.gz").drop(columns=["relationship", "fnlwgt"])
    young, old = rows[rows["age"] < 40], rows[rows["age"] >= 40]
    young.head(2500).to_csv(tmp_path / "young.csv", index=False)
    old.head(1000).to_csv(tmp_path / "old.csv", index=False)
    run = lepton.fit(
        tmp_path / "young.csv",
        ["income", "hours_per_week"],
        ignore=["marital_status"],
        trunk={"type": "tabular", "width": 64, "depth": 2},
        training={"max_epochs": 3},
        folder=tmp_path / "run",
        quiet=True,
    )
    before = hashes(run.folder)
    found = continue_run(run, tmp_path / "old.csv", overrides=["training.max_epochs=3"], quiet=True)
    assert hashes(run.folder) == before
    assert found.drift is not None
    moved = {column.name: column for column in found.drift.columns}
    assert found.drift.columns[0].name == "age" and moved["age"].distance > 0.99
    assert moved["income"].moved and moved["workclass"].moved and moved["age"].shift > 2
    assert not moved["race"].moved  # as measured with scipy on the same rows: p = 0.3
    scores = {name: tasks["income"].metrics["auroc"] for name, tasks in found.scores.items()}
    assert scores["new rows, after"] > scores["new rows, before"] - 0.01
    assert scores["old rows, after"] > scores["old rows, before"] - 0.02
    told = json.loads((found.run.folder / "drift.json").read_text())
    written = told["metrics"]["new rows, before"]["income"]["metrics"]["auroc"]
    assert written == pytest.approx(scores["new rows, before"])
    further = old.iloc[1000:4000]
    results = {name: one.evaluate(further)["income"] for name, one in (("old", run), ("new", found.run))}
    assert results["new"].loss < results["old"].loss
