"""Actions of skeletons: NTU RGB+D's files and splits, archives of sequences, and augmentation for training."""

import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..keypoint_sets import HUMAN36M17, NTU25, KeypointSet
from ..models.pose_sequence.feature_extraction_skeleton_action import SkeletonActionFeatureExtractor
from ..models.pose_sequence.interpolation_pose_sequence import smooth_trajectory
from ..models.pose_sequence.skeleton_streams_skeletal_gnn import (
    ctr_crop_resize,
    ctr_translate,
    make_streams,
    rotate,
    rotation_of_angles,
)


# Standard deviation of the Gaussian in time that tells slow from fast motions, in frames.
SLOW_FRAMES = 8.0
NTU_JOINTS = 25
# Numbers of one body before its joints, and of one joint, in a `.skeleton` file.
NTU_BODY_NUMBERS, NTU_JOINT_NUMBERS = 10, 12
NTU_BODIES_READ, NTU_BODIES_KEPT = 4, 2
NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
# Training subjects of NTU RGB+D 60's cross-subject split.
NTU60_SUBJECTS = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
# Those of NTU RGB+D 120, which nobody here has checked against the paper; all 53 are printed in its publication.
NTU120_SUBJECTS = NTU60_SUBJECTS | frozenset(
    (45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95,
     97, 98, 100, 103)
)  # fmt: skip
NTU_SPLITS = ("ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset")


@dataclass(frozen=True, eq=False)
class ActionSequence:
    """One recording of one action.

    Args:
        skeletons: (persons, frames, joints, 3) float32, NaN (or, of NTU, 0) where missing.
        label: Index of the action.
        name: Name of the recording.
        group: What a split goes by, such as the subject or the style; empty if there is none.
    """

    skeletons: np.ndarray
    label: int
    name: str = ""
    group: str = ""


def ntu_numbers(name: str) -> dict[str, int]:
    """`setup`, `camera`, `person`, `repetition` and `action`, all from 1, of a name such as `S001C002P003R002A013`.

    Raises:
        ValueError: If the name is not of that form.
    """
    match = NTU_NAME.search(str(name))
    if match is None:
        raise ValueError(f"`name` must be of NTU RGB+D's form S001C001P001R001A001, got {name!r}.")
    return dict(zip(("setup", "camera", "person", "repetition", "action"), map(int, match.groups()), strict=True))


def is_ntu_training(name: str, split: str) -> bool:
    """Whether a recording belongs to the training part.

    Args:
        name: Name of the recording, see `ntu_numbers`.
        split: `"ntu60-xsub"` (20 subjects), `"ntu60-xview"` (cameras 2 and 3), `"ntu120-xsub"` (53 subjects) or
            `"ntu120-xset"` (setups of even number). Those of NTU 120 have not been checked against its paper here.

    Raises:
        ValueError: If the split is unknown or the name of another form.
    """
    if split not in NTU_SPLITS:
        raise ValueError(f"`split` must be one of {NTU_SPLITS}, got {split!r}.")
    numbers = ntu_numbers(name)
    if split == "ntu60-xview":
        return numbers["camera"] in (2, 3)
    if split == "ntu120-xset":
        return numbers["setup"] % 2 == 0
    return numbers["person"] in (NTU60_SUBJECTS if split == "ntu60-xsub" else NTU120_SUBJECTS)


