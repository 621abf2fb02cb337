"""Pictures in, persons out: score, box and named keypoints of each, in pixels of the picture."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import Pipeline
from transformers.image_utils import load_image
from transformers.utils import is_scipy_available, logging

from ..keypoint_sets import find_keypoint_set, infer_flip_pairs
from ..metrics.oks import AREA_PER_BOX, oks_nms
from .person_boxes import PersonBox, crop_areas, detect, load_detector, read_boxes


IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
BATCHES_IN_VIEW = 8
DEFAULT_CROPS = 16
DETECTOR_NMS_THRESHOLD = 0.9
logger = logging.get_logger(__name__)


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
    pictures. The results keep the order of the pictures and do not depend on the batch.

    One-stage models (ED-Pose) find the persons themselves. Top-down models (RLE, ViTPose, Sapiens2), whose image
    processors take `boxes`, look at one person at a time: they need `boxes` or a `detector`, and without either take
    the whole picture for one person's box and say so once.

    Call arguments, all optional:
        threshold: Least score of a person. Default 0.3 for one-stage models, where 0 is for evaluation; 0 for top-down
            models, where `detector_threshold` has chosen.
        top_k: Persons at most, of highest score; None leaves the processor's default.
        nms_threshold: Drop persons whose OKS with one of higher score exceeds it, e.g. 0.7. Default: 0.9 for the boxes
            of a detector, else nobody is dropped. 1 drops nobody.
        batch_size: Pictures at a time, default 1; for top-down models crops at a time, of as many pictures as it
            takes, by default those of one picture, 16 at most. Pictures of one-stage models share a batch only if of
            one size: nothing is padded, since that changes what a convolutional backbone sees at the edge.
        boxes: For top-down models. For one picture a list of (x, y, width, height), for several pictures as many such
            lists (or an iterator over them). Dicts with `box`, `score` and `label`, as detectors and this pipeline give
            them, are welcome. Each box gives one person, whatever its label.
        detector: In place of `boxes`: an object-detection pipeline, a `(model, image processor)`, name or folder of
            such a model, or a callable that takes a PIL image and gives boxes as above. All options can be given to
            `pipeline(...)` once and for all; a detector named in a call is loaded for that call.
        detector_threshold: Least score of a box of the detector, default 0.3.
        detector_labels: Classes of the detector that are persons, default `("person",)`.
        flip_test: For top-down models: average with the poses of the mirrored crops. A little more accurate and twice
            the time; default False.
        dataset_index: For ViTPose with experts (ViTPose+), which of them; default 0, in published models that of COCO.

    Returns:
        For one picture a list of persons, highest score first; for a folder or list a list of these; for a generator or
        dataset an iterator over them. A person is a dict of `score`, `label`, `box` (`xmin`, `ymin`, `xmax`, `ymax`)
        and `keypoints`, a list of `{"label", "x", "y", "score"}`, in pixels of the upright picture.

        Of a top-down model `box` is the one that was given, by which persons are told apart, and `score` the mean of
        the box's score (if it has one), the mean and the highest score of the keypoints: the original's rescoring,
        divided by the number of terms. RLE adds to a keypoint `sigma`, its predicted spread in pixels (mean of x and
        y), `confidence` if the model is calibrated, and `depth` in millimetres if it is of three dimensions.
    """

    _load_image_processor = True
    _load_processor = _load_feature_extractor = _load_tokenizer = _load_video_processor = False

    @property
    def is_top_down(self) -> bool:
        """Whether the model looks at one person at a time, in a box."""
        return "boxes" in signature(self.image_processor.post_process_pose_estimation).parameters

    @property
    def keypoint_names(self) -> list[str] | None:
        """Names in the order of the model's keypoints, None if it has none."""
        names = getattr(self.model.config, "keypoint_names", None)
        if names is None and self.is_top_down:
            names = [name for _, name in sorted(self.model.config.id2label.items())]
        return names and list(names)

    @property
    def keypoint_links(self) -> list[tuple[int, int]] | None:
        """Pairs of keypoints that a drawing joins, None if unknown."""
        config = self.model.config
        links = getattr(config, "keypoint_links", None) or getattr(config, "edges", None) or self._known("links")
        return links and [tuple(link) for link in links]

    @property
    def keypoint_sigmas(self) -> Sequence[float] | None:
        """Spread of each keypoint in OKS, None if unknown."""
        sigmas = getattr(self.model.config, "keypoint_sigmas", None)
        return self._known("sigmas") if sigmas is None else sigmas

    @property
    def supports_flip_test(self) -> bool:
        """Whether `flip_test` can be used."""
        parameters = signature(self.model.forward).parameters
        if "flip_test" in parameters:
            return self.model.config.flip_pairs is not None
        return "flip_pairs" in parameters and len(self._flip_pairs) > 0

    @property
    def _flip_pairs(self) -> Sequence[tuple[int, int]]:
        given = getattr(self.model.config, "flip_pairs", None)
        return infer_flip_pairs(self.keypoint_names or ()) if given is None else given

    def _known(self, attribute: str) -> Any:
        """What the package knows about the model's keypoints by their names."""
        keypoint_set = find_keypoint_set(self.keypoint_names or ())
        return None if keypoint_set is None else getattr(keypoint_set, attribute)

    def _sanitize_parameters(
        self,
        threshold=None,
        top_k=None,
        nms_threshold=None,
        detector=None,
        detector_threshold=None,
        detector_labels=None,
        flip_test=None,
        dataset_index=None,
        **unknown,
    ):
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; the pipeline takes `threshold`, `top_k`, `nms_threshold`, "
                "`batch_size`, and for top-down models `boxes`, `detector`, `detector_threshold`, `detector_labels`, "
                "`flip_test` and `dataset_index`."
            )
        thresholds = {
            "threshold": threshold,
            "nms_threshold": nms_threshold,
            "detector_threshold": detector_threshold,
        }
        for name, value in thresholds.items():
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"`{name}` must be a number from 0 to 1, got {value!r}.")
        _check_count("top_k", top_k)
        if flip_test not in (None, True, False):
            raise ValueError(f"`flip_test` must be True or False, got {flip_test!r}.")
        top_down = {
            "detector": detector,
            "detector_threshold": detector_threshold,
            "detector_labels": detector_labels,
            "flip_test": flip_test or None,
            "dataset_index": dataset_index,
        }
        given = [name for name, value in top_down.items() if value is not None]
        if given and not self.is_top_down:
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in given)} cannot be used: {type(self.model).__name__} finds the "
                "persons itself, in the whole picture."
            )
        if flip_test and not self.supports_flip_test:
            raise ValueError(
                f"`flip_test` cannot be used: {type(self.model).__name__} has none, or does not know which keypoints "
                "change places in a mirrored picture (set `model.config.flip_pairs`)."
            )
        if nms_threshold is not None and self.keypoint_sigmas is None:
            raise ValueError("`nms_threshold` needs `keypoint_sigmas` in the model's configuration, which has none.")
        self._check_dataset_index(dataset_index)
        if isinstance(detector_labels, str) or (detector_labels is not None and not _is_iterable(detector_labels)):
            raise TypeError(f"`detector_labels` must be a list of class names, got {detector_labels!r}.")
        if detector is not None:
            detector = load_detector(detector, self.device)
        preprocess = {"detector": detector, "threshold": detector_threshold, "labels": detector_labels}
        forward = {"flip_test": flip_test, "dataset_index": dataset_index}
        limits = {"threshold": threshold, "top_k": top_k}
        if not self.is_top_down:
            forward, limits = limits, {}
        parameters = (preprocess, forward, {**limits, "nms_threshold": nms_threshold})
        return tuple({key: value for key, value in entry.items() if value is not None} for entry in parameters)

    def _check_dataset_index(self, dataset_index: Any):
        if dataset_index is None:
            return
        if self._num_experts == 1:
            raise ValueError("`dataset_index` chooses between the experts of ViTPose+; this model has none.")
        is_index = isinstance(dataset_index, int) and not isinstance(dataset_index, bool)
        if not is_index or not 0 <= dataset_index < self._num_experts:
            raise ValueError(
                f"`dataset_index` must be an integer from 0 to {self._num_experts - 1}, got {dataset_index!r}."
            )

    @property
    def _num_experts(self) -> int:
        return getattr(getattr(self.model.config, "backbone_config", None), "num_experts", 1)

    def __call__(self, images: Any, boxes: Any = None, batch_size: int | None = None, **kwargs) -> Any:
        """Estimate poses, see the class."""
        _check_count("batch_size", batch_size)
        if boxes is not None and kwargs.get("detector") is not None:
            raise ValueError("`boxes` and `detector` were both given; pass one of them.")
        if boxes is not None and not self.is_top_down:
            raise ValueError(
                f"`boxes` cannot be used: {type(self.model).__name__} finds the persons itself, in the whole picture."
            )
        batch_size = batch_size or self._batch_size
        given = self._sanitize_parameters(**kwargs)
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        parameters = [{**defaults, **values} for defaults, values in zip(own, given, strict=True)]
        if isinstance(images, str | PathLike) and not _is_url(images) and Path(images).is_dir():
            images = image_files(images)
        is_list = isinstance(images, list | tuple)
        is_one = not is_list and (
            isinstance(images, str | PathLike | Image.Image | np.ndarray) or not _is_iterable(images)
        )
        if is_list and boxes is not None:
            _check_boxes_of_list(boxes, len(images))
        images, boxes = ([images], None if boxes is None else [boxes]) if is_one else (images, boxes)
        if self.is_top_down:
            results = self._stream_crops(images, boxes, batch_size, *parameters)
        else:
            results = self._stream(images, 1 if is_one else batch_size or 1, *parameters)
        return next(results) if is_one else list(results) if is_list else results

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

    def _stream_crops(
        self,
        images: Iterable,
        boxes: Iterable | None,
        batch_size: int | None,
        preprocess: dict,
        forward: dict,
        postprocess: dict,
    ) -> Iterator[list[dict]]:
        """Results in the order of the images, `batch_size` crops at a time. Only crops wait for their batch, no pictures."""
        in_view: deque[_Picture] = deque()
        batch: list[tuple[_Picture, dict]] = []
        given_boxes = None if boxes is None else iter(boxes)
        for index, image in enumerate(images):
            picture = read_image(image)
            if given_boxes is None:
                entry = self._find_boxes(picture, **preprocess)
            else:
                own_boxes = next(given_boxes, None)
                if own_boxes is None:
                    raise ValueError(f"`boxes` must have a list for each picture, got none for picture {index}.")
                entry = _Picture(read_boxes(own_boxes, picture.size))
            in_view.append(entry)
            start = 0
            while start < len(entry.boxes):
                room = (batch_size or DEFAULT_CROPS) - sum(len(inputs["boxes"]) for _, inputs in batch)
                chunk = entry.boxes[start : start + room]
                batch.append((entry, self.preprocess([picture], chunk)))
                start += len(chunk)
                if len(chunk) == room:
                    self._run(batch, forward)
            if batch_size is None or len(in_view) >= BATCHES_IN_VIEW * batch_size:
                self._run(batch, forward)
            while in_view and in_view[0].is_complete:
                yield self._finish(in_view.popleft(), postprocess)
        if given_boxes is not None and next(given_boxes, None) is not None:
            raise ValueError("`boxes` must have a list for each picture, got more lists than pictures.")
        self._run(batch, forward)
        for entry in in_view:
            yield self._finish(entry, postprocess)

    def _find_boxes(
        self,
        picture: Image.Image,
        detector: Any = None,
        threshold: float = 0.3,
        labels: Sequence[str] = ("person",),
    ) -> "_Picture":
        if detector is not None:
            return _Picture(detect(detector, picture, labels, threshold), nms_threshold=DETECTOR_NMS_THRESHOLD)
        logger.warning_once(
            "Neither `boxes` nor a `detector` was given: the whole picture is taken for the box of one person. Pass "
            "`boxes=[(x, y, width, height), ...]` or `detector=...`, an object-detection model, to look closer."
        )
        return _Picture([PersonBox(0.0, 0.0, float(picture.width), float(picture.height))])

    def _run(self, batch: list[tuple["_Picture", dict]], forward: dict):
        """Give the crops that wait, if any, to the model and the results to their pictures."""
        if not batch:
            return
        inputs = {
            "pixel_values": torch.cat([inputs["pixel_values"] for _, inputs in batch]),
            "boxes": [inputs["boxes"] for _, inputs in batch],
        }
        for (entry, _), persons in zip(batch, self.forward(inputs, **forward)["results"], strict=True):
            entry.persons += persons
        batch.clear()

    def _finish(self, entry: "_Picture", postprocess: dict) -> list[dict]:
        processor = self.image_processor
        default = None if self.keypoint_sigmas is None else entry.nms_threshold
        if entry.nms_threshold is not None and default is None:
            logger.warning_once(
                "Persons that a detector found twice are not dropped: the model's configuration has no "
                "`keypoint_sigmas` to compare poses by."
            )
        if not entry.persons:
            return []
        aspect_ratio = processor.size["width"] / processor.size["height"]
        result = {
            "boxes": entry.boxes,
            "areas": crop_areas(entry.boxes, aspect_ratio, getattr(processor, "box_padding", 1.25)),
            **{name: torch.stack([person[name] for person in entry.persons]) for name in entry.persons[0]},
        }
        return self.postprocess(result, **{"nms_threshold": default, **postprocess})

    def preprocess(self, pictures: list[Image.Image], boxes: list[PersonBox] | None = None, **_) -> dict[str, Any]:
        """Model inputs: of RGB pictures of one size; or of the boxes of one picture, for a top-down model."""
        if boxes is not None:
            if type(self.image_processor).__name__.startswith("VitPose") and not is_scipy_available():
                raise ImportError("ViTPose's image processor needs SciPy: `pip install scipy`.")
            boxes = [box.xywh for box in boxes]
            features = self.image_processor(images=pictures, boxes=[boxes], return_tensors="pt").to(self.dtype)
            return {"pixel_values": features["pixel_values"], "boxes": boxes}
        features = self.image_processor(images=pictures, return_tensors="pt").to(self.dtype)
        return {"features": dict(features), "target_sizes": [(picture.height, picture.width) for picture in pictures]}

    def _forward(self, inputs, threshold=0.3, top_k=None, flip_test=False, dataset_index=0):
        """What `post_process_pose_estimation` gives for each picture, with arrays that begin (persons, ...).

        It is made where the model is, so that only this leaves its device. Of one-stage models: `scores`, `labels`,
        `boxes` as corners, `keypoints` in pixels and `keypoint_scores`; of top-down models see `_forward_crops`.
        """
        if "boxes" in inputs:
            return {"results": self._forward_crops(**inputs, flip_test=flip_test, dataset_index=dataset_index)}
        outputs = self.model(**inputs["features"])
        options = {"threshold": threshold, "target_sizes": inputs["target_sizes"]}
        if top_k is not None:
            options["top_k"] = top_k
        return {"results": self.image_processor.post_process_pose_estimation(outputs, **options)}

    def _forward_crops(
        self, pixel_values: torch.Tensor, boxes: list[list[tuple]], flip_test: bool, dataset_index: int
    ) -> list[list[dict[str, torch.Tensor]]]:
        """For each person of each picture `keypoints` (keypoints, 2), `keypoint_scores` and what RLE adds (keypoints,).

        Boxes of the processors' results are not used (ViTPose returns other ones than it was given), nor are their
        `target_sizes`, which they read differently: everything is in pixels of the picture as it is.
        """
        options = {}
        if self._num_experts > 1:
            options["dataset_index"] = torch.full((len(pixel_values),), dataset_index, device=pixel_values.device)
        own_flip_test = "flip_test" in signature(self.model.forward).parameters
        if flip_test and own_flip_test:
            options["flip_test"] = True
        outputs = self.model(pixel_values, **options)
        for name, value in outputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                outputs[name] = value.float()  # NumPy, in which ViTPose decodes, knows no bfloat16
        if flip_test and not own_flip_test:
            pairs = torch.tensor(self._flip_pairs, device=pixel_values.device)
            mirrored = self.model(pixel_values.flip(-1), flip_pairs=pairs, **options)
            outputs["heatmaps"] = (outputs["heatmaps"] + mirrored["heatmaps"].float()) / 2
        results = self.image_processor.post_process_pose_estimation(outputs, boxes=boxes)
        return [[_read_keypoints(person) for person in persons] for persons in results]

    def postprocess(
        self,
        result: dict[str, Any],
        threshold: float = 0.0,
        top_k: int | None = None,
        nms_threshold: float | None = None,
    ) -> list[dict]:
        """The persons of one picture."""
        arrays = {name: value.float().numpy() for name, value in result.items() if torch.is_tensor(value)}
        keypoints, keypoint_scores = arrays["keypoints"], arrays["keypoint_scores"]
        if "areas" in result:
            boxes, areas = [box.corners for box in result["boxes"]], result["areas"]
            labels, scores = [box.label for box in result["boxes"]], _person_scores(result["boxes"], keypoint_scores)
        else:
            corners, scores = arrays["boxes"], arrays["scores"]
            areas = AREA_PER_BOX * (corners[:, 2:] - corners[:, :2]).prod(axis=1)
            boxes = [dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in corners.tolist()]
            labels = [self.model.config.id2label[label] for label in result["labels"].tolist()]
        # A class that is named so is none: ED-Pose has one that no person ever belongs to.
        order = np.array([i for i in np.argsort(-scores, kind="stable") if labels[i] != "N/A"], dtype=int)
        if nms_threshold is not None:
            kept = oks_nms(keypoints[order], scores[order], areas[order], self.keypoint_sigmas, nms_threshold)
            order = order[kept]
        order = [person for person in order[:top_k] if scores[person] >= threshold]
        names = self.keypoint_names or [f"keypoint_{index}" for index in range(keypoints.shape[1])]
        extra = {name: arrays[name] for name in ("sigma", "confidence", "depth") if name in arrays}
        return [
            {
                "score": scores[person].item(),
                "label": labels[person],
                "box": boxes[person],
                "keypoints": [
                    {"label": name, "x": x, "y": y, "score": score}
                    | {key: values[person, index].item() for key, values in extra.items()}
                    for index, (name, (x, y), score) in enumerate(
                        zip(names, keypoints[person].tolist(), keypoint_scores[person].tolist(), strict=True)
                    )
                ],
            }
            for person in order
        ]


