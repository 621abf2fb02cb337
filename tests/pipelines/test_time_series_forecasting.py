"""The pipeline `time-series-forecasting`: what goes in, what comes out, and that backtests do not look ahead."""

import socket

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline

from hvmodels import (
    LTSFLinearConfig,
    LTSFLinearFeatureExtractor,
    LTSFLinearForPrediction,
    TimeSeriesForecastingPipeline,
    read_series,
)
from hvmodels.models.forecasting.series_fit_ltsf_linear import required_rows
from hvmodels.pipelines.pipeline_time_series_forecasting import conformal_margins


TASK = "time-series-forecasting"
CONTEXT, HORIZON = 12, 4


@pytest.fixture(scope="module")
def default():
    return pipeline(TASK)


def seasonal(num_rows=240, channels=2, noise=0.3, seed=0):
    """Season of 12 steps, a trend, and noise."""
    time = np.arange(num_rows)[:, None]
    rng = np.random.default_rng(seed)
    phase, slope = rng.uniform(0, 6, channels), rng.uniform(0.01, 0.03, channels)
    return 5 * np.sin(time * np.pi / 6 + phase) + slope * time + noise * rng.standard_normal((num_rows, channels))


def dated(values, frequency="MS", start="2001-01-01"):
    frame = pd.DataFrame(values, columns=[*"abcdefgh"[: values.shape[1]]])
    frame.insert(0, "date", pd.date_range(start, periods=len(values), freq=frequency))
    return frame


def own_pipeline(standardization="train", train=None, channels=2, **options):
    """A model of its own with random weights, and its scaler."""
    config = LTSFLinearConfig(
        variant="dlinear",
        context_length=CONTEXT,
        prediction_length=HORIZON,
        num_input_channels=channels,
        individual=True,
        moving_average_kernel_size=5,
        **options,
    )
    extractor = LTSFLinearFeatureExtractor(CONTEXT, HORIZON, standardization=standardization)
    if train is not None:
        extractor.fit(train)
    return pipeline(TASK, model=LTSFLinearForPrediction(config).eval(), feature_extractor=extractor)


def by_hand(forecaster, values):
    """Standardise the last rows, apply the model in float32, bring back: (prediction_length, channels)."""
    extractor = forecaster.feature_extractor
    mean, scale = np.asarray(extractor.mean), np.asarray(extractor.scale)
    past_values = torch.from_numpy(((values[-CONTEXT:] - mean) / scale).astype(np.float32))[None]
    with torch.no_grad():
        predictions = forecaster.model.model(past_values).forecast[0]
    return predictions.double().numpy() * scale + mean


def numbers(forecast):
    return forecast.drop(columns=[name for name in ("date", "step") if name in forecast]).to_numpy()


# Inputs


def test_default_model_needs_no_network(monkeypatch):
    def connect(*arguments):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    forecaster = pipeline(TASK)
    assert type(forecaster) is TimeSeriesForecastingPipeline
    forecast = forecaster(seasonal(40, 1)[:, 0])
    assert list(forecast.columns) == ["step", "0"]
    assert list(forecast["step"]) == list(range(1, 49))
    assert np.isfinite(forecast["0"]).all()
    assert forecast.attrs["report"] == {"winner": "pretrained"}


def test_every_kind_of_input_gives_the_same_numbers(default, tmp_path):
    values = np.round(seasonal(), 3)
    frame = dated(values)
    frame.to_csv(tmp_path / "series.csv", index=False)
    options = {"prediction_length": 6, "period": 12, "interval": 0.8}
    expected = default(frame, **options)
    assert list(expected.columns) == ["date", "a", "a_lower", "a_upper", "b", "b_lower", "b_upper"]
    for data in (str(tmp_path / "series.csv"), tmp_path / "series.csv", frame.set_index("date")):
        pd.testing.assert_frame_equal(default(data, **options), expected, rtol=1e-12)
    for data in (values, torch.from_numpy(values), values.tolist(), pd.DataFrame(values), read_series(values)):
        forecast = default(data, **options)
        assert list(forecast.columns)[:2] == ["step", "0"]
        assert list(forecast["step"]) == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(numbers(forecast), numbers(expected), rtol=1e-12)
    single = default(frame.set_index("date")["b"], **options)
    assert list(single.columns) == ["date", "b", "b_lower", "b_upper"]
    np.testing.assert_allclose(numbers(single), numbers(default(values[:, 1], **options)), rtol=1e-12)
    np.testing.assert_allclose(numbers(default(values[:, 1].tolist(), **options)), numbers(single), rtol=1e-12)