def read_ntu_skeleton(path: str | PathLike, max_bodies: int = NTU_BODIES_KEPT) -> np.ndarray:
    """Read a `.skeleton` file of NTU RGB+D: of at most four bodies, those that move most, the most first.

    How much a body moves is the sum of the standard deviations of its x, y and z over the frames that have it.

    Args:
        path: The file.
        max_bodies: Bodies that are kept.

    Returns:
        (bodies, frames, 25, 3) metres along the depth camera's axes, y up, 0 where a body is absent.

    Raises:
        ValueError: If it is no such file, ends early, or has no body.
    """
    path = Path(path)
    try:
        numbers = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`path` {str(path)!r} must be a `.skeleton` file of NTU RGB+D: {error}") from error
    position = 0

    def take(count: int) -> list[str]:
        nonlocal position
        taken = numbers[position : position + count]
        position += count
        if len(taken) < count:
            raise ValueError("it ends early")
        return taken

    try:
        num_frames = int(take(1)[0])
        bodies = np.zeros((NTU_BODIES_READ, num_frames, NTU_JOINTS, 3), dtype=np.float32)
        for frame in range(num_frames):
            for body in range(int(take(1)[0])):
                take(NTU_BODY_NUMBERS)
                if (joints := int(take(1)[0])) != NTU_JOINTS:
                    raise ValueError(f"a body has {joints} joints")
                values = np.array(take(NTU_JOINTS * NTU_JOINT_NUMBERS), dtype=np.float32)
                if body < NTU_BODIES_READ:
                    bodies[body, frame] = values.reshape(NTU_JOINTS, NTU_JOINT_NUMBERS)[:, :3]
    except ValueError as error:
        raise ValueError(f"`path` {str(path)!r} is no whole `.skeleton` file of NTU RGB+D: {error}.") from error
    if not bodies.any():
        raise ValueError(f"`path` {str(path)!r} has no body in any frame; it is one of the data set's broken files.")
    return bodies[np.argsort([-_motion(body) for body in bodies], kind="stable")[:max_bodies]]


def _motion(body: np.ndarray) -> float:
    """How much a body (frames, joints, 3) moves in the frames that have it."""
    there = body[body.sum(axis=(1, 2)) != 0]
    return float(there.std(axis=(0, 1)).sum()) if len(there) else 0.0


def read_ntu_folder(
    folder: str | PathLike, split: str, training: bool, skipped: Iterable[str] = ()
) -> list[ActionSequence]:
    """Read one part of a folder of NTU RGB+D's `.skeleton` files.

    Args:
        folder: Folder with the files.
        split: See `is_ntu_training`.
        training: Whether the training or the test part.
        skipped: Names of recordings to leave out, such as the data set's list of broken files. A file without any body is
            an error, so that none is left out unnoticed.

    Raises:
        ValueError: If the folder has no such files, or one cannot be read.
    """
    paths = sorted(Path(folder).glob("*.skeleton"))
    if not paths:
        raise ValueError(f"`folder` {str(folder)!r} must hold `.skeleton` files of NTU RGB+D, and has none.")
    skipped = {NTU_NAME.search(str(name))[0] for name in skipped if NTU_NAME.search(str(name))}
    most = 60 if split.startswith("ntu60") else 120
    sequences = []
    for path in paths:
        numbers = ntu_numbers(path.stem)
        if path.stem in skipped or numbers["action"] > most or is_ntu_training(path.stem, split) != training:
            continue
        skeletons = read_ntu_skeleton(path)
        sequences.append(ActionSequence(skeletons, numbers["action"] - 1, path.stem, f"P{numbers['person']:03}"))
    return sequences


def read_ntu_archive(path: str | PathLike, training: bool) -> list[ActionSequence]:
    """Read one part of an archive as CTR-GCN's preparation of NTU RGB+D writes it.

    Args:
        path: `.npz` with `x_train`, `y_train`, `x_test`, `y_test`: (sequences, frames, 150) metres, two persons one after
            the other, and one-hot labels.
        training: Whether the training or the test part.

    Raises:
        ValueError: If the file is no such archive.
    """
    part = "train" if training else "test"
    values, labels = _read_arrays(path, f"x_{part}", f"y_{part}")
    width = NTU_BODIES_KEPT * NTU_JOINTS * 3
    if values.ndim != 3 or values.shape[2] != width or labels.ndim != 2 or len(labels) != len(values):
        raise ValueError(
            f"`path` {str(path)!r}: x_{part} must be (sequences, frames, {width}) and y_{part} one-hot (sequences, actions), "
            f"got {values.shape} and {labels.shape}."
        )
    sequences = []
    for index, (row, label) in enumerate(zip(values, labels.argmax(axis=1), strict=True)):
        frames = row[: int((row.sum(axis=1) != 0).sum())]
        skeletons = frames.reshape(len(frames), NTU_BODIES_KEPT, NTU_JOINTS, 3).transpose(1, 0, 2, 3)
        sequences.append(ActionSequence(np.ascontiguousarray(skeletons, np.float32), int(label), f"{part}{index}"))
    return sequences


