"""Plots of how well predicted deviations and confidences hold."""

from typing import Any

import numpy as np

from .forecasting import _pyplot


def plot_reliability(tables: dict[str, dict[str, np.ndarray]], errors: np.ndarray | None = None) -> Any:
    """Draw accuracy over confidence, and beside it the mean error of equally large groups by predicted deviation.

    Args:
        tables: Results of `hvmodels.metrics.calibration.reliability` by the name of the data.
        errors: Result of `error_by_quantile`, None for the first panel alone.

    Returns:
        `matplotlib.figure.Figure`; save it with `figure.savefig(path)`.
    """
    pyplot = _pyplot()
    panels = 1 if errors is None else 2
    figure, axes = pyplot.subplots(1, panels, figsize=(4.6 * panels, 4), squeeze=False, layout="constrained")
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for name, table in tables.items():
        filled = table["count"] > 0
        axis.plot(table["confidence"][filled], table["accuracy"][filled], marker="o", label=name)
    axis.set(xlabel="predicted confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="upper left", frameon=False)
    if errors is not None:
        axes[0, 1].bar(np.arange(1, len(errors) + 1), errors, color="tab:blue")
        axes[0, 1].set(xlabel="group by predicted sigma, lowest first", ylabel="mean error / longer side of the box")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure


__all__ = ["plot_reliability"]
