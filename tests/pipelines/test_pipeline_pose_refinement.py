"""`pipeline("pose-refinement")`: every kind of input against the model called by hand."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import pipeline

import hvmodels
from hvmodels import (
    DeciWatchConfig,
    DeciWatchFeatureExtractor,
    DeciWatchForPoseRecovery,
    PoseRefinementPipeline,
    PoseSequence,
    PoseTrack,
    SmoothNetConfig,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
)
from hvmodels.datasets.pose_formats import write_coco, write_openpose
from hvmodels.hub import export
from hvmodels.keypoint_sets import COCO17
from hvmodels.models.pose_sequence.rotations_pose_sequence import convert_rotations
from hvmodels.pipelines.pose_recovery import refine_tracks


def smoothnet(**options):
    torch.manual_seed(0)
    config = SmoothNetConfig(
        window_size=8,
        hidden_size=8,
        intermediate_size=4,
        num_hidden_layers=1,
        window_normalization="person",
        **options,
    )
    return SmoothNetForPoseRefinement(config).eval()


def refiner(model=None, feature_extractor=None, **options):
    feature_extractor = feature_extractor or SmoothNetFeatureExtractor()
    return pipeline("pose-refinement", model=model or smoothnet(), feature_extractor=feature_extractor, **options)


def poses(frames=20, seed=0, dims=2):
    generator = np.random.default_rng(seed)
    return generator.uniform(50, 250, (17, dims)) + generator.normal(0, 2, (frames, 17, dims)).cumsum(axis=0)


def by_hand(values, **options):
    features = SmoothNetFeatureExtractor(unseen_joints="nan")
    return refine_tracks(smoothnet(), features, {0: values}, **options)[0]["poses"]


@pytest.fixture(scope="module")
def pipe():
    return refiner()


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_arrays(pipe):
    assert isinstance(pipe, PoseRefinementPipeline)
    long, short = poses(), poses(5, seed=1)
    found = pipe(long)
    assert (found.dtype, found.shape) == (np.float32, long.shape)
    assert np.abs(found - long).max() > 1  # the model did something
    assert_close(found, by_hand(long))
    assert_close(pipe(long.tolist()), by_hand(long))
    tensor = pipe(torch.tensor(long))
    assert torch.is_tensor(tensor)
    assert_close(tensor, by_hand(long))
    for tracks in ([long, short], (long, torch.tensor(short))):
        found = pipe(tracks)
        assert [type(entry) for entry in found] == [type(entry) for entry in tracks]
        assert_close(found[0], by_hand(long))
        assert_close(found[1], by_hand(short))
    found = pipe({"anna": long, 3: short})
    assert list(found) == ["anna", 3]
    assert_close(found["anna"], by_hand(long))
    assert_close(found[3], by_hand(short))


def test_batches_change_nothing():
    tracks = {index: poses(frames, seed=index) for index, frames in enumerate((3, 30, 9, 1, 18, 12))}
    alone = refiner(batch_size=1)(tracks)
    together = refiner()(tracks, batch_size=3)
    assert list(together) == list(tracks)
    for index, values in tracks.items():
        assert_close(together[index], alone[index])
        assert together[index].shape == values.shape


def test_missing_joints(pipe):
    values, scores = poses(), np.ones((20, 17))
    values[4:6, 3] = np.nan
    scores[10, 7] = 0
    values[:, 16] = np.nan
    filled = pipe(values, scores=scores)
    hidden = values.copy()
    hidden[10, 7] = np.nan
    assert_close(filled, by_hand(hidden))
    assert np.isnan(filled).all(axis=2).sum() == 20  # only the joint that was never seen
    taken_out = pipe(values, scores=scores, missing="nan")
    np.testing.assert_array_equal(np.isnan(taken_out), np.isnan(hidden))
    np.testing.assert_array_equal(taken_out[~np.isnan(hidden)], filled[~np.isnan(hidden)])
    with pytest.raises(ValueError, match=r"missing in all frames, \[16\]"):
        pipe(values, unseen_joints="raise")
    by_track = pipe({1: values, 2: values}, scores={1: scores, 2: np.ones((20, 17))})
    assert_close(by_track[1], filled)
    assert np.abs(by_track[2] - by_track[1])[10, 7].max() > 1e-3


def sequence(dims=2):
    first, second = poses(12, 0, dims), poses(9, 1, dims)
    first[3] = np.nan  # out of sight
    first[5, 2] = np.nan
    scores, boxes = np.full((12, 17), 0.5), np.tile([40.0, 40, 260, 260], (12, 1))
    boxes[3] = np.nan
    tracks = [PoseTrack(7, 2, first, scores, boxes, np.full(12, 0.75)), PoseTrack(2, 0, second)]
    unit = "pixel" if dims == 2 else "millimetre"
    return PoseSequence(tracks, 20, COCO17.keypoints, 30, (640, 480), unit)


@pytest.mark.parametrize("dims", [2, 3])
def test_sequences(pipe, dims):
    given = sequence(dims)
    found = pipe(given)
    assert isinstance(found, PoseSequence)
    for name in ("num_frames", "keypoint_names", "frame_rate", "image_size", "unit", "track_ids"):
        assert getattr(found, name) == getattr(given, name)
    assert (found[7].start, found[2].start) == (2, 0)
    assert_close(found[7].keypoints, by_hand(given[7].keypoints))
    assert_close(found[2].keypoints, by_hand(given[2].keypoints))
    np.testing.assert_array_equal(found[7].scores, np.where(given[7].missing, 0, 0.5).astype(np.float32))
    np.testing.assert_array_equal(found[7].boxes, given[7].boxes)
    np.testing.assert_array_equal(found[7].person_scores, given[7].person_scores)
    assert found[2].scores is None
    assert not found[7].missing.any()
    np.testing.assert_array_equal(pipe(given, missing="nan")[7].missing, given[7].missing)
    assert pipe(PoseSequence([], 5)).num_frames == 5


def test_persons_of_frames(pipe):
    given = sequence()
    frames = list(given.frames())
    frames[4][0]["sigma"] = frames[4][0]["keypoints"][0]["sigma"] = 1.5
    frames[4].reverse()
    copies = json.dumps(frames)
    found, expected = pipe(frames), pipe(given)
    assert json.dumps(frames) == copies  # the input is left alone
    assert [[person["track_id"] for person in persons] for persons in found[:6]] == [
        [2],
        [2],
        [7, 2],
        [7, 2],
        [2, 7],
        [2, 7],
    ]
    person = found[4][1]
    assert (person["sigma"], person["keypoints"][0]["sigma"], person["score"]) == (1.5, 1.5, 0.75)
    assert person["box"] == {"xmin": 40.0, "ymin": 40.0, "xmax": 260.0, "ymax": 260.0}
    assert_close([[point["x"], point["y"]] for point in person["keypoints"]], expected[7].keypoints[2])
    put_in = found[5][1]  # out of sight in frame 5
    assert_close([[point["x"], point["y"]] for point in put_in["keypoints"]], expected[7].keypoints[3])
    assert [point["score"] for point in put_in["keypoints"]] == [0.0] * 17
    assert [len(persons) for persons in pipe(frames, missing="nan")] == [len(persons) for persons in frames]
    assert pipe([[], []]) == [[], []]


def test_files(pipe, tmp_path):
    given = replace(sequence(), tracks=sequence().tracks[:1])
    given.save(tmp_path / "poses.npz")
    write_coco(given, tmp_path / "coco.json")
    write_openpose(given, tmp_path / "openpose")
    own, expected = pipe(tmp_path / "poses.npz"), pipe(given)
    np.testing.assert_array_equal(own[7].keypoints, expected[7].keypoints)
    coco = pipe(str(tmp_path / "coco.json"), track="single", frame_rate=30)
    assert (coco.track_ids, coco.frame_rate) == ([0], 30)
    assert_close(coco[0].keypoints, expected[7].keypoints)
    openpose = pipe(tmp_path / "openpose")
    assert len(openpose.keypoint_names) == 25
    assert np.isnan(openpose[7].keypoints[:, 19:]).all()  # the feet that COCO has not
    assert_close(openpose[7].keypoints[:, 0], expected[7].keypoints[:, 0])


@pytest.mark.parametrize("rotation_format", ["axis_angle", "quaternion", "matrix", "6d"])
def test_rotations(rotation_format):
    torch.manual_seed(0)
    model, features = smoothnet().eval(), SmoothNetFeatureExtractor()
    with torch.no_grad():
        model.smoothnet.decoder.weight.zero_()
        model.smoothnet.decoder.bias.zero_()  # a model that gives the mean of the window
    shape = {"axis_angle": (3,), "quaternion": (4,), "matrix": (3, 3), "6d": (6,)}[rotation_format]
    still = np.tile(np.eye(3), (10, 17, 1, 1))
    still = convert_rotations(still, "matrix", rotation_format, "columns")
    pipe = refiner(model, features)
    found = pipe(still, rotation_format=rotation_format)
    assert found.shape == (10, 17, *shape)
    np.testing.assert_allclose(found, still, atol=1e-5)
    given = PoseSequence([PoseTrack(1, 0, still.reshape(10, 17, -1))])
    found = pipe(given, rotation_format=rotation_format)
    np.testing.assert_allclose(found[1].keypoints, given[1].keypoints, atol=1e-5)


def deciwatch(names, dims=2):
    torch.manual_seed(0)
    config = DeciWatchConfig(
        num_joints=len(names),
        joint_dim=dims,
        sample_interval=5,
        num_intervals=2,
        hidden_size=8,
        encoder_layers=1,
        decoder_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        window_normalization="person",
    )
    features = DeciWatchFeatureExtractor(sample_interval=5, keypoint_names=list(names), joint_dim=dims)
    return DeciWatchForPoseRecovery(config).eval(), features


def test_deciwatch():
    model, features = deciwatch(COCO17.keypoints)
    pipe, values = refiner(model, features), poses(23)
    found = pipe(values)
    (expected,) = refine_tracks(model, features, {0: values})
    assert_close(found, expected["poses"])
    indices = features.frame_indices(23)
    assert_close(pipe(values[indices], num_frames=23), found)
    assert_close(pipe(values[indices], frame_indices=indices), found)
    short = features.frame_indices(8)
    both = pipe(
        [values[indices], values[short]], frame_indices=[indices, short], num_frames={0: 23, 1: 8}, batch_size=1
    )
    assert_close(both[0], found)
    assert_close(both[1], pipe(values[:8]))
    sparse = np.full_like(values, np.nan)
    sparse[indices] = values[indices]
    frames = list(PoseSequence([PoseTrack(4, 0, sparse)], keypoint_names=COCO17.keypoints).frames())
    assert [len(persons) for persons in frames] == [int(index in indices) for index in range(23)]
    dense = pipe(frames)
    assert all(len(persons) == 1 for persons in dense)
    assert_close([[[p["x"], p["y"]] for p in persons[0]["keypoints"]] for persons in dense], found)


def test_deciwatch_of_other_joints():
    """A model without eyes and ears takes COCO's keypoints and gives them back."""
    names = COCO17.keypoints[5:] + COCO17.keypoints[:1]
    model, features = deciwatch(names)
    pipe, values = refiner(model, features), poses(23)
    sequence = PoseSequence([PoseTrack(4, 0, values)], keypoint_names=COCO17.keypoints)
    found = pipe(sequence)[4].keypoints
    order = [COCO17.keypoints.index(name) for name in names]
    assert_close(found[:, order], pipe(values[:, order]))
    assert not np.isnan(found).any()
    assert_close(pipe(values, keypoint_names=COCO17), found)
    with pytest.raises(ValueError, match="must have the 13 joints of the checkpoint"):
        pipe(values)


