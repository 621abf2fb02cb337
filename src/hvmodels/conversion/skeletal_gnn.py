"""Weights of Skeletal-GNN in the plain layout of its specification, one tensor a branch and dense maps of pairs, and back.

The authors published no checkpoint. This layout is that of the reference values of the method; its names are

* `input_layer.`, `blocks.{block}.{0, 1}.` (lifting) or `layers.{unit}.gcn.` (actions), followed by
* `branches.{branch}.static_graph`, `.alpha`, `.theta.*`, `.phi.*`, `.squeeze.*`; `fusion.*`; `norm.*`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..keypoint_sets import HUMAN36M17, NTU25
from ..models.pose_sequence import (
    SkeletalGNNActionConfig,
    SkeletalGNNConfig,
    SkeletalGNNFeatureExtractor,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
    SkeletonActionFeatureExtractor,
)
from ..models.pose_sequence.configuration_skeletal_gnn import SkeletalGraphConfig
from ..models.pose_sequence.skeleton_streams_skeletal_gnn import STREAMS
from .checkpoints import flatten_options


PREFIX = "skeletal_gnn."
SKELETON_OF_JOINTS = {17: "h36m17", 25: "ntu25"}
# Options that weights do not tell, under the specification's names, which are the configuration's.
OPTIONS = (
    "skeleton",
    "short_hops",
    "squeeze_ratio",
    "pad_dynamic",
    "normalize_scores",
    "mask_dynamic",
    "negative_slope",
)
NORM = ("weight", "bias", "running_mean", "running_var")
# Units of the network for actions: names of the layout to ours.
UNIT = {"tcn": "temporal_convolution", "down": "shortcut", "residual": "residual"}


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[
    SkeletalGNNForPoseLifting | SkeletalGNNForActionRecognition,
    SkeletalGNNFeatureExtractor | SkeletonActionFeatureExtractor,
]:
    """Turn weights of the plain layout into model and feature extractor.

    Args:
        weights: See `convert_state_dict`.
        options: See `convert_state_dict`; also `keypoint_names` for a skeleton that is neither Human3.6M's nor NTU's, and
            for actions `num_frames`, 300 without.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    config, state_dict = convert_state_dict(weights, options)
    options, for_actions = flatten_options(options), isinstance(config, SkeletalGNNActionConfig)
    names = options.get("keypoint_names")
    known = {"h36m17": HUMAN36M17, "ntu25": NTU25}
    if names is None:
        if not isinstance(config.skeleton, str):
            raise ValueError("`original_config` must have `keypoint_names` for a skeleton of its own.")
        names = list(known[config.skeleton].keypoints)
    if for_actions:
        model, on_ntu = SkeletalGNNForActionRecognition(config), config.skeleton == "ntu25"
        if config.in_channels % 3:
            raise ValueError(
                f"`checkpoint` must read x, y, z of joints or streams, got {config.in_channels} channels."
            )
        processor = SkeletonActionFeatureExtractor(
            keypoint_names=names,
            normalization="agcn" if on_ntu else "view",
            sampling="pad" if on_ntu else "resize",
            num_frames=options.get("num_frames", 300),
            num_persons=config.num_persons,
            streams=STREAMS[: config.in_channels // 3],
        )
    else:
        model = SkeletalGNNForPoseLifting(config)
        processor = SkeletalGNNFeatureExtractor(num_frames=config.num_frames, keypoint_names=names)
    model.to(state_dict["head.weight" if not for_actions else "classifier.weight"].dtype).eval()
    model.load_state_dict(state_dict, strict=True)
    return model, processor


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[SkeletalGNNConfig | SkeletalGNNActionConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `SkeletalGNNForPoseLifting` or `SkeletalGNNForActionRecognition`.

    Args:
        weights: Tensors of the plain layout. Those with `fc.weight` are of a network for actions.
        options: What weights do not tell, at any depth: `short_hops`, `squeeze_ratio`, `pad_dynamic`, `normalize_scores`,
            `mask_dynamic`, `negative_slope`, and `skeleton` unless it is that of Human3.6M or NTU. What is not there is
            as in the configurations. For actions also `stages`, a triple of input channels, output channels and stride for each
            unit, for strides other than AGCN's.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = flatten_options(options)
    for_actions = "fc.weight" in weights
    config = _read_action_config(weights, options) if for_actions else _read_lifting_config(weights, options)
    model_class = SkeletalGNNForActionRecognition if for_actions else SkeletalGNNForPoseLifting
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    layers = layer_names(config)
    left = dict(weights)
    state_dict = {}
    for ours, theirs in layers.items():
        found = {name.removeprefix(theirs): left.pop(name) for name in list(left) if name.startswith(theirs)}
        state_dict |= {ours + name: tensor for name, tensor in pack_layer(found, config, theirs).items()}
    for name, tensor in left.items():
        renamed = _rename(name)
        if renamed is None or renamed in state_dict:
            raise ValueError(f"`checkpoint` must be of Skeletal-GNN in the plain layout; {name!r} is not known.")
        state_dict[renamed] = tensor
    if not for_actions:
        state_dict["head.weight"] = state_dict["head.weight"].transpose(1, 2).flatten(1)
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            state_dict[name] = torch.tensor(0)
        elif name not in state_dict:
            raise ValueError(f"`checkpoint` is not complete: there are no weights for {name!r}.")
        elif state_dict[name].shape != tensor.shape:
            raise ValueError(
                f"`checkpoint`: the weights for {name!r} have the shape {tuple(state_dict[name].shape)}, but the other "
                f"weights and `original_config` ask for {tuple(tensor.shape)}."
            )
    if unknown := sorted(state_dict.keys() - expected.keys()):
        raise ValueError(f"`checkpoint` has weights that the network has no place for: {unknown[:6]}.")
    return config, state_dict


def plain_state_dict(
    config: SkeletalGNNConfig | SkeletalGNNActionConfig, state_dict: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The reverse of `convert_state_dict`: a model's state dict, or its gradients by name, in the plain layout."""
    plain, left = {}, {name: tensor for name, tensor in state_dict.items() if "num_batches_tracked" not in name}
    for ours, theirs in layer_names(config).items():
        found = {name.removeprefix(ours): left.pop(name) for name in list(left) if name.startswith(ours)}
        plain |= {theirs + name: tensor for name, tensor in unpack_layer(found, config).items()}
    if "head.weight" in left:
        left["head.weight"] = left["head.weight"].unflatten(1, (-1, config.hidden_size)).transpose(1, 2)
    names = {"classifier.": "fc.", f"{PREFIX}input_norm.": "data_bn."}
    for ours, tensor in left.items():
        name = ours.removeprefix(PREFIX)
        for theirs, part in UNIT.items():
            name = name.replace(f".{part}.convolution.", f".{theirs}.").replace(f".{part}.norm.", f".{theirs}_norm.")
        for part, theirs in names.items():
            name = theirs + ours.removeprefix(part) if ours.startswith(part) else name
        plain[name] = tensor
    return plain


def layer_names(config: SkeletalGNNConfig | SkeletalGNNActionConfig) -> dict[str, str]:
    """Prefix of each D-HCSF layer in a model's state dict, to that in the plain layout."""
    if isinstance(config, SkeletalGNNActionConfig):
        count = config.num_hidden_layers
        return {f"{PREFIX}layers.{unit}.graph_convolution.": f"layers.{unit}.gcn." for unit in range(count)}
    names = {f"{PREFIX}input_layer.convolution.": "input_layer."}
    for block in range(config.num_hidden_layers):
        for layer in range(2):
            names[f"{PREFIX}blocks.{block}.layers.{layer}.convolution."] = f"blocks.{block}.{layer}."
    return names


def pack_layer(
    weights: Mapping[str, torch.Tensor], config: SkeletalGraphConfig, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Weights of one D-HCSF layer from the plain layout.

    Args:
        weights: Tensors by their names behind the layer's prefix.
        config: Configuration of the network.
        prefix: Prefix of the layer, for messages.

    Raises:
        ValueError: If tensors are missing, unknown, or do not fit together.
    """
    left, masks = dict(weights), torch.from_numpy(config.hop_masks)

    def take(name: str) -> torch.Tensor:
        if name not in left:
            raise ValueError(f"`checkpoint` is not complete: there is no {prefix + name!r}.")
        return left.pop(name)

    def stack(name: str) -> list[torch.Tensor]:
        return [take(f"branches.{branch}.{name}") for branch in range(len(masks))]

    try:
        packed = {"static_graph": torch.stack(stack("static_graph"))}
        if config.dynamic_graph:
            embeddings = [(stack(f"{part}.weight"), stack(f"{part}.bias")) for part in ("theta", "phi")]
            relation = torch.stack([torch.stack(part) for part, _ in embeddings])
            packed["relation_weight"] = relation.transpose(3, 4).contiguous()
            packed["relation_bias"] = torch.stack([torch.stack(part) for _, part in embeddings])
            packed["dynamic_scale"] = torch.cat(stack("alpha"))
        squeeze, bias = stack("squeeze.weight"), stack("squeeze.bias")
        packed["squeeze_bias"] = torch.cat(bias, dim=-1)
        if config.weight_sharing == "pair":
            packed |= {
                f"squeeze_weight.{branch}": dense[mask]
                for branch, (dense, mask) in enumerate(zip(squeeze, masks, strict=True))
            }
        else:
            packed["squeeze_weight"] = torch.cat(squeeze, dim=-2)
    except (IndexError, RuntimeError) as error:
        raise ValueError(f"`checkpoint`: shapes of the layer {prefix!r} do not fit together: {error}") from error
    packed |= {f"fusion.{kind}": take(f"fusion.{kind}") for kind in ("weight", "bias")}
    packed |= {f"norm.{kind}": take(f"norm.{kind}") for kind in NORM}
    left.pop("norm.num_batches_tracked", None)
    if left:
        raise ValueError(
            f"`checkpoint` has weights that the layer {prefix!r} has no place for: {sorted(left)[:6]}; `short_hops` may be "
            "another."
        )
    return packed


def unpack_layer(state_dict: Mapping[str, torch.Tensor], config: SkeletalGraphConfig) -> dict[str, torch.Tensor]:
    """The reverse of `pack_layer`; maps of pairs are 0 outside of their branch. Absent tensors stay absent."""
    masks, plain = torch.from_numpy(config.hop_masks), {}
    out_channels = state_dict["fusion.weight"].shape[0] if "fusion.weight" in state_dict else None
    channels = config.branch_channels(out_channels) if out_channels else None
    for name, tensor in state_dict.items():
        if name.startswith(("fusion.", "norm.")):
            plain[name] = tensor
        elif name.startswith("squeeze_weight."):
            branch = int(name.rpartition(".")[2])
            dense = tensor.new_zeros(*masks.shape[1:], *tensor.shape[1:])
            dense[masks[branch]] = tensor
            plain[f"branches.{branch}.squeeze.weight"] = dense
        elif name in ("squeeze_weight", "squeeze_bias"):
            axis, kind = (-2, "weight") if name == "squeeze_weight" else (-1, "bias")
            for branch, part in enumerate(tensor.split(channels, dim=axis)):
                plain[f"branches.{branch}.squeeze.{kind}"] = part
        else:
            for branch in range(len(masks)):
                if name == "static_graph":
                    plain[f"branches.{branch}.static_graph"] = tensor[branch]
                elif name == "dynamic_scale":
                    plain[f"branches.{branch}.alpha"] = tensor[branch, None]
                else:
                    kind = name.removeprefix("relation_")
                    for part, values in zip(("theta", "phi"), tensor[:, branch], strict=True):
                        values = values.transpose(1, 2) if kind == "weight" else values
                        plain[f"branches.{branch}.{part}.{kind}"] = values
    return plain


def _rename(name: str) -> str | None:
    """Our name of an entry outside of the D-HCSF layers, None if there is none."""
    if match := re.fullmatch(r"layers\.(\d+)\.(tcn|down|residual)(_norm)?\.(\w+)", name):
        index, part, norm, kind = match.groups()
        return f"{PREFIX}layers.{index}.{UNIT[part]}.{'norm' if norm else 'convolution'}.{kind}"
    for theirs, ours in (("data_bn.", f"{PREFIX}input_norm."), ("fc.", "classifier."), ("head.", "head.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def _shape(weights: Mapping[str, torch.Tensor], name: str, ndim: int) -> torch.Size:
    if name not in weights or weights[name].ndim != ndim or 0 in weights[name].shape:
        found = "nothing" if name not in weights else tuple(weights[name].shape)
        raise ValueError(
            f"`checkpoint` must be of Skeletal-GNN, with {ndim} axes in {name!r}, got {found}. Its authors published no "
            "weights."
        )
    return weights[name].shape


def _count(weights: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many numbers the names that match a pattern with one group have, from 0."""
    found = {int(match[1]) for name in weights if (match := re.match(pattern, name))}
    return len(found)


def _read_layers(weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], layers: list[str]) -> dict[str, Any]:
    """Fields that both networks have, from the first layer and the options."""
    first = layers[0]
    num_joints = _shape(weights, f"{first}branches.0.static_graph", 2)[0]
    skeleton = options.get("skeleton", SKELETON_OF_JOINTS.get(num_joints))
    if skeleton is None:
        raise ValueError(f"`original_config` must have the edges of the {num_joints} joints as `skeleton`.")
    fields = {name: options[name] for name in OPTIONS if name in options}
    name = f"{first}branches.0.squeeze.weight"
    if name not in weights or weights[name].ndim not in (2, 3, 4):
        raise ValueError(f"`checkpoint` must have a tensor of 2, 3 or 4 axes for {name!r}.")
    fields["weight_sharing"] = {2: "shared", 3: "node", 4: "pair"}[weights[name].ndim]
    fields["skeleton"], fields["num_joints"] = skeleton, num_joints
    fields["in_channels"] = weights[name].shape[-1]
    branches = _count(weights, re.escape(first) + r"branches\.(\d+)\.")
    fields["long_hops"] = fields.get("short_hops", 1) + branches - 1
    fields["dynamic_graph"] = f"{first}branches.0.theta.weight" in weights
    if fields["dynamic_graph"]:
        shapes = [_shape(weights, f"{layer}branches.0.theta.weight", 3) for layer in layers]
        outputs = [_shape(weights, f"{layer}fusion.weight", 2)[0] for layer in layers]
        quarters = all(shape[0] == max(1, output // 4) for shape, output in zip(shapes, outputs, strict=True))
        same = len({shape[0] for shape in shapes}) == 1
        fields["relation_channels"] = shapes[0][0] if same else None if quarters else 0  # 0 is refused
        fields["temporal_kernel"] = shapes[0][2]
    else:
        fields["temporal_kernel"] = 1
    if fields["weight_sharing"] == "pair":
        fields.setdefault("mask_dynamic", True)
    return fields


def _read_lifting_config(weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> SkeletalGNNConfig:
    blocks = _count(weights, r"blocks\.(\d+)\.")
    layers = ["input_layer.", *(f"blocks.{block}.{layer}." for block in range(blocks) for layer in range(2))]
    _, hidden_size, num_frames = _shape(weights, "head.weight", 3)
    fields = _read_layers(weights, options, layers)
    return SkeletalGNNConfig(hidden_size=hidden_size, num_hidden_layers=blocks, num_frames=num_frames, **fields)


def _read_action_config(weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> SkeletalGNNActionConfig:
    layers = [f"layers.{unit}.gcn." for unit in range(_count(weights, r"layers\.(\d+)\."))]
    fields = _read_layers(weights, options, layers)
    hidden_sizes = [_shape(weights, f"{layer}fusion.weight", 2)[0] for layer in layers]
    if "stages" in options:
        strides = [int(stage[2]) for stage in np.asarray(options["stages"]).tolist()]
    elif len(layers) == len(SkeletalGNNActionConfig.strides):
        strides = list(SkeletalGNNActionConfig.strides)
    else:
        raise ValueError(
            f"`original_config` must have `stages`, (input channels, output channels, stride) for each of the {len(layers)} "
            "units: weights do not tell the strides."
        )
    values = _shape(weights, "data_bn.weight", 1)[0]
    persons, left = divmod(values, fields["num_joints"] * fields["in_channels"])
    if left:
        raise ValueError(
            f"`checkpoint`: 'data_bn.weight' has {values} values, which must be a multiple of {fields['num_joints']} joints "
            f"with {fields['in_channels']} channels."
        )
    return SkeletalGNNActionConfig(
        hidden_sizes=hidden_sizes,
        strides=strides,
        temporal_conv_kernel=_shape(weights, "layers.0.tcn.weight", 3)[2],
        num_persons=persons,
        num_labels=_shape(weights, "fc.weight", 2)[0],
        **fields,
    )


__all__ = ["convert", "convert_state_dict", "layer_names", "pack_layer", "plain_state_dict", "unpack_layer"]
