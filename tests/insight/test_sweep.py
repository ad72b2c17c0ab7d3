"""The picture of size against accuracy shows every form where it belongs."""

from __future__ import annotations

from typing import Any

import pytest

from lepton.errors import ConfigurationError
from lepton.insight import MetricInfo, SizedScores, plot_sweep, png_of

pytest.importorskip("matplotlib")

FORMS = {
    "original": SizedScores(1_000_000, {"kind": 0.9, "age": 3.0}, "original"),
    "int8": SizedScores(250_000, {"kind": 0.89, "age": 3.2}, "original"),
    "small": SizedScores(90_000, {"kind": 0.8}),
}
METRICS = {"kind": MetricInfo("accuracy", True), "age": MetricInfo("rmse", False)}


def marks(axes: Any) -> dict[tuple[float, float], str]:
    """Point -> marker, of the points that are no lines."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", None)]
    return {(line.get_xdata()[0], line.get_ydata()[0]): line.get_marker() for line in lines}


def test_every_form_is_a_mark_and_the_original_a_star() -> None:
    figure = plot_sweep(FORMS, METRICS, "original")
    kind, age = figure.axes
    assert marks(kind) == {(1_000_000, 0.9): "*", (250_000, 0.89): "o", (90_000, 0.8): "o"}
    assert marks(age) == {(1_000_000, 3.0): "*", (250_000, 3.2): "o"}
    assert age.yaxis_inverted()
    assert not kind.yaxis_inverted()
    assert kind.get_xscale() == "log"
    joined = [list(line.get_xdata()) for line in kind.lines if len(line.get_xdata()) == 2 and line.get_alpha()]
    assert joined == [[1_000_000, 250_000]]
    assert png_of(figure, dpi=40).startswith(b"\x89PNG")


def test_an_original_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the original 'fp32' is none of"):
        plot_sweep(FORMS, METRICS, "fp32")
