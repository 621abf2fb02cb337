import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from hvmodels import AIBImageProcessor
from hvmodels.models.aib.map_resizing_aib import blur, resize_cubic, resize_nearest
from tests.modeling_checks import ProcessorChecks, assert_equal
from tests.reference_cases import needs_reference, reference_folder


WIDE_RESNET = {"image_mean": [0.4914, 0.4822, 0.4465], "image_std": [0.2023, 0.1994, 0.2010]}
CUB = {
    "size": {"height": 256, "width": 256},
    "do_center_crop": True,
    "crop_padding": 0,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def make_image(height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_outputs(batch=2, samples=3, size=(4, 5), labels=4, quantized=False):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(batch, samples, *size, generator=generator)
    sample_logits = torch.randn(batch, samples, labels, generator=generator)
    return SimpleNamespace(
        logits=sample_logits.mean(1),
        sample_logits=sample_logits,
        attention_maps=maps,
        quantized_attention_maps=(maps * 2).round() / 2 if quantized else None,
    )


@pytest.fixture
def plain():
    """Gives pixels as they are, of images of 20 x 30."""
    return AIBImageProcessor(size={"height": 20, "width": 30}, do_rescale=False, do_normalize=False, crop_padding=2)


@pytest.mark.usefixtures("auto_image_processor")
class TestProcessor(ProcessorChecks):
    processor_class = AIBImageProcessor
    auto_class = transformers.AutoImageProcessor
    processor_arguments = {
        "size": {"height": 40, "width": 48},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 36},
        "crop_padding": 2,
        "do_normalize": False,
        "resample": 3,
    }


# The original


@needs_reference("aib", "preprocess")
class TestPixelsOfTheOriginal:
    @pytest.fixture(scope="class")
    def values(self):
        return load_file(reference_folder("aib", "preprocess") / "io.safetensors")

    @pytest.fixture(scope="class")
    def config(self):
        return json.loads((reference_folder("aib", "preprocess") / "config.json").read_text())

    @pytest.mark.parametrize(("name", "options"), [("vgg32", {}), ("wrn32", WIDE_RESNET)])
    def test_cifar(self, values, config, name, options):
        processor, image = AIBImageProcessor(**options), values["input.cifar_rgb_uint8"]
        assert_close(processor(image, return_tensors="pt")["pixel_values"][0], values[f"output.{name}.test"], **EXACT)
        batch = processor(
            image,
            crop_offsets=[config["train_crop_offset_ij"]],
            flips=[config["train_flip"]],
            return_tensors="pt",
        )
        assert_close(batch["pixel_values"][0], values[f"output.{name}.train"], **EXACT)

    def test_other_size_and_svhn(self, values):
        batch = AIBImageProcessor()(values["input.other_size_rgb_uint8"], return_tensors="pt")
        assert_close(batch["pixel_values"][0], values["output.vgg32.test_other_size"], **EXACT)
        processor = AIBImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
        batch = processor(values["input.cifar_rgb_uint8"], return_tensors="pt")
        assert_close(batch["pixel_values"][0], values["output.svhn.test"], **EXACT)

    def test_box_of_cub(self, values, config):
        processor, image = AIBImageProcessor(**CUB), values["input.cub_rgb_uint8"]
        box = config["cub_box_xywh"]
        batch = processor(image, boxes=[box], return_tensors="pt")
        assert_close(batch["pixel_values"][0, :, :8, :8], values["output.cub_crop.test_corner"], **EXACT)
        raw = processor(image, boxes=[box], do_rescale=False, do_normalize=False, return_tensors="pt")
        assert_equal(raw["pixel_values"][0], values["output.cub_crop.test_uint8"].permute(2, 0, 1).float())


@needs_reference("aib", "attention_visualisation")
class TestPicturesOfTheOriginal:
    @pytest.fixture(scope="class")
    def values(self):
        return load_file(reference_folder("aib", "attention_visualisation") / "io.safetensors")

    @pytest.mark.parametrize("name", ["att14", "att16", "constant"])
    @pytest.mark.parametrize(("version", "stretch"), [("vgg32", True), ("wrn32_and_cub", False)])
    def test_smooth(self, values, name, version, stretch):
        expected = values[f"output.{name}.{version}"].float()
        outputs = SimpleNamespace(attention_maps=values[f"input.{name}"][None, None])
        (maps,) = AIBImageProcessor().post_process_attention(outputs, [expected.shape], stretch=stretch)
        # One grey level before the last stretch, as much as the stretch makes of it.
        levels = len(expected.unique())
        assert_close(maps[0], expected, atol=255 / max(levels - 1, 1) + 0.1, rtol=0)
        assert ((maps[0] - expected).abs() > 0.1).float().mean() < 1e-3

    @pytest.mark.parametrize("name", ["att14", "att16", "constant"])
    def test_quantised(self, values, name):
        side, stride = (224, 7) if name == "att14" else (32, 1)
        outputs = SimpleNamespace(
            attention_maps=torch.zeros(1, 1, 3, 3),
            quantized_attention_maps=values[f"input.{name}_quantized"][None, None],
        )
        (maps,) = AIBImageProcessor().post_process_attention(outputs, [(side, side)], blur=False)
        assert_equal(maps[0, ::stride, ::stride], values[f"output.{name}.quantized_nearest"])


# Pixels


def test_crops_and_flips(plain):
    image = make_image()
    offsets, flips = [(0, 0), (2, 2), (4, 3)], [False, True, True]
    batch = plain([image] * 3, crop_offsets=offsets, flips=flips, return_tensors="np")["pixel_values"]
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
    for pixels, (row, column), flip in zip(batch, offsets, flips, strict=True):
        expected = padded[row : row + 20, column : column + 30]
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected[:, ::-1] if flip else expected)
    middle = plain(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(middle.transpose(1, 2, 0), image)


@pytest.mark.parametrize(
    "options", [{}, {**CUB, "size": {"height": 40, "width": 44}, "crop_size": {"height": 32, "width": 32}}]
)
def test_random_crops(options):
    processor = AIBImageProcessor(**options)
    draws = processor.random_crops(2000, torch.Generator().manual_seed(0))
    rows, columns = zip(*draws["crop_offsets"], strict=True)
    assert (min(rows), max(rows)) == (0, 8)
    assert (min(columns), max(columns)) == (0, 12 if options else 8)
    assert 0.45 < np.mean(draws["flips"]) < 0.55
    assert processor.random_crops(3, torch.Generator().manual_seed(0)) == processor.random_crops(
        3, torch.Generator().manual_seed(0)
    )
    batch = processor([make_image()] * 2, **processor.random_crops(2), return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 32, 32)


def test_boxes_are_rounded_and_may_leave_the_image(plain):
    image = Image.fromarray(make_image())
    batch = plain([image, image, image], boxes=[[4.5, 2.5, 10.2, 8.0], [-5, -5, 20, 20], None], return_tensors="np")
    for pixels, crop in zip(batch["pixel_values"], [(4, 2, 15, 10), (-5, -5, 15, 15), (0, 0, 30, 20)], strict=True):
        expected = image.crop(crop).resize((30, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize(
    "kind", ["pil", "tensor", "channels_first", "float", "unit_float", "grey", "rgba", "path", "batch"]
)
def test_kinds_of_images(kind, tmp_path):
    processor, image = AIBImageProcessor(), make_image()
    options = {}
    if kind == "grey":
        image[..., 1:] = image[..., :1]
    expected = processor(image, return_tensors="pt")["pixel_values"]
    Image.fromarray(image).save(tmp_path / "image.png")
    other = {
        "pil": lambda: Image.fromarray(image),
        "tensor": lambda: torch.from_numpy(image).permute(2, 0, 1),
        "channels_first": lambda: image.transpose(2, 0, 1),
        "float": lambda: image.astype(np.float32),
        "unit_float": lambda: torch.from_numpy(image / 255),
        "grey": lambda: image[..., 0],
        "rgba": lambda: Image.fromarray(image).convert("RGBA"),
        "path": lambda: str(tmp_path / "image.png"),
        "batch": lambda: image[None],
    }[kind]()
    if kind == "unit_float":
        options = {"do_rescale": False}
    assert_close(processor(other, **options, return_tensors="pt")["pixel_values"], expected)


# Results


def test_labels():
    outputs = make_outputs()
    results = AIBImageProcessor().post_process_image_classification(outputs, top_k=2)
    probabilities = outputs.sample_logits.softmax(-1)
    for index, result in enumerate(results):
        assert_equal(result["labels"], outputs.logits[index].argsort(descending=True)[:2])
        assert_close(result["scores"], outputs.logits[index].softmax(-1)[result["labels"]])
        stds = probabilities[index][:, result["labels"]].numpy().std(axis=0)
        assert_close(result["score_stds"], torch.from_numpy(stds))
    assert len(AIBImageProcessor().post_process_image_classification(outputs)[0]["labels"]) == 4


def test_maps_have_their_sizes():
    outputs = make_outputs(quantized=True)
    processor = AIBImageProcessor(**CUB)
    assert [maps.shape for maps in processor.post_process_attention(outputs)] == [(3, 224, 224)] * 2
    sizes = torch.tensor([[7, 9], [50, 40]])
    for blurred in (True, False):
        maps = processor.post_process_attention(outputs, sizes, blur=blurred)
        assert [tuple(values.shape) for values in maps] == [(3, 7, 9), (3, 50, 40)]
        assert all(values.dtype == torch.float32 for values in maps)
    scores = processor.post_process_attention(outputs, [(4, 5)] * 2, blur=False)
    assert_equal(torch.stack(scores), outputs.quantized_attention_maps)
    outputs.quantized_attention_maps = None
    scores = processor.post_process_attention(outputs, [(4, 5)] * 2, blur=False)
    assert_equal(torch.stack(scores), outputs.attention_maps)


def test_smooth_maps_are_between_0_and_255():
    for maps in AIBImageProcessor().post_process_attention(make_outputs(), [(31, 17)] * 2):
        assert (maps.amin((1, 2)) == 0).all()
        assert (maps.amax((1, 2)) == 255).all()


def test_blur_of_maps_smaller_than_its_kernel():
    """A constant stays constant, and the mirror image goes to and fro."""
    for size in [(1, 1), (1, 6), (2, 3)]:
        np.testing.assert_array_equal(blur(np.full(size, 200, np.uint8)), np.full(size, 200))
    weights = np.array([8, 28, 56, 72, 56, 28, 8])
    row = np.array([[0, 250]], np.uint8)
    # Of 0 with 250 on its right: 250, 0, 250, 0, 250, 0, 250.
    assert blur(row)[0, 0] == round(250 * weights[::2].sum() / 256)


def test_resizes():
    image = make_image()[..., 0]
    np.testing.assert_array_equal(resize_cubic(image, image.shape), image)
    np.testing.assert_array_equal(resize_nearest(image, (40, 60))[::2, ::2], image)
    # 50 * 14 / 100 is 7, but OpenCV's arithmetic comes out just below it.
    assert resize_nearest(np.arange(14)[None], (1, 100))[0, 49:52].tolist() == [6, 6, 7]
    assert (resize_cubic(np.full((3, 4), 7, np.uint8), (10, 3)) == 7).all()


# Bad inputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": {"shortest_edge": 32}}, "`size` must be"),
        ({"size": {"height": 0, "width": 32}}, "`size` must be"),
        ({"crop_size": {"height": -1, "width": 32}}, "`crop_size` must be"),
        ({"do_center_crop": True}, "`crop_size` must not exceed `size`"),
        ({"crop_padding": -1}, "`crop_padding` must be a whole number"),
        ({"crop_padding": 32}, "`crop_padding` must be less than"),
        ({"image_mean": [0.5, 0.5]}, "`image_mean` must be a number or one a channel"),
        ({"image_std": [0.0, 1.0, 1.0]}, "`image_std` must be positive"),
        ({"do_resize": False}, "`do_resize` must be True"),
        ({"do_convert_rgb": False}, "`do_convert_rgb` must be True"),
        ({"do_pad": True}, "`do_pad` must be None"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        AIBImageProcessor(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": []}, "`images` must hold at least one image"),
        ({"images": "no-such-file.png"}, "`images` names 'no-such-file.png'"),
        ({"images": np.zeros((5, 5, 2))}, "`images.0.` must have 1, 3 or 4 channels"),
        ({"images": np.zeros((0, 5, 3))}, "without empty axes"),
        ({"images": np.full((5, 5, 3), np.nan)}, "`images.0.` must hold finite numbers"),
        ({"images": np.full((5, 5, 3), 300)}, "from 0 to 255"),
        ({"images": np.full((5, 5, 3), 0.5)}, "pass `do_rescale=False`"),
        ({"images": np.full((5, 5, 3), "a")}, "must be an array of numbers"),
        ({"images": object()}, "`images` must be a PIL image"),
        ({"boxes": [[0, 0, 5, 5]] * 2}, "`boxes` must hold one box an image, got 2 for 1"),
        ({"boxes": [0, 0, 5, 5]}, "`boxes` must hold one box an image"),
        ({"boxes": [[0, 0, 5]]}, r"`boxes\[0\]` must be x, y, width, height"),
        ({"boxes": [[0, 0, 5, np.inf]]}, r"`boxes\[0\]` must be x, y, width, height"),
        ({"boxes": [[0, 0, 5, 0]]}, r"`boxes\[0\]` must be x, y, width, height"),
        ({"boxes": [[0, 0, -5, 5]]}, r"`boxes\[0\]` must be x, y, width, height"),
        ({"boxes": [[0, 0, 0.3, 5]]}, r"`boxes\[0\]` must be x, y, width, height"),
        ({"boxes": [["a", 0, 5, 5]]}, r"`boxes\[0\]` must be x, y, width, height"),
        ({"boxes": [[40, 0, 5, 5]]}, r"`boxes\[0\]` must overlap its image of 30 x 20"),
        ({"crop_offsets": [(0, 9)]}, r"`crop_offsets\[0\]` must be \(row, column\)"),
        ({"crop_offsets": [(-1, 0)]}, r"`crop_offsets\[0\]` must be \(row, column\)"),
        ({"crop_offsets": [(0.5, 0)]}, r"`crop_offsets\[0\]` must be \(row, column\)"),
        ({"crop_offsets": (1, 2)}, "`crop_offsets` must hold one offset an image"),
        ({"flips": [1]}, r"`flips\[0\]` must be True or False"),
        ({"flips": True}, "`flips` must hold one flag an image"),
    ],
)
def test_refuses_images(options, message):
    with pytest.raises(ValueError, match=message):
        AIBImageProcessor()(**{"images": make_image(), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sizes": [(3, 4)]}, "`target_sizes` must hold one"),
        ({"target_sizes": [(3, 4), (0, 4)]}, r"`target_sizes\[1\]` must be \(height, width\)"),
        ({"target_sizes": [(3, 4), (2.5, 4)]}, r"`target_sizes\[1\]` must be \(height, width\)"),
        ({"target_sizes": [(3, 4), (3, 4, 5)]}, r"`target_sizes\[1\]` must be \(height, width\)"),
        ({"target_sizes": (3, 4)}, r"`target_sizes\[0\]` must be \(height, width\)"),
    ],
)
def test_refuses_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        AIBImageProcessor().post_process_attention(make_outputs(), **options)


def test_refuses_maps_and_ranks():
    outputs = make_outputs()
    for top_k in (0, 5, 1.5):
        with pytest.raises(ValueError, match="`top_k` must be from 1 to the number of labels 4"):
            AIBImageProcessor().post_process_image_classification(outputs, top_k)
    outputs.attention_maps[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`outputs\.attention_maps` must hold finite numbers"):
        AIBImageProcessor().post_process_attention(outputs)
