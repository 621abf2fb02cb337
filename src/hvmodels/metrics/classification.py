"""Metrics of classifiers: top-k accuracy, balanced accuracy, confusion matrix."""

from typing import Any

import numpy as np


def top_k_accuracies(scores: Any, labels: Any, ks: tuple[int, ...] = (1, 5)) -> dict[int, float]:
    """Share of the samples whose class is among the k highest scores, for each k, from 0 to 1.

    Of equal scores the class that comes first counts as higher.

    Args:
        scores: (samples, classes) logits or probabilities.
        labels: (samples,) classes.
        ks: Each k, at most the number of classes.

    Raises:
        ValueError: If shapes, classes or a k do not fit, or a score is NaN.
    """
    scores, labels = _checked(scores, labels)
    if any(not 1 <= k <= scores.shape[1] for k in ks):
        raise ValueError(f"`ks` must be from 1 to the number of classes {scores.shape[1]}, got {ks}.")
    of_label = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    ranks = ((scores > of_label) | ((scores == of_label) & earlier)).sum(axis=1)
    return {k: float((ranks < k).mean()) for k in ks}


def balanced_accuracy(scores: Any, labels: Any) -> float:
    """Mean of the classes' accuracies, from 0 to 1; classes without samples do not count.

    Args:
        scores: (samples, classes) logits or probabilities.
        labels: (samples,) classes.

    Raises:
        ValueError: As `top_k_accuracies`.
    """
    counts = confusion_matrix(scores, labels)
    totals = counts.sum(axis=1)
    seen = totals > 0
    return float((counts.diagonal()[seen] / totals[seen]).mean())


def confusion_matrix(scores: Any, labels: Any) -> np.ndarray:
    """(classes, classes) number of samples of each class, by row, that get each class, by column.

    Args:
        scores: (samples, classes) logits or probabilities.
        labels: (samples,) classes.

    Raises:
        ValueError: As `top_k_accuracies`.
    """
    scores, labels = _checked(scores, labels)
    counts = np.zeros((scores.shape[1],) * 2, dtype=np.int64)
    np.add.at(counts, (labels, scores.argmax(axis=1)), 1)
    return counts


def classification_metrics(scores: Any, labels: Any) -> dict[str, float]:
    """`accuracy`, `top_3_accuracy` and `top_5_accuracy` where there are more classes, and `balanced_accuracy`.

    Args:
        scores: (samples, classes) logits or probabilities.
        labels: (samples,) classes.

    Raises:
        ValueError: As `top_k_accuracies`.
    """
    scores, labels = _checked(scores, labels)
    found = top_k_accuracies(scores, labels, tuple(k for k in (1, 3, 5) if k == 1 or k < scores.shape[1]))
    named = {"accuracy" if k == 1 else f"top_{k}_accuracy": value for k, value in found.items()}
    return {**named, "balanced_accuracy": balanced_accuracy(scores, labels)}


def _checked(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(scores):
        raise ValueError(
            "`scores` must be (samples, classes) and `labels` (samples,), of at least one sample, got "
            f"{scores.shape} and {labels.shape}."
        )
    if np.isnan(scores).any():
        raise ValueError("`scores` must not be NaN.")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"`labels` must be integers from 0 to {scores.shape[1] - 1}, got {labels.dtype} from {labels.min()} to "
            f"{labels.max()}."
        )
    return scores, labels


__all__ = ["balanced_accuracy", "classification_metrics", "confusion_matrix", "top_k_accuracies"]
