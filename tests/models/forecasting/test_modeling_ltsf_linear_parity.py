"""LTSF-Linear against values of the original code; `tests/fixtures/dlinear/README.md` says how they were made."""

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForTimeSeriesPrediction

from hvmodels import LTSFLinearForPrediction
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.ltsf_linear import convert_state_dict
from hvmodels.datasets.forecasting import LongTermForecastingData, calendar_features
from hvmodels.metrics.forecasting import evaluate_forecaster, forecasting_metrics


FIXTURES = Path(__file__).parents[2] / "fixtures" / "dlinear"
SYNTHETIC = sorted(path.parent.name for path in FIXTURES.glob("*/checkpoint.pth"))
KEY_LISTS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
LAYERS = {"Linear": "linear", "Linear_Seasonal": "linear_seasonal", "Linear_Trend": "linear_trend"}


def read_case(folder):
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def convert(folder, output_dir):
    convert_checkpoint("ltsf-linear", folder / "checkpoint.pth", output_dir, original_config=folder / "config.json")
    return AutoModelForTimeSeriesPrediction.from_pretrained(output_dir).eval()


def by_original_name(tensors, name):
    """The part of our (possibly stacked) parameter that the original calls `name`, or None if it has no part."""
    layer, *channel, kind = name.split(".")
    if layer == "Linear_Decoder":  # made by the first release and never used
        return None
    tensor = tensors[f"model.{LAYERS[layer]}.{kind}"]
    return tensor[int(channel[0])] if channel else tensor


def with_prefix(reference, prefix):
    return {name.removeprefix(prefix): value for name, value in reference.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=SYNTHETIC)
def case(request, tmp_path_factory):
    """Options, reference tensors and converted model of a synthetic case."""
    options, reference = read_case(FIXTURES / request.param)
    return options, reference, convert(FIXTURES / request.param, tmp_path_factory.mktemp("model") / request.param)


def test_every_case_is_there():
    assert len(SYNTHETIC) == 8
    assert len(KEY_LISTS) == 84


def test_configuration(case):
    options, _, model = case
    config = model.config
    assert isinstance(model, LTSFLinearForPrediction)
    assert config.variant == options["model"].lower().removesuffix("_v1")
    assert (config.context_length, config.prediction_length) == (options["seq_len"], options["pred_len"])
    assert (config.num_input_channels, config.individual) == (options["enc_in"], options["individual"])
    assert config.moving_average_kernel_size == options["moving_avg"]


def test_weights_arrive_unchanged(case, request):
    _, _, model = case
    checkpoint = torch.load(FIXTURES / request.node.callspec.params["case"] / "checkpoint.pth", weights_only=True)
    state_dict, used = model.state_dict(), 0
    for name, expected in checkpoint.items():
        actual = by_original_name(state_dict, name)
        if actual is not None:
            used += actual.numel()
            assert torch.equal(actual, expected), name
    assert used == sum(tensor.numel() for tensor in state_dict.values())


def test_forward(case):
    _, reference, model = case
    past_values, future_values = reference["input.past_values"], reference["input.future_values"]
    with torch.no_grad():
        outputs = model(past_values, future_values=future_values)
    predictions = outputs.prediction_outputs
    assert_close(predictions, reference["output.prediction"], **TOLERANCE)
    assert_close(outputs.loss, reference["output.loss.mse"], **TOLERANCE)
    assert_close((predictions - future_values).abs().mean(), reference["output.metric.mae"], **TOLERANCE)
    metrics = forecasting_metrics(predictions, future_values)
    assert metrics["mse"] == pytest.approx(reference["output.loss.mse"].item(), rel=1e-5)
    assert metrics["mae"] == pytest.approx(reference["output.metric.mae"].item(), rel=1e-5)


@pytest.mark.parametrize("case", ["dlinear_individual", "dlinear_shared", "dlinear_short_input"], indirect=True)
def test_decomposition(case):
    _, reference, model = case
    seasonal, trend = model.model.decompose(reference["input.past_values"])
    assert_close(seasonal, reference["intermediate.seasonal"], **TOLERANCE)
    assert_close(trend, reference["intermediate.trend"], **TOLERANCE)


def test_merged_model(case):
    _, reference, model = case
    with torch.no_grad():
        predictions = model.merge()(reference["input.past_values"]).prediction_outputs
    assert_close(predictions, reference["output.prediction"], **TOLERANCE)


