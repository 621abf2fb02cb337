"""Checkpoints of DeciWatch: the original's and those of mmhuman3d."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..keypoint_sets import HUMAN36M17_LEFT_FIRST, JHMDB15, LSP14, SMPL24
from ..models.pose_sequence import DeciWatchConfig, DeciWatchFeatureExtractor, DeciWatchForPoseRecovery
from .checkpoints import flatten_options


# Names of the original to ours, tried in turn, each with what follows it.
NAMES = [
    (r"encoder_embed\.", "encoder_embedding."),
    (r"decoder_embed\.", "decoder_embedding."),
    (r"encoder_joints_embed\.", "encoder_head."),
    (r"decoder_joints_embed\.", "decoder_head."),
    (r"(encoder|decoder)\.norm\.", r"\1.layer_norm."),
    (r"((?:encoder|decoder)\.layers\.\d+\.)self_attn\.", r"\1self_attention."),
    (r"(decoder\.layers\.\d+\.)multihead_attn\.", r"\1cross_attention."),
    (r"((?:encoder|decoder)\.layers\.\d+\.)linear([12])\.", r"\1feed_forward.fc\2."),
    (r"((?:encoder|decoder)\.layers\.\d+\.)norm1\.", r"\1self_attention_norm."),
    (r"(encoder\.layers\.\d+\.)norm2\.", r"\1feed_forward_norm."),
    (r"(decoder\.layers\.\d+\.)norm2\.", r"\1cross_attention_norm."),
    (r"(decoder\.layers\.\d+\.)norm3\.", r"\1feed_forward_norm."),
]
# Queries, keys and values are one matrix there.
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
JOINT_DIMS = {"2D": 2, "3D": 3, "smpl": 6}
# Joints of the published models by their number and the numbers of each, and those whose mean is the root.
PUBLISHED_JOINTS = {
    (17, 3): (HUMAN36M17_LEFT_FIRST, [0]),
    (14, 3): (LSP14, [2, 3]),
    (15, 2): (JHMDB15, None),
    (24, 6): (SMPL24, None),
}
PUBLISHED_JOINT_DIMS = {count * dim: dim for count, dim in PUBLISHED_JOINTS}
PUBLISHED_INTERVAL = 10
# Options for the frames of an interval and the intervals of a window, mmhuman3d's last.
WINDOW_OPTIONS = (("INTERVAL_N", "SAMPLE_INTERVAL", "interval"), ("SLIDE_WINDOW_Q", "slide_window_q"))
ORIGINAL_FILE = re.compile(r"(?:^|[_.-])i(\d+)_q(\d+)(?!\d)")
MMHUMAN3D_FILE = re.compile(r"interval(\d+)_q(\d+)(?!\d)")


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[DeciWatchForPoseRecovery, DeciWatchFeatureExtractor]:
    """Turn a state dict into model and feature extractor.

    Weights do not tell the frames of an interval, the intervals of a window and the number of heads. The first two are taken
    from the options, else from a file name such as `checkpoint_i5_q20.pth.tar` (original) or
    `deciwatch_interval5_q3.pth.tar` (mmhuman3d), else they are those of the published model with 10 frames an interval,
    with a warning; the heads are 4 if the options name no other number.

    Args:
        weights: State dict of the original or of mmhuman3d.
        options: Options of the original or of mmhuman3d by their names, at any depth: `INTERVAL_N` or `SAMPLE_INTERVAL`
            (mmhuman3d: `interval`), `SLIDE_WINDOW_Q` (`slide_window_q`), `SLIDE_WINDOW_STEP_Q`, `ENCODER_HEAD`,
            `DROPOUT`, `DECODER`, `W_DENOISE`, `LAMADA`, `BODY_REPRESENTATION`, `KEYPOINT_ROOT` (of `DATASET_NAME`, where
            there are several), `ROOT_RELATIVE` (whether the root is taken off 3-D poses), `USE_6D_SMPL`; and
            `memory_mask_type`, which is `"boolean"` for mmhuman3d and `"additive"` for the original if not given.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = _own_options(options)
    config, state_dict = convert_state_dict(weights, options, source)
    model = DeciWatchForPoseRecovery(config).to(state_dict["deciwatch.encoder_head.weight"].dtype).eval()
    model.load_state_dict(state_dict, strict=True)
    processor = {"sample_interval": config.sample_interval, "joint_dim": config.joint_dim}
    joints, root = PUBLISHED_JOINTS.get((config.num_joints, config.joint_dim), (None, None))
    if joints is None:
        processor["num_joints"] = config.num_joints
    else:
        processor["keypoint_names"] = list(joints.keypoints)
    if config.joint_dim == 2:
        processor["normalization"] = "image"
    elif config.joint_dim == 3 and _representation(options) != "smpl":
        root = options.get("KEYPOINT_ROOT", root) if options.get("ROOT_RELATIVE", True) else None
        processor |= {"unit": "metre", "root_indices": root}
    elif _is_mmhuman3d(options, source):
        processor["rotation_layout"] = "rows"  # of PyTorch3D
    return model, DeciWatchFeatureExtractor(**processor)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path | None = None
) -> tuple[DeciWatchConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `DeciWatchForPoseRecovery`; see `convert`."""
    options = _own_options(options)
    state_dict, unknown = {}, []
    for name, tensor in weights.items():
        converted = _rename(name)
        if converted is None:
            unknown.append(name)
        elif converted.endswith(("in_proj_weight", "in_proj_bias")):
            start, _, kind = converted.rpartition("in_proj_")
            if tensor.ndim == 0 or len(tensor) % 3:
                raise ValueError(
                    f"`checkpoint`: {name!r} must stack queries, keys and values, got the shape {tuple(tensor.shape)}."
                )
            for projection, part in zip(PROJECTIONS, tensor.chunk(3), strict=True):
                state_dict[f"{start}{projection}.{kind}"] = part.clone()
        else:
            state_dict[converted.replace(".out_proj.", ".o_proj.")] = tensor
    if unknown:
        raise ValueError(f"`checkpoint` must be of DeciWatch; its entries {sorted(unknown)[:6]} are not known.")
    dtypes = {tensor.dtype for tensor in state_dict.values()}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    config = _read_config(state_dict, options, source)
    with torch.device("meta"):
        expected = DeciWatchForPoseRecovery(config).state_dict()
    missing, surplus = sorted(expected.keys() - state_dict.keys()), sorted(state_dict.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(f"`checkpoint`: the weights {missing[:6]} are missing, and {surplus[:6]} have no place.")
    for name, tensor in state_dict.items():
        if expected[name].shape != tensor.shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(tensor.shape)}, but the other weights ask for "
                f"{tuple(expected[name].shape)}."
            )
    return config, state_dict


def _own_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their own names, those of the data set in use before those of the others."""
    datasets, name = options.get("DATASET"), str(options.get("DATASET_NAME")).upper()
    if isinstance(datasets, Mapping) and isinstance(datasets.get(name), Mapping):
        options = {**datasets[name], **options}
    return flatten_options(options)


def _representation(options: Mapping[str, Any]) -> str | None:
    """`"2D"`, `"3D"` or `"smpl"`, None if the options do not say."""
    name = next((name for name in ("BODY_REPRESENTATION", "body_representation") if name in options), None)
    return None if name is None else _choice(options, name, tuple(JOINT_DIMS), None)


def _rename(name: str) -> str | None:
    """Our name of a weight, None if there is none."""
    stem = name.removeprefix("transformer.")
    for pattern, replacement in NAMES:
        if stem != name and (match := re.match(pattern, stem)):
            return "deciwatch." + match.expand(replacement) + stem[match.end() :]
    return None


def _shape(state_dict: Mapping[str, torch.Tensor], name: str, dims: int) -> torch.Size:
    name = f"deciwatch.{name}"
    if name not in state_dict or state_dict[name].ndim != dims or 0 in state_dict[name].shape:
        found = tuple(state_dict[name].shape) if name in state_dict else "none"
        raise ValueError(f"`checkpoint` must be of DeciWatch, with {name!r} of {dims} dimensions; got {found}.")
    return state_dict[name].shape


def _depth(state_dict: Mapping[str, torch.Tensor], network: str) -> int:
    """Number of layers of a network."""
    pattern = re.compile(rf"deciwatch\.{network}\.layers\.(\d+)\.")
    layers = {int(match[1]) for name in state_dict if (match := pattern.match(name))}
    if layers != set(range(len(layers))) or not layers:
        raise ValueError(f"`checkpoint`: layers of the {network} are missing, it has {sorted(layers)[:12]}.")
    return len(layers)


def _read_config(
    state_dict: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path | None
) -> DeciWatchConfig:
    """Sizes from the tensors, the rest from the options, the file's name or as published."""
    hidden_size, pose_dim = _shape(state_dict, "encoder_embedding.weight", 2)
    joint_dim = _read_joint_dim(pose_dim, options)
    interval, num_intervals = _read_window(pose_dim, options, source)
    is_mmhuman3d = _is_mmhuman3d(options, source)
    stride = num_intervals if joint_dim == 6 and not is_mmhuman3d else 1
    return DeciWatchConfig(
        num_joints=pose_dim // joint_dim,
        joint_dim=joint_dim,
        sample_interval=interval,
        num_intervals=num_intervals,
        hidden_size=hidden_size,
        encoder_layers=_depth(state_dict, "encoder"),
        decoder_layers=_depth(state_dict, "decoder"),
        num_attention_heads=_integer(options, "ENCODER_HEAD", 4),
        intermediate_size=_shape(state_dict, "encoder.layers.0.feed_forward.fc1.weight", 2)[0],
        dropout=_number(options, "DROPOUT", 0.1),
        pre_norm="deciwatch.encoder.layer_norm.weight" in state_dict,
        memory_mask_type=_choice(
            options, "memory_mask_type", ("additive", "boolean"), "boolean" if is_mmhuman3d else "additive"
        ),
        recover_mode={"transformer": "transformer", "tradition_interp": "interpolation"}[
            _choice(options, "DECODER", ("transformer", "tradition_interp"), "transformer")
        ],
        denoise_loss_weight=_number(options, "W_DENOISE", 1.0),
        recover_loss_weight=_number(options, "LAMADA", 5.0),
        window_stride_intervals=_integer(options, "SLIDE_WINDOW_STEP_Q", stride),
    )


def _read_joint_dim(pose_dim: int, options: Mapping[str, Any]) -> int:
    """Numbers of a joint."""
    representation = _representation(options)
    if representation is None and pose_dim in PUBLISHED_JOINT_DIMS:
        return PUBLISHED_JOINT_DIMS[pose_dim]
    if representation is None:
        raise ValueError(
            f"`original_config` must say `body_representation`, one of {sorted(JOINT_DIMS)}: {pose_dim} numbers a pose "
            "are of no published model."
        )
    joint_dim = JOINT_DIMS[representation]
    if representation == "smpl" and not options.get("USE_6D_SMPL", True):
        joint_dim = 3  # axis and angle
    if pose_dim % joint_dim:
        raise ValueError(
            f"`original_config`: `body_representation` is {representation!r}, but {pose_dim} numbers a pose are no multiple of "
            f"{joint_dim}."
        )
    return joint_dim


def _read_window(pose_dim: int, options: Mapping[str, Any], source: Path | None) -> tuple[int, int]:
    """Frames of an interval, and intervals of a window."""
    name = "" if source is None else source.name
    match = ORIGINAL_FILE.search(name) or MMHUMAN3D_FILE.search(name)
    found = [None, None] if match is None else [int(number) for number in match.groups()]
    for place, names in enumerate(WINDOW_OPTIONS):
        for option in names:
            if option in options:
                found[place] = _integer(options, option, None)
                break
    if None not in found:
        return tuple(found)
    published = (PUBLISHED_INTERVAL, 1 if pose_dim == 30 else 10)  # Sub-JHMDB's sequences are short
    interval, num_intervals = (
        default if value is None else value for value, default in zip(found, published, strict=True)
    )
    warnings.warn(
        f"`checkpoint` {name!r} does not tell its frames: taken for a model of {interval} frames an interval and "
        f"{num_intervals} intervals a window. If it is another, give `INTERVAL_N` and `SLIDE_WINDOW_Q` by "
        "`original_config`, or keep the original name of the file, such as 'checkpoint_i5_q20.pth.tar'.",
        stacklevel=2,
    )
    return interval, num_intervals


def _is_mmhuman3d(options: Mapping[str, Any], source: Path | None) -> bool:
    """Whether options or file are mmhuman3d's; the weights have the original's names."""
    named = source is not None and MMHUMAN3D_FILE.search(source.name) is not None
    return named or any(names[-1] in options for names in WINDOW_OPTIONS)


def _integer(options: Mapping[str, Any], name: str, default: int | None) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`original_config`: `{name}` must be a positive integer, got {value!r}.")
    return value


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"`original_config`: `{name}` must be a number, 0 or more, got {value!r}.")
    return value


def _choice(options: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str | None) -> str:
    value = options.get(name, default)
    if value not in choices:
        raise ValueError(f"`original_config`: `{name}` must be one of {list(choices)}, got {value!r}.")
    return value


__all__ = ["convert", "convert_state_dict"]
