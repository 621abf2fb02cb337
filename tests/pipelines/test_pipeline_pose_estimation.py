import io
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput

from hvmodels import TASKS, EDPoseForPoseEstimation, EDPoseImageProcessor, PoseEstimationPipeline
from hvmodels.hub import collect_code, export
from hvmodels.keypoint_sets import COCO17
from hvmodels.pipelines.pipeline_pose_estimation import image_files, read_image
from tests.tiny_models import tiny_ed_pose_config


class ColourConfig(PreTrainedConfig):
    model_type = "colour_pose"
    num_keypoints: int = 3
    keypoint_names: list[str] | tuple[str, ...] | None = ("nose", "left_hip", "right_hip")
    keypoint_sigmas: list[float] | tuple[float, ...] | None = (0.1, 0.1, 0.1)


@dataclass
class ColourOutput(ModelOutput):
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    pred_keypoints: torch.Tensor | None = None


class ColourModel(PreTrainedModel):
    """Finds three persons where the picture's mean colour says: two near the red and green share, one elsewhere."""

    config: ColourConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.offset = nn.Parameter(torch.tensor([0.0, 0.01, 0.4]))
        self.batches = []
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values, pixel_mask):
        self.batches.append(tuple(pixel_values.shape))
        mask = pixel_mask[:, None].to(pixel_values.dtype)
        std, mean = pixel_values.new_tensor([0.229, 0.224, 0.225]), pixel_values.new_tensor([0.485, 0.456, 0.406])
        colour = (pixel_values * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)) * std + mean
        centres = 0.5 * colour[:, None, :2] + self.offset[:, None]
        logits = pixel_values.new_tensor([[-3.0, 1.0], [-3.0, 0.5], [-1.0, -0.5]])
        boxes = torch.cat([centres, torch.full_like(centres, 0.2)], dim=-1)
        shifts = pixel_values.new_tensor([[0.0, -0.05], [-0.05, 0.05], [0.05, 0.05]])
        return ColourOutput(logits.expand(len(colour), -1, -1), boxes, centres[:, :, None] + shifts)


def colour_model(**options):
    config = ColourConfig(id2label={0: "N/A", 1: "person"}, **options)
    return ColourModel(config).eval()


@pytest.fixture
def pose_pipeline():
    processor = EDPoseImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    return PoseEstimationPipeline(model=colour_model(), image_processor=processor, task="pose-estimation")


def picture(red, size=(64, 48)):
    return Image.new("RGB", size, (red, 100, 50))


SIZES = [(64, 48), (48, 64), (90, 30), (60, 50), (20, 80), (64, 48), (30, 30)]


@pytest.fixture
def pictures():
    return [picture(20 * index, size) for index, size in enumerate(SIZES)]


def flat(persons):
    return np.array(
        [
            [
                person["score"],
                *person["box"].values(),
                *(p[k] for p in person["keypoints"] for k in ("x", "y", "score")),
            ]
            for person in persons
        ]
    )


def assert_same(first, second, tolerance=1e-3):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(flat(one), flat(other), rtol=0, atol=tolerance)


def test_persons_of_a_picture(pose_pipeline):
    persons = pose_pipeline(picture(200, size=(128, 96)))
    assert [person["score"] for person in persons] == pytest.approx(torch.tensor([1.0, 0.5, -0.5]).sigmoid().tolist())
    best = persons[0]
    assert list(best) == ["score", "label", "box", "keypoints"]
    assert best["label"] == "person"
    x, y = 0.5 * 200 / 255 * 128, 0.5 * 100 / 255 * 96
    expected = {"xmin": x - 12.8, "ymin": y - 9.6, "xmax": x + 12.8, "ymax": y + 9.6}
    assert best["box"] == pytest.approx(expected, abs=1e-3)
    assert [point["label"] for point in best["keypoints"]] == ["nose", "left_hip", "right_hip"]
    nose = best["keypoints"][0]
    assert (nose["x"], nose["y"]) == pytest.approx((x, y - 0.05 * 96), abs=1e-3)
    assert all(point["score"] == best["score"] for point in best["keypoints"])
    assert all(isinstance(value, float) for value in [best["score"], *best["box"].values(), nose["x"], nose["score"]])


def test_every_kind_of_input(pose_pipeline, tmp_path):
    image = picture(120)
    image.save(tmp_path / "a.png")
    expected = pose_pipeline(image)
    for one in (str(tmp_path / "a.png"), tmp_path / "a.png", np.asarray(image)):
        assert pose_pipeline(one) == expected
    assert pose_pipeline([image]) == [expected]
    assert pose_pipeline((image, image)) == [expected, expected]
    assert pose_pipeline([]) == []


