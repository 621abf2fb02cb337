"""Attention maps as the original draws them, in the arithmetic of OpenCV on 8-bit images; OpenCV is not needed."""

import numpy as np


# OpenCV's kernel of 7 values for 8-bit images, as 256ths.
GAUSSIAN_7 = np.array([8, 28, 56, 72, 56, 28, 8])
CUBIC_A = -0.75


def blur(image: np.ndarray) -> np.ndarray:
    """Gaussian blur of 7 x 7 pixels, mirrored at the border without repeating the outermost pixel.

    Args:
        image: (height, width) uint8.
    """
    sums = image.astype(np.int64)
    for axis in range(2):
        length = sums.shape[axis]
        positions = np.arange(-3, length + 3)
        if length > 1:  # mirror as often as a map of less than 4 pixels asks for
            positions = np.abs((positions + length - 1) % (2 * length - 2) - (length - 1))
        padded = sums.take(positions * (length > 1), axis)
        sums = sum(weight * padded.take(range(index, index + length), axis) for index, weight in enumerate(GAUSSIAN_7))
    return ((sums + (1 << 15)) >> 16).astype(np.uint8)


def _cubic_weights(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights, each (target, 4), of the pixels that make a pixel."""
    positions = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(positions).astype(np.int64)
    # Distance to each of the four pixels; the inner two lie within 1.
    distances = np.abs((positions - first)[:, None] - np.arange(-1, 3))
    inner = ((CUBIC_A + 2) * distances - (CUBIC_A + 3)) * distances**2 + 1
    outer = ((CUBIC_A * distances - 5 * CUBIC_A) * distances + 8 * CUBIC_A) * distances - 4 * CUBIC_A
    indices = np.clip(first[:, None] + np.arange(-1, 3), 0, source - 1)
    return indices, np.where(distances <= 1, inner, outer)


def resize_cubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic resize without antialiasing, to whole numbers.

    Args:
        image: (height, width) uint8.
        size: (height, width) of the result.
    """
    columns, column_weights = _cubic_weights(image.shape[1], size[1])
    rows, row_weights = _cubic_weights(image.shape[0], size[0])
    wide = (image[:, columns] * column_weights).sum(-1)
    return np.clip(np.rint((wide[rows] * row_weights[:, :, None]).sum(1)), 0, 255).astype(np.uint8)


def resize_nearest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize, rounding positions down.

    Args:
        image: (height, width).
        size: (height, width) of the result.
    """
    rows, columns = (
        # The reciprocal, as OpenCV takes it: `source / target` can round to the other side of a whole number.
        np.minimum(np.floor(np.arange(target) * (1 / (target / source))).astype(np.int64), source - 1)
        for source, target in zip(image.shape, size, strict=True)
    )
    return image[rows][:, columns]


def draw_map(scores: np.ndarray, size: tuple[int, int], stretch: bool) -> np.ndarray:
    """A map as a picture: stretched to 8 bits, blurred, enlarged, and stretched again.

    Args:
        scores: (h, w) float32.
        size: (height, width) of the picture.
        stretch: Whether the picture's smallest value becomes 0 at the end, beside the largest that becomes 255.

    Returns:
        (height, width) float32 from 0 to 255; 0 all over for a constant map.
    """
    scores = scores - scores.min()
    if scores.max() > 0:
        scores = scores / scores.max() * np.float32(255)
    picture = resize_cubic(blur(scores.astype(np.uint8)), size)
    if stretch:
        picture = picture - picture.min()
    picture = picture.astype(np.float64)
    return (picture / max(picture.max(), 1) * 255).astype(np.float32)


__all__ = ["blur", "draw_map", "resize_cubic", "resize_nearest"]
