"""Feature extractors of pose sequences: what a model gets, and that the way back undoes it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from hvmodels.models.pose_sequence import DeciWatchFeatureExtractor, SmoothNetFeatureExtractor
from hvmodels.models.pose_sequence.rotations_pose_sequence import (
    ROTATION_SHAPES,
    continuous_rotations,
    convert_rotations,
)
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
    auto_class = AutoFeatureExtractor
    processor_arguments = ARGUMENTS


class TestDeciWatchFeatureExtractor(ProcessorChecks):
    processor_class = DeciWatchFeatureExtractor
    auto_class = AutoFeatureExtractor
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


def test_containers_and_numbers():
    poses = walk()
    expected = SmoothNetFeatureExtractor()(poses)["pose_values"]
    for same in (
        poses.astype(np.float64),
        torch.from_numpy(poses).requires_grad_(),
        np.asfortranarray(poses),
        np.ma.masked_array(poses),
    ):
        assert torch.equal(SmoothNetFeatureExtractor()(same)["pose_values"], expected)
    assert torch.equal(SmoothNetFeatureExtractor()([poses.tolist()])["pose_values"], expected)
    arrays = SmoothNetFeatureExtractor()(poses, return_tensors="np")
    np.testing.assert_array_equal(arrays["pose_values"], expected.numpy())
    assert arrays["pose_mask"].dtype == bool
    integers = (poses * 1000).astype(np.int32)
    np.testing.assert_array_equal(there_and_back(SmoothNetFeatureExtractor(), integers)[1][0]["poses"], integers)


def test_input_is_left_alone():
    poses = walk()
    poses[3, 2] = np.nan
    before = poses.copy()
    _, (result,) = there_and_back(SmoothNetFeatureExtractor(root_indices=[0]), poses)
    result["poses"][:] = 0
    np.testing.assert_array_equal(poses, before)


def test_features_move_and_keep_their_tracks():
    features = SmoothNetFeatureExtractor()({"a": walk()}).to(torch.float64)
    assert features["pose_values"].dtype == torch.float64
    assert features["pose_mask"].dtype == torch.bool
    assert features["tracks"][0].track_id == "a"


def test_outputs_of_low_precision_and_without_a_mask():
    extractor, poses = SmoothNetFeatureExtractor(), [walk(), walk(9)]
    features = extractor(poses)
    outputs = {"refined_poses": features["pose_values"].to(torch.bfloat16)}
    results = extractor.post_process_pose_refinement(outputs, features)
    for result, pose in zip(results, poses, strict=True):
        np.testing.assert_allclose(result["poses"], pose, atol=0.01)


@pytest.mark.parametrize("length", [33, 48], ids=["dropped", "padded"])
def test_length_of_the_original(length):
    """A model may drop frames at the end, or return its padding; root and `missing` go along."""
    extractor = SmoothNetFeatureExtractor(root_indices=[0], root_mode="raw")
    poses = walk() + np.float32(2)
    poses[0, 4] = np.nan
    features = extractor(poses)
    values = features["pose_values"][:, torch.arange(length).clamp(max=39)]
    outputs = {"refined_poses": values, "refined_mask": torch.ones(1, length, dtype=torch.bool)}
    (result,) = extractor.post_process_pose_refinement(outputs, features)
    assert result["poses"].shape == (length, 17, 3)
    expected = poses[np.minimum(np.arange(length), 39)]
    np.testing.assert_allclose(result["poses"][1:], expected[1:], atol=1e-6)
    assert result["missing"].shape == (length, 17)
    assert result["missing"].sum() == 1 + max(0, length - 40) * 17


# Missing joints


@pytest.mark.parametrize("extractor_class", EXTRACTORS)
def test_missing_joints_are_interpolated_and_marked(extractor_class):
    poses = np.arange(10, dtype=np.float32)[:, None, None] ** 2 * np.array([1, -2], np.float32) + np.zeros((10, 3, 1))
    holes = poses.copy()
    holes[4:7, 1] = np.nan  # between frames 3 and 7
    holes[:2, 2, 0] = np.nan  # one number is enough
    holes[8:, 2] = np.nan
    features, (result,) = there_and_back(extractor_class(), holes)
    values = features["pose_values"][0].numpy()
    expected = poses.copy()
    expected[4:7, 1] = np.array([[19], [29], [39]]) * [1, -2]
    expected[:2, 2] = poses[2, 2]
    expected[8:, 2] = poses[7, 2]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(result["poses"], expected, rtol=1e-6)
    np.testing.assert_array_equal(result["missing"], np.isnan(holes).any(-1))


def test_low_scores_are_missing():
    poses, scores = walk(dims=2), np.full((40, 17), 0.5)
    scores[5, 3], scores[6, 3], scores[9, 0] = 0, np.nan, 0.3
    for threshold, count in ((0.0, 2), (0.3, 3), (-1.0, 1)):
        _, (result,) = there_and_back(SmoothNetFeatureExtractor(score_threshold=threshold), poses, scores)
        assert result["missing"].sum() == count
    holes = np.where((scores > 0)[..., None], poses, np.nan)
    _, (result,) = there_and_back(SmoothNetFeatureExtractor(), poses, scores)
    _, (expected,) = there_and_back(SmoothNetFeatureExtractor(), holes)
    np.testing.assert_array_equal(result["poses"], expected["poses"])
    features = SmoothNetFeatureExtractor()({1: poses, 2: poses[:9]}, {2: scores[:9], 1: scores})
    assert [track.missing.sum() for track in features["tracks"]] == [2, 2]


def test_minus_one_is_missing_only_if_asked_for():
    poses = walk(dims=2)
    poses[5, 3] = -1
    assert not there_and_back(SmoothNetFeatureExtractor(), poses)[1][0]["missing"].any()
    _, (result,) = there_and_back(SmoothNetFeatureExtractor(missing_value=-1), poses)
    assert np.argwhere(result["missing"]).tolist() == [[5, 3]]
    np.testing.assert_allclose(result["poses"][5, 3], poses[[4, 6], 3].mean(0), rtol=1e-6)


def test_joint_that_was_never_seen():
    poses = walk()
    poses[:, [3, 5]] = np.nan
    names = [f"joint {index}" for index in range(17)]
    with pytest.raises(
        ValueError, match=r"`poses` has joints that are missing in all frames, \['joint 3', 'joint 5'\]"
    ):
        SmoothNetFeatureExtractor(keypoint_names=names)(poses)
    extractor = SmoothNetFeatureExtractor(unseen_joints="nan", root_indices=[0])
    features, (result,) = there_and_back(extractor, poses)
    seen = np.delete(np.arange(17), [3, 5])
    values = features["pose_values"][0].numpy()
    np.testing.assert_allclose(values[:, 3], values[:, seen].mean(1), atol=1e-6)
    assert np.isnan(result["poses"][:, [3, 5]]).all()
    assert np.isfinite(result["poses"][:, seen]).all()
    assert result["missing"][:, [3, 5]].all()
    with pytest.raises(ValueError, match="must show the joints of `root_indices`"):
        SmoothNetFeatureExtractor(unseen_joints="nan", root_indices=[2, 3])(poses)


# Units and normalisation


@pytest.mark.parametrize("wanted", ["metre", "millimetre"])
@pytest.mark.parametrize("given", ["metre", "millimetre"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "inferred"])
def test_units(wanted, given, declared):
    metres = walk()
    factor = {"metre": 1, "millimetre": 1000}
    features, (result,) = there_and_back(
        SmoothNetFeatureExtractor(unit=wanted), metres * factor[given], unit=given if declared else None
    )
    np.testing.assert_allclose(features["pose_values"][0], metres * factor[wanted], rtol=1e-6)
    np.testing.assert_allclose(result["poses"], metres * factor[given], rtol=1e-6)


def test_checkpoint_without_a_unit_takes_any():
    for factor in (1, 1000, 37):
        poses = walk() * np.float32(factor)
        np.testing.assert_array_equal(SmoothNetFeatureExtractor()(poses)["pose_values"][0], poses)


def test_unit_is_told_from_seen_joints_only():
    poses = walk()
    poses[:, 2], scores = 1e6, np.ones((40, 17))
    scores[1:, 2] = 0
    features = SmoothNetFeatureExtractor(unit="metre")(poses, scores)
    np.testing.assert_allclose(features["pose_values"][0, :, 3], poses[:, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "offset", "formula"),
    [
        (2, -1, lambda p, size: (p - size / 2) / (size / 2)),
        (1, -0.5, lambda p, size: p / size - 0.5),
        (1, 0, lambda p, size: p / size),
    ],
    ids=["SmoothNet Human3.6M", "SmoothNet Sub-JHMDB", "DeciWatch Sub-JHMDB"],
)
def test_image_size(scale, offset, formula):
    size = np.array([320, 240], np.float32)
    poses = (walk(dims=2) + 1) / 2 * size
    extractor = SmoothNetFeatureExtractor(normalization="image", image_scale=scale, image_offset=offset)
    features, (result,) = there_and_back(extractor, poses, image_size=(320, 240))
    np.testing.assert_allclose(features["pose_values"][0], formula(poses, size), atol=1e-6)
    np.testing.assert_allclose(result["poses"], poses, atol=1e-4)
    volume = walk()  # 3D goes past the normalisation of 2D
    np.testing.assert_array_equal(extractor(volume)["pose_values"][0], volume)


# Root


def test_root_is_subtracted_and_comes_back_raw():
    poses = walk() + np.array([3, 1, 5], np.float32) * np.linspace(1, 2, 40)[:, None, None].astype(np.float32)
    features, (result,) = there_and_back(SmoothNetFeatureExtractor(root_indices=[2, 3], root_mode="raw"), poses)
    root = (poses[:, 2] + poses[:, 3]) / 2
    np.testing.assert_allclose(features["pose_values"][0], poses - root[:, None], atol=1e-5)
    np.testing.assert_allclose(result["poses"], poses, atol=1e-5)


def test_smooth_root_has_less_jitter_and_no_lag():
    time = np.arange(60, dtype=np.float32)[:, None, None]
    straight = walk(60) * 0 + walk(1) + time * np.array([0.02, 0.01, 0], np.float32)
    extractor = SmoothNetFeatureExtractor(root_indices=[0])
    np.testing.assert_allclose(there_and_back(extractor, straight)[1][0]["poses"], straight, atol=1e-6)
    noise = np.random.default_rng(0).normal(0, 0.02, (60, 1, 3)).astype(np.float32)
    result = there_and_back(extractor, straight + noise)[1][0]["poses"]
    before, after = (np.abs(np.diff(poses, 2, axis=0)).mean() for poses in (straight + noise, result))
    assert after < before / 4
    assert np.abs(result - straight).mean() < np.abs(noise).mean() / 2
    for num_frames in (1, 2, 3):
        short = walk(num_frames)
        np.testing.assert_allclose(there_and_back(extractor, short)[1][0]["poses"], short, atol=0.2)


def test_excluded_root():
    """mmpose's `root_index`."""
    poses = walk() + np.float32(2)
    extractor = SmoothNetFeatureExtractor(root_indices=[5], root_mode="exclude")
    features = extractor(poses)
    others = np.delete(poses, 5, axis=1) - poses[:, 5:6]
    np.testing.assert_allclose(features["pose_values"][0], others, atol=1e-6)
    outputs = {"refined_poses": features["pose_values"] * 0.5}
    (result,) = extractor.post_process_pose_refinement(outputs, features)
    np.testing.assert_allclose(result["poses"][:, 5], poses[:, 5], atol=1e-6)
    np.testing.assert_allclose(np.delete(result["poses"], 5, axis=1), others * 0.5 + poses[:, 5:6], atol=1e-5)


