"""Human3.6M as VideoPose3D prepares it for lifting (arXiv 1811.11742): two archives, and windows of their clips.

`data_3d_h36m.npz` holds `positions_3d`: by subject and action the 32 joints in the world, metres. `data_2d_h36m_<det>.npz` holds
`positions_2d`: by subject and action the joints of each of the four cameras in pixels, `<det>` being `gt` or a detector, and
`metadata` about the joints. 50 frames a second. Both are object arrays of one dict, read without running code they may hold.

The protocol: the 17 joints that move (`keypoint_sets.HUMAN36M17`), relative to the pelvis in the camera's axes; subjects 1, 5, 6,
7, 8 train and 9, 11 test (`human36m.TRAIN_SUBJECTS`, `TEST_SUBJECTS`), all cameras; the result is the mean over the 15 actions.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..cameras import DistortedCamera, normalize_screen_coordinates
from ..keypoint_sets import HUMAN36M17, flip_permutation
from ..models.pose_sequence.rotations_pose_sequence import quaternion_to_matrix
from .pose_lifting import LiftingSequence
from .sequence_archives import read_object_archive


MOVING_JOINTS = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""Of the 32 joints those of `HUMAN36M17`, in its order."""
NUM_JOINTS = 32
FRAME_RATE = 50.0
LARGEST_POSITION = 100.0  # metres; the room is a few across
CAMERAS_FILE = Path(__file__).parents[1] / "assets" / "human36m_cameras.json"


@dataclass(frozen=True)
class Human36MView:
    """A camera of Human3.6M.

    Args:
        name: Its number, such as `"54138969"`.
        image_size: Width and height in pixels.
        camera: Its lens and its place in the world, metres.
    """

    name: str
    image_size: tuple[int, int]
    camera: DistortedCamera


@dataclass(frozen=True)
class Human36MArchives:
    """What the archives hold.

    Args:
        sequences: One for each subject, action and camera, `name` as `"S9/Directions 1/54138969"` and `action` without its
            number; the keypoints are `detections`.
        flip_pairs: Pairs of the keypoints' left and right joints, which are not those of `HUMAN36M17` where a detector of
            other joints was used.
    """

    sequences: list[LiftingSequence]
    flip_pairs: tuple[tuple[int, int], ...]


def human36m_views(subject: int) -> list[Human36MView]:
    """The four cameras in the order of the archives, where they stood for a subject.

    Raises:
        ValueError: If they are not known for it.
    """
    content = json.loads(CAMERAS_FILE.read_text(encoding="utf-8"))
    subjects = {int(name.removeprefix("S")): places for name, places in content["subjects"].items()}
    if subject not in subjects:
        raise ValueError(f"`subject` must be one of {sorted(subjects)}, whose cameras are known, got {subject!r}.")
    views = []
    for lens, place in zip(content["cameras"], subjects[subject], strict=True):
        # Orientations lead from the camera to the world.
        rotation = quaternion_to_matrix(np.array(place["orientation"])).T
        camera = DistortedCamera(
            lens["focal_length"],
            lens["principal_point"],
            rotation,
            np.array(place["position"]) / 1000,  # millimetres
            lens["radial_distortion"],
            lens["tangential_distortion"],
        )
        views.append(Human36MView(lens["id"], tuple(lens["image_size"]), camera))
    return views


