"""More tasks for a trained run: `lepton add-task`."""

from __future__ import annotations

from lepton.run.added._add import add_task
from lepton.run.added._result import Added, AddedScore, added_table

__all__ = ["Added", "AddedScore", "add_task", "added_table"]
