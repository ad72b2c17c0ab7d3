"""Measurements on models and on outputs that were kept, and what they speak for."""

from __future__ import annotations

from lepton.insight.measure._advice import (
    Advice,
    advise_conflict,
    advise_cost,
    advise_learning_rate,
    advise_scale,
    advise_weights,
    sorted_advice,
)
from lepton.insight.measure._cost import MemoryCount, count_memory, time_in_turns
from lepton.insight.measure._dependence import CertainValue, bins_of, certain_values, explained_share, ranks
from lepton.insight.measure._drift import ColumnDrift, column_drift, distance, sorted_drift, stability_index
from lepton.insight.measure._drift_plot import plot_drift
from lepton.insight.measure._gradients import GradientRecord, measure_gradients
from lepton.insight.measure._profile import Profile, WordFilter, profile_of_numbers, profile_of_words
from lepton.insight.measure._range_test import RangeTest, learning_rate_range, read_range
from lepton.insight.measure._resampling import (
    Interval,
    bootstrap,
    constant_output,
    interval_of,
    resampled_rows,
    score_outputs,
)
from lepton.insight.measure._text_scores import TextScores, chrf_of_texts, signature_notes, text_scores

__all__ = [
    "Advice",
    "CertainValue",
    "ColumnDrift",
    "GradientRecord",
    "Interval",
    "MemoryCount",
    "Profile",
    "RangeTest",
    "TextScores",
    "WordFilter",
    "advise_conflict",
    "advise_cost",
    "advise_learning_rate",
    "advise_scale",
    "advise_weights",
    "bins_of",
    "bootstrap",
    "certain_values",
    "chrf_of_texts",
    "column_drift",
    "constant_output",
    "count_memory",
    "distance",
    "explained_share",
    "interval_of",
    "learning_rate_range",
    "measure_gradients",
    "plot_drift",
    "profile_of_numbers",
    "profile_of_words",
    "ranks",
    "read_range",
    "resampled_rows",
    "score_outputs",
    "signature_notes",
    "sorted_advice",
    "sorted_drift",
    "stability_index",
    "text_scores",
    "time_in_turns",
]
