"""Errors of 3-D poses: MPJPE, and PA-MPJPE after the best similarity transform of each pose.

Both are means over poses and joints of Euclidean distances, in the unit of the poses (millimetres by custom). They hold
for any number of leading dimensions (frames, persons) and for 2-D poses as well.
"""

from typing import Any

import numpy as np


def root_relative(poses: Any, root_index: int = 0) -> np.ndarray:
    """Poses (..., joints, dims) with one joint in the origin.

    Raises:
        ValueError: If there is no such joint, or a value is not finite.
    """
    poses = _as_poses(poses, "poses")
    if not 0 <= root_index < poses.shape[-2]:
        raise ValueError(f"`root_index` must be one of the {poses.shape[-2]} joints, got {root_index!r}.")
    return poses - poses[..., root_index : root_index + 1, :]


def align_poses(predictions: Any, targets: Any) -> np.ndarray:
    """Each predicted pose moved, turned and scaled to lie on its target as well as it can (Procrustes analysis).

    Reflections are left out. A predicted pose whose joints are all one point comes to the mean of its target, whatever
    the turn; the turn of poses on a line or in a plane is one of the best ones.

    Args:
        predictions: (..., joints, dims), array or tensor.
        targets: Same shape.

    Returns:
        The aligned predictions, float64.

    Raises:
        ValueError: If shapes differ, or a value is not finite.
    """
    predictions, targets = _as_pair(predictions, targets)
    target_mean = targets.mean(axis=-2, keepdims=True)
    centred = predictions - predictions.mean(axis=-2, keepdims=True)
    target_centred = targets - target_mean
    # At unit size, so that neither tiny nor huge poses leave the range of numbers; what rounding left of a point is 0.
    size = np.abs(centred).max(axis=(-1, -2), keepdims=True)
    is_pose = size > 4 * np.finfo(np.float64).eps * np.abs(predictions).max(axis=(-1, -2), keepdims=True)
    centred = np.divide(centred, size, out=np.zeros_like(centred), where=is_pose)
    left, strengths, right = np.linalg.svd(centred.swapaxes(-1, -2) @ target_centred)
    # The weakest direction is turned round where the best orthogonal matrix would mirror the pose.
    signs = np.ones_like(strengths)
    signs[..., -1] = np.where(np.linalg.det(left) * np.linalg.det(right) < 0, -1.0, 1.0)
    rotation = (left * signs[..., None, :]) @ right
    spread = np.square(centred).sum(axis=(-1, -2))
    scale = (strengths * signs).sum(axis=-1)
    scale = np.divide(scale, spread, out=np.zeros_like(scale), where=spread > 0)
    return scale[..., None, None] * (centred @ rotation) + target_mean


def joint_errors(predictions: Any, targets: Any, align: bool = False) -> np.ndarray:
    """Distance of each joint to its target: (..., joints).

    Args:
        predictions: (..., joints, dims), array or tensor.
        targets: Same shape.
        align: Whether each pose is aligned first, see `align_poses`.

    Raises:
        ValueError: If shapes differ, or a value is not finite.
    """
    predictions, targets = _as_pair(predictions, targets)
    if align:
        predictions = align_poses(predictions, targets)
    return np.linalg.norm(predictions - targets, axis=-1)


def mpjpe(predictions: Any, targets: Any) -> float:
    """Mean per-joint position error of poses (..., joints, dims); take `root_relative` poses where the metric asks it.

    Raises:
        ValueError: If shapes differ, a value is not finite, or there is no pose.
    """
    return _mean(joint_errors(predictions, targets))


def pa_mpjpe(predictions: Any, targets: Any) -> float:
    """Mean per-joint position error after Procrustes alignment of each pose (..., joints, dims).

    Raises:
        ValueError: If shapes differ, a value is not finite, or there is no pose.
    """
    return _mean(joint_errors(predictions, targets, align=True))


def _mean(errors: np.ndarray) -> float:
    if errors.size == 0:
        raise ValueError("`predictions` must have one pose at least, got none.")
    return float(errors.mean())


def _as_pair(predictions: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    predictions, targets = _as_poses(predictions, "predictions"), _as_poses(targets, "targets")
    if predictions.shape != targets.shape:
        raise ValueError(
            f"`predictions` and `targets` must have the same shape, got {predictions.shape} and {targets.shape}."
        )
    return predictions, targets


def _as_poses(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise ValueError(f"`{name}` must have shape (..., joints, dims), got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values; a model that diverged gives them.")
    return array


__all__ = ["align_poses", "joint_errors", "mpjpe", "pa_mpjpe", "root_relative"]
