"""The networks of the speech recipes, as configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton.config import Config, check_config
from lepton.recipes.speech.config import RecipeConfig
from lepton.run import override_config

__all__ = ["TASKS", "speech"]

TASKS: dict[str, dict[str, Any]] = {
    "transcript": {"type": "speech_recognition", "column": "word"},
    "speaker": {"type": "classification"},
    "speech": {"type": "speech_synthesis", "column": "word", "voice": "speaker"},
}


def speech(settings: RecipeConfig, rows: Path, tasks: tuple[str, ...] = tuple(TASKS)) -> Config:
    """Return the configuration of a recogniser, a speaker head and a synthesiser on one acoustic trunk.

    The trunk reads a recording. The recogniser reads its states one by one, the speaker head their mean and spread,
    and so does the synthesiser, which says the text in the voice that it finds there.

    Args:
        settings: epochs and overrides.
        rows: the table of recordings.
        tasks: which of the three are trained.
    """
    content: dict[str, Any] = {
        "data": {
            "source": str(rows),
            "inputs": {"audio": "audio"},
            "split": {"method": "column", "column": "part"},
            "augment": {"noise": None, "shift": 0.03, "speed": 0.1},
        },
        "tasks": {name: TASKS[name] for name in tasks},
        "trunk": {"type": "acoustic", "width": 96, "depth": 2, "heads": 4, "masks": 1},
        "training": {"batch_size": 16, "max_epochs": 30, "learning_rate": 3e-3, "patience": 100, "num_workers": 0},
    }
    if settings.epochs is not None:
        content["training"]["max_epochs"] = settings.epochs
    return override_config(check_config(content), settings.overrides)
