"""A trained model to a smaller one."""

from lepton.compress._distil import Distil
from lepton.compress._prune import Pruned, prune

__all__ = ["Distil", "Pruned", "prune"]
