"""Wrong inputs at every boundary of the package: each must raise an error that names the argument and what it expects."""

import os
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import save_file
from torch import nn
from transformers import pipeline

from hvmodels import LTSFLinearConfig, LTSFLinearFeatureExtractor, LTSFLinearForPrediction, read_series
from hvmodels.conversion import convert_checkpoint
from hvmodels.datasets.forecasting import ForecastingWindows, LongTermForecastingData, calendar_features
from hvmodels.hub import export, load_folder, publish
from hvmodels.metrics.forecasting import ForecastingMetrics, evaluate_forecaster, forecasting_metrics
from hvmodels.pipelines.pipeline_time_series_forecasting import conformal_margins
from hvmodels.visualization.forecasting import plot_forecast, plot_temporal_map


NAN, INF = float("nan"), float("inf")


# What the rows below are made of; `folder` is an empty temporary folder.


def config(folder, **arguments):
    return LTSFLinearConfig(**arguments)


@lru_cache
def model(variant="dlinear"):
    sizes = {"context_length": 12, "prediction_length": 5, "num_input_channels": 3}
    return LTSFLinearForPrediction(LTSFLinearConfig(variant=variant, individual=True, **sizes)).eval()


def forward(folder, past_values=None, **arguments):
    return model()(torch.zeros(2, 12, 3) if past_values is None else past_values, **arguments)


def extractor(folder, *data, **arguments):
    """Construct, and read `data` if it is given."""
    made = LTSFLinearFeatureExtractor(**{"context_length": 8, "standardization": "none", **arguments})
    return made(*data) if data else made


def fitted():
    return LTSFLinearFeatureExtractor(8, 4).fit(np.arange(20.0).reshape(10, 2))


