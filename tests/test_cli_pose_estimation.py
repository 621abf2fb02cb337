import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

from hvmodels import (
    EDPoseForPoseEstimation,
    EDPoseImageProcessor,
    RLEConfig,
    RLEForPoseEstimation,
    RLEImageProcessor,
    cli,
)
from hvmodels.cli import app, example_picture
from hvmodels.keypoint_sets import COCO17, infer_flip_pairs
from hvmodels.pipelines.pipeline_pose_estimation import PoseEstimationPipeline
from hvmodels.visualization.poses import draw_poses
from tests.tiny_models import tiny_ed_pose_config


NAMES = ["a.jpg", "b.png", "c.jpg"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = tiny_ed_pose_config(num_queries=20, num_groups=6)
    folder = tmp_path_factory.mktemp("model")
    EDPoseForPoseEstimation(config).save_pretrained(folder)
    EDPoseImageProcessor(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        Image.fromarray(random.integers(0, 256, (40 + 10 * index, 64, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def estimate(model, image, **options):
    model = EDPoseForPoseEstimation.from_pretrained(model)
    processor = EDPoseImageProcessor(size={"shortest_edge": 96, "longest_edge": 128})
    return PoseEstimationPipeline(model=model, image_processor=processor)(image, **options)


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_an_image(model, images, tmp_path):
    output, plot = tmp_path / "new" / "out.json", tmp_path / "new" / "out.png"
    options = ["--threshold", 0.0, "--top-k", 4, "--output", output, "--plot", plot]
    printed = run("predict", images / "a.jpg", "--model", model, *options)
    found = json.loads(output.read_text())
    assert found == {"a.jpg": estimate(model, images / "a.jpg", threshold=0.0, top_k=4)}
    assert f"a.jpg: {len(found['a.jpg'])} persons (0." in printed
    assert Image.open(plot).size == (64, 40)
    assert np.asarray(Image.open(plot)).any() and f"Wrote {plot}" in printed


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_a_folder(model, images, tmp_path):
    output, plots = tmp_path / "out.json", tmp_path / "plots"
    options = ["--task", "keypoint-detection", "--threshold", 1.0, "--batch-size", 2, "--nms-threshold", 0.9]
    printed = run("predict", images, "--model", model, *options, "--output", output, "--plot", plots)
    assert json.loads(output.read_text()) == {name: [] for name in NAMES}
    assert sorted(path.name for path in plots.iterdir()) == NAMES
    assert [line for line in printed.splitlines() if line.startswith("a")] == ["a.jpg: 0 persons"]
    np.testing.assert_array_equal(np.asarray(Image.open(plots / "b.png")), np.asarray(Image.open(images / "b.png")))


@pytest.mark.usefixtures("auto_image_processor")
def test_task_of_the_model_goes_before_the_suffix(model, tmp_path):
    (tmp_path / "series.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"series\.csv.* cannot be read as an image"):
        run("predict", tmp_path / "series.csv", "--model", model)


def test_predict_refuses(model, images, tmp_path):
    with pytest.raises(ValueError, match="`--task` must be one of"):
        run("predict", images / "a.jpg", "--task", "poses")
    with pytest.raises(ValueError, match="--period cannot be used for pose-estimation"):
        run("predict", images / "a.jpg", "--model", model, "--period", 12)
    with pytest.raises(ValueError, match="--top-k cannot be used for time-series-forecasting"):
        run("predict", "--top-k", 3)
    with pytest.raises(ValueError, match="`--plot` must be a folder"):
        run("predict", images, "--model", model, "--plot", tmp_path / "one.png")


@pytest.mark.usefixtures("auto_image_processor")
@pytest.mark.parametrize("style", ["coco", "crowdpose"])
def test_evaluate(model, images, tmp_path, style):
    """The model's own predictions as annotations are all found."""
    annotations = []
    for image_id, name in enumerate(NAMES):
        persons = estimate(model, images / name, threshold=0.0, nms_threshold=0.0)[:1]
        for person in persons:
            box = person["box"]
            size = [box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]]
            points = [value for point in person["keypoints"] for value in (point["x"], point["y"], 2)]
            annotation = {"id": len(annotations), "image_id": image_id, "category_id": 1, "keypoints": points}
            annotation |= {"bbox": [box["xmin"], box["ymin"], *size], "area": size[0] * size[1], "iscrowd": 0}
            annotations.append(annotation)
    truth = {
        "images": [{"id": index, "file_name": name, "crowdIndex": 0.5} for index, name in enumerate(NAMES)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    if style == "coco":
        for image in truth["images"]:
            del image["crowdIndex"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = ["--images", images, "--batch-size", 2]
    if style == "crowdpose":  # an ED-Pose of 17 keypoints: its configuration has the sigmas
        options += ["--style", "crowdpose"]
    metrics = json.loads(run("evaluate", model, tmp_path / "truth.json", *options))
    assert metrics["AR"] == metrics["AR50"] == 1.0
    assert ("AP_easy" in metrics) == (style == "crowdpose")


@pytest.mark.usefixtures("auto_image_processor")
def test_evaluate_refuses(model, images, tmp_path):
    truth = {
        "images": [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "z.jpg"}],
        "annotations": [],
        "categories": [{"id": 1}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match="needs `--images`"):
        run("evaluate", model, tmp_path / "truth.json")
    with pytest.raises(ValueError, match=r"1 are missing, such as .*z\.jpg"):
        run("evaluate", model, tmp_path / "truth.json", "--images", images)
    with pytest.raises(ValueError, match="`style` must be one of"):
        run("evaluate", model, tmp_path / "truth.json", "--images", images, "--style", "mpii")


@pytest.fixture(scope="module")
def top_down(tmp_path_factory):
    """A tiny RLE of COCO's keypoints with a head of 19, so that annotations of 17 have to choose."""
    torch.manual_seed(0)
    names = ("head", *COCO17.keypoints[::-1], "neck")
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = RLEConfig(
        backbone_config={**backbone, "out_features": ["stage2"]},
        id2label=dict(enumerate(names)),
        flip_pairs=infer_flip_pairs(names),
        keypoint_sigmas=[0.08] * 19,
        keypoint_links=[(0, 18)],
        num_flow_layers=2,
        flow_hidden_size=8,
    )
    model = RLEForPoseEstimation(config)
    with torch.no_grad():
        model.coordinate_head.weight.normal_(std=0.3)
        model.sigma_head.weight.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("top_down")
    model.save_pretrained(folder)
    RLEImageProcessor(size={"height": 64, "width": 48}).save_pretrained(folder)
    return str(folder)


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_boxes(top_down, images, tmp_path):
    output = tmp_path / "out.json"
    estimator = pipeline("pose-estimation", model=top_down)
    boxes = [(5, 5, 30, 30), (20.5, 0, 40, 38)]
    given = ["--boxes", "5,5,30,30", "--boxes", "20.5, 0, 40, 38"]
    expected = estimator(images / "a.jpg", boxes=boxes)
    printed = run("predict", images / "a.jpg", "--model", top_down, "--output", output, *given)
    assert json.loads(output.read_text()) == {"a.jpg": expected}
    assert "a.jpg: 2 persons" in printed and "whole picture" not in printed
    assert set(expected[0]["keypoints"][0]) == {"label", "x", "y", "score", "sigma"}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ["--boxes", tmp_path / "boxes.json", "--output", output]
    run("predict", images / "a.jpg", "--model", top_down, *options)
    assert json.loads(output.read_text()) == {"a.jpg": expected}
    run("predict", images / "a.jpg", "--model", top_down, *options, "--flip-test", "--top-k", 1)
    assert json.loads(output.read_text()) == {"a.jpg": estimator(images / "a.jpg", boxes=boxes, flip_test=True)[:1]}


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_boxes_of_a_folder(top_down, images, tmp_path):
    output, plots = tmp_path / "out.json", tmp_path / "plots"
    boxes = {"c.jpg": [(0, 0, 30, 40)], "b.png": [], "a.jpg": [(5, 5, 30, 30), (20, 0, 40, 38)]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ["--boxes", tmp_path / "boxes.json", "--output", output, "--plot", plots, "--batch-size", 2]
    run("predict", images, "--model", top_down, *options)
    found = json.loads(output.read_text())
    assert [len(found[name]) for name in NAMES] == [2, 0, 1]
    assert found["c.jpg"][0]["box"] == {"xmin": 0, "ymin": 0, "xmax": 30, "ymax": 40}
    for name, message in (("a.jpg", "must be a JSON file"), ("boxes.json", "by file name")):
        (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": []}))
        with pytest.raises(ValueError, match=message):
            given = tmp_path / "boxes.json" if name == "boxes.json" else "0,0,5,5"
            run("predict", images, "--model", top_down, "--boxes", given)


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_the_default_model_on_the_example_picture(top_down, monkeypatch, tmp_path):
    """A real photograph in, a drawing of its pose out, as `make demo` does it."""
    monkeypatch.setattr(cli, "default_model", lambda task: {"pose-estimation": top_down}[task])
    plot = tmp_path / "new" / "demo_pose.jpg"
    printed = run("predict", "--task", "pose-estimation", "--plot", plot).splitlines()
    assert printed[0].startswith("Example picture: portrait of Grace Hopper") and "matplotlib" in printed[0]
    assert printed[1].startswith("The box of the whole person is x, y, width, height = (-200, 0, 912, 1900)")
    assert printed[2].startswith("grace_hopper.jpg: 1 person (0.") and printed[3] == f"Wrote {plot}"
    portrait, drawn = Image.open(example_picture()), Image.open(plot)
    estimator = pipeline("pose-estimation", model=top_down)
    persons = estimator(example_picture(), boxes=[cli.EXAMPLE_BOX])
    assert drawn.size == portrait.size
    expected = np.asarray(draw_poses(portrait, persons, [(0, 18)]), dtype=float)
    assert np.abs(np.asarray(drawn, dtype=float) - expected).mean() < 3  # of 255, the loss of JPEG
    assert np.abs(expected - np.asarray(portrait)).max() > 100
    run("predict", example_picture(), "--plot", plot, "--keypoint-threshold", 1)  # the kind of file tells the task
    bare = np.asarray(draw_poses(portrait, estimator(example_picture()), keypoint_threshold=1), dtype=float)
    assert np.abs(np.asarray(Image.open(plot), dtype=float) - bare).mean() < 3


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_by_a_detector(top_down, images, tmp_path, monkeypatch):
    output = tmp_path / "out.json"
    given = []

    def load(detector, device):
        given.append(detector)
        boxes = [
            {"box": {"xmin": 0, "ymin": 0, "xmax": 30, "ymax": 30}, "score": s, "label": "person"} for s in (0.4, 0.6)
        ]
        return lambda picture: boxes

    monkeypatch.setattr("hvmodels.pipelines.pipeline_pose_estimation.load_detector", load)
    options = ["--detector", "some/detector", "--output", output]
    run("predict", images / "a.jpg", "--model", top_down, *options)
    assert given == ["some/detector"] and len(json.loads(output.read_text())["a.jpg"]) == 1  # twice the same box
    run("predict", images / "a.jpg", "--model", top_down, *options, "--nms-threshold", 1)
    assert len(json.loads(output.read_text())["a.jpg"]) == 2
    run("predict", images / "a.jpg", "--model", top_down, *options, "--detector-threshold", 0.7)
    assert json.loads(output.read_text()) == {"a.jpg": []}


@pytest.mark.usefixtures("auto_image_processor")
@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (["1,2,3"], "must be x,y,width,height in pixels, or a JSON file, got '1,2,3'"),
        (["1,2,3,wide"], "must be x,y,width,height"),
        (["a.json", "0,0,5,5"], "must be one JSON file, or boxes"),
        (["0,0,0,5"], "a width and a height above 0"),
        (["900,0,5,5"], "outside the picture of 64 x 40 pixels"),
    ],
    ids=str,
)
def test_predict_refuses_boxes(top_down, images, boxes, message):
    options = [part for box in boxes for part in ("--boxes", box)]
    with pytest.raises(ValueError, match=message):
        run("predict", images / "a.jpg", "--model", top_down, *options)


@pytest.mark.usefixtures("auto_image_processor")
def test_one_stage_models_take_no_boxes(model, images):
    with pytest.raises(ValueError, match="`boxes` cannot be used"):
        run("predict", images / "a.jpg", "--model", model, "--boxes", "0,0,5,5")
    with pytest.raises(ValueError, match="--boxes, --flip-test cannot be used for time-series-forecasting"):
        run("predict", "--boxes", "0,0,5,5", "--flip-test")


@pytest.fixture
def truth(top_down, images, tmp_path):
    """The top-down model's own poses as annotations of COCO's keypoints, in COCO's order; boxes as it takes them."""
    estimator = pipeline("pose-estimation", model=top_down)
    annotations = []
    for image_id, name in enumerate(NAMES):
        for box in [(2, 3, 30, 30), (25, 5, 33, 28)]:
            (person,) = estimator(images / name, boxes=[box], flip_test=True)
            points = {point["label"]: point for point in person["keypoints"]}
            values = [value for key in COCO17.keypoints for value in (points[key]["x"], points[key]["y"], 2)]
            annotation = {"id": len(annotations), "image_id": image_id, "category_id": 1, "keypoints": values}
            x, y, width, height = box
            annotations.append(annotation | {"bbox": [x, y, width + 1, height + 1], "area": 2000, "iscrowd": 0})
    sizes = [Image.open(images / name).size for name in NAMES]
    truth = {
        "images": [
            {"id": index, "file_name": name, "width": width, "height": height}
            for index, (name, (width, height)) in enumerate(zip(NAMES, sizes, strict=True))
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.keypoints)}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return truth


@pytest.mark.usefixtures("auto_image_processor")
def test_evaluate_with_annotated_boxes(top_down, images, truth, tmp_path):
    """By the keypoints' names, and with the flip test, as the papers do; both make everything right."""
    arguments = ["evaluate", top_down, tmp_path / "truth.json", "--images", images, "--batch-size", 4]
    metrics = json.loads(run(*arguments))
    assert metrics["AP"] == metrics["AR"] == 1.0
    assert json.loads(run(*arguments, "--no-flip-test"))["AP"] < 1.0
    for image in truth["images"]:
        assert image["width"] == 64


@pytest.mark.usefixtures("auto_image_processor")
def test_evaluate_with_boxes_of_a_detector(top_down, images, truth, tmp_path):
    found = [
        {
            "image_id": item["image_id"],
            "bbox": [*item["bbox"][:2], *(side - 1 for side in item["bbox"][2:])],
            "score": 0.5,
        }
        for item in truth["annotations"]
    ]
    found += [{**found[0], "score": 0.4}, {**found[0], "image_id": 77}, {**found[0], "category_id": 3}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    arguments = [
        "evaluate",
        top_down,
        tmp_path / "truth.json",
        "--images",
        images,
        "--detections",
        tmp_path / "found.json",
    ]
    assert json.loads(run(*arguments))["AP"] == pytest.approx(1.0)  # the box that was found twice is dropped
    (tmp_path / "found.json").write_text(json.dumps(found[:2]))
    assert json.loads(run(*arguments))["AR"] == pytest.approx(1 / 3)
    (tmp_path / "found.json").write_text(json.dumps(found[-2:]))
    with pytest.raises(ValueError, match="`detections` must have boxes of the annotated images"):
        run(*arguments)
    (tmp_path / "found.json").write_text('[{"bbox": [0, 0, 1, 1]}]')
    with pytest.raises(ValueError, match="`image_id`, `bbox` and `score`"):
        run(*arguments)


@pytest.mark.usefixtures("auto_image_processor")
def test_evaluate_refuses_other_keypoints(top_down, model, images, truth, tmp_path):
    truth["categories"][0]["keypoints"][3] = "left_toe"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"no keypoints \['left_toe'\], which are annotated"):
        run("evaluate", top_down, tmp_path / "truth.json", "--images", images)
    with pytest.raises(ValueError, match="--detections cannot be used for EDPoseForPoseEstimation"):
        run("evaluate", model, tmp_path / "truth.json", "--images", images, "--detections", tmp_path / "truth.json")