def read_human36m_archives(
    positions: str | PathLike, keypoints: str | PathLike | None = None, subjects: Collection[int] | None = None
) -> Human36MArchives:
    """Read the archives.

    Args:
        positions: `data_3d_h36m.npz`.
        keypoints: `data_2d_h36m_<det>.npz`; None for sequences without detections, which can still be projected
            (`LiftingSequence.keypoints`). Clips longer than their poses are cut.
        subjects: Numbers of the subjects to read, all if None.

    Raises:
        ValueError: If a file is not of this kind, or the two do not fit each other.
    """
    poses = _by_subject(read_object_archive(positions), "positions_3d", positions)
    found, flip_pairs = None, HUMAN36M17.flip_pairs
    if keypoints is not None:
        content = read_object_archive(keypoints)
        found = _by_subject(content, "positions_2d", keypoints)
        flip_pairs = _flip_pairs(content.get("metadata"), keypoints)
    wanted = sorted(poses) if subjects is None else list(subjects)
    absent = [subject for subject in wanted if subject not in poses or (found is not None and subject not in found)]
    if absent:
        raise ValueError(
            f"`subjects` {absent} are not in {str(positions)!r}, which has {sorted(poses)}"
            + ("." if found is None else f", and {str(keypoints)!r}, which has {sorted(found)}.")
        )
    sequences = []
    for subject in wanted:
        views = human36m_views(subject)
        for name, values in poses[subject].items():
            where = f"S{subject}/{name}"
            joints = _joints(values, f"`positions_3d` of {where}")
            clips = None
            if found is not None:
                clips = _clips(found[subject].get(name), len(views), joints, flip_pairs, f"`positions_2d` of {where}")
            for number, view in enumerate(views):
                sequences.append(
                    LiftingSequence(
                        name=f"{where}/{view.name}",
                        action=name.split(" ")[0],
                        subject=f"S{subject}",
                        joints=joints,
                        camera=view.camera,
                        image_size=view.image_size,
                        frame_rate=FRAME_RATE,
                        detections=None if clips is None else clips[number],
                    )
                )
    return Human36MArchives(sequences, flip_pairs)


def _by_subject(content: Mapping[str, Any], key: str, path: str | PathLike) -> dict[int, Mapping[str, Any]]:
    """The dict of an archive by the numbers of the subjects."""
    value = content.get(key)
    if not isinstance(value, Mapping) or not all(
        isinstance(subject, str) and subject[:1] == "S" and subject[1:].isdigit() and isinstance(actions, Mapping)
        for subject, actions in value.items()
    ):
        raise ValueError(
            f"{str(path)!r} must hold {key!r}, a dict by subject ('S1') and action, as VideoPose3D prepares Human3.6M; it "
            f"has {sorted(map(str, content))}."
        )
    return {int(subject[1:]): actions for subject, actions in value.items()}


def _flip_pairs(metadata: Any, path: str | PathLike) -> tuple[tuple[int, int], ...]:
    """Left and right joints by the metadata of an archive of keypoints."""
    symmetry = metadata.get("keypoints_symmetry") if isinstance(metadata, Mapping) else None
    try:
        left, right = ([int(joint) for joint in side] for side in symmetry)
        if len(left) != len(right) or len({*left, *right}) != 2 * len(left) or min(*left, *right) < 0:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{str(path)!r} must hold 'metadata' with 'keypoints_symmetry', the left and the right joints, got {symmetry!r:.80}."
        ) from None
    return tuple(zip(left, right, strict=True))


def _joints(values: Any, name: str) -> np.ndarray:
    """The 17 joints (frames, 17, 3) of one recording."""
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.shape[1:] != (NUM_JOINTS, 3):
        found = values.shape if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{name} must be an array (frames, {NUM_JOINTS}, 3) of numbers, got {found}.")
    joints = values[:, MOVING_JOINTS].astype(np.float32)
    if not len(joints) or not np.isfinite(joints).all():
        raise ValueError(f"{name} must have one frame at least, and finite numbers.")
    if np.abs(joints).max() > LARGEST_POSITION:
        raise ValueError(
            f"{name} must be in metres, got numbers up to {np.abs(joints).max():.4g}; are they millimetres?"
        )
    return joints


