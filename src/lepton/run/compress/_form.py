"""One form of a model, and what is lost in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton.compress import Cost
from lepton.insight import MetricInfo
from lepton.run.compress._shipped import Scores
from lepton.tasks import Task

__all__ = ["Form", "judged_metric", "lost"]


@dataclass(frozen=True)
class Form:
    """The original, or something smaller that predicts the same tasks.

    Attributes:
        name: of its folder and of its row.
        how: what was done, in words.
        cost: size, and times on this machine, measured together with all other forms.
        scores: part of the rows -> task -> metric -> value, of what is shipped.
        folder: the exported folder; None for what runs in torch only.
        run: folder of the run that it was exported from; None for the original's own.
        family: name of the network that it is in other numbers, or its own.
    """

    name: str
    how: str
    cost: Cost
    scores: Mapping[str, Scores]
    folder: Path | None = None
    run: Path | None = None
    family: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what `results.json` holds of it; folders by their names."""
        return {
            "how": self.how,
            "folder": None if self.folder is None else self.folder.name,
            "run": None if self.run is None else self.run.name,
            "cost": self.cost.to_dict(),
            "scores": self.scores,
        }


def judged_metric(task: Task, scores: Mapping[str, float]) -> MetricInfo:
    """Return the metric by which it is said what a task loses: the first share of which more is better, such as
    accuracy or r2; its primary metric where there is none.

    Args:
        task: the task.
        scores: metric -> value of the original.
    """
    for name, better in task.higher_is_better.items():
        if better and -1 <= scores.get(name, math.nan) <= 1:
            return MetricInfo(name, higher_is_better=True)
    name = task.primary_metric if task.primary_metric in scores else next(iter(scores))
    return MetricInfo(name, higher_is_better=task.higher_is_better.get(name, False))


def lost(metric: MetricInfo, original: Mapping[str, float], form: Mapping[str, float]) -> float:
    """Return what a form loses: points, hundredths of a share, or percent of a metric that is none; negative is gained.

    Args:
        metric: the task's, by `judged_metric`.
        original: metric -> value of the original.
        form: the same of the form.

    Example:
        >>> lost(MetricInfo("accuracy", higher_is_better=True), {"accuracy": 0.75}, {"accuracy": 0.5})
        25.0
        >>> lost(MetricInfo("rmse", higher_is_better=False), {"rmse": 2.0}, {"rmse": 3.0})
        50.0
    """
    before, after = original[metric.name], form[metric.name]
    if metric.higher_is_better and -1 <= before <= 1:
        return 100 * (before - after)
    if before == after:
        return 0.0
    sign = -1 if metric.higher_is_better else 1
    return sign * 100 * (after - before) / abs(before) if before else math.copysign(math.inf, after)
