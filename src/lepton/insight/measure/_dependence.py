"""How much one column tells about a target: the shallowest predictor there is, judged on rows it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CertainValue", "bins_of", "certain_values", "explained_share", "ranks"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_BINS = 64
ROWS_PER_BIN = 8
PSEUDO_ROWS = 0.1
"""Rows of the overall mean that each bin is given, so that a bin without training rows predicts just that mean."""


def bins_of(numbers: Floats) -> Ints:
    """Return for each number its bin, from 1: each value its own where there are few, else quantiles; 0 for NaN.

    Args:
        numbers: [N].

    Example:
        >>> bins_of(np.array([5.0, np.nan, 7.0, 5.0])).tolist()
        [1, 0, 2, 1]
    """
    found = np.zeros(len(numbers), dtype=np.int64)
    present = ~np.isnan(numbers)
    values = np.unique(numbers[present])
    if len(values) > MOST_BINS:
        wanted = int(np.clip(present.sum() // ROWS_PER_BIN, 4, MOST_BINS))
        values = np.unique(np.quantile(numbers[present], np.linspace(0, 1, wanted + 1)[:-1]))
    found[present] = np.searchsorted(values, numbers[present], side="right")
    return found


def ranks(numbers: Floats) -> Floats:
    """Return the mean ranks of numbers [N], from 0 to 1: one enormous value must not be the whole variance."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(middle[inverse] / max(1, len(numbers) - 1), dtype=np.float64)


def explained_share(bins: Ints, target: Floats, *, folds: int = 5, seed: int = 0) -> float:
    r"""Return the share of a target's variance that the mean of each bin explains on rows that it was not made from.

        score = 1 - sum_n |y_n - m(b_n)|^2 / sum_n |y_n - m|^2

    with y_n the target of row n (for classes a row of zeros and a one), b_n its bin, m(b) the mean of y over the bin's
    rows in the other folds and m the mean over all rows in the other folds. 0: no better than the mean; 1: the column
    gives the target away. A column with another value in every row gets 0, since its bins are never met again.

    Args:
        bins: [N], from 0.
        target: [N] or [N, C].
        folds: parts, each predicted from the others.
        seed: fixes the folds.

    Example:
        >>> bins = np.arange(300) % 3
        >>> round(explained_share(bins, (bins == 1).astype(float)), 2)
        1.0
    """
    matrix = target[:, None] if target.ndim == 1 else target
    fold = np.random.default_rng(seed).permutation(len(bins)) % folds
    error = base = 0.0
    for number in range(folds):
        train, held = fold != number, fold == number
        if not held.any() or not train.any():
            continue
        overall = matrix[train].mean(0)
        means = _bin_means(bins[train], matrix[train], overall, int(bins.max()) + 1)
        error += float(np.square(matrix[held] - means[bins[held]]).sum())
        base += float(np.square(matrix[held] - overall).sum())
    return 1 - error / base if base > 0 else 0.0


def _bin_means(bins: Ints, matrix: Floats, overall: Floats, count: int) -> Floats:
    rows = np.bincount(bins, minlength=count)[:, None] + PSEUDO_ROWS
    columns = [np.bincount(bins, weights=column, minlength=count) for column in matrix.T]
    return np.asarray((np.stack(columns, 1) + PSEUDO_ROWS * overall) / rows, dtype=np.float64)


@dataclass(frozen=True)
class CertainValue:
    """A value of a column with which a class is always there, or never.

    Attributes:
        bin: number of the value.
        label: number of the class.
        always: whether it is always there; otherwise never.
        share: share of the rows with that value.
        expected: share of the class, or of its absence, over all rows.
    """

    bin: int
    label: int
    always: bool
    share: float
    expected: float


def certain_values(
    bins: Ints, classes: Floats, *, min_rows: int = 100, min_share: float = 0.1, tolerance: float = 0.001
) -> list[CertainValue]:
    """Return the values that settle a class for many rows, although over all rows it is not nearly settled.

    Args:
        bins: [N], from 0.
        classes: [N, C], a one in each row.
        min_rows: rows that a value must have.
        min_share: share of the rows that it must have.
        tolerance: share of exceptions that count as none.
    """
    found = []
    overall = classes.mean(0)
    counts = np.bincount(bins)
    for place in np.flatnonzero((counts >= min_rows) & (counts >= min_share * len(bins))):
        shares = classes[bins == place].mean(0)
        for label, (share, usual) in enumerate(zip(shares, overall, strict=True)):
            always = bool(share >= 1 - tolerance)
            expected = float(usual if always else 1 - usual)
            if (always or share <= tolerance) and expected <= 0.8:
                found.append(CertainValue(int(place), label, always, float(counts[place] / len(bins)), expected))
    return found
