"""Rotation formats of SMPL-like poses, in NumPy, on the last axis (the last two of a matrix).

The formulas and their edge cases follow the evaluation code of SmoothNet (arXiv 2112.13715) and DeciWatch (arXiv
2203.08713), so that numbers agree with theirs. One difference: the third axis of a 6D rotation is always a cross product
over the last axis, while the original picks another one for a batch of exactly three rotations.

Formats, all of radians or without unit:

| name | shape | |
| --- | --- | --- |
| `"axis_angle"` | (..., 3) | direction is the axis, length the angle |
| `"quaternion"` | (..., 4) | w, x, y, z; any length but 0 |
| `"matrix"` | (..., 3, 3) | acts on column vectors |
| `"6d"` | (..., 6) | layout `"columns"`: the first two columns, flattened row by row (r00, r01, r10, r11, r20, r21), as in the original; layout `"rows"`: the first two rows (r00, r01, r02, r10, r11, r12), as in PyTorch3D and mmhuman3d |
"""

from typing import Literal

import numpy as np


ROTATION_FORMATS = ("axis_angle", "quaternion", "matrix", "6d")
ROTATION_LAYOUTS = ("columns", "rows")
ROTATION_SHAPES = {"axis_angle": (3,), "quaternion": (4,), "matrix": (3, 3), "6d": (6,)}

# Where quaternion x, y, z and w have their square on the diagonal of `_quaternion_products`.
_W, _X, _Y, _Z = range(4)


def axis_angle_to_quaternion(axis_angle: np.ndarray) -> np.ndarray:
    """(..., 3) to unit quaternions (..., 4), w at least 0 for angles up to pi."""
    angle = np.linalg.norm(axis_angle + 1e-8, axis=-1, keepdims=True)  # the original's way around a division by 0
    axis = np.divide(axis_angle, angle, out=np.zeros_like(axis_angle), where=angle > 0)
    return _unit(np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * axis], axis=-1))


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4) of any length but 0 to (..., 3, 3)."""
    w, x, y, z = np.moveaxis(_unit(quaternion), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) to unit quaternions (..., 4); the largest of the four components that are safe to divide by is positive.

    The case is chosen by the original's thresholds: z z below 1e-6 takes x or y, else w or z.
    """
    diagonal_x, diagonal_y, diagonal_z = (matrix[..., axis, axis] for axis in range(3))
    largest = np.where(
        diagonal_z < 1e-6,
        np.where(diagonal_x > diagonal_y, _X, _Y),
        np.where(diagonal_x < -diagonal_y, _Z, _W),
    )
    products = np.take_along_axis(_quaternion_products(matrix), largest[..., None, None], axis=-2)[..., 0, :]
    square = np.take_along_axis(products, largest[..., None], axis=-1)
    return products / (2 * np.sqrt(square))


