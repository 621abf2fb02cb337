"""Image classification as it is published: CIFAR's pickled batches, and the lists of CUB-200-2011 with boxes."""

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from .image_classification import LabelledImages
from .sequence_archives import unpickle_dict


CIFAR_SIZE = 32
# By the file of class names: key of the names, key of the labels, files of the splits.
CIFAR_LAYOUTS = {
    "batches.meta": (
        "label_names", "labels",
        {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    ),
    "meta": ("fine_label_names", "fine_labels", {"train": ["train"], "test": ["test"]}),
}  # fmt: skip


@dataclass(frozen=True)
class PixelImages(LabelledImages):
    """Decoded images and their classes.

    Args:
        sources: (count, height, width, 3) uint8.
        labels: (count,) int64.
        class_names: Name of each class.
    """

    sources: np.ndarray

    def image(self, index: int) -> Image.Image:
        """The image, in RGB."""
        return Image.fromarray(self.sources[index])


@dataclass(frozen=True)
class BoxedImages(LabelledImages):
    """Parts of images and their classes.

    Args:
        sources: Path of each image.
        labels: (count,) int64.
        class_names: Name of each class.
        boxes: (count, 4) left, top, width and height in pixels of the part of each image.
    """

    boxes: np.ndarray

    def image(self, index: int) -> Image.Image:
        """The part of the image, in RGB; edges are rounded to whole pixels, and what lies beyond the image is black."""
        left, top, width, height = self.boxes[index].tolist()
        return super().image(index).crop((left, top, left + width, top + height))


def read_cifar(folder: str | PathLike, split: Literal["train", "test"]) -> PixelImages:
    """Read the batches of CIFAR-10 or CIFAR-100 for Python, without running code that a pickle may hold.

    Args:
        folder: `cifar-10-batches-py` or `cifar-100-python`, unpacked.
        split: Which batches.

    Raises:
        ValueError: If the folder holds neither, or a batch is damaged or of another kind.
    """
    folder = Path(folder)
    if split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', got {split!r}.")
    meta_file = next((name for name in CIFAR_LAYOUTS if (folder / name).is_file()), None)
    if meta_file is None:
        raise ValueError(
            f"`folder` must hold CIFAR's batches for Python with {' or '.join(CIFAR_LAYOUTS)}, got {str(folder)!r}."
        )
    names_key, label_key, files = CIFAR_LAYOUTS[meta_file]
    class_names = unpickle_dict(folder / meta_file).get(names_key)
    if not isinstance(class_names, list) or not class_names:
        raise ValueError(f"`folder` {str(folder)!r} has no {names_key!r} in {meta_file}.")
    images, labels = [], []
    for file in files[split]:
        batch = unpickle_dict(folder / file)
        pixels, targets = batch.get("data"), np.asarray(batch.get(label_key, []))
        shape, dtype = getattr(pixels, "shape", None), getattr(pixels, "dtype", None)
        if dtype != np.uint8 or shape != (len(targets), 3 * CIFAR_SIZE**2) or targets.dtype.kind != "i":
            raise ValueError(
                f"{file} of `folder` must hold `data` (images, 3072) of uint8 and as many integers `{label_key}`, got "
                f"{shape} of {dtype} and {targets.shape}."
            )
        if len(targets) and not 0 <= targets.min() <= targets.max() < len(class_names):
            raise ValueError(f"{file} of `folder` must have labels from 0 to {len(class_names) - 1}.")
        images.append(pixels.reshape(-1, 3, CIFAR_SIZE, CIFAR_SIZE).transpose(0, 2, 3, 1))
        labels.append(targets)
    return PixelImages(np.concatenate(images), np.concatenate(labels).astype(np.int64), tuple(class_names))


def read_cub_list(path: str | PathLike, folder: str | PathLike) -> BoxedImages:
    """Read a list of CUB-200-2011 with one image a line: `path label left top width height`, the label from 0.

    Class names are the folders of the images, without their number.

    Args:
        path: Text file.
        folder: What the paths in it are relative to; an image that is not there fails when it is opened.

    Raises:
        ValueError: If a line has another form, a label lacks images, or the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`path` {str(path)!r} cannot be read: {error}") from error
    images, labels, boxes, class_names = [], [], [], {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # A path may hold spaces.
        words = line.rsplit(maxsplit=5)
        try:
            name, label, box = words[0], int(words[1]), [float(word) for word in words[2:]]
        except (ValueError, IndexError):
            box = []
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0 or label < 0:
            raise ValueError(
                f"line {number} of `path` {str(path)!r} must be `image label left top width height`, got {line!r}."
            )
        images.append(Path(folder) / name)
        labels.append(label)
        boxes.append(box)
        class_name = Path(name).parent.name.split(".", 1)[-1].replace("_", " ")
        if class_names.setdefault(label, class_name) != class_name:
            raise ValueError(
                f"line {number} of `path` gives label {label} to {class_name!r} and {class_names[label]!r}."
            )
    if sorted(class_names) != list(range(len(class_names))) or not images:
        raise ValueError(f"`path` {str(path)!r} must have images of each label from 0 to the highest.")
    names = tuple(class_names[label] for label in sorted(class_names))
    return BoxedImages(images, np.array(labels, dtype=np.int64), names, np.array(boxes))


__all__ = ["BoxedImages", "PixelImages", "read_cifar", "read_cub_list"]
