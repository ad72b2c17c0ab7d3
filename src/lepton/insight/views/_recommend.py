"""Which view to take: a rule, and its answer in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lepton.insight._estimate import Estimate
from lepton.insight.views._found import EXACT, ViewFidelity

__all__ = ["NEAR", "SAME", "Recommendation", "recommend"]

NEAR = 0.1
"""Weights that are so far apart, or less, agree: a tenth of the weight lies on other tasks."""

SAME = 0.995
"""Updates with such a cosine agree whatever their weights: they point some six degrees apart. Where two tasks'
gradients are nearly the same it does not matter which of them gets the weight."""

SAVING = 0.05
"""A smaller part of a step is not worth another view."""

PLAIN_SAVING = 0.5
"""The part of a step that counts where there are too few batches for intervals."""


@dataclass(frozen=True)
class Recommendation:
    """A view, and why.

    Attributes:
        view: its name.
        words: a sentence with the figures that it follows from.
        confidence: `medium` if the interval of the deciding distance lies on one side of the bound, else `low`.
    """

    view: str
    words: str
    confidence: Literal["medium", "low"]


def agrees(view: ViewFidelity) -> bool:
    """Return whether a view's weights, or the updates that they make, are nearly the exact ones."""
    return view.weights.mean <= NEAR or view.direction.mean >= SAME


def recommend(chosen: str, views: Sequence[ViewFidelity], equal: Estimate) -> Recommendation | None:
    """Return the view to take, by the rule in `fidelity`; None where the exact one could not be measured.

    Args:
        chosen: name of the view in use.
        views: all of them, in the order in which they are preferred.
        equal: how far equal weights are from the exact ones.
    """
    known = [view for view in views if not view.refused]
    if not any(view.name == EXACT for view in known):
        return None
    good = [view for view in known if view.name == EXACT or agrees(view)]
    best = next((view for view in good if view.name == chosen), good[0])
    for view in good:
        if _cheaper(view, best):
            best = view
    used = next((view for view in views if view.name == chosen), None)
    deciding = best if best.name != EXACT else _nearest(known)
    return Recommendation(best.name, _words(best, used, known, equal), _confidence(deciding))


def _cheaper(view: ViewFidelity, than: ViewFidelity) -> bool:
    saved = than.time.value - view.time.value
    if math.isnan(view.time.high) or math.isnan(than.time.low):
        return saved > PLAIN_SAVING
    return view.time.high < than.time.low and saved > SAVING


def _nearest(known: Sequence[ViewFidelity]) -> ViewFidelity | None:
    others = [view for view in known if view.name != EXACT and not math.isnan(view.weights.mean)]
    return min(others, key=lambda view: view.weights.mean, default=None)


def _confidence(deciding: ViewFidelity | None) -> Literal["medium", "low"]:
    if deciding is None:
        return "low"
    by_weights = deciding.weights.low > NEAR or deciding.weights.high <= NEAR
    by_direction = deciding.direction.low >= SAME
    return "medium" if by_weights or by_direction else "low"


def _words(best: ViewFidelity, used: ViewFidelity | None, known: Sequence[ViewFidelity], equal: Estimate) -> str:
    exact = next(view for view in known if view.name == EXACT)
    verb = "keep" if used is best else "use"
    if best is exact:
        return f"{verb} {_exact_words(exact, used, known, equal)}"
    said = f"{verb} {best.name}{_modules(best)}: its weights are {_apart(best)}. It takes {_time(best)}"
    said += f", {EXACT} {exact.time.value:.2f}."
    if used is None or used is best or used is exact:
        return said
    if used.refused:
        return f"{said} {used.name}, the view in use, cannot be used here: {used.refused}"
    reason = f"takes {used.time.value:.2f}" if agrees(used) else f"is {_apart(used)}"
    return f"{said} {used.name}, the view in use, {reason}."


def _exact_words(exact: ViewFidelity, used: ViewFidelity | None, known: Sequence[ViewFidelity], equal: Estimate) -> str:
    other = used if used in known and used is not exact else _nearest(known)
    if other is None:
        return f"{EXACT}: no cheaper view could be measured. It takes {_time(exact)}."
    if agrees(other):
        return f"{EXACT}: it takes {_time(exact)}, and {other.name}, {_apart(other)}, takes {other.time.value:.2f}."
    return (
        f"{EXACT}: the weights of {other.name} are {_apart(other)}; equal weights are {equal.mean:.0%} apart. "
        f"It takes {_time(exact)}, {other.name} {other.time.value:.2f}."
    )


def _modules(view: ViewFidelity) -> str:
    return f" (shared: [{', '.join(view.shared)}])" if view.shared else ""


def _apart(view: ViewFidelity) -> str:
    return f"{view.weights.mean:.0%} apart from the exact ones, the updates at a cosine of {view.direction.mean:.3f}"


def _time(view: ViewFidelity) -> str:
    return f"{view.time.value:.2f} times the time of equal weighting"
