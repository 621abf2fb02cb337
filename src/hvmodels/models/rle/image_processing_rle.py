"""Images and boxes of persons to inputs of RLE, and its outputs to poses in pixels of the images.

Every box becomes one crop, cut and normalised as in the original (github.com/Jeff-sjtu/res-loglikelihood-regression,
arXiv 2107.11291), whose conventions `cropping_rle.py` states. Interpolation is bilinear in the fixed-point arithmetic of
OpenCV up to version 4, to the last bit, which is what the published weights were trained on; OpenCV is not needed.
Deliberate differences: images of any mode are read, boxes and keypoints are checked, and a crop that is all but black is
divided by 255 as every other (the original leaves it as it is if its largest value is 1).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from ...image_reading import channels_first, flatten_images, pil_to_array, to_uint8_or_float32
from .cropping_rle import (
    boxes_to_center_scale,
    center_scale_to_boxes,
    crop_matrices,
    decode_keypoints,
    encode_keypoints,
    warp_crops,
)


class RLEImageProcessorKwargs(ImagesKwargs, total=False):
    """Options beyond those of every image processor, see `RLEImageProcessor`."""

    box_padding: float | int
    depth_scale: float | int
    drop_outside: bool | None


def _numbers(value: Any, shape: tuple[int, ...], name: str, meaning: str) -> np.ndarray:
    """float64 of a shape, in which -1 is any number."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be {meaning}, got {value!r}.") from None
    if array.size == 0 and shape[0] in (-1, 0):
        return np.zeros([max(length, 0) for length in shape])
    fits = array.ndim == len(shape) and all(a in (-1, b) for a, b in zip(shape, array.shape, strict=True))
    if not fits:
        raise ValueError(f"`{name}` must be {meaning}, got shape {array.shape}.")
    return array


def _check_per_image(value: Any, count: int | None, name: str, what: str):
    if isinstance(value, str | dict) or not hasattr(value, "__len__"):
        raise ValueError(f"`{name}` must hold one {what} an image, got {type(value).__name__}.")
    if count is not None and len(value) != count:
        raise ValueError(f"`{name}` must hold one {what} an image, got {len(value)} for {count} images.")


def _read_boxes(boxes: Any, sizes: Sequence[tuple[int, int]] | None) -> list[np.ndarray]:
    """Corners (persons, 4) of each image; the whole image if there are no boxes."""
    if boxes is None:
        return [np.array([[0, 0, width, height]], dtype=np.float64) for height, width in sizes]
    _check_per_image(boxes, None if sizes is None else len(sizes), "boxes", "list of boxes")
    corners = []
    for index, image_boxes in enumerate(boxes):
        meaning = "a list of boxes x, y, width, height in pixels"
        array = _numbers(image_boxes, (-1, 4), f"boxes[{index}]", meaning)
        for row, box in enumerate(array):
            if not np.isfinite(box).all() or (box[2:] <= 0).any():
                raise ValueError(
                    f"`boxes[{index}][{row}]` must be x, y, width, height in pixels, finite and with a positive width "
                    f"and height, got {box.tolist()}; leave out empty boxes."
                )
        corners.append(np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1))
    return corners


