"""Top-down pose data: one sample a person, cut out of the picture around its box, from annotations in COCO's format.

The augmentations are those of RLE (arXiv 2107.11291) in 2-D, those of MMPose's models of it, and one with every rotation,
for people who do gymnastics; those of 3-D models are in `human36m`. Mirroring, half bodies, scale and rotation change the affine map that cuts the
crop, so that the picture is sampled once.
"""

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from ..keypoint_sets import KeypointSet, flip_permutation
from ..models.rle.cropping_rle import (
    boxes_to_center_scale,
    center_scale_to_boxes,
    clip_ground_truth_boxes,
    crop_matrices,
    encode_keypoints,
    warp_crops,
)
from .keypoints import _keypoint_set_of, _read_json, _select_categories, _to_rgb


_LOWER_BODY = ("hip", "knee", "ankle", "pelvis", "foot", "heel", "toe")


@dataclass
class PersonSample:
    """A person in a picture, before it is cut out.

    Args:
        image: (height, width, 3) uint8.
        center: (2,) centre of the crop in the picture.
        scale: (2,) width and height of the crop in the picture.
        keypoints: (K, D) pixels of the picture; the third coordinate, if there is one, millimetres.
        weights: (K, D), 0 where a coordinate is not labelled.
        rotation: Degrees.
        visible_box: (4,) corners of the part of the picture that is shown; the whole picture if None.
        after_crop: Functions of the crop (H, W, 3) uint8 that return it changed.
    """

    image: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    keypoints: np.ndarray
    weights: np.ndarray
    rotation: float = 0.0
    visible_box: np.ndarray | None = None
    after_crop: list[Callable] = field(default_factory=list)

    @property
    def visible(self) -> np.ndarray:
        """(K,) whether a keypoint is labelled in the picture."""
        return self.weights[:, 0] > 0


def read_images(images: str | PathLike) -> Callable[[str], bytes]:
    """A function that gives the bytes of a file by its name, from a folder or a .tar file.

    Raises:
        ValueError: If there is neither.
    """
    path = Path(images)
    if path.is_dir():
        return lambda name: (path / name).read_bytes()
    if not path.is_file() or not tarfile.is_tarfile(path):
        raise ValueError(f"`images` must name a folder or a .tar file, got {str(images)!r}.")
    with tarfile.open(path) as archive:
        places = {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}

    def read(name: str) -> bytes:
        if name not in places:
            raise FileNotFoundError(name)
        offset, size = places[name]
        with path.open("rb") as file:  # opened each time: worker processes must not share a position
            file.seek(offset)
            return file.read(size)

    return read


