import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from hvmodels import LTSFLinearFeatureExtractor, TimeSeries
from hvmodels.datasets.forecasting import (
    BENCHMARKS,
    ETT_HOUR,
    ETT_MINUTE,
    ForecastingWindows,
    LongTermForecastingData,
    calendar_features,
    collate_windows,
    split_rows,
)


def table(num_rows=100, columns=("a", "b", "OT"), frequency="h"):
    values = np.random.default_rng(0).standard_normal((num_rows, len(columns))) * 3 + 10
    frame = pd.DataFrame(values, columns=list(columns))
    frame.insert(0, "date", pd.date_range("2020-02-27", periods=num_rows, freq=frequency))
    return frame


# Split borders


@pytest.mark.parametrize(
    ("num_rows", "split", "expected"),
    [
        (100, (0.7, 0.1, 0.2), (70, 10, 20)),
        (7588, (0.7, 0.1, 0.2), (5311, 760, 1517)),  # exchange_rate: train and test down, the rest is validation
        (26, (0.6, 0.2, 0.2), (15, 6, 5)),
        (10, (1.0, 0.0, 0.0), (10, 0, 0)),
        (17420, ETT_HOUR, (8640, 2880, 2880)),
        (69680, ETT_MINUTE, (34560, 11520, 11520)),
        (20, (10, 0, 5), (10, 0, 5)),
    ],
)
def test_split_rows(num_rows, split, expected):
    assert split_rows(num_rows, split) == expected


@pytest.mark.parametrize(
    ("num_rows", "split", "message"),
    [
        (100, (0.7, 0.3), "three numbers"),
        (100, (0.7, 0.2, 0.2), "sum to 1"),
        (100, (90, 10, 1), "fit into 100 rows"),
        (100, (0, 50, 50), "leave training rows"),
        (100, (0.0, 0.5, 0.5), "leave training rows"),
        (100, (1.2, -0.4, 0.2), "leave training rows and fit"),
        (14399, ETT_HOUR, "fit into 14399 rows"),
    ],
)
def test_splits_that_do_not_fit(num_rows, split, message):
    with pytest.raises(ValueError, match=message):
        split_rows(num_rows, split)


@pytest.mark.parametrize(
    ("name", "num_rows", "slices"),
    [
        # Section 5.1 of the paper's code: validation and test start `context_length` = 10 rows early.
        ("ETTh1", 17420, [(0, 8640), (8630, 11520), (11510, 14400)]),
        ("ETTm2", 69680, [(0, 34560), (34550, 46080), (46070, 57600)]),
        ("weather", 1003, [(0, 702), (692, 803), (793, 1003)]),
        ("national_illness", 966, [(0, 676), (666, 773), (763, 966)]),
        ("PEMS08", 1001, [(0, 600), (590, 801), (791, 1001)]),
    ],
)
def test_slices_of_benchmarks(name, num_rows, slices):
    series = TimeSeries(np.random.default_rng(0).standard_normal((num_rows, 1)), ["0"])
    data = LongTermForecastingData(series, 10, 4, split=BENCHMARKS[name].split)
    assert data.slices == slices
    for windows, (start, stop) in zip((data.train, data.validation, data.test), slices, strict=True):
        assert len(windows) == stop - start - 10 - 4 + 1
        np.testing.assert_array_equal(windows.values, data.feature_extractor.standardize(series.values)[start:stop])


# Windows


@pytest.mark.parametrize(("context_length", "prediction_length"), [(5, 2), (1, 1), (3, 9), (12, 8)])
def test_windows_are_plain_slices(context_length, prediction_length):
    values = np.random.default_rng(0).standard_normal((20, 3))
    windows = ForecastingWindows(values, context_length, prediction_length)
    assert len(windows) == 20 - context_length - prediction_length + 1
    rows = torch.from_numpy(values).float()
    for index in range(len(windows)):
        border = index + context_length
        window = windows[index]
        assert set(window) == {"past_values", "future_values"}
        assert torch.equal(window["past_values"], rows[index:border])
        assert torch.equal(window["future_values"], rows[border : border + prediction_length])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_are_stacked_windows(dtype):
    windows = ForecastingWindows(np.random.default_rng(0).standard_normal((20, 3)).astype(dtype), 5, 2)
    indices = [7, 0, 13, 7]
    batch, single = windows.__getitems__(indices), [windows[index] for index in indices]
    for name, value in batch.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, torch.stack([window[name] for window in single]))
        assert torch.equal(collate_windows(single)[name], value)
    assert collate_windows(batch) is batch


