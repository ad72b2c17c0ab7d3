"""What the validation data say: the row of metrics, which evaluation is the best, and when to stop waiting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Literal

from lepton.errors import ConfigurationError, DataError, is_whole, nearest, require
from lepton.evaluate import TaskResult, relative_improvement
from lepton.nn import LeptonModel
from lepton.train._state import TrainState

__all__ = ["Selection", "first_losses"]


class Selection:
    """Judges evaluations by one column of the metrics.

    `val/relative_loss` is the mean over the tasks (auxiliary ones left out) of the validation loss divided by its
    value before training. `val/delta_m`, with baselines, is the mean over the tasks of the mean over a task's metrics
    of the relative improvement over the task trained alone, in percent, positive is better than alone; a metric whose
    baseline is zero has none and is left out.

    Args:
        model: whose tasks say which metrics there are, and whether more of one is better.
        monitor: the column.
        mode: `"min"` or `"max"`; None to take what the column says of itself.
        patience: evaluations without a better value before stopping; None to go on.
        baselines: `"task/metric"` -> score of that task trained alone, on the validation data.
        given: columns that listeners give, with whether more is better.

    Raises:
        ConfigurationError: a baseline of no metric, or `val/delta_m` without baselines.
    """

    def __init__(
        self,
        model: LeptonModel,
        monitor: str,
        mode: Literal["min", "max"] | None = None,
        *,
        patience: int | None = None,
        baselines: Mapping[str, float] | None = None,
        given: Mapping[str, bool] | None = None,
    ) -> None:
        require(isinstance(monitor, str), "Trainer", "monitor", monitor, "the name of a column, such as 'val/a/loss'")
        require(mode in ("min", "max", None), "Trainer", "mode", mode, "'min' or 'max', or None")
        counts = patience is None or is_whole(patience)
        require(counts, "Trainer", "patience", patience, "a whole number of at least 1, or None")
        self.model = model
        self.monitor = monitor
        self.given = dict(given or {})
        self.patience = patience
        self.baselines = dict(baselines or {})
        self._better = self._directions()
        self._check_baselines()
        self.higher_is_better = self._better.get(monitor, False)
        if mode is not None:
            self.higher_is_better = mode == "max"

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether the monitored value is better when smaller or when larger."""
        return "max" if self.higher_is_better else "min"

    def _directions(self) -> dict[str, bool]:
        """Return every column of an evaluation, with whether more of it is better."""
        found = {"val/relative_loss": False}
        if self.baselines:
            found["val/delta_m"] = True
        for name in self.model.task_names:
            better = self.model.task(name).higher_is_better
            found |= {f"val/{name}/{metric}": more for metric, more in {"loss": False, **better}.items()}
        return found | self.given

    def _check_baselines(self) -> None:
        for key, score in self.baselines.items():
            number = isinstance(score, (int, float)) and math.isfinite(score)
            require(number, "Trainer", f"baselines[{key!r}]", score, "a finite number")
            known = [column.removeprefix("val/") for column in self._better if column.count("/") > 1]
            if key not in known:
                raise ConfigurationError(
                    f"Trainer: baselines names {key!r}, which is no task/metric of this model.{nearest(key, known)}"
                )
            task = key.rpartition("/")[0]
            if self.model.task(task).auxiliary:
                raise ConfigurationError(
                    f"Trainer: baselines names {key!r}, but {task!r} is auxiliary, and delta_m leaves such tasks out."
                )

    def check_monitor(self) -> None:
        """Refuse a monitor that no evaluation will give."""
        if self.monitor in self._better:
            return
        if self.monitor == "val/delta_m":
            raise ConfigurationError(
                "monitor is 'val/delta_m', which compares with the tasks trained alone: pass their scores as "
                "baselines={'task/metric': score}."
            )
        raise ConfigurationError(
            f"monitor is {self.monitor!r}, which is no column of the metrics.{nearest(self.monitor, self._better)}"
        )

    # -- the row ----------------------------------------------------------------------------------------------
    def row(self, results: Mapping[str, TaskResult], initial: Mapping[str, float]) -> dict[str, float]:
        """Return `val/<task>/<metric>` for every task, `val/relative_loss`, and `val/delta_m` with baselines.

        Args:
            results: of an evaluation.
            initial: task -> what its loss is divided by in `val/relative_loss`.

        Raises:
            ConfigurationError: a column that a listener promised is not there.
        """
        row: dict[str, float] = {}
        for name, result in results.items():
            row[f"val/{name}/loss"] = result.loss
            row |= {f"val/{name}/{metric}": value for metric, value in result.metrics.items()}
        main = [name for name in results if not self.model.task(name).auxiliary] or list(results)
        ratios = [results[name].loss / initial[name] for name in main if results[name].n_labels > 0]
        row["val/relative_loss"] = sum(ratios) / len(ratios) if ratios else math.nan
        lacking = sorted(self.given.keys() - row.keys())
        if lacking:
            raise ConfigurationError(
                f"a listener's columns name {lacking}, but the results hold no such metric after its on_evaluate_end."
            )
        if self.baselines:
            row["val/delta_m"] = self._delta_m(row)
        return row

    def _delta_m(self, row: Mapping[str, float]) -> float:
        found: dict[str, list[float]] = {}
        for key, alone in self.baselines.items():
            column = f"val/{key}"
            relative = relative_improvement(row[column], alone, higher_is_better=self._better[column])
            if relative is not None:
                found.setdefault(key.rpartition("/")[0], []).append(relative)
        means = [statistics.fmean(values) for values in found.values()]
        return statistics.fmean(means) if means else math.nan

    # -- the verdict ------------------------------------------------------------------------------------------
    def is_best(self, row: Mapping[str, float], state: TrainState) -> bool:
        """Return whether this evaluation is the best so far; enter that, and the end of patience, into the state."""
        value = row[self.monitor]
        sign = -1.0 if self.higher_is_better else 1.0
        better = state.best_value is None or sign * value < sign * state.best_value
        if math.isfinite(value) and better:
            state.best_value, state.best_step, state.stale = value, state.step, 0
            return True
        state.stale += 1
        if self.patience is not None and state.stale >= self.patience:
            state.stopped = f"{self.monitor} has not improved for {self.patience} evaluations"
        return False

    def best_of_tasks(self, row: Mapping[str, float], state: TrainState) -> Iterable[tuple[str, str]]:
        """Return the tasks whose primary metric is the best so far, each with its column; enter that into the state."""
        found = []
        for name in self.model.task_names:
            column = f"val/{name}/{self.model.task(name).primary_metric}"
            value, before = row[column], state.best_by_task.get(name)
            more = self._better[column]
            if math.isfinite(value) and (before is None or (value > before if more else value < before)):
                state.best_by_task[name] = value
                found.append((name, column))
        return found


def first_losses(results: Mapping[str, TaskResult]) -> dict[str, float]:
    """Return what the validation losses are divided by: their values before training, or 1 where those are 0."""
    if not any(result.n_labels for result in results.values()):
        raise DataError("the validation batches hold no label of any task.")
    return {name: result.loss if result.loss > 0 else 1.0 for name, result in results.items()}
