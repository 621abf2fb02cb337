import math

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from safetensors.numpy import load_file

from hvmodels.smoothing.filters import GaussianFilter, OneEuroFilter, SavitzkyGolayFilter, moving_median


FILTERS = {
    "one-euro": OneEuroFilter(),
    "savitzky-golay": SavitzkyGolayFilter(),
    "gaussian": GaussianFilter(),
    "median": GaussianFilter(1.0, median_size=5),
    "blocks": GaussianFilter(1.0, block_size=7),
}


@pytest.fixture
def poses():
    return np.random.default_rng(0).normal(size=(83, 5, 3)).cumsum(axis=0)


ORIGINALS = {
    "filter.gaus1d": GaussianFilter(3, block_size=31),
    "filter.savgol": SavitzkyGolayFilter(31, 2),
    "filter.oneeuro": OneEuroFilter(0.04, 0.7),
    "filter_short.gaus1d": GaussianFilter(3, block_size=31),
    "filter_short.savgol": SavitzkyGolayFilter(31, 2),
    "filter_short.oneeuro": OneEuroFilter(0.04, 0.7),
    "mmpose_filter.gaussian": GaussianFilter(4, median_size=11, median_padding="zero"),
    "mmpose_filter.savgol": SavitzkyGolayFilter(11, 2, short_sequence="pad"),
    "mmpose_filter.oneeuro": OneEuroFilter(0.004, 0.7),
    "mmpose_filter_short.gaussian": GaussianFilter(4, median_size=11, median_padding="zero"),
    "mmpose_filter_short.savgol": SavitzkyGolayFilter(11, 2, short_sequence="pad"),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_same_as_the_originals(fixtures, name):
    values = load_file(fixtures / "smoothnet" / "metrics_filters_rotations" / "io.safetensors")
    expected = values[f"output.{name}"]
    poses = values["input.pred_3d"][: len(expected)]
    assert len(poses) == (70 if "short" not in name else 7 if "mmpose" in name else 9)
    filtered = ORIGINALS[name].filter(poses)
    np.testing.assert_allclose(filtered, expected, atol=1e-6, rtol=0)
    assert filtered.dtype == np.float32 and np.abs(filtered - poses).max() > 0.01


def test_one_euro_goes_on_from_a_state(fixtures):
    values = load_file(fixtures / "smoothnet" / "metrics_filters_rotations" / "io.safetensors")
    poses, one_euro, state, filtered = values["input.pred_3d"], ORIGINALS["mmpose_filter.oneeuro"], None, []
    for start, stop in ((0, 1), (1, 2), (2, 40), (40, 70)):
        part, state = one_euro.filter_from(poses[start:stop], state)
        filtered.append(part)
    expected = values["output.mmpose_filter.oneeuro_streamed"]
    np.testing.assert_allclose(np.concatenate(filtered), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("frame_rate", [None, 25.0, 120.0])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_one_euro_counts_in_seconds(poses, frame_rate, beta):
    """The filter as its paper writes it down, with the time between two frames."""
    interval = 1 / (frame_rate or 1)
    weight = lambda cutoff: 1 / (1 + 1 / (2 * math.pi * cutoff * interval))  # noqa: E731
    expected, speed = [poses[0]], np.zeros_like(poses[0])
    for pose in poses[1:]:
        speed = weight(1.5) * (pose - expected[-1]) / interval + (1 - weight(1.5)) * speed
        weights = weight(0.2 + beta * np.abs(speed))
        expected.append(weights * pose + (1 - weights) * expected[-1])
    filtered = OneEuroFilter(0.2, beta, d_cutoff=1.5, frame_rate=frame_rate).filter(poses)
    np.testing.assert_allclose(filtered, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frames", [1, 2, 9, 10, 11, 40])
@pytest.mark.parametrize(("window", "order"), [(11, 2), (5, 3), (31, 0), (1, 0)])
def test_savitzky_golay_fits_polynomials(poses, frames, window, order):
    poses, size = poses[:frames, :2, 0], min(window, frames)
    expected = []
    for frame in range(frames):
        first = min(max(frame - size // 2, 0), frames - size)
        times = np.arange(first, first + size) - frame
        fits = [Polynomial.fit(times, channel, min(order, size - 1)) for channel in poses[first : first + size].T]
        expected.append([fit(0) for fit in fits])
    np.testing.assert_allclose(SavitzkyGolayFilter(window, order).filter(poses), expected, atol=1e-9)


@pytest.mark.parametrize("frames", [1, 2, 9, 83])
@pytest.mark.parametrize("sigma", [0.5, 2, 4])
def test_gaussian_is_scipys(poses, frames, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    expected = ndimage.gaussian_filter1d(poses[:frames], sigma, axis=0)
    np.testing.assert_allclose(GaussianFilter(sigma).filter(poses[:frames]), expected, atol=1e-9)
    median = ndimage.median_filter(poses[:frames], (9, 1, 1), mode="nearest")
    expected = ndimage.gaussian_filter1d(median, sigma, axis=0)
    np.testing.assert_allclose(GaussianFilter(sigma, median_size=9).filter(poses[:frames]), expected, atol=1e-9)


def test_long_sequences_are_cut_nowhere():
    """Medians and sums are made in parts; whole sequences must not show it."""
    frames = np.random.default_rng(0).normal(size=(1200, 400))
    median = moving_median(frames, 5)
    np.testing.assert_array_equal(median[2:-2], np.median([frames[k : 1196 + k] for k in range(5)], axis=0))
    poses = frames[:, :6].reshape(1200, 3, 2)
    for start in (0, 63, 700):
        part = FILTERS["gaussian"].filter(poses[start : start + 100])
        np.testing.assert_allclose(FILTERS["gaussian"].filter(poses)[start + 10 : start + 90], part[10:90], atol=1e-12)


@pytest.mark.parametrize("name", FILTERS)
def test_every_number_on_its_own(poses, name):
    pose_filter = FILTERS[name]
    filtered = pose_filter.filter(poses)
    assert filtered.shape == poses.shape and filtered.dtype == np.float64
    one = pose_filter.filter(poses[:, 2:3, 1:2])
    np.testing.assert_allclose(one, filtered[:, 2:3, 1:2], atol=1e-12)
    tracks = np.stack([poses, poses[::-1]], axis=1)
    np.testing.assert_allclose(pose_filter.filter(tracks)[:, 1], pose_filter.filter(poses[::-1]), atol=1e-12)
    from_tensor = pose_filter.filter(torch.tensor(poses, dtype=torch.float32, requires_grad=True))
    assert from_tensor.dtype == np.float32
    np.testing.assert_allclose(from_tensor, filtered, atol=1e-5)
    assert pose_filter.filter(np.arange(20).reshape(10, 2, 1)).dtype == np.float64
    still = np.full((50, 2, 2), 3.25)
    np.testing.assert_allclose(pose_filter.filter(still), still, rtol=1e-12)


@pytest.mark.parametrize("name", FILTERS)
def test_poses_that_no_filter_takes(poses, name):
    before = poses.copy()
    FILTERS[name].filter(poses)
    np.testing.assert_array_equal(poses, before)
    for wrong in (np.nan, np.inf):
        broken = poses.copy()
        broken[3, 1, 1] = wrong
        with pytest.raises(ValueError, match="`poses` must be finite"):
            FILTERS[name].filter(broken)
    for wrong in (poses[:0], np.zeros(3)):
        with pytest.raises(ValueError, match="`poses` must have shape"):
            FILTERS[name].filter(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneEuroFilter(min_cutoff=0), "`min_cutoff` must be a positive number"),
        (lambda: OneEuroFilter(beta=-1), "`beta` must be 0 or a positive number"),
        (lambda: OneEuroFilter(d_cutoff=-1), "`d_cutoff` must be"),
        (lambda: OneEuroFilter(frame_rate=0), "`frame_rate` must be"),
        (lambda: SavitzkyGolayFilter(10), "`window_size` must be an odd number"),
        (lambda: SavitzkyGolayFilter(5, 5), "`order` must be from 0 to 4"),
        (lambda: SavitzkyGolayFilter(5, 2, short_sequence="zeros"), "`short_sequence` must be"),
        (lambda: GaussianFilter(0), "`sigma` must be a positive number"),
        (lambda: GaussianFilter(1, median_size=4), "`median_size` must be an odd number"),
        (lambda: GaussianFilter(1, median_padding="reflect"), "`median_padding` must be"),
        (lambda: GaussianFilter(1, block_size=0), "`block_size` must be a positive number"),
        (lambda: GaussianFilter(1, median_size=3, block_size=31), "goes without a median"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
