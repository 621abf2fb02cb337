"""Human3.6M for 3-D poses of one person, and MPII's 2-D poses beside it, as RLE trains on them (arXiv 2107.11291).

Annotations of Human3.6M are a JSON file with `images` (`file_name` as `s_09_act_02_subact_01_ca_01/...`, `width`,
`height`, `cam_param` with R, t, f and c) and `annotations` (`keypoints_world`, 17 joints in millimetres, and `bbox`) in
the same order. Protocol 2 trains on `TRAIN_SUBJECTS` and tests on each 64th frame of `TEST_SUBJECTS`.

Differences from the original code: joints that MPII does not label have no weight, unless asked for; a rectangle of noise is
laid in the square around the box, not in the box; every sample of every epoch has draws of its own.
"""

import io
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..cameras import PinholeCamera
from ..keypoint_sets import HUMAN36M18
from ..models.rle.cropping_rle import boxes_to_center_scale, clip_ground_truth_boxes
from .keypoints import _read_json, _to_rgb
from .top_down import PersonSample, TopDownDataset, crop_sample, mirror_sample, read_images


TRAIN_SUBJECTS = (1, 5, 6, 7, 8)
TEST_SUBJECTS = (9, 11)
ACTIONS = (
    "Directions",
    "Discussion",
    "Eating",
    "Greeting",
    "Phoning",
    "Posing",
    "Purchases",
    "Sitting",
    "SittingDown",
    "Smoking",
    "Photo",
    "Waiting",
    "Walking",
    "WalkDog",
    "WalkTogether",
)
"""Names of the actions; number 2 of a file name is the first."""
DAMAGED = {(9, 5, 2), (9, 10, 2), (9, 13, 1)}
"""Subject, action and take of the sequences whose poses are known to be wrong."""
LEFT_SHOULDER, RIGHT_SHOULDER = 11, 14
MPII_JOINTS = (6, 2, 1, 0, 3, 4, 5, -1, 8, -1, 9, 13, 14, 15, 12, 11, 10, 7)
"""MPII's joint for each of `HUMAN36M18`, -1 for none."""
FILE_NAME = re.compile(r"s_(\d+)_act_(\d+)_subact_(\d+)_ca_(\d+)\b")


def add_thorax(joints: np.ndarray) -> np.ndarray:
    """Joints (..., 17, 3) of Human3.6M with the mean of the shoulders as the eighteenth."""
    thorax = (joints[..., LEFT_SHOULDER, :] + joints[..., RIGHT_SHOULDER, :]) / 2
    return np.concatenate([joints, thorax[..., None, :]], axis=-2)


def image_joints(joints: np.ndarray, camera: PinholeCamera, root_index: int = 0) -> np.ndarray:
    """Joints (..., joints, 3) in the camera's frame as x and y in pixels and the depth relative to the root.

    Raises:
        ValueError: If a joint is not in front of the camera.
    """
    depths = joints[..., 2:] - joints[..., root_index : root_index + 1, 2:]
    return np.concatenate([camera.project(joints), depths], axis=-1)


