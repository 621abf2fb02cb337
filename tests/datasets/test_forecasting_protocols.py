"""SCINet's protocols; the expected values come from its original code, see `shared/parity/scinet/README.md`."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvmodels.datasets.forecasting_protocols import FinancialForecastingData, PemsForecastingData, ratio_borders
from hvmodels.metrics.forecasting import pems_metrics


FINANCIAL = {
    "n2": {"normalization": "max_abs"},
    "n3_long": {"normalization": "standard", "split": (0.7, 0.1, 0.2)},
    "n4_long": {"normalization": "standard", "statistics": "train", "split": (0.7, 0.1, 0.2)},
}
SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # our names to the original's
NORMTYPES = {"split": 0, "all": 1, "train": 2}


def random_walk(num_rows=100, channels=3):
    return np.random.default_rng(0).standard_normal((num_rows, channels)).cumsum(0) + 5


@pytest.mark.parametrize("case", FINANCIAL)
def test_financial_as_the_original(case, shared_data):
    folder = shared_data / "parity" / "scinet" / "protocol_financial_exchange"
    expected = load_file(folder / "io.safetensors")
    counts = json.loads((folder / "config.json").read_text())["cases"][case]
    file = shared_data / "data" / "long_term_forecasting" / "exchange_rate.txt.gz"
    data = FinancialForecastingData(file, 168, 3, **FINANCIAL[case])

    np.testing.assert_allclose(data.feature_extractor.scale, expected[f"{case}.scale"], rtol=1e-6)
    np.testing.assert_allclose(data.feature_extractor.mean, expected[f"{case}.bias"], rtol=1e-6)
    assert data.rse_denominator == pytest.approx(expected[f"{case}.rse_denominator"].item(), rel=1e-5)
    assert data.rae_denominator == pytest.approx(expected[f"{case}.rae_denominator"].item(), rel=1e-5)
    for name, original in SPLITS.items():
        windows, prefix = getattr(data, name), f"{case}.{original}"
        assert len(windows) == counts[f"num_{original}"]
        everything = windows.__getitems__(range(len(windows)))
        past, future = (everything[key].numpy() for key in ("past_values", "future_values"))
        np.testing.assert_array_equal(past[0], expected[f"{prefix}.first.x"])
        np.testing.assert_array_equal(future[0], expected[f"{prefix}.first.y"])
        np.testing.assert_array_equal(past[-1, -4:], expected[f"{prefix}.last.x_tail"])
        np.testing.assert_array_equal(future[-1], expected[f"{prefix}.last.y"])
        np.testing.assert_allclose(future.sum((0, 1), dtype=np.float64), expected[f"{prefix}.y_sum"], rtol=1e-9)


@pytest.mark.parametrize("statistics", NORMTYPES)
def test_pems_as_the_original(statistics, shared_data):
    folder = shared_data / "parity" / "scinet" / "protocol_pems_synthetic"
    expected = load_file(folder / "io.safetensors")
    case = f"normtype{NORMTYPES[statistics]}"
    counts = json.loads((folder / "config.json").read_text())["normtypes"][case[-1]]
    data = PemsForecastingData(expected["input.flow"], 12, 12, statistics=statistics)
    for name, original in SPLITS.items():
        windows, prefix = getattr(data, name), f"{case}.{original}"
        assert len(windows) == counts[original]
        mean, scale = data.scalers[name]
        np.testing.assert_allclose(mean, expected[f"{prefix}.mean"], rtol=1e-12)
        np.testing.assert_allclose(scale, np.where(expected[f"{prefix}.std"] == 0, 1, expected[f"{prefix}.std"]))
        for window, place in ((windows[0], "first"), (windows[-1], "last")):
            np.testing.assert_array_equal(window["past_values"], expected[f"{prefix}.{place}.x"])
            np.testing.assert_array_equal(window["future_values"], expected[f"{prefix}.{place}.y"])
    if f"{case}.forecast_norm" not in expected:
        return
    targets = data.test.__getitems__(range(len(data.test)))["future_values"].numpy()
    mean, scale = data.scalers["test"]
    forecasts, targets = (
        values.astype(np.float64) * scale + mean for values in (expected[f"{case}.forecast_norm"], targets)
    )
    computed = pems_metrics(forecasts, targets)
    by_step = pems_metrics(forecasts, targets, by_step=True)
    for name in ("mae", "rmse", "mape"):
        assert computed[name] == pytest.approx(expected[f"{case}.metric.{name}"].item(), rel=1e-9)
        np.testing.assert_allclose(by_step[name], expected[f"{case}.metric_by_step.{name}"], rtol=1e-9)


def test_training_statistics_see_no_later_row():
    rows = random_walk()
    changed = np.concatenate([rows[:60], rows[60:] * 100])
    for make in (
        lambda values: FinancialForecastingData(values, 8, 2, statistics="train"),
        lambda values: FinancialForecastingData(values, 8, 2, "standard", statistics="train"),
        lambda values: PemsForecastingData(values, 8, 2, statistics="train"),
    ):
        before, after = make(rows), make(changed)
        assert before.feature_extractor.scale == after.feature_extractor.scale
        np.testing.assert_array_equal(before.train.values, after.train.values)
        assert not np.array_equal(before.test.values, after.test.values)


def test_forecasts_come_back_in_units():
    rows = random_walk()
    rows[:, 1] = 0.0  # neither a largest value nor a deviation
    for data in (FinancialForecastingData(rows, 8, 2), PemsForecastingData(rows, 8, 2)):
        assert data.feature_extractor.scale[1] == 1
        last = data.train[-1]["future_values"]
        np.testing.assert_allclose(data.feature_extractor.inverse_transform(last), rows[58:60], rtol=1e-6)


def test_few_test_rows_keep_every_window():
    assert len(PemsForecastingData(random_walk(70), 4, 2).test) == 14 - 6 + 1


def test_borders_as_floating_point_has_them():
    assert ratio_borders(7588, (0.7, 0.1, 0.2)) == (5311, 6070)
    assert ratio_borders(7588, (0.6, 0.2, 0.2)) == (4552, 6070)


def test_inputs_that_do_not_fit(tmp_path):
    rows = random_walk()
    with pytest.raises(ValueError, match="`normalization` must be"):
        FinancialForecastingData(rows, 8, 2, normalization="max")
    with pytest.raises(ValueError, match="`statistics` must be 'all' or 'train'"):
        FinancialForecastingData(rows, 8, 2, statistics="split")
    with pytest.raises(ValueError, match="`statistics` must be 'split'"):
        PemsForecastingData(rows, 8, 2, statistics="test")
    for split in ((0.6, 0.4), (0.6, 0.2, 0.3), (1.0, 0.0, 0.0)):
        with pytest.raises(ValueError, match="`split` must hold three positive fractions"):
            FinancialForecastingData(rows, 8, 2, split=split)
    with pytest.raises(ValueError, match="must leave rows"):
        PemsForecastingData(rows[:1], 8, 2)
    with pytest.raises(ValueError, match="at least `context_length`"):
        PemsForecastingData(rows, 18, 3)
    (tmp_path / "text.txt").write_text("1,2\n3,a\n")
    with pytest.raises(ValueError, match="numbers separated by commas"):
        FinancialForecastingData(tmp_path / "text.txt", 8, 2)
    with pytest.raises(ValueError, match="`stride` must be a positive integer"):
        type(FinancialForecastingData(rows, 8, 2).train)(rows, 8, 2, 0)
