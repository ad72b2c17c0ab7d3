"""`lepton continue`: exit codes, streams, and a run that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lepton.cli._main import app
from tests.run.continued.conftest import hashes, run, table, trained

__all__ = ["run", "trained"]

pd = pytest.importorskip("pandas")


def lepton_(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_goes_on_from_the_command_line(run: Any, tmp_path: Path) -> None:
    before = hashes(run.folder)
    table(120, shift=1.0, seed=1).assign(kind="z").to_parquet(tmp_path / "new.parquet")
    words = (
        "continue",
        run.folder,
        "--data",
        tmp_path / "new.parquet",
        "-o",
        tmp_path / "next",
        "training.max_epochs=1",
    )
    refused = lepton_(*words)
    assert refused.exit_code == 2 and "--new-classes" in refused.stderr and not (tmp_path / "next").exists()
    done = lepton_(*words, "--new-classes", "--plain")
    assert done.exit_code == 0, done.output
    assert "old rows" in done.stdout and "The new run is in" in done.stdout
    assert "Drift:" in done.stderr and "What moved most" in done.stderr
    assert hashes(run.folder) == before
    again = lepton_(*words, "--new-classes")
    assert again.exit_code == 2 and "there already" in again.stderr
    assert lepton_("predict", tmp_path / "next", tmp_path / "new.parquet", "--quiet").exit_code == 0


def test_a_task_is_retired_without_any_rows(run: Any, tmp_path: Path) -> None:
    done = lepton_("continue", run.folder, "--retire", "price", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["retired"] == ["price"] and (Path(found["run"]) / "checkpoints" / "best").is_dir()
    nothing = lepton_("continue", run.folder)
    assert nothing.exit_code == 2 and "--data" in nothing.stderr
    trunk = lepton_("continue", run.folder, "trunk.width=3", "--data", tmp_path / "old.parquet")
    assert trunk.exit_code == 2 and "cannot be changed" in trunk.stderr
