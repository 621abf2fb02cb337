"""Top-down models in the pose pipeline: a stand-in whose poses are known, and ViTPose and Sapiens2 of transformers."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, VitPoseConfig, VitPoseForPoseEstimation, pipeline
from transformers.image_processing_utils import BatchFeature
from transformers.utils import ModelOutput

from hvmodels import PoseEstimationPipeline, RLEConfig, RLEForPoseEstimation, RLEImageProcessor
from hvmodels.cli import EXAMPLE_BOX, example_picture
from hvmodels.hub import export
from hvmodels.keypoint_sets import COCO17
from hvmodels.pipelines import pipeline_pose_estimation
from hvmodels.pipelines.person_boxes import PersonBox


class CropConfig(PreTrainedConfig):
    model_type = "crop_pose"
    keypoint_sigmas: list[float] | tuple[float, ...] | None = (0.1, 0.1, 0.1)
    flip_pairs: list | tuple | None = ((1, 2),)


@dataclass
class CropOutput(ModelOutput):
    keypoints: torch.Tensor | None = None
    sigmas: torch.Tensor | None = None
    scores: torch.Tensor | None = None


class CropModel(PreTrainedModel):
    """Keypoints at fixed places of the crop; the score is the crop's mean red, and the flip test marks the keypoints."""

    config: CropConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.places = nn.Parameter(torch.tensor([[0.0, -0.25], [0.25, 0.25], [-0.25, 0.25]]))
        self.batches = []
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values, flip_test=False):
        self.batches.append(len(pixel_values))
        scores = pixel_values[:, 0].mean(dim=(1, 2))[:, None] * pixel_values.new_tensor([1.0, 0.8, 0.6])
        keypoints = self.places.expand(len(scores), -1, -1) + (0.1 if flip_test else 0.0)
        sigmas = pixel_values.new_tensor([0.01, 0.03]).expand(len(scores), 3, 2)
        return CropOutput(keypoints, sigmas, scores)


class CropProcessor:
    """Crops without padding, scaled by Pillow; the results have everything that RLE's have."""

    size = {"height": 16, "width": 12}
    box_padding = 1.0
    has_depth = False

    def __call__(self, images, boxes, return_tensors):
        crops = []
        for image, image_boxes in zip(images, boxes, strict=True):
            for x, y, width, height in image_boxes:
                crop = image.resize((12, 16), Image.Resampling.BOX, box=(x, y, x + width, y + height))
                crops.append(torch.tensor(np.asarray(crop)).permute(2, 0, 1) / 255)
        return BatchFeature({"pixel_values": torch.stack(crops), "crop_boxes": torch.zeros(len(crops), 4)})

    def post_process_pose_estimation(self, outputs, boxes, threshold=None, target_sizes=None):
        assert threshold is None and target_sizes is None
        rows = iter(zip(outputs.keypoints, outputs.sigmas, outputs.scores, strict=True))
        results = []
        for image_boxes in boxes:
            persons = []
            for x, y, width, height in image_boxes:
                keypoints, sigmas, scores = next(rows)
                size = torch.tensor([width, height])
                points = (keypoints + 0.5) * size + torch.tensor([x, y])
                person = {"keypoints": points, "scores": scores, "labels": torch.arange(3), "bbox": torch.zeros(4)}
                person |= {"sigmas": sigmas * size, "confidences": scores / 2}
                if self.has_depth:
                    person["keypoints"] = torch.cat([points, torch.tensor([[7.0]] * 3)], dim=1)
                    person["depths"] = torch.tensor([0.0, 100.0, -100.0])
                persons.append(person)
            results.append(persons)
        assert next(rows, None) is None
        return results


def make_pipeline(processor=None, **options):
    names = {0: "nose", 1: "left_hip", 2: "right_hip"}
    model = CropModel(CropConfig(id2label=names, **options)).eval()
    return PoseEstimationPipeline(model=model, image_processor=processor or CropProcessor())


@pytest.fixture
def estimator():
    return make_pipeline()


