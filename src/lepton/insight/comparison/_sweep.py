"""Size against accuracy: one model in several smaller forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton.errors import ConfigurationError
from lepton.insight._results import MetricInfo
from lepton.insight.page import INK, MUTED, SERIES, as_bytes, new_figure, panel_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SizedScores", "plot_sweep"]

_WIDTH = 9.0
_HEIGHT = 2.7
_SPREAD = 4.0
"""Largest size over the smallest, in a panel whose points are near each other: less would blow up a few bytes."""
_MARKERS = ("o", "^", "s", "D", "v", "P")


@dataclass(frozen=True)
class SizedScores:
    """One form of a model.

    Attributes:
        bytes: its size.
        scores: task -> value of the metric that is drawn; a task may be missing.
        family: forms of the same family have one colour and are joined by a line, such as a network and the same one
            in 8 bits; empty for one of its own.
    """

    bytes: int
    scores: Mapping[str, float]
    family: str = ""


def plot_sweep(forms: Mapping[str, SizedScores], metrics: Mapping[str, MetricInfo], original: str) -> Figure:
    """Draw size against a metric, one panel a task, one mark a form of the model; the original is a star.

    Better is up in every panel; the axis of a metric where lower is better runs backwards. Sizes are on a logarithmic
    axis.

    Args:
        forms: name -> size and scores.
        metrics: task -> the metric that is drawn.
        original: the name of the one that the others are made from.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: the original is not among the forms.
    """
    if original not in forms:
        raise ConfigurationError(f"plot_sweep: the original {original!r} is none of {list(forms)}.")
    columns = 3
    figure, style = new_figure(_WIDTH, -(-len(metrics) // columns) * _HEIGHT + 0.6, "plot_sweep")
    shapes = _shapes(forms, original)
    with style:
        for axes, (task, metric) in zip(panel_grid(figure, len(metrics), columns), metrics.items(), strict=True):
            _draw_forms(axes, task, forms, shapes)
            if task in forms[original].scores:
                line = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
                axes.axhline(forms[original].scores[task], **line)
            _finish(axes, task, metric, [form.bytes for form in forms.values()])
        figure.supxlabel("size", fontsize=9, color=MUTED)
        _legend(figure, shapes)
    return figure


def _families(forms: Mapping[str, SizedScores]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for name, form in forms.items():
        families.setdefault(form.family or name, []).append(name)
    return families


def _shapes(forms: Mapping[str, SizedScores], original: str) -> dict[str, dict[str, Any]]:
    """Return how each form is drawn: a colour for each family, a mark for each place in it."""
    shapes: dict[str, dict[str, Any]] = {}
    for number, names in enumerate(_families(forms).values()):
        for place, name in enumerate(name for name in names if name != original):
            colour, marker = SERIES[number % len(SERIES)], _MARKERS[place % len(_MARKERS)]
            shapes[name] = {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none", "zorder": 3}
    shapes[original] = {"color": INK, "marker": "*", "markersize": 13, "linestyle": "none", "zorder": 2}
    return {name: shapes[name] for name in forms}


def _draw_forms(
    axes: Any, task: str, forms: Mapping[str, SizedScores], shapes: Mapping[str, Mapping[str, Any]]
) -> None:
    for names in _families(forms).values():
        there = [forms[name] for name in names if task in forms[name].scores]
        line = {"color": shapes[names[-1]]["color"], "linewidth": 1.0, "alpha": 0.5, "zorder": 1.5}
        axes.plot([form.bytes for form in there], [form.scores[task] for form in there], **line)
    for name, form in forms.items():
        if task in form.scores:
            axes.plot([form.bytes], [form.scores[task]], **shapes[name])


def _finish(axes: Any, task: str, metric: MetricInfo, sizes: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(task, pad=6)
    axes.set_ylabel(metric.name if metric.higher_is_better else f"{metric.name} (axis reversed)")
    axes.set_xscale("log")
    low, high = min(sizes), max(sizes)
    widen = max(1.15, (_SPREAD * low / high) ** 0.5)
    axes.set_xlim(low / widen, high * widen)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: as_bytes(value).replace(".0 ", " ")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=7.5, which="both", length=0)
    axes.locator_params(axis="y", nbins=5)
    axes.margins(y=0.2)
    if not metric.higher_is_better:
        axes.invert_yaxis()
    axes.grid(axis="y", linestyle=(0, (1, 3)))


def _legend(figure: Figure, shapes: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **shape) for name, shape in shapes.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.4, fontsize=8.5)
