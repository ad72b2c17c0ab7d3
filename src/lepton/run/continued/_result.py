"""What continuing a run did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lepton.evaluate import TaskResult
from lepton.run._run import Run
from lepton.run._summary import metrics_table
from lepton.run.continued._drift import DriftReport

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Continued"]


@dataclass
class Continued:
    """A run that goes on from another one, and what that did to every task.

    Attributes:
        run: the new run.
        source: the old run's folder.
        method: what kept it from forgetting.
        scores: `"old rows, before"`, `"old rows, after"`, `"new rows, before"`, `"new rows, after"` -> task -> result
            on rows that did not train; those that could not be measured are missing.
        added: task -> classes that it got.
        retired: tasks that are gone.
        notes: sentences about what was decided or looks odd.
        drift: how far the new rows are from the old ones; None where that is not known.
    """

    run: Run
    source: str
    method: str
    scores: Mapping[str, Mapping[str, TaskResult]] = field(default_factory=dict)
    added: Mapping[str, Sequence[str]] = field(default_factory=dict)
    retired: Sequence[str] = ()
    notes: Sequence[str] = ()
    drift: DriftReport | None = None

    def table(self) -> Table:
        """Return a table of every task before and after, on old and on new rows."""
        found = metrics_table(self.run, self.scores)
        found.title = f"{self.source} continued as {self.run.folder} ({self.method})"
        return found

    def __rich__(self) -> Table:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, NaN aside."""
        scores = {name: {task: asdict(result) for task, result in found.items()} for name, found in self.scores.items()}
        return {
            "run": str(self.run.folder),
            "from": self.source,
            "method": self.method,
            "scores": scores,
            "added": {task: list(names) for task, names in self.added.items()},
            "retired": list(self.retired),
            "notes": list(self.notes),
            "moved": [] if self.drift is None else [found.name for found in self.drift.moved],
        }
