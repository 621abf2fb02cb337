"""Checkpoints of SCINet, both ways: those of its three training scripts, and of the decomposing variant."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..models.forecasting import SCINetConfig, SCINetFeatureExtractor, SCINetForPrediction
from .checkpoints import flatten_options


BLOCK = re.compile(
    r"blocks(\d)\.SCINet_Tree\.((?:SCINet_Tree_(?:odd|even)\.)*)workingblock\.interact\.level\.phi\.1\.weight"
)
ROOT = "blocks1.SCINet_Tree.workingblock.interact.level.phi"
NUM_SEGMENTS = 6
DEFAULT_DROPOUT = 0.5
TIMESCALES = "inv_timescales"
# Names of single tensors to ours, without and with two stacks; trees and segmented layers come on top.
NAMES = {
    "affine_weight": "model.norm.weight",
    "affine_bias": "model.norm.bias",
    "affine_weight2": "model.trend_norm.weight",
    "affine_bias2": "model.trend_norm.bias",
    "trend.weight": "model.trend_layer.weight",
    "trend.bias": "model.trend_layer.bias",
    "trend_dec.weight": "model.trend_decoder.weight",
    "trend_dec.bias": "model.trend_decoder.bias",
}
# How the three scripts name what they write: a folder for ETT, a file for the others.
ETT_FOLDER = re.compile(r"SCINet_.+_ft(?:M|S)_sl\d+_.*_dp(?P<dropout>[\d.]+)_inv")
PEMS_FILE = re.compile(r"(?P<name>PEMS0[3478])\d*", re.IGNORECASE)
FINANCIAL_FILE = re.compile(r"(?P<name>solar_AL|electricity|traffic|exchange_rate)(?P<horizon>\d+)")
PUBLISHED_DROPOUTS = {
    **{"PEMS03": 0.25, "PEMS04": 0.0, "PEMS07": 0.25, "PEMS08": 0.5, "solar_AL": 0.25, "electricity": 0.0},
    **{"traffic3": 0.5, "traffic24": 0.5, "traffic": 0.25},
    **{f"exchange_rate{horizon}": 0.5 for horizon in (3, 6, 12, 24)},
    "exchange_rate": 0.0,
}


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[SCINetForPrediction, SCINetFeatureExtractor]:
    """Turn a state dict into model and feature extractor.

    Args:
        weights: State dict of the original.
        options: Options of the original's scripts, for what tensors do not tell: `dropout`, `positionalEcoding` (also
            `positionalE`), `loss` or `L1Loss`, `lastWeight`, `single_step`. Without them the folder's name (ETT) or the
            file's (PEMS, financial) is searched for the published setting.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    config, state_dict = convert_state_dict(weights, options, source)
    model = SCINetForPrediction(config).to(state_dict["decoder.weight"].dtype).eval()
    model.load_state_dict(state_dict, strict=True)
    # Checkpoints hold no scaler. The extractor is left unfitted, and says so if it is used before `fit(train_rows)`.
    return model, SCINetFeatureExtractor(config.context_length, config.prediction_length)


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path | None = None
) -> tuple[SCINetConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `SCINetForPrediction`; see `convert`."""
    weights = {name: tensor for name, tensor in weights.items() if name != TIMESCALES}
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(
            f"`checkpoint`: all tensors must have the same floating-point dtype, got {sorted(map(str, dtypes))}."
        )
    config = _read_config(weights, flatten_options(options), source)
    with torch.device("meta"):
        model = SCINetForPrediction(config)
    entries = {entry.original_name: entry for entry in _entries(model)}
    missing, unknown = sorted(entries.keys() - weights.keys()), sorted(weights.keys() - entries.keys())
    if missing or unknown:
        raise ValueError(f"`checkpoint`: the weights {missing[:6]} are missing, and {unknown[:6]} have no place.")
    device = next(iter(weights.values())).device
    state_dict = {
        name: torch.empty(tensor.shape, dtype=dtypes.copy().pop(), device=device)
        for name, tensor in model.state_dict().items()
    }
    for name, entry in entries.items():
        if tuple(weights[name].shape) != entry.original_shape:
            raise ValueError(
                f"`checkpoint`: {name!r} has the shape {tuple(weights[name].shape)}, but the other weights ask for "
                f"{entry.original_shape}."
            )
        entry.write(weights[name], state_dict[entry.name])
    return config, state_dict


def to_original(model: SCINetForPrediction) -> dict[str, torch.Tensor]:
    """State dict of the original's class for a model, in the order of its files."""
    state_dict, config = model.state_dict(), model.config
    original = {entry.original_name: entry.read(state_dict[entry.name]) for entry in _entries(model)}
    count = (config.num_input_channels + 1) // 2
    exponents = torch.arange(count, dtype=torch.float32) * -(math.log(10000.0) / max(count - 1, 1))
    timescales = {TIMESCALES: exponents.exp().to(model.dtype)}
    norms = {name: original.pop(name) for name in [name for name in original if name.startswith("affine_")]}
    return {**norms, **timescales, **original}


@dataclass(frozen=True)
class Entry:
    """One tensor of the original and its place in ours.

    Args:
        original_name: Its name there.
        original_shape: Its shape there.
        name: Name of our tensor.
        index: Where in our tensor it is.
    """

    original_name: str
    original_shape: tuple[int, ...]
    name: str
    index: Any = ...

    def write(self, original: torch.Tensor, ours: torch.Tensor):
        """Copy the original's tensor to its place."""
        place = ours[self.index]
        place.copy_(original.reshape(place.shape))

    def read(self, ours: torch.Tensor) -> torch.Tensor:
        """The original's tensor, a copy."""
        return ours[self.index].detach().reshape(self.original_shape).clone()


def _entries(model: SCINetForPrediction) -> Iterator[Entry]:
    """All tensors of the original that a model has, norms first, then in the order of its files."""
    config, ours = model.config, model.state_dict()
    for original_name, name in NAMES.items():
        if name in ours:
            shape = tuple(ours[name].shape)
            yield Entry(original_name, (1, 1, *shape) if original_name.startswith("affine") else shape, name)
    channels, hidden, groups = config.num_input_channels, config.hidden_channels, config.groups
    for index, tree in enumerate(model.model.trees):
        for level, node in tree.blocks_in_order_of_creation():
            path = f"{node:0{level}b}" if level else ""
            path = "".join(f"SCINet_Tree_{'odd' if choice == '1' else 'even'}." for choice in path)
            slices = tree.branch_slices(level, node)
            for branch in ("phi", "psi", "P", "U"):
                prefix = f"blocks{index + 1}.SCINet_Tree.{path}workingblock.interact.level.{branch}"
                for layer, name, outputs, inputs, kernel_size in (
                    (1, "input", hidden, channels, config.kernel_size),
                    (4, "output", channels, hidden, 3),
                ):
                    name, shape = f"model.trees.{index}.{name}", (outputs, inputs // groups, kernel_size)
                    yield Entry(f"{prefix}.{layer}.weight", shape, f"{name}_weight", slices[branch])
                    yield Entry(f"{prefix}.{layer}.bias", (outputs,), f"{name}_bias", slices[branch])
    first = "model.intermediate_decoder" if config.num_stacks == 2 else "decoder"
    shape = tuple(ours[f"{first}.weight"].shape)
    if config.num_decoder_layers == 1:
        yield Entry("projection1.weight", (*shape, 1), f"{first}.weight")
    else:
        yield Entry("projection1.weight", shape, f"{first}.weight")
        yield Entry("projection1.bias", shape[:1], f"{first}.bias")
    for layer in range(config.num_decoder_layers - 1):
        for segment in range(NUM_SEGMENTS):
            name, index = f"{first}.segment_weight", (layer, segment)
            if segment == NUM_SEGMENTS - 1:
                name, index = f"{first}.last_segment_weight", (layer,)
            prefix, shape = f"div_projection.{layer}.{segment}", tuple(ours[name].shape[-2:])
            yield Entry(f"{prefix}.weight", shape, name, index)
            yield Entry(f"{prefix}.bias", shape[:1], f"{first}.segment_bias", (layer, segment))
    if config.num_stacks == 2:
        yield Entry("projection2.weight", (*ours["decoder.weight"].shape, 1), "decoder.weight")


def _read_config(weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path | None) -> SCINetConfig:
    """Sizes from the tensors, the rest from the options or the names of file and folder."""
    blocks = [match for name in weights if (match := BLOCK.fullmatch(name))]
    if not blocks:
        raise ValueError(
            f"`checkpoint` must be of cure-lab/SCINet, got the entries {sorted(weights)[:6]}. Ports such as that of "
            "Time-Series-Library are other networks with other weights."
        )
    hidden, group_channels, kernel_size = _shape(weights, f"{ROOT}.1.weight", 3)
    channels = _shape(weights, f"{ROOT}.4.weight", 3)[0]
    num_layers = 1 + len({name.split(".")[1] for name in weights if name.startswith("div_projection.")})
    prediction_length, context_length = _shape(weights, "projection1.weight", 3 if num_layers == 1 else 2)[:2]
    num_stacks = 2 if "projection2.weight" in weights else 1
    final_length, concat_length = prediction_length, None
    if num_stacks == 2:
        final_length, length = _shape(weights, "projection2.weight", 3)[:2]
        concat_length = length - prediction_length
    try:
        return SCINetConfig(
            context_length=context_length,
            prediction_length=prediction_length,
            num_input_channels=channels,
            hidden_ratio=_hidden_ratio(channels, hidden),
            num_stacks=num_stacks,
            num_levels=1 + max(match[2].count(".") for match in blocks),
            kernel_size=kernel_size,
            groups=channels // group_channels,
            num_decoder_layers=num_layers,
            concat_length=None if concat_length == context_length else concat_length,
            use_reversible_instance_norm="affine_weight" in weights,
            single_step_output=num_stacks == 2 and final_length == 1 and prediction_length > 1,
            decompose="trend.weight" in weights,
            **_read_setting(options, source),
        )
    except ValueError as error:
        raise ValueError(f"`checkpoint` has sizes that do not fit each other: {error}") from error


def _read_setting(options: Mapping[str, Any], source: Path | None) -> dict[str, Any]:
    """What tensors do not tell."""
    file, folder = ("", "") if source is None else (source.stem, source.parent.name)
    file = options.get("original_file_name", file)
    dropout, position, loss = DEFAULT_DROPOUT, False, "mae"
    if match := ETT_FOLDER.match(folder):
        dropout = float(match["dropout"])
    elif match := PEMS_FILE.match(file):
        dropout, position = PUBLISHED_DROPOUTS[match["name"].upper()], True
    elif match := FINANCIAL_FILE.match(file):
        dropout = PUBLISHED_DROPOUTS.get(match[0], PUBLISHED_DROPOUTS.get(match["name"]))
        loss = "smooth_l1"
    if options.get("L1Loss"):
        loss = "smooth_l1"
    return {
        "dropout": _option(options, "dropout", dropout),
        "use_positional_encoding": bool(options.get("positionalE", options.get("positionalEcoding", position))),
        "loss": _option(options, "loss", loss),
        "last_step_weight": _option(options, "lastWeight", 1.0),
        "last_step_only": bool(options.get("single_step", False)),
    }


def _option(options: Mapping[str, Any], name: str, default: Any) -> Any:
    value = options.get(name, default)
    kinds = str if isinstance(default, str) else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"`original_config`: `{name}` must be like {default!r}, got {value!r}.")
    return value


def _hidden_ratio(channels: int, hidden: int) -> float | int:
    """The ratio with the smallest power of 2 as denominator that gives these channels, as those of the papers are."""
    denominator = 1
    while True:
        numerator = -(-hidden * denominator // channels)
        if channels * numerator // denominator == hidden:
            return numerator / denominator if denominator > 1 else numerator
        denominator *= 2


def _shape(weights: Mapping[str, torch.Tensor], name: str, dims: int) -> torch.Size:
    if name not in weights or weights[name].ndim != dims or 0 in weights[name].shape:
        found = tuple(weights[name].shape) if name in weights else "nothing"
        raise ValueError(f"`checkpoint` must be of SCINet, with {name!r} of {dims} dimensions, got {found}.")
    return weights[name].shape


__all__ = ["convert", "convert_state_dict", "to_original"]
