"""Trunks that a table or its images can be given to without writing a network."""

from lepton.nn.trunks._tabular import TabularTrunk

__all__ = ["TabularTrunk"]
