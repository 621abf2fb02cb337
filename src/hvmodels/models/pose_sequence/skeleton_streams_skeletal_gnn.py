"""Normalisation, streams and sampling of skeletons for action recognition, in NumPy.

Arrays are (..., channels, frames, joints, persons) with x, y, z as channels, as graph networks on NTU RGB+D read them. A person,
frame or joint whose numbers add up to 0 counts as absent. `agcn_*` follow 2s-AGCN, `ctr_*` CTR-GCN. `view_normalize` and what belongs to it take poses (frames, joints, 3).
"""

import math
from collections.abc import Sequence

import numpy as np


# Child and parent of each bone of NTU's 25 joints, from 0; the centre is its own parent, so that its bone is 0.
NTU_BONES = (
    (0, 1), (1, 20), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10), (12, 0),
    (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18), (20, 20), (21, 22), (22, 7), (23, 24), (24, 11),
)  # fmt: skip
SPINE_BASE, SPINE_MIDDLE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 4, 8
UP_AXES = ("z", "y", "-y", "-z")
# Least cosine between trunk and axis for which the axis is taken to point up.
UPRIGHT = 0.7
# Frames at the start of a sequence that tell which way a person faces.
FACING_FRAMES = 10
STREAMS = ("joint", "bone", "joint_motion", "bone_motion", "joint_displacement", "bone_displacement")


def agcn_normalize(skeletons: np.ndarray) -> np.ndarray:
    """2s-AGCN's normalisation of one sequence of NTU's joints, or of several.

    Empty frames before a person comes are removed, those behind the end refilled by repeating the person; the spine's middle of
    the first person is the origin of each frame; all is turned so that in the first frame the first person's spine is parallel
    to z and then the line from left to right shoulder to x.

    Args:
        skeletons: (..., 3, frames, 25, persons).

    Returns:
        The same shape.
    """
    if skeletons.ndim > 4:
        return np.stack([agcn_normalize(sequence) for sequence in skeletons])
    persons = np.ascontiguousarray(skeletons.transpose(3, 1, 2, 0))  # persons, frames, joints, 3
    if persons.sum() == 0:
        return skeletons.copy()
    persons = np.stack([_close_gaps(person) for person in persons])
    centre = persons[0, :, SPINE_MIDDLE : SPINE_MIDDLE + 1].copy()
    present = persons.sum(axis=-1, keepdims=True) != 0
    persons = (persons - centre) * present
    for start, end, axis in ((SPINE_BASE, SPINE_MIDDLE, 2), (LEFT_SHOULDER, RIGHT_SHOULDER, 0)):
        direction = persons[0, 0, end] - persons[0, 0, start]
        persons = _rotated(persons, rotation_between(direction, np.eye(3)[axis]))
    return persons.transpose(3, 1, 2, 0)


def _close_gaps(person: np.ndarray) -> np.ndarray:
    """One person (frames, joints, 3) without empty frames at the start, and repeated behind the end."""
    person = person.copy()
    if person.sum() == 0:
        return person
    if person[0].sum() == 0:
        kept = person[person.sum(axis=(1, 2)) != 0]
        person[:] = 0
        person[: len(kept)] = kept
    for frame in range(1, len(person)):
        if person[frame].sum() == 0 and person[frame:].sum() == 0:
            person[frame:] = np.resize(person[:frame], (len(person) - frame, *person.shape[1:]))
            break
    return person


