"""Calibration of deviations: on data drawn from a known law, and against sums by hand."""

import numpy as np
import pytest

from hvmodels.metrics.calibration import (
    confidences,
    error_by_quantile,
    expected_calibration_error,
    fit_confidence,
    reliability,
)


def drawn(count=40000, coefficients=(-5.0, -1.5)):
    rng = np.random.default_rng(0)
    sigmas = np.exp(rng.normal(-3.5, 0.7, count))
    right = rng.random(count) < 1 / (1 + np.exp(-(coefficients[0] + coefficients[1] * np.log(sigmas))))
    return sigmas, right


def test_fit_finds_the_law():
    sigmas, right = drawn()
    coefficients = fit_confidence(sigmas, right)
    assert coefficients == pytest.approx((-5.0, -1.5), abs=0.15)
    confidence = confidences(sigmas, coefficients)
    # What a maximum of the likelihood fulfils, whatever the data.
    assert confidence.mean() == pytest.approx(right.mean(), abs=1e-9)
    assert (confidence * np.log(sigmas)).mean() == pytest.approx((right * np.log(sigmas)).mean(), abs=1e-8)
    assert expected_calibration_error(confidence, right) < 0.01
    assert expected_calibration_error(confidence**3, right) > 0.1


def test_reliability_by_hand():
    confidence, right = [0.05, 0.15, 0.15, 0.95, 1.0], [0, 1, 0, 1, 1]
    table = reliability(confidence, right, bins=10)
    np.testing.assert_array_equal(table["count"], [1, 2, 0, 0, 0, 0, 0, 0, 0, 2])
    np.testing.assert_allclose(table["accuracy"][[0, 1, 9]], [0, 0.5, 1])
    np.testing.assert_allclose(table["confidence"][[0, 1, 9]], [0.05, 0.15, 0.975])
    assert np.isnan(table["accuracy"][2])
    expected = (0.05 + 2 * 0.35 + 2 * 0.025) / 5
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx(expected)


def test_errors_by_quantile():
    sigmas, errors = np.array([4.0, 1, 3, 2, 6, 5]), np.array([40.0, 10, 30, 20, 60, 50])
    np.testing.assert_allclose(error_by_quantile(sigmas, errors, 3), [15, 35, 55])


@pytest.mark.parametrize(
    ("sigmas", "right", "message"),
    [
        ([0.1, 0.0], [0, 1], "`sigmas` must be positive"),
        ([0.1, np.nan], [0, 1], "`sigmas` must be positive"),
        ([0.1, 0.2], [0, 1, 1], "`right` must have the shape"),
        ([0.1, 0.2], [1, 1], "`right` must hold"),
        ([0.1, 0.2, 0.3, 0.4], [1, 1, 0, 0], "`right` must overlap"),
    ],
)
def test_bad_input_of_the_fit(sigmas, right, message):
    with pytest.raises(ValueError, match=message):
        fit_confidence(sigmas, right)


def test_bad_input_of_the_tables():
    with pytest.raises(ValueError, match="from 0 to 1"):
        reliability([1.2], [1])
    with pytest.raises(ValueError, match="one shape"):
        reliability([0.2, 0.3], [1])
    with pytest.raises(ValueError, match="10 values at least"):
        error_by_quantile([1.0, 2.0], [1.0, 2.0])
