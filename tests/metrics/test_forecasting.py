import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hvmodels.datasets.forecasting import ForecastingWindows
from hvmodels.metrics.forecasting import (
    FinancialMetrics,
    ForecastingMetrics,
    evaluate_forecaster,
    forecasting_metrics,
    pems_metrics,
)


SCALARS = ("mse", "mae", "rmse", "mape", "mspe", "rse", "corr")


@pytest.fixture
def arrays():
    """Forecasts and targets far from 0, where sums of squares would cancel."""
    random = np.random.default_rng(0)
    targets = 1000 + 5 * random.standard_normal((23, 4, 3)) + 50 * np.arange(3)
    return targets + random.standard_normal(targets.shape), targets


def in_batches(predictions, targets, sizes):
    metrics, start = ForecastingMetrics(), 0
    for size in sizes:
        metrics.update(predictions[start : start + size], targets[start : start + size])
        start += size
    assert start == len(targets)
    return metrics


def test_equals_the_original(fixtures):
    """`output.*` were computed by the original's metric functions, see the fixtures' README."""
    folder = fixtures / "dlinear" / "metrics"
    reference = load_file(folder / "io.safetensors")
    predictions, targets = reference["input.pred"], reference["input.true"]
    assert list(predictions.shape) == json.loads((folder / "config.json").read_text())["shape"]
    metrics = in_batches(predictions, targets, [10, 20, 7])
    computed = metrics.compute()
    assert computed["num_windows"] == 37
    for name in ("mse", "mae", "rmse", "mape", "mspe", "rse"):
        assert computed[name] == pytest.approx(reference[f"output.{name}"].item(), rel=1e-6), name
    np.testing.assert_allclose(metrics.corr_original(), reference["output.corr"], rtol=1e-5, atol=1e-8)


def test_equals_the_definitions(arrays):
    predictions, targets = arrays
    error = predictions - targets
    computed = forecasting_metrics(predictions, targets)
    expected = {
        "num_windows": 23,
        "mse": np.mean(error**2),
        "mae": np.mean(np.abs(error)),
        "rmse": np.sqrt(np.mean(error**2)),
        "mape": np.mean(np.abs(error / targets)),
        "mspe": np.mean((error / targets) ** 2),
        "rse": np.sqrt(np.sum(error**2)) / np.sqrt(np.sum((targets - targets.mean()) ** 2)),
        "corr": np.mean(
            [np.corrcoef(predictions[:, t, c], targets[:, t, c])[0, 1] for t in range(4) for c in range(3)]
        ),
    }
    assert computed == pytest.approx(expected, rel=1e-10)
    p, t = predictions - predictions.mean(0), targets - targets.mean(0)
    original = 0.01 * ((p * t).sum(0) / (np.sqrt((p**2 * t**2).sum(0)) + 1e-12)).mean(-1)
    metrics = in_batches(predictions, targets, [23])
    np.testing.assert_allclose(metrics.corr_original(), original, rtol=1e-9)


@pytest.mark.parametrize("sizes", [[1] * 23, [0, 5, 0, 18], [22, 1]], ids=str)
def test_independent_of_batches(arrays, sizes):
    whole, parts = in_batches(*arrays, [23]), in_batches(*arrays, sizes)
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-10)
    np.testing.assert_allclose(parts.corr_original(), whole.corr_original(), rtol=1e-9)


def test_tensors_of_any_precision(arrays):
    predictions, targets = (torch.from_numpy(array).float().requires_grad_() for array in arrays)
    expected = forecasting_metrics(predictions.detach().double().numpy(), targets.detach().double().numpy())
    assert forecasting_metrics(predictions, targets) == expected
    half = predictions.bfloat16()
    assert forecasting_metrics(half, half)["mae"] == 0


def test_perfect_forecast(arrays):
    computed = forecasting_metrics(arrays[1], arrays[1])
    assert all(computed[name] == 0 for name in ("mse", "mae", "rmse", "mape", "mspe", "rse"))
    assert computed["corr"] == pytest.approx(1, abs=1e-12)


def test_constant_series():
    ones = np.ones((6, 2, 1))
    computed = forecasting_metrics(ones + 0.5, ones)
    assert computed["mse"] == 0.25
    assert computed["rse"] == np.inf
    assert np.isnan(computed["corr"])
    assert np.isnan(forecasting_metrics(ones, ones)["rse"])
    # A channel without variance has no correlation; the mean is over the others.
    varying = np.random.default_rng(0).standard_normal((6, 2, 1))
    both = forecasting_metrics(np.concatenate([ones, varying], -1), np.concatenate([ones, 2 * varying], -1))
    assert both["corr"] == pytest.approx(1, abs=1e-12)


def test_zero_target():
    targets = np.ones((3, 2, 1))
    targets[1, 1] = 0
    computed = forecasting_metrics(targets + 1, targets)
    assert computed["mape"] == computed["mspe"] == np.inf
    assert computed["mae"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["predictions", "targets"])
def test_values_that_are_not_finite(arrays, name, value):
    inputs = dict(zip(("predictions", "targets"), arrays, strict=True))
    inputs[name][3, 1, 2] = value
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        ForecastingMetrics().update(**inputs)


def test_shapes_that_do_not_fit(arrays):
    predictions, targets = arrays
    with pytest.raises(ValueError, match=r"must both have shape .* \(23, 4, 3\) and \(23, 4, 1\)"):
        forecasting_metrics(predictions, targets[..., :1])
    with pytest.raises(ValueError, match=r"must both have shape"):
        forecasting_metrics(predictions[0], targets[0])
    metrics = in_batches(predictions, targets, [23])
    with pytest.raises(ValueError, match=r"earlier batches, \(windows, 4, 3\), got \(23, 2, 3\)"):
        metrics.update(predictions[:, :2], targets[:, :2])