def make_batch():
    """Series of different lengths: some are long enough for a fit, some not; some need padding."""
    return [seasonal(rows, channels, seed=rows) for rows, channels in ((240, 2), (30, 1), (200, 1), (60, 2), (31, 1))]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_results_do_not_depend_on_batches_or_order(default, batch_size, kind):
    series = make_batch()
    alone = [default(values, prediction_length=5) for values in series]
    assert [frame.attrs["report"]["winner"] == "pretrained" for frame in alone] == [False, True, False, False, True]
    order = [3, 0, 4, 2, 1]
    data = [series[index] for index in order]
    data = (values for values in data) if kind is iter else kind(data)
    together = list(default(data, prediction_length=5, batch_size=batch_size))
    assert len(together) == 5
    for index, forecast in zip(order, together, strict=True):
        pd.testing.assert_frame_equal(forecast, alone[index], rtol=1e-6, atol=1e-5)  # values about 5, in float32
        assert forecast.attrs == alone[index].attrs


@pytest.mark.parametrize("batch_size", [1, 3])
def test_intervals_in_batches(default, batch_size):
    series = [seasonal(rows, 2, seed=rows) for rows in (240, 200, 220)]
    alone = [default(values, prediction_length=5, interval=0.7) for values in series]
    together = default(series, prediction_length=5, interval=0.7, batch_size=batch_size)
    for one, other in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(other, one, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("policy", ["forward_fill", "interpolate"])
def test_missing_values(default, policy):
    values = seasonal(channels=1)
    gaps = values.copy()
    gaps[[20, 150, 151, 238]] = np.nan
    filled = pd.DataFrame(gaps)
    filled = (filled.ffill() if policy == "forward_fill" else filled.interpolate()).to_numpy()
    with pytest.raises(ValueError, match="`data` has 4 missing values"):
        default(gaps)
    forecast = default(gaps, prediction_length=5, missing_values=policy)
    pd.testing.assert_frame_equal(forecast, default(filled, prediction_length=5), rtol=1e-9)
    # Absent dates are the same as missing values.
    frame = dated(values).drop(index=[20, 150, 151, 238])
    absent = default(frame, prediction_length=5, missing_values=policy)
    np.testing.assert_allclose(absent["a"], forecast["0"], rtol=1e-9)
    assert absent["date"][0] == pd.Timestamp("2021-01-01")


# Dates and units


@pytest.mark.parametrize(
    ("frequency", "start", "first", "last"),
    [
        ("h", "2024-02-28 20:00", "2024-03-04 00:00", "2024-03-04 04:00"),
        ("15min", "2024-02-28 20:00", "2024-02-29 21:00", "2024-02-29 22:00"),
        ("D", "2023-11-21", "2024-02-29", "2024-03-04"),
        ("MS", "2015-11-01", "2024-03-01", "2024-07-01"),
        ("ME", "2015-11-30", "2024-03-31", "2024-07-31"),
        ("B", "2024-01-01", "2024-05-20", "2024-05-24"),
        ("W-TUE", "2022-04-05", "2024-03-05", "2024-04-02"),
        ("QS-JAN", "2000-01-01", "2025-01-01", "2026-01-01"),
        ("YS-JAN", "1901-01-01", "2001-01-01", "2005-01-01"),
    ],
)
def test_dates_go_on(default, frequency, start, first, last):
    frame = dated(seasonal(100, 1), frequency, start)
    forecast = default(frame, prediction_length=5)
    assert list(forecast["date"]) == list(pd.date_range(start, periods=105, freq=frequency)[100:])
    assert (forecast["date"].iloc[0], forecast["date"].iloc[-1]) == (pd.Timestamp(first), pd.Timestamp(last))


def test_time_zones_and_clock_changes(default):
    dates = pd.date_range("2024-03-29", periods=48, freq="h", tz="Europe/Berlin")
    forecast = default(pd.DataFrame({"a": seasonal(48, 1)[:, 0]}, index=dates), prediction_length=5)
    assert [date.hour for date in forecast["date"]] == [0, 1, 3, 4, 5]  # 2 o'clock does not exist on 31 March 2024


@pytest.mark.parametrize("rows", [240, 60, 30], ids=["long", "medium", "pretrained"])
def test_forecasts_follow_the_units_of_the_data(default, rows):
    values = seasonal(rows)
    options = {"prediction_length": 5, "interval": 0.8 if rows == 240 else None}
    forecast = default(values, **options)
    other = default(values * 1000 + 5e4, **options)
    assert other.attrs["report"].get("context_length") == forecast.attrs["report"].get("context_length")
    np.testing.assert_allclose(numbers(other), numbers(forecast) * 1000 + 5e4, rtol=1e-6)
    # The two channels are in units of their own.
    mixed = default(values * [1e-6, 1e6], **options)
    np.testing.assert_allclose(mixed["0"] * 1e6, forecast["0"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mixed["1"] / 1e6, forecast["1"], rtol=1e-5, atol=1e-5)


def test_constant_series(default):
    for value in (0.0, 0.1, -3e9):
        for rows in (10, 200):
            forecast = default(np.full(rows, value), prediction_length=3)
            np.testing.assert_allclose(forecast["0"], value, rtol=1e-6)


# Models


def test_model_with_a_scaler_is_standardise_apply_and_bring_back():
    values = seasonal() * [1, 100] + [0, 1e4]
    forecaster = own_pipeline(train=values[:150])
    forecast = forecaster(values)
    np.testing.assert_allclose(numbers(forecast), by_hand(forecaster, values), rtol=1e-6)
    assert forecast.attrs["report"] == {"winner": "pretrained"}
    shorter = forecaster(values, prediction_length=2)
    np.testing.assert_array_equal(numbers(shorter), numbers(forecast)[:2])


def test_columns_of_a_table_come_in_the_order_of_training():
    frame = dated(seasonal())
    forecaster = own_pipeline(train=frame)
    assert forecaster.feature_extractor.columns == ["a", "b"]
    shuffled = frame.assign(extra=0.0)[["date", "extra", "b", "a"]]
    pd.testing.assert_frame_equal(forecaster(shuffled), forecaster(frame))


@pytest.mark.parametrize("indices", [[-1], [2, 0]])
def test_predicted_channels(indices):
    values = seasonal(channels=3) * [1, 10, 100]
    frame = dated(values)
    forecaster = own_pipeline(train=frame, channels=3, prediction_channel_indices=indices)
    forecast = forecaster(frame, interval=0.8)
    names = [["a", "b", "c"][index] for index in indices]
    assert list(forecast.columns) == ["date"] + [f"{name}{end}" for name in names for end in ("", "_lower", "_upper")]
    np.testing.assert_allclose(forecast[names], by_hand(forecaster, values)[:, indices], rtol=1e-6)
    backtest = forecaster.backtest(frame)
    assert backtest.columns == names
    np.testing.assert_array_equal(backtest.targets[-1], values[-HORIZON:, indices])
    margins = conformal_margins(backtest.targets - backtest.forecasts, 0.8)
    for position, name in enumerate(names):
        np.testing.assert_allclose(forecast[f"{name}_upper"] - forecast[name], margins[:, position], rtol=1e-6)
    fitted = forecaster(frame, fit=True, period=12, interval=0.8)
    assert list(fitted.columns) == list(forecast.columns)
    assert fitted.attrs["report"]["winner"] in ("linear", "seasonal_naive")


def test_short_history_takes_the_pretrained_model(default):
    needed = required_rows(5, 12)
    values = seasonal(needed)
    assert default(values, prediction_length=5, period=12).attrs["report"]["winner"] != "pretrained"
    forecast = default(values[1:], prediction_length=5, period=12)
    assert forecast.attrs["report"] == {"winner": "pretrained"}
    features = default.feature_extractor(values[1:])
    with torch.no_grad():
        predictions = default.model(features["past_values"]).prediction_outputs[0]
    location, scale = features["location"][0].numpy(), features["scale"][0].numpy()
    expected = default.feature_extractor.inverse_transform(predictions, location=location, scale=scale)[:5]
    np.testing.assert_allclose(numbers(forecast), expected, rtol=1e-6)
    forbidden = default(values, prediction_length=5, period=12, fit=False)
    assert forbidden.attrs["report"] == {"winner": "pretrained"}


def test_seasonal_naive_wins_on_a_pure_season(default):
    pattern = np.random.default_rng(1).standard_normal(12) * 10
    values = np.tile(pattern, 20)
    forecast = default(values, prediction_length=30)
    report = forecast.attrs["report"]
    assert (report["winner"], report["period"]) == ("seasonal_naive", 12)
    assert report["seasonal_naive_mae"] < 1e-12 < report["linear_mae"]
    np.testing.assert_allclose(forecast["0"], np.tile(pattern, 3)[:30], atol=1e-4)


def test_linear_wins_on_trend_and_season(default):
    time = np.arange(240 + 24)
    values = 0.5 * time + 5 * np.sin(time * np.pi / 6)
    forecast = default(values[:240], prediction_length=24)
    report = forecast.attrs["report"]
    assert (report["winner"], report["period"]) == ("linear", 12)
    assert report["linear_mae"] < 0.1 * report["seasonal_naive_mae"]
    assert (
        np.abs(forecast["0"] - values[240:]).mean()
        < 0.1 * np.abs(values[228 + np.arange(24) % 12] - values[240:]).mean()
    )


def test_the_model_of_the_pipeline_is_not_changed(default):
    before = {name: tensor.clone() for name, tensor in default.model.state_dict().items()}
    settings = default.feature_extractor.to_dict()
    default(seasonal(), interval=0.9, prediction_length=5)
    assert default.feature_extractor.to_dict() == settings
    for name, tensor in default.model.state_dict().items():
        assert torch.equal(tensor, before[name])


# Intervals


@pytest.mark.parametrize("coverage", [0.5, 0.9])
@pytest.mark.parametrize("fit", [True, False], ids=["fitted", "pretrained"])
def test_intervals_cover_as_often_as_they_say(default, coverage, fit):
    channels, length = 400, 3
    values = seasonal(600 + length, channels, noise=1.0)
    history, future = values[:-length], values[-length:]
    forecast = default(history, prediction_length=length, period=12, interval=coverage, fit=fit)
    names = [str(channel) for channel in range(channels)]
    point, lower, upper = (forecast[[f"{name}{end}" for name in names]].to_numpy() for end in ("", "_lower", "_upper"))
    assert (lower < point).all() and (point < upper).all()
    shares = ((lower <= future) & (future <= upper)).mean(axis=1)
    # At one step, the 400 channels are independent draws, each covered with the probability asked for: 4 standard
    # deviations of a binomial share.
    assert (np.abs(shares - coverage) < 4 * np.sqrt(coverage * (1 - coverage) / channels)).all()


def test_wider_coverage_gives_wider_intervals(default):
    widths = []
    for coverage in (0.5, 0.8, 0.95):
        forecast = default(seasonal(), prediction_length=5, interval=coverage)
        widths.append(forecast["0_upper"] - forecast["0_lower"])
    assert (widths[0] < widths[1]).all() and (widths[1] < widths[2]).all()


def test_margins_are_order_statistics():
    residuals = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))[:, None, None] * np.array([1, -2])
    # ceil((19 + 1) * coverage): the smallest rank whose coverage is at least the one asked for
    for coverage, rank in ((0.5, 10), (0.9, 18), (0.95, 19), (0.01, 1)):
        np.testing.assert_array_equal(conformal_margins(residuals, coverage), [[rank, 2 * rank]])
    with pytest.raises(ValueError, match="needs at least 24 backtest windows, and the history gives 19"):
        conformal_margins(residuals, 0.96)


