"""What measurements before a training speak for, and how surely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lepton.insight._estimate import Estimate
from lepton.insight.measure._gradients import GradientRecord
from lepton.insight.measure._range_test import RangeTest

__all__ = [
    "Advice",
    "Confidence",
    "advise_conflict",
    "advise_cost",
    "advise_learning_rate",
    "advise_scale",
    "advise_weights",
    "sorted_advice",
]

Confidence = Literal["high", "medium", "low"]

STARVED = 0.25
"""Part of an equal share of the weights below which a task is said to be nearly left out."""

CONFLICT = -0.1
"""Cosine below which two gradients are said to point against each other."""

MOST_PAIRS = 5
"""Pairs of tasks that are named; of a hundred tasks there are thousands."""


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        about: what it is about: `losses`, `gradients`, `conflict`, `learning_rate`, `view`, `cost`.
        words: what was seen and what to try.
        confidence: how surely it follows from what was measured.
    """

    about: str
    words: str
    confidence: Confidence


def advise_scale(record: GradientRecord) -> Iterator[Advice]:
    """Yield what losses and norms before the first step speak for."""
    losses, norms = record.loss, record.norm
    loss_ratio, most, least = _ratio(losses)
    if loss_ratio >= 10:
        words = (
            f"the loss of {most!r} is {loss_ratio:.3g} times that of {least!r} at initialisation: bring them to one "
            "scale (loss_weight, standardised targets), or let balance do it (log: true, or a method that does not "
            "depend on the losses' scale)."
        )
        yield Advice("losses", words, "high" if loss_ratio >= 100 else "medium")
    norm_ratio, most, least = _ratio(norms)
    if norm_ratio >= 10:
        words = (
            f"the gradient of {most!r} at the fork is {norm_ratio:.3g} times that of {least!r}: with equal weights "
            f"{least!r} hardly moves the trunk at first. Compare a larger loss_weight for it with log: true."
        )
        yield Advice("gradients", words, "medium" if norm_ratio >= 30 else "low")


def _ratio(estimates: Mapping[str, Estimate]) -> tuple[float, str, str]:
    """Return the largest mean divided by the smallest, and the names of the two."""
    means = {name: found.mean for name, found in estimates.items() if math.isfinite(found.mean) and found.mean > 0}
    if len(means) < 2:
        return 1.0, "", ""
    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return means[most] / means[least], most, least


def advise_conflict(record: GradientRecord, when: str) -> Iterator[Advice]:
    """Yield what the cosines speak for.

    Args:
        record: measured after some steps: before the first one, cosines are those of random heads.
        when: words that say so.
    """
    known = {pair: found for pair, found in record.cosine.items() if found.has_interval}
    against = sorted((found.mean, pair) for pair, found in known.items() if found.mean < CONFLICT and found.high < 0)
    for mean, (a, b) in against[:MOST_PAIRS]:
        words = (
            f"the gradients of {a!r} and {b!r} point against each other {when}: cosine {mean:.2f} ± "
            f"{known[a, b].half_width:.2f}. Try a gradient balancer beside tuned loss_weights; conflict does not "
            "predict generalisation."
        )
        yield Advice("conflict", words, "low")
    if len(against) > MOST_PAIRS:
        yield Advice("conflict", f"so do those of {len(against) - MOST_PAIRS} further pairs of tasks.", "low")
    alike = [pair for pair, found in known.items() if found.low > 0.9]
    if alike:
        a, b = alike[0]
        more = f", and {len(alike) - 1} pairs more," if len(alike) > 1 else ""
        words = f"the gradients of {a!r} and {b!r}{more} nearly agree {when}: balancing changes little between them."
        yield Advice("conflict", words, "medium")
    if known and not against and not alike:
        words = (
            f"no pair of tasks clearly conflicts {when}: equal weighting is the first thing to try. Conflict may come "
            "later; the run records it."
        )
        yield Advice("conflict", words, "low")


def advise_weights(record: GradientRecord) -> Iterator[Advice]:
    """Yield the tasks that the balancer nearly leaves out of the trunk."""
    equal = 1 / len(record.tasks)
    for name, share in record.weight_share.items():
        if share.mean < STARVED * equal:
            words = (
                f"the balancer gives {name!r} {share.mean:.1%} of the weight in the trunk, where equal weights would "
                f"give {equal:.0%}: it may learn slowly. That is how some methods answer to gradients of different "
                "size; compare with log: true, which brings them closer."
            )
            yield Advice("weights", words, "medium")


BEYOND = 10.0
"""So far beyond the range of a sweep a learning rate is worth a word: on one table of 1200 rows the sweeps of three
seeds ended at 0.0003, 0.002 and 0.009."""


def advise_learning_rate(test: RangeTest, learning_rate: float) -> Iterator[Advice]:
    """Yield whether the configured learning rate lies where the sweep speaks for.

    Args:
        test: the sweep.
        learning_rate: the configured one.
    """
    if test.low is None or test.high is None:
        words = (
            f"the loss fell by less than 5 % at every learning rate up to {test.rates[-1]:.2g}: the range test speaks "
            "for none. Check labels and inputs."
        )
        yield Advice("learning_rate", words, "medium")
        return
    span = f"{test.low:.1g} to {test.high:.1g}"
    seen = f"the range test speaks for learning rates of {span}"
    if test.low / BEYOND <= learning_rate <= test.high * BEYOND:
        yield Advice("learning_rate", f"{seen}; {learning_rate:g} is near enough.", "medium")
    else:
        side = "below" if learning_rate < test.low else "above"
        words = f"{seen}; {learning_rate:g} is far {side}. A short sweep may be off by as much again: try both."
        yield Advice("learning_rate", words, "low")


def advise_cost(times: Mapping[str, Estimate], chosen: str, plain: str) -> Iterator[Advice]:
    """Yield what the balancer costs in time over doing nothing.

    Args:
        times: name -> seconds of a step.
        chosen: the name with the balancer.
        plain: the name with equal weights.
    """
    if chosen not in times or plain not in times:
        return
    ratio = times[chosen].mean / times[plain].mean
    if ratio > 1.25:
        words = (
            f"a step takes {ratio:.2f} times as long as with equal weights: give the comparison the same time, not "
            "the same number of steps. every: 4 lets the balancer act in every fourth step only."
        )
        yield Advice("cost", words, "medium")


def sorted_advice(advice: Sequence[Advice]) -> tuple[Advice, ...]:
    """Return the surest first."""
    order: tuple[Confidence, ...] = ("high", "medium", "low")
    return tuple(sorted(advice, key=lambda item: order.index(item.confidence)))
