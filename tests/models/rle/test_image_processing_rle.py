import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from hvmodels.models.rle.cropping_rle import boxes_to_center_scale, crop_matrices, instance_scores, warp_crops
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor
from tests.modeling_checks import ProcessorChecks
from tests.reference_cases import reference_case, reference_folder


STD_3D = [0.225, 0.224, 0.229]


def make_image(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_outputs(crops, keypoints=3, dim=2, confidences=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        keypoints=torch.rand(crops, keypoints, dim, generator=generator) - 0.5,
        sigmas=torch.rand(crops, keypoints, dim, generator=generator),
        scores=torch.rand(crops, keypoints, generator=generator),
        confidences=torch.rand(crops, keypoints, generator=generator) if confidences else None,
    )


@pytest.fixture
def processor():
    return RLEImageProcessor(size={"height": 16, "width": 12})


@pytest.fixture
def plain():
    """Returns the pixels of an image of 20x30 as they are."""
    return RLEImageProcessor(size={"height": 20, "width": 30}, box_padding=1, do_rescale=False, do_normalize=False)


@pytest.fixture
def rle_case():
    """Tensors of a stored case of the original."""
    return lambda name: load_file(reference_folder("rle", name) / "io.safetensors")


# The original


@pytest.mark.parametrize("index", range(3))
def test_crops_are_the_originals(rle_case, index):
    tensors, case = rle_case("preprocess"), f"det_128x96.box{index}"
    processor = RLEImageProcessor(size={"height": 128, "width": 96})
    batch = processor(
        tensors["input.image"].numpy(), [[tensors[f"{case}.input.bbox_xywh"].tolist()]], return_tensors="pt"
    )
    expected = tensors[f"{case}.output.crop_uint8.opencv4"].permute(2, 0, 1) / 255
    expected = expected - torch.tensor([0.406, 0.457, 0.480]).view(3, 1, 1)
    assert_close(batch["pixel_values"][0], expected, atol=1e-7, rtol=0)
    assert_close(batch["crop_boxes"][0], tensors[f"{case}.output.crop_bbox_xyxy"], atol=2e-5, rtol=0)
    total = tensors[f"{case}.check.pixel_sum.opencv4"]
    assert_close(batch["pixel_values"].double().sum()[None], total, atol=0.02, rtol=0)


@pytest.mark.parametrize(("case", "padding"), [("h36m_128x128.box0", 1.0), ("mpii_128x128.box0", 1.25)])
def test_crops_and_labels_with_depth_are_the_originals(rle_case, case, padding):
    tensors = rle_case("preprocess")
    processor = RLEImageProcessor(size={"height": 128, "width": 128}, image_std=STD_3D, box_padding=padding)
    x, y, right, bottom = tensors[f"{case}.input.bbox_xyxy"].tolist()
    points, visible = (tensors[f"{case}.input.joint_{name}"] for name in ("img", "vis"))
    points[visible == 0] = torch.nan
    keypoints = torch.cat([points, visible[:, :1]], dim=1)[None]
    boxes = [[[x, y, right - x, bottom - y]]]
    batch = processor(tensors["input.image"].numpy(), boxes, [keypoints], return_tensors="pt")
    total = tensors[f"{case}.check.pixel_sum.opencv4"]
    assert_close(batch["pixel_values"].double().sum()[None], total, atol=0.02, rtol=0)
    weights = tensors[f"{case}.output.target_uvd_weight"]
    assert_close(batch["label_weights"].flatten(), weights, atol=0, rtol=0)
    assert_close(batch["labels"].flatten(), weights * tensors[f"{case}.output.target_uvd"], atol=1e-6, rtol=0)


def test_crops_are_those_of_mmpose(rle_case):
    tensors = rle_case("mmpose2d_bottleneck_tiny")
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    processor = RLEImageProcessor(
        size={"height": 96, "width": 64}, image_mean=[value / 255 for value in mean], image_std=[s / 255 for s in std]
    )
    image = rle_case("preprocess")["input.image"].numpy()
    batch = processor(image, [[tensors["crop.box0.input.bbox_xywh"].tolist()]], return_tensors="pt")
    expected = tensors["crop.box0.output.crop_uint8.opencv4"].float()
    expected = ((expected - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)
    assert_close(batch["pixel_values"][0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", ["coco2d_bottleneck_tiny", reference_case("rle", "h36m3d_bottleneck_tiny")])
def test_poses_are_the_originals(rle_case, case):
    tensors = rle_case(case)
    height, width = tensors["input.pixel_values"].shape[2:]
    processor = RLEImageProcessor(size={"height": height, "width": width}, box_padding=1.0)
    corners = tensors["input.decode.crop_bbox_xyxy"]
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)[:, None].tolist()
    merged = {name: tensors[f"output.flip_merged.{name}"] for name in ("pred_jts", "sigma", "maxvals")}
    outputs = SimpleNamespace(
        keypoints=merged["pred_jts"], sigmas=merged["sigma"], scores=merged["maxvals"][..., 0], confidences=None
    )
    expected = tensors["output.decode.keypoints"].float()
    expected[..., 2:] *= 2000
    for index, (person,) in enumerate(processor.post_process_pose_estimation(outputs, boxes)):
        assert_close(person["keypoints"], expected[index], atol=2e-4, rtol=1e-6)
        assert_close(person["scores"], tensors["output.decode.scores"][index].flatten().float(), atol=1e-6, rtol=0)
        assert_close(person["bbox"], corners[index], atol=2e-5, rtol=0)


@pytest.mark.parametrize("flip_test", [False, True], ids=["no_flip", "flip_test"])
def test_image_and_boxes_to_keypoints_as_the_original(rle_case, fixtures, flip_test):
    from hvmodels.conversion.rle import convert

    path = fixtures / "rle" / "coco2d_bottleneck_tiny"
    options = json.loads((path / "config.json").read_text())
    model, processor = convert(torch.load(path / "checkpoint.pth", weights_only=True), options, path)
    tensors, name = rle_case("end_to_end2d"), "flip_test" if flip_test else "no_flip"
    boxes = [tensors["input.boxes_xywh"].tolist()]
    batch = processor(tensors["input.image"].numpy(), boxes, return_tensors="pt")
    assert_close(batch["crop_boxes"], tensors["output.crop_bbox_xyxy"], atol=2e-5, rtol=0)
    with torch.no_grad():
        outputs = model(batch["pixel_values"], flip_test=flip_test)
    (persons,) = processor.post_process_pose_estimation(outputs, boxes)
    keypoints, scores = (torch.stack([person[key] for person in persons]) for key in ("keypoints", "scores"))
    assert_close(keypoints.double(), tensors[f"output.{name}.keypoints.opencv4"], atol=1e-4, rtol=0)
    assert_close(scores.double(), tensors[f"output.{name}.scores.opencv4"][..., 0], atol=1e-6, rtol=0)
    assert_close(
        torch.from_numpy(instance_scores(scores.numpy(), tensors["input.det_score"].numpy())).double(),
        tensors[f"output.{name}.instance_score.opencv4"],
        atol=1e-6,
        rtol=0,
    )


# Crops


def test_one_crop_a_box_over_all_images(processor):
    images = [make_image(), make_image(25, 18, seed=1), make_image(9, 9, seed=2)]
    boxes = [[[3, 4, 10, 9], [-2, 5, 30, 12.5]], [], [(0, 0, 9, 9)]]
    batch = processor(images, boxes, return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 3, 16, 12)
    assert batch["pixel_values"].dtype == batch["crop_boxes"].dtype == torch.float32
    row = 0
    for image, image_boxes in zip(images, boxes, strict=True):
        for box in image_boxes:
            alone = processor(image, [[box]], return_tensors="pt")
            for name in ("pixel_values", "crop_boxes"):
                assert_close(alone[name][0], batch[name][row], atol=0, rtol=0)
            row += 1
    width, height = (batch["crop_boxes"][:, 2:] - batch["crop_boxes"][:, :2]).T
    assert_close(height / width, torch.full((3,), 16 / 12))


def test_no_boxes_at_all(processor):
    batch = processor([make_image(), make_image()], [[], []], [[], []], return_tensors="pt")
    assert batch["pixel_values"].shape == (0, 3, 16, 12)
    assert batch["crop_boxes"].shape == (0, 4)
    assert len(batch["labels"]) == len(batch["label_weights"]) == 0
    assert processor.post_process_pose_estimation(make_outputs(0), [[], []]) == [[], []]


def test_whole_images_without_boxes(processor):
    images = [make_image(), make_image(25, 18)]
    expected = processor(images, [[[0, 0, 30, 20]], [[0, 0, 18, 25]]], return_tensors="pt")
    batch = processor(images, return_tensors="pt")
    assert_close(dict(batch), dict(expected), atol=0, rtol=0)
    outputs = make_outputs(2)
    persons = processor.post_process_pose_estimation(outputs, None, source_sizes=[(20, 30), (25, 18)])
    expected = processor.post_process_pose_estimation(outputs, [[[0, 0, 30, 20]], [[0, 0, 18, 25]]])
    assert_close(persons, expected, atol=0, rtol=0)


def test_box_outside_the_image_is_black(processor):
    batch = processor(make_image(), [[[100, 100, 5, 5], [-40, 3, 9, 9]]], return_tensors="pt")
    expected = -torch.tensor([0.406, 0.457, 0.480]).view(3, 1, 1).expand(2, 3, 16, 12)
    assert_close(batch["pixel_values"], expected)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_dark_images_are_rescaled_as_all_others(processor, value):
    batch = processor(np.full((20, 30, 3), value, np.uint8), [[[10, 8, 2, 2]]], return_tensors="pt")
    expected = value / 255 - torch.tensor([0.406, 0.457, 0.480]).view(3, 1, 1).expand(1, 3, 16, 12)
    assert_close(batch["pixel_values"], expected)


def test_steps_can_be_left_out(processor):
    image, box = make_image(), [[[3, 4, 10, 9]]]
    centers, scales = boxes_to_center_scale(np.array([[3, 4, 13, 13]]), 12 / 16)
    crop = warp_crops(image, crop_matrices(centers, scales, None, (16, 12)), (16, 12))[0].transpose(2, 0, 1)
    steps = {"do_rescale": False, "do_normalize": False}
    np.testing.assert_array_equal(processor(image, box, **steps).pixel_values[0], crop)
    actual = processor(image, box, do_normalize=False).pixel_values[0]
    np.testing.assert_allclose(actual, crop / 255, atol=1e-7)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in ([0.1, 0.2, 0.3], STD_3D))
    actual = processor(image, box, image_mean=[0.1, 0.2, 0.3], image_std=STD_3D).pixel_values[0]
    np.testing.assert_allclose(actual, (crop / 255 - mean) / std, atol=1e-6)


def test_options_of_one_call(processor):
    image, box = make_image(), [[[3, 4, 10, 9]]]
    other = RLEImageProcessor(size={"height": 8, "width": 8}, box_padding=1)
    batch = processor(image, box, size={"height": 8, "width": 8}, box_padding=1.0, return_tensors="pt")
    assert_close(dict(batch), dict(other(image, box, return_tensors="pt")), atol=0, rtol=0)


def test_saving_and_loading(tmp_path):
    processor = RLEImageProcessor(
        size={"height": 32, "width": 32}, image_std=STD_3D, box_padding=1, depth_scale=1000, drop_outside=False
    )
    processor.save_pretrained(tmp_path)
    assert RLEImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    image, box, keypoints = make_image(), [[[3, 4, 10, 9]]], [np.array([[[5, 6, 70, 1], [50, 6, 7, 2]]])]
    expected = processor(image, box, keypoints, return_tensors="pt")
    actual = RLEImageProcessor.from_pretrained(tmp_path)(image, box, keypoints, return_tensors="pt")
    assert_close(dict(actual), dict(expected), atol=0, rtol=0)


# Images of any kind


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_pil_modes_are_read_as_pillow_converts_them(plain, mode):
    image = Image.fromarray(make_image()).convert(mode)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(plain(image).pixel_values[0], expected)


def test_arrays_and_tensors_of_any_layout_agree(plain, tmp_path):
    image = make_image()
    first, path = np.ascontiguousarray(image.transpose(2, 0, 1)), tmp_path / "image.png"
    Image.fromarray(image).save(path)
    same = [image, first, torch.tensor(first), torch.tensor(image), image.astype(np.int64), image[None], [[image]]]
    same += [path, str(path), image.astype(np.float64), torch.tensor(first).float(), np.clip(image + 0.3, 0, 255)]
    for images in same:
        actual = plain(images, do_rescale=True, rescale_factor=1.0).pixel_values[0]
        np.testing.assert_array_equal(actual, first)
    for images in (image / 255, torch.tensor(first) / 255, torch.tensor(first / 255).bfloat16().requires_grad_()):
        tolerance = 1e-6 if images.dtype != torch.bfloat16 else 0.01
        np.testing.assert_allclose(plain(images).pixel_values[0], first / 255, atol=tolerance)


def test_16_bit_grey_keeps_its_tones(plain):
    levels = np.random.default_rng(0).integers(0, 256, (20, 30))
    expected = np.tile(levels.astype(np.float32), (3, 1, 1))
    wide = (levels * 257).astype(np.uint16)
    for image in (wide, Image.fromarray(wide), Image.fromarray(wide.astype(np.int32))):
        np.testing.assert_array_equal(plain(image).pixel_values[0], expected)


def test_exif_orientation_is_applied(plain, tmp_path):
    array, exif, path = make_image(30, 20), Image.Exif(), tmp_path / "rotated.png"
    exif[0x0112] = 6
    Image.fromarray(array).save(path, exif=exif)
    np.testing.assert_array_equal(plain(path).pixel_values[0], np.rot90(array, -1).transpose(2, 0, 1))


def truncated_jpeg(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(make_image(200, 300)).save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[:2000])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: [], "`images` must hold at least one"),
        (lambda path: None, "`images` must be"),
        (lambda path: [make_image(), 5], r"`images\[1\]` must be"),
        (lambda path: np.zeros((0, 5, 3), np.uint8), "empty axes"),
        (lambda path: np.zeros(5, np.uint8), "`images` must be an image of shape"),
        (lambda path: np.zeros((8, 9, 2), np.uint8), r"`images\[0\]` must have 1, 3 or 4 channels"),
        (lambda path: np.zeros((3, 5, 3), np.uint8), r"`images\[0\]`.*`input_data_format"),
        (lambda path: np.full((8, 9, 3), 300), r"`images\[0\]` must hold values from 0 to 255"),
        (lambda path: np.full((8, 9, 3), np.nan), r"`images\[0\]` must hold finite"),
        (lambda path: np.full((8, 9, 3), 0.5), r"`images\[0\]`.*pass `do_rescale=False`"),
        (lambda path: np.full((8, 9, 3), 256.0), r"`images\[0\]` holds floats from"),
        (lambda path: Image.new("RGB", (0, 5)), r"`images\[0\]` must not be empty"),
        (lambda path: path / "absent.jpg", "`images` names"),
        (truncated_jpeg, r"`images\[0\]` cannot be decoded"),
    ],
)
def test_images_that_cannot_be_read_are_refused(processor, make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        processor(make(tmp_path))


def test_rescaled_floats_are_checked(processor):
    with pytest.raises(ValueError, match=r"`images\[0\]` holds floats.*pass `do_rescale=True`"):
        processor(np.full((8, 9, 3), 2.0), do_rescale=False)


# Labels


def test_labels_by_hand():
    processor = RLEImageProcessor(size={"height": 20, "width": 20}, box_padding=1, depth_scale=100)
    boxes = [[[0, 0, 10, 10], [10, 4, 10, 10]]]
    keypoints = np.array([[[5, 5, 2], [np.nan, np.nan, 0]], [[12, 14, 1], [30, 3, 1]]])
    batch = processor(make_image(), boxes, [keypoints], return_tensors="pt")
    assert_close(batch["labels"], torch.tensor([[[0, 0], [0, 0]], [[-0.3, 0.5], [1.5, -0.6]]]))
    assert_close(batch["label_weights"], torch.tensor([[[1.0, 1], [0, 0]], [[1, 1], [1, 1]]]))
    batch = processor(make_image(), boxes, [keypoints], drop_outside=True, return_tensors="pt")
    assert batch["label_weights"][1].tolist() == [[0, 0], [0, 0]]

    keypoints = np.array([[[5, 4, 20, 2], [1, 2, np.nan, 2]], [[12, 9, -60, 1], [30, 3, 0, 1]]])
    batch = processor(make_image(), boxes, [keypoints], return_tensors="pt")
    assert_close(batch["labels"], torch.tensor([[[0, -0.1, 0.2], [-0.4, -0.3, 0]], [[0, 0, 0.0], [0, 0, 0]]]))
    assert batch["label_weights"].tolist() == [[[1, 1, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]]


def test_labels_of_several_images(processor):
    images, boxes = [make_image()] * 3, [[[3, 4, 10, 9]], [], [[0, 0, 8, 8], [1, 1, 9, 9]]]
    keypoints = [np.random.default_rng(i).uniform(1, 20, (len(boxes[i]), 5, 3)) for i in range(3)]
    batch = processor(images, boxes, keypoints, return_tensors="pt")
    assert batch["labels"].shape == batch["label_weights"].shape == (3, 5, 2)
    alone = processor(images[2], boxes[2:], keypoints[2:], return_tensors="pt")
    assert_close(batch["labels"][1:], alone["labels"], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (5, "`keypoints` must hold one array an image, got int"),
        ([], "`keypoints` must hold one array an image, got 0 for 1"),
        ([np.zeros((2, 5, 3))], r"`keypoints\[0\]` must be .* \(1, keypoints, 3 or 4\)"),
        ([np.zeros((5, 3))], r"`keypoints\[0\]` must be"),
        ([np.zeros((1, 5, 2))], r"`keypoints\[0\]` must be"),
        ([[[["a", 1, 1]]]], r"`keypoints\[0\]` must be"),
        ([np.full((1, 5, 3), -1)], r"`keypoints\[0\]` must have a visibility"),
        ([np.full((1, 5, 3), np.nan)], r"`keypoints\[0\]` must have a visibility"),
        ([np.array([[[np.nan, 3, 1]]])], "`keypoints` must hold finite coordinates"),
    ],
)
def test_wrong_keypoints_are_refused(processor, keypoints, message):
    with pytest.raises(ValueError, match=message):
        processor(make_image(), [[[3, 4, 10, 9]]], keypoints)


def test_images_must_agree_in_their_keypoints(processor):
    keypoints = [np.zeros((1, 5, 3)), np.zeros((1, 4, 3))]
    with pytest.raises(ValueError, match=r"`keypoints\[1\]` must be .* as many for all images"):
        processor([make_image()] * 2, [[[3, 4, 10, 9]]] * 2, keypoints)


# Boxes and options


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (3, "`boxes` must hold one list of boxes an image, got int"),
        ("box", "`boxes` must hold one list of boxes an image, got str"),
        ([], "`boxes` must hold one list of boxes an image, got 0 for 1"),
        ([[], []], "`boxes` must hold one list of boxes an image, got 2 for 1"),
        ([[3, 4, 10, 9]], r"`boxes\[0\]` must be a list of boxes x, y, width, height in pixels, got shape \(4,\)"),
        ([[[3, 4, 10]]], r"`boxes\[0\]` must be"),
        ([[[3, 4, 10, 9], [3, 4]]], r"`boxes\[0\]` must be"),
        ([[[3, 4, "wide", 9]]], r"`boxes\[0\]` must be"),
        ([[[3, 4, 10, 9], [3, 4, 0, 9]]], r"`boxes\[0\]\[1\]` must be .* positive width"),
        ([[[3, 4, 10, -9]]], r"`boxes\[0\]\[0\]` must be"),
        ([[[3, np.nan, 10, 9]]], r"`boxes\[0\]\[0\]` must be"),
        ([[[3, 4, np.inf, 9]]], r"`boxes\[0\]\[0\]` must be"),
    ],
)
def test_wrong_boxes_are_refused(processor, boxes, message):
    with pytest.raises(ValueError, match=message):
        processor(make_image(), boxes)
    with pytest.raises(ValueError, match=message):
        processor.post_process_pose_estimation(make_outputs(1), boxes, source_sizes=[(20, 30)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": {"shortest_edge": 20}}, "`size` must be"),
        ({"box_padding": 0}, "`box_padding` must be a positive number"),
        ({"box_padding": float("inf")}, "`box_padding` must be a positive number"),
        ({"depth_scale": -1}, "`depth_scale` must be a positive number"),
        ({"image_mean": [0.5, 0.5]}, "`image_mean` must be a number or one a channel"),
        ({"image_std": [0.5, 0.5, 0.0]}, "`image_std` must be positive"),
        ({"do_resize": False}, "`do_resize` must be True, got False"),
        ({"do_convert_rgb": False}, "`do_convert_rgb` must be True"),
        ({"do_pad": True}, "`do_pad` must be None"),
        ({"resample": 3}, "`resample` must be"),
    ],
)
def test_wrong_options_are_refused(processor, options, message):
    with pytest.raises(ValueError, match=message):
        RLEImageProcessor(**options)
    with pytest.raises(ValueError, match=message):
        processor(make_image(), **options)


