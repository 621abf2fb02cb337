"""Conversion of ViTKD: distillers, students and teachers in three layouts, and files that do not fit or are hostile."""

import gzip
import json
import os
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoModelForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hvmodels import ViTKDConfig, ViTKDForImageClassification, ViTKDImageProcessor
from hvmodels.conversion import convert_checkpoint, read_checkpoint
from hvmodels.conversion.checkpoints import open_checkpoint
from hvmodels.conversion.vitkd import change_layout, convert_state_dict, layout_of, read_losses, split_distiller
from hvmodels.methods import METHODS
from tests.reference_cases import TESTS, needs_reference, reference_case, reference_folder


HARD, SOFT = "distill_deit3_to_deit_hard", "distill_deit_to_deit_soft_ema"
KEYS = json.loads(gzip.decompress((TESTS / "fixtures" / "vitkd" / "keys.json.gz").read_bytes()))
TYPES = METHODS["vitkd"].checkpoint_types
OPTIONS = {"backbone": {"arch": {"num_heads": 2}}}


def make_weights(layers=2, width=8, mlp=12, labels=5, patch=4, positions=9, layer_scale=False, tokens=1, seed=0):
    """Random weights in mmpretrain's layout; `tokens` is 2 with a distillation token."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "backbone.cls_token": (1, 1, width),
        "backbone.pos_embed": (1, positions + (0 if layer_scale else tokens), width),
        "backbone.patch_embed.projection.weight": (width, 3, patch, patch),
        "backbone.patch_embed.projection.bias": (width,),
    }
    if tokens == 2:
        shapes["backbone.dist_token"] = (1, 1, width)
    linear = {"head.layers.head": (labels, width)} | (
        {"head.layers.head_dist": (labels, width)} if tokens == 2 else {}
    )
    norms = ["backbone.ln1"]
    for block in (f"backbone.layers.{index}" for index in range(layers)):
        linear |= {f"{block}.attn.qkv": (3 * width, width), f"{block}.attn.proj": (width, width)}
        linear |= {f"{block}.ffn.layers.0.0": (mlp, width), f"{block}.ffn.layers.1": (width, mlp)}
        norms += [f"{block}.ln1", f"{block}.ln2"]
        if layer_scale:
            shapes |= {f"{block}.attn.gamma1.weight": (width,), f"{block}.ffn.gamma2.weight": (width,)}
    for name, shape in [*linear.items(), *((norm, (width,)) for norm in norms)]:
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def keys(name):
    """Weights of a released configuration without their values."""
    return {key: torch.empty(shape, device="meta") for key, shape in KEYS[name].items()}


def assert_filled(model_class, config, state_dict):
    """Every weight of a network has its tensor, and every tensor its weight."""
    _, report = model_class.from_pretrained(
        None, config=config, state_dict=state_dict, device_map="meta", output_loading_info=True
    )
    assert not any(report.values()), report


def convert_and_load(path, folder, options=None):
    convert_checkpoint("vitkd", path, folder, options)
    return AutoModelForImageClassification.from_pretrained(folder)


# The original's numbers


@pytest.mark.parametrize(
    ("case", "file", "part", "output"),
    [
        ("student_transferred", "student_transferred.pth", None, "student"),
        reference_case("vitkd", HARD, "student_transferred.pth", None, "student"),
        reference_case("vitkd", HARD, "checkpoint.pth", "student", "student"),
        reference_case("vitkd", HARD, "checkpoint.pth", "teacher", "teacher"),
        reference_case("vitkd", SOFT, "student_transferred.pth", None, "student"),
        reference_case("vitkd", SOFT, "checkpoint.pth", "student", "student"),
        reference_case("vitkd", SOFT, "checkpoint.pth", "teacher", "teacher"),
    ],
)
def test_plain_models(case, file, part, output, tmp_path):
    folder = reference_folder("vitkd", case)
    options = json.loads((folder / "config.json").read_text()) | ({} if part is None else {"part": part})
    model = convert_and_load(folder / file, tmp_path / "model", options)
    assert type(model) is ViTForImageClassification
    assert "hvmodels" not in (tmp_path / "model" / "config.json").read_text()
    values = load_file(folder / "io.safetensors")
    with torch.no_grad():
        logits = model(values["input.pixel_values"]).logits
    assert_close(logits, values[f"output.{output}_logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", [reference_case("vitkd", HARD), reference_case("vitkd", SOFT)])
def test_distillers(case, tmp_path):
    folder = reference_folder("vitkd", case)
    options = json.loads((folder / "config.json").read_text())
    convert_checkpoint("vitkd", folder / "checkpoint.pth", tmp_path / "model", options)
    teacher = ViTForImageClassification.from_pretrained(tmp_path / "model" / "teacher")
    model = ViTKDForImageClassification.from_pretrained(tmp_path / "model", teacher=teacher)
    losses = options["distill"]
    assert (model.config.mimic_weight, model.config.generation_weight, model.config.mask_ratio) == tuple(
        losses["vitkd"][name] for name in ("alpha_vitkd", "beta_vitkd", "lambda_vitkd")
    )
    assert (model.config.nkd_temperature, model.config.nkd_gamma) == (losses["nkd"]["temp"], losses["nkd"]["gamma"])
    values = load_file(folder / "io.safetensors")
    labels = values.get("input.soft_labels", values.get("input.labels"))
    with torch.no_grad():
        outputs = model(values["input.pixel_values"], labels=labels, mask_noise=values["input.mask_noise"])
    for name, expected in {
        "logits": "student_logits",
        "teacher_logits": "teacher_logits",
        "loss": "loss.total",
        "task_loss": "loss.ori_loss",
        "mimic_loss": "loss.vitkd_mimic",
        "generation_loss": "loss.vitkd_generation",
        "logit_loss": "loss.loss_nkd",
    }.items():
        assert_close(outputs[name], values[f"output.{expected}"], atol=1e-5, rtol=1e-5, msg=name)


def make_distiller(loss="vitkd", student=8, teacher=12):
    """Random weights of the original's distiller, with a DeiT-III as teacher."""
    models = {
        "student": make_weights(width=student), "teacher": make_weights(width=teacher, layer_scale=True, layers=3)
    }  # fmt: skip
    weights = {f"{name}.{key}": tensor for name, model in models.items() for key, tensor in model.items()}
    shapes = {"mask_token": (1, 1, teacher)}
    layers = {"generation.0": (teacher, teacher, 3, 3), "generation.2": (teacher, teacher, 3, 3)}
    if student != teacher:
        layers |= dict.fromkeys(("align2.0", "align2.1", "align"), (teacher, student))
    if loss == "uskd":
        shapes, layers = {}, {"fc": (5, student)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return weights | {f"distill_losses.loss_{loss}.{name}": torch.randn(shape) for name, shape in shapes.items()}


DISTILLER_OPTIONS = {"student_backbone": {"num_heads": 2}, "teacher_backbone": {"num_heads": 3}}


def convert_distiller(weights, tmp_path, options=None, name="model"):
    torch.save({"state_dict": weights}, tmp_path / f"{name}.pth")
    convert_checkpoint("vitkd", tmp_path / f"{name}.pth", tmp_path / name, {**DISTILLER_OPTIONS, **(options or {})})
    return tmp_path / name


@pytest.mark.parametrize("teacher_size", [8, 12])
def test_a_distiller_comes_back_with_every_weight(teacher_size, tmp_path):
    weights = make_distiller(teacher=teacher_size)
    folder = convert_distiller(weights, tmp_path, {"teacher_backbone": {"num_heads": 2}})
    model = ViTKDForImageClassification.from_pretrained(folder, teacher=folder / "teacher")
    parts = split_distiller(weights)
    assert_close(change_layout(model.student.state_dict(), "mmpretrain"), parts["student"], atol=0, rtol=0)
    taught = change_layout(parts["teacher"], "transformers")
    assert_close(change_layout(model.teacher.state_dict(), "transformers"), taught, atol=0, rtol=0)
    losses = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("vitkd.")}
    assert_close(losses, parts["losses"], atol=0, rtol=0)
    assert (model.config.logit_loss, model.config.mimic_weight) == ("nkd", 3e-5)
    assert (model.teacher.config.num_attention_heads, model.teacher.config.num_hidden_layers) == (2, 3)
    assert type(ViTKDImageProcessor.from_pretrained(folder)) is ViTKDImageProcessor
    assert type(AutoModelForImageClassification.from_pretrained(folder)) is ViTKDForImageClassification


