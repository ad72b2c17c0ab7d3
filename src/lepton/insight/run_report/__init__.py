"""The report and the model card of one run."""

from __future__ import annotations

from lepton.insight.run_report._card import model_card
from lepton.insight.run_report._facts import (
    ColumnFacts,
    CostFacts,
    DataFacts,
    LabelFacts,
    Predictions,
    RunFacts,
    SampleFacts,
    TaskFacts,
    TextPredictions,
)
from lepton.insight.run_report._scores import ClassScores, class_scores, confusion_matrix
from lepton.insight.run_report._sections import run_sections

__all__ = [
    "ClassScores",
    "ColumnFacts",
    "CostFacts",
    "DataFacts",
    "LabelFacts",
    "Predictions",
    "RunFacts",
    "SampleFacts",
    "TaskFacts",
    "TextPredictions",
    "class_scores",
    "confusion_matrix",
    "model_card",
    "run_sections",
]
