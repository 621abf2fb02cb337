"""Average precision of poses: COCO's keypoint evaluation, and CrowdPose's with easy, medium and hard images.

Both are one algorithm in NumPy, equal to pycocotools, faster-coco-eval and crowdposetools. Nothing has to be compiled,
and the results of an image are plain arrays that processes can gather.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..keypoint_sets import COCO17, CROWDPOSE14, canonical_name
from .oks import AREA_PER_BOX, object_keypoint_similarity, oks_nms


STYLES = {"coco": COCO17, "crowdpose": CROWDPOSE14}
SIMILARITY_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
AREAS = {"": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
MAX_PERSONS = 20
MAX_BOXES = (1, 10, 100)
CROWD_INDEX = {"easy": (0, 0.2), "medium": (0.2, 0.8), "hard": (0.8, float("inf"))}


@dataclass(frozen=True)
class Annotations:
    """The annotated persons of one image.

    Args:
        keypoints: (persons, keypoints, 2), pixels.
        labelled: (persons, keypoints), bool.
        boxes: (persons, 4) as x, y, width, height.
        areas: (persons,), square pixels.
        crowd: (persons,), whether it is a region of many.
        without_keypoints: (persons,), whether it has no labelled keypoint.
    """

    keypoints: np.ndarray
    labelled: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    without_keypoints: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """The predicted persons of one image, highest score first; arrays, so that processes can gather them.

    Args:
        scores: (persons,).
        keypoints: (persons, keypoints, 2), pixels.
        boxes: (persons, 4) as x, y, width, height; None if the model gives none.
    """

    scores: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray | None


@dataclass(frozen=True)
class Matches:
    """Which predictions of one image found a person, per area range and threshold.

    Args:
        scores: (predictions,), descending.
        found: (areas, thresholds, predictions), bool.
        ignored: Same shape, those that count neither as right nor as wrong.
        num_persons: (areas,), annotated persons to be found.
    """

    scores: np.ndarray
    found: np.ndarray
    ignored: np.ndarray
    num_persons: np.ndarray


def match_greedily(
    similarity: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Let each prediction, in order, take the most similar annotation that is still free.

    One that counts goes before one that is ignored, however similar; only crowd regions can be taken again; of equal
    ones the last is taken.

    Args:
        similarity: (predictions, annotations), in [0, 1].
        ignored: (areas, annotations), bool.
        crowd: (annotations,), bool.
        thresholds: (thresholds,), least similarity of a match.

    Returns:
        (areas, thresholds, predictions): whether it found one, and whether that one is ignored.
    """
    count = similarity.shape[1]
    shape = (len(ignored), len(thresholds), len(similarity))
    found, found_ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    taken = np.zeros((*shape[:2], count), dtype=bool)
    counts = ~ignored[:, None]
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]
    for index, row in enumerate(similarity):
        similar = row >= limits
        if not similar.any():
            continue
        free = similar & (crowd | ~taken)
        preferred = free & counts
        candidates = np.where(preferred.any(axis=-1, keepdims=True), preferred, free)
        best = count - 1 - np.where(candidates, row, -1.0)[..., ::-1].argmax(axis=-1)
        area, threshold = np.nonzero(candidates.any(axis=-1))
        best = best[area, threshold]
        taken[area, threshold, best] = True
        found[area, threshold, index] = True
        found_ignored[area, threshold, index] = ignored[area, best]
    return found, found_ignored


