"""Hyperparameters out of range: the message names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lepton.balance import (
    FAMO,
    MGDA,
    CAGrad,
    ClipWeights,
    DynamicWeightAverage,
    Every,
    Fixed,
    Frozen,
    LearnedWeights,
    Log,
    PCGrad,
    Smooth,
    Uncertainty,
    UPGrad,
)
from lepton.errors import ConfigurationError


@pytest.mark.parametrize(
    ("make", "argument", "value"),
    [
        (lambda v: CAGrad(c=v), "c", -1.0),
        (lambda v: CAGrad(c=v), "c", math.inf),
        (lambda v: CAGrad(c=v), "c", math.nan),
        (lambda v: UPGrad(regularization=v), "regularization", 0.0),
        (lambda v: UPGrad(regularization=v), "regularization", math.inf),
        (lambda v: FAMO(learning_rate=v), "learning_rate", math.inf),
        (lambda v: FAMO(decay=v), "decay", math.inf),
        (lambda v: DynamicWeightAverage(v), "temperature", math.inf),
        (lambda v: MGDA(iterations=v), "iterations", 2.5),
        (lambda v: MGDA(normalization=v), "normalization", "l1"),
        (lambda v: Every(MGDA(), v), "n", 2.5),
        (lambda v: Every(MGDA(), v), "n", 0),
        (lambda v: Smooth(MGDA(), v), "decay", 1.0),
        (lambda v: ClipWeights(MGDA(), v, 0.5), "min", 0.7),
    ],
)
def test_out_of_range(make: Callable[[object], object], argument: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(value)
    assert argument in str(caught.value)
    assert repr(value) in str(caught.value)


NUMBERS = {
    "CAGrad c": lambda v: CAGrad(c=v),
    "UPGrad regularization": lambda v: UPGrad(regularization=v),
    "FAMO learning_rate": lambda v: FAMO(learning_rate=v),
    "FAMO decay": lambda v: FAMO(decay=v),
    "DynamicWeightAverage temperature": lambda v: DynamicWeightAverage(v),
    "LearnedWeights floor": lambda v: LearnedWeights(floor=v),
    "MGDA iterations": lambda v: MGDA(iterations=v),
    "MGDA normalization": lambda v: MGDA(v),
    "PCGrad seed": lambda v: PCGrad(seed=v),
    "Every n": lambda v: Every(MGDA(), v),
    "Smooth decay": lambda v: Smooth(MGDA(), decay=v),
    "ClipWeights min": lambda v: ClipWeights(MGDA(), min=v),
    "ClipWeights max": lambda v: ClipWeights(MGDA(), max=v),
    "Uncertainty nonnegative": lambda v: Uncertainty(nonnegative=v),
    "Fixed weights": lambda v: Fixed(v),
    "Frozen weights": lambda v: Frozen(v),
    "Smooth balancer": lambda v: Smooth(v),
    "Log balancer": lambda v: Log(v),
}


@pytest.mark.parametrize("value", ["0.4", None, ["0.4"], {}, math.nan, b"1", 1j], ids=str)
@pytest.mark.parametrize("name", NUMBERS)
def test_values_of_another_type(name: str, value: object) -> None:
    owner, argument = name.split()
    with pytest.raises(ConfigurationError) as caught:
        NUMBERS[name](value)
    assert str(caught.value).startswith(f"{owner}: {argument} must be ")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "Uncertainty nonnegative"])
def test_a_truth_value_is_no_number(name: str) -> None:
    with pytest.raises(ConfigurationError):
        NUMBERS[name](True)


def test_a_class_is_no_balancer() -> None:
    with pytest.raises(ConfigurationError, match=r"Smooth: balancer must be a balancer, such as MGDA\(\)"):
        Smooth(MGDA)


def test_numbers_of_other_kinds_are_taken() -> None:
    assert CAGrad(c=np.float32(0.5)).c == 0.5
    assert Fixed(torch.tensor([1.0, 2.0])).bind(2).task_weights().tolist() == [1.0, 2.0]
    assert Fixed(list(torch.tensor([1.0, 2.0]))).bind(2).task_weights().tolist() == [1.0, 2.0]
    rows = [torch.tensor([0.2, 0.8]), torch.tensor([0.3, 0.7])]
    expected = Frozen(torch.stack(rows)).bind(2).task_weights()
    for given in (rows, [row.tolist() for row in rows], np.stack(rows), torch.stack(rows).mean(0)):
        torch.testing.assert_close(Frozen(given).bind(2).task_weights(), expected)


@pytest.mark.parametrize("weights", [[[1.0], [1.0, 2.0]], [], [[]], [[[1.0]]], [1.0, "2"]])
def test_weights_that_are_no_table(weights: object) -> None:
    for make in (Fixed, Frozen):
        with pytest.raises(ConfigurationError, match="weights must be"):
            make(weights)