def test_a_distiller_without_its_teacher(tmp_path):
    folder = convert_distiller(make_distiller(), tmp_path, {"save_teacher": False})
    assert not (folder / "teacher").exists()
    weights = {name: tensor for name, tensor in make_distiller().items() if not name.startswith("teacher.")}
    with pytest.raises(ValueError, match="has no teacher; `part` = 'student'"):
        convert_distiller(weights, tmp_path, name="other")
    folder = convert_distiller(weights, tmp_path, {"part": "student"}, name="student")
    assert type(AutoModelForImageClassification.from_pretrained(folder)) is ViTForImageClassification


def test_self_distillation_has_no_teacher(tmp_path):
    weights = make_distiller("uskd")
    folder = convert_distiller(
        weights, tmp_path, {"model": {"distill_cfg": [{"methods": [{"name": "loss_uskd", "mu": 0.1}]}]}}
    )
    model = ViTKDForImageClassification.from_pretrained(folder)
    assert (model.config.logit_loss, model.config.uskd_mu, model.config.needs_teacher) == ("uskd", 0.1, False)
    assert torch.equal(model.weak_classifier.weight, weights["distill_losses.loss_uskd.fc.weight"])
    assert model(torch.randn(2, 3, 12, 12), labels=torch.tensor([0, 1])).loss.isfinite()
    assert not (folder / "teacher").exists()


