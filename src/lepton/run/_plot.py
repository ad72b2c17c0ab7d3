"""Figures of one training, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton.errors import DataError, import_extra
from lepton.insight import conflict_keys

__all__ = ["RunPlots"]


class RunPlots:
    """Figures of one training; each method draws on given axes, or on new ones, and returns them.

    Args:
        history: one row of metrics for each epoch.
        tasks: the tasks' names.
    """

    def __init__(self, history: Sequence[Mapping[str, float]], tasks: Sequence[str]) -> None:
        self.history = history
        self.tasks = list(tasks)

    def weights(self, axes: Any = None) -> Any:
        """Draw the factor on each task's gradient in the trunk, epoch by epoch."""
        return self._lines("train/{}/weight", "weight of the task's gradient", axes)

    def curves(self, metric: str = "loss", axes: Any = None) -> Any:
        """Draw each task's validation metric, epoch by epoch.

        Args:
            metric: `loss`, or a metric that every task has.
            axes: where to draw.
        """
        return self._lines("val/{}/" + metric, f"validation {metric}", axes)

    def conflict(self, axes: Any = None) -> Any:
        """Draw the mean cosine between each two tasks' gradients in the last epoch; needs a gradient balancer."""
        axes = _new_axes(axes)
        size = len(self.tasks)
        last = self.history[-1] if self.history else {}
        table = [[1.0 if a == b else _cosine(last, a, b) for b in self.tasks] for a in self.tasks]
        axes.imshow(table, cmap="RdBu", vmin=-1, vmax=1)
        axes.set_xticks(range(size), self.tasks, rotation=45, ha="right")
        axes.set_yticks(range(size), self.tasks)
        for row in range(size):
            for column in range(size):
                axes.text(column, row, f"{table[row][column]:.2f}", ha="center", va="center")
        return axes

    def _lines(self, key: str, label: str, axes: Any) -> Any:
        shown = [name for name in self.tasks if any(key.format(name) in row for row in self.history)]
        if not shown:
            raise DataError(f"the history has no {key.format('<task>')!r}: there is nothing to draw.")
        axes = _new_axes(axes)
        for name in shown:
            points = [(row["epoch"], row[key.format(name)]) for row in self.history if key.format(name) in row]
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.legend()
        return axes


def _new_axes(axes: Any) -> Any:
    if axes is not None:
        return axes
    pyplot = import_extra("matplotlib.pyplot", "plot", "a figure")
    return pyplot.subplots()[1]


def _cosine(row: Mapping[str, float], a: str, b: str) -> float:
    for key in conflict_keys(a, b):
        if key in row:
            return row[key]
    raise DataError("the history has no cosines between gradients: they are recorded with a gradient balancer only.")
