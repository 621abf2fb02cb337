"""Object keypoint similarity (OKS) between poses, and suppression of duplicate persons by it."""

import numpy as np


AREA_PER_BOX = 0.53
"""Share of its box that a person fills, as CrowdPose's evaluation takes it."""


def object_keypoint_similarity(
    keypoints: np.ndarray,
    reference_keypoints: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    labelled: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Similarity of every pose to every reference: mean of exp(-d² / (2 · area · (2 sigma)²)) over its keypoints.

    Args:
        keypoints: (poses, keypoints, 2), pixels.
        reference_keypoints: (references, keypoints, 2), pixels.
        areas: (references,) or (poses, references), square pixels.
        sigmas: (keypoints,), spread of each keypoint's annotations relative to the root of the area.
        labelled: (references, keypoints), whether a reference's keypoint counts; None for all.
        boxes: (references, 4) as x, y, width, height. To a reference without labelled keypoints the distance is that
            to its box, doubled about its centre (COCO's rule for what an evaluation ignores). None if all have some.

    Returns:
        (poses, references), in [0, 1].
    """
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    areas = np.broadcast_to(areas, (len(keypoints), len(reference_keypoints)))
    offsets = keypoints[:, None] - reference_keypoints[None]
    weights = None
    if labelled is not None:
        weights = (labelled > 0).astype(np.float64)
        unlabelled = ~weights.any(axis=1)
        if unlabelled.any():
            corner, size = boxes[unlabelled, None, :2], boxes[unlabelled, None, 2:]
            below, above = (corner - size) - keypoints[:, None], keypoints[:, None] - (corner + 2 * size)
            offsets[:, unlabelled] = np.maximum(below, 0) + np.maximum(above, 0)
            weights[unlabelled] = 1
    squares = offsets[..., 0] ** 2 + offsets[..., 1] ** 2
    similarities = np.exp(-(squares / variances / (areas[..., None] + np.spacing(1)) / 2))
    if weights is None:
        return similarities.mean(axis=-1)
    return (similarities * weights).sum(axis=-1) / weights.sum(axis=-1)


def oks_nms(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, threshold: float
) -> np.ndarray:
    """Drop persons that are too similar to a person of higher score (greedy, as non-maximum suppression of boxes).

    Args:
        keypoints: (persons, keypoints, 2), pixels.
        scores: (persons,).
        areas: (persons,), square pixels; two persons are compared by the mean of theirs.
        sigmas: (keypoints,), see `object_keypoint_similarity`.
        threshold: Highest similarity at which both stay, in [0, 1].

    Returns:
        Indices of those that stay, highest score first.

    Raises:
        ValueError: If the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must be a similarity between 0 and 1, got {threshold!r}.")
    keypoints, areas = np.asarray(keypoints, dtype=np.float64), np.asarray(areas, dtype=np.float64)
    order = np.argsort(-np.asarray(scores), kind="stable")
    if len(order) == 0:
        return order
    mean_areas = (areas[:, None] + areas) / 2
    too_similar = object_keypoint_similarity(keypoints, keypoints, mean_areas, sigmas) > threshold
    kept, dropped = [], np.zeros(len(order), dtype=bool)
    for index in order.tolist():
        if not dropped[index]:
            kept.append(index)
            dropped |= too_similar[index]
    return np.array(kept)


__all__ = ["AREA_PER_BOX", "object_keypoint_similarity", "oks_nms"]
