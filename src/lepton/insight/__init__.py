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
from lepton.insight._card import model_card
from lepton.insight._comparison import Comparison, DeltaM, DeltaMEstimate, MethodSummary, ScoreCell, delta_m
from lepton.insight._estimate import Estimate
from lepton.insight._facts import (
    ColumnFacts,
    CostFacts,
    DataFacts,
    LabelFacts,
    Predictions,
    RunFacts,
    SampleFacts,
    TaskFacts,
)
from lepton.insight._history import Series, conflict_matrix, history_series
from lepton.insight._plots import plot_comparison, plot_conflict, plot_curves, plot_weights
from lepton.insight._report import Section, write_report
from lepton.insight._results import MetricInfo, RunResult, TaskScore
from lepton.insight._run_story import run_sections
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
    "ColumnFacts",
    "Comparison",
    "CostFacts",
    "DataFacts",
    "DeltaM",
    "DeltaMEstimate",
    "Estimate",
    "Flag",
    "Fold",
    "Gallery",
    "Grid",
    "Heading",
    "LabelFacts",
    "MaskPanel",
    "Matrix",
    "MethodSummary",
    "MetricInfo",
    "Picture",
    "Plot",
    "Points",
    "Predictions",
    "RunFacts",
    "RunResult",
    "SampleFacts",
    "ScoreCell",
    "Section",
    "Series",
    "Table",
    "TableCell",
    "TableRow",
    "TaskFacts",
    "TaskScore",
    "Trace",
    "comparison_sections",
    "comparison_table",
    "conflict_matrix",
    "delta_m",
    "history_series",
    "model_card",
    "plot_comparison",
    "plot_conflict",
    "plot_curves",
    "plot_scenes",
    "plot_weights",
    "png_of",
    "run_sections",
    "summary_sentences",
    "svg_of",
    "write_report",
]
