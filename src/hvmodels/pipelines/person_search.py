"""Looking for a person in a video with nothing but a model that was made to look into boxes, and what moves.

A top-down pose model is as sure of a tree as of a person: it was never shown anything without one. What moves tells more,
so that of upright boxes all over the picture those count in which a pose is found and much of the motion is. That works
where the camera stands still; a detector is better everywhere.
"""

from collections.abc import Callable, Iterable

import numpy as np

from ..tracking import BoxFollower


HEIGHTS, ASPECT, STEPS = (1.0, 0.7, 0.5, 0.35), 0.5, (0.6, 0.4)
TRIED, KEPT, PASSES = 48, 4, 2
CELL, NOISE, FULL_MOTION, FADING = 8, 6.0, 30.0, 0.9
Box = tuple[float, float, float, float]


class MotionMap:
    """Where something moves, in cells of 8 x 8 pixels: changes of grey between one frame and the next, summed and fading."""

    def __init__(self):
        self._last = self._sum = None

    def add(self, image: np.ndarray):
        """The next frame, (height, width, 3) uint8."""
        rows, columns = (max(side // CELL, 1) for side in image.shape[:2])
        cells = image[: rows * CELL, : columns * CELL].mean(axis=2, dtype=np.float32)
        cells = cells.reshape(rows, -1, columns, cells.shape[1] // columns).mean(axis=(1, 3))
        if self._last is not None:
            change = np.maximum(np.abs(cells - self._last) - NOISE, 0)
            self._sum = change if self._sum is None else FADING * self._sum + change
        self._last = cells

    def weights(self, boxes: Iterable[Box]) -> np.ndarray:
        """(boxes,) geometric mean of the box's share of all motion and of how full of motion it is; 1 where nothing moves."""
        boxes = list(boxes)
        motion = None if self._sum is None else np.minimum(self._sum, FULL_MOTION) / FULL_MOTION
        if motion is None or not motion.any():
            return np.ones(len(boxes))
        weights = []
        for x, y, width, height in np.array(boxes) / CELL:
            top, left = int(max(y, 0)), int(max(x, 0))
            inside = motion[top : int(np.ceil(y + height)), left : int(np.ceil(x + width))]
            weights.append(np.sqrt(inside.sum() / motion.sum() * inside.mean()) if inside.size else 0.0)
        return np.array(weights)


def find_person_box(
    estimate: Callable[[np.ndarray, list[Box]], tuple[np.ndarray, np.ndarray]],
    image: np.ndarray,
    motion: MotionMap,
    min_score: float = 0.4,
) -> Box | None:
    """The box of one person.

    Boxes of several heights all over the picture are tried, the 48 with most motion; the best four are drawn around the
    pose that was found in them, twice, and the one with the highest product of score and motion at the end is it.

    Args:
        estimate: Takes a picture and boxes; gives keypoints (boxes, keypoints, 2) and scores (boxes,) of the persons.
        image: (height, width, 3).
        motion: Of the frames around.
        min_score: Least score of the person.

    Returns:
        (x, y, width, height) in pixels, None if there is nobody.
    """
    size = (image.shape[1], image.shape[0])
    boxes = search_boxes(size)
    weights = motion.weights(boxes)
    boxes = [boxes[index] for index in np.argsort(-weights, kind="stable")[: TRIED if weights.min() < 1 else None]]
    keypoints, scores = estimate(image, boxes)
    best = np.argsort(-scores * motion.weights(boxes), kind="stable")[:KEPT]
    boxes, keypoints, scores = [boxes[index] for index in best], keypoints[best], scores[best]
    for _ in range(PASSES):
        followed = BoxFollower(boxes, size, min_score=0.0)
        followed.update(0, dict(enumerate(keypoints, start=1)), dict.fromkeys(range(1, len(boxes) + 1), 1.0))
        boxes = list(followed.boxes_at(0).values())
        if not boxes:
            return None
        keypoints, scores = estimate(image, boxes)
    index = int(np.argmax(scores * motion.weights(boxes)))
    return boxes[index] if scores[index] >= min_score else None


def search_boxes(size: tuple[int, int]) -> list[Box]:
    """Boxes (x, y, width, height) all over a picture of this width and height: itself, and upright ones down to a third."""
    boxes = [(0.0, 0.0, float(size[0]), float(size[1]))]
    for share in HEIGHTS:
        height = share * size[1]
        width = min(ASPECT * height, size[0])
        columns, rows = (
            np.linspace(0, whole - part, 1 + int(np.ceil((whole - part) / (step * part) - 1e-6)))
            for whole, part, step in zip(size, (width, height), STEPS, strict=True)
        )
        boxes += [(float(x), float(y), width, height) for y in rows for x in columns]
    return boxes


__all__ = ["MotionMap", "find_person_box", "search_boxes"]
