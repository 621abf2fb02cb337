"""Courses of poses over time: gaps filled, resampled, smoothed, cut to length. NumPy arrays (frames, ...)."""

import numpy as np


def interpolate_missing(poses: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Fill each joint linearly in time between the frames where it was seen, with its nearest pose beyond them.

    Args:
        poses: (frames, joints, dims), anything where missing.
        missing: (frames, joints) bool. A joint that is missing in all frames comes back as it is.
    """
    missing = missing & ~missing.all(axis=0)
    if not missing.any():
        return poses
    num_frames = len(poses)
    frames = np.arange(num_frames)[:, None]
    before = np.maximum.accumulate(np.where(missing, -1, frames), axis=0)
    after = np.minimum.accumulate(np.where(missing, num_frames, frames)[::-1], axis=0)[::-1]
    before, after = np.where(before < 0, after, before), np.where(after == num_frames, before, after)
    before, after = before % num_frames, after % num_frames  # of a joint that is missing everywhere; it is not filled
    weight = ((frames - before) / np.maximum(after - before, 1))[..., None]
    lower, upper = (np.take_along_axis(poses, index[..., None], axis=0) for index in (before, after))
    return np.where(missing[..., None], lower + weight * (upper - lower), poses)


def resample(poses: np.ndarray, step: float, num_frames: int) -> np.ndarray:
    """Poses at the times 0, `step`, ... in frames of `poses`, linearly between them, the last pose beyond the end.

    Args:
        poses: (frames, joints, dims).
        step: New frame distance in old ones.
        num_frames: New length.
    """
    times = np.minimum(np.arange(num_frames) * step, len(poses) - 1)
    before = np.minimum(times.astype(np.int64), max(len(poses) - 2, 0))
    after = np.minimum(before + 1, len(poses) - 1)
    weight = (times - before)[:, None, None]
    return poses[before] + weight * (poses[after] - poses[before])


def smooth_trajectory(values: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Gaussian mean over time of (frames, ...), without lag at the ends, where the course goes on point-symmetrically."""
    radius = min(int(4 * sigma + 0.5), len(values) - 1)
    if radius < 1:
        return values
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padding = [(radius, radius)] + [(0, 0)] * (values.ndim - 1)
    padded = np.pad(values, padding, mode="reflect", reflect_type="odd")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=0)
    return windows @ (weights / weights.sum())


def fit_length(values: np.ndarray, num_frames: int, fill: bool | None = None) -> np.ndarray:
    """The first frames of (frames, ...), lengthened by its last frame or by `fill` where there are too few."""
    extra = num_frames - len(values)
    if extra <= 0:
        return values[:num_frames]
    tail = np.repeat(values[-1:], extra, axis=0)
    return np.concatenate([values, tail if fill is None else np.full_like(tail, fill)])


__all__ = ["fit_length", "interpolate_missing", "resample", "smooth_trajectory"]
