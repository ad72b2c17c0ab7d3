"""The columns of a table in a few numbers each, for people who want to see what a model was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lepton.data._arrays import as_numbers, as_words
from lepton.data._dates import as_dates
from lepton.data._kinds import Column, find_column

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ColumnSummary", "summarise_column"]

BINS = 16
WORDS = 3
MOST = 200_000
"""Rows that are looked at: the shape of a histogram does not change beyond."""


@dataclass(frozen=True)
class ColumnSummary:
    """One column in a few numbers.

    Attributes:
        words: smallest, median and largest value, or the most frequent words with their shares.
        bars: rows in each of some intervals of equal width, or of each of the most frequent words.
    """

    words: str
    bars: tuple[float, ...]


def summarise_column(table: pa.Table, column: Column) -> ColumnSummary:
    """Return a column's values in a few numbers and a small histogram.

    The histogram's ends are the 1st and 99th percentile where single values lie far outside, so that its shape shows.

    Args:
        table: the rows; the first 200,000 are looked at.
        column: what it was taken for.

    Example:
        >>> from lepton.data import describe_columns, read_table
        >>> table = read_table({"age": [20, 30, 30, 60]})
        >>> summarise_column(table, describe_columns(table)[0]).words
        '20 to 60, median 30'
    """
    values = find_column(table.slice(0, MOST), column.name)
    if column.missing == 1 or column.kind in ("text", "tokens", "image", "audio", "labels"):
        return ColumnSummary(column.example, ())
    if column.kind == "number":
        numbers = as_numbers(values)
        return _numbers(numbers, "{:.6g}".format)
    if column.kind == "date":
        dates = as_dates(values, column.date_format)
        return _numbers(dates, lambda seconds: str(np.datetime64(round(seconds), "s"))[:10])
    if column.kind in ("category", "boolean"):
        return _words(values)
    return ColumnSummary(column.example, ())


def _numbers(numbers: npt.NDArray[np.float64], word: Callable[[float], str]) -> ColumnSummary:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return ColumnSummary("", ())
    low, high = np.quantile(known, [0.01, 0.99])
    ends = (known.min(), known.max())
    if high > low and ends[1] - ends[0] < 3 * (high - low):
        low, high = ends
    counts, _ = np.histogram(np.clip(known, low, high), bins=BINS, range=(low, high) if high > low else None)
    text = f"{word(ends[0])} to {word(ends[1])}, median {word(float(np.median(known)))}"
    return ColumnSummary(text, tuple(counts.astype(float).tolist()))


def _words(values: pa.ChunkedArray) -> ColumnSummary:
    import pyarrow.compute as pc

    known = as_words(values).drop_null()
    counts = sorted(pc.value_counts(known).to_pylist(), key=lambda item: (-item["counts"], item["values"]))
    shown = [f"{item['values'][:24]} {item['counts'] / max(1, len(known)):.0%}" for item in counts[:WORDS]]
    more = f", {len(counts) - WORDS} more" if len(counts) > WORDS else ""
    return ColumnSummary(", ".join(shown) + more, tuple(float(item["counts"]) for item in counts[:BINS]))
