"""The estimator keeps scikit-learn's promises: it clones, folds, searches, and answers in what y held."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from lepton import LeptonEstimator  # noqa: E402
from lepton.errors import ConfigurationError, DataError  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3))
S = X[:, 0] + X[:, 1]
UP = S > 0
SHORT = {"max_epochs": 1}


def estimator(**options: Any) -> LeptonEstimator:
    return LeptonEstimator(**{"training": SHORT, **options})


def test_parameters_are_those_of_the_constructor_and_clones_have_them() -> None:
    model = estimator(balance={"method": "mgda"}, random_state=3)
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert copy.set_params(random_state=4).random_state == 4


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.where(UP, 5, 3), [3, 5]),
        (np.where(UP, 1.0, np.where(np.arange(80) % 5 == 0, np.nan, 0.0)), [0.0, 1.0]),
        (UP, [False, True]),
        (pd.Series([None if i % 7 == 0 else bool(v) for i, v in enumerate(UP)], dtype=object), [False, True]),
        (pd.Series([None if i % 7 == 0 else bool(v) for i, v in enumerate(UP)], dtype="boolean"), [False, True]),
        (np.where(UP, "yes", "no"), ["no", "yes"]),
        (pd.Series(pd.Categorical(np.where(UP, "yes", "no"))), ["no", "yes"]),
        (np.where(UP, "yes ", " no"), [" no", "yes "]),
    ],
    ids=["int", "float", "bool", "object", "nullable", "words", "categorical", "spaces"],
)
def test_classes_are_what_y_held(y: Any, classes: list[Any]) -> None:
    model = estimator(training={"max_epochs": 6, "learning_rate": 0.005}).fit(X, y)
    assert list(model.classes_) == classes
    assert [type(c) for c in model.classes_.tolist()] == [type(c) for c in classes]
    predicted = model.predict(X)
    assert predicted.shape == (80,)
    assert set(predicted.tolist()) <= set(classes)
    there = ~pd.isna(np.asarray(y, dtype=object))
    assert model.score(X, y) == pytest.approx(np.mean(predicted[there] == np.asarray(y, dtype=object)[there]))
    assert model.score(X, y) > 0.7
    assert model.predict_proba(X).sum(1) == pytest.approx(1)
    assert (model.classes_[model.predict_proba(X).argmax(1)] == predicted).all()


def test_several_targets_with_holes() -> None:
    y = pd.DataFrame({"price": np.where(np.arange(80) % 4 == 0, np.nan, S), "up": np.where(UP, "yes", "no")})
    model = estimator().fit(pd.DataFrame(X, columns=list("abc")), y)
    assert model.target_names_ == ["price", "up"]
    assert model.classes_[0] is None
    assert model.predict(X).shape == (80, 2)
    assert model.predict_proba(X)[0] is None
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert np.isfinite(model.score(X, y))


def test_frames_and_arrays_are_the_same_rows() -> None:
    frame = pd.DataFrame(X, columns=list("abc"), index=range(100, 180))
    model = estimator().fit(frame, S)
    assert np.array_equal(model.predict(X), model.predict(frame))
    assert np.array_equal(model.predict(frame[["c", "a", "b"]]), model.predict(frame))
    with pytest.raises(DataError, match="X has 2 columns, but the estimator was fitted with 3"):
        model.predict(X[:, :2])


def test_it_folds_searches_and_stands_in_pipelines() -> None:
    assert np.isfinite(cross_val_score(estimator(), X, S, cv=2)).all()
    search = GridSearchCV(estimator(), {"balance": ["equal", "mgda"]}, cv=2).fit(X, np.stack([S, -S], 1))
    assert search.best_params_["balance"] in ("equal", "mgda")
    assert np.isfinite(make_pipeline(StandardScaler(), estimator()).fit(X, S).score(X, S))


def test_it_survives_pickling() -> None:
    model = estimator(validation_fraction=0.0).fit(X, S)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_the_same_seed_gives_the_same_model() -> None:
    first, again, other = (estimator(random_state=seed).fit(X, S).predict(X) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        estimator().predict(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator().fit(X, S[:10])
    with pytest.raises(DataError, match="one or two dimensions"):
        estimator().fit(X, np.zeros((80, 2, 2)))
    with pytest.raises(ConfigurationError, match="kinds names 'price'"):
        estimator(kinds={"price": "regression"}).fit(X, S)
    with pytest.raises(DataError, match="more than one column named 'a'"):
        estimator().fit(pd.DataFrame(X, columns=["a", "a", "b"]), S)
