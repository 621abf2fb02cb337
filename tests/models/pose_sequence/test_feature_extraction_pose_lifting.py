"""The feature extractor of the models that lift poses: joints, picture, windows, mirror image, missing joints, the way back."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hvmodels.cameras import PinholeCamera, image_coordinates, normalize_screen_coordinates
from hvmodels.keypoint_sets import (
    COCO17,
    CROWDPOSE14,
    HALPE19,
    HUMAN36M17,
    LSP14,
    MPII16,
    OPENPOSE25,
    convert_keypoints,
)
from hvmodels.models.pose_sequence.feature_extraction_pose_lifting import (
    PoseLiftingFeatureExtractor,
    flip_poses,
    pad_windows,
)
from tests.reference_cases import reference_case, reference_folder


SIZE = (1000, 800)
NAN = float("nan")
# A person who stands, seen from the front, x and y of Human3.6M's joints: their right is on the left of the picture.
STANDING = np.array(
    [
        [0.0, 0.0], [-0.1, 0.0], [-0.11, 0.42], [-0.12, 0.84], [0.1, 0.0], [0.11, 0.42], [0.12, 0.84],
        [0.0, -0.24], [0.0, -0.48], [0.01, -0.58], [0.0, -0.7],
        [0.17, -0.45], [0.22, -0.18], [0.24, 0.06], [-0.17, -0.45], [-0.22, -0.18], [-0.24, 0.06],
    ]
)  # fmt: skip
COCO_STANDING = np.array(
    [
        [0.0, -0.6], [0.03, -0.63], [-0.03, -0.63], [0.07, -0.61], [-0.07, -0.61], [0.17, -0.45], [-0.17, -0.45],
        [0.22, -0.18], [-0.22, -0.18], [0.24, 0.06], [-0.24, 0.06], [0.1, 0.0], [-0.1, 0.0], [0.11, 0.42], [-0.11, 0.42],
        [0.12, 0.84], [-0.12, 0.84],
    ]
)  # fmt: skip


def person(num_frames=12, pose=STANDING, seed=0):
    """(frames, joints, 2) pixels of a person who walks through the picture and swings their limbs."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_frames)[:, None, None]
    swing = 0.03 * np.sin(time / 5 + rng.uniform(0, 6, size=(1, len(pose), 2)))
    return (pose + swing) * 250 + [400, 380] + time * [3, 0.5]


def lifted(features, seed=None):
    """A model's output for features: depths are the mean of x and y, or random numbers."""
    keypoints = np.asarray(features["keypoints_2d"])
    frames = max(len(track.missing) for track in features["tracks"])
    first = (keypoints.shape[1] - frames) // 2
    keypoints = keypoints[:, first : first + frames]
    if seed is not None:
        return {"positions_3d": torch.from_numpy(np.random.default_rng(seed).normal(size=(*keypoints.shape[:3], 3)))}
    return {"positions_3d": np.concatenate([keypoints, keypoints[..., 1:]], axis=-1)}


# The original's arithmetic


@pytest.mark.parametrize(
    "case", [reference_case("videopose3d", "arc333"), reference_case("videopose3d", "arc33_causal")]
)
def test_windows_and_mirror_image_as_the_original(case):
    folder = reference_folder("videopose3d", case)
    settings, values = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    extractor = PoseLiftingFeatureExtractor(int(np.prod(settings["filter_widths"])), settings["causal"])
    sequence = values["input.sequence"]
    # Random numbers, not a person: the checks of a call would refuse them.
    padded = np.stack([sequence, flip_poses(sequence, extractor.flip_permutation)])
    padded = pad_windows(padded, extractor.num_frames, extractor.causal)
    np.testing.assert_array_equal(padded, values["intermediate.padded_pair"])