def test_nothing_added():
    for metrics in (ForecastingMetrics(), in_batches(np.zeros((0, 2, 1)), np.zeros((0, 2, 1)), [0])):
        with pytest.raises(ValueError, match="No forecasts were added"):
            metrics.compute()
        with pytest.raises(ValueError, match="No forecasts were added"):
            metrics.corr_original()


# Evaluation of a forecaster: 30 rows make 30 - 5 - 2 + 1 = 24 windows


@pytest.fixture
def windows():
    return ForecastingWindows(np.random.default_rng(0).standard_normal((30, 3)), 5, 2)


def repeat_last(past_values):
    return past_values[:, -1:].repeat(1, 2, 1)


def last_and_future(windows, count=24):
    values = windows.values.astype(np.float32).astype(np.float64)
    last = np.stack([values[[index + 4, index + 4]] for index in range(count)])
    return last, np.stack([values[index + 5 : index + 7] for index in range(count)])


@pytest.mark.parametrize("batch_size", [1, 7, 24, 256])
def test_evaluation(windows, batch_size):
    computed = evaluate_forecaster(repeat_last, windows, batch_size)
    assert computed == pytest.approx(forecasting_metrics(*last_and_future(windows)), rel=1e-10)
    assert computed["num_windows"] == 24


@pytest.mark.parametrize(("drop_last_batch_size", "count"), [(5, 20), (24, 24), (7, 21)])
def test_evaluation_without_the_last_batch(windows, drop_last_batch_size, count):
    computed = evaluate_forecaster(repeat_last, windows, drop_last_batch_size=drop_last_batch_size)
    assert computed == pytest.approx(forecasting_metrics(*last_and_future(windows, count)), rel=1e-10)
    with pytest.raises(ValueError, match="24 windows, fewer than one batch of 25"):
        evaluate_forecaster(repeat_last, windows, drop_last_batch_size=25)


def test_evaluation_of_some_channels(windows):
    computed = evaluate_forecaster(lambda past: repeat_last(past)[..., [2, 0]], windows, channel_indices=[2, 0])
    last, future = last_and_future(windows)
    assert computed == pytest.approx(forecasting_metrics(last[..., [2, 0]], future[..., [2, 0]]), rel=1e-10)


def test_evaluation_keeps_no_gradients(windows):
    weight = torch.ones((), requires_grad=True)
    recorded = []

    def forecast(past_values):
        forecast = repeat_last(past_values) * weight
        recorded.append(forecast.requires_grad)
        return forecast

    evaluate_forecaster(forecast, windows)
    assert recorded == [False]


# SCINet's experiments


def test_ett_metrics_as_scinet(shared_data):
    reference = load_file(shared_data / "parity" / "scinet" / "metrics_ett" / "io.safetensors")
    computed = in_batches(reference["input.pred"], reference["input.true"], [16, 24]).compute()
    for name in ("mse", "mae", "rmse", "mape", "mspe"):
        assert computed[name] == pytest.approx(reference[f"output.{name}"].item(), rel=1e-9), name
    # One of the 24 cells has constant targets. The original means to skip it, but its rounded deviation is not quite 0, so
    # that the cell counts with a correlation of 0.
    assert computed["corr"] == pytest.approx(reference["output.corr"].item() * 24 / 23, rel=1e-9)


@pytest.fixture
def last_step_metrics(arrays):
    predictions, targets = arrays
    metrics = FinancialMetrics([1.0, 2.0, 4.0], rse_denominator=3.0, rae_denominator=2.0)
    for start in (0, 9):
        metrics.update(predictions[start : start + 9], targets[start : start + 9])
    metrics.update(predictions[18:], targets[18:])
    return metrics


def test_financial_metrics(arrays, last_step_metrics):
    predictions, targets = arrays
    error = (predictions - targets)[:, -1] * np.array([1.0, 2.0, 4.0])
    assert last_step_metrics.compute() == pytest.approx(
        {
            "num_windows": 23,
            "rse": np.sqrt((error**2).mean()) / 3,
            "rae": np.abs(error).mean() / 2,
            "corr": np.mean([np.corrcoef(predictions[:, -1, c], targets[:, -1, c])[0, 1] for c in range(3)]),
            "mse": ((predictions - targets) ** 2).mean(),
            "mae": np.abs(predictions - targets).mean(),
        },
        rel=1e-9,
    )


def test_pems_metrics_hide_large_relative_errors():
    targets = np.array([[[2.0], [0.0], [1.0], [1.0]]])
    predictions = np.array([[[3.0], [1.0], [7.0], [1.0]]])
    computed = pems_metrics(predictions, targets)
    assert computed["mae"] == 2 and computed["rmse"] == pytest.approx(np.sqrt(38 / 4))
    assert computed["mape"] == pytest.approx((0.5 + 2e-5) / 4)  # 0 / 0 and 6 count as 0
    np.testing.assert_allclose(pems_metrics(predictions, targets, by_step=True)["mae"], [1, 1, 6, 0])
    with pytest.raises(ValueError, match="must both have shape"):
        pems_metrics(predictions[0], targets[0])
    with pytest.raises(ValueError, match="`predictions` must be finite"):
        pems_metrics(predictions * np.nan, targets)