class TopDownDataset(Dataset):
    """Persons of a data set in COCO's keypoint format, each cut out of its picture.

    An item is `{"crop": (H, W, 3) uint8, "labels": (K, D), "label_weights": (K, D), "crop_box": (4,), "box": (4,)}` with
    float32 arrays, labels normalised to the crop (0 its centre, +-0.5 its edges), and the boxes as corners in the picture.
    Persons without a labelled keypoint or with an empty box are left out, and so are crowds, as published.

    Args:
        annotation_file: JSON file with `images`, `annotations` and `categories`.
        images: Folder, or .tar file, that the `file_name` of each image is relative to.
        keypoint_set: Keypoints of the samples; names that an annotation lacks have weight 0. None takes those of the file.
        size: Height and width of the crops.
        box_padding: Crop side over box side.
        extra_fields: Further fields of annotations with keypoints, named by the field of equal name in the category.
        transform: Called as `transform(sample, generator)` with a `PersonSample`, returns one; `TopDownAugmentation`.
        drop_outside: Whether keypoints outside the crop have weight 0, as MMPose has it; as published they count.
        keep_images: Whether decoded pictures stay in memory.
        seed: With the epoch and the index it seeds the generator of a sample. Call `set_epoch` for new ones each epoch.

    Raises:
        ValueError: If the file or an annotation is not in the format.
    """

    def __init__(
        self,
        annotation_file: str | PathLike,
        images: str | PathLike,
        keypoint_set: KeypointSet | None = None,
        size: tuple[int, int] = (256, 192),
        box_padding: float = 1.25,
        extra_fields: Sequence[str] = (),
        transform: Callable | None = None,
        drop_outside: bool = False,
        keep_images: bool = False,
        seed: int = 0,
    ):
        data = _read_json(annotation_file)
        self._read = read_images(images)
        self.categories = _select_categories(data, None, keypoint_set is None)
        self.keypoint_set = _keypoint_set_of(self.categories) if keypoint_set is None else keypoint_set
        self.size = tuple(size)
        self.box_padding = box_padding
        self.transform = transform
        self.drop_outside = drop_outside
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._pictures: dict[str, np.ndarray] | None = {} if keep_images else None
        self._sizes: dict[str, tuple[int, int]] = {}
        pictures = {image["id"]: image for image in data["images"]}
        fields = ("keypoints", *extra_fields)
        rows = {category["id"]: self._rows(category, fields) for category in self.categories}
        self.annotations, self.file_names, keypoints, boxes = [], [], [], []
        for position, annotation in enumerate(data.get("annotations") or ()):
            if annotation.get("category_id") not in rows or annotation.get("iscrowd"):
                continue
            where = f"`annotations[{position}]` of `annotation_file`"
            picture = pictures.get(annotation.get("image_id"))
            if picture is None or not {"file_name", "width", "height"} <= set(picture):
                raise ValueError(
                    f"{where} must have the 'image_id' of one of the images, which must have 'file_name', 'width' and "
                    f"'height', got {annotation.get('image_id')!r} of {picture!r}."
                )
            person = self._keypoints_of(annotation, fields, rows[annotation["category_id"]], where)
            box = self._box_of(annotation, picture, where)
            if (person[:, 2] > 0).any() and (box[2:] > box[:2]).all() and annotation.get("area", 1) > 0:
                self.annotations.append(annotation)
                self._sizes[picture["file_name"]] = picture["width"], picture["height"]
                self.file_names.append(picture["file_name"])
                keypoints.append(person)
                boxes.append(box)
        if not boxes:
            raise ValueError(f"`annotation_file` {str(annotation_file)!r} holds no person with labelled keypoints.")
        self.keypoints, self.boxes = np.stack(keypoints), np.stack(boxes)

    def _rows(self, category: dict, fields: Sequence[str]) -> list[np.ndarray]:
        """For each field, the row of the samples that each of its keypoints becomes, -1 for none."""
        index_of = {name: index for index, name in enumerate(self.keypoint_set.keypoints)}
        rows = []
        for name in fields:
            if not category.get(name):
                raise ValueError(
                    f"`annotation_file` must name the keypoints of {name!r} in its category, but does not."
                )
            rows.append(np.array([index_of.get(keypoint, -1) for keypoint in category[name]]))
        return rows

    def _keypoints_of(self, annotation: dict, fields: Sequence[str], rows: list[np.ndarray], where: str) -> np.ndarray:
        """(K, 3) x, y, v of one annotation."""
        person = np.zeros((len(self.keypoint_set), 3))
        for name, targets in zip(fields, rows, strict=True):
            values = np.asarray(annotation.get(name) or np.zeros(3 * len(targets)), dtype=np.float64)
            if values.shape != (3 * len(targets),):
                raise ValueError(f"{where} must have {3 * len(targets)} numbers in {name!r}, got {values.size}.")
            person[targets[targets >= 0]] = values.reshape(-1, 3)[targets >= 0]
        if not np.isin(person[:, 2], (0, 1, 2)).all() or not np.isfinite(person[person[:, 2] > 0]).all():
            raise ValueError(f"{where} must have finite x and y, and v = 0, 1 or 2, for each keypoint.")
        return person

    def _box_of(self, annotation: dict, picture: dict, where: str) -> np.ndarray:
        """(4,) corners of a ground-truth box, one pixel smaller and cut to the picture, as published."""
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not np.isfinite(box).all():
            raise ValueError(f"{where} must have 4 numbers x, y, width, height in 'bbox', got {box!r}.")
        boxes, _ = clip_ground_truth_boxes(np.array([box]), (picture["height"], picture["width"]))
        return boxes[0]

    def set_epoch(self, epoch: int):
        """Set the epoch, which seeds the transform."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.boxes)

    def picture(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8 of the picture of a person."""
        name = self.file_names[index]
        if self._pictures is not None and name in self._pictures:
            return self._pictures[name]
        try:
            image = Image.open(io.BytesIO(self._read(name)))
            if image.size != self._sizes[name]:  # as it was annotated, which its size tells
                image = ImageOps.exif_transpose(image)
            picture = np.asarray(_to_rgb(image))
        except FileNotFoundError:
            raise ValueError(f"`images` lacks {name!r}.") from None
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{name!r} cannot be read as an image: {error}") from error
        if picture.shape[1::-1] != self._sizes[name]:
            raise ValueError(
                f"{name!r} has (width, height) {picture.shape[1::-1]}, but `annotation_file` says {self._sizes[name]}."
            )
        if self._pictures is not None:
            self._pictures[name] = picture
        return picture

    def sample(self, index: int) -> PersonSample:
        """A person before augmentation."""
        height, width = self.size
        centers, scales = boxes_to_center_scale(self.boxes[index : index + 1], width / height, self.box_padding)
        keypoints = self.keypoints[index]
        weights = np.repeat((keypoints[:, 2:] > 0).astype(np.float64), 2, axis=1)
        return PersonSample(self.picture(index), centers[0], scales[0], keypoints[:, :2].copy(), weights)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        sample = self.sample(index)
        if self.transform is not None:
            sample = self.transform(sample, np.random.default_rng((self.seed, int(self._epoch), index)))
        item = crop_sample(sample, self.size, self.drop_outside)
        return {**item, "box": self.boxes[index].astype(np.float32)}


