"""From a video to persons in space and to what they do, in one call; a tiny lifter, and a stand-in that names actions."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Pipeline, pipeline

from hvmodels.keypoint_sets import COCO17
from hvmodels.models.pose_sequence import MartinezFCNConfig, MartinezFCNFeatureExtractor, MartinezFCNForPoseLifting
from hvmodels.pipelines.pipeline_video_pose_estimation import VideoPoseSequence
from hvmodels.pipelines.track_lifting import in_the_picture, load_pipeline, recognize_actions
from hvmodels.pipelines.track_refinement import load_refiner, smooth_sequence
from hvmodels.pose_sequences import PoseSequence, PoseTrack
from hvmodels.video import read_video
from tests.models.pose_sequence.test_feature_extraction_pose_lifting import COCO_STANDING
from tests.pipelines.test_pipeline_video_pose import make_pipeline


SIZE = (96, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lifting model that was saved."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lifter")
    MartinezFCNForPoseLifting(MartinezFCNConfig(hidden_size=8)).save_pretrained(path)
    MartinezFCNFeatureExtractor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def lifter(folder):
    return pipeline("pose-lifting", model=str(folder))


class Recognizer(Pipeline):
    """Whose track has fewer than 5 frames waves, everybody else walks."""

    task = "skeleton-action-recognition"

    def __init__(self):
        self.seen = []

    _sanitize_parameters = preprocess = _forward = postprocess = None

    def __call__(self, sequence, up):
        self.seen.append((sequence, up))
        return [
            {"track_id": track.track_id, "start_frame": track.start, "end_frame": track.end, "score": 0.9}
            | {"label": "wave" if len(track) < 5 else "walk"}
            for track in sequence.tracks
        ]


def poses(frames=6, **options):
    """Two persons who stand in the picture, one of them from the third frame on."""
    standing = np.asarray(COCO_STANDING, float)
    low, high = standing.min(axis=0), standing.max(axis=0)
    standing = 10 + (standing - low) / (high - low).max() * 50
    steps = np.arange(frames)[:, None, None]
    tracks = [
        PoseTrack(1, 0, standing + steps * [1, 0]),
        PoseTrack(7, 2, (standing + steps * [0.5, 0.5])[2:] + np.array([30, 0])),
    ]
    return PoseSequence(tracks, frames, COCO17.keypoints, 6.0, SIZE, "pixel", **options)


@pytest.fixture(scope="module")
def estimator():
    return make_pipeline()


FRAMES = [np.full((SIZE[1], SIZE[0], 3), 40 * index, np.uint8) for index in range(6)]


def test_one_call_from_video_to_actions(estimator, folder, lifter, tmp_path):
    recognizer = Recognizer()
    out = {
        "output": tmp_path / "a" / "poses.npz",
        "output_3d": tmp_path / "b" / "space.npz",
        "output_page": tmp_path / "c" / "page.html",
        "output_video": tmp_path / "d" / "poses.mp4",
    }
    found = estimator(iter(FRAMES), poses=poses(), frame_rate=6, lift=folder, actions=recognizer, **out)
    assert type(found) is VideoPoseSequence and found.track_ids == [1, 7]
    expected = lifter(poses())
    lifted = found.lifted
    assert (lifted.unit, lifted.keypoint_names, lifted.frame_rate) == ("metre", expected.keypoint_names, 6.0)
    for track in expected.tracks:
        np.testing.assert_allclose(lifted[track.track_id].keypoints, track.keypoints, atol=1e-5)
        assert lifted[track.track_id].start == track.start
    assert found.actions == [
        {"track_id": 1, "start_frame": 0, "end_frame": 6, "label": "walk", "score": 0.9},
        {"track_id": 7, "start_frame": 2, "end_frame": 6, "label": "wave", "score": 0.9},
    ]
    ((seen, up),) = recognizer.seen
    assert up == "-y" and seen.frame_rate == 6.0
    np.testing.assert_array_equal(seen.tracks[1].keypoints, lifted[7].keypoints)
    saved = PoseSequence.load(out["output_3d"])
    np.testing.assert_array_equal(saved[7].keypoints, lifted[7].keypoints)
    assert PoseSequence.load(out["output"]).unit == "pixel"
    video = read_video(out["output_video"])
    assert video.size == (SIZE[0] + 58, SIZE[1]) and video.num_frames == 6
    page = json.loads(re.search(r"const scene = (.*);\n", out["output_page"].read_text()).group(1))
    assert [person["id"] for person in page["persons"]] == [1, 7] and page["actions"][1]["label"] == "wave"
    depths = np.array(page["persons"][0]["millimetres"])[:, 1::3]
    assert depths.min() > 1000  # where the camera sees them, not about the origin


def test_lifting_alone_and_nothing_at_all(estimator, lifter, tmp_path):
    found = estimator(FRAMES, frame_rate=6, poses=poses(), lift=lifter)
    assert found.lifted.track_ids == [1, 7] and found.actions is None
    plain = estimator(FRAMES, frame_rate=6, poses=poses())
    assert plain.lifted is None and plain.actions is None
    np.testing.assert_array_equal(plain[7].keypoints, found[7].keypoints)


@pytest.mark.parametrize("smooth", ["gaussian", "smoothnet-any-pose"])
def test_lifted_poses_are_smoothed_again(estimator, lifter, smooth):
    random = np.random.default_rng(0)
    given = poses(20)
    tracks = [
        replace(track, keypoints=track.keypoints + random.normal(0, 0.3, track.keypoints.shape))
        for track in given.tracks
    ]
    given = replace(given, tracks=tracks)
    found = estimator([FRAMES[0]] * 20, frame_rate=6, poses=given, lift=lifter, smooth=smooth)
    once = lifter(PoseSequence(found.tracks, 20, found.keypoint_names, 6.0, SIZE, "pixel"))
    twice = smooth_sequence(once, load_refiner("smooth", smooth))
    for track in found.lifted.tracks:
        expected = twice[track.track_id].keypoints
        np.testing.assert_allclose(track.keypoints, expected - expected[:, :1], atol=1e-5)
        assert not track.keypoints[:, 0].any()
        assert np.abs(track.keypoints - once[track.track_id].keypoints).max() > 1e-3


def test_options_once_and_for_all(lifter):
    estimator = make_pipeline(lift=lifter)
    assert estimator(FRAMES, frame_rate=6, poses=poses()).lifted is not None
    assert estimator(FRAMES, frame_rate=6, poses=poses(), lift=None).lifted is None
    assert len(list(estimator.stream(FRAMES, poses=poses(), smooth=None))) == 6  # a stream is not lifted


def test_nobody_is_there(estimator, lifter, tmp_path):
    out = {"output_page": tmp_path / "a.html", "output_video": tmp_path / "a.mp4", "output_3d": tmp_path / "a.npz"}
    found = estimator(FRAMES, poses=[[]] * 6, lift=lifter, actions=Recognizer(), **out)
    assert found.lifted.tracks == () and found.actions == [] and len(found.lifted) == 6
    assert all(path.exists() for path in out.values())


@pytest.mark.parametrize("smooth", [None, "gaussian", "smoothnet-any-pose"])
def test_who_lacks_a_joint_in_all_frames_is_not_lifted(estimator, lifter, smooth, tmp_path):
    given = poses()
    keypoints = given.tracks[1].keypoints.copy()
    keypoints[:, 16] = np.nan  # an ankle
    given = PoseSequence([given.tracks[0], PoseTrack(7, 2, keypoints)], 6, COCO17.keypoints, 6.0, SIZE, "pixel")
    found = estimator(
        FRAMES,
        frame_rate=6,
        poses=given,
        lift=lifter,
        smooth=smooth,
        actions=Recognizer(),
        output_video=tmp_path / "a.mp4",
    )
    assert np.isnan(found.lifted[7].keypoints).any() and not np.isnan(found.lifted[1].keypoints).any()
    assert [action["track_id"] for action in found.actions] == [1]


def test_actions_are_told_while_a_person_is_in_sight():
    scores = np.full((30, 17), 0.5)
    scores[8:12] = scores[14:15] = scores[18:22] = 0
    keypoints = np.random.default_rng(0).normal(size=(30, 17, 3))
    tracks = [PoseTrack("a", 5, keypoints, scores), PoseTrack("b", 0, keypoints[:4])]
    lifted = PoseSequence(tracks, 40, None, 6.0, unit="metre")
    recognizer = Recognizer()
    actions = recognize_actions(lifted, recognizer)
    found = [(action["track_id"], action["start_frame"], action["end_frame"]) for action in actions]
    assert found == [("a", 5, 13), ("a", 20, 23), ("a", 27, 35), ("b", 0, 4)]  # not the two frames from 17 on
    np.testing.assert_array_equal(recognizer.seen[0][0].tracks[1].keypoints, keypoints[15:18].astype(np.float32))
    nobody = PoseSequence([PoseTrack(1, 0, keypoints, 0 * scores)], 30, None, 6.0, unit="metre")
    assert recognize_actions(nobody, recognizer) == [] and recognize_actions(nobody, None) is None


def test_joints_of_no_known_set_stay_about_the_origin(lifter):
    sequence = poses()
    lifted = lifter(sequence)
    unknown = PoseSequence(sequence.tracks, 6, [f"k{index}" for index in range(17)], 6.0, SIZE, "pixel")
    assert in_the_picture(lifted, unknown) is lifted
    assert in_the_picture(lifted, sequence)[1].keypoints[..., 2].min() > 1


def test_what_is_refused(estimator, lifter, tmp_path):
    for options, message in (
        ({"lift": tmp_path / "none"}, "`lift`: .* cannot be loaded for 'pose-lifting'"),
        ({"lift": Recognizer()}, "`lift` must be a pipeline of the task 'pose-lifting', got one of 'skeleton"),
        ({"output_3d": tmp_path / "a.npz"}, "`output_3d` needs `lift`"),
        ({"output_page": tmp_path / "a.html"}, "`output_page` needs `lift`"),
        ({"output_page": tmp_path / "a.txt", "lift": lifter}, r"`output_page` must end in .html or .htm"),
        ({"output_3d": tmp_path / "a.csv", "lift": lifter}, r"`output_3d` must end in .npz or .json"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator(FRAMES, frame_rate=6, poses=poses(), **options)
    with pytest.raises(TypeError, match=r"`lift` must be a pipeline\('pose-lifting'\), a model's folder"):
        estimator(FRAMES, frame_rate=6, poses=poses(), lift=lifter.model)
    with pytest.raises(ValueError, match="`lift` cannot be used with `stream`"):
        estimator.stream(FRAMES, lift=lifter)
    assert load_pipeline("lift", "pose-lifting", False) is None
    assert not list(tmp_path.iterdir())
