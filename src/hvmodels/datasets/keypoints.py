"""Keypoint data sets in COCO's format: reading, training augmentation, collation and batching.

COCO, CrowdPose and Human-Art come in this format, and so may any other set of keypoints. Augmentation is that of DETR as
ED-Pose uses it (arXiv 2302.01593; github.com/IDEA-Research/ED-Pose), with its conventions: a mirrored keypoint lies at
`width - x - 1`, a mirrored box edge at `width - x`, and a crop moves keypoints that it cuts off onto its border.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback

from ..keypoint_sets import KEYPOINT_SETS, KeypointSet, flip_permutation
from ..models.ed_pose.image_processing_ed_pose import EDPoseImageProcessor, get_resized_size


def _read_json(path: str | PathLike) -> dict:
    try:
        data = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"`annotation_file` names {str(path)!r}, which does not exist.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"`annotation_file` names {str(path)!r}, which cannot be read as JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise ValueError(f"`annotation_file` {str(path)!r} must be a COCO file: an object with a list 'images'.")
    return data


def _select_categories(data: dict, categories: Sequence[int | str] | None, needs_keypoints: bool) -> list[dict]:
    """The categories to read, in the order of the file."""
    known = data.get("categories") or []
    if not known:
        ids = sorted({a["category_id"] for a in data.get("annotations") or () if "category_id" in a} or {1})
        known = [{"id": category_id, "name": str(category_id)} for category_id in ids]
    if categories is not None:
        names = {category["id"] for category in known} | {category.get("name") for category in known}
        if absent := [name for name in categories if name not in names]:
            raise ValueError(
                f"`categories` must be among {[(category['id'], category.get('name')) for category in known]}, "
                f"got {absent}."
            )
        return [category for category in known if category["id"] in categories or category.get("name") in categories]
    with_keypoints = [category for category in known if category.get("keypoints")]
    if not with_keypoints and needs_keypoints:
        raise ValueError(
            "`annotation_file` must list keypoint names in a category (as COCO's 'person'), but none does; pass "
            "`keypoint_set`."
        )
    return with_keypoints or known


def _keypoint_set_of(categories: list[dict]) -> KeypointSet:
    """The known set with these keypoint names, else one made from the names and the skeleton of the file."""
    names = {tuple(category.get("keypoints") or ()) for category in categories}
    if len(names) != 1 or not all(names):
        raise ValueError(
            f"`categories` must have one and the same list of keypoints, got {sorted(names)}; choose some by "
            "`categories`, or pass `keypoint_set`."
        )
    (keypoints,) = names
    for keypoint_set in KEYPOINT_SETS.values():
        if keypoint_set.keypoints == keypoints:
            return keypoint_set
    category = categories[0]
    links = [(first - 1, second - 1) for first, second in category.get("skeleton") or ()]
    return KeypointSet.from_names(keypoints, links, name=str(category.get("name", "custom")))


class _Annotations:
    """The annotations that training reads as a few arrays: small, and shared by worker processes without copies."""

    def __init__(self, data: dict, image_indices: dict[int, int], category_ids: list[int], num_keypoints: int):
        chosen = _choose_annotations(data, image_indices, category_ids)
        images = np.array([image_indices[annotation["image_id"]] for _, annotation in chosen], dtype=np.int64)
        order = np.argsort(images, kind="stable")
        chosen = [chosen[index] for index in order]
        self.starts, self.ends = (
            np.searchsorted(images[order], np.arange(len(image_indices)), side=side) for side in ("left", "right")
        )
        self.ids = np.array([annotation.get("id", position) for position, annotation in chosen], dtype=np.int64)
        self.category_ids = np.array([annotation["category_id"] for _, annotation in chosen], dtype=np.int64)
        self.crowd = np.array([bool(annotation.get("iscrowd")) for _, annotation in chosen], dtype=bool)
        self.boxes = _stack(chosen, "bbox", [annotation.get("bbox") for _, annotation in chosen], 4)
        _check(chosen, "bbox", (self.boxes[:, 2:] >= 0).all(axis=1), "x, y, width, height, with no negative size")

        keypoints = [annotation.get("keypoints") for _, annotation in chosen]
        for index, (_, annotation) in enumerate(chosen):
            if keypoints[index] is None and (annotation.get("iscrowd") or annotation.get("num_keypoints") == 0):
                keypoints[index] = [0] * (3 * num_keypoints)
        keypoints = _stack(chosen, "keypoints", keypoints, 3 * num_keypoints)
        self.keypoints = keypoints.astype(np.float32).reshape(-1, num_keypoints, 3)
        known = np.isin(self.keypoints[..., 2], (0, 1, 2)).all(axis=1)
        _check(chosen, "keypoints", known, "v = 0 (not labelled), 1 (hidden) or 2 (visible) as every third number")

        areas = [annotation.get("area") for _, annotation in chosen]
        self.areas = _stack(chosen, "area", [[-1.0 if area is None else area] for area in areas], 1)[:, 0]
        absent = np.array([area is None for area in areas], dtype=bool)
        _check(chosen, "area", absent | (self.areas >= 0), "a number of pixels that is not negative")
        labelled = (self.keypoints[..., 2] > 0).sum(axis=1)
        counts = [
            [labelled[index] if annotation.get("num_keypoints") is None else annotation["num_keypoints"]]
            for index, (_, annotation) in enumerate(chosen)
        ]
        self.num_keypoints = _stack(chosen, "num_keypoints", counts, 1)[:, 0].astype(np.int64)

    def of_image(self, index: int) -> list[dict]:
        """COCO annotations of one image."""
        annotations = []
        for row in range(self.starts[index], self.ends[index]):
            annotation = {
                "id": int(self.ids[row]),
                "category_id": int(self.category_ids[row]),
                "bbox": self.boxes[row].tolist(),
                "keypoints": self.keypoints[row].reshape(-1).tolist(),
                "num_keypoints": int(self.num_keypoints[row]),
                "iscrowd": int(self.crowd[row]),
            }
            if self.areas[row] >= 0:
                annotation["area"] = float(self.areas[row])
            annotations.append(annotation)
        return annotations

    def counts_of_images(self) -> np.ndarray:
        """(images,) labelled keypoints of all annotations of each image."""
        sums = np.concatenate([[0], np.cumsum(self.num_keypoints)])
        return sums[self.ends] - sums[self.starts]


def _choose_annotations(data: dict, image_indices: dict[int, int], category_ids: list[int]) -> list[tuple[int, dict]]:
    """The annotations of the categories to read, with their positions in the file."""
    known_ids = {category["id"] for category in data.get("categories") or ()} or set(category_ids)
    chosen = []
    for position, annotation in enumerate(data.get("annotations") or ()):
        if not isinstance(annotation, dict):
            raise ValueError(f"`annotations[{position}]` of `annotation_file` must be an object, got {annotation!r}.")
        if annotation.get("category_id") not in known_ids:
            raise ValueError(
                f"`annotations[{position}]['category_id']` of `annotation_file` must be one of {sorted(known_ids)}, "
                f"its categories, got {annotation.get('category_id')!r}."
            )
        if annotation.get("image_id") not in image_indices:
            raise ValueError(
                f"`annotations[{position}]['image_id']` of `annotation_file` must be the id of one of its images, "
                f"got {annotation.get('image_id')!r}."
            )
        if annotation["category_id"] in category_ids:
            chosen.append((position, annotation))
    return chosen


def _stack(chosen: list[tuple[int, dict]], field: str, values: list, length: int) -> np.ndarray:
    """(annotations, length) float64 from the values of a field."""
    for (position, _), value in zip(chosen, values, strict=True):
        if not isinstance(value, list) or len(value) != length:
            found = f"{len(value)} numbers" if isinstance(value, list) else repr(value)
            raise ValueError(
                f"`annotations[{position}]['{field}']` of `annotation_file` must be a list of {length} numbers, "
                f"got {found}."
            )
    try:
        array = np.array(values).reshape(len(values), length)
        numeric = array.dtype.kind in "biuf" or array.size == 0
    except ValueError:  # lists among the numbers
        numeric = False
    if not numeric:
        right = [all(isinstance(number, int | float) for number in value) for value in values]
        _check(chosen, field, np.array(right), "numbers")
    array = array.astype(np.float64)
    _check(chosen, field, np.isfinite(array).all(axis=1), "finite numbers")
    return array


def _check(chosen: list[tuple[int, dict]], field: str, right: np.ndarray, rule: str):
    """Raise for the first annotation that is not right."""
    if not right.all():
        position, annotation = chosen[int(right.argmin())]
        raise ValueError(
            f"`annotations[{position}]['{field}']` of `annotation_file` must hold {rule}, got {annotation[field]!r}."
        )


class KeypointDataset(Dataset):
    """Images and annotations of a data set in COCO's keypoint format.

    An item is `{"image": PIL image, "annotations": {"image_id": int, "annotations": [COCO annotation, ...]},
    "do_resize": bool}`, which `KeypointCollator` turns into a batch. Images are in ascending order of their ids.

    Args:
        annotation_file: JSON file with `images`, `annotations` and `categories`.
        image_folder: Folder that the `file_name` of each image is relative to.
        keypoint_set: Keypoints of the annotations; None takes names and skeleton from the categories of the file.
        categories: Names or ids of the categories to read; None reads those that have keypoints.
        transform: Called as `transform(image, annotations, generator)`, returns the first two changed;
            `KeypointAugmentation` for training.
        skip_without_keypoints: Whether images without any labelled keypoint are left out, as the recipe has it for
            training; for evaluation all images count.
        seed: With the epoch and the index it seeds the generator of a sample, so that a sample is the same in any
            worker, process and order. Call `set_epoch` (or use `EpochCallback`) for new ones each epoch.

    Raises:
        ValueError: If the file or an annotation is not in the format; the message names the place.
    """

    def __init__(
        self,
        annotation_file: str | PathLike,
        image_folder: str | PathLike,
        keypoint_set: KeypointSet | None = None,
        categories: Sequence[int | str] | None = None,
        transform: Callable | None = None,
        skip_without_keypoints: bool = False,
        seed: int = 0,
    ):
        data = _read_json(annotation_file)
        self.image_folder = Path(image_folder)
        if not self.image_folder.is_dir():
            raise ValueError(f"`image_folder` names {str(image_folder)!r}, which is not a folder.")
        self.categories = _select_categories(data, categories, keypoint_set is None)
        self.keypoint_set = _keypoint_set_of(self.categories) if keypoint_set is None else keypoint_set
        self.transform = transform
        self.seed = seed
        # In shared memory: workers that stay alive between epochs see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

        for position, image in enumerate(data["images"]):
            if not isinstance(image, dict) or not isinstance(image.get("id"), int) or not image.get("file_name"):
                raise ValueError(
                    f"`images[{position}]` of `annotation_file` must have an integer 'id' and a 'file_name', "
                    f"got {image!r}."
                )
        images = sorted(data["images"], key=lambda image: image["id"])
        image_indices = {image["id"]: index for index, image in enumerate(images)}
        if len(image_indices) != len(images):
            raise ValueError("`images` of `annotation_file` must have different ids, but some repeat.")
        self._annotations = _Annotations(data, image_indices, self.category_ids, len(self.keypoint_set))
        indices = np.arange(len(images))
        if skip_without_keypoints:
            indices = indices[self._annotations.counts_of_images() > 0]
        self._indices = indices
        self.image_ids = [images[index]["id"] for index in indices]
        self.file_names = [images[index]["file_name"] for index in indices]
        self._sizes = [(images[index].get("width"), images[index].get("height")) for index in indices]

    @property
    def category_ids(self) -> list[int]:
        """Ids of the categories, `category_ids` of the image processor."""
        return [category["id"] for category in self.categories]

    @property
    def id2label(self) -> dict[int, str]:
        """Class labels of the model: 0 is never used, then the categories."""
        return {0: "N/A", **{index + 1: str(c.get("name", c["id"])) for index, c in enumerate(self.categories)}}

    @property
    def aspect_ratios(self) -> np.ndarray:
        """(images,) width divided by height, for `AspectRatioBatchSampler`; files are opened where the JSON has none."""
        ratios = [
            width / height if width and height else self._open(index).width / self._open(index).height
            for index, (width, height) in enumerate(self._sizes)
        ]
        return np.array(ratios, dtype=np.float64)

    def set_epoch(self, epoch: int):
        """Set the epoch, which seeds the transform."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        image = _to_rgb(self._open(index))
        annotations = {
            "image_id": self.image_ids[index],
            "annotations": self._annotations.of_image(self._indices[index]),
        }
        do_resize = True
        if self.transform is not None:
            generator = np.random.default_rng((self.seed, int(self._epoch), index))
            image, annotations = self.transform(image, annotations, generator)
            do_resize = not getattr(self.transform, "resizes", False)
        return {"image": image, "annotations": annotations, "do_resize": do_resize}

    def _open(self, index: int) -> Image.Image:
        """The image in the orientation in which it was annotated, which its size in the JSON file tells."""
        path = self.image_folder / self.file_names[index]
        try:
            image = Image.open(path)
            size = self._sizes[index]
            if None in size or image.size == size:
                return image
            upright = ImageOps.exif_transpose(image)
        except FileNotFoundError:
            raise ValueError(
                f"`image_folder` lacks {self.file_names[index]!r} (image {self.image_ids[index]})."
            ) from None
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as an image: {error}") from error
        if upright.size == size:
            return upright
        raise ValueError(f"{str(path)!r} has (width, height) {image.size}, but `annotation_file` says {size}.")


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB without an EXIF orientation, which would turn the image away from its annotations."""
    try:
        if image.mode.startswith("I"):
            grey = ((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(grey)
        return Image.fromarray(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{getattr(image, 'filename', 'An image')!r} cannot be decoded: {error}") from error


def _move(annotations: dict, move_box: Callable, move_keypoints: Callable) -> dict:
    """Annotations of an image with boxes (4,) x, y, width, height and keypoints (K, 3) changed."""
    moved = []
    for annotation in annotations["annotations"]:
        annotation = dict(annotation)
        if annotation.get("bbox") is not None:
            annotation["bbox"] = move_box(np.array(annotation["bbox"], dtype=np.float64)).tolist()
        if annotation.get("keypoints") is not None:
            keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
            annotation["keypoints"] = move_keypoints(keypoints).reshape(-1).tolist()
        moved.append(annotation)
    return {**annotations, "annotations": moved}


def flip(image: Image.Image, annotations: dict, flip_pairs: Sequence[tuple[int, int]]) -> tuple[Image.Image, dict]:
    """Mirror an image with its annotations; the keypoints of each pair change places."""
    width = image.width

    def flip_box(box):
        box[0] = width - box[0] - box[2]
        return box

    def flip_keypoints(keypoints):
        keypoints[:, 0] = width - keypoints[:, 0] - 1
        return keypoints[flip_permutation(len(keypoints), flip_pairs)]

    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), _move(annotations, flip_box, flip_keypoints)


def crop(
    image: Image.Image, annotations: dict, top: int, left: int, height: int, width: int
) -> tuple[Image.Image, dict]:
    """Cut a region out of an image.

    Boxes are cut to the region and persons whose box lies outside are dropped; `area` becomes that of the box. Keypoints
    outside move onto the border, with unchanged visibility.
    """
    offset, extent = np.array([left, top]), np.array([width, height])

    def crop_box(box):
        corners = np.stack([box[:2], box[:2] + box[2:]]) - offset
        corners = corners.clip(0, extent)
        return np.concatenate([corners[0], corners[1] - corners[0]])

    def crop_keypoints(keypoints):
        keypoints[:, :2] = (keypoints[:, :2] - offset).clip(0, extent)
        return keypoints

    annotations = _move(annotations, crop_box, crop_keypoints)
    kept = [
        {**annotation, "area": annotation["bbox"][2] * annotation["bbox"][3]}
        for annotation in annotations["annotations"]
        if min(annotation["bbox"][2:]) > 0
    ]
    return image.crop((left, top, left + width, top + height)), {**annotations, "annotations": kept}


def resize(
    image: Image.Image, annotations: dict, height: int, width: int, resample: int = Image.Resampling.BILINEAR
) -> tuple[Image.Image, dict]:
    """Resize an image with its annotations."""
    scale = np.array([width / image.width, height / image.height])

    def resize_keypoints(keypoints):
        keypoints[:, :2] *= scale
        return keypoints

    annotations = _move(annotations, lambda box: box * np.tile(scale, 2), resize_keypoints)
    for annotation in annotations["annotations"]:
        if annotation.get("area") is not None:
            annotation["area"] = annotation["area"] * float(scale.prod())
    if image.size != (width, height):
        image = image.resize((width, height), resample)
    return image, annotations


class KeypointAugmentation:
    """Training augmentation of ED-Pose: mirror, then resize to a random size, with a random crop before in half the cases.

    The result has its final size, so the image processor must not resize it again; `KeypointDataset` and
    `KeypointCollator` see to that.

    Args:
        flip_pairs: Pairs of keypoints that change places in a mirrored image, `KeypointSet.flip_pairs`.
        sizes: Short sides to choose from.
        max_size: Limit of the long side.
        flip_probability: Probability of mirroring.
        crop_probability: Probability of the branch with the crop.
        crop_resize_sizes: Short sides to choose from before the crop.
        crop_range: Least and greatest side of the crop, in pixels.

    Raises:
        ValueError: If a probability or a size is out of range.
    """

    resizes = True

    def __init__(
        self,
        flip_pairs: Sequence[tuple[int, int]],
        sizes: Sequence[int] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        max_size: int = 1333,
        flip_probability: float = 0.5,
        crop_probability: float = 0.5,
        crop_resize_sizes: Sequence[int] = (400, 500, 600),
        crop_range: tuple[int, int] = (384, 600),
    ):
        for name, value in (("flip_probability", flip_probability), ("crop_probability", crop_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")
        for name, values in (("sizes", sizes), ("crop_resize_sizes", crop_resize_sizes), ("crop_range", crop_range)):
            if not values or min(values) < 1:
                raise ValueError(f"`{name}` must hold positive numbers of pixels, got {values}.")
        if len(crop_range) != 2 or crop_range[0] > crop_range[1]:
            raise ValueError(f"`crop_range` must be (least, greatest), got {crop_range}.")
        self.flip_pairs = tuple(flip_pairs)
        self.sizes = tuple(sizes)
        self.max_size = max_size
        self.flip_probability = flip_probability
        self.crop_probability = crop_probability
        self.crop_resize_sizes = tuple(crop_resize_sizes)
        self.crop_range = tuple(crop_range)

    def __call__(
        self, image: Image.Image, annotations: dict, generator: np.random.Generator
    ) -> tuple[Image.Image, dict]:
        """Augment one image with its COCO annotations `{"image_id", "annotations": [...]}`."""
        if generator.random() < self.flip_probability:
            image, annotations = flip(image, annotations, self.flip_pairs)
        if generator.random() < self.crop_probability:
            size = get_resized_size(image.height, image.width, int(generator.choice(self.crop_resize_sizes)))
            image, annotations = resize(image, annotations, *size)
            height, width = (
                int(generator.integers(min(self.crop_range[0], edge), min(self.crop_range[1], edge), endpoint=True))
                for edge in (image.height, image.width)
            )
            top = int(generator.integers(image.height - height, endpoint=True))
            left = int(generator.integers(image.width - width, endpoint=True))
            image, annotations = crop(image, annotations, top, left, height, width)
        size = get_resized_size(image.height, image.width, int(generator.choice(self.sizes)), self.max_size)
        return resize(image, annotations, *size)


class KeypointCollator:
    """Items of `KeypointDataset` to a batch of ED-Pose: `pixel_values`, `pixel_mask`, `labels`.

    Args:
        image_processor: Resizes (unless an augmentation has), normalises, pads, and makes the labels.
        options: Further options of the image processor, such as `pad_size` for batches of one fixed size.
    """

    def __init__(self, image_processor: EDPoseImageProcessor, **options):
        self.image_processor = image_processor
        self.options = options

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A plain dict, of which Trainer and Accelerate move every tensor to the device.

        Raises:
            ValueError: If some items are resized and some are not.
        """
        do_resize = {item.get("do_resize", True) for item in items}
        if len(do_resize) > 1:
            raise ValueError("`items` must be all resized by an augmentation or none of them.")
        batch = self.image_processor(
            [item["image"] for item in items],
            [item["annotations"] for item in items],
            return_tensors="pt",
            **{"do_resize": do_resize.pop() and self.image_processor.do_resize, **self.options},
        )
        return dict(batch)


