"""Scores from kept outputs, and how much they would vary with other test rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton.tasks import Classification, MultiLabel, Regression, Task

__all__ = ["Interval", "bootstrap", "constant_output", "interval_of", "resampled_rows", "score_outputs"]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval over resampled rows; NaN ends where there is none.

    Attributes:
        value: on the rows as they are.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies on that side of 0; 0 if it contains 0 or there is none."""
        return int(self.low > 0) - int(self.high < 0)

    def text(self, digits: int, *, signed: bool = False) -> str:
        """Return the value, and the interval in brackets where there is one.

        Args:
            digits: decimals.
            signed: whether a plus is written.
        """
        if math.isnan(self.value):
            return "not measured"
        mark = "+" if signed else ""
        value = f"{self.value:{mark}.{digits}f}"
        return value if math.isnan(self.low) else f"{value} [{self.low:{mark}.{digits}f}, {self.high:{mark}.{digits}f}]"


def score_outputs(task: Task, output: Tensor, target: Tensor) -> dict[str, float]:
    """Return a task's metrics of outputs that were kept.

    Args:
        task: the task.
        output: [N, ...], as the model gives it, in original units.
        target: [N, ...].

    Example:
        >>> score_outputs(Regression("size"), torch.zeros(2), torch.tensor([1.0, 3.0]))["mae"]
        2.0
    """
    metrics = task.metrics()
    task.update_metrics(metrics, output, task.check_target(output, target))
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def constant_output(task: Task, train: Tensor, n_rows: int) -> Tensor | None:
    """Return the output of the best predictor that ignores its input; None for a kind that has no such thing here.

    Args:
        task: the task.
        train: its training targets.
        n_rows: how many rows to predict.

    Example:
        >>> constant_output(Regression("size"), torch.tensor([1.0, 3.0]), 2).tolist()
        [2.0, 2.0]
    """
    if isinstance(task, Classification):
        counts = torch.bincount(train[train >= 0].long(), minlength=task.classes).float()
        one = (counts / counts.sum()).clamp(min=1e-9).log()
    elif isinstance(task, MultiLabel):
        one = torch.logit(train.float().nanmean(0).clamp(1e-6, 1 - 1e-6))
    elif isinstance(task, Regression):
        one = train.float().nanmean(0)
    else:
        return None
    return one.expand(n_rows, *one.shape)


def bootstrap(
    score: Callable[[Tensor], Mapping[str, float]], n_rows: int, *, resamples: int = 100, seed: int = 0
) -> dict[str, Interval]:
    """Return every score on all rows, with its 95 % percentile interval over rows drawn with replacement.

    The interval holds what other test rows would change, not what another seed of the training would.

    Args:
        score: row numbers [N] -> name -> value.
        n_rows: number of rows N.
        resamples: how often rows are drawn.
        seed: fixes the draws.

    Example:
        >>> values = torch.arange(100.0)
        >>> found = bootstrap(lambda rows: {"mean": float(values[rows].mean())}, 100)["mean"]
        >>> found.low < found.value < found.high
        True
    """
    whole = score(torch.arange(n_rows))
    drawn = [score(rows) for rows in resampled_rows(n_rows, resamples, seed=seed)]
    return {name: interval_of(value, [found[name] for found in drawn]) for name, value in whole.items()}


def resampled_rows(n_rows: int, resamples: int, *, seed: int = 0) -> Iterator[Tensor]:
    """Yield the row numbers [N] of each resample: N rows drawn with replacement.

    Args:
        n_rows: number of rows N.
        resamples: how often rows are drawn.
        seed: fixes the draws.

    Example:
        >>> [rows.tolist() for rows in resampled_rows(1, 2)]
        [[0], [0]]
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield torch.randint(n_rows, (n_rows,), generator=generator)


def interval_of(value: float, drawn: Sequence[float]) -> Interval:
    """Return a value with the 95 % percentile interval of what resamples gave; none for fewer than 20 of them.

    Args:
        value: on the rows as they are.
        drawn: one value for each resample; those that are not finite are passed over.

    Example:
        >>> interval_of(0.5, [place / 100 for place in range(101)]).high
        0.975
    """
    known = torch.tensor([found for found in drawn if math.isfinite(found)], dtype=torch.float64)
    if len(known) < 20 or not math.isfinite(value):
        return Interval(value)
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high)
