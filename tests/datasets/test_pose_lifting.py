"""Motion capture to train lifting on: reading, random cameras and bodies, the errors of a detector."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hvmodels.cameras import normalize_screen_coordinates
from hvmodels.datasets.pose_lifting import (
    MIRRORED,
    DetectionNoise,
    LiftingAugmentation,
    LiftingWindows,
    read_lifting_sequences,
)
from hvmodels.keypoint_sets import HUMAN36M17


PLAIN = LiftingAugmentation(
    body_scale=0.0, bone_scale=0.0, distance=(1.0, 1.0), aim=0.0, noise=0.0, speed=(1.0, 1.0), mixed=0.0
)
# Human3.6M's joints of a person who stands, seen from the front: x to their left, z up, metres.
STANDING = np.array(
    [
        [0.0, 0, 0.95], [-0.1, 0, 0.95], [-0.11, 0, 0.52], [-0.12, 0, 0.08], [0.1, 0, 0.95], [0.11, 0, 0.52], [0.12, 0, 0.08],
        [0.0, 0, 1.18], [0.0, 0, 1.43], [0.01, -0.05, 1.55], [0.0, 0, 1.65],
        [0.17, 0, 1.4], [0.22, 0, 1.12], [0.24, -0.05, 0.88], [-0.17, 0, 1.4], [-0.22, 0, 1.12], [-0.24, -0.05, 0.88],
    ]
)  # fmt: skip


def write_archive(path, lengths=(70, 90, 31), subjects=("02", "07", "unk"), noise=2.0, **changes):
    """An archive of persons who walk about and swing their limbs, with white noise in the detections."""
    rng = np.random.default_rng(0)
    frames, starts = sum(lengths), np.cumsum([0, *lengths[:-1]])
    time = np.arange(frames)[:, None, None]
    joints = STANDING + 0.03 * np.sin(rng.uniform(0, 6, size=(1, 17, 3)) + time / 8)
    joints[:, 0] = joints[:, [1, 4]].mean(axis=1)
    joints = (joints + [0.3, 0.2, 0] * np.sin(time / 40)) * 1000
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    place = np.array([0.0, 1000, 5000])
    camera = joints @ rotation.T + place
    pixels = camera[..., :2] / camera[..., 2:] * 1145 + 500
    detections = np.concatenate(
        [pixels + noise * rng.normal(size=pixels.shape), np.full((frames, 17, 1), 0.8)], axis=2
    )
    count = len(lengths)
    values = {
        "joints3d": joints.astype(np.float32),
        "det2d": detections.astype(np.float32),
        "K": np.tile([[1145.0, 0, 500], [0, 1145, 500], [0, 0, 1]], (count, 1, 1)),
        "R": np.tile(rotation, (count, 1, 1)),
        "t": np.tile(place, (count, 1)),
        "seq_id": np.array([f"sequence {index}" for index in range(count)]),
        "seq_start": starts,
        "seq_len": np.array(lengths),
        "action": np.array(["walk", "wave", "walk"][:count]),
        "subject": np.array(subjects[:count]),
        "fps": np.array(30),
        "image_size": np.array([1000, 1000]),
    }
    np.savez(path, **{name: value for name, value in {**values, **changes}.items() if value is not None})
    return path


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    return read_lifting_sequences(write_archive(tmp_path_factory.mktemp("motion") / "train.npz"))


def lengths_of_bones(poses):
    """(..., 16)."""
    children, parents = np.array([(j, p) for j, p in enumerate(HUMAN36M17.parents) if p >= 0]).T
    return (poses[..., children, :] - poses[..., parents, :]).norm(dim=-1)


def test_reading(sequences):
    first, second, _ = sequences
    assert [len(sequence) for sequence in sequences] == [70, 90, 31]
    assert (second.name, second.action, second.subject) == ("sequence 1", "wave", "07")
    assert (second.image_size, second.frame_rate) == ((1000, 1000), 30)
    np.testing.assert_allclose(first.joints.mean(axis=0), STANDING, atol=0.25)  # metres
    np.testing.assert_allclose(first.camera.position, [0, -5, 1], atol=1e-6)
    # Pixels of the true joints, within the detections' noise; depth and height where they belong.
    assert np.abs(first.keypoints - first.detections).mean() < 3
    positions = first.positions
    assert (positions[:, 0] == 0).all()
    assert (positions[:, 10, 1] < -0.5).all()  # the head is above the pelvis, and y points down
    camera = first.camera.to_camera(first.joints)
    np.testing.assert_allclose(camera[..., :2] / camera[..., 2:] * 1145 + 500, first.keypoints, atol=1e-3)
    assert first.scores.shape == (70, 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"det2d": None}, r"must be an npz archive without pickles that holds \['joints3d'.*det2d"),
        ({"joints3d": np.zeros((5, 16, 3))}, r"`joints3d` of .* must have shape \(frames, 17, 3\), got \(5, 16, 3\)"),
        ({"action": np.array([None, {}], dtype=object)}, "without pickles"),
    ],
)
def test_refuses_files(tmp_path, changes, message):
    path = write_archive(tmp_path / "data.npz", **changes)
    with pytest.raises(ValueError, match=message):
        read_lifting_sequences(path)


def test_refuses_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.npz"):
        read_lifting_sequences(tmp_path / "absent.npz")


def test_noise_is_fitted_to_what_it_made(sequences):
    """Statistics of simulated detections are those that they were simulated with."""
    noise = DetectionNoise(
        *(tuple(np.full(17, value).tolist()) for value in (0.003, 0.01, 0.006)), wild=(0.0,) * 17, missed=(0.0,) * 17,
        arm_swaps=0.0, leg_swaps=0.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    simulated = []
    for _ in range(12):
        for sequence in sequences[:2]:
            pixels = torch.from_numpy(sequence.keypoints).float()[None]
            detected = noise.apply(pixels, torch.ones(1), generator)[0].numpy()
            simulated.append(replace(sequence, detections=detected, scores=np.full(detected.shape[:2], 0.9)))
    fitted = DetectionNoise.fit(simulated)
    for name, expected in (("jitter", 0.003), ("drift", 0.01), ("offset", 0.006)):
        assert np.mean(getattr(fitted, name)) == pytest.approx(expected, rel=0.25), name
    assert max(fitted.wild) == max(fitted.missed) == 0
    with pytest.raises(ValueError, match="must have detections and scores; 'sequence 0' has none"):
        DetectionNoise.fit([replace(sequences[0], scores=None)])


def test_wild_missed_and_swapped_joints(sequences):
    still = torch.from_numpy(sequences[0].keypoints[:1]).float().expand(30, -1, -1)
    pixels = (still + torch.arange(30)[:, None, None]).repeat(400, 1, 1, 1)
    none = (0.0,) * 17
    size = (still[0].amax(0) - still[0].amin(0)).amax()
    generator = torch.Generator().manual_seed(0)
    quiet = {"jitter": none, "drift": none, "offset": none, "arm_swaps": 0.0, "leg_swaps": 0.0}

    def errors(**changes):
        noise = DetectionNoise(**{**quiet, "wild": none, "missed": none, **changes})
        return (noise.apply(pixels, torch.ones(400), generator) - pixels).norm(dim=-1)

    assert (errors() == 0).all()
    wild = errors(wild=(0.05,) * 17)
    share = (wild > 0).float().mean()
    assert 0.04 < share < 0.06
    distances = wild[wild > 0] / size
    assert 0.0399 < distances.min() < distances.max() < 0.1501
    # The last place is kept, and the person has gone on.
    missed = errors(missed=(0.05,) * 17)
    assert 0.03 < (missed > 0).float().mean() < 0.06
    assert set(missed[missed > 0].div(2**0.5).round().int().tolist()) <= set(range(1, 8))
    swapped = errors(arm_swaps=0.1) > 0
    assert 0.08 < swapped[:, :, 11:].float().mean() < 0.12
    assert not swapped[:, :, :11].any()
    assert (swapped[:, :, 11:].any(-1) == swapped[:, :, 11:].all(-1)).all()
    # No errors at level 0.
    loud = DetectionNoise((0.1,) * 17, none, none, (0.5,) * 17, (0.5,) * 17, arm_swaps=0.5, leg_swaps=0.5)
    assert torch.equal(loud.apply(pixels[:2], torch.zeros(2), generator), pixels[:2])


def test_windows_show_what_their_labels_are(sequences):
    """The 3D pose, placed where the camera may have it, is seen at the 2D one: up to a place, which is found here."""
    windows = LiftingWindows(sequences, 5, augmentation=PLAIN)
    batch = windows.__getitems__(range(0, 180, 6))
    keypoints, labels = batch["keypoints_2d"], batch["labels"]
    assert keypoints.shape == (30, 5, 17, 2)
    assert labels.shape == (30, 1, 17, 3)
    assert (labels[:, :, 0] == 0).all()
    assert keypoints.abs().max() < 1
    for seen, pose in zip(keypoints[:, 2].double(), labels[:, 0].double(), strict=True):
        # focal * (X + x) = u * (Z + z) in the unknown place (X, Y, Z) of the pelvis.
        focal = 2.29
        rows = []
        for axis in range(2):
            unknown = torch.zeros(17, 3, dtype=torch.float64)
            unknown[:, axis], unknown[:, 2] = focal, -seen[:, axis]
            rows.append((unknown, seen[:, axis] * pose[:, 2] - focal * pose[:, axis]))
        matrix, right = (torch.cat(parts) for parts in zip(*rows, strict=True))
        place = torch.linalg.lstsq(matrix, right[:, None]).solution[:, 0]
        assert (matrix @ place - right).abs().max() < 1e-4
        assert 4 < place[2] < 6.5
    # Persons stand upright and keep their bones.
    assert (labels[:, 0, 10, 1] < -0.5).all()
    expected = lengths_of_bones(torch.from_numpy(np.concatenate([s.joints for s in sequences])[0:180:6]).float())
    left_right = torch.minimum(
        (lengths_of_bones(labels[:, 0]) - expected).abs(), (lengths_of_bones(labels[:, 0, MIRRORED]) - expected).abs()
    )
    assert left_right.max() < 0.03


def test_draws_follow_from_seed_epoch_and_indices(sequences):
    windows = LiftingWindows(sequences, 3, noise=DetectionNoise.fit(sequences), seed=1)
    first = windows.__getitems__([4, 5, 60])
    for name, values in windows.__getitems__([4, 5, 60]).items():
        torch.testing.assert_close(values, first[name], rtol=0, atol=0)
    windows.set_epoch(1)
    assert not torch.equal(windows.__getitems__([4, 5, 60])["labels"], first["labels"])
    windows.set_epoch(0)
    assert not torch.equal(windows.__getitems__([5, 4, 60])["labels"][2], first["labels"][2])
    single = windows[-1]
    assert single["keypoints_2d"].shape == (3, 17, 2)
    assert len(windows) == 70 + 90 + 31
    with pytest.raises(IndexError):
        windows[191]


def test_causal_windows_end_with_their_frame(sequences):
    """In a causal window the last frame is labelled, in others the middle one."""
    for causal, frame in ((False, 2), (True, 4)):
        batch = LiftingWindows(sequences, 5, causal, augmentation=PLAIN).__getitems__(range(10, 60))
        wide = LiftingWindows(sequences, 1, causal, augmentation=PLAIN)
        assert wide[0]["keypoints_2d"].shape == (1, 17, 2)
        # Of all frames of a window the labelled one is most like its label, seen from afar.
        seen, label = batch["keypoints_2d"], batch["labels"][..., :2]
        seen = seen - seen[:, :, :1]
        scale = (seen * label).sum((2, 3)) / (label * label).sum((2, 3))
        distance = (seen - scale[..., None, None] * label).norm(dim=-1).mean((0, 2))
        assert distance.argmin() == frame


def test_bodies_and_mixtures(sequences):
    """Bones change alike on both sides; a mixture has the legs of one frame and the rest of another, hips in line."""
    plain = LiftingWindows(sequences, 1, augmentation=PLAIN)
    other = LiftingWindows(sequences, 1, augmentation=replace(PLAIN, bone_scale=0.1))
    ratio = lengths_of_bones(other.__getitems__(range(64))["labels"]) / lengths_of_bones(
        plain.__getitems__(range(64))["labels"]
    )
    assert ratio.std() > 0.05
    for right, left in HUMAN36M17.flip_pairs:
        assert (ratio[..., right - 1] - ratio[..., left - 1]).abs().median() < 0.1
    mixed = LiftingWindows(sequences, 1, augmentation=replace(PLAIN, mixed=1.0)).__getitems__(range(64))["labels"]
    assert mixed.isfinite().all()
    # Upper bodies are still above, arms of the right length.
    assert (mixed[:, 0, 10, 1] < -0.5).all()
    assert lengths_of_bones(mixed).max() < 0.6


def test_mirrored_samples(sequences):
    """About half are: their right hand is where the left one is."""
    batch = LiftingWindows(sequences, 1, augmentation=PLAIN).__getitems__(range(150))
    labels = batch["labels"][:, 0]
    # Normal of the plane through hips and head, times the way of the face: its sign is the handedness.
    hips, head, face = labels[:, 4] - labels[:, 1], labels[:, 10], labels[:, 9] - (labels[:, 8] + labels[:, 10]) / 2
    side = (torch.linalg.cross(hips, head) * face).sum(-1)
    assert (side > 0).all() or (side < 0).all()  # left stays left of the face, mirrored or not


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([], 3), "`sequences` must hold at least one"), ((None, 0), "`num_frames` must be a positive integer")],
)
def test_refuses_windows(sequences, arguments, message):
    with pytest.raises(ValueError, match=message):
        LiftingWindows(sequences if arguments[0] is None else arguments[0], *arguments[1:])


def test_screen_coordinates_of_tensors():
    pixels = torch.tensor([[[0.0, 0.0], [1920.0, 1080.0], [960.0, 540.0]]])
    size = torch.tensor([1920.0, 1080.0])
    expected = torch.tensor([[[-1.0, -0.5625], [1.0, 0.5625], [0.0, 0.0]]])
    torch.testing.assert_close(normalize_screen_coordinates(pixels, size), expected)