def csv(folder, content, **arguments):
    (folder / "data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return extractor(folder, folder / "data.csv", **arguments)


DATES = pd.date_range("2020-01-01", periods=12, freq="D")


def table(folder, **columns):
    """A daily table with some columns replaced or added."""
    frame = pd.DataFrame({"date": DATES, "a": np.arange(12.0) ** 2, "b": np.arange(12.0)})
    return frame.assign(**columns)


def dated(folder, dates, **arguments):
    return extractor(folder, table(folder, date=list(dates)), **arguments)


def data(folder, series=None, context_length=8, prediction_length=4, **arguments):
    series = np.arange(200.0).reshape(100, 2) if series is None else series
    return LongTermForecastingData(series, context_length, prediction_length, **arguments)


def archive(folder, content):
    (folder / "PEMS04.npz").write_bytes(content)
    return data(folder, folder / "PEMS04.npz")


def windows():
    return ForecastingWindows(np.zeros((20, 1)), 4, 2)


def update_with_other_shape(folder):
    metrics = ForecastingMetrics()
    metrics.update(np.zeros((3, 2, 1)), np.zeros((3, 2, 1)))
    metrics.update(np.zeros((3, 4, 1)), np.zeros((3, 4, 1)))


@lru_cache
def forecaster():
    return pipeline("time-series-forecasting")


SEASON = np.sin(np.arange(200) * np.pi / 6)


def forecast(folder, series=SEASON, **arguments):
    return forecaster()(series, **arguments)


def own_forecaster(**arguments):
    feature_extractor = LTSFLinearFeatureExtractor(
        **{"context_length": 12, "prediction_length": 5, "standardization": "none", **arguments}
    )
    return pipeline("time-series-forecasting", model=model(), feature_extractor=feature_extractor)


WEIGHT, BIAS = torch.ones(4, 8), torch.ones(4)
LINEAR = {"Linear.weight": WEIGHT, "Linear.bias": BIAS}
DLINEAR = {
    f"Linear_{part}.{kind}": LINEAR[f"Linear.{kind}"] for part in ("Seasonal", "Trend") for kind in ("weight", "bias")
}
INDIVIDUAL = {
    f"Linear.{channel}.{kind}": LINEAR[f"Linear.{kind}"] for channel in range(3) for kind in ("weight", "bias")
}
NEURALFORECAST = {
    f"linear_{part}.{kind}": LINEAR[f"Linear.{kind}"] for part in ("trend", "season") for kind in ("weight", "bias")
}
NAMED = {"model": "Linear"}


def convert(folder, content=None, options=NAMED, method="ltsf-linear", name="checkpoint.pth"):
    """Convert what `torch.save` makes of `content`, or raw bytes; None for a file that is not there."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    return convert_checkpoint(method, path, folder / "output", options)


def truncated(folder, share):
    torch.save(DLINEAR, folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    return convert(folder, whole[: int(share * len(whole))], None)


class Hostile:
    """Unpickled, it makes the folder `marker`."""

    def __init__(self, folder):
        self.marker = str(folder / "marker")

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def convert_with_json(folder, content):
    (folder / "options.json").write_text(content)
    return convert(folder, LINEAR, folder / "options.json")


def convert_into_full_folder(folder):
    (folder / "full").mkdir()
    (folder / "full" / "precious.txt").touch()
    torch.save(DLINEAR, folder / "checkpoint.pth")
    convert_checkpoint("ltsf-linear", folder / "checkpoint.pth", folder / "full")


def convert_directory(folder):
    (folder / "checkpoint.pth").mkdir()
    convert(folder)


def save_pth_as_safetensors(folder):
    torch.save(DLINEAR, folder / "saved.pth")
    convert(folder, (folder / "saved.pth").read_bytes(), None, name="checkpoint.safetensors")


def convert_nan_safetensors(folder):
    save_file({**LINEAR, "Linear.bias": BIAS * NAN}, folder / "checkpoint.safetensors")
    convert(folder, name="checkpoint.safetensors")


def push(folder, repo_id):
    publish(model(), LTSFLinearFeatureExtractor(12, 5), repo_id)


def load_damaged(folder, config):
    (folder / "config.json").write_text(config)
    load_folder(folder)


def plot_other_series(folder):
    plot_forecast(read_series(np.zeros(9)), pd.DataFrame({"step": [1], "temperature": [2.0]}))


def case(name, call, error, *words):
    """A row: what to call with the folder, the type of the error, and what its message must say."""
    return pytest.param(call, error, words, id=name)


STRICT = StrictDataclassFieldValidationError

CASES = [
    # Configuration
    case("config-variant", lambda f: config(f, variant="rlinear"), STRICT, "variant", "'linear', 'nlinear', 'dlinear'"),
    case("config-text-length", lambda f: config(f, context_length="12"), STRICT, "context_length", "int", "'12'"),
    case("config-float-length", lambda f: config(f, prediction_length=1.5), STRICT, "prediction_length", "int"),
    case("config-bool-length", lambda f: config(f, context_length=True), STRICT, "context_length", "int", "bool"),
    case("config-none-length", lambda f: config(f, context_length=None), STRICT, "context_length", "int", "None"),
    case("config-individual", lambda f: config(f, individual="yes"), STRICT, "individual", "bool", "'yes'"),
    case("config-init", lambda f: config(f, weight_init="zeros"), STRICT, "weight_init", "'default', 'average'"),
    case("config-index-type", lambda f: config(f, prediction_channel_indices=1), STRICT, "prediction_channel_indices"),
    case("config-zero-length", lambda f: config(f, context_length=0), ValueError, "`context_length`", "at least 1"),
    case("config-negative", lambda f: config(f, prediction_length=-3), ValueError, "`prediction_length`", "got -3"),
    case("config-no-channel", lambda f: config(f, num_input_channels=0), ValueError, "`num_input_channels`", "1"),
    case("config-even", lambda f: config(f, moving_average_kernel_size=24), ValueError, "`moving_average_kernel_size`", "odd", "25"),
    case("config-no-indices", lambda f: config(f, prediction_channel_indices=[]), ValueError, "`prediction_channel_indices`", "at least one"),
    case("config-index-range", lambda f: config(f, prediction_channel_indices=[3]), ValueError, "`prediction_channel_indices`", "[-1, 1)", "`num_input_channels` is 1"),
    # Forward
    case("forward-list", lambda f: forward(f, [[[0.0]]]), TypeError, "`past_values`", "floating-point tensor", "list"),
    case("forward-array", lambda f: forward(f, np.zeros((2, 12, 3))), TypeError, "`past_values`", "tensor", "ndarray"),
    case("forward-integers", lambda f: forward(f, torch.zeros(2, 12, 3).long()), TypeError, "`past_values`", "floating-point", "torch.int64"),
    case("forward-complex", lambda f: forward(f, torch.zeros(2, 12, 3) + 0j), TypeError, "`past_values`", "floating-point", "complex"),
    case("forward-no-input", lambda f: model()(), TypeError, "past_values"),
    case("forward-rank", lambda f: forward(f, torch.zeros(12, 3)), ValueError, "`past_values`", "(batch, 12, 3)", "(12, 3)", "axis"),
    case("forward-length", lambda f: forward(f, torch.zeros(2, 11, 3)), ValueError, "`past_values`", "`context_length` = 12", "(2, 11, 3)"),
    case("forward-channels", lambda f: forward(f, torch.zeros(2, 12, 4)), ValueError, "`past_values`", "(batch, 12, 3)", "3 channels"),
    case("forward-no-channels", lambda f: forward(f, torch.zeros(2, 12, 0)), ValueError, "`past_values`", "(batch, 12, 3)"),
    case("forward-mask", lambda f: forward(f, past_observed_mask=torch.ones(2, 12)), ValueError, "`past_observed_mask`", "(2, 12, 3)", "(2, 12)"),
    case("forward-future-shape", lambda f: forward(f, future_values=torch.zeros(2, 4, 3)), ValueError, "`future_values`", "(2, 5, 3)", "(2, 4, 3)"),
    case("forward-future-type", lambda f: forward(f, future_values=[1.0]), TypeError, "`future_values`", "floating-point tensor", "list"),
    case("forward-unknown", lambda f: forward(f, past_mask=None), TypeError, "['past_mask']", "`past_observed_mask`"),
    case("decompose", lambda f: model("nlinear").model.decompose(torch.zeros(1, 12, 3)), ValueError, "`decompose`", "'dlinear'", "'nlinear'"),
    # Feature extractor: settings
    case("settings-standardization", lambda f: extractor(f, standardization="minmax"), ValueError, "`standardization`", "'train', 'context', 'none'", "'minmax'"),
    case("settings-policy", lambda f: extractor(f, missing_values="drop"), ValueError, "`missing_values`", "'interpolate'", "'drop'"),
    case("settings-policy-of-call", lambda f: extractor(f).read(SEASON, "drop"), ValueError, "`missing_values`", "'drop'"),
    case("settings-zero-context", lambda f: extractor(f, context_length=0), ValueError, "`context_length`", "positive integer", "0"),
    case("settings-text-horizon", lambda f: extractor(f, prediction_length="4"), ValueError, "`prediction_length`", "positive integer", "'4'"),
    case("settings-mean-alone", lambda f: extractor(f, mean=[1.0]), ValueError, "`mean` and `scale`", "together"),
    case("settings-scale-alone", lambda f: extractor(f, scale=[1.0]), ValueError, "`mean` and `scale`", "together"),
    case("settings-scale-zero", lambda f: extractor(f, mean=[1.0], scale=[0.0]), ValueError, "`scale` positive"),
    case("settings-scale-inf", lambda f: extractor(f, mean=[1.0], scale=[INF]), ValueError, "`scale` positive and finite"),
    case("settings-mean-nan", lambda f: extractor(f, mean=[NAN], scale=[1.0]), ValueError, "`mean` must be finite"),
    case("settings-mean-text", lambda f: extractor(f, mean=["a"], scale=[1.0]), ValueError, "`mean` must be finite"),
    case("settings-mean-number", lambda f: extractor(f, mean=1.0, scale=1.0), ValueError, "`mean`", "one number a channel"),
    case("settings-scaler-lengths", lambda f: extractor(f, mean=[1.0, 2.0], scale=[1.0]), ValueError, "`mean`", "one number a channel in each"),
    case("settings-scaler-columns", lambda f: extractor(f, columns=["a", "b"], mean=[1.0], scale=[1.0]), ValueError, "`columns` = ['a', 'b']", "got 1"),
    case("settings-columns-text", lambda f: extractor(f, columns="ab"), ValueError, "`columns`", "list", "'ab'"),
    case("settings-columns-empty", lambda f: extractor(f, columns=[]), ValueError, "`columns`", "list", "None for all"),
    case("settings-columns-twice", lambda f: extractor(f, columns=["a", "a"]), ValueError, "`columns`", "different"),
    # Feature extractor: files and tables
    case("csv-missing", lambda f: extractor(f, f / "absent.csv"), ValueError, "`data`", "absent.csv", "does not exist"),
    case("csv-folder", lambda f: extractor(f, f), ValueError, "`data`", "cannot be read as CSV", "directory"),
    case("csv-empty", lambda f: csv(f, ""), ValueError, "`data`", "data.csv", "cannot be read as CSV"),
    case("csv-binary", lambda f: csv(f, b"\x89PNG\r\n\x1a\n" + bytes(range(256))), ValueError, "`data`", "cannot be read as CSV"),
    case("csv-random", lambda f: csv(f, np.random.default_rng(0).bytes(3000)), ValueError, "`data`", "cannot be read as CSV"),
    case("csv-ragged", lambda f: csv(f, "a,b\n1,2\n3,4,5,6\n"), ValueError, "`data`", "cannot be read as CSV", "line 3"),
    case("csv-no-rows", lambda f: csv(f, "date,a\n"), ValueError, "`data`", "at least one row", "(0, 1)"),
    case("csv-text-column", lambda f: csv(f, "date,a,b\n2020-01-01,1,x\n2020-01-02,2,y\n"), TypeError, "'b' of `data`", "numeric"),
    case("csv-text-cell", lambda f: csv(f, "date,a\n2020-01-01,1\n2020-01-02,none yet\n"), TypeError, "'a' of `data`", "numeric"),
    case("csv-first-column-text", lambda f: csv(f, "city,a\nRome,1\nOslo,2\n"), ValueError, "'city' of `data`", "dates", "`timestamp_column`"),
    case("table-missing-column", lambda f: extractor(f, table(f), columns=["a", "z"]), ValueError, "`data` lacks the columns ['z']", "['a', 'b']"),
    case("table-no-date-column", lambda f: extractor(f, table(f), timestamp_column="when"), ValueError, "`timestamp_column`", "'when'", "['date', 'a', 'b']"),
    case("table-number-dates", lambda f: extractor(f, table(f), timestamp_column="b"), ValueError, "`timestamp_column` 'b'", "dates", "float64"),
    case("table-dates-only", lambda f: extractor(f, table(f)[["date"]]), ValueError, "`data`", "one column of numbers"),
    case("table-empty", lambda f: extractor(f, pd.DataFrame()), ValueError, "`data`", "at least one row", "(0, 0)"),
    case("table-equal-names", lambda f: extractor(f, pd.DataFrame(np.ones((9, 2)), columns=["a", "a"])), ValueError, "`data`", "different column names", "['a']"),
    case("table-second-dates", lambda f: extractor(f, table(f, end=DATES)), TypeError, "'end' of `data`", "numeric", "datetime64"),
    case("table-complex", lambda f: extractor(f, table(f, a=np.ones(12) * 1j)), TypeError, "'a' of `data`", "numeric", "complex128"),
    case("table-nan", lambda f: extractor(f, table(f, a=[1.0, 2.0, NAN] * 4)), ValueError, "`data`", "4 missing values", "'a', row 2", "`missing_values='forward_fill'`"),
    case("table-nan-column", lambda f: extractor(f, table(f, a=NAN), missing_values="interpolate"), ValueError, "`data`", "no value at all", "['a']"),
    case("table-inf", lambda f: extractor(f, table(f, b=[1.0] * 11 + [-INF]), missing_values="interpolate"), ValueError, "`data`", "infinite", "'b', row 11"),
    # Feature extractor: dates
    case("dates-repeated", lambda f: dated(f, [DATES[0], *DATES[:-1]]), ValueError, "`data`", "2020-01-01", "more than once"),
    case("dates-unsorted", lambda f: dated(f, DATES[::-1]), ValueError, "`data`", "sorted by date", "sort_values"),
    case("dates-irregular", lambda f: dated(f, [*DATES[:-1], DATES[-1] + pd.Timedelta("7min")]), ValueError, "`data`", "regular step", "resample"),
    case("dates-missing-cell", lambda f: dated(f, [pd.NaT, *DATES[1:]]), ValueError, "`data`", "without a date"),
    case("dates-gap", lambda f: dated(f, [*DATES[:6], *(DATES[6:] + pd.Timedelta("2D"))]), ValueError, "`data` lacks 2 of the 14 dates", "`frequency` = 'D'", "2020-01-07", "`missing_values='forward_fill'`"),
    case("dates-finer", lambda f: dated(f, DATES, frequency="h"), ValueError, "`data` lacks 253", "`frequency` = 'h'"),
    case("dates-coarser", lambda f: dated(f, DATES, frequency="W"), ValueError, "`data`", "off the grid", "`frequency` = 'W'"),
    case("dates-one-row", lambda f: extractor(f, table(f)[:1], context_length=1), ValueError, "`data`", "at least 2 rows", "`frequency`"),
    case("frequency-unknown", lambda f: dated(f, DATES, frequency="fortnight"), ValueError, "`frequency`", "pandas offset alias", "'fortnight'"),
    case("frequency-number", lambda f: dated(f, DATES, frequency=3), ValueError, "`frequency`", "pandas offset alias", "got 3"),
    case("frequency-zero", lambda f: dated(f, DATES, frequency="0D"), ValueError, "`frequency`", "'0D'", "positive"),
    case("frequency-backwards", lambda f: dated(f, DATES, frequency="-1D"), ValueError, "`frequency`", "'-1D'", "positive"),
    # Feature extractor: arrays and lists
    case("array-none", lambda f: extractor(f, None), TypeError, "`data`", "numeric array", "NoneType"),
    case("array-dict", lambda f: extractor(f, {"a": [1.0] * 9}), TypeError, "`data`", "numeric array", "dict"),
    case("array-number", lambda f: extractor(f, 3.0), ValueError, "`data`", "(time, channels)", "one number"),
    case("array-text", lambda f: extractor(f, np.array(["a"] * 9)), TypeError, "`data`", "numeric array", "<U1"),
    case("array-object", lambda f: extractor(f, np.array([1, None] * 5)), TypeError, "`data`", "numeric array", "object"),
    case("array-complex", lambda f: extractor(f, np.ones(9) * 1j), TypeError, "`data`", "numeric array", "complex128"),
    case("array-dates", lambda f: extractor(f, DATES.to_numpy()), TypeError, "`data`", "numeric array", "datetime64"),
    case("array-3d", lambda f: extractor(f, np.ones((9, 2, 2))), ValueError, "`data`", "(time, channels)", "(9, 2, 2)", "list"),
    case("array-3d-tensor", lambda f: extractor(f, torch.ones(2, 9, 1)), ValueError, "`data`", "(time, channels)", "(2, 9, 1)"),
    case("array-no-rows", lambda f: extractor(f, np.zeros((0, 2))), ValueError, "`data`", "at least one row", "(0, 2)"),
    case("array-no-columns", lambda f: extractor(f, np.zeros((9, 0))), ValueError, "`data`", "one column", "(9, 0)"),
    case("array-masked", lambda f: extractor(f, np.ma.masked_array(np.arange(9.0), np.arange(9) == 4)), ValueError, "`data`", "1 missing values", "row 4"),
    case("array-huge", lambda f: extractor(f, np.full(9, 1e300)), ValueError, "`data`", "float32", "1e+300"),
    case("array-too-short", lambda f: extractor(f, np.arange(7.0)), ValueError, "`data`", "`context_length` = 8", "got 7"),
    case("array-channels", lambda f: extractor(f, np.ones((9, 3)), columns=["a", "b"]), ValueError, "`data`", "2 channels (['a', 'b'])", "3"),
    case("list-empty", lambda f: extractor(f, []), ValueError, "`data`", "at least one series"),
    case("list-ragged", lambda f: extractor(f, [[1.0, 2.0], [3.0]]), TypeError, "`data`", "rectangular array (time, channels)"),
    case("list-of-none", lambda f: extractor(f, [None]), TypeError, "`data`", "numeric array", "NoneType"),
    case("list-unequal", lambda f: extractor(f, [np.ones((9, 2)), np.ones((9, 3))]), ValueError, "`data`", "same number of channels", "[2, 3]"),
    # Feature extractor: scaler
    case("fit-list", lambda f: extractor(f).fit([SEASON, SEASON]), TypeError, "`data`", "one series", "2 of ndarray"),
    case("fit-huge", lambda f: extractor(f).fit(SEASON * 1e200), ValueError, "`data`", "too large", "1e+200"),
    case("fit-no-rows", lambda f: extractor(f).fit(SEASON, num_train_rows=0), ValueError, "`num_train_rows`", "[1, 200]"),
    case("fit-negative-rows", lambda f: extractor(f).fit(SEASON, num_train_rows=-1), ValueError, "`num_train_rows`", "[1, 200]"),
    case("fit-fraction", lambda f: extractor(f).fit(SEASON, num_train_rows=0.7), ValueError, "`num_train_rows`", "integer"),
    case("fit-too-many-rows", lambda f: extractor(f).fit(SEASON, num_train_rows=201), ValueError, "`num_train_rows`", "[1, 200]", "201"),
    case("scaler-not-fitted", lambda f: extractor(f, SEASON, standardization="train"), ValueError, "`mean` and `scale`", "`fit(train_data)`"),
    case("scaler-channels", lambda f: fitted().standardize(np.ones((9, 3))), ValueError, "`data`", "2 channels as in training", "3"),
    case("inverse-not-fitted", lambda f: extractor(f).inverse_transform(np.ones(3)), ValueError, "`mean` and `scale`", "`location` and `scale`"),
    case("inverse-channels", lambda f: fitted().inverse_transform(np.ones((4, 3))), ValueError, "`values`", "2 channels", "(4, 3)"),
    case("inverse-location-alone", lambda f: fitted().inverse_transform(np.ones((4, 2)), location=np.ones(2)), ValueError, "`location` and `scale`", "together"),
    case("inverse-index", lambda f: fitted().inverse_transform(np.ones((4, 1)), channel_indices=[2]), ValueError, "`channel_indices`", "[-2, 2)", "[2]"),
    # Data sets
    case("split-two", lambda f: data(f, split=(0.7, 0.3)), ValueError, "`split`", "three numbers", "(0.7, 0.3)"),
    case("split-sum", lambda f: data(f, split=(0.7, 0.3, 0.3)), ValueError, "`split`", "sum to 1"),
    case("split-too-long", lambda f: data(f, split=(90, 10, 10)), ValueError, "`split`", "100 rows", "(90, 10, 10)"),
    case("features", lambda f: data(f, features="SM"), ValueError, "`features`", "'M', 'S' or 'MS'", "'SM'"),
    case("target", lambda f: data(f, features="S", target="OT"), ValueError, "`target`", "['0', '1']", "'OT'"),
    case("data-too-short", lambda f: data(f, SEASON[:20]), ValueError, "`context_length` + `prediction_length` = 12 rows"),
    case("data-zero-context", lambda f: data(f, context_length=0), ValueError, "`context_length`", "positive integer"),
    case("data-several", lambda f: data(f, [SEASON, SEASON]), TypeError, "`data`", "one series"),
    case("data-none", lambda f: LongTermForecastingData(None, 8, 4), TypeError, "`data`", "numeric array", "NoneType"),
    case("benchmark-unknown", lambda f: LongTermForecastingData.from_benchmark(f / "sales.csv", 8, 4), ValueError, "`name`", "'ETTh1'", "'sales'"),
    case("benchmark-missing", lambda f: LongTermForecastingData.from_benchmark(f / "ETTh1.csv", 8, 4), ValueError, "ETTh1.csv", "does not exist"),
    case("archive-damaged", lambda f: archive(f, b"not an archive"), ValueError, "`series`", "PEMS04.npz", "array 'data'"),
    case("windows-too-short", lambda f: ForecastingWindows(np.zeros((5, 1)), 4, 2), ValueError, "`values`", "`context_length` + `prediction_length` = 6 rows", "got 5"),
    case("calendar-frequency", lambda f: calendar_features(DATES, "fortnight"), ValueError, "`frequency`", "pandas offset alias"),
    # Metrics
    case("metrics-shapes", lambda f: forecasting_metrics(np.zeros((3, 2, 1)), np.zeros((2, 2, 1))), ValueError, "`predictions` and `targets`", "(windows, prediction_length, channels)", "(3, 2, 1) and (2, 2, 1)"),
    case("metrics-rank", lambda f: forecasting_metrics(np.zeros((2, 1)), np.zeros((2, 1))), ValueError, "`predictions`", "(windows, prediction_length, channels)"),
    case("metrics-nan", lambda f: forecasting_metrics(np.full((3, 2, 1), NAN), np.zeros((3, 2, 1))), ValueError, "`predictions`", "finite"),
    case("metrics-nan-targets", lambda f: forecasting_metrics(torch.zeros(3, 2, 1), torch.full((3, 2, 1), INF)), ValueError, "`targets`", "finite"),
    case("metrics-empty", lambda f: forecasting_metrics(np.zeros((0, 2, 1)), np.zeros((0, 2, 1))), ValueError, "`update(predictions, targets)`"),
    case("metrics-other-shape", update_with_other_shape, ValueError, "`predictions`", "(windows, 2, 1)", "(3, 4, 1)"),
    case("metrics-no-windows", lambda f: evaluate_forecaster(lambda past: past, windows(), drop_last_batch_size=99), ValueError, "`windows`", "15 windows", "99"),
    # Pipeline
    case("pipeline-unknown", lambda f: forecast(f, horizon=3), TypeError, "['horizon']", "`prediction_length`"),
    case("pipeline-unknown-at-start", lambda f: pipeline("time-series-forecasting", horizon=3), TypeError, "['horizon']"),
    case("pipeline-zero-horizon", lambda f: forecast(f, prediction_length=0), ValueError, "`prediction_length`", "positive integer"),
    case("pipeline-text-horizon", lambda f: forecast(f, prediction_length="3"), ValueError, "`prediction_length`", "positive integer", "'3'"),
    case("pipeline-long-horizon", lambda f: forecast(f, SEASON[:60], prediction_length=49), ValueError, "`prediction_length`", "at most 48", "49", "`fit=True`"),
    case("pipeline-interval-0", lambda f: forecast(f, interval=0.0), ValueError, "`interval`", "between 0 and 1", "0.0"),
    case("pipeline-interval-1", lambda f: forecast(f, interval=1.0), ValueError, "`interval`", "between 0 and 1", "1.0"),
    case("pipeline-interval-above", lambda f: forecast(f, interval=1.5), ValueError, "`interval`", "between 0 and 1", "1.5"),
    case("pipeline-interval-integer", lambda f: forecast(f, interval=90), ValueError, "`interval`", "0.9", "got 90"),
    case("pipeline-interval-text", lambda f: forecast(f, interval="0.9"), ValueError, "`interval`", "between 0 and 1", "'0.9'"),
    case("pipeline-interval-no-backtest", lambda f: forecast(f, SEASON[:50], interval=0.9), ValueError, "`interval`", "at least 144 rows", "got 50"),
    case("pipeline-interval-few-windows", lambda f: forecast(f, SEASON[:100], prediction_length=1, interval=0.9, fit=False), ValueError, "`interval` = 0.9", "10 backtest windows", "gives 4"),
    case("margins", lambda f: conformal_margins(np.zeros((5, 1, 1)), 0.9), ValueError, "`interval` = 0.9", "at least 10", "gives 5"),
    case("pipeline-fit-short", lambda f: forecast(f, SEASON[:50], fit=True), ValueError, "`series`", "rows", "`prediction_length`", "got 50"),
    case("pipeline-fit-word", lambda f: forecast(f, fit="yes"), ValueError, "`fit`", "True, False or None", "'yes'"),
    case("pipeline-period-0", lambda f: forecast(f, period=0), ValueError, "`period`", "positive integer"),
    case("pipeline-period-fraction", lambda f: forecast(f, period=12.0), ValueError, "`period`", "positive integer", "12.0"),
    case("pipeline-period-long", lambda f: forecast(f, period=200), ValueError, "`period`", "200 rows"),
    case("pipeline-policy", lambda f: forecast(f, missing_values="drop"), ValueError, "`missing_values`", "'forward_fill'", "'drop'"),
    case("pipeline-no-series", lambda f: forecast(f, []), ValueError, "`data`", "at least one series"),
    case("pipeline-none", lambda f: forecast(f, None), TypeError, "`data`", "numeric array", "NoneType"),
    case("pipeline-no-file", lambda f: forecast(f, str(f / "absent.csv")), ValueError, "`data`", "absent.csv", "does not exist"),
    case("pipeline-too-short", lambda f: own_forecaster()(np.ones((11, 3))), ValueError, "`data`", "`context_length` = 12", "got 11"),
    case("pipeline-channels", lambda f: own_forecaster()(np.ones((20, 2))), ValueError, "(batch, 12, 3)", "3 channels"),
    case("pipeline-not-fitted", lambda f: own_forecaster(standardization="train")(np.ones((20, 3))), ValueError, "`mean` and `scale`", "`fit(train_data)`"),
    case("pipeline-context-mismatch", lambda f: own_forecaster(context_length=13), ValueError, "`model` and `feature_extractor`", "`context_length`", "12 and 13"),
    case("pipeline-horizon-mismatch", lambda f: own_forecaster(prediction_length=8), ValueError, "`model` and `feature_extractor`", "`prediction_length`", "5 and 8"),
    case("backtest-several", lambda f: forecaster().backtest([SEASON, SEASON]), TypeError, "`data`", "one series"),
    case("backtest-short", lambda f: forecaster().backtest(SEASON[:50]), ValueError, "`data`", "at least 144 rows", "got 50"),
    # Conversion: files
    case("convert-method", lambda f: convert(f, LINEAR, method="dlinear"), ValueError, "`method`", "'ltsf-linear'", "'dlinear'"),
    case("convert-absent", lambda f: convert(f), ValueError, "`checkpoint`", "must be a file", "checkpoint.pth"),
    case("convert-directory", convert_directory, ValueError, "`checkpoint`", "must be a file"),
    case("convert-empty", lambda f: convert(f, b""), ValueError, "`checkpoint`", "cannot be read"),
    case("convert-truncated-1-percent", lambda f: truncated(f, 0.01), ValueError, "`checkpoint`", "cannot be read", "cut off"),
    case("convert-truncated-50-percent", lambda f: truncated(f, 0.5), ValueError, "`checkpoint`", "cannot be read", "cut off"),
    case("convert-truncated-99-percent", lambda f: truncated(f, 0.99), ValueError, "`checkpoint`", "cannot be read", "cut off"),
    case("convert-two-bytes", lambda f: convert(f, b"PK"), ValueError, "`checkpoint`", "no PyTorch file"),
    case("convert-random", lambda f: convert(f, np.random.default_rng(0).bytes(3000)), ValueError, "`checkpoint`", "no PyTorch file"),
    case("convert-text", lambda f: convert(f, b"hello world\n"), ValueError, "`checkpoint`", "cannot be read"),
    case("convert-pth-as-safetensors", save_pth_as_safetensors, ValueError, "`checkpoint`", "cannot be read", "safetensors"),
    case("convert-hostile", lambda f: convert(f, Hostile(f)), ValueError, "`checkpoint`", "more than weights", "mkdir", "could run code"),
    case("convert-hostile-entry", lambda f: convert(f, {**LINEAR, "epoch": Hostile(f)}), ValueError, "`checkpoint`", "more than weights", "mkdir"),
    case("convert-whole-module", lambda f: convert(f, nn.Linear(8, 4)), ValueError, "`checkpoint`", "more than weights (torch.nn.modules.linear.Linear)", "`torch.save(model.state_dict(), path)`"),
    case("convert-array", lambda f: convert(f, {"Linear.weight": np.ones((4, 8))}), ValueError, "`checkpoint`", "more than weights", "numpy"),
    # Conversion: contents
    case("convert-list", lambda f: convert(f, [WEIGHT, BIAS]), ValueError, "`checkpoint`", "state dict", "list"),
    case("convert-tensor", lambda f: convert(f, WEIGHT), ValueError, "`checkpoint`", "state dict", "Tensor"),
    case("convert-nothing", lambda f: convert(f, {}), ValueError, "`checkpoint`", "state dict"),
    case("convert-nested", lambda f: convert(f, {"net": LINEAR}), ValueError, "`checkpoint`", "only tensors", "'net' is a dict"),
    case("convert-number", lambda f: convert(f, {**LINEAR, "epoch": 3}), ValueError, "`checkpoint`", "only tensors", "'epoch' is a int"),
    case("convert-key-type", lambda f: convert(f, {0: WEIGHT}), ValueError, "`checkpoint`", "entry 0"),
    case("convert-nan", lambda f: convert(f, {**LINEAR, "Linear.bias": BIAS * NAN}), ValueError, "`checkpoint`", "'Linear.bias'", "NaN"),
    case("convert-nan-safetensors", convert_nan_safetensors, ValueError, "`checkpoint`", "'Linear.bias'", "NaN"),
    case("convert-sparse", lambda f: convert(f, {**LINEAR, "Linear.weight": WEIGHT.to_sparse()}), ValueError, "`checkpoint`", "'Linear.weight'", "dense"),
    case("convert-integers", lambda f: convert(f, {name: value.long() for name, value in LINEAR.items()}), ValueError, "`checkpoint`", "floating-point dtype"),
    case("convert-two-dtypes", lambda f: convert(f, {**LINEAR, "Linear.bias": BIAS.double()}), ValueError, "`checkpoint`", "same floating-point dtype"),
    case("convert-no-bias", lambda f: convert(f, {"Linear.weight": WEIGHT}), ValueError, "`checkpoint`", "'linear'", "one bias for each weight"),
    case("convert-no-weight", lambda f: convert(f, {"Linear.bias": BIAS}), ValueError, "`checkpoint`", "'linear'", "one bias for each weight"),
    case("convert-weight-rank", lambda f: convert(f, {**LINEAR, "Linear.weight": WEIGHT[None]}), ValueError, "`checkpoint`", "(prediction, context)", "(1, 4, 8)"),
    case("convert-bias-rank", lambda f: convert(f, {**LINEAR, "Linear.bias": BIAS[None]}), ValueError, "`checkpoint`", "biases of 'linear'", "length 4"),
    case("convert-bias-length", lambda f: convert(f, {**LINEAR, "Linear.bias": torch.ones(5)}), ValueError, "`checkpoint`", "biases of 'linear'", "length 4"),
    case("convert-zero-size", lambda f: convert(f, {"Linear.weight": torch.ones(0, 8), "Linear.bias": torch.ones(0)}), ValueError, "`checkpoint`", "(prediction, context)"),
    case("convert-channel-gap", lambda f: convert(f, {name: value for name, value in INDIVIDUAL.items() if ".1." not in name}), ValueError, "`checkpoint`", "channels 0, 1, 2", "[0, 2]"),
    case("convert-channel-shapes", lambda f: convert(f, {**INDIVIDUAL, "Linear.2.weight": torch.ones(4, 9)}), ValueError, "`checkpoint`", "(prediction, context)", "(4, 9)"),
    case("convert-mixed", lambda f: convert(f, {**INDIVIDUAL, **LINEAR}), ValueError, "`checkpoint`", "shared or one a channel"),
    case("convert-layer-sizes", lambda f: convert(f, {**DLINEAR, "Linear_Trend.weight": torch.ones(4, 9)}, None), ValueError, "`checkpoint`", "same sizes", "'context_length': 9"),
    case("convert-half-a-model", lambda f: convert(f, {name: DLINEAR[name] for name in DLINEAR if "Trend" in name}, None), ValueError, "`checkpoint`", "`Linear_Seasonal` and `Linear_Trend`"),
    case("convert-unknown-key", lambda f: convert(f, {**LINEAR, "head.weight": WEIGHT}), ValueError, "`checkpoint`", "LTSF-Linear family", "['head.weight'] are not known"),
    case("convert-other-model", lambda f: convert(f, nn.TransformerEncoderLayer(8, 2).state_dict()), ValueError, "`checkpoint`", "LTSF-Linear family", "not known"),
    case("convert-key-twice", lambda f: convert(f, {**LINEAR, "module.Linear.bias": BIAS + 1}), ValueError, "`checkpoint`", "'module.Linear.bias' twice"),
    # Conversion: options and output
    case("convert-no-model", lambda f: convert(f, LINEAR, None), ValueError, "`original_config`", "`model`", '{"model": "NLinear"}'),
    case("convert-wrong-model", lambda f: convert(f, LINEAR, {"model": "DLinear"}), ValueError, "`original_config`", "'DLinear'", "['linear']"),
    case("convert-wrong-model-2", lambda f: convert(f, DLINEAR, {"model": "NLinear"}), ValueError, "`original_config`", "'NLinear'", "linear_trend"),
    case("convert-unknown-model", lambda f: convert(f, LINEAR, {"model": "Autoformer"}), ValueError, "`original_config`", "`model`", "'NLinear'", "'Autoformer'"),
    case("convert-model-type", lambda f: convert(f, LINEAR, {"model": ["Linear"]}), ValueError, "`original_config`", "`model`", "['Linear']"),
    case("convert-features", lambda f: convert(f, LINEAR, {**NAMED, "features": "SM"}), ValueError, "`original_config`", "`features`", "'MS'", "'SM'"),
    case("convert-channels", lambda f: convert(f, LINEAR, {**NAMED, "enc_in": "7"}), ValueError, "`original_config`", "`enc_in`", "positive integer", "'7'"),
    case("convert-even-window", lambda f: convert(f, DLINEAR, {"task_name": "x", "moving_avg": 24}), ValueError, "`moving_average_kernel_size`", "odd", "24"),
    case("convert-window-type", lambda f: convert(f, NEURALFORECAST, {"moving_avg_window": "25"}), ValueError, "`original_config`", "`moving_avg_window`", "positive integer"),
    case("convert-several-outputs", lambda f: convert(f, NEURALFORECAST, {"h": 2}), ValueError, "`original_config`", "horizon is 2", "4 outputs", "point loss"),
    case("convert-bad-json", lambda f: convert_with_json(f, "{"), ValueError, "`original_config`", "options.json", "JSON file"),
    case("convert-json-list", lambda f: convert_with_json(f, "[1]"), ValueError, "`original_config`", "JSON object", "list"),
    case("convert-no-json", lambda f: convert(f, LINEAR, f / "absent.json"), ValueError, "`original_config`", "absent.json", "JSON file"),
    case("convert-options-type", lambda f: convert(f, LINEAR, 3), ValueError, "`original_config`", "JSON file", "int"),
    case("convert-into-full-folder", convert_into_full_folder, ValueError, "`output_dir`", "absent or an empty folder"),
    # Hub and plots
    case("hub-repo-id", lambda f: push(f, "a/b/c"), ValueError, "`repo_id`", "'namespace/name'", "'a/b/c'"),
    case("hub-repo-id-type", lambda f: push(f, 3), ValueError, "`repo_id`", "'namespace/name'", "got 3"),
    case("hub-empty-folder", lambda f: load_folder(f), ValueError, "`folder`", "model saved by hvmodels"),
    case("hub-no-folder", lambda f: load_folder(f / "absent"), ValueError, "`folder`", "model saved by hvmodels", "absent"),
    case("hub-other-model", lambda f: load_damaged(f, '{"model_type": "bert"}'), ValueError, "`folder`", "`model_type`", "'ltsf_linear'", "'bert'"),
    case("hub-damaged-config", lambda f: load_damaged(f, "{"), ValueError, "`folder`", "model saved by hvmodels"),
    case("hub-export-processor", lambda f: export(model(), None, f / "output"), ValueError, "`processor`", "LTSFLinearFeatureExtractor", "NoneType"),
    case("plot-other-series", plot_other_series, ValueError, "`forecast`", "column of the series", "['0']"),
    case("plot-channel", lambda f: plot_temporal_map(model(), channel=3), ValueError, "`channel`", "[0, 3)", "got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), CASES)
def test_bad_input(call, error, words, tmp_path):
    with pytest.raises(error) as raised:
        call(tmp_path)
    assert raised.type is error
    message = str(raised.value)
    assert [word for word in words if word not in message] == [], message
    assert not (tmp_path / "marker").exists()
    left_over = {path.name for path in tmp_path.iterdir() if path.name == "output" or path.name.startswith(".")}
    assert left_over == set()


def test_hostile_pickle_is_one(tmp_path):
    """What the conversion must not do: with code allowed to run, the marker appears."""
    torch.save(Hostile(tmp_path), tmp_path / "checkpoint.pth")
    torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert (tmp_path / "marker").exists()


def test_full_folder_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="`output_dir`"):
        convert_into_full_folder(tmp_path)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]


def test_inputs_of_the_table_are_good_but_for_what_a_row_changes(tmp_path):
    config(tmp_path)
    forward(tmp_path, past_observed_mask=torch.ones(2, 12, 3), future_values=torch.ones(2, 5, 3))
    extractor(tmp_path, table(tmp_path), columns=["a", "b"], frequency="D", timestamp_column="date")
    dated(tmp_path, DATES)
    csv(tmp_path, "date,a\n" + "".join(f"{date},1\n" for date in DATES))
    data(tmp_path, features="S", target="1")
    forecast(tmp_path, interval=0.9, period=12, prediction_length=3, missing_values="forward_fill", fit=True)
    own_forecaster()(np.ones((20, 3)))
    for name, content, options in (
        ("linear", LINEAR, {**NAMED, "features": "MS", "enc_in": 7}),
        ("individual", INDIVIDUAL, {"model": "NLinear"}),
        ("dlinear", DLINEAR, {"task_name": "x", "moving_avg": 23}),
        ("neuralforecast", NEURALFORECAST, {"moving_avg_window": 23, "h": 4}),
    ):
        (tmp_path / name).mkdir()
        assert (convert(tmp_path / name, content, options) / "model.safetensors").is_file()
    plot_temporal_map(model(), channel=2)
