"""What a page is made of beside paragraphs and tables: figures, plots, matrices, galleries, folded parts, code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Union

from lepton.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lepton.insight.page._sound import SpeechExample
    from lepton.insight.page._tables import Table

__all__ = [
    "Block", "Card", "Chart", "Code", "Flag", "Fold", "Gallery", "Grid", "Heading", "Matrix", "Picture", "Plot",
    "Points", "Trace",
]  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A matplotlib figure; it becomes inline SVG that follows the reader's light or dark scheme.

    Args:
        figure: as the `plot_...` functions return it.
        alt: what it shows, for those who cannot see it.
        caption: one sentence that says how to read it.
    """

    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """A PNG image.

    Args:
        png: the bytes of the file.
        alt: what it shows, for those who cannot see it.
        caption: one sentence that says how to read it.
    """

    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Points:
    """A list of short statements.

    Args:
        items: each a line of plain text.
    """

    items: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """One line, or one cloud of points, of a `Plot`.

    Args:
        name: as the legend says it.
        x: positions [N].
        y: values [N]; those that are not finite leave a gap.
        kind: a line, points, bars, or a thin line for comparison that is no data, such as a diagonal.
        labels: for points: what each is, shown when it is pointed at; empty for none.
        shown: whether it is drawn before the reader asks for it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["line", "points", "bars", "guide"] = "line"
    labels: Sequence[str] = ()
    shown: bool = True

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or (self.labels and len(self.labels) != len(self.x)):
            raise ConfigurationError(
                f"Trace {self.name!r}: x, y and labels must be equally long, but are {len(self.x)}, {len(self.y)} and "
                f"{len(self.labels)}."
            )


@dataclass(frozen=True)
class Plot:
    """An interactive plot, drawn by the page's own script: zoom, values under the pointer, traces on and off.

    Without a script it is a static picture.

    Args:
        title: what it shows, above it.
        x: words at the horizontal axis.
        y: words at the vertical axis.
        traces: what is drawn.
        caption: one sentence that says how to read it.
        log: whether the vertical axis begins logarithmic; the reader can change that.
        marks: positions on the horizontal axis with words, drawn as a dotted line.
        x_range: ends of the horizontal axis; by default those of the data.
        y_range: ends of the vertical axis.
    """

    title: str
    x: str
    y: str
    traces: tuple[Trace, ...]
    caption: str = ""
    log: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Matrix:
    """A table of numbers whose cells are shaded.

    Args:
        title: what it shows.
        rows: names of the rows.
        columns: names of the columns.
        cells: the words in the cells, row by row.
        shades: for each cell -1 to 1: how dark, and in which of two colours; NaN for none.
        corner: what the rows and the columns are.
        caption: one sentence that says how to read it.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    shades: tuple[tuple[float, ...], ...]
    corner: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Card:
    """One sample: pictures with their names, and lines of text with a tone.

    Args:
        pictures: pairs of a name and the bytes of a PNG file.
        lines: pairs of a text and its tone, as in `TableCell`.
    """

    pictures: tuple[tuple[str, bytes], ...]
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Cards side by side.

    Args:
        title: what they show.
        cards: the cards.
        size: `wide` for cards of several pictures, `small` for a key of colours.
    """

    title: str
    cards: tuple[Card, ...]
    size: Literal["normal", "wide", "small"] = "normal"


@dataclass(frozen=True)
class Fold:
    """Blocks that the reader opens.

    Args:
        summary: what is inside.
        blocks: what it is.
    """

    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Grid:
    """Blocks in two columns where the screen is wide enough.

    Args:
        blocks: plots, as a rule.
    """

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Heading:
    """A heading within a section.

    Args:
        text: its words.
    """

    text: str


@dataclass(frozen=True)
class Code:
    """Lines as they are: a command, a file.

    Args:
        text: the lines.
        label: what they are, for those who cannot see them.
    """

    text: str
    label: str


@dataclass(frozen=True)
class Flag:
    """A sentence that must not be overlooked.

    Args:
        text: the sentence.
    """

    text: str


Block = Union[  # strings name the classes that are not imported here
    str, Points, "Table", Chart, Picture, Plot, Matrix, Gallery, Fold, Grid, Heading, Code, Flag, "SpeechExample"
]
"""What a section is made of; a string is a paragraph of plain text."""