VITKD, NKD = {"name": "loss_vitkd", "alpha_vitkd": 1.0, "beta_vitkd": 2.0}, {"name": "loss_nkd", "temp": 3.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"logit_loss": "nkd", "nkd_gamma": 1.0}),
        ({"distill_cfg": [{"methods": [VITKD]}]}, {"mimic_weight": 1.0, "generation_weight": 2.0, "logit_loss": None}),
        (
            {"model": {"distill_cfg": [{"methods": [VITKD, NKD]}]}},
            {
                "mimic_weight": 1.0,
                "generation_weight": 2.0,
                "logit_loss": "nkd",
                "nkd_temperature": 3.0,
                "nkd_gamma": 1.5,
            },
        ),
        (
            {"model": {"distill_cfg": [{"methods": [VITKD, {"name": "loss_dkd", "beta": 7, "use_this": True}]}]}},
            {"mimic_weight": 1.0, "generation_weight": 2.0, "logit_loss": "dkd", "dkd_beta": 7},
        ),
        (
            {"distill": {"vitkd": {"lambda_vitkd": 0.3}, "nkd": {}}, "use_logit": False, "label_smooth_val": 0.2},
            {"mask_ratio": 0.3, "logit_loss": None, "label_smoothing": 0.2},
        ),
        (
            {"distill": {"vitkd": {}, "kd": {"use_this": False}, "wsld": {"temp": 2, "alpha": 2.5}}},
            {"logit_loss": "wsld", "wsld_temperature": 2, "wsld_alpha": 2.5},
        ),
    ],
)
def test_losses_of_the_options(options, expected):
    assert read_losses(["distiller.mask_token"], options) == expected


def test_logit_loss_alone():
    fields = read_losses([], {"distill": {"vitkd": {"use_this": False}, "kd": {"temp": 2}}})
    assert fields == {"mimic_weight": 0.0, "generation_weight": 0.0, "logit_loss": "kd", "kd_temperature": 2}


@pytest.mark.parametrize(
    ("names", "losses", "message"),
    [
        (["distiller.mask_token"], {"nkd": {}}, r"asks for the losses \['nkd'\], but the checkpoint has weights of \['vitkd'\]"),
        ([], {"vitkd": {}}, r"has weights of \[\]"),
        (["weak_classifier.bias"], {"vitkd": {}}, r"has weights of \['uskd'\]"),
        ([], {"nkd": {}, "kd": {}}, r"one loss on logits, .* got \['kd', 'nkd'\]"),
        ([], {"srrl": {}}, r"can be converted, got \['srrl'\]"),
    ],
)  # fmt: skip
def test_losses_that_do_not_fit(names, losses, message):
    with pytest.raises(ValueError, match=message):
        read_losses(names, {"distill": losses})