# Poses


def test_poses_by_hand():
    processor = RLEImageProcessor(size={"height": 20, "width": 10}, box_padding=1, depth_scale=1000)
    outputs = make_outputs(3, dim=3)
    boxes = [[[0, 0, 10, 20]], [], [[10, 10, 20, 10], [5, 5, 1, 40]]]
    poses = processor.post_process_pose_estimation(outputs, boxes)
    assert [len(persons) for persons in poses] == [1, 0, 2]
    crops = [([5, 10], [10, 20]), ([20, 15], [20, 40]), ([5.5, 25], [20, 40])]  # centre and size
    corners = [[0, 0, 10, 20], [10, 10, 30, 20], [5, 5, 6, 45]]
    for index, person in enumerate(poses[0] + poses[2]):
        center, scale = map(torch.tensor, crops[index])
        xy = center + outputs.keypoints[index, :, :2] * scale
        assert_close(person["keypoints"], torch.cat([xy, 1000 * outputs.keypoints[index, :, 2:]], dim=1))
        assert_close(person["depths"], 1000 * outputs.keypoints[index, :, 2])
        assert_close(person["sigmas"], outputs.sigmas[index, :, :2] * scale)
        assert_close(person["scores"], outputs.scores[index], atol=0, rtol=0)
        assert_close(person["confidences"], outputs.confidences[index], atol=0, rtol=0)
        assert_close(person["bbox"], torch.tensor(corners[index]).float())
        assert person["labels"].tolist() == [0, 1, 2]


