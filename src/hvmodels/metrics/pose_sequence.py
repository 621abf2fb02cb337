"""Errors of poses and of sequences of them: MPJPE, PA-MPJPE, N-MPJPE, MPJVE, acceleration error, MPVPE, PCK.

MPJPE and, after the best similarity transform of each pose, PA-MPJPE are means over poses and joints of Euclidean
distances, in the unit of the poses (millimetres by custom). They hold for any number of leading dimensions (frames,
persons) and for 2-D poses as well. The transform is that of each single pose whatever the number of frames, where the
evaluation of SmoothNet and DeciWatch takes joints for axes if a sequence has exactly 2 or 3 frames.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .keypoints import percentage_of_correct_keypoints


def root_relative(poses: Any, root_index: int | Sequence[int] = 0) -> np.ndarray:
    """Poses (..., joints, dims) with one joint, or the mean of several, in the origin.

    Raises:
        ValueError: If there is no such joint, or a value is not finite.
    """
    poses = _as_poses(poses, "poses")
    roots = [root_index] if isinstance(root_index, int | np.integer) else list(root_index)
    if not roots or not all(0 <= root < poses.shape[-2] for root in roots):
        raise ValueError(f"`root_index` must be one or more of the {poses.shape[-2]} joints, got {root_index!r}.")
    return poses - poses[..., roots, :].mean(axis=-2, keepdims=True)


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
    is_pose = ~_is_point(predictions)[..., None, None]
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


def scale_poses(predictions: Any, targets: Any) -> np.ndarray:
    """Each predicted pose as large as fits its target best, neither moved nor turned; take `root_relative` poses.

    Args:
        predictions: (..., joints, dims), array or tensor.
        targets: Same shape.

    Returns:
        The scaled predictions, float64; one whose joints are all in the origin stays there.

    Raises:
        ValueError: If shapes differ, or a value is not finite.
    """
    predictions, targets = _as_pair(predictions, targets)
    products = (predictions * targets).sum(axis=(-1, -2), keepdims=True)
    squares = np.square(predictions).sum(axis=(-1, -2), keepdims=True)
    return predictions * np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)


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


def n_mpjpe(predictions: Any, targets: Any) -> float:
    """Mean per-joint position error after each pose (..., joints, dims) was scaled, see `scale_poses`.

    Raises:
        ValueError: If shapes differ, a value is not finite, or there is no pose.
    """
    return _mean(joint_errors(scale_poses(predictions, targets), targets))


def weighted_mpjpe(predictions: Any, targets: Any, weights: Any) -> float:
    """Mean over poses and joints of the position error times a weight, as VideoPose3D measures trajectories.

    Args:
        predictions: (..., joints, dims), array or tensor.
        targets: Same shape.
        weights: Shape that broadcasts to (..., joints); for a trajectory one over the depth. They are not divided by their sum.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or there is no pose.
    """
    errors = joint_errors(predictions, targets)
    weights = np.asarray(weights.detach().cpu().double() if hasattr(weights, "detach") else weights, dtype=np.float64)
    if not np.isfinite(weights).all():
        raise ValueError("`weights` must be finite, got NaN or infinite values.")
    try:
        weights = np.broadcast_to(weights, errors.shape)
    except ValueError:
        raise ValueError(
            f"`weights` must broadcast to the shape {errors.shape} of the joints' errors, got {weights.shape}."
        ) from None
    return _mean(weights * errors)


def hardest_mpjpe(predictions: Any, targets: Any, share: float = 0.05) -> float:
    """MPJPE of the hardest poses (..., joints, dims): those with the largest errors, so many of all, one at least.

    Args:
        predictions: (..., joints, dims), array or tensor.
        targets: Same shape.
        share: Of the poses, rounded up to a whole number of them.

    Raises:
        ValueError: If `share` is not in (0, 1], shapes differ, a value is not finite, or there is no pose.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1], got {share!r}.")
    errors = joint_errors(predictions, targets).mean(axis=-1).ravel()
    # Rounded first, so that 5 % of 40 poses are 2, whatever 0.05 is in binary.
    count = math.ceil(round(share * errors.size, 9))
    return _mean(np.sort(errors)[errors.size - count :])


def mean_over_actions(errors: Any, actions: Sequence[Any]) -> float:
    """Mean over the actions of the mean error of each, so that a long recording weighs as much as a short one.

    Args:
        errors: (poses,) or (poses, ...), such as `joint_errors`.
        actions: Name or number of each pose's action.

    Raises:
        ValueError: If numbers differ, or there is no pose.
    """
    errors, actions = np.asarray(errors, dtype=np.float64), np.asarray(actions)
    if errors.ndim == 0 or actions.shape != errors.shape[:1]:
        raise ValueError(
            f"`actions` must be one for each of the poses of `errors` {errors.shape}, got shape {actions.shape}."
        )
    return _mean(np.array([errors[actions == action].mean() for action in np.unique(actions)]))