def precision_recall(matches: list[Matches], max_per_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision at 101 recalls, interpolated, and the highest recall.

    Args:
        matches: One an image, in the order of the images' ids (it settles equal scores).
        max_per_image: Predictions of an image that count.

    Returns:
        (areas, thresholds, 101) and (areas, thresholds); -1 for areas without persons.
    """
    num_areas, num_thresholds = matches[0].found.shape[:2] if matches else (1, len(SIMILARITY_THRESHOLDS))
    precision = np.full((num_areas, num_thresholds, len(RECALL_THRESHOLDS)), -1.0)
    recall = np.full((num_areas, num_thresholds), -1.0)
    if not matches:
        return precision, recall
    order = np.argsort(-np.concatenate([image.scores[:max_per_image] for image in matches]), kind="stable")
    found = np.concatenate([image.found[..., :max_per_image] for image in matches], axis=-1)[..., order]
    ignored = np.concatenate([image.ignored[..., :max_per_image] for image in matches], axis=-1)[..., order]
    num_persons = sum(image.num_persons for image in matches)
    right, wrong = (found & ~ignored).cumsum(axis=-1), (~found & ~ignored).cumsum(axis=-1)
    for area in np.flatnonzero(num_persons):
        recalls = right[area] / num_persons[area]
        precisions = right[area] / (right[area] + wrong[area] + np.spacing(1))
        envelope = np.maximum.accumulate(precisions[:, ::-1], axis=-1)[:, ::-1]
        envelope = np.pad(envelope, ((0, 0), (0, 1)))  # recalls that are never reached have precision 0
        recall[area] = recalls[:, -1] if len(order) else 0
        for threshold in range(num_thresholds):
            reached = np.searchsorted(recalls[threshold], RECALL_THRESHOLDS)
            precision[area, threshold] = envelope[threshold, reached]
    return precision, recall


def box_iou(boxes: np.ndarray, reference_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Overlap of boxes (x, y, width, height), with a crowd region as share of the box: (boxes, references)."""
    start = np.maximum(boxes[:, None, :2], reference_boxes[:, :2])
    end = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], reference_boxes[:, :2] + reference_boxes[:, 2:])
    overlap = np.maximum(end - start, 0).prod(axis=-1)
    area, reference_area = boxes[:, 2:].prod(axis=-1)[:, None], reference_boxes[:, 2:].prod(axis=-1)
    union = np.where(crowd, area, area + reference_area - overlap)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


