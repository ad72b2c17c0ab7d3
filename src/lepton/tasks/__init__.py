"""What is predicted: every task's head, masked loss, metrics and rule for its labels."""

from __future__ import annotations

from lepton.tasks._ctc import ctc_alignment, ctc_beam, ctc_greedy
from lepton.tasks._distillation import DISTILLED, distillation
from lepton.tasks.base import Task
from lepton.tasks.classification import Classification
from lepton.tasks.language import LanguageModeling, Translation
from lepton.tasks.multilabel import MultiLabel
from lepton.tasks.regression import Regression
from lepton.tasks.segmentation import Segmentation
from lepton.tasks.speech_recognition import FrameHead, SpeechRecognition
from lepton.tasks.speech_synthesis import SpeechSynthesis, mel_distortion
from lepton.tasks.token_classification import TokenClassification

__all__ = [
    "DISTILLED",
    "Classification",
    "FrameHead",
    "LanguageModeling",
    "MultiLabel",
    "Regression",
    "Segmentation",
    "SpeechRecognition",
    "SpeechSynthesis",
    "Task",
    "TokenClassification",
    "Translation",
    "ctc_alignment",
    "ctc_beam",
    "ctc_greedy",
    "distillation",
    "mel_distortion",
]
