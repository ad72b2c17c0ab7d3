"""The multi-task network: trunk, fork, heads, and the criterion."""

from lepton.nn._chain import Chain
from lepton.nn._criterion import MultiTaskLoss
from lepton.nn._fork import Fork, fork
from lepton.nn._model import LeptonModel
from lepton.nn.trunks import ConvTrunk, HuggingFaceTrunk, MixedTrunk, TabularTrunk, UNet

__all__ = [
    "Chain",
    "ConvTrunk",
    "Fork",
    "HuggingFaceTrunk",
    "LeptonModel",
    "MixedTrunk",
    "MultiTaskLoss",
    "TabularTrunk",
    "UNet",
    "fork",
]
