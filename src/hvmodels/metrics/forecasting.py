"""Forecasting metrics: MSE, MAE, RMSE, MAPE, MSPE, RSE, RAE and CORR, exact over all windows.

Definitions of the LTSF-Linear and SCINet papers' code; `corr` is the correlation itself and `corr_original` is what
the LTSF-Linear code computes under that name. `FinancialMetrics` and `pems_metrics` are those of SCINet's experiments of
these names.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class ForecastingMetrics:
    """Accumulates forecasts and gives metrics that do not depend on how they were cut into batches.

    All sums are float64. Moments for the correlations are taken around the first window, so that they do not cancel, and
    are exactly 0 where all windows have one value.
    """

    def __init__(self):
        self._count = 0
        self._sums: dict[str, np.ndarray] = {}

    def update(self, predictions: Any, targets: Any):
        """Add a batch.

        Args:
            predictions: (windows, prediction_length, channels), array or tensor.
            targets: Same shape.

        Raises:
            ValueError: If shapes differ from each other or from the first batch, or a value is not finite.
        """
        predictions, targets = _as_float64(predictions, "predictions"), _as_float64(targets, "targets")
        if predictions.ndim != 3 or predictions.shape != targets.shape or 0 in predictions.shape[1:]:
            raise ValueError(
                "`predictions` and `targets` must both have shape (windows, prediction_length, channels), "
                f"got {predictions.shape} and {targets.shape}."
            )
        if not len(predictions):
            return
        if self._count == 0:
            self._centre_p, self._centre_t = predictions[0].copy(), targets[0].copy()
        elif predictions.shape[1:] != self._centre_p.shape:
            raise ValueError(
                f"`predictions` must have the shape of earlier batches, (windows, {self._centre_p.shape[0]}, "
                f"{self._centre_p.shape[1]}), got {predictions.shape}."
            )
        error = predictions - targets
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = error / targets
        self._count += len(predictions)
        self._add("error_squared", error**2)
        self._add("error_absolute", np.abs(error))
        self._add("relative_absolute", np.abs(relative))
        self._add("relative_squared", relative**2)
        p, t = predictions - self._centre_p, targets - self._centre_t
        p_powers, t_powers = (1.0, p, p**2), (1.0, t, t**2)
        for i, j in ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)):
            self._add(f"p{i}t{j}", p_powers[i] * t_powers[j])

    def _add(self, name: str, term: np.ndarray):
        self._sums[name] = self._sums.get(name, 0.0) + term.sum(axis=0)

    def compute(self) -> dict[str, float]:
        """Metrics over everything added so far, in the units of the forecasts.

        Returns:
            `num_windows`, `mse`, `mae`, `rmse`; `mape` and `mspe`, infinite or NaN where a target is 0; `rse`, root of
            the squared error relative to that of the global mean; `corr`, correlation over windows, mean over steps
            and channels where it is defined (NaN if it is nowhere).

        Raises:
            ValueError: If nothing was added.
        """
        if self._count == 0:
            raise ValueError("No forecasts were added; call `update(predictions, targets)` first.")
        mean = {name: value.mean() / self._count for name, value in self._sums.items()}
        t_mean = self._centre_t + self._sums["p0t1"] / self._count
        t_square = self._sums["p0t2"] / self._count - (self._sums["p0t1"] / self._count) ** 2
        spread = (t_square + (t_mean - t_mean.mean()) ** 2).mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            rse = np.sqrt(mean["error_squared"]) / np.sqrt(spread)
            correlation = self._covariance() / np.sqrt(self._variance("p") * self._variance("t"))
        defined = np.isfinite(correlation)
        return {
            "num_windows": self._count,
            "mse": float(mean["error_squared"]),
            "mae": float(mean["error_absolute"]),
            "rmse": float(np.sqrt(mean["error_squared"])),
            "mape": float(mean["relative_absolute"]),
            "mspe": float(mean["relative_squared"]),
            "rse": float(rse),
            "corr": float(correlation[defined].mean()) if defined.any() else float("nan"),
        }

    def corr_original(self) -> np.ndarray:
        """What the LTSF-Linear code returns as CORR: (prediction_length,).

        Its denominator is the root of the sum of products, not the product of norms, and the ratio is multiplied by
        0.01 and averaged over channels only.
        """
        if self._count == 0:
            raise ValueError("No forecasts were added; call `update(predictions, targets)` first.")
        n, s = self._count, self._sums
        a, b = s["p1t0"] / n, s["p0t1"] / n
        # sum of (p - a)^2 (t - b)^2, expanded
        products = (
            s["p2t2"] - 2 * b * s["p2t1"] + b**2 * s["p2t0"] - 2 * a * s["p1t2"] + 4 * a * b * s["p1t1"]
            - 2 * a * b**2 * s["p1t0"] + a**2 * s["p0t2"] - 2 * a**2 * b * s["p0t1"] + n * a**2 * b**2
        )  # fmt: skip
        return 0.01 * (self._covariance() * n / (np.sqrt(np.maximum(products, 0)) + 1e-12)).mean(axis=-1)

    def _covariance(self) -> np.ndarray:
        n, s = self._count, self._sums
        return s["p1t1"] / n - s["p1t0"] * s["p0t1"] / n**2

    def _variance(self, which: str) -> np.ndarray:
        first, second = ("p1t0", "p2t0") if which == "p" else ("p0t1", "p0t2")
        return np.maximum(self._sums[second] / self._count - (self._sums[first] / self._count) ** 2, 0)


def forecasting_metrics(predictions: Any, targets: Any) -> dict[str, float]:
    """Metrics of whole arrays (windows, prediction_length, channels); see `ForecastingMetrics.compute`."""
    metrics = ForecastingMetrics()
    metrics.update(predictions, targets)
    return metrics.compute()


class FinancialMetrics:
    """Accumulates forecasts and gives the metrics of SCINet's financial experiments, most of them of the last step only.

    Args:
        scale: (channels,) of the feature extractor.
        rse_denominator: Of `FinancialForecastingData`.
        rae_denominator: Likewise.
    """

    def __init__(self, scale: Any, rse_denominator: float, rae_denominator: float):
        self.scale = np.asarray(scale, dtype=np.float64)
        self.rse_denominator, self.rae_denominator = rse_denominator, rae_denominator
        self._all_steps, self._last_step, self._last_in_units = (ForecastingMetrics() for _ in range(3))

    def update(self, predictions: Any, targets: Any):
        """Add a batch of standardised forecasts; see `ForecastingMetrics.update`."""
        predictions, targets = _as_float64(predictions, "predictions"), _as_float64(targets, "targets")
        self._all_steps.update(predictions, targets)
        self._last_step.update(predictions[:, -1:], targets[:, -1:])
        self._last_in_units.update(predictions[:, -1:] * self.scale, targets[:, -1:] * self.scale)

    def compute(self) -> dict[str, float]:
        """Metrics over everything added so far.

        Returns:
            `num_windows`; of the last step, `rse` and `rae`, root of the squared and absolute error in the data's units,
            divided by the denominators, and `corr`, correlation over windows, mean over channels where it is defined;
            of all steps, `mse` and `mae` of the standardised values.

        Raises:
            ValueError: If nothing was added.
        """
        all_steps, last_in_units = self._all_steps.compute(), self._last_in_units.compute()
        return {
            "num_windows": all_steps["num_windows"],
            "rse": last_in_units["rmse"] / self.rse_denominator,
            "rae": last_in_units["mae"] / self.rae_denominator,
            "corr": self._last_step.compute()["corr"],
            "mse": all_steps["mse"],
            "mae": all_steps["mae"],
        }


def pems_metrics(predictions: Any, targets: Any, by_step: bool = False) -> dict[str, Any]:
    """MAE, RMSE and MAPE of traffic flow as SCINet's code computes them.

    Args:
        predictions: (windows, prediction_length, sensors), in the data's units.
        targets: Same shape.
        by_step: Whether to give an array (prediction_length,) for each metric instead of a number.

    Returns:
        `mae`, `rmse`, and `mape`, in which 1e-5 is added to each relative error, and one above 5, or of a target that is
        0, counts as 0. The mean is still over all values, which lowers it.

    Raises:
        ValueError: If shapes differ, or a value is not finite.
    """
    predictions, targets = _as_float64(predictions, "predictions"), _as_float64(targets, "targets")
    if predictions.ndim != 3 or predictions.shape != targets.shape or not predictions.size:
        raise ValueError(
            "`predictions` and `targets` must both have shape (windows, prediction_length, sensors), "
            f"got {predictions.shape} and {targets.shape}."
        )
    error = np.abs(predictions - targets)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = error / np.abs(targets) + 1e-5
    relative = np.where(relative <= 5, relative, 0.0)
    axes = (0, 2) if by_step else None
    metrics = {
        "mae": error.mean(axes),
        "rmse": np.sqrt((error**2).mean(axes)),
        "mape": relative.mean(axes),
    }
    return metrics if by_step else {name: float(value) for name, value in metrics.items()}


def evaluate_forecaster(
    forecast: Callable[[torch.Tensor], torch.Tensor],
    windows: Dataset,
    batch_size: int = 256,
    channel_indices: list[int] | None = None,
    drop_last_batch_size: int | None = None,
) -> dict[str, float]:
    """Metrics of a forecaster over the windows of a split.

    Args:
        forecast: Maps `past_values` (batch, context_length, channels) to forecasts (batch, prediction_length,
            channels), e.g. `lambda past: model(past).prediction_outputs`.
        windows: `ForecastingWindows`.
        batch_size: Windows at a time; the result does not depend on it.
        channel_indices: Channels that are predicted, None for all.
        drop_last_batch_size: Leave out the windows after the last full batch of this size, as the papers' loaders
            did; None uses all windows.

    Raises:
        ValueError: If no window is left.
    """
    from ..datasets.forecasting import collate_windows

    if drop_last_batch_size is not None and (not isinstance(drop_last_batch_size, int) or drop_last_batch_size < 1):
        raise ValueError(f"`drop_last_batch_size` must be a positive integer or None, got {drop_last_batch_size!r}.")
    count = len(windows)
    if drop_last_batch_size is not None:
        count -= count % drop_last_batch_size
    if count == 0:
        raise ValueError(f"`windows` holds {len(windows)} windows, fewer than one batch of {drop_last_batch_size}.")
    metrics = ForecastingMetrics()
    loader = DataLoader(windows, batch_size, sampler=range(count), collate_fn=collate_windows)
    with torch.inference_mode():
        for batch in loader:
            targets = batch["future_values"]
            targets = targets if channel_indices is None else targets[..., list(channel_indices)]
            metrics.update(forecast(batch["past_values"]), targets)
    return metrics.compute()


def _as_float64(values: Any, name: str) -> np.ndarray:
    if values.is_complex() if torch.is_tensor(values) else np.iscomplexobj(values):
        raise TypeError(f"`{name}` must be real numbers, got complex ones.")
    array = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values; a model that diverged gives them.")
    return array


__all__ = ["FinancialMetrics", "ForecastingMetrics", "evaluate_forecaster", "forecasting_metrics", "pems_metrics"]
