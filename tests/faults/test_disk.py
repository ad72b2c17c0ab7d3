"""A full disk, a folder that turned read-only, an fsync that fails: the old checkpoint stays, and one line says so.

Row 11. The disks are real: small file systems in a mount namespace of the child's own, which needs rights that not
every machine gives; a bound on the size of files (`RLIMIT_FSIZE`) needs none.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton.train import Callback, read_checkpoint
from tests.faults.children import finish
from tests.faults.settings import SETTINGS, make_trainer

NO_RIGHTS = 77
SETTING = SETTINGS["every(smooth(log(pcgrad)))"]
Fault = tuple[Callable[[], object], Callable[[], object]]


class Lines(logging.Handler):
    """Keeps what the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class BreakTheSecondEpoch(Callback):
    """Lets the disk fail from the beginning of the second epoch to the beginning of the third."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.last = folder / "checkpoints" / "last"
        self.fail, self.mend = fault
        self.epochs: list[int] = []

    def on_epoch_begin(self, state: Any) -> None:
        if state.epoch == 1:
            self.fail()
        if state.epoch == 2:
            self.epochs.append(saved_epoch(self.last))
            self.mend()


def saved_epoch(last: Path) -> int:
    """Return the epoch of a verified checkpoint."""
    epoch: int = json.loads(read_checkpoint(last)["state.json"])["training"]["state"]["epoch"]
    return epoch


def train_on(disk: Path, fault: Fault, words: str, report: Path) -> None:
    """Train three epochs while the disk fails in the second one, and write down what was seen."""
    logging.getLogger("lepton").addHandler(lines := Lines())
    broken = BreakTheSecondEpoch(disk / "run", fault)
    trainer = make_trainer(SETTING, disk / "run", callbacks=[broken], checkpoint_every=None, max_epochs=3)
    state = trainer.fit(*SETTING.loaders(disk))
    said = [line for line in lines.lines if "last was not written" in line]
    assert len(said) == 1 and words in said[0] and "\n" not in said[0], lines.lines
    assert broken.epochs == [1]
    assert (state.step, state.epoch) == (18, 3)
    assert saved_epoch(broken.last) == 3
    assert len((disk / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    report.write_text(json.dumps({"failed_saves": state.failed_saves}))


# -- real file systems --------------------------------------------------------------------------------------------
def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def own_mounts() -> None:
    """Give this process a mount namespace, which ends with it."""
    if os.name != "posix" or ctypes.CDLL(None).unshare(0x00020000) != 0:
        raise SystemExit(NO_RIGHTS)
    try:
        run("mount", "--make-rprivate", "/")
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(NO_RIGHTS) from None


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def full(disk: Path, report: Path) -> None:
    own_mounts()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk)
    ballast = disk / "ballast"
    train_on(disk, (lambda: fill(ballast), ballast.unlink), "No space left on device", report)


def read_only(disk: Path, report: Path) -> None:
    own_mounts()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)
    fault = (lambda: run("mount", "-o", "remount,ro", disk), lambda: run("mount", "-o", "remount,rw", disk))
    train_on(disk, fault, "Read-only file system", report)


def failing_fsync(disk: Path, report: Path) -> None:
    """A disk that promises 32 MiB on a file that has room for less: writes succeed, and fsync brings the truth."""
    own_mounts()
    below, image = disk / "below", disk / "below" / "image"
    below.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", below)
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    (disk / "above").mkdir()
    try:
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", image)
        run("mount", "-o", "loop,errors=continue", image, disk / "above")
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(NO_RIGHTS) from None
    ballast, probe = below / "ballast", disk / "above" / "probe"

    def fail() -> None:
        fill(ballast)
        with probe.open("wb") as file:
            file.write(bytes(2**16))
            file.flush()
            with pytest.raises(OSError):  # which one, the kernel chooses
                os.fsync(file.fileno())

    train_on(disk / "above", (fail, ballast.unlink), "Errno", report)


@pytest.mark.parametrize("fault", [full, read_only, failing_fsync])
def test_a_disk_that_fails(fault: Callable[[Path, Path], None], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    code = finish(fault, tmp_path / "disk", tmp_path / "report")
    if code == NO_RIGHTS:
        pytest.skip("this process may not mount file systems")
    assert code == 0
    assert json.loads((tmp_path / "report").read_text())["failed_saves"] >= 1


def files_too_large(disk: Path, report: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def bound(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    fault = (lambda: bound(2048), lambda: bound(resource.RLIM_INFINITY))
    train_on(disk, fault, "File too large", report)


def test_a_bound_on_the_size_of_files(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    assert finish(files_too_large, tmp_path / "disk", tmp_path / "report") == 0
    assert json.loads((tmp_path / "report").read_text())["failed_saves"] >= 1


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    from lepton.errors import ConfigurationError
    from lepton.train import Trainer
    from tests.conftest import make_model

    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"folder .*file.run.* cannot be made: Not a directory"):
        Trainer(make_model(), folder=tmp_path / "file" / "run")
