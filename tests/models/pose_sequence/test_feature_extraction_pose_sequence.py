"""Feature extractors of pose sequences: what a model gets, and that the way back undoes it."""

import numpy as np
import pytest
import torch

from hvmodels.models.pose_sequence import DeciWatchFeatureExtractor, SmoothNetFeatureExtractor
from tests.modeling_checks import ProcessorChecks


EXTRACTORS = [SmoothNetFeatureExtractor, DeciWatchFeatureExtractor]
ARGUMENTS = {
    "keypoint_names": ["hip", "knee", "ankle"],
    "num_joints": 3,
    "joint_dim": 3,
    "unit": "metre",
    "normalization": "image",
    "image_scale": 2.0,
    "image_offset": -1.0,
    "root_indices": [0, 1],
    "root_mode": "raw",
    "frame_rate": 50.0,
    "rotation_layout": "rows",
    "score_threshold": 0.2,
    "missing_value": -1.0,
    "unseen_joints": "nan",
}


class TestSmoothNetFeatureExtractor(ProcessorChecks):
    processor_class = SmoothNetFeatureExtractor
    auto_class = SmoothNetFeatureExtractor
    processor_arguments = ARGUMENTS


class TestDeciWatchFeatureExtractor(ProcessorChecks):
    processor_class = DeciWatchFeatureExtractor
    auto_class = DeciWatchFeatureExtractor
    processor_arguments = {**ARGUMENTS, "sample_interval": 5}


def walk(num_frames=40, num_joints=17, dims=3, seed=0):
    """Smooth courses of joints, in metres: (frames, joints, dims) float32."""
    generator = np.random.default_rng(seed)
    time = np.linspace(0, 4, num_frames)[:, None, None]
    place, phase, size = (generator.uniform(-0.8, 0.8, (num_joints, dims)) for _ in range(3))
    return (place + 0.3 * size * np.sin(3 * time + 6 * phase)).astype(np.float32)


def there_and_back(extractor, *arguments, **options):
    """What a model would get, and what comes back from a model that changes nothing."""
    features = extractor(*arguments, **options)
    outputs = {extractor.output_name: features["pose_values"], "refined_mask": features["pose_mask"]}
    return features, extractor.post_process_pose_refinement(outputs, features)


# Shapes and tracks


@pytest.mark.parametrize("extractor_class", EXTRACTORS)
@pytest.mark.parametrize("dims", [2, 3])
def test_one_track(extractor_class, dims):
    poses = walk(dims=dims)
    features, (result,) = there_and_back(extractor_class(), poses)
    assert torch.equal(features["pose_values"], torch.from_numpy(poses)[None])
    assert features["pose_mask"].all()
    assert features["pose_mask"].shape == (1, 40)
    assert set(result) == {"poses", "missing"}
    np.testing.assert_array_equal(result["poses"], poses)
    assert result["poses"].dtype == np.float32
    assert not result["missing"].any()


@pytest.mark.parametrize("extractor_class", EXTRACTORS)
def test_tracks_of_different_lengths(extractor_class):
    tracks = {"b": walk(30), 7: walk(12, seed=1), "one frame": walk(1, seed=2)}
    features, results = there_and_back(extractor_class(), tracks)
    assert features["pose_values"].shape == (3, 30, 17, 3)
    assert features["pose_mask"].sum(1).tolist() == [30, 12, 1]
    for row, mask in zip(features["pose_values"], features["pose_mask"], strict=True):
        assert not row[~mask].any()
        assert mask[: mask.sum()].all()
    assert [result["track_id"] for result in results] == ["b", 7, "one frame"]
    for result, poses in zip(results, tracks.values(), strict=True):
        np.testing.assert_array_equal(result["poses"], poses)
    for results in (
        there_and_back(extractor_class(), list(tracks.values()))[1],
        there_and_back(extractor_class(), list(tracks.values()), track_ids=["b", 7, "one frame"])[1],
    ):
        for result, poses in zip(results, tracks.values(), strict=True):
            np.testing.assert_array_equal(result["poses"], poses)
