"""A trained model made smaller and faster, and what that is worth on this machine."""

from lepton.compress._cost import Batches, Cost, Inputs, Latency, bytes_of, measured, measured_together

__all__ = ["Batches", "Cost", "Inputs", "Latency", "bytes_of", "measured", "measured_together"]
