import numpy as np
import pytest

from hvmodels.keypoint_sets import (
    COCO17,
    CROWDPOSE14,
    HUMAN36M18,
    KEYPOINT_SETS,
    MPII16,
    KeypointSet,
    canonical_name,
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


def test_known_sets_have_the_published_sizes():
    assert (len(COCO17), len(COCO17.links), sum(COCO17.sigmas)) == (17, 19, pytest.approx(1.138))
    assert (len(CROWDPOSE14), len(CROWDPOSE14.links), sum(CROWDPOSE14.sigmas)) == (14, 15, pytest.approx(1.15))
    assert CROWDPOSE14.keypoints[:2] == ("left_shoulder", "right_shoulder")
    assert CROWDPOSE14.keypoints[12:] == ("head", "neck")
    assert (len(HUMAN36M18), len(HUMAN36M18.links), len(HUMAN36M18.flip_pairs)) == (18, 17, 6)
    assert (len(MPII16), len(MPII16.links), len(MPII16.flip_pairs)) == (16, 15, 6)


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
    ],
)
def test_inconsistent_sets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KeypointSet("custom", **arguments)
