"""Rows of several data sets, each with its own tasks, in the batches of one training."""

from lepton.data.mixture._mixture import Mixture
from lepton.data.mixture._plan import STRATEGIES, probabilities_of

__all__ = ["STRATEGIES", "Mixture", "probabilities_of"]
