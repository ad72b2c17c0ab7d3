"""Trainings that run in processes of their own, so that a test can really kill them.

A child comes from a server that has imported everything once and is forked: fifty of them take seconds, and each begins
from the same state, with generators that were never used.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lepton.train import Callback
from tests.faults.settings import SETTINGS, make_trainer

# What a training imports on the way, once for all children.
for _name in ("torch._dynamo", "torchmetrics", "safetensors.torch", "soundfile", "torch.utils.data"):
    importlib.import_module(_name)

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["pytest", "tests.faults.children"])


# -- the parent's side --------------------------------------------------------------------------------------------
def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run a function of this package in a child."""
    child = _SERVER.Process(target=_quiet, args=(target, *arguments))
    child.start()
    return child


def finish(target: Callable[..., None], *arguments: Any) -> int:
    """Run a function in a child to its end; return its exit code, -9 if it was killed."""
    child = start(target, *arguments)
    child.join(120)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def digest(folder: Path) -> dict[str, str]:
    """Return the hashes of everything a training leaves in `checkpoints/last`, without what depends on the clock.

    The weights, averages, the balancer's state, optimiser, scheduler, scaler, generators, the position in the data and
    the sums of the epoch are all in there.
    """
    last = folder / "checkpoints" / "last"
    state = json.loads((last / "state.json").read_bytes())
    training = state["training"]["state"]
    training.pop("seconds")
    for row in training["history"]:
        row.pop("seconds")
    contents = {name: (last / name).read_bytes() for name in ("model.safetensors", "training.safetensors")}
    contents["state.json"] = json.dumps(state, sort_keys=True).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


# -- the child's side ---------------------------------------------------------------------------------------------
def _quiet(target: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    np.random.seed(0)
    random.seed(0)
    target(*arguments)


class Die(Callback):
    """Kills this process with SIGKILL at an instant.

    Args:
        step: after how many steps.
        event: `on_step_end`, `on_epoch_end` or `on_checkpoint`, of these the first that comes from this step on.
    """

    def __init__(self, step: int, event: str) -> None:
        def die(state: Any, *_: Any) -> None:
            if state.step >= step:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, event, die)


def train(folder: Path, files: Path, name: str, death: tuple[int, str] | None = None) -> None:
    """Train a setting, or go on where `checkpoints/last` stands, until the end or until death."""
    setting = SETTINGS[name]
    trainer = make_trainer(setting, folder, callbacks=[] if death is None else [Die(*death)])
    trainer.fit(*setting.loaders(files))
