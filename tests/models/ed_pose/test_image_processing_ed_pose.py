import copy
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hvmodels.models.ed_pose.image_processing_ed_pose import EDPoseImageProcessor, get_resized_size


CASES = ("processing_coco17", "processing_crowdpose14")


class Case:
    """Stored images, annotations and results of the original code."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = load_file(folder / "io.safetensors")
        self.num_keypoints = self.config["K"]
        self.images = [self.tensors[f"input.image.{i}"].numpy() for i in range(len(self.config["images"]))]
        self.annotations = [
            {"image_id": i, "annotations": image["annotations"]} for i, image in enumerate(self.config["images"])
        ]

    def make_processor(self):
        size = {"shortest_edge": self.config["size"], "longest_edge": self.config["max_size"]}
        return EDPoseImageProcessor(size=size, num_keypoints=self.num_keypoints)

    def check_labels(self, labels, prefix):
        """Compare with the original's targets, which hold x, y of all keypoints and then their visibility."""
        for index, label in enumerate(labels):
            target = {name: self.tensors[f"{prefix}.{index}.{name}"] for name in ("boxes", "area", "keypoints")}
            coordinates, visible = target["keypoints"].split([2 * self.num_keypoints, self.num_keypoints], dim=1)
            assert_close(label["boxes"], target["boxes"], atol=2e-6, rtol=0)
            assert_close(label["area"], target["area"], atol=2e-6, rtol=0)
            assert_close(label["keypoints"].flatten(1), coordinates, atol=2e-6, rtol=0)
            assert_close(label["keypoints_visible"], visible, atol=0, rtol=0)
            if f"{prefix}.{index}.labels" in self.tensors:
                assert_close(label["class_labels"], self.tensors[f"{prefix}.{index}.labels"])


@pytest.fixture(params=CASES)
def case(request, fixtures):
    return Case(fixtures / "edpose" / request.param)


def make_person(**changes):
    keypoints = [4, 6, 2, 5, 7, 2, 6, 8, 2]
    person = {"category_id": 1, "bbox": [2, 3, 10, 12], "keypoints": keypoints, "num_keypoints": 3}
    return {**person, "iscrowd": 0, "area": 60.0, **changes}


def make_annotations(*persons):
    return {"image_id": 7, "annotations": list(persons)}


def make_image(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def processor():
    return EDPoseImageProcessor(size={"shortest_edge": 24, "longest_edge": 40}, num_keypoints=3)


@pytest.fixture
def plain():
    """Returns the pixels of an image as they are."""
    return EDPoseImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)


# The original


def test_images_and_targets_equal_the_original(case):
    batch = case.make_processor()(case.images, case.annotations, return_tensors="pt")
    assert_close(batch["pixel_values"], case.tensors["output.pixel_values"], atol=0, rtol=0)
    assert_close(batch["pixel_mask"], (~case.tensors["output.mask"]).long(), atol=0, rtol=0)
    case.check_labels(batch["labels"], "output.target")
    for index, label in enumerate(batch["labels"]):
        assert_close(label["size"], case.tensors[f"output.target.{index}.size"])
        assert label["orig_size"].tolist() == list(case.images[index].shape[:2])
        assert label["image_id"].tolist() == [index]


def test_sizes_equal_the_original(case):
    for width, height, size, max_size, *expected in case.config["resize_table_w_h_size_max__h_w"]:
        assert list(get_resized_size(height, width, size, max_size)) == expected