def read_action_archive(path: str | PathLike) -> tuple[list[ActionSequence], list[str], float]:
    """Read an archive of one person's sequences laid end to end.

    Args:
        path: `.npz` with `joints3d` (frames, 17, 3) of Human3.6M's joints, `seq_start` and `seq_len`, `label`, `classes`, `fps`,
            and if known `style` and `seq_id`.

    Returns:
        The sequences, with their style as group, the names of the actions, and frames a second.

    Raises:
        ValueError: If the file is no such archive.
    """
    joints, starts, lengths, labels, classes, rate = _read_arrays(
        path, "joints3d", "seq_start", "seq_len", "label", "classes", "fps"
    )
    if (
        joints.ndim != 3
        or joints.shape[1:] != (len(HUMAN36M17), 3)
        or len({len(starts), len(lengths), len(labels)}) > 1
    ):
        raise ValueError(
            f"`path` {str(path)!r}: joints3d must be (frames, {len(HUMAN36M17)}, 3), and seq_start, seq_len and label of one "
            f"length, got {joints.shape}, {starts.shape}, {lengths.shape} and {labels.shape}."
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes) or (starts + lengths).max() > len(joints)):
        raise ValueError(f"`path` {str(path)!r}: a label or the end of a sequence is out of range.")
    names, styles = ([""] * len(labels), [""] * len(labels))
    with np.load(path) as archive:
        names = archive["seq_id"].tolist() if "seq_id" in archive.files else names
        styles = archive["style"].tolist() if "style" in archive.files else styles
    sequences = [
        ActionSequence(joints[None, start : start + length].astype(np.float32), int(label), name, style)
        for start, length, label, name, style in zip(starts, lengths, labels, names, styles, strict=True)
    ]
    return sequences, classes.tolist(), float(rate)


def _read_arrays(path: str | PathLike, *names: str) -> list[np.ndarray]:
    try:
        with np.load(path) as archive:
            return [archive[name] for name in names]
    except KeyError as error:
        raise ValueError(f"`path` {str(path)!r} lacks an array: {error}.") from error
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"`path` {str(path)!r} must be an `.npz` archive without pickles: {error}") from error


def mirrored_labels(classes: Sequence[str], one_handed: Iterable[str] = ()) -> list[int]:
    """For each action the one that its mirror image shows: left and right in its name exchanged, else itself.

    Args:
        classes: Names of the actions.
        one_handed: Names of those that are always done by the same hand, whose mirror image is no action of the data: -1.

    Raises:
        ValueError: If such a name is not one of the actions.
    """
    one_handed, sides = set(one_handed), {"left": "right", "right": "left"}
    if unknown := one_handed - set(classes):
        raise ValueError(f"`one_handed` must be of the actions {list(classes)}; {sorted(unknown)} are not.")
    index_of = {name: index for index, name in enumerate(classes)}
    mirrored = ["".join(sides.get(word, word) for word in re.split(r"(left|right)", name)) for name in classes]
    return [
        -1 if name in one_handed else index_of.get(other, index)
        for index, (name, other) in enumerate(zip(classes, mirrored, strict=True))
    ]


def mirror(skeletons: np.ndarray, keypoints: KeypointSet) -> np.ndarray:
    """Mirror image of (..., joints, 3): x turned round, left and right joints exchanged."""
    return skeletons[..., keypoints.flip_permutation, :] * np.array([-1, 1, 1], dtype=skeletons.dtype)


