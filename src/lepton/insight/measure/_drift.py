"""How far new rows are from old ones, column by column, beside what chance alone would show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lepton.insight.measure._profile import Profile

__all__ = ["ColumnDrift", "column_drift", "distance", "sorted_drift", "stability_index"]

Counts = npt.NDArray[np.int64]

RESAMPLES = 500
NOISE = 0.99
"""Quantile of the distances between two samples of the old rows that counts as what chance shows."""

PSI_BINS = 10
"""Bins of the population stability index, as it is usually taken."""


@dataclass(frozen=True)
class ColumnDrift:
    """How far a column of new rows is from that of the old ones.

    Attributes:
        name: of the column, and of what is measured of it where that is not its value.
        role: whether it is read or predicted.
        distance: from 0, the same distribution, to 1, nothing in common; see `distance`.
        noise: the distance that one in a hundred columns that did not change would reach.
        p_value: share of the distances between two samples of the old rows that are as large.
        stability: the population stability index; see `stability_index`.
        shift: difference of the means in standard deviations of the old rows; NaN for words.
        missing: share of the rows without a value, old and new.
        unseen: share of the new rows with a word that no old row has; 0 for numbers.
        words: what moved, in words.
    """

    name: str
    role: Literal["input", "target"]
    distance: float
    noise: float
    p_value: float
    stability: float
    shift: float
    missing: tuple[float, float]
    unseen: float
    words: str

    @property
    def moved(self) -> bool:
        """Whether the distance is larger than chance shows."""
        return self.distance > self.noise


def column_drift(
    name: str, old: Profile, new: Profile, *, role: Literal["input", "target"] = "input", seed: int = 0
) -> ColumnDrift:
    """Compare a column's profile on new rows with that on old ones.

    Args:
        name: of the column.
        old: on the old rows.
        new: on the new rows, in the same bins: `old.count(column)`.
        role: whether it is read or predicted.
        seed: fixes the draws of the noise.

    Example:
        >>> from lepton.insight import profile_of_words
        >>> old = profile_of_words(["a"] * 500 + ["b"] * 500)
        >>> found = column_drift("kind", old, old.count(["a"] * 90 + ["c"] * 10))
        >>> found.moved, round(found.distance, 2), found.unseen, found.words
        (True, 0.5, 0.1, "'b' 50% to 0%")
    """
    before, after = _with_missing(old), _with_missing(new)
    found = distance(before, after, ordered=old.ordered)
    drawn = _noise(before, int(after.sum()), old.ordered, seed)
    shift = (new.mean - old.mean) / old.std if old.std > 0 else math.nan
    return ColumnDrift(
        name,
        role,
        found,
        float(np.quantile(drawn, NOISE)),
        float((1 + (drawn >= found - 1e-12).sum()) / (1 + len(drawn))),
        stability_index(before, after, ordered=old.ordered),
        shift,
        (old.missing / max(1, old.rows), new.missing / max(1, new.rows)),
        0.0 if old.ordered or old.counts[0] else new.counts[0] / max(1, new.rows),
        _words(old, new),
    )


def distance(old: Counts, new: Counts, *, ordered: bool) -> float:
    """Return how far two distributions over the same bins are apart, from 0 to 1.

        ordered:   max_k |sum_(j <= k) (p_j - q_j)|     the statistic of Kolmogorov and Smirnov
        otherwise: 1/2 sum_k |p_k - q_k|                the total variation

    p and q are the shares of the bins. In words: the largest share of rows that lies on the one side of some value
    in one set and on the other in the other; and the share of rows that would have to get another value.

    Args:
        old: rows in each bin [K], or [R, K] for R distributions.
        new: the same.
        ordered: see above.

    Example:
        >>> distance(np.array([5, 5, 0]), np.array([0, 5, 5]), ordered=True)
        0.5
    """
    return float(_distances(old[None], new[None], ordered)[0])


def _distances(old: Counts, new: Counts, ordered: bool) -> npt.NDArray[np.float64]:
    difference = old / np.maximum(1, old.sum(1, keepdims=True)) - new / np.maximum(1, new.sum(1, keepdims=True))
    if ordered:
        return np.asarray(np.abs(np.cumsum(difference, 1)).max(1), dtype=np.float64)
    return np.asarray(np.abs(difference).sum(1) / 2, dtype=np.float64)


def _noise(old: Counts, size: int, ordered: bool, seed: int) -> npt.NDArray[np.float64]:
    """Return the distances [R] of two samples that are both drawn from the old distribution, of the sizes at hand."""
    generator = np.random.default_rng(seed)
    total = int(old.sum())
    shares = old / max(1, total)
    before = generator.multinomial(total, shares, RESAMPLES)
    after = generator.multinomial(size, shares, RESAMPLES)
    return _distances(before, after, ordered)


def stability_index(old: Counts, new: Counts, *, ordered: bool) -> float:
    """Return the population stability index of two distributions over the same bins.

        PSI = sum_k (q_k - p_k) ln(q_k / p_k)

    over at most ten bins, p and q being their shares in old and new rows, with half a row added to each bin. Neighbours
    are put together until each has a tenth of the old rows; words that are rarer than that are put together too. It
    is a convention of credit scoring that below 0.1 nothing happened and above 0.25 much did.

    Args:
        old: rows in each bin [K].
        new: the same.
        ordered: whether the bins have an order.

    Example:
        >>> round(stability_index(np.array([500, 500]), np.array([500, 500]), ordered=False), 3)
        0.0
    """
    order = np.arange(len(old)) if ordered else np.argsort(-old, kind="stable")
    middle = (np.cumsum(old[order]) - old[order] / 2) / max(1, old.sum())
    groups = np.minimum(PSI_BINS - 1, (PSI_BINS * middle).astype(np.int64))
    sums = [np.bincount(groups, weights=counts[order], minlength=PSI_BINS) for counts in (old, new)]
    rows: npt.NDArray[np.float64] = np.stack(sums).astype(np.float64)
    shares = rows[:, rows.sum(0) > 0] + 0.5
    p, q = shares / shares.sum(1, keepdims=True)
    return float(((q - p) * np.log(q / p)).sum())


def _with_missing(profile: Profile) -> Counts:
    return np.array([profile.missing, *profile.counts], dtype=np.int64)


def _words(old: Profile, new: Profile) -> str:
    """Return what moved most: the median of numbers, the word whose share changed most, or the missing values."""
    gone = (old.missing / max(1, old.rows), new.missing / max(1, new.rows))
    if old.ordered:
        values = f"mean {old.mean:.4g} to {new.mean:.4g}"
        shifted = distance(np.array(old.counts), np.array(new.counts), ordered=True)
    else:
        p, q = (np.array(profile.counts) / max(1, profile.rows) for profile in (old, new))
        place = int(np.abs(p - q).argmax())
        name = "others" if place == 0 else repr(old.values[place - 1])
        values, shifted = f"{name} {p[place]:.0%} to {q[place]:.0%}", abs(p[place] - q[place])
    return f"missing {gone[0]:.0%} to {gone[1]:.0%}" if abs(gone[0] - gone[1]) > shifted else values


def sorted_drift(columns: Iterable[ColumnDrift]) -> list[ColumnDrift]:
    """Return columns in order: those that moved farther than chance shows first, each group the farthest first."""
    return sorted(columns, key=lambda found: (not found.moved, -found.distance))