def test_root_is_for_3d_only():
    poses = walk(dims=2)
    features = SmoothNetFeatureExtractor(root_indices=[20])(poses)
    np.testing.assert_array_equal(features["pose_values"][0], poses)


# Frame rate


@pytest.mark.parametrize("extractor_class", EXTRACTORS)
@pytest.mark.parametrize("rate", [25, 30, 60, 120])
def test_resampling(extractor_class, rate):
    time = np.arange(31) / rate
    poses = np.sin(2 * time)[:, None, None] * np.ones((1, 4, 2))
    features = extractor_class(frame_rate=50)(poses, frame_rate=rate)
    step = rate / 50
    values = features["pose_values"][0, :, 0, 0].numpy()
    assert len(values) == int(np.ceil(30 / step - 1e-6)) + 1
    times = np.minimum(np.arange(len(values)) / 50, time[-1])
    np.testing.assert_allclose(values, np.interp(times, time, poses[:, 0, 0]), atol=1e-6)


@pytest.mark.parametrize("rate", [25, 30, 60, 120])
def test_resampled_results_have_their_frames_back(rate):
    poses = {"a": walk(600)[:60], "b": walk(1), "c": walk(600)[:8]}
    extractor = SmoothNetFeatureExtractor(frame_rate=50, root_indices=[0], root_mode="raw")
    _, results = there_and_back(extractor, poses, frame_rate=rate)
    for result in results:
        expected = poses[result["track_id"]]
        assert result["poses"].shape == expected.shape
        assert result["missing"].shape == expected.shape[:2]
        np.testing.assert_allclose(result["poses"], expected, atol=0.01)


