"""Images and COCO keypoint annotations to inputs of ED-Pose, and its outputs to poses in pixels.

The arithmetic is that of the original (github.com/IDEA-Research/ED-Pose, arXiv 2302.01593) to the last bit for 8-bit
images: Pillow's bilinear filter, ImageNet statistics, zeros right and below of the normalised image. Deliberate
differences: images of any mode are read (the original takes RGB and grey), `pixel_mask` is 1 on the image (there it is
True on the padding), keypoints come as (persons, keypoints, 2) with their visibility apart, a keypoint's score is that
of its person (there it is the constant sigmoid(1) = 0.731), and annotations are checked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from ...image_reading import channels_first, flatten_images, pil_to_array, to_uint8_or_float32


class EDPoseImageProcessorKwargs(ImagesKwargs, total=False):
    """Options beyond those of every image processor, see `EDPoseImageProcessor`."""

    num_keypoints: int
    category_ids: list[int] | tuple[int, ...]


def get_resized_size(height: int, width: int, shortest_edge: int, longest_edge: int | None = None) -> tuple[int, int]:
    """(height, width) after the original's resize.

    The short side becomes `shortest_edge`, or less if the long side would exceed `longest_edge`; it is rounded before
    the long side is computed from it and truncated, so that the long side may miss `longest_edge` by a few pixels.
    `transformers` takes the unrounded short side and often gets another long side.

    Raises:
        ValueError: If the short side would vanish.
    """
    short, long = min(height, width), max(height, width)
    if longest_edge is not None and long / short * shortest_edge > longest_edge:
        shortest_edge = round(longest_edge * short / long)
        if shortest_edge == 0:
            raise ValueError(
                f"An image of height {height} and width {width} is too elongated for `size` with a longest edge of "
                f"{longest_edge}; crop it first."
            )
    if short == shortest_edge:
        return height, width
    long = int(shortest_edge * long / short)
    return (long, shortest_edge) if height > width else (shortest_edge, long)


def _numbers(value: Any, count: int, name: str, meaning: str) -> np.ndarray:
    """(count,) finite float64."""
    try:
        array = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be {meaning}, got {value!r}.") from None
    if array.size != count:
        raise ValueError(f"`{name}` must be {meaning}, got {array.size} numbers.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must hold finite numbers, got {value!r}.")
    return array


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _read_person(annotation: Any, num_keypoints: int, category_ids: Sequence[int], name: str) -> dict | None:
    """Label, box (4,), keypoints (K, 3) and area of one annotation, None where it is no training target."""
    if not isinstance(annotation, dict):
        raise ValueError(f"`{name}` must be a COCO annotation (dict), got {type(annotation).__name__}.")
    if annotation.get("iscrowd") or annotation.get("num_keypoints") == 0:
        return None
    if missing := [key for key in ("bbox", "keypoints", "category_id") if annotation.get(key) is None]:
        raise ValueError(f"`{name}` must have the keys 'bbox', 'keypoints' and 'category_id'; {missing} are missing.")
    if annotation["category_id"] not in category_ids:
        raise ValueError(
            f"`{name}['category_id']` must be one of {list(category_ids)}, got {annotation['category_id']!r}; "
            "set `category_ids` of the image processor to the categories of the data set."
        )
    keypoints = _numbers(
        annotation["keypoints"],
        3 * num_keypoints,
        f"{name}['keypoints']",
        f"x, y, v of {num_keypoints} keypoints ({3 * num_keypoints} numbers; `num_keypoints` of the image processor)",
    ).reshape(num_keypoints, 3)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError(
            f"`{name}['keypoints']` must have v = 0 (not labelled), 1 (hidden) or 2 (visible) as every third number, "
            f"got {keypoints[:, 2].tolist()}."
        )
    box = _numbers(annotation["bbox"], 4, f"{name}['bbox']", "x, y, width, height in pixels")
    if (box[2:] < 0).any():
        raise ValueError(
            f"`{name}['bbox']` must be x, y, width, height in pixels, got a negative size: {box.tolist()}."
        )
    area = annotation.get("area")
    if area is not None and (area := _numbers(area, 1, f"{name}['area']", "a number of pixels")[0]) < 0:
        raise ValueError(f"`{name}['area']` must be a number of pixels, got {area}; leave it out to take the box's.")
    if annotation.get("num_keypoints") is None and not keypoints[:, 2].any():
        return None
    label = list(category_ids).index(annotation["category_id"]) + 1
    return {"label": label, "box": box, "keypoints": keypoints, "area": area}


class EDPoseImageProcessor(PilBackend):
    """Prepares images and annotations for ED-Pose and turns its outputs into poses.

    Args:
        size: `{"shortest_edge", "longest_edge"}` by the rule of `get_resized_size`, or `{"height", "width"}`.
        num_keypoints: Keypoints of an annotation.
        category_ids: Category ids of the annotations; the i-th becomes the class label i + 1, as class 0 is never used.
        do_convert_rgb: Whether images of every mode become RGB. Alpha is dropped, 16-bit grey is divided by 257. If
            False, images keep their channels, and `image_mean` and `image_std` must have as many.
        do_pad: Whether images get zeros right and below up to the largest height and width of the batch (or
            `pad_size`), with `pixel_mask`.
        kwargs: The further options of every image processor: `do_resize`, `resample`, `do_rescale`, `rescale_factor`,
            `do_normalize`, `image_mean`, `image_std`, `pad_size`.

    Raises:
        ValueError: On options out of range.
    """

    valid_kwargs = EDPoseImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 800, "longest_edge": 1333}
    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = True
    num_keypoints = 17
    category_ids = [1]

    def __init__(self, **kwargs: Unpack[EDPoseImageProcessorKwargs]):
        super().__init__(**kwargs)
        if not _is_integer(self.num_keypoints) or self.num_keypoints < 1:
            raise ValueError(f"`num_keypoints` must be a positive integer, got {self.num_keypoints!r}.")
        self.category_ids = list(self.category_ids)
        if not self.category_ids or len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"`category_ids` must be one or more different ids, got {self.category_ids}.")

    def preprocess(
        self,
        images: ImageInput,
        annotations: dict | Sequence[dict] | None = None,
        **kwargs: Unpack[EDPoseImageProcessorKwargs],
    ) -> BatchFeature:
        """Images, and annotations if there are, to model inputs.

        Args:
            images: PIL images of any mode, arrays or tensors (channels first or last, grey without channels), paths
                or URLs; one or a list. Numbers are 8-bit (any integer type up to 255), 16-bit (uint16), or floats from 0 to
                255; pass `do_rescale=False` for floats from 0 to 1. PIL images and files are turned upright as their
                EXIF orientation says.
            annotations: One dict an image, `{"image_id": int, "annotations": [COCO annotation, ...]}`, in pixels of
                the image. Crowd regions, persons without labelled keypoints and boxes that are empty inside the
                image are left out. Persons without `area`, or with area 0, get that of their box (CrowdPose has none).
            kwargs: Options of the class for this call, and `return_tensors`.

        Returns:
            `pixel_values` (batch, 3, height, width) float32; `pixel_mask` (batch, height, width) int64, 1 on the image; with
            annotations `labels`, one dict an image: `class_labels` (persons,), `boxes` (persons, 4) as centre and
            size, `keypoints` (persons, keypoints, 2), `keypoints_visible` (persons, keypoints) 0 or 1, `area`
            (persons,), all relative to the image's own size; `orig_size` and `size`, (height, width) before and after
            the resize; `image_id` if given.

        Raises:
            ValueError: If an image or an annotation is not as described.
        """
        return super().preprocess(images, annotations, **kwargs)

    def _preprocess_image_like_inputs(self, images: ImageInput, annotations: Any = None, **kwargs) -> BatchFeature:
        images = flatten_images(images)
        if not images:
            raise ValueError("`images` must hold at least one image, got an empty list.")
        options = {name: kwargs[name] for name in ("do_convert_rgb", "input_data_format")}
        images = [self.process_image(image, name=f"images[{index}]", **options) for index, image in enumerate(images)]
        if isinstance(annotations, dict):
            annotations = [annotations]
        if annotations is not None and len(annotations) != len(images):
            raise ValueError(
                f"`annotations` must hold one dict an image, got {len(annotations)} for {len(images)} images."
            )
        return self._preprocess(images, annotations, **kwargs)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | None = None,
        name: str = "image",
        **kwargs,
    ) -> np.ndarray:
        """One image of any kind as (channels, height, width), uint8 or float32."""
        is_tensor = isinstance(image, torch.Tensor)
        if isinstance(image, Image.Image):
            image, input_data_format = pil_to_array(image, do_convert_rgb, name), "channels_last"
        elif is_tensor:
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        image = channels_first(to_uint8_or_float32(image, name), input_data_format, is_tensor, name)
        if do_convert_rgb and len(image) != 3:
            image = np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]
        return image

    def _preprocess(
        self,
        images: list[np.ndarray],
        annotations: Sequence[dict] | None,
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        do_pad: bool,
        pad_size: SizeDict | None,
        do_center_crop: bool | None,
        num_keypoints: int,
        category_ids: Sequence[int],
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        if do_center_crop:
            raise ValueError("`do_center_crop` must be False: ED-Pose reads whole images; crop them beforehand.")
        original_sizes = [image.shape[1:] for image in images]
        for index, image in enumerate(images):
            if do_rescale and image.dtype == np.float32:
                lowest, highest = image.min(), image.max()
                if lowest < 0 or highest > 255 or 0 < highest <= 1:
                    raise ValueError(
                        f"`images[{index}]` holds floats from {lowest} to {highest}, but floats from 0 to 255 are "
                        "expected with `do_rescale=True`; pass `do_rescale=False` if the image is rescaled already."
                    )
        if do_resize:
            images = [self.resize(image, size, resample) for image in images]
        sizes = [image.shape[1:] for image in images]
        height, width = (max(edges) for edges in zip(*sizes, strict=True))
        if do_pad and pad_size is not None:
            if pad_size.height < height or pad_size.width < width:
                raise ValueError(
                    f"`pad_size` must be at least as large as the images after the resize, ({height}, {width}), got "
                    f"({pad_size.height}, {pad_size.width})."
                )
            height, width = pad_size.height, pad_size.width
        elif not do_pad and return_tensors is not None and len(set(sizes)) > 1:
            raise ValueError(f"`do_pad` must be True for images of different sizes, got (height, width) {sizes}.")

        arithmetic = (rescale_factor if do_rescale else None, (image_mean, image_std) if do_normalize else None)
        if do_pad or return_tensors is not None:
            if len({len(image) for image in images}) > 1:
                raise ValueError(
                    f"`images` must have equal numbers of channels, got {[len(image) for image in images]}; pass "
                    "`do_convert_rgb=True`."
                )
            pixel_values = np.zeros((len(images), len(images[0]), height, width), dtype=np.float32)
            for padded, image in zip(pixel_values, images, strict=True):
                _write_floats(image, *arithmetic, padded[:, : image.shape[1], : image.shape[2]])
        else:
            pixel_values = [np.empty(image.shape, dtype=np.float32) for image in images]
            for values, image in zip(pixel_values, images, strict=True):
                _write_floats(image, *arithmetic, values)
        data = {"pixel_values": pixel_values}
        if do_pad:
            data["pixel_mask"] = np.zeros((len(images), height, width), dtype=np.int64)
            for mask, (image_height, image_width) in zip(data["pixel_mask"], sizes, strict=True):
                mask[:image_height, :image_width] = 1
        batch = BatchFeature(data, tensor_type=return_tensors)

        if annotations is not None:
            labels = [
                _make_labels(annotation, original, resized, num_keypoints, category_ids, f"annotations[{index}]")
                for index, (annotation, original, resized) in enumerate(
                    zip(annotations, original_sizes, sizes, strict=True)
                )
            ]
            if return_tensors is not None and TensorType(return_tensors) == TensorType.PYTORCH:
                labels = [{key: torch.from_numpy(value) for key, value in label.items()} for label in labels]
            batch["labels"] = labels
        return batch

    def resize(
        self, image: np.ndarray, size: SizeDict, resample: PILImageResampling | None = None, **kwargs
    ) -> np.ndarray:
        """(channels, height, width) to the size that `size` asks for.

        Raises:
            ValueError: If `size` is neither a shortest edge (with a longest edge or without) nor height and width.
        """
        if size.shortest_edge:
            height, width = get_resized_size(*image.shape[1:], size.shortest_edge, size.longest_edge)
        elif size.height and size.width:
            height, width = size.height, size.width
        else:
            raise ValueError(
                "`size` must be {'shortest_edge', 'longest_edge'}, {'shortest_edge'} or {'height', 'width'} with "
                f"positive numbers, got {dict(size)}."
            )
        if image.shape[1:] == (height, width):
            return image
        resample = PILImageResampling.BILINEAR if resample is None else resample
        if image.dtype == np.uint8 and len(image) == 3:
            picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
            return np.moveaxis(np.asarray(picture.resize((width, height), resample)), -1, 0)
        channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in image]
        return np.stack([np.asarray(channel.resize((width, height), resample)) for channel in channels])

    def post_process_pose_estimation(
        self,
        outputs: Any,
        threshold: float = 0.0,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        top_k: int = 50,
    ) -> list[dict[str, torch.Tensor]]:
        """Outputs of `EDPoseForPoseEstimation` to poses; as in the original there is no suppression of duplicates.

        A person's slot can appear once a class, so with `threshold=0` rows of label 0, which no training target has, are
        found among the last.

        Args:
            outputs: With `logits`, `pred_boxes` and `pred_keypoints`.
            threshold: Least score of a person.
            target_sizes: (height, width) of each image, (batch, 2) or one tuple an image; None leaves coordinates
                relative to the image, from 0 to 1.
            top_k: Number of rows kept an image before the threshold.

        Returns:
            One dict an image, best row first: `scores` (persons,), `labels` (persons,), `boxes` (persons, 4) as corners
            x, y, x, y in pixels, `keypoints` (persons, keypoints, 2) in pixels, `keypoint_scores` (persons, keypoints).
            The model learns no score of a keypoint: `keypoint_scores` repeats the person's.

        Raises:
            ValueError: On a threshold outside [0, 1], `top_k` below 1, or sizes that do not fit.
        """
        results = []
        for keypoints, (result, slots, scale) in zip(
            outputs.pred_keypoints.float(), _select_rows(outputs, threshold, target_sizes, top_k), strict=True
        ):
            keypoints = keypoints[slots] * scale[:2]
            scores = result["scores"][:, None].expand(keypoints.shape[:2]).clone()
            results.append({**result, "keypoints": keypoints, "keypoint_scores": scores})
        return results

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.0,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        top_k: int = 50,
    ) -> list[dict[str, torch.Tensor]]:
        """Scores, labels and boxes of `post_process_pose_estimation` alone, with the same arguments."""
        return [result for result, _, _ in _select_rows(outputs, threshold, target_sizes, top_k)]


def _select_rows(
    outputs: Any, threshold: float, target_sizes: Any, top_k: int
) -> list[tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]]:
    """For each image the scores, labels and boxes of its best rows, their person slots, and (4,) width, height, twice."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must be from 0 to 1, got {threshold}.")
    if not _is_integer(top_k) or top_k < 1:
        raise ValueError(f"`top_k` must be a positive integer, got {top_k!r}.")
    logits, boxes = outputs.logits.float(), outputs.pred_boxes.float()
    batch_size, _, num_labels = logits.shape
    scales = boxes.new_ones(batch_size, 4)
    if target_sizes is not None:
        sizes = [[float(edge) for edge in size] for size in target_sizes]
        if len(sizes) != batch_size or any(len(size) != 2 for size in sizes):
            raise ValueError(f"`target_sizes` must hold (height, width) of {batch_size} images, got {target_sizes}.")
        scales = boxes.new_tensor(sizes).flip(1).repeat(1, 2)
    scores = logits.sigmoid().flatten(1)
    scores, rows = scores.topk(min(top_k, scores.shape[1]))
    centers, extents = boxes.split(2, dim=-1)
    boxes = torch.cat([centers - 0.5 * extents, centers + 0.5 * extents], dim=-1)
    selected = []
    for index in range(batch_size):
        keep = scores[index] >= threshold
        slots = rows[index][keep] // num_labels
        result = {
            "scores": scores[index][keep],
            "labels": rows[index][keep] % num_labels,
            "boxes": boxes[index][slots] * scales[index],
        }
        selected.append((result, slots, scales[index]))
    return selected


