import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hvmodels import EDPoseForPoseEstimation, EDPoseImageProcessor
from hvmodels.cli import app
from hvmodels.pipelines.pipeline_pose_estimation import PoseEstimationPipeline
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
    with pytest.raises(ValueError, match=r"needs an image .* and `--model`"):
        run("predict", images / "a.jpg")
    with pytest.raises(ValueError, match="needs an image"):
        run("predict", "--task", "pose-estimation", "--model", model)
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
