"""After a training: more tasks, and new rows without forgetting the old ones."""

from lepton.nn import Attached
from lepton.transfer._agem import AGEM
from lepton.transfer._ewc import EWC, FisherLabels
from lepton.transfer._extend import AdapterName, extended, separate_head
from lepton.transfer._lwf import LwF
from lepton.transfer._mixed import MixedBatches
from lepton.transfer._replay import Replay

__all__ = [
    "AGEM",
    "EWC",
    "AdapterName",
    "Attached",
    "FisherLabels",
    "LwF",
    "MixedBatches",
    "Replay",
    "extended",
    "separate_head",
]