def test_what_2d_and_uncalibrated_models_lack(processor):
    ((person,),) = processor.post_process_pose_estimation(make_outputs(1, confidences=False), [[[0, 0, 10, 20]]])
    assert set(person) == {"keypoints", "scores", "labels", "bbox", "sigmas"}
    assert person["keypoints"].shape == (3, 2)


def test_threshold_leaves_out_keypoints(processor):
    outputs, boxes = make_outputs(2, keypoints=5, dim=3), [[[0, 0, 10, 20], [3, 4, 5, 6]]]
    outputs.scores[1] = 0.1
    outputs.scores[0] = torch.tensor([0.2, 0.5, 0.9, 0.4, 0.6])
    (everything,) = processor.post_process_pose_estimation(outputs, boxes)
    ((first, second),) = processor.post_process_pose_estimation(outputs, boxes, threshold=0.5)
    assert first["labels"].tolist() == [2, 4]
    for name in ("keypoints", "scores", "sigmas", "confidences", "depths"):
        assert_close(first[name], everything[0][name][[2, 4]], atol=0, rtol=0)
        assert len(second[name]) == 0
    assert_close(second["bbox"], everything[1]["bbox"])


def test_target_sizes_count_for_each_image(processor):
    outputs, boxes = make_outputs(3, dim=3), [[[0, 0, 10, 20], [3, 4, 5, 6]], [[1, 2, 3, 4]]]
    sizes = {"source_sizes": [(20, 30), (10, 10)], "target_sizes": torch.tensor([[40, 90], [5, 20]])}
    (one, two), (three,) = processor.post_process_pose_estimation(outputs, boxes)
    (first, second), (third,) = processor.post_process_pose_estimation(outputs, boxes, **sizes)
    factors = torch.tensor([[3, 2], [3, 2], [2, 0.5]])
    for factor, expected, actual in zip(factors, (one, two, three), (first, second, third), strict=True):
        assert_close(actual["keypoints"][:, :2], expected["keypoints"][:, :2] * factor)
        assert_close(actual["keypoints"][:, 2], expected["keypoints"][:, 2], atol=0, rtol=0)
        assert_close(actual["sigmas"], expected["sigmas"] * factor)
        assert_close(actual["bbox"], expected["bbox"] * factor.repeat(2))