def crop_sample(
    sample: PersonSample, size: tuple[int, int], drop_outside: bool = False, depth_scale: float = 2000.0
) -> dict[str, np.ndarray]:
    """Cut a person out of its picture: `crop`, `labels`, `label_weights`, `crop_box` of an item.

    Args:
        sample: The person.
        size: Height and width of the crop.
        drop_outside: Whether keypoints outside the crop have weight 0. In 3-D they always have, as published.
        depth_scale: Millimetres per unit of depth.
    """
    matrices = crop_matrices(sample.center[None], sample.scale[None], np.array([sample.rotation]), size)
    image = sample.image
    if sample.visible_box is not None:
        left, top, right, bottom = sample.visible_box.astype(int)
        shown, image = image, np.zeros_like(image)
        image[top:bottom, left:right] = shown[top:bottom, left:right]
    (crop,) = warp_crops(image, matrices, size)
    for change in sample.after_crop:
        crop = change(crop, matrices[0])
    labels, weights = encode_keypoints(
        sample.keypoints[None], sample.weights[None], matrices, size, depth_scale, drop_outside or None
    )
    crop_box = center_scale_to_boxes(sample.center, sample.scale)
    return {"crop": crop, "labels": labels[0], "label_weights": weights[0], "crop_box": crop_box}


