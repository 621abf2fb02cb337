import numpy as np
import pytest
import torch
from PIL import Image
from transformers import YolosConfig, YolosForObjectDetection, pipeline
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from hvmodels.pipelines.person_boxes import PersonBox, crop_areas, detect, load_detector, read_boxes


SIZE = (100, 80)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))


def found(xmin, ymin, xmax, ymax, score=0.9, label="person"):
    return {"score": score, "label": label, "box": {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}}


@pytest.mark.parametrize(
    "boxes",
    [
        [(1, 2, 30, 40.5)],
        ([1, 2, 30, 40.5],),
        np.array([[1, 2, 30, 40.5]]),
        torch.tensor([[1, 2, 30, 40.5]]),
        [np.array([1, 2, 30, 40.5])],
        [torch.tensor([1, 2, 30, 40.5])],
        [(np.float32(1), np.int64(2), 30, torch.tensor(40.5))],
        [{"box": {"xmin": 1, "ymin": 2, "xmax": 31, "ymax": 42.5}}],
    ],
    ids=["tuple", "list", "array", "tensor", "list-of-array", "list-of-tensor", "scalars", "dict"],
)
def test_every_way_to_write_a_box(boxes):
    assert read_boxes(boxes, SIZE) == [PersonBox(1.0, 2.0, 30.0, 40.5)]


def test_box_of_a_detector():
    (box,) = read_boxes([found(1, 2, 31, 42, 0.25, "pedestrian")], SIZE)
    assert box == PersonBox(1.0, 2.0, 30.0, 40.0, 0.25, "pedestrian")
    assert box.corners == {"xmin": 1.0, "ymin": 2.0, "xmax": 31.0, "ymax": 42.0}


def test_no_boxes_and_boxes_over_the_edge():
    assert read_boxes([], SIZE) == read_boxes(np.zeros((0, 4)), SIZE) == []
    assert read_boxes([(-50, -50, 51, 51), (99.5, 79.5, 500, 500)], SIZE)[0].xywh == (-50, -50, 51, 51)