def test_post_processing_equals_the_original(case):
    keypoints = case.tensors["post.input.pred_keypoints"][..., : 2 * case.num_keypoints]
    outputs = SimpleNamespace(
        logits=case.tensors["post.input.pred_logits"],
        pred_boxes=case.tensors["post.input.pred_boxes"],
        pred_keypoints=keypoints.unflatten(-1, (-1, 2)),
    )
    settings = {
        "target_sizes": case.tensors["post.input.target_sizes"],
        "top_k": case.config["post_cfg"]["num_select"],
    }
    results = case.make_processor().post_process_pose_estimation(outputs, **settings)
    boxes_only = case.make_processor().post_process_object_detection(outputs, **settings)
    for index, result in enumerate(results):
        expected = {name: case.tensors[f"post.output.{name}"][index] for name in ("scores", "labels", "boxes")}
        for name, value in expected.items():
            assert_close(result[name], value, atol=0, rtol=0)
            assert_close(boxes_only[index][name], value, atol=0, rtol=0)
        original = case.tensors["post.output.keypoints"][index].unflatten(-1, (-1, 3))
        assert_close(result["keypoints"], original[..., :2], atol=0, rtol=0)
        # The original's score of a keypoint is the same for all.
        assert_close(torch.sigmoid(torch.ones_like(result["keypoint_scores"])), original[..., 2])
        assert_close(result["keypoint_scores"], result["scores"][:, None].expand(-1, case.num_keypoints))


# Sizes and padding


def test_size_rule_differs_from_transformers_on_purpose():
    assert get_resized_size(427, 640, 800, 1333) == (800, 1199)
    assert get_resized_size(213, 640, 800, 1333) == (444, 1334)
    assert get_resized_size(1, 1, 800, 1333) == (800, 800)
    assert get_resized_size(10, 20000, 800, 1333) == (1, 2000)
    assert get_resized_size(480, 640, 480) == (480, 640)
    with pytest.raises(ValueError, match="too elongated"):
        get_resized_size(100_000, 10, 800, 1333)


def test_other_sizes(processor):
    image = make_image()
    assert processor(image, size={"height": 8, "width": 16}).pixel_values.shape == (1, 3, 8, 16)
    assert processor(image, size={"shortest_edge": 10}).pixel_values.shape == (1, 3, 10, 15)
    assert processor(image, size=10).pixel_values.shape == (1, 3, 10, 15)
    with pytest.raises(ValueError, match="`size` must be"):
        processor(image, size={"longest_edge": 10})
    with pytest.raises(ValueError, match="`do_center_crop`"):
        processor(image, do_center_crop=True, crop_size={"height": 8, "width": 8})


def test_padding_is_zero_and_masked(processor):
    batch = processor([make_image(20, 30), make_image(30, 20)], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 36, 36)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [24 * 36, 36 * 24]
    outside = batch["pixel_mask"][:, None] == 0
    assert batch["pixel_values"].masked_select(outside).abs().max() == 0
    alone = processor(make_image(30, 20), return_tensors="pt")
    assert_close(alone["pixel_values"][0], batch["pixel_values"][1][:, :, :24], atol=0, rtol=0)


def test_pad_size(processor):
    batch = processor(make_image(), pad_size={"height": 64, "width": 48}, return_tensors="np")
    assert batch["pixel_values"].shape == (1, 3, 64, 48)
    assert batch["pixel_mask"].sum() == 24 * 36
    with pytest.raises(ValueError, match="`pad_size` must be"):
        processor(make_image(), pad_size={"height": 64, "width": 35})


def test_without_padding(processor):
    images = [make_image(20, 30), make_image(30, 20)]
    batch = processor(images, do_pad=False)
    assert [values.shape for values in batch["pixel_values"]] == [(3, 24, 36), (3, 36, 24)]
    assert "pixel_mask" not in batch
    with pytest.raises(ValueError, match="`do_pad`"):
        processor(images, do_pad=False, return_tensors="pt")


# Images of any kind


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_pil_modes_are_read_as_pillow_converts_them(plain, mode):
    image = Image.fromarray(make_image()).convert("L" if mode == "PA" else mode if mode != "LAB" else "RGB")
    image = image.convert("P").convert("PA") if mode == "PA" else image
    if mode == "LAB":
        image = Image.fromarray(np.asarray(image), mode="RGB").convert("RGB")
        image = Image.frombytes("LAB", image.size, image.tobytes())
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(plain(image).pixel_values[0], expected)


