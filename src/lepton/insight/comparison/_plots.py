from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton.errors import ConfigurationError
from lepton.insight._results import RunResult, conflict_keys
from lepton.insight.comparison._comparison import Comparison, ScoreCell
from lepton.insight.comparison._history import Series, conflict_matrix, history_series
from lepton.insight.page import BAND, BETTER, INK, LINES, MUTED, PAPER, SERIES, WORSE, new_figure, panel_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_comparison", "plot_conflict", "plot_curves", "plot_weights"]

_WIDTH = 9.0  # inches; 900 pixels of a README at 100 dpi
_PAIRS = 6  # lines that can be told apart in one panel
_MARKS = {"better": (BETTER, ">"), "worse": (WORSE, "<"), "no difference seen": (MUTED, "o"), "not known": (MUTED, "D")}


def plot_comparison(comparison: Comparison, *, columns: int = 4) -> Figure:
    """Draw every task's primary metric: each method a dot with its interval, the task alone a line with a band.

    Better is to the right in every panel; the axis of a metric where lower is better runs backwards. The mark says
    what the paired difference is evidence of: blue and pointing right is better than alone, orange and pointing left
    is worse, a grey dot is no difference seen, a grey diamond is a single seed. A hollow mark is at chance level.

    Args:
        comparison: what to draw.
        columns: panels side by side.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: if the comparison holds no method.
    """
    if not comparison.methods:
        raise ConfigurationError("plot_comparison: the comparison holds no method.")
    names = [method.method for method in comparison.methods]
    rows = -(-len(comparison.metrics) // columns)
    figure, style = new_figure(_WIDTH, rows * (1.0 + 0.42 * len(names)) + 0.45, "plot_comparison")
    with style:
        panels = panel_grid(figure, len(comparison.metrics), columns, sharey=True)
        for axes, task in zip(panels, comparison.metrics, strict=True):
            cells = [comparison.cell(name, task) for name in names]
            _draw_task(axes, task, cells, comparison.digits(task, cells[0].metric.name))
        for axes in panels:
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.75)
        _comparison_legend(figure, comparison)
    return figure


def _draw_task(axes: Any, task: str, cells: Sequence[ScoreCell], digits: int) -> None:
    metric, alone = cells[0].metric, cells[0].baseline
    if alone.has_interval:
        axes.axvspan(alone.low, alone.high, color=BAND, linewidth=0, zorder=0.5)
    axes.axvline(alone.mean, color=INK, linewidth=1.2, zorder=1)
    for y, cell in enumerate(cells):
        _draw_score(axes, y, cell, digits)
    if not metric.higher_is_better:
        axes.invert_xaxis()
    axes.set_title(task, pad=6)
    remarks = [f"{metric.name}, {metric.direction}"]
    remarks += [] if metric.higher_is_better else ["(axis reversed)"]
    remarks += ["at chance even alone"] if cells[0].baseline_at_chance else []
    axes.set_xlabel("\n".join(remarks))
    axes.margins(x=0.18)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="y", linestyle=(0, (1, 3)))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _draw_score(axes: Any, y: int, cell: ScoreCell, digits: int) -> None:
    colour, marker = _MARKS[cell.verdict]
    score = cell.score
    if score.has_interval:
        axes.plot([score.low, score.high], [y, y], color=colour, linewidth=2, solid_capstyle="round", zorder=2)
    face = PAPER if cell.method_at_chance else colour
    edge = {"markerfacecolor": face, "markeredgecolor": colour, "markeredgewidth": 1.3}
    axes.plot([score.mean], [y], marker=marker, markersize=7.5, linestyle="none", zorder=3, **edge)
    if cell.verdict in ("better", "worse"):
        label = f"{cell.difference.mean:+.{digits}f}".replace("-", "−")
        outward = "left" if cell.verdict == "better" else "right"  # away from the line of the baseline
        place = {"xytext": (-5 if outward == "left" else 5, 6), "textcoords": "offset points", "ha": outward}
        axes.annotate(label, (score.mean, y), color=colour, fontsize=8.5, fontweight="bold", **place)


