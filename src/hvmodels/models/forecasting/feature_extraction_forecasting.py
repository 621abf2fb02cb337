"""From tables of numbers to model inputs and back: columns, dates, missing values, standardisation.

Scaling follows the LTSF protocol (arXiv 2205.13504, section 5.1; `sklearn.preprocessing.StandardScaler`): float64 mean
and population standard deviation of the training rows, a constant column keeps the scale 1.
"""

import sys
import warnings
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType


MISSING_VALUES = ("raise", "forward_fill", "interpolate")
STANDARDIZATIONS = ("train", "context", "none")


@dataclass(frozen=True)
class TimeSeries:
    """A regular multivariate series.

    Args:
        values: (time, channels) float64, finite, oldest row first.
        columns: One name a channel.
        timestamps: `pandas.DatetimeIndex` of the rows, or None for an array.
        frequency: pandas offset alias of the step (`"h"`, `"D"`, `"MS"`), or None for an array.
    """

    values: np.ndarray
    columns: list[str]
    timestamps: Any = None
    frequency: str | None = None

    def __len__(self) -> int:
        return len(self.values)

    def future_timestamps(self, num_steps: int) -> Any:
        """The `num_steps` dates that follow the last row, or None without dates."""
        if self.timestamps is None:
            return None
        return import_pandas().date_range(self.timestamps[-1], periods=num_steps + 1, freq=self.frequency)[1:]