def picture(size=(120, 90)):
    """Redder to the right, so that a box's score tells where it is."""
    red = np.linspace(0, 255, size[0]).astype(np.uint8)
    array = np.zeros((size[1], size[0], 3), np.uint8)
    array[..., 0] = red
    return Image.fromarray(array)


BOXES = [(10, 20, 30, 40), (70.5, 10, 30, 60), (40, 0, 24, 32)]


def corners(x, y, width, height):
    return {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}


def flat(persons):
    return [
        [person["score"], *person["box"].values(), *(p[k] for p in person["keypoints"] for k in p if k != "label")]
        for person in persons
    ]


def assert_same(first, second, tolerance=1e-5):
    assert [len(persons) for persons in first] == [len(persons) for persons in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(flat(one), flat(other), rtol=0, atol=tolerance)


def test_persons_of_boxes(estimator):
    persons = estimator(picture(), boxes=BOXES)
    assert [person["box"] for person in persons] == [corners(*BOXES[index]) for index in (1, 2, 0)]
    for person in persons:
        assert list(person) == ["score", "label", "box", "keypoints"] and person["label"] == "person"
        x, y, right, bottom = person["box"].values()
        width, height = right - x, bottom - y
        nose, left, right = person["keypoints"]
        assert list(nose) == ["label", "x", "y", "score", "sigma", "confidence"]
        assert [point["label"] for point in (nose, left, right)] == ["nose", "left_hip", "right_hip"]
        assert (nose["x"], nose["y"]) == pytest.approx((x + 0.5 * width, y + 0.25 * height), abs=1e-4)
        assert (left["x"], right["x"]) == pytest.approx((x + 0.75 * width, x + 0.25 * width), abs=1e-4)
        assert nose["sigma"] == pytest.approx((0.01 * width + 0.03 * height) / 2, abs=1e-5)
        assert left["confidence"] == pytest.approx(left["score"] / 2, abs=1e-6)
        scores = [point["score"] for point in (nose, left, right)]
        assert person["score"] == pytest.approx((np.mean(scores) + max(scores)) / 2, abs=1e-6)
        assert all(isinstance(value, float) for value in [*list(nose.values())[1:], *person["box"].values()])


def test_boxes_of_a_detector_passed_on(estimator):
    boxes = [
        {"box": corners(*box), "score": score, "label": "swimmer"}
        for box, score in zip(BOXES, (0.9, 0.1, 0.5), strict=True)
    ]
    persons, plain = estimator(picture(), boxes=boxes), estimator(picture(), boxes=BOXES)
    by_box = {person["box"]["xmin"]: person for person in plain}
    for box in boxes:
        (person,) = [person for person in persons if person["box"] == box["box"]]
        assert person["label"] == "swimmer"
        alone = by_box[box["box"]["xmin"]]
        assert person["keypoints"] == alone["keypoints"]
        assert person["score"] == pytest.approx((box["score"] + 2 * alone["score"]) / 3, abs=1e-6)
    assert [person["score"] for person in persons] == sorted((person["score"] for person in persons), reverse=True)
    assert_same([estimator(picture(), boxes=persons)], [estimator(picture(), boxes=persons[::-1])])  # own results


def test_depth():
    processor = CropProcessor()
    processor.has_depth = True
    (person,) = make_pipeline(processor)(picture(), boxes=BOXES[:1])
    nose = person["keypoints"][0]
    assert list(nose) == ["label", "x", "y", "score", "sigma", "confidence", "depth"]
    assert [point["depth"] for point in person["keypoints"]] == [0.0, 100.0, -100.0]
    assert nose["y"] == pytest.approx(30)


def test_the_whole_picture_without_boxes(estimator, monkeypatch):
    warnings = []
    monkeypatch.setattr(pipeline_pose_estimation.logger, "warning_once", warnings.append)
    (person,) = estimator(picture())
    assert person["box"] == corners(0.0, 0.0, 120.0, 90.0)
    assert len(warnings) == 1 and "the whole picture" in warnings[0] and "`detector`" in warnings[0]
    assert [person] == estimator(picture(), boxes=[(0, 0, 120, 90)])
    assert len(warnings) == 1


def test_many_pictures(estimator, tmp_path):
    pictures = [picture((60 + 20 * index, 50)) for index in range(3)]
    boxes = [[(0, 0, 20, 30)], [], [(5, 5, 20, 20), (40, 5, 30, 40)]]
    alone = [estimator(image, boxes=own) for image, own in zip(pictures, boxes, strict=True)]
    assert [len(persons) for persons in alone] == [1, 0, 2]
    assert estimator(pictures, boxes=boxes) == alone
    assert list(estimator(iter(pictures), boxes=boxes)) == alone
    assert list(estimator(iter(pictures), boxes=iter(boxes))) == alone
    for index, image in enumerate(pictures):
        image.save(tmp_path / f"{index}.png")
    assert estimator(tmp_path, boxes=boxes) == estimator(str(tmp_path), boxes=tuple(boxes)) == alone
    assert estimator([], boxes=[]) == [] and estimator(picture(), boxes=[]) == []
    assert estimator(pictures[:2], boxes=np.array([[(0, 0, 20, 30)]] * 2)) == [
        estimator(image, boxes=[(0, 0, 20, 30)]) for image in pictures[:2]
    ]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 7, 100])
