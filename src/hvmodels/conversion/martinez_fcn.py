"""Checkpoints of the fully connected baseline in its port to PyTorch, github.com/weigq/3d_pose_baseline_pytorch."""

import re
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cameras import normalize_screen_coordinates
from ..methods import NUMPY_ARRAYS
from ..models.pose_sequence import MartinezFCNConfig, MartinezFCNFeatureExtractor, MartinezFCNForPoseLifting
from .checkpoints import check_fits, open_checkpoint


# Names of the original to ours.
NAMES = [
    (r"w1", "martinez_fcn.encoder.linear"),
    (r"batch_norm1", "martinez_fcn.encoder.norm"),
    (r"linear_stages\.(\d+)\.w1", r"martinez_fcn.layers.\1.first.linear"),
    (r"linear_stages\.(\d+)\.batch_norm1", r"martinez_fcn.layers.\1.first.norm"),
    (r"linear_stages\.(\d+)\.w2", r"martinez_fcn.layers.\1.second.linear"),
    (r"linear_stages\.(\d+)\.batch_norm2", r"martinez_fcn.layers.\1.second.norm"),
    (r"w2", "martinez_fcn.decoder"),
]
NOSE = 9
FOCAL_LENGTH = 1.145  # of Human3.6M's cameras, in widths of the picture
MILLIMETRES = 1000  # in a metre, the model's unit


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[MartinezFCNForPoseLifting, MartinezFCNFeatureExtractor]:
    """Turn a state dict into model and feature extractor.

    The statistics of the training data lie in files beside the checkpoint. Without them the converted model has the network only,
    and `MartinezFCNForPoseLifting` asks for `set_statistics`.

    Args:
        weights: State dict of the original.
        options: `p_dropout`; `stat_2d` and `stat_3d`, the paths of `stat_2d.pth.tar` and `stat_3d.pth.tar` or mappings with their
            `mean`, `std` and `dim_use` (pixels and millimetres); `image_width` and `image_height` of the pictures that the
            pixels are of, 1000 both if not given.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    config, state_dict = convert_state_dict(weights, options)
    statistics = _read_statistics(config, options)
    model = MartinezFCNForPoseLifting(config)
    if statistics is None:
        warnings.warn(
            f"`checkpoint` {source.name!r} comes without the statistics of its training data: the network is converted, but "
            "`MartinezFCNForPoseLifting` gives no positions before `set_statistics` is called. Give `stat_2d` and "
            "`stat_3d` by `original_config`.",
            stacklevel=2,
        )
    else:
        model.set_statistics(*statistics)
    model = model.to(state_dict["martinez_fcn.decoder.weight"].dtype).eval()
    model.load_state_dict(state_dict | dict(model.named_buffers(recurse=False)), strict=True)
    return model, MartinezFCNFeatureExtractor(focal_length=FOCAL_LENGTH)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[MartinezFCNConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `MartinezFCNForPoseLifting` without its statistics; see `convert`."""
    state_dict, unknown = {}, []
    for name, tensor in weights.items():
        converted = _rename(name)
        if converted is None:
            unknown.append(name)
        else:
            state_dict[converted] = tensor
    if unknown:
        raise ValueError(
            f"`checkpoint` must be of the fully connected baseline; its entries {sorted(unknown)[:6]} are not known."
        )
    config = _read_config(state_dict, options)
    with torch.device("meta"):
        model = MartinezFCNForPoseLifting(config)
    return config, check_fits(state_dict, model.martinez_fcn, "martinez_fcn.")


def _rename(name: str) -> str | None:
    """Our name of an entry, None if there is none."""
    stem, _, kind = name.rpartition(".")
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, stem):
            return f"{match.expand(replacement)}.{kind}"
    return None


