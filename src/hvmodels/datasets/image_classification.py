"""Labelled images: reading, the augmentation of vision transformers, mixup and cutmix.

The augmentation is that of DeiT as ViTKD (arXiv 2209.02432) trains with it: crops of random size and shape, mirroring,
RandAugment (arXiv 1909.13719) in the variant that timm calls increasing, random erasing (arXiv 1708.04896). What happens to
an image depends on the seed, the epoch and the image alone, so that a resumed run repeats it and any number of processes
sees the same.
"""

import glob
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import Dataset

from .keypoints import _to_rgb


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class LabelledImages:
    """Encoded images and their classes.

    Args:
        sources: The bytes of a file, or its path, for each image.
        labels: (count,) int64.
        class_names: Name of each class.
    """

    sources: Sequence[bytes | Path]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def image(self, index: int) -> Image.Image:
        """The decoded image, in RGB, turned as its EXIF entry says.

        Raises:
            ValueError: If it cannot be decoded.
        """
        source = self.sources[index]
        name = f"Image {index}" if isinstance(source, bytes) else repr(str(source))
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
                return _to_rgb(ImageOps.exif_transpose(opened))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name} cannot be read as an image: {error}") from error


def read_labelled_images(path: str | PathLike, **columns: str) -> LabelledImages:
    """Read a Parquet file, several of them by a pattern such as `"data/train-*.parquet"`, or a folder of class folders.

    Args:
        path: The file, pattern or folder.
        columns: `image_column` and `label_column` of Parquet, see `read_parquet`.

    Raises:
        ValueError: If there is neither, or its content does not fit.
    """
    if Path(path).is_dir():
        if columns:
            raise ValueError(f"`path` {str(path)!r} is a folder, which has no {sorted(columns)}.")
        return read_image_folder(path)
    files = [Path(path)] if Path(path).is_file() else [Path(name) for name in sorted(glob.glob(str(path)))]
    if not files or any(file.suffix != ".parquet" for file in files):
        raise ValueError(
            f"`path` must name a folder of class folders, a .parquet file or a pattern of such files, got {str(path)!r}."
        )
    return read_parquet(files, **columns)


def read_image_folder(folder: str | PathLike) -> LabelledImages:
    """Read a folder with one folder of images, at any depth, for each class; classes are in the order of their names.

    Raises:
        ValueError: If there are no classes, or a class has no images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"`folder` must be a folder of class folders, got {str(folder)!r}.")
    class_names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir()))
    if not class_names:
        raise ValueError(f"`folder` {str(folder)!r} has no class folders.")
    suffixes = Image.registered_extensions()
    sources, labels = [], []
    for label, name in enumerate(class_names):
        files = sorted(path for path in (root / name).rglob("*") if path.is_file() and path.suffix.lower() in suffixes)
        if not files:
            raise ValueError(f"The class folder {str(root / name)!r} has no images.")
        sources += files
        labels += [label] * len(files)
    return LabelledImages(sources, np.array(labels, dtype=np.int64), class_names)


def read_parquet(
    files: str | PathLike | Sequence[str | PathLike], image_column: str | None = None, label_column: str | None = None
) -> LabelledImages:
    """Read Parquet files as the library `datasets` writes them: encoded images and integer labels, all held in memory.

    Args:
        files: One file, or the parts of one data set in order.
        image_column: Column of the images; by default the one of type `Image`, or `"image"`.
        label_column: Column of the labels; by default the one of type `ClassLabel`, or `"label"`.

    Raises:
        ImportError: If pyarrow is missing.
        ValueError: If files are damaged, empty or of another layout, or labels do not fit the classes.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Reading Parquet needs pyarrow: pip install "hvmodels[train]".') from error
    files = [files] if isinstance(files, str | PathLike) else list(files)
    if not files:
        raise ValueError("`files` must name at least one Parquet file, got none.")
    sources: list[bytes] = []
    labels: list[int] = []
    class_names: tuple[str, ...] | None = None
    for position, file in enumerate(files):
        try:
            table = pyarrow.parquet.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{str(file)!r} cannot be read as Parquet: {error}") from error
        features = (
            json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        )
        image_name = image_column or _column_of(features, "Image", "image", file)
        label_name = label_column or _column_of(features, "ClassLabel", "label", file)
        for name, value in (("image_column", image_name), ("label_column", label_name)):
            if value not in table.column_names:
                raise ValueError(
                    f"{str(file)!r} has no column {value!r}, name one of {table.column_names} by `{name}`."
                )
        names = tuple(features.get(label_name, {}).get("names") or ())
        if position and names != class_names:
            raise ValueError(f"{str(file)!r} names the classes {names}, but the files before it {class_names}.")
        class_names = names
        if not pa.types.is_integer(table.schema.field(label_name).type):
            raise ValueError(f"Column {label_name!r} of {str(file)!r} must hold integers.")
        sources += _encoded_images(table.column(image_name).to_pylist(), image_name, file)
        labels += table.column(label_name).to_pylist()
    if not sources:
        raise ValueError(f"{[str(file) for file in files]} hold no images.")
    if None in labels:
        raise ValueError(f"Image {labels.index(None)} of {[str(file) for file in files]} has no label.")
    array = np.array(labels, dtype=np.int64)
    if not class_names:
        class_names = tuple(str(label) for label in range(array.max() + 1))
    if array.min() < 0 or array.max() >= len(class_names):
        raise ValueError(f"Labels must be from 0 to {len(class_names) - 1}, got {array.min()} to {array.max()}.")
    return LabelledImages(sources, array, class_names)