def test_batches_of_crops(estimator, batch_size):
    random = np.random.default_rng(0)
    pictures = [picture((60 + 10 * index, 50)) for index in range(6)]
    counts = [3, 0, 5, 1, 0, 2]
    boxes = [np.column_stack([random.uniform(0, 30, (n, 2)), random.uniform(5, 20, (n, 2))]) for n in counts]
    alone = [estimator(image, boxes=own, batch_size=1) for image, own in zip(pictures, boxes, strict=True)]
    estimator.model.batches.clear()
    assert_same(estimator(pictures, boxes=boxes, batch_size=batch_size), alone)
    expected = [n for n in counts if n] if batch_size is None else [batch_size] * (11 // batch_size)
    expected += [11 % batch_size] if batch_size and 11 % batch_size else []
    assert estimator.model.batches == expected


def test_many_crops_of_one_picture(estimator):
    persons = estimator(picture(), boxes=[(index, 0, 20, 20) for index in range(40)])
    assert len(persons) == 40
    assert estimator.model.batches == [16, 16, 8]


def test_generators_are_read_as_far_as_needed(estimator):
    taken = []

    def frames():
        for index in range(100):
            taken.append(index)
            yield picture()

    results = estimator(frames(), boxes=[BOXES[:1]] * 100)
    assert not taken
    next(results)
    assert len(taken) == 1
    results = estimator(frames(), boxes=[[]] * 99 + [BOXES], batch_size=4)
    taken.clear()
    next(results)
    assert len(taken) == 1  # nothing to wait for
    results = estimator(frames(), boxes=[BOXES[:1], *[[]] * 99], batch_size=4)
    taken.clear()
    next(results)
    assert len(taken) == pipeline_pose_estimation.BATCHES_IN_VIEW * 4  # nor for ever
    assert list(results) == [[]] * 99


def detector_of(*boxes):
    return lambda picture: [{"box": corners(*box), "score": score, "label": label} for box, score, label in boxes]


def test_detector(estimator):
    found = [(BOXES[0], 0.9, "person"), (BOXES[1], 0.2, "person"), (BOXES[2], 0.9, "cat")]
    detector = detector_of(*found)
    boxes = [{"box": corners(*box), "score": score} for box, score, _ in found]
    assert estimator(picture(), detector=detector) == estimator(picture(), boxes=boxes[:1])
    assert estimator(picture(), detector=detector, detector_threshold=0.1) == estimator(picture(), boxes=boxes[:2])
    (cat,) = estimator(picture(), detector=detector, detector_labels=["cat"])
    assert cat["label"] == "cat" and cat["box"] == boxes[2]["box"]
    assert estimator([picture()] * 2, detector=lambda picture: []) == [[], []]
    own = PoseEstimationPipeline(model=estimator.model, image_processor=CropProcessor(), detector=detector)
    assert own(picture()) == estimator(picture(), boxes=boxes[:1])
    assert own(picture(), boxes=BOXES) == estimator(picture(), boxes=BOXES)  # boxes go before the pipeline's detector


def test_duplicates_of_a_detector_are_dropped(estimator):
    """OKS-NMS at 0.9, with the area of the crop: 30 x 40, so that a pixel makes 1 - 1 / (2 * 1200 * 0.04)."""
    near, far = (11, 20, 30, 40), (20, 20, 30, 40)
    detector = detector_of((BOXES[0], 0.9, "person"), (near, 0.8, "person"), (far, 0.7, "person"))
    assert [person["box"]["xmin"] for person in estimator(picture(), detector=detector)] == [10, 20]
    assert len(estimator(picture(), detector=detector, nms_threshold=1)) == 3
    assert len(estimator(picture(), detector=detector, nms_threshold=0.3)) == 1
    boxes = detector(None)
    assert len(estimator(picture(), boxes=boxes)) == 3
    assert len(estimator(picture(), boxes=boxes, nms_threshold=0.9)) == 2
    oks = np.exp(-(10**2) / (2 * 1200 * 0.2**2))
    assert len(estimator(picture(), boxes=boxes[::2], nms_threshold=oks + 1e-4)) == 2
    assert len(estimator(picture(), boxes=boxes[::2], nms_threshold=oks - 1e-4)) == 1


def test_detector_without_sigmas_to_compare_by(monkeypatch):
    warnings = []
    monkeypatch.setattr(pipeline_pose_estimation.logger, "warning_once", warnings.append)
    estimator = make_pipeline(keypoint_sigmas=None)
    assert len(estimator(picture(), detector=lambda picture: [BOXES[0]] * 2)) == 2
    assert "`keypoint_sigmas`" in warnings[0]
    with pytest.raises(ValueError, match="`nms_threshold` needs `keypoint_sigmas`"):
        estimator(picture(), boxes=BOXES, nms_threshold=0.9)


def test_threshold_and_top_k(estimator):
    everyone = estimator(picture(), boxes=BOXES)
    assert estimator(picture(), boxes=BOXES, threshold=everyone[1]["score"]) == everyone[:2]
    assert estimator(picture(), boxes=BOXES, top_k=1) == everyone[:1]
    assert min(person["score"] for person in everyone) < 0.3  # whom a one-stage model would not report


def test_flip_test_of_the_model(estimator):
    (plain,), (flipped,) = (estimator(picture(), boxes=BOXES[:1], flip_test=value) for value in (False, True))
    shifts = [other["x"] - one["x"] for one, other in zip(plain["keypoints"], flipped["keypoints"], strict=True)]
    assert shifts == pytest.approx([3.0] * 3, abs=1e-4)
    own = PoseEstimationPipeline(model=estimator.model, image_processor=CropProcessor(), flip_test=True)
    assert own(picture(), boxes=BOXES[:1]) == [flipped]
    assert own(picture(), boxes=BOXES[:1], flip_test=False) == [plain]
    with pytest.raises(ValueError, match=r"`flip_test` cannot be used: CropModel .* does not know which keypoints"):
        make_pipeline(flip_pairs=None)(picture(), flip_test=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"boxes": BOXES, "detector": list}, ValueError, "`boxes` and `detector` were both given"),
        ({"boxes": (0, 0, 5, 5)}, TypeError, "got a single box"),
        ({"boxes": [(0, 0, 5, float("nan"))]}, ValueError, "finite"),
        ({"boxes": [(500, 0, 5, 5)]}, ValueError, "outside the picture of 120 x 90"),
        ({"boxes": [(0, 0, 0, 5)]}, ValueError, "width and a height above 0"),
        ({"boxes": [[(0, 0, 5, 5)]]}, TypeError, "nested too deeply"),
        ({"detector": 5}, TypeError, "`detector` must be an object-detection pipeline"),
        ({"detector_threshold": 2}, ValueError, "`detector_threshold` must be a number from 0 to 1"),
        ({"detector_labels": "person"}, TypeError, "`detector_labels` must be a list of class names"),
        ({"flip_test": "yes"}, ValueError, "`flip_test` must be True or False"),
        ({"dataset_index": 0}, ValueError, r"`dataset_index` chooses between the experts of ViTPose\+"),
        ({"box": BOXES}, TypeError, r"Unknown arguments \['box'\]"),
        ({"top_k": 0}, ValueError, "`top_k` must be a positive integer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refuses(estimator, options, error, message):
    with pytest.raises(error, match=message):
        estimator(picture(), **options)


def test_refuses_boxes_of_other_pictures(estimator):
    pictures = [picture()] * 2
    with pytest.raises(ValueError, match="a list for each of the 2 pictures, got 3 lists"):
        estimator(pictures, boxes=[BOXES] * 3)
    with pytest.raises(TypeError, match="the boxes of each of the 2 pictures"):
        estimator(pictures, boxes={"a.jpg": BOXES})
    with pytest.raises(TypeError, match=r"box 0 is a float|got a single box"):
        estimator(pictures, boxes=BOXES[:2])
    with pytest.raises(ValueError, match="got none for picture 1"):
        list(estimator(iter(pictures), boxes=iter([BOXES])))
    with pytest.raises(ValueError, match="more lists than pictures"):
        list(estimator(iter(pictures), boxes=iter([BOXES] * 3)))


VITPOSE_NAMES = [name.replace("left", "L").replace("right", "R").title() for name in COCO17.keypoints]


def vitpose(num_experts=1, names=VITPOSE_NAMES, dtype=torch.float32):
    """A tiny one with random weights, and the image processor of transformers that needs no torchvision."""
    pytest.importorskip("scipy")  # for the image processor of ViTPose
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    torch.manual_seed(0)
    backbone = {"model_type": "vitpose_backbone", "image_size": [64, 48], "patch_size": [16, 16], "hidden_size": 32}
    backbone |= {"num_hidden_layers": 2, "num_attention_heads": 2, "out_indices": [2], "num_experts": num_experts}
    backbone |= {"part_features": 8, "initializer_range": 1.0}
    config = VitPoseConfig(backbone_config=backbone, id2label=dict(enumerate(names)), initializer_range=1.0)
    model = VitPoseForPoseEstimation(config).eval().to(dtype)
    processor = VitPoseImageProcessorPil(size={"height": 64, "width": 48})
    return PoseEstimationPipeline(model=model, image_processor=processor)


@pytest.fixture
def noise():
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(2)]
    return [Image.fromarray(array).resize((160, 120)) for array in arrays]