def _comparison_legend(figure: Figure, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    words = {"better": "better than alone", "worse": "worse than alone", "not known": "not judged"}
    seen = {cell.verdict for cell in comparison.cells}
    handles: list[Any] = [Line2D([], [], color=INK, linewidth=1.2, label="alone")]
    if any(cell.baseline.has_interval for cell in comparison.cells):
        handles = [Patch(facecolor=BAND, edgecolor=INK, linewidth=0.8, label="alone, 95 % interval")]
    for verdict, (colour, marker) in _MARKS.items():
        if verdict in seen:
            shape: dict[str, Any] = {"marker": marker, "linestyle": "-", "linewidth": 2, "markersize": 7}
            handles.append(Line2D([], [], color=colour, label=words.get(verdict, verdict), **shape))
    if any(cell.method_at_chance for cell in comparison.cells):
        hollow: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": PAPER, "markersize": 7}
        handles.append(Line2D([], [], color=MUTED, label="hollow: at chance", **hollow))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, columnspacing=1.6, handlelength=1.7, fontsize=8.5)


def plot_curves(results: Iterable[RunResult], keys: Sequence[str], *, x: str = "step", columns: int = 2) -> Figure:
    """Draw logged quantities over time, one panel per key, one line per method: mean over seeds, band from low to high.

    Args:
        results: runs; those without a key have no line in its panel.
        keys: such as `"val/digit/accuracy"`.
        x: key of the horizontal axis.
        columns: panels side by side.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: if no run has any of the keys.
    """
    runs = list(results)
    series = {key: found for key in keys if (found := history_series(runs, key, x=x))}
    if not series:
        raise ConfigurationError(f"plot_curves: no run has logged any of {list(keys)}.")
    methods = [m for m in dict.fromkeys(run.method for run in runs) if any(m in found for found in series.values())]
    figure, style = new_figure(_WIDTH, -(-len(series) // columns) * 2.3 + 0.4, "plot_curves")
    with style:
        for axes, (key, found) in zip(panel_grid(figure, len(series), columns), series.items(), strict=True):
            for i, method in enumerate(methods):
                if method in found:
                    _draw_series(axes, found[method], i, method)
            _finish_curves(axes, _title_of(key))
        figure.supxlabel(x, fontsize=9, color=MUTED)
        _series_legend(figure, methods)
    return figure


def _look(i: int) -> dict[str, Any]:
    return {"color": SERIES[i % len(SERIES)], "linestyle": LINES[i % len(LINES)]}


def _draw_series(axes: Any, series: Series, i: int, label: str) -> None:
    single = {"marker": "o", "markersize": 4} if len(series.x) == 1 else {}
    axes.plot(series.x, series.mean, label=label, **_look(i), **single)
    axes.fill_between(series.x, series.low, series.high, color=_look(i)["color"], alpha=0.15, linewidth=0)


def _title_of(key: str) -> str:
    split, _, rest = key.partition("/")
    task, _, quantity = rest.rpartition("/")
    return f"{task}  {split} {quantity}" if task else key


def _finish_curves(axes: Any, title: str) -> None:
    axes.set_title(title, pad=8)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=8.5)
    axes.locator_params(axis="x", nbins=6)
    axes.margins(x=0.01)
    axes.spines["left"].set_visible(False)


def _series_legend(figure: Figure, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, linewidth=2, **_look(i)) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, columnspacing=1.8, handlelength=2.6)


def plot_weights(results: Iterable[RunResult], tasks: Sequence[str], *, columns: int = 3) -> Figure:
    """Draw the tasks' weights over time, one panel per method, one line per task; log axis if they differ widely.

    Args:
        results: runs; methods that logged no `train/<task>/weight` have no panel.
        tasks: names of the tasks.
        columns: panels side by side.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: if no run has logged a weight.
    """
    runs = list(results)
    found = {task: history_series(runs, f"train/{task}/weight") for task in tasks}
    methods = [m for m in dict.fromkeys(run.method for run in runs) if any(m in those for those in found.values())]
    if not methods:
        raise ConfigurationError(f"plot_weights: no run has logged train/<task>/weight for any of {list(tasks)}.")
    figure, style = new_figure(_WIDTH, -(-len(methods) // columns) * 2.2 + 0.4, "plot_weights")
    with style:
        for axes, method in zip(panel_grid(figure, len(methods), columns), methods, strict=True):
            lines = {i: found[task][method] for i, task in enumerate(tasks) if method in found[task]}
            for i, series in lines.items():
                _draw_series(axes, series, i, tasks[i])
            _finish_curves(axes, method)
            _scale_weights(axes, list(lines.values()))
        figure.supxlabel("step", fontsize=9, color=MUTED)
        _series_legend(figure, tasks)
    return figure


def _scale_weights(axes: Any, lines: Sequence[Series]) -> None:
    values = np.concatenate([series.mean for series in lines])
    if values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, 1.05 * float(values.min())))


