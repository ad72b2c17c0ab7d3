"""What a training found: comparison with single-task baselines, its words, tables, figures and report.

Results come in as `RunResult`; `Comparison.of` judges them seed by seed; everything after that only shows it.
Figures need the extra `demo` (matplotlib); nothing else here does.
"""

from __future__ import annotations

from lepton.insight._blocks import (
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
from lepton.insight._comparison import Comparison, DeltaM, DeltaMEstimate, MethodSummary, ScoreCell, delta_m
from lepton.insight._estimate import Estimate
from lepton.insight._history import Series, conflict_matrix, history_series
from lepton.insight._plots import plot_comparison, plot_conflict, plot_curves, plot_weights
from lepton.insight._report import Section, write_report
from lepton.insight._results import MetricInfo, RunResult, TaskScore
from lepton.insight._scenes import Caption, MaskPanel, plot_scenes
from lepton.insight._sentences import summary_sentences
from lepton.insight._story import comparison_sections
from lepton.insight._style import png_of, svg_of
from lepton.insight._tables import Table, TableCell, TableRow, comparison_table

__all__ = [
    "Caption",
    "Card",
    "Chart",
    "Code",
    "Comparison",
    "DeltaM",
    "DeltaMEstimate",
    "Estimate",
    "Flag",
    "Fold",
    "Gallery",
    "Grid",
    "Heading",
    "MaskPanel",
    "Matrix",
    "MethodSummary",
    "MetricInfo",
    "Picture",
    "Plot",
    "Points",
    "RunResult",
    "ScoreCell",
    "Section",
    "Series",
    "Table",
    "TableCell",
    "TableRow",
    "TaskScore",
    "Trace",
    "comparison_sections",
    "comparison_table",
    "conflict_matrix",
    "delta_m",
    "history_series",
    "plot_comparison",
    "plot_conflict",
    "plot_curves",
    "plot_scenes",
    "plot_weights",
    "png_of",
    "summary_sentences",
    "svg_of",
    "write_report",
]
