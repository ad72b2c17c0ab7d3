"""The rows of UCI Adult: a run on real columns, exported and compared on rows that it never saw."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton.export import ExportedModel

pd = pytest.importorskip("pandas")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NAMES = (
    "age workclass fnlwgt education education_num marital_status occupation relationship race sex capital_gain "
    "capital_loss hours_per_week native_country income"
)


def adult(path: Path) -> pd.DataFrame:
    with gzip.open(path, "rt") as file:
        rows = pd.read_csv(file, names=NAMES.split(), sep=", ", engine="python", na_values="?", comment="|")
    return rows.assign(income=rows["income"].str.rstrip("."))


def test_adult(data_folder: Path, tmp_path: Path) -> None:
    train = adult(data_folder / "adult" / "adult.data.gz").head(3000)
    test = adult(data_folder / "adult" / "adult.test.gz").head(1500)
    run = lepton.fit(
        train,
        ["income", "marital_status", "hours_per_week"],
        trunk={"type": "tabular", "width": 64, "depth": 2},
        training={"max_epochs": 2},
        folder=tmp_path / "run",
        quiet=True,
    )
    found = run.export(tmp_path / "exported")
    assert max(found.manifest.checked["largest_difference"].values()) < 1e-5
    expected, said = run.predict(test), ExportedModel(found.folder).predict(test)
    assert (expected["income"] == said["income"]).mean() > 0.999
    assert expected["income"].nunique() == 2
    for name in expected:
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(said[name], expected[name], rtol=0, atol=1e-5 * max(1.0, expected[name].std()))
