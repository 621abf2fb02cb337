"""Poses of a picture alone and padded in a batch."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPoseEstimation

import hvmodels  # noqa: F401
from hvmodels.conversion import convert_checkpoint
from tests.reference_cases import reference_case, reference_folder


@pytest.mark.parametrize("case", ["r50_coco17_eval", reference_case("edpose", "swin_crowdpose14_eval")])
def test_isolated_images_do_not_depend_on_their_batch(case, tmp_path):
    folder = reference_folder("edpose", case)
    convert_checkpoint("ed-pose", folder / "checkpoint.pth", tmp_path / "model", folder / "config.json")
    model = AutoModelForPoseEstimation.from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    values = load_file(folder / "io.safetensors")
    pixel_values, pixel_mask = values["input.pixel_values"].double(), ~values["input.mask"].bool()
    with torch.inference_mode():
        as_published = model(pixel_values, pixel_mask)
        model.config.isolate_images = True
        batch = model(pixel_values, pixel_mask)
        for index, mask in enumerate(pixel_mask):
            height, width = int(mask.any(1).sum()), int(mask.any(0).sum())
            alone = model(pixel_values[index : index + 1, :, :height, :width])
            size = torch.tensor([width, height])
            difference = (alone.pred_keypoints[0] - batch.pred_keypoints[index]) * size
            assert difference.abs().max() < 1e-4  # pixels
            torch.testing.assert_close(alone.logits[0], batch.logits[index], rtol=0, atol=2e-5)
            published = (alone.pred_keypoints[0] - as_published.pred_keypoints[index]) * size
            assert published.abs().max() > 1  # what the option is for
