"""SIGKILL of one of two processes under torchrun: both go on from the last checkpoint, to the same end. Row 7."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lepton.train import read_checkpoint
from tests.faults.ranks import EVERY

STEPS = 20


def torchrun(folder: Path, *arguments: int) -> None:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "3", "--monitor-interval", "0.1", str(Path(__file__).with_name("ranks.py"))]
    found = subprocess.run(
        [*command, str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr[-3000:]


def digest(folder: Path) -> dict[str, str]:
    files = read_checkpoint(folder / "last")
    assert set(files) == {"model.safetensors", "training.safetensors", "state.json"}
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "whole"
    torchrun(folder, STEPS)
    return folder


@pytest.mark.parametrize("death", [13, *(pytest.param(step, marks=pytest.mark.faults) for step in (5, 9, 10, 16))])
def test_one_of_two_is_killed(death: int, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    torchrun(folder, STEPS, death)
    died_at, died = (folder / "died").read_text().split()
    resumed_at, resumed = (folder / "resumed").read_text().split()
    print(f"resumed {float(resumed) - float(died):.1f} s after the kill")
    assert int(died_at) == death
    assert 0 <= death - int(resumed_at) <= EVERY
    assert digest(folder) == digest(whole)


@pytest.mark.faults
def test_it_goes_on_within_ten_seconds(tmp_path: Path) -> None:
    """Most of it is the import of torch by both; on a machine that is busy with something else it takes longer."""
    folder = tmp_path / "killed"
    torchrun(folder, STEPS, 13)
    died, resumed = (float((folder / name).read_text().split()[1]) for name in ("died", "resumed"))
    assert resumed - died < 10
