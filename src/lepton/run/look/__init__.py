"""Looking before a training: what would spoil it, and what a few batches say."""

from __future__ import annotations

from lepton.run.look._check import TaskPlan, Validation, check
from lepton.run.look._findings import Finding
from lepton.run.look._probe import LabelMap, Probe, StepCost, probe

__all__ = [
    "Finding",
    "LabelMap",
    "Probe",
    "StepCost",
    "TaskPlan",
    "Validation",
    "check",
    "probe",
]
