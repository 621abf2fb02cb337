"""What the embedded network for actions is measured to do, on the test sequences of `data/motion`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForVideoClassification, pipeline

import hvmodels
from hvmodels.datasets.skeleton_actions import read_action_archive
from tests.models.pose_sequence.test_skeleton_streams_skeletal_gnn import standing


FOLDER = hvmodels.default_model("skeletal-gnn-actions")


def lift_hand(side, frames=60):
    """Somebody who stands, lifts a straight arm, and takes it down again: (frames, 17, 3) metres."""
    poses = np.repeat(standing()[None], frames, axis=0)
    shoulder, elbow, wrist = (11, 12, 13) if side == "left" else (14, 15, 16)
    angle = np.interp(np.arange(frames), [0, 15, 45, 59], [0, 2.8, 2.8, 0])
    outwards = np.sign(poses[0, shoulder, 0])
    for joint, length in ((elbow, 0.3), (wrist, 0.5)):
        poses[:, joint, 0] = poses[0, shoulder, 0] + outwards * length * np.sin(angle)
        poses[:, joint, 2] = poses[0, shoulder, 2] - length * np.cos(angle)
    return poses


def test_it_is_small_and_says_its_licence():
    files = {path.name: path for path in Path(FOLDER).iterdir()}
    assert sum(path.stat().st_size for path in files.values()) < 1_000_000
    assert "CC BY-NC 4.0" in files["README.md"].read_text()


@pytest.mark.parametrize("side", ["left", "right"])
def test_lifted_hand(side):
    recognise = pipeline("skeleton-action-recognition")
    poses = lift_hand(side)
    of_camera = np.stack([poses[..., 0], -poses[..., 2], poses[..., 1]], axis=-1)
    results = [recognise(values) for values in (poses, 1000 * poses, of_camera)]
    assert {action["label"] for (action,) in results} == {f"raise-up-{side}-hand"}


def test_top_1_accuracy(shared_data):
    sequences, classes, _ = read_action_archive(shared_data / "data" / "motion" / "actions_test.npz")
    model = AutoModelForVideoClassification.from_pretrained(FOLDER).eval()
    assert list(model.config.id2label.values()) == classes
    extractor = AutoFeatureExtractor.from_pretrained(FOLDER)
    found = []
    for first in range(0, len(sequences), 28):
        poses = [sequence.skeletons[0] for sequence in sequences[first : first + 28]]
        with torch.inference_mode():
            outputs = model(**extractor(poses, unit="millimetre", up="z"))
        found += extractor.post_process_action_recognition(outputs, model.config.id2label, top_k=1)
    right = [classes[sequence.label] == row[0]["label"] for sequence, row in zip(sequences, found, strict=True)]
    assert np.mean(right) > 0.85  # 96 of 112
