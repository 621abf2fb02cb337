"""Pinhole cameras: from world to camera to picture, and back; coordinates of pictures that do not go by their size."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PinholeCamera:
    """A camera without distortion: x to the right, y down, z away from the camera.

    A point of the world is at `rotation @ (point - position)` in the camera's frame, and a point (X, Y, Z) of that at
    `focal_length * (X, Y) / Z + principal_point` in the picture. Values are kept as float32, as Human3.6M's code does;
    arithmetic is float64.

    Args:
        focal_length: (2,) or a number, pixels.
        principal_point: (2,), pixels.
        rotation: (3, 3), rows are the camera's axes in the world; None where points are in the camera's frame already.
        position: (3,) of the camera in the world, in the unit of the points; None for the origin.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, or a focal length is not positive.
    """

    focal_length: np.ndarray
    principal_point: np.ndarray
    rotation: np.ndarray | None = None
    position: np.ndarray | None = None

    def __post_init__(self):
        focal_length = np.asarray(self.focal_length, dtype=np.float32)
        focal_length = np.broadcast_to(focal_length, (2,)) if focal_length.ndim == 0 else focal_length
        values = {
            "focal_length": focal_length,
            "principal_point": self.principal_point,
            "rotation": np.eye(3) if self.rotation is None else self.rotation,
            "position": np.zeros(3) if self.position is None else self.position,
        }
        shapes = {"focal_length": (2,), "principal_point": (2,), "rotation": (3, 3), "position": (3,)}
        for name, value in values.items():
            object.__setattr__(self, name, _parameters(name, value, shapes[name]))
        if not (self.focal_length > 0).all():
            raise ValueError(f"`focal_length` must be positive, got {self.focal_length.tolist()}.")

    def to_camera(self, points: Any) -> np.ndarray:
        """Points of the world (..., 3) in the camera's frame."""
        return (_points(points, 3) - self.position) @ self.rotation.T.astype(np.float64)

    def to_world(self, points: Any) -> np.ndarray:
        """Points of the camera's frame (..., 3) in the world."""
        return _points(points, 3) @ self.rotation.astype(np.float64) + self.position

    def project(self, points: Any) -> np.ndarray:
        """Places (..., 2) in the picture, in pixels, of points (..., 3) in the camera's frame.

        Raises:
            ValueError: If a point is not in front of the camera.
        """
        points = _points(points, 3)
        if not (points[..., 2] > 0).all():
            raise ValueError("`points` must be in front of the camera (z above 0); are they in its frame?")
        # The small number is Human3.6M's convention.
        return points[..., :2] / (points[..., 2:] + 1e-8) * self.focal_length + self.principal_point

    def unproject(self, pixels: Any, depths: Any) -> np.ndarray:
        """Points (..., 3) in the camera's frame, at `depths` (...) from the camera, that are seen at `pixels` (..., 2)."""
        pixels, depths = _points(pixels, 2), np.asarray(depths, dtype=np.float64)[..., None]
        plane = (pixels - self.principal_point) / self.focal_length * depths
        return np.concatenate([plane, np.broadcast_to(depths, (*plane.shape[:-1], 1))], axis=-1)


@dataclass(frozen=True)
class DistortedCamera(PinholeCamera):
    """A camera whose lens distorts as Human3.6M's do, see `project_human36m`.

    Args:
        focal_length: As for `PinholeCamera`, like the next three.
        principal_point: (2,), pixels.
        rotation: (3, 3).
        position: (3,).
        radial_distortion: (3,) coefficients of the square of the distance from the axis, and its powers.
        tangential_distortion: (2,) coefficients.

    Raises:
        ValueError: As for `PinholeCamera`.
    """

    radial_distortion: np.ndarray = (0.0, 0.0, 0.0)
    tangential_distortion: np.ndarray = (0.0, 0.0)

    def __post_init__(self):
        super().__post_init__()
        for name, shape in (("radial_distortion", (3,)), ("tangential_distortion", (2,))):
            object.__setattr__(self, name, _parameters(name, getattr(self, name), shape))

    @property
    def intrinsics(self) -> np.ndarray:
        """(9,) as for `project_human36m`, pixels."""
        parts = (self.focal_length, self.principal_point, self.radial_distortion, self.tangential_distortion)
        return np.concatenate(parts).astype(np.float64)

    def project(self, points: Any) -> np.ndarray:
        """Places (..., 2) in the picture, in pixels, of points (..., 3) in the camera's frame.

        Raises:
            ValueError: If a point is not in front of the camera.
        """
        points = _points(points, 3)
        if not (points[..., 2] > 0).all():
            raise ValueError("`points` must be in front of the camera (z above 0); are they in its frame?")
        return project_human36m(points[None], self.intrinsics[None])[0]

    def unproject(self, pixels: Any, depths: Any) -> np.ndarray:
        """Points (..., 3) in the camera's frame, at `depths` (...) from the camera, that are seen at `pixels` (..., 2).

        Raises:
            ValueError: If pixels lie so far out that the lens' coefficients do not tell what is seen there.
        """
        seen = (_points(pixels, 2) - self.principal_point) / self.focal_length
        radial, tangential = self.intrinsics[4:7], self.intrinsics[7:]
        plane = seen
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(50):  # each step leaves less than half of the error, within the pictures of usual lenses
                plane = plane + seen - _distort(plane, radial, tangential)
            lost = np.isfinite(seen) & ~(np.abs(_distort(plane, radial, tangential) - seen) < 1e-6)
        if lost.any():
            raise ValueError(
                f"`pixels` must be where the lens can show something; {int(lost.any(axis=-1).sum())} of them are too far from the "
                "middle of the picture."
            )
        depths = np.asarray(depths, dtype=np.float64)[..., None]
        plane = plane * depths
        return np.concatenate([plane, np.broadcast_to(depths, (*plane.shape[:-1], 1))], axis=-1)


