"""Numbers standardised together equal those of each column alone, in 64 bits; labels read from buffers equal words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lepton.data import LabelRule
from lepton.data._inputs import LIMIT, Scaled
from lepton.data._plain import filled
from lepton.data._plain_numbers import BLOCK, standardised


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int32", "int64", "uint16"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (100.0, 0.01), (-7.0, 3e5), (0.0, 1e-33), (3.0, 1e33)])
def test_they_equal_what_a_column_gives_alone(dtype: str, mean: float, std: float) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(BLOCK + 5) * 30 + 60).astype(dtype)
    absent = rng.random(len(values)) < 0.1
    column = pa.chunked_array([pa.array(values[:100], mask=absent[:100]), pa.array(values[100:], mask=absent[100:])])
    other = pa.chunked_array([pa.array(rng.standard_normal(len(values)))])
    numbers, marks = standardised([other, column], [0.0, mean], [1.0, std], LIMIT)
    expected = Scaled(mean, std, []).encode(np.where(absent, np.nan, values.astype(np.float64)))
    assert (marks[:, 1] == absent).all() and not marks[:, 0].any()
    np.testing.assert_allclose(numbers[:, 1], np.nan_to_num(expected), rtol=4e-7, atol=1e-30)


def test_what_is_not_finite_is_missing() -> None:
    column = pa.chunked_array([pa.array([1.0, np.nan, np.inf, -np.inf, None], pa.float32())])
    numbers, marks = standardised([column], [0.0], [1.0], LIMIT)
    assert numbers[:, 0].tolist() == [1, 0, 0, 0, 0] and marks[:, 0].tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("start", [0, 1, 7, 8, 13])
def test_a_slice_reads_its_own_bits(start: int) -> None:
    values = [None if n % 3 == 0 else n for n in range(40)]
    column = pa.chunked_array([pa.array(values).slice(start, 20)])
    assert filled(column, -1).tolist() == [-1 if value is None else value for value in values[start : start + 20]]


@pytest.mark.parametrize("values", [[0, 2, None, 1], [0, 1, 2], [None, None], [0, 5, 1], [-100, 0], [-1, 1, None]])
def test_whole_numbers_give_the_classes_that_their_words_give(values: list[int | None]) -> None:
    rule = LabelRule("a", "classification", ("a",), ("0", "1", "2"))
    words = [None if value is None else str(value) for value in values]
    found, unknown = rule.encode(pa.table({"a": pa.array(values, pa.int64())}))
    expected, strange = rule.encode(pa.table({"a": pa.array(words, pa.string())}))
    assert found.equal(expected) and unknown == strange


def test_fractions_stay_as_they_are_and_infinite_ones_are_missing() -> None:
    rule = LabelRule("a", "regression", ("a",))
    for values in ([1.5, None, float("nan")], [None, None], [1.0, float("inf")]):
        labels, unknown = rule.encode(pa.table({"a": pa.array(values, pa.float64())}))
        finite = [value if value is not None and np.isfinite(value) else np.nan for value in values]
        np.testing.assert_array_equal(labels.numpy(), np.float32(finite))
        assert unknown == values.count(float("inf"))