def _rotated(persons: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    return (persons @ rotation.T).astype(persons.dtype)


def rotation_between(direction: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Rotation matrix that turns a direction to an axis the short way; none for directions without length."""
    normal = np.cross(direction, axis)
    length, sine = np.linalg.norm(direction), np.linalg.norm(normal)
    if length < 1e-6 or sine < 1e-6:
        return np.eye(3)
    angle = math.acos(np.clip(direction @ axis / length, -1, 1))
    x, y, z = normal / sine
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew


def rotation_of_angles(angles: np.ndarray) -> np.ndarray:
    """Rotation matrices Rz Ry Rx (..., 3, 3) of angles (..., 3) in radians, each of which turns the axes, not the points."""
    angles = np.asarray(angles)
    x, y, z = (_rotation_around(axis, angles[..., axis]) for axis in range(3))
    return z @ y @ x


def _rotation_around(axis: int, angle: np.ndarray) -> np.ndarray:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3), dtype=angle.dtype)
    matrix[..., axis, axis] = 1
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., first, second], matrix[..., second, first] = np.sin(angle), -np.sin(angle)  # turns the axes
    return matrix


def rotate(skeletons: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Turn skeletons (3, frames, joints, persons) by a matrix (3, 3)."""
    return np.einsum("dc,ctvm->dtvm", rotation, skeletons).astype(skeletons.dtype)


def find_up_axis(poses: np.ndarray, hips: Sequence[int], shoulders: Sequence[int]) -> str | None:
    """The axis along which shoulders are above hips in most frames, None if that is none of the four it may be.

    Args:
        poses: (frames, joints, 3).
        hips: Left and right hip.
        shoulders: Left and right shoulder.

    Returns:
        `"z"` or `"-z"`, `"y"` or `"-y"`.
    """
    trunks = poses[:, list(shoulders)].mean(axis=1) - poses[:, list(hips)].mean(axis=1)
    trunk = np.median(trunks / np.maximum(np.linalg.norm(trunks, axis=1, keepdims=True), 1e-9), axis=0)
    axis = int(np.argmax(np.abs(trunk)))
    if axis == 0 or abs(trunk[axis]) < UPRIGHT:
        return None
    return ("-" if trunk[axis] < 0 else "") + "xyz"[axis]


def turn_upright(poses: np.ndarray, up: str) -> np.ndarray:
    """Turn poses (..., 3) so that the axis `up`, one of `UP_AXES`, becomes z."""
    x, y, z = poses[..., 0], poses[..., 1], poses[..., 2]
    turned = {"z": (x, y, z), "-z": (x, -y, -z), "y": (x, -z, y), "-y": (x, z, -y)}[up]
    return np.stack(turned, axis=-1)


def view_normalize(
    poses: np.ndarray, bones: Sequence[tuple[int, int]], hips: Sequence[int], shoulders: Sequence[int]
) -> np.ndarray:
    """Free one person's sequence from place, heading and size.

    The middle of the hips is the origin of each frame. The whole sequence is turned around z so that in its first frames left
    and right lie along x, and divided by the mean length of the bones, the median over the frames.

    Args:
        poses: (frames, joints, 3), z up.
        bones: Child and parent of each bone.
        hips: Left and right hip.
        shoulders: Left and right shoulder.

    Raises:
        ValueError: If all joints are in one point.
    """
    poses = poses - poses[:, list(hips)].mean(axis=1, keepdims=True)
    first = poses[:FACING_FRAMES]
    across = sum(first[:, left] - first[:, right] for left, right in (hips, shoulders)).mean(axis=0)
    length = np.hypot(across[0], across[1])
    if length > 1e-6 * np.abs(first).max():
        cosine, sine = across[:2] / length
        poses = poses @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=poses.dtype)
    children, parents = np.array([bone for bone in bones if bone[0] != bone[1]]).T
    size = np.median(np.linalg.norm(poses[:, children] - poses[:, parents], axis=-1).mean(axis=1))
    if not size > 0:
        raise ValueError("Poses must have joints in different places; all bones have length 0.")
    return poses / size


def count_frames(skeletons: np.ndarray) -> int:
    """Frames of (channels, frames, joints, persons) that are not empty."""
    return int((skeletons.sum(axis=(0, 2, 3)) != 0).sum())


def ctr_translate(skeletons: np.ndarray) -> np.ndarray:
    """CTR-GCN's origin: the spine's middle of the first person in the first frame that has one; absent joints stay 0.

    Args:
        skeletons: (3, frames, 25, persons).
    """
    origins = skeletons[:, :, SPINE_MIDDLE, 0]
    there = np.flatnonzero(origins.any(axis=0))
    if not len(there):
        return skeletons.copy()
    present = (skeletons != 0).any(axis=0, keepdims=True)
    return (skeletons - origins[:, there[0], None, None, None]) * present


def ctr_crop_resize(
    skeletons: np.ndarray,
    num_frames: int,
    share: float | tuple[float, float] = 0.95,
    generator: np.random.Generator | None = None,
    least_frames: int = 64,
) -> np.ndarray:
    """CTR-GCN's sampling: cut a part out of the frames that are not empty, and resize it.

    Args:
        skeletons: (channels, frames, joints, persons), empty frames at the end.
        num_frames: Frames of the result.
        share: Of the frames that is kept, the middle; or with `generator` the range of a random share, at a random place.
        generator: Source of random numbers, for training.
        least_frames: Frames that a random part has at least, if there are as many.

    Returns:
        (channels, num_frames, joints, persons).

    Raises:
        ValueError: If all frames are empty, or nothing is left.
    """
    valid = count_frames(skeletons)
    if valid == 0:
        raise ValueError("`skeletons` must have a frame that is not empty.")
    if generator is None:
        start = int((1 - share) * valid / 2)
        part = skeletons[:, start : valid - start]
    else:
        low, high = share
        length = min(max(int(valid * generator.uniform(low, high)), least_frames), valid)
        start = int(generator.integers(valid - length + 1))
        part = skeletons[:, start : start + length]
    return resize_frames(part, num_frames)


def resize_frames(skeletons: np.ndarray, num_frames: int) -> np.ndarray:
    """Resample the frames of (channels, frames, joints, persons) linearly, as bilinear resizing of images does it."""
    length, dtype = skeletons.shape[1], skeletons.dtype.type
    # Step and places are rounded to the skeletons' precision as PyTorch has them: in long sequences float32 shows.
    places = ((np.arange(num_frames) + 0.5) * float(dtype(length / num_frames)) - 0.5).astype(dtype)
    places = np.clip(places, 0, length - 1)
    before = np.floor(places).astype(int)
    share = (places - before.astype(dtype))[:, None, None]
    after = np.minimum(before + 1, length - 1)
    return skeletons[:, before] * (1 - share) + skeletons[:, after] * share


def bone_stream(skeletons: np.ndarray, bones: Sequence[tuple[int, int]] = NTU_BONES) -> np.ndarray:
    """Joint minus parent, in the child's place; joints that are no child are 0.

    Args:
        skeletons: (..., channels, frames, joints, persons).
        bones: Child and parent of each bone.
    """
    children, parents = np.array(bones).T
    stream = np.zeros_like(skeletons)
    stream[..., children, :] = skeletons[..., children, :] - skeletons[..., parents, :]
    return stream


def motion_stream(skeletons: np.ndarray) -> np.ndarray:
    """Next frame minus this one, and 0 in the last, of (..., channels, frames, joints, persons)."""
    stream = np.zeros_like(skeletons)
    stream[..., :-1, :, :] = np.diff(skeletons, axis=-3)
    return stream


def displacement_stream(skeletons: np.ndarray) -> np.ndarray:
    """Each frame minus the first, of (..., channels, frames, joints, persons): where one starts matters no more."""
    return skeletons - skeletons[..., :1, :, :]


def make_streams(
    skeletons: np.ndarray, streams: Sequence[str], bones: Sequence[tuple[int, int]] = NTU_BONES
) -> np.ndarray:
    """Streams one after another along the channels.

    Args:
        skeletons: (..., channels, frames, joints, persons).
        streams: Of `STREAMS`.
        bones: Child and parent of each bone.

    Returns:
        (..., channels * streams, frames, joints, persons).
    """
    made = {"joint": skeletons}
    if any(stream.startswith("bone") for stream in streams):
        made["bone"] = bone_stream(skeletons, bones)
    for stream in streams:
        kind, _, change = stream.partition("_")
        if change:
            made[stream] = (motion_stream if change == "motion" else displacement_stream)(made[kind])
    return np.concatenate([made[stream] for stream in streams], axis=-4)


def fuse_scores(scores: Sequence[np.ndarray] | np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Weighted sum of the scores of several streams' models.

    Args:
        scores: For each stream (samples, classes).
        weights: For each stream; 2s-AGCN has 1 for joint and bone, CTR-GCN 0.6 for joint and bone and 0.4 for their motion.

    Raises:
        ValueError: If there are not as many weights as scores.
    """
    scores = np.asarray(scores)
    if scores.ndim != 3 or len(scores) != len(weights):
        raise ValueError(
            f"`scores` must be (samples, classes) for each of the {len(weights)} streams of `weights`, got {scores.shape}."
        )
    return np.tensordot(np.asarray(weights), scores, axes=1)


__all__ = [
    "NTU_BONES",
    "STREAMS",
    "UP_AXES",
    "agcn_normalize",
    "bone_stream",
    "count_frames",
    "ctr_crop_resize",
    "ctr_translate",
    "displacement_stream",
    "find_up_axis",
    "fuse_scores",
    "make_streams",
    "motion_stream",
    "resize_frames",
    "rotate",
    "rotation_between",
    "rotation_of_angles",
    "turn_upright",
    "view_normalize",
]
