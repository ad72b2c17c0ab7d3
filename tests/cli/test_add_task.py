"""`lepton add-task`: what is printed, what is refused, and a disk that is full."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import lepton
from lepton.cli._main import app

pa = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("sklearn.datasets")

TASK = """\
data: {source: new.csv}
tasks:
  dark: classification
method: {type: lora, size: 2}
training: {max_epochs: 1}
"""


def lepton_(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wines: a run of their kind, and a second table with how dark they are."""
    from pyarrow import csv

    folder = tmp_path_factory.mktemp("add_task")
    wines = datasets.load_wine()
    columns = {name: wines.data[:, place] for place, name in enumerate(wines.feature_names[:6])}
    csv.write_csv(pa.table(columns | {"kind": [f"k{kind}" for kind in wines.target]}), folder / "old.csv")
    dark = ["dark" if value > 5 else "light" for value in wines.data[:, 9]]
    csv.write_csv(pa.table(columns | {"dark": dark}), folder / "new.csv")
    (folder / "task.yaml").write_text(TASK)
    lepton.fit(folder / "old.csv", ["kind"], training={"max_epochs": 1}, folder=folder / "old", quiet=True)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_table_and_the_new_run(place: Path, tmp_path: Path) -> None:
    before = hashes(place / "old")
    done = lepton_("add-task", place / "old", place / "task.yaml", "-o", tmp_path / "more", "--plain")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    (kind,) = [line.split() for line in lines if line.split()[:1] == ["kind"]]
    assert kind[3] == kind[4]  # before and after
    (dark,) = [line.split() for line in lines if line.split()[:2] == ["dark", "(new)"]]
    assert len(dark) == 7  # after, alone, retrained
    assert any("bit for bit" in line for line in lines) and any("parameters more than the" in line for line in lines)
    assert hashes(place / "old") == before
    evaluated = lepton_("evaluate", tmp_path / "more", "--json")
    assert set(json.loads(evaluated.stdout)) == {"kind", "dark"}


def test_json_and_values_to_change(place: Path, tmp_path: Path) -> None:
    arguments = ["add-task", place / "old", place / "task.yaml", "method=lwf", "seed=3", "-o", tmp_path / "more"]
    done = lepton_(*arguments, "--no-compare", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["method"] == "lwf" and said["identical"] == {} and said["run"] == str(tmp_path / "more")
    assert [score["retrained"] for score in said["scores"]] == [None, None]
    assert lepton.load(tmp_path / "more").config.seed == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["method=ewcc"], "Did you mean 'ewc'"),
        (["method={type: ewc, strenght: 3}"], "unknown key 'strenght'. Did you mean 'strength'?"),
        (["tasks={kind: {column: dark}}"], "already has a task 'kind'"),
        (["data.source=nothing.csv"], "nothing.csv"),
        (["data.sauce=x"], "Did you mean 'source'"),
    ],
)
def test_a_sentence_and_two(place: Path, tmp_path: Path, change: list[str], words: str) -> None:
    done = lepton_("add-task", place / "old", place / "task.yaml", *change, "-o", tmp_path / "more")
    assert done.exit_code == 2
    assert words in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr
    assert not (tmp_path / "more").exists()


def test_a_wrong_line_is_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(TASK + "trunk: conv\n")
    done = lepton_("add-task", place / "old", tmp_path / "task.yaml")
    assert done.exit_code == 2 and f"{tmp_path / 'task.yaml'}, line 6: trunk: unknown key" in done.stderr
    done = lepton_("add-task", tmp_path, place / "task.yaml")
    assert done.exit_code == 2 and "is no run" in done.stderr


def _limit_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # the rows go in, the weights do not


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files here")
def test_a_full_disk_leaves_the_old_run_and_nothing_else(place: Path, tmp_path: Path) -> None:
    before = hashes(place)
    command = [sys.executable, "-m", "lepton", "add-task", str(place / "old"), str(place / "task.yaml")]
    done = subprocess.run(
        [*command, "-o", "more", "--no-compare"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=_limit_files,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert hashes(place) == before
