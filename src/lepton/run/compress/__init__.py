"""A run to smaller ones, each measured beside the original."""

from lepton.run.compress._distilled import Distilled, Gain, distilled_run
from lepton.run.compress._pruned import pruned_run

__all__ = ["Distilled", "Gain", "distilled_run", "pruned_run"]
