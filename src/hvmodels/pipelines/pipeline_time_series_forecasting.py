"""Series in, forecast out, in the series' own units and dates."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import Pipeline


MAX_BACKTEST_WINDOWS = 1000


@dataclass
class ForecastJob:
    """One series on its way through the pipeline; backtest, margins of intervals and forecast in the data's units."""

    series: Any
    model: Any
    feature_extractor: Any
    prediction_length: int
    features: Any = None
    report: dict = field(default_factory=dict)
    backtest_forecasts: np.ndarray | None = None
    margins: np.ndarray | None = None
    forecast: np.ndarray | None = None

    @property
    def channel_indices(self) -> list[int] | None:
        """Channels that the model predicts, None for all."""
        indices = getattr(self.model.config, "prediction_channel_indices", None)
        return None if indices is None else list(indices)


@dataclass(frozen=True)
class Backtest:
    """Forecasts from earlier points of a series (rolling origin), in the data's units.

    Args:
        forecasts: (windows, prediction_length, predicted channels).
        targets: Same shape, what came.
        origins: Date (or row number) of the last known row of each window.
        columns: Names of the predicted channels.
        metrics: `mae`, `mse`, `rmse` over everything and `mae_per_column`.
        report: How the forecasts came about.
    """

    forecasts: np.ndarray
    targets: np.ndarray
    origins: Any
    columns: list[str]
    metrics: dict
    report: dict


def conformal_margins(residuals: np.ndarray, coverage: float) -> np.ndarray:
    """Half widths (prediction_length, channels) of split-conformal intervals (Lei et al. 2018).

    Args:
        residuals: (windows, prediction_length, channels) of held-out forecasts.
        coverage: Wanted share of future values inside, e.g. 0.9. It is exact on average if residuals of past and
            future are exchangeable; overlapping windows and drift make it approximate.

    Raises:
        ValueError: If the coverage is not in (0, 1), or too high for the number of windows.
    """
    if not isinstance(coverage, float | np.floating) or not 0 < coverage < 1:
        raise ValueError(f"`interval` must be a coverage between 0 and 1 such as 0.9, got {coverage!r}.")
    count = len(residuals)
    rank = math.ceil((count + 1) * coverage)
    if rank > count:
        needed = math.ceil(coverage / (1 - coverage))
        raise ValueError(
            f"`interval` = {coverage} needs at least {needed} backtest windows, and the history gives {count}; "
            "pass a longer history or a lower coverage."
        )
    return np.sort(np.abs(residuals), axis=0)[rank - 1]