def test_model_must_fit():
    model, features = deciwatch(COCO17.keypoints)
    with pytest.raises(ValueError, match="same `sample_interval`, got 5 and 10"):
        refiner(model, DeciWatchFeatureExtractor())
    with pytest.raises(ValueError, match="same `sample_interval`, got 5 and None"):
        refiner(model)
    config = hvmodels.LTSFLinearConfig(context_length=8, prediction_length=4, num_input_channels=2)
    with pytest.raises(ValueError, match=r"`model` must refine poses.*got LTSFLinearForPrediction"):
        refiner(hvmodels.LTSFLinearForPrediction(config), features)
    with pytest.raises(ValueError, match="must be that of a pose model, got LTSFLinearFeatureExtractor"):
        refiner(feature_extractor=hvmodels.LTSFLinearFeatureExtractor(context_length=8, prediction_length=4))


@pytest.mark.parametrize("model", ["smoothnet", "deciwatch"])
def test_one_frame(model):
    pipe = refiner() if model == "smoothnet" else refiner(*deciwatch(COCO17.keypoints))
    found = pipe(poses(1))
    assert found.shape == (1, 17, 2)
    np.testing.assert_allclose(
        found, pipe(np.repeat(poses(1), 8 if model == "smoothnet" else 11, axis=0))[:1], rtol=1e-5
    )
    assert np.isfinite(found).all()