def _clips(
    clips: Any, num_views: int, joints: np.ndarray, flip_pairs: tuple[tuple[int, int], ...], name: str
) -> list[np.ndarray]:
    """The keypoints of each camera, cut to the frames of the poses."""
    if not isinstance(clips, Sequence) or len(clips) != num_views:
        found = f"{len(clips)}" if hasattr(clips, "__len__") else "none"
        raise ValueError(f"{name} must be {num_views} arrays, one a camera, got {found}.")
    cut = []
    for number, clip in enumerate(clips):
        clip = np.asarray(clip)
        if clip.dtype.kind not in "fiu" or clip.ndim != 3 or clip.shape[-1] not in (2, 3):
            raise ValueError(f"{name}, camera {number}, must have shape (frames, joints, 2), got {clip.shape}.")
        if flip_pairs and max(max(pair) for pair in flip_pairs) >= clip.shape[1]:
            raise ValueError(f"{name}, camera {number}, has {clip.shape[1]} joints, fewer than its metadata says.")
        if len(clip) < len(joints):
            raise ValueError(
                f"{name}, camera {number}, must have at least the {len(joints)} frames of the poses, got {len(clip)}."
            )
        clip = clip[: len(joints), :, :2].astype(np.float32)
        if not np.isfinite(clip).all():
            raise ValueError(f"{name}, camera {number}, must be finite.")
        cut.append(clip)
    return cut


def unnormalize_positions(normalized: Any, mean: Any, std: Any, used: Any) -> np.ndarray:
    """Output of the network of Martinez et al. (arXiv 1705.03098) as the 32 joints of Human3.6M, one after another.

    Numbers that the network does not put out become their mean. As in the original the network's numbers are rounded to
    float32 before.

    Args:
        normalized: (poses, used) in standard deviations from the mean.
        mean: (numbers,) of the training data, all 96 of a pose.
        std: (numbers,) its standard deviations.
        used: (used,) places of the network's numbers among all.

    Returns:
        (poses, numbers) float64, in the unit of the statistics.

    Raises:
        ValueError: If shapes do not fit.
    """
    normalized, mean, std = (np.asarray(values, dtype=np.float64) for values in (normalized, mean, std))
    used = np.asarray(used)
    fits = normalized.ndim == 2 and mean.ndim == 1 and mean.shape == std.shape and used.shape == normalized.shape[1:]
    if (
        not fits
        or used.dtype.kind not in "iu"
        or len(set(used.tolist())) < len(used)
        or not ((used >= 0) & (used < len(mean))).all()
    ):
        raise ValueError(
            "`normalized` (poses, used), `mean` and `std` (numbers,) and `used`, different places among the numbers, must fit, got "
            f"{normalized.shape}, {mean.shape}, {std.shape} and {used.shape}."
        )
    poses = np.zeros((len(normalized), len(mean)), dtype=np.float32)
    poses[:, used] = normalized
    return poses * std + mean


