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
            value = np.asarray(value, dtype=np.float32)
            if value.shape != shapes[name] or not np.isfinite(value).all():
                raise ValueError(f"`{name}` must be finite numbers of shape {shapes[name]}, got {value.tolist()}.")
            object.__setattr__(self, name, value)
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


def _points(values: Any, dims: int) -> np.ndarray:
    array = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != dims:
        raise ValueError(f"Points must have shape (..., {dims}), got {array.shape}.")
    return array


__all__ = ["PinholeCamera", "image_coordinates", "normalize_screen_coordinates"]