def _read_keypoints(keypoints: Sequence, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and visibility, each (persons, keypoints, 2 or 3), of all images."""
    arrays = []
    for index, (image_keypoints, count) in enumerate(zip(keypoints, counts, strict=True)):
        if count == 0 and len(image_keypoints) == 0:
            continue
        meaning = f"x, y, (depth,) visibility of each keypoint of {count} boxes, ({count}, keypoints, 3 or 4)"
        array = _numbers(image_keypoints, (count, -1, -1), f"keypoints[{index}]", meaning)
        if array.shape[2] not in (3, 4) or (arrays and arrays[0].shape[1:] != array.shape[1:]):
            raise ValueError(f"`keypoints[{index}]` must be {meaning}, as many for all images, got {array.shape}.")
        if not (array[..., -1] >= 0).all():
            raise ValueError(
                f"`keypoints[{index}]` must have a visibility of 0 or above as the last number of each keypoint."
            )
        arrays.append(array)
    array = np.concatenate(arrays) if arrays else np.zeros((0, 0, 3))
    coordinates = array[..., :-1]
    visibility = np.repeat(array[..., -1:] > 0, coordinates.shape[-1], axis=-1)
    visibility[..., 2:] &= np.isfinite(coordinates[..., 2:])
    return coordinates, visibility


def _read_sizes(sizes: Any, count: int | None, name: str) -> list[tuple[float, float]]:
    _check_per_image(sizes, count, name, "(height, width)")
    array = _numbers(sizes, (len(sizes), 2), name, "(height, width) of each image")
    if not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"`{name}` must hold positive heights and widths, got {array.tolist()}.")
    return [tuple(size) for size in array.tolist()]


def _round_floats(image: np.ndarray, do_rescale: bool, name: str) -> np.ndarray:
    """Floats to 8 bits, as which crops are cut."""
    lowest, highest, maximum = image.min(), image.max(), 255 if do_rescale else 1
    if lowest < 0 or highest > maximum or (do_rescale and 0 < highest <= 1):
        raise ValueError(
            f"`{name}` holds floats from {lowest} to {highest}, but floats from 0 to {maximum} are expected with "
            f"`do_rescale={do_rescale}`; pass `do_rescale={not do_rescale}` if the image is "
            f"{'' if do_rescale else 'not '}rescaled already."
        )
    return np.rint(image * (255 / maximum)).astype(np.uint8)


def _write_floats(crops: np.ndarray, scale: np.ndarray, offset: np.ndarray, out: np.ndarray):
    """`crops` (crops, height, width, 3) times `scale` plus `offset`, both (3,), to (crops, 3, height, width) float32."""
    values = torch.from_numpy(out)
    values.copy_(torch.from_numpy(crops).permute(0, 3, 1, 2))
    for channel, (factor, summand) in enumerate(zip(scale.tolist(), offset.tolist(), strict=True)):
        torch.add(torch.tensor(summand), values[:, channel], alpha=factor, out=values[:, channel])


class RLEImageProcessor(PilBackend):
    """Cuts a crop out of an image for every box, and turns outputs of RLE into poses.

    Args:
        size: `{"height", "width"}` of the crops. Boxes grow to their aspect ratio.
        image_mean: Of red, green and blue. The default is that of the published 2-D and 3-D models, which is not ImageNet's.
        image_std: 1 by default as in the published 2-D model; (0.225, 0.224, 0.229) in the 3-D model.
        box_padding: Factor of a box's sides; 1.25, but 1.0 for the original's boxes of Human3.6M.
        depth_scale: Millimetres that a depth of 1 stands for, in 3-D.
        drop_outside: Whether labelled keypoints outside the crop get weight 0, see `encode_keypoints`. None is as the
            original: in 3-D only; True in mmpose.
        kwargs: The further options of every image processor that have a meaning here: `do_rescale`, `rescale_factor`,
            `do_normalize`.

    Raises:
        ValueError: On options out of range.
    """

    valid_kwargs = RLEImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = [0.406, 0.457, 0.480]
    image_std = [1.0, 1.0, 1.0]
    size = {"height": 256, "width": 192}
    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    box_padding = 1.25
    depth_scale = 2000.0
    drop_outside = None

    def __init__(self, **kwargs: Unpack[RLEImageProcessorKwargs]):
        super().__init__(**kwargs)
        self._check_options(**{name: getattr(self, name) for name in self._valid_kwargs_names})

    def _check_options(
        self, size: SizeDict, box_padding: float, depth_scale: float, image_mean: Any, image_std: Any, **kwargs
    ):
        if not (size.height and size.width and size.height > 0 and size.width > 0):
            raise ValueError(f"`size` must be {{'height', 'width'}} with positive numbers, got {dict(size)}.")
        for name, value in (("box_padding", box_padding), ("depth_scale", depth_scale)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
        for name, value in (("image_mean", image_mean), ("image_std", image_std)):
            if np.size(value) not in (1, 3):
                raise ValueError(f"`{name}` must be a number or one a channel of RGB, got {value!r}.")
        if np.min(image_std) <= 0:
            raise ValueError(f"`image_std` must be positive, got {image_std!r}.")
        fixed = {"do_resize": True, "do_convert_rgb": True, "resample": PILImageResampling.BILINEAR}
        fixed |= dict.fromkeys(("do_center_crop", "do_pad", "pad_size", "crop_size"))
        for name, value in fixed.items():
            given = kwargs.get(name, value)
            if given != value and not (value is None and given is False):
                raise ValueError(
                    f"`{name}` must be {value!r}, got {given!r}: a crop is cut out for every box, in RGB and "
                    "bilinearly; `size` and `box_padding` say which."
                )

    def preprocess(
        self,
        images: ImageInput,
        boxes: Sequence | np.ndarray | None = None,
        keypoints: Sequence | np.ndarray | None = None,
        **kwargs: Unpack[RLEImageProcessorKwargs],
    ) -> BatchFeature:
        """Images with boxes, and keypoints if there are, to model inputs; one crop a box, those of the first image first.

        Args:
            images: PIL images of any mode, arrays or tensors (channels first or last, grey without channels), paths
                or URLs; one or a list. Numbers are 8-bit (any integer type up to 255), 16-bit (uint16), or floats from 0 to
                255, which are rounded; pass `do_rescale=False` for floats from 0 to 1. PIL images and files are turned
                upright as their EXIF orientation says.
            boxes: For each image a list of boxes x, y, width, height in pixels, which may be empty and may reach beyond the
                image; None is one box, the whole image.
            keypoints: For each image (boxes, keypoints, 3) x, y in pixels and visibility, or (boxes, keypoints, 4) x, y, the
                depth behind the root in mm and visibility. What has visibility 0 may be NaN, and so may unknown depths.
            kwargs: Options of the class for this call, and `return_tensors`.

        Returns:
            `pixel_values` (crops, 3, height, width) float32; `crop_boxes` (crops, 4) float32, corners x, y, x, y of the crops
            in pixels of their image; with keypoints `labels` and `label_weights`, (crops, keypoints, 2 or 3) float32.

        Raises:
            ValueError: If an image, a box or keypoints are not as described.
        """
        return super().preprocess(images, boxes, keypoints, **kwargs)

    def _preprocess_image_like_inputs(
        self, images: ImageInput, boxes: Any = None, keypoints: Any = None, **kwargs
    ) -> BatchFeature:
        self._check_options(**kwargs)
        images = flatten_images(images)
        if not images:
            raise ValueError("`images` must hold at least one image, got an empty list.")
        factors = []
        for index, image in enumerate(images):
            name = f"images[{index}]"
            image = self.process_image(image, input_data_format=kwargs["input_data_format"], name=name)
            factors.append(kwargs["rescale_factor"] if kwargs["do_rescale"] else 1)
            if image.dtype != np.uint8:
                image = _round_floats(image, bool(kwargs["do_rescale"]), name)
                factors[index] = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1 / 255
            images[index] = image
        corners = _read_boxes(boxes, [image.shape[1:] for image in images])
        if keypoints is not None:
            _check_per_image(keypoints, len(images), "keypoints", "array")
        return self._preprocess(images, factors, corners, keypoints, **kwargs)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | None = None,
        name: str = "image",
        **kwargs,
    ) -> np.ndarray:
        """One image of any kind as (3, height, width), uint8 or float32."""
        is_tensor = isinstance(image, torch.Tensor)
        if isinstance(image, Image.Image):
            image, input_data_format = pil_to_array(image, True, name), "channels_last"
        elif is_tensor:
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        image = channels_first(to_uint8_or_float32(image, name), input_data_format, is_tensor, name)
        return np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]

    def _preprocess(
        self,
        images: list[np.ndarray],
        factors: list[float],
        corners: list[np.ndarray],
        keypoints: Sequence | None,
        size: SizeDict,
        box_padding: float,
        do_normalize: bool | None,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        depth_scale: float,
        drop_outside: bool | None,
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        size = (size.height, size.width)
        counts = [len(boxes) for boxes in corners]
        centers, scales = boxes_to_center_scale(np.concatenate(corners), size[1] / size[0], box_padding)
        matrices = crop_matrices(centers, scales, None, size)

        mean, std = (np.broadcast_to(np.float64(values), 3) for values in (image_mean, image_std))
        mean, std = (mean, std) if do_normalize else (np.zeros(3), np.ones(3))
        pixel_values = np.empty((len(centers), 3, *size), dtype=np.float32)
        ends = np.cumsum(counts)
        for image, factor, start, end in zip(images, factors, ends - counts, ends, strict=True):
            crops = warp_crops(np.moveaxis(image, 0, -1), matrices[start:end], size)
            _write_floats(crops, factor / std, -mean / std, pixel_values[start:end])
        data = {"pixel_values": pixel_values, "crop_boxes": center_scale_to_boxes(centers, scales)}
        if keypoints is not None:
            coordinates, visibility = _read_keypoints(keypoints, counts)
            data["labels"], data["label_weights"] = encode_keypoints(
                coordinates, visibility, matrices, size, depth_scale, drop_outside
            )
        return BatchFeature(data, tensor_type=return_tensors)

    def post_process_pose_estimation(
        self,
        outputs: Any,
        boxes: Sequence | np.ndarray | None,
        threshold: float | None = None,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        source_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
    ) -> list[list[dict[str, torch.Tensor]]]:
        """Outputs of `RLEForPoseEstimation` to poses in pixels of the images.

        `size` and `box_padding` must be those that the crops were cut with.

        Args:
            outputs: With `keypoints`, `sigmas`, `scores` and, if the model is calibrated, `confidences`.
            boxes: Those given to `preprocess`.
            threshold: Keypoints with this score or less are left out.
            target_sizes: (height, width) of each image to express poses and boxes in, (images, 2) or a tuple an image; needs
                `source_sizes`. None is the images as they were given.
            source_sizes: (height, width) of each image as it was given; needed with `target_sizes`, or if `boxes` is None.

        Returns:
            For each image a list of one dict a box: `keypoints` (keypoints, 2 or 3), x, y in pixels and the depth behind the
            root in mm; `scores` (keypoints,); `labels` (keypoints,), the index of each keypoint; `bbox` (4,), corners
            x, y, x, y of the given box; `sigmas` (keypoints, 2), deviations of x and y in pixels; `confidences`
            (keypoints,) if there are; in 3-D `depths` (keypoints,), the third coordinates. float32 on the CPU.

        Raises:
            ValueError: If the arguments do not fit the outputs.
        """
        if boxes is None and source_sizes is None:
            raise ValueError("`source_sizes` must be (height, width) of each image if `boxes` is None, got None.")
        if target_sizes is not None and source_sizes is None:
            raise ValueError("`source_sizes` must be (height, width) of each image with `target_sizes`, got None.")
        if source_sizes is not None:
            source_sizes = _read_sizes(source_sizes, None, "source_sizes")
        corners = _read_boxes(boxes, source_sizes)
        counts = [len(image_boxes) for image_boxes in corners]
        if len(outputs.keypoints) != sum(counts):
            raise ValueError(
                f"`boxes` must be those given to `preprocess`: `outputs` has {len(outputs.keypoints)} crops, but there are "
                f"{sum(counts)} boxes."
            )
        factors = np.ones((len(corners), 2))
        if target_sizes is not None:
            target_sizes = _read_sizes(target_sizes, len(corners), "target_sizes")
            factors = (np.array(target_sizes) / source_sizes)[:, ::-1]
        factors = np.repeat(factors, counts, axis=0)

        size = (self.size.height, self.size.width)
        corners = np.concatenate(corners)
        centers, scales = boxes_to_center_scale(corners, size[1] / size[0], self.box_padding)
        crop_boxes = center_scale_to_boxes(centers, scales)
        keypoints, sigmas = (
            values.detach().cpu().to(torch.float64).numpy() for values in (outputs.keypoints, outputs.sigmas)
        )
        keypoints = decode_keypoints(keypoints, crop_boxes, size)
        keypoints[..., :2] *= factors[:, None]
        keypoints[..., 2:] *= self.depth_scale
        sigmas = sigmas[..., :2] * (factors * (crop_boxes[:, 2:] - crop_boxes[:, :2]))[:, None]
        values = {"keypoints": keypoints, "scores": outputs.scores, "sigmas": sigmas}
        if outputs.confidences is not None:
            values["confidences"] = outputs.confidences
        if keypoints.shape[-1] == 3:
            values["depths"] = keypoints[..., 2]
        values = {name: torch.as_tensor(value).detach().cpu().float() for name, value in values.items()}
        bboxes = torch.from_numpy(corners * np.tile(factors, 2)).float()
        labels = torch.arange(keypoints.shape[1])

        persons = []
        for index, bbox in enumerate(bboxes):
            person = {name: value[index] for name, value in values.items()} | {"labels": labels}
            if threshold is not None:
                keep = person["scores"] > threshold
                person = {name: value[keep] for name, value in person.items()}
            persons.append(person | {"bbox": bbox})
        ends = np.cumsum(counts)
        return [persons[end - count : end] for end, count in zip(ends, counts, strict=True)]


__all__ = ["RLEImageProcessor"]
