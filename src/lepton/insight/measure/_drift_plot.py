"""The picture of a drift report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lepton.insight.measure._drift import ColumnDrift, sorted_drift
from lepton.insight.page import BAND, INK, MUTED, WORSE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_drift"]

MOST_BARS = 30


def plot_drift(columns: Sequence[ColumnDrift], *, title: str = "") -> Figure:
    """Draw how far each column is from its old distribution, the farthest on top, beside what chance shows.

    A bar reaches to the column's distance; the grey part is what one in a hundred columns that did not change would
    reach by chance, and ends in a tick. A bar that ends beyond its tick is coloured; the columns that are predicted
    have their names in bold.

    Args:
        columns: at most 30 are drawn.
        title: above the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    shown = sorted_drift(columns)[:MOST_BARS]
    figure, style = new_figure(9.0, 1.3 + 0.27 * max(1, len(shown)), "plot_drift")
    with style:
        axes = figure.subplots()
        for y, found in enumerate(shown):
            axes.barh(y, found.distance, height=0.62, color=WORSE if found.moved else MUTED, linewidth=0)
            axes.barh(y, min(found.noise, 1.0), height=0.84, color=BAND, alpha=0.75, linewidth=0)
            axes.plot([found.noise] * 2, [y - 0.42, y + 0.42], color=INK, linewidth=1.2)
            edge = max(found.distance, found.noise)
            axes.annotate(
                f" {found.distance:.2f}  {found.words}", (edge, y), va="center", fontsize=8, color=INK, zorder=3
            )
        axes.set_yticks(range(len(shown)), [found.name for found in shown])
        for label, found in zip(axes.get_yticklabels(), shown, strict=True):
            label.set_fontweight("bold" if found.role == "target" else "normal")
        largest = max((max(found.distance, found.noise) for found in shown), default=1.0)
        axes.set_xlim(0, 1.55 * largest or 1.0)
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1])
        axes.grid(axis="y", visible=False)
        axes.set_ylim(max(1, len(shown)) - 0.4, -0.7)
        axes.set_xlabel("distance: 0 the same, 1 nothing in common; up to the tick: by chance, 1 in 100")
        axes.tick_params(length=0)
        axes.set_title(title, loc="left")
    return figure
