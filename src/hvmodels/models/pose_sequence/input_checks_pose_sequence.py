"""Reading and checking what users give to the feature extractors of pose sequences."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from .rotations_pose_sequence import ROTATION_SHAPES, convert_rotations


# Extents of a person, in the unit, between which a unit can be told without being declared.
PERSON_EXTENT = {"metre": (0.5, 3.0), "millimetre": (500.0, 3000.0)}
# Extents which a declared unit cannot have, whatever part of a body is meant.
POSSIBLE_EXTENT = {"metre": (0.005, 50.0), "millimetre": (5.0, 50000.0)}


def is_number(value: Any) -> bool:
    """Whether this is one finite real number."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def is_integer(value: Any) -> bool:
    """Whether this is one whole number, of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def positive_rate(name: str, value: Any) -> float:
    """A frame rate as a float; ValueError unless positive and finite."""
    if not is_number(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive number of frames a second, or None, got {value!r}.")
    return float(value)


def joint_names(names: Any) -> list[str] | None:
    """A list of names, None for None; ValueError unless they are strings, each once."""
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"`keypoint_names` must be a list of different names, or None, got {names!r}.")
    return list(names)


def index_list(name: str, indices: Any) -> list[int] | None:
    """A list of integers, None for None; ValueError if it is empty or has others than integers of at least 0."""
    if indices is None:
        return None
    values = np.asarray(to_numpy(indices))
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu" or values.min() < 0:
        raise ValueError(f"`{name}` must be a list of integers of at least 0, got {indices!r}.")
    return values.tolist()


def is_flat(values: Any) -> bool:
    """Whether these are plain numbers, not a list or dict of lists."""
    return not isinstance(values, Mapping) and (
        not hasattr(values, "__len__") or len(values) == 0 or np.ndim(values[0]) == 0
    )


def to_numpy(values: Any) -> Any:
    """A tensor of any device as an array, float16 and bfloat16 as float32; anything else as it is."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.dtype.is_floating_point and values.dtype.itemsize < 4 else values).numpy()
    return values


def number_array(values: Any, name: str) -> np.ndarray:
    """Float64 array, NaN where a masked array is masked; TypeError unless it is rectangular and of real numbers."""
    try:
        array = np.asarray(to_numpy(values))
    except ValueError as error:
        raise TypeError(f"{name} must be a rectangular array of numbers: {error}") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must be an array of real numbers, got {type(values).__name__} of dtype {array.dtype}."
        )
    numbers = array.astype(np.float64)
    if np.ma.isMaskedArray(values):
        numbers[np.ma.getmaskarray(values)] = np.nan
    return numbers


def pose_array(poses: Any, rotation_format: str | None, name: str) -> np.ndarray:
    """Float64 poses of one track, as they came in; ValueError unless the shape is that of the format."""
    array = number_array(poses, name)
    trailing = ROTATION_SHAPES.get(rotation_format, ("dims",))
    expected = f"(frames, joints, {', '.join(map(str, trailing))})"
    if array.ndim != 2 + len(trailing):
        hint = ""
        if array.ndim == 2 and name != "`poses`":
            hint = "; a list is a list of tracks: stack the frames of one track, e.g. by `numpy.stack(frames)`"
        elif array.ndim == 2:
            hint = "; reshape flat poses to one row a joint"
        elif array.ndim == 4 and rotation_format is None:
            hint = "; pass several tracks as a list, rotation matrices with `rotation_format='matrix'`"
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}{hint}.")
    if 0 in array.shape[:2]:
        raise ValueError(f"{name} must have at least one frame and one joint, got shape {array.shape}.")
    if rotation_format is not None and array.shape[2:] != trailing:
        raise ValueError(
            f"{name} must have shape {expected} for `rotation_format` {rotation_format!r}, got {array.shape}."
        )
    if rotation_format is None and array.shape[-1] not in (2, 3, 6):
        hint = " Quaternions need `rotation_format='quaternion'`." if array.shape[-1] == 4 else ""
        raise ValueError(
            f"{name} must have 2 (image), 3 (space) or 6 (rotation) numbers a joint, got {array.shape[-1]}; pass "
            f"confidences as `scores`.{hint}"
        )
    return array


def track_keys(poses: Any, track_ids: Any, name: str = "poses") -> tuple[list, list]:
    """Keys of the tracks in the argument `name` for messages, and ids for results."""
    if isinstance(poses, Mapping):
        if track_ids is not None:
            raise ValueError("`track_ids` belong to a list of tracks; a dict of tracks has its own.")
        keys = ids = list(poses)
    elif isinstance(poses, list | tuple):
        keys = list(range(len(poses)))
        ids = [None] * len(poses) if track_ids is None else list(track_ids)
    else:
        keys, ids = [0], [None] if track_ids is None else list(track_ids)
    if not keys:
        raise ValueError(f"`{name}` must hold at least one track, got none.")
    if track_ids is not None and len(ids) != len(keys):
        raise ValueError(f"`track_ids` must have one id for each of the {len(keys)} tracks, got {len(ids)}.")
    if track_ids is not None and len(set(ids)) < len(ids):
        raise ValueError(f"`track_ids` must be different, got {ids}; join the pieces of a track first.")
    return keys, ids