def test_folder(pose_pipeline, pictures, tmp_path):
    for index, image in enumerate(pictures):
        image.save(tmp_path / f"{index}.PNG")
    (tmp_path / "notes.txt").write_text("not a picture")
    assert [path.name for path in image_files(tmp_path)] == [f"{index}.PNG" for index in range(len(pictures))]
    assert pose_pipeline(tmp_path) == pose_pipeline(str(tmp_path), batch_size=1) == pose_pipeline(pictures)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="without images"):
        pose_pipeline(tmp_path / "empty")


def test_url(pose_pipeline):
    buffer = io.BytesIO()
    picture(120).save(buffer, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/a.png?{'long' * 200}"
        assert pose_pipeline(address) == pose_pipeline(picture(120))
    finally:
        server.shutdown()
        server.server_close()


def test_generators_and_datasets_are_lazy(pose_pipeline, pictures):
    taken = []

    def frames():
        for image in pictures:
            taken.append(image)
            yield image

    results = pose_pipeline(frames())
    assert not taken
    first = next(results)
    assert len(taken) == 1
    assert [first, *results] == pose_pipeline(pictures)
    dataset = torch.utils.data.Subset(pictures, range(3))
    assert list(pose_pipeline(dataset)) == pose_pipeline(pictures[:3])


@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_batches_keep_order(pose_pipeline, pictures, batch_size):
    alone = pose_pipeline(pictures)
    assert_same(pose_pipeline(pictures, batch_size=batch_size), alone)
    assert_same(list(pose_pipeline(iter(pictures * 8), batch_size=batch_size)), alone * 8)


def test_batches_hold_pictures_of_one_size(pose_pipeline):
    wide, tall = picture(10, (64, 32)), picture(20, (32, 64))
    pose_pipeline([wide, tall, wide, tall, wide], batch_size=2)
    assert pose_pipeline.model.batches == [(2, 3, 32, 64), (1, 3, 32, 64), (2, 3, 64, 32)]


def test_batch_size_of_the_pipeline(pictures):
    processor = EDPoseImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    batched = PoseEstimationPipeline(model=colour_model(), image_processor=processor, batch_size=8, threshold=0.7)
    assert [len(persons) for persons in batched(pictures)] == [1] * len(pictures)
    assert len(batched.model.batches) == len(set(SIZES))
    assert [len(persons) for persons in batched(pictures, threshold=0.0)] == [3] * len(pictures)


def test_threshold_and_top_k(pose_pipeline):
    image = picture(120)
    everyone = pose_pipeline(image, threshold=0.0)
    assert len(everyone) == 3 and {person["label"] for person in everyone} == {"person"}  # none of the class "N/A"
    assert pose_pipeline(image, threshold=0.7) == everyone[:1]
    assert pose_pipeline(image, top_k=2) == everyone[:2]
    assert pose_pipeline(image, threshold=1.0) == []


def test_suppression_of_duplicates(pose_pipeline):
    image = picture(120)
    first, _, third = pose_pipeline(image)
    assert pose_pipeline(image, nms_threshold=0.5) == [first, third]
    assert pose_pipeline(image, nms_threshold=0.5, threshold=1.0) == []
    assert len(pose_pipeline(image, nms_threshold=1.0)) == 3


def test_keypoints_without_names():
    model = colour_model(keypoint_names=None, keypoint_sigmas=None)
    unnamed = PoseEstimationPipeline(model=model, image_processor=EDPoseImageProcessor(size={"shortest_edge": 32}))
    person = unnamed(picture(120))[0]
    assert [point["label"] for point in person["keypoints"]] == ["keypoint_0", "keypoint_1", "keypoint_2"]
    with pytest.raises(ValueError, match="`nms_threshold` needs `keypoint_sigmas`"):
        unnamed(picture(120), nms_threshold=0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(pictures, dtype):
    processor = EDPoseImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    half = PoseEstimationPipeline(model=colour_model().to(dtype), image_processor=processor)
    full = PoseEstimationPipeline(model=colour_model(), image_processor=processor)
    assert_same(half(pictures), full(pictures), tolerance=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "`threshold` must be a number from 0 to 1"),
        ({"nms_threshold": -1}, "`nms_threshold` must be a number from 0 to 1"),
        ({"top_k": 0}, "`top_k` must be a positive integer"),
        ({"top_k": 2.0}, "`top_k` must be a positive integer"),
        ({"threshold": "0.5"}, "`threshold` must be a number from 0 to 1"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
    ids=str,
)
def test_refuses_options(pose_pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        pose_pipeline(picture(0), **options)
    with pytest.raises(TypeError, match=r"Unknown arguments \['treshold'\]"):
        pose_pipeline(picture(0), treshold=0.5)


def test_refuses_what_is_no_image(pose_pipeline, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    complete = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(complete, "PNG")
    (tmp_path / "b.png").write_bytes(complete.getvalue()[:1000])
    with pytest.raises(ValueError, match=r"a\.png.* cannot be read as an image"):
        pose_pipeline(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"b\.png.* cannot be read as an image"):
        pose_pipeline([tmp_path / "b.png"])
    with pytest.raises(ValueError, match=r"missing\.png.* must be a file, a folder or a URL"):
        pose_pipeline("missing.png")
    with pytest.raises(ValueError, match="cannot be fetched as an image"):
        pose_pipeline("http://127.0.0.1:1/a.png")
    with pytest.raises(TypeError, match="must be a PIL image, path, URL or NumPy array, got NoneType"):
        pose_pipeline(None)
    for array in (np.zeros((4, 4, 3)), np.zeros((3, 4, 5), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be an array"):
            pose_pipeline(array)
    with pytest.raises(ValueError, match="must not be empty"):
        pose_pipeline(np.zeros((0, 4, 3), np.uint8))


def test_images_of_every_mode(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(colours)
    grey = np.asarray(image.convert("L"))
    expected = {
        "RGB": colours,
        "RGBA": colours,
        "CMYK": np.asarray(image.convert("CMYK").convert("RGB")),
        "P": np.asarray(image.convert("P").convert("RGB")),
        "L": np.repeat(grey[..., None], 3, axis=2),
        "LA": np.repeat(grey[..., None], 3, axis=2),
        "1": np.repeat(np.asarray(image.convert("1"))[..., None] * np.uint8(255), 3, axis=2),
    }
    for mode, array in expected.items():
        read = read_image(image.convert(mode))
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), array, err_msg=mode)
    np.testing.assert_array_equal(np.asarray(read_image(grey)), expected["L"])
    np.testing.assert_array_equal(np.asarray(read_image(np.dstack([colours, grey]))), colours)

    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "grey16.png")), expected["L"])
    with pytest.raises(ValueError, match="floating point"):
        read_image(image.convert("F"))

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "turned.png")), np.rot90(colours, 3))