def test_another_kind_of_label_smoothing():
    with pytest.raises(ValueError, match=r"`label_smooth_mode` must be 'original'.* got 'classy_vision'"):
        read_losses(["distiller.mask_token"], {"label_smooth_mode": "classy_vision"})


@needs_reference("vitkd", SOFT)
def test_averaged_weights_are_those_of_the_state_dict(tmp_path):
    folder = reference_folder("vitkd", SOFT)
    options = json.loads((folder / "config.json").read_text()) | {"part": "student"}
    averaged = convert_and_load(folder / "checkpoint.pth", tmp_path / "averaged", options)
    raw = convert_and_load(
        folder / "checkpoint.pth", tmp_path / "raw", {**options, "checkpoint_entry": "ema_state_dict"}
    )
    content = open_checkpoint(folder / "checkpoint.pth", TYPES)
    for model, weights, prefix in (
        (averaged, content["state_dict"], "student."),
        (raw, content["ema_state_dict"], "module.student."),
    ):
        expected = weights[f"{prefix}head.layers.head.weight"]
        assert torch.equal(model.classifier.weight, expected)
    assert not torch.equal(averaged.classifier.weight, raw.classifier.weight)


# Names of the released configurations


@pytest.mark.parametrize("name", [name for name in KEYS if not name.startswith("distiller")])
def test_key_lists_of_plain_models(name):
    config, state_dict = convert_state_dict(keys(name), {})
    is_distilled = name.endswith("distilled")
    assert_filled(
        DeiTForImageClassificationWithTeacher if is_distilled else ViTForImageClassification, config, state_dict
    )
    assert (config.num_labels, config.image_size, config.layer_norm_eps) == (1000, 224, 1e-6)
    assert config.hidden_size // config.num_attention_heads == 64


@pytest.mark.parametrize("name", [name for name in KEYS if name.startswith("distiller")])
def test_key_lists_of_distillers(name):
    weights = {key.removeprefix("module."): tensor for key, tensor in keys(name).items() if key != "steps"}
    parts = split_distiller(weights)
    configs = {}
    for part in ("student", "teacher"):
        configs[part], state_dict = convert_state_dict(parts[part], {})
        assert_filled(ViTForImageClassification, configs[part], state_dict)
    fields = read_losses(parts["losses"], {})
    assert fields["logit_loss"] == ("uskd" if "uskd" in name else "nkd")
    if "uskd" in name:
        del configs["teacher"]
    config = ViTKDConfig(**{f"{part}_config": config for part, config in configs.items()}, **fields)
    with torch.device("meta"):
        model = ViTKDForImageClassification(config)
    expected = {name: w.shape for name, w in model.state_dict().items() if not name.startswith("vitkd.")}
    assert {name: tensor.shape for name, tensor in parts["losses"].items()} == expected


def test_every_key_list_is_there():
    assert len(KEYS) == 14


# Layouts


@pytest.mark.parametrize("tokens", [1, 2])
def test_layouts_there_and_back(tokens):
    weights = make_weights(tokens=tokens)
    timm, ours = change_layout(weights, "timm"), change_layout(weights, "transformers")
    assert {"blocks.1.attn.qkv.weight", "patch_embed.proj.bias", "norm.weight", "head.bias"} <= timm.keys()
    assert [layout_of(layout) for layout in (weights, timm, ours)] == ["mmpretrain", "timm", "transformers"]
    for source in (weights, timm, ours):
        for layout, expected in (("mmpretrain", weights), ("timm", timm), ("transformers", ours)):
            assert_close(change_layout(source, layout), expected, atol=0, rtol=0)


def test_names_of_modules_are_those_of_files():
    config, state_dict = convert_state_dict(make_weights(), OPTIONS)
    model = ViTForImageClassification.from_pretrained(None, config=config, state_dict=state_dict)
    assert_close(change_layout(model.state_dict(), "transformers"), state_dict, atol=0, rtol=0)
    model.save_pretrained  # noqa: B018