def _column_of(features: dict[str, Any], kind: str, default: str, file: str | PathLike) -> str:
    """The one column of a type of `datasets`; the usual name where the file does not tell types."""
    found = [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind]
    if len(found) > 1:
        raise ValueError(f"{str(file)!r} has the columns {found} of type {kind}; choose one of them.")
    return found[0] if found else default


def _encoded_images(rows: list[Any], column: str, file: str | PathLike) -> list[bytes]:
    """Bytes of each image, which stand alone or in a structure with the path."""
    images = [row.get("bytes") if isinstance(row, dict) else row for row in rows]
    for index, image in enumerate(images):
        if not isinstance(image, bytes) or not image:
            raise ValueError(f"Row {index} of column {column!r} in {str(file)!r} holds no encoded image.")
    return images


def _adjust(enhancer: type) -> Callable:
    return lambda image, value, fill: enhancer(image).enhance(1 + value)


def _move(coefficients: Callable[[float, Image.Image], tuple[float, ...]]) -> Callable:
    return lambda image, value, fill: image.transform(
        image.size, Image.Transform.AFFINE, coefficients(value, image), Image.Resampling.BICUBIC, fillcolor=fill
    )


def _rotate(image: Image.Image, degrees: float, fill: tuple[int, ...]) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill)


def _posterize(image: Image.Image, bits: float, fill: tuple[int, ...]) -> Image.Image:
    keep = 256 - 2 ** (8 - math.ceil(bits))
    return image.point([level & keep for level in range(256)] * 3)


def _solarize(image: Image.Image, threshold: float, fill: tuple[int, ...]) -> Image.Image:
    return image.point([level if level < threshold else 255 - level for level in range(256)] * 3)


def _solarize_add(image: Image.Image, value: float, fill: tuple[int, ...]) -> Image.Image:
    return image.point([min(int(level + value), 255) if level < 128 else level for level in range(256)] * 3)