def test_indices_outside():
    windows = ForecastingWindows(np.zeros((20, 3)), 5, 2)
    assert torch.equal(windows[-1]["past_values"], windows[13]["past_values"])
    for index in (14, -15):
        with pytest.raises(IndexError):
            windows[index]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_loader(num_workers):
    values = np.arange(40, dtype=np.float64).reshape(20, 2)
    windows = ForecastingWindows(values, 5, 2)
    loader = DataLoader(windows, 4, shuffle=True, collate_fn=collate_windows, num_workers=num_workers)
    batches = list(loader)
    assert [len(batch["past_values"]) for batch in batches] == [4, 4, 4, 2]
    past_values = torch.cat([batch["past_values"] for batch in batches])
    future_values = torch.cat([batch["future_values"] for batch in batches])
    starts = past_values[:, 0, 0] / 2
    assert sorted(starts.tolist()) == list(range(14))
    assert starts.tolist() != list(range(14))
    assert torch.equal(future_values[:, 0, 0] / 2, starts + 5)


def test_series_shorter_than_a_window():
    assert len(ForecastingWindows(np.zeros((7, 1)), 5, 2)) == 1
    with pytest.raises(ValueError, match=r"`context_length` \+ `prediction_length` = 7 rows, got 6"):
        ForecastingWindows(np.zeros((6, 1)), 5, 2)
    with pytest.raises(ValueError, match="= 32 rows, got 20; use shorter lengths"):
        LongTermForecastingData(table(20), 16, 16, split=(20, 0, 0))
    with pytest.raises(ValueError, match="got 14"):
        LongTermForecastingData(table(20), 16, 4)  # 14 training rows


def test_split_without_rows():
    data = LongTermForecastingData(table(), 5, 2, split=(80, 0, 20))
    assert data.validation is None
    assert len(data.train) == 74
    assert len(data.test) == 19


# One's own data


def test_own_csv_in_one_call(tmp_path):
    frame = table()
    frame.to_csv(tmp_path / "sales.csv", index=False)
    data = LongTermForecastingData(tmp_path / "sales.csv", 5, 2)
    values = frame[["a", "b", "OT"]].to_numpy()
    train = values[:70]
    extractor = data.feature_extractor
    assert (extractor.columns, extractor.frequency) == (["a", "b", "OT"], "h")
    assert (extractor.context_length, extractor.prediction_length, extractor.standardization) == (5, 2, "train")
    np.testing.assert_allclose(extractor.mean, train.mean(0), rtol=1e-12)
    np.testing.assert_allclose(extractor.scale, train.std(0), rtol=1e-12)
    standardized = torch.from_numpy((values - train.mean(0)) / train.std(0)).float()
    assert [len(windows) for windows in (data.train, data.validation, data.test)] == [64, 9, 19]
    # The first forecasts of validation and test start on the borders, rows 70 and 80.
    for windows, border in ((data.validation, 70), (data.test, 80)):
        torch.testing.assert_close(windows[0]["past_values"], standardized[border - 5 : border])
        torch.testing.assert_close(windows[0]["future_values"], standardized[border : border + 2])
    torch.testing.assert_close(data.test[18]["future_values"], standardized[98:100])


@pytest.mark.parametrize("kind", ["frame", "array", "tensor", "index", "dataset", "series"])
def test_kinds_of_tables(kind):
    class HubDataset:
        """What `datasets.Dataset` offers here."""

        def to_pandas(self):
            return table()

    frame = table()
    indexed = frame.set_index("date")
    source = {
        "frame": frame,
        "array": indexed.to_numpy(),
        "tensor": torch.tensor(indexed.to_numpy()),
        "index": indexed,
        "dataset": HubDataset(),
        "series": TimeSeries(indexed.to_numpy(), ["a", "b", "OT"], indexed.index, "h"),
    }[kind]
    data, expected = LongTermForecastingData(source, 5, 2), LongTermForecastingData(frame, 5, 2)
    np.testing.assert_allclose(data.test.values, expected.test.values, rtol=0, atol=1e-12)
    names = ["0", "1", "2"] if kind in ("array", "tensor") else ["a", "b", "OT"]
    assert data.series.columns == data.feature_extractor.columns == names


def test_read_options_and_extractor_class():
    frame = table().rename(columns={"date": "time"})[["a", "b", "OT", "time"]]
    frame.loc[3, "a"] = np.nan
    data = LongTermForecastingData(
        frame, 5, 2, feature_extractor_class=LTSFLinearFeatureExtractor,
        columns=["OT", "a"], timestamp_column="time", missing_values="forward_fill",
    )  # fmt: skip
    assert type(data.feature_extractor) is LTSFLinearFeatureExtractor
    assert data.feature_extractor.columns == ["OT", "a"]
    assert data.series.values[3, 1] == frame["a"][2]