def test_equal_or_unknown_rates_are_not_resampled():
    poses = walk()
    for trained, given in ((None, 25), (50, None), (50, np.float32(50)), (30, Fraction(30000, 1001))):
        features = SmoothNetFeatureExtractor(frame_rate=trained)(poses, frame_rate=given)
        np.testing.assert_array_equal(features["pose_values"][0], poses)


# Rotations


def turns(num_frames=30, num_joints=24):
    """Courses of rotations: axis-angle (frames, joints, 3), many beyond half a turn."""
    generator = np.random.default_rng(3)
    return np.cumsum(generator.normal(0, 0.1, (num_frames, num_joints, 3)), axis=0) + generator.normal(0, 1, (24, 3))


@pytest.mark.parametrize("layout", ["columns", "rows"])
@pytest.mark.parametrize("rotation_format", list(ROTATION_SHAPES))
def test_rotations_there_and_back(rotation_format, layout):
    rotations = convert_rotations(turns(), "axis_angle", rotation_format, layout)
    rotations = continuous_rotations(rotations, rotation_format, rotations[0])
    extractor = SmoothNetFeatureExtractor(rotation_layout=layout)
    features, (result,) = there_and_back(extractor, rotations, rotation_format=rotation_format)
    expected = convert_rotations(turns(), "axis_angle", "6d", layout)
    np.testing.assert_allclose(features["pose_values"][0], expected, atol=1e-6)
    np.testing.assert_allclose(result["poses"], rotations, atol=1e-5)
    if rotation_format == "6d":
        assert torch.equal(extractor(rotations)["pose_values"], features["pose_values"])