def test_alpha_is_dropped(plain):
    rgba = np.concatenate([make_image(), np.zeros((20, 30, 1), dtype=np.uint8)], axis=2)
    expected = rgba[..., :3].transpose(2, 0, 1)
    for image in (Image.fromarray(rgba), rgba, rgba.transpose(2, 0, 1), torch.tensor(rgba.transpose(2, 0, 1))):
        np.testing.assert_array_equal(plain(image).pixel_values[0], expected)


def test_transparent_palette(plain):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 1
    assert plain(image).pixel_values[0].transpose(1, 2, 0).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_steps_can_be_left_out(processor):
    image = make_image()
    expected = processor(image, return_tensors="np")["pixel_values"]
    for off in (False, None):
        steps = {"do_rescale": off, "do_normalize": off, "return_tensors": "np"}
        np.testing.assert_array_equal(
            processor(image, do_resize=off, **steps)["pixel_values"][0], image.transpose(2, 0, 1)
        )
        mean, std = (np.float32(value).reshape(3, 1, 1) for value in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        plain = processor(image, **steps)["pixel_values"]
        np.testing.assert_allclose((plain / 255 - mean) / std, expected, atol=1e-6)


def test_16_bit_grey_keeps_its_tones(plain, tmp_path):
    levels = np.array([[0, 128, 257, 25700, 65535]], dtype=np.uint16)
    expected = np.tile(np.float32([[0, 0, 1, 100, 255]]), (3, 1, 1))
    path = tmp_path / "grey.png"
    Image.fromarray(levels).save(path)
    for image in (Image.fromarray(levels), Image.fromarray(levels.astype(np.int32)), levels, str(path), path):
        np.testing.assert_array_equal(plain(image).pixel_values[0], expected)


def test_exif_orientation_is_applied(plain, tmp_path):
    array = make_image()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "rotated.png"
    Image.fromarray(array).save(path, exif=exif)
    for image in (path, Image.open(path)):
        np.testing.assert_array_equal(plain(image).pixel_values[0], np.rot90(array, -1).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(1, 1, (800, 800)), (10, 20000, (1, 2000)), (2000, 1, (2000, 1))]
)
def test_extreme_shapes(height, width, expected):
    batch = EDPoseImageProcessor()(Image.new("RGB", (width, height), (10, 20, 30)), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, *expected)
    colour = (torch.tensor([10.0, 20, 30]) / 255 - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(
        IMAGENET_DEFAULT_STD
    )
    assert_close(batch["pixel_values"], colour[:, None, None].expand(1, 3, *expected), atol=1e-6, rtol=0)


def test_arrays_and_tensors_of_any_layout_agree(processor):
    image = make_image()
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    first = np.ascontiguousarray(image.transpose(2, 0, 1))
    same = [
        image,
        first,
        torch.tensor(first),
        torch.tensor(image),
        image.astype(np.int64),
        torch.tensor(first).int(),
        image[None],
        torch.tensor(first)[None],
        [image],
        [[image]],
        (Image.fromarray(image),),
    ]
    for images in same:
        assert_close(processor(images, return_tensors="pt")["pixel_values"], expected, atol=0, rtol=0)
    both = processor([image, Image.fromarray(image), torch.tensor(first)], return_tensors="pt")["pixel_values"]
    assert_close(both, expected.expand_as(both), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats(processor, dtype):
    image = make_image()
    expected = processor(image, return_tensors="pt")["pixel_values"]
    # An 8-bit image is rounded after either pass of the resize.
    actual = processor(image.astype(dtype), return_tensors="pt")["pixel_values"]
    assert_close(actual, expected, atol=1.05 / 255 / 0.224, rtol=0)
    actual = processor((image / 255).astype(np.float32), do_rescale=False, return_tensors="pt")["pixel_values"]
    assert_close(actual, expected, atol=1.05 / 255 / 0.224, rtol=0)
    tensor = torch.tensor(image / 255).permute(2, 0, 1).bfloat16().requires_grad_()
    assert_close(processor(tensor, do_rescale=False, return_tensors="pt")["pixel_values"], expected, atol=0.03, rtol=0)


def test_grey_images(plain):
    grey = make_image()[..., 0]
    expected = np.tile(grey, (3, 1, 1))
    for image in (
        grey,
        grey[None],
        grey[..., None],
        torch.tensor(grey),
        torch.tensor(grey)[None],
        Image.fromarray(grey),
    ):
        np.testing.assert_array_equal(plain(image).pixel_values[0], expected)
    np.testing.assert_array_equal(plain(grey > 100).pixel_values[0], (expected > 100) * 255.0)


def test_layout_of_one_pixel_high_images(plain):
    row = make_image(1, 30)
    np.testing.assert_array_equal(plain(row).pixel_values[0], row.transpose(2, 0, 1))
    pixel = make_image(1, 1)
    np.testing.assert_array_equal(plain(pixel).pixel_values[0], pixel.transpose(2, 0, 1))
    square = make_image(3, 5)[:, :3]
    with pytest.raises(ValueError, match=r"`images\[0\]`.*`input_data_format"):
        plain(square)
    expected = square.transpose(2, 0, 1)
    np.testing.assert_array_equal(plain(square, input_data_format="channels_last").pixel_values[0], expected)
    np.testing.assert_array_equal(plain(expected, input_data_format="channels_first").pixel_values[0], expected)
    np.testing.assert_array_equal(plain(torch.tensor(expected.copy())).pixel_values[0], expected)


def test_channels_are_kept_without_conversion():
    processor = EDPoseImageProcessor(
        size={"height": 8, "width": 8}, do_convert_rgb=False, image_mean=[0.5] * 4, image_std=[0.5] * 4
    )
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    expected = processor(rgba, return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 4, 8, 8)
    actual = processor(rgba.transpose(2, 0, 1), input_data_format="channels_first", return_tensors="pt")
    assert_close(actual["pixel_values"], expected, atol=0, rtol=0)
    with pytest.raises(ValueError, match="`image_mean`"):
        processor(make_image())
    with pytest.raises(ValueError, match="`do_convert_rgb=True`"):
        processor([make_image(), rgba])


def truncated_jpeg(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(make_image(200, 300)).save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[:2000])
    return path


def text_file(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: [], "`images` must hold at least one"),
        (lambda path: None, "`images` must be"),
        (lambda path: [make_image(), 5], r"`images\[1\]` must be"),
        (lambda path: np.zeros((0, 5, 3), np.uint8), "empty axes"),
        (lambda path: np.zeros(5, np.uint8), "`images` must be an image of shape"),
        (lambda path: np.zeros((8, 9, 2), np.uint8), r"`images\[0\]` must have 1, 3 or 4 channels"),
        (lambda path: np.zeros((8, 9, 5), np.uint8), r"`images\[0\]` must have 1, 3 or 4 channels"),
        (lambda path: np.full((8, 9, 3), 300), r"`images\[0\]` must hold values from 0 to 255"),
        (lambda path: np.full((8, 9, 3), -1), r"`images\[0\]` must hold values from 0 to 255"),
        (lambda path: np.full((8, 9, 3), np.nan), r"`images\[0\]` must hold finite"),
        (lambda path: np.full((8, 9, 3), 0.5), r"`images\[0\]`.*pass `do_rescale=False`"),
        (lambda path: np.full((8, 9, 3), 256.0), r"`images\[0\]` holds floats from"),
        (lambda path: np.full((8, 9, 3), "a"), r"`images\[0\]` must be an array of numbers"),
        (lambda path: Image.new("RGB", (0, 5)), r"`images\[0\]` must not be empty"),
        (
            lambda path: Image.fromarray(np.full((4, 5), 70000, np.int32)),
            r"`images\[0\]` must hold values from 0 to 65535",
        ),
        (lambda path: path / "absent.jpg", "`images` names"),
        (lambda path: [make_image(), text_file(path)], r"`images\[1\]` names"),
        (truncated_jpeg, r"`images\[0\]` cannot be decoded"),
    ],
)
def test_images_that_cannot_be_read_are_refused(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        EDPoseImageProcessor()(make(tmp_path))


# Annotations


def test_labels_by_hand(processor):
    image = make_image(20, 30)
    person = make_person(keypoints=[15, 10, 2, 30, 20, 1, 0, 0, 0], bbox=[-3, 5, 18, 30])
    (label,) = processor(image, make_annotations(person), return_tensors="pt")["labels"]
    assert {name: value.dtype for name, value in label.items()} == {
        "class_labels": torch.int64,
        "boxes": torch.float32,
        "keypoints": torch.float32,
        "keypoints_visible": torch.float32,
        "area": torch.float32,
        "orig_size": torch.int64,
        "size": torch.int64,
        "image_id": torch.int64,
    }
    assert label["class_labels"].tolist() == [1]
    assert_close(label["boxes"], torch.tensor([[0.25, 0.625, 0.5, 0.75]]))
    assert_close(label["keypoints"], torch.tensor([[[0.5, 0.5], [1, 1], [0, 0]]]))
    assert label["keypoints_visible"].tolist() == [[1, 1, 0]]
    assert_close(label["area"], torch.tensor([0.1]))
    assert label["orig_size"].tolist() == [20, 30]
    assert label["size"].tolist() == [24, 36]


def test_area_of_the_box_where_none_is_annotated(processor):
    persons = [make_person(), make_person(area=0), make_person()]
    del persons[0]["area"]
    (label,) = processor(make_image(), make_annotations(*persons))["labels"]
    np.testing.assert_allclose(label["area"], [120 / 600, 120 / 600, 60 / 600], rtol=1e-6)


def test_labels_do_not_depend_on_the_rest_of_the_batch(processor):
    one, two = make_annotations(make_person()), make_annotations(make_person(), make_person())
    alone = processor(make_image(), one, return_tensors="pt")["labels"][0]
    batch = processor([make_image(), make_image(90, 30)], [one, two], return_tensors="pt")["labels"]
    assert len(batch[1]["boxes"]) == 2
    for name, value in alone.items():
        assert_close(batch[0][name], value, atol=0, rtol=0)


@pytest.mark.parametrize(
    "persons",
    [
        [],
        [make_person(iscrowd=1, keypoints=None)],
        [make_person(num_keypoints=0)],
        [make_person(num_keypoints=None, keypoints=[0] * 9)],
        [make_person(bbox=[5, 5, 0, 4])],
        [make_person(bbox=[5, 5, 4, 0])],
        [make_person(bbox=[31, 5, 4, 4])],
    ],
    ids=["none", "crowd", "no keypoints", "nothing labelled", "no width", "no height", "outside"],
)
def test_persons_that_are_no_targets(processor, persons):
    (label,) = processor(make_image(), make_annotations(*persons), return_tensors="pt")["labels"]
    assert label["class_labels"].shape == (0,)
    assert label["boxes"].shape == (0, 4)
    assert label["keypoints"].shape == (0, 3, 2)
    assert label["keypoints_visible"].shape == (0, 3)
    assert label["area"].shape == (0,)
    (label,) = processor(make_image(), make_annotations(*persons, make_person()))["labels"]
    assert label["boxes"].shape == (1, 4)


def test_category_ids_become_class_labels(processor):
    persons = [make_person(category_id=22), make_person(category_id=5)]
    (label,) = processor(make_image(), make_annotations(*persons), category_ids=[5, 22])["labels"]
    assert label["class_labels"].tolist() == [2, 1]


def without(key):
    return {name: value for name, value in make_person().items() if name != key}


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([make_annotations()] * 2, "`annotations` must hold one dict an image, got 2 for 1 images"),
        ([[make_person()]], r"`annotations\[0\]` must be a dict"),
        ({"image_id": 1}, r"`annotations\[0\]` must be a dict"),
        (make_annotations(5), r"`annotations\[0\]\['annotations'\]\[0\]` must be a COCO annotation"),
        (make_annotations(without("bbox")), r"\[0\]` must have the keys .*\['bbox'\] are missing"),
        (make_annotations(make_person(), without("keypoints")), r"\[1\]` must have the keys .*\['keypoints'\]"),
        (make_annotations(without("category_id")), r"\['category_id'\] are missing"),
        (make_annotations(make_person(category_id=2)), r"\['category_id'\]` must be one of \[1\], got 2"),
        (
            make_annotations(make_person(keypoints=[1] * 51)),
            r"\['keypoints'\]` must be x, y, v of 3 keypoints .*got 51 numbers",
        ),
        (make_annotations(make_person(keypoints=[1, 2])), r"\['keypoints'\]` must be x, y, v of 3"),
        (make_annotations(make_person(keypoints="abc")), r"\['keypoints'\]` must be"),
        (
            make_annotations(make_person(keypoints=[1, 2, 2, 1, 2, 2, 1, float("nan"), 2])),
            r"\['keypoints'\]` must hold finite",
        ),
        (make_annotations(make_person(keypoints=[1, 2, 0.5] * 3)), r"\['keypoints'\]` must have v = 0"),
        (make_annotations(make_person(bbox=[1, 2, 3])), r"\['bbox'\]` must be x, y, width, height"),
        (make_annotations(make_person(bbox=[1, 2, 3, float("inf")])), r"\['bbox'\]` must hold finite"),
        (make_annotations(make_person(bbox=[9, 9, -2, 3])), r"\['bbox'\]` must be .* negative size"),
        (make_annotations(make_person(area=-1)), r"\['area'\]` must be"),
        (make_annotations(make_person(area=float("nan"))), r"\['area'\]` must hold finite"),
        ({"image_id": "a", "annotations": []}, r"`annotations\[0\]\['image_id'\]` must be an integer"),
    ],
)
def test_bad_annotations_are_refused(processor, annotations, message):
    with pytest.raises(ValueError, match=message):
        processor(make_image(), annotations)


