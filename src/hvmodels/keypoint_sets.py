"""Keypoint sets: names, flip pairs, skeleton, OKS constants of the data sets that the package knows; from one to another.

Sigmas are the per-keypoint standard deviations of COCO's object keypoint similarity (cocodataset.org,
"Keypoint Evaluation"), CrowdPose's those of its own evaluation code.

`convert_keypoints` takes keypoints of one set to another. A joint of the target is **exact** if the source has that very
joint, or all the joints that it is defined as the mean of. Otherwise it is put together, by the first rule of `_RULES`
whose joints the source has, and **approximate**: the pelvis from the hips, neck and thorax from the shoulders, the spine
between pelvis and thorax, the top of the head by extending neck and ears. Eyes, ears, hands and feet are never made up;
they come out NaN. "Exact" is about the definition: annotators of two data sets may still disagree by some per cent of a
person's height, at the hips most of all.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class KeypointSet:
    """A set of keypoints; all indices are 0-based.

    Args:
        name: Short name.
        keypoints: Keypoint names in the order of the annotations.
        flip_pairs: Pairs of keypoints that change places when an image is mirrored.
        links: Pairs of keypoints that a drawing joins, the skeleton.
        sigmas: OKS standard deviation of each keypoint, or None if unknown.
        parents: Parent of each keypoint in a tree, -1 for the root; None if the set is no tree.

    Raises:
        ValueError: If names repeat, an index is out of range or used by two flip pairs, the sigmas do not fit, or the
            parents are no tree.
    """

    name: str
    keypoints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] | None = None
    parents: tuple[int, ...] | None = None

    def __post_init__(self):
        for field in ("keypoints", "sigmas", "parents"):
            value = getattr(self, field)
            object.__setattr__(self, field, None if value is None else tuple(value))
        if not self.keypoints or len(set(self.keypoints)) != len(self.keypoints):
            raise ValueError(f"`keypoints` must be one or more different names, got {self.keypoints}.")
        for field in ("flip_pairs", "links"):
            pairs = tuple(tuple(pair) for pair in getattr(self, field))
            object.__setattr__(self, field, pairs)
            for pair in pairs:
                if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= index < len(self) for index in pair):
                    raise ValueError(
                        f"`{field}` must hold pairs of different indices from 0 to {len(self) - 1}, got {pair}."
                    )
        flipped = [index for pair in self.flip_pairs for index in pair]
        if len(set(flipped)) != len(flipped):
            raise ValueError(f"`flip_pairs` must use each keypoint at most once, got {self.flip_pairs}.")
        if self.sigmas is not None and (len(self.sigmas) != len(self) or not all(s > 0 for s in self.sigmas)):
            raise ValueError(f"`sigmas` must be {len(self)} positive numbers, one a keypoint, got {self.sigmas}.")
        if self.parents is not None and not _is_tree(self.parents, len(self)):
            raise ValueError(
                f"`parents` must be {len(self)} indices that lead from each keypoint to one root, whose parent is -1, "
                f"got {self.parents}."
            )

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def flip_permutation(self) -> np.ndarray:
        """(keypoints,) int64: keypoint k of a mirrored image is keypoint `flip_permutation[k]` of the image."""
        return flip_permutation(len(self), self.flip_pairs)

    @classmethod
    def from_names(
        cls,
        keypoints: Sequence[str],
        links: Iterable[tuple[int, int]] = (),
        sigmas: Sequence[float] | None = None,
        name: str = "custom",
    ) -> "KeypointSet":
        """A set with the flip pairs that the names tell.

        Args:
            keypoints: Names; `left`/`right` (or `l`/`r`) as a word of two otherwise equal names makes a flip pair.
            links: Skeleton, 0-based.
            sigmas: OKS standard deviations, None if unknown.
            name: Name of the set.
        """
        return cls(name, tuple(keypoints), infer_flip_pairs(keypoints), tuple(links), sigmas)


def _is_tree(parents: tuple[int, ...], size: int) -> bool:
    if len(parents) != size or parents.count(-1) != 1 or not all(-1 <= parent < size for parent in parents):
        return False
    ancestors = np.arange(size)
    table = np.array([*parents, -1])  # the parent of -1, the last entry, is -1
    for _ in range(size):
        ancestors = table[ancestors]
    return bool((ancestors == -1).all())


def flip_permutation(num_keypoints: int, flip_pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """(num_keypoints,) int64 order of the keypoints of a mirrored image."""
    permutation = np.arange(num_keypoints)
    for first, second in flip_pairs:
        permutation[[first, second]] = second, first
    return permutation


_OTHER_SIDE = {"left": "right", "l": "r", "right": "left", "r": "l"}
_SPELLED_OUT = {"l": "left", "r": "right"}


def _words(name: str) -> list[str]:
    return re.split(r"[\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())


def infer_flip_pairs(keypoints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of names that differ in the words left and right only, such as `left_eye`, `right_eye` or `eye.L`, `eye.R`."""
    words = [tuple(_words(name)) for name in keypoints]
    index_of = {name: index for index, name in enumerate(words)}
    mirrored = [index_of.get(tuple(_OTHER_SIDE.get(word, word) for word in name)) for name in words]
    return tuple((index, other) for index, other in enumerate(mirrored) if other is not None and index < other)