def quaternion_to_axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., 4) to (..., 3) with an angle of at most pi; NaN becomes 0."""
    cosine, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.where(cosine < 0, np.arctan2(-sine, -cosine), np.arctan2(sine, cosine))
    factor = np.divide(angle, sine, out=np.full_like(sine, 2), where=sine > 0)
    return np.nan_to_num(vector * factor, nan=0.0)


def matrix_to_rotation_6d(matrix: np.ndarray, layout: Literal["columns", "rows"] = "columns") -> np.ndarray:
    """(..., 3, 3) to (..., 6)."""
    _check_layout(layout)
    two = matrix[..., :, :2] if layout == "columns" else matrix[..., :2, :]
    return two.reshape(*matrix.shape[:-2], 6)


def rotation_6d_to_matrix(rotation: np.ndarray, layout: Literal["columns", "rows"] = "columns") -> np.ndarray:
    """(..., 6) to (..., 3, 3) by Gram-Schmidt: any six numbers, as a network puts them out, become a rotation."""
    _check_layout(layout)
    if layout == "columns":
        first, second = np.moveaxis(rotation.reshape(*rotation.shape[:-1], 3, 2), -1, 0)
    else:
        first, second = rotation[..., :3], rotation[..., 3:]
    first = _unit(first)
    second = _unit(second - (first * second).sum(axis=-1, keepdims=True) * first)
    third = np.cross(first, second, axis=-1)
    return np.stack([first, second, third], axis=-1 if layout == "columns" else -2)


def convert_rotations(
    rotations: np.ndarray, source: str, target: str, layout: Literal["columns", "rows"] = "columns"
) -> np.ndarray:
    """Rotations of one format in another.

    Args:
        rotations: Float array with the trailing shape of `source`, see the table at the top of this module.
        source: `"axis_angle"`, `"quaternion"`, `"matrix"` or `"6d"`.
        target: Likewise.
        layout: Layout of the 6D format.

    Returns:
        Array with the trailing shape of `target` and the float type of `rotations`. A quaternion or axis-angle is one of
        several that mean the same rotation; `continuous_rotations` picks those that go on smoothly in time.

    Raises:
        ValueError: On an unknown format or layout, or a wrong trailing shape.
    """
    for name, value in (("source", source), ("target", target)):
        if value not in ROTATION_FORMATS:
            raise ValueError(f"`{name}` must be one of {ROTATION_FORMATS}, got {value!r}.")
    _check_layout(layout)
    rotations = np.asarray(rotations)
    shape = ROTATION_SHAPES[source]
    if rotations.shape[-len(shape) :] != shape:
        raise ValueError(f"`rotations` must end in the shape {shape} of {source!r}, got {rotations.shape}.")
    if rotations.dtype.kind != "f":
        rotations = rotations.astype(np.float64)
    if source == target:
        return rotations
    if source == "axis_angle" and target == "quaternion":
        return axis_angle_to_quaternion(rotations)
    if source == "quaternion" and target == "axis_angle":
        return quaternion_to_axis_angle(_unit(rotations))
    if source == "axis_angle":
        matrix = quaternion_to_matrix(axis_angle_to_quaternion(rotations))
    elif source == "quaternion":
        matrix = quaternion_to_matrix(rotations)
    else:
        matrix = rotations if source == "matrix" else rotation_6d_to_matrix(rotations, layout)
    if target == "matrix":
        return matrix
    if target == "6d":
        return matrix_to_rotation_6d(matrix, layout)
    quaternion = matrix_to_quaternion(matrix)
    return quaternion if target == "quaternion" else quaternion_to_axis_angle(quaternion)


def continuous_rotations(rotations: np.ndarray, rotation_format: str, first: np.ndarray) -> np.ndarray:
    """Of all numbers that mean the same rotations, those that follow smoothly on each other in time.

    Quaternions q and -q, and axis-angles whose angle differs by full turns, are the same rotation. Matrices and 6D
    rotations are unique and come back as they are.

    Args:
        rotations: (frames, ...) in `rotation_format`.
        rotation_format: See `convert_rotations`.
        first: (...), that to which the first frame shall be near, usually the first pose of the input.
    """
    if rotation_format == "quaternion":
        previous = np.concatenate([first[None], rotations[:-1]])
        signs = np.where((previous * rotations).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
        return rotations * np.cumprod(signs, axis=0).astype(rotations.dtype)
    if rotation_format != "axis_angle":
        return rotations
    rotations, previous = rotations.copy(), first
    for frame, rotation in enumerate(rotations):  # each frame leans on the one before
        angle = np.linalg.norm(rotation, axis=-1, keepdims=True)
        # Where there is next to no rotation the axis is free: the previous one is the nearest.
        axis = _unit(np.where(angle < 1e-6, previous, rotation))
        turns = np.rint(((previous * axis).sum(axis=-1, keepdims=True) - angle) / (2 * np.pi))
        rotations[frame] = rotation + 2 * np.pi * turns * axis
        previous = rotations[frame]
    return rotations


def _quaternion_products(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) to (..., 4, 4): four times the products of the components w, x, y, z of the quaternion."""
    r = np.moveaxis(matrix, (-2, -1), (0, 1))
    xx, yy, zz = r[0, 0], r[1, 1], r[2, 2]
    wx, wy, wz = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    xy, xz, yz = r[1, 0] + r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2]
    rows = (
        (1 + xx + yy + zz, wx, wy, wz),
        (wx, 1 + xx - yy - zz, xy, xz),
        (wy, xy, 1 - xx + yy - zz, yz),
        (wz, xz, yz, 1 - xx - yy + zz),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def _check_layout(layout):
    if layout not in ROTATION_LAYOUTS:
        raise ValueError(f"`layout` must be one of {ROTATION_LAYOUTS}, got {layout!r}.")


__all__ = [
    "ROTATION_FORMATS",
    "ROTATION_LAYOUTS",
    "ROTATION_SHAPES",
    "axis_angle_to_quaternion",
    "continuous_rotations",
    "convert_rotations",
    "matrix_to_quaternion",
    "matrix_to_rotation_6d",
    "quaternion_to_axis_angle",
    "quaternion_to_matrix",
    "rotation_6d_to_matrix",
]
