import math

import numpy as np
import pytest
import torch
from transformers import pipeline

from hvmodels import (
    PoseSequence,
    PoseTrack,
    SkeletalGNNActionConfig,
    SkeletalGNNForActionRecognition,
    SkeletonActionFeatureExtractor,
    SmoothNetConfig,
    SmoothNetForPoseRefinement,
)
from hvmodels.keypoint_sets import HUMAN36M17
from tests.datasets.test_skeleton_actions import bodies_of, write_skeleton
from tests.models.pose_sequence.test_skeleton_streams_skeletal_gnn import moving


H36M = list(HUMAN36M17.keypoints)
NAMES = {0: "walk", 1: "run", 2: "bow"}


def make_pipeline(config=None, extractor=None):
    torch.manual_seed(0)
    config = SkeletalGNNActionConfig(
        **{
            "skeleton": "h36m17",
            "hidden_sizes": [4],
            "strides": [1],
            "num_persons": 1,
            "id2label": NAMES,
            "label2id": {name: index for index, name in NAMES.items()},
            **(config or {}),
        }
    )
    extractor = SkeletonActionFeatureExtractor(
        **{
            "keypoint_names": H36M,
            "normalization": "view",
            "sampling": "resize",
            "num_frames": 8,
            "num_persons": 1,
            "window_seconds": 1.0,
            **(extractor or {}),
        }
    )
    model = SkeletalGNNForActionRecognition(config).eval()
    return pipeline("skeleton-action-recognition", model=model, feature_extractor=extractor)


@pytest.fixture(scope="module")
def recognise():
    return make_pipeline()


@pytest.fixture(scope="module")
def recognise_ntu():
    return make_pipeline(
        {"skeleton": "ntu25", "num_persons": 2},
        {"keypoint_names": None, "normalization": "agcn", "sampling": "pad", "num_persons": 2},
    )


def scores(actions):
    return [[entry["score"] for entry in action["actions"]] for action in actions]


def test_one_person(recognise):
    (action,) = recognise(moving())
    assert {name: action[name] for name in ("track_id", "start_frame", "end_frame", "start", "end")} == {
        "track_id": 0,
        "start_frame": 0,
        "end_frame": 30,
        "start": None,
        "end": None,
    }
    assert action["actions"][0] == {"label": action["label"], "score": action["score"]}
    values = recognise.feature_extractor(moving())["skeleton_values"]
    with torch.no_grad():
        expected = recognise.model(values).logits.softmax(-1)[0]
    assert {entry["label"]: pytest.approx(entry["score"]) for entry in action["actions"]} == dict(
        zip(NAMES.values(), expected.tolist(), strict=True)
    )


def test_windows_of_a_long_recording(recognise):
    poses = np.concatenate([moving(), moving()[::-1], moving()[:15]])
    actions = recognise(poses, frame_rate=30, batch_size=2)
    assert [(action["start_frame"], action["end_frame"]) for action in actions] == [
        (0, 30), (15, 45), (30, 60), (45, 75),
    ]  # fmt: skip
    assert [(action["start"], action["end"]) for action in actions] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    for action in actions:
        (alone,) = recognise(poses[action["start_frame"] : action["end_frame"]])
        assert alone["score"] == pytest.approx(action["score"], abs=1e-5)
    odd = recognise(poses[:70], frame_rate=30)
    assert [action["start_frame"] for action in odd] == [0, 15, 30, 40]
    (whole,) = recognise(poses, window_seconds=math.inf, frame_rate=30)
    assert whole["end_frame"] == 75
    assert len(recognise(poses, frame_rate=30, window_seconds=2.0)) == 2


def test_sequences_person_by_person(recognise):
    tracks = [
        PoseTrack("b", 10, 1000 * moving()),
        PoseTrack("a", 0, 1000 * np.stack([moving()[..., 0], -moving()[..., 2], moving()[..., 1]], axis=-1)),
    ]
    sequence = PoseSequence(tracks, keypoint_names=H36M, frame_rate=30, unit="millimetre")
    actions = recognise(sequence)
    assert [(action["track_id"], action["start_frame"], action["end"]) for action in actions] == [
        ("b", 10, pytest.approx(40 / 30)), ("a", 0, 1.0),
    ]  # fmt: skip
    np.testing.assert_allclose(scores(actions)[0], scores(actions)[1], atol=1e-5)  # the axis upwards is found
    np.testing.assert_allclose(scores(recognise([moving()])), scores(actions)[:1], atol=1e-5)
    assert recognise({"x": torch.from_numpy(moving())})[0]["track_id"] == "x"