def normalize_screen_coordinates(keypoints: Any, image_size: Any) -> Any:
    """Pixels as shares of the picture's width: x from -1 to 1, y at the same scale, the picture's middle at 0.

    Args:
        keypoints: (..., 2) pixels, array or tensor.
        image_size: (width, height) in pixels, or an array or tensor (..., 2) that broadcasts with the keypoints.

    Returns:
        As VideoPose3D has it, `x / width * 2 - 1` and `y / width * 2 - height / width`.
    """
    size = image_size if hasattr(image_size, "dtype") else np.asarray(image_size, dtype=np.float64)
    return keypoints / size[..., :1] * 2 - size / size[..., :1]


def image_coordinates(keypoints: Any, image_size: Any) -> Any:
    """The way back from `normalize_screen_coordinates` to pixels."""
    size = image_size if hasattr(image_size, "dtype") else np.asarray(image_size, dtype=np.float64)
    return (keypoints + size / size[..., :1]) * size[..., :1] / 2


def project_human36m(points: Any, intrinsics: Any, distort: bool = True) -> Any:
    """Human3.6M's projection with the distortion of a lens, for batches of cameras; arrays, or tensors with gradients.

    X/Z and Y/Z are cut to ±1 first, as its code does.

    Args:
        points: (batch, ..., 3) in the camera's frame, z away from it.
        intrinsics: (batch, 9): focal length and principal point of x and y, three radial and two tangential coefficients. In
            pixels, or normalised by the picture's width, which the result is then too.
        distort: Whether the lens distorts.

    Returns:
        (batch, ..., 2) places in the picture.

    Raises:
        ValueError: If shapes do not fit.
    """
    if intrinsics.ndim != 2 or intrinsics.shape[1] != 9 or points.shape[-1] != 3 or len(points) != len(intrinsics):
        raise ValueError(
            "`points` and `intrinsics` must have shapes (batch, ..., 3) and (batch, 9), got "
            f"{tuple(points.shape)} and {tuple(intrinsics.shape)}."
        )
    intrinsics = intrinsics.reshape(len(points), *[1] * (points.ndim - 2), 9)
    plane = (points[..., :2] / points[..., 2:]).clip(-1, 1)
    if distort:
        plane = _distort(plane, intrinsics[..., 4:7], intrinsics[..., 7:])
    return plane * intrinsics[..., :2] + intrinsics[..., 2:4]


def _distort(plane: Any, radial: Any, tangential: Any) -> Any:
    """Where a lens puts points of the plane at distance 1."""
    squared = (plane * plane).sum(-1)[..., None]
    stretch = 1 + squared * (radial[..., :1] + squared * (radial[..., 1:2] + squared * radial[..., 2:]))
    return plane * (stretch + (plane * tangential).sum(-1)[..., None]) + tangential * squared


def _parameters(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    value = np.asarray(value, dtype=np.float32)
    if value.shape != shape or not np.isfinite(value).all():
        raise ValueError(f"`{name}` must be finite numbers of shape {shape}, got {value.tolist()}.")
    return value


def _points(values: Any, dims: int) -> np.ndarray:
    array = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != dims:
        raise ValueError(f"Points must have shape (..., {dims}), got {array.shape}.")
    return array


__all__ = [
    "DistortedCamera",
    "PinholeCamera",
    "image_coordinates",
    "normalize_screen_coordinates",
    "project_human36m",
]
