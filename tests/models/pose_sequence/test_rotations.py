"""Rotation formats against the original's numbers and against each other."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvmodels.models.pose_sequence.rotations_pose_sequence import (
    convert_rotations,
)


@pytest.fixture(scope="module")
def case(fixtures):
    return load_file(fixtures / "smoothnet" / "metrics_filters_rotations" / "io.safetensors")


def test_axis_angle_to_6d_is_the_original(case):
    rotations = convert_rotations(case["input.axis_angle"], "axis_angle", "6d")
    assert rotations.dtype == np.float32
    np.testing.assert_allclose(rotations, case["output.rot6d_torch"], atol=1e-6)
    np.testing.assert_allclose(rotations, case["output.rot6d_numpy"], atol=1e-6)


def test_network_output_to_axis_angle_is_the_original(case):
    noisy = case["input.rot6d_noisy"]
    np.testing.assert_allclose(convert_rotations(noisy, "6d", "matrix"), case["output.rotmat_from_noisy"], atol=1e-6)
    np.testing.assert_allclose(
        convert_rotations(noisy, "6d", "axis_angle"), case["output.axis_angle_from_noisy"], atol=1e-5
    )


def test_round_trip_is_the_original(case):
    rotations = convert_rotations(case["output.rot6d_torch"], "6d", "axis_angle")
    np.testing.assert_allclose(rotations, case["output.axis_angle_roundtrip"], atol=1e-5)
