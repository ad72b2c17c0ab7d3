"""Hyperparameters out of range: the message names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lepton.balance import FAMO, MGDA, CAGrad, ClipWeights, DynamicWeightAverage, Every, Smooth, UPGrad
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
