"""A run on the rows of 442 patients (scikit-learn's diabetes table), and rows of the same with other labels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import lepton
from lepton.run import Run

pytest.importorskip("pyarrow")
datasets = pytest.importorskip("sklearn.datasets")

INPUTS = ("age", "bmi", "bp", "s1", "s2", "s3", "s4", "s6")


def patients() -> dict[str, list[Any]]:
    found = datasets.load_diabetes(scaled=False)
    columns = {name: found.data[:, place].tolist() for place, name in enumerate(found.feature_names)}
    columns["progression"] = found.target.tolist()
    columns["worse"] = ["yes" if value > 140 else "no" for value in found.target]
    columns["smoking"] = ["high" if value > 4.6 else "low" for value in columns["s5"]]
    return columns


def write(folder: Path, name: str, columns: dict[str, list[Any]], *, step: int = 1) -> Path:
    import pyarrow as pa
    from pyarrow import csv

    path = folder / f"{name}.csv"
    csv.write_csv(pa.table({key: values[::step] for key, values in columns.items()}), path)
    return path


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows old.csv and new.csv and the run `old`."""
    folder = tmp_path_factory.mktemp("added")
    every = patients()
    write(folder, "old", {name: every[name] for name in (*INPUTS, "progression", "worse")})
    write(folder, "new", {name: every[name] for name in (*INPUTS, "smoking", "s5")}, step=2)
    lepton.fit(
        folder / "old.csv",
        ["progression", "worse"],
        trunk={"type": "tabular", "width": 32, "depth": 2},
        training={"max_epochs": 6},
        folder=folder / "old",
        quiet=True,
    )
    return folder


@pytest.fixture
def old(place: Path) -> Run:
    """The run, and the assurance that no test changed its folder."""
    return lepton.load(place / "old")


@pytest.fixture(autouse=True)
def _untouched(place: Path) -> Any:
    before = hashes(place / "old")
    yield
    assert hashes(place / "old") == before, "the old run's folder was changed"