class KeypointEvaluator:
    """Average precision of predicted poses against a file of COCO keypoint annotations.

        evaluator = KeypointEvaluator("annotations.json")
        for image_id, persons in ...:
            evaluator.update(image_id, persons)
        evaluator.compute()["AP"]

    Every annotated image counts, also those that no prediction was given for. Processes that share the images each
    fill an evaluator and gather `evaluator.predictions`, a dict by image: `predictions.update(others)`; an image that
    was seen twice counts once.

    Args:
        ground_truth: JSON file in COCO's format, or its content.
        sigmas: (keypoints,), see `object_keypoint_similarity`; None takes those of COCO or CrowdPose.
        style: `"coco"` (also Human-Art), with the annotated areas, or `"crowdpose"`, with 0.53 of the box as area and
            results by the images' `crowdIndex`.
        category_id: Category to evaluate; None is the file's only one.

    Raises:
        ValueError: If the annotations are not of this kind, or there are no sigmas for them.
    """

    def __init__(
        self,
        ground_truth: str | PathLike | Mapping,
        sigmas: Iterable[float] | None = None,
        style: str = "coco",
        category_id: int | None = None,
    ):
        if style not in STYLES:
            raise ValueError(f"`style` must be one of {sorted(STYLES)}, got {style!r}.")
        if not isinstance(ground_truth, Mapping):
            ground_truth = json.loads(Path(ground_truth).read_text(encoding="utf-8"))
        missing = {"images", "annotations", "categories"} - set(ground_truth)
        if missing:
            raise ValueError(f"`ground_truth` must be COCO annotations; it lacks {sorted(missing)}.")
        if not ground_truth["images"]:
            raise ValueError("`ground_truth` must have images, got none.")
        categories = {category["id"]: category for category in ground_truth["categories"]}
        if category_id is None and len(categories) != 1:
            raise ValueError(
                f"`category_id` must be given where there is more than one, choose from {list(categories)}."
            )
        self.style = style
        self.category_id = next(iter(categories)) if category_id is None else category_id
        self.keypoint_names = list(categories.get(self.category_id, {}).get("keypoints") or ()) or None
        self.images = {image["id"]: image for image in ground_truth["images"]}
        self.predictions: dict[Hashable, Predictions] = {}
        annotations = [item for item in ground_truth["annotations"] if item["category_id"] == self.category_id]
        counts = {len(item["keypoints"]) // 3 for item in annotations if item.get("keypoints")}
        self.sigmas = np.asarray(STYLES[style].sigmas if sigmas is None else list(sigmas), dtype=np.float64)
        if counts - {len(self.sigmas)}:
            raise ValueError(
                f"`sigmas` must have one value for each of {sorted(counts)} annotated keypoints, got "
                f"{len(self.sigmas)}; pass those of your keypoint set."
            )
        by_image: dict[Hashable, list] = {image_id: [] for image_id in self.images}
        for item in annotations:
            if item["image_id"] not in by_image:
                raise ValueError(
                    f"Annotation {item['id']} is of image {item['image_id']!r}, which is not in `images`."
                )
            by_image[item["image_id"]].append(item)
        self._annotations = {image_id: self._read(items) for image_id, items in by_image.items()}

    def _read(self, items: list[dict]) -> Annotations:
        count, num_keypoints = len(items), len(self.sigmas)
        triples = [item.get("keypoints") or [0] * 3 * num_keypoints for item in items]
        triples = np.array(triples, dtype=np.float64).reshape(count, num_keypoints, 3)
        boxes = np.array([item["bbox"] for item in items], dtype=np.float64).reshape(count, 4)
        areas = boxes[:, 2] * boxes[:, 3] * AREA_PER_BOX
        if self.style == "coco":
            lacking = [item["id"] for item in items if "area" not in item]
            if lacking:
                raise ValueError(
                    f'Annotations {lacking} have no `area`; add it, or take `style="crowdpose"`, which needs none.'
                )
            areas = np.array([item["area"] for item in items], dtype=np.float64)
        return Annotations(
            triples[..., :2],
            triples[..., 2] > 0,
            boxes,
            areas,
            np.array([bool(item.get("iscrowd", 0)) for item in items], dtype=bool),
            np.array([item.get("num_keypoints", 1) == 0 for item in items], dtype=bool)
            | ~(triples[..., 2] > 0).any(axis=1),
        )

    def update(self, image_id: Hashable, persons: Mapping | list[Mapping]):
        """Take the predictions for one image, in place of earlier ones for it.

        Args:
            image_id: One of the annotated images.
            persons: The result of the pose pipeline (a list of persons), or that of the image processor's
                `post_process_pose_estimation` for this image (a dict of `scores`, `keypoints`, and, if there, `boxes`
                and `labels`; label 0 is no person). All of them, without a threshold on the score. Of the pipeline's
                keypoints the annotated ones are taken by their names, see `keypoint_order`.

        Raises:
            ValueError: If there is no such image, or the predictions are not finite or of other keypoints.
        """
        image_id = image_id.item() if hasattr(image_id, "item") else image_id
        if image_id not in self.images:
            raise ValueError(f"`image_id` must be an image of the annotations, got {image_id!r}.")
        if isinstance(persons, Mapping):
            scores, keypoints, boxes = (_to_array(persons.get(name)) for name in ("scores", "keypoints", "boxes"))
            is_person = (
                np.ones(len(scores), bool) if persons.get("labels") is None else _to_array(persons["labels"]) > 0
            )
            scores, keypoints = scores[is_person], keypoints[is_person]
            boxes = None if boxes is None else boxes[is_person].reshape(-1, 4)
        else:
            scores = np.array([person["score"] for person in persons], dtype=np.float64)
            keypoints = np.array([[(point["x"], point["y"]) for point in person["keypoints"]] for person in persons])
            if persons and "label" in persons[0]["keypoints"][0]:
                order = self.keypoint_order([point["label"] for point in persons[0]["keypoints"]])
                keypoints = keypoints if order is None else keypoints[:, order]
            boxes = None
            if all("box" in person for person in persons):
                sides = ("xmin", "ymin", "xmax", "ymax")
                boxes = np.array([[person["box"][side] for side in sides] for person in persons], dtype=np.float64)
                boxes = boxes.reshape(-1, 4)
        if boxes is not None:
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        self._store(image_id, scores, keypoints, boxes)

    def keypoint_order(self, names: Iterable[str]) -> list[int] | None:
        """Where a model that names its keypoints has the annotated ones, in any spelling (`L_Eye` is `left_eye`).

        Args:
            names: Of the model's keypoints; it may have more than are annotated.

        Returns:
            Index of each annotated keypoint; None, for the order as it is, if the annotations have no names, or the
            model's are other ones altogether.

        Raises:
            ValueError: If the model has some of the annotated keypoints only.
        """
        index_of = {canonical_name(name): index for index, name in enumerate(names)}
        wanted = [canonical_name(name) for name in self.keypoint_names or ()]
        missing = [name for name in wanted if name not in index_of]
        if len(missing) == len(wanted):
            return None
        if missing:
            raise ValueError(
                f"The model has no keypoints {missing}, which are annotated; it has {list(index_of)}. Choose annotations "
                "of the model's own keypoints."
            )
        return [index_of[name] for name in wanted]

    def person_boxes(self, image_id: Hashable) -> list[tuple[float, float, float, float]]:
        """Annotated boxes of an image for top-down models, as (x, y, width, height).

        As HRNet, RLE and others have it, a box loses its last row and column and is clipped to the image; crowds, persons
        without labelled keypoints and boxes of which nothing is left are left out.
        """
        truth, image = self._annotations[image_id], self.images[image_id]
        start, end = truth.boxes[:, :2], truth.boxes[:, :2] + np.maximum(truth.boxes[:, 2:] - 1, 0)
        if "width" in image and "height" in image:
            last = np.array([image["width"] - 1, image["height"] - 1])
            start, end = start.clip(0, last), end.clip(0, last)
        kept = ~truth.crowd & ~truth.without_keypoints & (truth.areas > 0) & (end > start).all(axis=1)
        return [tuple(box) for box in np.concatenate([start, end - start], axis=1)[kept].tolist()]

    def add_results(self, results: str | PathLike | Iterable[Mapping]):
        """Take predictions in COCO's format for results, all at once.

        Args:
            results: A list (or its JSON file) of dicts of `image_id`, `category_id`, `score`, `keypoints` (x, y and a
                value that is not used, for each) and, if there, `bbox`. Other categories are left out.

        Raises:
            ValueError: As `update` does.
        """
        if isinstance(results, str | PathLike):
            results = json.loads(Path(results).read_text(encoding="utf-8"))
        by_image: dict[Hashable, list] = {}
        for result in results:
            if result["category_id"] == self.category_id:
                by_image.setdefault(result["image_id"], []).append(result)
        for image_id, items in by_image.items():
            if image_id not in self.images:
                raise ValueError(f"`image_id` must be an image of the annotations, got {image_id!r}.")
            keypoints = np.array([item["keypoints"] for item in items], dtype=np.float64).reshape(len(items), -1, 3)
            boxes = [item.get("bbox") for item in items]
            boxes = None if None in boxes else np.array(boxes, dtype=np.float64)
            self._store(image_id, np.array([item["score"] for item in items]), keypoints[..., :2], boxes)

    def _store(self, image_id: Hashable, scores: np.ndarray, keypoints: np.ndarray, boxes: np.ndarray | None):
        expected = (len(scores), len(self.sigmas))
        keypoints = keypoints.reshape(*expected, 2) if len(scores) == 0 else keypoints[..., :2]
        if keypoints.shape[:2] != expected:
            raise ValueError(
                f"`persons` must have {expected[1]} keypoints, as the annotations have, got {keypoints.shape[1]}."
            )
        arrays = [scores, keypoints] if boxes is None else [scores, keypoints, boxes]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"`persons` of image {image_id!r} must be finite, got NaN or infinite values.")
        order = np.argsort(-scores, kind="stable")
        self.predictions[image_id] = Predictions(
            scores[order], keypoints[order], None if boxes is None else boxes[order]
        )

    def oks(self, image_id: Hashable) -> np.ndarray:
        """Similarities of an image's predictions (highest score first, 20 at most) to its annotations, in file order.

        Returns:
            (predictions, annotations).
        """
        truth = self._annotations[image_id]
        keypoints = np.zeros((0, len(self.sigmas), 2))
        if image_id in self.predictions:
            keypoints = self.predictions[image_id].keypoints[:MAX_PERSONS]
        return object_keypoint_similarity(
            keypoints, truth.keypoints, truth.areas, self.sigmas, truth.labelled, truth.boxes
        )

    def compute(self) -> dict[str, float]:
        """Average precision and recall over all annotated images, 20 persons an image at most.

        Returns:
            COCO: `AP`, `AP50`, `AP75`, `AP_medium`, `AP_large` and the same of `AR`. CrowdPose: `AP`, `AP50`, `AP75`,
            `AR`, `AR50`, `AR75` and, if the images have a `crowdIndex`, `AP_easy`, `AP_medium`, `AP_hard`, to four
            digits as its code gives them. -1 where there is nobody to be found.
        """
        areas = [""] if self.style == "crowdpose" else ["", "medium", "large"]
        matches = {image_id: self._match_poses(image_id, areas) for image_id in sorted(self.images)}
        precision, recall = precision_recall(list(matches.values()), MAX_PERSONS)
        result = {
            f"{name}{suffix}": value
            for name, table in (("AP", precision), ("AR", recall))
            for suffix, value in _summary(table, areas).items()
        }
        if self.style == "crowdpose" and all("crowdIndex" in image for image in self.images.values()):
            for name, (low, high) in CROWD_INDEX.items():
                subset = [matches[key] for key in matches if low <= self.images[key]["crowdIndex"] < high]
                precision, _ = precision_recall(subset, MAX_PERSONS)
                result[f"AP_{name}"] = round(float(precision.mean()), 4)
        return result

    def compute_boxes(self) -> dict[str, float]:
        """COCO's average precision of the boxes of the same persons.

        Returns:
            `AP`, `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, `AR1`, `AR10`, `AR100` (by the number of boxes an
            image), `AR_small`, `AR_medium`, `AR_large`; -1 where there is nobody to be found.

        Raises:
            ValueError: If predictions came without boxes.
        """
        if any(predictions.boxes is None for predictions in self.predictions.values()):
            raise ValueError("`persons` came without boxes, so there is nothing to evaluate.")
        matches = [self._match_boxes(image_id, list(AREAS)) for image_id in sorted(self.images)]
        precision, recall = precision_recall(matches, MAX_BOXES[-1])
        result = {f"AP{suffix}": value for suffix, value in _summary(precision, list(AREAS)).items()}
        for limit in MAX_BOXES:
            result[f"AR{limit}"] = _mean(precision_recall(matches, limit)[1][0])
        for index, area in enumerate(AREAS):
            if area:
                result[f"AR_{area}"] = _mean(recall[index])
        return result

    def _match_poses(self, image_id: Hashable, areas: list[str]) -> Matches:
        similarity = self.oks(image_id)
        truth = self._annotations[image_id]
        predictions = self.predictions.get(image_id)
        scores = np.zeros(0) if predictions is None else predictions.scores[:MAX_PERSONS]
        extents = np.zeros(0)
        if len(scores):
            extents = np.ptp(predictions.keypoints[:MAX_PERSONS], axis=1).prod(axis=-1)
        return _match(similarity, scores, extents, truth, truth.crowd | truth.without_keypoints, areas)

    def _match_boxes(self, image_id: Hashable, areas: list[str]) -> Matches:
        truth = self._annotations[image_id]
        predictions = self.predictions.get(image_id)
        scores, boxes = np.zeros(0), np.zeros((0, 4))
        if predictions is not None:
            scores, boxes = predictions.scores[: MAX_BOXES[-1]], predictions.boxes[: MAX_BOXES[-1]]
        similarity = box_iou(boxes, truth.boxes, truth.crowd)
        return _match(similarity, scores, boxes[:, 2:].prod(axis=-1), truth, truth.crowd, areas)


