"""Boxes around persons, for models that look at one person at a time: as a user gives them, or as a detector finds them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ObjectDetectionPipeline, PreTrainedModel, pipeline


SIDES = ("xmin", "ymin", "xmax", "ymax")
FORMS = (
    "a list of (x, y, width, height) or of dicts as detectors give, `{'box': {'xmin', 'ymin', 'xmax', 'ymax'}, "
    "'score', 'label'}`, for one picture; a list of such lists for several"
)


@dataclass(frozen=True)
class PersonBox:
    """A box in pixels of the picture, which may reach beyond its edge.

    Args:
        x: Left.
        y: Top.
        width: Above 0.
        height: Above 0.
        score: Of the detector, None if there is none.
        label: Class that the detector names.
    """

    x: float
    y: float
    width: float
    height: float
    score: float | None = None
    label: str = "person"

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """As COCO and the image processors have it."""
        return self.x, self.y, self.width, self.height

    @property
    def corners(self) -> dict[str, float]:
        """As pipelines have it."""
        return dict(zip(SIDES, (self.x, self.y, self.x + self.width, self.y + self.height), strict=True))

    def fault(self, size: tuple[int, int]) -> str | None:
        """Why no person can be cropped from a picture of this (width, height), None if one can."""
        if not (self.width > 0 and self.height > 0):
            return "must have a width and a height above 0"
        if self.x >= size[0] or self.y >= size[1] or self.x + self.width <= 0 or self.y + self.height <= 0:
            return f"must not lie outside the picture of {size[0]} x {size[1]} pixels"
        return None


def read_boxes(boxes: Any, size: tuple[int, int]) -> list[PersonBox]:
    """The boxes that a user gives for one picture.

    Args:
        boxes: List (or array) of (x, y, width, height), or of dicts of a detector or of the pose pipeline itself.
        size: Width and height of the picture.

    Raises:
        TypeError: If it is nothing of that kind.
        ValueError: If a box is not finite, is empty or outside the picture, or only some have scores.
    """
    read = _read(boxes, "boxes")
    for index, box in enumerate(read):
        fault = box.fault(size)
        if fault:
            raise ValueError(f"`boxes` {fault}; box {index} is {box.xywh} (x, y, width, height).")
    return read


def load_detector(detector: Any, device: torch.device) -> Callable:
    """What finds boxes: an object-detection pipeline or a callable.

    Args:
        detector: Either of these, a (model, image processor), or the name or folder of an object-detection model.
        device: Where to put a model that is loaded here.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(detector, str | PathLike):
        return pipeline("object-detection", model=str(detector), device=device)
    if isinstance(detector, tuple | list) and len(detector) == 2 and isinstance(detector[0], PreTrainedModel):
        model, image_processor = detector
        return pipeline("object-detection", model=model, image_processor=image_processor, device=device)
    if isinstance(detector, PreTrainedModel):
        raise TypeError("`detector` must come with its image processor, as `(model, image_processor)`.")
    if not callable(detector):
        raise TypeError(
            "`detector` must be an object-detection pipeline, a `(model, image_processor)`, the name or folder of such "
            f"a model, or a callable that takes a picture and gives boxes; got {type(detector).__name__}."
        )
    return detector


def detect(
    detector: Callable, picture: Image.Image, labels: Iterable[str] = ("person",), threshold: float = 0.3
) -> list[PersonBox]:
    """The persons that a detector finds; boxes that are empty or outside the picture are left out.

    Args:
        detector: See `load_detector`.
        picture: RGB picture.
        labels: Classes that count; a box without a label counts.
        threshold: Least score; a box without a score counts.

    Raises:
        TypeError: If a callable gives something else than boxes.
        ValueError: If a box is not finite, or only some have scores.
    """
    if isinstance(detector, ObjectDetectionPipeline):
        found = detector(picture, threshold=threshold)
    else:
        found = detector(picture)
    if isinstance(found, list | tuple):  # other classes first: their boxes are nobody's business
        found = [box for box in found if not isinstance(box, Mapping) or box.get("label") in {None, *labels}]
    boxes = _read(found, "detector")
    return [box for box in boxes if not box.fault(picture.size) and (box.score is None or box.score >= threshold)]


def crop_areas(boxes: Sequence[PersonBox], aspect_ratio: float, padding: float) -> np.ndarray:
    """(boxes,) areas of the crops: the boxes made as wide or high as `aspect_ratio` (width / height) asks, and padded."""
    width, height = np.array([(box.width, box.height) for box in boxes], dtype=np.float64).reshape(-1, 2).T
    width = np.maximum(width, aspect_ratio * height)
    return padding**2 * width**2 / aspect_ratio


def _read(boxes: Any, name: str) -> list[PersonBox]:
    boxes = boxes.tolist() if isinstance(boxes, np.ndarray | torch.Tensor) else boxes
    given = "`boxes` must be" if name == "boxes" else "`detector` must give for its picture"
    if not isinstance(boxes, list | tuple):
        raise TypeError(f"{given} {FORMS}; got {type(boxes).__name__}.")
    if boxes and all(isinstance(value, Real) for value in boxes):
        raise TypeError(f"{given} {FORMS}; got a single box, write `[box]`.")
    read = [_read_box(box, index, given) for index, box in enumerate(boxes)]
    if len({box.score is None for box in read}) > 1:
        raise ValueError(f"{given} boxes that all have a score, or none of them.")
    return read


def _read_box(box: Any, index: int, given: str) -> PersonBox:
    box = box.tolist() if isinstance(box, np.ndarray | torch.Tensor) else box
    score, label = None, "person"
    if isinstance(box, Mapping):
        score, label = box.get("score"), box.get("label") or label
        corners = box.get("box")
        if not isinstance(corners, Mapping) or set(SIDES) - set(corners):
            raise TypeError(f"{given} {FORMS}; dict {index} has no `box` with {', '.join(SIDES)}.")
        xmin, ymin, xmax, ymax = (_number(corners[side], index, given) for side in SIDES)
        box = (xmin, ymin, xmax - xmin, ymax - ymin)
    if isinstance(box, list | tuple) and box and isinstance(box[0], list | tuple | Mapping | np.ndarray):
        raise TypeError(f"{given} {FORMS}; what is given for one picture is nested too deeply.")
    if not isinstance(box, list | tuple) or len(box) != 4:
        size = f" of {len(box)} values" if isinstance(box, list | tuple) else ""
        raise TypeError(f"{given} {FORMS}; box {index} is a {type(box).__name__}{size}.")
    values = [_number(value, index, given) for value in box]
    return PersonBox(*values, score=None if score is None else _number(score, index, given), label=label)


def _number(value: Any, index: int, given: str) -> float:
    value = value.item() if isinstance(value, np.generic | torch.Tensor) else value
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{given} boxes of numbers; box {index} has {value!r}.")
    if not isfinite(value):
        raise ValueError(f"{given} boxes of finite numbers; box {index} has {value}.")
    return float(value)


__all__ = ["PersonBox", "crop_areas", "detect", "load_detector", "read_boxes"]
