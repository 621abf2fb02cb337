"""Keypoint sets: the names, flip pairs, skeleton and OKS constants of the data sets that the package knows.

Sigmas are the per-keypoint standard deviations of COCO's object keypoint similarity (cocodataset.org,
"Keypoint Evaluation"), CrowdPose's those of its own evaluation code.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

    Raises:
        ValueError: If names repeat, an index is out of range or used by two flip pairs, or the sigmas do not fit.
    """

    name: str
    keypoints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self):
        for field in ("keypoints", "sigmas"):
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
)

KEYPOINT_SETS = {
    keypoint_set.name: keypoint_set for keypoint_set in (COCO17, CROWDPOSE14, HALPE19, HUMAN36M18, MPII16)
}

__all__ = [
    "COCO17",
    "CROWDPOSE14",
    "HALPE19",
    "HUMAN36M18",
    "KEYPOINT_SETS",
    "MPII16",
    "KeypointSet",
    "canonical_name",
    "find_keypoint_set",
    "flip_permutation",
    "infer_flip_pairs",
]
