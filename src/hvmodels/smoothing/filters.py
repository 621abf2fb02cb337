"""Plain filters of pose sequences in NumPy: One-Euro, Savitzky-Golay, Gaussian, median and Gaussian.

Each has `filter(poses)` for a whole sequence (frames, ..., dims), of which every number is filtered in time on its own, and
the figures that `hvmodels.smoothing.streaming.PoseStream` needs to run it frame by frame:

* `lookahead`: how many frames after one its result may depend on;
* `history`: how many frames before it.

The defaults are what we would use. SmoothNet's repository and mmpose (its branch 0.x), with which SmoothNet was
compared, set them as follows; both are reproduced to 1e-6, also on sequences shorter than the window.

| | SmoothNet's repository | mmpose |
| --- | --- | --- |
| One-Euro | `OneEuroFilter(0.04, 0.7)` | `OneEuroFilter(0.004, 0.7)` |
| Savitzky-Golay | `SavitzkyGolayFilter(31, 2)` | `SavitzkyGolayFilter(11, 2, short_sequence="pad")` |
| Gaussian | `GaussianFilter(3, block_size=31)` | `GaussianFilter(4, median_size=11, median_padding="zero")` |
"""

import math
from typing import Any, Literal

import numpy as np


# What NumPy calls the ways to continue a sequence beyond its ends.
MEDIAN_PADDING = {"edge": "edge", "mirror": "symmetric", "zero": "constant"}


