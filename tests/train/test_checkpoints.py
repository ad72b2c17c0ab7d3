"""Checkpoints: whole or not there, verified, and what happens when the disk fails."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch

from lepton.errors import CheckpointError
from lepton.train import Callback, load_weights, read_checkpoint, save_checkpoint, write_checkpoint
from lepton.train._nest import pack, unpack
from tests.conftest import Lagging, make_model
from tests.train.conftest import loader, state_equal, trainer


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "state.json", "manifest.json"])
def test_one_flipped_bit_is_found_and_the_checkpoint_before_is_taken(name: str, tmp_path, caplog) -> None:
    run = trainer(Lagging(), folder=tmp_path, max_epochs=2)
    run.fit(loader())
    last = tmp_path / "checkpoints" / "last"
    before = json.loads((last.parent / ".last.previous" / "state.json").read_bytes())["training"]["state"]["epoch"]
    assert before == 1
    kept = (last / name).read_bytes()
    for place in range(0, 4000, 331):
        flip_a_bit(last / name, place)
        resumed = trainer(Lagging(), folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto")
        resumed.checkpoints.read_last(last, {})
        (last / name).write_bytes(kept)
    assert caplog.text.count("Going on from the one before it") == len(range(0, 4000, 331))
    flip_a_bit(last / name, 5)
    state = trainer(Lagging(), folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto").fit(loader())
    assert state.step == 12


def test_without_a_good_one_nothing_is_loaded(tmp_path) -> None:
    model = make_model()
    save_checkpoint(tmp_path / "best", model, {"step": 1})
    flip_a_bit(tmp_path / "best" / "model.safetensors", 900)
    other = make_model(seed=3)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        load_weights(tmp_path / "best", other)
    assert state_equal(other, make_model(seed=3))


def test_a_damaged_checkpoint_does_not_push_out_the_good_one(tmp_path) -> None:
    folder = tmp_path / "last"
    for step in (b"1", b"2"):
        write_checkpoint(folder, {"state.json": step}, keep_previous=True)
    (folder / "state.json").write_bytes(b"broken")
    write_checkpoint(folder, {"state.json": b"3"}, keep_previous=True)
    assert read_checkpoint(folder) == {"state.json": b"3"}
    assert read_checkpoint(tmp_path / ".last.previous") == {"state.json": b"1"}


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_write_that_fails_anywhere_leaves_the_old_one_whole(call: str, tmp_path, monkeypatch) -> None:
    """Let each of the calls of a save fail in turn, until one save goes through."""
    folder = tmp_path / "last"
    write_checkpoint(folder, {"a": b"old", "b": b"old"})
    owner = os if call == "fsync" else Path
    original = getattr(owner, call)
    for failing in range(20):
        calls = iter(range(100))

        def fails(*args, calls=calls, failing=failing):
            if next(calls) == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args)

        monkeypatch.setattr(owner, call, fails)
        try:
            write_checkpoint(folder, {"a": b"new", "b": b"new"})
        except OSError:
            found = read_checkpoint(folder)
            assert found in ({"a": b"old", "b": b"old"}, {"a": b"new", "b": b"new"})
            assert not list(tmp_path.glob("*.part"))
        else:
            break
        finally:
            monkeypatch.setattr(owner, call, original)
    assert failing >= (4 if call == "fsync" else 2)
    assert read_checkpoint(folder) == {"a": b"new", "b": b"new"}


def test_a_full_disk_is_one_line_and_the_training_goes_on(tmp_path, monkeypatch, caplog) -> None:
    run = trainer(folder=tmp_path, max_epochs=3)
    original = os.fsync

    class FullInTheSecondEpoch(Callback):
        def on_epoch_begin(self, state) -> None:
            def full(handle: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(os, "fsync", full if state.epoch == 1 else original)
            if state.epoch == 2:
                assert json.loads(read_checkpoint(last)["state.json"])["training"]["state"]["epoch"] == 1

    last = tmp_path / "checkpoints" / "last"
    run.callbacks.append(FullInTheSecondEpoch())
    state = run.fit(loader())
    messages = [record.getMessage() for record in caplog.records if "last was not written" in record.getMessage()]
    assert len(messages) == state.failed_saves == 1
    assert "No space left on device" in messages[0]
    assert "\n" not in messages[0]
    assert state.step == 18
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3  # the row is written an epoch later


def test_one_does_not_fall_back_to_an_earlier_training(tmp_path) -> None:
    trainer(folder=tmp_path, max_epochs=3).fit(loader())
    trainer(folder=tmp_path, max_epochs=1).fit(loader())
    flip_a_bit(tmp_path / "checkpoints" / "last" / "model.safetensors", 900)
    with pytest.raises(CheckpointError, match="not what was written"):
        trainer(folder=tmp_path, resume_from_checkpoint="auto").fit(loader())


def test_checkpoints_hold_no_pickle(tmp_path) -> None:
    trainer(Lagging(), folder=tmp_path, max_epochs=1, save_best_per_task=True).fit(loader(), loader(48, seed=1))
    names = {path.name for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "training.safetensors", "state.json", "manifest.json"}
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "last",
        "best",
        "best-digit",
        "best-slant",
        "best-width",
    }


def test_saving_can_be_left_out(tmp_path) -> None:
    trainer(folder=tmp_path, max_epochs=1, save_last=False).fit(loader())
    assert not (tmp_path / "checkpoints").exists()


def test_a_nest_comes_back_as_it_was() -> None:
    nest = {
        "state": {0: {"step": torch.tensor(3.0), "flags": (True, None)}, 7: {}},
        "betas": (0.9, 0.999),
        "worst": math.inf,
        "best": -math.inf,
        "list": [1, [2.5, "text"], torch.arange(3)],
    }
    tensors: dict[str, torch.Tensor] = {}
    found = unpack(json.loads(json.dumps(pack(nest, tensors), allow_nan=False)), tensors)
    assert torch.equal(found["list"].pop(), nest["list"].pop())
    assert torch.equal(found["state"][0].pop("step"), nest["state"][0].pop("step"))
    assert found == nest


def test_what_only_pickle_could_keep_is_refused() -> None:
    with pytest.raises(CheckpointError, match="a/1 is a complex"):
        pack({"a": [1, 2j]}, {})
