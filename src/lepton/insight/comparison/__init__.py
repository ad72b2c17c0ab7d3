"""Methods against single-task baselines, seed by seed: judged, and told in words, tables and figures."""

from __future__ import annotations

from lepton.insight.comparison._comparison import Comparison, DeltaM, DeltaMEstimate, MethodSummary, ScoreCell, delta_m
from lepton.insight.comparison._history import Series, conflict_matrix, history_series
from lepton.insight.comparison._plots import plot_comparison, plot_conflict, plot_curves, plot_weights
from lepton.insight.comparison._scenes import Caption, MaskPanel, plot_scenes
from lepton.insight.comparison._sentences import summary_sentences
from lepton.insight.comparison._story import comparison_sections
from lepton.insight.comparison._sweep import SizedScores, plot_sweep
from lepton.insight.comparison._table import comparison_table

__all__ = [
    "Caption",
    "Comparison",
    "DeltaM",
    "DeltaMEstimate",
    "MaskPanel",
    "MethodSummary",
    "ScoreCell",
    "Series",
    "SizedScores",
    "comparison_sections",
    "comparison_table",
    "conflict_matrix",
    "delta_m",
    "history_series",
    "plot_comparison",
    "plot_conflict",
    "plot_curves",
    "plot_scenes",
    "plot_sweep",
    "plot_weights",
    "summary_sentences",
]
