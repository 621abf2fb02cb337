"""The embedded NLinear, the model that the pipeline fits, and seasonal-naive: rolling origins at the end of a series.

python benchmarks/any_series.py --data ETTh1.csv exchange_rate.csv
"""

import argparse
import time
from pathlib import Path

import numpy as np
from transformers import pipeline

import hvmodels
from hvmodels.models.forecasting.series_fit_ltsf_linear import infer_period


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    forecaster = pipeline("time-series-forecasting", model=hvmodels.default_model("time-series-forecasting"))
    for path in args.data:
        series = hvmodels.read_series(path)
        pretrained = forecaster.backtest(series, fit=False)
        start = time.perf_counter()
        fitted = forecaster.backtest(series)
        seconds = time.perf_counter() - start
        count, steps, _ = pretrained.targets.shape
        period = infer_period(series)
        first = len(series) - count - steps + 1
        naive = np.stack(
            [series.values[row - period : row][np.arange(steps) % period] for row in range(first, first + count)]
        )
        errors = {
            "pretrained": pretrained.forecasts - pretrained.targets,
            "fitted": (fitted.forecasts - fitted.targets)[-count:],
            "seasonal naive": naive - pretrained.targets,
        }
        print(f"{path.name}: MAE over the last {count} origins, {steps} steps, period {period}")
        for name, error in errors.items():
            print(f"  {name}: {np.abs(error).mean():.5g}")
        print(f"  fit and backtest took {seconds:.2f} s: {fitted.report}")


if __name__ == "__main__":
    main()
