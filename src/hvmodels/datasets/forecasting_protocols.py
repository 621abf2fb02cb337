"""The protocols of the SCINet paper (arXiv 2106.09305) besides ETT: the "financial" text files and PEMS traffic flow.

Both are kept as the original's code has them, so that its tables can be compared with; two of their habits make figures look
better than a forecaster would do in use, and can be switched off by `statistics="train"`: scales that are taken from the whole
file or from the test split itself. ETT follows `LongTermForecastingData`.
"""

from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..models.forecasting.feature_extraction_forecasting import ForecastingFeatureExtractor, TimeSeries, read_series
from .forecasting import ForecastingWindows, read_forecasting_file


PEMS_TEST_STRIDE = 12


def ratio_borders(num_rows: int, split: tuple[float, float, float]) -> tuple[int, int]:
    """First row of validation and first row of test, both rounded down; test takes the rest.

    Args:
        num_rows: Rows of the series.
        split: Fractions of training, validation and test rows.

    Raises:
        ValueError: If the split leaves a part without rows.
    """
    fractions = list(split)
    if len(fractions) != 3 or abs(sum(fractions) - 1) > 1e-9 or min(fractions) <= 0:
        raise ValueError(f"`split` must hold three positive fractions that sum to 1, got {split!r}.")
    # Summed first, as the original does: 0.7 + 0.1 is a little less than 0.8.
    borders = int(fractions[0] * num_rows), int((fractions[0] + fractions[1]) * num_rows)
    if not 0 < borders[0] < borders[1] < num_rows:
        raise ValueError(f"`split` = {split!r} must leave rows to all three parts of {num_rows} rows.")
    return borders


class FinancialForecastingData:
    """Exchange rates, electricity, solar energy and traffic as SCINet's financial experiments cut and scale them.

    A window belongs to the split of its last target row, so that the first targets of validation and test lie up to
    `prediction_length` - 1 rows before the border.

    Args:
        series: Path of a text file of numbers separated by commas without header (`.txt`, `.txt.gz`), or anything that
            `read_series` reads.
        context_length: Past steps of a window.
        prediction_length: Future steps of a window.
        normalization: `"max_abs"`, divide each column by its largest absolute value; `"standard"`, mean and deviation.
        statistics: Rows that set it: `"all"`, test rows too, as the original (its `normalize` 2 and 3), or `"train"`
            (`"standard"` with the split 0.7, 0.1, 0.2 is its `normalize` 4).
        split: Fractions of training, validation and test rows: 0.6, 0.2, 0.2 or, for long horizons, 0.7, 0.1, 0.2.
        feature_extractor_class: Class of `feature_extractor`.
        read_options: Further arguments of `read_series`.

    Attributes:
        feature_extractor: Holds columns and scaler; save it with the model.
        train, validation, test: `ForecastingWindows`.
        rse_denominator, rae_denominator: Spread of the last target step over all test windows and channels, in the data's
            units without their mean: deviation, and mean absolute deviation. `FinancialMetrics` divides by
            them, also on the validation windows.

    Raises:
        ValueError: On an unknown option, or if a split is too short for the lengths.
    """

    def __init__(
        self,
        series: Any,
        context_length: int,
        prediction_length: int,
        normalization: Literal["max_abs", "standard"] = "max_abs",
        statistics: Literal["all", "train"] = "all",
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        feature_extractor_class: type[ForecastingFeatureExtractor] = ForecastingFeatureExtractor,
        **read_options,
    ):
        if normalization not in ("max_abs", "standard"):
            raise ValueError(f"`normalization` must be 'max_abs' or 'standard', got {normalization!r}.")
        if statistics not in ("all", "train"):
            raise ValueError(f"`statistics` must be 'all' or 'train', got {statistics!r}.")
        self.series = _read_table(series, read_options)
        num_rows, length = len(self.series), context_length + prediction_length
        validation_start, test_start = ratio_borders(num_rows, split)
        self.feature_extractor = feature_extractor_class(context_length, prediction_length)
        rows = validation_start if statistics == "train" else num_rows
        self.feature_extractor.fit(self.series, num_train_rows=rows)
        if normalization == "max_abs":
            largest = np.abs(self.series.values[:rows]).max(axis=0)
            self.feature_extractor.mean = [0.0] * len(largest)
            self.feature_extractor.scale = np.where(largest == 0, 1.0, largest).tolist()
        values = self.feature_extractor.standardize(self.series.values)
        self.train, self.validation, self.test = (
            ForecastingWindows(values[max(start - length + 1, 0) : stop], context_length, prediction_length)
            for start, stop in ((0, validation_start), (validation_start, test_start), (test_start, num_rows))
        )
        last_targets = self.test.values[length - 1 :] * np.asarray(self.feature_extractor.scale)
        # The unbiased deviation over windows and channels, corrected back by the number of windows alone, as the original.
        count = len(last_targets)
        self.rse_denominator = float(last_targets.std(ddof=1) * np.sqrt((count - 1) / count))
        self.rae_denominator = float(np.abs(last_targets - last_targets.mean()).mean())