@dataclass(frozen=True)
class TopDownAugmentation:
    """Random changes of a `PersonSample`: half body, shift, scale, rotation, mirroring, occlusion, colour.

    `TopDownAugmentation.coco(keypoint_set)` is the published one, `.mmpose(keypoint_set)` MMPose's, and
    `.full_rotation(keypoint_set)` that of this package's default model.

    Args:
        keypoint_set: Keypoints of the samples; their names tell upper from lower body.
        flip_probability: Probability of mirroring.
        half_body_probability: Probability that the crop is laid around the upper or the lower body only.
        half_body_keypoints: Least number of labelled keypoints for that.
        upper_body_probability: Probability that it is the upper body, where both halves have 3 labelled keypoints.
        half_body_padding: Crop side over the extent of the keypoints of the half.
        shift: Largest shift over the crop side, in x and y.
        shift_probability: Probability of a shift.
        scale_range: Least and greatest factor of the crop size.
        scale_probability: Probability of that factor.
        rotation_limit: Largest angle in degrees.
        rotation_probability: Probability of a rotation.
        any_rotation_probability: Probability of a rotation by any angle in place of the former.
        distribution: Of shift, scale and rotation between their limits: "uniform", or "truncated_normal", a normal
            distribution whose deviation is half the range, cut at the limits.
        truncation_probability: Probability that all but the half body is hidden, where the crop is one of a half body;
            hidden keypoints then have weight 0.
        cut_probability: Probability that the picture ends within the person, at one side, and the box with it. Keypoints
            beyond have weight 0, and at least `half_body_keypoints` remain.
        erase_probability: Probability of each of `erase_count` rectangles of noise in the crop.
        erase_count: Number of rectangles.
        erase_area: Largest area of a rectangle over that of the crop.
        background_probability: Probability that what lies outside the picture is filled by some texture, not black.
        color_probability: Probability of a change of gamma, contrast, brightness and of each channel.
    """

    keypoint_set: KeypointSet
    flip_probability: float = 0.5
    half_body_probability: float = 0.3
    half_body_keypoints: int = 4
    upper_body_probability: float = 0.69
    half_body_padding: float = 1.5
    shift: float = 0.0
    shift_probability: float = 0.0
    scale_range: tuple[float, float] = (0.75, 1.25)
    scale_probability: float = 1.0
    rotation_limit: float = 45.0
    rotation_probability: float = 0.5
    any_rotation_probability: float = 0.0
    distribution: str = "uniform"
    truncation_probability: float = 0.0
    cut_probability: float = 0.0
    erase_probability: float = 0.0
    erase_count: int = 1
    erase_area: float = 0.7
    background_probability: float = 0.0
    color_probability: float = 0.0

    def __post_init__(self):
        for name in self.__dataclass_fields__:
            if name.endswith("_probability") and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {getattr(self, name)}.")
        if self.distribution not in ("uniform", "truncated_normal"):
            raise ValueError(f"`distribution` must be 'uniform' or 'truncated_normal', got {self.distribution!r}.")
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f"`scale_range` must be (least, greatest) positive factors, got {self.scale_range}.")

    @classmethod
    def coco(cls, keypoint_set: KeypointSet) -> "TopDownAugmentation":
        """That of the published 2-D model of COCO."""
        return cls(keypoint_set)

    @classmethod
    def mmpose(cls, keypoint_set: KeypointSet, half_body: bool = True) -> "TopDownAugmentation":
        """That of MMPose's models; those of MPII have no `half_body` and no shift."""
        return cls(
            keypoint_set,
            half_body_probability=0.3 * half_body,
            half_body_keypoints=9,
            upper_body_probability=0.7,
            shift=0.16,
            shift_probability=0.3 * half_body,
            scale_range=(0.5, 1.5),
            scale_probability=0.6,
            rotation_limit=80.0,
            rotation_probability=0.6,
            distribution="truncated_normal",
        )

    @classmethod
    def full_rotation(cls, keypoint_set: KeypointSet) -> "TopDownAugmentation":
        """That of the default model: two of five samples by any angle, the others like people who stand."""
        return cls(
            keypoint_set,
            half_body_probability=0.2,
            shift=0.06,
            shift_probability=1.0,
            scale_range=(0.75, 1.25),
            rotation_limit=45.0,
            rotation_probability=0.7,
            any_rotation_probability=0.4,
            truncation_probability=0.5,
            cut_probability=0.3,
            erase_probability=0.2,
            erase_count=2,
            erase_area=0.12,
            background_probability=0.5,
            color_probability=0.8,
        )

    def __call__(self, sample: PersonSample, generator: np.random.Generator) -> PersonSample:
        """One augmented sample; the given one is unchanged."""
        sample = replace(sample, after_crop=list(sample.after_crop))
        if sample.visible.sum() >= self.half_body_keypoints and generator.random() < self.half_body_probability:
            sample = self._half_body(sample, generator)
        elif self.cut_probability and generator.random() < self.cut_probability:
            sample = self._cut(sample, generator)
        if generator.random() < self.shift_probability:
            shift = self.shift * self._draw(generator, 2)
            sample = replace(sample, center=(sample.center + shift * sample.scale).astype(np.float32))
        if generator.random() < self.scale_probability:
            least, greatest = self.scale_range
            factor = (least + greatest) / 2 + (greatest - least) / 2 * self._draw(generator, 1)
            sample = replace(sample, scale=(sample.scale * factor).astype(np.float32))
        if generator.random() < self.any_rotation_probability:
            sample = replace(sample, rotation=generator.uniform(-180, 180))
        elif generator.random() < self.rotation_probability:
            sample = replace(sample, rotation=self.rotation_limit * float(self._draw(generator, 1)[0]))
        if generator.random() < self.flip_probability:
            sample = mirror_sample(sample, self.keypoint_set.flip_pairs)
        if generator.random() < self.background_probability:
            sample.after_crop.append(Background(sample, generator))
        for _ in range(self.erase_count):
            if generator.random() < self.erase_probability:
                sample.after_crop.append(Erase(self.erase_area, generator))
        if generator.random() < self.color_probability:
            sample.after_crop.append(Color(generator))
        return sample

    def _draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count,) numbers from -1 to 1."""
        if self.distribution == "uniform":
            return generator.uniform(-1, 1, count)
        values = generator.normal(size=count)
        while (outside := np.abs(values) > 1).any():
            values[outside] = generator.normal(size=outside.sum())
        return values

    def _cut(self, sample: PersonSample, generator: np.random.Generator) -> PersonSample:
        """A picture that ends within the person, as those of people who are too close do: mostly at its lower edge."""
        points = sample.keypoints[sample.visible, :2]
        if len(points) <= self.half_body_keypoints:
            return sample
        axis, side = ((1, 1), (1, 0), (0, 0), (0, 1))[generator.choice(4, p=(0.6, 0.1, 0.15, 0.15))]
        order = np.sort(points[:, axis])[:: 1 if side else -1]
        edge = order[generator.integers(self.half_body_keypoints, len(points))]
        box = np.stack([np.zeros(2), np.array(sample.image.shape[1::-1], dtype=np.float64)])
        box[side, axis] = np.clip(np.floor(edge) + 1 - side, *box[:, axis])
        hidden = ((sample.keypoints[:, :2] < box[0]) | (sample.keypoints[:, :2] >= box[1])).any(axis=1)
        shown = sample.keypoints[sample.visible & ~hidden, :2]
        if len(shown) < self.half_body_keypoints:
            return sample
        margin = 0.04 * np.ptp(points, axis=0).max()
        corners = np.stack([shown.min(axis=0) - margin, shown.max(axis=0) + margin]).clip(*box)
        corners[side, axis] = box[side, axis]  # the box of what is seen reaches the edge
        aspect_ratio, padding = sample.scale[0] / sample.scale[1], 1.25
        center, scale = boxes_to_center_scale(corners.reshape(1, 4), aspect_ratio, padding)
        return replace(
            sample,
            center=center[0],
            scale=np.maximum(scale[0], 1),
            visible_box=box.reshape(4),
            weights=np.where(hidden[:, None], 0, sample.weights),
        )

    def _half_body(self, sample: PersonSample, generator: np.random.Generator) -> PersonSample:
        """A crop around the upper or the lower body, if it has enough keypoints."""
        is_lower = np.array([any(part in name for part in _LOWER_BODY) for name in self.keypoint_set.keypoints])
        upper, lower = sample.visible & ~is_lower, sample.visible & is_lower
        prefer_upper = generator.random() < self.upper_body_probability
        chosen = upper if (prefer_upper and upper.sum() > 2) or lower.sum() <= 2 else lower
        points = sample.keypoints[chosen, :2]
        if len(points) < 2:
            return sample
        extent = points.max(axis=0) - points.min(axis=0)
        aspect_ratio = sample.scale[0] / sample.scale[1]
        width = max(extent[0], extent[1] * aspect_ratio, 1.0) * self.half_body_padding
        changes = {
            "center": points.mean(axis=0).astype(np.float32),
            "scale": np.array([width, width / aspect_ratio], dtype=np.float32),
        }
        if generator.random() < self.truncation_probability:
            margin = 0.15 * max(extent)
            limits = np.array(sample.image.shape[1::-1])
            box = np.stack([points.min(axis=0) - margin, points.max(axis=0) + margin + 1]).clip(0, limits)
            hidden = ((sample.keypoints[:, :2] < box[0]) | (sample.keypoints[:, :2] >= box[1])).any(axis=1)
            changes |= {"visible_box": box.reshape(4), "weights": np.where(hidden[:, None], 0, sample.weights)}
        return replace(sample, **changes)


def mirror_sample(sample: PersonSample, flip_pairs: Sequence[tuple[int, int]]) -> PersonSample:
    """The mirrored picture; x becomes `width - 1 - x` and the keypoints of a pair change places."""
    last = sample.image.shape[1] - 1
    order = flip_permutation(len(sample.keypoints), flip_pairs)
    keypoints = sample.keypoints[order]
    keypoints[:, 0] = last - keypoints[:, 0]
    center = np.array([last - sample.center[0], sample.center[1]], dtype=np.float32)
    box = sample.visible_box
    if box is not None:
        box = np.array([last + 1 - box[2], box[1], last + 1 - box[0], box[3]])
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        center=center,
        keypoints=keypoints,
        weights=sample.weights[order],
        visible_box=box,
    )


class Background:
    """Fills what lies outside the shown part of the picture: by enlarged picture, mirrored picture, colour or noise.

    Pictures of the training set are cut closely around the persons. Black bars beside most crops would tell the model the
    extent of the person, and pictures of users have none.
    """

    def __init__(self, sample: PersonSample, generator: np.random.Generator):
        self.sample = sample
        self.kind = int(generator.integers(4))
        self.color = generator.integers(0, 256, 3).astype(np.float32)
        self.seed = int(generator.integers(2**31))

    def __call__(self, crop: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Fill a crop; `matrix` (2, 3) maps the picture to it."""
        height, width = crop.shape[:2]
        image = self.sample.image
        box = self.sample.visible_box
        left, top, right, bottom = (0, 0, image.shape[1], image.shape[0]) if box is None else box.astype(int)
        inverse = np.linalg.inv(matrix[:, :2])
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
        positions = (grid - matrix[:, 2].astype(np.float32)) @ inverse.T.astype(np.float32)
        x, y = positions[..., 0], positions[..., 1]
        outside = (x < left) | (y < top) | (x > right - 1) | (y > bottom - 1)
        if not outside.any():
            return crop
        generator = np.random.default_rng(self.seed)
        if self.kind == 0:  # a part of the picture, greatly enlarged
            size = max(2, min(image.shape[:2]) // 3)
            row, column = (int(generator.integers(edge - size + 1)) for edge in image.shape[:2])
            part = Image.fromarray(image[row : row + size, column : column + size])
            filling = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))
        elif self.kind == 1:  # the edge of the picture, continued
            rows = np.rint(y).astype(np.int64).clip(top, bottom - 1)
            columns = np.rint(x).astype(np.int64).clip(left, right - 1)
            filling = image[rows, columns]
        elif self.kind == 2:
            filling = np.broadcast_to(self.color, crop.shape)
        else:  # smooth noise
            coarse = generator.integers(0, 256, (int(generator.integers(2, 12)),) * 2 + (3,), dtype=np.uint8)
            filling = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        return np.where(outside[..., None], filling, crop).astype(np.uint8)


