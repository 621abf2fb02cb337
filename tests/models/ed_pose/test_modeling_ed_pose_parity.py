"""ED-Pose against values of the original code; `tests/fixtures/edpose/README.md` says how they were made."""

import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForPoseEstimation

from hvmodels import EDPoseForPoseEstimation
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.ed_pose import RESNET_NAMES, TRANSFORMER_NAMES, _rename, convert_state_dict
from hvmodels.models.ed_pose.decoder_ed_pose import EDPoseSelfAttention
from hvmodels.models.ed_pose.denoising_ed_pose import (
    DenoisingQueries,
    denoising_attention_mask,
    denoising_chunk_ids,
)
from hvmodels.models.ed_pose.loss_ed_pose import match
from tests.reference_cases import reference_case, reference_folder


FIXTURES = Path(__file__).parents[2] / "fixtures" / "edpose"
LOGITS = {"atol": 2e-4, "rtol": 0}
COORDINATES = {"atol": 5e-5, "rtol": 0}
EVAL_CASES = ["r50_coco17_eval", reference_case("edpose", "swin_crowdpose14_eval")]
VARIANTS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
# Unique parameters of the published models with those of the frozen part of ResNet, in millions.
SIZES = {
    "r50_coco": 48.08,
    "r50_crowdpose": 47.95,
    "r50_humanart": 48.08,
    "swinl_5scale_coco": 218.77,
    "swinl_5scale_crowdpose": 218.63,
    "swinl_coco": 218.42,
    "swinl_crowdpose": 218.29,
}


