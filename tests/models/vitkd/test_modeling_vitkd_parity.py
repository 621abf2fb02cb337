"""ViTKD against values of the original; `tests/fixtures/vitkd/README.md` says how they were made."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hvmodels import ViTKDForImageClassification, ViTKDImageProcessor
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.vitkd import convert
from tests.reference_cases import needs_reference, reference_case, reference_folder


TINY = ["distill_deit3_to_deit_hard", "distill_deit_to_deit_soft_ema"]
FULL = "fullsize_seeded_deit3-small_to_deit-tiny"
KEYS = Path(__file__).parents[2] / "fixtures" / "vitkd" / "keys.json.gz"
VALUES = {"atol": 1e-5, "rtol": 1e-5}
LOSSES = {"task_loss": "ori_loss", "logit_loss": "loss_nkd"}
# The parameters that gradients of the original are kept of, by its names.
PARAMETERS = {
    "distill_losses.loss_vitkd.mask_token": "distiller.mask_token",
    "distill_losses.loss_vitkd.align.weight": "distiller.generation_aligner.weight",
    "distill_losses.loss_vitkd.align2.0.weight": "distiller.mimic_aligners.0.weight",
    "distill_losses.loss_vitkd.align2.1.bias": "distiller.mimic_aligners.1.bias",
    "distill_losses.loss_vitkd.generation.0.weight": "distiller.generator.0.weight",
    "distill_losses.loss_vitkd.generation.2.bias": "distiller.generator.1.bias",
    "student.backbone.pos_embed": "vitkd.student.vit.embeddings.position_embeddings",
    "student.backbone.cls_token": "vitkd.student.vit.embeddings.cls_token",
    "student.backbone.ln1.weight": "vitkd.student.vit.layernorm.weight",
    "student.head.layers.head.weight": "vitkd.student.classifier.weight",
    "student.head.layers.head.bias": "vitkd.student.classifier.bias",
}


def read(case):
    folder = reference_folder("vitkd", case)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


@pytest.mark.parametrize("case", [reference_case("vitkd", case) for case in TINY])
def test_features_losses_and_gradients(case, tmp_path):
    options, values = read(case)
    convert_checkpoint("vitkd", reference_folder("vitkd", case) / "checkpoint.pth", tmp_path / "model", options)
    model = ViTKDForImageClassification.from_pretrained(tmp_path / "model", teacher=tmp_path / "model" / "teacher")
    labels = values.get("input.soft_labels", values["input.labels"])
    model.train()
    features = model.vitkd(values["input.pixel_values"], with_teacher=True)
    for prefix, name in (("", "student"), ("teacher_", "teacher")):
        shallow = torch.stack(features[f"{prefix}shallow_features"], dim=1).flatten(2, 3)
        assert_close(shallow, values[f"intermediate.{name}.low_feats"], **VALUES)
        deep = features[f"{prefix}deep_features"].flatten(1, 2)
        assert_close(deep, values[f"intermediate.{name}.high_feat"], **VALUES)
    outputs = model(values["input.pixel_values"], labels, mask_noise=values["input.mask_noise"])
    assert torch.equal(outputs.mask, values["output.mask"])
    for ours, theirs in {**LOSSES, "mimic_loss": "vitkd_mimic", "generation_loss": "vitkd_generation"}.items():
        assert_close(outputs[ours], values[f"output.loss.{theirs}"], **VALUES)
    assert_close(outputs.loss, values["output.loss.total"], **VALUES)
    outputs.loss.backward()
    parameters, compared = dict(model.named_parameters()), 0
    for theirs, ours in PARAMETERS.items():
        if (expected := values.get(f"grad.{theirs}")) is not None:
            atol = 1e-4 * expected.abs().max().item()
            assert_close(parameters[ours].grad, expected, rtol=1e-4, atol=atol, msg=theirs)
            compared += 1
    assert compared >= 6


@needs_reference("vitkd", FULL)
def test_full_size():
    """Logits, features and losses of the released pair, with weights that are drawn as `config.json` says."""
    recipe, values = read(FULL)
    shapes = json.loads(gzip.decompress(KEYS.read_bytes()))["distiller_deit3-small_to_deit-tiny"]
    seed, batch_size = recipe["base_seed"], recipe["batch"]

    def draw(key, shape):
        noise = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
        noise = noise.astype(np.float32)
        if "gamma" in key:
            return np.float32(0.1) + np.float32(0.02) * noise
        if len(shape) == 1 and key.endswith("weight"):
            return 1 + np.float32(0.1) * noise
        if key.endswith("bias"):
            return np.float32(0.02) * noise
        if key.endswith(("cls_token", "pos_embed", "mask_token")):
            return np.float32(0.1) * noise
        return noise / np.float32(np.sqrt(np.prod(shape[1:])))

    weights = {key: torch.from_numpy(np.asarray(draw(key, tuple(shape)))) for key, shape in shapes.items()}
    for key, (total, squares) in recipe["checksums_sum_and_sum_of_squares"].items():
        assert weights[key].double().sum().item() == pytest.approx(total, abs=1e-3)
        assert weights[key].double().square().sum().item() == pytest.approx(squares, rel=1e-5)
    model, _, _ = convert(weights, {}, Path("checkpoint.pth"))
    pixel_values = np.random.RandomState(seed).standard_normal((batch_size, 3, 224, 224)).astype(np.float32)
    noise = np.random.RandomState(seed + 1).random_sample((batch_size, 196)).astype(np.float32)
    labels = torch.from_numpy(np.random.RandomState(seed + 2).randint(0, 1000, batch_size))
    assert torch.equal(labels, values["input.labels"])
    with torch.no_grad():
        features = model.vitkd(torch.from_numpy(pixel_values), with_teacher=True)
        losses = model.distiller(
            features.shallow_features,
            features.teacher_shallow_features,
            features.deep_features,
            features.teacher_deep_features,
            torch.from_numpy(noise),
        )
        logit_loss = model._logit_loss(features, labels)
    assert_close(features.logits, values["output.student_logits"], **VALUES)
    assert_close(features.teacher_logits, values["output.teacher_logits"], **VALUES)
    for ours, theirs in (("deep_features", "student_high"), ("teacher_deep_features", "teacher_high")):
        head = features[ours].flatten(1, 2)[:, :4, :16]
        assert_close(head, values[f"output.{theirs}_feat_head"], **VALUES)
    shallow = torch.stack(features.teacher_shallow_features, dim=1).flatten(2, 3)[:, :, :4, :16]
    assert_close(shallow, values["output.teacher_low_feats_head"], **VALUES)
    assert_close(losses.mimic_loss + losses.generation_loss, values["output.loss.loss_vitkd"], **VALUES)
    assert_close(logit_loss, values["output.loss.loss_nkd"], **VALUES)


@needs_reference("vitkd", "preprocess")
def test_preprocessing():
    options, values = read("preprocess")
    crop = options["center_crop"]
    processor = ViTKDImageProcessor(
        size={"shortest_edge": options["resize_short_edge"]}, crop_size={"height": crop, "width": crop}
    )
    image = values["input.image_rgb_uint8"].numpy()
    assert_close(processor(image, return_tensors="pt")["pixel_values"], values["output.pixel_values"], **VALUES)
    resized = processor(image, do_center_crop=False, do_rescale=False, do_normalize=False, return_tensors="pt")[
        "pixel_values"
    ]
    assert torch.equal(resized[0].permute(1, 2, 0).byte(), values["output.resized_rgb_uint8"])