@dataclass
class _Picture:
    """Boxes of a picture in view, what was found in the first of them so far, and how to drop duplicates."""

    boxes: list[PersonBox]
    nms_threshold: float | None = None
    persons: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.persons) == len(self.boxes)


def _read_keypoints(person: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One person of a top-down processor: keypoints in pixels, and numbers of each keypoint by the pipeline's names."""
    read = {"keypoints": person["keypoints"][:, :2], "keypoint_scores": person["scores"].reshape(-1)}
    if "sigmas" in person:
        read["sigma"] = person["sigmas"][:, :2].mean(dim=1)
    for name, source in (("confidence", "confidences"), ("depth", "depths")):
        if person.get(source) is not None:
            read[name] = person[source]
    return read


def _person_scores(boxes: list[PersonBox], keypoint_scores: np.ndarray) -> np.ndarray:
    """(persons,): the original's rescoring as a mean, so that scores in [0, 1] give one in [0, 1]."""
    terms = [keypoint_scores.mean(axis=1), keypoint_scores.max(axis=1)]
    if boxes[0].score is not None:
        terms.append(np.array([box.score for box in boxes]))
    return np.mean(terms, axis=0)


def _check_boxes_of_list(boxes: Any, count: int):
    """For a list of pictures a list of as many lists."""
    if not _is_iterable(boxes) or isinstance(boxes, str | dict):
        raise TypeError(f"`boxes` must be a list with the boxes of each of the {count} pictures, got {boxes!r}.")
    if hasattr(boxes, "__len__") and len(boxes) != count:
        raise ValueError(f"`boxes` must have a list for each of the {count} pictures, got {len(boxes)} lists.")


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
