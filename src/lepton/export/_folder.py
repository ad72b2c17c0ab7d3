"""Exported folders on the disk: made whole or not at all, verified before they are used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from lepton.errors import ConfigurationError, ExportError, import_extra
from lepton.export._manifest import MANIFEST, MODEL, Manifest, hash_of, read_manifest
from lepton.export._readme import README, readme

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Export", "finished", "new_place", "open_session", "run_session", "verified"]


@dataclass(frozen=True)
class Export:
    """What an export wrote and found.

    Attributes:
        folder: the new folder.
        manifest: what it says of itself; `checked` holds the largest difference of each output.
        sizes: file -> bytes.
    """

    folder: Path
    manifest: Manifest
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> Self:
        """Return what is said of a folder that was just written."""
        return cls(folder, manifest, {path.name: path.stat().st_size for path in sorted(folder.iterdir())})


@contextmanager
def new_place(place: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `place` at the end, or vanishes if something is raised.

    Raises:
        ConfigurationError: something is there already, or the disk does not let a folder be made there.
    """
    if place.exists():
        raise ConfigurationError(f"{place} is there already: choose another folder.")
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise ConfigurationError(f"folder {str(place)!r} cannot be made: {error.strerror}.") from error
    try:
        yield part
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def finished(part: Path, manifest: Manifest) -> Manifest:
    """Write what people and programs read of a new folder, and return the manifest with the hashes of all files.

    Args:
        part: the folder, with everything else in it.
        manifest: complete but for the hashes.
    """
    (part / README).write_text(readme(manifest), encoding="utf-8")
    manifest = replace(manifest, files={path.name: hash_of(path) for path in sorted(part.iterdir())})
    (part / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def verified(folder: Path) -> Manifest:
    """Return the manifest of an exported folder whose files are those that were written.

    Raises:
        ExportError: the folder is no export, a file is missing or was changed, or it is of a newer Lepton.
    """
    if folder.is_file():
        raise ExportError(
            f"{str(folder)!r} is a file, not the folder of an exported model. An ONNX file alone does not say how rows "
            "become its inputs:  lepton export RUN  writes a folder that does."
        )
    manifest = read_manifest(folder)
    for name, told in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ExportError(f"the exported model {str(folder)!r} is incomplete: {name!r} is not there.")
        if hash_of(path) != told:
            raise ExportError(f"{path} was changed after the export: its SHA-256 is not the one in the manifest.")
    if MODEL not in manifest.files:
        raise ExportError(f"the exported model {str(folder)!r} is incomplete: its manifest names no {MODEL}.")
    return manifest


def open_session(path: Path, manifest: Manifest, threads: int | None = None) -> InferenceSession:
    """Return an ONNX Runtime session on the CPU for the graph of a folder.

    Args:
        path: the ONNX file.
        manifest: what it should take and give.
        threads: of one prediction; by default as many as ONNX Runtime takes.

    Raises:
        ExportError: it is no ONNX file, or not the one that the manifest describes.
        MissingExtraError: onnxruntime is not installed.
    """
    runtime: Any = import_extra("onnxruntime", "export", "a prediction from an exported model")
    states: Any = import_extra("onnxruntime.capi.onnxruntime_pybind11_state", "export", "an exported model")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (states.Fail, states.InvalidProtobuf, states.InvalidGraph, states.NotImplemented) as error:
        raise ExportError(f"{path} cannot be run by ONNX Runtime: {error}") from error
    _check_ports(path, "inputs", [port.name for port in manifest.inputs], session.get_inputs())
    outputs = [port.name for ports in manifest.outputs.values() for port in ports]
    _check_ports(path, "outputs", outputs, session.get_outputs())
    return session


def run_session(
    session: InferenceSession, manifest: Manifest, inputs: Mapping[str, Tensor], tasks: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Return the outputs of the graph for a batch of inputs: `TASK.KEY` -> tensor [B, ...].

    Args:
        session: of the graph.
        manifest: what it takes and gives.
        inputs: name -> tensor [B, ...].
        tasks: whose outputs are wanted; by default those of all.
    """
    wanted = manifest.tasks if tasks is None else tasks
    names = [port.name for task in wanted for port in manifest.outputs[task]]
    fed = {port.name: inputs[port.name].contiguous().numpy() for port in manifest.inputs}
    return dict(zip(names, map(torch.from_numpy, session.run(names, fed)), strict=True))


def _check_ports(path: Path, what: str, told: list[str], found: list[Any]) -> None:
    names = [port.name for port in found]
    if sorted(names) != sorted(told):
        raise ExportError(
            f"{path} is not the ONNX file of this manifest: its {what} are {names[:8]}, and the manifest says "
            f"{told[:8]}."
        )
