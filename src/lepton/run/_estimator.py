"""`LeptonEstimator`: a run behind the interface of scikit-learn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lepton.data import LabelRule, as_words, read_table
from lepton.errors import ConfigurationError, DataError, import_extra, nearest
from lepton.run._fit import fit
from lepton.run._run import Run

_base: Any = import_extra("sklearn.base", "sklearn", "LeptonEstimator")
_validation: Any = import_extra("sklearn.utils.validation", "sklearn", "LeptonEstimator")
_pandas: Any = import_extra("pandas", "sklearn", "LeptonEstimator")

__all__ = ["LeptonEstimator"]


class LeptonEstimator(_base.BaseEstimator):  # type: ignore[misc]  # scikit-learn is not typed
    """One network for all columns of `y`, with `fit`, `predict`, `predict_proba` and `score`.

    Works in `Pipeline`, `cross_val_score`, `GridSearchCV` and with `sklearn.base.clone`. X and y may be DataFrames or
    arrays; missing values in either are NaN. Since it is classifier and regressor at once, scikit-learn folds rows in
    their order: for rows that are sorted by class, pass `cv=KFold(shuffle=True)`.

    Args:
        kinds: target -> kind of task, such as `"regression"`; by default inferred. Arrays have targets `0`, `1`, ...
        trunk: as in `lepton.fit`.
        balance: as in `lepton.fit`.
        training: as in `lepton.fit`.
        validation_fraction: share of the rows that is held out for early stopping.
        random_state: fixes initial weights, order and split.

    Attributes:
        run_: the run; its folder is gone after fitting.
        target_names_: the tasks' names.
        classes_: for each task its classes, or None for a regression; without the list if there is one task.
        n_features_in_: number of columns of X.

    Example:
        >>> import numpy as np
        >>> from lepton import LeptonEstimator
        >>> X = np.random.default_rng(0).normal(size=(80, 3))
        >>> y = np.stack([X[:, 0] + X[:, 1], X[:, 2] > 0], 1)
        >>> model = LeptonEstimator(training={"max_epochs": 2}).fit(X, y)
        >>> model.predict(X).shape
        (80, 2)
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, str] | None = None,
        trunk: str | Mapping[str, Any] = "auto",
        balance: str | Mapping[str, Any] = "equal",
        training: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.15,
        random_state: int = 0,
    ) -> None:
        self.kinds = kinds
        self.trunk = trunk
        self.balance = balance
        self.training = training
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows with their targets.

        Args:
            X: DataFrame or array [N, F].
            y: [N], or [N, T] for several targets; NaN where a label is missing.

        Raises:
            ConfigurationError: `kinds` names no column of y.
            DataError: nothing can be learned from the rows.
        """
        features, targets = _frame(X, "x"), _frame(y, "y")
        _validation.check_consistent_length(features, targets)
        self.n_features_in_ = features.shape[1]
        if hasattr(X, "columns"):
            self.feature_names_in_ = np.asarray(features.columns, dtype=object)
        self._single = np.ndim(y) == 1
        self.target_names_ = list(targets.columns)
        renamed = targets.rename(columns={name: f"y {name}" for name in targets.columns})
        rows = _pandas.concat([features.reset_index(drop=True), renamed.reset_index(drop=True)], axis=1)
        kinds = dict(self.kinds or {})
        for name in kinds:
            if name not in self.target_names_:
                hint = nearest(str(name), self.target_names_)
                raise ConfigurationError(f"kinds names {name!r}; the targets are {self.target_names_}.{hint}")
        tasks = {name: {"type": kinds.get(name, "auto"), "column": f"y {name}"} for name in self.target_names_}
        with tempfile.TemporaryDirectory() as place:
            self.run_: Run = fit(
                rows,
                tasks,
                split={"val": self.validation_fraction, "test": 0.0, "seed": self.random_state},
                trunk=self.trunk,
                balance=self.balance,
                training=self.training,
                seed=self.random_state,
                folder=Path(place) / "run",
                quiet=True,
            )
        self.run_.rows = None  # they would be copied and pickled with the estimator
        self._values = {rule.task: _values_of(targets[rule.task], rule.classes) for rule in self.run_.rules}
        found = [self._values[rule.task] if rule.classes else None for rule in self.run_.rules]
        self.classes_ = found[0] if self._single else found
        return self

    def _labels(self, rule: LabelRule, frame: Any) -> npt.NDArray[Any]:
        """Return a task's predictions: numbers, or classes as y held them."""
        predicted: npt.NDArray[Any] = frame[rule.task].to_numpy()
        if not rule.classes:
            return predicted
        labels: npt.NDArray[Any] = self._values[rule.task][_pandas.Index(rule.classes).get_indexer(predicted)]
        return labels

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return predictions [N], or [N, T] for several targets."""
        frame = self._predicted(X)
        columns = [self._labels(rule, frame) for rule in self.run_.rules]
        if self._single:
            return columns[0]
        same = len({column.dtype.kind for column in columns} & {"O", "U"}) == 0
        return np.stack(columns, 1) if same else np.stack([column.astype(object) for column in columns], 1)

    def predict_proba(self, X: Any) -> Any:
        """Return probabilities [N, C]; for several targets a list with None for regressions."""
        frame = self._predicted(X)
        found = [
            frame[[f"{rule.task}_probability_{name}" for name in rule.classes]].to_numpy() if rule.classes else None
            for rule in self.run_.rules
        ]
        return found[0] if self._single else found

    def score(self, X: Any, y: Any) -> float:
        """Return the mean over the targets of the accuracy of classes and the R2 of numbers, over known targets.

        Args:
            X: rows, as in `fit`.
            y: their targets.
        """
        targets, frame = _frame(y, "y"), self._predicted(X)
        scores = []
        for rule in self.run_.rules:
            truth = targets[rule.task]
            there = truth.notna().to_numpy()
            if rule.classes:
                scores.append(float((self._labels(rule, frame)[there] == truth.to_numpy()[there]).mean()))
            else:
                error = frame[rule.task].to_numpy()[there] - truth.to_numpy(dtype=float)[there]
                spread = truth.to_numpy(dtype=float)[there]
                scores.append(1 - float((error**2).sum() / ((spread - spread.mean()) ** 2).sum()))
        return float(np.mean(scores))

    def _predicted(self, X: Any) -> Any:
        _validation.check_is_fitted(self, "run_")
        frame = _frame(X, "x")
        if frame.shape[1] != self.n_features_in_:
            raise DataError(f"X has {frame.shape[1]} columns, but the estimator was fitted with {self.n_features_in_}.")
        if not hasattr(X, "columns") and hasattr(self, "feature_names_in_"):
            frame.columns = self.feature_names_in_  # an array has them in their order
        return self.run_.predict(frame)


def _values_of(column: Any, classes: Sequence[str]) -> npt.NDArray[Any]:
    """Return the value of y behind each class: a number, a boolean or a word."""
    values = column.dropna().unique()
    words = read_table({"y": values}).column("y")
    known = dict(zip(as_words(words).to_pylist(), list(values), strict=True))
    return np.array([known[word] for word in classes]) if classes else np.array([])


def _frame(values: Any, prefix: str) -> Any:
    """Return a DataFrame with names that are strings; arrays get `x0`, `x1`, ..., targets `0`, `1`, ..."""
    if isinstance(values, _pandas.DataFrame):
        return values.rename(columns=str)
    if isinstance(values, _pandas.Series):
        return values.to_frame(str(values.name if values.name is not None else 0))
    array = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if array.ndim not in (1, 2):
        raise DataError(f"X and y must have one or two dimensions, but one has the shape {array.shape}.")
    array = array.reshape(len(array), -1)
    names = [f"x{i}" if prefix == "x" else str(i) for i in range(array.shape[1])]
    return _pandas.DataFrame(array, columns=names).infer_objects()
