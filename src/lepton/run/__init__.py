"""Runs: from a table to a trained model in a folder, and back."""

from __future__ import annotations

from lepton.run._build import build_model
from lepton.run._fit import fit, make_config, make_trainer, train_run
from lepton.run._folder import new_folder
from lepton.run._prepare import Prepared, prepare
from lepton.run._run import Run, load

__all__ = [
    "Prepared",
    "Run",
    "build_model",
    "fit",
    "load",
    "make_config",
    "make_trainer",
    "new_folder",
    "prepare",
    "train_run",
]