class TimeSeriesForecastingPipeline(Pipeline):
    """Forecast a DataFrame, CSV file or array: `pipeline("time-series-forecasting")(data)`.

    A model with a scaler of its own (`standardization="train"`) is applied as it is. A model for any series
    (`"context"`, such as the embedded default) is, where the history is long enough, replaced by a linear model fitted
    to the series in closed form, or by the seasonal-naive forecast if that did better in the backtest; the report says
    which.

    Call arguments, all optional:
        prediction_length: Steps to forecast; at most the model's, or any number where the model is fitted.
        interval: Coverage of split-conformal intervals, e.g. `0.9`; adds columns `<name>_lower` and `<name>_upper`.
        period: Steps a season for fitted models; None infers it from dates or autocorrelation.
        fit: True to demand a fit, False to forbid it, None to decide by the length of the history.
        missing_values: `"raise"`, `"forward_fill"` or `"interpolate"`; None takes the feature extractor's.

    Returns:
        One DataFrame a series: dates (column `date`, or `step` for arrays) and one column a predicted channel.
        `frame.attrs["report"]` says how the forecast came about.
    """

    _load_feature_extractor = True
    _load_processor = _load_image_processor = _load_tokenizer = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        if not hasattr(config, "context_length"):  # the Auto class has models of pose sequences as well
            raise ValueError(
                f"`model` must be a forecaster, got {type(self.model).__name__}; "
                'poses go through `pipeline("pose-refinement")`.'
            )
        if getattr(config, "single_step_output", False) and config.num_stacks > 1:
            raise ValueError(
                "`model` must forecast every step up to its horizon; this one gives the last step only "
                "(`single_step_output`). Call the model itself."
            )
        for name in ("context_length", "prediction_length"):
            of_model, of_extractor = getattr(self.model.config, name), getattr(self.feature_extractor, name)
            if of_model != of_extractor:
                raise ValueError(
                    f"`model` and `feature_extractor` must have the same `{name}`, got {of_model} and {of_extractor}."
                )

    def __call__(self, data, **call_arguments):
        """Forecast one series, or each series of a list; a list of numbers, or of rows of numbers, is one series."""
        if isinstance(data, list | tuple):
            if not data:
                raise ValueError("`data` must hold at least one series, got an empty list.")
            if not self.feature_extractor.is_batch(data):
                return super().__call__([data], **call_arguments)[0]
            data = list(data)
        return super().__call__(data, **call_arguments)

    def _sanitize_parameters(
        self, prediction_length=None, interval=None, period=None, fit=None, missing_values=None, **unknown
    ):
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; the pipeline takes `prediction_length`, `interval`, `period`, "
                "`fit` and `missing_values`."
            )
        for name, value in (("prediction_length", prediction_length), ("period", period)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if fit not in (None, True, False):
            raise ValueError(f"`fit` must be True, False or None, got {fit!r}.")
        if interval is not None:
            conformal_margins(np.zeros((10**6, 1, 1)), interval)
        given = {
            "prediction_length": prediction_length,
            "interval": interval,
            "period": period,
            "fit": fit,
            "missing_values": missing_values,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return given, {}, {}

    def preprocess(self, data, prediction_length=None, interval=None, period=None, fit=None, missing_values=None):
        """Read a series and fit a model to it, or prepare the inputs of the pipeline's own model."""
        series = self.feature_extractor.read(data, missing_values)
        if period is not None and period >= len(series):
            raise ValueError(f"`period` must be smaller than the history of {len(series)} rows, got {period}.")
        own_length = self.feature_extractor.prediction_length
        job = ForecastJob(series, self.model, self.feature_extractor, prediction_length or own_length)
        if self._should_fit(job, period, fit):
            fitted = self.model.fit_to_series(self.feature_extractor, series, job.prediction_length, period)
            job.model = fitted.model.to(self.device)
            job.feature_extractor, job.report = fitted.feature_extractor, fitted.report
            job.backtest_forecasts = fitted.backtest_forecasts
        else:
            if job.prediction_length > own_length:
                raise ValueError(
                    f"`prediction_length` must be at most {own_length}, the model's own, got {job.prediction_length}; "
                    "a fitted model (`fit=True`, needs a longer history) has no such limit."
                )
            job.report = {"winner": "pretrained"}
        job.features = job.feature_extractor(series)
        if interval is not None and job.backtest_forecasts is None:
            job.backtest_forecasts = self._rolling_forecasts(job)
        if interval is not None:
            job.margins = conformal_margins(self._targets(job) - job.backtest_forecasts, interval)
        return {"job": job}

    def _should_fit(self, job: ForecastJob, period: int | None, fit: bool | None) -> bool:
        can_fit = hasattr(self.model, "fit_to_series")
        if fit and not can_fit:
            raise ValueError(f"`fit=True` needs a model with `fit_to_series`; {type(self.model).__name__} has none.")
        if fit is not None or not can_fit:
            return bool(fit)
        if self.feature_extractor.standardization != "context":
            return False
        return len(job.series) >= self.model.rows_to_fit(job.series, job.prediction_length, period)

    def _forward(self, inputs):
        jobs = inputs["job"] if isinstance(inputs["job"], list) else [inputs["job"]]
        groups: dict[tuple, list[ForecastJob]] = {}
        for job in jobs:
            groups.setdefault((id(job.model), job.features["past_values"].shape), []).append(job)
        for group in groups.values():
            past_values = torch.cat([job.features["past_values"] for job in group])
            predictions = self._predict(group[0].model, past_values)
            for job, forecast in zip(group, predictions, strict=True):
                job.forecast = job.feature_extractor.inverse_transform(
                    forecast,
                    job.channel_indices,
                    np.asarray(job.features["location"][0]),
                    np.asarray(job.features["scale"][0]),
                )[: job.prediction_length]
        return inputs

    def _predict(self, model, past_values: torch.Tensor) -> torch.Tensor:
        return model(past_values=past_values.to(self.device, model.dtype)).prediction_outputs.float().cpu()

    def postprocess(self, outputs):
        """The forecast as a table."""
        try:  # guarded, so that models on the Hub load without it
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError("Forecasts come as tables, which need pandas: `pip install pandas`.") from error
        job = outputs["job"]
        dates = job.series.future_timestamps(job.prediction_length)
        table = {"step": np.arange(1, job.prediction_length + 1)} if dates is None else {"date": dates}
        for index, column in enumerate(self._columns(job)):
            table[column] = job.forecast[:, index]
            if job.margins is not None:
                table[f"{column}_lower"] = job.forecast[:, index] - job.margins[:, index]
                table[f"{column}_upper"] = job.forecast[:, index] + job.margins[:, index]
        frame = DataFrame(table)
        frame.attrs["report"] = job.report
        return frame

    @staticmethod
    def _columns(job: ForecastJob) -> list[str]:
        columns = job.series.columns
        return columns if job.channel_indices is None else [columns[index] for index in job.channel_indices]

    def _rolling_forecasts(self, job: ForecastJob) -> np.ndarray:
        """Forecasts of the last windows of the series that have a future, (windows, prediction_length, channels)."""
        extractor, values = job.feature_extractor, job.series.values
        context_length, length = extractor.context_length, extractor.context_length + job.prediction_length
        count = min(len(values) - length + 1, MAX_BACKTEST_WINDOWS)
        if count < 1:
            raise ValueError(
                f"`data` must have at least {length} rows (context and forecast) for a backtest or an `interval`, got "
                f"{len(values)}; pass a longer history."
            )
        starts = np.arange(len(values) - length + 1 - count, len(values) - length + 1)
        features = extractor([values[start : start + context_length] for start in starts])
        with torch.no_grad():
            predictions = self._predict(job.model, features["past_values"]).numpy()[:, : job.prediction_length]
        location, scale = np.asarray(features["location"]), np.asarray(features["scale"])
        if job.channel_indices is not None:
            location, scale = location[:, job.channel_indices], scale[:, job.channel_indices]
        return predictions * scale[:, None] + location[:, None]

    @staticmethod
    def _targets(job: ForecastJob) -> np.ndarray:
        values = job.series.values
        values = values if job.channel_indices is None else values[:, job.channel_indices]
        windows = np.lib.stride_tricks.sliding_window_view(values, job.prediction_length, axis=0)
        return windows[len(windows) - len(job.backtest_forecasts) :].transpose(0, 2, 1)

    def backtest(self, data: Any, **call_arguments) -> Backtest:
        """Forecast from many earlier points of a series and compare with what came.

        Args:
            data: One series.
            call_arguments: As in a call, `interval` aside.

        Raises:
            ValueError: If the history is too short for one window.
        """
        parameters, _, _ = self._sanitize_parameters(**call_arguments)
        job = self.preprocess(data, **parameters)["job"]
        if job.backtest_forecasts is None:
            job.backtest_forecasts = self._rolling_forecasts(job)
        targets = self._targets(job)
        error = job.backtest_forecasts - targets
        columns = self._columns(job)
        metrics = {
            "mae": float(np.abs(error).mean()),
            "mse": float((error**2).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "mae_per_column": dict(zip(columns, np.abs(error).mean(axis=(0, 1)).tolist(), strict=True)),
        }
        rows = np.arange(len(targets)) + len(job.series) - job.prediction_length - len(targets)
        origins = rows if job.series.timestamps is None else job.series.timestamps[rows]
        return Backtest(job.backtest_forecasts, targets, origins, columns, metrics, job.report)


__all__ = ["Backtest", "TimeSeriesForecastingPipeline", "conformal_margins"]
