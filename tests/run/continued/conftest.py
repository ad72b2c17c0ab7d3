"""A small run on a file, and rows of the same columns that are otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.run import Run, load

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

ONE = ["training.max_epochs=1"]


def table(n: int, *, shift: float = 0.0, seed: int = 0, kinds: str = "abc") -> Any:
    """Rows whose kind, price and tags follow from x and city."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(shift, 1.0, n), rng.normal(0.0, 1.0, n)
    kind = [kinds[min(len(kinds) - 1, int(3 * abs(value) / 2))] for value in y]
    city = [["Ulm", "Bonn"][int(value > shift)] for value in x]
    tags = [["big"] if a > 0.5 else ["small", "cheap"] if a < -0.5 else [] for a in y]
    return pd.DataFrame({"x": x, "y": y, "city": city, "kind": kind, "price": 2 * x - y + 1, "tags": tags})


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; its source lies beside it."""
    place = tmp_path_factory.mktemp("continued")
    # Sorted by class, as data of several collections often are.
    table(400).sort_values("kind", kind="stable", ignore_index=True).to_parquet(place / "old.parquet")
    lepton.fit(
        place / "old.parquet",
        ["kind", "price", "tags"],
        training={"max_epochs": 4, "learning_rate": 1e-2},
        folder=place / "run",
        quiet=True,
    )
    return place / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """The run in a folder of the test's own, with a copy of its source."""
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    shutil.copy(trained.parent / "old.parquet", tmp_path / "old.parquet")
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace(str(trained.parent), str(tmp_path)))
    return load(tmp_path / "run")


def hashes(folder: Path) -> dict[str, str]:
    """Name -> hash of every file of a folder."""
    import hashlib

    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
