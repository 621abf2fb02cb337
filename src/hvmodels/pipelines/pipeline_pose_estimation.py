"""Pictures in, persons out: score, box and named keypoints of each, in pixels of the picture."""

from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import Pipeline
from transformers.image_utils import load_image

from ..metrics.oks import AREA_PER_BOX, oks_nms


IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
BATCHES_IN_VIEW = 8


def read_image(image: Any) -> Image.Image:
    """Open an image as the pipeline sees it: RGB, 8 bits, upright as its EXIF orientation says.

    Args:
        image: PIL image of any mode, path, URL, or array (height, width) or (height, width, 3 or 4) of uint8.

    Raises:
        ValueError: If it is not an image, or cannot be read.
        TypeError: If it is of another type.
    """
    name = f"`image` ({image})" if isinstance(image, str | PathLike) else "`image`"
    if _is_url(image):
        try:
            return load_image(image)
        except Exception as error:  # of the network, of the server, of Pillow
            raise ValueError(f"{name} cannot be fetched as an image: {error}") from error
    try:
        if isinstance(image, str | PathLike):
            with Image.open(image) as opened:
                return _to_rgb(opened)
        if isinstance(image, Image.Image):
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise ValueError(f"{name} must be a file, a folder or a URL; there is none.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    if not isinstance(image, np.ndarray):
        raise TypeError(f"`image` must be a PIL image, path, URL or NumPy array, got {type(image).__name__}.")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(
            "`image` must be an array (height, width) or (height, width, 3 or 4) of uint8, got "
            f"{image.dtype} of shape {image.shape}; a batch is a list of arrays."
        )
    if 0 in image.shape:
        raise ValueError(f"`image` must not be empty, got an array of shape {image.shape}.")
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would cut off at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"`image` must have 8 or 16 bits, got values from {levels.min()} to {levels.max()}.")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("`image` must have 8 or 16 bits, got floating point values; convert it to 8 bits first.")
    return image.convert("RGB")


def image_files(folder: str | PathLike) -> list[Path]:
    """The images directly in a folder, by name.

    Raises:
        ValueError: If there are none.
    """
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(
            f"`image` names the folder {str(folder)!r} without images ({', '.join(sorted(IMAGE_SUFFIXES))})."
        )
    return found