def test_layer_scale_stays_in_timm_and_is_folded_in_transformers():
    weights = make_weights(layer_scale=True)
    timm, ours = change_layout(weights, "timm"), change_layout(weights, "transformers")
    assert_close(change_layout(timm, "mmpretrain"), weights, atol=0, rtol=0)
    assert timm["blocks.1.ls2.gamma"] is weights["backbone.layers.1.ffn.gamma2.weight"]
    meta = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", name): tensor for name, tensor in timm.items()}
    assert_close(change_layout(meta, "timm"), timm, atol=0, rtol=0)
    for layer, gamma, folded in (
        ("attn.proj", "attn.gamma1", "attention.output.dense"),
        ("ffn.layers.1", "ffn.gamma2", "output.dense"),
    ):
        scale = weights[f"backbone.layers.1.{gamma}.weight"]
        expected = scale[:, None] * weights[f"backbone.layers.1.{layer}.weight"]
        assert torch.equal(ours[f"vit.encoder.layer.1.{folded}.weight"], expected)
        expected = scale * weights[f"backbone.layers.1.{layer}.bias"]
        assert torch.equal(ours[f"vit.encoder.layer.1.{folded}.bias"], expected)
    positions = ours["vit.embeddings.position_embeddings"]
    assert not positions[:, 0].any()
    assert torch.equal(positions[:, 1:], weights["backbone.pos_embed"])


@pytest.mark.parametrize("layout", ["mmpretrain", "timm", "transformers"])
def test_files_of_each_layout_give_the_same_model(layout, tmp_path):
    weights = make_weights(layer_scale=True)
    save_file(change_layout(weights, layout), tmp_path / "weights.safetensors")
    model = convert_and_load(tmp_path / "weights.safetensors", tmp_path / "model", OPTIONS)
    assert_close(
        change_layout(model.state_dict(), "transformers"), change_layout(weights, "transformers"), atol=0, rtol=0
    )


def test_a_distillation_token_gives_a_deit(tmp_path):
    weights = make_weights(tokens=2)
    torch.save({"state_dict": weights}, tmp_path / "weights.pth")
    model = convert_and_load(tmp_path / "weights.pth", tmp_path / "model", OPTIONS)
    assert type(model) is DeiTForImageClassificationWithTeacher
    assert torch.equal(model.deit.embeddings.distillation_token, weights["backbone.dist_token"])
    assert torch.equal(model.distillation_classifier.weight, weights["head.layers.head_dist.weight"])
    outputs = model(torch.randn(1, 3, 12, 12))
    assert_close(outputs.logits, (outputs.cls_logits + outputs.distillation_logits) / 2)


# What tensors do not tell


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": {"arch": {"embed_dims": 8, "num_heads": 4}}},
        {"model": {"backbone": {"arch": {"num_heads": 4}}}},
        {"student_backbone": {"num_heads": 4}},
        {"student_backbone": {"embed_dims": 9, "num_heads": 3}, "teacher_backbone": {"embed_dims": 8, "num_heads": 4}},
    ],
)
def test_heads_of_the_options(options):
    assert convert_state_dict(make_weights(), options)[0].num_attention_heads == 4


def test_heads_of_the_file(tmp_path):
    cfg = "model = dict(backbone=dict(arch=dict(num_heads=4, num_layers=2), img_size=(12, 12)))\nlr = 1 + 1j\n"
    content = {"meta": {"cfg": cfg, "dataset_meta": {"classes": list("vwxyz")}}, "state_dict": make_weights()}
    torch.save(content, tmp_path / "weights.pth")
    model = convert_and_load(tmp_path / "weights.pth", tmp_path / "model")
    assert model.config.num_attention_heads == 4
    assert model.config.id2label[4] == "z"
    assert convert_and_load(tmp_path / "weights.pth", tmp_path / "other", OPTIONS).config.num_attention_heads == 2


def test_heads_that_nobody_tells():
    with pytest.raises(ValueError, match=r"width 8 with 2 blocks, .* give `original_config` the number"):
        convert_state_dict(make_weights(), {})
    with pytest.warns(UserWarning, match="2 attention heads of 64 channels are a guess"):
        config, _ = convert_state_dict(make_weights(width=128), {})
    assert config.num_attention_heads == 2
    with pytest.raises(ValueError, match="`num_heads` must divide the width 8, got 3"):
        convert_state_dict(make_weights(), {"backbone": {"num_heads": 3}})