class ClipWindows(Dataset):
    """Windows of clips in their order, each followed by those of its mirror image: VideoPose3D's training samples.

    A window is `num_frames` frames of keypoints around each pose, or as many before it if `causal`; clips are lengthened by
    their first and last frame. A list of indices gives a batch at once, for a `DataLoader` with
    `collate_fn=hvmodels.datasets.forecasting.collate_windows`.

    Args:
        keypoints: One array (frames, joints, 2) a clip, normalised by the picture's size.
        positions: One array (frames, joints, 3) a clip, relative to the root.
        num_frames: Receptive field of the model, odd.
        causal: Whether a window ends with the frame of its pose, else that is the middle one.
        chunk_length: Poses of a sample, whose windows overlap. Where it does not divide the frames of a clip, samples reach
            over both ends alike.
        mirror: Whether the clips' mirror images are samples too.
        keypoint_flip_pairs: Left and right joints of the keypoints.
        position_flip_pairs: The same of the positions.

    Raises:
        ValueError: If shapes, numbers or lengths do not fit.
    """

    def __init__(
        self,
        keypoints: Sequence[np.ndarray],
        positions: Sequence[np.ndarray],
        num_frames: int,
        causal: bool = False,
        chunk_length: int = 1,
        mirror: bool = True,
        keypoint_flip_pairs: Sequence[tuple[int, int]] = HUMAN36M17.flip_pairs,
        position_flip_pairs: Sequence[tuple[int, int]] = HUMAN36M17.flip_pairs,
    ):
        if num_frames < 1 or num_frames % 2 == 0 or chunk_length < 1:
            raise ValueError(
                f"`num_frames` must be a positive odd number and `chunk_length` positive, got {num_frames} and {chunk_length}."
            )
        lengths = [len(clip) for clip in keypoints]
        if not lengths or lengths != [len(clip) for clip in positions] or not all(lengths):
            raise ValueError(
                "`keypoints` and `positions` must have the same clips of the same numbers of frames, one at least, got "
                f"{lengths[:8]} and {[len(clip) for clip in positions][:8]}."
            )
        self._keypoints = self._stack(keypoints, 2, "keypoints")
        self._positions = self._stack(positions, 3, "positions")
        self._flips = []
        for values, pairs, name in (
            (self._keypoints, keypoint_flip_pairs, "keypoint_flip_pairs"),
            (self._positions, position_flip_pairs, "position_flip_pairs"),
        ):
            if not all(0 <= joint < values.shape[1] for pair in pairs for joint in pair):
                raise ValueError(f"`{name}` must be pairs of the {values.shape[1]} joints, got {pairs}.")
            self._flips.append(torch.from_numpy(flip_permutation(values.shape[1], pairs)))
        before = num_frames - 1 if causal else num_frames // 2
        self._window = torch.arange(num_frames - 1 + chunk_length) - before
        self._chunk = torch.arange(chunk_length)
        samples, start = [], 0
        for length in lengths:
            chunks = -(-length // chunk_length)
            firsts = start + torch.arange(chunks) * chunk_length - (chunks * chunk_length - length) // 2
            for flipped in range(1 + mirror):
                limits = torch.tensor([start, start + length - 1, flipped]).expand(chunks, 3)
                samples.append(torch.cat([firsts[:, None], limits], dim=1))
            start += length
        self._samples = torch.cat(samples)

    @classmethod
    def from_sequences(cls, archives: Human36MArchives, num_frames: int, **options: Any) -> "ClipWindows":
        """Windows of the sequences' detections, normalised, and their positions; true keypoints where there are none.

        Args:
            archives: What `read_human36m_archives` gives.
            num_frames: As for the class.
            options: The class's others.
        """
        keypoints = [
            normalize_screen_coordinates(
                sequence.keypoints if sequence.detections is None else sequence.detections, sequence.image_size
            ).astype(np.float32)
            for sequence in archives.sequences
        ]
        positions = [sequence.positions.astype(np.float32) for sequence in archives.sequences]
        return cls(keypoints, positions, num_frames, keypoint_flip_pairs=archives.flip_pairs, **options)

    @staticmethod
    def _stack(clips: Sequence[np.ndarray], dims: int, name: str) -> torch.Tensor:
        shapes = {np.shape(clip)[1:] for clip in clips}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] != dims:
            raise ValueError(
                f"`{name}` must be arrays (frames, joints, {dims}) of the same joints, got {shapes or shape}."
            )
        return torch.from_numpy(np.concatenate(clips))

    def __len__(self) -> int:
        return len(self._samples)

    def set_epoch(self, epoch: int):
        """Change nothing: every epoch has the same windows, whose order is the sampler's. Training loops call it."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([range(len(self))[index]]).items()}

    def __getitems__(self, indices: Any) -> dict[str, torch.Tensor]:
        """`keypoints_2d` (batch, num_frames - 1 + chunk_length, joints, 2) and `labels` (batch, chunk_length, joints, 3)."""
        first, start, end, flipped = self._samples[torch.as_tensor(indices, dtype=torch.int64)].T[..., None]
        batch = {}
        parts = (("keypoints_2d", self._keypoints, self._window), ("labels", self._positions, self._chunk))
        for (name, values, offsets), flip in zip(parts, self._flips, strict=True):
            frames = values[torch.minimum(torch.maximum(first + offsets, start), end)]
            mirrored = frames[:, :, flip]
            mirrored[..., 0] *= -1
            batch[name] = torch.where(flipped[..., None, None].bool(), mirrored, frames)
        return batch


__all__ = [
    "MOVING_JOINTS",
    "ClipWindows",
    "Human36MArchives",
    "Human36MView",
    "human36m_views",
    "read_human36m_archives",
    "unnormalize_positions",
]
