"""Repeat the evaluation of SmoothNet's and DeciWatch's own code on a released data set, beside the published figures.

    python evaluate_released.py --release smoothnet --data data/poses --dataset pw3d --estimator spin \
        --representation 3D --model folder_of_the_converted_checkpoint

Frames at the end that no whole window covers are left out, sequences shorter than a window are filled up by zeros which
count, and SmoothNet's acceleration errors have a zero at both ends of each sequence: so the figures come out as published.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from pose_sequence_recipe import released_options, write_json
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels.datasets.pose_sequence import PosePair, extractor_options, read_released, root_joints
from hvmodels.metrics.pose_sequence import sequence_pck, summarize_pose_sequences
from hvmodels.models.pose_sequence.windows_pose_sequence import resize_sequence


PUBLISHED = Path(__file__).parent / "published_results.csv"
PCK_THRESHOLDS = (0.05, 0.1, 0.2)


@torch.inference_mode()
def refine_as_published(pairs: list[PosePair], model, extractor) -> tuple[list[np.ndarray], ...]:
    """Outputs, targets and inputs of the frames that count, in the unit of the pairs; whole sequences as the original."""
    model.config.tail, model.config.short_sequence = "drop", "zeros"
    results = []
    for pair in pairs:
        features, true = (extractor(poses, **extractor_options(pair)) for poses in (pair.poses, pair.targets))
        outputs = model(features["pose_values"], features["pose_mask"])
        refined = outputs[extractor.output_name][0]
        sequences = [refined]
        sequences += [resize_sequence(values["pose_values"][0], len(refined), "zeros") for values in (true, features)]
        mask = torch.ones(1, len(refined), dtype=torch.bool)
        results.append(
            [
                extractor.post_process_pose_refinement(
                    {extractor.output_name: values[None], "refined_mask": mask}, features
                )[0]["poses"]
                for values in sequences
            ]
        )
    return tuple(map(list, zip(*results, strict=True)))


def evaluate_released(pairs: list[PosePair], model, extractor, release: str, roots: list[int] | None) -> dict:
    """The figures of the original's evaluation: millimetres in 3-D, pixels in 2-D, PCK where there are boxes."""
    if pairs[0].unit == "axis_angle":
        raise ValueError("Figures of SMPL poses need the meshes of the SMPL model, which is not part of this package.")
    outputs, targets, inputs = refine_as_published(pairs, model, extractor)
    if pairs[0].boxes is not None:
        boxes = [
            np.concatenate([pair.boxes, np.zeros((len(poses), 4))])[: len(poses)]
            for pair, poses in zip(pairs, outputs, strict=True)
        ]
        return {
            f"{prefix}PCK@{threshold}": 100 * sequence_pck(poses, targets, boxes, threshold)
            for prefix, poses in (("input_", inputs), ("", outputs))
            for threshold in PCK_THRESHOLDS
        }
    interval = model.config.sample_interval if release == "deciwatch" else None
    figures = summarize_pose_sequences(
        outputs, targets, inputs, root_index=roots, zero_ends=release == "smoothnet", sample_interval=interval
    )
    return {name: value * (1000 if pairs[0].unit == "metre" else 1) for name, value in figures.items()}


def published_figures(size: int, **key: str) -> dict[str, float]:
    """Those of the papers' repositories, by the names of `evaluate_released`."""
    found = {}
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            if int(row["window_or_interval"]) == size and all(row[name] == value for name, value in key.items()):
                found |= {row["metric"]: row["output"], f"input_{row['metric']}": row["input"]}
    return {name: float(value) for name, value in found.items() if value}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", required=True, choices=["smoothnet", "deciwatch"], help="layout of the data")
    parser.add_argument("--data", required=True, help="folder of the release")
    parser.add_argument("--dataset", required=True, help="aist, h36m, jhmdb, mpiinf3dhp, mupots or pw3d")
    parser.add_argument("--estimator", required=True, help="pose estimator, e.g. spin")
    parser.add_argument("--representation", required=True, choices=["2D", "3D"])
    parser.add_argument("--phase", default="test", choices=["train", "test"])
    parser.add_argument("--model", required=True, help="folder of the converted checkpoint")
    parser.add_argument("--output", help="JSON file to write the figures to")
    options = parser.parse_args(arguments)

    key = {name: getattr(options, name) for name in ("release", "dataset", "estimator", "representation")}
    pairs = read_released(options.data, phase=options.phase, **key)
    model = AutoModelForTimeSeriesPrediction.from_pretrained(options.model).eval()
    # As the loader of the data has it, whatever the model was trained on: SmoothNet's are used in 2-D, too.
    extractor = AutoFeatureExtractor.from_pretrained(options.model, **released_options(**key))
    roots = list(root_joints(options.dataset, options.estimator)) if options.representation == "3D" else None
    figures = evaluate_released(pairs, model, extractor, options.release, roots)
    size = model.config.window_size if options.release == "smoothnet" else model.config.sample_interval
    published = published_figures(size, **key)
    print(f"{len(pairs)} sequences\n\n| figure | measured | published |\n| --- | --- | --- |")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} | {published.get(name, '')} |")
    if options.output is not None:
        write_json({**key, "figures": figures, "published": published}, Path(options.output))


if __name__ == "__main__":
    main()
