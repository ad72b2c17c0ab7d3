"""A trained model made smaller and faster, and what that is worth on this machine."""

from lepton.compress._cost import Batches, Cost, Inputs, Latency, bytes_of, measured, measured_together
from lepton.compress._onnx import Quantised, quantise_onnx

__all__ = [
    "Batches",
    "Cost",
    "Inputs",
    "Latency",
    "Quantised",
    "bytes_of",
    "measured",
    "measured_together",
    "quantise_onnx",
]