def test_screen_and_world_as_the_original():
    values = load_file(reference_folder("videopose3d", "geometry_metrics") / "io.safetensors")
    pixels = values["input.pixels"]
    for width, height in ((1000, 1002), (1920, 1080)):
        screen = normalize_screen_coordinates(pixels, (width, height))
        np.testing.assert_allclose(screen, values[f"output.screen_{width}x{height}"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(image_coordinates(screen, (width, height)), pixels, rtol=0, atol=1e-9)
    back = image_coordinates(values["output.screen_1000x1002"], (1000, 1002))
    np.testing.assert_allclose(back, values["output.image_back"], rtol=0, atol=1e-9)

    w, x, y, z = values["input.quaternion_wxyz"].astype(np.float64)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    camera = PinholeCamera(1.0, (0, 0), rotation.T, values["input.translation"])
    points = values["output.world_to_camera"]
    np.testing.assert_allclose(camera.to_camera(values["input.world_points"]), points, rtol=0, atol=2e-6)
    np.testing.assert_allclose(camera.to_world(points), values["output.camera_to_world"], rtol=0, atol=2e-6)


# Settings


def test_settings_are_kept(tmp_path):
    settings = {
        "num_frames": 4,
        "causal": True,
        "keypoint_names": ["pelvis", "left_hip", "right_hip"],
        "root_index": 2,
        "flip_test": False,
        "score_threshold": 0.5,
        "focal_length": 1.1,
        "allow_upside_down": True,
    }
    extractor = PoseLiftingFeatureExtractor(**settings)
    extractor.save_pretrained(tmp_path)
    again, default = PoseLiftingFeatureExtractor.from_pretrained(tmp_path), PoseLiftingFeatureExtractor()
    for name, value in settings.items():
        assert getattr(again, name) == value != getattr(default, name), name
    assert again.flip_permutation.tolist() == [0, 2, 1]
    assert default.keypoint_names == list(HUMAN36M17.keypoints)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be a positive integer"),
        ({"num_frames": 8}, "`num_frames` must be odd unless `causal`"),
        ({"score_threshold": NAN}, "`score_threshold` must be a finite number"),
        ({"focal_length": -1.0}, "`focal_length` must be a positive number"),
        ({"keypoint_names": ["a", "a"]}, "`keypoint_names` must be a list of different names"),
        ({"root_index": 17}, "`root_index` must be one of the 17 joints"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PoseLiftingFeatureExtractor(**settings)


# The picture, windows, mirror image


def test_one_track():
    keypoints = person()
    features = PoseLiftingFeatureExtractor(9)(keypoints, image_size=SIZE)
    values = features["keypoints_2d"]
    assert values.shape == (2, 12 + 8, 17, 2)
    assert values.dtype == torch.float32
    expected = keypoints / 500 - [1, 0.8]
    np.testing.assert_allclose(values[0, 4:-4], expected, atol=1e-6)
    for repeated, frame in ((values[0, :4], 0), (values[0, -4:], -1)):
        np.testing.assert_allclose(repeated, np.broadcast_to(expected[frame], (4, 17, 2)), atol=1e-6)
    mirrored = expected[:, HUMAN36M17.flip_permutation] * [-1, 1]
    np.testing.assert_allclose(values[1, 4:-4], mirrored, atol=1e-6)


def test_causal_windows_look_back_only():
    keypoints = person()
    values = PoseLiftingFeatureExtractor(8, causal=True, flip_test=False)(keypoints, image_size=SIZE)["keypoints_2d"]
    assert values.shape == (1, 12 + 7, 17, 2)
    np.testing.assert_allclose(values[0, 7:], keypoints / 500 - [1, 0.8], atol=1e-6)
    assert (values[0, :7] == values[0, 7]).all()


def test_single_frame_for_a_model_of_nine():
    """Is repeated: the model sees a person who stands still."""
    values = PoseLiftingFeatureExtractor(9)(person(1), image_size=SIZE, flip_test=False)["keypoints_2d"]
    assert values.shape == (1, 9, 17, 2)
    assert (values == values[:, :1]).all()


def test_mirror_image_is_averaged():
    keypoints = person()
    extractor = PoseLiftingFeatureExtractor(5)
    features = extractor(keypoints, image_size=SIZE)
    outputs = lifted(features, seed=0)
    straight, mirrored = outputs["positions_3d"].numpy()
    mean = (straight + mirrored[:, HUMAN36M17.flip_permutation] * [-1, 1, 1]) / 2
    (result,) = extractor.post_process_pose_lifting(outputs, features)
    np.testing.assert_allclose(result["poses"][:, 1:], mean[:, 1:], atol=1e-6)
    assert (result["poses"][:, 0] == 0).all()  # the pelvis is where it is by definition
    # A model that treats left and right alike gains nothing by it.
    (result,) = extractor.post_process_pose_lifting(lifted(features), features)
    plain = extractor(keypoints, image_size=SIZE, flip_test=False)
    (expected,) = extractor.post_process_pose_lifting(lifted(plain), plain)
    np.testing.assert_allclose(result["poses"], expected["poses"], atol=1e-6)


def test_a_model_of_other_joints_than_its_result():
    """It reads COCO's, as VideoPose3D's for one detector, and gives Human3.6M's: each has left and right of its own."""
    names = {"keypoint_names": list(COCO17.keypoints), "output_keypoint_names": list(HUMAN36M17.keypoints)}
    extractor = PoseLiftingFeatureExtractor(**names)
    keypoints = person(pose=COCO_STANDING)
    scores = np.full(keypoints.shape[:2], 0.9)
    keypoints[3, COCO17.keypoints.index("left_hip")] = NAN
    features = extractor(keypoints, scores, image_size=SIZE)
    poses = convert_keypoints(features["keypoints_2d"][0].numpy(), COCO17, HUMAN36M17)
    straight = np.concatenate([poses, poses[..., :1] ** 2], axis=-1)
    outputs = {"positions_3d": np.stack([straight, flip_poses(straight, HUMAN36M17.flip_permutation)])}
    (result,) = extractor.post_process_pose_lifting(outputs, features)
    np.testing.assert_allclose(result["poses"][:, 1:], straight[:, 1:], atol=1e-6)
    missing = [HUMAN36M17.keypoints[joint] for joint in np.flatnonzero(result["missing"][3])]
    assert {"left_hip", "pelvis"} <= set(missing) <= {"left_hip", "pelvis", "spine"}
    assert result["missing"].any(axis=1).tolist() == [frame == 3 for frame in range(12)]
    np.testing.assert_allclose(result["scores"], np.where(result["missing"], 0, 0.9), atol=1e-6)
    with pytest.raises(ValueError, match=r"of the 17 joints of `output_keypoint_names`, got shape \(2, 12, 14, 3\)"):
        extractor.post_process_pose_lifting({"positions_3d": np.zeros((2, 12, 14, 3))}, features)


def test_the_way_of_the_root():
    """A result that is no pose but a place in the camera's frame."""
    extractor = PoseLiftingFeatureExtractor(output_keypoint_names=["pelvis"], root_index=None, flip_test=False)
    features = extractor(person(), image_size=SIZE)
    places = np.random.default_rng(0).normal(size=(1, 12, 1, 3))
    (result,) = extractor.post_process_pose_lifting({"positions_3d": places}, features)
    np.testing.assert_allclose(result["poses"], places[0], atol=1e-6)
    assert result["missing"].shape == (12, 1)
    turn = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0.0]])
    camera = PinholeCamera(1000, (500, 400), turn, (1, 2, 3))
    (result,) = extractor.post_process_pose_lifting({"positions_3d": places}, features, axes="world", camera=camera)
    np.testing.assert_allclose(result["poses"], places[0] @ turn + [1, 2, 3], atol=1e-6)