NOISE_BOXES = [[(10, 20, 50, 60), (60.5, 10, 40, 90), (0, 0, 160, 120)], [(80, 30, 100, 60)]]


def assert_equals_processor(persons, expected, boxes):
    """The same keypoints for the same boxes as transformers' own post-processing."""
    assert len(persons) == len(expected) == len(boxes)
    for box, reference in zip(boxes, expected, strict=True):
        (person,) = [person for person in persons if person["box"] == corners(*box)]
        points = [(point["x"], point["y"], point["score"]) for point in person["keypoints"]]
        wanted = torch.column_stack([reference["keypoints"], reference["scores"]])
        np.testing.assert_allclose(points, wanted, rtol=1e-5, atol=1e-3)


def test_vitpose_equals_its_own_post_processing(noise):
    estimator = vitpose()
    inputs = estimator.image_processor(noise, boxes=NOISE_BOXES, return_tensors="pt")
    with torch.no_grad():
        outputs = estimator.model(**inputs)
    expected = estimator.image_processor.post_process_pose_estimation(outputs, boxes=NOISE_BOXES)
    for persons, own, boxes in zip(estimator(noise, boxes=NOISE_BOXES), expected, NOISE_BOXES, strict=True):
        assert_equals_processor(persons, own, boxes)
    assert [point["label"] for point in persons[0]["keypoints"]] == VITPOSE_NAMES