def test_gradients_and_one_adam_step(case):
    options, reference, converted = case
    model = copy.deepcopy(converted)
    past_values = reference["input.past_values"].clone().requires_grad_()
    model(past_values, future_values=reference["input.future_values"]).loss.backward()
    assert_close(past_values.grad, reference["grad.input.past_values"], **TOLERANCE)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected_gradients = with_prefix(reference, "grad.")
    del expected_gradients["input.past_values"]
    assert sum(gradient.numel() for gradient in expected_gradients.values()) == model.num_parameters()
    for name, expected in expected_gradients.items():
        assert_close(by_original_name(gradients, name), expected, **TOLERANCE)

    torch.optim.Adam(model.parameters(), lr=options["learning_rate"]).step()
    before, after = converted.state_dict(), model.state_dict()
    for name, gradient in expected_gradients.items():
        # Adam's first step is lr * sign(gradient), and rounding can flip the sign of a gradient that is almost 0.
        moved, still = gradient.abs() > 1e-5, gradient == 0
        actual, expected = by_original_name(after, name), reference[f"after_adam.{name}"]
        assert moved.any()
        assert_close(actual[moved], expected[moved], **TOLERANCE)
        assert torch.equal(actual[still], by_original_name(before, name)[still])


def test_forward_after_the_adam_step(case):
    options, reference, converted = case
    config, state_dict = convert_state_dict(with_prefix(reference, "after_adam."), options)
    model = type(converted)(config).eval()
    model.load_state_dict(state_dict)
    with torch.no_grad():
        outputs = model(reference["input.past_values"], future_values=reference["input.future_values"])
    assert_close(outputs.prediction_outputs, reference["output.prediction_after_adam"], **TOLERANCE)
    assert_close(outputs.loss, reference["output.loss.mse_after_adam"], **TOLERANCE)


@pytest.mark.parametrize("name", KEY_LISTS)
def test_keys_of_full_size_checkpoints(name):
    weights = {key: torch.empty(shape, device="meta") for key, shape in KEY_LISTS[name].items()}
    _, model_name, sharing, *_, context_length, prediction_length = name.split("_")
    options = {"model": {"linear": "Linear", "nlinear": "NLinear", "dlinear": "DLinear"}[model_name]}
    config, state_dict = convert_state_dict(weights, options)
    assert config.variant == model_name
    assert config.individual == (sharing == "individual")
    assert (config.context_length, config.prediction_length) == (int(context_length), int(prediction_length))
    with torch.device("meta"):
        model = LTSFLinearForPrediction(config)
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in state_dict.items()} == expected
    assert sum(tensor.numel() for tensor in weights.values()) == model.num_parameters()


# Models that the original trained on ETTh1, and its data protocol


def find_case(shared_data, name):
    folder = shared_data / "parity" / "dlinear" / name
    if not folder.is_dir():
        pytest.skip(f"needs the reference values shared/parity/dlinear/{name}")
    options, reference = read_case(folder)
    csv = shared_data / "data" / "long_term_forecasting" / options["data_path"]
    if not csv.is_file():
        pytest.skip(f"needs the data set shared/data/long_term_forecasting/{options['data_path']}")
    return folder, options, reference, csv


@pytest.fixture(scope="module", params=["dlinear", "nlinear", "linear"])
def trained(request, shared_data, tmp_path_factory):
    """Options, reference tensors, converted model and data of a trained case."""
    folder, options, reference, csv = find_case(shared_data, f"trained_etth1_{request.param}_96")
    model = convert(folder, tmp_path_factory.mktemp("model") / request.param)
    data = LongTermForecastingData.from_benchmark(csv, options["seq_len"], options["pred_len"])
    return options, reference, model, data


def test_trained_predictions(trained):
    _, reference, model, data = trained
    for past_values, expected in (
        (reference["input.past_values"], reference["output.prediction"]),
        (reference["input.past_values_last"], reference["output.prediction_last"]),
    ):
        with torch.no_grad():
            assert_close(model(past_values).prediction_outputs, expected, **TOLERANCE)
    first, last = data.test[0]["past_values"], data.test[len(data.test) - 1]["past_values"]
    assert_close(first, reference["input.past_values"][0], atol=1e-6, rtol=1e-6)
    assert_close(last, reference["input.past_values_last"][0], atol=1e-6, rtol=1e-6)


def test_trained_prediction_in_units_of_the_data(trained):
    _, reference, model, data = trained
    with torch.no_grad():
        predictions = model(reference["input.past_values"]).prediction_outputs[0]
    denormalized = torch.from_numpy(data.feature_extractor.inverse_transform(predictions))
    assert_close(denormalized, reference["output.prediction_denormalized_first"].double(), **TOLERANCE)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("merge", [False, True], ids=["as_trained", "merged"])