def test_annotations_are_not_changed(processor):
    annotations = make_annotations(make_person(bbox=[-3, 5, 18, 30]))
    before = copy.deepcopy(annotations)
    image = make_image()
    processor(image, annotations)
    assert annotations == before
    np.testing.assert_array_equal(image, make_image())


# Poses


def make_outputs(batch_size=2, num_groups=4, num_labels=2, num_keypoints=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        logits=torch.randn(batch_size, num_groups, num_labels, generator=generator).to(dtype),
        pred_boxes=torch.rand(batch_size, num_groups, 4, generator=generator).to(dtype),
        pred_keypoints=torch.rand(batch_size, num_groups, num_keypoints, 2, generator=generator).to(dtype),
    )


def test_threshold_and_top_k(processor):
    outputs = make_outputs()
    everything = processor.post_process_pose_estimation(outputs)
    assert [len(result["scores"]) for result in everything] == [8, 8]
    some = processor.post_process_pose_estimation(outputs, threshold=0.5, top_k=6)
    for result, full in zip(some, everything, strict=True):
        count = min(6, int((full["scores"] >= 0.5).sum()))
        assert 0 < count < 8
        for name, value in result.items():
            assert_close(value, full[name][:count], atol=0, rtol=0)
    (none, _) = processor.post_process_pose_estimation(outputs, threshold=1.0)
    assert none["keypoints"].shape == (0, 3, 2)
    assert none["keypoint_scores"].shape == (0, 3)


