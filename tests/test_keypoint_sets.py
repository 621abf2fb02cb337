import re

import numpy as np
import pytest
import torch

from hvmodels.keypoint_sets import (
    COCO17,
    CROWDPOSE14,
    HALPE19,
    HUMAN36M17,
    HUMAN36M17_LEFT_FIRST,
    HUMAN36M18,
    JHMDB15,
    KEYPOINT_SETS,
    LSP14,
    MPII16,
    NTU25,
    OPENPOSE25,
    SMPL24,
    KeypointSet,
    canonical_name,
    conversion_matrix,
    convert_keypoints,
    find_keypoint_set,
    infer_flip_pairs,
)


@pytest.mark.parametrize("keypoint_set", KEYPOINT_SETS.values(), ids=list(KEYPOINT_SETS))
def test_known_sets_are_consistent(keypoint_set):
    assert infer_flip_pairs(keypoint_set.keypoints) == keypoint_set.flip_pairs
    permutation = keypoint_set.flip_permutation
    np.testing.assert_array_equal(permutation[permutation], np.arange(len(keypoint_set)))
    if keypoint_set.sigmas is not None:
        sigmas = np.array(keypoint_set.sigmas)
        np.testing.assert_array_equal(sigmas[permutation], sigmas)
    mirrored = {frozenset((permutation[a], permutation[b])) for a, b in keypoint_set.links}
    assert mirrored == {frozenset(link) for link in keypoint_set.links}
    assert {index for link in keypoint_set.links for index in link} == set(range(len(keypoint_set)))
    if keypoint_set.parents is not None:
        parents = np.array(keypoint_set.parents)
        of_mirrored = parents[permutation]
        np.testing.assert_array_equal(np.where(of_mirrored < 0, -1, permutation[of_mirrored]), parents)


def test_known_sets_have_the_published_sizes():
    assert (len(COCO17), len(COCO17.links), sum(COCO17.sigmas)) == (17, 19, pytest.approx(1.138))
    assert (len(CROWDPOSE14), len(CROWDPOSE14.links), sum(CROWDPOSE14.sigmas)) == (14, 15, pytest.approx(1.15))
    assert CROWDPOSE14.keypoints[:2] == ("left_shoulder", "right_shoulder")
    assert CROWDPOSE14.keypoints[12:] == ("head", "neck")
    assert (len(HUMAN36M18), len(HUMAN36M18.links), len(HUMAN36M18.flip_pairs)) == (18, 17, 6)
    assert (len(MPII16), len(MPII16.links), len(MPII16.flip_pairs)) == (16, 15, 6)
    assert [(len(known), len(known.flip_pairs)) for known in (HUMAN36M17, LSP14, JHMDB15)] == [
        (17, 6),
        (14, 6),
        (15, 6),
    ]
    assert [(len(known), len(known.flip_pairs)) for known in (SMPL24, OPENPOSE25, NTU25)] == [
        (24, 9),
        (25, 11),
        (25, 10),
    ]


def test_orders_of_human36m_and_its_subset(shared_data):
    """The orders of the files on hand: the motion data's, and SmoothNet's with its way to the 14 joints of 3DPW."""
    with np.load(shared_data / "data" / "motion" / "cmu_test.npz") as file:
        names = [re.sub("^([RL])(?=[A-Z])", r"\1_", name) for name in file["joint_names"]]
        assert file["parents"].tolist() == list(HUMAN36M17.parents)
        joints = file["joints3d"]
    assert find_keypoint_set(names) is HUMAN36M17
    np.testing.assert_allclose(joints[:, 0], joints[:, [1, 4]].mean(axis=1), atol=0.1)  # the pelvis by its definition
    weights, exact = conversion_matrix(HUMAN36M17_LEFT_FIRST, LSP14)
    assert weights.argmax(axis=1).tolist() == [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]
    assert exact.tolist() == [True] * 12 + [False, True]  # the neck is Human3.6M's thorax


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("l_eye", "nose", "r_eye"), ((0, 2),)),
        (("eye.L", "eye.R"), ((0, 1),)),
        (("LeftHand", "RightHand", "Leftover"), ((0, 1),)),
        (("leftEye", "rightEye", "left eye 2", "right eye 2"), ((0, 1), (2, 3))),
        (("left_paw", "tail", "top"), ()),
        (("лево", "право"), ()),
    ],
)
def test_flip_pairs_follow_from_names(names, pairs):
    assert KeypointSet.from_names(names).flip_pairs == pairs


def test_one_spelling_for_every_name():
    for name in ("L_Shoulder", "leftShoulder", "left shoulder", "LEFT-SHOULDER", "left_shoulder"):
        assert canonical_name(name) == "left_shoulder"
    assert canonical_name("Nose") == "nose" and canonical_name("LElbow") == "lelbow"  # no word of its own


