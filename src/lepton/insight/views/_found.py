"""What was found of one view."""

from __future__ import annotations

from dataclasses import dataclass

from lepton.insight._estimate import Estimate
from lepton.insight.measure import Interval

__all__ = ["EXACT", "ViewFidelity"]

EXACT = "parameters"
"""The view that compares the gradients of all shared parameters."""


@dataclass(frozen=True)
class ViewFidelity:
    """How far one view is from the exact one, and what it costs. Estimates are means over the batches.

    Attributes:
        name: as it is called: `features`, `fork_layer`, `parameters`, or `parameters of ...` for a part of the trunk.
        gradients: the option `gradients` that it is.
        shared: names of the trunk's modules that the option `shared` has to name; empty for the whole trunk.
        weights: half the sum of the absolute differences of the weights from the exact ones, each divided by the sum
            of their sizes: 0 is the same, 1 is all weight on other tasks.
        direction: cosine between the trunk's exact gradients under its weights and under the exact ones.
        cosines: mean absolute difference of the cosines of every two tasks.
        gramian: sine of the angle between the Gramians, each gradient measured in its exact length: 0 if they differ by
            a common factor only, 1 at most.
        time: of a forward and backward, over that with equal weighting: median over the batches.
        memory: bytes at the peak of a forward and backward, beside weights and rows; counted tensor by tensor.
        refused: why it was not measured, in words; empty if it was.
    """

    name: str
    gradients: str
    shared: tuple[str, ...]
    weights: Estimate
    direction: Estimate
    cosines: Estimate
    gramian: Estimate
    time: Interval
    memory: int | None
    refused: str = ""