def test_tracks_of_different_lengths():
    extractor = PoseLiftingFeatureExtractor(9)
    tracks = {"a": person(12), "b": person(5, seed=1)}
    features = extractor(tracks, image_size=SIZE)
    assert features["keypoints_2d"].shape == (4, 20, 17, 2)
    results = extractor.post_process_pose_lifting(lifted(features), features)
    assert [result["track_id"] for result in results] == ["a", "b"]
    for result, track in zip(results, tracks.values(), strict=True):
        alone = extractor(track, image_size=SIZE)
        (expected,) = extractor.post_process_pose_lifting(lifted(alone), alone)
        assert result["poses"].shape == (len(track), 17, 3)
        np.testing.assert_array_equal(result["poses"], expected["poses"])
    listed = extractor(list(tracks.values()), image_size=SIZE, track_ids=[3, 4], return_tensors="np")
    np.testing.assert_array_equal(listed["keypoints_2d"], features["keypoints_2d"])
    assert [track.track_id for track in listed["tracks"]] == [3, 4]


def test_camera_takes_the_place_of_the_picture():
    """What another camera sees goes where the training camera would have seen it."""
    keypoints = person()
    extractor = PoseLiftingFeatureExtractor(1, focal_length=1.145)
    expected = extractor(keypoints, image_size=(1000, 1000))["keypoints_2d"]
    zoomed = (keypoints - 500) / 1145 * [2000, 1900] + [960, 540]
    camera = PinholeCamera((2000, 1900), (960, 540))
    np.testing.assert_allclose(extractor(zoomed, camera=camera)["keypoints_2d"], expected, atol=1e-5)
    with pytest.raises(ValueError, match="`camera` cannot be used: the checkpoint does not say the `focal_length`"):
        PoseLiftingFeatureExtractor()(zoomed, camera=camera)