def test_trained_metrics(trained, split, merge):
    options, _, model, data = trained
    model = model.merge() if merge else model
    windows = {"val": data.validation, "test": data.test}[split]
    expected = options["expected_metrics"][split]
    assert len(windows) == expected["num_windows"]
    for name, drop_last_batch_size in (("all_windows", None), ("drop_last", expected["drop_last"]["batch_size"])):
        metrics = evaluate_forecaster(
            lambda past_values: model(past_values).prediction_outputs,
            windows,
            drop_last_batch_size=drop_last_batch_size,
        )
        assert metrics["num_windows"] == expected[name].get("num_used", expected["num_windows"])
        for metric in ("mse", "mae", "rmse", "mape", "mspe", "rse"):
            assert metrics[metric] == pytest.approx(expected[name][metric], rel=1e-6), (name, metric)


PROTOCOLS = ["protocol_etth1_m", "protocol_etth2_s", "protocol_exchange_m"]


@pytest.fixture(scope="module", params=PROTOCOLS)
def protocol(request, shared_data):
    """Options, reference tensors and data of a case of the data protocol."""
    _, options, reference, csv = find_case(shared_data, request.param)
    data = LongTermForecastingData.from_benchmark(
        csv, options["seq_len"], options["pred_len"], name=csv.stem, features=options["features"]
    )
    return options, reference, data


def test_protocol_scaler(protocol):
    _, reference, data = protocol
    extractor = data.feature_extractor
    np.testing.assert_allclose(extractor.mean, reference["scaler.mean"], rtol=1e-12)
    np.testing.assert_allclose(extractor.scale, reference["scaler.scale"], rtol=1e-12)
    np.testing.assert_allclose(np.square(extractor.scale), reference["scaler.var"], rtol=1e-12)


@pytest.mark.parametrize("index", range(3), ids=["train", "val", "test"])
def test_protocol_windows(protocol, index):
    options, reference, data = protocol
    name, windows = [("train", data.train), ("val", data.validation), ("test", data.test)][index]
    split, tensors = options["splits"][name], with_prefix(reference, f"{name}.")
    context, horizon, label = options["seq_len"], options["pred_len"], options["label_len"]
    start, stop = data.slices[index]
    assert stop - start == len(windows.values) == split["num_rows"]
    assert len(windows) == split["num_windows"]
    values = torch.from_numpy(windows.values)
    assert values.dtype == torch.float64
    assert_close(values.sum(0), tensors["column_sum"], atol=1e-8, rtol=1e-10)
    assert_close(values.abs().sum(0), tensors["column_abs_sum"], atol=1e-8, rtol=1e-10)
    timestamps = data.series.timestamps[start:stop]
    for position in ("first", "mid", "last"):
        row = split[f"{position}_index"]
        past = slice(row, row + context)
        future = slice(row + context - label, row + context + horizon)  # with the rows that a decoder would start from
        assert_close(values[past], tensors[f"{position}.seq_x"], atol=1e-12, rtol=1e-12)
        assert_close(values[future], tensors[f"{position}.seq_y"], atol=1e-12, rtol=1e-12)
        window = windows[row]
        assert torch.equal(window["past_values"], values[past].float())
        assert torch.equal(window["future_values"], values[future][label:].float())
        if f"{position}.seq_x_mark" in tensors:
            for rows, key in ((past, "seq_x_mark"), (future, "seq_y_mark")):
                marks = torch.from_numpy(calendar_features(timestamps[rows], options["freq"]))
                assert_close(marks, tensors[f"{position}.{key}"], atol=1e-6, rtol=1e-6)


def test_protocol_forecast_beyond_the_file(protocol):
    """The original's `pred` mode, which takes mean and deviation of the whole file."""
    options, reference, data = protocol
    extractor = type(data.feature_extractor)(options["seq_len"], options["pred_len"]).fit(data.series)
    np.testing.assert_allclose(extractor.mean, reference["pred.scaler.mean"], rtol=1e-12)
    np.testing.assert_allclose(extractor.scale, reference["pred.scaler.scale"], rtol=1e-12)
    expected = reference["pred.seq_x"]
    standardized = torch.from_numpy(extractor.standardize(data.series.values))
    assert_close(standardized[-options["seq_len"] :], expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(extractor(data.series)["past_values"][0], standardized[-options["seq_len"] :].float())
    dates = data.series.future_timestamps(options["pred_len"])
    *first, _, last = options["pred"]["future_dates"]  # the list is shortened by "..."
    assert len(dates) == options["pred_len"]
    assert list(dates[: len(first)]) == [pd.Timestamp(date) for date in first]
    assert dates[-1] == pd.Timestamp(last)
