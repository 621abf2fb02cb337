"""The long-term forecasting protocol: splits, scaling and windows of the published data sets and of one's own.

Protocol of the LTSF-Linear paper (arXiv 2205.13504, section 5.1 and its code): the scaler sees the training rows only;
validation and test slices start `context_length` rows early, so that the first forecast starts on the border.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from ..models.forecasting.feature_extraction_forecasting import (
    ForecastingFeatureExtractor,
    TimeSeries,
    import_pandas,
    read_series,
)


@dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Args:
        num_channels: Number of value columns.
        frequency: pandas offset alias of its step.
        split: Fractions of train, validation and test rows, or the exact numbers of rows.
    """

    num_channels: int
    frequency: str
    split: tuple[float, float, float] | tuple[int, int, int] = (0.7, 0.1, 0.2)


# ETT: 12, 4 and 4 "months" of 30 days; the rows after them are never used.
ETT_HOUR = (12 * 30 * 24, 4 * 30 * 24, 4 * 30 * 24)
ETT_MINUTE = tuple(4 * rows for rows in ETT_HOUR)

BENCHMARKS = {
    "ETTh1": Benchmark(7, "h", ETT_HOUR),
    "ETTh2": Benchmark(7, "h", ETT_HOUR),
    "ETTm1": Benchmark(7, "15min", ETT_MINUTE),
    "ETTm2": Benchmark(7, "15min", ETT_MINUTE),
    "exchange_rate": Benchmark(8, "D"),
    "electricity": Benchmark(321, "h"),
    "traffic": Benchmark(862, "h"),
    "weather": Benchmark(21, "10min"),
    "solar_AL": Benchmark(137, "10min"),
    "national_illness": Benchmark(7, "W-TUE"),
    "PEMS03": Benchmark(358, "5min", (0.6, 0.2, 0.2)),
    "PEMS04": Benchmark(307, "5min", (0.6, 0.2, 0.2)),
    "PEMS07": Benchmark(883, "5min", (0.6, 0.2, 0.2)),
    "PEMS08": Benchmark(170, "5min", (0.6, 0.2, 0.2)),
}


def split_rows(num_rows: int, split: tuple[float, float, float] | tuple[int, int, int]) -> tuple[int, int, int]:
    """Numbers of train, validation and test rows.

    Args:
        num_rows: Rows of the series.
        split: Three integers, taken as they are; or three fractions that sum to 1: train and test are rounded down
            and validation takes the rest.

    Raises:
        ValueError: If the split does not fit the series.
    """
    parts = list(split) if isinstance(split, Sequence) and not isinstance(split, str) else []
    if len(parts) != 3 or not all(isinstance(part, Real) and math.isfinite(part) for part in parts):
        raise ValueError(f"`split` must hold three numbers (train, validation, test), got {split!r}.")
    if all(isinstance(part, Integral) for part in parts):
        rows = tuple(int(part) for part in parts)
    elif abs(sum(parts) - 1) > 1e-9:
        raise ValueError(f"`split` must sum to 1 if it holds fractions, got {split!r}.")
    else:
        train, test = int(num_rows * parts[0]), int(num_rows * parts[2])
        rows = (train, num_rows - train - test, test)
    if min(rows) < 0 or rows[0] == 0 or sum(rows) > num_rows:
        raise ValueError(f"`split` = {split!r} must leave training rows and fit into {num_rows} rows, got {rows}.")
    return rows