def mpvpe(predictions: Any, targets: Any) -> float:
    """Mean per-vertex position error of meshes (..., vertices, 3), as they stand: no root is taken off.

    Raises:
        ValueError: If shapes differ, a value is not finite, or there is no mesh.
    """
    return _mean(joint_errors(predictions, targets))


def velocity_errors(predictions: Any, targets: Any) -> np.ndarray:
    """Length of the difference of velocities, the first differences in time: (..., frames - 1, joints), unit per frame.

    Args:
        predictions: (..., frames, joints, dims), array or tensor.
        targets: Same shape.

    Raises:
        ValueError: If shapes differ, or a value is not finite.
    """
    return _difference_errors(predictions, targets, 1)


def mpjve(predictions: Any, targets: Any) -> float:
    """Mean per-joint velocity error of one sequence (..., frames, joints, dims), see `velocity_errors`.

    Raises:
        ValueError: If shapes differ, a value is not finite, or there are not two frames.
    """
    return _mean(velocity_errors(predictions, targets))


def acceleration_errors(predictions: Any, targets: Any) -> np.ndarray:
    """Length of the difference of accelerations, the second differences in time: (..., frames - 2, joints).

    In the unit of the poses per frame squared; times the square of the frame rate, per second squared.

    Args:
        predictions: (..., frames, joints, dims), array or tensor.
        targets: Same shape.

    Raises:
        ValueError: If shapes differ, or a value is not finite.
    """
    return _difference_errors(predictions, targets, 2)


def acceleration_error(predictions: Any, targets: Any, zero_ends: bool = False) -> float:
    """Mean acceleration error of a sequence (..., frames, joints, dims), see `acceleration_errors`.

    Args:
        predictions: (..., frames, joints, dims), array or tensor.
        targets: Same shape.
        zero_ends: Whether the first and the last frame count with an error of 0, as SmoothNet's evaluation has it: the
            mean is over all frames. Else it is over the frames between, as DeciWatch and most others have it.

    Raises:
        ValueError: If shapes differ, a value is not finite, or no frame counts.
    """
    return _mean(_acceleration_by_frame(predictions, targets, zero_ends))


def sequence_pck(
    predictions: Sequence[Any], targets: Sequence[Any], boxes: Sequence[Any], threshold: float = 0.2
) -> float:
    """PCK of sequences: share of joints nearer to their place than a part of the longer side of the person's box.

    The mean over joints and sequences of the share of a joint in a sequence: a long sequence weighs as much as a short
    one. As Sub-JHMDB is evaluated.

    Args:
        predictions: Arrays (frames, joints, 2), pixels.
        targets: Same shapes.
        boxes: Arrays (frames, 4), x0, y0, x1, y1 in pixels. Four zeros mark a frame of padding, as the originals score
            short sequences: there only a joint at its very place is right.
        threshold: Largest distance that is right, as a share of the longer side.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, a box is empty, or there is no sequence.
    """
    _check_sequences(predictions=predictions, targets=targets, boxes=boxes)
    shares = []
    for predicted, true, corners in zip(predictions, targets, boxes, strict=True):
        predicted, true = _as_pair(predicted, true)
        corners = np.asarray(corners, dtype=np.float64)
        if corners.shape != (len(predicted), 4):
            raise ValueError(f"`boxes` must have shape ({len(predicted)}, 4), one a frame, got {corners.shape}.")
        sizes = (corners[:, 2:] - corners[:, :2]).max(axis=-1)
        sizes[~corners.any(axis=-1)] = np.finfo(sizes.dtype).tiny
        labelled = np.ones(predicted.shape[:2])
        shares.append(percentage_of_correct_keypoints(predicted, true, labelled, sizes, threshold, per_keypoint=True))
    return float(np.mean(shares))


