"""Checkpoints of SmoothNet: the original's, mmpose's and mmhuman3d's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.pose_sequence import SmoothNetConfig, SmoothNetFeatureExtractor, SmoothNetForPoseRefinement
from .checkpoints import flatten_options


# Names of the original, which the ports share, to ours.
NAMES = [
    (r"encoder\.0\.", "smoothnet.encoder."),
    (r"res_blocks\.(\d+)\.linear1\.", r"smoothnet.layers.\1.intermediate."),
    (r"res_blocks\.(\d+)\.linear2\.", r"smoothnet.layers.\1.output."),
    (r"decoder\.", "smoothnet.decoder."),
]
# Published models by width inside a block and number of blocks, for what weights do not tell.
MMPOSE, MMHUMAN3D = (256, 3), (512, 5)
DROPOUTS = {(128, 5): 0.25, (16, 1): 0.5, MMPOSE: 0.5, MMHUMAN3D: 0.1}
ORIGINAL_DROPOUT = 0.5  # of the original's class
# Options of the original's configuration that the ports spell otherwise.
ORIGINAL_OPTIONS = {"HIDDEN_SIZE", "RES_HIDDEN_SIZE", "NUM_BLOCK"}
# 2D positions: from 0 to image size in the picture, to -1 to 1, or to -0.5 to 0.5 for Sub-JHMDB.
HUMAN36M_IMAGE, JHMDB_IMAGE = {"image_scale": 2.0, "image_offset": -1.0}, {"image_scale": 1.0, "image_offset": -0.5}


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[SmoothNetForPoseRefinement, SmoothNetFeatureExtractor]:
    """Turn a state dict into model and feature extractor.

    Args:
        weights: State dict of the original, mmpose or mmhuman3d.
        options: Options of the original or of mmpose by their names, at any depth: `DROPOUT` (mmpose: `dropout`), `W_POS`,
            `W_ACCEL`, `SLIDE_WINDOW_STEP_SIZE`, `dataset_name` (`"jhmdb"` has its own normalisation of 2D) and mmpose's
            `root_index`. Without them, dropout and root are those of the published model of these sizes; with sizes
            under the original's names, such as `NUM_BLOCK`, it is no port's, and no root is taken off.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = flatten_options(options)
    config, state_dict = convert_state_dict(weights, options)
    model = SmoothNetForPoseRefinement(config).to(state_dict["smoothnet.decoder.weight"].dtype).eval()
    model.load_state_dict(state_dict, strict=True)
    # The original's own defaults are mmpose's sizes.
    is_original = not ORIGINAL_OPTIONS.isdisjoint(options)
    port = None if is_original else (config.intermediate_size, config.num_hidden_layers)
    dataset = options.get("dataset_name", options.get("DATASET_NAME"))
    image = JHMDB_IMAGE if dataset == "jhmdb" else HUMAN36M_IMAGE
    processor = {"unit": "metre", "normalization": "image", **image}
    root_index = options.get("root_index", 0 if port == MMPOSE else None)
    if root_index is not None:
        if not isinstance(root_index, int) or isinstance(root_index, bool) or root_index < 0:
            raise ValueError(f"`original_config`: `root_index` must be the index of a joint, got {root_index!r}.")
        processor |= {"root_indices": [root_index], "root_mode": "exclude"}
    if port == MMHUMAN3D:
        processor["rotation_layout"] = "rows"
    return model, SmoothNetFeatureExtractor(**processor)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[SmoothNetConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `SmoothNetForPoseRefinement`; see `convert`."""
    options = flatten_options(options)
    state_dict, unknown = {}, []
    for name, tensor in weights.items():
        converted = _rename(name.removeprefix("smoothnet."))
        if converted is None or converted in state_dict:
            unknown.append(name)
        else:
            state_dict[converted] = tensor
    if unknown:
        raise ValueError(
            f"`checkpoint` must be of SmoothNet; its entries {sorted(unknown)[:6]} are not known, or there twice."
        )
    dtypes = {tensor.dtype for tensor in state_dict.values()}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    config = _read_config(state_dict, options)
    with torch.device("meta"):
        expected = SmoothNetForPoseRefinement(config).state_dict()
    for name, tensor in expected.items():
        if name not in state_dict:
            raise ValueError(f"`checkpoint` is not complete: {name!r} has no weights.")
        if state_dict[name].shape != tensor.shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(state_dict[name].shape)}, but the other weights ask for "
                f"{tuple(tensor.shape)}."
            )
    if len(state_dict) > len(expected):
        raise ValueError(
            f"`checkpoint`: blocks are missing before {sorted(state_dict.keys() - expected.keys())[0]!r}."
        )
    return config, state_dict


def _rename(name: str) -> str | None:
    """Our name of an entry, None if there is none."""
    for pattern, replacement in NAMES:
        if match := re.fullmatch(f"{pattern}(?P<kind>weight|bias)", name):
            return match.expand(replacement) + match["kind"]
    return None


def _read_config(state_dict: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> SmoothNetConfig:
    """Sizes from the tensors, the rest from options or the published model of these sizes."""
    hidden_size, window_size = _shape(state_dict, "smoothnet.encoder.weight")
    output_size = _shape(state_dict, "smoothnet.decoder.weight")[0]
    num_layers = sum(name.endswith(".intermediate.weight") for name in state_dict)
    intermediate_size = _shape(state_dict, "smoothnet.layers.0.intermediate.weight")[0]
    dropout = DROPOUTS.get((intermediate_size, num_layers), ORIGINAL_DROPOUT)
    return SmoothNetConfig(
        window_size=window_size,
        output_size=output_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        hidden_dropout_prob=_number(options, "DROPOUT", _number(options, "dropout", dropout)),
        position_loss_weight=_number(options, "W_POS", 1.0),
        acceleration_loss_weight=_number(options, "W_ACCEL", 0.1),
        window_stride=_number(options, "SLIDE_WINDOW_STEP_SIZE", 1),
    )


def _shape(state_dict: Mapping[str, torch.Tensor], name: str) -> torch.Size:
    if name not in state_dict or state_dict[name].ndim != 2 or 0 in state_dict[name].shape:
        found = "nothing" if name not in state_dict else tuple(state_dict[name].shape)
        raise ValueError(f"`checkpoint` must be of SmoothNet, with a matrix for {name!r}, got {found}.")
    return state_dict[name].shape


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if not isinstance(value, type(default) | int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"`original_config`: `{name}` must be a number of at least 0, got {value!r}.")
    return value


__all__ = ["convert", "convert_state_dict"]