def test_padding_of_the_original_is_not_given_back():
    pipe = refiner(smoothnet(short_sequence="zeros"))
    assert pipe(poses(3)).shape == (3, 17, 2)


RAGGED = [poses(3).tolist(), poses(3)[:, :5].tolist()]


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (np.full((20, 17, 2), np.nan), {}, ValueError, "no joint that is ever seen"),
        (np.zeros((20, 34)), {}, ValueError, r"must have shape \(frames, joints, dims\), got \(20, 34\)"),
        (np.zeros((0, 17, 2)), {}, ValueError, "at least one frame"),
        (np.zeros((20, 17, 1)), {}, ValueError, "2 .image., 3 .space. or 6 .rotation. numbers a joint"),
        (np.zeros((20, 17, 4)), {}, ValueError, "rotation_format='quaternion'"),
        (np.array(3.0), {}, ValueError, "must have shape"),
        (np.full((20, 17, 2), np.inf), {}, ValueError, "finite"),
        (RAGGED, {}, TypeError, "rectangular array"),
        ([poses(3), poses(3)[:, :5]], {"batch_size": 2}, ValueError, "same joints and dims in all tracks"),
        ([], {}, ValueError, "must have shape"),
        ({}, {}, ValueError, "at least one track"),
        (None, {}, TypeError, "`data` must be an array .*, got NoneType"),
        (3, {}, TypeError, "`data` must be an array .*, got int"),
        ("absent.npz", {}, ValueError, "does not exist"),
        ([{"keypoints": []}], {}, TypeError, "a list of persons for each frame, got a list of dicts"),
        ([[{"keypoints": [{"label": "nose", "x": 1, "y": 2}]}]], {}, ValueError, "without `track_id`"),
        (poses(), {"scores": np.ones((20, 16))}, ValueError, r"`scores`.* must have shape"),
        ([poses()], {"scores": []}, ValueError, r"`scores` must be of the tracks of `data`, \[0\], got \[\]"),
        (sequence(), {"scores": np.ones((20, 17))}, ValueError, "`scores` are for arrays"),
        (sequence(), {"num_frames": 20}, ValueError, "`frame_indices` and `num_frames` are for arrays"),
        (poses(), {"track": "single"}, ValueError, "`track` can only be used for files"),
        (poses(), {"missing": "zero"}, ValueError, r"`missing` must be one of \['fill', 'nan'\], got 'zero'"),
        (poses(), {"smooth": True}, TypeError, r"Unknown arguments \['smooth'\]; the pipeline takes `scores`"),
        (poses(), {"batch_size": 0.5}, ValueError, "`batch_size` must be a positive integer"),
        (poses(), {"frame_rate": 0}, ValueError, "`frame_rate` must be a positive number"),
        (poses(dims=3), {"unit": "metre"}, ValueError, "which no person does in that unit"),
        (poses() / 1000, {"unit": "pixel"}, ValueError, "look normalised already"),
        (poses(), {"num_frames": 10}, ValueError, "`num_frames` is 10, but `poses` has 20 frames"),
    ],
)
def test_bad_inputs(data, options, error, message, pipe):
    with pytest.raises(error, match=message):
        pipe(data, **options)


