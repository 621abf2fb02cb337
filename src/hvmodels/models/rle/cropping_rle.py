"""Geometry of top-down pose estimation by RLE: boxes to crops, keypoints to training targets, and both ways back.

The conventions are those of the original (github.com/Jeff-sjtu/res-loglikelihood-regression, arXiv 2107.11291): the pixel
with index 0 has its value at coordinate 0, a crop is scaled by its width alone, and coordinates are relative to the crop,
0 at its centre and +-0.5 at its edges. A crop is cut out in the fixed-point bilinear arithmetic of OpenCV up to version 4,
to the last bit: positions are rounded to 1/32 pixel, and what lies outside the image is 0. OpenCV 5 and other libraries
interpolate in floating point, which changes crops by up to 4 grey levels and keypoints by less than 0.1 pixel.

Deliberate differences from the original: matrices are computed in closed form in float64 (there from three points in
float32, by which about one value in a thousand of a crop differs by a grey level or two), a box whose centre has x = -1
is padded as every other, and keypoints without label may be NaN: they get the target 0 with weight 0.
"""

from collections.abc import Sequence

import numpy as np


# Adds up bilinear sums of three channels at once: a sum of 8-bit values with weights that add up to 1024 has 18 bits.
_CHANNEL_BITS = 21
_BORDER = 2


