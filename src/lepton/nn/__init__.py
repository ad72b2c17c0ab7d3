"""The multi-task network: trunk, fork, heads, and the criterion."""

from lepton.nn.chain import Chain
from lepton.nn.criterion import MultiTaskLoss
from lepton.nn.fork import Fork, fork
from lepton.nn.model import LeptonModel

__all__ = ["Chain", "Fork", "LeptonModel", "MultiTaskLoss", "fork"]
