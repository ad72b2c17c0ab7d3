"""Checkpoints on disk: folders of safetensors and JSON that are whole or not there, and verified when read."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lepton.data import write_atomically
from lepton.errors import CheckpointError
from lepton.train._processes import placed

__all__ = [
    "fill_model",
    "json_bytes",
    "load_weights",
    "read_checkpoint",
    "save_checkpoint",
    "tensor_bytes",
    "write_atomically",
    "write_checkpoint",
]

MODEL, STATE, MANIFEST = "model.safetensors", "state.json", "manifest.json"

log = logging.getLogger("lepton")


# -- whole folders ------------------------------------------------------------------------------------------------
def write_checkpoint(folder: Path, files: Mapping[str, bytes], *, keep_previous: bool = False) -> None:
    """Put a folder of files in the place of an older one, so that at every instant one of the two is whole.

    The new folder is written beside the old one with a manifest of hashes, read back and compared, and moved into
    the old one's place. The old one is first moved to `.NAME.previous`, where `read_checkpoint` finds it if this
    process dies in between.

    Args:
        folder: such as `checkpoints/last`.
        files: name -> content.
        keep_previous: leave the old folder there also afterwards.

    Raises:
        OSError: the disk is full or cannot be written to; the old folder is as it was.
        CheckpointError: what was read back is not what was written.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    previous = _previous(folder)
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, content in files.items():
            write_atomically(part / name, content)
        write_atomically(part / MANIFEST, json.dumps(manifest, indent=2).encode())
        _verified(part)
        _sync(part)
        _swap(part, folder, previous)
        _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):  # of processes that were killed in a save
        shutil.rmtree(left, ignore_errors=True)
    if not keep_previous:
        shutil.rmtree(previous, ignore_errors=True)


def _swap(part: Path, folder: Path, previous: Path) -> None:
    """Move `part` to `folder`, and what was there to `previous`."""
    if folder.exists():
        # A damaged folder must not push out the good one before it.
        if previous.exists() and not _is_whole(folder):
            shutil.rmtree(folder)
        else:
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
    try:
        part.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _sync(folder: Path) -> None:
    """Make a folder's list of names as durable as its files, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _verified(folder: Path) -> dict[str, bytes]:
    """Return a folder's files after comparing them with its manifest."""
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_bytes())
        for name in manifest:
            # A manifest from a stranger must not make us read a device, or what lies elsewhere.
            if Path(name).name != name or not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"its manifest names {name!r}, which is no file of its own")
        files = {name: (folder / name).read_bytes() for name in manifest}
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise CheckpointError(f"the checkpoint {folder} cannot be loaded: it has no {missing}.") from error
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be loaded: {error}") from error
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest[name]:
            raise CheckpointError(f"the checkpoint {folder} cannot be loaded: {name} is not what was written.")
    return files


def _is_whole(folder: Path) -> bool:
    try:
        _verified(folder)
    except CheckpointError:
        return False
    return True


def read_checkpoint(folder: Path) -> dict[str, bytes]:
    """Return the verified files of a checkpoint; of the one before it, with a warning, if this one is damaged.

    Raises:
        CheckpointError: there is none, or none that is as it was written.
    """
    previous = _previous(folder)
    if not any((folder / name).exists() for name in (MANIFEST, MODEL)) and not previous.exists():
        raise CheckpointError(f"there is no checkpoint at {folder}.")
    try:
        return _verified(folder)
    except CheckpointError as error:
        if not previous.exists():
            raise
        files = _verified(previous)
        log.warning("%s Going on from the one before it, %s.", error, previous)
        return files


# -- models -------------------------------------------------------------------------------------------------------
def save_checkpoint(folder: Path, model: nn.Module, state: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, `state.json` and a manifest of their hashes into a folder, whole or not at all.

    Args:
        folder: made if it is not there, replaced if it is.
        model: whose `state_dict` is written, the balancer's state included.
        state: numbers and strings that describe the moment.

    Raises:
        OSError: the disk is full or cannot be written to; an older checkpoint is as it was.
    """
    write_checkpoint(folder, {MODEL: tensor_bytes(model.state_dict()), STATE: json_bytes(dict(state))})


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return JSON that any reader takes, without NaN and infinity, a line for each key."""
    # json's own indentation runs in Python, which made the JSON of a small checkpoint as dear as all its tensors.
    lines = [f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


def tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return tensors in the safetensors format."""
    from safetensors.torch import save

    return save(_unshared({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that share memory with an earlier one: safetensors refuses them."""
    seen: set[int] = set()
    found = {}
    for key, tensor in tensors.items():
        address = tensor.data_ptr()
        found[key] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return found


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights that `save_checkpoint` wrote, after comparing them with the hashes in the manifest.

    Args:
        folder: such as `checkpoints/best`.
        model: of the same architecture; filled in place.

    Raises:
        CheckpointError: there is none, it is damaged, or it belongs to another model.
    """
    fill_model(model, read_checkpoint(folder), folder)


def fill_model(model: nn.Module, files: Mapping[str, bytes], folder: Path) -> None:
    """Load a checkpoint's weights into a model."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        own = model.state_dict()
        found = {name: placed(tensor, own.get(name, tensor)) for name, tensor in load(files[MODEL]).items()}
        model.load_state_dict(found)
    except KeyError as error:
        raise CheckpointError(f"the checkpoint {folder} holds no {MODEL}.") from error
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be loaded into this model: {error}") from error