def read_detections(detections: str | PathLike | Iterable[Mapping], evaluator: KeypointEvaluator) -> dict:
    """Boxes of a detector for the annotated images.

    Args:
        detections: A list (or its JSON file) in COCO's format for results: dicts of `image_id`, `bbox` (x, y, width,
            height), `score` and, if there, `category_id`. Other categories and other images are left out.
        evaluator: Of the annotations.

    Returns:
        Boxes for the pose pipeline by image, with a list for every annotated one.

    Raises:
        ValueError: If it is nothing of that kind, or has no box for any annotated image.
    """
    if isinstance(detections, str | PathLike):
        detections = json.loads(Path(detections).read_text(encoding="utf-8"))
    boxes: dict[Hashable, list] = {image_id: [] for image_id in evaluator.images}
    for index, item in enumerate(detections):
        if not isinstance(item, Mapping) or {"image_id", "bbox", "score"} - set(item):
            raise ValueError(
                "`detections` must be a list of dicts of `image_id`, `bbox` and `score`, as COCO's results are; item "
                f"{index} is none."
            )
        if item["image_id"] in boxes and item.get("category_id", evaluator.category_id) == evaluator.category_id:
            x, y, width, height = item["bbox"]
            corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
            boxes[item["image_id"]].append({"box": corners, "score": item["score"]})
    if not any(boxes.values()):
        raise ValueError("`detections` must have boxes of the annotated images, got none.")
    return boxes


