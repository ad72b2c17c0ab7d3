from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MetricInfo", "RunResult", "TaskScore", "conflict_keys"]


@dataclass(frozen=True)
class MetricInfo:
    """What must be known of a metric before two of its values can be compared.

    Args:
        name: as in the key `val/<task>/<name>`.
        higher_is_better: whether more is better.
        chance: the score of a predictor that ignores the input, on the same test set: the share of the most
            frequent class, the error of the mean. None where it is not known; the metric is then never flagged.

    Example:
        >>> MetricInfo("accuracy", higher_is_better=True, chance=0.1).direction
        'higher is better'
    """

    name: str
    higher_is_better: bool
    chance: float | None = None

    @property
    def direction(self) -> str:
        """Return the words that tables and axes say it with."""
        return "higher is better" if self.higher_is_better else "lower is better"


@dataclass(frozen=True)
class TaskScore:
    """The metrics of one task on the held-out test set.

    Args:
        metrics: metric name to value, in the metric's own unit; NaN where nothing could be measured.
        n_labels: number of labels that were present.
    """

    metrics: dict[str, float]
    n_labels: int


@dataclass(frozen=True)
class RunResult:
    """One training with one seed: what it scored on the test set, how it went, what it cost.

    Args:
        method: the name that tables and plots show, such as `"equal weighting"`.
        seed: runs of equal seed are compared as a pair.
        tasks: task name to its scores. A single-task baseline holds one task, or all of them in one result.
        history: rows of `metrics.jsonl`, each with `step` and any of `epoch`, `train/<task>/loss`,
            `train/<task>/weight`, `val/<task>/<metric>`, `conflict/<task>/<task>` (cosine of two gradients).
        seconds_per_step: mean time of an optimiser step, seconds.
        seconds: time of the whole training, seconds.
        parameters: number of parameters, by `"shared"`, `"private"` and `"total"`.
        notes: anything that a reader of the report must know of this run.
    """

    method: str
    seed: int
    tasks: dict[str, TaskScore]
    history: list[dict[str, float]] = field(repr=False)
    seconds_per_step: float
    seconds: float
    parameters: dict[str, int]
    notes: str = ""


def conflict_keys(first: str, second: str) -> tuple[str, str]:
    """Return the two keys of a history that may hold the cosine of two tasks' gradients: each pair is logged once.

    Args:
        first: name of a task.
        second: name of another.
    """
    return f"conflict/{first}/{second}", f"conflict/{second}/{first}"