def canonical_name(name: str) -> str:
    """One spelling for the names of a keypoint: `left_eye` for `L_Eye`, `leftEye` and `left eye`."""
    return "_".join(_SPELLED_OUT.get(word, word) for word in _words(name))


def find_keypoint_set(keypoints: Sequence[str]) -> KeypointSet | None:
    """The set of the package that has these keypoints in this order, in any spelling; None if none has."""
    names = tuple(canonical_name(name) for name in keypoints)
    return next((known for known in KEYPOINT_SETS.values() if known.keypoints == names), None)


COCO17 = KeypointSet(
    name="coco17",
    keypoints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    links=(
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
    sigmas=(
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ),
)

CROWDPOSE14 = KeypointSet(
    name="crowdpose14",
    keypoints=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "head",
        "neck",
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    links=(
        (10, 8),
        (8, 6),
        (11, 9),
        (9, 7),
        (6, 7),
        (0, 6),
        (1, 7),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (12, 13),
        (13, 0),
        (13, 1),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    parents=(13, 13, 0, 1, 2, 3, 13, 13, 6, 7, 8, 9, 13, -1),
)

# The first 19 keypoints of Halpe-26 (github.com/Fang-Haoshu/Halpe-FullBody): COCO's, the top of the head and the neck.
# Sigmas of the last two are CrowdPose's.
HALPE19 = KeypointSet(
    name="halpe19",
    keypoints=(*COCO17.keypoints, "head", "neck"),
    flip_pairs=COCO17.flip_pairs,
    links=(*COCO17.links, (17, 18), (18, 5), (18, 6)),
    sigmas=(*COCO17.sigmas, 0.079, 0.079),
)

# Human3.6M's 17 joints and the thorax, the mean of the shoulders, as RLE's 3-D models have them. Neither this data set nor
# MPII defines OKS sigmas.
HUMAN36M18 = KeypointSet(
    name="human36m18",
    keypoints=(
        "pelvis",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "torso",
        "neck",
        "nose",
        "head",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "thorax",
    ),
    flip_pairs=((1, 4), (2, 5), (3, 6), (11, 14), (12, 15), (13, 16)),
    links=(
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 0),
        (5, 4),
        (6, 5),
        (7, 0),
        (8, 7),
        (9, 8),
        (10, 9),
        (11, 7),
        (12, 11),
        (13, 12),
        (14, 7),
        (15, 14),
        (16, 15),
        (17, 7),
    ),
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 7, 11, 12, 7, 14, 15, 7),
)

MPII16 = KeypointSet(
    name="mpii16",
    keypoints=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "neck",
        "head",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    links=(
        (0, 1),
        (1, 2),
        (2, 6),
        (3, 6),
        (4, 3),
        (5, 4),
        (6, 7),
        (7, 8),
        (8, 9),
        (10, 11),
        (11, 12),
        (12, 7),
        (13, 7),
        (14, 13),
        (15, 14),
    ),
    parents=(1, 2, 6, 6, 3, 4, -1, 6, 7, 8, 11, 12, 7, 7, 13, 14),
)