def summarize_pose_sequences(
    predictions: Sequence[Any],
    targets: Sequence[Any],
    inputs: Sequence[Any] | None = None,
    *,
    root_index: int | Sequence[int] | None = 0,
    zero_ends: bool = False,
    sample_interval: int | None = None,
) -> dict[str, float]:
    """The figures of SmoothNet's and DeciWatch's evaluation over a data set, in the unit of the poses.

    Means are over all frames of all sequences. Predicted poses whose joints are all one point have no best transform and
    are left out of PA-MPJPE. The hardest frames, `_top1`, are the hundredth (one at least) with the largest MPJPE of the
    inputs, of the predictions where no inputs are given.

    Args:
        predictions: Arrays (frames, joints, dims) of each sequence, refined poses.
        targets: Same shapes.
        inputs: Same shapes, the poses before they were refined.
        root_index: Joint, or joints whose mean, each pose is relative to; None for poses as they stand, as in 2-D.
        zero_ends: Convention of the acceleration error, see `acceleration_error`.
        sample_interval: DeciWatch's; every so many frames a pose was there. Gives the relative figures, with `inputs`.

    Returns:
        `MPJPE`, `PA-MPJPE`, `ACCEL`, `MPJPE_top1` and, with `zero_ends`, `ACCEL_top1`. With inputs also the same of the
        inputs as `input_...`; with `sample_interval` `relative_MPJPE` and `relative_PA-MPJPE`, the mean over sequences of
        the error minus that of the inputs at the frames that had one.

    Raises:
        ValueError: If numbers of sequences or shapes differ, a value is not finite, or there is no frame.
    """
    lists = {"predictions": predictions, "targets": targets} | ({} if inputs is None else {"inputs": inputs})
    _check_sequences(**lists)
    if sample_interval is not None and (inputs is None or sample_interval < 1):
        raise ValueError(f"`sample_interval` must be a positive number, and needs `inputs`, got {sample_interval!r}.")

    def relative(poses: Any) -> Any:
        return poses if root_index is None else root_relative(poses, root_index)

    true = [relative(poses) for poses in targets]
    errors = {
        prefix: [
            _errors_by_frame(relative(poses), target, zero_ends)
            for poses, target in zip(lists[name], true, strict=True)
        ]
        for prefix, name in (("input_", "inputs"), ("", "predictions"))
        if name in lists
    }
    hardness = np.concatenate([by_frame["MPJPE"] for by_frame in next(iter(errors.values()))])
    hardest = np.argsort(hardness, kind="stable")[min(int(0.99 * len(hardness)), len(hardness) - 1) :]
    result = {}
    for prefix, sequences in errors.items():
        for metric in ("MPJPE", "PA-MPJPE", "ACCEL"):
            values = np.concatenate([by_frame[metric] for by_frame in sequences])
            result[prefix + metric] = _mean_of_known(values)
            if metric == "MPJPE" or (metric == "ACCEL" and zero_ends):
                result[f"{prefix}{metric}_top1"] = float(values[hardest].mean())
    if sample_interval is not None:
        for metric in ("MPJPE", "PA-MPJPE"):
            differences = [
                _mean_of_known(after[metric]) - _mean_of_known(before[metric][::sample_interval])
                for before, after in zip(errors["input_"], errors[""], strict=True)
            ]
            result[f"relative_{metric}"] = float(np.mean(differences))
    return result


def _errors_by_frame(predictions: Any, targets: Any, zero_ends: bool) -> dict[str, np.ndarray]:
    predictions, targets = _as_pair(predictions, targets)
    aligned = joint_errors(predictions, targets, align=True).mean(axis=-1)
    return {
        "MPJPE": joint_errors(predictions, targets).mean(axis=-1),
        "PA-MPJPE": np.where(_is_point(predictions), np.nan, aligned),
        "ACCEL": _acceleration_by_frame(predictions, targets, zero_ends),
    }


def _acceleration_by_frame(predictions: Any, targets: Any, zero_ends: bool) -> np.ndarray:
    errors = acceleration_errors(predictions, targets).mean(axis=-1)
    if zero_ends:
        frames = np.shape(predictions)[-3]
        padded = np.zeros((*errors.shape[:-1], frames))
        padded[..., 1 : frames - 1] = errors
        errors = padded
    return errors


def _is_point(poses: np.ndarray) -> np.ndarray:
    """(...,) whether the joints of a pose (..., joints, dims) are all in one place, up to rounding."""
    size = np.abs(poses - poses.mean(axis=-2, keepdims=True)).max(axis=(-1, -2))
    return size <= 4 * np.finfo(np.float64).eps * np.abs(poses).max(axis=(-1, -2))


def _check_sequences(**lists: Sequence[Any]):
    (name, first), *others = lists.items()
    if not len(first):
        raise ValueError(f"`{name}` must be a list of one or more sequences, got none.")
    for other, sequences in others:
        if len(sequences) != len(first):
            raise ValueError(f"`{other}` must have {len(first)} sequences, as `{name}` has, got {len(sequences)}.")


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _difference_errors(predictions: Any, targets: Any, order: int) -> np.ndarray:
    """Length of the difference of the differences in time of this order: (..., frames - order, joints)."""
    predictions, targets = _as_pair(predictions, targets)
    if predictions.ndim < 3:
        raise ValueError(f"`predictions` must have shape (..., frames, joints, dims), got {predictions.shape}.")
    return np.linalg.norm(np.diff(predictions - targets, n=order, axis=-3), axis=-1)


def _mean(errors: np.ndarray) -> float:
    if errors.size == 0:
        raise ValueError(
            "`predictions` must have one pose at least, a velocity two, an acceleration three frames, got none."
        )
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


__all__ = [
    "acceleration_error",
    "acceleration_errors",
    "align_poses",
    "hardest_mpjpe",
    "joint_errors",
    "mean_over_actions",
    "mpjpe",
    "mpjve",
    "mpvpe",
    "n_mpjpe",
    "pa_mpjpe",
    "root_relative",
    "scale_poses",
    "sequence_pck",
    "summarize_pose_sequences",
    "velocity_errors",
    "weighted_mpjpe",
]
