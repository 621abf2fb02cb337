"""Images to inputs of AIB, and its outputs to labels and pictures of attention.

The arithmetic is that of the original (github.com/ashleylqx/AIB, arXiv 2108.03418): Pillow's bilinear resize to a fixed
size, mirrored padding or a crop, values from 0 to 1, normalisation. Images for CUB are first cut to their bird's box.
Deliberate differences: images of any mode are read and turned upright, and boxes are checked.
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
from .map_resizing_aib import draw_map, resize_nearest


class AIBImageProcessorKwargs(ImagesKwargs, total=False):
    """Options beyond those of every image processor, see `AIBImageProcessor`."""

    crop_padding: int


def _round_floats(image: np.ndarray, do_rescale: bool, name: str) -> np.ndarray:
    """Floats to 8 bits, as which images are resized."""
    lowest, highest, maximum = image.min(), image.max(), 255 if do_rescale else 1
    if lowest < 0 or highest > maximum or (do_rescale and 0 < highest <= 1):
        raise ValueError(
            f"`{name}` holds floats from {lowest} to {highest}, but floats from 0 to {maximum} are expected with "
            f"`do_rescale={do_rescale}`; pass `do_rescale={not do_rescale}` if the image is "
            f"{'' if do_rescale else 'not '}rescaled already."
        )
    return np.rint(image * (255 / maximum)).astype(np.uint8)


def _check_per_image(values: Any, count: int, name: str, what: str) -> Any:
    """`values`, one an image; as many times None if it is None."""
    if values is None:
        return [None] * count
    if isinstance(values, str | dict) or not hasattr(values, "__len__") or len(values) != count:
        got = f"{len(values)} for {count} images" if hasattr(values, "__len__") else type(values).__name__
        raise ValueError(f"`{name}` must hold one {what} an image, got {got}.")
    return values


def _numbers(value: Any, count: int, name: str, meaning: str) -> list[float]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be {meaning}, got {value!r}.") from None
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be {meaning}, got {array.tolist()}.")
    return array.tolist()


def _crop_box(image: Image.Image, box: Any, name: str) -> Image.Image:
    meaning = "x, y, width, height in pixels, finite and with a positive width and height"
    x, y, width, height = _numbers(box, 4, name, meaning)
    left, top, right, bottom = (round(edge) for edge in (x, y, x + width, y + height))
    if right <= left or bottom <= top:
        raise ValueError(f"`{name}` must be {meaning}, got {[x, y, width, height]}.")
    if right <= 0 or bottom <= 0 or left >= image.width or top >= image.height:
        raise ValueError(
            f"`{name}` must overlap its image of {image.width} x {image.height} pixels, got {[x, y, width, height]}."
        )
    return image.crop((left, top, right, bottom))


def _check_offset(offset: Any, shape: tuple[int, ...], output: SizeDict, name: str) -> tuple[int, int]:
    limits = (shape[0] - output.height, shape[1] - output.width)
    meaning = f"(row, column), whole numbers from (0, 0) to {limits}"
    values = _numbers(offset, 2, name, meaning)
    if any(value != int(value) or not 0 <= value <= limit for value, limit in zip(values, limits, strict=True)):
        raise ValueError(f"`{name}` must be {meaning}, got {values}.")
    return int(values[0]), int(values[1])


class AIBImageProcessor(PilBackend):
    """Resizes, crops and normalises images, and turns outputs of AIB into labels and pictures of attention.

    The defaults are those of the published VGG for CIFAR; conversion sets those of each model.

    Args:
        size: `{"height", "width"}` that images are resized to, whatever their aspect ratio.
        do_center_crop: Whether `crop_size` is cut from the middle of the resized image, as for CUB.
        crop_size: `{"height", "width"}` of that crop.
        crop_padding: Pixels by which training crops may leave the image on each side, where it is mirrored.
        image_mean: Of red, green and blue.
        image_std: Of red, green and blue.
        kwargs: The further options of every image processor that have a meaning here: `do_rescale`, `rescale_factor`,
            `do_normalize`, `resample`.

    Raises:
        ValueError: On options out of range.
    """

    valid_kwargs = AIBImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = [0.5071, 0.4867, 0.4408]
    image_std = [0.2675, 0.2565, 0.2761]
    size = {"height": 32, "width": 32}
    default_to_square = True
    crop_size = {"height": 224, "width": 224}
    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    crop_padding = 4

    def __init__(self, **kwargs: Unpack[AIBImageProcessorKwargs]):
        super().__init__(**kwargs)
        self._check_options(**{name: getattr(self, name) for name in self._valid_kwargs_names})

    def _check_options(
        self,
        size: SizeDict,
        crop_size: SizeDict,
        do_center_crop: bool | None,
        crop_padding: int,
        image_mean: Any,
        image_std: Any,
        **kwargs,
    ):
        for name, value in (("size", size), ("crop_size", crop_size)):
            if not (value and value.height and value.width and value.height > 0 and value.width > 0):
                raise ValueError(
                    f"`{name}` must be {{'height', 'width'}} with positive numbers, got "
                    f"{value if value is None else dict(value)}."
                )
        if isinstance(crop_padding, bool) or not isinstance(crop_padding, int) or crop_padding < 0:
            raise ValueError(f"`crop_padding` must be a whole number of 0 or more, got {crop_padding!r}.")
        if crop_padding >= min(size.height, size.width):
            raise ValueError(
                f"`crop_padding` must be less than the sides of `size`, which are mirrored, got {crop_padding}."
            )
        if do_center_crop and (crop_size.height > size.height or crop_size.width > size.width):
            raise ValueError(f"`crop_size` must not exceed `size` {dict(size)}, got {dict(crop_size)}.")
        for name, value in (("image_mean", image_mean), ("image_std", image_std)):
            if np.size(value) not in (1, 3):
                raise ValueError(f"`{name}` must be a number or one a channel of RGB, got {value!r}.")
        if np.min(image_std) <= 0:
            raise ValueError(f"`image_std` must be positive, got {image_std!r}.")
        fixed = {"do_resize": True, "do_convert_rgb": True} | dict.fromkeys(("do_pad", "pad_size"))
        for name, value in fixed.items():
            given = kwargs.get(name, value)
            if given != value and not (value is None and given is False):
                raise ValueError(f"`{name}` must be {value!r}, got {given!r}: images are resized to `size`, in RGB.")

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of `pixel_values`."""
        size = self.crop_size if self.do_center_crop else self.size
        return size.height, size.width

    def preprocess(
        self,
        images: ImageInput,
        boxes: Sequence | np.ndarray | None = None,
        crop_offsets: Sequence | np.ndarray | None = None,
        flips: Sequence[bool] | np.ndarray | None = None,
        **kwargs: Unpack[AIBImageProcessorKwargs],
    ) -> BatchFeature:
        """Images to model inputs; crops and flips are for training, see `random_crops`.

        Args:
            images: PIL images of any mode, arrays or tensors (channels first or last, grey without channels), paths
                or URLs; one or a list. Numbers are 8-bit (any integer type up to 255), 16-bit (uint16), or floats from 0 to
                255, which are rounded; pass `do_rescale=False` for floats from 0 to 1. PIL images and files are turned
                upright as their EXIF orientation says.
            boxes: For each image a box x, y, width, height in pixels that it is cut to first, rounded as Pillow rounds; it
                may reach beyond the image, which is black there. None, or None for an image, takes all of it.
            crop_offsets: For each image (row, column) of the crop's corner in the resized and padded image. None is the
                middle.
            flips: For each image whether it is mirrored left to right. None is never.
            kwargs: Options of the class for this call, and `return_tensors`.

        Returns:
            `pixel_values` (images, 3, height, width) float32.

        Raises:
            ValueError: If an image, a box, an offset or a flip is not as described.
        """
        return super().preprocess(images, boxes, crop_offsets, flips, **kwargs)

    def random_crops(
        self, count: int, generator: torch.Generator | None = None
    ) -> dict[str, list[tuple[int, int]] | list[bool]]:
        """Draw the arguments of `preprocess` that train as the original does: `crop_offsets` and `flips`.

        Args:
            count: Number of images.
            generator: The global one of torch if None.
        """
        sides = zip((self.size.height, self.size.width), self.output_size, strict=True)
        choices = [side + 2 * self.crop_padding - output + 1 for side, output in sides]
        rows, columns = (torch.randint(choice, (count,), generator=generator).tolist() for choice in choices)
        flips = (torch.rand(count, generator=generator) < 0.5).tolist()
        return {"crop_offsets": list(zip(rows, columns, strict=True)), "flips": flips}

    def _preprocess_image_like_inputs(
        self, images: ImageInput, boxes: Any = None, crop_offsets: Any = None, flips: Any = None, **kwargs
    ) -> BatchFeature:
        self._check_options(**kwargs)
        images = flatten_images(images)
        if not images:
            raise ValueError("`images` must hold at least one image, got an empty list.")
        boxes = _check_per_image(boxes, len(images), "boxes", "box")
        crop_offsets = _check_per_image(crop_offsets, len(images), "crop_offsets", "offset")
        flips = _check_per_image(flips, len(images), "flips", "flag")
        inputs = []
        for index, (image, box, offset, flip) in enumerate(zip(images, boxes, crop_offsets, flips, strict=True)):
            name = f"images[{index}]"
            image = self.process_image(image, input_data_format=kwargs["input_data_format"], name=name)
            factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1
            if image.dtype != np.uint8:
                image = _round_floats(image, bool(kwargs["do_rescale"]), name)
                factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1 / 255
            image = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
            if box is not None:
                image = _crop_box(image, box, f"boxes[{index}]")
            inputs.append((image, factor, offset, flip))
        return self._preprocess(inputs, **kwargs)

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
        images: list[tuple[Image.Image, float, Any, Any]],
        size: SizeDict,
        resample: PILImageResampling,
        do_center_crop: bool | None,
        crop_size: SizeDict,
        crop_padding: int,
        do_normalize: bool | None,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        output = crop_size if do_center_crop else size
        pixel_values = np.empty((len(images), 3, output.height, output.width), np.float32)
        for index, (image, factor, offset, flip) in enumerate(images):
            pixels = np.asarray(image.resize((size.width, size.height), resample))
            if offset is None:
                # As torchvision rounds: half to even.
                top, left = round((size.height - output.height) / 2), round((size.width - output.width) / 2)
            else:
                pixels = np.pad(pixels, [(crop_padding, crop_padding)] * 2 + [(0, 0)], mode="reflect")
                top, left = _check_offset(offset, pixels.shape, output, f"crop_offsets[{index}]")
            pixels = pixels[top : top + output.height, left : left + output.width]
            if flip is not None:
                if not isinstance(flip, bool | np.bool_):
                    raise ValueError(f"`flips[{index}]` must be True or False, got {flip!r}.")
                pixels = pixels[:, ::-1] if flip else pixels
            pixel_values[index] = np.moveaxis(pixels, -1, 0)
            pixel_values[index] *= factor
        if do_normalize:
            mean, std = (np.broadcast_to(np.float32(values), 3)[:, None, None] for values in (image_mean, image_std))
            pixel_values -= mean
            pixel_values /= std
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)

    def post_process_image_classification(
        self, outputs: Any, top_k: int | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """Outputs of `AIBForImageClassification` to ranked labels.

        Args:
            outputs: With `logits` and `sample_logits`.
            top_k: Number of labels; None is all of them.

        Returns:
            For each image `labels` (k,), class indices, the most probable first; `scores` (k,), their probabilities by
            the mean logits; `score_stds` (k,), the standard deviation of their probabilities over the maps, 0 for a
            single one. float32 on the CPU.

        Raises:
            ValueError: If `top_k` is out of range.
        """
        logits, sample_logits = (values.detach().float().cpu() for values in (outputs.logits, outputs.sample_logits))
        count = logits.shape[-1]
        if top_k is not None and not (isinstance(top_k, int) and 1 <= top_k <= count):
            raise ValueError(f"`top_k` must be from 1 to the number of labels {count}, got {top_k!r}.")
        scores, labels = logits.softmax(-1).topk(top_k or count)
        stds = sample_logits.softmax(-1).std(1, correction=0).gather(1, labels)
        return [
            {"labels": label, "scores": score, "score_stds": std}
            for label, score, std in zip(labels, scores, stds, strict=True)
        ]

    def post_process_attention(
        self,
        outputs: Any,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        blur: bool = True,
        stretch: bool = True,
    ) -> list[torch.Tensor]:
        """Attention maps to pictures, as the original draws them.

        Args:
            outputs: With `attention_maps` (batch, samples, h, w), and `quantized_attention_maps`, which may be None.
            target_sizes: (height, width) of each picture, (images, 2) or a tuple an image; None is the size of
                `pixel_values`. A map covers what `pixel_values` show: less than the image where it was cropped.
            blur: True draws the map smoothly, from 0 to 255 of its own smallest and largest score: stretched to 8 bits,
                blurred by a Gaussian of 7 pixels, enlarged bicubically. False gives the scores themselves, quantised if the
                model quantises, enlarged to rectangles.
            stretch: Of smooth pictures, whether the smallest value becomes 0 after the blur, as in the script of the VGG
                for CIFAR; the other two leave it.

        Returns:
            For each image (samples, height, width) float32 on the CPU.

        Raises:
            ValueError: If the sizes do not fit the outputs, or a map is not finite.
        """
        quantized = getattr(outputs, "quantized_attention_maps", None)
        maps = outputs.attention_maps if blur or quantized is None else quantized
        maps = maps.detach().float().cpu().numpy()
        if not np.isfinite(maps).all():
            raise ValueError("`outputs.attention_maps` must hold finite numbers, got NaN or infinity.")
        sizes = [self.output_size] * len(maps)
        if target_sizes is not None:
            sizes = []
            for index, size in enumerate(_check_per_image(target_sizes, len(maps), "target_sizes", "(height, width)")):
                meaning = "(height, width), positive whole numbers"
                height, width = _numbers(size, 2, f"target_sizes[{index}]", meaning)
                if min(height, width) < 1 or height != int(height) or width != int(width):
                    raise ValueError(f"`target_sizes[{index}]` must be {meaning}, got {[height, width]}.")
                sizes.append((int(height), int(width)))
        return [
            torch.from_numpy(
                np.stack([draw_map(map, size, stretch) if blur else resize_nearest(map, size) for map in samples])
            )
            for samples, size in zip(maps, sizes, strict=True)
        ]


__all__ = ["AIBImageProcessor"]