def test_image_size_is_demanded_where_it_counts():
    model = smoothnet()
    features = SmoothNetFeatureExtractor(normalization="image", image_scale=2.0, image_offset=-1.0)
    pipe, given = refiner(model, features), sequence()
    with pytest.raises(ValueError, match=r"`image_size` = \(width, height\) in pixels must be given"):
        pipe(given[2].keypoints)
    found = pipe(given)  # the sequence has it
    assert_close(found[2].keypoints, pipe(given[2].keypoints, image_size=(640, 480)))
    assert np.abs(pipe(given, image_size=(320, 480))[2].keypoints - found[2].keypoints).max() > 1e-3


WITHOUT_PACKAGE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hvmodels":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import numpy as np
from transformers import pipeline

pipe = pipeline(model=sys.argv[1], trust_remote_code=True)
assert pipe.task == "pose-refinement", pipe.task
np.save(sys.argv[2] + ".npy", pipe(np.load(sys.argv[2])))
assert pipe(sys.argv[3]).track_ids == [7, 2]
assert "hvmodels" not in sys.modules
"""


def test_exported_folder_works_without_the_package(tmp_path, pipe):
    """Loaded by transformers alone, with the code that the folder carries."""
    export(pipe.model, pipe.feature_extractor, tmp_path / "model")
    np.save(tmp_path / "poses.npy", poses())
    sequence().save(tmp_path / "sequence.json")
    arguments = (str(tmp_path / "model"), str(tmp_path / "poses.npy"), str(tmp_path / "sequence.json"))
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert_close(np.load(tmp_path / "poses.npy.npy"), pipe(poses()))
    assert_close(pipeline("pose-refinement", model=str(tmp_path / "model"))(poses()), pipe(poses()))


def test_forecasting_refuses_models_of_poses():
    with pytest.raises(ValueError, match="must be a forecaster, got SmoothNetForPoseRefinement"):
        pipeline("time-series-forecasting", model=hvmodels.default_model("smoothnet-any-pose"))
