"""Checkpoints of VideoPose3D."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..keypoint_sets import COCO17, HUMAN36M17
from ..models.pose_sequence import VideoPose3DConfig, VideoPose3DFeatureExtractor, VideoPose3DForPoseLifting
from .checkpoints import check_fits


# Names of the original to ours; a block's first convolution and its norm have even numbers, the second odd ones.
NAMES = {
    "expand_conv": "videopose3d.expand.convolution",
    "expand_bn": "videopose3d.expand.norm",
    "shrink": "shrink",
}
LAYER = re.compile(r"layers_(conv|bn)\.(\d+)")
PARTS = {"conv": "convolution", "bn": "norm"}
PLACES = ("temporal", "pointwise")
FOCAL_LENGTH = 1.145  # of Human3.6M's cameras, in widths of the picture


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[VideoPose3DForPoseLifting, VideoPose3DFeatureExtractor]:
    """Turn a state dict into model and feature extractor.

    A checkpoint's pose network is converted. With the option `checkpoint_entry` of `convert_checkpoint` being `"model_traj"` it is the
    network for the root's trajectory, where semi-supervised training left one.

    Args:
        weights: State dict of the original.
        options: Options of the original by their names: `causal`, `dense`, `dropout`, `in_features`, and `keypoints`, the name
            of the 2D detections it was trained on, such as `"cpn_ft_h36m_dbb"` or `"detectron_pt_coco"`. Weights do not
            tell whether a model is causal.
        source: The checkpoint's path; a name with `coco` tells the joints, if `keypoints` does not.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    config, state_dict = convert_state_dict(weights, options)
    model = VideoPose3DForPoseLifting(config).to(state_dict["shrink.weight"].dtype).eval()
    model.load_state_dict(state_dict, strict=True)
    detections = options.get("keypoints", source.name)
    if not isinstance(detections, str):
        raise ValueError(f"`original_config`: `keypoints` must be the name of 2D detections, got {detections!r}.")
    joints = COCO17 if "coco" in detections.lower() else HUMAN36M17
    processor = {"keypoint_names": list(joints.keypoints), "focal_length": FOCAL_LENGTH}
    if config.trajectory:
        processor |= {"output_keypoint_names": ["pelvis"], "root_index": None}
    else:
        processor["output_keypoint_names"] = list(HUMAN36M17.keypoints)
    counts = (config.num_joints, config.num_output_joints)
    if counts != (len(joints), len(processor["output_keypoint_names"])):  # of another data set, without left and right
        names = ([f"keypoint_{index}" for index in range(count)] for count in counts)
        processor = dict(zip(("keypoint_names", "output_keypoint_names"), names, strict=True)) | {"flip_test": False}
    return model, VideoPose3DFeatureExtractor(config.num_frames, causal=config.causal, **processor)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[VideoPose3DConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `VideoPose3DForPoseLifting`; see `convert`."""
    state_dict, unknown = {}, []
    for name, tensor in weights.items():
        converted = _rename(name)
        if converted is None:
            unknown.append(name)
        else:
            state_dict[converted] = tensor
    if unknown:
        raise ValueError(f"`checkpoint` must be of VideoPose3D; its entries {sorted(unknown)[:6]} are not known.")
    config = _read_config(state_dict, options)
    with torch.device("meta"):
        model = VideoPose3DForPoseLifting(config)
    return config, check_fits(state_dict, model)


def _rename(name: str) -> str | None:
    """Our name of an entry, None if there is none."""
    stem, _, kind = name.rpartition(".")
    if match := LAYER.fullmatch(stem):
        number = int(match[2])
        return f"videopose3d.layers.{number // 2}.{PLACES[number % 2]}.{PARTS[match[1]]}.{kind}"
    return f"{NAMES[stem]}.{kind}" if stem in NAMES else None


def _read_config(state_dict: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> VideoPose3DConfig:
    """Sizes from the tensors, the rest from options."""
    hidden_size, in_features, width = _shape(state_dict, "videopose3d.expand.convolution.weight")
    out_features = _shape(state_dict, "shrink.weight")[0]
    pattern = re.compile(r"videopose3d\.layers\.(\d+)\.temporal\.convolution\.weight")
    layers = sorted(int(match[1]) for name in state_dict if (match := pattern.fullmatch(name)))
    if layers != list(range(len(layers))):
        raise ValueError(f"`checkpoint`: blocks are missing, it has {layers[:12]}.")
    names = [f"videopose3d.layers.{layer}.temporal.convolution.weight" for layer in layers]
    kernels = [width, *(_shape(state_dict, name)[2] for name in names)]
    if not all(kernel % 2 for kernel in kernels):
        raise ValueError(f"`checkpoint`: convolutions must have odd widths, got {kernels}.")
    dense_widths = _dense_widths(kernels)
    dense = options.get("dense")
    if dense is None:
        # Equal widths made dense, such as 3, 7, 19; the same numbers could be widths of dilated convolutions.
        dense = dense_widths is not None and len(kernels) > 1 and width > 1 and set(dense_widths) == {width}
        if dense:
            warnings.warn(
                f"`checkpoint` has convolutions of the widths {kernels}, and is taken for a dense model of {dense_widths}; if "
                "they are dilated, give `dense=false` by `original_config`.",
                stacklevel=2,
            )
    elif _flag(options, "dense") and dense_widths is None:
        raise ValueError(f"`original_config`: `dense` is true, but widths {kernels} are of no dense model.")
    in_channels = options.get("in_features", 2)
    if (
        not isinstance(in_channels, int)
        or isinstance(in_channels, bool)
        or in_channels < 1
        or in_features % in_channels
    ):
        raise ValueError(
            f"`original_config`: `in_features` must be a divisor of the {in_features} numbers of a frame, got {in_channels!r}."
        )
    if out_features % 3:
        raise ValueError(f"`checkpoint`: 'shrink.weight' must put out 3 numbers a joint, got {out_features}.")
    dropout = options.get("dropout", 0.25)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool):
        raise ValueError(f"`original_config`: `dropout` must be a number, got {dropout!r}.")
    return VideoPose3DConfig(
        num_joints=in_features // in_channels,
        in_channels=in_channels,
        num_output_joints=out_features // 3,
        filter_widths=dense_widths if dense else kernels,
        hidden_size=hidden_size,
        hidden_dropout_prob=dropout,
        causal=_flag(options, "causal"),
        dense=dense,
        trajectory=out_features == 3,
    )


def _dense_widths(kernels: list[int]) -> list[int] | None:
    """Widths of the dilated convolutions that dense ones of these widths stand for, None if there are none."""
    widths, reach = kernels[:1], kernels[0]
    for kernel in kernels[1:]:
        if (kernel - 1) % reach or (kernel - 1) // reach % 2:
            return None
        widths.append((kernel - 1) // reach + 1)
        reach *= widths[-1]
    return widths


def _shape(state_dict: Mapping[str, torch.Tensor], name: str) -> torch.Size:
    if name not in state_dict or state_dict[name].ndim != 3 or 0 in state_dict[name].shape:
        found = "nothing" if name not in state_dict else tuple(state_dict[name].shape)
        raise ValueError(f"`checkpoint` must be of VideoPose3D, with a convolution for {name!r}, got {found}.")
    return state_dict[name].shape


def _flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"`original_config`: `{name}` must be true or false, got {value!r}.")
    return value


__all__ = ["convert", "convert_state_dict"]