# Operations of RandAugment: how they change an image; their values at level 0 and 10, if they have one; whether the value's
# sign is random.
OPERATIONS: dict[str, tuple[Callable, tuple[float, float] | None, bool]] = {
    "auto_contrast": (lambda image, value, fill: ImageOps.autocontrast(image), None, False),
    "equalize": (lambda image, value, fill: ImageOps.equalize(image), None, False),
    "invert": (lambda image, value, fill: ImageOps.invert(image), None, False),
    "rotate": (_rotate, (0, 30), True),
    "posterize": (_posterize, (4, 0), False),
    "solarize": (_solarize, (256, 0), False),
    "solarize_add": (_solarize_add, (0, 110), False),
    "color": (_adjust(ImageEnhance.Color), (0, 0.9), True),
    "contrast": (_adjust(ImageEnhance.Contrast), (0, 0.9), True),
    "brightness": (_adjust(ImageEnhance.Brightness), (0, 0.9), True),
    "sharpness": (_adjust(ImageEnhance.Sharpness), (0, 0.9), True),
    "shear_x": (_move(lambda value, image: (1, value, 0, 0, 1, 0)), (0, 0.3), True),
    "shear_y": (_move(lambda value, image: (1, 0, 0, value, 1, 0)), (0, 0.3), True),
    "translate_x": (_move(lambda value, image: (1, 0, value * image.width, 0, 1, 0)), (0, 0.45), True),
    "translate_y": (_move(lambda value, image: (1, 0, 0, 0, 1, value * image.height)), (0, 0.45), True),
}
MAX_LEVEL = 10