def test_vitpose_flip_test(noise):
    """The mean of the heat maps of the crops and of the mirrored crops."""
    estimator = vitpose()
    inputs = estimator.image_processor(noise[0], boxes=NOISE_BOXES[:1], return_tensors="pt")
    with torch.no_grad():
        outputs = estimator.model(**inputs)
        mirrored = estimator.model(inputs["pixel_values"].flip(-1)).heatmaps.flip(-1)
    outputs.heatmaps = (outputs.heatmaps + mirrored[:, COCO17.flip_permutation]) / 2
    (expected,) = estimator.image_processor.post_process_pose_estimation(outputs, boxes=NOISE_BOXES[:1])
    persons = estimator(noise[0], boxes=NOISE_BOXES[0], flip_test=True)
    assert_equals_processor(persons, expected, NOISE_BOXES[0])
    with pytest.raises(ValueError, match="`flip_test` cannot be used: VitPoseForPoseEstimation"):
        vitpose(names=[f"LABEL_{index}" for index in range(17)])(noise[0], flip_test=True)


def test_vitpose_by_a_detector(noise):
    """COCO's spreads and skeleton are known by the keypoints' names, in ViTPose's spelling."""
    estimator = vitpose()
    assert estimator.is_top_down
    assert estimator.keypoint_sigmas == COCO17.sigmas and estimator.keypoint_links == list(COCO17.links)
    detector = detector_of((NOISE_BOXES[0][0], 0.5, "person"), (NOISE_BOXES[0][0], 0.9, "person"))
    (person,) = estimator(noise[0], detector=detector)
    assert person["box"] == corners(*NOISE_BOXES[0][0])
    assert_same([estimator(noise, boxes=NOISE_BOXES, batch_size=3)[1]], [estimator(noise[1], boxes=NOISE_BOXES[1])])