@pytest.mark.parametrize("rotation_format", list(ROTATION_SHAPES))
def test_missing_rotations(rotation_format):
    rotations = convert_rotations(turns(), "axis_angle", rotation_format)
    holes = rotations.copy()
    holes[10:12, 3] = np.nan
    holes[:, 7] = np.nan
    extractor = SmoothNetFeatureExtractor(unseen_joints="nan")
    features, (result,) = there_and_back(extractor, holes, rotation_format=rotation_format)
    assert features["pose_values"].isfinite().all()
    assert result["missing"].sum() == 2 + 30
    assert np.isnan(result["poses"][:, 7]).all()
    result, rotations = (
        convert_rotations(np.delete(poses, 7, axis=1).astype(np.float64), rotation_format, "matrix")
        for poses in (result["poses"], rotations)
    )
    np.testing.assert_allclose(result[10:12, 3], rotations[10:12, 3], atol=0.2)
    np.testing.assert_allclose(result[12:], rotations[12:], atol=1e-5)


# DeciWatch


@pytest.mark.parametrize(("num_frames", "last"), [(1, [0]), (10, [0, 9]), (11, [0, 10]), (25, [0, 10, 20, 24])])
def test_frame_indices(num_frames, last):
    assert DeciWatchFeatureExtractor().frame_indices(num_frames) == last


