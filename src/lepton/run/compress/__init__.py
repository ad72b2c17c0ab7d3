"""A run to smaller ones, each measured beside the original."""

from lepton.run.compress._command import compress_run
from lepton.run.compress._compressed import Compressed
from lepton.run.compress._distilled import Distilled, Gain, distilled_run
from lepton.run.compress._form import Form
from lepton.run.compress._pruned import pruned_run

__all__ = ["Compressed", "Distilled", "Form", "Gain", "compress_run", "distilled_run", "pruned_run"]