@dataclass(frozen=True)
class Human36MDraws:
    """What `Human36MAugmentation` drew for one sample.

    Args:
        scale: Factor of the crop's size.
        rotation: Degrees.
        rectangle: left, top, width, height of the noise in the picture, or None.
        noise_seed: Seed of the noise.
        flip: Whether the picture is mirrored.
        gains: (3,) factor of each colour channel.
    """

    scale: float = 1.0
    rotation: float = 0.0
    rectangle: tuple[int, int, int, int] | None = None
    noise_seed: int = 0
    flip: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Human36MAugmentation:
    """The published augmentation of 3-D models: scale, rotation, a rectangle of noise, mirroring, colour.

    `augmentation(sample, generator)` draws and applies; `draw` and `apply` do one of the two.

    Args:
        scale_deviation: Standard deviation of the factor of the size, which is cut at 1 -+ this.
        rotation_deviation: Standard deviation of the angle in degrees, which is cut at twice this.
        rotation_probability: Probability of a rotation.
        rectangle_area: Largest area of the rectangle over that of the crop; 0 for none.
        rectangle_aspects: Least and greatest height over width.
        flip_probability: Probability of mirroring.
        color_gain: Largest relative change of a colour channel.
        flip_pairs: Joints that change places when mirrored.
    """

    scale_deviation: float = 0.3
    rotation_deviation: float = 30.0
    rotation_probability: float = 0.6
    rectangle_area: float = 0.7
    rectangle_aspects: tuple[float, float] = (0.3, 3.33)
    flip_probability: float = 0.5
    color_gain: float = 0.2
    flip_pairs: tuple[tuple[int, int], ...] = field(default=HUMAN36M18.flip_pairs)

    def draw(self, sample: PersonSample, generator: np.random.Generator) -> Human36MDraws:
        """Random values for a sample."""
        scale = np.clip(generator.normal(1, self.scale_deviation), 1 - self.scale_deviation, 1 + self.scale_deviation)
        rotation = 0.0
        if generator.random() < self.rotation_probability:
            limit = 2 * self.rotation_deviation
            rotation = np.clip(generator.normal(0, self.rotation_deviation), -limit, limit)
        return Human36MDraws(
            scale=float(scale),
            rotation=float(rotation),
            rectangle=self._rectangle(sample, generator) if self.rectangle_area else None,
            noise_seed=int(generator.integers(2**31)),
            flip=bool(generator.random() < self.flip_probability),
            gains=tuple(generator.uniform(1 - self.color_gain, 1 + self.color_gain, 3).tolist()),
        )

    def _rectangle(self, sample: PersonSample, generator: np.random.Generator) -> tuple[int, int, int, int] | None:
        """A rectangle in the crop and in the picture; None if a hundred draws find none, as for a box far outside."""
        limits = np.array(sample.image.shape[1::-1])
        for _ in range(100):
            area = generator.uniform(0, self.rectangle_area) * sample.scale.prod()
            aspect_ratio = generator.uniform(*self.rectangle_aspects)
            size = np.sqrt([area / aspect_ratio, area * aspect_ratio]).astype(int)
            corner = sample.center - sample.scale / 2 + generator.random(2) * (sample.scale - size)
            corner = np.floor(corner).astype(int)
            in_crop = (size > 0).all() and (size <= sample.scale).all()
            if in_crop and (corner >= 0).all() and (corner + size <= limits).all():
                return (*corner.tolist(), *size.tolist())
        return None

    def apply(self, sample: PersonSample, draws: Human36MDraws) -> PersonSample:
        """The sample changed by what was drawn; the given one is unchanged."""
        image = sample.image
        if draws.rectangle is not None:
            left, top, width, height = draws.rectangle
            image = image.copy()
            noise = np.random.default_rng(draws.noise_seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
            image[top : top + height, left : left + width] = noise
        sample = replace(
            sample,
            image=image,
            scale=(sample.scale * draws.scale).astype(np.float32),
            rotation=draws.rotation,
            after_crop=[*sample.after_crop, _Gains(draws.gains)],
        )
        return mirror_sample(sample, self.flip_pairs) if draws.flip else sample

    def __call__(self, sample: PersonSample, generator: np.random.Generator) -> PersonSample:
        """One augmented sample."""
        return self.apply(sample, self.draw(sample, generator))


@dataclass(frozen=True)
class _Gains:
    """Multiplies the channels of a crop, cut to a byte."""

    gains: tuple[float, float, float]

    def __call__(self, crop: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return (crop * np.array(self.gains)).clip(0, 255).astype(np.uint8)


class Human36MDataset(Dataset):
    """Frames of Human3.6M, one person each, with joints in the camera's frame and in the picture.

    Items are those of `TopDownDataset`, in 3-D: labels (18, 3) with x and y relative to the crop and the depth relative to
    the pelvis. The damaged sequences of subject 9 are left out.

    Attributes: `file_names`, `cameras`, `actions`, lists with one entry a frame; `joints` (frames, 18, 3) in the camera's
    frame, millimetres; `keypoints` (frames, 18, 3) pixels and relative depth in millimetres; `boxes` (frames, 4) corners.

    Args:
        annotation_file: JSON file, see the module's docstring.
        images: Folder, or .tar file, that `file_name` is relative to.
        subjects: Subjects to read, None for all that the file has.
        every: Read each of so many frames of a sequence, from its first.
        size: Height and width of the crops.
        box_padding: Crop side over box side; 1 in the published model.
        transform: Called as `transform(sample, generator)` with a `PersonSample`, returns one; `Human36MAugmentation`.
        depth_scale: Millimetres per unit of a label's depth.
        seed: With the epoch and the index it seeds the generator of a sample. Call `set_epoch` for new ones each epoch.

    Raises:
        ValueError: If the file is not in the format; the message names the place.
    """

    def __init__(
        self,
        annotation_file: str | PathLike,
        images: str | PathLike,
        subjects: Collection[int] | None = None,
        every: int = 1,
        size: tuple[int, int] = (256, 256),
        box_padding: float = 1.0,
        transform: Callable | None = None,
        depth_scale: float = 2000.0,
        seed: int = 0,
    ):
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be a positive integer, got {every!r}.")
        data = _read_json(annotation_file)
        pictures, annotations = data["images"], data.get("annotations") or []
        if len(pictures) != len(annotations):
            raise ValueError(
                "`annotation_file` must have one annotation an image, in the same order, got "
                f"{len(annotations)} annotations of {len(pictures)} images."
            )
        self._read = read_images(images)
        self.size, self.box_padding, self.transform = tuple(size), box_padding, transform
        self.depth_scale, self.seed = depth_scale, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.file_names, self.cameras, self.actions = [], [], []
        worlds, boxes, sizes = [], [], []
        cameras: dict[bytes, PinholeCamera] = {}
        counts: dict[tuple[int, ...], int] = {}
        for position, (picture, annotation) in enumerate(zip(pictures, annotations, strict=True)):
            sequence = _sequence(picture, position)
            if sequence[:3] in DAMAGED or (subjects is not None and sequence[0] not in subjects):
                continue
            counts[sequence] = counts.get(sequence, -1) + 1
            if counts[sequence] % every:
                continue
            where = f"`annotations[{position}]` of `annotation_file`"
            worlds.append(_numbers(annotation, "keypoints_world", (17, 3), where))
            boxes.append(_numbers(annotation, "bbox", (4,), where))
            where = f"`images[{position}]` of `annotation_file`"
            sizes.append([_numbers(picture, name, (), where) for name in ("height", "width")])
            camera = _camera(picture, where)
            key = b"".join(getattr(camera, name).tobytes() for name in camera.__dataclass_fields__)
            self.cameras.append(cameras.setdefault(key, camera))
            self.file_names.append(picture["file_name"])
            self.actions.append(ACTIONS[sequence[1] - 2])
        if not worlds:
            raise ValueError(f"`annotation_file` must hold frames of the subjects {subjects}, but has none.")
        corners, valid = zip(
            *(clip_ground_truth_boxes(np.array([box]), size) for box, size in zip(boxes, sizes, strict=True)),
            strict=True,
        )
        self.boxes, valid = np.concatenate(corners), np.concatenate(valid)
        if not valid.all():
            name = self.file_names[int(valid.argmin())]
            raise ValueError(f"`bbox` of {name!r} must be a box within the picture, got {boxes[int(valid.argmin())]}.")
        worlds = add_thorax(np.stack(worlds))
        self.joints, self.keypoints = np.empty_like(worlds), np.empty_like(worlds)
        for index, (world, camera) in enumerate(zip(worlds, self.cameras, strict=True)):
            self.joints[index] = camera.to_camera(world)
            try:
                self.keypoints[index] = image_joints(self.joints[index], camera)
            except ValueError as error:
                raise ValueError(f"`keypoints_world` of {self.file_names[index]!r}: {error}") from None

    def set_epoch(self, epoch: int):
        """Set the epoch, which seeds the transform."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.file_names)

    def sample(self, index: int) -> PersonSample:
        """A person before augmentation."""
        name = self.file_names[index]
        try:
            image = np.asarray(_to_rgb(Image.open(io.BytesIO(self._read(name)))))
        except FileNotFoundError:
            raise ValueError(f"`images` lacks {name!r}.") from None
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{name!r} cannot be read as an image: {error}") from error
        height, width = self.size
        centers, scales = boxes_to_center_scale(self.boxes[index : index + 1], width / height, self.box_padding)
        keypoints = self.keypoints[index].copy()
        return PersonSample(image, centers[0], scales[0], keypoints, np.ones_like(keypoints))

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        sample = self.sample(index)
        if self.transform is not None:
            sample = self.transform(sample, np.random.default_rng((self.seed, int(self._epoch), index)))
        item = crop_sample(sample, self.size, depth_scale=self.depth_scale)
        return {**item, "box": self.boxes[index].astype(np.float32)}


class MPIIDataset(TopDownDataset):
    """Persons of MPII with the joints of Human3.6M, without depth; items as those of `Human36MDataset`.

    Args:
        annotation_file: JSON file in COCO's format; the 16 keypoints are MPII's in its order, whatever their names.
        images: Folder, or .tar file, that `file_name` is relative to.
        size: Height and width of the crops.
        box_padding: Crop side over box side.
        transform: As for `Human36MDataset`.
        weigh_unlabelled: Whether unlabelled joints, which lie in the corner of the picture, count like the others where the
            crop shows that corner, as in the original.
        seed: As for `Human36MDataset`.
    """

    def __init__(
        self,
        annotation_file: str | PathLike,
        images: str | PathLike,
        size: tuple[int, int] = (256, 256),
        box_padding: float = 1.25,
        transform: Callable | None = None,
        weigh_unlabelled: bool = False,
        seed: int = 0,
    ):
        super().__init__(
            annotation_file,
            images,
            keypoint_set=HUMAN36M18,
            size=size,
            box_padding=box_padding,
            transform=transform,
            seed=seed,
        )
        self.weigh_unlabelled = weigh_unlabelled

    def _rows(self, category: dict, fields: tuple[str, ...]) -> list[np.ndarray]:
        """MPII's joints by their order: the place of each among those of Human3.6M."""
        return [np.array([MPII_JOINTS.index(joint) for joint in range(16)])]

    def sample(self, index: int) -> PersonSample:
        """A person before augmentation."""
        sample = super().sample(index)
        keypoints = self.keypoints[index]
        known = np.array(MPII_JOINTS) >= 0
        weights = np.zeros((len(known), 3))
        weights[:, :2] = (known if self.weigh_unlabelled else keypoints[:, 2] > 0)[:, None]
        joints = np.concatenate([keypoints[:, :2], np.zeros((len(known), 1))], axis=1)
        return replace(sample, keypoints=joints, weights=weights)


class MixedPoseDataset(Dataset):
    """An epoch of 3-D training: every frame of Human3.6M, and as many persons of MPII drawn at random.

    Args:
        human36m: The 3-D data.
        mpii: The 2-D data, with the same joints.
        seed: With the epoch and the index it seeds the choice of a person.

    Raises:
        ValueError: If the sizes of the crops differ.
    """

    def __init__(self, human36m: Dataset, mpii: Dataset, seed: int = 0):
        if human36m.size != mpii.size:
            raise ValueError(
                f"`human36m` and `mpii` must have crops of one size, got {human36m.size} and {mpii.size}."
            )
        self.human36m, self.mpii, self.seed = human36m, mpii, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Set the epoch, which seeds the choice and the transforms."""
        self._epoch.fill_(epoch)
        self.human36m.set_epoch(epoch)
        self.mpii.set_epoch(epoch)

    def __len__(self) -> int:
        return 2 * len(self.human36m)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        if index < len(self.human36m):
            return self.human36m[index]
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        return self.mpii[int(generator.integers(len(self.mpii)))]


def _sequence(picture: Any, position: int) -> tuple[int, ...]:
    """Subject, action, take and camera of a frame."""
    name = picture.get("file_name") if isinstance(picture, dict) else None
    match = FILE_NAME.search(name) if isinstance(name, str) else None
    sequence = tuple(int(number) for number in match.groups()) if match else (0, 0)
    if not 2 <= sequence[1] < 2 + len(ACTIONS):
        raise ValueError(
            f"`images[{position}]['file_name']` of `annotation_file` must name the sequence as "
            f"s_09_act_02_subact_01_ca_01, with an action from 2 to {1 + len(ACTIONS)}, got {name!r}."
        )
    return sequence


def _camera(picture: dict, where: str) -> PinholeCamera:
    parameters = picture.get("cam_param")
    if not isinstance(parameters, dict) or not {"R", "t", "f", "c"} <= set(parameters):
        raise ValueError(f"{where} must have R, t, f and c in 'cam_param', got {parameters!r}.")
    shapes = {"f": (2,), "c": (2,), "R": (3, 3), "t": (3,)}
    return PinholeCamera(*(_numbers(parameters, name, shape, where) for name, shape in shapes.items()))


def _numbers(mapping: Any, name: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    value = mapping.get(name) if isinstance(mapping, dict) else None
    try:
        array = np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if not np.isfinite(array).all():
        raise ValueError(f"{where} must have finite numbers of shape {shape} in {name!r}, got {str(value)[:80]}.")
    return array


__all__ = [
    "ACTIONS",
    "TEST_SUBJECTS",
    "TRAIN_SUBJECTS",
    "Human36MAugmentation",
    "Human36MDataset",
    "Human36MDraws",
    "MPIIDataset",
    "MixedPoseDataset",
    "add_thorax",
    "image_joints",
]