def test_frame_indices_at_another_rate():
    extractor = DeciWatchFeatureExtractor(sample_interval=10, frame_rate=50)
    assert extractor.frame_indices(21, frame_rate=25) == [0, 5, 10, 15, 20]
    assert extractor.frame_indices(25, frame_rate=30) == [0, 6, 12, 18, 24]
    assert extractor.frame_indices(25, frame_rate=50) == [0, 10, 20, 24]
    assert extractor.frame_indices(3, frame_rate=1) == [0, 1, 2]


def test_sampled_poses():
    poses, extractor = walk(38), DeciWatchFeatureExtractor()
    frames = extractor.frame_indices(38)
    features, (result,) = there_and_back(extractor, poses[frames], num_frames=38)
    assert torch.equal(
        extractor(poses[frames], frame_indices=frames, num_frames=38)["pose_values"], features["pose_values"]
    )
    values = features["pose_values"][0].numpy()
    np.testing.assert_array_equal(values[frames], poses[frames])
    np.testing.assert_allclose(values[15], (poses[10] + poses[20]) / 2, atol=1e-6)
    np.testing.assert_allclose(values[36], poses[30] + (poses[37] - poses[30]) * 6 / 7, atol=1e-6)
    assert not result["missing"][frames].any()
    assert np.delete(result["missing"], frames, axis=0).all()


def test_irregular_samples_and_tracks():
    first, second = walk(41), walk(20, seed=1)
    frames = {"a": [0, 7, 18, 33], "b": [3, 12]}
    samples = {"b": second[frames["b"]], "a": first[frames["a"]]}
    features, results = there_and_back(
        DeciWatchFeatureExtractor(), samples, frame_indices=frames, num_frames={"a": 41, "b": 20}
    )
    assert features["pose_mask"].sum(1).tolist() == [20, 41]
    values = features["pose_values"].numpy()
    np.testing.assert_allclose(values[1, 10], first[7] + (first[18] - first[7]) * 3 / 11, atol=1e-6)
    np.testing.assert_array_equal(values[1, 40], first[33])
    np.testing.assert_array_equal(values[0, 0], second[3])
    assert [len(result["poses"]) for result in results] == [20, 41]
    shared = DeciWatchFeatureExtractor()([first[:4], second[:4]], frame_indices=[0, 7, 18, 33])
    assert shared["pose_values"].shape == (2, 34, 17, 3)


def test_missing_key_pose_is_interpolated_from_dense_neighbours():
    poses = walk(41)
    poses[10, 4] = np.nan
    values = DeciWatchFeatureExtractor()(poses)["pose_values"][0].numpy()
    np.testing.assert_allclose(values[10, 4], (poses[9, 4] + poses[11, 4]) / 2, atol=1e-6)


def test_root_rests_on_the_sampled_frames():
    """Whether the frames between come along or not, and whatever is in them, they do not count."""
    poses = walk(41) + np.float32(2)
    extractor = DeciWatchFeatureExtractor(root_indices=[0], root_mode="raw")
    frames = extractor.frame_indices(41)
    dense, sampled = extractor(poses), extractor(poses[frames], num_frames=41)
    root = np.stack([np.interp(np.arange(41), frames, poses[frames, 0, axis]) for axis in range(3)], axis=-1)
    for features in (dense, sampled):
        outputs = {"recovered_poses": torch.zeros(1, 41, 17, 3)}
        (result,) = extractor.post_process_pose_refinement(outputs, features)
        np.testing.assert_allclose(result["poses"], np.broadcast_to(root[:, None], (41, 17, 3)), atol=1e-5)


def test_sampling_at_another_rate():
    poses, extractor = walk(43), DeciWatchFeatureExtractor(frame_rate=50)
    frames = extractor.frame_indices(43, frame_rate=25)
    features, (result,) = there_and_back(extractor, poses[frames], num_frames=43, frame_rate=25)
    assert features["pose_values"].shape[1] == 85
    np.testing.assert_allclose(features["pose_values"][0, ::10][:8], poses[frames[:8]], atol=1e-6)
    assert result["poses"].shape == poses.shape
    np.testing.assert_allclose(result["poses"][frames], poses[frames], atol=1e-6)


# Bad input


