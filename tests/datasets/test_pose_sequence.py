"""Sequences and windows to train on, against the originals' windows and hand-made files."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

from hvmodels.datasets.forecasting import collate_windows
from hvmodels.datasets.pose_sequence import (
    HUMAN36M_TO_LSP14,
    PosePair,
    PoseWindows,
    all_windows,
    prepare_pair,
    read_detections,
    read_motion,
    read_released,
    root_joints,
    smoothnet_windows,
)
from hvmodels.datasets.sequence_archives import convert_sequence_archive, write_sequence_archive
from hvmodels.models.pose_sequence import SmoothNetFeatureExtractor


def objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def make_release(folder, detected, groundtruth, key="joints_3d", **extra):
    """Archives as the originals save them, with sequences of 5, 2 and 1 frames."""
    rng = np.random.default_rng(0)
    joints = 34 if key == "joints_2d" else 51
    names = objects(
        [[f"take_{index}/{frame:05}.jpg" for frame in range(count)] for index, count in enumerate((5, 2, 1))]
    )
    written = []
    for path in (detected, groundtruth):
        path = folder / path
        path.parent.mkdir(parents=True)
        poses = [rng.normal(size=(count, joints)) for count in (5, 2, 1)]
        np.savez(path, **{"imgname": names, key: objects(poses), **extra})
        written.append(poses)
    return written


def test_release_of_smoothnet(tmp_path):
    folder = "pw3d_spin_3D"
    poses, targets = make_release(
        tmp_path, f"{folder}/detected/{folder}_test.npz", f"{folder}/groundtruth/pw3d_gt_3D_test.npz"
    )
    pairs = read_released(tmp_path, "smoothnet", "pw3d", "spin", "3D", "test")
    assert [(pair.name, len(pair.poses), pair.unit) for pair in pairs] == [
        ("take_0", 5, "metre"), ("take_1", 2, "metre"), ("take_2", 1, "metre"),
    ]  # fmt: skip
    for pair, estimate, target in zip(pairs, poses, targets, strict=True):
        chosen = list(HUMAN36M_TO_LSP14)
        np.testing.assert_allclose(pair.poses, estimate.reshape(-1, 17, 3)[:, chosen], rtol=1e-6)
        np.testing.assert_allclose(pair.targets, target.reshape(-1, 17, 3)[:, chosen], rtol=1e-6)

    # The safe layout holds the same.
    for path in tmp_path.glob("*/*/*.npz"):
        convert_sequence_archive(path, path)
        np.load(path, allow_pickle=False)["joints_3d"]
    for pair, again in zip(pairs, read_released(tmp_path, "smoothnet", "pw3d", "spin", "3D", "test"), strict=True):
        assert pair.name == again.name
        np.testing.assert_array_equal(pair.poses, again.poses)

    with pytest.raises(ValueError, match=r"`folder` must hold the released file .*pw3d_spin_3D_train.npz"):
        read_released(tmp_path, "smoothnet", "pw3d", "spin", "3D", "train")
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        read_released(tmp_path, "smoothnet", "coco", "spin", "3D", "test")


def test_release_of_deciwatch(tmp_path):
    files = ("detected_poses/h36m/fcn/h36m_fcn_train.npz", "groundtruth_poses/h36m/h36m_gt_train.npz")
    poses, _ = make_release(tmp_path, *files)
    pairs = read_released(tmp_path, "deciwatch", "h36m", "fcn", "3D", "train")
    expected = poses[0].reshape(5, 17, 3)
    np.testing.assert_allclose(pairs[0].poses, expected - expected[:, :1], atol=1e-6)
    assert root_joints("h36m", "fcn") == (0,) and root_joints("h36m", "tcmr") == (2, 3)
    assert root_joints("pw3d", "eft") == (2, 3) and root_joints("mupots", "tposenet") == (14,)

    write_sequence_archive(tmp_path / files[1], {"joints_3d": [np.zeros((5, 51))]})
    with pytest.raises(ValueError, match="must hold the same sequences, got 3 and 1"):
        read_released(tmp_path, "deciwatch", "h36m", "fcn", "3D", "train")
    write_sequence_archive(tmp_path / files[1], {"pose": [np.zeros((5, 72))]})
    with pytest.raises(ValueError, match=r"must hold 'joints_3d', and holds \['pose'\]"):
        read_released(tmp_path, "deciwatch", "h36m", "fcn", "3D", "train")
    write_sequence_archive(tmp_path / files[1], {"joints_3d": [np.zeros((count, 51)) for count in (5, 2, 2)]})
    with pytest.raises(ValueError, match="`poses` and `targets` of 'take_2' must have one shape"):
        read_released(tmp_path, "deciwatch", "h36m", "fcn", "3D", "train")


def test_pictures_of_jhmdb(tmp_path):
    extra = {
        "imgshape": objects([(240, 320, 3)] * 3),
        "bbox": objects([np.tile([10, 20, 50, 90], (count, 1)) for count in (5, 2, 1)]),
    }
    files = ("detected_poses/jhmdb/simplepose/jhmdb_simplepose_test.npz", "groundtruth_poses/jhmdb/jhmdb_gt_test.npz")
    poses, _ = make_release(tmp_path, *files, key="joints_2d", **extra)
    pair = read_released(tmp_path, "deciwatch", "jhmdb", "simplepose", "2D", "test")[1]
    assert pair.image_size == (320, 240) and pair.boxes.tolist() == [[10, 20, 50, 90]] * 2
    extractor = SmoothNetFeatureExtractor(normalization="image", image_scale=2, image_offset=-1)
    expected = poses[1].reshape(2, 17, 2) / (320, 240) * 2 - 1
    np.testing.assert_allclose(prepare_pair(pair, extractor).poses, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "window", "sampler"),
    [
        ("smoothnet/h36m_2d_w8", 8, "smoothnet"),
        ("smoothnet/h36m_3d_w32", 32, "smoothnet"),
        ("deciwatch/h36m_3d_n10_q2", 21, "deciwatch"),
        ("deciwatch/jhmdb_2d_n5_q3", 16, "deciwatch"),
    ],
)
def test_windows_of_the_originals(shared_data, case, window, sampler):
    """The same windows in the same order, and the same values in them."""
    stored = load_file(shared_data / "parity" / case / "io.safetensors")
    dims = 2 if "2d" in case else 3
    options = {
        "h36m_2d_w8": {"normalization": "image", "image_scale": 2, "image_offset": -1},
        "h36m_3d_w32": {"unit": "metre"},
        "h36m_3d_n10_q2": {"unit": "metre", "root_indices": [0]},
        "jhmdb_2d_n5_q3": {"normalization": "image"},
    }[case.rpartition("/")[2]]
    pairs = []
    for index in range(3):
        poses, targets = (stored[f"input.{kind}.{index}"] for kind in ("pred", "gt"))
        poses, targets = (values.reshape(len(values), -1, dims) for values in (poses, targets))
        height, width, _ = stored.get(f"input.imgshape.{index}", (1000, 1000, 3))
        pair = PosePair("", poses, targets, "pixel" if dims == 2 else "metre", image_size=(width, height))
        pairs.append(prepare_pair(pair, SmoothNetFeatureExtractor(**options)))
    windows = PoseWindows(pairs, window, sampler, short_sequence="zeros")
    np.testing.assert_array_equal(windows.index, stored["output.train_index_map"])
    batches = {"h36m_2d_w8": [18, 39, 5, 36, 1, 37], "h36m_3d_w32": [12, 9, 5, 71, 39],
               "h36m_3d_n10_q2": [45, 49, 90, 55], "jhmdb_2d_n5_q3": [58, 16, 48, 39, 37]}  # fmt: skip
    batch = windows.__getitems__(batches[case.rpartition("/")[2]])
    for name, key in (("pose_values", "input.train_pred"), ("labels", "input.train_gt")):
        torch.testing.assert_close(batch[name].flatten(2), torch.from_numpy(stored[key]), rtol=0, atol=1e-6)


def test_count_of_3dpw_leaves_out_the_last_window():
    windows = PoseWindows([pair_of(6), pair_of(3), pair_of(5)], 3, "smoothnet_pw3d")
    assert windows.index.tolist() == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1]]
    np.testing.assert_array_equal(windows.index, smoothnet_windows([6, 3, 5], 3, num_windows=5))
    with pytest.raises(ValueError, match="`pairs` must have sequences longer than `window_size`"):
        PoseWindows([pair_of(3)], 3, "smoothnet_pw3d")


def pair_of(frames, joints=2, dims=3):
    poses = np.arange(1, frames * joints * dims + 1, dtype=np.float32).reshape(frames, joints, dims)
    return PosePair("walk", poses, -poses, "metre")


def test_every_window_once():
    pairs = [pair_of(6), pair_of(2), pair_of(4)]
    windows = PoseWindows(pairs, 4)
    assert windows.index.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]]
    assert all_windows([6, 2, 4], 4).tolist() == windows.index.tolist()
    for (sequence, first), item in zip(windows.index, windows, strict=False):
        rows = np.minimum(np.arange(first, first + 4), len(pairs[sequence].poses) - 1)
        np.testing.assert_array_equal(item["pose_values"], pairs[sequence].poses[rows])
        np.testing.assert_array_equal(item["labels"], pairs[sequence].targets[rows])
    assert PoseWindows(pairs, 4, short_sequence="zeros")[3]["pose_values"][2:].eq(0).all()
    batches = list(DataLoader(windows, 2, collate_fn=collate_windows))
    assert [len(batch["labels"]) for batch in batches] == [2, 2, 1]
    torch.testing.assert_close(batches[1]["labels"][1], windows[3]["labels"])
    torch.testing.assert_close(windows[-1]["labels"], windows[4]["labels"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_size": 0}, "`window_size` must be a positive integer, got 0"),
        ({"sampler": "mine"}, "`sampler` must be .* got 'mine'"),
        ({"short_sequence": "drop"}, "`short_sequence` must be 'replicate' or 'zeros', got 'drop'"),
        ({"pairs": [pair_of(4), pair_of(4, joints=3)]}, r"one shape \(joints, dims\), got \[\(2, 3\), \(3, 3\)\]"),
        ({"pairs": []}, r"one shape \(joints, dims\), got \[\]"),
        ({"pairs": [PosePair("run", np.full((4, 2, 3), np.nan), np.zeros((4, 2, 3)), "metre")]}, "got NaN in 'run'"),
    ],
)
def test_bad_arguments_of_windows(arguments, message):
    with pytest.raises(ValueError, match=message):
        PoseWindows(**{"pairs": [pair_of(4)], "window_size": 2, **arguments})


def test_bad_pair():
    with pytest.raises(ValueError, match=r"`scores` of 'a' must have shape \(4, 2\), got \(4, 3\)"):
        PosePair("a", np.zeros((4, 2, 3)), np.zeros((4, 2, 3)), "metre", scores=np.zeros((4, 3)))


@pytest.fixture
def motion_file(tmp_path):
    """Two sequences of 3 and 4 frames; the second camera is turned by a quarter round the vertical axis."""
    rng = np.random.default_rng(0)
    arrays = {
        "joints3d": rng.normal(size=(7, 17, 3)) * 300,
        "det2d": rng.uniform(0, 1, size=(7, 17, 3)),
        "pred3d": rng.normal(size=(7, 17, 3)),
        "K": np.tile([[1145.0, 0, 500], [0, 1145, 500], [0, 0, 1]], (2, 1, 1)),
        "R": np.array([[[1, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 1, 0], [0, 0, -1], [-1, 0, 0]]], dtype=float),
        "t": np.array([[10, 900, 5000], [-20, 800, 6000]], dtype=float),
        "seq_id": ["walk", "jump"], "seq_start": [0, 3], "seq_len": [3, 4], "fps": [30], "image_size": [1000, 900],
    }  # fmt: skip
    np.savez(tmp_path / "motion.npz", **arrays)
    return tmp_path / "motion.npz", arrays


def test_motion_in_the_picture_and_in_space(motion_file):
    path, arrays = motion_file
    flat, space = read_motion(path, "2D"), read_motion(path, "3D")
    assert [(pair.name, len(pair.poses), pair.frame_rate) for pair in flat] == [("walk", 3, 30.0), ("jump", 4, 30.0)]
    assert flat[0].unit == "pixel" and flat[0].image_size == (1000, 900) and space[0].unit == "millimetre"
    for index, rows in enumerate((slice(0, 3), slice(3, 7))):
        joints = arrays["joints3d"][rows] @ arrays["R"][index].T + arrays["t"][index]
        np.testing.assert_allclose(flat[index].targets, joints[..., :2] / joints[..., 2:] * 1145 + 500, atol=2e-3)
        np.testing.assert_allclose(space[index].targets, joints - joints[:, :1], atol=2e-3)
        np.testing.assert_allclose(flat[index].poses, arrays["det2d"][rows, :, :2], rtol=1e-6)
        np.testing.assert_allclose(flat[index].scores, arrays["det2d"][rows, :, 2], rtol=1e-6)
        np.testing.assert_allclose(space[index].poses, arrays["pred3d"][rows], rtol=1e-6)
    with pytest.raises(ValueError, match="`representation` must be '2D' or '3D', got 'smpl'"):
        read_motion(path, "smpl")
    with pytest.raises(ValueError, match=r"must be an npz archive without pickles that holds .*'openpose'"):
        read_detections(path)


def test_published_figures_of_the_motion_data(shared_data):
    """Error and acceleration error of the raw estimates, as the data's own description states them."""
    for representation, joints, error, acceleration in (
        ("3D", slice(1, 17), 54.87, 15.62),
        ("2D", slice(0, 17), 5.74, 3.99),
    ):
        pairs = read_motion(shared_data / "data" / "motion" / "cmu_test.npz", representation)
        differences = [(pair.poses - pair.targets)[:, joints] for pair in pairs]
        distances = np.concatenate([np.linalg.norm(values, axis=-1) for values in differences])
        second = [np.linalg.norm(np.diff(values, n=2, axis=0), axis=-1) for values in differences]
        assert len(pairs) == 25 and round(float(distances.mean()), 2) == error
        assert round(float(np.concatenate(second).mean()), 2) == acceleration


def test_real_detections(shared_data):
    pairs = read_detections(shared_data / "data" / "motion" / "real_detections.npz")
    assert [pair.name for pair in pairs][:4] == [
        "openpose/cam01",
        "openpose/cam02",
        "openpose/cam03",
        "mediapipe/cam01",
    ]
    assert pairs[0].image_size == (1088, 1920) and pairs[0].frame_rate == 60
    valid = pairs[0].valid_joints
    errors = np.linalg.norm(pairs[0].poses - pairs[0].targets, axis=-1)[:, valid]
    assert valid.dtype == bool and np.median(errors) < 25
