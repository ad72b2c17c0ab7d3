"""Gradient-boosted trees on the raw columns: the baseline that a table's network has to stand beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton.data import SEQUENCE_KINDS, SPEECH_KINDS, Encoder, InputEncoder, LabelRule, as_numbers
from lepton.errors import import_extra

__all__ = ["UNREAD", "BoostedTrees", "boosting_columns", "can_boost"]

Floats = npt.NDArray[np.float64]

UNREAD = ("text", "tokens", "words", "image", "audio")
"""Kinds of columns that trees do not read."""

MOST_CATEGORIES = 254
"""scikit-learn's trees tell so many categories apart; the rarest beyond count as missing."""

UNLEARNED = ("segmentation", *SEQUENCE_KINDS, *SPEECH_KINDS)
"""Kinds of task that trees do not learn."""

LEAVES = 31
FEWEST_TO_STOP_EARLY = 200


def can_boost(encoder: Encoder, rule: LabelRule) -> bool:
    """Return whether there is a column that trees read, and the task is one that they learn."""
    return rule.kind not in UNLEARNED and any(c.kind not in UNREAD for c in encoder.columns)


def boosting_columns(encoder: InputEncoder, table: Any) -> tuple[Floats, list[bool]]:
    """Return the columns as trees read them, NaN where missing, and which are categories.

    Numbers are as they stand in the table; dates as the encoder made them. Text and pictures are left out.
    """
    columns: list[Floats] = []
    categorical: list[bool] = []
    for column in encoder.columns:
        if column.kind == "number":
            columns.append(as_numbers(table.column(column.name)))
        elif column.kind == "date":
            columns += list(column.encode(table.column(column.name)).T)
        elif column.kind == "category":
            codes = column.encode(table.column(column.name)).astype(np.float64) - 1
            columns.append(np.where((codes < 0) | (codes >= MOST_CATEGORIES), np.nan, codes))
        categorical += [column.kind == "category"] * (len(columns) - len(categorical))
    return np.stack(columns, 1), categorical


class BoostedTrees:
    """scikit-learn's histogram gradient boosting for one task: one ensemble for each label or output.

    Its own defaults, with up to 500 rounds and a tenth of the training rows to stop by; 100 rounds where there are
    few rows. Needs the extra `sklearn`.

    Args:
        rule: the task.
        categorical: which columns are categories.
        seed: fixes the rows that it stops by.
    """

    def __init__(self, rule: LabelRule, categorical: list[bool], seed: int) -> None:
        self.rule = rule
        self.categorical = categorical
        self.seed = seed
        self.models: list[Any] = []

    def fit(self, columns: Floats, target: Tensor) -> BoostedTrees:
        """Learn from the rows that have a label."""
        values = target.numpy().astype(np.float64)
        for labels in values[:, None].T if values.ndim == 1 else values.T:
            known = np.isfinite(labels) & (labels != -100)
            present = np.unique(labels[known])
            # A label that is always the same is its own prediction; there is nothing that trees could split.
            made = self._new(int(known.sum())) if len(present) > 1 else float(present[0]) if len(present) else np.nan
            self.models.append(made if isinstance(made, float) else made.fit(columns[known], labels[known]))
        return self

    def _new(self, rows: int) -> Any:
        ensemble = import_extra("sklearn.ensemble", "sklearn", "the comparison with boosted trees")
        regression = self.rule.kind == "regression"
        kind = ensemble.HistGradientBoostingRegressor if regression else ensemble.HistGradientBoostingClassifier
        stop = rows >= FEWEST_TO_STOP_EARLY
        return kind(
            max_iter=500 if stop else 100,
            early_stopping=stop,
            max_leaf_nodes=LEAVES,
            categorical_features=np.array(self.categorical),
            random_state=self.seed,
        )

    def outputs(self, columns: Floats) -> Tensor:
        """Return what the task's head would give: logits, or numbers in original units."""
        if self.rule.kind == "classification":
            return self._class_logits(columns)
        parts = [self._one(model, columns) for model in self.models]
        several = self.rule.kind == "multi_label" or len(parts) > 1
        return torch.from_numpy(np.stack(parts, 1) if several else parts[0]).float()

    def _one(self, model: Any, columns: Floats) -> Floats:
        if self.rule.kind == "regression":
            found = np.full(len(columns), model) if isinstance(model, float) else model.predict(columns)
            return np.asarray(found, dtype=np.float64)
        share = np.full(len(columns), model) if isinstance(model, float) else model.predict_proba(columns)[:, 1]
        share = np.clip(share, 1e-7, 1 - 1e-7)
        return np.asarray(np.log(share / (1 - share)), dtype=np.float64)

    def _class_logits(self, columns: Floats) -> Tensor:
        """Return the logarithms of the probabilities; a class that training does not have gets nearly none."""
        model, share = self.models[0], np.full((len(columns), len(self.rule.classes)), 1e-9)
        if isinstance(model, float):
            share[:, int(model)] = 1.0
        else:
            share[:, model.classes_.astype(np.int64)] = np.maximum(model.predict_proba(columns), 1e-9)
        return torch.from_numpy(np.log(share)).float()

    @property
    def parameters(self) -> int:
        """At most how many leaves there are."""
        fitted = [model for model in self.models if not isinstance(model, float)]
        return sum(model.n_iter_ * model.n_trees_per_iteration_ * LEAVES for model in fitted)
