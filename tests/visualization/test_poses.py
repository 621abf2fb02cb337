import numpy as np
import pytest
from PIL import Image

from hvmodels.visualization.poses import OUTLINE, PERSON_COLOURS, SIDE_COLOURS, draw_poses, side_of


def person(score=0.9, left=20, label="left_hip", keypoint_scores=(0.9, 0.9, 0.9)):
    points = [(left + 10, 30), (left + 40, 30), (left + 40, 70)]
    names = [label, "right_hip", "right_knee"]
    return {
        "score": score,
        "label": "person",
        "box": {"xmin": left, "ymin": 20, "xmax": left + 50, "ymax": 80},
        "keypoints": [
            {"label": name, "x": x, "y": y, "score": score}
            for name, (x, y), score in zip(names, points, keypoint_scores, strict=True)
        ],
    }


LINKS = [(0, 1), (1, 2)]
GREY = Image.new("RGB", (160, 100), (128, 128, 128))


def pixel(image, x, y):
    return image.getpixel((x, y))


def test_limbs_have_the_colour_of_their_side():
    drawn = draw_poses(GREY, [person()], LINKS, line_width=4)
    assert drawn.size == GREY.size and drawn.mode == "RGB"
    assert GREY.getcolors() == [(16000, (128, 128, 128))]  # the picture itself stays as it was
    assert pixel(drawn, 45, 30) == SIDE_COLOURS[None]  # between the hips
    assert pixel(drawn, 60, 50) == SIDE_COLOURS["right"]
    assert pixel(drawn, 30, 30) == SIDE_COLOURS["left"]  # a joint
    assert pixel(drawn, 20, 50) == PERSON_COLOURS[0]  # the box
    assert pixel(drawn, 100, 90) == (128, 128, 128)


def test_joints_alone_and_nothing_else():
    drawn = draw_poses(GREY, [person()], line_width=4, boxes=False, scores=False)
    assert pixel(drawn, 45, 30) == pixel(drawn, 20, 50) == (128, 128, 128)
    assert pixel(drawn, 60, 70) == SIDE_COLOURS["right"]
    colours = {colour for _, colour in drawn.getcolors(100_000)}
    assert not colours & set(PERSON_COLOURS)


def test_thresholds():
    hidden = person(keypoint_scores=(0.9, 0.0, 0.9))
    drawn = draw_poses(GREY, [hidden], LINKS, line_width=4, boxes=False, scores=False)
    assert pixel(drawn, 45, 30) == pixel(drawn, 60, 50) == pixel(drawn, 60, 30) == (128, 128, 128)
    assert pixel(drawn, 30, 30) == SIDE_COLOURS["left"]
    nobody = draw_poses(GREY, [person(score=0.2)], LINKS, threshold=0.5)
    np.testing.assert_array_equal(np.asarray(nobody), np.asarray(GREY))
    all_low = draw_poses(GREY, [person()], LINKS, keypoint_threshold=0.95, boxes=False, scores=False)
    np.testing.assert_array_equal(np.asarray(all_low), np.asarray(GREY))


def test_confidence_goes_before_the_score():
    unsure, sure = person(keypoint_scores=(0.9, 0.9, 0.1)), person(keypoint_scores=(0.9, 0.9, 0.1))
    for index, value in enumerate((0.9, 0.2, 0.9)):
        sure["keypoints"][index]["confidence"] = value
    drawn = [draw_poses(GREY, [item], line_width=4, boxes=False, keypoint_threshold=0.5) for item in (unsure, sure)]
    grey, right = (128, 128, 128), SIDE_COLOURS["right"]
    assert [pixel(image, 60, 30) for image in drawn] == [right, grey]
    assert [pixel(image, 60, 70) for image in drawn] == [grey, right]


def test_higher_scores_are_on_top():
    first, second = person(score=0.9), person(score=0.4, label="right_shoulder")
    drawn = draw_poses(GREY, [first, second], LINKS, line_width=4)
    assert pixel(drawn, 30, 30) == SIDE_COLOURS["left"]
    np.testing.assert_array_equal(
        np.asarray(drawn), np.asarray(draw_poses(GREY, [second, first], LINKS, line_width=4))
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (4000, 30)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "array"])
def test_any_picture_and_persons_beyond_its_edge(size, mode):
    image = Image.new("L" if mode == "L" else "RGB", size)
    image = np.asarray(image) if mode == "array" else image.convert(mode)
    far = person(left=-30)
    turned = {**person(), "box": {"xmin": 50, "ymin": 80, "xmax": 20, "ymax": 20}}
    assert draw_poses(image, [far, person(left=990), turned], LINKS).size == size
    assert draw_poses(image, []).getextrema() == ((0, 0),) * 3


def test_sigmas():
    uncertain = person()
    uncertain["keypoints"][2]["sigma"] = 20.0
    plain, drawn = (
        draw_poses(GREY, [uncertain], line_width=4, boxes=False, scores=False, show_sigmas=value)
        for value in (False, True)
    )
    assert (
        pixel(drawn, 79, 70) == pixel(drawn, 60, 51) == SIDE_COLOURS["right"]
    )  # a circle of 20 pixels around the knee
    assert pixel(plain, 79, 70) == pixel(plain, 60, 51) == pixel(drawn, 70, 70) == (128, 128, 128)
    changed = np.argwhere((np.asarray(plain) != np.asarray(drawn)).any(axis=-1)) - (70, 60)
    radii = np.linalg.norm(changed, axis=1)
    assert radii.min() > 17 and radii.max() < 21.5  # and nothing around the others, which have no sigma
    hidden = draw_poses(GREY, [uncertain], keypoint_threshold=0.95, boxes=False, scores=False, show_sigmas=True)
    np.testing.assert_array_equal(np.asarray(hidden), np.asarray(GREY))


def test_refuses_links_to_keypoints_that_are_not_there():
    with pytest.raises(ValueError, match=r"`links` must join keypoints 0 to 2, got \(2, 3\)"):
        draw_poses(GREY, [person()], [(2, 3)])


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_hip", "left"),
        ("RightKnee", "right"),
        ("ankle.L", "left"),
        ("r_eye", "right"),
        ("nose", None),
        ("upright", None),
        ("keypoint_3", None),
        ("left_right", None),
    ],
)
def test_side_of(name, side):
    assert side_of(name) == side
    assert OUTLINE not in SIDE_COLOURS.values()