class AspectRatioBatchSampler(Sampler[list[int]]):
    """Batches of images of similar shape, which need little padding; each image once an epoch.

    Images are shuffled, sorted by aspect ratio within chunks of `chunk_size` batches, cut into batches, and the batches
    shuffled. Without `shuffle` all images are sorted.

    Args:
        aspect_ratios: Width divided by height of each image.
        batch_size: Images a batch; only the last one may have fewer.
        shuffle: Whether the order is random, seeded by `seed` and the epoch.
        drop_last: Whether an incomplete batch, and with several processes the surplus batches, are dropped. Else the
            first batches repeat so that each process has as many.
        seed: Seed of the order.
        num_replicas: Processes that share the batches; leave it at 1 where Accelerate or Trainer shares them out.
        rank: Index of this process.
        chunk_size: Batches that are sorted together.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float],
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        chunk_size: int = 50,
    ):
        for name, value in (("batch_size", batch_size), ("num_replicas", num_replicas), ("chunk_size", chunk_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"`rank` must be from 0 to `num_replicas` - 1 = {num_replicas - 1}, got {rank}.")
        self.aspect_ratios = np.asarray(aspect_ratios, dtype=np.float64)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.chunk_size = chunk_size
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Set the epoch, which seeds the order."""
        self.epoch = epoch

    @property
    def _num_batches(self) -> int:
        """Batches of all processes before they are shared out."""
        full, rest = divmod(len(self.aspect_ratios), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        return self._num_batches // self.num_replicas if self.drop_last else -(-self._num_batches // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = np.arange(len(self.aspect_ratios))
        chunk = len(order) or 1
        if self.shuffle:
            order, chunk = generator.permutation(order), self.batch_size * self.chunk_size
            if self.drop_last:  # random images, before sorting; else always the widest of a small data set
                order = order[: self._num_batches * self.batch_size]
        chunks = (order[start : start + chunk] for start in range(0, len(order), chunk))
        order = [
            index for part in chunks for index in part[np.argsort(self.aspect_ratios[part], kind="stable")].tolist()
        ]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        batches = batches[: self._num_batches]
        if self.shuffle:
            # Accelerate wants an incomplete batch last.
            full = [batch for batch in batches if len(batch) == self.batch_size]
            batches = [full[index] for index in generator.permutation(len(full))] + batches[len(full) :]
        total = len(self) * self.num_replicas
        for position in range(self.rank, total, self.num_replicas):
            yield batches[position % len(batches)]


class EpochCallback(TrainerCallback):
    """Tells data sets the epoch when Trainer begins one.

    Trainer does so itself, but not in every setting of several processes.

    Args:
        datasets: Data sets with `set_epoch`; `ConcatDataset` and `Subset` are looked into.
    """

    def __init__(self, *datasets: Dataset):
        self.datasets = datasets

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Set the epoch of each data set."""
        pending = list(self.datasets)
        while pending:
            dataset = pending.pop()
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(int(state.epoch or 0))
            else:
                pending.extend(getattr(dataset, "datasets", None) or [dataset.dataset])


__all__ = [
    "AspectRatioBatchSampler",
    "EpochCallback",
    "KeypointAugmentation",
    "KeypointCollator",
    "KeypointDataset",
    "crop",
    "flip",
    "resize",
]
