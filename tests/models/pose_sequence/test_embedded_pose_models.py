"""What the embedded models of pose sequences are measured to do, on the test sequences of `data/motion`."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

import hvmodels
from hvmodels.datasets.pose_sequence import read_motion
from hvmodels.metrics.pose_sequence import acceleration_errors, joint_errors


def load(name):
    """An embedded model and its feature extractor."""
    folder = hvmodels.default_model(name)
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder).eval()
    return model, AutoFeatureExtractor.from_pretrained(folder)


def measure(name, pairs, joints, clean=False):
    """Mean error and mean acceleration error over all frames of all sequences."""
    model, extractor = load(name)
    errors, accelerations = [], []
    for pair in pairs:
        features = extractor(pair.targets if clean else pair.poses)
        with torch.inference_mode():
            outputs = model(features["pose_values"], features["pose_mask"])
        refined = extractor.post_process_pose_refinement(outputs, features)[0]["poses"]
        errors.append(joint_errors(refined[:, joints], pair.targets[:, joints]).ravel())
        accelerations.append(acceleration_errors(refined[:, joints], pair.targets[:, joints]).ravel())
    return np.concatenate(errors).mean(), np.concatenate(accelerations).mean()


@pytest.mark.parametrize(
    ("kind", "most"), [("3D", (52.0, 4.5, 3.0)), ("2D", (5.54, 0.84, 0.6))], ids=["millimetres", "pixels"]
)
def test_smoothnet_is_better_than_every_plain_filter(kind, most, shared_data):
    pairs = read_motion(shared_data / "data" / "motion" / "cmu_test.npz", kind)
    joints = slice(1 if kind == "3D" else 0, None)
    error, acceleration = measure("smoothnet-any-pose", pairs, joints)
    clean, _ = measure("smoothnet-any-pose", pairs, joints, clean=True)
    assert error < most[0] and acceleration < most[1] and clean < most[2]


def test_smoothnet_does_not_depend_on_unit_and_place():
    model, _ = load("smoothnet-any-pose")
    poses = torch.randn(1, 70, 4, 3, dtype=torch.float64).cumsum(1)
    with torch.inference_mode():
        refined, moved = model(poses).refined_poses, model(poses * 250 - 40).refined_poses
    torch.testing.assert_close(moved, refined * 250 - 40, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "most"), [("3D", (54.87, 15.62 / 3)), ("2D", (5.74, 3.99 / 3))], ids=["millimetres", "pixels"]
)
def test_deciwatch_from_every_tenth_frame_is_as_good_as_all_detections(kind, most, shared_data):
    pairs = read_motion(shared_data / "data" / "motion" / "cmu_test.npz", kind)
    error, acceleration = measure(f"deciwatch-{kind.lower()}", pairs, slice(1 if kind == "3D" else 0, None))
    assert error < most[0] and acceleration < most[1]