def evaluate_pose_estimator(
    estimate: Callable[..., Iterable[list[dict]]],
    evaluator: KeypointEvaluator,
    folder: str | PathLike,
    boxes: Mapping[Hashable, list] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Average precision of a pose pipeline over all annotated images.

    Args:
        estimate: The pose pipeline, or what takes an iterator of paths and `threshold` as it does.
        evaluator: Of the annotations.
        folder: Where their images are.
        boxes: For top-down models, the boxes of each image: `evaluator.person_boxes` or `read_detections`.
        options: Further arguments for the pipeline, such as `flip_test`.

    Raises:
        ValueError: If images are missing.
    """
    paths = {image_id: Path(folder) / image["file_name"] for image_id, image in evaluator.images.items()}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise ValueError(
            f"`folder` must hold the annotated images; {len(missing)} are missing, such as {missing[0]!r}."
        )
    if boxes is not None:
        options["boxes"] = (boxes[image_id] for image_id in paths)
    for image_id, persons in zip(paths, estimate(iter(paths.values()), threshold=0.0, **options), strict=True):
        evaluator.update(image_id, persons)
    return evaluator.compute()


def percentage_of_correct_keypoints(
    keypoints: Any, targets: Any, labelled: Any, scales: Any, threshold: float = 0.1, per_keypoint: bool = False
) -> float | np.ndarray:
    """PCK: share of the labelled keypoints that lie within a part of a person's size of their place.

    Args:
        keypoints: (persons, keypoints, 2), pixels, array or tensor.
        targets: Same shape; anything, even NaN, where not labelled.
        labelled: (persons, keypoints), above 0 where a keypoint counts.
        scales: (persons,) size of each person in pixels: the longer side of the box for PCK of the box, the length of
            the head for PCKh.
        threshold: Largest distance that is right, as a share of the size.
        per_keypoint: Whether to return the share of each keypoint, (keypoints,), NaN where it is never labelled.

    Raises:
        ValueError: If shapes do not fit, a value that counts is not finite, a size is not positive, or nothing is
            labelled.
    """
    keypoints, targets, labelled, scales = (_to_array(value) for value in (keypoints, targets, labelled, scales))
    if keypoints.ndim != 3 or keypoints.shape[-1] != 2 or targets.shape != keypoints.shape:
        raise ValueError(
            "`keypoints` and `targets` must both have shape (persons, keypoints, 2), "
            f"got {keypoints.shape} and {targets.shape}."
        )
    if labelled.shape != keypoints.shape[:2] or scales.shape != keypoints.shape[:1]:
        raise ValueError(
            f"`labelled` must have shape {keypoints.shape[:2]} and `scales` {keypoints.shape[:1]}, "
            f"got {labelled.shape} and {scales.shape}."
        )
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ValueError("`scales` must be positive sizes in pixels.")
    if not threshold > 0:
        raise ValueError(f"`threshold` must be a positive share of the size, got {threshold!r}.")
    counts = labelled > 0
    if not counts.any():
        raise ValueError("`labelled` must mark one keypoint at least, but all are unlabelled.")
    if not (np.isfinite(keypoints[counts]).all() and np.isfinite(targets[counts]).all()):
        raise ValueError("`keypoints` and `targets` must be finite where labelled, got NaN or infinite values.")
    distances = np.linalg.norm(np.where(counts[..., None], keypoints - targets, 0), axis=-1)
    right = counts & (distances <= threshold * scales[:, None])
    if not per_keypoint:
        return float(right.sum() / counts.sum())
    with np.errstate(invalid="ignore"):
        return right.sum(axis=0) / counts.sum(axis=0)


def regression_accuracy(
    keypoints: Any, labels: Any, label_weights: Any, size: tuple[int, int], depth_bins: int = 64
) -> float:
    """Accuracy that RLE's training log shows: share of joints nearer than a twentieth of the crop, mean over keypoints.

    It is counted on a grid of a quarter of the crop. Keypoints in its first two rows or columns are left out.

    Args:
        keypoints: (persons, keypoints, 2 or 3), normalised: 0 is the centre of the crop, -0.5 and 0.5 are its edges.
        labels: Same shape.
        label_weights: (persons, keypoints) or the same shape; above 0 where a coordinate is labelled.
        size: (height, width) of the crop.
        depth_bins: Length of the grid along the depth.

    Returns:
        In [0, 1]; 0 where no keypoint counts.

    Raises:
        ValueError: If shapes do not fit.
    """
    keypoints, labels, weights = (_to_array(value) for value in (keypoints, labels, label_weights))
    if keypoints.ndim != 3 or keypoints.shape[-1] not in (2, 3) or labels.shape != keypoints.shape:
        raise ValueError(
            "`keypoints` and `labels` must both have shape (persons, keypoints, 2 or 3), "
            f"got {keypoints.shape} and {labels.shape}."
        )
    weights = weights[..., None] if weights.ndim == 2 else weights
    if weights.shape[:2] != labels.shape[:2] or weights.shape[2] not in (1, labels.shape[2]):
        raise ValueError(f"`label_weights` must have shape {labels.shape[:2]} or {labels.shape}, got {weights.shape}.")
    grid = np.array([size[1] / 4, size[0] / 4, depth_bins])[: keypoints.shape[-1]]
    labelled = np.broadcast_to(weights > 0, labels.shape)
    positions = np.where(labelled, (labels + 0.5) * grid, 0)
    offsets = np.where(labelled, (keypoints - labels) * 10, 0)
    counts = (positions[..., :2] > 1).all(axis=-1)
    right = counts & (np.linalg.norm(offsets, axis=-1) < 0.5)
    seen = counts.any(axis=0)
    return float((right.sum(axis=0)[seen] / counts.sum(axis=0)[seen]).mean()) if seen.any() else 0.0


def _match(
    similarity: np.ndarray,
    scores: np.ndarray,
    prediction_areas: np.ndarray,
    truth: Annotations,
    ignored: np.ndarray,
    areas: list[str],
) -> Matches:
    low, high = np.array([AREAS[area] for area in areas], dtype=np.float64).T[..., None]
    ignored = ignored | (truth.areas < low) | (truth.areas > high)
    found, found_ignored = match_greedily(similarity, ignored, truth.crowd, SIMILARITY_THRESHOLDS)
    outside = (prediction_areas < low) | (prediction_areas > high)
    found_ignored |= ~found & outside[:, None]
    return Matches(scores, found, found_ignored, (~ignored).sum(axis=-1))


def _mean(table: np.ndarray) -> float:
    return float(table[table > -1].mean()) if (table > -1).any() else -1.0


def _summary(table: np.ndarray, areas: list[str]) -> dict[str, float]:
    """Means over thresholds, at two of them, and by area, by the suffix of their names."""
    values = {"": _mean(table[0]), "50": _mean(table[0, 0]), "75": _mean(table[0, 5])}
    return values | {f"_{area}": _mean(table[index]) for index, area in enumerate(areas) if area}


def _to_array(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    value = value.detach().cpu().double().numpy() if hasattr(value, "detach") else value
    return np.asarray(value, dtype=np.float64)


__all__ = [
    "KeypointEvaluator",
    "Predictions",
    "evaluate_pose_estimator",
    "object_keypoint_similarity",
    "oks_nms",
    "percentage_of_correct_keypoints",
    "read_detections",
    "regression_accuracy",
]