def test_vitpose_with_experts(noise):
    estimator = vitpose(num_experts=3)
    first, second = (estimator(noise[0], boxes=NOISE_BOXES[0], dataset_index=index) for index in (0, 1))
    assert first == estimator(noise[0], boxes=NOISE_BOXES[0]) and first != second
    inputs = estimator.image_processor(noise[0], boxes=NOISE_BOXES[:1], return_tensors="pt")
    with torch.no_grad():
        outputs = estimator.model(**inputs, dataset_index=torch.ones(3, dtype=torch.long))
    (expected,) = estimator.image_processor.post_process_pose_estimation(outputs, boxes=NOISE_BOXES[:1])
    assert_equals_processor(second, expected, NOISE_BOXES[0])
    for value in (3, -1, True, "coco"):
        with pytest.raises(ValueError, match="`dataset_index` must be an integer from 0 to 2"):
            estimator(noise[0], boxes=NOISE_BOXES[0], dataset_index=value)


def test_vitpose_in_half_precision(noise):
    """NumPy, in which it decodes, knows no bfloat16."""
    half, full = (vitpose(dtype=dtype)(noise[0], boxes=NOISE_BOXES[0]) for dtype in (torch.bfloat16, torch.float32))
    assert [person["box"] for person in half] == [person["box"] for person in full]
    scores = np.array(
        [[[point["score"] for point in person["keypoints"]] for person in poses] for poses in (half, full)]
    )
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.05 * np.abs(scores[1]).max()


def test_vitpose_says_that_it_needs_scipy(noise, monkeypatch):
    estimator = vitpose()
    monkeypatch.setattr(pipeline_pose_estimation, "is_scipy_available", lambda: False)
    with pytest.raises(ImportError, match="pip install scipy"):
        estimator(noise[0], boxes=NOISE_BOXES[0])