def test_keypoint_names_are_compared():
    names = [f"joint {index}" for index in range(17)]
    extractor = DeciWatchFeatureExtractor(keypoint_names=names)
    extractor(walk(), keypoint_names=names)
    extractor(walk())
    with pytest.raises(
        ValueError, match=r"`keypoint_names` must be those of the checkpoint in its order.*convert_keypoints"
    ):
        extractor(walk(), keypoint_names=names[::-1])
    with pytest.raises(ValueError, match=r"must have the 17 joints of the checkpoint \(joint 0, .*\), got 16"):
        extractor(walk(num_joints=16))
    with pytest.raises(ValueError, match="`keypoint_names` has 17 names, but `poses` has 16 joints"):
        extractor(walk(num_joints=16), keypoint_names=names)


def with_value(value, index=(3, 2), dims=3):
    poses = walk(dims=dims)
    poses[index] = value
    return poses


POSES = walk()
PIXELS = (walk(dims=2) + 1) * 500
BAD_CALLS = {
    "text": (TypeError, "`poses` must be an array of real numbers, got str", {"poses": "poses.npy"}),
    "none": (TypeError, "`poses` must be an array of real numbers, got NoneType", {"poses": None}),
    "object array": (TypeError, "dtype object", {"poses": POSES.astype(object)}),
    "array of text": (TypeError, "dtype <U", {"poses": POSES.astype(str)}),
    "complex": (TypeError, "dtype complex", {"poses": POSES.astype(complex)}),
    "bool": (TypeError, "dtype bool", {"poses": POSES > 0}),
    "ragged frames": (
        TypeError,
        "`poses` of track 0 must be a rectangular array",
        {"poses": [[POSES[0].tolist(), POSES[1, :5].tolist()]]},
    ),
    "ragged tracks": (ValueError, "same joints and dims in all tracks", {"poses": [POSES, POSES[:, :16]]}),
    "mixed dims": (ValueError, "same joints and dims in all tracks", {"poses": [POSES, PIXELS]}),
    "no track": (ValueError, "`poses` must hold at least one track", {"poses": []}),
    "empty dict": (ValueError, "`poses` must hold at least one track", {"poses": {}}),
    "no frame": (ValueError, "at least one frame and one joint", {"poses": POSES[:0]}),
    "no joint": (ValueError, "at least one frame and one joint", {"poses": POSES[:, :0]}),
    "one pose": (ValueError, r"shape \(frames, joints, dims\), got \(17, 3\)", {"poses": POSES[0]}),
    "flat poses": (ValueError, "reshape flat poses", {"poses": POSES.reshape(40, 51)}),
    "list of frames": (ValueError, r"`poses` of track 0 must.*numpy\.stack\(frames\)", {"poses": list(POSES)}),
    "batch": (ValueError, "pass several tracks as a list", {"poses": POSES[None]}),
    "1 dim": (ValueError, "2 .image., 3 .space. or 6 .rotation. numbers", {"poses": POSES[..., :1]}),
    "4 dims": (ValueError, "rotation_format='quaternion'", {"poses": np.zeros((40, 17, 4))}),
    "5 dims": (ValueError, "got 5", {"poses": np.zeros((40, 17, 5))}),
    "scores inside": (
        ValueError,
        "third number lies within .* as in .x, y, score.",
        {"poses": np.concatenate([PIXELS, np.full((40, 17, 1), 0.9)], axis=-1)},
    ),
    "all NaN": (ValueError, "no joint that is ever seen", {"poses": POSES * np.nan}),
    "one track all NaN": (
        ValueError,
        "`poses` of track 'b' has no joint",
        {"poses": {"a": POSES, "b": POSES * np.nan}},
    ),
    "all scores 0": (ValueError, "not above `score_threshold` = 0.0", {"scores": np.zeros((40, 17))}),
    "joint never seen": (ValueError, r"missing in all frames, \[2\]", {"poses": with_value(np.nan, np.s_[:, 2])}),
    "infinite": (ValueError, "infinite value in frame 3, joint 2", {"poses": with_value(np.inf)}),
    "beyond float32": (ValueError, "fit into float32", {"poses": with_value(1.0).astype(float) * 1e60}),
    "scores of another shape": (
        ValueError,
        r"`scores` must have shape .* = \(40, 17\)",
        {"scores": np.ones((40, 16))},
    ),
    "scores for one of two": (ValueError, "`scores` must be a list", {"poses": [POSES, POSES], "scores": [None]}),
    "scores of other tracks": (
        ValueError,
        "`scores` must have the tracks",
        {"poses": {1: POSES}, "scores": {2: np.ones((40, 17))}},
    ),
    "scores as text": (TypeError, "`scores` must be an array of real numbers", {"scores": "high"}),
    "ids twice": (ValueError, "`track_ids` must be different", {"poses": [POSES, POSES], "track_ids": [4, 4]}),
    "too few ids": (ValueError, "one id for each of the 2 tracks", {"poses": [POSES, POSES], "track_ids": [4]}),
    "ids with a dict": (ValueError, "`track_ids` belong to a list", {"poses": {1: POSES}, "track_ids": [1]}),
    "unknown format": (ValueError, "`rotation_format` must be one of", {"rotation_format": "euler"}),
    "matrix format of vectors": (ValueError, r"\(frames, joints, 3, 3\)", {"rotation_format": "matrix"}),
    "quaternion of 3": (ValueError, r"\(frames, joints, 4\) for `rot", {"rotation_format": "quaternion"}),
    "unit of rotations": (ValueError, "must be None for rot", {"rotation_format": "axis_angle", "unit": "metre"}),
    "zero quaternion": (
        ValueError,
        "frame 0, joint 0 is none",
        {"poses": np.zeros((5, 2, 4)), "rotation_format": "quaternion"},
    ),
    "no rotation matrix": (
        ValueError,
        "rotation matrices, orthonormal",
        {"poses": np.full((5, 2, 3, 3), 0.7), "rotation_format": "matrix"},
    ),
    "mirrored matrix": (
        ValueError,
        "determinant 1",
        {"poses": np.tile(-np.eye(3), (5, 2, 1, 1)), "rotation_format": "matrix"},
    ),
    "parallel 6d": (ValueError, "not parallel", {"poses": np.ones((5, 2, 6))}),
    "unknown unit": (ValueError, "`unit` must be one of", {"unit": "inch"}),
    "declared wrongly": (ValueError, "`unit` is 'metre', but", {"poses": POSES * 1000, "unit": "metre"}),
    "declared wrongly the other way": (
        ValueError,
        "`unit` is 'millimetre', but",
        {"poses": POSES, "unit": "millimetre"},
    ),
    "normalised as pixels": (ValueError, "look normalised", {"poses": walk(dims=2), "unit": "pixel"}),
    "frame rate 0": (ValueError, "`frame_rate` must be a positive", {"frame_rate": 0}),
    "frame rate as text": (ValueError, "`frame_rate` must be a positive", {"frame_rate": "25 fps"}),
    "frames too few": (ValueError, "`num_frames` is 50, but `poses` has 40", {"num_frames": 50}),
    "frames negative": (ValueError, "`num_frames` must be a positive", {"num_frames": -1}),
    "index out of range": (
        ValueError,
        "must be below `num_frames` = 40, got 40",
        {"frame_indices": range(1, 41), "num_frames": 40},
    ),
    "negative index": (ValueError, "integers of at least 0", {"frame_indices": range(-1, 39)}),
    "fractional index": (ValueError, "list of integers", {"frame_indices": np.arange(40) / 2}),
    "index twice": (ValueError, "must increase", {"frame_indices": [0, *range(39)]}),
    "too few indices": (ValueError, "one number for each of the 40 poses, got 2", {"frame_indices": [0, 1]}),
    "indices of other tracks": (
        ValueError,
        "`frame_indices` must have the tracks",
        {"poses": {1: POSES}, "frame_indices": {2: range(40)}},
    ),
}


