"""Scores of single tasks agree with independent computations."""

from __future__ import annotations

import numpy as np
import pytest

from lepton.insight.run_report._scores import calibration, class_scores, confusion_matrix, mask_overlap

RANDOM = np.random.default_rng(0)


def test_confusion_and_scores_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, predicted = RANDOM.integers(0, 5, 300), RANDOM.integers(0, 4, 300)  # class 4 is never predicted
    confusion = confusion_matrix(truth, predicted, 5)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(truth, predicted))
    found = class_scores(confusion)
    expected = metrics.precision_recall_fscore_support(truth, predicted, zero_division=np.nan)
    np.testing.assert_allclose(found.precision, expected[0])
    np.testing.assert_allclose(found.recall, expected[1])
    np.testing.assert_allclose(np.nan_to_num(found.f1), np.nan_to_num(expected[2]))
    np.testing.assert_array_equal(found.support, expected[3])


def test_missing_labels_do_not_count() -> None:
    truth, predicted = np.array([0, 1, -100, 2]), np.array([0, 0, 1, 2])
    assert confusion_matrix(truth, predicted, 3).sum() == 3


def test_labels_of_an_unseen_class_make_predictions_wrong_and_no_class_less_found() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, predicted = RANDOM.integers(0, 5, 300), RANDOM.integers(0, 4, 300)
    truth[truth == 4] = -101
    truth[:20] = -100
    halves = [confusion_matrix(truth[part], predicted[part], 4, unseen=-101) for part in (slice(150), slice(150, 300))]
    found = class_scores(halves[0] + halves[1])
    present = truth != -100
    expected = metrics.precision_recall_fscore_support(truth[present], predicted[present], labels=range(4))
    np.testing.assert_allclose([found.precision, found.recall, found.f1], expected[:3])
    np.testing.assert_array_equal(found.support, expected[3])


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    confidence = RANDOM.uniform(0.2, 1.0, 500)
    right = RANDOM.random(500) < 0.7
    expected = 0.0
    for low in np.arange(0, 1, 0.1):
        inside = (confidence >= low) & (confidence < low + 0.1)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration(confidence, right)
    assert found.error == pytest.approx(expected)
    assert found.rows.sum() == 500


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    confidence = np.repeat([0.25, 0.75, 1.0], 400)
    right = np.concatenate([np.arange(400) < 100, np.arange(400) < 300, np.ones(400, dtype=bool)])
    assert calibration(confidence, right).error == pytest.approx(0.0)


def test_overlap_of_masks_is_that_of_sets() -> None:
    truth, predicted = RANDOM.integers(0, 3, (4, 8, 8)), RANDOM.integers(0, 3, (4, 8, 8))
    truth[0, 0] = 255
    known = truth != 255
    for number, found in enumerate(mask_overlap(truth, predicted, 3)):
        both = ((truth == number) & (predicted == number))[known].sum()
        either = ((truth == number) | (predicted == number))[known].sum()
        assert found == pytest.approx(both / either)