# Backtest


@pytest.mark.parametrize("kind", ["array", "frame"])
def test_backtest_equals_a_loop_of_forecasts(kind):
    values = seasonal(60) * [1, 100]
    data = values if kind == "array" else dated(values)
    forecaster = own_pipeline(train=data[:40])
    backtest = forecaster.backtest(data)
    count = 60 - CONTEXT - HORIZON + 1
    assert backtest.forecasts.shape == backtest.targets.shape == (count, HORIZON, 2)
    for index in range(count):
        known = index + CONTEXT
        forecast = forecaster(data[:known])
        np.testing.assert_allclose(backtest.forecasts[index], numbers(forecast), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(backtest.targets[index], values[known : known + HORIZON])
        if kind == "array":
            assert backtest.origins[index] == known - 1
        else:
            assert backtest.origins[index] == data["date"][known - 1]
            assert forecast["date"][0] == data["date"][known]
    error = backtest.forecasts - backtest.targets
    assert backtest.metrics["mae"] == pytest.approx(np.abs(error).mean())
    assert backtest.metrics["mse"] == pytest.approx((error**2).mean())
    assert backtest.metrics["rmse"] == pytest.approx((error**2).mean() ** 0.5)
    assert (
        list(backtest.metrics["mae_per_column"]) == backtest.columns == (["0", "1"] if kind == "array" else ["a", "b"])
    )
    for index, name in enumerate(backtest.columns):
        assert backtest.metrics["mae_per_column"][name] == pytest.approx(np.abs(error[..., index]).mean())
    assert backtest.report == {"winner": "pretrained"}


def test_backtest_of_a_shorter_forecast():
    values = seasonal(60)
    forecaster = own_pipeline(train=values)
    long, short = forecaster.backtest(values), forecaster.backtest(values, prediction_length=1)
    assert len(short.forecasts) == len(long.forecasts) + HORIZON - 1
    np.testing.assert_allclose(short.forecasts[: len(long.forecasts)], long.forecasts[:, :1], rtol=1e-5, atol=1e-5)
    assert short.origins[-1] == 58


def test_backtest_of_a_long_series_is_limited_to_its_end():
    values = seasonal(1100)
    backtest = own_pipeline(train=values).backtest(values)
    assert len(backtest.forecasts) == 1000
    assert backtest.origins[-1] == 1100 - HORIZON - 1
    np.testing.assert_array_equal(backtest.targets[-1], values[-HORIZON:])


@pytest.mark.parametrize("fit", [True, False], ids=["fitted", "pretrained"])
def test_backtest_does_not_look_ahead(default, fit):
    values = seasonal(240)
    options = {"prediction_length": 6, "period": 12, "fit": fit}
    before = default.backtest(values, **options)
    assert before.report["winner"] == ("linear" if fit else "pretrained")
    changed = values.copy()
    border = 215  # the first row that is changed, well inside the backtest
    changed[border:] += np.random.default_rng(5).standard_normal(changed[border:].shape)
    after = default.backtest(changed, **options)
    assert after.report["winner"] == before.report["winner"]
    unaware = before.origins < border
    assert 10 < unaware.sum() < len(unaware) - 10
    np.testing.assert_allclose(after.forecasts[unaware], before.forecasts[unaware], rtol=1e-12)
    assert (np.abs(after.forecasts[~unaware] - before.forecasts[~unaware]).max(axis=(1, 2)) > 1e-3).all()


def test_fitted_backtest_is_the_last_part_of_the_history(default):
    values = seasonal(240)
    backtest = default.backtest(values, prediction_length=6, period=12)
    assert backtest.report["backtest_windows"] == len(backtest.forecasts) == 72 - 6 + 1  # 30 % of 240 rows
    assert backtest.origins[0] == 240 - 72 - 1
    assert backtest.origins[-1] == 240 - 6 - 1
    np.testing.assert_array_equal(backtest.targets[0], values[168:174])
    scaled = np.abs(backtest.forecasts - backtest.targets) / values[:168].std(axis=0)
    assert backtest.report["linear_mae"] == pytest.approx(scaled.mean())
