import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hvmodels.models.pose_sequence.windows_pose_sequence import (
    count_windows,
    overlap_average,
    resize_sequence,
    take_windows,
    window_starts,
)


CASES = [
    (10, 4, 1, "keep"),
    (10, 4, 3, "keep"),
    (11, 4, 3, "keep"),
    (11, 4, 3, "drop"),
    (4, 4, 3, "drop"),
    (9, 3, 5, "keep"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((6, 4), [0, 1, 2]),
        ((10, 4, 3), [0, 3, 6]),
        ((11, 4, 3), [0, 3, 6, 7]),
        ((11, 4, 3, "drop"), [0, 3, 6]),
        ((4, 4, 9), [0]),
    ],
)
def test_window_starts(arguments, expected):
    assert window_starts(*arguments) == expected


@pytest.mark.parametrize("arguments", [(3, 4), (4, 4, 0), (4, 0)])
def test_window_starts_refuses(arguments):
    with pytest.raises(ValueError, match="`length` must be at least `window_size`"):
        window_starts(*arguments)


@pytest.mark.parametrize("case", CASES)
def test_windows_and_their_mean(case):
    length, window_size = case[:2]
    starts = window_starts(*case)
    sequence = torch.randn(length, 5, 2)
    windows = take_windows(sequence, starts, window_size)
    assert torch.equal(windows, torch.stack([sequence[start : start + window_size] for start in starts]))
    windows = torch.randn(windows.shape)
    covering = [[] for _ in range(length)]
    for start, window in zip(starts, windows, strict=True):
        for offset, pose in enumerate(window):
            covering[start + offset].append(pose)
    expected = torch.stack([torch.stack(poses).mean(0) if poses else torch.zeros(5, 2) for poses in covering])
    assert_close(overlap_average(windows, starts, length), expected)
    assert count_windows(starts, window_size, length).tolist() == [len(poses) for poses in covering]


def test_evenly_spaced_windows_are_a_view():
    sequence = torch.randn(12, 3)
    assert take_windows(sequence, window_starts(12, 4, 2), 4).data_ptr() == sequence.data_ptr()


def test_mean_in_half_precision_is_summed_in_float32():
    windows = torch.full((64, 1, 1), 1000.0, dtype=torch.float16)  # the sum overflows float16
    assert overlap_average(windows, [0] * 64, 1).item() == 1000


def test_mean_has_gradients():
    windows = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda windows: overlap_average(windows, [0, 2, 3], 7), windows)


def test_resize_sequence():
    sequence = torch.arange(6.0).view(3, 2)
    assert torch.equal(resize_sequence(sequence, 2), sequence[:2])
    np.testing.assert_array_equal(resize_sequence(sequence, 5)[3:], [[4, 5], [4, 5]])
    assert not resize_sequence(sequence, 5, "zeros")[3:].any()
