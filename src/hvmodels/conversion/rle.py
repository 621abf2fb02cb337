"""Checkpoints of RLE: the original's in 2-D and 3-D, and mmpose's with ResNet or MobileNetV2."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MobileNetV2Config, PreTrainedConfig, ResNetConfig

from ..keypoint_sets import COCO17, HUMAN36M18, MPII16
from ..models.rle import RLEConfig, RLEForPoseEstimation
from ..models.rle.image_processing_rle import RLEImageProcessor
from .checkpoints import flatten_options


# Names of the original to ours, tried in turn; `{stage}` and `{part}` count from 0 in ours.
BLOCK = r"preact\.layer(?P<stage>\d)\.(?P<block>\d+)\."
OUR_BLOCK = r"rle.backbone.encoder.stages.{stage}.layers.\g<block>."
RESNET_NAMES = [
    (r"preact\.conv1\.", "rle.backbone.embedder.embedder.convolution."),
    (r"preact\.bn1\.", "rle.backbone.embedder.embedder.normalization."),
    (BLOCK + r"conv(?P<part>\d)\.", OUR_BLOCK + "layer.{part}.convolution."),
    (BLOCK + r"bn(?P<part>\d)\.", OUR_BLOCK + "layer.{part}.normalization."),
    (BLOCK + r"downsample\.0\.", OUR_BLOCK + "shortcut.convolution."),
    (BLOCK + r"downsample\.1\.", OUR_BLOCK + "shortcut.normalization."),
]
HEAD_NAMES = [
    (r"fc_coord\.linear\.", "coordinate_head."),
    (r"fc_sigma\.(?:linear\.)?", "sigma_head."),
]
# mmpose's MobileNetV2; blocks count through all stages but the first.
MOBILENET_LAYERS = {"conv": "convolution", "bn": "normalization"}
MOBILENET_PARTS = ("expand_1x1", "conv_3x3", "reduce_1x1")
MOBILENET_CHANNELS = (16, 24, 32, 64, 96, 160, 320)
MOBILENET_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
# mmpose 0.x to 1.x, and what is no weight of the network there.
LEGACY_NAMES = [(r"keypoint_head\.", "head."), (r"head\.loss\.", "head.loss_module.")]
NO_WEIGHTS = re.compile(r"data_preprocessor\..*|.*\.num_batches_tracked")
FLOW = re.compile(
    r"(?P<name>flow2d|flow3d|flow)\.(?P<net>[st])\.(?P<layer>\d+)\.(?P<part>[024])\.(?P<kind>weight|bias)"
)
FLOW_NAMES = {"flow": "flow", "flow3d": "flow", "flow2d": "flow_2d"}
FLOW_PARTS = {"0": "input", "2": "hidden", "4": "output"}

KEYPOINT_SETS = {(2, 17): COCO17, (2, 16): MPII16, (3, 18): HUMAN36M18}
ORIGINAL_MEAN = (0.406, 0.457, 0.480)
ORIGINAL_3D_STD = (0.225, 0.224, 0.229)
MMPOSE_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
MMPOSE_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[RLEForPoseEstimation, RLEImageProcessor]:
    """Turn a state dict into model and image processor.

    Args:
        weights: State dict of the original or of mmpose.
        options: Options of the original or of mmpose by their names, at any depth. `IMAGE_SIZE` (height, width) or
            mmpose's `input_size` (width, height) gives the size of the crops, which weights do not tell; else one such as
            `384x288` in the file's name does; else it is that of the published model. `FLIP_SHIFT`, or mmpose's
            `shift_coords`, `residual` and `q_distribution`, count as well, and `joint_pairs` where the keypoints are of no
            known set.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = flatten_options(options)
    config, state_dict = convert_state_dict(weights, options)
    model = RLEForPoseEstimation(config).to(state_dict["sigma_head.weight"].dtype).eval()
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    flow = {name for name in model.state_dict() if name.startswith("criterion.")}
    missing = [name for name in missing if not name.endswith(".num_batches_tracked")]
    if flow and set(missing) == flow and not unexpected:
        warnings.warn(
            f"`checkpoint` {source.name!r} has no flow, which only training needs: it predicts as it did, and its flow was "
            "initialised anew.",
            stacklevel=2,
        )
        missing = []
    if missing or unexpected:
        raise ValueError(f"`checkpoint`: the weights {missing[:6]} are missing, and {unexpected[:6]} have no place.")
    processor = {"size": _read_size(config, options, source)}
    if config.loss_formulation == "mmpose":
        processor |= {"image_mean": list(MMPOSE_MEAN), "image_std": list(MMPOSE_STD), "drop_outside": True}
    elif config.keypoint_dim == 3:
        processor |= {"image_mean": list(ORIGINAL_MEAN), "image_std": list(ORIGINAL_3D_STD), "box_padding": 1.0}
    return model, RLEImageProcessor(**processor)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[RLEConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `RLEForPoseEstimation`; see `convert`."""
    options = flatten_options(options)
    weights = {name: tensor for name, tensor in weights.items() if not NO_WEIGHTS.fullmatch(name)}
    is_mmpose = any(re.match(r"(keypoint_)?head\.fc\.", name) for name in weights)
    if is_mmpose:
        weights = _from_mmpose(weights)
    keypoint_dim = 3 if "fc_sigma.weight" in weights or any(name.startswith("flow3d.") for name in weights) else 2
    flows, weights = _take_flows(weights)
    dtypes = {tensor.dtype for tensor in [*flows.values(), *weights.values()]}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    config = _read_config(weights, flows, options, keypoint_dim, is_mmpose)
    state_dict, unknown = dict(flows), []
    for name, tensor in weights.items():
        converted = _rename(name, config.backbone_config.model_type == "mobilenet_v2")
        if converted is None:
            unknown.append(name)
        else:
            state_dict[converted] = tensor
    if unknown:
        raise ValueError(f"`checkpoint` must be of RLE; its entries {sorted(unknown)[:6]} are not known.")
    with torch.device("meta"):
        expected = RLEForPoseEstimation(config).state_dict()
    for name, tensor in state_dict.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(tensor.shape)}, but the other weights ask for "
                f"{tuple(expected[name].shape)}."
            )
    return config, state_dict


def _shape(weights: Mapping[str, torch.Tensor], name: str, dims: int) -> torch.Size:
    if name not in weights:
        raise ValueError(f"`checkpoint` must be of RLE: the entry {name!r} is missing.")
    if weights[name].ndim != dims or 0 in weights[name].shape:
        raise ValueError(
            f"`checkpoint`: {name!r} must have {dims} dimensions that are not empty, got the shape "
            f"{tuple(weights[name].shape)}."
        )
    return weights[name].shape


def _from_mmpose(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of mmpose under the names of the original, with coordinates relative to the centre of the crop.

    Its one layer gives x, y and the logits of their deviations for each keypoint, x and y from the corner of the crop.
    """
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in LEGACY_NAMES:
            name = re.sub(f"^{pattern}", replacement, name)
        name = re.sub(r"^backbone\.", "preact.", name)
        name = re.sub(r"^head\.loss_module\.flow_model\.", "flow.", name)
        if name in renamed:
            raise ValueError(f"`checkpoint` holds {name!r} twice, by mmpose's old and new name.")
        renamed[name] = tensor
    rows, channels = _shape(renamed, "head.fc.weight", 2)
    if rows % 4 or _shape(renamed, "head.fc.bias", 1) != (rows,):
        raise ValueError(
            f"`checkpoint`: 'head.fc.weight' and 'head.fc.bias' must have 4 rows a keypoint, got {rows} and "
            f"{len(renamed['head.fc.bias'])}."
        )
    weight = renamed.pop("head.fc.weight").reshape(-1, 2, 2, channels)
    bias = renamed.pop("head.fc.bias").reshape(-1, 2, 2)
    for index, name in enumerate(("fc_coord", "fc_sigma")):
        renamed[f"{name}.linear.weight"] = weight[:, index].reshape(-1, channels)
        renamed[f"{name}.linear.bias"] = bias[:, index].reshape(-1)
    renamed["fc_coord.linear.bias"] = renamed["fc_coord.linear.bias"] - 0.5
    return renamed


def _take_flows(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Stacked weights of the flows under our names, and all other weights.

    Raises:
        ValueError: If a flow is incomplete, or its constants are not the published ones.
    """
    networks: dict[tuple[str, str, str], dict[tuple[int, int], torch.Tensor]] = {}
    others, constants = {}, {}
    for name, tensor in weights.items():
        if match := FLOW.fullmatch(name):
            place = (int(match["layer"]), "st".index(match["net"]))
            networks.setdefault((match["name"], match["part"], match["kind"]), {})[place] = tensor
        elif re.fullmatch(r"flow(2d|3d)?\.(mask|loc|cov)", name):
            constants[name] = tensor
        else:
            others[name] = tensor
    if {"flow", "flow3d"} <= {name for name, _, _ in networks}:
        raise ValueError("`checkpoint` must be of a 2-D or a 3-D model, but has the flows of both.")
    flows = {}
    for (name, part, kind), parts in networks.items():
        layers = len({layer for layer, _ in parts})
        places = [(layer, net) for layer in range(layers) for net in range(2)]
        if set(places) != set(parts) or len({parts[place].shape for place in places}) > 1:
            raise ValueError(
                f"`checkpoint`: {name!r} must have a network s and t of one size in each of its {layers} layers."
            )
        stacked = torch.stack([parts[place] for place in places]).unflatten(0, (layers, 2))
        flows[f"criterion.{FLOW_NAMES[name]}.{FLOW_PARTS[part]}_{kind}"] = stacked
    for name, tensor in constants.items():
        dim = 3 if name.startswith("flow3d") else 2
        rows = torch.tensor([[0, 0, 1], [1, 1, 0]] if dim == 3 else [[0, 1], [1, 0]])
        layers = tensor.shape[0] if tensor.ndim else 0
        expected = {"mask": rows[torch.arange(layers) % 2], "loc": torch.zeros(dim), "cov": torch.eye(dim)}
        if not torch.equal(tensor, expected[name.split(".")[1]].to(tensor)):
            raise ValueError(
                f"`checkpoint`: {name!r} must be the constant of the published models, but differs from it."
            )
    return flows, others


def _rename(name: str, is_mobilenet: bool) -> str | None:
    """Our name of a weight, None if there is none."""
    for pattern, template in HEAD_NAMES if is_mobilenet else RESNET_NAMES + HEAD_NAMES:
        if match := re.match(pattern, name):
            start = match.expand(template)
            for group in ("stage", "part"):
                if "{" + group + "}" in start:
                    start = start.replace("{" + group + "}", str(int(match[group]) - 1))
            return start + name[match.end() :]
    return _rename_mobilenet(name) if is_mobilenet else None


def _rename_mobilenet(name: str) -> str | None:
    """Our name of a weight of MobileNetV2, None if there is none."""
    if match := re.fullmatch(r"preact\.conv([12])\.(conv|bn)\.(\w+)", name):
        start = "conv_stem.first_conv" if match[1] == "1" else "conv_1x1"
        return f"rle.backbone.{start}.{MOBILENET_LAYERS[match[2]]}.{match[3]}"
    match = re.fullmatch(r"preact\.layer(\d)\.(\d+)\.conv\.([012])\.(conv|bn)\.(\w+)", name)
    if match is None:
        return None
    stage, block, part = (int(match[group]) for group in (1, 2, 3))
    if stage == 1:  # has no expansion, and is part of the stem
        start, part = "conv_stem", part + 1
    else:
        start = f"layer.{sum(MOBILENET_DEPTHS[1 : stage - 1]) + block}"
    if part >= len(MOBILENET_PARTS):
        return None
    return f"rle.backbone.{start}.{MOBILENET_PARTS[part]}.{MOBILENET_LAYERS[match[4]]}.{match[5]}"


def _read_config(
    weights: Mapping[str, torch.Tensor],
    flows: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
    keypoint_dim: int,
    is_mmpose: bool,
) -> RLEConfig:
    """Sizes from the tensors, the rest from the options or as published."""
    rows, _ = _shape(weights, "fc_coord.linear.weight", 2)
    if rows % keypoint_dim:
        raise ValueError(
            f"`checkpoint`: 'fc_coord.linear.weight' must have {keypoint_dim} rows a keypoint, got {rows}."
        )
    values: dict[str, Any] = {"keypoint_dim": keypoint_dim}
    for name, tensor in flows.items():
        if name.endswith(".hidden_bias"):
            values |= {"num_flow_layers": len(tensor), "flow_hidden_size": tensor.shape[-1]}
    is_mobilenet = "preact.conv1.conv.weight" in weights
    values["backbone_config"] = _read_mobilenet(weights) if is_mobilenet else _read_resnet(weights)
    if is_mmpose:
        values |= {"loss_formulation": "mmpose", "normalize_features": False}
        values |= {"flip_shift": 1.0 if _switch(options, "shift_coords", True) else 0.0}
        values["use_residual"] = _switch(options, "residual", True)
        values["base_distribution"] = options.get("q_distribution", options.get("q_dis", "laplace"))
        if values["base_distribution"] not in ("laplace", "gaussian"):
            raise ValueError(
                "`original_config`: `q_distribution` must be 'laplace' or 'gaussian', got "
                f"{values['base_distribution']!r}."
            )
    else:
        values |= {"flip_swaps_sigmas": False, "sigma_epsilon": 1e-9 if keypoint_dim == 3 else 0.0}
        values |= {"flip_shift": 1.0 if _switch(options, "FLIP_SHIFT", True) else 4.0}
    return RLEConfig(**values, **_keypoint_options(keypoint_dim, rows // keypoint_dim, options))


def _keypoint_options(keypoint_dim: int, count: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Names, pairs, links and spreads of the keypoints."""
    known = KEYPOINT_SETS.get((keypoint_dim, count))
    if known is None:
        names = [f"keypoint_{index}" for index in range(count)]
        pairs, links, sigmas = options.get("joint_pairs"), None, None
    else:
        names, pairs, links, sigmas = known.keypoints, known.flip_pairs, known.links, known.sigmas
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "flip_pairs": pairs,
        "keypoint_links": links,
        "keypoint_sigmas": sigmas,
    }


def _switch(options: Mapping[str, Any], name: str, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"`original_config`: `{name}` must be true or false, got {value!r}.")
    return value


def _read_size(config: RLEConfig, options: Mapping[str, Any], source: Path) -> dict[str, int]:
    """Height and width of the crops."""
    if "IMAGE_SIZE" in options:
        name, size = "IMAGE_SIZE", options["IMAGE_SIZE"]
    else:
        name = next((name for name in ("input_size", "input_size_wh") if name in options), None)
        size = options.get(name)
        size = size[::-1] if isinstance(size, list | tuple) else size
    if name is None:
        found = re.search(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)", source.stem)
        published = (256, 192) if config.keypoint_dim == 2 and config.num_keypoints != len(MPII16) else (256, 256)
        size = [int(side) for side in found.groups()] if found else published
    right = isinstance(size, list | tuple) and len(size) == 2
    if not right or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size):
        raise ValueError(f"`original_config`: `{name}` must be two positive integers, got {options.get(name)!r}.")
    return {"height": size[0], "width": size[1]}