def plot_conflict(results: Iterable[RunResult], tasks: Sequence[str]) -> Figure:
    """Draw how much the tasks' gradients disagree: a matrix of mean cosines, and each pair over time.

    A negative cosine means that a step for one task undoes some of the other's. It does not predict whether the
    tasks help each other on new data, and the figure says so.

    Args:
        results: runs of one method, which logged `conflict/<task>/<task>`.
        tasks: names of the tasks, at least two.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: for runs of several methods, or without a logged cosine of two of these tasks.
    """
    runs = list(results)
    methods = sorted({run.method for run in runs})
    if len(methods) != 1:
        raise ConfigurationError(f"plot_conflict: runs of one method are needed, but these are of {methods}.")
    series = _pair_series(runs, tasks)
    if not series:
        raise ConfigurationError(
            f"plot_conflict: no run has logged conflict/<task>/<task> for any two of {list(tasks)}."
        )
    side = 1.7 + 0.42 * len(tasks)
    figure, style = new_figure(_WIDTH, max(side, 3.0) + 0.5, "plot_conflict")
    with style:
        left, right = figure.subplots(1, 2, width_ratios=[max(side, 3.0), _WIDTH - max(side, 3.0)])
        _draw_matrix(left, conflict_matrix(runs, tasks), tasks)
        _draw_pairs(right, series)
        note = "Conflict does not predict generalisation: read the scores for that."
        figure.supxlabel(note, x=0.99, ha="right", fontsize=9, color=MUTED, fontstyle="italic")
    return figure


def _pair_series(runs: Sequence[RunResult], tasks: Sequence[str]) -> dict[str, Series]:
    pairs = {}
    for first, second in itertools.combinations(tasks, 2):
        for key in conflict_keys(first, second):
            for series in history_series(runs, key, points=40).values():
                pairs[f"{first} · {second}"] = series
    return pairs


def _draw_matrix(axes: Any, matrix: Any, tasks: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    for (i, j), cosine in np.ndenumerate(matrix):
        if i <= j:
            continue  # symmetric, with ones on the diagonal
        known = not np.isnan(cosine)
        strength = 0.06 + 0.6 * min(abs(float(cosine)), 1.0) if known else 0.0
        colour = WORSE if cosine < 0 else BETTER
        axes.add_patch(Rectangle((j + 0.02, i + 0.02), 0.96, 0.96, facecolor=colour, alpha=strength, linewidth=0))
        text = f"{round(float(cosine), 2) + 0.0:+.2f}".replace("-", "−") if known else "?"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=9.5)
    n = len(tasks)
    axes.set(xlim=(0, n - 1), ylim=(n, 1), aspect="equal", title="mean cosine")
    axes.set_xticks(np.arange(n - 1) + 0.5, tasks[:-1], rotation=25 if max(map(len, tasks)) > 6 else 0, color=INK)
    axes.set_yticks(np.arange(1, n) + 0.5, tasks[1:])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _draw_pairs(axes: Any, series: dict[str, Series]) -> None:
    strongest = sorted(series, key=lambda pair: -abs(float(series[pair].mean.mean())))[:_PAIRS]
    for i, pair in enumerate(strongest):
        axes.plot(series[pair].x, series[pair].mean, label=pair, **_look(i))
    axes.axhline(0, color=INK, linewidth=0.9)
    what = "cosine over time" if len(series) <= _PAIRS else f"cosine over time, the {_PAIRS} strongest pairs"
    _finish_curves(axes, what)
    axes.set_title(what, pad=8 + 15 * -(-len(strongest) // 3))
    axes.set_xlabel("step")
    axes.set(ylim=(-1, 1), yticks=(-1, -0.5, 0, 0.5, 1))
    axes.text(0.99, 0.02, "below 0: opposed", transform=axes.transAxes, ha="right", color=MUTED, fontsize=8.5)
    corner = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.985), "borderaxespad": 0.2}
    axes.legend(ncols=3, fontsize=8.5, handlelength=2.4, columnspacing=1.4, **corner)