def test_frames_without_anybody(recognise):
    poses = np.concatenate([moving()] * 4)
    gap = poses.copy()
    gap[40:80] = np.nan
    starts = [action["start_frame"] for action in recognise(gap, frame_rate=30)]
    assert starts == [0, 15, 30, 60, 75, 90]  # none from 45 to 75
    assert recognise(np.full((5, 17, 3), np.nan)) == []


def test_top_k_and_threshold(recognise):
    assert len(recognise(moving(), top_k=2)[0]["actions"]) == 2
    best = recognise(moving())[0]["score"]
    assert recognise(moving(), threshold=min(1.0, best + 1e-4)) == []
    assert len(recognise(moving(), threshold=best - 1e-4)) == 1


def test_ntu_file(recognise, recognise_ntu, tmp_path):
    bodies = bodies_of(3, frames=8)
    write_skeleton(tmp_path / "S001C001P001R001A001.skeleton", bodies)
    (action,) = recognise_ntu(tmp_path / "S001C001P001R001A001.skeleton")
    assert (action["track_id"], action["end_frame"]) == (None, 8)
    values = recognise_ntu.feature_extractor(bodies[[2, 1]])["skeleton_values"]
    with torch.no_grad():
        best = recognise_ntu.model(values).logits.softmax(-1).max()
    assert action["score"] == pytest.approx(best.item(), abs=1e-5)
    (action,) = recognise(str(tmp_path / "S001C001P001R001A001.skeleton"), up="y")
    assert action["track_id"] is None


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (moving()[..., :2], {}, ValueError, "lift 2D poses first"),
        (moving()[0], {}, ValueError, r"must have shape \(frames, joints, 3\)"),
        (moving()[:, :16], {}, ValueError, "must have the 17 joints"),
        (moving().astype(str), {}, TypeError, "real numbers"),
        ([], {}, TypeError, "`data` must be a PoseSequence"),
        (None, {}, TypeError, "`data` must be a PoseSequence"),
        ("walk.mp4", {}, ValueError, "must be a `.skeleton` file"),
        (PoseSequence([PoseTrack(0, 0, moving()[..., :2])], unit="pixel"), {}, ValueError, "must have 3D poses"),
        (np.tile(moving(), (11, 1, 1)), {}, ValueError, "`frame_rate` must be given to cut 330 frames"),
        (moving(), {"frame_rate": 0}, ValueError, "`frame_rate` must be a positive number"),
        (moving(), {"window_seconds": "all"}, ValueError, "`window_seconds` must be a positive number"),
        (moving(), {"top_k": 0}, ValueError, "`top_k` must be a positive integer"),
        (moving(), {"threshold": 2}, ValueError, "`threshold` must be from 0 to 1"),
        (moving(), {"batch_size": 0}, ValueError, "`batch_size` must be a positive integer"),
        (moving(), {"up": "north"}, ValueError, "`up` must be one of"),
        (moving(), {"window": 3}, TypeError, r"Unknown arguments \['window'\]"),
    ],
    ids=lambda value: "",
)
def test_bad_input(recognise, data, options, error, message):
    with pytest.raises(error, match=message):
        recognise(data, **options)


@pytest.mark.parametrize(
    ("config", "extractor", "message"),
    [
        ({"num_persons": 2}, {}, "the same `num_persons`, got 2 and 1"),
        ({"skeleton": "ntu25"}, {}, "the same `num_joints`, got 25 and 17"),
        ({}, {"streams": ["joint", "bone"]}, "the same `in_channels`, got 3 and 6"),
    ],
    ids=["persons", "joints", "streams"],
)
def test_model_and_extractor_that_do_not_fit(config, extractor, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(config, extractor)


def test_model_of_another_task():
    model = SmoothNetForPoseRefinement(SmoothNetConfig(window_size=8, hidden_size=8, intermediate_size=4))
    with pytest.raises(ValueError, match="`model` must name actions"):
        pipeline("skeleton-action-recognition", model=model, feature_extractor=SkeletonActionFeatureExtractor())
