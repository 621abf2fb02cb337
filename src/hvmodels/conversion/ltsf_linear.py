"""Checkpoints of LTSF-Linear (all releases), Time-Series-Library (DLinear) and neuralforecast (DLinear, NLinear)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.forecasting import LTSFLinearConfig, LTSFLinearFeatureExtractor, LTSFLinearForPrediction


# Layer names of the three code bases to ours. A number after the name is the channel of an "individual" model.
LAYERS = {
    "Linear": "linear",
    "Linear_Seasonal": "linear_seasonal",
    "Linear_Trend": "linear_trend",
    "linear": "linear",
    "linear_season": "linear_seasonal",
    "linear_trend": "linear_trend",
}
UNUSED_LAYER = "Linear_Decoder"  # made by DLinear's first release and never called
VARIANTS = {"Linear": "linear", "NLinear": "nlinear", "DLinear": "dlinear", "DLinear_v1": "dlinear"}
KEY = re.compile(r"(?P<layer>\w+?)(?:\.(?P<channel>\d+))?\.(?P<kind>weight|bias)")


def convert(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any], source: Path
) -> tuple[LTSFLinearForPrediction, LTSFLinearFeatureExtractor]:
    """Turn a state dict into model and feature extractor.

    Args:
        weights: Original state dict.
        options: Original options: `model` (needed for Linear and NLinear, whose checkpoints are alike), `enc_in`,
            `features`; with Time-Series-Library's `task_name` or neuralforecast's `moving_avg_window` also the window
            of the moving average. Without `model`, the name of the checkpoint's folder is searched for it.
        source: The checkpoint's path.

    Raises:
        ValueError: If names, shapes or options do not fit together.
    """
    options = dict(options)
    if "model" not in options and (found := re.search(r"(?:^|_)([DN]?Linear)(?:_|$)", source.parent.name)):
        options["model"] = found[1]
    config, state_dict = convert_state_dict(weights, options)
    dtype = state_dict["model.linear.weight" if config.variant != "dlinear" else "model.linear_trend.weight"].dtype
    model = LTSFLinearForPrediction(config).to(dtype).eval()
    model.load_state_dict(state_dict, strict=True)
    # Checkpoints hold no scaler. The extractor is left unfitted, and says so if it is used before `fit(train_rows)`.
    extractor = LTSFLinearFeatureExtractor(config.context_length, config.prediction_length)
    return model, extractor


def convert_state_dict(
    weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> tuple[LTSFLinearConfig, dict[str, torch.Tensor]]:
    """Configuration and state dict of `LTSFLinearForPrediction`; see `convert`."""
    layers = _group(weights)
    variant = _variant(set(layers), options)
    config = None
    state_dict = {}
    for name, tensors in layers.items():
        individual = None not in tensors["weight"]
        channels = sorted(tensors["weight"], key=lambda channel: channel or 0)
        if sorted(tensors["bias"], key=lambda channel: channel or 0) != channels:
            raise ValueError(f"`checkpoint`: the layer {name!r} must have one bias for each weight.")
        if individual and channels != list(range(len(channels))):
            raise ValueError(f"`checkpoint`: the layer {name!r} must have the channels 0, 1, 2 ..., got {channels}.")
        shapes = {tuple(tensor.shape) for tensor in tensors["weight"].values()}
        if len(shapes) > 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
            raise ValueError(
                f"`checkpoint`: the weights of {name!r} must all be (prediction, context), got {sorted(shapes)}."
            )
        prediction_length, context_length = shapes.pop()
        if any(tuple(tensor.shape) != (prediction_length,) for tensor in tensors["bias"].values()):
            raise ValueError(f"`checkpoint`: the biases of {name!r} must have the length {prediction_length}.")
        found = {
            "context_length": context_length,
            "prediction_length": prediction_length,
            "individual": individual,
            "num_input_channels": len(channels) if individual else _positive(options, "enc_in", 1),
        }
        if config is not None and found != config:
            raise ValueError(f"`checkpoint`: its layers must have the same sizes, got {config} and {found}.")
        config = found
        for kind in ("weight", "bias"):
            stack = [tensors[kind][channel] for channel in channels]
            state_dict[f"model.{name}.{kind}"] = torch.stack(stack) if individual else stack[0]
    if len({tensor.dtype for tensor in state_dict.values()}) > 1 or not all(
        tensor.is_floating_point() for tensor in state_dict.values()
    ):
        raise ValueError("`checkpoint`: all tensors must have the same floating-point dtype.")
    horizon = options.get("h")
    if horizon is not None and horizon != config["prediction_length"]:
        raise ValueError(
            f"`original_config`: the horizon is {horizon}, but the checkpoint has {config['prediction_length']} "
            "outputs; only models with a point loss (one output a step) can be converted."
        )
    features = options.get("features", "M")
    if features not in ("M", "S", "MS"):
        raise ValueError(f"`original_config`: `features` must be 'M', 'S' or 'MS', got {features!r}.")
    if features == "MS":
        config["prediction_channel_indices"] = [-1]
    config["moving_average_kernel_size"] = _kernel_size(options)
    return LTSFLinearConfig(variant=variant, **config), state_dict


def _group(weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, dict[int | None, torch.Tensor]]]:
    """Sort tensors by our layer name, kind and channel; refuse names that are not of this family."""
    layers: dict[str, dict[str, dict[int | None, torch.Tensor]]] = {}
    unknown = []
    for name, tensor in weights.items():
        match = KEY.fullmatch(name)
        if match and match["layer"] == UNUSED_LAYER:
            continue
        if not match or match["layer"] not in LAYERS:
            unknown.append(name)
            continue
        channel = None if match["channel"] is None else int(match["channel"])
        layer = layers.setdefault(LAYERS[match["layer"]], {"weight": {}, "bias": {}})
        if channel in layer[match["kind"]]:
            raise ValueError(f"`checkpoint`: {name!r} and another entry hold the same layer.")
        layer[match["kind"]][channel] = tensor
    complete = set(layers) in ({"linear"}, {"linear_seasonal", "linear_trend"})
    mixed = any(None in kind and len(kind) > 1 for layer in layers.values() for kind in layer.values())
    if unknown or not complete or mixed:
        raise ValueError(
            "`checkpoint` must be of the LTSF-Linear family, with the layers `Linear`, or `Linear_Seasonal` and "
            f"`Linear_Trend` (or neuralforecast's names), shared or one a channel; got {sorted(weights)[:6]}"
            + (f", of which {sorted(unknown)[:6]} are not known." if unknown else ".")
        )
    return layers


def _variant(layers: set[str], options: Mapping[str, Any]) -> str:
    named = options.get("model")
    if named is not None and (not isinstance(named, str) or named not in VARIANTS):
        raise ValueError(f"`original_config`: `model` must be one of {sorted(VARIANTS)}, got {named!r}.")
    if named is None:
        if "linear_trend" in layers:
            return "dlinear"
        raise ValueError(
            "`original_config` must say `model`: checkpoints of Linear and NLinear are alike. "
            'Pass a JSON file with {"model": "NLinear"} or {"model": "Linear"}.'
        )
    if (VARIANTS[named] == "dlinear") != ("linear_trend" in layers):
        raise ValueError(
            f"`original_config`: `model` is {named!r}, but the checkpoint has the layers {sorted(layers)}."
        )
    return VARIANTS[named]


def _kernel_size(options: Mapping[str, Any]) -> int:
    """Window of the moving average: LTSF-Linear has the option `moving_avg` and always uses 25."""
    if "moving_avg_window" in options:
        return _positive(options, "moving_avg_window", 25)
    return _positive(options, "moving_avg", 25) if "task_name" in options else 25


def _positive(options: Mapping[str, Any], name: str, default: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`original_config`: `{name}` must be a positive integer, got {value!r}.")
    return value


__all__ = ["convert", "convert_state_dict"]