def _write_floats(
    image: np.ndarray,
    rescale_factor: float | None,
    statistics: tuple[float | Sequence[float], float | Sequence[float]] | None,
    out: np.ndarray,
):
    """Rescale (channels, height, width) and normalise it by (mean, std) into `out`; None leaves a step out."""
    channels = len(image)
    # 8-bit images take one of 256 values: computing those and looking them up is quicker than arithmetic on pixels.
    values = np.arange(256)[None, :, None] if image.dtype == np.uint8 else image
    if rescale_factor is not None:
        values = values * np.float64(rescale_factor)
    values = values.astype(np.float32)
    if statistics is not None:
        mean, std = (np.asarray(statistic, dtype=np.float32) for statistic in statistics)
        for name, statistic in (("image_mean", mean), ("image_std", std)):
            if statistic.size not in (1, channels):
                raise ValueError(
                    f"`{name}` must be a number or one a channel; images have {channels} channels, got {statistic}."
                )
        values = (values - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    if image.dtype != np.uint8:
        out[...] = values
        return
    table = np.broadcast_to(values[..., 0], (channels, 256))
    for channel in range(channels):
        np.take(table[channel], np.ascontiguousarray(image[channel]), out=out[channel], mode="clip")


def _make_labels(
    annotation: Any,
    original_size: tuple[int, int],
    size: tuple[int, int],
    num_keypoints: int,
    category_ids: Sequence[int],
    name: str,
) -> dict[str, np.ndarray]:
    """Labels of one image. All are relative to its size, hence the same before and after the resize."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("annotations"), list | tuple):
        raise ValueError(
            f"`{name}` must be a dict {{'image_id': int, 'annotations': [COCO annotation, ...]}}, got {annotation!r}."
        )
    persons = [
        _read_person(person, num_keypoints, category_ids, f"{name}['annotations'][{index}]")
        for index, person in enumerate(annotation["annotations"])
    ]
    persons = [person for person in persons if person is not None]
    height, width = original_size
    extent = np.array([width, height, width, height], dtype=np.float64)

    boxes = np.array([person["box"] for person in persons], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.clip(0, extent.astype(np.float32))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    persons = [person for person, keep in zip(persons, kept, strict=True) if keep]
    boxes = boxes[kept] / extent
    boxes = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    keypoints = np.array([person["keypoints"] for person in persons]).reshape(-1, num_keypoints, 3)
    areas = [
        person["area"] / (width * height) if person["area"] else box[2] * box[3]
        for person, box in zip(persons, boxes, strict=True)
    ]
    labels = {
        "class_labels": np.array([person["label"] for person in persons], dtype=np.int64),
        "boxes": boxes.astype(np.float32),
        "keypoints": (keypoints[..., :2] / extent[:2]).astype(np.float32),
        "keypoints_visible": (keypoints[..., 2] > 0).astype(np.float32),
        "area": np.array(areas, dtype=np.float32),
        "orig_size": np.array(original_size, dtype=np.int64),
        "size": np.array(size, dtype=np.int64),
    }
    image_id = annotation.get("image_id")
    if image_id is not None:
        if not _is_integer(image_id):
            raise ValueError(f"`{name}['image_id']` must be an integer, got {image_id!r}.")
        labels["image_id"] = np.array([image_id], dtype=np.int64)
    return labels


__all__ = ["EDPoseImageProcessor"]
