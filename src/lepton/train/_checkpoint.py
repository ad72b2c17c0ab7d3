"""Weights on disk: safetensors and JSON, written beside the old file and moved into its place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lepton.errors import CheckpointError

__all__ = ["load_weights", "save_checkpoint", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds either the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(folder: Path, model: nn.Module, state: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `state.json` into a folder.

    Args:
        folder: made if it is not there.
        model: whose `state_dict` is written, the balancer's state included.
        state: numbers and strings that describe the moment.
    """
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", save(_unshared(tensors)))
    write_atomically(folder / "state.json", json.dumps(dict(state), indent=2).encode())


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
    """Load the weights that `save_checkpoint` wrote.

    Raises:
        CheckpointError: there is none, it is damaged, or it belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load(path.read_bytes()))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}.") from error
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be loaded into this model: {error}") from error
