"""A run to smaller ones, each measured beside the original."""

from lepton.run.compress._distilled import Distilled, Gain, distilled_run

__all__ = ["Distilled", "Gain", "distilled_run"]