@pytest.mark.parametrize("processor", ["vitpose", "sapiens2"])
@pytest.mark.parametrize("flip_test", [False, True], ids=["", "flip"])
def test_sapiens2_equals_its_own_post_processing(noise, processor, flip_test):
    """Its own image processor needs torchvision; ViTPose's has the same interface."""
    sapiens2 = pytest.importorskip("transformers.models.sapiens2")
    if processor == "sapiens2":
        pytest.importorskip("torchvision")
        image_processor = sapiens2.Sapiens2ImageProcessor(size={"height": 64, "width": 48})
    else:
        image_processor = vitpose().image_processor
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_first_full_attention_layers": 1, "num_last_full_attention_layers": 1, "num_register_tokens": 2}
    sizes |= {"image_size": [64, 48], "num_key_value_attention_heads": 1, "initializer_range": 0.5, "num_labels": 5}
    head = {"upsample_out_channels": [16, 16], "conv_out_channels": [16]}
    config = sapiens2.Sapiens2Config(**sizes, head_config=head, flip_pairs=[[1, 2], [3, 4]])
    model = sapiens2.Sapiens2ForPoseEstimation(config).eval()
    estimator = PoseEstimationPipeline(model=model, image_processor=image_processor)
    inputs = image_processor(noise[0], boxes=NOISE_BOXES[:1], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
        if flip_test:
            mirrored = model(inputs["pixel_values"].flip(-1), flip_pairs=torch.tensor(config.flip_pairs))
            outputs.heatmaps = (outputs.heatmaps + mirrored.heatmaps) / 2
    (expected,) = image_processor.post_process_pose_estimation(outputs, boxes=NOISE_BOXES[:1])
    persons = estimator(noise[0], boxes=NOISE_BOXES[0], flip_test=flip_test)
    assert_equals_processor(persons, expected, NOISE_BOXES[0])
    assert persons[0]["keypoints"][0]["label"] == "LABEL_0" and estimator.keypoint_links is None


def test_person_box_is_what_was_given(estimator):
    """To the last bit, so that a user finds a box again."""
    box = (0.1, 0.2, 30.3, 40.7)
    (person,) = estimator(picture(), boxes=[box])
    assert person["box"] == PersonBox(*box).corners == corners(*box)


def rle(keypoint_dim=2, **options):
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = RLEConfig(
        backbone_config={**backbone, "out_features": ["stage2"]},
        keypoint_dim=keypoint_dim,
        num_flow_layers=2,
        flow_hidden_size=8,
        **options,
    )
    model = RLEForPoseEstimation(config).eval()
    with torch.no_grad():
        model.coordinate_head.weight.normal_(std=0.3)
        model.sigma_head.weight.normal_(std=0.3)
    return PoseEstimationPipeline(model=model, image_processor=RLEImageProcessor(size={"height": 64, "width": 48}))


@pytest.mark.parametrize("flip_test", [False, True], ids=["", "flip"])
@pytest.mark.parametrize("keypoint_dim", [2, 3], ids=["2d", "3d"])
def test_rle_equals_its_own_post_processing(noise, keypoint_dim, flip_test):
    estimator = rle(keypoint_dim, confidence_coefficients=(-3.0, -1.0))
    processor = estimator.image_processor
    inputs = processor(noise, boxes=NOISE_BOXES, return_tensors="pt")
    with torch.no_grad():
        outputs = estimator.model(inputs["pixel_values"], flip_test=flip_test)
    expected = processor.post_process_pose_estimation(outputs, boxes=NOISE_BOXES)
    found = estimator(noise, boxes=NOISE_BOXES, flip_test=flip_test)
    for persons, references, boxes in zip(found, expected, NOISE_BOXES, strict=True):
        for box, reference in zip(boxes, references, strict=True):
            (person,) = [person for person in persons if person["box"] == corners(*box)]
            columns = ["x", "y", "score", "sigma", "confidence"] + ["depth"] * (keypoint_dim == 3)
            assert list(person["keypoints"][0]) == ["label", *columns]
            wanted = [reference["keypoints"][:, :2], reference["scores"][:, None]]
            wanted += [reference["sigmas"].mean(dim=1, keepdim=True), reference["confidences"][:, None]]
            wanted += [reference["depths"][:, None]] if keypoint_dim == 3 else []
            values = [[point[column] for column in columns] for point in person["keypoints"]]
            np.testing.assert_allclose(values, torch.cat(wanted, dim=1), rtol=1e-5, atol=1e-3)
            scores = reference["scores"]
            assert person["score"] == pytest.approx(((scores.mean() + scores.max()) / 2).item(), abs=1e-6)
    assert [point["label"] for point in person["keypoints"]] == list(COCO17.keypoints)
    assert estimator.keypoint_links == list(COCO17.links)


def test_rle_alone_and_in_batches(noise):
    estimator = rle()
    assert "confidence" not in estimator(noise[0], boxes=NOISE_BOXES[0])[0]["keypoints"][0]
    alone = [estimator(image, boxes=boxes, batch_size=1) for image, boxes in zip(noise, NOISE_BOXES, strict=True)]
    for batch_size in (None, 3, 8):
        assert_same(estimator(noise, boxes=NOISE_BOXES, batch_size=batch_size), alone, tolerance=1e-4)
    (whole,) = estimator(noise[0])
    assert_same([[whole]], [estimator(noise[0], boxes=[(0, 0, 160, 120)])])


def test_rle_areas_for_duplicates(noise, monkeypatch):
    """Those of the crops that the processor cuts, to which boxes grow."""
    estimator = rle()
    areas = []

    def no_nms(keypoints, scores, own_areas, sigmas, threshold):
        areas.extend(own_areas.tolist())
        assert threshold == 0.9 and list(sigmas) == pytest.approx(COCO17.sigmas)
        return np.arange(len(scores))

    monkeypatch.setattr(pipeline_pose_estimation, "oks_nms", no_nms)
    persons = estimator(noise[0], detector=lambda picture: NOISE_BOXES[0])
    boxes = [[tuple(person["box"].values()) for person in persons]]
    boxes = [[(left, top, right - left, bottom - top) for left, top, right, bottom in boxes[0]]]
    cut = estimator.image_processor(noise[0], boxes=boxes)["crop_boxes"]
    cut = np.asarray(cut)
    np.testing.assert_allclose(areas, (cut[:, 2:] - cut[:, :2]).prod(axis=1), rtol=1e-5)


@pytest.mark.usefixtures("auto_image_processor")
def test_rle_by_task_and_folder(noise, tmp_path):
    estimator = rle()
    export(estimator.model, estimator.image_processor, tmp_path)
    for task in ("pose-estimation", "keypoint-detection"):
        loaded = pipeline(task, model=str(tmp_path))
        assert isinstance(loaded, PoseEstimationPipeline) and loaded.is_top_down
        assert_same(loaded(noise, boxes=NOISE_BOXES), estimator(noise, boxes=NOISE_BOXES))
    options = {"detector": lambda picture: NOISE_BOXES[0], "flip_test": True, "nms_threshold": 1, "batch_size": 2}
    loaded = pipeline("pose-estimation", model=str(tmp_path), **options)
    assert_same(loaded(noise[:1]), [estimator(noise[0], boxes=NOISE_BOXES[0], flip_test=True)], tolerance=1e-4)


@pytest.mark.usefixtures("auto_image_processor")
def test_embedded_model_finds_the_portrait():
    """A real photograph; truth by eye, to a twentieth of the height of the person."""
    pytest.importorskip("matplotlib")
    (person,) = pipeline("pose-estimation")(example_picture(), boxes=[EXAMPLE_BOX])
    found = {keypoint["label"]: keypoint for keypoint in person["keypoints"]}
    assert len(found) == 19
    true = {"nose": (262, 220), "left_shoulder": (430, 420), "right_shoulder": (90, 410), "head": (260, 90)}
    for name, (x, y) in true.items():
        assert np.hypot(found[name]["x"] - x, found[name]["y"] - y) < EXAMPLE_BOX[3] / 20, name
        assert found[name]["confidence"] > 0.5 > found["left_ankle"]["confidence"], name
