"""SIGKILL at any instant: there is a whole checkpoint, and the training that goes on ends as if nothing had been.

Rows 1 and 2 of docs/reliability.md.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import lepton.balance
from lepton.train import read_checkpoint
from tests.faults.children import digest, finish, start, train
from tests.faults.settings import BALANCERS, SETTINGS

KILLED = -9
READS = "audio, 0 workers"

DEATHS = {
    "within an epoch": (9, "on_step_end"),
    "at its last step": (12, "on_step_end"),
    "before the checkpoint of its end": (12, "on_epoch_end"),
    "after the checkpoint of its end": (12, "on_checkpoint"),
}
"""An epoch has six steps, three where two batches make one; `last` is written after every second step."""

FEW = [("famo", "within an epoch"), ("every(smooth(log(pcgrad)))", "before the checkpoint of its end")]
FEW += [("audio, 2 workers", "within an epoch"), ("texts", "at its last step"), ("ema", "within an epoch")]
ALL = [(name, place) for name in SETTINGS for place in DEATHS]
CASES = [
    pytest.param(*case, marks=() if case in FEW else pytest.mark.faults, id=f"{case[0]}, {case[1]}") for case in ALL
]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_killed_and_resumed_equals_not_killed(name: str, place: str, files: Path, tmp_path: Path) -> None:
    step, event = DEATHS[place]
    if name == "accumulation":
        step //= 2
    assert finish(train, tmp_path / "whole", files, name) == 0
    assert finish(train, tmp_path / "killed", files, name, (step, event)) == KILLED
    assert finish(train, tmp_path / "killed", files, name) == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_the_settings_have_every_balancer() -> None:
    there = {type(part) for make in BALANCERS.values() for part in make().modules()}
    exported = {getattr(lepton.balance, name) for name in lepton.balance.__all__}
    assert {kind for kind in exported if getattr(kind, "__final__", False)} <= there


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.faults)])
def test_killed_at_random_instants(kills: int, files: Path, tmp_path: Path) -> None:
    """Every second kill waits for a save to begin, and falls into it or shortly after it."""
    assert finish(train, tmp_path / "whole", files, READS) == 0
    draws = random.Random(0)
    done = inside = 0
    while done < kills:  # a training that ends before it is killed is checked, and another one begun
        folder = tmp_path / f"killed{done}"
        while (killed := kill_later(folder, files, draws)) and done < kills:
            done += 1
            inside += any(folder.glob("checkpoints/.last.*.part"))
            assert read_checkpoint(folder / "checkpoints" / "last")
        if killed:
            assert finish(train, folder, files, READS) == 0
        assert digest(folder) == digest(tmp_path / "whole")
    assert inside >= kills // 10


def kill_later(folder: Path, files: Path, draws: random.Random) -> bool:
    """Train until the first checkpoint is written and a random time more; return whether there was one to kill."""
    child = start(train, folder, files, READS)
    last = folder / "checkpoints" / "last"
    while not last.exists() and child.is_alive():
        time.sleep(0.001)
    if draws.random() < 0.5:
        child.join(draws.uniform(0, 0.2))
    else:
        saving = f".last.{child.pid}.part"
        while child.is_alive() and not (last.parent / saving).exists():
            pass
        time.sleep(draws.uniform(0, 0.005))
    child.kill()
    child.join()
    return child.exitcode == KILLED
