"""Fit the linear model to one series in closed form, with a backtest against the seasonal-naive forecast.

The model is linear in its weights, so least squares over all windows has a closed form; a ridge penalty, chosen like
the context length on held-out rows, replaces the early stopping of training. The seasonal-naive forecast (repeat the
last period) is itself such a linear map, so whichever wins is returned as the same kind of model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .feature_extraction_forecasting import ForecastingFeatureExtractor, TimeSeries, import_pandas


PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
MAX_CONTEXT = 336
# Rows of a least-squares problem and of a comparison of settings; more change little and cost time.
MAX_FIT_WINDOWS = 20_000
MAX_CHOICE_WINDOWS = 4_000
MIN_BACKTEST_WINDOWS = 10
MIN_CHOICE_WINDOWS = 5


@dataclass(frozen=True)
class SeriesFit:
    """A forecaster fitted to one series.

    Args:
        model: `LTSFLinearForPrediction` whose horizon is the requested one; it predicts the channels that the given
            model predicts.
        feature_extractor: Fitted to the whole series.
        backtest_forecasts: (windows, prediction_length, predicted channels) of the winner over the last windows of the series
            that have a future, in the data's units; made by a fit to the rows before them.
        report: `winner` (`"linear"` or `"seasonal_naive"`), mean absolute errors of both over the backtest in units of
            each channel's deviation, `context_length`, `penalty`, `period`, `backtest_windows`.
    """

    model: Any
    feature_extractor: ForecastingFeatureExtractor
    backtest_forecasts: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)


def sample_windows(values: torch.Tensor, length: int, max_windows: int) -> torch.Tensor:
    """Windows (windows, length) of all channels of (time, channels), a fixed random choice if there are too many."""
    windows = values.T.unfold(1, length, 1)
    channels, count, _ = windows.shape
    index = torch.arange(channels * count)
    if len(index) > max_windows:
        index = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:max_windows]
    return windows[index // count, index % count]


class RidgeProblem:
    """Normal equations of `future - last = W (past - last) + b` over windows of standardised series."""

    def __init__(self, context_length: int, prediction_length: int):
        size = context_length + 1
        self.context_length, self.prediction_length = context_length, prediction_length
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.cross = torch.zeros(size, prediction_length, dtype=torch.float64)

    def add(self, values: torch.Tensor) -> "RidgeProblem":
        """Add windows of (time, channels)."""
        return self.add_windows(sample_windows(values, self.context_length + self.prediction_length, MAX_FIT_WINDOWS))

    def add_windows(self, windows: torch.Tensor) -> "RidgeProblem":
        """Add (windows, context_length + prediction_length)."""
        windows = windows.double()
        past, future = windows.split([self.context_length, self.prediction_length], dim=1)
        last = past[:, -1:]
        rows = torch.cat([past - last, torch.ones_like(last)], dim=1)
        self.gram += rows.T @ rows
        self.cross += rows.T @ (future - last)
        return self

    def shortened(self, context_length: int) -> "RidgeProblem":
        """The same windows, read only by their last `context_length` steps."""
        problem = RidgeProblem(context_length, self.prediction_length)
        problem.gram = self.gram[-context_length - 1 :, -context_length - 1 :]
        problem.cross = self.cross[-context_length - 1 :]
        return problem

    def solve(self, penalties: Sequence[float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight (prediction_length, context_length) and bias for each penalty, relative to the mean variance.

        The intercept is not penalised: it is eliminated first, and the rest is solved by one eigendecomposition.
        """
        count = self.gram[-1, -1]
        mean_x, mean_y = self.gram[:-1, -1] / count, self.cross[-1] / count
        covariance = self.gram[:-1, :-1] / count - torch.outer(mean_x, mean_x)
        projection = self.cross[:-1] / count - torch.outer(mean_x, mean_y)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        eigenvalues = eigenvalues.clamp_min(0)
        floor = eigenvalues.mean().clamp_min(1e-12)
        projected = vectors.T @ projection
        solutions = []
        for penalty in penalties:
            weight = (vectors @ (projected / (eigenvalues + penalty * floor)[:, None])).T
            solutions.append((weight, mean_y - weight @ mean_x))
        return solutions