def _read_config(state_dict: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> MartinezFCNConfig:
    """Sizes from the tensors, the rest from options."""
    hidden_size, in_features = _shape(state_dict, "martinez_fcn.encoder.linear.weight")
    out_features, _ = _shape(state_dict, "martinez_fcn.decoder.weight")
    if in_features % 2 or out_features % 3:
        raise ValueError(
            f"`checkpoint` must read 2 numbers a joint and put out 3, got {in_features} and {out_features} numbers."
        )
    layers = {int(match[1]) for name in state_dict if (match := re.match(r"martinez_fcn\.layers\.(\d+)\.", name))}
    if layers != set(range(len(layers))):
        raise ValueError(f"`checkpoint`: blocks are missing, it has {sorted(layers)[:12]}.")
    dropout = options.get("p_dropout", 0.5)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool):
        raise ValueError(f"`original_config`: `p_dropout` must be a number, got {dropout!r}.")
    joints = in_features // 2
    is_published = joints == 16  # Human3.6M's 17 without the nose
    return MartinezFCNConfig(
        num_joints=17 if is_published else joints,
        input_joints=[joint for joint in range(17) if joint != NOSE] if is_published else None,
        num_output_joints=out_features // 3 + 1,
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        hidden_dropout_prob=dropout,
        needs_statistics=True,
    )


def _shape(state_dict: Mapping[str, torch.Tensor], name: str) -> torch.Size:
    if name not in state_dict or state_dict[name].ndim != 2 or 0 in state_dict[name].shape:
        found = "nothing" if name not in state_dict else tuple(state_dict[name].shape)
        raise ValueError(
            f"`checkpoint` must be of the fully connected baseline, with a matrix for {name!r}, got {found}."
        )
    return state_dict[name].shape


def _read_statistics(config: MartinezFCNConfig, options: Mapping[str, Any]) -> list[torch.Tensor] | None:
    """Arguments of `set_statistics`, None if the options have none."""
    given = [name for name in ("stat_2d", "stat_3d") if options.get(name) is not None]
    if not given:
        return None
    if len(given) == 1:
        raise ValueError(f"`original_config` must have both `stat_2d` and `stat_3d`, got {given[0]!r} alone.")
    size = [options.get(name, 1000) for name in ("image_width", "image_height")]
    if not all(isinstance(side, int | float) and not isinstance(side, bool) and 0 < side < np.inf for side in size):
        raise ValueError(f"`original_config`: `image_width` and `image_height` must be positive numbers, got {size}.")
    keypoint_mean, keypoint_std = _statistics_file("stat_2d", options["stat_2d"], len(config.input_joints), 2)
    position_mean, position_std = _statistics_file("stat_3d", options["stat_3d"], config.num_output_joints - 1, 3)
    statistics = (
        normalize_screen_coordinates(keypoint_mean, size),
        keypoint_std * 2 / size[0],
        position_mean / MILLIMETRES,
        position_std / MILLIMETRES,
    )
    return [torch.from_numpy(values) for values in statistics]


def _statistics_file(name: str, value: Any, joints: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (joints, dims) of the numbers in use."""
    if isinstance(value, str | PathLike):
        value = open_checkpoint(value, NUMPY_ARRAYS)
    if not isinstance(value, Mapping) or not {"mean", "std"} <= value.keys():
        raise ValueError(
            f"`original_config`: `{name}` must be a file or mapping with `mean`, `std` and `dim_use`, got {value!r:.80}."
        )
    try:
        mean, std = (np.asarray(value[key], dtype=np.float64).ravel() for key in ("mean", "std"))
        used = np.asarray(value.get("dim_use", range(len(mean)))).ravel()
        if len(mean) != joints * dims:
            mean, std = mean[used], std[used]
        mean, std = mean.reshape(joints, dims), std.reshape(joints, dims)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"`original_config`: `{name}` must have one `mean` and `std` for each of the {joints * dims} numbers that "
            f"`dim_use` names: {error}."
        ) from error
    return mean, std


__all__ = ["convert", "convert_state_dict"]