def test_target_sizes_of_any_kind(processor):
    outputs = make_outputs()
    sizes = [(10, 20), (30, 40)]
    relative = processor.post_process_pose_estimation(outputs)
    for target_sizes in (sizes, torch.tensor(sizes), [torch.tensor(size) for size in sizes], np.array(sizes)):
        results = processor.post_process_pose_estimation(outputs, target_sizes=target_sizes)
        for result, reference, (height, width) in zip(results, relative, sizes, strict=True):
            assert_close(result["keypoints"], reference["keypoints"] * torch.tensor([width, height]))
            assert_close(result["boxes"], reference["boxes"] * torch.tensor([width, height] * 2))
    detections = processor.post_process_object_detection(outputs, 0.4, sizes)
    poses = processor.post_process_pose_estimation(outputs, 0.4, sizes)
    for detection, pose in zip(detections, poses, strict=True):
        assert set(detection) == {"scores", "labels", "boxes"}
        for name, value in detection.items():
            assert_close(value, pose[name], atol=0, rtol=0)


def test_half_precision_outputs_give_float32_poses(processor):
    for result in processor.post_process_pose_estimation(make_outputs(dtype=torch.bfloat16)):
        assert {value.dtype for value in result.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    "arguments",
    [{"threshold": 1.5}, {"threshold": float("nan")}, {"top_k": 0}, {"top_k": 2.5}, {"target_sizes": [(1, 2)]}],
)
def test_bad_post_processing_arguments_are_refused(processor, arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        processor.post_process_pose_estimation(make_outputs(), **arguments)


def test_target_sizes_must_be_pairs(processor):
    with pytest.raises(ValueError, match="`target_sizes`"):
        processor.post_process_pose_estimation(make_outputs(), target_sizes=[(1, 2, 3), (1, 2, 3)])


def test_labels_come_back_as_poses(processor):
    """What the labels say, put into outputs, is found where it was annotated."""
    image = make_image(40, 30)
    person = make_person(bbox=[3, 6, 9, 12], keypoints=[3, 6, 2, 12, 18, 2, 7, 9, 1])
    (label,) = processor(image, make_annotations(person), return_tensors="pt")["labels"]
    outputs = SimpleNamespace(
        logits=torch.tensor([[[-9.0, 9.0]]]), pred_boxes=label["boxes"][None], pred_keypoints=label["keypoints"][None]
    )
    (pose,) = processor.post_process_pose_estimation(outputs, 0.5, [label["orig_size"]])
    assert_close(pose["boxes"], torch.tensor([[3.0, 6, 12, 18]]))
    assert_close(pose["keypoints"], torch.tensor([[[3.0, 6], [12, 18], [7, 9]]]))
    assert pose["labels"].tolist() == [1]


# Options and saving


OPTIONS = {
    "size": {"shortest_edge": 20, "longest_edge": 30},
    "num_keypoints": 14,
    "category_ids": [3, 5],
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.5, 0.6, 0.7],
    "do_pad": False,
    "resample": 3,
}


