"""Tables, loaders, splits, missing labels."""

from __future__ import annotations

import math

import pytest
import torch

from lepton.data import TensorData, TensorLoader, drop_rows_not_finite, hide_labels, split_rows
from lepton.errors import ConfigurationError, DataError
from lepton.tasks import Classification, Regression


def table(n: int = 20) -> TensorData:
    return TensorData(torch.arange(float(n))[:, None], {"a": torch.arange(n)})


def test_every_row_comes_once_in_an_order_fixed_by_seed_and_epoch() -> None:
    loader = TensorLoader(table(), 6, shuffle=True, seed=3)
    epochs = [torch.cat([targets["a"] for _, targets in loader]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]
    again = TensorLoader(table(), 6, shuffle=True, seed=3)
    assert [torch.cat([targets["a"] for _, targets in again]).tolist() for _ in range(2)] == epochs
    other = TensorLoader(table(), 6, shuffle=True, seed=4)
    assert torch.cat([targets["a"] for _, targets in other]).tolist() != epochs[0]


def test_inputs_and_targets_stay_together() -> None:
    for inputs, targets in TensorLoader(table(), 7, shuffle=True):
        assert torch.equal(inputs[:, 0].long(), targets["a"])


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [6, 6, 6, 2]), (True, [6, 6, 6])])
def test_the_last_batch(drop_last: bool, sizes: list[int]) -> None:
    loader = TensorLoader(table(), 6, drop_last=drop_last)
    assert [len(inputs) for inputs, _ in loader] == sizes
    assert len(loader) == len(sizes)


def test_wrong_tables() -> None:
    with pytest.raises(DataError, match="20 rows, but the target 'a' has 3"):
        TensorData(torch.zeros(20), {"a": torch.zeros(3)})
    with pytest.raises(DataError, match="no rows"):
        TensorLoader(table(0), 2)
    with pytest.raises(ConfigurationError, match="batch_size"):
        TensorLoader(table(), 0)


def test_a_split_covers_every_row_once() -> None:
    parts = split_rows(101, {"train": 0.6, "val": 0.2, "test": 0.2}, seed=1)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(101))
    assert [len(rows) for rows in parts.values()] == [61, 20, 20]
    assert torch.equal(parts["test"], split_rows(101, {"train": 0.6, "val": 0.2, "test": 0.2}, seed=1)["test"])


@pytest.mark.parametrize("fractions", [{"a": 0.5, "b": 0.4}, {"a": 1.2, "b": -0.2}, {"a": 0.999, "b": 0.001}])
def test_wrong_splits(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        split_rows(10, fractions, seed=0)


def test_hidden_labels_are_drawn_for_each_task_on_its_own() -> None:
    tasks = {"a": Classification("a", 3), "b": Regression("b")}
    targets = {"a": torch.zeros(1000, dtype=torch.int64), "b": torch.zeros(1000)}
    hidden = hide_labels(targets, tasks, 0.3, seed=0)
    missing = hidden["a"] == -100, hidden["b"].isnan()
    assert missing[0].sum() == missing[1].sum() == 300
    assert 50 < (missing[0] & missing[1]).sum() < 130
    assert targets["a"].sum() == 0


def test_rows_with_values_that_are_not_finite() -> None:
    x = {"a": torch.tensor([[1.0], [math.inf], [3.0]]), "b": torch.tensor([[1.0], [2.0], [math.nan]])}
    kept, targets, dropped = drop_rows_not_finite(x, {"y": torch.arange(3)})
    assert dropped == 2
    assert kept["b"].tolist() == [[1.0]]
    assert targets["y"].tolist() == [0]
    large = torch.full((2, 2), 3e38)  # the sum overflows, the values do not
    assert drop_rows_not_finite(large, {})[2] == 0


@pytest.mark.parametrize("value", ["4", None, 2.5, True, 0])
def test_a_batch_size_of_another_type(value) -> None:
    with pytest.raises(ConfigurationError, match=f"batch_size must be a whole number.*{value!r}"):
        TensorLoader(TensorData(torch.ones(4, 2), {"a": torch.ones(4)}), batch_size=value)


@pytest.mark.parametrize("value", ["0.5", None, math.nan, True, 1.0])
def test_a_fraction_of_another_type(value) -> None:
    with pytest.raises(ConfigurationError, match=f"fraction must be a number.*{value!r}"):
        hide_labels({"a": torch.ones(4)}, {"a": Regression("a")}, value, seed=0)
