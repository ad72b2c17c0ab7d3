"""The multi-task network: trunk, fork, heads, and the criterion."""

from lepton.nn._chain import Chain
from lepton.nn._criterion import MultiTaskLoss
from lepton.nn._fork import Fork, fork
from lepton.nn._lora import LoRA, add_lora, merge_lora
from lepton.nn._model import LeptonModel
from lepton.nn._reading import ReadingHead
from lepton.nn._search import beam_search, greedy_search
from lepton.nn._speech_head import SpeechHead
from lepton.nn.trunks import (
    AcousticTrunk,
    Cache,
    ConvTrunk,
    HuggingFaceTrunk,
    MixedTrunk,
    TabularTrunk,
    TransformerTrunk,
    UNet,
)

__all__ = [
    "AcousticTrunk",
    "Cache",
    "Chain",
    "ConvTrunk",
    "Fork",
    "HuggingFaceTrunk",
    "LeptonModel",
    "LoRA",
    "MixedTrunk",
    "MultiTaskLoss",
    "ReadingHead",
    "SpeechHead",
    "TabularTrunk",
    "TransformerTrunk",
    "UNet",
    "add_lora",
    "beam_search",
    "fork",
    "greedy_search",
    "merge_lora",
]