def test_without_scaling():
    frame = table()
    data = LongTermForecastingData(frame, 5, 2, scale=False)
    np.testing.assert_array_equal(data.train.values, frame[["a", "b", "OT"]].to_numpy()[:70])
    assert data.feature_extractor.standardization == "none"


def test_features():
    frame = table()
    every = LongTermForecastingData(frame, 5, 2)
    last_predicted = LongTermForecastingData(frame, 5, 2, features="MS")
    np.testing.assert_array_equal(last_predicted.test.values, every.test.values)
    for target, column in ((None, 2), ("OT", 2), ("a", 0)):
        single = LongTermForecastingData(frame, 5, 2, features="S", target=target)
        assert single.series.columns == single.feature_extractor.columns == [["a", "b", "OT"][column]]
        np.testing.assert_allclose(single.test.values, every.test.values[:, [column]], rtol=1e-12)
    with pytest.raises(ValueError, match=r"`target` must be one of the columns \['a', 'b', 'OT'\], got 'c'"):
        LongTermForecastingData(frame, 5, 2, features="S", target="c")
    with pytest.raises(ValueError, match="'M', 'S' or 'MS', got 'SM'"):
        LongTermForecastingData(frame, 5, 2, features="SM")


# Published data sets


def test_benchmark_from_file_name(tmp_path):
    frame = table(14500, [*"abcdef", "OT"])
    frame.to_csv(tmp_path / "ETTh1.csv", index=False)
    data = LongTermForecastingData.from_benchmark(tmp_path / "ETTh1.csv", 10, 4)
    assert data.slices == [(0, 8640), (8630, 11520), (11510, 14400)]
    np.testing.assert_allclose(data.feature_extractor.mean, frame.iloc[:8640, 1:].mean(), rtol=1e-10)
    single = LongTermForecastingData.from_benchmark(tmp_path / "ETTh1.csv", 10, 4, name="ETTh2", features="S")
    assert single.series.columns == ["OT"]
    (tmp_path / "ETTh1.csv").rename(tmp_path / "mine.csv")
    with pytest.raises(ValueError, match=r"`name` must be one of .*got 'mine'; for your own data call"):
        LongTermForecastingData.from_benchmark(tmp_path / "mine.csv", 10, 4)


@pytest.mark.parametrize("name", ["PEMS04", None])
def test_pems_archive(name, tmp_path):
    flow = np.random.default_rng(0).standard_normal((100, 6, 3)) * 10 + 200  # (time, sensors, features)
    np.savez(tmp_path / "PEMS04.npz", data=flow)
    data = LongTermForecastingData.from_benchmark(tmp_path / "PEMS04.npz", 5, 2, name=name)
    np.testing.assert_array_equal(data.series.values, flow[..., 0])
    assert data.split == (60, 20, 20)
    assert data.series.timestamps is None


@pytest.mark.parametrize("content", ["no_array", "no_features", "no_archive", "pickle"])
def test_damaged_pems_archive(content, tmp_path):
    path = tmp_path / "PEMS04.npz"
    if content == "no_array":
        np.savez(path, flow=np.zeros((100, 6, 3)))
    elif content == "no_features":
        np.savez(path, data=np.zeros(100))
    elif content == "pickle":
        np.savez(path, data=np.array([{"code": 1}], dtype=object))
    else:
        path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"PEMS04.npz.* must be a PEMS archive with an array 'data'"):
        LongTermForecastingData.from_benchmark(path, 5, 2)


# Calendar features


@pytest.mark.parametrize(
    ("frequency", "names"),
    [
        ("s", ["second", "minute", "hour", "weekday", "day", "year"]),
        ("15min", ["minute", "hour", "weekday", "day", "year"]),
        ("h", ["hour", "weekday", "day", "year"]),
        ("D", ["weekday", "day", "year"]),
        ("B", ["weekday", "day", "year"]),
        ("W-TUE", ["day", "week"]),
        ("MS", ["month"]),
    ],
)
def test_calendar_features(frequency, names):
    date = pd.Timestamp("2020-03-17 13:45:36")
    values = {
        "second": 36 / 59,
        "minute": 45 / 59,
        "hour": 13 / 23,
        "weekday": 1 / 6,  # Tuesday
        "day": 16 / 30,
        "year": (31 + 29 + 16) / 365,
        "week": (12 - 1) / 52,
        "month": 2 / 11,
    }
    features = calendar_features([date], frequency)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [[values[name] - 0.5 for name in names]], atol=1e-6)


def test_unknown_frequency():
    with pytest.raises(ValueError, match="`frequency` must be a pandas offset alias"):
        calendar_features(["2020-01-01"], "fortnight")