def test_sets_are_found_by_the_names_of_their_keypoints():
    for known in KEYPOINT_SETS.values():
        assert find_keypoint_set(known.keypoints) is known
    assert find_keypoint_set([name.replace("left", "L").title() for name in COCO17.keypoints]) is COCO17
    assert find_keypoint_set(COCO17.keypoints[::-1]) is find_keypoint_set(COCO17.keypoints[:5]) is None
    assert find_keypoint_set(()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keypoints": ()}, "`keypoints`"),
        ({"keypoints": ("a", "a")}, "`keypoints`"),
        ({"keypoints": ("a", "b"), "links": ((0, 2),)}, "`links`"),
        ({"keypoints": ("a", "b"), "flip_pairs": ((1, 1),)}, "`flip_pairs`"),
        ({"keypoints": ("a", "b", "c"), "flip_pairs": ((0, 1), (1, 2))}, "`flip_pairs`"),
        ({"keypoints": ("a", "b"), "sigmas": (0.1,)}, "`sigmas`"),
        ({"keypoints": ("a", "b"), "sigmas": (0.1, 0)}, "`sigmas`"),
        ({"keypoints": ("a", "b"), "parents": (-1,)}, "`parents`"),
        ({"keypoints": ("a", "b"), "parents": (-1, -1)}, "`parents`"),
        ({"keypoints": ("a", "b", "c"), "parents": (-1, 2, 1)}, "`parents`"),
    ],
)
def test_inconsistent_sets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KeypointSet("custom", **arguments)


@pytest.mark.parametrize("source", KEYPOINT_SETS.values(), ids=list(KEYPOINT_SETS))
def test_conversions_between_all_sets(source):
    for target in KEYPOINT_SETS.values():
        weights, exact = conversion_matrix(source, target)
        assert weights.shape == (len(target), len(source)) and exact.shape == (len(target),)
        known = weights.any(axis=1)
        np.testing.assert_allclose(weights.sum(axis=1), known, atol=1e-12)
        assert known[exact].all()
        # Mirrored keypoints of the source make the mirrored keypoint of the target.
        np.testing.assert_allclose(weights[target.flip_permutation][:, source.flip_permutation], weights, atol=1e-12)
        np.testing.assert_array_equal(exact[target.flip_permutation], exact)
        # Limbs have one name everywhere, and nobody makes up the small parts of a face, a hand or a foot.
        for index, name in enumerate(target.keypoints):
            if name in source.keypoints and name.startswith(("left", "right")):
                assert exact[index] and weights[index, source.keypoints.index(name)] == 1
            elif any(part in name for part in ("eye", "ear", "hand", "thumb", "toe", "heel")):
                assert not known[index]
    weights, exact = conversion_matrix(source, source.keypoints)
    np.testing.assert_array_equal(weights, np.eye(len(source)))
    assert exact.all()


def made_of(source, target, name):
    """What makes a keypoint, and whether it is exact."""
    weights, exact = conversion_matrix(source, target)
    row = target.keypoints.index(name)
    parts = {source.keypoints[index]: float(weights[row, index]) for index in np.flatnonzero(weights[row])}
    return {part: round(weight, 6) for part, weight in parts.items()}, bool(exact[row])


HIPS = {"left_hip": 0.5, "right_hip": 0.5}
SHOULDERS = {"left_shoulder": 0.5, "right_shoulder": 0.5}


@pytest.mark.parametrize(
    ("source", "target", "name", "parts", "exact"),
    [
        (COCO17, HUMAN36M17, "pelvis", HIPS, True),  # so it is defined
        (COCO17, MPII16, "pelvis", HIPS, False),  # there it is annotated
        (COCO17, OPENPOSE25, "mid_hip", HIPS, True),
        (COCO17, OPENPOSE25, "neck", SHOULDERS, True),
        (COCO17, HALPE19, "neck", SHOULDERS, False),
        (COCO17, HUMAN36M18, "thorax", SHOULDERS, True),
        (COCO17, HUMAN36M17, "spine", dict.fromkeys(HIPS | SHOULDERS, 0.25), False),
        (HALPE19, HUMAN36M17, "head", {"head": 1}, True),
        (HALPE19, HUMAN36M17, "thorax", {"neck": 1}, False),
        (HUMAN36M17, HUMAN36M18, "torso", {"spine": 1}, True),
        (HUMAN36M17, HUMAN36M18, "neck", {"thorax": 1}, True),
        (HUMAN36M17, HUMAN36M18, "thorax", SHOULDERS, True),
        (HUMAN36M18, HUMAN36M17, "thorax", {"neck": 1}, True),
        (MPII16, CROWDPOSE14, "neck", {"thorax": 1}, False),  # MPII's own neck is where the head begins
        (MPII16, CROWDPOSE14, "head", {"head": 1}, True),
        (NTU25, LSP14, "neck", {"spine_shoulder": 1}, False),
        (NTU25, HUMAN36M17, "spine", {"spine_mid": 1}, False),
        (OPENPOSE25, SMPL24, "left_foot", {"left_big_toe": 0.5, "left_small_toe": 0.5}, False),
        (LSP14, JHMDB15, "face", {"head_top": 0.75, "neck": 0.25}, False),
        (JHMDB15, COCO17, "nose", {"face": 1}, False),
        (SMPL24, COCO17, "left_eye", {}, False),
    ],
    ids=lambda value: getattr(value, "name", value if isinstance(value, str) else None),
)
def test_what_makes_a_keypoint(source, target, name, parts, exact):
    assert made_of(source, target, name) == (parts, exact)