@dataclass(frozen=True)
class ImageAugmentation:
    """Random changes of an image, in this order: crop, mirroring, RandAugment, erasing.

    The defaults are the published ones. RandAugment draws its operations with replacement and applies each with
    probability 1/2, as in the original code.

    Args:
        size: Height and width of the result.
        area_range: Least and greatest area of the crop over that of the image.
        ratio_range: Least and greatest width over height of the crop.
        flip_probability: Probability of mirroring.
        num_operations: Number of operations that RandAugment draws; 0 leaves it out.
        level: Mean of their level, from 0 to 10.
        level_std: Standard deviation of the level.
        erase_probability: Probability that a rectangle is replaced by noise.
        erase_area_range: Least and greatest area of the rectangle over that of the crop.
        image_mean: Mean of each channel, from 0 to 1, for what shows up beyond the edges and for the noise.
        image_std: Standard deviation of each channel, for the noise.
    """

    size: tuple[int, int] = (224, 224)
    area_range: tuple[float, float] = (0.08, 1.0)
    ratio_range: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    num_operations: int = 2
    level: float = 9.0
    level_std: float = 0.5
    erase_probability: float = 0.25
    erase_area_range: tuple[float, float] = (0.02, 1 / 3)
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    image_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"`size` must be height and width, got {self.size}.")
        for name in ("area_range", "ratio_range", "erase_area_range"):
            least, greatest = getattr(self, name)
            if not 0 < least <= greatest or (name != "ratio_range" and greatest > 1):
                raise ValueError(
                    f"`{name}` must be (least, greatest), positive, areas at most 1, got {(least, greatest)}."
                )
        for name in ("flip_probability", "erase_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {getattr(self, name)}.")
        if self.num_operations < 0 or not 0 <= self.level <= MAX_LEVEL or self.level_std < 0:
            raise ValueError(
                f"`num_operations` and `level_std` must not be negative and `level` be from 0 to {MAX_LEVEL}, got "
                f"{self.num_operations}, {self.level_std} and {self.level}."
            )

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> np.ndarray:
        """(height, width, 3) uint8, an augmented copy of an RGB image."""
        height, width = self.size
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=self.crop_box(image.size, generator))
        if generator.random() < self.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = self.rand_augment(image, generator)
        pixels = np.array(image)
        if generator.random() < self.erase_probability:
            self._erase(pixels, generator)
        return pixels

    def crop_box(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a random crop of an image of this width and height.

        After ten crops that do not fit it is the largest one in the middle with a ratio in range.
        """
        width, height = size
        for _ in range(10):
            area = generator.uniform(*self.area_range) * width * height
            ratio = math.exp(generator.uniform(*np.log(self.ratio_range)))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left, top = generator.integers(width - crop_width + 1), generator.integers(height - crop_height + 1)
                return int(left), int(top), int(left) + crop_width, int(top) + crop_height
        ratio = min(max(width / height, self.ratio_range[0]), self.ratio_range[1])
        crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return left, top, left + crop_width, top + crop_height

    def rand_augment(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """The image after the operations of RandAugment."""
        fill = tuple(round(255 * mean) for mean in self.image_mean)
        names = list(OPERATIONS)
        for index in generator.integers(len(names), size=self.num_operations):
            change, values, signed = OPERATIONS[names[index]]
            if generator.random() < 0.5:
                continue
            value = None
            if values is not None:
                level = min(max(generator.normal(self.level, self.level_std), 0), MAX_LEVEL)
                value = values[0] + level / MAX_LEVEL * (values[1] - values[0])
                if signed and generator.random() < 0.5:
                    value = -value
            image = change(image, value, fill)
        return image

    def _erase(self, pixels: np.ndarray, generator: np.random.Generator):
        """Replace a rectangle of `pixels` by noise, in place."""
        height, width = self.size
        area = generator.uniform(*self.erase_area_range) * height * width
        ratio = math.exp(generator.uniform(math.log(3 / 10), math.log(10 / 3)))
        erase_height = min(round(math.sqrt(area * ratio)), height)
        erase_width = min(round(math.sqrt(area / ratio)), width)
        top = generator.integers(height - erase_height) if erase_height < height else 0
        left = generator.integers(width - erase_width) if erase_width < width else 0
        mean, std = 255 * np.array(self.image_mean), 255 * np.array(self.image_std)
        noise = generator.normal(mean, std, (erase_height, erase_width, 3))
        pixels[top : top + erase_height, left : left + erase_width] = noise.clip(0, 255)


class ImageClassificationDataset(Dataset):
    """Images as a model sees them.

    An item is `{"pixel_values": (3, H, W) float32, "labels": int}`; with an augmentation it also has `"seed"`, from which
    `ImageClassificationCollator` draws what belongs to a batch.

    Args:
        images: The images.
        processor: Image processor of the model; its `image_mean` and `image_std` normalise augmented images too.
        augmentation: Called as `augmentation(image, generator)` with an RGB image, returns (H, W, 3) uint8;
            `ImageAugmentation`. None leaves images to the processor.
        keep_images: Whether decoded images stay in memory.
        seed: With the epoch and the index it seeds the generator of an item. Call `set_epoch` for new ones each epoch.
    """

    def __init__(
        self,
        images: LabelledImages,
        processor: Any,
        augmentation: Callable[[Image.Image, np.random.Generator], np.ndarray] | None = None,
        keep_images: bool = False,
        seed: int = 0,
    ):
        self.images, self.processor, self.augmentation, self.seed = images, processor, augmentation, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._decoded: dict[int, Image.Image] | None = {} if keep_images else None
        scale = 255.0 * np.array(processor.image_std, dtype=np.float32)
        self._factor = torch.from_numpy(1 / scale)[:, None, None]
        self._offset = torch.from_numpy(np.array(processor.image_mean, dtype=np.float32) * 255.0 / scale)[
            :, None, None
        ]

    def set_epoch(self, epoch: int):
        """Set the epoch, which seeds the augmentation."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        if self._decoded is None:
            return self.images.image(index)
        if index not in self._decoded:
            self._decoded[index] = self.images.image(index)
        return self._decoded[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        item = {"labels": int(self.images.labels[index])}
        if self.augmentation is None:
            return {**item, "pixel_values": self.processor(self.image(index), return_tensors="pt")["pixel_values"][0]}
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        pixels = torch.tensor(self.augmentation(self.image(index), generator)).permute(2, 0, 1)
        seed = int(generator.integers(2**63))
        return {**item, "pixel_values": pixels * self._factor - self._offset, "seed": seed}


def mixup(
    pixel_values: torch.Tensor, scores: torch.Tensor, weight: float, partners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted means of each image and its partner, and of their class scores (arXiv 1710.09412).

    Args:
        pixel_values: (batch, channels, height, width).
        scores: (batch, classes), each with sum 1.
        weight: Of the image itself, from 0 to 1.
        partners: (batch,) index of each image's partner.
    """
    mixed = weight * pixel_values + (1 - weight) * pixel_values[partners]
    return mixed, weight * scores + (1 - weight) * scores[partners]


def cutmix(
    pixel_values: torch.Tensor, scores: torch.Tensor, box: tuple[int, int, int, int], partners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in which a box is that of the partner; class scores are weighted by area (arXiv 1905.04899).

    Args:
        pixel_values: (batch, channels, height, width).
        scores: (batch, classes), each with sum 1.
        box: Top, bottom, left and right; see `cutmix_box`.
        partners: (batch,) index of each image's partner.
    """
    top, bottom, left, right = box
    height, width = pixel_values.shape[-2:]
    mixed = pixel_values.clone()
    mixed[..., top:bottom, left:right] = pixel_values[partners, :, top:bottom, left:right]
    weight = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, weight * scores + (1 - weight) * scores[partners]


def cutmix_box(size: tuple[int, int], weight: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box of area `1 - weight` around a random pixel, cut at the edges."""
    height, width = size
    share = math.sqrt(1 - weight)
    half_height, half_width = int(height * share) // 2, int(width * share) // 2
    row, column = int(generator.integers(height)), int(generator.integers(width))
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    return top, bottom, max(column - half_width, 0), min(column + half_width, width)


@dataclass(frozen=True)
class ImageClassificationCollator:
    """Makes a batch of the items of `ImageClassificationDataset`, with mixup or cutmix if asked for.

    One weight and one permutation hold for a whole batch, drawn from the items' seeds: the same batch is always mixed in
    the same way. Its labels then are scores (batch, classes).

    Args:
        num_labels: Number of classes, for the scores.
        mixup_alpha: Of the Beta distribution of mixup's weights, 0.8 as published; 0 for no mixup.
        cutmix_alpha: The same of cutmix, 1 as published; with both, each batch gets one of them, by equal chance.
        num_mask_tokens: Number of patch tokens for which `mask_noise` (batch, tokens) is drawn, from the items' seeds, so
            that the mask of ViTKD does not depend on the number of processes. 0 leaves it to the model.
    """

    num_labels: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    num_mask_tokens: int = 0

    def __post_init__(self):
        for name in ("mixup_alpha", "cutmix_alpha", "num_mask_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of these items."""
        pixel_values = torch.stack([item["pixel_values"] for item in items])
        labels = torch.tensor([item["labels"] for item in items])
        batch = {"pixel_values": pixel_values, "labels": labels}
        if "seed" not in items[0]:
            return batch
        if self.mixup_alpha or self.cutmix_alpha:
            batch["pixel_values"], batch["labels"] = self._mix(
                pixel_values, labels, np.random.default_rng([item["seed"] for item in items])
            )
        if self.num_mask_tokens:
            rows = [
                np.random.default_rng(item["seed"]).random(self.num_mask_tokens, dtype=np.float32) for item in items
            ]
            batch["mask_noise"] = torch.from_numpy(np.stack(rows))
        return batch

    def _mix(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.nn.functional.one_hot(labels, self.num_labels).to(pixel_values.dtype)
        kinds = [name for name in ("mixup", "cutmix") if getattr(self, f"{name}_alpha")]
        kind = kinds[generator.integers(len(kinds))]
        alpha = getattr(self, f"{kind}_alpha")
        weight = generator.beta(alpha, alpha)
        partners = torch.from_numpy(generator.permutation(len(labels)))
        if kind == "mixup":
            return mixup(pixel_values, scores, weight, partners)
        box = cutmix_box(tuple(pixel_values.shape[-2:]), weight, generator)
        return cutmix(pixel_values, scores, box, partners)


__all__ = [
    "ImageAugmentation",
    "ImageClassificationCollator",
    "ImageClassificationDataset",
    "LabelledImages",
    "cutmix",
    "cutmix_box",
    "mixup",
    "read_image_folder",
    "read_labelled_images",
    "read_parquet",
]