@pytest.mark.parametrize(
    ("boxes", "error", "message"),
    [
        ([(100, 0, 5, 5)], ValueError, "must not lie outside the picture of 100 x 80 pixels; box 0 is"),
        ([(0, 0, 5, 5), (0, -9, 5, 9)], ValueError, "outside the picture of 100 x 80 pixels; box 1"),
        ([(0, 0, 0, 5)], ValueError, "a width and a height above 0; box 0 is"),
        ([(0, 0, 5, -5)], ValueError, "a width and a height above 0"),
        ([found(50, 10, 40, 20)], ValueError, "a width and a height above 0"),
        ([(0, float("nan"), 5, 5)], ValueError, "finite numbers; box 0 has nan"),
        ([(0, 0, 5, float("inf"))], ValueError, "finite numbers; box 0 has inf"),
        ([found(0, 0, 5, 5, score=float("nan"))], ValueError, "finite numbers; box 0 has nan"),
        ([(0, 0, 5, 5), found(0, 0, 5, 5)], ValueError, "all have a score, or none of them"),
        ((0, 0, 5, 5), TypeError, r"got a single box, write `\[box\]`"),
        ([[(0, 0, 5, 5)]], TypeError, "nested too deeply"),
        (np.zeros((1, 1, 4)), TypeError, "nested too deeply"),
        ([[]], TypeError, "box 0 is a list of 0 values"),
        ([(0, 0, 5)], TypeError, "box 0 is a tuple of 3 values"),
        (["0,0,5,5"], TypeError, "box 0 is a str"),
        ([(0, 0, "5", 5)], TypeError, "boxes of numbers; box 0 has '5'"),
        ([(0, 0, True, 5)], TypeError, "boxes of numbers; box 0 has True"),
        ([{"score": 1.0}], TypeError, "dict 0 has no `box` with xmin, ymin, xmax, ymax"),
        ([{"box": [0, 0, 5, 5]}], TypeError, "dict 0 has no `box`"),
        (found(0, 0, 5, 5), TypeError, "got dict"),
        ("boxes.json", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_refuses(boxes, error, message):
    with pytest.raises(error, match=message) as raised:
        read_boxes(boxes, SIZE)
    assert str(raised.value).startswith("`boxes` must")


def test_callable_detector():
    boxes = [found(0, 0, 10, 20, 0.8), found(0, 0, 30, 40, 0.2), found(0, 0, 9, 9, 0.9, "cat"), found(5, 5, 5, 9)]
    boxes += [found(200, 0, 210, 10), {"box": {"xmin": 1, "ymin": 1, "xmax": 2, "ymax": 2}, "score": 0.3}]
    seen = []

    def detector(picture):
        seen.append(picture)
        return boxes

    assert load_detector(detector, torch.device("cpu")) is detector
    assert [box.score for box in detect(detector, PICTURE)] == [0.8, 0.3]
    assert [box.score for box in detect(detector, PICTURE, threshold=0.0)] == [0.8, 0.2, 0.3]
    assert [box.label for box in detect(detector, PICTURE, labels=["cat"])] == ["cat", "person"]
    assert seen == [PICTURE] * 3
    assert detect(lambda picture: [(1, 2, 3, 4)], PICTURE) == [PersonBox(1.0, 2.0, 3.0, 4.0)]
    assert detect(lambda picture: np.zeros((0, 4)), PICTURE) == []


def test_refuses_what_a_callable_gives():
    with pytest.raises(TypeError, match=r"`detector` must give for its picture .* got NoneType"):
        detect(lambda picture: None, PICTURE)
    with pytest.raises(ValueError, match=r"`detector` must give for its picture boxes of finite numbers"):
        detect(lambda picture: [(0, 0, float("nan"), 1)], PICTURE)


@pytest.fixture(scope="module")
def yolos():
    """A real detector of transformers with random weights, which calls everything a person or a cat."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {
        "image_size": [32, 32],
        "patch_size": 16,
        "num_detection_tokens": 12,
        "use_mid_position_embeddings": False,
    }
    config = YolosConfig(**sizes, id2label={0: "person", 1: "cat"}, initializer_range=0.3)
    model = YolosForObjectDetection(config).eval()
    with torch.no_grad():
        model.vit.embeddings.detection_tokens.normal_()  # they start equal
        model.class_labels_classifier.layers[-1].bias.copy_(
            torch.tensor([0.0, 0.0, -100.0])
        )  # of person, cat, nothing
    return model, YolosImageProcessorPil(size={"height": 32, "width": 32})


def test_detectors_of_transformers(yolos):
    model, processor = yolos
    expected = pipeline("object-detection", model=model, image_processor=processor)(PICTURE, threshold=0.1)
    persons = [box for box in expected if box["label"] == "person" and box["box"]["xmax"] > box["box"]["xmin"]]
    assert 0 < len(persons) < len(expected)
    for given in (pipeline("object-detection", model=model, image_processor=processor), (model, processor)):
        detector = load_detector(given, torch.device("cpu"))
        boxes = detect(detector, PICTURE, threshold=0.1)
        assert [(box.corners, box.score) for box in boxes] == [(box["box"], box["score"]) for box in persons]
        assert detect(detector, PICTURE, threshold=1.0) == []


@pytest.mark.usefixtures("auto_image_processor")
def test_detector_by_its_folder(yolos, tmp_path):
    for part in yolos:
        part.save_pretrained(tmp_path)
    expected = detect(load_detector(yolos, torch.device("cpu")), PICTURE, threshold=0.1)
    for name in (tmp_path, str(tmp_path)):
        assert detect(load_detector(name, torch.device("cpu")), PICTURE, threshold=0.1) == expected != []


def test_refuses_detectors(yolos):
    with pytest.raises(TypeError, match="`detector` must come with its image processor"):
        load_detector(yolos[0], torch.device("cpu"))
    for value in (3, (yolos[0],), [1, 2]):
        with pytest.raises(TypeError, match="`detector` must be an object-detection pipeline"):
            load_detector(value, torch.device("cpu"))


def test_areas_of_crops():
    boxes = [PersonBox(0, 0, 30, 40), PersonBox(0, 0, 60, 40), PersonBox(5, 5, 10, 40)]
    np.testing.assert_allclose(crop_areas(boxes, 0.75, 1.25), [37.5 * 50, 75 * 100, 37.5 * 50])
    assert crop_areas([], 0.75, 1.25).shape == (0,)
