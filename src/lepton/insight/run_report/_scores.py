"""Numbers about predictions of one task: confusion, calibration, scores of each class, overlap of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "ClassScores", "calibration", "class_scores", "confusion_matrix", "mask_overlap"]

Ints = NDArray[np.int64]
Numbers = NDArray[np.float64]
BINS = 10


def confusion_matrix(truth: Ints, predicted: Ints, classes: int, *, unseen: int | None = None) -> Ints:
    """Return how often each class was predicted for each true one, [C, C] with the truth in the rows.

    Args:
        truth: class numbers [N]; others than 0 to C - 1 are passed over.
        predicted: class numbers [N].
        classes: their number C.
        unseen: the number, not 0 to C - 1, of a class that can be true but not be predicted; the matrix then has a row
            more for it, [C + 1, C]. Matrices of several batches may be added.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1, -100]), np.array([0, 0, 1, 1]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    known = (truth >= 0) & (truth < classes)
    rows, truth = classes, truth.astype(np.int64)
    if unseen is not None:
        known, rows, truth = known | (truth == unseen), classes + 1, np.where(truth == unseen, classes, truth)
    pairs = truth[known] * classes + predicted[known].astype(np.int64)
    return np.bincount(pairs, minlength=rows * classes).reshape(rows, classes)


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of each class [C]; NaN where a class was not predicted, or does not occur.

    Args:
        precision: share of the predictions of the class that were right.
        recall: share of its rows that were found.
        f1: harmonic mean of both.
        support: number of its rows.
    """

    precision: Numbers
    recall: Numbers
    f1: Numbers
    support: Ints


def class_scores(confusion: Ints) -> ClassScores:
    """Return the scores of each class of a confusion matrix [C, C], or [C + 1, C] with one that cannot be predicted.

    Args:
        confusion: from `confusion_matrix`.

    Example:
        >>> tags, predicted = np.array([0, 0, 1, -100, -101]), np.array([0, 1, 1, 1, 1])
        >>> found = class_scores(confusion_matrix(tags, predicted, 2, unseen=-101))
        >>> found.precision.round(2).tolist(), found.recall.tolist(), found.support.tolist()
        ([1.0, 0.33], [0.5, 1.0], [2, 1])
    """
    hits = np.diag(confusion).astype(np.float64)
    found, support = confusion.sum(0), confusion.sum(1)[: len(hits)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return ClassScores(hits / found, hits / support, 2 * hits / (found + support), support)


@dataclass(frozen=True)
class Calibration:
    """How often predictions of a confidence are right.

    Args:
        confidence: mean confidence in each bin that holds rows [K].
        share: share of right ones in it [K].
        rows: number of rows in it [K].
        error: expected calibration error, in [0, 1].
    """

    confidence: Numbers
    share: Numbers
    rows: Ints
    error: float


def calibration(confidence: Numbers, right: NDArray[np.bool_], bins: int = BINS) -> Calibration:
    """Return the reliability of confidences and the expected calibration error.

        ECE = sum_b  n_b / N  | share_b - confidence_b |

    over bins b of equal width, with n_b of N rows in bin b, share_b of them right, and confidence_b their mean
    confidence. Naeini, Cooper, Hauskrecht 2015 ("Obtaining well calibrated probabilities using Bayesian binning").

    Args:
        confidence: of each prediction, in [0, 1], [N].
        right: whether it was right [N].
        bins: their number.

    Example:
        >>> calibration(np.array([0.9, 0.9]), np.array([True, False])).error
        0.4
    """
    if not len(confidence):
        return Calibration(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), float("nan"))
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    rows: Ints = counts[used].astype(np.int64)
    mean: Numbers = np.bincount(place, confidence, bins)[used].astype(np.float64) / rows
    share: Numbers = np.bincount(place, right.astype(np.float64), bins)[used].astype(np.float64) / rows
    return Calibration(mean, share, rows, float((rows * np.abs(share - mean)).sum() / rows.sum()))


def mask_overlap(truth: Ints, predicted: Ints, classes: int) -> Numbers:
    """Return the intersection over union of each class [C] over all pixels; NaN for one in neither.

    Example:
        >>> mask_overlap(np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 1]]), 3).tolist()
        [0.5, 0.5, nan]
    """
    counts = confusion_matrix(truth.ravel().astype(np.int64), predicted.ravel().astype(np.int64), classes)
    hits = np.diag(counts).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(hits / (counts.sum(0) + counts.sum(1) - hits))
