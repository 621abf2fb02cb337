from dataclasses import replace

import numpy as np
import pytest
import torch

from hvmodels import SkeletonActionFeatureExtractor
from hvmodels.datasets.skeleton_actions import (
    NTU60_SUBJECTS,
    NTU120_SUBJECTS,
    ActionAugmentation,
    ActionDataset,
    ActionSequence,
    is_ntu_training,
    mirror,
    mirrored_labels,
    ntu_numbers,
    read_action_archive,
    read_ntu_archive,
    read_ntu_folder,
    read_ntu_skeleton,
)
from hvmodels.keypoint_sets import HUMAN36M17, NTU25


VIEW = {
    "keypoint_names": list(HUMAN36M17.keypoints),
    "normalization": "view",
    "sampling": "resize",
    "num_frames": 12,
    "num_persons": 1,
}


def skeleton_text(frames):
    """A `.skeleton` file of a list of bodies (25, 3) for each frame."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body in bodies:
            lines += ["72057594037944738 0 1 1 0 0 0 0.1 -0.2 2", "25"]
            lines += [" ".join(map(repr, [*map(float, joint), *[0.5] * 8, 2])) for joint in body]
    return "\n".join(lines) + "\n"


def bodies_of(count, frames=6, seed=0):
    """(bodies, frames, 25, 3) that move more and more."""
    noise = np.random.default_rng(seed).normal(size=(count, frames, 25, 3))
    return (2 + np.arange(1, count + 1)[:, None, None, None] * 0.1 * noise).astype(np.float32)


def write_skeleton(path, bodies):
    path.write_text(skeleton_text(list(bodies.transpose(1, 0, 2, 3))))


# NTU RGB+D


def test_the_bodies_that_move_most(tmp_path):
    bodies = bodies_of(5)
    bodies[4] *= 10  # the fifth is not read
    write_skeleton(tmp_path / "S001C002P003R002A013.skeleton", bodies)
    read = read_ntu_skeleton(tmp_path / "S001C002P003R002A013.skeleton")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, bodies[[3, 2]], rtol=1e-6)
    assert len(read_ntu_skeleton(tmp_path / "S001C002P003R002A013.skeleton", max_bodies=1)) == 1


def test_bodies_that_come_and_go(tmp_path):
    bodies = bodies_of(2)
    frames = [list(bodies[:, frame]) if frame > 1 else [] for frame in range(4)]
    frames[3] = frames[3][:1]
    (tmp_path / "a.skeleton").write_text(skeleton_text(frames))
    read = read_ntu_skeleton(tmp_path / "a.skeleton")
    first, second = read if read[0].any(axis=(1, 2)).sum() == 2 else read[::-1]
    np.testing.assert_array_equal(first.any(axis=(1, 2)), [False, False, True, True])
    np.testing.assert_array_equal(second.any(axis=(1, 2)), [False, False, True, False])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it ends early"),
        (b"2\n1\n", "it ends early"),
        (b"walk\n", "no whole `.skeleton` file"),
        (b"\xff\xfe\x00", "must be a `.skeleton` file"),
        (skeleton_text([[np.ones((24, 3))]]).replace("\n25\n", "\n24\n").encode(), "a body has 24 joints"),
        (skeleton_text([[], []]).encode(), "has no body in any frame"),
        (skeleton_text([[np.ones((25, 3))]]).replace("0.5 2", "x 2").encode(), "no whole `.skeleton` file"),
    ],
    ids=["empty", "short", "text", "binary", "joints", "nobody", "no number"],
)
def test_damaged_files(content, message, tmp_path):
    (tmp_path / "a.skeleton").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_ntu_skeleton(tmp_path / "a.skeleton")


def test_names():
    assert ntu_numbers("x/S001C002P003R002A013.skeleton") == {
        "setup": 1,
        "camera": 2,
        "person": 3,
        "repetition": 2,
        "action": 13,
    }
    with pytest.raises(ValueError, match="`name` must be of NTU"):
        ntu_numbers("walk.skeleton")


def test_splits():
    name = "S{:03}C{:03}P{:03}R001A001"
    assert len(NTU60_SUBJECTS) == 20
    assert len(NTU120_SUBJECTS) == 53
    assert is_ntu_training(name.format(1, 1, 38), "ntu60-xsub")
    assert not is_ntu_training(name.format(1, 1, 3), "ntu60-xsub")
    assert [is_ntu_training(name.format(1, camera, 1), "ntu60-xview") for camera in (1, 2, 3)] == [False, True, True]
    assert [is_ntu_training(name.format(setup, 1, 1), "ntu120-xset") for setup in (17, 32)] == [False, True]
    assert is_ntu_training(name.format(1, 1, 103), "ntu120-xsub")
    assert not is_ntu_training(name.format(1, 1, 106), "ntu120-xsub")
    with pytest.raises(ValueError, match="`split` must be one of"):
        is_ntu_training(name.format(1, 1, 1), "xsub")


def test_folder(tmp_path):
    for person, action in ((1, 7), (3, 7), (2, 60), (2, 61), (5, 2)):
        write_skeleton(tmp_path / f"S001C001P{person:03}R001A{action:03}.skeleton", bodies_of(1, seed=person))
    (tmp_path / "S001C001P008R001A001.skeleton").write_text("0\n")  # broken
    skipped = ["S001C001P008R001A001"]
    training = read_ntu_folder(tmp_path, "ntu60-xsub", True, skipped)
    assert [(sequence.label, sequence.group) for sequence in training] == [(6, "P001"), (59, "P002"), (1, "P005")]
    assert [sequence.label for sequence in read_ntu_folder(tmp_path, "ntu60-xsub", False)] == [6]
    assert len(read_ntu_folder(tmp_path, "ntu120-xsub", True, skipped)) == 4
    with pytest.raises(ValueError, match="has no body in any frame"):
        read_ntu_folder(tmp_path, "ntu60-xsub", True)
    with pytest.raises(ValueError, match="and has none"):
        read_ntu_folder(tmp_path / "absent", "ntu60-xsub", True)


def test_archive_of_ntu(tmp_path):
    values = np.zeros((3, 8, 150), np.float32)
    values[0, :5], values[1, :, :75], values[2, :2] = 1, 2, 3
    labels = np.eye(4)[[2, 0, 3]]
    np.savez(tmp_path / "a.npz", x_train=values, y_train=labels, x_test=values[:1], y_test=labels[:1])
    sequences = read_ntu_archive(tmp_path / "a.npz", True)
    assert [sequence.label for sequence in sequences] == [2, 0, 3]
    assert [sequence.skeletons.shape for sequence in sequences] == [(2, 5, 25, 3), (2, 8, 25, 3), (2, 2, 25, 3)]
    assert not sequences[1].skeletons[1].any()
    assert len(read_ntu_archive(tmp_path / "a.npz", False)) == 1
    np.savez(tmp_path / "b.npz", x_test=values[..., :75], y_test=labels)
    with pytest.raises(ValueError, match="x_test must be"):
        read_ntu_archive(tmp_path / "b.npz", False)
    with pytest.raises(ValueError, match="lacks an array"):
        read_ntu_archive(tmp_path / "b.npz", True)


# Archives of sequences


def write_archive(path, **changes):
    arrays = {
        "joints3d": np.arange(7 * 17 * 3.0, dtype=np.float32).reshape(7, 17, 3),
        "seq_start": np.array([0, 3]),
        "seq_len": np.array([3, 4]),
        "label": np.array([1, 0]),
        "classes": np.array(["walk", "run"]),
        "fps": np.array(30),
        "style": np.array(["calm", "wild"]),
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def test_action_archive(tmp_path):
    write_archive(tmp_path / "a.npz")
    sequences, classes, rate = read_action_archive(tmp_path / "a.npz")
    assert (classes, rate) == (["walk", "run"], 30.0)
    assert [(sequence.label, sequence.group, sequence.skeletons.shape) for sequence in sequences] == [
        (1, "calm", (1, 3, 17, 3)),
        (0, "wild", (1, 4, 17, 3)),
    ]
    assert sequences[1].skeletons[0, 0, 0, 0] == 3 * 17 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "lacks an array"),
        ({"joints3d": np.zeros((7, 16, 3))}, r"joints3d must be \(frames, 17, 3\)"),
        ({"label": np.array([0])}, "of one length"),
        ({"label": np.array([0, 2])}, "out of range"),
        ({"seq_len": np.array([3, 5])}, "out of range"),
        ({"classes": np.array(["walk", None], dtype=object)}, "without pickles"),
    ],
    ids=["absent", "joints", "number", "label", "length", "pickle"],
)
def test_damaged_archives(changes, message, tmp_path):
    write_archive(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=message):
        read_action_archive(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"must be an `\.npz` archive"):
        read_action_archive(tmp_path / "b.npz")


# Augmentation


def walker(frames=40, seed=0):
    """A sequence of random, smooth poses."""
    noise = np.random.default_rng(seed).normal(size=(1, frames, 17, 3)).cumsum(axis=1)
    return ActionSequence((1000 + 20 * noise).astype(np.float32), 0)


def augmented(seed=0, **options):
    return ActionAugmentation(**options)(walker(), HUMAN36M17, np.random.default_rng(seed))


def bone_lengths(poses):
    parents = np.array(HUMAN36M17.parents[1:])
    return np.linalg.norm(poses[..., 1:, :] - poses[..., parents, :], axis=-1)


def test_nothing_changes_by_default():
    assert np.array_equal(augmented().skeletons, walker().skeletons)


def test_mirror():
    classes = ["walk", "wave-left-hand", "wave-right-hand", "turn-left"]
    assert mirrored_labels(classes) == [0, 2, 1, 3]  # there is no turn to the right
    assert mirrored_labels(classes, ["turn-left"]) == [0, 2, 1, -1]
    with pytest.raises(ValueError, match="`one_handed` must be of the actions"):
        mirrored_labels(classes, ["bye"])
    poses = walker().skeletons
    mirrored = mirror(poses, HUMAN36M17)
    np.testing.assert_array_equal(mirror(mirrored, HUMAN36M17), poses)
    np.testing.assert_array_equal(mirrored[..., 13, 1:], poses[..., 16, 1:])
    np.testing.assert_array_equal(mirrored[..., 13, 0], -poses[..., 16, 0])
    sequence = replace(walker(), label=1)
    change = ActionAugmentation(mirror=1.0, mirrored_labels=mirrored_labels(classes))
    result = change(sequence, HUMAN36M17, np.random.default_rng(0))
    assert result.label == 2
    np.testing.assert_array_equal(result.skeletons, mirrored)
    kept = ActionAugmentation(mirror=1.0, mirrored_labels=[0, -1])(sequence, HUMAN36M17, np.random.default_rng(0))
    assert kept.label == 1
    np.testing.assert_array_equal(kept.skeletons, poses)


def test_crop():
    lengths = {augmented(seed, crop=0.5).skeletons.shape[1] for seed in range(100)}
    assert min(lengths) >= 20
    assert max(lengths) <= 40
    assert len(lengths) > 10


def test_speed_keeps_start_and_end():
    poses, changed = walker().skeletons, augmented(speed=1.0).skeletons
    assert changed.shape == poses.shape
    np.testing.assert_allclose(changed[:, [0, -1]], poses[:, [0, -1]], rtol=1e-6)
    assert not np.allclose(changed, poses)
    one = ActionAugmentation(speed=1.0)(walker(1), HUMAN36M17, np.random.default_rng(0))
    np.testing.assert_array_equal(one.skeletons, walker(1).skeletons)


def test_bones_are_scaled_alike_on_both_sides():
    share = bone_lengths(augmented(bone_scale=0.2).skeletons) / bone_lengths(walker().skeletons)
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1], share.shape), rtol=1e-3)
    share = share[0, 0]
    np.testing.assert_allclose(share[[3, 4, 5]], share[[0, 1, 2]], rtol=1e-3)  # legs
    assert share.std() > 0.02


def test_bent_limbs_keep_their_length():
    poses, bent = walker().skeletons, augmented(bend=0.3).skeletons
    np.testing.assert_allclose(bone_lengths(bent), bone_lengths(poses), rtol=1e-3)
    assert np.abs(bent - poses).max() > 1
    np.testing.assert_array_equal(bent[..., 0, :], poses[..., 0, :])


def test_rotation_keeps_lengths():
    np.testing.assert_allclose(
        bone_lengths(augmented(rotation=0.3).skeletons), bone_lengths(walker().skeletons), rtol=1e-3
    )


def test_amplitude_leaves_slow_motions():
    still = replace(walker(), skeletons=np.repeat(walker(1).skeletons, 60, axis=1))
    change, generator = ActionAugmentation(amplitude=2.0), np.random.default_rng(0)
    np.testing.assert_allclose(change(still, HUMAN36M17, generator).skeletons, still.skeletons, rtol=1e-6)
    wave = np.sin(np.arange(60) * 2 * np.pi / 10)[:, None, None]
    quick = replace(still, skeletons=(still.skeletons + 50 * wave).astype(np.float32))
    spreads = [np.ptp(change(quick, HUMAN36M17, generator).skeletons[0, 20:40, 3, 0]) for _ in range(50)]
    assert min(spreads) < 60
    assert max(spreads) > 200


def test_errors_of_joints():
    poses = walker().skeletons
    drift = augmented(drift=10.0).skeletons - poses
    np.testing.assert_allclose(drift, np.broadcast_to(drift[:, :1], drift.shape), atol=1e-2)
    assert 5 < drift[:, 0].std() < 15
    jitters = [(augmented(seed, jitter=10.0).skeletons - poses).std() for seed in range(30)]
    assert min(jitters) < 2
    assert 8 < max(jitters) < 10.5


# Inputs of a network


def test_dataset():
    extractor = SkeletonActionFeatureExtractor(**VIEW)
    change = ActionAugmentation(crop=0.7, mirror=0.5, mirrored_labels=[1, 0])
    options = {"unit": "millimetre", "up": "z"}
    dataset = ActionDataset([walker(), replace(walker(), label=1)], extractor, augmentation=change, seed=3, **options)
    assert len(dataset) == 2
    assert dataset.labels.tolist() == [0, 1]
    item, again = dataset[0], dataset[0]
    assert item["skeleton_values"].shape == (3, 12, 17, 1)
    assert torch.equal(item["skeleton_values"], again["skeleton_values"])
    dataset.epoch = 1
    assert not torch.equal(dataset[0]["skeleton_values"], item["skeleton_values"])
    plain = ActionDataset([walker()], extractor, **options)[0]
    expected = extractor(walker().skeletons[0], **options)["skeleton_values"][0]
    assert torch.equal(plain["skeleton_values"], expected)
    assert plain["labels"] == 0


def test_dataset_of_ctr():
    extractor = SkeletonActionFeatureExtractor(
        normalization="ctr", sampling="resize", crop_share=0.95, num_frames=20, streams=["bone"]
    )
    sequences = [ActionSequence(bodies_of(2, frames=80), 5), ActionSequence(bodies_of(1, frames=80), 6)]
    training = ActionDataset(sequences, extractor, ctr_crop=(0.5, 1.0), ctr_rotation=0.3)
    test = ActionDataset(sequences, extractor)
    for index in (0, 1):
        values = training[index]["skeleton_values"]
        assert values.shape == (3, 20, 25, 2)
        assert not torch.equal(values, test[index]["skeleton_values"])
        assert values[..., 1].any() == (index == 0)
    turned = ActionDataset(sequences, extractor, ctr_rotation=0.3)
    torch.testing.assert_close(
        turned[0]["skeleton_values"].norm(dim=0), test[0]["skeleton_values"].norm(dim=0), rtol=1e-4, atol=1e-4
    )
    assert training.extractor.keypoints is NTU25
    for options in ({"unit": "millimetre"}, {"keypoint_names": "ntu25"}):
        with pytest.raises(ValueError, match="of NTU RGB\\+D in metres"):
            ActionDataset(sequences, extractor, ctr_rotation=0.3, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": []}, "at least one sequence"),
        ({"ctr_crop": (0.5, 1.0)}, "are for the normalisation 'ctr'"),
        ({"ctr_rotation": 0.3}, "are for the normalisation 'ctr'"),
    ],
    ids=str,
)
def test_bad_datasets(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActionDataset(**{"sequences": [walker()], "extractor": SkeletonActionFeatureExtractor(**VIEW), **arguments})
