import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from hvmodels import ViTKDImageProcessor
from tests.modeling_checks import ProcessorChecks


# The test of DeiT-III at 224 pixels, without a margin.
SQUARE = {"size": {"height": 224, "width": 224}, "do_center_crop": False}
CROPPED = {"size": {"shortest_edge": 224}}


@pytest.mark.usefixtures("auto_image_processor")
class TestProcessor(ProcessorChecks):
    processor_class = ViTKDImageProcessor
    auto_class = transformers.AutoImageProcessor
    processor_arguments = {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 36},
        "do_convert_rgb": False,
        "do_normalize": False,
        "resample": 2,
    }


def make_picture(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("settings", "side", "resized", "corner"),
    [
        (SQUARE, (96, 96), (224, 224), (0, 0)),
        (CROPPED, (96, 96), (224, 224), (0, 0)),
        (CROPPED, (100, 151), (224, 338), (0, 57)),
        (CROPPED, (303, 200), (339, 224), (58, 0)),  # half of 115, to even
        ({}, (96, 96), (256, 256), (16, 16)),
    ],
    ids=["square", "square, cropped", "wide", "high", "with the margin of DeiT"],
)
def test_forms_of_224_pixels(settings, side, resized, corner):
    """Against Pillow and the arithmetic in the order of the originals, in units of 0 to 255."""
    picture = make_picture(*side)
    pixel_values = ViTKDImageProcessor(**settings)(picture, return_tensors="pt")["pixel_values"]
    expected = np.asarray(picture.resize(resized[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
    top, left = corner
    expected = expected[top : top + 224, left : left + 224]
    expected = (expected - np.float32([123.675, 116.28, 103.53])) / np.float32([58.395, 57.12, 57.375])
    assert pixel_values.shape == (1, 3, 224, 224)
    assert_close(pixel_values[0], torch.from_numpy(expected).permute(2, 0, 1), atol=1e-5, rtol=1e-5)


def test_the_plain_form_of_a_student_without_margin(tmp_path):
    """Where there is no odd margin, a `ViTImageProcessor` gives the same pixels."""
    processor, picture = ViTKDImageProcessor(**SQUARE), make_picture(80, 61)
    processor.save_as_vit(tmp_path)
    plain = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 3, 224, 224)
    assert torch.equal(plain(picture, return_tensors="pt")["pixel_values"], expected)
