"""Human3.6M as VideoPose3D prepares it: archives of random poses, the original's conventions and windows."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.data import DataLoader

from hvmodels.cameras import image_coordinates, normalize_screen_coordinates
from hvmodels.datasets.forecasting import collate_windows
from hvmodels.datasets.human36m import TEST_SUBJECTS, TRAIN_SUBJECTS
from hvmodels.datasets.human36m_archives import (
    MOVING_JOINTS,
    ClipWindows,
    human36m_views,
    read_human36m_archives,
    unnormalize_positions,
)
from hvmodels.keypoint_sets import COCO17, HUMAN36M17
from tests.datasets.test_pose_lifting import STANDING
from tests.reference_cases import reference_case, reference_folder


LEFT, RIGHT = [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]
FRAMES = {"Walking 1": 5, "Directions": 3}


@pytest.fixture(scope="module")
def conventions(fixtures):
    return json.loads((fixtures / "videopose3d" / "h36m_conventions.json").read_text())


def make_content(subjects=(1, 9), layout="h36m", symmetry=(LEFT, RIGHT), joints=17):
    """Contents of both archives: poses around the middle of the room, keypoints two frames longer."""
    random = np.random.default_rng(0)
    poses = {
        f"S{subject}": {
            action: random.normal(size=(frames, 32, 3)).astype(np.float32) * [0.3, 0.3, 0.5] + [0, 0, 1]
            for action, frames in FRAMES.items()
        }
        for subject in subjects
    }
    keypoints = {
        subject: {
            action: [random.uniform(200, 800, (len(values) + 2, joints, 2)).astype(np.float32) for _ in range(4)]
            for action, values in actions.items()
        }
        for subject, actions in poses.items()
    }
    metadata = {"layout_name": layout, "num_joints": joints, "keypoints_symmetry": [list(side) for side in symmetry]}
    return {"positions_3d": poses}, {"positions_2d": keypoints, "metadata": metadata}


def write(folder, contents=None):
    paths = folder / "data_3d_h36m.npz", folder / "data_2d_h36m_det.npz"
    for path, content in zip(paths, contents or make_content(), strict=True):
        np.savez_compressed(path, **content)
    return paths


def make_persons(subjects=(1, 5, 6, 7, 8, 9, 11), frames=6):
    """Contents of both archives: persons who stand and swing their limbs, and where the cameras see them."""
    random = np.random.default_rng(0)
    poses, keypoints = {}, {}
    for subject in subjects:
        for action in FRAMES:
            joints = STANDING + 0.05 * random.normal(size=(1, 17, 3)) + 0.02 * random.normal(size=(frames, 17, 3))
            values = np.zeros((frames, 32, 3))
            values[:, MOVING_JOINTS] = joints
            poses.setdefault(f"S{subject}", {})[action] = values
            keypoints.setdefault(f"S{subject}", {})[action] = [
                view.camera.project(view.camera.to_camera(joints)) for view in human36m_views(subject)
            ]
    return {"positions_3d": poses}, {"positions_2d": keypoints, "metadata": make_content()[1]["metadata"]}


# Conventions


def test_joints(conventions):
    assert list(MOVING_JOINTS) == conventions["kept_of_32"]
    assert list(HUMAN36M17.parents) == conventions["parents_17"]
    pairs = set(map(frozenset, zip(conventions["joints_left_17"], conventions["joints_right_17"], strict=True)))
    assert set(map(frozenset, HUMAN36M17.flip_pairs)) == pairs
    assert (TRAIN_SUBJECTS, TEST_SUBJECTS) == ((1, 5, 6, 7, 8), (9, 11))


def test_cameras(conventions):
    for subject in (*TRAIN_SUBJECTS, *TEST_SUBJECTS):
        views = human36m_views(subject)
        for view, lens, place in zip(
            views, conventions["intrinsics"], conventions["extrinsics"][f"S{subject}"], strict=True
        ):
            assert (view.name, view.image_size) == (lens["id"], (lens["res_w"], lens["res_h"]))
            values = lens["focal_length"] + lens["center"] + lens["radial_distortion"] + lens["tangential_distortion"]
            np.testing.assert_allclose(view.camera.intrinsics, values, rtol=1e-7)
            np.testing.assert_allclose(view.camera.position, np.array(place["translation"]) / 1000, rtol=1e-6)
            # By quaternions, as the original: into the camera with the inverse, and back.
            points = np.random.default_rng(subject).normal(size=(6, 3))
            offset = points - np.array(place["translation"]) / 1000
            w, *vector = place["orientation"]
            inverse = -np.array(vector)
            cross = np.cross(inverse, offset)
            expected = offset + 2 * (w * cross + np.cross(inverse, cross))
            np.testing.assert_allclose(view.camera.to_camera(points), expected, atol=2e-6)
            np.testing.assert_allclose(view.camera.to_world(expected), points, atol=2e-6)
    with pytest.raises(ValueError, match=r"`subject` must be one of \[1, 5, 6, 7, 8, 9, 11\]"):
        human36m_views(2)


# Archives


def test_sequences(tmp_path):
    poses, keypoints = make_content()
    archives = read_human36m_archives(*write(tmp_path))
    assert len(archives.sequences) == 2 * 2 * 4
    assert set(map(frozenset, archives.flip_pairs)) == set(map(frozenset, HUMAN36M17.flip_pairs))
    by_name = {sequence.name: sequence for sequence in archives.sequences}
    for subject in (1, 9):
        for action, frames in FRAMES.items():
            for number, view in enumerate(human36m_views(subject)):
                sequence = by_name[f"S{subject}/{action}/{view.name}"]
                assert (sequence.subject, sequence.action) == (f"S{subject}", action.split(" ")[0])
                assert (len(sequence), sequence.frame_rate, sequence.image_size) == (frames, 50, view.image_size)
                world = poses["positions_3d"][f"S{subject}"][action][:, MOVING_JOINTS].astype(np.float32)
                assert np.array_equal(sequence.joints, world)
                found = keypoints["positions_2d"][f"S{subject}"][action][number]
                assert np.array_equal(sequence.detections, found[:frames])
                in_camera = view.camera.to_camera(world)
                np.testing.assert_allclose(sequence.positions, in_camera - in_camera[:, :1])
                np.testing.assert_allclose(sequence.keypoints, view.camera.project(in_camera))


def test_subjects_and_poses_alone(tmp_path):
    positions, keypoints = write(tmp_path)
    archives = read_human36m_archives(positions, subjects=(9,))
    assert {sequence.subject for sequence in archives.sequences} == {"S9"}
    assert all(sequence.detections is None for sequence in archives.sequences)
    assert archives.flip_pairs == HUMAN36M17.flip_pairs
    with pytest.raises(ValueError, match=r"`subjects` \[11\] are not in .*which has \[1, 9\], and .*which has"):
        read_human36m_archives(positions, keypoints, TEST_SUBJECTS)


def change_poses(change):
    def changed():
        contents = make_content(subjects=(1,))
        change(contents[0]["positions_3d"]["S1"], contents[1]["positions_2d"]["S1"])
        return contents

    return changed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ({"positions_2d": {}}, make_content()[1]), r"must hold 'positions_3d', .*it has \['positions_2d'\]"),
        (lambda: ({"positions_3d": {"subject": {}}}, make_content()[1]), "must hold 'positions_3d', a dict by subject"),
        (lambda: (make_content()[0], {"positions_2d": make_content()[1]["positions_2d"]}), "'metadata' with 'keypoints_"),
        (lambda: make_content(symmetry=([1, 2], [3])), "'metadata' with 'keypoints_symmetry'"),
        (lambda: make_content(symmetry=([1, 2], [3, 1])), "'metadata' with 'keypoints_symmetry'"),
        (lambda: make_content(symmetry=([1], [17])), "has 17 joints, fewer than its metadata says"),
        (change_poses(lambda poses, _: poses.update(Eating=np.zeros((2, 17, 3)))), r"S1/Eating must be an array \(frames, 32"),
        (change_poses(lambda poses, _: poses.update(Eating=[1])), "S1/Eating must be an array .*got list"),
        (change_poses(lambda poses, _: poses.update(Eating=np.ones((2, 32, 3)) * 900)), "must be in metres, got .* 900"),
        (change_poses(lambda poses, _: poses.update(Eating=np.full((2, 32, 3), np.nan))), "and finite numbers"),
        (change_poses(lambda poses, _: poses.update(Eating=np.ones((2, 32, 3)))), "S1/Eating must be 4 arrays, .*got none"),
        (change_poses(lambda _, found: found["Directions"].pop()), "S1/Directions must be 4 arrays, one a camera, got 3"),
        (change_poses(lambda _, found: found.update(Directions=[np.zeros((2, 17, 2))] * 4)), "at least the 3 frames"),
        (change_poses(lambda _, found: found.update(Directions=[np.zeros((9, 34))] * 4)), r"shape \(frames, joints, 2\)"),
        (change_poses(lambda _, found: found.update(Directions=[np.full((9, 17, 2), np.inf)] * 4)), "must be finite"),
        (lambda: make_content(subjects=(2,)), "whose cameras are known, got 2"),
    ],
    ids=range(16),
)  # fmt: skip
def test_archives_that_do_not_fit(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_human36m_archives(*write(tmp_path, make()))


class Call:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return os.mkdir, self.arguments


def test_hostile_archives(tmp_path):
    poses, keypoints = make_content()
    poses["positions_3d"]["S1"]["Walking 1"] = Call(str(tmp_path / "made"))
    paths = write(tmp_path, (poses, keypoints))
    with pytest.raises(ValueError, match="No code of it was run"):
        read_human36m_archives(*paths)
    assert not (tmp_path / "made").exists()
    with pytest.raises(ValueError, match="must be an npz archive"):
        read_human36m_archives(tmp_path / "absent.npz")


# Windows


@pytest.mark.parametrize("case", [reference_case("videopose3d", "chunks")])
def test_windows_as_the_original(case):
    folder = reference_folder("videopose3d", case)
    options, values = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    clips = [[values[f"input.seq{dims}d.{clip}"].numpy() for clip in range(2)] for dims in (2, 3)]
    windows = ClipWindows(*clips, 2 * options["pad"] + 1, chunk_length=options["chunk_length"])
    loader = DataLoader(windows, options["batch_size"], collate_fn=collate_windows)
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [8, 8, 6]
    for name, dims in (("keypoints_2d", 2), ("labels", 3)):
        found = torch.cat([batch[name] for batch in batches])
        assert_close(found, values[f"output.chunks_{dims}d"], atol=0, rtol=0)


def plainly(clip, positions, num_frames, causal, chunk_length):
    """Windows by the book: frames before the first are the first, those after the last the last."""
    before = num_frames - 1 if causal else num_frames // 2
    chunks = -(-len(clip) // chunk_length)
    start = -((chunks * chunk_length - len(clip)) // 2)
    for first in range(start, start + chunks * chunk_length, chunk_length):
        frames = [min(max(first - before + step, 0), len(clip) - 1) for step in range(num_frames - 1 + chunk_length)]
        poses = [min(max(first + step, 0), len(clip) - 1) for step in range(chunk_length)]
        yield clip[frames], positions[poses]


@pytest.mark.parametrize("chunk_length", [1, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_windows(chunk_length, causal, mirror):
    random = np.random.default_rng(0)
    lengths = (10, 1, 7)
    clips = [random.normal(size=(length, 17, 2)).astype(np.float32) for length in lengths]
    positions = [random.normal(size=(length, 3, 3)).astype(np.float32) for length in lengths]
    windows = ClipWindows(
        clips, positions, 5, causal, chunk_length, mirror, COCO17.flip_pairs, position_flip_pairs=[(0, 2)]
    )
    expected = []
    for clip, poses in zip(clips, positions, strict=True):
        plain = list(plainly(clip, poses, 5, causal, chunk_length))
        expected += plain
        if mirror:
            sign = np.float32([-1, 1])
            expected += [
                (k[:, COCO17.flip_permutation] * sign, p[:, [2, 1, 0]] * np.float32([-1, 1, 1])) for k, p in plain
            ]
    assert len(windows) == len(expected)
    batch = windows.__getitems__(range(len(windows)))
    assert batch["keypoints_2d"].dtype == batch["labels"].dtype == torch.float32
    for index, (keypoints, poses) in enumerate(expected):
        assert np.array_equal(batch["keypoints_2d"][index], keypoints)
        assert np.array_equal(batch["labels"][index], poses)
    single = windows[-1]
    assert torch.equal(single["keypoints_2d"], batch["keypoints_2d"][-1])
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_windows_leave_the_clips_alone():
    clip, pose = np.ones((3, 17, 2)), np.ones((3, 17, 3))
    windows = ClipWindows([clip], [pose], 3)
    windows[0]["keypoints_2d"].mul_(5)
    assert (windows[0]["keypoints_2d"] == 1).all()


def test_windows_of_archives(tmp_path):
    contents = make_content(layout="coco", symmetry=([1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]))
    archives = read_human36m_archives(*write(tmp_path, contents), subjects=(1,))
    assert archives.flip_pairs == COCO17.flip_pairs
    windows = ClipWindows.from_sequences(archives, 9)
    assert len(windows) == 2 * 4 * sum(FRAMES.values())
    sequence, window = archives.sequences[0], windows[0]
    middle = image_coordinates(window["keypoints_2d"][4].double().numpy(), sequence.image_size)
    np.testing.assert_allclose(middle, sequence.detections[0], rtol=1e-5)
    np.testing.assert_allclose(window["labels"][0], sequence.positions[0], atol=1e-6)
    assert not window["labels"][:, 0].any()
    mirrored = windows[len(sequence)]  # the first window of the first clip's mirror image
    flipped = window["keypoints_2d"][:, COCO17.flip_permutation] * torch.tensor([-1.0, 1.0])
    assert_close(mirrored["keypoints_2d"], flipped)
    assert_close(mirrored["labels"], window["labels"][:, HUMAN36M17.flip_permutation] * torch.tensor([-1.0, 1.0, 1.0]))
    true = ClipWindows.from_sequences(read_human36m_archives(tmp_path / "data_3d_h36m.npz", subjects=(1,)), 1)
    expected = normalize_screen_coordinates(sequence.keypoints[0], sequence.image_size)
    np.testing.assert_allclose(true[0]["keypoints_2d"][0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 4}, "`num_frames` must be a positive odd number"),
        ({"chunk_length": 0}, "`chunk_length` positive, got 3 and 0"),
        ({"keypoints": []}, "must have the same clips"),
        ({"positions": [np.zeros((4, 17, 3))]}, r"must have the same clips .* got \[3\] and \[4\]"),
        ({"keypoints": [np.zeros((3, 17, 3))]}, r"`keypoints` must be arrays \(frames, joints, 2\)"),
        ({"positions": [np.zeros((3, 51))]}, r"`positions` must be arrays \(frames, joints, 3\)"),
        ({"keypoint_flip_pairs": [(0, 17)]}, "`keypoint_flip_pairs` must be pairs of the 17 joints"),
    ],
    ids=range(7),
)
def test_windows_that_do_not_fit(change, message):
    arguments = {"keypoints": [np.zeros((3, 17, 2))], "positions": [np.zeros((3, 17, 3))], "num_frames": 3}
    with pytest.raises(ValueError, match=message):
        ClipWindows(**{**arguments, **change})


# The baseline of Martinez et al.


def test_all_joints_of_a_network_without_some(fixtures):
    values = load_file(fixtures / "martinez_fcn" / "postprocess" / "io.safetensors")
    given = [values[f"input.{name}"].numpy() for name in ("normalized_3d", "mean", "std", "dim_use")]
    expected = values["output.unnormalized_3d"].numpy()
    np.testing.assert_allclose(unnormalize_positions(*given), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"normalized": np.zeros(4)},
        {"std": np.ones(5)},
        {"used": [0, 1, 6]},
        {"used": [0, 1, 1]},
        {"used": [0.0, 1, 2]},
    ],
    ids=str,
)
def test_joints_that_do_not_fit(change):
    arguments = {"normalized": np.zeros((2, 3)), "mean": np.zeros(6), "std": np.ones(6), "used": [0, 2, 4]}
    assert unnormalize_positions(**arguments).shape == (2, 6)
    with pytest.raises(ValueError, match="`normalized`"):
        unnormalize_positions(**{**arguments, **change})
