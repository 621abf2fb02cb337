"""Conversion of ED-Pose: the original's layout in all its forms, mmpose's port, and files that do not fit."""

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModelForPoseEstimation

from hvmodels import EDPoseForPoseEstimation, EDPoseImageProcessor
from hvmodels.conversion import convert_checkpoint, read_checkpoint
from hvmodels.conversion.ed_pose import HEADS, convert_state_dict
from tests.reference_cases import needs_reference, reference_folder


FOLDER = Path(__file__).parents[1] / "fixtures" / "edpose" / "r50_coco17_eval"
SWIN = ("edpose", "swin_crowdpose14_eval")
SWIN_FOLDER = reference_folder(*SWIN)
OPTIONS = json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def weights():
    return read_checkpoint(FOLDER / "checkpoint.pth", (argparse.Namespace,))


@pytest.fixture(scope="module")
def expected(weights):
    return convert_state_dict(weights, OPTIONS)


def assert_same(actual, expected):
    assert actual[0].to_dict() == expected[0].to_dict()
    assert_close(actual[1], expected[1], atol=0, rtol=0)


@pytest.mark.usefixtures("auto_image_processor")
def test_folder_loads_with_the_auto_classes(tmp_path):
    convert_checkpoint("ed-pose", FOLDER / "checkpoint.pth", tmp_path / "model", FOLDER / "config.json")
    assert AutoModelForPoseEstimation.from_pretrained(tmp_path / "model").config.num_groups == 8
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "model")).__name__ == "EDPoseImageProcessor"


def test_namespace_needs_the_method(tmp_path):
    with pytest.raises(ValueError, match="holds more than weights"):
        read_checkpoint(FOLDER / "checkpoint.pth")
    with pytest.raises(ValueError, match="holds more than weights"):
        convert_checkpoint("ltsf-linear", FOLDER / "checkpoint.pth", tmp_path / "model")


def test_options_inside_the_file(expected, tmp_path):
    convert_checkpoint("ed-pose", FOLDER / "checkpoint.pth", tmp_path / "own")
    config = EDPoseForPoseEstimation.from_pretrained(tmp_path / "own").config
    assert (config.num_queries, config.num_groups) == (expected[0].num_queries, expected[0].num_groups) != (900, 100)
    convert_checkpoint("ed-pose", FOLDER / "checkpoint.pth", tmp_path / "given", {"num_queries": 30})
    config = EDPoseForPoseEstimation.from_pretrained(tmp_path / "given").config
    assert (config.num_queries, config.num_groups) == (30, expected[0].num_groups)


@needs_reference(*SWIN)
def test_image_processor_has_the_keypoints_of_the_model(tmp_path):
    convert_checkpoint("ed-pose", SWIN_FOLDER / "checkpoint.pth", tmp_path / "model", SWIN_FOLDER / "config.json")
    assert EDPoseImageProcessor.from_pretrained(tmp_path / "model").num_keypoints == 14


def test_bare_options(weights, expected):
    assert_same(convert_state_dict(weights, OPTIONS["args"]), expected)


