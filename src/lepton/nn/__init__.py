"""The multi-task network: trunk, fork, heads, and the criterion."""

from lepton.nn._adapted import use_adapter
from lepton.nn._adapted_trunk import AdaptedTrunk, plain_trunk
from lepton.nn._adapter import Adapter, add_adapter
from lepton.nn._attached import Attached
from lepton.nn._blocks import freeze, layer_rates
from lepton.nn._chain import Chain
from lepton.nn._criterion import MultiTaskLoss, Penalty
from lepton.nn._fork import Fork, fork
from lepton.nn._lora import LoRA, add_lora, merge_lora
from lepton.nn._model import LeptonModel
from lepton.nn._noted import NotedInputs
from lepton.nn._prunable import Prunable, Width
from lepton.nn._reading import ReadingHead
from lepton.nn._search import beam_search, greedy_search
from lepton.nn._shared import Shared
from lepton.nn._speech_head import SpeechHead
from lepton.nn._width import trunk_features
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
    "AdaptedTrunk",
    "Adapter",
    "Attached",
    "Cache",
    "Chain",
    "ConvTrunk",
    "Fork",
    "HuggingFaceTrunk",
    "LeptonModel",
    "LoRA",
    "MixedTrunk",
    "MultiTaskLoss",
    "NotedInputs",
    "Penalty",
    "Prunable",
    "ReadingHead",
    "Shared",
    "SpeechHead",
    "TabularTrunk",
    "TransformerTrunk",
    "UNet",
    "Width",
    "add_adapter",
    "add_lora",
    "beam_search",
    "fork",
    "freeze",
    "greedy_search",
    "layer_rates",
    "merge_lora",
    "plain_trunk",
    "trunk_features",
    "use_adapter",
]
