"""SIGTERM in the middle of a step: a checkpoint, exit code 143, in time; a second one ends at once. Row 3."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from lepton.train import Callback, read_checkpoint
from tests.faults.children import digest, finish, start, train
from tests.faults.settings import SETTINGS, make_trainer

SETTING = "dynamic_weight_average"


class SlowForward:
    """Makes every forward pass of a trunk take a while, and says in a file when one began."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds, self.sign, self.calls = seconds, folder / "began", 0

    def __call__(self, module: Any, inputs: Any) -> None:
        self.calls += module.training
        if self.calls >= 9:
            self.sign.touch()
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:  # a signal ends a sleep, and no kernel
                time.sleep(0.01)


def slowly(folder: Path, seconds: float) -> None:
    setting = SETTINGS[SETTING]
    trainer = make_trainer(setting, folder)
    trainer.model.trunk.register_forward_pre_hook(SlowForward(folder, seconds))
    trainer.fit(*setting.loaders(folder))


def in_a_step(folder: Path, seconds: float) -> BaseProcess:
    """Return a child that is in the middle of its ninth step."""
    child = start(slowly, folder, seconds)
    while not (folder / "began").exists():
        assert child.is_alive()
        time.sleep(0.01)
    return child


def test_the_step_is_finished_the_checkpoint_written_and_the_code_143(tmp_path: Path) -> None:
    child = in_a_step(tmp_path / "killed", 2.0)
    begun = time.monotonic()
    child.terminate()
    child.join(10)
    assert child.exitcode == 143
    assert time.monotonic() - begun < 10
    assert b'"step": 9' in read_checkpoint(tmp_path / "killed" / "checkpoints" / "last")["state.json"]
    assert finish(train, tmp_path / "killed", tmp_path, SETTING) == 0
    assert finish(train, tmp_path / "whole", tmp_path, SETTING) == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_a_second_one_ends_at_once(tmp_path: Path) -> None:
    child = in_a_step(tmp_path, 60.0)
    child.terminate()
    time.sleep(0.5)
    assert child.is_alive()
    begun = time.monotonic()
    child.terminate()
    child.join(10)
    assert child.exitcode == -signal.SIGTERM
    assert time.monotonic() - begun < 5
    assert read_checkpoint(tmp_path / "checkpoints" / "last")


@pytest.mark.faults
@pytest.mark.parametrize("step", range(1, 18))
def test_at_every_step(step: int, tmp_path: Path) -> None:
    assert finish(terminated, tmp_path / "killed", step) == 143
    assert finish(train, tmp_path / "killed", tmp_path, SETTING) == 0
    assert finish(train, tmp_path / "whole", tmp_path, SETTING) == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


class Terminate(Callback):
    """Sends SIGTERM to this process after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: Any, result: Any) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def terminated(folder: Path, step: int) -> None:
    setting = SETTINGS[SETTING]
    make_trainer(setting, folder, callbacks=[Terminate(step)]).fit(*setting.loaders(folder))
