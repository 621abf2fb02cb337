"""Checkpoints of ED-Pose: the original's, and mmpose's port of it."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, ResNetConfig, SwinConfig

from ..models.ed_pose import EDPoseConfig, EDPoseForPoseEstimation, EDPoseImageProcessor


# Names of the original to ours, tried in turn. Attention and Swin matrices that hold query, key and value are split.
TRANSFORMER_NAMES = [
    (r"input_proj\.(\d+)\.0\.", r"model.input_projections.convolutions.\1."),
    (r"input_proj\.(\d+)\.1\.", r"model.input_projections.norms.\1."),
    (r"transformer\.level_embed", "model.level_embedding"),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.", r"model.encoder_layers.\1.self_attn."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.", r"model.encoder_layers.\1.self_attn_layer_norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.", r"model.encoder_layers.\1.final_layer_norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.linear(\d)\.", r"model.encoder_layers.\1.feed_forward.fc\2."),
    (r"transformer\.decoder\.layers\.(\d+)\.cross_attn\.", r"model.decoder.layers.\1.encoder_attn."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm1\.", r"model.decoder.layers.\1.encoder_attn_layer_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"model.decoder.layers.\1.self_attn.o_proj."),
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.in_proj_", r"model.decoder.layers.\1.self_attn.{qkv}_proj."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm2\.", r"model.decoder.layers.\1.self_attn_layer_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm3\.", r"model.decoder.layers.\1.final_layer_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.linear(\d)\.", r"model.decoder.layers.\1.feed_forward.fc\2."),
    (r"transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"transformer\.decoder\.ref_point_head\.", "model.decoder.reference_point_head."),
    (r"transformer\.decoder\.hw\.", "model.decoder.keypoint_size_embedding."),
    (r"transformer\.decoder\.keypoint_embed\.", "model.decoder.keypoint_embedding."),
    (r"transformer\.enc_output\.", "model.proposal_projection."),
    (r"transformer\.enc_output_norm\.", "model.proposal_norm."),
    (r"transformer\.enc_out_class_embed\.", "model.proposal_class_head."),
    (r"transformer\.enc_out_bbox_embed\.", "model.proposal_box_head."),
    (r"class_embed\.(\d+)\.", r"model.decoder.class_heads.\1."),
    (r"bbox_embed\.(\d+)\.", r"model.decoder.box_heads.\1."),
    (r"pose_embed\.(\d+)\.", r"model.decoder.keypoint_heads.\1."),
    (r"pose_hw_embed\.0\.", "model.decoder.keypoint_size_head."),
    (r"label_enc\.", "label_embedding."),
]
RESNET_BLOCK = r"backbone\.0\.body\.layer(\d)\.(\d+)\."
RESNET_NAMES = [
    (r"backbone\.0\.body\.conv1\.", "model.backbone.embedder.embedder.convolution."),
    (r"backbone\.0\.body\.bn1\.", "model.backbone.embedder.embedder.normalization."),
    (RESNET_BLOCK + r"conv(\d)\.", r"model.backbone.encoder.stages.{stage}.layers.\2.layer.{part}.convolution."),
    (RESNET_BLOCK + r"bn(\d)\.", r"model.backbone.encoder.stages.{stage}.layers.\2.layer.{part}.normalization."),
    (RESNET_BLOCK + r"downsample\.0\.", r"model.backbone.encoder.stages.{stage}.layers.\2.shortcut.convolution."),
    (RESNET_BLOCK + r"downsample\.1\.", r"model.backbone.encoder.stages.{stage}.layers.\2.shortcut.normalization."),
]
SWIN_BLOCK = r"backbone\.0\.layers\.(\d)\.blocks\.(\d+)\."
OUR_SWIN_BLOCK = r"model.backbone.swin.encoder.layers.\1.blocks.\2."
SWIN_NAMES = [
    (r"backbone\.0\.patch_embed\.proj\.", "model.backbone.swin.embeddings.patch_embeddings.projection."),
    (r"backbone\.0\.patch_embed\.norm\.", "model.backbone.swin.embeddings.norm."),
    (r"backbone\.0\.layers\.(\d)\.downsample\.", r"model.backbone.swin.encoder.layers.\1.downsample."),
    (r"backbone\.0\.norm(\d)\.", "model.backbone.hidden_states_norms.stage{stage}."),
    (SWIN_BLOCK + r"norm1\.", OUR_SWIN_BLOCK + "layernorm_before."),
    (SWIN_BLOCK + r"norm2\.", OUR_SWIN_BLOCK + "layernorm_after."),
    (SWIN_BLOCK + r"attn\.qkv\.", OUR_SWIN_BLOCK + "attention.{qkv}_proj."),
    (SWIN_BLOCK + r"attn\.proj\.", OUR_SWIN_BLOCK + "attention.o_proj."),
    (
        SWIN_BLOCK + r"attn\.relative_position_bias_table",
        OUR_SWIN_BLOCK + "attention.relative_position_bias.relative_position_bias_table",
    ),
    (SWIN_BLOCK + r"mlp\.fc(\d)\.", OUR_SWIN_BLOCK + r"mlp.fc\3."),
]
# Names of mmpose's port to those of the original.
MMPOSE_NAMES = [
    (r"backbone\.", "backbone.0.body."),
    (r"neck\.convs\.(\d+)\.conv\.", r"input_proj.\1.0."),
    (r"neck\.convs\.(\d+)\.gn\.", r"input_proj.\1.1."),
    (r"neck\.extra_convs\.(\d+)\.conv\.", r"input_proj.{extra}.0."),
    (r"neck\.extra_convs\.(\d+)\.gn\.", r"input_proj.{extra}.1."),
    (r"head\.(encoder|decoder)\.layers\.(\d+)\.ffn\.layers\.0\.0\.", r"transformer.\1.layers.\2.linear1."),
    (r"head\.(encoder|decoder)\.layers\.(\d+)\.ffn\.layers\.1\.", r"transformer.\1.layers.\2.linear2."),
    (r"head\.encoder\.layers\.(\d+)\.norms\.0\.", r"transformer.encoder.layers.\1.norm1."),
    (r"head\.encoder\.layers\.(\d+)\.norms\.1\.", r"transformer.encoder.layers.\1.norm2."),
    (r"head\.decoder\.layers\.(\d+)\.norms\.0\.", r"transformer.decoder.layers.\1.norm2."),
    (r"head\.decoder\.layers\.(\d+)\.norms\.1\.", r"transformer.decoder.layers.\1.norm1."),
    (r"head\.decoder\.layers\.(\d+)\.norms\.2\.", r"transformer.decoder.layers.\1.norm3."),
    (r"head\.decoder\.layers\.(\d+)\.self_attn\.attn\.", r"transformer.decoder.layers.\1.self_attn."),
    (r"head\.memory_trans_fc\.", "transformer.enc_output."),
    (r"head\.memory_trans_norm\.", "transformer.enc_output_norm."),
    (r"head\.out_head\.", ""),
    (r"head\.label_enc\.", "label_enc."),
    (r"head\.", "transformer."),
]
# Entries that hold nothing of their own.
DERIVED = re.compile(r".*\.(relative_position_index|num_batches_tracked)")
HEADS = r"(?:class_embed|bbox_embed|pose_embed|pose_hw_embed)"
# Options that the published models leave alone; any other value is another network.
FIXED_OPTIONS = {
    "modelname": "edpose",
    "position_embedding": "sine",
    "pre_norm": False,
    "dropout": 0.0,
    "query_dim": 4,
    "num_patterns": 0,
    "two_stage_type": "standard",
    "two_stage_learn_wh": False,
    "embed_init_tgt": False,
    "transformer_activation": "relu",
    "decoder_sa_type": "sa",
    "decoder_module_seq": ["sa", "ca", "ffn"],
    "dilation": False,
    "dec_layer_number": None,
    "rm_self_attn_layers": None,
}
# Options of the original to ours, where the tensors do not tell.
OPTIONS = {
    "num_queries": "num_queries",
    "num_group": "num_groups",
    "nheads": ("encoder_attention_heads", "decoder_attention_heads"),
    "dn_label_noise_ratio": "label_noise_ratio",
    "dn_box_noise_scale": "box_noise_scale",
    "aux_loss": "auxiliary_loss",
    "set_cost_class": "class_cost",
    "set_cost_bbox": "bbox_cost",
    "set_cost_giou": "giou_cost",
    "set_cost_keypoints": "keypoint_cost",
    "set_cost_oks": "oks_cost",
    "cls_loss_coef": "class_loss_coefficient",
    "bbox_loss_coef": "bbox_loss_coefficient",
    "giou_loss_coef": "giou_loss_coefficient",
    "keypoints_loss_coef": "keypoint_loss_coefficient",
    "oks_loss_coef": "oks_loss_coefficient",
    "dn_label_coef": "dn_class_loss_coefficient",
    "focal_alpha": "focal_alpha",
}
SWIN_DROP_PATH_RATE = 0.2


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[EDPoseForPoseEstimation, EDPoseImageProcessor]:
    """Turn a state dict into model and image processor.

    Args:
        weights: State dict of the original or of mmpose's port.
        options: Options of the original by their names, or a dict with them under `args`. Sizes come from the tensors;
            without options the published values are taken for what tensors do not tell.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    config, state_dict = convert_state_dict(weights, options)
    model = EDPoseForPoseEstimation(config).to(state_dict["model.level_embedding"].dtype).eval()
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    if missing or unexpected:
        raise ValueError(f"`checkpoint`: the weights {missing[:6]} are missing, and {unexpected[:6]} have no place.")
    return model, EDPoseImageProcessor(num_keypoints=config.num_keypoints)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[EDPoseConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `EDPoseForPoseEstimation`; see `convert`."""
    options = {**options, **(options.get("args") or {})}
    for name, value in FIXED_OPTIONS.items():
        if name in options and options[name] != value:
            raise ValueError(
                f"`original_config`: `{name}` = {options[name]!r} cannot be converted, only {value!r} can, which all "
                "published models have."
            )
    weights = {name: tensor for name, tensor in weights.items() if not DERIVED.fullmatch(name)}
    if any(name.startswith("head.") for name in weights):
        weights = _from_mmpose(weights)
    weights = _without_aliases(weights)
    config = _read_config(weights, options)
    names = TRANSFORMER_NAMES + (SWIN_NAMES if config.backbone_config.model_type == "swin" else RESNET_NAMES)
    state_dict, unknown = {}, []
    for name, tensor in weights.items():
        converted = _rename(name, names)
        if converted is None:
            unknown.append(name)
        elif "{qkv}" in converted:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                state_dict[converted.replace("{qkv}", letter)] = part.clone()
        else:
            state_dict[converted] = tensor
    if unknown:
        raise ValueError(f"`checkpoint` must be of ED-Pose; its entries {sorted(unknown)[:6]} are not known.")
    if not config.num_denoising:
        state_dict.pop("label_embedding.weight", None)
    dtypes = {tensor.dtype for tensor in state_dict.values()}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    with torch.device("meta"):
        expected = EDPoseForPoseEstimation(config).state_dict()
    for name, tensor in state_dict.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(tensor.shape)}, but the other weights and "
                f"`original_config` ask for {tuple(expected[name].shape)}."
            )
    return config, state_dict


def _rename(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    """The first fitting entry of a table applied to a name, None if there is none."""
    for pattern, template in table:
        if match := re.match(pattern, name):
            start = match.expand(template)
            if "{stage}" in start:  # the original counts ResNet stages from 1 and Swin stages from 0
                shift = 1 if "norms" in start else -1
                start = start.replace("{stage}", str(int(match[1]) + shift))
            if "{part}" in start:
                start = start.replace("{part}", str(int(match[3]) - 1))
            return start + name[match.end() :]
    return None


def _from_mmpose(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of mmpose's port under the names of the original.

    mmpose builds its projections without bias, so that a file saved by it has none; zeros are what it computes with.
    """
    num_maps = len({name.split(".")[2] for name in weights if name.startswith("neck.convs.")})
    renamed = {}
    for name, tensor in weights.items():
        converted = _rename(name, MMPOSE_NAMES)
        if converted is None:
            raise ValueError(f"`checkpoint` must be of ED-Pose; mmpose's entry {name!r} is not known.")
        if "{extra}" in converted:
            converted = converted.replace("{extra}", str(int(name.split(".")[2]) + num_maps))
        renamed[converted] = tensor
    for name in [name for name in renamed if re.fullmatch(r"input_proj\.\d+\.0\.weight", name)]:
        renamed.setdefault(name.replace("weight", "bias"), renamed[name].new_zeros(len(renamed[name])))
    return renamed


def _without_aliases(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One copy of the heads, which the original stores twice, and its only keypoint size head more often.

    Raises:
        ValueError: If copies differ.
    """
    kept = {}
    for name, tensor in weights.items():
        canonical = re.sub(rf"^transformer\.decoder\.(?={HEADS}\.)", "", name)
        canonical = re.sub(r"^pose_hw_embed\.\d+\.", "pose_hw_embed.0.", canonical)
        if not torch.equal(kept.setdefault(canonical, tensor), tensor):
            raise ValueError(f"`checkpoint`: {name!r} must be a copy of {canonical!r}, and differs from it.")
    return kept


def _read_config(weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> EDPoseConfig:
    """Sizes from the tensors, the rest from the options of the original."""

    def shape(name: str) -> torch.Size:
        if name not in weights:
            raise ValueError(f"`checkpoint` must be of ED-Pose: the entry {name!r} is missing.")
        return weights[name].shape

    def count(pattern: str) -> int:
        """One more than the highest number in place of the group of `pattern`."""
        numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
        return max(numbers, default=-1) + 1

    values = {}
    for name, ours in OPTIONS.items():
        if options.get(name) is not None:
            values |= dict.fromkeys([ours] if isinstance(ours, str) else ours, options[name])
    if "dn_bbox_coef" in options:
        for kind in ("bbox", "giou"):
            values[f"dn_{kind}_loss_coefficient"] = options["dn_bbox_coef"] * values.get(
                f"{kind}_loss_coefficient", getattr(EDPoseConfig, f"{kind}_loss_coefficient")
            )
    temperatures = [options.get(f"pe_temperature{axis}", 20) for axis in "HW"]
    values["positional_embedding_temperature"] = (
        temperatures[0] if temperatures[0] == temperatures[1] else temperatures
    )
    values["num_denoising"] = options.get("dn_number", 100) if options.get("use_dn", True) else 0

    num_levels, width = shape("transformer.level_embed")
    num_maps = len([n for n in range(num_levels) if shape(f"input_proj.{n}.0.weight")[-1] == 1])
    decoder_layers = count(r"transformer\.decoder\.layers\.(\d+)\.")
    num_keypoint_heads, num_keypoints = (
        count(r"pose_embed\.(\d+)\."),
        shape("transformer.decoder.keypoint_embed.weight")[0],
    )
    expansion_head = "last" if num_keypoints == 17 else "first"
    num_keypoint_layers = num_keypoint_heads - (expansion_head == "last")
    if (
        "num_box_decoder_layers" in options
        and options["num_box_decoder_layers"] != decoder_layers - num_keypoint_layers
    ):
        raise ValueError(
            f"`original_config`: `num_box_decoder_layers` is {options['num_box_decoder_layers']}, but the checkpoint "
            f"has {num_keypoint_layers} of {decoder_layers} decoder layers with keypoints."
        )
    values |= {
        "backbone_config": _read_backbone(weights, shape, count, num_maps),
        "d_model": width,
        "num_feature_levels": num_levels,
        "encoder_layers": count(r"transformer\.encoder\.layers\.(\d+)\."),
        "decoder_layers": decoder_layers,
        "num_box_decoder_layers": decoder_layers - num_keypoint_layers,
        "num_keypoints": num_keypoints,
        "expansion_head": expansion_head,
        "denoising_label_size": shape("label_enc.weight")[0] - 1,
    }
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        layer = f"transformer.{part}.layers.0."
        values[f"{part}_ffn_dim"] = shape(layer + "linear1.weight")[0]
        heads = values.setdefault(f"{part}_attention_heads", 8)
        samples = shape(f"{layer}{attention}.attention_weights.weight")[0]
        if samples % (heads * num_levels):
            raise ValueError(
                f"`original_config`: `nheads` = {heads} does not fit the {samples} attention weights of the {part} on "
                f"{num_levels} levels."
            )
        values[f"{part}_n_points"] = samples // (heads * num_levels)
    num_labels = shape("class_embed.0.weight")[0]
    if num_labels != 2:
        values["num_labels"] = num_labels
    return EDPoseConfig(**values)


def _read_backbone(weights, shape, count, num_maps: int) -> PreTrainedConfig:
    """Configuration of the backbone, whose last `num_maps` stages are used."""
    stages = range(4)
    out_features = [f"stage{stage}" for stage in range(5 - num_maps, 5)]
    if "backbone.0.body.conv1.weight" in weights:
        block = "backbone.0.body.layer{}.0."
        return ResNetConfig(
            embedding_size=shape("backbone.0.body.conv1.weight")[0],
            hidden_sizes=[shape(block.format(stage + 1) + "conv3.weight")[0] for stage in stages],
            depths=[count(rf"backbone\.0\.body\.layer{stage + 1}\.(\d+)\.") for stage in stages],
            out_features=out_features,
        )
    table = "backbone.0.layers.{}.blocks.0.attn.relative_position_bias_table"
    embed_dim = shape("backbone.0.patch_embed.proj.weight")[0]
    return SwinConfig(
        embed_dim=embed_dim,
        patch_size=shape("backbone.0.patch_embed.proj.weight")[-1],
        depths=[count(rf"backbone\.0\.layers\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        num_heads=[shape(table.format(stage))[1] for stage in stages],
        window_size=(math.isqrt(shape(table.format(0))[0]) + 1) // 2,
        mlp_ratio=shape("backbone.0.layers.0.blocks.0.mlp.fc1.weight")[0] / embed_dim,
        drop_path_rate=SWIN_DROP_PATH_RATE,
        out_features=out_features,
    )


__all__ = ["convert", "convert_state_dict"]
