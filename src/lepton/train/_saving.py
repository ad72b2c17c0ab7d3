"""The checkpoints of a training: the best ones to keep, and the last one to go on from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lepton.errors import CheckpointError, ConfigurationError
from lepton.nn import LeptonModel
from lepton.train._checkpoint import (
    MODEL,
    STATE,
    fill_model,
    json_bytes,
    read_checkpoint,
    tensor_bytes,
    write_checkpoint,
)
from lepton.train._events import Callback, announce
from lepton.train._nest import pack, unpack
from lepton.train._position import random_state, restore_random_state
from lepton.train._processes import Processes, gathered, placed, sharded_state
from lepton.train._state import TrainState

__all__ = ["Checkpoints", "Stateful", "load_training", "save_training"]

TRAINING = "training.safetensors"
FORMAT = 2

OWN = ("position",)
"""Parts of which every process has a state of its own: streamed rows are read in stretches."""

log = logging.getLogger("lepton")


def save_training(
    folder: Path, model: nn.Module, parts: Mapping[str, Stateful], state: Mapping[str, Any] | None = None
) -> None:
    """Write everything that a loop of your own needs to go on: `load_training` takes it up again.

    The states of the generators of torch, numpy and Python are written too. In a run of several processes one of them
    writes. The checkpoint before it is kept, to fall back to.

    Args:
        folder: made if it is not there, replaced if it is.
        model: whose `state_dict` is written, the balancer's state included.
        parts: name -> what has a state of its own: the optimiser, a scheduler, a loader that knows its position.
        state: plain values that the loop counts, such as the step.

    Raises:
        OSError: the disk is full or cannot be written to; an older checkpoint is as it was.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> model = torch.nn.Linear(2, 1)
        >>> parts = {"optimizer": torch.optim.AdamW(model.parameters())}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     save_training(Path(place) / "last", model, parts, {"step": 7})
        ...     load_training(Path(place) / "last", model, parts)
        {'step': 7}
    """
    write_checkpoint(folder, training_files(model, parts, {"extra": dict(state or {})}), keep_previous=True)


def load_training(folder: Path, model: nn.Module, parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Set a model, the parts and the generators to what `save_training` wrote, after comparing it with its hashes.

    Args:
        folder: as given there.
        model: of the same architecture; filled in place.
        parts: the same parts, made anew.

    Returns:
        The state that was given.

    Raises:
        CheckpointError: there is none, it is damaged and so is the one before it, or it is of other parts.
    """
    training = _read_training(folder, model)
    try:
        _load(parts, training)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint {folder} is of a training with other parts: {error}") from error
    restore_random_state(training["random"], device_of(model))
    found: dict[str, Any] = training["extra"]
    return found


