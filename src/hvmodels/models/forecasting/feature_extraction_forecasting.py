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
    week = f"W-{timestamps[0].day_name()[:3].upper()}"
    candidates = ["YS", "YE", "QS", "QE", "MS", "ME", week, "B"] if smallest >= pd.Timedelta(days=1) else []
    days, rest = divmod(smallest, pd.Timedelta(days=1))
    step = pd.tseries.frequencies.to_offset(smallest if rest else f"{days}D")  # a day has no fixed number of hours
    for candidate in [*candidates, step]:
        grid = pd.date_range(timestamps[0], timestamps[-1], freq=candidate)
        if len(grid) <= 2 * len(timestamps) and timestamps.isin(grid).all():
            return pd.tseries.frequencies.to_offset(candidate).freqstr
    raise ValueError(
        "`data` must have dates on a regular step (hours, days, months ...); its dates follow none. "
        "Resample it first, e.g. `data.resample('1h').mean()`, or pass `frequency` if most dates are absent."
    )


def _split_dates(frame, timestamp_column: str | None):
    """Take the dates out of a frame: (timestamps or None, frame of the other columns)."""
    pd = import_pandas()
    if timestamp_column is not None and timestamp_column not in frame.columns:
        raise ValueError(
            f"`timestamp_column` is {timestamp_column!r}, but `data` has the columns {list(frame.columns)}."
        )
    if timestamp_column is None:
        if isinstance(frame.index, pd.DatetimeIndex):
            return frame.index, frame
        first = frame.columns[0] if len(frame.columns) else None
        if first is None or pd.api.types.is_numeric_dtype(frame[first]):
            return None, frame
        timestamp_column = first
    elif pd.api.types.is_numeric_dtype(frame[timestamp_column]):
        raise ValueError(
            f"`timestamp_column` {timestamp_column!r} must hold dates, got {frame[timestamp_column].dtype}; convert it "
            "first, e.g. by `pandas.to_datetime(column, unit='s')`."
        )
    try:
        with warnings.catch_warnings():  # the announcement of a guess, just before the error that it fails
            warnings.filterwarnings("ignore", "Could not infer format", UserWarning)
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
    types = import_pandas().api.types
    values = np.empty(frame.shape, dtype=np.float64)
    for index, column in enumerate(frame.columns):
        dtype = frame[column].dtype
        try:
            if not (types.is_numeric_dtype(dtype) or types.is_object_dtype(dtype)) or types.is_complex_dtype(dtype):
                raise TypeError(
                    "dates, text and complex numbers are not real numbers, even where pandas converts them"
                )
            values[:, index] = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Column {column!r} of `data` must be numeric, got {dtype}; convert or drop it."
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
    columns = _column_names(columns)
    frame, timestamps = _to_frame(data), None
    if frame is not None:
        frame = frame.set_axis(list(map(str, frame.columns)), axis=1)
        if repeated := sorted(frame.columns[frame.columns.duplicated()]):
            raise ValueError(f"`data` must have different column names, got {repeated} more than once.")
        timestamps, frame = _split_dates(frame, timestamp_column)
        if columns is not None:
            if absent := [name for name in columns if name not in frame.columns]:
                raise ValueError(
                    f"`data` lacks the columns {absent}; it has {list(frame.columns)}, and the model reads {columns}."
                )
            frame = frame[columns]
        names, values = list(frame.columns), _numeric_values(frame)
    else:
        names, values = columns, _array_values(data)
        if names is None:
            names = [str(index) for index in range(values.shape[1])]
        elif len(names) != values.shape[1]:
            raise ValueError(f"`data` must have {len(names)} channels ({names}), got an array with {values.shape[1]}.")
    if values.size == 0:
        raise ValueError(f"`data` must have at least one row and one column of numbers, got shape {values.shape}.")
    if timestamps is not None:
        timestamps, frequency, values = _regular_grid(timestamps, frequency, values, missing_values)
    else:
        frequency = None
    return TimeSeries(fill_missing(values, names, missing_values), names, timestamps, frequency)


def _column_names(columns) -> list[str] | None:
    if columns is None:
        return None
    names = [] if isinstance(columns, str) else list(map(str, columns))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`columns` must be a list of different column names, or None for all, got {columns!r}.")
    return names


def _array_values(data) -> np.ndarray:
    if isinstance(data, list | tuple) and data and getattr(data[0], "shape", ()) != ():
        raise TypeError(
            f"`data` must be one series here, got {len(data)} of {type(data[0]).__name__}; pass each alone."
        )
    try:
        tensor = data.detach().cpu() if hasattr(data, "detach") else None
        if tensor is not None and tensor.is_floating_point():
            tensor = tensor.double()  # NumPy lacks bfloat16
        values = np.asarray(data if tensor is None else tensor)
    except ValueError as error:
        raise TypeError(f"`data` must be a rectangular array (time, channels): {error}") from error
    if values.dtype.kind not in "fiub":
        raise TypeError(
            "`data` must be a CSV path, DataFrame, or numeric array (time, channels), "
            f"got {type(data).__name__} of dtype {values.dtype}."
        )
    if values.ndim not in (1, 2):
        raise ValueError(
            f"`data` must have shape (time,) or (time, channels), got {values.shape or 'one number'}; pass several "
            "series as a list."
        )
    numbers = values.astype(np.float64)
    if np.ma.isMaskedArray(data):
        numbers[np.ma.getmaskarray(data)] = np.nan
    return numbers[:, None] if numbers.ndim == 1 else numbers


