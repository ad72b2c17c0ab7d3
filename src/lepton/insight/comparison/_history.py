from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton.insight._results import RunResult, conflict_keys

__all__ = ["Series", "conflict_matrix", "history_series"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One logged quantity over time, over the seeds of one method.

    Args:
        x: positions [N], such as steps.
        mean: mean over the seeds [N].
        low: smallest of the seeds [N].
        high: largest of the seeds [N].
    """

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


def history_series(results: Iterable[RunResult], key: str, *, x: str = "step", points: int = 120) -> dict[str, Series]:
    """Return one logged quantity over time for each method that has it.

    Rows without the key, and values that are not finite, are passed over. Longer histories are shortened to
    `points` averages of neighbouring rows. Where seeds stopped at different steps, late values are of fewer seeds.

    Args:
        results: runs, of any methods and seeds.
        key: such as `"train/digit/loss"`.
        x: the key of the horizontal axis.
        points: the largest number of positions, at least 1.

    Example:
        >>> rows = [{"step": 0, "train/digit/loss": 2.0}, {"step": 1, "train/digit/loss": 1.0}]
        >>> run = RunResult("equal", 0, {}, rows, 0.01, 1.0, {"total": 1})
        >>> history_series([run], "train/digit/loss")["equal"].mean.tolist()
        [2.0, 1.0]
    """
    methods: dict[str, list[dict[float, float]]] = {}
    for run in results:
        found = {row[x]: row[key] for row in run.history if x in row and math.isfinite(row.get(key, math.nan))}
        if found:
            methods.setdefault(run.method, []).append(found)
    return {method: _over_seeds(seeds, points) for method, seeds in methods.items()}


def _over_seeds(seeds: Sequence[dict[float, float]], points: int) -> Series:
    positions = sorted({position for seed in seeds for position in seed})
    groups = np.array_split(np.array(positions, dtype=np.float64), min(points, len(positions)))
    mean, low, high = [], [], []
    for group in groups:
        chunks = [[seed[position] for position in group if position in seed] for seed in seeds]
        values = [math.fsum(chunk) / len(chunk) for chunk in chunks if chunk]
        mean.append(math.fsum(values) / len(values))
        low.append(min(values))
        high.append(max(values))
    x = np.array([group.mean() for group in groups])
    return Series(x, np.array(mean), np.array(low), np.array(high))


def conflict_matrix(results: Iterable[RunResult], tasks: Sequence[str]) -> Numbers:
    """Return the mean cosine of every two tasks' gradients, over all logged steps of all given runs.

    Args:
        results: runs, as a rule the seeds of one method.
        tasks: names of the T tasks, in the order of rows and columns.

    Returns:
        A symmetric matrix [T, T] with ones on the diagonal; NaN for a pair that was never logged.

    Example:
        >>> run = RunResult("equal", 0, {}, [{"step": 0, "conflict/a/b": -0.5}], 0.01, 1.0, {"total": 1})
        >>> conflict_matrix([run], ["a", "b"]).tolist()
        [[1.0, -0.5], [-0.5, 1.0]]
    """
    rows = [row for run in results for row in run.history]
    matrix = np.eye(len(tasks))
    for i, first in enumerate(tasks):
        for j, second in enumerate(tasks[:i]):
            keys = conflict_keys(first, second)
            values = [row[key] for row in rows for key in keys if math.isfinite(row.get(key, math.nan))]
            matrix[i, j] = matrix[j, i] = math.fsum(values) / len(values) if values else math.nan
    return matrix