class OneEuroFilter:
    """One-Euro filter (Casiez, Roussel and Vogel, CHI 2012): a low pass whose cutoff grows with the speed.

    Causal, so that it needs no later frame; slow motion is smoothed the most. The first frame stays as it is.

    Args:
        min_cutoff: Cutoff at rest, in Hz, or in cycles per frame without `frame_rate`. Smaller smooths more.
        beta: Growth of the cutoff with the speed, in units of the poses a second (a frame). Larger lags less. Its unit is
            the inverse of that of the poses: a value for metres is too large by a thousand for millimetres.
        d_cutoff: Cutoff for the speed itself.
        frame_rate: Frames a second. None counts in frames, as the ports do.

    Raises:
        ValueError: If a number is not positive (`beta`: negative).
    """

    lookahead = 0
    history = None

    def __init__(
        self, min_cutoff: float = 0.04, beta: float = 0.7, d_cutoff: float = 1.0, frame_rate: float | None = None
    ):
        _check_positive("min_cutoff", min_cutoff)
        _check_positive("d_cutoff", d_cutoff)
        if not (beta >= 0 and math.isfinite(beta)):
            raise ValueError(f"`beta` must be 0 or a positive number, got {beta!r}.")
        if frame_rate is not None:
            _check_positive("frame_rate", frame_rate)
        self.min_cutoff, self.beta, self.d_cutoff, self.frame_rate = min_cutoff, beta, d_cutoff, frame_rate

    def filter(self, poses: Any) -> np.ndarray:
        """The filtered sequence, see `filter_from`."""
        return self.filter_from(poses, None)[0]

    def filter_from(
        self, poses: Any, state: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The filtered sequence, and the state to go on from.

        Args:
            poses: (frames, ..., dims), array or tensor.
            state: Of the frames before, None for none.

        Raises:
            ValueError: If there is no frame, or a value is not finite.
        """
        poses = _as_sequence(poses)
        # With the filtered speed d, the new value is x - (x - x') / (1 + r), r = 2 pi (min_cutoff + beta |d|) / rate and x'
        # the last filtered one. In units in which r grows by |d| seven operations on a frame are left. A beta of 0 is
        # replaced by one that no sum notices.
        rate = self.frame_rate or 1.0
        ratio = 2 * math.pi * self.d_cutoff / rate
        unit = 2 * math.pi * max(self.beta, 1e-30) * ratio / (ratio + 1)
        frames = np.multiply(poses.reshape(len(poses), -1), unit, dtype=np.float64)
        size = frames.shape[1]
        keep = np.full(size, 1 / (ratio + 1))
        at_rest = np.full(size, 1 + 2 * math.pi * self.min_cutoff / rate)
        if state is None:
            previous, speed, later = frames[0], np.zeros(size), frames[1:]
        else:
            previous, speed, later = state[0].reshape(-1) * unit, state[1].reshape(-1).copy(), frames
        step, divisor = np.empty(size), np.empty(size)
        subtract, multiply, add, divide, absolute = np.subtract, np.multiply, np.add, np.divide, np.absolute
        for current in later:
            subtract(current, previous, step)
            multiply(speed, keep, speed)
            add(speed, step, speed)
            absolute(speed, divisor)
            add(divisor, at_rest, divisor)
            divide(step, divisor, step)
            subtract(current, step, current)  # in place
            previous = current
        filtered = np.empty(poses.shape, poses.dtype)
        np.divide(frames, unit, out=filtered.reshape(frames.shape), casting="same_kind")
        return filtered, (frames[-1].reshape(poses.shape[1:]) / unit, speed.reshape(poses.shape[1:]))


class SavitzkyGolayFilter:
    """Each value by a polynomial fitted to the frames around it; at the ends, to the first and the last window.

    Args:
        window_size: Odd number of frames.
        order: Of the polynomial, less than the window.
        short_sequence: What to do with fewer frames than the window: "shrink" the window to all of them (and the order), or
            "pad" the front with the first frame.

    Raises:
        ValueError: If the window is even, or the order too large.
    """

    def __init__(self, window_size: int = 11, order: int = 2, short_sequence: Literal["shrink", "pad"] = "shrink"):
        _check_odd("window_size", window_size)
        if not 0 <= order < window_size:
            raise ValueError(f"`order` must be from 0 to {window_size - 1}, less than `window_size`, got {order!r}.")
        if short_sequence not in ("shrink", "pad"):
            raise ValueError(f'`short_sequence` must be "shrink" or "pad", got {short_sequence!r}.')
        self.window_size, self.order, self.short_sequence = window_size, order, short_sequence

    @property
    def lookahead(self) -> int:
        """Half a window; but the first half of a sequence depends on the whole first window."""
        return self.window_size - 1

    history = lookahead

    def filter(self, poses: Any) -> np.ndarray:
        """The filtered sequence.

        Args:
            poses: (frames, ..., dims), array or tensor.

        Raises:
            ValueError: If there is no frame, or a value is not finite.
        """
        poses = _as_sequence(poses)
        length, window = len(poses), self.window_size
        frames = poses.reshape(length, -1).astype(np.float64)
        if length < window and self.short_sequence == "pad":
            frames = np.concatenate([np.repeat(frames[:1], window - length, axis=0), frames])
        window = min(window, len(frames))  # even only if it is the whole sequence
        half = window // 2
        powers = np.linspace(-1, 1, window)[:, None] ** np.arange(min(self.order, window - 1) + 1)
        fit = powers @ np.linalg.pinv(powers)  # row k gives the polynomial's value at frame k of the window
        start, middle, end = (
            fit[:half] @ frames[:window],
            correlate(frames, fit[half]),
            fit[half + 1 :] @ frames[-window:],
        )
        return np.concatenate([start, middle, end])[-length:].reshape(poses.shape).astype(poses.dtype)


class GaussianFilter:
    """Weighted mean in time, on request after a median, which takes out single wild frames.

    Args:
        sigma: Standard deviation of the weights in frames; they end at four times that. Sequences are mirrored at their
            ends.
        median_size: Odd number of frames of the median; 1 for none.
        median_padding: What the median sees beyond the ends: the "edge" frame again, the sequence in the "mirror", as the
            weights do, or "zero" as mmpose has it, which then
            also lengthens sequences shorter than the median by their first frame.
        block_size: Filter disjoint blocks of so many frames (one less if even) on their own, and leave the frames after
            the last whole one as they are, as SmoothNet's repository has it. None for the whole sequence at once.

    Raises:
        ValueError: If a number is not positive, or the size of the median even.
    """

    def __init__(
        self,
        sigma: float = 2.0,
        median_size: int = 1,
        median_padding: Literal["edge", "mirror", "zero"] = "edge",
        block_size: int | None = None,
    ):
        _check_positive("sigma", sigma)
        _check_odd("median_size", median_size)
        if median_padding not in MEDIAN_PADDING:
            raise ValueError(f"`median_padding` must be one of {list(MEDIAN_PADDING)}, got {median_padding!r}.")
        if block_size is not None and (block_size < 1 or median_size > 1):
            raise ValueError(
                f"`block_size` must be a positive number of frames, and goes without a median, got {block_size!r} and "
                f"`median_size` {median_size}."
            )
        self.sigma, self.median_size, self.median_padding, self.block_size = (
            sigma,
            median_size,
            median_padding,
            block_size,
        )

    @property
    def lookahead(self) -> int | None:
        """Reach of the weights and of the median; None for blocks, whose place in the sequence counts."""
        return None if self.block_size else int(4 * self.sigma + 0.5) + self.median_size // 2

    history = lookahead

    def filter(self, poses: Any) -> np.ndarray:
        """The filtered sequence.

        Args:
            poses: (frames, ..., dims), array or tensor.

        Raises:
            ValueError: If there is no frame, or a value is not finite.
        """
        poses = _as_sequence(poses)
        frames = poses.reshape(len(poses), -1).astype(np.float64)
        if self.block_size is not None:
            size = min(self.block_size - 1 + self.block_size % 2, len(frames))
            whole = len(frames) // size * size
            blocks = frames[:whole].reshape(-1, size, frames.shape[1]).swapaxes(0, 1).reshape(size, -1)
            blocks = gaussian_mean(blocks, self.sigma).reshape(size, -1, frames.shape[1]).swapaxes(0, 1)
            filtered = np.concatenate([blocks.reshape(whole, -1), frames[whole:]])
        else:
            if self.median_size > 1:
                missing = self.median_size - len(frames) if self.median_padding == "zero" else 0
                frames = np.concatenate([np.repeat(frames[:1], max(missing, 0), axis=0), frames])
                frames = moving_median(frames, self.median_size, self.median_padding)
            filtered = gaussian_mean(frames, self.sigma)[-len(poses) :]
        return filtered.reshape(poses.shape).astype(poses.dtype)


def correlate(frames: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of `len(weights)` frames in a row: (frames - weights + 1, channels) of (frames, channels)."""
    count, size = len(frames) - len(weights) + 1, len(weights)
    block = 64  # sums at once, as a product of matrices
    matrix = np.zeros((block, block + size - 1))
    for row in range(block):
        matrix[row, row : row + size] = weights
    sums = np.empty((count, frames.shape[1]))
    for start in range(0, count, block):
        rows = min(block, count - start)
        np.matmul(
            matrix[:rows, : rows + size - 1], frames[start : start + rows + size - 1], out=sums[start : start + rows]
        )
    return sums


def gaussian_mean(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean in time of (frames, channels), mirrored at the ends, up to four standard deviations away."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    return correlate(np.pad(frames, ((reach, reach), (0, 0)), mode="symmetric"), weights / weights.sum())


def moving_median(frames: np.ndarray, size: int, padding: str = "edge") -> np.ndarray:
    """Median in time of (frames, channels) over an odd number of frames; see `GaussianFilter` for the ends."""
    half = size // 2
    padded = np.pad(frames, ((half, half), (0, 0)), mode=MEDIAN_PADDING[padding])
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)
    chunk = max(2**20 // (size * frames.shape[1]), 1)  # a few megabytes of copies at once
    parts = [np.partition(windows[start : start + chunk], half)[..., half] for start in range(0, len(frames), chunk)]
    return np.concatenate(parts)


def _as_sequence(poses: Any) -> np.ndarray:
    """(frames, ..., dims) of a float type."""
    poses = poses.detach().cpu().numpy() if hasattr(poses, "detach") else np.asarray(poses)
    if poses.ndim < 2 or 0 in poses.shape:
        raise ValueError(f"`poses` must have shape (frames, joints, dims) and one frame at least, got {poses.shape}.")
    poses = poses if np.issubdtype(poses.dtype, np.floating) else poses.astype(np.float64)
    if not np.isfinite(poses).all():
        raise ValueError(
            "`poses` must be finite, got NaN or infinite values; fill missing joints first, as the feature extractors of "
            "pose sequences do."
        )
    return poses


def _check_positive(name: str, value: float):
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be a positive number, got {value!r}.")


def _check_odd(name: str, value: int):
    if value < 1 or value % 2 != 1:
        raise ValueError(f"`{name}` must be an odd number of frames, got {value!r}.")


__all__ = ["GaussianFilter", "OneEuroFilter", "SavitzkyGolayFilter", "correlate", "gaussian_mean", "moving_median"]
