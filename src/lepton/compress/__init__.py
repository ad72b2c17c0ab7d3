"""A trained model made smaller."""

from lepton.compress._prune import Pruned, prune

__all__ = ["Pruned", "prune"]
