"""The closed-form fit to one series, against least squares by other means."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from hvmodels import LTSFLinearConfig, LTSFLinearFeatureExtractor, LTSFLinearForPrediction, TimeSeries, read_series
from hvmodels.models.forecasting.series_fit_ltsf_linear import (
    PENALTIES,
    RidgeProblem,
    fit_series,
    infer_period,
    nlinear_forecast,
    required_rows,
    sample_windows,
    seasonal_naive_map,
)


CONTEXT, HORIZON = 7, 3
TOLERANCE = {"atol": 1e-9, "rtol": 1e-9}


def walk(num_rows=60, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, channels, generator=generator, dtype=torch.float64).cumsum(0)


def make_windows(values, length):
    """All windows of all channels, by a loop."""
    rows = [
        values[start : start + length, channel]
        for channel in range(values.shape[1])
        for start in range(len(values) - length + 1)
    ]
    return torch.stack(rows)


def fit(values, prediction_length, period=None, **options):
    model = LTSFLinearForPrediction(LTSFLinearConfig(**options))
    series = values if isinstance(values, TimeSeries) else read_series(values)
    return fit_series(model, LTSFLinearFeatureExtractor(), series, prediction_length, period)


# Windows and least squares


def test_sample_windows():
    values = walk()
    expected = make_windows(values, 10)
    assert torch.equal(sample_windows(values, 10, 1000), expected)
    some = sample_windows(values, 10, 20)
    assert some.shape == (20, 10)
    assert len({tuple(row.tolist()) for row in some}) == 20  # without repetition
    assert {tuple(row.tolist()) for row in some} <= {tuple(row.tolist()) for row in expected}
    torch.manual_seed(7)
    assert torch.equal(sample_windows(values, 10, 20), some)  # a fixed choice


def differences(windows):
    past, future = windows.split([CONTEXT, HORIZON], dim=1)
    return past - past[:, -1:], future - past[:, -1:]


def test_small_penalty_is_ordinary_least_squares():
    values = walk()
    windows = make_windows(values, CONTEXT + HORIZON)
    ((weight, bias),) = RidgeProblem(CONTEXT, HORIZON).add(values).solve([1e-13])
    past, future = differences(windows)
    rows = torch.cat([past[:, :-1], torch.ones(len(past), 1)], dim=1)  # the last column is 0 and has no weight
    solution = torch.linalg.lstsq(rows, future).solution
    assert_close(weight[:, :-1], solution[:-1].T, atol=1e-7, rtol=1e-7)
    assert_close(bias, solution[-1], atol=1e-7, rtol=1e-7)
    assert not weight[:, -1].any()


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 1.0, 10.0])
def test_penalty_is_augmented_least_squares(penalty):
    """Ridge as least squares with extra rows sqrt(penalty) I and no penalty on the intercept."""
    values = walk()
    past, future = differences(make_windows(values, CONTEXT + HORIZON))
    ((weight, bias),) = RidgeProblem(CONTEXT, HORIZON).add(values).solve([penalty])
    mean_variance = past.var(0, correction=0).mean()
    extra = torch.eye(CONTEXT, dtype=torch.float64) * (penalty * mean_variance * len(past)) ** 0.5
    rows = torch.cat([torch.cat([past, torch.ones(len(past), 1)], 1), torch.cat([extra, torch.zeros(CONTEXT, 1)], 1)])
    targets = torch.cat([future, torch.zeros(CONTEXT, HORIZON)])
    solution = torch.linalg.lstsq(rows, targets).solution
    assert_close(weight, solution[:-1].T, **TOLERANCE)
    assert_close(bias, solution[-1], **TOLERANCE)


def test_many_penalties_at_once():
    problem = RidgeProblem(CONTEXT, HORIZON).add(walk())
    together = problem.solve(PENALTIES)
    assert len(together) == len(PENALTIES)
    for penalty, solution in zip(PENALTIES, together, strict=True):
        assert_close(solution, problem.solve([penalty])[0], **TOLERANCE)


def test_windows_can_be_added_in_parts():
    values = walk()
    windows = make_windows(values, CONTEXT + HORIZON)
    whole = RidgeProblem(CONTEXT, HORIZON).add(values).solve([0.1])
    parts = RidgeProblem(CONTEXT, HORIZON)
    for part in windows.split(13):
        parts.add_windows(part)
    assert_close(parts.solve([0.1]), whole, **TOLERANCE)


@pytest.mark.parametrize("context_length", [1, 2, 5, CONTEXT])
def test_shortened_is_the_problem_of_the_same_windows(context_length):
    windows = make_windows(walk(), CONTEXT + HORIZON)
    shortened = RidgeProblem(CONTEXT, HORIZON).add_windows(windows).shortened(context_length)
    fresh = RidgeProblem(context_length, HORIZON).add_windows(windows[:, CONTEXT - context_length :])
    assert (shortened.context_length, shortened.prediction_length) == (context_length, HORIZON)
    assert_close(shortened.gram, fresh.gram, **TOLERANCE)
    assert_close(shortened.cross, fresh.cross, **TOLERANCE)
    assert_close(shortened.solve([0.1]), fresh.solve([0.1]), **TOLERANCE)


def test_a_constant_series_has_a_solution():
    ((weight, bias),) = RidgeProblem(CONTEXT, HORIZON).add(torch.full((30, 1), 0.1)).solve([0.1])
    assert_close(weight, torch.zeros_like(weight))
    assert_close(bias, torch.zeros_like(bias))


# Forecasts


def test_nlinear_forecast():
    values, weight, bias = walk(), torch.randn(HORIZON, CONTEXT).double(), torch.randn(HORIZON).double()
    forecasts = nlinear_forecast(values, weight, bias)
    assert forecasts.shape == (60 - CONTEXT - HORIZON + 1, HORIZON, 2)
    for start in range(len(forecasts)):
        for channel in range(2):
            past = values[start : start + CONTEXT, channel]
            assert_close(forecasts[start, :, channel], weight @ (past - past[-1]) + bias + past[-1], **TOLERANCE)


@pytest.mark.parametrize(("context_length", "period", "horizon"), [(12, 12, 5), (12, 5, 12), (7, 1, 3), (9, 4, 8)])
def test_seasonal_naive_map_repeats_the_last_period(context_length, period, horizon):
    values = walk(40, 1)
    forecast = nlinear_forecast(values, *seasonal_naive_map(context_length, horizon, period))[0, :, 0]
    last = values[:context_length, 0][-period:]
    assert_close(forecast, last.repeat(horizon)[:horizon], **TOLERANCE)


# Period


@pytest.mark.parametrize(
    ("frequency", "period"),
    [
        ("s", 86400), ("min", 1440), ("15min", 96), ("30min", 48), ("h", 24), ("2h", 12), ("8h", 3), ("24h", 1),
        ("36h", 1), ("D", 7), ("7D", 1), ("B", 5), ("W", 52), ("W-TUE", 52), ("2W", 26), ("MS", 12), ("ME", 12),
        ("2MS", 6), ("BMS", 12), ("BME", 12), ("QS", 4), ("QE", 4), ("QS-OCT", 4), ("BQS", 4), ("YS", 1), ("YE", 1),
        ("YE-JUN", 1), ("10YS", 1),
    ],
)  # fmt: skip
def test_period_of_dates(frequency, period):
    dates = pd.date_range("2000-01-01", periods=20, freq=frequency)
    series = TimeSeries(np.random.default_rng(0).standard_normal((20, 1)), ["a"], dates, frequency)
    assert infer_period(series) == period


@pytest.mark.parametrize(("frequency", "period"), [("D", 7), ("W-TUE", 52), ("B", 5), ("MS", 12), ("h", 24)])
def test_period_of_dates_with_gaps(frequency, period):
    dates = pd.date_range("2019-01-01", periods=60, freq=frequency)
    frame = pd.DataFrame({"a": np.arange(60.0)}, index=dates).drop(index=dates[[20, 21, 40]])
    series = read_series(frame, missing_values="interpolate")
    assert len(series) == 60
    assert infer_period(series) == period


@pytest.mark.parametrize("frequency", ["SMS", "bh", "C", "WOM-1MON"])
def test_period_of_dates_without_a_usual_season_comes_from_the_values(frequency):
    dates = pd.date_range("2000-01-01", periods=100, freq=frequency)
    series = TimeSeries(np.sin(np.arange(100) * 2 * np.pi / 10)[:, None], ["a"], dates, frequency)
    assert infer_period(series) == 10


@pytest.mark.parametrize("period", [4, 7, 12, 24, 50])
def test_period_of_an_array(period):
    rng = np.random.default_rng(period)
    time = np.arange(6 * period + 20)
    pattern = rng.standard_normal((period, 2))
    values = pattern[time % period] + 0.1 * rng.standard_normal((len(time), 2)) + 0.2 * time[:, None]
    assert infer_period(read_series(values)) == period


@pytest.mark.parametrize(
    "values",
    [np.zeros(100), np.arange(100.0), np.random.default_rng(0).standard_normal(300).cumsum(), [1.0], [1.0, 2.0, 3.0]],
    ids=["constant", "line", "walk", "one", "three"],
)
def test_no_period(values):
    assert infer_period(read_series(values)) == 1


# The whole fit


@pytest.mark.parametrize("prediction_length", [1, 2, 5, 24])
@pytest.mark.parametrize("period", [1, 2, 7, 24])
def test_required_rows_are_exactly_enough(prediction_length, period):
    needed = required_rows(prediction_length, period)
    values = walk(needed, 1).numpy()
    fitted = fit(values, prediction_length, period)
    assert fitted.report["backtest_windows"] >= 10
    assert len(fitted.backtest_forecasts) == fitted.report["backtest_windows"]
    assert np.isfinite(fitted.backtest_forecasts).all()
    with pytest.raises(ValueError, match=f"`series` must have at least {needed} rows .*, got {needed - 1}"):
        fit(values[1:], prediction_length, period)


def seasonal(num_rows=200, channels=2, noise=0.2):
    time, rng = np.arange(num_rows)[:, None], np.random.default_rng(0)
    values = 3 * np.sin(time * np.pi / 6 + np.arange(channels)) + 0.02 * time
    return (values + noise * rng.standard_normal((num_rows, channels))) * 10.0 ** np.arange(channels)


def test_fitted_model_is_the_ridge_solution_of_all_rows():
    values = seasonal()
    fitted = fit(values, 6)
    report = fitted.report
    assert (report["winner"], report["period"]) == ("linear", 12)
    assert report["linear_mae"] < report["seasonal_naive_mae"]
    model, extractor = fitted.model, fitted.feature_extractor
    assert not model.training
    assert (model.config.variant, model.config.num_input_channels, model.config.individual) == ("nlinear", 2, False)
    assert model.config.context_length == extractor.context_length == report["context_length"]
    assert model.config.prediction_length == extractor.prediction_length == 6
    np.testing.assert_allclose(extractor.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(extractor.scale, values.std(0), rtol=1e-12)
    standardized = torch.from_numpy((values - values.mean(0)) / values.std(0))
    ((weight, bias),) = RidgeProblem(report["context_length"], 6).add(standardized).solve([report["penalty"]])
    assert_close(model.model.linear.weight.detach(), weight.float(), atol=1e-7, rtol=1e-6)
    assert_close(model.model.linear.bias.detach(), bias.float(), atol=1e-7, rtol=1e-6)


def test_backtest_is_made_from_the_rows_before_it():
    values = seasonal()
    fitted = fit(values, 6)
    context, border = fitted.report["context_length"], 140  # the last 30 % of 200 rows are the backtest
    mean, scale = values[:border].mean(0), values[:border].std(0)
    standardized = torch.from_numpy((values - mean) / scale)
    problem = RidgeProblem(context, 6).add(standardized[:border])
    ((weight, bias),) = problem.solve([fitted.report["penalty"]])
    forecasts = nlinear_forecast(standardized[border - context :], weight, bias).numpy()
    assert fitted.report["backtest_windows"] == len(forecasts) == 60 - 6 + 1
    np.testing.assert_allclose(fitted.backtest_forecasts, forecasts * scale + mean, rtol=1e-9)
    truth = np.stack([values[start : start + 6] for start in range(border, 195)])
    errors = np.abs(fitted.backtest_forecasts - truth) / scale
    assert fitted.report["linear_mae"] == pytest.approx(errors.mean())
    naive = np.stack([values[start - 12 : start - 6] for start in range(border, 195)])
    assert fitted.report["seasonal_naive_mae"] == pytest.approx((np.abs(naive - truth) / scale).mean())


def test_seasonal_naive_winner():
    pattern = np.random.default_rng(1).standard_normal((12, 2))
    values = np.tile(pattern, (15, 1))
    fitted = fit(values, 20)
    assert (fitted.report["winner"], fitted.report["context_length"]) == ("seasonal_naive", 12)
    past_values = fitted.feature_extractor(values)["past_values"]
    forecast = fitted.feature_extractor.inverse_transform(fitted.model(past_values).prediction_outputs[0])
    np.testing.assert_allclose(forecast, np.tile(pattern, (2, 1))[:20], atol=1e-6)
    np.testing.assert_allclose(fitted.backtest_forecasts[0], values[126:146], atol=1e-9)


def test_the_given_model_and_extractor_are_left_alone():
    model = LTSFLinearForPrediction(LTSFLinearConfig(variant="dlinear", context_length=8, prediction_length=4))
    extractor = LTSFLinearFeatureExtractor(8, 4, timestamp_column="time", missing_values="interpolate")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = extractor.to_dict()
    fitted = model.fit_to_series(extractor, read_series(seasonal()), 6, 12)
    assert extractor.to_dict() == settings
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert (fitted.feature_extractor.timestamp_column, fitted.feature_extractor.missing_values) == (
        "time",
        "interpolate",
    )
    again = model.fit_to_series(extractor, read_series(seasonal()), 6, 12)
    assert again.report == fitted.report
    np.testing.assert_array_equal(again.backtest_forecasts, fitted.backtest_forecasts)
    assert model.rows_to_fit(read_series(seasonal()), 6) == required_rows(6, 12)


def test_predicted_channels_are_those_of_the_given_model():
    values = seasonal(channels=3)
    every = fit(values, 6, num_input_channels=3)
    some = fit(values, 6, num_input_channels=3, prediction_channel_indices=[-1, 0])
    np.testing.assert_array_equal(some.backtest_forecasts, every.backtest_forecasts[..., [2, 0]])
    assert list(some.model.config.prediction_channel_indices) == [-1, 0]
    past_values = some.feature_extractor(values)["past_values"]
    assert torch.equal(
        some.model(past_values).prediction_outputs, every.model(past_values).prediction_outputs[..., [2, 0]]
    )