def _tree(name: str, keypoints: str, parents: tuple[int, ...]) -> KeypointSet:
    """A set whose links are the bones of its tree."""
    names = tuple(keypoints.split())
    bones = tuple((index, parent) for index, parent in enumerate(parents) if parent >= 0)
    return KeypointSet(name, names, infer_flip_pairs(names), bones, parents=parents)


# The usual order of Human3.6M's 17 joints (VideoPose3D's). The thorax is the base of the neck and the "nose" a point
# between neck and face, no tip of a nose; the head is its top.
HUMAN36M17 = _tree(
    "human36m17",
    """pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax nose head
    left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist""",
    (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
)

# The order of the Human3.6M files of SmoothNet and DeciWatch, which call joints 8 to 10 neck, head and head top.
HUMAN36M17_LEFT_FIRST = _tree(
    "human36m17_left_first",
    """pelvis left_hip left_knee left_ankle right_hip right_knee right_ankle spine thorax nose head
    left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist""",
    HUMAN36M17.parents,
)

# Leeds Sports Poses, and the 14 joints of 3DPW's evaluation.
LSP14 = _tree(
    "lsp14",
    """right_ankle right_knee right_hip left_hip left_knee left_ankle
    right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist neck head_top""",
    (1, 2, 12, 12, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12),
)

JHMDB15 = _tree(
    "jhmdb15",
    """neck belly face right_shoulder left_shoulder right_hip left_hip
    right_elbow left_elbow right_knee left_knee right_wrist left_wrist right_ankle left_ankle""",
    (1, -1, 0, 0, 0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10),
)

# The joints of the SMPL body model.
SMPL24 = _tree(
    "smpl24",
    """pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot right_foot
    neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist
    left_hand right_hand""",
    (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
)

# OpenPose's BODY_25; its neck and mid hip are the means of COCO's shoulders and hips.
OPENPOSE25 = _tree(
    "openpose25",
    """nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist
    mid_hip right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear
    left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel""",
    (1, 8, 1, 2, 3, 1, 5, 6, -1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
)

# NTU RGB+D: the joints of Kinect v2.
NTU25 = _tree(
    "ntu25",
    """spine_base spine_mid neck head left_shoulder left_elbow left_wrist left_hand
    right_shoulder right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot
    right_hip right_knee right_ankle right_foot spine_shoulder left_hand_tip left_thumb right_hand_tip right_thumb""",
    (-1, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 7, 7, 11, 11),
)

KEYPOINT_SETS = {
    keypoint_set.name: keypoint_set
    for keypoint_set in (
        COCO17,
        CROWDPOSE14,
        HALPE19,
        HUMAN36M17,
        HUMAN36M17_LEFT_FIRST,
        HUMAN36M18,
        JHMDB15,
        LSP14,
        MPII16,
        NTU25,
        OPENPOSE25,
        SMPL24,
    )
}

# Where a name does not say which joint is meant: that joint's name here, everywhere else it is the keypoint's own.
_HUMAN36M_JOINTS = {"nose": "skull_base", "head": "head_top"}
_JOINTS = {
    "crowdpose14": {"head": "head_top"},
    "halpe19": {"head": "head_top"},
    "human36m17": _HUMAN36M_JOINTS,
    "human36m17_left_first": _HUMAN36M_JOINTS,
    "human36m18": {**_HUMAN36M_JOINTS, "torso": "spine", "neck": "thorax", "thorax": "mid_shoulder"},
    "mpii16": {"neck": "upper_neck", "head": "head_top"},
    "ntu25": {"neck": "upper_neck"},
    "openpose25": {"neck": "mid_shoulder"},
    "smpl24": {"head": "skull_base"},
}

_MID_HIP = {"left_hip": 0.5, "right_hip": 0.5}
_MID_SHOULDER = {"left_shoulder": 0.5, "right_shoulder": 0.5}

# Joints that a set defines as a mean of others, so that no rule is needed.
_DEFINITIONS = {
    "human36m17": {"pelvis": _MID_HIP},
    "human36m17_left_first": {"pelvis": _MID_HIP},
    "human36m18": {"pelvis": _MID_HIP, "mid_shoulder": _MID_SHOULDER},
    "openpose25": {"mid_hip": _MID_HIP, "mid_shoulder": _MID_SHOULDER},
}

# What stands in for a joint, best first; the parts may be stood in for in turn. Weights over 1 extend a bone: the top of
# the head is as far over the ears as 0.6 of the way from shoulders to ears, the proportions of a standing adult.
_RULES: dict[str, tuple[dict[str, float], ...]] = {
    "pelvis": ({"mid_hip": 1}, {"spine_base": 1}, _MID_HIP),
    "mid_hip": (_MID_HIP, {"pelvis": 1}, {"spine_base": 1}),
    "spine_base": ({"pelvis": 1}, {"mid_hip": 1}, _MID_HIP),
    "neck": ({"thorax": 1}, {"spine_shoulder": 1}, {"mid_shoulder": 1}, _MID_SHOULDER),
    "thorax": ({"neck": 1}, {"spine_shoulder": 1}, {"mid_shoulder": 1}, _MID_SHOULDER),
    "spine_shoulder": ({"neck": 1}, {"thorax": 1}, {"mid_shoulder": 1}, _MID_SHOULDER),
    "mid_shoulder": (_MID_SHOULDER, {"neck": 1}, {"thorax": 1}, {"spine_shoulder": 1}),
    "spine": ({"spine_mid": 1}, {"spine2": 1}, {"pelvis": 0.5, "thorax": 0.5}, {"belly": 1}),
    "spine_mid": ({"spine": 1}, {"spine2": 1}, {"pelvis": 0.5, "thorax": 0.5}, {"belly": 1}),
    "spine1": ({"pelvis": 0.75, "thorax": 0.25},),
    "spine2": ({"spine": 1}, {"spine_mid": 1}, {"pelvis": 0.5, "thorax": 0.5}, {"belly": 1}),
    "spine3": ({"pelvis": 0.4, "thorax": 0.6},),
    "belly": ({"spine": 1}, {"spine_mid": 1}, {"spine2": 1}, {"pelvis": 0.5, "thorax": 0.5}),
    "left_collar": ({"thorax": 0.5, "left_shoulder": 0.5},),
    "right_collar": ({"thorax": 0.5, "right_shoulder": 0.5},),
    "mid_ear": ({"left_ear": 0.5, "right_ear": 0.5},),
    "mid_eye": ({"left_eye": 0.5, "right_eye": 0.5},),
    "skull_base": ({"upper_neck": 1}, {"mid_ear": 0.7, "thorax": 0.3}, {"head_top": 0.5, "thorax": 0.5}, {"head": 1}),
    "upper_neck": ({"mid_ear": 0.5, "thorax": 0.5}, {"skull_base": 1}),
    "head_top": ({"mid_ear": 1.6, "thorax": -0.6}, {"head": 1.6, "thorax": -0.6}),
    "head": ({"mid_ear": 1}, {"skull_base": 0.5, "head_top": 0.5}, {"face": 1}, {"skull_base": 1.5, "thorax": -0.5}),
    "face": ({"nose": 1}, {"mid_eye": 1}, {"head": 1}),
    "nose": ({"face": 1}, {"head": 1}),
    "left_foot": ({"left_big_toe": 0.5, "left_small_toe": 0.5},),
    "right_foot": ({"right_big_toe": 0.5, "right_small_toe": 0.5},),
}


def conversion_matrix(
    source: "KeypointSet | Sequence[str]",
    target: "KeypointSet | Sequence[str]",
    available: Sequence[bool] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How the keypoints of one set make those of another.

    Args:
        source: A set, or names, in any spelling.
        target: Same.
        available: (source,) which keypoints of the source there are, all if None.

    Returns:
        The weights (target, source), float64, whose rows add up to 1, or to 0 where the source does not tell that
        keypoint; and which keypoints of the target are exact, (target,) bool.

    Raises:
        ValueError: If names repeat.
    """
    source, target = _as_set(source, "source"), _as_set(target, "target")
    index_of = {joint: index for index, joint in enumerate(_joints(source)) if available is None or available[index]}
    definitions = _DEFINITIONS.get(target.name, {})
    weights, exact = np.zeros((len(target), len(source))), np.zeros(len(target), dtype=bool)
    for row, joint in enumerate(_joints(target)):
        mean = definitions.get(joint, {})
        if joint in index_of:
            weights[row, index_of[joint]], exact[row] = 1, True
        elif mean and all(part in index_of for part in mean):
            for part, weight in mean.items():
                weights[row, index_of[part]] = weight
            exact[row] = True
        else:
            for part, weight in (_stand_in(joint, index_of, frozenset()) or {}).items():
                weights[row, index_of[part]] = weight
    return weights, exact


def convert_keypoints(
    keypoints: Any, source: "KeypointSet | Sequence[str]", target: "KeypointSet | Sequence[str]"
) -> np.ndarray:
    """Keypoints of one set as those of another, see `conversion_matrix`.

    Args:
        keypoints: (..., source keypoints, dims), array or tensor; NaN where missing.
        source: Set of the keypoints, or their names in any spelling.
        target: Set or names to come to.

    Returns:
        (..., target keypoints, dims) in the float type of the keypoints; NaN where the source does not tell a keypoint,
        or misses one of those that make it. One that is missing everywhere, in all poses of the call, is taken for none
        of the source, so that the next rule may do without it (a head without the ear of the far side).

    Raises:
        ValueError: If the number of keypoints is not that of the source, or names repeat.
    """
    source, target = _as_set(source, "source"), _as_set(target, "target")
    keypoints = keypoints.detach().cpu().numpy() if hasattr(keypoints, "detach") else np.asarray(keypoints)
    if keypoints.ndim < 2 or keypoints.shape[-2] != len(source):
        raise ValueError(
            f"`keypoints` must have shape (..., {len(source)}, dims), as `source` has {len(source)} keypoints, "
            f"got {keypoints.shape}."
        )
    dtype = keypoints.dtype if np.issubdtype(keypoints.dtype, np.floating) else np.float64
    missing = np.isnan(keypoints)
    weights, _ = conversion_matrix(source, target, ~_missing_everywhere(missing))
    converted = weights.astype(dtype) @ np.where(missing, 0, keypoints).astype(dtype)
    converted[..., ~weights.any(axis=1), :] = np.nan
    if missing.any():
        converted[(weights != 0).astype(np.float32) @ missing.astype(np.float32) > 0] = np.nan
    return converted


def _missing_everywhere(missing: np.ndarray) -> np.ndarray:
    """(keypoints,) of (..., keypoints, dims)."""
    missing = missing.any(axis=-1)
    return missing.reshape(-1, missing.shape[-1]).all(axis=0) & (missing.size > 0)


def _as_set(value: "KeypointSet | Sequence[str]", name: str) -> KeypointSet:
    if isinstance(value, KeypointSet):
        return value
    if isinstance(value, str):
        raise ValueError(
            f"`{name}` must be a KeypointSet or a list of names, got {value!r}; `KEYPOINT_SETS` has the sets by name."
        )
    return find_keypoint_set(value) or KeypointSet.from_names([canonical_name(keypoint) for keypoint in value])


def _joints(keypoint_set: KeypointSet) -> list[str]:
    joints = _JOINTS.get(keypoint_set.name, {})
    return [joints.get(name, name) for name in map(canonical_name, keypoint_set.keypoints)]


def _stand_in(joint: str, available: Iterable[str], visited: frozenset[str]) -> dict[str, float] | None:
    """Weights of available joints that make a joint, None if there is no way."""
    if joint in available:
        return {joint: 1.0}
    rules = _RULES.get(joint, ())
    # What needs no second stand-in goes first; no joint stands in for itself.
    for rule in sorted(rules, key=lambda rule: any(part not in available for part in rule)):
        made: dict[str, float] = {}
        for part, weight in rule.items():
            parts = None if part in visited else _stand_in(part, available, visited | {joint})
            if parts is None:
                break
            for name, share in parts.items():
                made[name] = made.get(name, 0.0) + weight * share
        else:
            return made
    return None


__all__ = [
    "COCO17",
    "CROWDPOSE14",
    "HALPE19",
    "HUMAN36M17",
    "HUMAN36M17_LEFT_FIRST",
    "HUMAN36M18",
    "JHMDB15",
    "KEYPOINT_SETS",
    "LSP14",
    "MPII16",
    "NTU25",
    "OPENPOSE25",
    "SMPL24",
    "KeypointSet",
    "canonical_name",
    "conversion_matrix",
    "convert_keypoints",
    "find_keypoint_set",
    "flip_permutation",
    "infer_flip_pairs",
]