def test_normalised_input():
    keypoints = person()
    extractor = PoseLiftingFeatureExtractor(9)
    expected = extractor(keypoints, image_size=SIZE)["keypoints_2d"]
    screen = normalize_screen_coordinates(keypoints, SIZE)
    torch.testing.assert_close(extractor(screen, unit="screen")["keypoints_2d"], expected)
    with pytest.raises(ValueError, match=r"`keypoints` must be normalised .* are they pixels\?"):
        extractor(keypoints, unit="screen")
    with pytest.raises(ValueError, match="which look normalised already"):
        extractor(screen, image_size=SIZE)
    with pytest.raises(ValueError, match="`camera` needs keypoints in pixels"):
        extractor(screen, unit="screen", camera=PinholeCamera(1.0, (0, 0)))


# Joints


@pytest.mark.parametrize(
    "keypoint_set", [COCO17, MPII16, CROWDPOSE14, OPENPOSE25, HALPE19], ids=lambda known: known.name
)
def test_other_joint_sets(keypoint_set):
    if keypoint_set is COCO17:
        given = person(pose=COCO_STANDING)
    else:
        given = convert_keypoints(person(), HUMAN36M17, keypoint_set)
        own = convert_keypoints(person(pose=COCO_STANDING), COCO17, keypoint_set)
        given = np.where(np.isnan(given), own, given)
    given = np.where(np.isnan(given), given[:, :1] + 1, given)  # toes, which are not looked at
    extractor = PoseLiftingFeatureExtractor(1, flip_test=False)
    expected = convert_keypoints(given, keypoint_set, HUMAN36M17) / 500 - [1, 0.8]
    assert not np.isnan(expected).any()
    for names in (
        keypoint_set,
        keypoint_set.name,
        list(keypoint_set.keypoints),
        [n.upper() for n in keypoint_set.keypoints],
    ):
        values = extractor(given, image_size=SIZE, keypoint_names=names)["keypoints_2d"]
        np.testing.assert_allclose(values[0], expected, atol=1e-6)


def test_joints_that_are_not_said():
    extractor = PoseLiftingFeatureExtractor()
    sixteen = convert_keypoints(person(), HUMAN36M17, MPII16)
    with pytest.raises(
        ValueError, match=r"`keypoint_names` must say which 16 joints `keypoints` has.*'mpii16' has 16"
    ):
        extractor(sixteen, image_size=SIZE)
    with pytest.raises(ValueError, match=r"`keypoint_names` must say which 5 joints .* a list of their names"):
        extractor(np.ones((3, 5, 2)) * 100, image_size=SIZE)
    with pytest.raises(ValueError, match=r"`keypoint_names` must be one of .*'coco17'.* got 'coco'"):
        extractor(person(), image_size=SIZE, keypoint_names="coco")
    with pytest.raises(ValueError, match="must have the 16 joints of 'mpii16'"):
        extractor(person(), image_size=SIZE, keypoint_names="mpii16")
    with pytest.raises(ValueError, match=r"\['nose', 'head'\] cannot be had from the joints of 'custom'"):
        names = [name for name in HUMAN36M17.keypoints if name not in ("nose", "head")]
        extractor(np.delete(person(), (9, 10), axis=1), image_size=SIZE, keypoint_names=names)


