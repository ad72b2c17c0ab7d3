"""A trained model made smaller and faster, and what that is worth on this machine."""

from lepton.compress._cost import Batches, Cost, Inputs, Latency, bytes_of, measured, measured_together
from lepton.compress._distil import Distil
from lepton.compress._onnx import Quantised, quantise_onnx
from lepton.compress._prune import Pruned, prune

__all__ = [
    "Batches",
    "Cost",
    "Distil",
    "Inputs",
    "Latency",
    "Pruned",
    "Quantised",
    "bytes_of",
    "measured",
    "measured_together",
    "prune",
    "quantise_onnx",
]
