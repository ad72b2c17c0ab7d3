"""`lepton compress`: what is printed, what JSON holds, and what is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import lepton
from lepton.cli._main import app

pytest.importorskip("onnxscript")
N = 120


def lepton_(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compress")
    lines = [f"{n % 17},{n % 5},{2 * (n % 17) + n % 3},{'a' if n % 17 > 8 else 'b'}" for n in range(N)]
    (place / "rows.csv").write_text("\n".join(["x,y,price,kind", *lines]))
    lepton.fit(place / "rows.csv", ["price", "kind"], training={"max_epochs": 2}, folder=place / "run", quiet=True)
    return place / "run"


def test_tables_and_what_follows_from_them(run: Path) -> None:
    said = lepton_("compress", run, "--seconds", "0.02", "--plain")
    assert said.exit_code == 0, said.output
    assert all(word in said.stdout for word in ("original", "fp32", "int8", "p99 ms", "price r2", "kind accuracy"))
    assert "Measured here it is" in said.stdout or "No form is smaller" in said.stdout
    assert f"Wrote {run / 'compressed'}." in said.stdout
    assert lepton_("predict", run / "compressed" / "int8", run.parent / "rows.csv", "--quiet").exit_code == 0


def test_json_is_one_object_and_nothing_else(run: Path, tmp_path: Path) -> None:
    said = lepton_("compress", run, "-o", tmp_path / "new", "--seconds", "0.02", "--no-int8", "--json")
    found = json.loads(said.stdout)
    assert found["folder"] == str(tmp_path / "new")
    assert list(found["forms"]) == ["original", "fp32"]
    assert found == {"folder": found["folder"], **json.loads((tmp_path / "new" / "results.json").read_text())}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prune", "1"], "a share of the parameters between 0 and 1"),
        (["--prune", "0"], "a share of the parameters between 0 and 1"),
        (["--distil", "width=8"], "such as trunk.width=64, but 'width=8' is none"),
        (["--rows", "nowhere.csv"], "nowhere.csv"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(run: Path, options: list[str], words: str, tmp_path: Path) -> None:
    said = lepton_("compress", run, "-o", tmp_path / "new", *options)
    assert said.exit_code == 2
    assert words in " ".join(said.stderr.split())
    assert not (tmp_path / "new").exists()
    assert lepton_("compress", tmp_path).exit_code == 2