@pytest.mark.parametrize(
    ("keypoints", "said", "message"),
    [
        (person(pose=COCO_STANDING), None, "order of 'human36m17', but they look like those of 'coco17'"),
        (person(), "coco17", "order of 'coco17', but they look like those of 'human36m17"),
        (convert_keypoints(person(), HUMAN36M17, LSP14), "crowdpose14", "they look like those of 'lsp14'"),
    ],
)
def test_wrong_order_of_joints(keypoints, said, message):
    with pytest.raises(ValueError, match=message):
        PoseLiftingFeatureExtractor()(keypoints, image_size=SIZE, keypoint_names=said)


def test_upside_down():
    keypoints = SIZE[1] - person()
    with pytest.raises(ValueError, match="`keypoints` must have y pointing down"):
        PoseLiftingFeatureExtractor()(keypoints, image_size=SIZE)
    values = PoseLiftingFeatureExtractor(allow_upside_down=True)(keypoints, image_size=SIZE)["keypoints_2d"]
    assert values.shape == (2, 12, 17, 2)
    # Somebody who does a cartwheel is in order.
    turned = np.concatenate([person(), keypoints, person()])
    PoseLiftingFeatureExtractor()(turned, image_size=SIZE)


# Missing and noisy joints


@pytest.mark.parametrize("how", ["nan", "zero", "score", "third number"])
def test_missing_joints_are_drawn_between_their_neighbours(how):
    keypoints, scores = person(), np.full((12, 17), 0.9)
    expected = keypoints.copy()
    expected[4:7, 13] = keypoints[3, 13] + np.arange(1, 4)[:, None] / 4 * (keypoints[7, 13] - keypoints[3, 13])
    expected[:2, 5] = keypoints[2, 5]
    given = keypoints.copy()
    for rows, joint in ((slice(4, 7), 13), (slice(0, 2), 5)):
        scores[rows, joint] = 0.1
        given[rows, joint] = {"nan": NAN, "zero": 0.0}.get(how, 333.0)
    if how == "third number":
        given, scores = np.concatenate([given, scores[..., None]], axis=-1), None
    elif how != "score":
        scores = None
    extractor = PoseLiftingFeatureExtractor(1, flip_test=False)
    features = extractor(given, scores, image_size=SIZE)
    np.testing.assert_allclose(features["keypoints_2d"][0], expected / 500 - [1, 0.8], atol=1e-6)
    (result,) = extractor.post_process_pose_lifting(lifted(features), features)
    missing = np.zeros((12, 17), dtype=bool)
    missing[4:7, 13] = missing[:2, 5] = True
    np.testing.assert_array_equal(result["missing"], missing)
    if how in ("score", "third number"):
        np.testing.assert_allclose(result["scores"], np.where(missing, 0, 0.9), atol=1e-6)
    else:
        assert "scores" not in result


def test_scores_of_joints_put_together():
    """The mean of those of the joints that make it; a joint is missing where one of its parts is."""
    scores = np.full((12, 17), 0.8)
    scores[:, COCO17.keypoints.index("left_hip")] = 0.4
    scores[3, COCO17.keypoints.index("right_hip")] = 0.0
    extractor = PoseLiftingFeatureExtractor(1)
    features = extractor(person(pose=COCO_STANDING), scores, image_size=SIZE, keypoint_names="coco17")
    (result,) = extractor.post_process_pose_lifting(lifted(features), features)
    pelvis = np.where(np.arange(12) == 3, 0.0, 0.6)
    np.testing.assert_allclose(result["scores"][:, 0], pelvis, atol=1e-6)
    np.testing.assert_array_equal(result["missing"][:, 0], np.arange(12) == 3)