@dataclass(frozen=True)
class ActionAugmentation:
    """Random changes of training sequences, before normalisation. All are off by default.

    Args:
        crop: Least share of the frames that is kept, at a random place.
        speed: Range of the factor of time is from 1 / (1 + speed) to 1 + speed, varying along the sequence.
        mirror: Probability of the mirror image, whose label `mirrored_labels` gives.
        mirrored_labels: Action of the mirror image of each action, -1 for those that are not mirrored; None keeps labels.
        rotation: Largest angle around each of the axes, in radians.
        bone_scale: Standard deviation of the relative length of bones, left and right alike.
        bend: Standard deviation of the angle, in radians, by which each bone and what hangs on it is turned for the whole
            sequence: persons hold themselves in different ways.
        amplitude: How much larger or smaller fast motions are, those faster than about one a second at 30 frames: the
            factor is from 1 / (1 + amplitude) to 1 + amplitude.
        jitter: Largest standard deviation of independent errors of joints, in the unit of the poses. Each sequence has its
            own, from 0 on: motion streams of steady poses must not look like nothing that was trained on.
        drift: Standard deviation of each joint's error that lasts for the sequence, in the same unit.
    """

    crop: float = 1.0
    speed: float = 0.0
    mirror: float = 0.0
    mirrored_labels: Sequence[int] | None = None
    rotation: float = 0.0
    bone_scale: float = 0.0
    bend: float = 0.0
    amplitude: float = 0.0
    jitter: float = 0.0
    drift: float = 0.0

    def __call__(
        self, sequence: ActionSequence, keypoints: KeypointSet, generator: np.random.Generator
    ) -> ActionSequence:
        """A changed copy of a sequence of complete skeletons."""
        poses, label = sequence.skeletons, sequence.label
        if self.crop < 1:
            length = max(1, round(poses.shape[1] * generator.uniform(self.crop, 1)))
            start = int(generator.integers(poses.shape[1] - length + 1))
            poses = poses[:, start : start + length]
        if self.speed:
            poses = _change_speed(poses, self.speed, generator)
        mirrored = label if self.mirrored_labels is None else self.mirrored_labels[label]
        if mirrored >= 0 and self.mirror and generator.random() < self.mirror:
            poses, label = mirror(poses, keypoints), mirrored
        if self.amplitude:
            slow = np.stack([smooth_trajectory(person, SLOW_FRAMES) for person in poses])
            poses = slow + np.exp(generator.uniform(-1, 1) * np.log1p(self.amplitude)) * (poses - slow)
        if self.bone_scale or self.bend:
            poses = _change_body(poses, self.bone_scale, self.bend, keypoints, generator)
        if self.rotation:
            angles = generator.uniform(-self.rotation, self.rotation, 3)
            poses = poses @ rotation_of_angles(angles).T
        if self.drift:
            poses = poses + generator.normal(0, self.drift, (len(poses), 1, *poses.shape[2:]))
        if self.jitter:
            poses = poses + generator.uniform(0, self.jitter) * generator.normal(size=poses.shape)
        return replace(sequence, skeletons=poses.astype(np.float32), label=label)


def _change_speed(poses: np.ndarray, speed: float, generator: np.random.Generator) -> np.ndarray:
    """Run through (persons, frames, joints, 3) at a speed that changes along the way, from the first to the last frame."""
    frames = poses.shape[1]
    knots = np.exp(generator.uniform(-1, 1, 5) * np.log1p(speed))
    pace = np.interp(np.linspace(0, 4, frames), np.arange(5), knots)
    places = np.concatenate([[0], np.cumsum(pace)[:-1]])
    places = places / max(places[-1], 1e-9) * (frames - 1)
    before = np.minimum(places.astype(int), frames - 1)
    after = np.minimum(before + 1, frames - 1)
    share = (places - before)[:, None, None]
    return poses[:, before] * (1 - share) + poses[:, after] * share


def _change_body(
    poses: np.ndarray, bone_scale: float, bend: float, keypoints: KeypointSet, generator: np.random.Generator
) -> np.ndarray:
    """Change lengths of bones, of both sides alike, and their directions, each with all that hangs on the bone."""
    parents = np.array(keypoints.parents)
    scales = np.exp(generator.normal(0, bone_scale, len(parents)))
    scales = (scales + scales[keypoints.flip_permutation]) / 2
    rotations = rotation_of_angles(generator.normal(0, bend, (len(parents), 3)))
    changed = poses.astype(np.float64)
    for joint in _from_root(parents):
        parent = parents[joint]
        rotations[joint] = rotations[joint] @ rotations[parent] if parents[parent] >= 0 else rotations[joint]
        bone = poses[..., joint, :] - poses[..., parent, :]
        changed[..., joint, :] = changed[..., parent, :] + scales[joint] * bone @ rotations[joint].T
    return changed


def _from_root(parents: np.ndarray) -> list[int]:
    """Joints but the root, each behind its parent."""
    order, done = [], set(np.flatnonzero(parents < 0).tolist())
    while len(order) + 1 < len(parents):
        ready = [joint for joint, parent in enumerate(parents) if joint not in done and parent in done]
        order += ready
        done |= set(ready)
    return order


