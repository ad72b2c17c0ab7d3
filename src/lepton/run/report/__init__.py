"""What the report and the model card of a run are made from."""

from __future__ import annotations

from lepton.run.report._describe import read_profiles, write_data
from lepton.run.report._report import write_card, write_run_report

__all__ = [
    "read_profiles",
    "write_card",
    "write_data",
    "write_run_report",
]