def _regular_grid(timestamps, frequency: str | None, values: np.ndarray, missing_values: str):
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
        if pd.tseries.frequencies.to_offset(frequency).n < 1:
            raise ValueError("the step must be positive")
        grid = pd.date_range(timestamps[0], timestamps[-1], freq=frequency)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`frequency` must be a pandas offset alias such as 'h', 'D', 'MS', got {frequency!r}: {error}"
        ) from error
    rows = grid.get_indexer(timestamps)
    if (rows < 0).any():
        raise ValueError(
            f"`data` has the date {timestamps[rows < 0][0]}, which is off the grid of `frequency` = {frequency!r}; "
            "resample it or pass its true frequency."
        )
    if len(grid) > len(timestamps) and missing_values == "raise":
        raise ValueError(
            f"`data` lacks {len(grid) - len(timestamps)} of the {len(grid)} dates on the grid of `frequency` = "
            f"{frequency!r}, the first {grid.difference(timestamps)[0]}; pass its true frequency, add the rows, or choose "
            "`missing_values='forward_fill'` or `'interpolate'`."
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
        if (mean is None) != (scale is None):
            raise ValueError("`mean` and `scale` must be given together, one number a channel in each.")
        self.columns = _column_names(columns)
        if mean is not None:
            _check_scaler(mean, scale, self.columns)
        self.context_length = context_length
        self.prediction_length = prediction_length
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
        num_train_rows = len(series) if num_train_rows is None else num_train_rows
        if not isinstance(num_train_rows, int | np.integer) or not 1 <= num_train_rows <= len(series):
            raise ValueError(f"`num_train_rows` must be an integer in [1, {len(series)}], got {num_train_rows!r}.")
        rows = series.values[:num_train_rows]
        with np.errstate(over="ignore", invalid="ignore"):
            mean, variance = rows.mean(axis=0), rows.var(axis=0)
        if not np.isfinite(variance).all():
            raise ValueError(
                f"`data` has values too large for a variance, up to {np.abs(rows).max():.3g}; rescale it."
            )
        # The bound below which scikit-learn takes a column for constant: its variance is rounding error.
        epsilon = np.finfo(np.float64).eps
        constant = variance <= len(rows) * epsilon * variance + (len(rows) * mean * epsilon) ** 2
        scale = np.where(constant, 1.0, np.sqrt(variance))
        self.columns, self.frequency = series.columns, series.frequency
        self.mean, self.scale, self.standardization = mean.tolist(), scale.tolist(), "train"
        return self

    @staticmethod
    def is_batch(data: Any) -> bool:
        """Whether `data` is a list of series; a list of numbers, or of rows of numbers, is one series."""
        return isinstance(data, list | tuple) and not _is_number_list(data)

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
        if (location is None) != (scale is None):
            raise ValueError("`location` and `scale` must be given together, one number a channel in each.")
        if location is None:
            if self.mean is None:
                raise ValueError("This feature extractor has no `mean` and `scale`; pass `location` and `scale`.")
            location, scale = self.mean, self.scale
        location, scale = np.asarray(location), np.asarray(scale)
        if channel_indices is not None:
            channels, indices = len(location), list(channel_indices)
            if not all(-channels <= index < channels for index in indices):
                raise ValueError(f"`channel_indices` must be in [{-channels}, {channels}), got {indices}.")
            location, scale = location[indices], scale[indices]
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
        items = list(data) if self.is_batch(data) else [data]
        if not items:
            raise ValueError("`data` must hold at least one series, got an empty list.")
        features = {"past_values": [], "location": [], "scale": []}
        for item in items:
            context = self._context(self.read(item).values)
            location, scale = self._location_and_scale(context)
            with np.errstate(over="ignore", invalid="ignore"):
                past_values = ((context - location) / scale).astype(np.float32)
            if not np.isfinite(past_values).all():
                raise ValueError(
                    f"`data` must fit into float32 after standardization ({self.standardization!r}), but its largest "
                    f"value is {np.abs(context).max():.3g}; change its unit, or standardize it."
                )
            features["past_values"].append(past_values)
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


def _check_scaler(mean, scale, columns: list[str] | None):
    try:
        mean, scale = np.asarray(mean, dtype=np.float64), np.asarray(scale, dtype=np.float64)
        fits = mean.ndim == 1 and mean.shape == scale.shape and np.isfinite([mean, scale]).all() and (scale > 0).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError("`mean` must be finite and `scale` positive and finite, one number a channel in each.")
    if columns is not None and len(columns) != len(mean):
        raise ValueError(
            f"`mean` and `scale` must have one number for each of `columns` = {columns}, got {len(mean)}."
        )


def _is_number_list(data) -> bool:
    """Whether a list is one series of plain numbers or of rows of numbers, not a list of series."""
    first = data[0] if data else None
    if isinstance(first, list | tuple):
        first = first[0] if first else None
        return isinstance(first, int | float | np.number)
    return isinstance(first, int | float | np.number)


__all__ = ["ForecastingFeatureExtractor", "TimeSeries", "fill_missing", "import_pandas", "read_series"]