def read_case(name):
    folder = reference_folder("edpose", name)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def convert(name, output_dir, **options):
    folder = reference_folder("edpose", name)
    config = {**json.loads((folder / "config.json").read_text()), **options} if options else folder / "config.json"
    convert_checkpoint("ed-pose", folder / "checkpoint.pth", output_dir, original_config=config)
    model, loading = AutoModelForPoseEstimation.from_pretrained(output_dir, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def keypoints(values):
    """The original's x1 y1 ... v1 ... as (..., keypoints, 2)."""
    return values[..., : values.shape[-1] // 3 * 2].unflatten(-1, (-1, 2))


def assert_prediction(actual, reference, prefix):
    assert_close(actual["logits"], reference[f"{prefix}pred_logits"], **LOGITS)
    assert_close(actual["pred_boxes"], reference[f"{prefix}pred_boxes"], **COORDINATES)
    if actual["pred_keypoints"] is not None:
        assert_close(actual["pred_keypoints"], keypoints(reference[f"{prefix}pred_keypoints"]), **COORDINATES)


def assert_all_predictions(outputs, reference, prefix):
    assert_prediction(outputs, reference, prefix)
    for index, auxiliary in enumerate(outputs.auxiliary_outputs):
        assert_prediction(auxiliary, reference, f"{prefix}aux_outputs.{index}.")
    assert_close(outputs.enc_outputs_class, reference[f"{prefix}interm_outputs.pred_logits"], **LOGITS)
    assert_close(outputs.enc_outputs_coord, reference[f"{prefix}interm_outputs.pred_boxes"], **COORDINATES)


# Evaluation


@pytest.fixture(scope="module", params=EVAL_CASES)
def eval_case(request, tmp_path_factory):
    """Options, reference tensors and converted model."""
    return *read_case(request.param), convert(request.param, tmp_path_factory.mktemp("model") / request.param)


def test_configuration(eval_case):
    original, _, model = eval_case
    options, config = original["args"], model.config
    override = original["backbone_override"]
    assert isinstance(model, EDPoseForPoseEstimation)
    assert config.d_model == options["hidden_dim"]
    assert (config.encoder_layers, config.decoder_layers) == (options["enc_layers"], options["dec_layers"])
    assert config.num_box_decoder_layers == options["num_box_decoder_layers"]
    assert config.encoder_ffn_dim == config.decoder_ffn_dim == options["dim_feedforward"]
    assert config.encoder_attention_heads == config.decoder_attention_heads == options["nheads"]
    assert (config.encoder_n_points, config.decoder_n_points) == (options["enc_n_points"], options["dec_n_points"])
    assert (config.num_queries, config.num_groups) == (options["num_queries"], options["num_group"])
    assert config.num_keypoints == options["num_body_points"]
    assert config.expansion_head == ("last" if config.num_keypoints == 17 else "first")
    assert config.backbone_config.depths == override["depths"]
    if override["type"] == "swin":
        names = ("embed_dim", "num_heads", "window_size")
        assert {name: getattr(config.backbone_config, name) for name in names} == {n: override[n] for n in names}
    else:
        assert config.backbone_config.embedding_size == override["stem_width"]


def test_evaluation(eval_case):
    _, reference, model = eval_case
    with torch.no_grad():
        outputs = model(reference["input.pixel_values"], ~reference["input.mask"], output_auxiliary=True)
    assert_all_predictions(outputs, reference, "output.")
    assert_close(outputs.encoder_last_hidden_state, reference["intermediate.encoder.memory"], atol=2e-4, rtol=0)


def test_evaluation_without_auxiliary_outputs(eval_case):
    _, reference, model = eval_case
    with torch.no_grad():
        outputs = model(reference["input.pixel_values"], (~reference["input.mask"]).long())
    assert outputs.auxiliary_outputs is None
    assert_prediction(outputs, reference, "output.")


def test_group_attention_equals_attention_under_the_mask_of_the_original(eval_case):
    _, reference, model = eval_case
    blocked, config = reference["intermediate.group_attention_mask"], model.config
    attention = EDPoseSelfAttention(config.d_model, config.decoder_attention_heads).double()
    states, position = torch.randn(2, 2, len(blocked), config.d_model, dtype=torch.float64).unbind()
    expected = full_attention(attention, states, position, ~blocked)
    assert_close(attention(states, position, config.num_keypoints + 1), expected, atol=1e-12, rtol=1e-12)


def full_attention(attention, states, position, allowed):
    """Attention over all pairs of queries under a mask."""

    def heads(tensor):
        return tensor.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    query, key = heads(attention.q_proj(states + position)), heads(attention.k_proj(states + position))
    scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf)
    return attention.o_proj((scores.softmax(-1) @ heads(attention.v_proj(states))).transpose(1, 2).flatten(2))


# Training


@pytest.fixture(scope="module")
def train_case(tmp_path_factory):
    """Options, reference tensors and the folder of the converted model."""
    folder = tmp_path_factory.mktemp("model") / "train"
    convert("r50_coco17_train", folder)
    return *read_case("r50_coco17_train"), folder


def read_labels(reference):
    labels = []
    for image in range(2):
        target = {name: reference[f"target.{image}.{name}"] for name in ("labels", "boxes", "keypoints", "area")}
        labels.append(
            {
                "class_labels": target["labels"],
                "boxes": target["boxes"],
                "keypoints": keypoints(target["keypoints"]),
                "keypoints_visible": target["keypoints"][:, 34:],
                "area": target["area"],
            }
        )
    return labels


@pytest.mark.parametrize(("tag", "options"), [("eval", {}), ("ema", {"checkpoint_entry": "ema_model"})])
def test_evaluation_of_a_training_checkpoint(tag, options, tmp_path):
    _, reference = read_case("r50_coco17_train")
    model = convert("r50_coco17_train", tmp_path / "model", **options)
    with torch.no_grad():
        outputs = model(reference["input.pixel_values"], ~reference["input.mask"])
    assert_prediction(outputs, reference, f"output.{tag}.")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient_checkpointing"])
@pytest.mark.parametrize("kind", ["stored_noise", "seeded_noise", "no_denoising"])
def test_training(train_case, kind, checkpointing):
    original, reference, folder = train_case
    tag = "nodn" if kind == "no_denoising" else "dn"
    model = EDPoseForPoseEstimation.from_pretrained(
        folder, **({"num_denoising": 0} if kind == "no_denoising" else {})
    ).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    labels, queries = read_labels(reference), None
    if kind == "stored_noise":
        queries = DenoisingQueries(
            content=model.label_embedding(reference["input.dn.noised_labels"]),
            reference_logits=reference["input.dn.query_boxes_unsigmoid"],
            target_labels=reference["input.dn.target_labels"],
            target_boxes=reference["input.dn.target_boxes"],
            chunk_ids=denoising_chunk_ids([3, 2], 100),
        )
    torch.manual_seed(original["rng_seed_before_forward"])
    outputs = model(
        reference["input.pixel_values"], ~reference["input.mask"], labels=labels, denoising_queries=queries
    )
    prefix = f"output.{tag}."
    assert_all_predictions(outputs, reference, prefix)
    assert_close(outputs.loss, reference[f"{prefix}total_loss"], atol=0, rtol=1e-4)
    for name, value in outputs.loss_dict.items():
        assert_close(value, reference[f"{prefix}loss.{name}"], atol=1e-6, rtol=1e-4, msg=name)
    if tag == "dn":
        assert_close(outputs.denoising_outputs[-1]["logits"], reference["output.dn.dn_class_pred"], **LOGITS)
        assert_close(outputs.denoising_outputs[-1]["pred_boxes"], reference["output.dn.dn_bbox_pred"], **COORDINATES)
    layers = {"final": outputs, "interm_outputs": {"logits": outputs.enc_outputs_class, "pred_boxes": outputs.enc_outputs_coord}}  # fmt: skip
    layers |= {f"aux_outputs.{index}": layer for index, layer in enumerate(outputs.auxiliary_outputs)}
    for layer_name, layer in layers.items():
        for image, pair in enumerate(match(layer, labels, model.config)):
            assert torch.equal(torch.stack(pair), reference[f"{prefix}match.{layer_name}.{image}"]), layer_name

    outputs.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norm = (
        torch.stack([gradient.square().sum() for gradient in gradients.values() if gradient is not None]).sum().sqrt()
    )
    assert_close(norm, reference[f"{prefix}grad_norm"], atol=0, rtol=1e-3)
    checked = 0
    for name, expected in reference.items():
        if not name.startswith(f"grad.{tag}.") or (tag == "nodn" and "label_enc" in name):
            continue
        ours = _rename(name.removeprefix(f"grad.{tag}."), TRANSFORMER_NAMES + RESNET_NAMES)
        parts = [ours.replace("{qkv}", letter) for letter in "qkv"] if "{qkv}" in ours else [ours]
        actual = torch.cat([gradients[part] for part in parts])
        assert_close(actual, expected, atol=1e-2 * max(expected.abs().max().item(), 1e-6), rtol=0, msg=name)
        checked += 1
    assert checked == (22 if tag == "dn" else 21)


def test_parameters_with_a_gradient(train_case):
    _, reference, folder = train_case
    model = EDPoseForPoseEstimation.from_pretrained(folder).train()
    model(reference["input.pixel_values"], ~reference["input.mask"], labels=read_labels(reference)).loss.backward()
    count = sum(parameter.grad is not None for parameter in model.parameters())
    split = 4 * model.config.decoder_layers  # two more weights and biases for each joint matrix of the original
    assert count == reference["output.dn.num_params_with_grad"].item() + split


@pytest.mark.parametrize("name", ["attn_mask", "attn_mask2"])
def test_denoising_attention_equals_attention_under_the_mask_of_the_original(name):
    _, reference = read_case("r50_coco17_train")
    blocked = reference[f"intermediate.dn.{name}"]
    group_size = 18 if name == "attn_mask2" else None
    attention = EDPoseSelfAttention(32, 4).double()
    states, position = torch.randn(2, 2, blocked.shape[-1], 32, dtype=torch.float64).unbind()
    mask = denoising_attention_mask(denoising_chunk_ids([3, 2], 100), blocked.shape[-1] - 100)
    expected = full_attention(attention, states, position, ~blocked[:, None])
    assert_close(attention(states, position, group_size, mask), expected, atol=1e-12, rtol=1e-12)


# Published sizes


def full_size_weights(shapes, options):
    """Weights of the full-size case: each from a seed of its own, by the recipe of its name."""
    weights = {}
    for name, shape in shapes.items():
        canonical = re.sub(r"^transformer\.decoder\.(?=(bbox|class|pose|pose_hw)_embed\.)", "", name)
        canonical = re.sub(r"^pose_hw_embed\.\d+\.", "pose_hw_embed.0.", canonical)
        _, kind, offset, amplitude = next(
            rule for rule in options["weight_recipe_rules"] if re.search(rule[0], canonical)
        )
        seed = (zlib.crc32(canonical.encode()) + options["weight_recipe_seed"]) % 2**32
        if kind == "fan":
            amplitude *= np.sqrt(3 / np.prod(shape[1:]))
        values = offset + amplitude * np.random.RandomState(seed).uniform(-1, 1, shape)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def test_full_size():
    options, reference = read_case("fullsize_r50_coco17")
    weights = full_size_weights(VARIANTS["r50_coco"], options)
    for name, expected in reference.items():
        if name.startswith("check.param."):
            assert torch.equal(weights[name.removeprefix("check.param.")].flatten()[:8], expected)
    config, state_dict = convert_state_dict(weights, options)
    with torch.device("meta"):
        model = EDPoseForPoseEstimation(config).eval()
    model.load_state_dict(state_dict, assign=True)

    random = np.random.RandomState(options["image_seed"])
    sizes = reference["input.image_sizes"].tolist()
    height, width = map(max, zip(*sizes, strict=True))
    pixel_values, pixel_mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width)
    for image, (rows, columns) in enumerate(sizes):
        pixel_values[image, :, :rows, :columns] = torch.from_numpy(random.uniform(-2, 2, (3, rows, columns)))
        pixel_mask[image, :rows, :columns] = 1
    with torch.no_grad():
        outputs = model(pixel_values, pixel_mask, output_auxiliary=True)
    assert_prediction(outputs, reference, "output.")
    first = outputs.auxiliary_outputs[0]
    assert_close(first["logits"], reference["output.aux_outputs.0.pred_logits"], **LOGITS)
    assert_close(first["pred_boxes"], reference["output.aux_outputs.0.pred_boxes"], **COORDINATES)
    assert_close(outputs.enc_outputs_class, reference["output.interm_outputs.pred_logits"], **LOGITS)
    assert_close(outputs.enc_outputs_coord, reference["output.interm_outputs.pred_boxes"], **COORDINATES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_variants_map_completely(variant):
    # Tensors without memory of their own: one number, seen in the shape.
    weights = {
        name: torch.zeros((), dtype=torch.int64 if name.endswith("position_index") else torch.float32).expand(shape)
        for name, shape in VARIANTS[variant].items()
    }
    config, state_dict = convert_state_dict(weights, {})
    with torch.device("meta"):
        model = EDPoseForPoseEstimation(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in state_dict.items()} == expected
    assert config.num_keypoints == (14 if "crowdpose" in variant else 17)
    assert config.num_feature_levels == (5 if "5scale" in variant else 4)
    assert len(config.backbone_config.out_features) == config.num_feature_levels - 1
    assert (config.num_queries, config.num_groups, config.d_model) == (900, 100, 256)
    frozen = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith("convolution.weight"))
    assert (model.num_parameters() + frozen) / 1e6 == pytest.approx(SIZES[variant], abs=0.005)
