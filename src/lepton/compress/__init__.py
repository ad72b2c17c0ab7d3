"""A trained model to a smaller one."""

from lepton.compress._distil import Distil

__all__ = ["Distil"]
