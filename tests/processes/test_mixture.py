"""A run on several data sets in two processes: the batches of one, and its exact place after an interruption."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lepton
from lepton.config import Config
from lepton.run import resume_run, train_run
from tests.conftest import Interrupt
from tests.processes.world import several
from tests.run.test_mixture import config_of, write_sets

pytestmark = pytest.mark.xdist_group("processes")


def trained(rank: int, config: Config, folder: Path) -> Any:
    run = train_run(config, folder, quiet=True)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.history]


def broken_off(rank: int, config: Config, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_run(config, folder, quiet=True, callbacks=[Interrupt(17)])


def gone_on(rank: int, folder: Path) -> Any:
    run = resume_run(folder, quiet=True)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.history]


def config_in(folder: Path, stream: bool) -> Config:
    config = config_of(write_sets(folder), stream).model_dump(mode="json", exclude_unset=True)
    config["trunk"]["dropout"] = 0.0
    return Config.model_validate(config)


def assert_alike(found: Any, single: Any) -> None:
    assert found == [pytest.approx(row, rel=1e-3, abs=1e-4, nan_ok=True) for row in single]


def test_a_mixture_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """And either one process or two go on with a run of two that was broken off within an epoch."""
    config = config_in(tmp_path, False)
    single = trained(0, config, tmp_path / "single")
    whole = several(trained, 2, config, tmp_path / "whole")
    for history in whole:
        assert_alike(history, single)
    several(broken_off, 2, config, tmp_path / "broken")
    shutil.copytree(tmp_path / "broken", tmp_path / "alone")
    assert_alike(gone_on(0, tmp_path / "alone"), single)
    again = several(gone_on, 2, tmp_path / "broken")
    assert repr(again) == repr(whole)  # to the last digit


def test_a_mixture_of_streams_goes_on_in_each_process(tmp_path: Path) -> None:
    config = config_in(tmp_path, True)
    single = trained(0, config, tmp_path / "single")
    whole = several(trained, 2, config, tmp_path / "whole")
    for history in whole:
        for column in ("step", "train/x/epochs", "train/y/epochs"):
            assert [row[column] for row in history] == [row[column] for row in single]
    labels = [
        {task: result.n_labels for task, result in lepton.load(tmp_path / name).results["test"].items()}
        for name in ("single", "whole")
    ]
    assert labels[0] == labels[1]  # the sets are read to their ends, every row once
    several(broken_off, 2, config, tmp_path / "broken")
    assert repr(several(gone_on, 2, tmp_path / "broken")) == repr(whole)