class Erase:
    """Covers a rectangle of the crop by noise, or by one colour in half of the cases."""

    def __init__(self, largest_area: float, generator: np.random.Generator):
        self.area = generator.uniform(0, largest_area)
        self.aspect_ratio = np.exp(generator.uniform(np.log(0.3), np.log(3.33)))
        self.position = generator.random(2)
        self.seed = int(generator.integers(2**31))
        self.color = generator.integers(0, 256, 3) if generator.random() < 0.5 else None

    def __call__(self, crop: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The crop with the rectangle covered."""
        height, width = crop.shape[:2]
        rows = min(height, round(np.sqrt(self.area * height * width * self.aspect_ratio)))
        columns = min(width, round(np.sqrt(self.area * height * width / self.aspect_ratio)))
        top, left = (self.position * (height - rows + 1, width - columns + 1)).astype(int)
        crop = crop.copy()
        noise = np.random.default_rng(self.seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        crop[top : top + rows, left : left + columns] = noise if self.color is None else self.color
        return crop


class Color:
    """Changes gamma, contrast, brightness and each channel, by a table of 256 values a channel."""

    def __init__(self, generator: np.random.Generator):
        gamma = np.exp(generator.uniform(-0.3, 0.3))
        contrast, brightness = generator.uniform(0.7, 1.3), generator.uniform(-30, 30)
        gains = generator.uniform(0.9, 1.1, 3)
        table = ((np.arange(256) / 255) ** gamma * 255 - 128) * contrast + 128 + brightness
        self.table = (table[:, None] * gains).clip(0, 255).astype(np.uint8)

    def __call__(self, crop: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The crop with other colours."""
        return np.stack([self.table[:, channel][crop[..., channel]] for channel in range(3)], axis=-1)


class TopDownCollator:
    """Items of `TopDownDataset` to a batch of an RLE model: `pixel_values`, `labels`, `label_weights`.

    Args:
        image_mean: Mean of each channel, of values from 0 to 1; those of the image processor.
        image_std: Divisor of each channel.
    """

    def __init__(self, image_mean: Sequence[float], image_std: Sequence[float]):
        self.mean = 255 * torch.tensor(image_mean, dtype=torch.float32).view(3, 1, 1)
        self.scale = 1 / (255 * torch.tensor(image_std, dtype=torch.float32).view(3, 1, 1))

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A plain dict of tensors."""
        crops = torch.from_numpy(np.stack([item["crop"] for item in items])).permute(0, 3, 1, 2)
        return {
            "pixel_values": (crops.float() - self.mean) * self.scale,
            "labels": torch.from_numpy(np.stack([item["labels"] for item in items])),
            "label_weights": torch.from_numpy(np.stack([item["label_weights"] for item in items])),
        }


__all__ = [
    "Background",
    "Color",
    "Erase",
    "PersonSample",
    "TopDownAugmentation",
    "TopDownCollator",
    "TopDownDataset",
    "crop_sample",
    "mirror_sample",
    "read_images",
]
