"""Tracks of any joints through a model of its own joints."""

import numpy as np
import pytest
import torch

from hvmodels.keypoint_sets import COCO17, LSP14, convert_keypoints
from hvmodels.models.pose_sequence import DeciWatchFeatureExtractor, SmoothNetFeatureExtractor
from hvmodels.pipelines.pose_recovery import prepare_poses, refine_tracks, restore_poses, track_batches


class StraightLines:
    """In place of DeciWatch: straight lines between the frames it looks at, each joint moved by an amount of its own."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, extractor, names, moved):
        self.extractor = extractor
        self.shift = np.array([moved.get(name, (0, 0)) for name in names])

    def __call__(self, pose_values, pose_mask):
        recovered = torch.zeros_like(pose_values)
        for row, mask, out in zip(pose_values.numpy(), pose_mask, recovered, strict=True):
            length = int(mask.sum())
            sampled = self.extractor.frame_indices(length)
            for joint in range(row.shape[1]):
                for dim in range(2):
                    line = np.interp(np.arange(length), sampled, row[sampled, joint, dim])
                    out[:length, joint, dim] = torch.from_numpy(line + self.shift[joint, dim])
        return {"recovered_poses": recovered, "refined_mask": pose_mask}


def standing(frames=23, seed=0):
    """(frames, 17, 2): a person in pixels, whose joints keep their places but for jitter and a walk to the right."""
    body = np.array(
        [
            *([100, 20], [104, 15], [96, 15], [108, 18], [92, 18]),
            *([120, 50], [80, 50], [130, 90], [70, 90], [135, 130], [65, 130]),
            *([112, 130], [88, 130], [114, 180], [86, 180], [115, 230], [85, 230]),
        ],
        dtype=np.float64,
    )
    walk = np.stack([np.linspace(0, 80, frames), np.zeros(frames)], axis=1)
    return body + walk[:, None] + np.random.default_rng(seed).normal(0, 1, (frames, 17, 2))


def lines(poses, sampled):
    times = np.arange(len(poses))
    flat = poses.reshape(len(poses), -1)
    return np.stack([np.interp(times, sampled, column[sampled]) for column in flat.T], axis=1).reshape(poses.shape)


@pytest.fixture
def extractor():
    return DeciWatchFeatureExtractor(sample_interval=5, keypoint_names=list(LSP14.keypoints), joint_dim=2)


def test_joints_of_another_set(extractor):
    moved = {"left_wrist": (1, 2), "left_ankle": (-3, 0.5), "head_top": (0, -4)}
    model, poses = StraightLines(extractor, LSP14.keypoints, moved), standing()
    (result,) = refine_tracks(model, extractor, {3: poses}, keypoint_names=COCO17)
    assert set(result) == {"track_id", "poses", "missing"}
    assert result["poses"].dtype == np.float32
    expected = lines(poses, [0, 5, 10, 15, 20, 22])
    for name, shift in moved.items():
        if name in COCO17.keypoints:
            expected[:, COCO17.keypoints.index(name)] += shift
    expected[:, :5] += (0, -4)  # the face goes with the top of the head
    np.testing.assert_allclose(result["poses"], expected, rtol=1e-5)
    assert not result["missing"].any()


def test_only_sampled_frames_and_names(extractor):
    """Poses of the frames that the model looks at give what poses of all frames give, and names do as a set does."""
    model, poses = StraightLines(extractor, LSP14.keypoints, {"head_top": (3, 0)}), standing()
    indices = extractor.frame_indices(23)
    (dense,) = refine_tracks(model, extractor, {0: poses}, keypoint_names=COCO17)
    for timing in ({"num_frames": 23}, {"frame_indices": indices, "num_frames": {0: 23}}):
        (sparse,) = refine_tracks(model, extractor, {0: poses[indices]}, keypoint_names=COCO17.keypoints, **timing)
        np.testing.assert_allclose(sparse["poses"], dense["poses"], rtol=1e-6)
        missing = np.ones((23, 17), dtype=bool)
        missing[indices] = False
        np.testing.assert_array_equal(sparse["missing"], missing)


def test_several_tracks_with_gaps(extractor):
    model, long, short = StraightLines(extractor, LSP14.keypoints, {}), standing(), standing(7, seed=1)
    scores = {"long": np.ones((23, 17)), "short": np.ones((7, 17))}
    scores["long"][5, [0, 9]] = 0  # of a frame that is looked at
    extractor.unseen_joints = "nan"
    short[:, [3, 15]] = np.nan  # never seen
    tracks = {"long": long, "short": short}
    first, second = refine_tracks(model, extractor, tracks, scores, keypoint_names=COCO17)
    bridged = long.copy()
    bridged[5, [0, 9]] = (long[4, [0, 9]] + long[6, [0, 9]]) / 2
    expected = lines(bridged, [0, 5, 10, 15, 20, 22])
    np.testing.assert_allclose(first["poses"], expected, rtol=1e-5)
    assert np.argwhere(first["missing"]).tolist() == [[5, 0], [5, 9]]
    assert np.isnan(second["poses"][:, [3, 15]]).all()
    rest = [index for index in range(17) if index not in (3, 15)]
    np.testing.assert_allclose(second["poses"][:, rest], lines(short, [0, 5, 6])[:, rest], rtol=1e-5)
    (alone,) = refine_tracks(model, extractor, {"short": short}, keypoint_names=COCO17)
    np.testing.assert_array_equal(alone["poses"], second["poses"])


def test_same_joints_in_another_order(extractor):
    names = LSP14.keypoints[::-1]
    model = StraightLines(extractor, LSP14.keypoints, {"neck": (5, 5)})
    poses = convert_keypoints(standing(), COCO17, LSP14)
    (expected,) = refine_tracks(model, extractor, {0: poses}, keypoint_names=LSP14)
    (reversed_,) = refine_tracks(model, extractor, {0: poses[:, ::-1]}, keypoint_names=names)
    np.testing.assert_allclose(reversed_["poses"][:, ::-1], expected["poses"], rtol=1e-6)


def test_the_models_own_joints_and_smoothnet_need_no_conversion(extractor):
    poses = standing(8)
    for features in (extractor, SmoothNetFeatureExtractor()):
        own = poses[:, :14] if features is extractor else poses
        prepared = prepare_poses(features, {0: own}, keypoint_names=LSP14 if features is extractor else COCO17)
        np.testing.assert_array_equal(prepared.features["pose_values"][0], own.astype(np.float32))
        outputs = {features.output_name: prepared.features["pose_values"]}
        (result,) = restore_poses(features, outputs, prepared)
        np.testing.assert_allclose(result["poses"], own, rtol=1e-6)


def test_batches_of_similar_length():
    lengths = {"a": 30, "b": 4, "c": 100, "d": 7, "e": 50, "f": 101, "g": 8}
    tracks = {key: np.zeros((length, 2, 2)) for key, length in lengths.items()}
    batches = list(
        track_batches(tracks, None, {key: range(length) for key, length in lengths.items()}, 200, batch_size=2)
    )
    assert [list(batch["poses"]) for batch in batches] == [["b", "d"], ["g"], ["a", "e"], ["c", "f"]]
    assert [list(batch["frame_indices"]) for batch in batches] == [list(batch["poses"]) for batch in batches]
    assert all(batch["num_frames"] == 200 and batch["scores"] is None for batch in batches)


@pytest.mark.parametrize(
    ("poses", "options", "error", "message"),
    [
        (
            standing(),
            {"keypoint_names": [*COCO17.keypoints, "tail"]},
            ValueError,
            r"shape \(frames, 18, dims\).*\(23, 17, 2\)",
        ),
        (
            standing()[:, :5],
            {"keypoint_names": COCO17.keypoints[:5]},
            ValueError,
            "'right_ankle', .* cannot be had from",
        ),
        ([[[1, 2]], [[1]]], {"keypoint_names": COCO17}, TypeError, "`poses` of track 0 must be a rectangular array"),
        (np.full((23, 17, 2), np.nan), {"keypoint_names": COCO17}, ValueError, "no joint that is ever seen"),
        (
            standing(),
            {"keypoint_names": COCO17, "frame_indices": [0, 5]},
            ValueError,
            "one number for each of the 23 poses",
        ),
        (standing(), {}, ValueError, "must have the 14 joints of the checkpoint"),
        (standing(), {"keypoint_names": COCO17, "unit": "inch"}, ValueError, "`unit` must be one of"),
    ],
)
def test_bad_tracks(poses, options, error, message, extractor):
    with pytest.raises(error, match=message):
        prepare_poses(extractor, {0: poses}, **options)


def test_bad_scores(extractor):
    with pytest.raises(ValueError, match=r"`scores` of track 0 must have shape \(23, 17\) as the poses, got \(23,\)"):
        prepare_poses(extractor, {0: standing()}, {0: np.ones(23)}, keypoint_names=COCO17)
