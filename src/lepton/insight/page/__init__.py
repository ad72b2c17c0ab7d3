"""A page: its blocks and tables as data, the words for its numbers, and how it becomes HTML."""

from __future__ import annotations

from lepton.insight.page._blocks import (
    Block,
    Card,
    Chart,
    Code,
    Flag,
    Fold,
    Gallery,
    Grid,
    Heading,
    Matrix,
    Picture,
    Plot,
    Points,
    Trace,
)
from lepton.insight.page._format import as_bytes, as_count, as_duration, as_large, as_number, as_percent
from lepton.insight.page._report import Section, write_report
from lepton.insight.page._sound import SpeechExample, wav_of
from lepton.insight.page._speech_figure import plot_speech
from lepton.insight.page._style import (
    BAND,
    BETTER,
    INK,
    LINES,
    MUTED,
    PAPER,
    SERIES,
    WORSE,
    new_figure,
    panel_grid,
    png_of,
    svg_of,
)
from lepton.insight.page._tables import Table, TableCell, TableRow, Tone
from lepton.insight.page._words import CONFLICT_WARNING, listed, plural

__all__ = [
    "BAND",
    "BETTER",
    "CONFLICT_WARNING",
    "INK",
    "LINES",
    "MUTED",
    "PAPER",
    "SERIES",
    "WORSE",
    "Block",
    "Card",
    "Chart",
    "Code",
    "Flag",
    "Fold",
    "Gallery",
    "Grid",
    "Heading",
    "Matrix",
    "Picture",
    "Plot",
    "Points",
    "Section",
    "SpeechExample",
    "Table",
    "TableCell",
    "TableRow",
    "Tone",
    "Trace",
    "as_bytes",
    "as_count",
    "as_duration",
    "as_large",
    "as_number",
    "as_percent",
    "listed",
    "new_figure",
    "panel_grid",
    "plot_speech",
    "plural",
    "png_of",
    "svg_of",
    "wav_of",
    "write_report",
]
