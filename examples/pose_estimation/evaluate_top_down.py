"""Measure a top-down model with true boxes: PCK, OKS-AP, calibration of its confidence, pictures.

    python evaluate_top_down.py --model outputs/pose --annotations val.json --images val_images \
        --fit_annotations train.json --fit_images train_images --fit_last 300 --output_dir outputs/evaluation

fits the confidence on persons that were not trained on, writes it into the model's configuration, and measures.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pose_recipe import write_json
from torch.utils.data import DataLoader, Subset

from hvmodels.datasets.top_down import TopDownCollator, TopDownDataset
from hvmodels.keypoint_sets import KEYPOINT_SETS, KeypointSet
from hvmodels.metrics.calibration import (
    confidences,
    error_by_quantile,
    expected_calibration_error,
    fit_confidence,
    reliability,
)
from hvmodels.metrics.keypoints import KeypointEvaluator
from hvmodels.models.rle import RLEForPoseEstimation
from hvmodels.models.rle.cropping_rle import decode_keypoints, instance_scores
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor
from hvmodels.pipelines.pipeline_pose_estimation import PoseEstimationPipeline
from hvmodels.visualization.calibration import plot_reliability
from hvmodels.visualization.poses import draw_poses


RADII = (0.1, 0.2)
FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")


class Predictions:
    """What a model says of the persons of a data set.

    Args:
        keypoints: (persons, keypoints, 2), pixels.
        sigmas: (persons, keypoints), mean of x and y, in units of the crop.
        scores: (persons, keypoints).
        errors: (persons, keypoints), distance over the longer side of the box, NaN where not labelled.
    """

    def __init__(self, model, processor, dataset: TopDownDataset, indices: range, flip_test: bool):
        collator = TopDownCollator(processor.image_mean, processor.image_std)
        keypoints, sigmas, scores = [], [], []
        loader = DataLoader(Subset(dataset, indices), 32, collate_fn=lambda items: (items, collator(items)))
        for items, batch in loader:
            with torch.inference_mode():
                outputs = model(batch["pixel_values"], flip_test=flip_test)
            boxes = np.stack([item["crop_box"] for item in items])
            keypoints.append(decode_keypoints(outputs.keypoints.numpy(), boxes, dataset.size))
            sigmas.append(outputs.sigmas.mean(-1).numpy())
            scores.append(outputs.scores.numpy())
        self.keypoints, self.sigmas, self.scores = map(np.concatenate, (keypoints, sigmas, scores))
        truth, boxes = dataset.keypoints[list(indices)], dataset.boxes[list(indices)]
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        errors = np.linalg.norm(self.keypoints - truth[..., :2], axis=-1) / sides[:, None]
        self.errors = np.where(truth[..., 2] > 0, errors, np.nan)


def pck(errors: np.ndarray) -> dict[str, float]:
    errors = errors[~np.isnan(errors)]
    return {f"PCK@{radius}": float((errors <= radius).mean()) for radius in RADII} if len(errors) else {}


def average_precision(annotations: Path, dataset: TopDownDataset, predictions: Predictions) -> dict[str, float]:
    """OKS-AP of the file's own keypoints, found among the model's by their names."""
    names = tuple(dataset.categories[0]["keypoints"])
    sigmas = next((known.sigmas for known in KEYPOINT_SETS.values() if known.keypoints == names), None)
    if sigmas is None:
        return {}
    columns = [dataset.keypoint_set.keypoints.index(name) for name in names]
    evaluator = KeypointEvaluator(annotations, sigmas)
    image_ids = np.array([annotation["image_id"] for annotation in dataset.annotations])
    scores = instance_scores(predictions.scores[:, columns])
    for image_id in np.unique(image_ids):
        rows = np.flatnonzero(image_ids == image_id)
        persons = {"scores": scores[rows], "keypoints": predictions.keypoints[rows][:, columns]}
        evaluator.update(int(image_id), persons)
    return {name: float(value) for name, value in evaluator.compute().items() if name in ("AP", "AP50", "AP75", "AR")}


def overlays(estimate: PoseEstimationPipeline, dataset: TopDownDataset, image_ids: list[int], path: Path, height: int):
    """Pictures with the poses in the annotated boxes, each by itself and all in one."""
    drawn = []
    for image_id in image_ids:
        rows = [row for row, annotation in enumerate(dataset.annotations) if annotation["image_id"] == image_id]
        picture = Image.fromarray(dataset.picture(rows[0]))
        persons = estimate(picture, boxes=[dataset.annotations[row]["bbox"] for row in rows])
        picture = draw_poses(picture, persons, estimate.keypoint_links, scores=False)
        picture.save(path.with_name(f"{path.stem}_{image_id}.jpg"), quality=90)
        drawn.append(picture.resize((round(picture.width * height / picture.height), height)))
    sheet = Image.new("RGB", (sum(picture.width for picture in drawn), height))
    left = 0
    for picture in drawn:
        sheet.paste(picture, (left, 0))
        left += picture.width
    sheet.save(path, quality=90)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model and its image processor")
    parser.add_argument("--annotations", nargs="+", required=True, help="COCO keypoints files to measure on")
    parser.add_argument("--images", nargs="+", required=True, help="image folder or .tar file of each")
    parser.add_argument("--fit_annotations", help="COCO keypoints file to fit the confidence on")
    parser.add_argument("--fit_images", help="its image folder or .tar file")
    parser.add_argument("--fit_last", type=int, help="take its last persons only, those held out in training")
    parser.add_argument(
        "--extra_fields", nargs="*", default=[], help="further fields with keypoints, where a file has them"
    )
    parser.add_argument("--flip_test", action="store_true", help="average with the mirrored crops")
    parser.add_argument(
        "--overlays", type=int, nargs="*", default=[], help="number of pictures to draw, one for each file"
    )
    parser.add_argument("--licenses", type=int, nargs="*", help="draw pictures with these licence ids only")
    parser.add_argument("--output_dir", default="outputs/evaluation")
    options = parser.parse_args(arguments)
    if len(options.images) != len(options.annotations):
        raise ValueError(f"`--images` must name one place for each of {len(options.annotations)} annotation files.")
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    model = RLEForPoseEstimation.from_pretrained(options.model).eval()
    processor = RLEImageProcessor.from_pretrained(options.model)
    config = model.config
    keypoint_set = KeypointSet(
        "model", config.keypoint_names, config.flip_pairs or (), config.keypoint_links or (), config.keypoint_sigmas
    )
    radius = config.confidence_radius
    body = np.array([name not in FACE for name in config.keypoint_names])

    def read(annotations: str, images: str) -> TopDownDataset:
        category = json.loads(Path(annotations).read_text())["categories"][0]
        fields = [name for name in options.extra_fields if category.get(name)]
        size = (processor.size["height"], processor.size["width"])
        return TopDownDataset(annotations, images, keypoint_set, size, processor.box_padding, fields)

    report = {"flip_test": options.flip_test, "confidence_radius": radius}
    if options.fit_annotations is not None:
        dataset = read(options.fit_annotations, options.fit_images)
        first = len(dataset) - options.fit_last if options.fit_last else 0
        found = Predictions(model, processor, dataset, range(first, len(dataset)), options.flip_test)
        labelled = ~np.isnan(found.errors) & body  # faces of the training data are guesses of another model
        coefficients = fit_confidence(found.sigmas[labelled], found.errors[labelled] <= radius)
        config.confidence_coefficients = list(coefficients)
        config.save_pretrained(options.model)
        report["fit"] = {"persons": len(dataset) - first, "coefficients": coefficients, **pck(found.errors[:, body])}
    estimate = PoseEstimationPipeline(model=model, image_processor=processor)
    tables, deciles = {}, None
    for index, (annotations, images) in enumerate(zip(options.annotations, options.images, strict=True)):
        dataset, name = read(annotations, images), Path(annotations).stem
        found = Predictions(model, processor, dataset, range(len(dataset)), options.flip_test)
        own = np.isin(config.keypoint_names, dataset.categories[0]["keypoints"])
        entry = {"persons": len(dataset), **pck(found.errors[:, own])}
        entry |= average_precision(annotations, dataset, found)
        if not own.all():
            entry |= {f"{key} of further keypoints": value for key, value in pck(found.errors[:, ~own]).items()}
        by_name = {key: pck(found.errors[:, [column]]) for column, key in enumerate(config.keypoint_names)}
        entry["PCK@0.1 by keypoint"] = {key: value["PCK@0.1"] for key, value in by_name.items() if value}
        labelled = ~np.isnan(found.errors) & own
        sigmas, errors = found.sigmas[labelled], found.errors[labelled]
        entry["error by decile of sigma"] = error_by_quantile(sigmas, errors).tolist()
        if config.confidence_coefficients is not None:
            confidence = confidences(sigmas, config.confidence_coefficients)
            entry["expected calibration error"] = expected_calibration_error(confidence, errors <= radius)
            tables[name] = reliability(confidence, errors <= radius)
        if index == 0:
            deciles = np.array(entry["error by decile of sigma"])
        report[name] = entry
        if index < len(options.overlays) and options.overlays[index]:
            licenses = {
                image["id"]: image.get("license") for image in json.loads(Path(annotations).read_text())["images"]
            }
            ids = list(dict.fromkeys(annotation["image_id"] for annotation in dataset.annotations))
            if options.licenses and any(licenses.values()):
                ids = [image_id for image_id in ids if licenses[image_id] in options.licenses]
            chosen = [
                ids[place] for place in np.linspace(0, len(ids) - 1, options.overlays[index]).round().astype(int)
            ]
            overlays(estimate, dataset, chosen, output_dir / f"{name}.jpg", 320)
    if tables:
        plot_reliability(tables, deciles).savefig(output_dir / "reliability.png", dpi=110)
    write_json(report, output_dir / "evaluation.json")
    print("| data | persons | PCK@0.1 | PCK@0.2 | AP | AP50 | AP75 | calibration error |\n|" + " --- |" * 8)
    for name, entry in report.items():
        if isinstance(entry, dict) and "persons" in entry:
            keys = ("PCK@0.1", "PCK@0.2", "AP", "AP50", "AP75", "expected calibration error")
            cells = [f"{entry[key]:.3f}" if key in entry else "" for key in keys]
            print(f"| {name} | {entry['persons']} | {' | '.join(cells)} |")
    for name, entry in report.items():
        if isinstance(entry, dict) and "error by decile of sigma" in entry:
            print(f"{name}: error by decile of sigma", " ".join(f"{v:.3f}" for v in entry["error by decile of sigma"]))


if __name__ == "__main__":
    main()