def test_half_precision_outputs(processor):
    outputs, boxes = make_outputs(1), [[[0, 0, 10, 20]]]
    half = SimpleNamespace(**{name: value.bfloat16() for name, value in vars(outputs).items()})
    ((person,),) = processor.post_process_pose_estimation(half, boxes)
    ((expected,),) = processor.post_process_pose_estimation(outputs, boxes)
    for name, value in expected.items():
        assert person[name].dtype == value.dtype
        assert_close(person[name], value, atol=0.1, rtol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [[[0, 0, 1, 1]]]}, "`boxes` must be those given to `preprocess`: `outputs` has 2 crops"),
        ({"boxes": None}, "`source_sizes` must be"),
        ({"target_sizes": [(3, 4)]}, "`source_sizes` must be"),
        (
            {"target_sizes": [(3, 4)] * 2, "source_sizes": [(3, 4)]},
            r"`target_sizes` must hold one \(height, width\) an image, got 2 for 1",
        ),
        ({"source_sizes": [(3, 4)] * 2}, "`boxes` must hold one list of boxes an image, got 1 for 2"),
        ({"source_sizes": [(3, 0)]}, "`source_sizes` must hold positive"),
        ({"source_sizes": 5}, r"`source_sizes` must hold one \(height, width\) an image, got int"),
        ({"source_sizes": [(3, 4, 5)]}, r"`source_sizes` must be \(height, width\) of each image, got shape"),
    ],
)
def test_arguments_that_do_not_fit_the_outputs(processor, arguments, message):
    arguments = {"boxes": [[[0, 0, 1, 1], [0, 0, 2, 2]]], **arguments}
    with pytest.raises(ValueError, match=message):
        processor.post_process_pose_estimation(make_outputs(2), **arguments)


class TestRLEImageProcessor(ProcessorChecks):
    processor_class = RLEImageProcessor
    processor_arguments = {
        "size": {"height": 128, "width": 96},
        "image_mean": (0.5, 0.4, 0.3),
        "image_std": (0.2, 0.3, 0.4),
        "box_padding": 1.0,
        "depth_scale": 1000.0,
        "drop_outside": True,
    }

    @pytest.fixture(autouse=True)
    def auto_class(self, auto_image_processor):
        self.__class__.auto_class = transformers.AutoImageProcessor
