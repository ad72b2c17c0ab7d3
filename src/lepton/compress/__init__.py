"""A trained model made smaller and faster, and what that is worth on this machine."""

from lepton.compress._cost import Batches, Cost, Inputs, Latency, bytes_of, measured, measured_together
from lepton.compress._distil import Distil
from lepton.compress._onnx import Quantised, quantise_onnx
from lepton.compress._prune import Pruned, prune
from lepton.compress._torchao import Inference, quantisation_aware, quantise_torch, to_bf16

__all__ = [
    "Batches",
    "Cost",
    "Distil",
    "Inference",
    "Inputs",
    "Latency",
    "Pruned",
    "Quantised",
    "bytes_of",
    "measured",
    "measured_together",
    "prune",
    "quantisation_aware",
    "quantise_onnx",
    "quantise_torch",
    "to_bf16",
]
