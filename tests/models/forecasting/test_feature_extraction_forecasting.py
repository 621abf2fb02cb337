"""Reading series: dates, gaps, columns; scaling and back."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoFeatureExtractor

from hvmodels import LTSFLinearFeatureExtractor, TimeSeries, read_series
from hvmodels.models.forecasting.feature_extraction_forecasting import fill_missing


NAN = np.nan


def frame_with(num_rows=30, frequency="D", start="2024-01-01"):
    values = np.random.default_rng(0).standard_normal((num_rows, 2)) * [1, 100] + [0, 5000]
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame.insert(0, "date", pd.date_range(start, periods=num_rows, freq=frequency))
    return frame


def make_extractor(**arguments):
    return LTSFLinearFeatureExtractor(**{"context_length": 6, "prediction_length": 3, **arguments})


# Reading


def test_csv_frame_and_index_are_the_same(tmp_path):
    frame = frame_with()
    frame.to_csv(tmp_path / "series.csv", index=False)
    last = frame[["a", "b", "date"]]

    class HubDataset:
        def to_pandas(self):
            return frame

    for data, options in (
        (frame, {}),
        (tmp_path / "series.csv", {}),
        (str(tmp_path / "series.csv"), {"timestamp_column": "date"}),
        (frame.assign(date=frame["date"].astype(str)), {}),
        (frame.set_index("date"), {}),
        (last, {"timestamp_column": "date"}),
        (HubDataset(), {}),
    ):
        series = read_series(data, **options)
        assert (series.columns, series.frequency, len(series)) == (["a", "b"], "D", 30)
        np.testing.assert_allclose(series.values, frame[["a", "b"]], rtol=1e-15)
        assert list(series.timestamps) == list(frame["date"])
        assert series.values.dtype == np.float64


def test_columns_are_chosen_and_ordered():
    frame = frame_with().assign(note="text")
    series = read_series(frame, columns=["b", "a"])
    assert series.columns == ["b", "a"]
    np.testing.assert_array_equal(series.values, frame[["b", "a"]])
    assert read_series(np.ones((4, 2)), columns=["x", "y"]).columns == ["x", "y"]


def test_column_names_become_text():
    """Else a fitted extractor would not find the columns of the table that it was fitted to."""
    frame = pd.DataFrame(np.arange(20.0).reshape(10, 2))
    extractor = make_extractor().fit(frame)
    assert extractor.columns == ["0", "1"]
    np.testing.assert_array_equal(extractor.read(frame).values, frame)
    levels = pd.DataFrame(np.ones((10, 2)), columns=pd.MultiIndex.from_product([["x"], ["p", "q"]]))
    assert make_extractor().fit(levels).read(levels).columns == ["('x', 'p')", "('x', 'q')"]


@pytest.mark.parametrize(
    "data",
    [
        np.arange(5, dtype=np.int64),
        np.arange(5, dtype=np.uint8),
        np.arange(5, dtype=np.float16)[:, None],
        torch.arange(5),
        torch.arange(5).to(torch.bfloat16)[:, None],
        torch.arange(5.0, requires_grad=True),
        [0, 1, 2, 3, 4],
        [0.0, np.float32(1), 2, 3, 4],
        [[0], [1], [2], [3], [4]],
        ((0.0,), (1.0,), (2.0,), (3.0,), (4.0,)),
        pd.Series(range(5)),
        pd.DataFrame({"value": pd.array(range(5), dtype="Int64")}),
        pd.DataFrame({"value": [Decimal(number) for number in range(5)]}, index=pd.date_range("2024", periods=5)),
    ],
    ids=lambda data: f"{type(data).__name__}-{getattr(data, 'dtype', '')}",
)
def test_kinds_of_numbers(data):
    series = read_series(data)
    assert series.values.dtype == np.float64
    np.testing.assert_array_equal(series.values, np.arange(5.0)[:, None])


def test_reading_does_not_change_or_share_the_data():
    values = np.arange(12.0)
    values[4] = NAN
    series = read_series(values, missing_values="interpolate")
    assert np.isnan(values[4])
    series.values[:] = -1
    assert values[0] == 0
    frame = frame_with()
    before = frame.copy()
    make_extractor().fit(frame)(frame)
    pd.testing.assert_frame_equal(frame, before)


# Dates


@pytest.mark.parametrize(
    "frequency", ["h", "15min", "s", "D", "2D", "B", "W-SUN", "W-TUE", "MS", "ME", "QS-JAN", "YS-JAN"]
)
def test_frequency_is_found(frequency):
    series = read_series(frame_with(frequency=frequency))
    assert series.frequency == frequency
    future = series.future_timestamps(4)
    assert list(future) == list(pd.date_range("2024-01-01", periods=34, freq=frequency)[30:])


@pytest.mark.parametrize("frequency", ["h", "15min", "D", "2D", "B", "W-TUE", "2W-TUE", "MS", "ME", "QS-OCT"])
@pytest.mark.parametrize("policy", ["forward_fill", "interpolate"])
def test_absent_dates_become_missing_rows(frequency, policy):
    frame = frame_with(frequency=frequency)
    absent = [5, 6, 17]
    series = read_series(frame.drop(index=absent), missing_values=policy)
    assert list(series.timestamps) == list(frame["date"])
    assert list(series.future_timestamps(2)) == list(pd.date_range("2024-01-01", periods=32, freq=frequency)[30:])
    expected = frame[["a", "b"]].copy()
    expected.loc[absent] = NAN
    expected = expected.ffill() if policy == "forward_fill" else expected.interpolate()
    np.testing.assert_allclose(series.values, expected, rtol=1e-12)


def test_frequency_may_be_given():
    frame = frame_with()
    thin = frame.iloc[[0, 10, 11, 29]]
    with pytest.raises(ValueError, match="regular step"):
        read_series(thin, missing_values="interpolate")
    series = read_series(thin, frequency="D", missing_values="interpolate")
    assert len(series) == 30
    np.testing.assert_allclose(series.values[10:12], frame[["a", "b"]][10:12], rtol=1e-15)
    assert read_series(frame[:1], frequency="D").future_timestamps(1)[0] == pd.Timestamp("2024-01-02")


def test_arrays_have_no_dates():
    series = read_series(np.zeros((4, 1)), frequency="D")
    assert (series.timestamps, series.frequency, series.future_timestamps(3)) == (None, None, None)


# Missing values


def test_fill_policies():
    values = np.array([[NAN, 1.0], [2.0, NAN], [NAN, NAN], [5.0, 7.0], [NAN, 8.0]])
    forward = [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [5.0, 7.0], [5.0, 8.0]]
    linear = [[2.0, 1.0], [2.0, 3.0], [3.5, 5.0], [5.0, 7.0], [5.0, 8.0]]
    np.testing.assert_array_equal(fill_missing(values, ["a", "b"], "forward_fill"), forward)
    np.testing.assert_allclose(fill_missing(values, ["a", "b"], "interpolate"), linear, rtol=1e-15)
    with pytest.raises(ValueError, match="`data` has 5 missing values, the first in column 'a', row 0"):
        fill_missing(values, ["a", "b"], "raise")
    assert np.isnan(values).sum() == 5
    whole = np.array([[1.0, 2.0]])
    for policy in ("raise", "forward_fill", "interpolate"):
        np.testing.assert_array_equal(fill_missing(whole, ["a", "b"], policy), whole)


def test_policy_of_the_extractor_and_of_the_call():
    values = np.array([0.0, 1.0, NAN, 3.0, 4.0, 5.0, NAN, 8.0])
    extractor = make_extractor(missing_values="forward_fill")
    np.testing.assert_array_equal(extractor.read(values).values[:, 0], [0, 1, 1, 3, 4, 5, 5, 8])
    np.testing.assert_array_equal(extractor.read(values, "interpolate").values[:, 0], [0, 1, 2, 3, 4, 5, 6.5, 8])
    with pytest.raises(ValueError, match="2 missing values"):
        extractor.read(values, "raise")
    series = extractor.read(values)
    assert extractor.read(series) is series


# Scaling


def test_scaler_is_that_of_the_training_rows():
    values = np.random.default_rng(0).standard_normal((50, 3)) * [1e-6, 1, 1e6] + [1e3, 0, -1e6]
    extractor = make_extractor().fit(values, num_train_rows=35)
    assert extractor.standardization == "train"
    count = 35
    for channel in range(3):
        rows = values[:35, channel].tolist()
        mean = sum(rows) / count
        scale = (sum((value - mean) ** 2 for value in rows) / count) ** 0.5
        assert extractor.mean[channel] == pytest.approx(mean, rel=1e-12)
        assert extractor.scale[channel] == pytest.approx(scale, rel=1e-9)
    standardized = extractor.standardize(values)
    np.testing.assert_array_equal(standardized, (values - extractor.mean) / extractor.scale)
    assert standardized.dtype == np.float64
    np.testing.assert_allclose(standardized[:35].std(axis=0), 1, rtol=1e-9)
    assert np.abs(standardized[35:].mean(axis=0)).max() > 1e-3  # the other rows were not looked at
    whole = make_extractor().fit(values)
    np.testing.assert_allclose(whole.mean, values.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-300, -1e12])
@pytest.mark.parametrize("num_rows", [1, 10, 3333])
def test_constant_columns_keep_the_scale_1(value, num_rows):
    """The mean of many times 0.1 is not exactly 0.1, and the deviation from it is rounding error, not a scale."""
    extractor = make_extractor().fit(np.full((num_rows, 1), value))
    assert extractor.scale == [1.0]
    assert extractor.mean[0] == pytest.approx(value, rel=1e-12)


def test_small_but_real_deviations_are_a_scale():
    values = 1.0 + 1e-9 * np.random.default_rng(0).standard_normal((100, 1))
    assert make_extractor().fit(values).scale[0] == pytest.approx(values.std(), rel=1e-6)


def test_fit_takes_columns_and_frequency():
    extractor = make_extractor(missing_values="interpolate").fit(frame_with(frequency="MS"))
    assert (extractor.columns, extractor.frequency) == (["a", "b"], "MS")
    with pytest.raises(ValueError, match="off the grid of `frequency` = 'MS'"):
        extractor(frame_with())
    with pytest.raises(ValueError, match=r"lacks the columns \['b'\]"):
        extractor(frame_with(frequency="MS").drop(columns="b"))


def test_inverse_is_exact():
    values = np.random.default_rng(0).standard_normal((40, 3)) * [1e-3, 1, 1e5] + [7, 0, 1e6]
    extractor = make_extractor().fit(values)
    np.testing.assert_allclose(
        extractor.inverse_transform(extractor.standardize(values)), values, rtol=1e-12, atol=1e-12
    )
    standardized = torch.from_numpy(extractor.standardize(values)).reshape(4, 10, 3)
    back = extractor.inverse_transform(standardized.requires_grad_())
    assert back.dtype == np.float64
    np.testing.assert_allclose(back, values.reshape(4, 10, 3), rtol=1e-12, atol=1e-12)
    for indices in ([2], [-1], [1, 0]):
        chosen = extractor.inverse_transform(standardized[..., indices].detach(), channel_indices=indices)
        np.testing.assert_allclose(chosen, values.reshape(4, 10, 3)[..., indices], rtol=1e-12, atol=1e-12)


def test_inverse_of_float32_and_bfloat16_is_computed_in_float64():
    extractor = make_extractor(mean=[1e6], scale=[1e-3])
    for dtype in (torch.float32, torch.bfloat16):
        back = extractor.inverse_transform(torch.tensor([[0.5]], dtype=dtype))
        assert back[0, 0] == 1e6 + 0.5e-3


@pytest.mark.parametrize("kind", [list, tuple, np.asarray])
def test_inverse_with_a_location_of_its_own(kind):
    extractor = make_extractor(mean=[5.0, 6.0], scale=[7.0, 8.0])
    back = extractor.inverse_transform([[1.0, 2.0]], location=kind([10.0, 20.0]), scale=kind([3.0, 4.0]))
    np.testing.assert_array_equal(back, [[13.0, 28.0]])
    back = extractor.inverse_transform([[2.0]], [1], kind([10.0, 20.0]), kind([3.0, 4.0]))
    np.testing.assert_array_equal(back, [[28.0]])


# Model inputs


def test_context_is_the_end_of_the_series():
    values = np.random.default_rng(0).standard_normal((20, 2))
    extractor = make_extractor().fit(values)
    for data in (values, [values], (values,), values.tolist(), [pd.DataFrame(values)], read_series(values)):
        features = extractor(data)
        assert features["past_values"].dtype == torch.float32
        assert features["past_values"].shape == (1, 6, 2)
        expected = ((values - extractor.mean) / extractor.scale)[-6:].astype(np.float32)
        np.testing.assert_array_equal(features["past_values"][0], expected)
        np.testing.assert_array_equal(features["location"], [extractor.mean])
        np.testing.assert_array_equal(features["scale"], [extractor.scale])
        assert features["location"].dtype == features["scale"].dtype == torch.float64
    assert isinstance(extractor(values, return_tensors="np")["past_values"], np.ndarray)


def test_batch_of_series_of_different_lengths():
    series = [np.random.default_rng(rows).standard_normal((rows, 2)) for rows in (20, 6, 9)]
    extractor = make_extractor(standardization="context")
    batch = extractor(series)
    assert batch["past_values"].shape == (3, 6, 2)
    for index, values in enumerate(series):
        for name, value in extractor(values).items():
            assert torch.equal(batch[name][index], value[0])


def test_no_standardization():
    values = np.random.default_rng(0).standard_normal((8, 2))
    features = make_extractor(standardization="none")(values)
    np.testing.assert_array_equal(features["past_values"][0], values[-6:].astype(np.float32))
    np.testing.assert_array_equal(features["location"], [[0, 0]])
    np.testing.assert_array_equal(features["scale"], [[1, 1]])


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_context_standardization(shift, unit):
    values = np.random.default_rng(0).standard_normal((20, 2))
    extractor = make_extractor(standardization="context")
    features = extractor(values * unit + shift * unit)
    context = (values * unit + shift * unit)[-6:]
    np.testing.assert_allclose(features["location"][0], context.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(features["scale"][0], context.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(features["past_values"][0], extractor(values)["past_values"][0], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e-200, 1e30])
def test_context_standardization_of_a_constant(value):
    extractor = make_extractor(standardization="context")
    features = extractor(np.full((9, 1), value))
    past_values = features["past_values"]
    assert past_values.isfinite().all()
    assert past_values.abs().max() < 1e-6
    assert (features["scale"] > 0).all()
    back = extractor.inverse_transform(past_values[0], None, features["location"][0], features["scale"][0])
    np.testing.assert_allclose(back, value, rtol=1e-6, atol=1e-18)


def test_one_jump_after_a_constant_stays_in_range():
    values = np.zeros((9, 1))
    values[-1] = 1e-3
    assert make_extractor(standardization="context")(values)["past_values"].abs().max() < 10


def test_padding():
    values = np.array([[3.0, 30.0], [4.0, 40.0]])
    extractor = make_extractor(standardization="none", pad_short_context=True)
    expected = [[3.0, 30.0]] * 5 + [[4.0, 40.0]]
    np.testing.assert_array_equal(extractor(values)["past_values"][0], expected)
    long = np.arange(14.0).reshape(7, 2)
    np.testing.assert_array_equal(extractor(long)["past_values"][0], long[1:])
    with pytest.raises(ValueError, match="at least `context_length` = 6 rows, got 2"):
        make_extractor(standardization="none")(values)


def test_context_statistics_of_a_padded_series_are_those_of_the_padded_context():
    features = make_extractor(standardization="context", pad_short_context=True)(np.array([1.0, 2.0]))
    padded = np.array([1.0] * 5 + [2.0])
    np.testing.assert_allclose(features["location"], [[padded.mean()]], rtol=1e-12)
    np.testing.assert_allclose(features["scale"], [[padded.std()]], rtol=1e-12)


def test_is_batch():
    is_batch = LTSFLinearFeatureExtractor.is_batch
    for data in ([1.0, 2.0], [[1.0], [2.0]], (1, 2), np.zeros((3, 2)), pd.DataFrame({"a": [1.0]}), "series.csv", None):
        assert not is_batch(data)
    for data in (
        [np.zeros(3)],
        (np.zeros(3), np.zeros(4)),
        ["a.csv"],
        [pd.DataFrame({"a": [1.0]})],
        [TimeSeries(np.zeros((3, 1)), ["a"])],
    ):
        assert is_batch(data)


# Saving


def test_json_keeps_every_bit(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 4)) * [1e-150, 1 / 3, 1e150, np.pi] + [0.1, 1 / 7, 0, 1e-5]
    extractor = make_extractor(missing_values="interpolate").fit(values)
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is LTSFLinearFeatureExtractor
    assert loaded.mean == extractor.mean and loaded.scale == extractor.scale
    assert loaded.to_dict() == extractor.to_dict()
    np.testing.assert_array_equal(loaded.standardize(values), extractor.standardize(values))
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content["mean"] == extractor.mean
    assert (content["columns"], content["frequency"]) == (["0", "1", "2", "3"], None)


def test_settings_are_plain_python():
    extractor = make_extractor(mean=np.array([1, 2]), scale=torch.tensor([1.0, 2.0]), columns=("a", "b"))
    assert (extractor.mean, extractor.scale, extractor.columns) == ([1.0, 2.0], [1.0, 2.0], ["a", "b"])
    assert {type(number) for number in extractor.mean + extractor.scale} == {float}
