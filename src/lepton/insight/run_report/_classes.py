"""Confusion and scores of classes: of rows, or of words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lepton.insight.page import Matrix, Table, TableCell, TableRow, as_count
from lepton.insight.run_report._scores import class_scores

__all__ = ["SHOWN_CLASSES", "class_table", "confusion_block", "share_cell"]

SHOWN_CLASSES = 20
"""Classes up to which the whole confusion is shown; twice as many have a row in the table of scores."""


def confusion_block(classes: Sequence[str], confusion: NDArray[np.int64]) -> Matrix:
    """Return how often each class was predicted for each true one, shaded."""
    names = (*classes, "unseen in training")[: len(confusion)]
    totals = np.maximum(confusion.sum(1, keepdims=True), 1)
    right = np.eye(*confusion.shape) > 0
    shades = np.where(right, confusion / totals, -confusion / totals)
    return Matrix(
        "Confusion: how often each class was predicted for each true one",
        names,
        tuple(classes),
        tuple(tuple(as_count(n) for n in row) for row in confusion.tolist()),
        tuple(tuple(row) for row in np.where(confusion > 0, shades, math.nan).tolist()),
        "true / predicted",
        "Shaded by the share of the true class: blue for right, orange for wrong.",
    )


def class_table(classes: Sequence[str], confusion: NDArray[np.int64], counted: str, title: str) -> Table:
    """Return precision, recall and F1 of each class; of the most frequent ones where there are many.

    Args:
        classes: their names.
        confusion: from `confusion_matrix`.
        counted: what is counted, such as rows.
        title: of the table.
    """
    scores = class_scores(confusion)
    order = np.argsort(-scores.support, kind="stable")[: 2 * SHOWN_CLASSES]
    rows = tuple(
        TableRow(
            TableCell(classes[i]),
            (
                TableCell(as_count(scores.support[i])),
                *(share_cell(values[i]) for values in (scores.precision, scores.recall, scores.f1)),
            ),
        )
        for i in (order if len(classes) > len(order) else range(len(classes)))
    )
    notes = [] if len(rows) == len(classes) else [f"The {len(rows)} most frequent of {len(classes)} classes."]
    return Table(title, (counted, "precision", "recall", "F1"), rows, tuple(notes))


def share_cell(value: float) -> TableCell:
    """Return a cell with a share; a dash where there is none."""
    return TableCell("–" if math.isnan(value) else f"{value:.3f}")