def as_dict(processor):
    return json.loads(processor.to_json_string())


def test_defaults_and_options():
    processor = EDPoseImageProcessor()
    assert dict(processor.size) == {"shortest_edge": 800, "longest_edge": 1333}
    assert (processor.num_keypoints, processor.category_ids) == (17, [1])
    processor = EDPoseImageProcessor(**OPTIONS)
    for name, value in OPTIONS.items():
        actual = getattr(processor, name)
        assert (dict(actual) if name == "size" else list(actual) if isinstance(value, list) else actual) == value
    changed = EDPoseImageProcessor.from_dict(processor.to_dict(), size=42, num_keypoints=5)
    assert (dict(changed.size), changed.num_keypoints) == ({"shortest_edge": 42}, 5)


def test_round_trips(tmp_path):
    processor = EDPoseImageProcessor(**OPTIONS)
    path = tmp_path / "file.json"
    processor.to_json_file(path)
    assert as_dict(EDPoseImageProcessor.from_json_file(path)) == as_dict(processor)
    (saved,) = processor.save_pretrained(tmp_path)
    text = (tmp_path / "preprocessor_config.json").read_text()
    assert saved.endswith("preprocessor_config.json")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    again = EDPoseImageProcessor.from_pretrained(tmp_path)
    assert as_dict(again) == as_dict(processor)
    expected = processor(make_image(), return_tensors="pt")["pixel_values"]
    assert_close(again(make_image(), return_tensors="pt")["pixel_values"], expected, atol=0, rtol=0)


