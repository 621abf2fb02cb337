"""Plots of forecasts and of the maps that make them."""

from typing import Any

import numpy as np


def _pyplot():
    try:
        import matplotlib

        matplotlib.use("Agg", force=False)
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install hvmodels[viz]`.") from error
    return pyplot


def plot_forecast(series: Any, forecast: Any, max_channels: int = 8, history_steps: int | None = None) -> Any:
    """Draw the end of a series and its forecast, one panel a channel, with intervals if the forecast has them.

    Args:
        series: `TimeSeries` that was forecast.
        forecast: DataFrame of the forecasting pipeline.
        max_channels: Panels at most; the first channels are drawn.
        history_steps: Rows of history to show, None for three times the forecast (at least 48).

    Returns:
        `matplotlib.figure.Figure`; save it with `figure.savefig(path)`.

    Raises:
        ValueError: If the forecast has no column of the series.
    """
    time_column = "date" if "date" in forecast.columns else "step"
    columns = [name for name in series.columns if name in forecast.columns][:max_channels]
    if not columns:
        raise ValueError(f"`forecast` must have a column of the series, one of {series.columns}.")
    steps = min(history_steps or max(3 * len(forecast), 48), len(series))
    past_time = np.arange(1 - steps, 1) if series.timestamps is None else series.timestamps[-steps:]
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        len(columns), 1, figsize=(9, 1 + 2.4 * len(columns)), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, column in zip(axes[:, 0], columns, strict=True):
        past = series.values[-steps:, series.columns.index(column)]
        # The last observation starts both forecast line and band, so that the picture has no gap.
        time = np.concatenate([np.asarray(past_time[-1:]), np.asarray(forecast[time_column])])
        join = lambda name: np.concatenate([past[-1:], forecast[name]])  # noqa: B023, E731
        axis.plot(past_time, past, color="0.25", linewidth=1.2, label="history")
        axis.plot(time, join(column), color="tab:blue", linewidth=1.6, label="forecast")
        if f"{column}_lower" in forecast.columns:
            band = (join(f"{column}_lower"), join(f"{column}_upper"))
            axis.fill_between(time, *band, color="tab:blue", alpha=0.2, linewidth=0, label="interval")
        axis.set_ylabel(column)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0, 0].legend(loc="upper left", frameon=False, ncols=3)
    return figure


def plot_temporal_map(model: Any, channel: int = 0) -> Any:
    """Draw the weights of the merged map of an LTSF-Linear model: future step against past step.

    Args:
        model: `LTSFLinearForPrediction`.
        channel: Channel of an individual model.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the model has no map for the channel.
    """
    weight = model.model.merged_map()[0].detach().float().cpu().numpy()
    channels = len(weight) if weight.ndim == 3 else 1
    if channel not in range(channels):
        raise ValueError(f"`channel` must be in [0, {channels}), got {channel!r}.")
    weight = weight[channel] if weight.ndim == 3 else weight
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
    bound = np.quantile(np.abs(weight), 0.99)
    extent = (-weight.shape[1], 0, weight.shape[0], 1)
    image = axis.imshow(weight, aspect="auto", cmap="RdBu_r", vmin=-bound, vmax=bound, extent=extent)
    axis.set_xlabel("past step")
    axis.set_ylabel("future step")
    figure.colorbar(image, label="weight")
    return figure


__all__ = ["plot_forecast", "plot_temporal_map"]
