"""Images of any kind as arrays of 8 bits, for the image processors of all methods; it travels to the Hub with them."""

from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_utils import load_image


def flatten_images(images: Any, name: str = "images") -> list:
    """One list of single images from an image, a batch as array, or (nested) lists of them; files are opened."""
    if isinstance(images, list | tuple):
        return [image for index, item in enumerate(images) for image in flatten_images(item, f"{name}[{index}]")]
    if isinstance(images, str | PathLike):
        return [_open_image(images, name)]
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | torch.Tensor):
        if images.ndim not in (2, 3, 4) or 0 in images.shape:
            raise ValueError(
                f"`{name}` must be an image of shape (height, width), (channels, height, width) or (height, width, "
                f"channels), or a batch of them, without empty axes; got shape {tuple(images.shape)}."
            )
        return list(images) if images.ndim == 4 else [images]
    raise ValueError(
        f"`{name}` must be a PIL image, NumPy array, torch tensor, path, URL, or a list of these, "
        f"got {type(images).__name__}."
    )


def _open_image(path: str | PathLike, name: str) -> Image.Image:
    try:
        # Pillow itself where possible: `load_image` cuts 16-bit images off at 255.
        return Image.open(path)
    except (OSError, ValueError) as error:
        if isinstance(path, str) and path.startswith(("http://", "https://", "data:image/")):
            return load_image(path)
        raise ValueError(f"`{name}` names {str(path)!r}, which cannot be read as an image: {error}") from error


def pil_to_array(image: Image.Image, do_convert_rgb: bool, name: str) -> np.ndarray:
    """Upright (height, width) or (height, width, channels)."""
    if 0 in image.size:
        raise ValueError(f"`{name}` must not be empty, got an image of width {image.width}, height {image.height}.")
    try:
        image = ImageOps.exif_transpose(image)
        if do_convert_rgb and image.mode not in ("1", "L", "F") and not image.mode.startswith("I"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"`{name}` cannot be decoded: {error}") from error
    # Pillow gives 16-bit grey images the mode "I;16", or "I" in its older versions.
    return _check_range(array, 65535, name).astype(np.uint16) if image.mode == "I" else array


def _check_range(image: np.ndarray, maximum: int, name: str) -> np.ndarray:
    if image.min() < 0 or image.max() > maximum:
        raise ValueError(
            f"`{name}` must hold values from 0 to {maximum} for its type, got {image.min()} to {image.max()}."
        )
    return image


def to_uint8_or_float32(image: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers of up to 16 bits, and yes or no, as 8 bits; floats as they are; ValueError naming `name` for others."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "b":
        return image.astype(np.uint8) * 255
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype.kind in "iu":
        return _check_range(image, 255, name).astype(np.uint8)
    if image.dtype.kind == "f":
        if not np.isfinite(image).all():
            raise ValueError(f"`{name}` must hold finite numbers, got NaN or infinity.")
        return image.astype(np.float32)
    raise ValueError(f"`{name}` must be an array of numbers, got dtype {image.dtype}.")


def channels_first(image: np.ndarray, input_data_format: str | None, is_tensor: bool, name: str) -> np.ndarray:
    """A view (channels, height, width) with 1, 3 or 4 channels."""
    if image.ndim == 2:
        return image[None]
    if input_data_format is None:
        first, last = (image.shape[axis] in (1, 3, 4) for axis in (0, -1))
        if first and last and not is_tensor:
            # A single row or column of pixels: colour tells which axis the channels are.
            first, last = (image.shape[axis] in (3, 4) for axis in (0, -1))
            if first == last:
                raise ValueError(
                    f"`{name}` has shape {image.shape}, in which either end may be the channels; pass "
                    "`input_data_format='channels_first'` or `'channels_last'`."
                )
        input_data_format = "channels_first" if first else "channels_last"
    if input_data_format == "channels_last":
        image = np.moveaxis(image, -1, 0)
    elif input_data_format != "channels_first":
        raise ValueError(
            f"`input_data_format` must be 'channels_first' or 'channels_last' for `{name}`, got {input_data_format!r}."
        )
    if len(image) not in (1, 3, 4):
        raise ValueError(f"`{name}` must have 1, 3 or 4 channels, got {len(image)}.")
    return image


__all__ = ["channels_first", "flatten_images", "pil_to_array", "to_uint8_or_float32"]