def test_images_that_are_not_square():
    for layer_scale in (False, True):
        weights = make_weights(positions=6, layer_scale=layer_scale)
        config, state_dict = convert_state_dict(weights, {"backbone": {"num_heads": 2, "img_size": (8, 12)}})
        assert config.image_size == [8, 12]
        assert_filled(ViTForImageClassification, config, {name: t.to("meta") for name, t in state_dict.items()})
        with pytest.raises(ValueError, match="no square of patches"):
            convert_state_dict(weights, OPTIONS)


@pytest.mark.parametrize(("layer_scale", "edge"), [(False, 13), (True, 12)])
def test_image_processor(layer_scale, edge, tmp_path):
    save_file(make_weights(layer_scale=layer_scale), tmp_path / "weights.safetensors")
    statistics = {"mean": [51, 102.0, 153], "std": [25.5, 51, 102]}
    options = {**OPTIONS, "data_preprocessor": statistics}
    convert_checkpoint("vitkd", tmp_path / "weights.safetensors", tmp_path / "model", options)
    processor = ViTImageProcessorPil.from_pretrained(tmp_path / "model")
    assert (processor.size["shortest_edge"], processor.crop_size["height"], processor.resample) == (edge, 12, 3)
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.2, 0.4, 0.6], [0.1, 0.2, 0.4])
    pixels = processor(torch.zeros(3, 20, 31, dtype=torch.uint8), return_tensors="pt").pixel_values
    assert_close(pixels[0, :, 0, 0], torch.tensor([-2.0, -2, -1.5]))
    assert pixels.shape == (1, 3, 12, 12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype, tmp_path):
    torch.save({name: tensor.to(dtype) for name, tensor in make_weights().items()}, tmp_path / "weights.pth")
    assert convert_and_load(tmp_path / "weights.pth", tmp_path / "model", OPTIONS).dtype == dtype


# Files that do not fit, or mean harm