def nlinear_forecast(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Forecasts (windows, prediction_length, channels) of all windows of (time, channels) that have a future."""
    prediction_length, context_length = weight.shape
    past = values.T.unfold(1, context_length + prediction_length, 1)[..., :context_length]
    last = past[..., -1:]
    return ((past - last) @ weight.T + bias + last).permute(1, 2, 0)


def seasonal_naive_map(context_length: int, prediction_length: int, period: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The forecast that repeats the last `period` steps, as NLinear weight and bias."""
    weight = torch.zeros(prediction_length, context_length, dtype=torch.float64)
    steps = torch.arange(prediction_length)
    weight[steps, context_length - period + steps % period] = 1
    return weight, torch.zeros(prediction_length, dtype=torch.float64)


def infer_period(series: TimeSeries) -> int:
    """Steps a season: the calendar's of the dates, else the clearest peak of the autocorrelation, else 1."""
    if series.frequency is not None:
        pd = import_pandas()
        offset = pd.tseries.frequencies.to_offset(series.frequency)
        names = (("B", 5), ("W", 52), ("M", 12), ("BM", 12), ("Q", 4), ("BQ", 4), ("Y", 1), ("BY", 1), ("D", 7))
        alias = offset.rule_code.split("-")[0].removesuffix("S").removesuffix("E")
        for name, period in names:
            if alias == name:
                return max(period // offset.n, 1)
        if isinstance(offset, pd.offsets.Tick):
            return max(round(pd.Timedelta("1D") / pd.Timedelta(offset)), 1)
    if len(series) < 4:
        return 1
    differences = np.diff(series.values, axis=0)
    differences = differences - differences.mean(axis=0)
    length = len(differences)
    spectrum = np.fft.rfft(differences, 2 * length, axis=0)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[: length // 3].sum(axis=1)
    if len(correlation) < 4 or correlation[0] <= 0:
        return 1
    correlation = correlation / correlation[0]
    peaks = [
        lag
        for lag in range(2, len(correlation) - 1)
        if correlation[lag] > max(correlation[lag - 1], correlation[lag + 1], 0.3)
    ]
    return max(peaks, key=lambda lag: correlation[lag], default=1)


def required_rows(prediction_length: int, period: int) -> int:
    """Fewest rows with which `fit_series` can fit, choose and backtest."""
    window = max(period, 2) + prediction_length + MIN_CHOICE_WINDOWS
    fit_rows = max(math.ceil(window / 0.75), window + prediction_length + MIN_CHOICE_WINDOWS)
    return max(math.ceil(fit_rows / 0.7), fit_rows + prediction_length + MIN_BACKTEST_WINDOWS)


def fit_series(
    model: Any,
    feature_extractor: ForecastingFeatureExtractor,
    series: TimeSeries,
    prediction_length: int,
    period: int | None = None,
) -> SeriesFit:
    """Fit an NLinear to a series by ridge regression, backtest it and the seasonal-naive forecast, return the better.

    The last part of the rows (at least `MIN_BACKTEST_WINDOWS` windows, about 30 % of a long series) is the backtest;
    context length and penalty are chosen on the last quarter of the rows before it; the returned model is refitted on all rows.

    Args:
        model: Model whose class and configuration class are used; its weights are not.
        feature_extractor: Extractor whose class is used.
        series: The history.
        prediction_length: Steps to forecast.
        period: Steps a season, None infers it.

    Raises:
        ValueError: If the series is shorter than `required_rows`.
    """
    period = infer_period(series) if period is None else period
    num_rows, needed = len(series), required_rows(prediction_length, period)
    if num_rows < needed:
        raise ValueError(
            f"`series` must have at least {needed} rows to fit a forecast of {prediction_length} steps with period "
            f"{period}, got {num_rows}; shorten `prediction_length` or pass a longer history."
        )
    backtest_rows = max(int(0.3 * num_rows), prediction_length + MIN_BACKTEST_WINDOWS - 1)
    fit_rows = num_rows - backtest_rows
    choice_rows = min(int(0.75 * fit_rows), fit_rows - prediction_length - MIN_CHOICE_WINDOWS)

    extractor = type(feature_extractor)(context_length=1, prediction_length=prediction_length)
    values = torch.from_numpy(extractor.fit(series, num_train_rows=fit_rows).standardize(series.values))
    context_length, penalty = _choose(values[:fit_rows], choice_rows, prediction_length, period)
    ((weight, bias),) = RidgeProblem(context_length, prediction_length).add(values[:fit_rows]).solve([penalty])
    context = max(context_length, period)
    held_out = values[fit_rows - context :]
    candidates = {
        "linear": (weight, bias),
        "seasonal_naive": seasonal_naive_map(context, prediction_length, period),
    }
    truth = held_out[context:].unfold(0, prediction_length, 1).transpose(1, 2)
    forecasts = {
        name: nlinear_forecast(held_out[context - candidate[0].shape[1] :], *candidate)
        for name, candidate in candidates.items()
    }
    errors = {name: (truth - forecast).abs().mean().item() for name, forecast in forecasts.items()}
    winner = min(errors, key=errors.get)

    final = type(feature_extractor)(context_length=context_length, prediction_length=prediction_length)
    final.timestamp_column, final.missing_values = feature_extractor.timestamp_column, feature_extractor.missing_values
    final.fit(series)
    if winner == "linear":
        rows = torch.from_numpy(final.standardize(series.values))
        ((weight, bias),) = RidgeProblem(context_length, prediction_length).add(rows).solve([penalty])
    else:
        final.context_length = context_length = max(period, 2)
        weight, bias = seasonal_naive_map(context_length, prediction_length, period)
    indices = model.config.prediction_channel_indices
    config = type(model.config)(
        variant="nlinear",
        context_length=context_length,
        prediction_length=prediction_length,
        num_input_channels=series.values.shape[1],
        prediction_channel_indices=indices,
    )
    fitted = type(model)(config).eval()
    with torch.no_grad():
        fitted.model.linear.weight.copy_(weight)
        fitted.model.linear.bias.copy_(bias)
    report = {
        "winner": winner,
        "linear_mae": errors["linear"],
        "seasonal_naive_mae": errors["seasonal_naive"],
        "context_length": context_length,
        "penalty": penalty,
        "period": period,
        "backtest_windows": len(truth),
    }
    backtest_forecasts = extractor.inverse_transform(forecasts[winner])
    if indices is not None:
        backtest_forecasts = backtest_forecasts[..., list(indices)]
    return SeriesFit(fitted, final, backtest_forecasts, report)


def _choose(values: torch.Tensor, choice_rows: int, prediction_length: int, period: int) -> tuple[int, float]:
    """Context length and penalty with the smallest error on the rows from `choice_rows` on."""
    longest = min(choice_rows // 2, choice_rows - prediction_length, MAX_CONTEXT)
    multiples = {period * count for count in (1, 2, 3, 4, 7, 14)} | {prediction_length, 2 * prediction_length}
    lengths = sorted(length for length in multiples if 2 <= length <= longest) or [max(period, 2)]
    problem = RidgeProblem(lengths[-1], prediction_length).add(values[:choice_rows])
    held_out = values[choice_rows - lengths[-1] :]
    windows = sample_windows(held_out, lengths[-1] + prediction_length, MAX_CHOICE_WINDOWS)
    past, future = windows.split([lengths[-1], prediction_length], dim=1)
    past, future = past - past[:, -1:], future - past[:, -1:]
    best = (math.inf, lengths[0], PENALTIES[-1])
    for length in lengths:
        for penalty, (weight, bias) in zip(PENALTIES, problem.shortened(length).solve(PENALTIES), strict=True):
            error = (future - past[:, -length:] @ weight.T - bias).abs().mean().item()
            best = min(best, (error, length, penalty))
    return best[1], best[2]


__all__ = ["RidgeProblem", "SeriesFit", "fit_series", "infer_period", "required_rows"]
