"""Training: one step, the loop around it, and the events that everything else listens to."""

from lepton.train._checkpoint import load_weights, save_checkpoint, write_atomically
from lepton.train._events import Callback, JsonLines, Progress
from lepton.train._loop import Trainer
from lepton.train._schedule import warmup_cosine
from lepton.train._state import TrainState
from lepton.train._step import TrainStep

__all__ = [
    "Callback",
    "JsonLines",
    "Progress",
    "TrainState",
    "TrainStep",
    "Trainer",
    "load_weights",
    "save_checkpoint",
    "warmup_cosine",
    "write_atomically",
]