class PemsForecastingData:
    """Traffic flow of the PEMS archives as SCINet's experiments cut and scale it.

    Splits do not overlap; training and validation windows have stride 1, test windows stride 12, and the last test window
    is left out unless the number of places for one is a multiple of 12.

    Args:
        series: Path of a PEMS `.npz` archive (its first feature is the flow), or anything that `read_series` reads.
        context_length: Past steps of a window.
        prediction_length: Future steps of a window.
        statistics: Rows that set mean and deviation of a split: `"split"`, its own, as in the original's tables;
            `"all"`; or `"train"`, which its authors recommend (their `normtype` 0, 1, 2).
        split: Fractions of training, validation and test rows.
        feature_extractor_class: Class of `feature_extractor`.
        read_options: Further arguments of `read_series`.

    Attributes:
        feature_extractor: Holds columns and the training split's scaler; save it with the model.
        scalers: (mean, scale) in the data's units, each (channels,), for `"train"`, `"validation"` and `"test"`.
        train, validation, test: `ForecastingWindows`.

    Raises:
        ValueError: On an unknown option, or if a split is too short for the lengths.
    """

    def __init__(
        self,
        series: Any,
        context_length: int,
        prediction_length: int,
        statistics: Literal["split", "all", "train"] = "split",
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        feature_extractor_class: type[ForecastingFeatureExtractor] = ForecastingFeatureExtractor,
        **read_options,
    ):
        if statistics not in ("split", "all", "train"):
            raise ValueError(f"`statistics` must be 'split', 'all' or 'train', got {statistics!r}.")
        self.series = _read_table(series, read_options)
        values, length = self.series.values, context_length + prediction_length
        borders = (0, *ratio_borders(len(values), split), len(values))
        names = ("train", "validation", "test")
        slices = {name: slice(*borders[index : index + 2]) for index, name in enumerate(names)}
        self.feature_extractor = feature_extractor_class(context_length, prediction_length)
        self.feature_extractor.fit(self.series, num_train_rows=len(values) if statistics == "all" else borders[1])
        self.scalers, windows = {}, {}
        for name, rows in slices.items():
            scaler = self.feature_extractor
            if statistics == "split":
                scaler = feature_extractor_class(context_length, prediction_length).fit(values[rows])
            self.scalers[name] = np.asarray(scaler.mean), np.asarray(scaler.scale)
            standardized, stride = scaler.standardize(values[rows]), 1
            places = len(standardized) - length + 1
            if name == "test" and places >= PEMS_TEST_STRIDE:
                stride = PEMS_TEST_STRIDE
                standardized = standardized[: (places // stride - 1) * stride + length]
            windows[name] = ForecastingWindows(standardized, context_length, prediction_length, stride)
        self.train, self.validation, self.test = windows.values()


def _read_table(series: Any, read_options: dict) -> TimeSeries:
    """As `read_forecasting_file`, and text files without header."""
    if isinstance(series, TimeSeries):
        if read_options:
            raise ValueError(f"The series is read already; {sorted(read_options)} have no effect on a `TimeSeries`.")
        return series
    if isinstance(series, str | PathLike) and (".txt" in Path(series).suffixes):
        try:
            series = np.loadtxt(series, delimiter=",", ndmin=2)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`series` names {str(series)!r}, which must be a text file of numbers separated by commas: {error}"
            ) from error
        return read_series(series, **read_options)
    return read_forecasting_file(series, read_options)


__all__ = ["FinancialForecastingData", "PemsForecastingData", "ratio_borders"]
