"""What adding tasks found: each task before and after, beside two other ways to learn it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from lepton.run._run import Run

__all__ = ["Added", "AddedScore", "added_table"]

Scores = Mapping[str, float] | None
"""Metric -> value; None where it was not measured."""


@dataclass(frozen=True)
class AddedScore:
    """One task's metrics on held-out rows of its own.

    Attributes:
        task: its name.
        new: whether it is one of the new ones.
        metric: its primary metric.
        higher_is_better: whether more of it is better.
        part: which rows were held out, of the old run's for an old task and of the new ones for a new task.
        before: of the old run; None for a new task.
        after: of the new run.
        alone: of a model of the same architecture that learned the new task only, from scratch, on the new rows.
        retrained: of one that learned all tasks together, from scratch, on old and new rows.
    """

    task: str
    new: bool
    metric: str
    higher_is_better: bool
    part: str
    before: Scores = None
    after: Scores = None
    alone: Scores = None
    retrained: Scores = None


@dataclass(frozen=True)
class Added:
    """A run with more tasks, and what became of all of them.

    Attributes:
        run: the new run.
        method: how the new tasks were learned.
        scores: one for each task, the old ones first.
        parameters: numbers in the old model (`before`), in the new one (`after`), and those that learned (`learned`).
        identical: old task -> whether its outputs are the old run's, bit for bit; empty where everything learned.
        compared: real rows that this was looked at on.
        notes: sentences about what was not measured.
    """

    run: Run
    method: str
    scores: tuple[AddedScore, ...]
    parameters: Mapping[str, int]
    identical: Mapping[str, bool]
    compared: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold, the run as its folder."""
        found = {name: getattr(self, name) for name in ("method", "parameters", "identical", "compared", "notes")}
        return {"run": str(self.run.folder), **found, "scores": [asdict(score) for score in self.scores]}

    @property
    def words(self) -> list[str]:
        """What stands below the table, a sentence each."""
        before, after, learned = (self.parameters[key] for key in ("before", "after", "learned"))
        found = [f"{after - before:,} parameters more than the {before:,} of the old run; {learned:,} learned."]
        same = [task for task, equal in self.identical.items() if equal]
        other = [task for task, equal in self.identical.items() if not equal]
        if same:
            found.append(f"The outputs of {same} are those of the old run bit for bit on {self.compared} real rows.")
        if other:
            found.append(f"The outputs of {other} are NOT those of the old run to the last bit.")
        return [*found, *self.notes]


def added_table(added: Added) -> Table:
    """Return a table of every task's primary metric: before, after, and beside the two other ways."""
    from rich.table import Table

    table = Table(title=f"{added.run.folder}: tasks added by {added.method}", title_justify="left")
    for name in ("task", "metric", "before", "after", "alone", "all retrained"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for score in added.scores:
        cells = [_cell(found, score.metric) for found in (score.before, score.after, score.alone, score.retrained)]
        arrow = "↑" if score.higher_is_better else "↓"
        table.add_row(f"{score.task} (new)" if score.new else score.task, f"{score.metric} {arrow}", *cells)
    return table


def _cell(found: Scores, metric: str) -> str:
    value = math.nan if found is None else found.get(metric, math.nan)
    return "" if math.isnan(value) else f"{value:.4g}"
