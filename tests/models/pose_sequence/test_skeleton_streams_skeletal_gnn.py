import numpy as np
import pytest
from safetensors.numpy import load_file

from hvmodels.keypoint_sets import HUMAN36M17
from hvmodels.metrics.classification import top_k_accuracies
from hvmodels.models.pose_sequence.skeleton_graph_skeletal_gnn import SKELETONS
from hvmodels.models.pose_sequence.skeleton_streams_skeletal_gnn import (
    NTU_BONES,
    STREAMS,
    agcn_normalize,
    bone_stream,
    count_frames,
    ctr_crop_resize,
    ctr_translate,
    find_up_axis,
    fuse_scores,
    make_streams,
    motion_stream,
    resize_frames,
    rotate,
    rotation_between,
    rotation_of_angles,
    turn_upright,
    view_normalize,
)
from tests.reference_cases import needs_reference, reference_folder


BONES = [(joint, parent) for joint, parent in enumerate(HUMAN36M17.parents) if parent >= 0]
HIPS, SHOULDERS = (4, 1), (11, 14)


def standing():
    """Human3.6M's joints of somebody who stands upright and faces -y, in metres, z up: (17, 3)."""
    heights = [0.9, 0.9, 0.5, 0.1, 0.9, 0.5, 0.1, 1.1, 1.4, 1.5, 1.7, 1.4, 1.1, 0.9, 1.4, 1.1, 0.9]
    sides = [0, -0.1, -0.1, -0.1, 0.1, 0.1, 0.1, 0, 0, 0, 0, 0.2, 0.2, 0.2, -0.2, -0.2, -0.2]
    return np.stack([sides, np.zeros(17), heights], axis=-1)


def moving(frames=30):
    """Somebody who stands there and lifts the left hand: (frames, 17, 3)."""
    poses = np.repeat(standing()[None], frames, axis=0)
    poses[:, 13, 2] += np.linspace(0, 0.5, frames)
    return poses


@needs_reference("ctr_gcn", "preprocess_ntu")
def test_values_of_the_original_preparation():
    values = load_file(reference_folder("ctr_gcn", "preprocess_ntu") / "io.safetensors")

    def check(name, actual):
        np.testing.assert_allclose(actual, values[f"output.{name}"], atol=1e-5, rtol=1e-5)

    check("agcn_pre_normalization", agcn_normalize(values["input.raw"]))
    check("agcn_bone", bone_stream(values["output.agcn_pre_normalization"]))
    sequence = values["input.ctr_sequence"]
    check("ctr_crop_resize.p0.95.w20", ctr_crop_resize(sequence, 20))
    check("ctr_crop_resize.p1.0.w52", ctr_crop_resize(sequence, 52, 1.0))
    resized = ctr_crop_resize(sequence, 64)
    check("ctr_crop_resize.p0.95.w64", resized)
    streams = make_streams(resized, STREAMS[:4])
    assert streams.shape == (12, 64, 25, 2)
    check("ctr_bone", streams[3:6])
    check("ctr_joint_motion", streams[6:9])
    check("ctr_bone_motion", streams[9:])
    check("rot_matrix", rotation_of_angles(values["input.rot_angles"]))
    fused = fuse_scores(values["input.stream_scores"], values["input.stream_alpha"])
    check("fused", fused)
    accuracies = top_k_accuracies(fused, values["input.stream_labels"], (1, 5))
    assert list(accuracies.values()) == [values["output.fused_top1"], values["output.fused_top5"]]


def test_bones_of_ntu_are_the_skeleton_and_the_centre():
    assert set(NTU_BONES) == {*SKELETONS["ntu25"], (20, 20)}


# 2s-AGCN


