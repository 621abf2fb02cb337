"""Calibration of predicted deviations: a confidence for each keypoint, and how well it holds."""

from typing import Any

import numpy as np


def fit_confidence(sigmas: Any, right: Any, max_iterations: int = 100) -> tuple[float, float]:
    """Intercept and slope for which sigmoid(intercept + slope * log(sigma)) is the probability of being right.

    Logistic regression, by Newton's method; `confidence_coefficients` of `RLEConfig` takes the result.

    Args:
        sigmas: (n,) predicted deviations, means of x and y.
        right: (n,) whether the keypoint was near enough to its place.
        max_iterations: Steps at most.

    Raises:
        ValueError: If shapes differ, a deviation is not positive, all or none are right, or the two are separable.
    """
    logs, right = np.log(_positive(sigmas)), np.asarray(right, dtype=np.float64)
    if logs.shape != right.shape:
        raise ValueError(f"`right` must have the shape of `sigmas` {logs.shape}, got {right.shape}.")
    if not 0 < right.mean() < 1:
        raise ValueError("`right` must hold keypoints that are right and some that are not, to fit a confidence.")
    of_right, of_wrong = logs[right > 0], logs[right == 0]
    if of_right.max() < of_wrong.min() or of_wrong.max() < of_right.min():
        raise ValueError(
            "`right` must overlap in `sigmas`: a limit of sigma separates what is right from what is not."
        )
    center = logs.mean()
    inputs = np.stack([np.ones_like(logs), logs - center], axis=1)
    coefficients = np.array([np.log(right.mean() / (1 - right.mean())), 0.0])
    for _ in range(max_iterations):
        probabilities = _sigmoid(inputs @ coefficients)
        gradient = inputs.T @ (right - probabilities)
        hessian = (inputs * (probabilities * (1 - probabilities))[:, None]).T @ inputs
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        coefficients += step
        if np.abs(step).max() < 1e-10 * (1 + np.abs(coefficients).max()):
            intercept, slope = coefficients
            return float(intercept - slope * center), float(slope)
    raise ValueError(f"`max_iterations` must be more: the fit has not converged after {max_iterations}.")


def confidences(sigmas: Any, coefficients: tuple[float, float]) -> np.ndarray:
    """Confidence of each deviation, with the result of `fit_confidence`."""
    intercept, slope = coefficients
    return _sigmoid(intercept + slope * np.log(_positive(sigmas)))


def reliability(confidence: Any, right: Any, bins: int = 10) -> dict[str, np.ndarray]:
    """Predicted and true probability in bins of equal width.

    Args:
        confidence: (n,) from 0 to 1.
        right: (n,).
        bins: Number of bins.

    Returns:
        `count`, `confidence` and `accuracy` (bins,), the latter two NaN where a bin is empty.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if confidence.shape != right.shape or confidence.ndim != 1:
        raise ValueError(f"`confidence` and `right` must have one shape (n,), got {confidence.shape}, {right.shape}.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("`confidence` must be from 0 to 1.")
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, values, bins) / count for values in (confidence, right)]
    return {"count": count, "confidence": means[0], "accuracy": means[1]}


def expected_calibration_error(confidence: Any, right: Any, bins: int = 10) -> float:
    """Mean distance of confidence and accuracy over the bins of `reliability`, weighted by their counts."""
    table = reliability(confidence, right, bins)
    filled = table["count"] > 0
    gaps = np.abs(table["confidence"] - table["accuracy"])[filled]
    return float((gaps * table["count"][filled]).sum() / table["count"].sum())


def error_by_quantile(sigmas: Any, errors: Any, groups: int = 10) -> np.ndarray:
    """(groups,) mean error of equally large groups, in the order of the predicted deviation."""
    sigmas, errors = _positive(sigmas), np.asarray(errors, dtype=np.float64)
    if sigmas.shape != errors.shape or len(sigmas) < groups:
        raise ValueError(
            f"`errors` must have the shape of `sigmas` with {groups} values at least, got {errors.shape}, {sigmas.shape}."
        )
    order = np.argsort(sigmas, kind="stable")
    return np.array([errors[part].mean() for part in np.array_split(order, groups)])


def _positive(sigmas: Any) -> np.ndarray:
    sigmas = np.asarray(sigmas, dtype=np.float64)
    if sigmas.ndim != 1 or not len(sigmas) or not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise ValueError("`sigmas` must be positive numbers of shape (n,).")
    return sigmas


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * values))


__all__ = ["confidences", "error_by_quantile", "expected_calibration_error", "fit_confidence", "reliability"]