@pytest.mark.parametrize("extractor_class", EXTRACTORS)
@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name, extractor_class):
    error, message, arguments = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        extractor_class()(**{"poses": POSES, **arguments})


BAD_FOR_SETTINGS = {
    "unit unknown": ({"unit": "metre"}, "pass `unit='metre'` or `unit='millimetre'`", POSES * 30, {}),
    "unit of one joint": ({"unit": "metre"}, "`unit` cannot be told", POSES[:, :1], {}),
    "pixels as metres": ({"unit": "metre"}, "pixels do not tell", POSES, {"unit": "pixel"}),
    "no image size": ({"normalization": "image"}, r"`image_size` = \(width, height\)", PIXELS, {}),
    "image size 0": ({"normalization": "image"}, "both positive", PIXELS, {"image_size": (0, 5)}),
    "image size text": ({"normalization": "image"}, "both positive", PIXELS, {"image_size": "HD"}),
    "image size of three": ({"normalization": "image"}, "both positive", PIXELS, {"image_size": (3, 640, 480)}),
    "other picture": ({"normalization": "image"}, "lie in the picture", PIXELS, {"image_size": (200, 200)}),
    "normalised before": ({"normalization": "image"}, "look normalised", walk(dims=2), {"image_size": (640, 480)}),
    "metres in 2D": ({"normalization": "image"}, "`unit` must be 'pixel'", PIXELS, {"unit": "metre"}),
    "too few joints for the root": ({"root_indices": [17]}, "`root_indices` must be below", POSES, {}),
    "2D for 3D": ({"joint_dim": 3}, "must be 3D positions .* got 2D", PIXELS, {}),
    "3D for 2D": ({"joint_dim": 2}, "must be 2D positions .* got 3D", POSES, {}),
    "positions for rotations": ({"joint_dim": 6}, "name their `rotation_format`", POSES, {}),
    "joints": ({"num_joints": 14}, "must have the 14 joints of the checkpoint, got 17", POSES, {}),
}