def ntu_person(frames, seed=0):
    """(frames, 25, 3) without zeros."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, (frames, 25, 3)).astype(np.float32)


def test_agcn_closes_gaps():
    """Late persons come at once, and those who leave repeat themselves; gaps between stay."""
    data = np.zeros((2, 10, 25, 3), np.float32)
    data[0] = ntu_person(10)
    data[1, 2:6] = ntu_person(4, 1)
    data[1, 4] = 0
    normalized = agcn_normalize(data.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    centre = data[0, :, 1:2]
    kept = data[1, [2, 3, 5]]
    expected = np.concatenate([kept, kept, kept, kept])[:10] - centre
    first = data[0] - centre
    rotation = rotation_between(first[0, 1] - first[0, 0], np.eye(3)[2])
    across = (first[0] @ rotation.T)[[4, 8]]
    rotation = rotation_between(across[1] - across[0], np.eye(3)[0]) @ rotation
    np.testing.assert_allclose(normalized[0], first @ rotation.T, atol=1e-5)
    np.testing.assert_allclose(normalized[1], expected @ rotation.T, atol=1e-5)
    np.testing.assert_allclose(normalized[0, 0, 8, 1:] - normalized[0, 0, 4, 1:], 0, atol=1e-5)


def test_agcn_leaves_emptiness_alone():
    empty = np.zeros((2, 3, 5, 25, 2), np.float32)
    empty[0, ..., 0] = ntu_person(5).transpose(2, 0, 1)
    normalized = agcn_normalize(empty)
    assert normalized[0, ..., 0].any()
    assert not normalized[0, ..., 1].any()
    assert not normalized[1].any()
    assert normalized.dtype == np.float32


@pytest.mark.parametrize("direction", [[0, 0, 2], [0, 0, -2], [1, 2, 3], [0, 0, 0]])
def test_rotation_between(direction):
    direction = np.array(direction, dtype=float)
    rotation = rotation_between(direction, np.eye(3)[2])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    if direction[:2].any():
        np.testing.assert_allclose(rotation @ direction, [0, 0, np.linalg.norm(direction)], atol=1e-12)
    else:  # as 2s-AGCN, which leaves parallel directions, even opposite ones
        assert np.array_equal(rotation, np.eye(3))


# CTR-GCN


def test_ctr_translation():
    data = np.zeros((3, 4, 25, 2), np.float32)
    data[:, 1:3, :, 0] = ntu_person(2).transpose(2, 0, 1)
    data[:, 2, :, 1] = 5
    translated = ctr_translate(data)
    origin = data[:, 1, 1, 0]
    np.testing.assert_allclose(translated[:, 2, :, 1], np.broadcast_to(5 - origin[:, None], (3, 25)), atol=1e-6)
    np.testing.assert_allclose(translated[:, 1, :, 0], data[:, 1, :, 0] - origin[:, None], atol=1e-6)
    assert not translated[:, [0, 3]].any()
    assert not ctr_translate(np.zeros_like(data)).any()


def test_random_crop():
    frames = np.arange(1, 101, dtype=np.float32)
    data = np.zeros((1, 120, 1, 1), np.float32)
    data[0, :100, 0, 0] = frames
    seen = set()
    for seed in range(200):
        part = ctr_crop_resize(data, 1000, (0.5, 1.0), np.random.default_rng(seed))[0, :, 0, 0]
        first, last = round(part[0].item()), round(part[-1].item())
        assert 64 <= last - first + 1 <= 100
        seen.add((first, last))
    assert len(seen) > 100
    assert min(first for first, _ in seen) == 1
    assert max(last for _, last in seen) == 100
    short = data[:, :40]
    assert count_frames(short) == 40
    part = ctr_crop_resize(short, 40, (0.5, 1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(part, short)  # fewer than the least number


def test_nothing_to_crop():
    with pytest.raises(ValueError, match="a frame that is not empty"):
        ctr_crop_resize(np.zeros((3, 4, 25, 2)), 4)


@pytest.mark.parametrize("length", [1, 3, 7, 20])
def test_resize_is_linear(length):
    torch = pytest.importorskip("torch")
    data = np.random.default_rng(0).normal(size=(3, length, 5, 2))
    rows = torch.from_numpy(data).permute(0, 2, 3, 1).flatten(0, 2)[None]
    expected = torch.nn.functional.interpolate(rows, size=11, mode="linear", align_corners=False)
    expected = expected[0].unflatten(0, (3, 5, 2)).permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(resize_frames(data, 11), expected, atol=1e-6)


@pytest.mark.parametrize(("length", "num_frames"), [(285, 64), (300, 100), (199, 300)])
def test_resize_of_long_sequences_rounds_as_pytorch(length, num_frames):
    torch = pytest.importorskip("torch")
    data = np.random.default_rng(0).normal(size=(3, length, 5, 2)).astype(np.float32)
    image = torch.from_numpy(data).permute(0, 2, 3, 1).flatten(0, 2)[None, None]
    expected = torch.nn.functional.interpolate(image, size=(30, num_frames), mode="bilinear", align_corners=False)
    expected = expected[0, 0].unflatten(0, (3, 5, 2)).permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(resize_frames(data, num_frames), expected, atol=1e-5)


def test_rotation_keeps_distances():
    data = np.random.default_rng(0).normal(size=(3, 4, 25, 2)).astype(np.float32)
    turned = rotate(data, rotation_of_angles(np.array([0.1, -0.2, 0.3])))
    np.testing.assert_allclose((turned**2).sum(0), (data**2).sum(0), rtol=1e-5)
    assert not np.allclose(turned, data)


# Streams


def test_motion():
    data = np.random.default_rng(0).normal(size=(2, 3, 4, 25, 2))
    motion = motion_stream(data)
    np.testing.assert_array_equal(motion[:, :, 0], data[:, :, 1] - data[:, :, 0])
    assert not motion[:, :, -1].any()


def test_displacement():
    data = np.random.default_rng(0).normal(size=(2, 3, 4, 17, 2))
    made = make_streams(data, ("joint_displacement", "bone_displacement"), BONES)
    np.testing.assert_array_equal(made[:, :3], data - data[:, :, :1])
    np.testing.assert_array_equal(
        made[:, 3:, 2], bone_stream(data, BONES)[:, :, 2] - bone_stream(data, BONES)[:, :, 0]
    )


def test_streams_follow_one_another():
    data = np.random.default_rng(0).normal(size=(3, 4, 17, 1))
    streams = make_streams(data, ("bone_motion", "joint"), BONES)
    np.testing.assert_array_equal(streams[3:], data)
    np.testing.assert_array_equal(streams[:3], motion_stream(bone_stream(data, BONES)))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0]])
def test_fusion_of_another_number(weights):
    with pytest.raises(ValueError, match="`scores` must be"):
        fuse_scores(np.zeros((2, 5, 3)), weights)


# Views


@pytest.mark.parametrize("up", ["z", "y", "-y", "-z"])
def test_up_axis_is_found_and_turned(up):
    poses = moving()
    back = {"z": "z", "-z": "-z", "y": "-y", "-y": "y"}[up]  # turning by the opposite quarter
    turned = turn_upright(poses, back)
    assert find_up_axis(turned, HIPS, SHOULDERS) == up
    np.testing.assert_allclose(turn_upright(turned, up), poses, atol=1e-12)


def test_no_axis_points_up():
    lying = moving()[..., [2, 0, 1]]
    assert find_up_axis(lying, HIPS, SHOULDERS) is None
    leaning = moving() @ rotation_of_angles(np.array([np.pi / 4, 0, 0])).T
    assert find_up_axis(leaning, HIPS, SHOULDERS) in ("z", "y", "-y")  # the nearer one, at the border


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, -3.0])
def test_view_is_free_of_place_heading_and_size(angle):
    poses = moving()
    expected = view_normalize(poses, BONES, HIPS, SHOULDERS)
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = poses @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    walked = 1000 * turned + np.linspace(0, 3000, 30)[:, None, None] * np.array([1, 2, 0])
    np.testing.assert_allclose(view_normalize(walked, BONES, HIPS, SHOULDERS), expected, atol=1e-9)
    left, right = expected[0, HIPS[0]], expected[0, HIPS[1]]
    assert left[0] > right[0]
    np.testing.assert_allclose(left[1:], right[1:], atol=1e-9)
    lengths = np.linalg.norm(bone_stream(expected.transpose(2, 0, 1)[..., None], BONES), axis=0)
    assert np.median(lengths.sum(axis=(1, 2)) / len(BONES)) == pytest.approx(1)


def test_all_joints_in_one_point():
    with pytest.raises(ValueError, match="all bones have length 0"):
        view_normalize(np.ones((5, 17, 3)), BONES, HIPS, SHOULDERS)
