"""Columns to labels and predictions back to names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lepton.data import LabelRule, class_names, read_table
from lepton.errors import DataError


def encode(rule: LabelRule, strict: bool = False, **columns: Any) -> tuple[list[Any], int]:
    labels, unknown = rule.encode(read_table(columns), strict=strict)
    return labels.tolist(), unknown


def test_classes_are_in_the_order_of_numbers_or_of_the_alphabet() -> None:
    assert class_names(read_table({"y": [10, 9, None, 2]}), "y") == ["2", "9", "10"]
    assert class_names(read_table({"y": ["b", "a", "10"]}), "y") == ["10", "a", "b"]
    assert class_names(read_table({"y": [True, False, None]}), "y") == ["false", "true"]
    assert class_names(read_table({"y": [["b", "a"], None, []]}), "y") == ["a", "b"]


def test_numbers_of_classes_and_what_is_none() -> None:
    rule = LabelRule("y", "classification", ("y",), ("a", "b"))
    assert encode(rule, y=["b", None, "a", "c"]) == ([1, -100, 0, -100], 1)
    with pytest.raises(DataError, match="'c' is no class of 'y'; its classes are"):
        encode(rule, strict=True, y=["b", "c"])
    with pytest.raises(DataError, match="Did you mean 'yes'"):
        encode(LabelRule("y", "classification", ("y",), ("yes", "no")), strict=True, y=["yess", "no"])


def test_whole_numbers_are_the_same_class_in_every_type() -> None:
    rule = LabelRule("y", "classification", ("y",), ("0", "1"))
    for column in ([0, 1], [0.0, 1.0], ["0", " 1"]):
        assert encode(rule, strict=True, y=column) == ([0, 1], 0)
    assert encode(rule, strict=True, y=[0, None, float("inf")]) == ([0, -100, -100], 0)


def test_numbers_and_what_is_none() -> None:
    labels, unknown = LabelRule("y", "regression", ("y",)).encode(read_table({"y": ["1.5", "x", None, "2,000"]}))
    assert labels.isnan().tolist() == [False, True, True, False]
    assert (labels[0].item(), labels[3].item(), unknown) == (1.5, 2000.0, 1)
    with pytest.raises(DataError, match="must hold numbers, but it holds words such as 'x'"):
        encode(LabelRule("y", "regression", ("y",)), y=["x", "y"])
    with pytest.raises(DataError, match="scale it"):
        encode(LabelRule("y", "regression", ("y",)), y=[1e40, 1.0])


def test_several_numbers() -> None:
    labels, _ = LabelRule("v", "regression", ("a", "b")).encode(read_table({"b": [3, None], "a": [1.0, 2.0]}))
    assert labels[0].tolist() == [1, 3]
    assert labels[1].isnan().tolist() == [False, True]


def test_several_labels_from_a_list_or_from_columns() -> None:
    rule = LabelRule("tags", "multi_label", ("tags",), ("a", "b", "c"))
    labels, unknown = rule.encode(read_table({"tags": [["b", "a", "b"], None, [], ["c", "z"]]}))
    assert labels[[0, 2, 3]].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert labels[1].isnan().all()
    assert unknown == 1
    columns = LabelRule("tags", "multi_label", ("x", "y"), ("x", "y"))
    labels, _ = columns.encode(read_table({"x": [1, None], "y": [False, True]}))
    assert labels[0].tolist() == [1, 0]
    assert labels[1].isnan().tolist() == [True, False]


def test_a_slice_of_lists_is_its_own_rows() -> None:
    rule = LabelRule("tags", "multi_label", ("tags",), ("a", "b"))
    table = read_table({"tags": [["a"], ["b"], ["a", "b"], []]})
    assert rule.encode(table.slice(1, 2))[0].tolist() == [[0, 1], [1, 1]]
    assert rule.encode(table.take([3, 0]))[0].tolist() == [[0, 0], [1, 0]]


def test_predictions_come_back_as_names() -> None:
    rule = LabelRule("y", "classification", ("y",), ("no", "yes"))
    found = rule.decode({"label": torch.tensor([1, 0]), "probability": torch.tensor([[0.25, 0.75], [0.5, 0.5]])})
    assert list(found) == ["y", "y_probability_no", "y_probability_yes"]
    assert list(found["y"]) == ["yes", "no"]
    assert found["y_probability_yes"].tolist() == [0.75, 0.5]
    several = LabelRule("t", "multi_label", ("t",), ("a", "b"))
    told = several.decode({"label": torch.tensor([[1, 1], [0, 0]]), "probability": torch.ones(2, 2)})
    assert told["t"] == [["a", "b"], []]
    numbers = LabelRule("v", "regression", ("p", "q")).decode({"value": torch.tensor([[1.0, 2.0]])})
    assert {name: list(column) for name, column in numbers.items()} == {"v_p": [1.0], "v_q": [2.0]}