class ActionDataset(torch.utils.data.Dataset):
    """Sequences as inputs of a network: dicts of `skeleton_values` and `labels`.

    Args:
        sequences: The recordings.
        extractor: Feature extractor of the network.
        keypoint_names: Joints of the recordings, as the extractor takes them.
        unit: Unit of the recordings, `"metre"` or `"millimetre"`.
        up: Axis that points up, for extractors that turn poses to it; None finds it.
        augmentation: Random changes, for training. They are drawn from `seed`, the epoch and the index, so that a run can be
            repeated whatever the number of workers. CTR-GCN's normalisation has its own: see `ctr_rotation`.
        ctr_crop: Range of the random share of the frames for `"ctr"`, such as (0.5, 1); None cuts as for a test.
        ctr_rotation: Largest random angle around each axis for `"ctr"`, in radians; CTR-GCN has 0.3.
        seed: Seed of the random changes.
    """

    def __init__(
        self,
        sequences: Sequence[ActionSequence],
        extractor: SkeletonActionFeatureExtractor,
        keypoint_names: Any = None,
        unit: str = "metre",
        up: str | None = None,
        augmentation: ActionAugmentation | None = None,
        ctr_crop: tuple[float, float] | None = None,
        ctr_rotation: float = 0.0,
        seed: int = 0,
    ):
        if not sequences:
            raise ValueError("`sequences` must hold at least one sequence, got none.")
        if (ctr_crop or ctr_rotation) and extractor.normalization != "ctr":
            raise ValueError(
                f"`ctr_crop` and `ctr_rotation` are for the normalisation 'ctr', and the extractor's is "
                f"{extractor.normalization!r}."
            )
        if (ctr_crop or ctr_rotation) and (unit != "metre" or keypoint_names is not None):
            raise ValueError(
                "`ctr_crop` and `ctr_rotation` are for the joints of NTU RGB+D in metres; leave out `unit` and `keypoint_names`, "
                f"got {unit!r} and {keypoint_names!r}."
            )
        self.sequences, self.extractor = list(sequences), extractor
        self.options = {"keypoint_names": keypoint_names, "unit": unit, "up": up}
        self.augmentation, self.ctr_crop, self.ctr_rotation = augmentation, ctr_crop, ctr_rotation
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(self.sequences)

    def set_epoch(self, epoch: int):
        """Draw other random changes."""
        self.epoch = epoch

    @property
    def labels(self) -> np.ndarray:
        """(sequences,) labels before augmentation."""
        return np.array([sequence.label for sequence in self.sequences])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sequence = self.sequences[index]
        generator = np.random.default_rng((self.seed, self.epoch, index))
        if self.augmentation is not None:
            sequence = self.augmentation(sequence, self.extractor.keypoints, generator)
        if self.ctr_crop or self.ctr_rotation:
            values = torch.from_numpy(self._ctr_values(sequence.skeletons, generator))
        else:
            poses = sequence.skeletons if len(sequence.skeletons) > 1 else sequence.skeletons[0]
            values = self.extractor(poses, flip_test=False, **self.options)["skeleton_values"][0]
        return {"skeleton_values": values, "labels": torch.tensor(sequence.label)}

    def _ctr_values(self, skeletons: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """CTR-GCN's training input: a random part of the frames, turned."""
        extractor = self.extractor
        values = np.nan_to_num(skeletons).transpose(3, 1, 2, 0)
        values = ctr_translate(np.pad(values, [(0, 0)] * 3 + [(0, extractor.num_persons - values.shape[3])]))
        if self.ctr_crop:
            values = ctr_crop_resize(values, extractor.num_frames, self.ctr_crop, generator)
        else:
            values = ctr_crop_resize(values, extractor.num_frames, extractor.crop_share)
        if self.ctr_rotation:
            angles = generator.uniform(-self.ctr_rotation, self.ctr_rotation, 3)
            values = rotate(values, rotation_of_angles(angles))
        return make_streams(values, extractor.streams, extractor.bones)


__all__ = [
    "NTU25",
    "NTU_SPLITS",
    "ActionAugmentation",
    "ActionDataset",
    "ActionSequence",
    "is_ntu_training",
    "mirror",
    "mirrored_labels",
    "ntu_numbers",
    "read_action_archive",
    "read_ntu_archive",
    "read_ntu_folder",
    "read_ntu_skeleton",
]
