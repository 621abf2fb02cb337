"""Checkpoints of LTSF-Linear, Time-Series-Library and neuralforecast, against small implementations of their models."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForTimeSeriesPrediction

from hvmodels import LTSFLinearForPrediction
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.ltsf_linear import convert_state_dict


CONTEXT, HORIZON, CHANNELS = 30, 6, 3


def layer(name, individual=False, dtype=torch.float32, channels=CHANNELS):
    """A random linear layer under its original name, one a channel if individual."""
    names = [f"{name}.{channel}" for channel in range(channels)] if individual else [name]
    weights = {}
    for name in names:
        weights[f"{name}.weight"] = torch.randn(HORIZON, CONTEXT, dtype=dtype)
        weights[f"{name}.bias"] = torch.randn(HORIZON, dtype=dtype)
    return weights


def make_weights(model, individual=False, **options):
    names = {"Linear": ["Linear"], "NLinear": ["Linear"], "DLinear": ["Linear_Seasonal", "Linear_Trend"]}[model]
    return {key: value for name in names for key, value in layer(name, individual, **options).items()}


def convert(tmp_path, weights, options=None, folder="checkpoints"):
    """The model that is saved and loaded again."""
    path = tmp_path / folder / "checkpoint.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(weights, path)
    output = tmp_path / f"{folder}-converted"
    convert_checkpoint("ltsf-linear", path, output, options)
    return AutoModelForTimeSeriesPrediction.from_pretrained(output).eval()


def forecast(model, past_values):
    with torch.no_grad():
        return model(torch.from_numpy(past_values)).prediction_outputs.numpy()


def smooth(series, kernel_size):
    """Moving average along the last axis; the edges repeat the first and the last value."""
    edge = (kernel_size - 1) // 2
    padded = np.pad(series, [(0, 0)] * (series.ndim - 1) + [(edge, edge)], mode="edge")
    return np.stack([padded[..., step : step + kernel_size].mean(-1) for step in range(series.shape[-1])], axis=-1)


def reference(weights, names, past_values, model, kernel_size=25):
    """What the original computes, channel by channel in float64; `names` are its seasonal and its trend layer."""
    weights = {name: tensor.double().numpy() for name, tensor in weights.items()}
    outputs = []
    for channel in range(past_values.shape[2]):
        past = past_values[..., channel].astype(np.float64)

        def apply(name, part, channel=channel):
            name = name if f"{name}.weight" in weights else f"{name}.{channel}"
            return part @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        if model == "DLinear":
            trend = smooth(past, kernel_size)
            outputs.append(apply(names[0], past - trend) + apply(names[1], trend))
        else:
            last = past[:, -1:] if model == "NLinear" else 0
            outputs.append(apply(names[0], past - last) + last)
    return np.stack(outputs, axis=-1)


@pytest.fixture
def past_values():
    return np.random.default_rng(0).standard_normal((4, CONTEXT, CHANNELS)).astype(np.float32)


# LTSF-Linear


@pytest.mark.parametrize("individual", [False, True], ids=["shared", "individual"])
@pytest.mark.parametrize("model", ["Linear", "NLinear", "DLinear"])
def test_every_variant(model, individual, past_values, tmp_path):
    weights = make_weights(model, individual)
    converted = convert(tmp_path, weights, {"model": model, "enc_in": CHANNELS})
    config = converted.config
    assert (config.variant, config.individual) == (model.lower(), individual)
    assert (config.context_length, config.prediction_length) == (CONTEXT, HORIZON)
    assert config.num_input_channels == CHANNELS
    assert config.moving_average_kernel_size == 25
    assert config.prediction_channel_indices is None
    expected = reference(
        weights, ("Linear_Seasonal" if model == "DLinear" else "Linear", "Linear_Trend"), past_values, model
    )
    np.testing.assert_allclose(forecast(converted, past_values), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("individual", [False, True], ids=["shared", "individual"])
def test_first_release_with_its_unused_layer(individual, past_values, tmp_path):
    weights = make_weights("DLinear", individual)
    converted = convert(tmp_path, {**weights, **layer("Linear_Decoder", individual)})
    named = convert(tmp_path, {**weights, **layer("Linear_Decoder", individual)}, {"model": "DLinear_v1"}, "named")
    expected = reference(weights, ("Linear_Seasonal", "Linear_Trend"), past_values, "DLinear")
    for model in (converted, named):
        assert set(model.state_dict()) == {
            f"model.linear_{part}.{kind}" for part in ("seasonal", "trend") for kind in ("weight", "bias")
        }
        np.testing.assert_allclose(forecast(model, past_values), expected, atol=1e-5, rtol=1e-5)


def test_seasonal_and_trend_are_not_exchanged(tmp_path):
    weights = {name: torch.zeros_like(tensor) for name, tensor in make_weights("DLinear").items()}
    weights["Linear_Trend.bias"] += 1
    weights["Linear_Seasonal.weight"] += 2
    model = convert(tmp_path, weights).model
    assert model.linear_trend.bias.eq(1).all() and model.linear_seasonal.weight.eq(2).all()
    assert not model.linear_trend.weight.any() and not model.linear_seasonal.bias.any()


@pytest.mark.parametrize("wrapper", ["module", "state_dict", "both", "safetensors"])
def test_wrappers(wrapper, past_values, tmp_path):
    weights = make_weights("DLinear", individual=True)
    content = (
        {f"module.{name}": value for name, value in weights.items()} if wrapper in ("module", "both") else weights
    )
    content = {"state_dict": content, "epoch": 9} if wrapper in ("state_dict", "both") else content
    if wrapper == "safetensors":
        save_file(weights, tmp_path / "checkpoint.safetensors")
        convert_checkpoint("ltsf-linear", tmp_path / "checkpoint.safetensors", tmp_path / "output")
        converted = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "output").eval()
    else:
        converted = convert(tmp_path, content)
    expected = reference(weights, ("Linear_Seasonal", "Linear_Trend"), past_values, "DLinear")
    np.testing.assert_allclose(forecast(converted, past_values), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("individual", [False, True], ids=["shared", "individual"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtype_is_kept(dtype, individual, tmp_path):
    weights = make_weights("NLinear", individual, dtype=dtype)
    converted = convert(tmp_path, weights, {"model": "NLinear"})
    assert converted.dtype == dtype
    for kind in ("weight", "bias"):
        stacked = torch.stack([value for name, value in weights.items() if name.endswith(kind)])
        actual = getattr(converted.model.linear, kind)
        assert torch.equal(actual, stacked if individual else stacked[0])


def test_channels_keep_their_order_beyond_nine(tmp_path):
    weights = make_weights("NLinear", individual=True, channels=12)
    converted = convert(tmp_path, dict(sorted(weights.items())), {"model": "NLinear"})  # "10" comes before "2"
    assert converted.config.num_input_channels == 12
    for channel in range(12):
        assert torch.equal(converted.model.linear.weight[channel], weights[f"Linear.{channel}.weight"])
        assert torch.equal(converted.model.linear.bias[channel], weights[f"Linear.{channel}.bias"])


@pytest.mark.parametrize(("features", "indices"), [("M", None), ("S", None), ("MS", [-1])])
def test_features(features, indices, past_values, tmp_path):
    weights = make_weights("NLinear", individual=True)
    converted = convert(tmp_path, weights, {"model": "NLinear", "features": features})
    assert converted.config.prediction_channel_indices == indices
    expected = reference(weights, ("Linear",), past_values, "NLinear")[..., indices or slice(None)]
    np.testing.assert_allclose(forecast(converted, past_values), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("folder", "variant"),
    [
        (
            "ETTh1_336_96_NLinear_ETTh1_ftM_sl336_ll48_pl96_dm512_nh8_el2_dl1_df2048_fc1_ebtimeF_dtTrue_Exp_0",
            "nlinear",
        ),
        (
            "Exchange_336_96_Linear_custom_ftM_sl336_ll48_pl96_dm512_nh8_el2_dl1_df2048_fc1_ebtimeF_dtTrue_Exp_0",
            "linear",
        ),
        (
            "ETTh1_336_96_DLinear_ETTh1_ftM_sl336_ll48_pl96_dm512_nh8_el2_dl1_df2048_fc1_ebtimeF_dtTrue_Exp_0",
            "dlinear",
        ),
        ("long_term_forecast_ETTh1_96_96_DLinear_ETTh1_ftM_sl96_ll48_pl96_dm512_nh8_el2_dl1_df2048_0", "dlinear"),
    ],
    ids=["nlinear", "linear", "dlinear", "time-series-library"],
)
def test_variant_from_the_name_of_the_folder(folder, variant, tmp_path):
    model = {"nlinear": "NLinear", "linear": "Linear", "dlinear": "DLinear"}[variant]
    assert convert(tmp_path, make_weights(model), folder=folder).config.variant == variant


def test_options_win_over_the_name_of_the_folder(tmp_path):
    converted = convert(tmp_path, make_weights("Linear"), {"model": "Linear"}, folder="ETTh1_336_96_NLinear_ETTh1")
    assert converted.config.variant == "linear"


@pytest.mark.parametrize("folder", ["checkpoints", "MyNLinears", "NLinear2_ETTh1"])
def test_variant_is_not_guessed(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must say `model`"):
        convert(tmp_path, make_weights("Linear"), folder=folder)


def test_sizes_come_from_the_tensors(tmp_path):
    options = {"model": "DLinear", "seq_len": 99, "pred_len": 98, "individual": False, "unknown": object}
    config = convert_state_dict(make_weights("DLinear", individual=True), options)[0]
    assert (config.context_length, config.prediction_length) == (CONTEXT, HORIZON)
    assert config.individual
    assert config.num_input_channels == CHANNELS


def test_options_from_a_file(tmp_path):
    (tmp_path / "options.json").write_text(json.dumps({"model": "NLinear", "enc_in": 7}))
    converted = convert(tmp_path, make_weights("NLinear"), tmp_path / "options.json")
    assert converted.config.num_input_channels == 7


# Time-Series-Library: the same names, a window that counts


@pytest.mark.parametrize("individual", [False, True], ids=["shared", "individual"])
@pytest.mark.parametrize(
    ("options", "kernel_size"),
    [
        ({"task_name": "long_term_forecast", "moving_avg": 9}, 9),
        ({"task_name": "long_term_forecast"}, 25),
        ({"moving_avg": 9}, 25),  # LTSF-Linear has the option and ignores it
        ({}, 25),
    ],
    ids=["library-9", "library-default", "original-9", "original-default"],
)
def test_window_of_the_moving_average(options, kernel_size, individual, past_values, tmp_path):
    weights = make_weights("DLinear", individual)
    converted = convert(tmp_path, weights, {"model": "DLinear", **options})
    assert converted.config.moving_average_kernel_size == kernel_size
    names = ("Linear_Seasonal", "Linear_Trend")
    expected = reference(weights, names, past_values, "DLinear", kernel_size)
    np.testing.assert_allclose(forecast(converted, past_values), expected, atol=1e-5, rtol=1e-5)
    other = reference(weights, names, past_values, "DLinear", 34 - kernel_size)
    assert np.abs(other - expected).max() > 0.1  # the window matters here


# neuralforecast: its own names, univariate, options `h` and `moving_avg_window`


@pytest.mark.parametrize(("options", "kernel_size"), [({"moving_avg_window": 7, "h": HORIZON}, 7), ({}, 25)])
def test_dlinear_of_neuralforecast(options, kernel_size, past_values, tmp_path):
    weights = {**layer("linear_trend"), **layer("linear_season")}
    converted = convert(tmp_path, weights, options)
    assert (converted.config.variant, converted.config.moving_average_kernel_size) == ("dlinear", kernel_size)
    expected = reference(weights, ("linear_season", "linear_trend"), past_values, "DLinear", kernel_size)
    np.testing.assert_allclose(forecast(converted, past_values), expected, atol=1e-5, rtol=1e-5)


def test_options_inside_a_file_of_neuralforecast(past_values, tmp_path):
    weights = {**layer("linear_trend"), **layer("linear_season")}
    content = {"hyper_parameters": {"moving_avg_window": 7, "h": HORIZON}, "state_dict": weights}
    torch.save(content, tmp_path / "model.ckpt")
    convert_checkpoint("ltsf-linear", tmp_path / "model.ckpt", tmp_path / "own")
    model = LTSFLinearForPrediction.from_pretrained(tmp_path / "own")
    expected = reference(weights, ("linear_season", "linear_trend"), past_values, "DLinear", 7)
    np.testing.assert_allclose(forecast(model, past_values), expected, atol=1e-5, rtol=1e-5)
    convert_checkpoint("ltsf-linear", tmp_path / "model.ckpt", tmp_path / "given", {"moving_avg_window": 9})
    assert LTSFLinearForPrediction.from_pretrained(tmp_path / "given").config.moving_average_kernel_size == 9


def test_nlinear_of_neuralforecast(past_values, tmp_path):
    weights = layer("linear")
    converted = convert(tmp_path, weights, {"model": "NLinear", "h": HORIZON, "input_size": CONTEXT})
    assert converted.config.variant == "nlinear"
    expected = reference(weights, ("linear",), past_values, "NLinear")
    np.testing.assert_allclose(forecast(converted, past_values), expected, atol=1e-5, rtol=1e-5)