@pytest.mark.usefixtures("auto_image_processor")
def test_auto_class_round_trip(tmp_path):
    processor = EDPoseImageProcessor(**OPTIONS)
    processor.save_pretrained(tmp_path)
    for auto_class in (AutoImageProcessor, AutoProcessor):
        again = auto_class.from_pretrained(tmp_path)
        assert type(again) is EDPoseImageProcessor
        assert as_dict(again) == as_dict(processor)


def test_instances_share_nothing():
    first, second = EDPoseImageProcessor(), EDPoseImageProcessor()
    first.category_ids.append(9)
    first.size["shortest_edge"] = 5
    assert second.category_ids == [1] == EDPoseImageProcessor().category_ids
    assert second.size["shortest_edge"] == 800 == EDPoseImageProcessor().size["shortest_edge"]


def test_casting_changes_floats_only(processor):
    batch = processor(make_image(), make_annotations(make_person()), return_tensors="pt").to(torch.float16)
    assert batch["pixel_values"].dtype == torch.float16
    assert batch["pixel_mask"].dtype == torch.int64


def test_kinds_of_results(processor):
    annotations = make_annotations(make_person())
    for kind, cls in (("pt", torch.Tensor), ("np", np.ndarray), (None, np.ndarray)):
        batch = processor(make_image(), annotations, return_tensors=kind)
        assert {type(value) for value in batch["labels"][0].values()} == {cls}
        assert type(batch["pixel_values"]) is cls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_keypoints": 0}, "`num_keypoints`"),
        ({"num_keypoints": 1.5}, "`num_keypoints`"),
        ({"category_ids": []}, "`category_ids`"),
        ({"category_ids": [1, 1]}, "`category_ids`"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EDPoseImageProcessor(**options)


def test_unknown_and_mistyped_call_options_are_refused(processor):
    with pytest.raises(Exception, match="num_joints"):
        processor(make_image(), num_joints=3)
    with pytest.raises(Exception, match="num_keypoints"):
        processor(make_image(), num_keypoints="three")


def test_pictures_of_people(shared_data):
    """Real pictures: every labelled keypoint of a person lies in the picture, and sizes follow the rule."""
    folder = shared_data / "data" / "pose_images"
    if not folder.is_dir():
        pytest.skip("needs `shared/data/pose_images`")
    data = json.loads((folder / "coco17_keypoints.json").read_text())
    for image in data["images"][:3]:
        persons = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        annotations = {"image_id": image["id"], "annotations": persons}
        batch = EDPoseImageProcessor()(folder / "images" / image["file_name"], annotations, return_tensors="pt")
        (label,) = batch["labels"]
        assert label["orig_size"].tolist() == [image["height"], image["width"]]
        assert batch["pixel_values"].shape[2:] == get_resized_size(image["height"], image["width"], 800, 1333)
        visible = label["keypoints"][label["keypoints_visible"] > 0]
        assert ((visible >= 0) & (visible <= 1)).all()
        assert len(label["boxes"]) == sum(a["num_keypoints"] > 0 and not a["iscrowd"] for a in persons)
