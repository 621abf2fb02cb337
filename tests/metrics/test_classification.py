"""Accuracies of classifiers."""

import numpy as np
import pytest

from hvmodels.metrics.classification import (
    balanced_accuracy,
    classification_metrics,
    confusion_matrix,
    top_k_accuracies,
)


SCORES = np.array([[3, 1, 2, 0], [0, 3, 2, 1], [0, 1, 2, 3], [2, 2, 0, 1], [2, 2, 0, 1.0]])
LABELS = np.array([0, 2, 0, 0, 1])


def test_top_k():
    assert top_k_accuracies(SCORES, LABELS, (1, 2, 3, 4)) == {1: 0.4, 2: 0.8, 3: 0.8, 4: 1.0}  # ties: the first class


def test_confusion_and_balance():
    expected = np.zeros((4, 4), dtype=np.int64)
    expected[0, 0], expected[2, 1], expected[0, 3], expected[1, 0] = 2, 1, 1, 1
    np.testing.assert_array_equal(confusion_matrix(SCORES, LABELS), expected)
    assert balanced_accuracy(SCORES, LABELS) == pytest.approx((2 / 3 + 0 + 0) / 3)  # class 3 has no samples


def test_all_metrics():
    found = classification_metrics(SCORES, LABELS)
    assert found == pytest.approx({"accuracy": 0.4, "top_3_accuracy": 0.8, "balanced_accuracy": 2 / 9})
    assert set(classification_metrics(np.eye(2), [0, 1])) == {"accuracy", "balanced_accuracy"}


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (SCORES, LABELS[:4], "must be .samples, classes. and"),
        (SCORES[:0], LABELS[:0], "at least one sample"),
        (SCORES[0], LABELS, "must be .samples, classes."),
        (np.full((1, 2), np.nan), [0], "must not be NaN"),
        (SCORES, LABELS + 2, "integers from 0 to 3"),
        (SCORES, LABELS - 1, "integers from 0 to 3"),
        (SCORES, LABELS.astype(float), "integers from 0 to 3"),
    ],
)
def test_bad_inputs_are_named(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(scores, labels)


def test_bad_k_is_named():
    with pytest.raises(ValueError, match="`ks` must be from 1"):
        top_k_accuracies(SCORES, LABELS, (5,))
