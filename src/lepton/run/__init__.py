"""Runs: from a table to a trained model in a folder, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton.run._build import build_model
from lepton.run._device import training_device
from lepton.run._doctor import Diagnosis, diagnose
from lepton.run._fit import default_folder, fit, make_config, override_config
from lepton.run._folder import new_folder
from lepton.run._init import commented_config
from lepton.run._prepare import Prepared, prepare
from lepton.run._run import Run, load
from lepton.run._summary import metrics_table, score_notes, seen_words
from lepton.run._train import make_loaders, make_trainer, resume_run, train_run
from lepton.run._voices import Speech
from lepton.run.added import Added, AddedScore, add_task, added_table
from lepton.run.baselines import Baselines, BaselineScore, Gains, SeedScore, SharedRun, run_baselines
from lepton.run.compress import Compressed, Distilled, Form, Gain, compress_run, distilled_run, pruned_run
from lepton.run.continued import Continued, ContinueMethod, continue_run
from lepton.run.look import Finding, LabelMap, Probe, StepCost, TaskPlan, Validation, check, probe

if TYPE_CHECKING:
    from lepton.run._estimator import LeptonEstimator

__all__ = [
    "Added",
    "AddedScore",
    "BaselineScore",
    "Baselines",
    "Compressed",
    "ContinueMethod",
    "Continued",
    "Diagnosis",
    "Distilled",
    "Finding",
    "Form",
    "Gain",
    "Gains",
    "LabelMap",
    "LeptonEstimator",
    "Prepared",
    "Probe",
    "Run",
    "SeedScore",
    "SharedRun",
    "Speech",
    "StepCost",
    "TaskPlan",
    "Validation",
    "add_task",
    "added_table",
    "build_model",
    "check",
    "commented_config",
    "compress_run",
    "continue_run",
    "default_folder",
    "diagnose",
    "distilled_run",
    "fit",
    "load",
    "make_config",
    "make_loaders",
    "make_trainer",
    "metrics_table",
    "new_folder",
    "override_config",
    "prepare",
    "probe",
    "pruned_run",
    "resume_run",
    "run_baselines",
    "score_notes",
    "seen_words",
    "train_run",
    "training_device",
]


def __getattr__(name: str) -> Any:
    if name == "LeptonEstimator":  # its base class is scikit-learn's, which is optional
        from lepton.run._estimator import LeptonEstimator

        return LeptonEstimator
    raise AttributeError(f"module 'lepton.run' has no attribute {name!r}")
