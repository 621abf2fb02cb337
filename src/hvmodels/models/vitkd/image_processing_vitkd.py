"""Pictures to inputs of student and teacher, as in the test of the original (github.com/yzd-v/cls_KD, arXiv 2209.02432).

The short side becomes 256 by Pillow's bicubic interpolation, the centre is cropped to 224. An odd margin is halved to the
nearest even number, as there; transformers' own processors halve it downwards, so that a crop can be off by one pixel.
"""

import json
from os import PathLike
from pathlib import Path

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
)


class ViTKDImageProcessor(PilBackend):
    """Image processor of ViTKD.

    `ViTKDImageProcessor(size={"height": 224, "width": 224}, do_center_crop=False)` is the test of DeiT-III's authors at a
    crop ratio of 1 for square pictures; `size={"shortest_edge": 224}` with the crop is it for others.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 256}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_convert_rgb = True
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True

    def center_crop(self, image: np.ndarray, size: SizeDict, **kwargs) -> np.ndarray:
        """Cut out the centre; margins are `round(margin / 2)`, to even halves. A side smaller than `size` is kept whole."""
        height, width = image.shape[-2:]
        top, left = (max(round(margin / 2), 0) for margin in (height - size.height, width - size.width))
        return image[..., top : top + size.height, left : left + size.width]

    def save_as_vit(self, folder: str | PathLike):
        """Save the settings as those of a `ViTImageProcessor`, for which hvmodels is not needed.

        Args:
            folder: Where `preprocessor_config.json` goes.
        """
        settings = {
            name: value for name, value in self.to_dict().items() if name not in ("auto_map", "processor_class")
        }
        settings["image_processor_type"] = "ViTImageProcessor"
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (Path(folder) / "preprocessor_config.json").write_text(text, encoding="utf-8")


__all__ = ["ViTKDImageProcessor"]