def _read_resnet(weights: Mapping[str, torch.Tensor]) -> PreTrainedConfig:
    """Configuration of a ResNet of any depth and width."""
    last = "conv3" if "preact.layer1.0.conv3.weight" in weights else "conv2"
    return ResNetConfig(
        embedding_size=_shape(weights, "preact.conv1.weight", 4)[0],
        hidden_sizes=[_shape(weights, f"preact.layer{stage}.0.{last}.weight", 4)[0] for stage in range(1, 5)],
        depths=[_depth(weights, stage) for stage in range(1, 5)],
        layer_type="bottleneck" if last == "conv3" else "basic",
        downsample_in_bottleneck=False,
        out_features=["stage4"],
    )


def _depth(weights: Mapping[str, torch.Tensor], stage: int) -> int:
    """Number of blocks of a stage."""
    pattern = re.compile(rf"preact\.layer{stage}\.(\d+)\.")
    blocks = {int(match[1]) for name in weights if (match := pattern.match(name))}
    if blocks != set(range(len(blocks))):
        raise ValueError(f"`checkpoint`: blocks of stage {stage} are missing, it has {sorted(blocks)[:12]}.")
    return len(blocks)


def _read_mobilenet(weights: Mapping[str, torch.Tensor]) -> PreTrainedConfig:
    """Configuration of a MobileNetV2, which transformers has in one depth and in widths by a common factor."""
    depths = tuple(_depth(weights, stage) for stage in range(1, 8))
    last = [f"preact.layer{stage}.0.conv.{1 if stage == 1 else 2}.conv.weight" for stage in range(1, 8)]
    names = ["preact.conv1.conv.weight", *last, "preact.conv2.conv.weight"]
    widths = [_shape(weights, name, 4)[0] for name in names]
    expanded, inputs = _shape(weights, "preact.layer2.0.conv.0.conv.weight", 4)[:2]
    # Of several factors with the same widths the roundest.
    percents = sorted(range(1, 401), key=lambda percent: (percent % 100 > 0, percent % 25 > 0, percent % 5 > 0))
    channels = (32, *MOBILENET_CHANNELS)
    multiplier = next(
        (
            percent / 100
            for percent in percents
            if widths[:-1] == [_round_width(count * percent / 100) for count in channels]
            and widths[-1] == (_round_width(1280 * percent / 100) if percent > 100 else 1280)
        ),
        None,
    )
    if depths != MOBILENET_DEPTHS or multiplier is None:
        raise ValueError(
            f"`checkpoint`: a MobileNetV2 must have {MOBILENET_DEPTHS} blocks of {MOBILENET_CHANNELS} channels, times a "
            f"common factor, to be converted; got {depths} blocks of {tuple(widths[1:-1])}."
        )
    return MobileNetV2Config(
        depth_multiplier=multiplier,
        expand_ratio=expanded / inputs,
        tf_padding=False,
        layer_norm_eps=1e-5,
        finegrained_output=True,
    )


def _round_width(channels: float, divisor: int = 8) -> int:
    """Multiple of 8 next to a width, and not below 0.9 of it."""
    rounded = max(divisor, int(round(channels) + divisor / 2) // divisor * divisor)
    return rounded + divisor * (rounded < 0.9 * round(channels))


__all__ = ["convert", "convert_state_dict"]
