"""Errors of models that lift 2D poses, on motion capture with cameras and simulated detections.

    python examples/pose_lifting/evaluate_pose_lifting.py data/motion/cmu_test.npz
    python examples/pose_lifting/evaluate_pose_lifting.py data/motion/cmu_test.npz --models outputs/fcn outputs/videopose3d --json errors.json
    python examples/pose_lifting/evaluate_pose_lifting.py data_3d_h36m.npz --keypoints data_2d_h36m_cpn_ft_h36m_dbb.npz --models outputs/videopose3d

Every model lifts the true places of the joints in the picture, and the stored detections, through `pipeline("pose-lifting")`.
Errors are millimetres, of poses relative to the pelvis in the camera's axes, means over all frames and 17 joints, the
pelvis with its error of 0 among them (as the field reports it); the second figure leaves it out. Of Human3.6M, whose two
archives VideoPose3D prepares, subjects 9 and 11 are lifted, and the mean over the actions is the figure of the papers.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

import hvmodels  # noqa: F401
from hvmodels.datasets.human36m import TEST_SUBJECTS
from hvmodels.datasets.human36m_archives import read_human36m_archives
from hvmodels.datasets.pose_lifting import LiftingSequence, read_lifting_sequences
from hvmodels.metrics.pose_sequence import (
    hardest_mpjpe,
    joint_errors,
    mean_over_actions,
    mpjpe,
    n_mpjpe,
    pa_mpjpe,
    velocity_errors,
)


def lift(lifter: Any, sequence: LiftingSequence, detected: bool, **options: Any) -> np.ndarray:
    """(frames, 17, 3) metres."""
    keypoints, scores = (sequence.detections, sequence.scores) if detected else (sequence.keypoints, None)
    lifted = lifter(keypoints, scores=scores, image_size=sequence.image_size, **options)
    return lifted.tracks[0].keypoints.astype(np.float64)


def measure(predictions: Sequence[np.ndarray], sequences: Sequence[LiftingSequence]) -> dict[str, Any]:
    """Errors in millimetres, over all frames and by action."""
    poses = np.concatenate(predictions) * 1000
    truth = np.concatenate([sequence.positions for sequence in sequences]) * 1000
    pairs = zip(predictions, sequences, strict=True)
    velocities = [velocity_errors(lifted, sequence.positions) for lifted, sequence in pairs]
    actions = np.repeat([sequence.action for sequence in sequences], [len(sequence) for sequence in sequences])
    errors = joint_errors(poses, truth).mean(axis=1)
    return {
        "MPJPE": mpjpe(poses, truth),
        "MPJPE of 16 joints": mpjpe(poses[:, 1:], truth[:, 1:]),
        "PA-MPJPE": pa_mpjpe(poses, truth),
        "N-MPJPE": n_mpjpe(poses, truth),
        "MPJVE": 1000 * float(np.concatenate(velocities).mean()),
        "hardest 5 %": hardest_mpjpe(poses, truth),
        "mean over actions": mean_over_actions(errors, actions),
        "by action": {action: float(errors[actions == action].mean()) for action in sorted(set(actions))},
    }


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="archive of motion capture, such as cmu_test.npz")
    parser.add_argument("--keypoints", type=Path, help="archive of Human3.6M's keypoints; the data are its poses then")
    parser.add_argument("--models", nargs="+", help="folders or repositories; the embedded default if absent")
    parser.add_argument("--no-flip-test", action="store_true", help="without the mean with the mirror image")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    args = parser.parse_args(arguments)

    if args.keypoints is None:
        sequences = read_lifting_sequences(args.data)
    else:
        sequences = read_human36m_archives(args.data, args.keypoints, TEST_SUBJECTS).sequences
    figures = {}
    for model in args.models or [None]:
        lifter = pipeline("pose-lifting", model=model)
        options = {"flip_test": False} if args.no_flip_test else {}
        for source in ("true 2D", "detected 2D"):
            predictions = [lift(lifter, sequence, source == "detected 2D", **options) for sequence in sequences]
            errors = measure(predictions, sequences)
            figures[f"{model or 'default'}, {source}"] = errors
            shown = ", ".join(f"{name} {value:.1f}" for name, value in errors.items() if name != "by action")
            print(f"{model or 'default'}, {source}: {shown}", flush=True)
            print(
                "  " + ", ".join(f"{action} {value:.1f}" for action, value in errors["by action"].items()), flush=True
            )
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
