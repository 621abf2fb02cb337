"""Rotation formats against the original's numbers and against each other."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvmodels.models.pose_sequence.rotations_pose_sequence import (
    ROTATION_FORMATS,
    ROTATION_LAYOUTS,
    ROTATION_SHAPES,
    axis_angle_to_quaternion,
    continuous_rotations,
    convert_rotations,
    matrix_to_quaternion,
    quaternion_to_matrix,
)


@pytest.fixture(scope="module")
def case(fixtures):
    return load_file(fixtures / "smoothnet" / "metrics_filters_rotations" / "io.safetensors")


def random_matrices(count=500):
    quaternions = np.random.default_rng(0).normal(size=(count, 4))
    return quaternion_to_matrix(quaternions)


def about(axis, degrees):
    """Axis-angles about an axis."""
    axis = np.asarray(axis, dtype=np.float64)
    return np.radians(degrees)[..., None] * axis / np.linalg.norm(axis)


# The original


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


def test_three_rotations_are_as_any_number(case):
    """A cross product over the first axis of length 3 would take another one here."""
    noisy = case["input.rot6d_noisy"]
    for part in (noisy[:3], noisy[:9].reshape(3, 3, 6)):
        expected = case["output.rotmat_from_noisy"][: len(part.reshape(-1, 6))]
        np.testing.assert_allclose(convert_rotations(part, "6d", "matrix").reshape(-1, 3, 3), expected, atol=1e-6)


# All ways


@pytest.mark.parametrize("layout", ROTATION_LAYOUTS)
@pytest.mark.parametrize("target", ROTATION_FORMATS)
@pytest.mark.parametrize("source", ROTATION_FORMATS)
def test_all_ways_keep_the_rotation(source, target, layout):
    matrices = random_matrices()
    rotations = convert_rotations(matrices, "matrix", source, layout)
    converted = convert_rotations(rotations.reshape(5, 100, *ROTATION_SHAPES[source]), source, target, layout)
    assert converted.shape == (5, 100, *ROTATION_SHAPES[target])
    again = convert_rotations(converted.reshape(500, *ROTATION_SHAPES[target]), target, "matrix", layout)
    np.testing.assert_allclose(again, matrices, atol=1e-7)


def test_formats_mean_what_they_say():
    """A quarter turn about z takes x to y."""
    quarter = np.array([0, 0, np.pi / 2])
    matrix = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    half = np.sqrt(0.5)
    for target, expected in (
        ("matrix", matrix),
        ("quaternion", [half, 0, 0, half]),
        ("6d", [0, -1, 1, 0, 0, 0]),
    ):
        np.testing.assert_allclose(convert_rotations(quarter, "axis_angle", target), expected, atol=2e-8)
    np.testing.assert_allclose(convert_rotations(matrix, "matrix", "6d", "rows"), [0, -1, 0, 1, 0, 0])


def test_layouts_hold_the_same_rotation_in_other_numbers():
    matrices = random_matrices(10)
    columns, rows = (convert_rotations(matrices, "matrix", "6d", layout) for layout in ROTATION_LAYOUTS)
    np.testing.assert_array_equal(columns, matrices[:, :, :2].reshape(10, 6))
    np.testing.assert_array_equal(rows, matrices[:, :2].reshape(10, 6))
    noise = np.random.default_rng(0).normal(0, 0.3, (10, 6))
    for rotations, layout in ((columns + noise, "columns"), (rows + noise, "rows")):
        matrix = convert_rotations(rotations, "6d", "matrix", layout)
        np.testing.assert_allclose(
            matrix @ matrix.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (10, 3, 3)), atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(matrix), 1)


# Edges


def test_no_rotation():
    zero = np.zeros((2, 3))
    np.testing.assert_allclose(convert_rotations(zero, "axis_angle", "quaternion"), [[1, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(convert_rotations([[1.0, 0, 0, 0]], "quaternion", "axis_angle"), [[0, 0, 0]])
    np.testing.assert_array_equal(convert_rotations(np.eye(3), "matrix", "axis_angle"), [0, 0, 0])


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (-1, 0, 2), (1, -2, 3)], ids=str)
def test_half_turns(axis):
    turn = about(axis, np.array([180.0, 179.9999, 180.0001]))
    matrix = convert_rotations(turn, "axis_angle", "matrix")
    back = convert_rotations(matrix, "matrix", "axis_angle")
    assert np.isfinite(back).all()
    np.testing.assert_allclose(convert_rotations(back, "axis_angle", "matrix"), matrix, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(back, axis=-1), np.pi, atol=1e-5)


def test_tiny_rotations_keep_their_size():
    turns = about((1, 2, 3), np.array([1e-3, 1e-2, 0.1]))
    back = convert_rotations(convert_rotations(turns, "axis_angle", "6d"), "6d", "axis_angle")
    np.testing.assert_allclose(back, turns, atol=3e-8)


def test_quaternions_of_any_length_and_sign():
    quaternion = np.array([0.2, -0.5, 0.1, 0.8])
    expected = quaternion_to_matrix(quaternion)
    for factor in (-1, 7, 1e-3):
        np.testing.assert_allclose(quaternion_to_matrix(factor * quaternion), expected, atol=1e-12)
        axis_angle = convert_rotations(factor * quaternion, "quaternion", "axis_angle")
        np.testing.assert_allclose(convert_rotations(axis_angle, "axis_angle", "matrix"), expected, atol=1e-7)


def test_all_four_cases_of_the_quaternion():
    for component in range(4):
        quaternion = np.full(4, 0.1)
        quaternion[component] = 1
        quaternion /= np.linalg.norm(quaternion)
        np.testing.assert_allclose(matrix_to_quaternion(quaternion_to_matrix(quaternion)), quaternion, atol=1e-12)


# Continuity


def test_quaternions_stay_on_one_side():
    course = axis_angle_to_quaternion(about((1, 2, 2), np.linspace(100, 500, 60)))
    flipped = course * np.where(np.arange(60) % 3 == 1, -1, 1)[:, None]
    np.testing.assert_allclose(continuous_rotations(flipped, "quaternion", course[0]), course)
    np.testing.assert_allclose(continuous_rotations(flipped, "quaternion", -course[0]), -course)


def test_axis_angles_go_on_beyond_half_a_turn():
    course = np.stack(
        [about((0, 1, 0), np.linspace(100, 900, 120)), about((1, 2, -2), np.linspace(-20, -700, 120))], 1
    )
    wrapped = convert_rotations(convert_rotations(course, "axis_angle", "6d"), "6d", "axis_angle")
    assert np.abs(np.diff(wrapped, axis=0)).max() > 3
    np.testing.assert_allclose(continuous_rotations(wrapped, "axis_angle", course[0]), course, atol=1e-6)


def test_continuity_does_not_change_the_rotation():
    rotations = np.random.default_rng(0).normal(0, 2, (50, 4, 3))
    same = continuous_rotations(rotations, "axis_angle", rotations[0])
    np.testing.assert_allclose(*(convert_rotations(r, "axis_angle", "matrix") for r in (same, rotations)), atol=1e-6)
    for rotation_format in ("matrix", "6d"):
        rotations = convert_rotations(same, "axis_angle", rotation_format)
        assert continuous_rotations(rotations, rotation_format, rotations[0]) is rotations


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), "euler", "6d"), "`source` must be one of"),
        ((np.eye(3), "matrix", "euler"), "`target` must be one of"),
        ((np.eye(3), "matrix", "6d", "flat"), "`layout` must be one of"),
        ((np.eye(4), "matrix", "6d"), r"must end in the shape \(3, 3\) of 'matrix', got \(4, 4\)"),
        ((np.ones(3), "quaternion", "6d"), r"must end in the shape \(4,\)"),
        ((1.0, "axis_angle", "6d"), r"must end in the shape \(3,\)"),
    ],
    ids=["source", "target", "layout", "matrix", "quaternion", "number"],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert_rotations(*arguments)