class PoseEstimationPipeline(Pipeline):
    """Find the persons in pictures and their keypoints: `pipeline("pose-estimation", model=...)(picture)`.

    A call takes one picture (PIL image, path, URL or uint8 array), a folder, a list, or a generator or dataset of
    pictures. With `batch_size` above 1, pictures of one size share a batch: nothing is padded (padding costs time and
    changes what a convolutional backbone sees at the edge), so that the poses do not depend on the batch. The results
    keep the order of the pictures.

    Call arguments, all optional:
        threshold: Least score of a person, default 0.3. Take 0 for evaluation.
        top_k: Persons at most, before the threshold; None leaves the processor's default.
        nms_threshold: Drop persons whose OKS with one of higher score exceeds it, e.g. 0.7; None keeps them all, as
            end-to-end models need no suppression.
        batch_size: Pictures at a time, default 1.

    Returns:
        For one picture a list of persons, highest score first; for a folder or list a list of these; for a generator or
        dataset an iterator over them. A person is a dict of `score`, `label`, `box` (`xmin`, `ymin`, `xmax`, `ymax`)
        and `keypoints`, a list of `{"label", "x", "y", "score"}`, in pixels of the upright picture.
    """

    _load_image_processor = True
    _load_processor = _load_feature_extractor = _load_tokenizer = _load_video_processor = False

    def _sanitize_parameters(self, threshold=None, top_k=None, nms_threshold=None, **unknown):
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; the pipeline takes `threshold`, `top_k`, `nms_threshold` and "
                "`batch_size`."
            )
        for name, value in (("threshold", threshold), ("nms_threshold", nms_threshold)):
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"`{name}` must be a number from 0 to 1, got {value!r}.")
        _check_count("top_k", top_k)
        if nms_threshold is not None and getattr(self.model.config, "keypoint_sigmas", None) is None:
            raise ValueError("`nms_threshold` needs `keypoint_sigmas` in the model's configuration, which has none.")
        forward = {name: value for name, value in (("threshold", threshold), ("top_k", top_k)) if value is not None}
        return {}, forward, {} if nms_threshold is None else {"nms_threshold": nms_threshold}

    def __call__(self, images: Any, batch_size: int | None = None, **kwargs) -> Any:
        """Estimate poses, see the class."""
        _check_count("batch_size", batch_size)
        batch_size = batch_size or self._batch_size or 1
        given = self._sanitize_parameters(**kwargs)
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        parameters = [{**defaults, **values} for defaults, values in zip(own, given, strict=True)]
        if isinstance(images, str | PathLike) and not _is_url(images) and Path(images).is_dir():
            images = image_files(images)
        if isinstance(images, list | tuple):
            return list(self._stream(images, batch_size, *parameters))
        if isinstance(images, str | PathLike | Image.Image | np.ndarray) or not _is_iterable(images):
            return next(self._stream([images], 1, *parameters))
        return self._stream(images, batch_size, *parameters)

    def _stream(
        self, images: Iterable, batch_size: int, preprocess: dict, forward: dict, postprocess: dict
    ) -> Iterator[list[dict]]:
        """Results in the order of the images. Of some batches in view, pictures of one size are put together."""
        images = iter(images)
        in_view = 1 if batch_size == 1 else BATCHES_IN_VIEW * batch_size
        while pictures := [read_image(image) for image in islice(images, in_view)]:
            by_size: dict[tuple[int, int], list[int]] = {}
            for index, picture in enumerate(pictures):
                by_size.setdefault(picture.size, []).append(index)
            results: list[Any] = [None] * len(pictures)
            for same_size in by_size.values():
                for start in range(0, len(same_size), batch_size):
                    batch = same_size[start : start + batch_size]
                    inputs = self.preprocess([pictures[index] for index in batch], **preprocess)
                    outputs = self.forward(inputs, **forward)
                    for index, result in zip(batch, outputs["results"], strict=True):
                        results[index] = self.postprocess(result, **postprocess)
            yield from results

    def preprocess(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """Model inputs of RGB pictures of one size, and the size of each."""
        features = self.image_processor(images=pictures, return_tensors="pt").to(self.dtype)
        return {"features": dict(features), "target_sizes": [(picture.height, picture.width) for picture in pictures]}

    def _forward(self, inputs, threshold=0.3, top_k=None):
        """What `post_process_pose_estimation` of every pose processor gives for each picture.

        That is `scores` and `labels` (persons,), `boxes` (persons, 4) as corners, `keypoints` (persons, keypoints, 2),
        all in pixels, and `keypoint_scores` (persons, keypoints). It is made where the model is, so that only this
        leaves its device.
        """
        outputs = self.model(**inputs["features"])
        options = {"threshold": threshold, "target_sizes": inputs["target_sizes"]}
        if top_k is not None:
            options["top_k"] = top_k
        return {"results": self.image_processor.post_process_pose_estimation(outputs, **options)}

    def postprocess(self, result: dict[str, torch.Tensor], nms_threshold: float | None = None) -> list[dict]:
        """The persons of one picture."""
        config = self.model.config
        arrays = {name: value.float().numpy() for name, value in result.items() if name != "labels"}
        labels = [config.id2label[label] for label in result["labels"].tolist()]
        # A class that is named so is none: ED-Pose has one that no person ever belongs to.
        order = np.array([i for i in np.argsort(-arrays["scores"], kind="stable") if labels[i] != "N/A"], dtype=int)
        if nms_threshold is not None:
            arrays, labels = {name: array[order] for name, array in arrays.items()}, [labels[i] for i in order]
            areas = AREA_PER_BOX * (arrays["boxes"][:, 2:] - arrays["boxes"][:, :2]).prod(axis=1)
            order = oks_nms(arrays["keypoints"], arrays["scores"], areas, config.keypoint_sigmas, nms_threshold)
        names = getattr(config, "keypoint_names", None)
        names = names or [f"keypoint_{index}" for index in range(arrays["keypoints"].shape[1])]
        return [
            {
                "score": arrays["scores"][person].item(),
                "label": labels[person],
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), arrays["boxes"][person].tolist(), strict=True)),
                "keypoints": [
                    {"label": name, "x": x, "y": y, "score": score}
                    for name, (x, y), score in zip(
                        names,
                        arrays["keypoints"][person].tolist(),
                        arrays["keypoint_scores"][person].tolist(),
                        strict=True,
                    )
                ],
            }
            for person in order
        ]


def _is_url(image: Any) -> bool:
    return isinstance(image, str) and image.startswith(("http://", "https://"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_count(name: str, value: Any):
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def _is_iterable(value: Any) -> bool:
    return hasattr(value, "__iter__") or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


__all__ = ["PoseEstimationPipeline", "image_files", "read_image"]