def import_pandas() -> Any:
    """pandas, imported when tables or dates come in: arrays do without it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("Tables and dates need pandas: `pip install pandas`, or pass a NumPy array.") from error
    return pandas


def _infer_frequency(timestamps) -> str:
    """The coarsest calendar step whose grid holds all timestamps; gaps are allowed, up to half of the grid."""
    pd = import_pandas()
    if len(timestamps) >= 3:
        with warnings.catch_warnings():  # pandas 3 announces that pandas 4 returns an offset; either is fine here
            warnings.simplefilter("ignore")
            frequency = pd.infer_freq(timestamps)
        if frequency is not None:
            return getattr(frequency, "freqstr", frequency)
    if len(timestamps) < 2:
        raise ValueError("`data` must have at least 2 rows to tell the step between its dates; pass `frequency`.")
    smallest = pd.Series(timestamps).diff().min()
    candidates = ["YS", "YE", "QS", "QE", "MS", "ME", "B"] if smallest >= pd.Timedelta(days=1) else []
    for candidate in [*candidates, pd.tseries.frequencies.to_offset(smallest)]:
        grid = pd.date_range(timestamps[0], timestamps[-1], freq=candidate)
        if len(grid) <= 2 * len(timestamps) and timestamps.isin(grid).all():
            return pd.tseries.frequencies.to_offset(candidate).freqstr
    raise ValueError(
        "`data` must have dates on a regular step (hours, days, months ...); its dates follow none. "
        "Resample it first, e.g. `data.resample('1h').mean()`."
    )


def _split_dates(frame, timestamp_column: str | None):
    """Take the dates out of a frame: (timestamps or None, frame of the other columns)."""
    pd = import_pandas()
    if timestamp_column is not None and timestamp_column not in frame.columns:
        raise ValueError(
            f"`timestamp_column` is {timestamp_column!r}, but `data` has the columns {list(map(str, frame.columns))}."
        )
    if timestamp_column is None:
        if isinstance(frame.index, pd.DatetimeIndex):
            return frame.index, frame
        first = frame.columns[0] if len(frame.columns) else None
        if first is None or pd.api.types.is_numeric_dtype(frame[first]):
            return None, frame
        timestamp_column = first
    try:
        timestamps = pd.DatetimeIndex(pd.to_datetime(frame[timestamp_column]))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Column {timestamp_column!r} of `data` must hold dates (it is the first non-numeric column): {error}. "
            "Name the date column by `timestamp_column`, or drop text columns."
        ) from error
    return timestamps, frame.drop(columns=timestamp_column)


def _to_frame(data):
    """CSV path, DataFrame, Series or `datasets.Dataset` to a DataFrame; None for anything else."""
    if isinstance(data, str | PathLike):
        pd = import_pandas()
        try:
            return pd.read_csv(data)
        except FileNotFoundError:
            raise ValueError(f"`data` names the file {str(data)!r}, which does not exist.") from None
        except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(f"`data` names {str(data)!r}, which cannot be read as CSV: {error}") from error
    if hasattr(data, "to_pandas"):
        return data.to_pandas()
    pd = sys.modules.get("pandas")  # a pandas object cannot come from anywhere else
    if pd is not None and isinstance(data, pd.Series):
        return data.to_frame(name="value" if data.name is None else str(data.name))
    return data if pd is not None and isinstance(data, pd.DataFrame) else None


def _numeric_values(frame) -> np.ndarray:
    values = np.empty(frame.shape, dtype=np.float64)
    for index, column in enumerate(frame.columns):
        try:
            values[:, index] = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Column {str(column)!r} of `data` must be numeric, got {frame[column].dtype}; convert or drop it."
            ) from error
    return values


def fill_missing(values: np.ndarray, columns: list[str], missing_values: str) -> np.ndarray:
    """Apply the policy for missing values to (time, channels) float64; infinite values always raise.

    Args:
        values: NaN where missing.
        columns: Names for messages.
        missing_values: `"raise"`; `"forward_fill"`, the last observed value (a leading gap takes the first one);
            `"interpolate"`, linear in time between observed values, constant beyond them.

    Raises:
        ValueError: If a value is infinite, missing under `"raise"`, or a whole column is missing.
    """
    if np.isinf(values).any():
        row, channel = np.argwhere(np.isinf(values))[0]
        raise ValueError(f"`data` has an infinite value in column {columns[channel]!r}, row {row}; replace it.")
    missing = np.isnan(values)
    if not missing.any():
        return values
    row, channel = np.argwhere(missing)[0]
    if missing_values == "raise":
        raise ValueError(
            f"`data` has {int(missing.sum())} missing values, the first in column {columns[channel]!r}, row {row}; "
            "fill them, or choose `missing_values='forward_fill'` or `'interpolate'`."
        )
    if missing.all(axis=0).any():
        empty = [columns[index] for index in np.flatnonzero(missing.all(axis=0))]
        raise ValueError(f"`data` has no value at all in the columns {empty}; drop them.")
    filled, steps = values.copy(), np.arange(len(values))
    for channel in np.flatnonzero(missing.any(axis=0)):
        observed = np.flatnonzero(~missing[:, channel])
        if missing_values == "interpolate":
            filled[:, channel] = np.interp(steps, observed, values[observed, channel])
        else:
            previous = np.searchsorted(observed, steps, side="right") - 1
            filled[:, channel] = values[observed[np.maximum(previous, 0)], channel]
    return filled


def read_series(
    data: Any,
    columns: list[str] | None = None,
    timestamp_column: str | None = None,
    frequency: str | None = None,
    missing_values: Literal["raise", "forward_fill", "interpolate"] = "raise",
) -> TimeSeries:
    """Read one series.

    Args:
        data: Path of a CSV file, DataFrame, Series, anything with `to_pandas()` (a `datasets.Dataset`), or array or
            tensor (time,) or (time, channels). Dates come from the index or from `timestamp_column`.
        columns: Columns to read, in this order; None for all but the dates.
        timestamp_column: Column of dates; None takes a DatetimeIndex, else the first column if it is not numeric.
        frequency: pandas offset alias of the step; None infers it. Dates absent from a regular grid become missing
            rows.
        missing_values: Policy for missing values, see `fill_missing`.

    Raises:
        TypeError: If `data` or a column is of a type that holds no numbers.
        ValueError: On a missing file or column, no rows, irregular, repeated or unsorted dates, missing or infinite
            values.
    """
    if missing_values not in MISSING_VALUES:
        raise ValueError(f"`missing_values` must be one of {MISSING_VALUES}, got {missing_values!r}.")
    frame, timestamps = _to_frame(data), None
    if frame is not None:
        timestamps, frame = _split_dates(frame, timestamp_column)
        if columns is not None:
            if absent := [name for name in columns if name not in frame.columns]:
                raise ValueError(
                    f"`data` lacks the columns {absent}; it has {list(map(str, frame.columns))}, "
                    f"and the model reads {list(columns)}."
                )
            frame = frame[list(columns)]
        names, values = list(map(str, frame.columns)), _numeric_values(frame)
    else:
        names, values = columns, _array_values(data)
        if names is None:
            names = [str(index) for index in range(values.shape[1])]
        elif len(names) != values.shape[1]:
            raise ValueError(
                f"`data` must have {len(names)} channels ({list(names)}), got an array with {values.shape[1]}."
            )
    if values.size == 0:
        raise ValueError(f"`data` must have at least one row and one column of numbers, got shape {values.shape}.")
    if timestamps is not None:
        timestamps, frequency, values = _regular_grid(timestamps, frequency, values)
    else:
        frequency = None
    return TimeSeries(fill_missing(values, names, missing_values), list(names), timestamps, frequency)


def _array_values(data) -> np.ndarray:
    try:
        values = np.asarray(data.detach().cpu() if hasattr(data, "detach") else data)
    except ValueError as error:
        raise TypeError(f"`data` must be a rectangular array (time, channels): {error}") from error
    if values.dtype.kind not in "fiub":
        raise TypeError(
            "`data` must be a CSV path, DataFrame, or numeric array (time, channels), "
            f"got {type(data).__name__} of dtype {values.dtype}."
        )
    if values.ndim not in (1, 2):
        raise ValueError(
            f"`data` must have shape (time,) or (time, channels), got {values.shape}; pass several series as a list."
        )
    return values.reshape(len(values), -1).astype(np.float64)


def _regular_grid(timestamps, frequency: str | None, values: np.ndarray):
    """Put rows on a regular grid of dates, absent rows as NaN: (timestamps, frequency, values)."""
    pd = import_pandas()
    if timestamps.hasnans:
        raise ValueError("`data` has rows without a date; drop or date them.")
    if timestamps.has_duplicates:
        raise ValueError(
            f"`data` has the date {timestamps[timestamps.duplicated()][0]} more than once; one row a date is "
            "expected: aggregate the rows, or pass several series as a list."
        )
    if not timestamps.is_monotonic_increasing:
        raise ValueError("`data` must be sorted by date, oldest row first; use `data.sort_values(date_column)`.")
    frequency = frequency or _infer_frequency(timestamps)
    try:
        grid = pd.date_range(timestamps[0], timestamps[-1], freq=frequency)
    except ValueError as error:
        raise ValueError(f"`frequency` must be a pandas offset alias such as 'h', 'D', 'MS': {error}") from error
    rows = grid.get_indexer(timestamps)
    if (rows < 0).any():
        raise ValueError(
            f"`data` has the date {timestamps[rows < 0][0]}, which is off the grid of `frequency` = {frequency!r}; "
            "resample it or pass its true frequency."
        )
    regular = np.full((len(grid), values.shape[1]), np.nan)
    regular[rows] = values
    return grid, frequency, regular


class ForecastingFeatureExtractor(FeatureExtractionMixin):
    """Turns the end of a series into model inputs, and forecasts back into the series' units.

    Args:
        context_length: Time steps that the model reads.
        prediction_length: Time steps that the model predicts.
        columns: Channels in the model's order; set by `fit`, None accepts any.
        timestamp_column: Column of dates, see `read_series`.
        frequency: pandas offset alias of the step; set by `fit`.
        standardization: `"train"`, with the `mean` and `scale` of the training rows; `"context"`, with those of the
            context itself, for a model that is meant for any series; `"none"`.
        mean: One float64 a channel, in the units of the data; set by `fit`.
        scale: One positive float64 a channel, likewise.
        missing_values: Policy for missing values, see `fill_missing`.
        pad_short_context: Repeat the first value in front of a series shorter than `context_length` instead of
            raising.

    Raises:
        ValueError: On an unknown policy, lengths below 1, or `mean` and `scale` that do not fit.
    """

    model_input_names = ["past_values"]

    def __init__(
        self,
        context_length: int = 336,
        prediction_length: int = 96,
        columns: list[str] | None = None,
        timestamp_column: str | None = None,
        frequency: str | None = None,
        standardization: Literal["train", "context", "none"] = "train",
        mean: list[float] | None = None,
        scale: list[float] | None = None,
        missing_values: Literal["raise", "forward_fill", "interpolate"] = "raise",
        pad_short_context: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if standardization not in STANDARDIZATIONS:
            raise ValueError(f"`standardization` must be one of {STANDARDIZATIONS}, got {standardization!r}.")
        if missing_values not in MISSING_VALUES:
            raise ValueError(f"`missing_values` must be one of {MISSING_VALUES}, got {missing_values!r}.")
        for name, value in (("context_length", context_length), ("prediction_length", prediction_length)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if (mean is None) != (scale is None) or (mean is not None and len(mean) != len(scale)):
            raise ValueError("`mean` and `scale` must be given together, one number a channel in each.")
        if scale is not None and not (np.all(np.isfinite(mean)) and np.all(np.asarray(scale) > 0)):
            raise ValueError("`mean` must be finite and `scale` positive, one number a channel.")
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.columns = None if columns is None else list(columns)
        self.timestamp_column = timestamp_column
        self.frequency = frequency
        self.standardization = standardization
        self.mean = None if mean is None else [float(value) for value in mean]
        self.scale = None if scale is None else [float(value) for value in scale]
        self.missing_values = missing_values
        self.pad_short_context = pad_short_context

    def read(self, data: Any, missing_values: str | None = None) -> TimeSeries:
        """Read one series with this extractor's columns and policies, see `read_series`."""
        if isinstance(data, TimeSeries):
            return data
        return read_series(
            data, self.columns, self.timestamp_column, self.frequency, missing_values or self.missing_values
        )

    def fit(self, data: Any, num_train_rows: int | None = None) -> "ForecastingFeatureExtractor":
        """Take columns, frequency, mean and scale from a series, the latter two from its first rows only.

        Args:
            data: Anything `read_series` reads.
            num_train_rows: Rows that belong to the training split, None for all.

        Returns:
            The extractor itself, with `standardization="train"`.
        """
        series = self.read(data)
        rows = series.values[:num_train_rows]
        if len(rows) == 0 or (num_train_rows or 0) > len(series):
            raise ValueError(f"`num_train_rows` must be in [1, {len(series)}], got {num_train_rows}.")
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        # The bound below which scikit-learn takes a column for constant: its variance is rounding error.
        epsilon = np.finfo(np.float64).eps
        constant = variance <= len(rows) * epsilon * variance + (len(rows) * mean * epsilon) ** 2
        scale = np.where(constant, 1.0, np.sqrt(variance))
        self.columns, self.frequency = series.columns, series.frequency
        self.mean, self.scale, self.standardization = mean.tolist(), scale.tolist(), "train"
        return self

    def _location_and_scale(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale, each (channels,), by which (time, channels) is standardised."""
        channels = values.shape[-1]
        if self.standardization == "context":
            deviation = values.std(axis=0)
            # A (nearly) constant context has no scale of its own; its size stands in, so that units cancel.
            floor = 1e-8 * np.abs(values).max(axis=0)
            return values.mean(axis=0), np.where(deviation > floor, deviation, np.maximum(np.abs(values[-1]), 1e-12))
        if self.standardization == "none":
            return np.zeros(channels), np.ones(channels)
        if self.mean is None:
            raise ValueError(
                "This feature extractor has no `mean` and `scale`; call `fit(train_data)`, "
                "or set `standardization` to 'context' or 'none'."
            )
        if len(self.mean) != channels:
            raise ValueError(f"`data` must have {len(self.mean)} channels as in training, got {channels}.")
        return np.asarray(self.mean), np.asarray(self.scale)

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """(time, channels) in the data's units to float64 in units of the training rows' deviation."""
        mean, scale = self._location_and_scale(values)
        return (np.asarray(values, dtype=np.float64) - mean) / scale

    def inverse_transform(
        self,
        values: Any,
        channel_indices: list[int] | None = None,
        location: np.ndarray | None = None,
        scale: np.ndarray | None = None,
    ) -> np.ndarray:
        """Standardised (..., channels) back to the data's units, in float64.

        Args:
            values: Array or tensor of forecasts.
            channel_indices: Channels that `values` holds, None for all (`config.prediction_channel_indices`).
            location: (channels,) that was subtracted; None takes the training mean.
            scale: (channels,) that was divided by; None takes the training scale.

        Raises:
            ValueError: If the number of channels does not fit.
        """
        values = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)
        if location is None or scale is None:
            if self.mean is None:
                raise ValueError("This feature extractor has no `mean` and `scale`; pass `location` and `scale`.")
            location, scale = np.asarray(self.mean), np.asarray(self.scale)
        if channel_indices is not None:
            location, scale = location[list(channel_indices)], scale[list(channel_indices)]
        if values.ndim == 0 or values.shape[-1] != len(location):
            raise ValueError(
                f"`values` must have {len(location)} channels in its last axis, got shape {values.shape}."
            )
        return values * scale + location

    def __call__(self, data: Any, return_tensors: str | TensorType | None = "pt") -> BatchFeature:
        """Standardised last `context_length` rows of each series.

        Args:
            data: One series, or a list of series with the same number of channels; see `read_series`.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `past_values` (batch, context_length, channels) float32; `location` and `scale` (batch, channels) float64,
            by which `inverse_transform` brings forecasts back.

        Raises:
            TypeError: If a series holds no numbers.
            ValueError: If a series is empty, too short, or has missing values or the wrong channels.
        """
        items = list(data) if isinstance(data, list | tuple) and not _is_number_list(data) else [data]
        if not items:
            raise ValueError("`data` must hold at least one series, got an empty list.")
        features = {"past_values": [], "location": [], "scale": []}
        for item in items:
            context = self._context(self.read(item).values)
            location, scale = self._location_and_scale(context)
            features["past_values"].append(((context - location) / scale).astype(np.float32))
            features["location"].append(location)
            features["scale"].append(scale)
        if len({values.shape for values in features["past_values"]}) > 1:
            channels = [values.shape[1] for values in features["past_values"]]
            raise ValueError(f"`data` must hold series with the same number of channels, got {channels}.")
        return BatchFeature({name: np.stack(rows) for name, rows in features.items()}, tensor_type=return_tensors)

    def _context(self, values: np.ndarray) -> np.ndarray:
        missing = self.context_length - len(values)
        if missing <= 0:
            return values[len(values) - self.context_length :]
        if not self.pad_short_context:
            raise ValueError(
                f"`data` must have at least `context_length` = {self.context_length} rows, got {len(values)}; "
                "pass a longer history or use a model with a shorter context."
            )
        return np.concatenate([np.repeat(values[:1], missing, axis=0), values])


def _is_number_list(data) -> bool:
    """Whether a list is one series of plain numbers or of rows of numbers, not a list of series."""
    first = data[0] if data else None
    if isinstance(first, list | tuple):
        first = first[0] if first else None
        return isinstance(first, int | float | np.number)
    return isinstance(first, int | float | np.number)


__all__ = ["ForecastingFeatureExtractor", "TimeSeries", "fill_missing", "import_pandas", "read_series"]