@pytest.fixture(scope="module")
def ed_pose_folder(tmp_path_factory):
    """A tiny ED-Pose, large enough to tell pictures apart."""
    torch.manual_seed(0)
    config = tiny_ed_pose_config(num_queries=20, num_groups=6)
    folder = tmp_path_factory.mktemp("ed_pose")
    model = EDPoseForPoseEstimation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    processor = EDPoseImageProcessor(size={"shortest_edge": 96, "longest_edge": 128})
    export(model, processor, folder)
    return folder


@pytest.mark.usefixtures("auto_image_processor")
@pytest.mark.parametrize("task", ["pose-estimation", "keypoint-detection"])
def test_ed_pose_by_task(ed_pose_folder, task):
    """Poses do not depend on the batch, although padding would change what the model finds."""
    estimator = pipeline(task, model=str(ed_pose_folder))
    assert isinstance(estimator, PoseEstimationPipeline)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]
    alone = estimator(pictures, threshold=0.0)
    assert all(len(persons) == 6 for persons in alone)
    assert [point["label"] for point in alone[0][0]["keypoints"]] == list(COCO17.keypoints)
    assert_same(estimator(pictures, threshold=0.0, batch_size=3), alone, tolerance=1e-4)
    assert len(estimator(pictures[0], threshold=0.0, nms_threshold=0.0)) < 6


@pytest.mark.parametrize("option", ["detector", "flip_test", "dataset_index", "detector_threshold", "detector_labels"])
def test_one_stage_models_take_no_boxes(pose_pipeline, option):
    assert not pose_pipeline.is_top_down
    value = {"detector": list, "detector_threshold": 0.5, "detector_labels": ["person"]}.get(option, 1)
    with pytest.raises(ValueError, match=f"`{option}` cannot be used: ColourModel finds the persons itself"):
        pose_pipeline(picture(120), **{option: value})
    with pytest.raises(ValueError, match="`boxes` cannot be used: ColourModel finds the persons itself"):
        pose_pipeline(picture(120), boxes=[(0, 0, 10, 10)])


def test_registered_under_both_names():
    assert TASKS["pose-estimation"].pipeline is PoseEstimationPipeline
    for name in ("pose-estimation", "keypoint-detection"):
        task, entry, _ = PIPELINE_REGISTRY.check_task(name)
        assert task == "pose-estimation" and entry["impl"] is PoseEstimationPipeline


def test_travels_in_one_folder():
    assert sorted(collect_code([PoseEstimationPipeline])) == [
        "keypoint_sets.py",
        "oks.py",
        "person_boxes.py",
        "pipeline_pose_estimation.py",
    ]
