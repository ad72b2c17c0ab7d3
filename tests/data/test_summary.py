"""Columns in a few numbers: every row is in one bar, and far values do not flatten the histogram."""

from __future__ import annotations

import numpy as np
import pytest

from lepton.data import ColumnSummary, describe_columns, read_table, summarise_column


def summary(values: list[object]) -> ColumnSummary:
    table = read_table({"x": values})
    return summarise_column(table, describe_columns(table)[0])


def test_every_number_is_in_one_bar() -> None:
    values = np.random.default_rng(0).normal(size=500).tolist()
    found = summary([*values, None, None])
    assert sum(found.bars) == 500
    assert found.words.startswith(f"{min(values):.6g} to {max(values):.6g}, median")


def test_one_absurd_value_does_not_hide_the_shape() -> None:
    found = summary([*np.random.default_rng(0).normal(size=1000).tolist(), 1e9])
    assert sum(bar > 0 for bar in found.bars) > 10 and sum(found.bars) == 1001
    assert "to 1e+09" in found.words


def test_words_are_counted_the_most_frequent_first() -> None:
    found = summary(["b"] * 5 + ["a"] * 3 + ["c", "d"])
    assert found == ColumnSummary("b 50%, a 30%, c 10%, 1 more", (5.0, 3.0, 1.0, 1.0))


@pytest.mark.parametrize("values", [[5, 5, 5], ["2024-01-01", "2024-02-01", "2024-03-05"], [True, False]])
def test_columns_without_a_shape_are_no_fault(values: list[object]) -> None:
    found = summary(values)
    assert sum(found.bars) in (0.0, float(len(values)))


def test_dates_are_said_as_dates() -> None:
    assert summary(["2024-01-01", "2024-02-01", "2024-03-05"]).words == "2024-01-01 to 2024-03-05, median 2024-02-01"
