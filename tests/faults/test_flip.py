"""One bit flipped anywhere in a checkpoint: found each time, and the one before it taken. Row 4."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lepton.errors import CheckpointError
from lepton.train import read_checkpoint
from tests.faults.children import finish, train


def flip(folder: Path, draws: random.Random) -> tuple[Path, bytes]:
    """Flip one bit, drawn from all bits of a checkpoint's files; return the file and what it held."""
    files = sorted(folder.iterdir())
    path = draws.choices(files, [file.stat().st_size for file in files])[0]
    kept = path.read_bytes()
    content = bytearray(kept)
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)
    return path, kept


@pytest.mark.parametrize("name", ["every(smooth(log(pcgrad)))", pytest.param("ema", marks=pytest.mark.faults)])
def test_100_of_100_are_found(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert finish(train, tmp_path, tmp_path, name) == 0
    last, previous = tmp_path / "checkpoints" / "last", tmp_path / "checkpoints" / ".last.previous"
    before = read_checkpoint(previous)
    assert read_checkpoint(last) != before
    draws = random.Random(0)
    touched = set()
    for flips in range(1, 101):
        path, kept = flip(last, draws)
        touched.add(path.name)
        assert read_checkpoint(last) == before
        assert caplog.text.count("Going on from the one before it") == flips
        path.write_bytes(kept)
    assert len(touched) >= 3  # by size; a test of its own flips bits of each file


def test_every_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    assert finish(train, tmp_path, tmp_path, "equal") == 0
    manifest = tmp_path / "checkpoints" / "best" / "manifest.json"
    kept = manifest.read_bytes()
    for place in range(8 * len(kept)):
        content = bytearray(kept)
        content[place // 8] ^= 1 << (place % 8)
        manifest.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint(manifest.parent)


def test_a_training_goes_on_from_the_one_before_it_and_ends_the_same(tmp_path: Path) -> None:
    from tests.faults.children import digest

    assert finish(train, tmp_path / "whole", tmp_path, "pcgrad") == 0
    assert finish(train, tmp_path / "killed", tmp_path, "pcgrad", (9, "on_step_end")) == -9
    flip(tmp_path / "killed" / "checkpoints" / "last", random.Random(1))
    assert finish(train, tmp_path / "killed", tmp_path, "pcgrad") == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
