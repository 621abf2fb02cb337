"""Accuracy of a network for actions on an archive of sequences, by the pipeline: of true poses, or seen by a camera and lifted.

    python evaluate_skeleton_actions.py --data actions_test.npz
    python evaluate_skeleton_actions.py --data actions_test.npz --lift

With `--lift` each person is seen by a level camera from a random side, at true 2D, and `pipeline("pose-lifting")` gives the poses.
"""

import argparse
import math

import numpy as np
from transformers import pipeline

import hvmodels
from hvmodels import PoseSequence, PoseTrack
from hvmodels.datasets.skeleton_actions import ActionSequence, read_action_archive
from hvmodels.keypoint_sets import HUMAN36M17
from hvmodels.metrics.classification import classification_metrics, confusion_matrix


IMAGE_SIZE, FOCAL_LENGTH, DISTANCE = (1000, 1000), 1145.0, 5000.0  # pixels, pixels, millimetres


def seen_by_a_camera(sequence: ActionSequence, rate: float, generator: np.random.Generator) -> PoseSequence:
    """2D poses in pixels of a camera that follows the person, level with the pelvis, from a random side."""
    poses = sequence.skeletons[0] - sequence.skeletons[0][:, :1]
    angle = generator.uniform(0, 2 * np.pi)
    right = np.array([np.cos(angle), np.sin(angle), 0])
    away = np.array([-np.sin(angle), np.cos(angle), 0])
    depth = poses @ away + DISTANCE
    pixels = np.stack([poses @ right, -poses[..., 2]], axis=-1) / depth[..., None] * FOCAL_LENGTH + 500
    return PoseSequence(
        [PoseTrack(0, 0, pixels)],
        keypoint_names=HUMAN36M17.keypoints,
        frame_rate=rate,
        image_size=IMAGE_SIZE,
        unit="pixel",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive, see `read_action_archive`")
    parser.add_argument("--model", help="folder; the model inside the package without")
    parser.add_argument("--groups", help="only these groups, such as styles: a,b,c")
    parser.add_argument("--lift", action="store_true", help="from 2D poses, by the default lifter")
    parser.add_argument("--lifter", help="folder of another lifter")
    parser.add_argument("--seed", type=int, default=0, help="of the cameras")
    args = parser.parse_args()
    sequences, classes, rate = read_action_archive(args.data)
    if args.groups is not None:
        sequences = [sequence for sequence in sequences if sequence.group in args.groups.split(",")]
    recognise = pipeline(
        "skeleton-action-recognition", model=args.model or hvmodels.default_model("skeletal-gnn-actions")
    )
    index_of = recognise.model.config.label2id
    lift = pipeline("pose-lifting", model=args.lifter) if args.lift or args.lifter else None
    generator, scores = np.random.default_rng(args.seed), []
    for sequence in sequences:
        poses = sequence.skeletons[0]
        if lift is not None:
            poses = lift(seen_by_a_camera(sequence, rate, generator))
        (action,) = recognise(poses, window_seconds=math.inf, top_k=len(index_of))
        row = np.zeros(len(classes))
        for entry in action["actions"]:
            row[index_of[entry["label"]]] = entry["score"]
        scores.append(row)
    scores, labels = np.stack(scores), np.array([sequence.label for sequence in sequences])
    print(", ".join(f"{name} {value:.4f}" for name, value in classification_metrics(scores, labels).items()))
    for name, row in zip(classes, confusion_matrix(scores, labels), strict=True):
        found = ", ".join(f"{classes[other]} {row[other]}" for other in np.argsort(-row) if row[other])
        print(f"  {name}: {found}")


if __name__ == "__main__":
    main()