def put(name, tensor):
    return lambda weights: weights.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("backbone.extra", torch.ones(1)), r"entries \['backbone.extra'\] have no place"),
        (put("head.layers.pre_logits.weight", torch.ones(8, 8)), r"'head.layers.pre_logits.weight'\] have no place"),
        (put("backbone.layers.1.ffn.gamma2.weight", torch.ones(8)), r"'blocks.1.ls2.gamma'\] have no place"),
        (put("backbone.layers.7.ln1.weight", torch.ones(8)), "'blocks.2.attn.proj.bias', .* are missing"),
        (put("backbone.layers.1.ln2.bias", torch.ones(7)), r"'blocks.1.norm2.bias' .* shape \(7,\), but .* \(8,\)"),
        (put("backbone.pos_embed", torch.ones(9, 8)), r"'pos_embed' must have 3 dimensions"),
        (put("backbone.pos_embed", torch.ones(1, 12, 8)), "12 positions, which is no square"),
        (put("backbone.patch_embed.projection.weight", torch.ones(8, 3, 4, 5)), r"asks? for \(8, 3, 4, 4\)"),
        (put("head.layers.head.bias", torch.ones(5).double()), "same floating-point dtype"),
        (put("head.layers.head.bias", torch.full((5,), float("nan"))), "NaN or infinite"),
        (lambda weights: weights.pop("backbone.cls_token"), "must be of a DeiT or DeiT-III"),
        (lambda weights: weights.pop("backbone.ln1.bias"), r"'norm.bias'\] are missing"),
        (lambda weights: weights.pop("backbone.pos_embed"), "'pos_embed' .* is missing"),
        (lambda weights: [weights.pop(f"head.layers.head.{kind}") for kind in ("weight", "bias")], "'head.weight' .* missing"),
        (lambda weights: weights.pop("backbone.layers.0.attn.qkv.bias"), r"'blocks.1.attn.qkv.bias'\] have no place"),
        (put("student.backbone.cls_token", torch.ones(1, 1, 8)), "neither of student, teacher nor distillation losses"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(change, message, tmp_path):
    weights = make_weights()
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("vitkd", tmp_path / "weights.pth", tmp_path / "model", OPTIONS)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "student"}, r"`part` must name a model that the checkpoint has, one of \[\], got 'student'"),
        ({"backbone": {"num_heads": True}}, "`num_heads` must divide the width 8, got True"),
        ({"backbone": {"num_heads": 2, "img_size": "12"}}, "`img_size` must be one number or"),
        ({**OPTIONS, "data_preprocessor": {"mean": [1, 2]}}, "`mean` of `data_preprocessor` must be 3 numbers"),
    ],
)
def test_options_that_do_not_fit(options, message, tmp_path):
    save_file(make_weights(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("vitkd", tmp_path / "weights.safetensors", tmp_path / "model", options)
    assert not (tmp_path / "model").exists()


def test_layouts_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`layout` must be one of .*, got 'keras'"):
        change_layout(make_weights(), "keras")
    weights = change_layout(make_weights(), "transformers")
    del weights["vit.encoder.layer.0.attention.attention.key.bias"]
    with pytest.raises(ValueError, match="query, key and value belong together"):
        change_layout(weights, "timm")
    del weights["vit.encoder.layer.0.attention.attention.query.bias"]
    with pytest.raises(ValueError, match="has no query beside it"):
        change_layout(weights, "timm")


class Calls:
    """A pickle of this calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __call__(self):
        raise AssertionError

    def __reduce__(self):
        return self.function, self.arguments


class History:
    """Saved under the name of mmengine's class."""

    def __init__(self, values=None):
        self.values = values


def save_as_mmengine(content, path):
    """Save a file that calls `History` by the name of mmengine's class."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            own = f"{__name__}\nHistory\n".encode()
            archive.writestr(name, data.replace(own, b"mmengine.logging.history_buffer\nHistoryBuffer\n"))


def save_hostile(attack, path, victim):
    call, weights = Calls(os.system, f"touch {victim}"), {"state_dict": make_weights()}
    match attack:
        case "call":
            torch.save({"message_hub": call, **weights}, path)
        case "state of a logger":
            save_as_mmengine({"message_hub": History(call), **weights}, path)
        case "arguments of a logger":
            save_as_mmengine({"message_hub": Calls(History, f"touch {victim}"), **weights}, path)
        case "attribute":
            torch.save({"message_hub": Calls(Calls(getattr, "text", "upper"), f"touch {victim}"), **weights}, path)
        case "cut":
            content = (TESTS / "fixtures" / "vitkd" / "student_transferred" / "student_transferred.pth").read_bytes()
            path.write_bytes(content[: len(content) // 2])
        case "empty" | "text":
            path.write_bytes(b"" if attack == "empty" else b"weights")


@pytest.mark.parametrize(
    "attack", ["call", "state of a logger", "arguments of a logger", "attribute", "cut", "empty", "text"]
)
def test_files_that_are_hostile_or_cut_off(attack, tmp_path):
    path, victim = tmp_path / "hostile.pth", tmp_path / "victim"
    save_hostile(attack, path, victim)
    with pytest.raises(ValueError, match=r"holds more than weights|cannot be read"):
        convert_checkpoint("vitkd", path, tmp_path / "model", OPTIONS)
    assert not victim.exists()
    assert not (tmp_path / "model").exists()


def test_logs_are_read_without_their_class(tmp_path):
    """What the training loop pickles: numbers in a class of mmengine that names its own methods by `getattr`."""
    logs = History(np.arange(3.0))
    logs.methods = {"mean": Calls(getattr, History, "values")}
    save_as_mmengine({"message_hub": {"loss": logs}, "state_dict": make_weights()}, tmp_path / "weights.pth")
    content = open_checkpoint(tmp_path / "weights.pth", TYPES)
    assert content["message_hub"]["loss"].methods == {"mean": None}
    assert_close(read_checkpoint(tmp_path / "weights.pth", TYPES), make_weights())
    with pytest.raises(ValueError, match="holds more than weights"):
        read_checkpoint(tmp_path / "weights.pth")