def test_head_is_extended_from_shoulders_and_ears():
    keypoints = np.full((17, 2), np.nan)
    for name, place in {
        "left_ear": (4, 10),
        "right_ear": (6, 10),
        "left_shoulder": (2, 20),
        "right_shoulder": (8, 20),
    }.items():
        keypoints[COCO17.keypoints.index(name)] = place
    converted = convert_keypoints(keypoints, COCO17, LSP14)
    np.testing.assert_allclose(converted[-2:], [[5, 20], [5, 4]])  # neck, and the top above the ears
    assert np.isnan(converted[:8]).all()  # hips, legs and arms have not been seen


def test_conversion_keeps_places_types_and_gaps():
    keypoints = np.random.default_rng(0).normal(size=(2, 5, 17, 3)).astype(np.float32)
    keypoints[0, 2, 11] = np.nan  # the left hip
    keypoints[1, 0, 0, 1] = np.nan  # a coordinate of the nose, which nothing else is made of
    converted = convert_keypoints(torch.tensor(keypoints), COCO17, HUMAN36M17)
    assert converted.shape == (2, 5, 17, 3) and converted.dtype == np.float32
    lost = {(0, 2, HUMAN36M17.keypoints.index(name)) for name in ("pelvis", "left_hip", "spine")}
    assert {tuple(place) for place in np.argwhere(np.isnan(converted).all(axis=-1))} == lost
    assert np.isnan(converted).sum() == 9
    np.testing.assert_array_equal(converted[..., 13, :], keypoints[..., 9, :])  # left wrist
    names = [name.replace("left", "L").title() for name in COCO17.keypoints]
    np.testing.assert_array_equal(convert_keypoints(keypoints, names, HUMAN36M17), converted)
    back = convert_keypoints(
        convert_keypoints(converted, HUMAN36M17, HUMAN36M17_LEFT_FIRST), HUMAN36M17_LEFT_FIRST, HUMAN36M17
    )
    np.testing.assert_array_equal(back, converted)


def test_conversion_to_names_of_ones_own():
    weights, exact = conversion_matrix(COCO17, ["L_Wrist", "Neck", "tail"])
    assert weights.argmax(axis=1).tolist()[0] == 9 and exact.tolist() == [True, False, False]
    assert weights.sum(axis=1).tolist() == [1, 1, 0]
    converted = convert_keypoints(np.arange(34).reshape(17, 2), COCO17, ["L_Wrist", "Neck", "tail"])
    np.testing.assert_array_equal(converted, [[18, 19], [11, 12], [np.nan, np.nan]])


def test_conversion_refuses():
    with pytest.raises(ValueError, match=r"`keypoints` must have shape \(\.\.\., 17, dims\)"):
        convert_keypoints(np.zeros((2, 16, 2)), COCO17, LSP14)
    with pytest.raises(ValueError, match="`keypoints` must have shape"):
        convert_keypoints(np.zeros(17), COCO17, LSP14)
    with pytest.raises(ValueError, match="`target` must be a KeypointSet or a list of names"):
        conversion_matrix(COCO17, "lsp14")
    with pytest.raises(ValueError, match="`keypoints` must be one or more different names"):
        conversion_matrix(["left_eye", "L_Eye"], COCO17)


def test_keypoints_that_are_missing_throughout_are_done_without():
    poses = np.random.default_rng(0).normal(size=(3, 17, 2))
    poses[:, COCO17.keypoints.index("left_ear")] = np.nan  # seen from the right
    head = convert_keypoints(poses, COCO17, HUMAN36M17)[:, HUMAN36M17.keypoints.index("head")]
    nose, shoulders = poses[:, 0], poses[:, 5:7].mean(axis=1)
    np.testing.assert_allclose(head, 1.6 * nose - 0.6 * shoulders)
    poses[1, COCO17.keypoints.index("left_ear")] = 0
    head = convert_keypoints(poses, COCO17, HUMAN36M17)[:, HUMAN36M17.keypoints.index("head")]
    assert np.isnan(head).any(axis=1).tolist() == [True, False, True]
    assert np.isnan(convert_keypoints(poses * np.nan, COCO17, HUMAN36M17)).all()