def test_plain_weights_with_the_prefix_of_a_parallel_model(weights, expected, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{name}": tensor.clone() for name, tensor in weights.items()}, path)
    assert_same(convert_state_dict(read_checkpoint(path), OPTIONS), expected)


def test_without_options_the_published_values_are_taken(weights):
    config, _ = convert_state_dict(weights, {"nheads": 4})
    assert (config.num_queries, config.num_groups, config.num_denoising) == (900, 100, 100)
    assert (config.d_model, config.encoder_layers, config.decoder_layers) == (32, 2, 4)


def test_sizes_of_the_tensors_win(weights, expected):
    options = {**OPTIONS["args"], "hidden_dim": 256, "enc_layers": 6, "dim_feedforward": 2048, "num_body_points": 14}
    assert_same(convert_state_dict(weights, options), expected)


def test_options_that_tensors_do_not_tell(weights):
    options = {
        **OPTIONS["args"], "pe_temperatureH": 20, "pe_temperatureW": 10, "num_group": 5, "set_cost_oks": 3.0,
        "dn_bbox_coef": 1.0, "bbox_loss_coef": 4.0, "dn_box_noise_scale": 0.2, "dn_number": 50,
    }  # fmt: skip
    config, _ = convert_state_dict(weights, options)
    assert config.positional_embedding_temperature == [20, 10]
    assert (config.num_groups, config.oks_cost, config.box_noise_scale, config.num_denoising) == (5, 3, 0.2, 50)
    assert (config.bbox_loss_coefficient, config.dn_bbox_loss_coefficient) == (4, 4)
    assert (config.giou_loss_coefficient, config.dn_giou_loss_coefficient) == (2, 2)


def test_denoising_switched_off(weights):
    config, state_dict = convert_state_dict(weights, {**OPTIONS["args"], "use_dn": False})
    assert config.num_denoising == 0
    assert "label_embedding.weight" not in state_dict


def test_ema_weights(tmp_path):
    path = FOLDER.parent / "r50_coco17_train"
    options = json.loads((path / "config.json").read_text())
    for entry in ("model", "ema_model"):
        convert_checkpoint(
            "ed-pose", path / "checkpoint.pth", tmp_path / entry, {**options, "checkpoint_entry": entry}
        )
    one, other = (load_file(tmp_path / entry / "model.safetensors") for entry in ("model", "ema_model"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match=r"has no weights under 'ema_model'; it holds \['args'"):
        convert_checkpoint(
            "ed-pose", FOLDER / "checkpoint.pth", tmp_path / "none", {**OPTIONS, "checkpoint_entry": "ema_model"}
        )
    assert not (tmp_path / "none").exists()


# Names of mmpose's port, as its modules give them.
TO_MMPOSE = [
    (r"backbone\.0\.body\.", "backbone."),
    (r"input_proj\.([012])\.0\.", r"neck.convs.\1.conv."),
    (r"input_proj\.([012])\.1\.", r"neck.convs.\1.gn."),
    (r"input_proj\.3\.0\.", "neck.extra_convs.0.conv."),
    (r"input_proj\.3\.1\.", "neck.extra_convs.0.gn."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d)\.linear1\.", r"head.\1.layers.\2.ffn.layers.0.0."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d)\.linear2\.", r"head.\1.layers.\2.ffn.layers.1."),
    (r"transformer\.encoder\.layers\.(\d)\.norm1\.", r"head.encoder.layers.\1.norms.0."),
    (r"transformer\.encoder\.layers\.(\d)\.norm2\.", r"head.encoder.layers.\1.norms.1."),
    (r"transformer\.decoder\.layers\.(\d)\.norm2\.", r"head.decoder.layers.\1.norms.0."),
    (r"transformer\.decoder\.layers\.(\d)\.norm1\.", r"head.decoder.layers.\1.norms.1."),
    (r"transformer\.decoder\.layers\.(\d)\.norm3\.", r"head.decoder.layers.\1.norms.2."),
    (r"transformer\.decoder\.layers\.(\d)\.self_attn\.", r"head.decoder.layers.\1.self_attn.attn."),
    (r"transformer\.enc_output\.", "head.memory_trans_fc."),
    (r"transformer\.enc_output_norm\.", "head.memory_trans_norm."),
    (r"transformer\.", "head."),
    (HEADS, r"head.out_head.\g<0>"),
    (r"label_enc\.", "head.label_enc."),
]


def to_mmpose(weights):
    renamed = {}
    for name, tensor in weights.items():
        pattern, template = next(rule for rule in TO_MMPOSE if re.match(rule[0], name))
        renamed[re.sub(f"^{pattern}", template, name)] = tensor
    return renamed


def test_mmpose(weights, expected):
    assert_same(convert_state_dict(to_mmpose(weights), OPTIONS), expected)


def test_mmpose_without_biases_of_the_projections(weights, expected):
    renamed = {name: tensor for name, tensor in to_mmpose(weights).items() if not name.endswith("conv.bias")}
    _, state_dict = convert_state_dict(renamed, OPTIONS)
    assert state_dict.keys() == expected[1].keys()
    for name, tensor in state_dict.items():
        if re.fullmatch(r".*input_projections\.convolutions\.\d\.bias", name):
            assert not tensor.any()
        else:
            assert torch.equal(tensor, expected[1][name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"transformer.tgt_embed.weight": torch.zeros(1)}), "'transformer.tgt_embed.weight'.* not known"),
        (lambda w: w.pop("label_enc.weight"), "'label_enc.weight' is missing"),
        (lambda w: w.pop("transformer.enc_output.bias"), r"\['model.proposal_projection.bias'\] are missing"),
        (lambda w: w.update({"bbox_embed.0.layers.0.bias": torch.ones(32)}), "must be a copy of 'bbox_embed.0.layers.0.bias'"),
        (lambda w: w.update({"pose_hw_embed.1.layers.0.bias": torch.ones(32)}), "must be a copy of 'pose_hw_embed.0.layers.0.bias'"),
        (lambda w: w.update({"transformer.enc_output.bias": torch.ones(31)}), r"shape \(31,\), but .* ask for \(32,\)"),
        (lambda w: w.update({"transformer.enc_output.bias": torch.ones(32).double()}), "same floating-point dtype"),
        (lambda w: w.pop("backbone.0.body.conv1.weight"), "is missing"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(weights, change, message, tmp_path):
    weights = dict(weights)
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("ed-pose", tmp_path / "weights.pth", tmp_path / "model", OPTIONS)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"two_stage_type": "no"}, "`two_stage_type` = 'no' cannot be converted"),
        ({"embed_init_tgt": True}, "`embed_init_tgt` = True cannot be converted"),
        ({"nheads": 3}, "`nheads` = 3 does not fit"),
        ({"num_box_decoder_layers": 3}, "`num_box_decoder_layers` is 3, but the checkpoint has 2 of 4"),
        ({"num_group": 26}, "`num_queries`"),
    ],
)
def test_options_that_do_not_fit(weights, options, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict(weights, {**OPTIONS["args"], **options})


def test_half_precision(weights, tmp_path):
    torch.save({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "weights.pth")
    convert_checkpoint("ed-pose", tmp_path / "weights.pth", tmp_path / "model", OPTIONS)
    assert AutoModelForPoseEstimation.from_pretrained(tmp_path / "model").dtype == torch.float16


@needs_reference(*SWIN)
def test_swin_drop_path():
    weights = read_checkpoint(SWIN_FOLDER / "checkpoint.pth", (argparse.Namespace,))
    config, _ = convert_state_dict(weights, json.loads((SWIN_FOLDER / "config.json").read_text()))
    assert config.backbone_config.drop_path_rate == 0.2
