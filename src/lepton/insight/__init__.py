"""What a training found: comparison with single-task baselines, its words, tables, figures and report.

Results come in as `RunResult`; `Comparison.of` judges them seed by seed; everything after that only shows it.
Figures need the extra `demo` (matplotlib); nothing else here does.
"""

from __future__ import annotations

from lepton.insight._advice import (
    Advice,
    advise_conflict,
    advise_cost,
    advise_learning_rate,
    advise_scale,
    advise_views,
    advise_weights,
    sorted_advice,
)
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
from lepton.insight._cost import MemoryCount, count_memory, time_in_turns
from lepton.insight._dependence import CertainValue, bins_of, certain_values, explained_share, ranks
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
from lepton.insight._gradients import GradientRecord, ViewDistance, measure_gradients, view_distance
from lepton.insight._history import Series, conflict_matrix, history_series
from lepton.insight._plots import plot_comparison, plot_conflict, plot_curves, plot_weights
from lepton.insight._range_test import RangeTest, learning_rate_range, read_range
from lepton.insight._report import Section, write_report
from lepton.insight._resampling import Interval, bootstrap, constant_output, interval_of, resampled_rows, score_outputs
from lepton.insight._results import MetricInfo, RunResult, TaskScore
from lepton.insight._run_story import run_sections
from lepton.insight._scenes import Caption, MaskPanel, plot_scenes
from lepton.insight._sentences import summary_sentences
from lepton.insight._story import comparison_sections
from lepton.insight._style import png_of, svg_of
from lepton.insight._tables import Table, TableCell, TableRow, comparison_table

__all__ = [
    "Advice",
    "Caption",
    "Card",
    "CertainValue",
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
    "GradientRecord",
    "Grid",
    "Heading",
    "Interval",
    "LabelFacts",
    "MaskPanel",
    "Matrix",
    "MemoryCount",
    "MethodSummary",
    "MetricInfo",
    "Picture",
    "Plot",
    "Points",
    "Predictions",
    "RangeTest",
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
    "ViewDistance",
    "advise_conflict",
    "advise_cost",
    "advise_learning_rate",
    "advise_scale",
    "advise_views",
    "advise_weights",
    "bins_of",
    "bootstrap",
    "certain_values",
    "comparison_sections",
    "comparison_table",
    "conflict_matrix",
    "constant_output",
    "count_memory",
    "delta_m",
    "explained_share",
    "history_series",
    "interval_of",
    "learning_rate_range",
    "measure_gradients",
    "model_card",
    "plot_comparison",
    "plot_conflict",
    "plot_curves",
    "plot_scenes",
    "plot_weights",
    "png_of",
    "ranks",
    "read_range",
    "resampled_rows",
    "run_sections",
    "score_outputs",
    "sorted_advice",
    "summary_sentences",
    "svg_of",
    "time_in_turns",
    "view_distance",
    "write_report",
]