def test_hidden_ear_is_done_without():
    keypoints = person(pose=COCO_STANDING)
    keypoints[:, COCO17.keypoints.index("left_ear")] = NAN
    features = PoseLiftingFeatureExtractor()(keypoints, image_size=SIZE, keypoint_names="coco17")
    assert features["keypoints_2d"].isfinite().all()
    assert not features["tracks"][0].missing.any()


# The way back


def test_axes_and_units():
    extractor = PoseLiftingFeatureExtractor(1)
    features = extractor(person(), image_size=SIZE)
    outputs = lifted(features)
    (camera,) = extractor.post_process_pose_lifting(outputs, features)
    assert (camera["poses"][:, 0] == 0).all()
    (upright,) = extractor.post_process_pose_lifting(outputs, features, axes="upright", unit="millimetre")
    x, y, z = np.moveaxis(camera["poses"], -1, 0)
    np.testing.assert_allclose(upright["poses"], 1000 * np.stack([x, z, -y], axis=-1), rtol=1e-6)
    assert (upright["poses"][:, 10, 2] > 0).all()  # the head is above the pelvis
    level = PinholeCamera(1.0, (0, 0), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], [3.0, 4.0, 5.0])
    (world,) = extractor.post_process_pose_lifting(outputs, features, axes="world", camera=level, unit="millimetre")
    np.testing.assert_allclose(world["poses"], upright["poses"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": "floor"}, "`axes` must be one of"),
        ({"axes": "world"}, "`camera` must be given for `axes='world'`"),
        ({"camera": PinholeCamera(1.0, (0, 0))}, "`camera` must be given for `axes='world'`, .* and only then"),
        ({"unit": "inch"}, "`unit` must be 'metre' or 'millimetre'"),
    ],
)
def test_refuses_ways_back(options, message):
    extractor = PoseLiftingFeatureExtractor()
    features = extractor(person(), image_size=SIZE)
    with pytest.raises(ValueError, match=message):
        extractor.post_process_pose_lifting(lifted(features), features, **options)


def test_refuses_outputs_of_another_window():
    extractor = PoseLiftingFeatureExtractor(9)
    features = extractor(person(), image_size=SIZE)
    with pytest.raises(
        ValueError, match=r"`positions_3d` of 1 tracks .* and 12 frames.*does the model have `num_frames` = 9"
    ):
        extractor.post_process_pose_lifting({"positions_3d": torch.zeros(2, 16, 17, 3)}, features)


# Wrong input


def changed(frame, joint, value):
    keypoints = person()
    keypoints[frame, joint] = value
    return keypoints


@pytest.mark.parametrize(
    ("keypoints", "options", "message"),
    [
        (person(), {"image_size": None}, r"`image_size` = \(width, height\) in pixels must be given"),
        (person(), {"image_size": (1000, 0)}, "`image_size` must be"),
        (person() * 10, {}, "`keypoints` must lie in the picture"),
        (person()[0], {}, r"`keypoints` must have shape \(frames, joints, dims\)"),
        (person()[None], {}, r"`keypoints` must have shape \(frames, joints, dims\)"),
        (np.zeros((0, 17, 2)), {}, "at least one frame"),
        (changed(3, 2, np.inf), {}, "infinite value in frame 3, joint 2"),
        (np.full((3, 17, 2), NAN), {}, "`keypoints` must show at least one joint"),
        (changed(slice(None), 13, NAN), {}, r"\['left_wrist'\] cannot be had .* missing in all frames"),
        (np.concatenate([person(), person()[..., :1]], -1), {}, "3D poses cannot be lifted"),
        (person(), {"scores": np.ones((12, 16))}, r"`scores` must have shape \(frames, joints\) = \(12, 17\)"),
        (np.ones((12, 17, 3)) * 0.5, {"scores": np.ones((12, 17))}, "has a third number too"),
        (person(), {"unit": "metre"}, "`unit` must be one of"),
        ([], {}, "at least one track"),
        ({"a": person()}, {"scores": {"b": np.ones((12, 17))}}, "`scores` must have the tracks"),
        (person().astype(str), {}, "must be an array of real numbers"),
    ],
)
def test_refuses_input(keypoints, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PoseLiftingFeatureExtractor(9)(keypoints, **{"image_size": SIZE, **options})
