"""Rows of several data sets, each with its own tasks, in the batches of one training."""

from lepton.data.mixture._mixture import Mixture
from lepton.data.mixture._rows import StreamSets

__all__ = ["Mixture", "StreamSets"]