@pytest.mark.parametrize("extractor_class", EXTRACTORS)
@pytest.mark.parametrize("name", BAD_FOR_SETTINGS)
def test_bad_calls_for_a_checkpoint(name, extractor_class):
    settings, message, poses, arguments = BAD_FOR_SETTINGS[name]
    with pytest.raises(ValueError, match=message):
        extractor_class(**settings)(poses, **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "inch"}, "`unit` must be one of"),
        ({"unit": "pixel"}, "`unit` must be one of"),
        ({"normalization": "person"}, "`normalization` must be one of"),
        ({"root_mode": "add"}, "`root_mode` must be one of"),
        ({"rotation_layout": "flat"}, "`rotation_layout` must be one of"),
        ({"unseen_joints": "drop"}, "`unseen_joints` must be one of"),
        ({"joint_dim": 4}, "`joint_dim` must be one of"),
        ({"image_scale": 0}, "`image_scale` must not be 0"),
        ({"image_offset": float("nan")}, "`image_offset` must be a finite number"),
        ({"score_threshold": "low"}, "`score_threshold` must be a finite number"),
        ({"missing_value": float("nan")}, "NaN always counts"),
        ({"frame_rate": -1}, "`frame_rate` must be a positive number"),
        ({"num_joints": 0}, "`num_joints` must be a positive integer"),
        ({"num_joints": 2, "keypoint_names": ["a"]}, "`num_joints` is 2, but `keypoint_names` has 1"),
        ({"keypoint_names": ["a", "a"]}, "list of different names"),
        ({"root_indices": []}, "`root_indices` must be a list of integers"),
        ({"root_indices": [-1]}, "`root_indices` must be a list of integers"),
        ({"root_indices": [0, 1], "root_mode": "exclude"}, "needs one joint"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SmoothNetFeatureExtractor(**settings)


def test_bad_settings_of_deciwatch():
    with pytest.raises(ValueError, match="`sample_interval` must be a positive integer, got 0"):
        DeciWatchFeatureExtractor(sample_interval=0)
    with pytest.raises(ValueError, match="`root_mode` must be 'smooth' or 'raw'"):
        DeciWatchFeatureExtractor(root_mode="exclude", root_indices=[0])
    for value in (0, -3, 2.5, None, True):
        with pytest.raises(ValueError, match="`num_frames` must be a positive integer"):
            DeciWatchFeatureExtractor().frame_indices(value)
    with pytest.raises(ValueError, match="`poses` has 6 frames; pass the `frame_indices`"):
        DeciWatchFeatureExtractor()(walk(6), num_frames=38)