def per_track(name: str, values: Any, keys: list, of: str = "poses") -> list:
    """Values in the order of the tracks of the argument `of`, from a list or dict."""
    if isinstance(values, Mapping):
        if set(values) != set(keys):
            raise ValueError(f"`{name}` must have the tracks of `{of}`, {keys}, got {list(values)}.")
        return [values[key] for key in keys]
    if not isinstance(values, Sequence | np.ndarray) or len(values) != len(keys):
        count = len(values) if hasattr(values, "__len__") else type(values).__name__
        raise ValueError(
            f"`{name}` must be a list or dict with one entry for each of the {len(keys)} tracks, got {count}."
        )
    return list(values)


def check_rotations(poses: np.ndarray, seen: np.ndarray, rotation_format: str, layout: str, name: str):
    """ValueError if a seen joint has numbers that mean no rotation."""
    if rotation_format == "quaternion":
        fine = np.linalg.norm(poses, axis=-1) > 1e-6
        expected = "quaternions longer than 0"
    else:
        matrix = convert_rotations(np.nan_to_num(poses), rotation_format, "matrix", layout)
        fine = (np.abs(matrix @ matrix.swapaxes(-1, -2) - np.eye(3)) < 0.01).all((-1, -2))
        fine &= np.linalg.det(matrix) > 0
        expected = "rotation matrices, orthonormal with determinant 1"
        if rotation_format == "6d":
            expected = "6D rotations, two vectors that are not parallel"
    if not (fine | ~seen).all():
        frame, joint = np.argwhere(~fine & seen)[0]
        raise ValueError(f"{name} must be {expected}; frame {frame}, joint {joint} is none: mark it as NaN.")


def _seen_values(arrays: list[np.ndarray], seen: list[np.ndarray]) -> np.ndarray:
    """(n, dims) of all joints that the input has."""
    return np.concatenate([array[visible] for array, visible in zip(arrays, seen, strict=True)])


def person_extent(arrays: list[np.ndarray], seen: list[np.ndarray]) -> float:
    """Median over all frames of the largest side of the box around the seen joints; 0 if no frame shows two joints."""
    extents = []
    for array, visible in zip(arrays, seen, strict=True):
        high = np.where(visible[..., None], array, -np.inf).max(axis=1)
        low = np.where(visible[..., None], array, np.inf).min(axis=1)
        several = visible.sum(axis=1) > 1
        extents.append((high[several] - low[several]).max(axis=-1))
    extents = np.concatenate(extents)
    return float(np.median(extents)) if extents.size else 0.0


def check_third_number(arrays: list[np.ndarray], seen: list[np.ndarray]):
    """ValueError if 3D poses look like 2D ones with their scores."""
    values = _seen_values(arrays, seen)
    if not len(values):
        return
    third = values[:, 2]
    if third.min() >= 0 and third.max() <= 1 and np.ptp(values[:, :2], axis=0).max() > 20:
        raise ValueError(
            "`poses` must have x, y, z, but the third number lies within [0, 1] while x and y extend over more than 20, as "
            "in (x, y, score); pass `poses[..., :2]` and the scores as `scores`."
        )


def infer_unit(extent: float) -> str:
    """`"metre"` or `"millimetre"`, by the extent of a person; ValueError if it is that of neither."""
    for unit, (low, high) in PERSON_EXTENT.items():
        if low <= extent <= high:
            return unit
    raise ValueError(
        f"`unit` cannot be told from the poses: they extend over {extent:.4g}, while a person extends over 0.5 to 3 metres "
        "or 500 to 3000 millimetres; pass `unit='metre'` or `unit='millimetre'`, or convert the poses first."
    )


def check_pixels(arrays: list[np.ndarray], seen: list[np.ndarray], name: str = "poses"):
    """ValueError if 2D poses cannot be in pixels."""
    largest = np.abs(_seen_values(arrays, seen)).max(initial=0)
    if 0 < largest <= 2:  # joints beyond the edge of the picture go a little beyond 1
        raise ValueError(
            f"`{name}` must be in pixels, got values within [-{largest:.3g}, {largest:.3g}], which look normalised "
            "already; multiply them by the image size first."
        )


def check_inside(arrays: list[np.ndarray], seen: list[np.ndarray], size: np.ndarray, name: str = "poses"):
    """ValueError if 2D poses are far from the picture of that (width, height)."""
    values = _seen_values(arrays, seen)
    middle = np.median(values, axis=0) if len(values) else size / 2
    if (middle < -0.5 * size).any() or (middle > 1.5 * size).any():
        raise ValueError(
            f"`{name}` must lie in the picture of `image_size` = (width, height) = {tuple(size.tolist())}, but their middle is "
            f"{tuple(middle.round(1).tolist())}; check the size and that poses are in its pixels."
        )


def checked_image_size(image_size: Any) -> np.ndarray:
    """(width, height) as float64; ValueError unless it is two positive numbers."""
    if image_size is None:
        raise ValueError(
            "`image_size` = (width, height) in pixels must be given: the checkpoint reads 2D poses normalised by it."
        )
    try:
        size = np.asarray(to_numpy(image_size), dtype=np.float64)
    except (TypeError, ValueError):
        size = np.empty(0)
    if size.shape != (2,) or not np.isfinite(size).all() or (size <= 0).any():
        raise ValueError(f"`image_size` must be (width, height) in pixels, both positive, got {image_size!r}.")
    return size


__all__ = [
    "POSSIBLE_EXTENT",
    "check_inside",
    "check_pixels",
    "check_rotations",
    "check_third_number",
    "checked_image_size",
    "index_list",
    "infer_unit",
    "is_flat",
    "is_integer",
    "is_number",
    "joint_names",
    "number_array",
    "per_track",
    "person_extent",
    "pose_array",
    "positive_rate",
    "to_numpy",
    "track_keys",
]