class ForecastingWindows(Dataset):
    """All windows of a series, read through one strided view.

    A single index gives one window; a list of indices gives a whole batch by one gather, which `DataLoader` uses if
    `collate_fn=collate_windows`.

    Args:
        values: (time, channels) standardised float64 or float32.
        context_length: Past steps of a window.
        prediction_length: Future steps of a window.
        stride: Steps from the start of a window to that of the next.
        dtype: Of the windows.

    Raises:
        ValueError: If the series is shorter than one window or not finite, or a length or the stride is not positive.
    """

    def __init__(
        self,
        values: np.ndarray,
        context_length: int,
        prediction_length: int,
        stride: int = 1,
        dtype: torch.dtype = torch.float32,
    ):
        lengths = {"context_length": context_length, "prediction_length": prediction_length, "stride": stride}
        for name, value in lengths.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        length = context_length + prediction_length
        values = np.asarray(values)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(
                f"`values` must be a finite array (time, channels), got shape {values.shape}; fill or drop missing values."
            )
        if len(values) < length:
            raise ValueError(
                f"`values` must have at least `context_length` + `prediction_length` = {length} rows, "
                f"got {len(values)}; use shorter lengths or a longer split."
            )
        self.values = values
        self.context_length = context_length
        self.prediction_length = prediction_length
        rows = torch.as_tensor(values, dtype=dtype)
        self._windows = (
            rows.T.contiguous().unfold(1, length, stride).transpose(0, 1)
        )  # (windows, channels, length), a view

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """`past_values` (context_length, channels) and `future_values` (prediction_length, channels)."""
        return {name: value[0] for name, value in self.__getitems__([range(len(self))[index]]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """The same for many windows from 0 on, with a leading batch axis."""
        # Several times faster than indexing by the tensor, which gathers element by element.
        windows = self._windows.index_select(0, torch.as_tensor(indices, dtype=torch.int64)).transpose(1, 2)
        return {
            "past_values": windows[:, : self.context_length],
            "future_values": windows[:, self.context_length :],
        }


def collate_windows(batch: dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collator for `ForecastingWindows`: batches arrive ready-made; windows of other sources are stacked."""
    return batch if isinstance(batch, dict) else torch.utils.data.default_collate(batch)


class LongTermForecastingData:
    """Train, validation and test windows of one series, scaled by its training rows.

    Args:
        series: Anything `read_series` reads, a PEMS `.npz` archive, or a `TimeSeries`.
        context_length: Past steps of a window.
        prediction_length: Future steps of a window.
        split: See `split_rows`.
        features: `"M"`, all columns; `"S"`, only the target; `"MS"`, all columns, of which the last is predicted (set
            `prediction_channel_indices=[-1]` in the model's configuration).
        target: Column of `"S"`, None for the last one.
        scale: Whether values are standardised by the training rows.
        feature_extractor_class: Class of `feature_extractor`.
        dtype: Of the windows.
        read_options: Further arguments of `read_series`.

    Attributes:
        feature_extractor: Holds columns, frequency, mean and scale; save it with the model.
        train, validation, test: `ForecastingWindows`; None where the split has no rows.

    Raises:
        ValueError: If the series is too short for the split or the lengths.
    """

    def __init__(
        self,
        series: Any,
        context_length: int,
        prediction_length: int,
        split: tuple[float, float, float] | tuple[int, int, int] = (0.7, 0.1, 0.2),
        features: Literal["M", "S", "MS"] = "M",
        target: str | None = None,
        scale: bool = True,
        feature_extractor_class: type[ForecastingFeatureExtractor] = ForecastingFeatureExtractor,
        dtype: torch.dtype = torch.float32,
        **read_options,
    ):
        if features not in ("M", "S", "MS"):
            raise ValueError(f"`features` must be 'M', 'S' or 'MS', got {features!r}.")
        if target is not None and features != "S":
            raise ValueError(
                f"`target` counts with `features='S'` only; 'MS' predicts the last column. Got {target!r} with "
                f"{features!r}: reorder the columns, or choose 'S'."
            )
        if isinstance(series, TimeSeries) and read_options:
            raise ValueError(f"The series is read already; {sorted(read_options)} have no effect on a `TimeSeries`.")
        series = series if isinstance(series, TimeSeries) else read_forecasting_file(series, read_options)
        if features == "S":
            series = _select_column(series, target)
        self.series = series
        self.split = split_rows(len(series), split)
        self.feature_extractor = feature_extractor_class(context_length, prediction_length)
        self.feature_extractor.fit(series, num_train_rows=self.split[0])
        if not scale:
            self.feature_extractor.standardization = "none"
        values = self.feature_extractor.standardize(series.values)
        self.train, self.validation, self.test = (
            ForecastingWindows(values[start:stop], context_length, prediction_length, dtype=dtype)
            if stop > start
            else None
            for start, stop in self.slices
        )

    @property
    def slices(self) -> list[tuple[int, int]]:
        """Row ranges (start, stop) of train, validation and test with their leading context; empty if unused."""
        train, validation, test = self.split
        borders = [(0, train), (train, train + validation), (train + validation, train + validation + test)]
        context = self.feature_extractor.context_length
        return [(start if start == 0 or stop == start else max(start - context, 0), stop) for start, stop in borders]

    @classmethod
    def from_benchmark(
        cls, path: str | PathLike, context_length: int, prediction_length: int, name: str | None = None, **options
    ) -> "LongTermForecastingData":
        """Read a published data set with its own split.

        Args:
            path: Its CSV (or PEMS `.npz`) file.
            context_length: Past steps of a window.
            prediction_length: Future steps of a window.
            name: A key of `BENCHMARKS`; None takes the file's name.
            options: Further arguments of the class.

        Raises:
            ValueError: If the name is unknown.
        """
        name = Path(path).stem if name is None else name
        if name not in BENCHMARKS:
            raise ValueError(
                f"`name` must be one of {sorted(BENCHMARKS)}, got {name!r}; for your own data call "
                "`LongTermForecastingData(path, context_length, prediction_length)`."
            )
        benchmark = BENCHMARKS[name]
        options = {"split": benchmark.split, **options}
        if Path(path).suffix != ".npz":
            options.setdefault("frequency", benchmark.frequency)
        return cls(path, context_length, prediction_length, **options)


def read_forecasting_file(data: Any, read_options: dict[str, Any]) -> TimeSeries:
    """What `read_series` reads with these options, and PEMS `.npz` archives, of which the first feature is taken.

    Raises:
        ValueError: If an archive cannot be read.
    """
    if isinstance(data, str | PathLike) and Path(data).suffix == ".npz":
        try:
            archive = np.load(data, allow_pickle=False)
            return read_series(archive["data"][..., 0], **read_options)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ValueError(
                f"`series` names {str(data)!r}, which must be a PEMS archive with an array 'data' "
                f"(time, sensors, features): {error}"
            ) from error
    return read_series(data, **read_options)


def _select_column(series: TimeSeries, target: str | None) -> TimeSeries:
    target = series.columns[-1] if target is None else target
    if target not in series.columns:
        raise ValueError(f"`target` must be one of the columns {series.columns}, got {target!r}.")
    column = series.columns.index(target)
    return TimeSeries(series.values[:, [column]], [target], series.timestamps, series.frequency)


# (name, smallest value, range) of each calendar feature, for steps of at least the size that the key names.
_CALENDAR = {
    "second": [("second", 0, 59)],
    "minute": [("minute", 0, 59)],
    "hour": [("hour", 0, 23)],
    "day": [("day_of_week", 0, 6), ("day", 1, 30), ("day_of_year", 1, 365)],
    "week": [("day", 1, 30), ("week", 1, 52)],
    "month": [("month", 1, 11)],
}


def calendar_features(timestamps: Any, frequency: str) -> np.ndarray:
    """Calendar features of dates in [-0.5, 0.5], (time, features) float32, for models that read them.

    Args:
        timestamps: `pandas.DatetimeIndex` or what makes one.
        frequency: pandas offset alias. Hourly: hour, weekday, day of month, day of year; shorter steps add minute and
            second in front; daily steps drop the hour; weekly: day of month and week of year; monthly: month.

    Raises:
        ValueError: If the frequency is not known to pandas.
    """
    pd = import_pandas()
    timestamps = pd.DatetimeIndex(timestamps)
    if not isinstance(frequency, str):
        raise ValueError(f"`frequency` must be a pandas offset alias such as 'h' or 'D', got {frequency!r}.")
    try:
        offset = pd.tseries.frequencies.to_offset(frequency)
    except ValueError as error:
        raise ValueError(f"`frequency` must be a pandas offset alias such as 'h' or 'D': {error}") from error
    if isinstance(offset, pd.offsets.Day | pd.offsets.BusinessDay):
        parts = ["day"]
    elif isinstance(offset, pd.offsets.Tick):
        coarser = {"second": "1min", "minute": "1h", "hour": "1D"}
        parts = [part for part, unit in coarser.items() if pd.Timedelta(offset) < pd.Timedelta(unit)] + ["day"]
    else:
        parts = ["week"] if isinstance(offset, pd.offsets.Week) else ["month"]
    columns = []
    for name, start, extent in (feature for part in parts for feature in _CALENDAR[part]):
        values = timestamps.isocalendar().week if name == "week" else getattr(timestamps, name)
        columns.append((np.asarray(values, dtype=np.float64) - start) / extent - 0.5)
    return np.stack(columns, axis=1).astype(np.float32)


__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "ForecastingWindows",
    "LongTermForecastingData",
    "calendar_features",
    "collate_windows",
    "read_forecasting_file",
    "split_rows",
]
