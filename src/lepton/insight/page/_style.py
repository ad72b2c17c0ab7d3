"""The colours of figures and page, and how a figure is started and turned into SVG or PNG.

Every colour has a value for a dark page. Figures are drawn in the light ones; `svg_of` replaces each by its CSS
variable, so that an inline figure follows the reader's colour scheme. Hues are those of Okabe and Ito (2008), which
readers with colour-blindness can tell apart, darkened or lightened until they stand out from the page.
"""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton.errors import import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BAND", "BETTER", "GRID", "INK", "LINES", "MUTED", "PAPER", "SERIES", "THEME", "WORSE",
    "new_figure", "panel_grid", "png_of", "svg_of",
]  # fmt: skip


class Colour(NamedTuple):
    """A colour of the page, for a light and for a dark scheme."""

    light: str
    dark: str


THEME = {
    "ink": Colour("#1f2328", "#e8e6e3"),
    "muted": Colour("#646b73", "#9da3aa"),
    "grid": Colour("#dde1e6", "#363b41"),
    "band": Colour("#e6e9ed", "#2d3238"),
    "paper": Colour("#fefefe", "#15171a"),
    "better": Colour("#0969b0", "#5cb3f5"),
    "worse": Colour("#b94700", "#ff9350"),
    "series-1": Colour("#0072b2", "#4aa8ea"),
    "series-2": Colour("#d98e04", "#f0b429"),
    "series-3": Colour("#009e73", "#2cc79a"),
    "series-4": Colour("#b5508a", "#e694c2"),
    "series-5": Colour("#5d5fb8", "#a2a4f2"),
    "series-6": Colour("#4a5058", "#c9ced5"),
}
INK, MUTED, GRID, BAND, PAPER, BETTER, WORSE = (
    THEME[name].light for name in ("ink", "muted", "grid", "band", "paper", "better", "worse")
)
SERIES = tuple(THEME[f"series-{i}"].light for i in range(1, 7))
LINES = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (5, 1.5, 1.2, 1.5)))  # so that colour is never alone

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
}


def new_figure(width: float, height: float, purpose: str) -> tuple[Figure, Any]:
    """Return an empty figure of so many inches, and the context in which its axes must be made.

    It belongs to no window and no global state of matplotlib.

    Raises:
        MissingExtraError: if matplotlib is not installed; `purpose` says what needs it.
    """
    matplotlib = import_extra("matplotlib", "demo", purpose)
    figures = import_extra("matplotlib.figure", "demo", purpose)
    context = matplotlib.rc_context(_RC)
    with matplotlib.rc_context(_RC):
        return figures.Figure(figsize=(width, height), layout="constrained"), context


def panel_grid(figure: Figure, count: int, columns: int, **shared: Any) -> list[Any]:
    """Return `count` axes in as few rows of at most `columns` as will do, and as even as can be."""
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for empty in axes[count:]:
        empty.set_axis_off()
    return axes[:count]


def png_of(figure: Figure, *, dpi: int = 200) -> bytes:
    """Return a figure as PNG on the light paper, for a README.

    Args:
        figure: what to draw.
        dpi: pixels per inch: 9 inches become 1800 pixels.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def svg_of(figure: Figure, prefix: str) -> str:
    """Return a figure as an SVG element without background, its colours being the page's variables.

    Args:
        figure: what to draw.
        prefix: begins every id inside, so that two figures of a page do not share one.
    """
    matplotlib = import_extra("matplotlib", "demo", "A report with figures")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r'\sxmlns(:\w+)?="[^"]*"', r"<!--.*?-->"):
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|"#|url\(#)', rf"\g<1>{prefix}-", svg)
    for name, colour in THEME.items():
        svg = svg.replace(colour.light, f"var(--{name})")
    opening, end, rest = svg.partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", opening) + end + rest  # the page decides on the size