def boxes_to_center_scale(
    boxes: np.ndarray, aspect_ratio: float, padding: float = 1.25
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes in pixels, each (boxes, 2) float32, of the padded crops around boxes.

    Args:
        boxes: (boxes, 4) corners x, y, x, y.
        aspect_ratio: Width by height of the crops; the shorter side of a box grows to reach it.
        padding: Factor of both sides; 1.25, but 1.0 for the original's boxes of Human3.6M.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    centers = boxes[:, :2] + 0.5 * np.stack([width, height], axis=1)
    scales = np.stack([np.maximum(width, aspect_ratio * height), np.maximum(height, width / aspect_ratio)], axis=1)
    return centers.astype(np.float32), scales.astype(np.float32) * np.float32(padding)


def center_scale_to_boxes(centers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Corners x, y, x, y of crops, (boxes, 4) float32."""
    centers, scales = np.asarray(centers, dtype=np.float32), np.asarray(scales, dtype=np.float32)
    return np.concatenate([centers - 0.5 * scales, centers + 0.5 * scales], axis=-1)


def clip_ground_truth_boxes(boxes: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Annotated boxes as the original takes them: one pixel narrower and lower, and clipped to the image.

    Boxes of a detector are not clipped and keep their size.

    Args:
        boxes: (boxes, 4) x, y, width, height.
        image_size: (height, width).

    Returns:
        (boxes, 4) corners x, y, x, y float64, and (boxes,) whether a box has an area after the clipping.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    height, width = image_size
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + np.maximum(boxes[:, 2:] - 1, 0)], axis=1)
    corners = np.clip(corners, 0, np.array([width - 1, height - 1, width - 1, height - 1]))
    return corners, (corners[:, 2:] > corners[:, :2]).all(axis=1)


def crop_matrices(
    centers: np.ndarray, scales: np.ndarray, rotations: Sequence[float] | np.ndarray | None, size: tuple[int, int]
) -> np.ndarray:
    """Affine maps from pixels of the image to pixels of the crop, (crops, 2, 3) float64.

    Args:
        centers: (crops, 2), which becomes the middle of the crop.
        scales: (crops, 2), of which the width alone counts.
        rotations: (crops,) degrees by which the crop's frame is turned from x towards y; None turns nothing.
        size: (height, width) of the crops.
    """
    height, width = size
    centers = np.asarray(centers, dtype=np.float64).reshape(-1, 2)
    factors = width / np.asarray(scales, dtype=np.float64).reshape(-1, 2)[:, 0]
    angles = np.zeros(len(centers)) if rotations is None else np.deg2rad(np.asarray(rotations, dtype=np.float64))
    cosines, sines = factors * np.cos(angles), factors * np.sin(angles)
    linear = np.stack([np.stack([cosines, sines], axis=-1), np.stack([-sines, cosines], axis=-1)], axis=-2)
    translation = np.array([width / 2, height / 2]) - np.einsum("nij,nj->ni", linear, centers)
    return np.concatenate([linear, translation[:, :, None]], axis=2)


def transform_points(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Points (crops, keypoints, 2) mapped by the matrix of their crop."""
    return points @ matrices[:, :, :2].swapaxes(1, 2) + matrices[:, None, :, 2]


def _invert(matrices: np.ndarray) -> np.ndarray:
    """The inverse maps, in the order of operations of OpenCV."""
    (a, b, x), (c, d, y) = np.moveaxis(matrices, 0, -1)
    determinant = 1 / (a * d - b * c)
    a, b, c, d = d * determinant, -b * determinant, -c * determinant, a * determinant
    return np.stack([np.stack([a, b, -a * x - b * y], axis=-1), np.stack([c, d, -c * x - d * y], axis=-1)], axis=1)


def _find_region(inverses: np.ndarray, size: tuple[int, int], image_size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the image that any crop looks at."""
    height, width = size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
    points = transform_points(np.broadcast_to(corners, (len(inverses), 4, 2)), inverses).reshape(-1, 2)
    limits = np.array(image_size[::-1], dtype=np.float64)
    first = np.clip(np.floor(points.min(axis=0)) - 1, 0, limits).astype(int)
    last = np.clip(np.ceil(points.max(axis=0)) + 2, 0, limits).astype(int)
    return slice(first[1], last[1]), slice(first[0], last[0])


def _pack(image: np.ndarray) -> np.ndarray:
    """(height, width, 3) as one integer a pixel, with a border of zeros."""
    height, width, _ = image.shape
    packed = np.zeros((height + 2 * _BORDER, width + 2 * _BORDER), dtype=np.int64)
    inner = packed[_BORDER : _BORDER + height, _BORDER : _BORDER + width]
    inner[...] = image[..., 2]
    for channel in (1, 0):
        inner <<= _CHANNEL_BITS
        inner |= image[..., channel]
    return packed


def _unpack(sums: np.ndarray, out: np.ndarray):
    """Sums with weights that add up to 1024, rounded into (3, height, width) uint8."""
    sums += 512 * (1 + (1 << _CHANNEL_BITS) + (1 << 2 * _CHANNEL_BITS))
    sums >>= 10
    for channel in range(3):
        out[channel] = sums  # keeps the lowest 8 bits
        sums >>= _CHANNEL_BITS


def _to_fixed(positions: np.ndarray) -> np.ndarray:
    return np.rint(1024 * positions).astype(np.int64)


def _split(positions: np.ndarray, first: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Index into a packed axis, of which pixel `first` of the image is the start, and 32nds of the pixel after it."""
    positions = positions >> 5
    return np.clip((positions >> 5) - first, -_BORDER, length) + _BORDER, positions & 31


def _warp_upright(packed: np.ndarray, inverse: np.ndarray, first: tuple[int, int], out: np.ndarray):
    """Rows and columns one after the other, which is exact as nothing is rounded between them."""
    height, width = out.shape[1:]
    rows, row_weights = _split(
        _to_fixed(inverse[1, 1] * np.arange(height) + inverse[1, 2]) + 16, first[0], packed.shape[0] - 2 * _BORDER
    )
    columns, column_weights = _split(
        _to_fixed(inverse[0, 2]) + 16 + _to_fixed(inverse[0, 0] * np.arange(width)),
        first[1],
        packed.shape[1] - 2 * _BORDER,
    )
    start = columns[0]
    packed, columns = packed[:, start : columns[-1] + 2], columns - start
    sums = packed[rows]
    sums *= (32 - row_weights)[:, None]
    below = packed[rows + 1]
    below *= row_weights[:, None]
    sums += below
    left, right = np.take(sums, columns, axis=1, mode="clip"), np.take(sums, columns + 1, axis=1, mode="clip")
    left *= 32 - column_weights
    right *= column_weights
    left += right
    _unpack(left, out)


def _warp_rotated(packed: np.ndarray, inverse: np.ndarray, first: tuple[int, int], out: np.ndarray):
    rows, columns = np.arange(out.shape[1], dtype=np.float64)[:, None], np.arange(out.shape[2], dtype=np.float64)
    (y, y_weights), (x, x_weights) = (
        _split(
            _to_fixed(inverse[axis, 1] * rows + inverse[axis, 2]) + 16 + _to_fixed(inverse[axis, 0] * columns),
            first[1 - axis],
            packed.shape[1 - axis] - 2 * _BORDER,
        )
        for axis in (1, 0)
    )
    pixels, stride = packed.reshape(-1), packed.shape[1]
    index = y * stride + x
    top = pixels[index] * (32 - x_weights) + pixels[index + 1] * x_weights
    index += stride
    bottom = pixels[index] * (32 - x_weights) + pixels[index + 1] * x_weights
    _unpack(top * (32 - y_weights) + bottom * y_weights, out)


def warp_crops(image: np.ndarray, matrices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops of one image.

    Args:
        image: (height, width, 3) uint8.
        matrices: (crops, 2, 3) from pixels of the image to pixels of the crops, see `crop_matrices`.
        size: (height, width) of the crops.

    Returns:
        (crops, height, width, 3) uint8, in memory with the channels before height and width.

    Raises:
        ValueError: If `image` is no RGB image of 8 bits a channel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"`image` must have shape (height, width, 3) and type uint8, got {image.shape} and {image.dtype}."
        )
    inverses = _invert(np.asarray(matrices, dtype=np.float64).reshape(-1, 2, 3))
    crops = np.empty((len(inverses), 3, *size), dtype=np.uint8)
    if len(inverses):
        rows, columns = _find_region(inverses, size, image.shape[:2])
        packed = _pack(image[rows, columns])
        for inverse, crop in zip(inverses, crops, strict=True):
            warp = _warp_upright if inverse[0, 1] == 0 == inverse[1, 0] else _warp_rotated
            warp(packed, inverse, (rows.start, columns.start), crop)
    return np.moveaxis(crops, 1, -1)


def encode_keypoints(
    keypoints: np.ndarray,
    visibility: np.ndarray,
    matrices: np.ndarray,
    size: tuple[int, int],
    depth_scale: float = 2000.0,
    drop_outside: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Training targets and their weights, each (crops, keypoints, 2 or 3) float32.

    Args:
        keypoints: (crops, keypoints, 2 or 3) x, y in pixels of the image and the depth behind the root in mm. What has
            visibility 0 may be NaN.
        visibility: (crops, keypoints) or, a coordinate each, (crops, keypoints, 2 or 3); what is above 0 is labelled.
        matrices: (crops, 2, 3) from pixels of the image to pixels of the crop.
        size: (height, width) of the crops.
        depth_scale: Millimetres that become the target 1.
        drop_outside: Whether a keypoint outside the crop gets weight 0. None is as the original: in 3-D only. In 2-D
            the crop ends at the coordinate of its last pixel, the rule of mmpose; in 3-D at +-0.5 in all
            three targets, labelled or not, the rule of the original.

    Raises:
        ValueError: If a labelled coordinate is not finite.
    """
    keypoints, visibility = np.asarray(keypoints, dtype=np.float64), np.asarray(visibility)
    if visibility.ndim == 2:
        visibility = visibility[:, :, None]
    labelled = np.broadcast_to(visibility > 0, keypoints.shape)
    if not np.isfinite(keypoints[labelled]).all():
        raise ValueError(
            "`keypoints` must hold finite coordinates where `visibility` is above 0, got NaN or infinity; set the "
            "visibility of unlabelled keypoints to 0."
        )
    keypoints = np.where(labelled | np.isfinite(keypoints), keypoints, 0)
    height, width = size
    pixels = transform_points(keypoints[..., :2], matrices)
    targets = np.concatenate([pixels / (width, height) - 0.5, keypoints[..., 2:] / depth_scale], axis=-1)
    has_depth = keypoints.shape[-1] == 3
    if drop_outside or (drop_outside is None and has_depth):
        inside = np.abs(targets) <= 0.5 if has_depth else (pixels >= 0) & (pixels <= (width - 1, height - 1))
        labelled = labelled & inside.all(axis=-1, keepdims=True)
    return np.where(labelled, targets, 0).astype(np.float32), labelled.astype(np.float32)


def decode_keypoints(keypoints: np.ndarray, crop_boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keypoints in pixels of the image, float64; a third coordinate stays as it is.

    Args:
        keypoints: (crops, keypoints, 2 or 3) relative to the crop: 0 at its centre, +-0.5 at its edges.
        crop_boxes: (crops, 4) corners of the crops, see `center_scale_to_boxes`.
        size: (height, width) of the crops.
    """
    keypoints, boxes = np.array(keypoints, dtype=np.float64), np.asarray(crop_boxes, dtype=np.float64)
    height, width = size
    widths = boxes[:, 2] - boxes[:, 0]
    factors = widths[:, None] * np.array([1, height / width])
    centers = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    keypoints[..., :2] = keypoints[..., :2] * factors[:, None] + centers[:, None]
    return keypoints


def instance_scores(keypoint_scores: np.ndarray, box_scores: np.ndarray | None = None) -> np.ndarray:
    """Scores of persons (persons,) that rank them: mean and greatest of the keypoints' scores, plus the box's.

    Args:
        keypoint_scores: (persons, keypoints).
        box_scores: (persons,) scores of a detector; None for annotated boxes.
    """
    keypoint_scores = np.asarray(keypoint_scores)
    scores = keypoint_scores.mean(axis=1) + keypoint_scores.max(axis=1)
    return scores if box_scores is None else scores + np.asarray(box_scores)
