"""Plots: what is drawn where."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch


matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from hvmodels import LTSFLinearConfig, LTSFLinearForPrediction, read_series  # noqa: E402
from hvmodels.visualization.forecasting import plot_forecast, plot_temporal_map  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def make_series(num_rows=100, channels=2, dates=True):
    values = np.random.default_rng(0).standard_normal((num_rows, channels))
    columns = [*"abcdefghijkl"[:channels]]
    index = pd.date_range("2024-01-01", periods=num_rows, freq="D") if dates else None
    return read_series(pd.DataFrame(values, columns=columns, index=index))


def make_forecast(series, steps=5, interval=True):
    dates = series.future_timestamps(steps)
    table = {"step": np.arange(1, steps + 1)} if dates is None else {"date": dates}
    for index, column in enumerate(series.columns):
        table[column] = np.arange(steps) + 10.0 * index
        if interval:
            table[f"{column}_lower"], table[f"{column}_upper"] = table[column] - 1, table[column] + 2
    return pd.DataFrame(table)


def lines(axis):
    return {
        line.get_label(): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axis.get_lines()
    }


@pytest.mark.parametrize("dates", [True, False], ids=["dates", "steps"])
def test_history_and_forecast(dates):
    series = make_series(dates=dates)
    forecast = make_forecast(series)
    figure = plot_forecast(series, forecast, history_steps=20)
    assert [axis.get_ylabel() for axis in figure.axes] == ["a", "b"]
    for channel, axis in enumerate(figure.axes):
        drawn = lines(axis)
        assert set(drawn) == {"history", "forecast"}
        past = series.values[-20:, channel]
        np.testing.assert_array_equal(drawn["history"][1], past)
        # The forecast starts at the last observation, so that there is no gap.
        np.testing.assert_array_equal(drawn["forecast"][1], [past[-1], *forecast[series.columns[channel]]])
        if dates:
            assert list(pd.DatetimeIndex(drawn["history"][0])) == list(series.timestamps[-20:])
            assert list(pd.DatetimeIndex(drawn["forecast"][0])) == [series.timestamps[-1], *forecast["date"]]
        else:
            assert list(drawn["history"][0]) == list(range(-19, 1))
            assert list(drawn["forecast"][0]) == [0, 1, 2, 3, 4, 5]
        (band,) = axis.collections
        corners = band.get_paths()[0].vertices[:, 1]
        assert corners.min() == min(past[-1], 10.0 * channel - 1)
        assert corners.max() == max(past[-1], 10.0 * channel + 4 + 2)


def test_without_intervals_there_is_no_band():
    series = make_series()
    figure = plot_forecast(series, make_forecast(series, interval=False))
    assert all(len(axis.collections) == 0 for axis in figure.axes)


@pytest.mark.parametrize(("rows", "steps", "shown"), [(100, 5, 48), (100, 20, 60), (30, 5, 30)])
def test_length_of_the_history(rows, steps, shown):
    series = make_series(rows, 1)
    figure = plot_forecast(series, make_forecast(series, steps))
    assert len(lines(figure.axes[0])["history"][1]) == shown


def test_channels_that_are_drawn():
    series = make_series(channels=12)
    assert len(plot_forecast(series, make_forecast(series)).axes) == 8
    assert len(plot_forecast(series, make_forecast(series), max_channels=3).axes) == 3
    only = make_forecast(series)[["date", "k", "k_lower", "k_upper"]]  # a model that predicts one channel
    (axis,) = plot_forecast(series, only).axes
    assert axis.get_ylabel() == "k"
    assert len(axis.collections) == 1


def test_time_zone(tmp_path):
    dates = pd.date_range("2024-03-29", periods=60, freq="h", tz="Europe/Berlin")
    series = read_series(pd.DataFrame({"a": np.arange(60.0)}, index=dates))
    plot_forecast(series, make_forecast(series)).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_files(ending, tmp_path):
    series = make_series()
    path = tmp_path / f"plot.{ending}"
    plot_forecast(series, make_forecast(series)).savefig(path)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending])


@pytest.mark.parametrize("variant", ["linear", "nlinear", "dlinear"])
@pytest.mark.parametrize("individual", [False, True], ids=["shared", "individual"])
def test_temporal_map(variant, individual):
    sizes = {"context_length": 9, "prediction_length": 4, "num_input_channels": 3, "moving_average_kernel_size": 3}
    model = LTSFLinearForPrediction(LTSFLinearConfig(variant=variant, individual=individual, **sizes))
    channel = 2 if individual else 0
    figure = plot_temporal_map(model, channel)
    (image,) = figure.axes[0].get_images()
    # The drawn map is the model's response to a unit at each past step.
    units = torch.eye(9)[:, :, None].repeat(1, 1, 3)
    with torch.no_grad():
        zero = model(torch.zeros(1, 9, 3)).prediction_outputs
        response = (model(units).prediction_outputs - zero)[..., channel]
    np.testing.assert_allclose(image.get_array(), response.T, atol=1e-6)
    assert figure.axes[0].get_xlabel() == "past step"
    low, high = image.get_clim()
    assert low == -high < 0


def test_missing_matplotlib_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    series = make_series()
    with pytest.raises(ImportError, match=r"Plots need matplotlib: `pip install hvmodels\[viz\]`"):
        plot_forecast(series, make_forecast(series))