def training_files(model: nn.Module, parts: Mapping[str, Stateful], rest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a checkpoint from which a training goes on."""
    training = {
        **rest,
        "kinds": {name: type(part).__name__ for name, part in parts.items()},
        "parts": {name: gathered(part.state_dict()) for name, part in parts.items()},
        "random": random_state(device_of(model)),
    }
    tensors: dict[str, Tensor] = {}
    packed = {"format": FORMAT, "torch": torch.__version__, "training": pack(training, tensors)}
    return {
        MODEL: tensor_bytes(gathered(model.state_dict())),
        TRAINING: tensor_bytes(tensors),
        STATE: json_bytes(packed),
    }


def device_of(model: nn.Module) -> torch.device:
    """Return where the parameters of a model are."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class Stateful(Protocol):
    """What can be saved and taken up again."""

    def state_dict(self) -> dict[str, Any]:
        """Return a nest of tensors and plain values."""
        ...

    def load_state_dict(self, state: Any, /) -> None:
        """Go on from what `state_dict` returned."""
        ...


class Checkpoints:
    """Writes `best`, `best-TASK` and `last` below a run's folder, and reads what a training goes on from.

    A folder `last` holds `model.safetensors`, `training.safetensors` (the tensors of optimiser, average, generators,
    sums of the epoch) and `state.json` (all the rest). A write that fails leaves the older checkpoint whole, is
    logged in one line and counted; the training goes on.

    Args:
        folder: the run's folder; None to write nothing.
        model: whose weights are written.
        callbacks: told of every checkpoint.
        processes: those that train together, of which the first writes.

    Attributes:
        keep_previous: keep the `last` before the one that is written, to fall back to. Not the one of an earlier
            training in the same folder: to go on from that would be another training.
    """

    def __init__(
        self, folder: Path | None, model: LeptonModel, callbacks: list[Callback], processes: Processes | None = None
    ) -> None:
        self.folder = None if folder is None else folder / "checkpoints"
        self.model = model
        self.callbacks = callbacks
        self.processes = Processes() if processes is None else processes
        self.keep_previous = False

    def write_best(self, state: TrainState, column: str, value: float, task: str | None = None) -> None:
        """Write the weights as they are to `best`, or to `best-TASK`."""
        if self.folder is not None:
            name = "best" if task is None else f"best-{quote(task, safe=' ')}"
            described = {"step": state.step, "epoch": state.epoch, column: value}
            files = {MODEL: tensor_bytes(gathered(self.model.state_dict())), STATE: json_bytes(described)}
            self._guarded(state, name, lambda folder: write_checkpoint(folder, files))

    def write_last(self, state: TrainState, parts: Mapping[str, Stateful], extra: Mapping[str, Any]) -> None:
        """Write the weights and everything that a training needs to go on to `last`.

        Args:
            state: where the training stands.
            parts: name -> what has a state of its own.
            extra: what else is to be kept, as `pack` takes it.
        """
        if self.folder is None:
            return
        rest: dict[str, Any] = {"state": asdict(state), "extra": dict(extra)}
        if self.processes.together:
            own = {name: parts[name].state_dict() for name in OWN}
            rest["others"] = self.processes.gather({"random": random_state(self.model.device), "parts": own})[1:]
        files = training_files(self.model, parts, rest)
        keep = self.keep_previous
        written = self._guarded(state, "last", lambda folder: write_checkpoint(folder, files, keep_previous=keep))
        self.keep_previous = keep or written

    def _guarded(self, state: TrainState, name: str, write: Callable[[Path], None]) -> bool:
        assert self.folder is not None
        written = True
        if self.processes.is_first:
            try:
                write(self.folder / name)
            except OSError as error:
                place = self.folder / name
                log.error("checkpoint %s was not written (%s); an older one there is as it was", place, error)
                written = False
        if not self.processes.gather(written)[0]:  # the others wait, so that all may read it
            state.failed_saves += 1
            return False
        announce(self.callbacks, "on_checkpoint", state, self.folder / name)
        return True

    # -- reading ----------------------------------------------------------------------------------------------
    def find(self, resume_from: Path | str | None) -> Path | None:
        """Return the checkpoint to go on from; None to begin anew."""
        if resume_from is None:
            return None
        if str(resume_from) != "auto":
            return Path(resume_from)
        if self.folder is None:
            raise ConfigurationError(
                "Trainer: resume_from_checkpoint='auto' looks in the run's folder: pass folder=..."
            )
        last = self.folder / "last"
        return last if last.exists() or (self.folder / ".last.previous").exists() else None

    def read_last(self, folder: Path, parts: Mapping[str, Stateful]) -> tuple[TrainState, dict[str, Any]]:
        """Set the model, the parts and the generators to what a checkpoint `last` holds.

        Returns:
            The state, and what else was kept.

        Raises:
            CheckpointError: it is not there, damaged, of another model or other options, or holds weights only.
        """
        training = _read_training(folder, self.model)
        try:
            state = TrainState(**training["state"])
            _load(parts, {**training, "parts": training["parts"] | self._own(training)})
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint {folder} is of a training with other options (optimizer, learning_rates, schedule, "
                f"precision, average, on_spike): {error}"
            ) from error
        self._restore_generators(training)
        return state, training["extra"]

    def _own(self, training: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the states of parts that were this process's own."""
        others = training.get("others", ())
        found: Mapping[str, Any] = (
            others[self.processes.rank - 1]["parts"] if 0 < self.processes.rank <= len(others) else {}
        )
        return found

    def _restore_generators(self, training: Mapping[str, Any]) -> None:
        """Set the generators to this process's own; of a process that was not there, to draws of the first one's."""
        states = [training["random"], *(other["random"] for other in training.get("others", ()))]
        rank = self.processes.rank
        restore_random_state(states[rank] if rank < len(states) else states[0], self.model.device)
        if rank >= len(states):
            torch.manual_seed(int(torch.randint(1 << 62, ())) + rank)

    def go_back(self, parts: Mapping[str, Stateful]) -> None:
        """Set the model and the parts back to the last checkpoint of this training; an optimiser keeps its rates.

        Raises:
            CheckpointError: it is damaged.
        """
        assert self.folder is not None
        training = _read_training(self.folder / "last", self.model)
        groups = [dict(group) for part in parts.values() if isinstance(part, Optimizer) for group in part.param_groups]
        _load(parts, training)
        now = [group for part in parts.values() if isinstance(part, Optimizer) for group in part.param_groups]
        for group, before in zip(now, groups, strict=True):
            group.update({key: value for key, value in before.items() if key != "params"})
        step = training["state"]["step"]
        log.warning("weights, optimiser and balancer went back to those of step %d; the data go on", step)

    def read_best(self, folder: Path) -> dict[str, Tensor] | None:
        """Return the weights of the best evaluation before an interruption; None, with a warning, without them."""
        from safetensors.torch import load

        try:
            found = load(read_checkpoint(folder)[MODEL])
            own = self.model.state_dict()
            return {name: placed(tensor, own.get(name, tensor)) for name, tensor in found.items()}
        except (CheckpointError, KeyError) as error:
            log.warning("%s The best weights so far are lost: the next evaluation begins anew.", error)
            return None


def _load(parts: Mapping[str, Stateful], training: Mapping[str, Any]) -> None:
    """Set parts to what was saved of them."""
    for name, part in parts.items():
        # Another optimiser would take the numbers, and fail at its first step.
        before, now = training["kinds"][name], type(part).__name__
        if before != now:
            raise ValueError(f"{name} was {before} and is {now}")
        part.load_state_dict(sharded_state(part, training["parts"][name]))


def _read_training(folder: Path, model: nn.Module) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    files = read_checkpoint(folder)
    if TRAINING not in files:
        raise CheckpointError(
            f"the checkpoint {folder} holds weights only, so that a training cannot go on from it: resume from "
            "checkpoints/last, or begin anew from these weights with load_weights."
        )
    try:
        packed = json.loads(files[STATE])
        if packed["format"] != FORMAT:
            raise ValueError(f"its format is {packed['format']}, not {FORMAT}")
        training: dict[str, Any] = unpack(packed["training"], load(files[TRAINING]))
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be read by this version: {error!r}") from error
    fill_model(model, files, folder)
    return training
