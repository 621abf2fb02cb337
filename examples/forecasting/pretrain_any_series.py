"""Make the embedded NLinear for any series: ridge regression over windows of synthetic series.

The prior: a level, a trend (linear, random walk or autoregressive), one or two seasons with the usual calendar periods
and random shapes, and noise, mixed in random proportions. No real data enters, so the weights carry no data licence.

    python examples/forecasting/pretrain_any_series.py outputs/nlinear-any-series
"""

import argparse
from pathlib import Path

import torch

from hvmodels import LTSFLinearConfig, LTSFLinearFeatureExtractor, LTSFLinearForPrediction
from hvmodels.models.forecasting.series_fit_ltsf_linear import RidgeProblem


PERIODS = torch.tensor([4, 5, 7, 12, 24, 24, 48, 52, 96])


def seasonal_part(count: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """(count, length) periodic series of unit variance: three random harmonics of a random calendar period."""
    periods = PERIODS[torch.randint(len(PERIODS), (count, 1), generator=generator)]
    steps = torch.arange(length, dtype=torch.float64)
    total = torch.zeros(count, length, dtype=torch.float64)
    for harmonic in (1, 2, 3):
        phase = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        amplitude = torch.rand(count, 1, generator=generator, dtype=torch.float64) / harmonic
        total += amplitude * torch.sin(2 * torch.pi * (harmonic * steps / periods + phase))
    return total / total.std(dim=1, keepdim=True)


def trend_part(count: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """(count, length) trends of unit variance: straight lines, random walks and autoregressions in equal shares."""
    shocks = torch.randn(count, length, generator=generator, dtype=torch.float64)
    memory = torch.rand(count, generator=generator, dtype=torch.float64) * 0.5 + 0.5
    kind = torch.randint(3, (count,), generator=generator)
    memory[kind < 2] = 1.0
    shocks[kind == 0] = torch.randn(int((kind == 0).sum()), 1, generator=generator, dtype=torch.float64)
    total = torch.zeros(count, length, dtype=torch.float64)
    for step in range(1, length):
        total[:, step] = memory * total[:, step - 1] + shocks[:, step]
    total = total - total.mean(dim=1, keepdim=True)
    return total / total.std(dim=1, keepdim=True)


def synthetic_windows(count: int, context_length: int, prediction_length: int, seed: int) -> torch.Tensor:
    """(count, context_length + prediction_length) series, standardised by their context, a fifth of them padded."""
    generator = torch.Generator().manual_seed(seed)
    length = context_length + prediction_length
    parts = torch.stack(
        [
            trend_part(count, length, generator),
            seasonal_part(count, length, generator),
            seasonal_part(count, length, generator),
            torch.randn(count, length, generator=generator, dtype=torch.float64),
        ]
    )
    weights = torch.rand(4, count, 1, generator=generator, dtype=torch.float64) ** 2
    weights[2] *= torch.rand(count, 1, generator=generator) < 0.3
    weights[3] *= 0.5
    series = (weights * parts).sum(0)
    known = torch.randint(context_length // 4, context_length, (count,), generator=generator)
    known[torch.rand(count, generator=generator) > 0.2] = context_length
    first = context_length - known
    padded = torch.arange(length) < first[:, None]
    series = torch.where(padded, series.gather(1, first[:, None]), series)
    context = series[:, :context_length]
    return (series - context.mean(1, keepdim=True)) / context.std(1, correction=0, keepdim=True).clamp_min(1e-6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--context-length", type=int, default=96)
    parser.add_argument("--prediction-length", type=int, default=48)
    parser.add_argument("--windows", type=int, default=400_000)
    parser.add_argument("--penalty", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    problem = RidgeProblem(args.context_length, args.prediction_length)
    chunk = 20_000
    for index in range(args.windows // chunk):
        problem.add_windows(synthetic_windows(chunk, args.context_length, args.prediction_length, args.seed + index))
    ((weight, _),) = problem.solve([args.penalty])
    sizes = {"context_length": args.context_length, "prediction_length": args.prediction_length}
    model = LTSFLinearForPrediction(LTSFLinearConfig(variant="nlinear", **sizes))
    with torch.no_grad():
        model.model.linear.weight.copy_(weight)
        model.model.linear.bias.zero_()  # the prior is symmetric in sign, so the true intercept is 0
    extractor = LTSFLinearFeatureExtractor(**sizes, standardization="context", pad_short_context=True)
    model.save_pretrained(args.output_dir)
    extractor.save_pretrained(args.output_dir)

    test = synthetic_windows(chunk, args.context_length, args.prediction_length, args.seed + 10**6).float()
    past, future = test.split([args.context_length, args.prediction_length], dim=1)
    with torch.inference_mode():
        forecast = model(past[..., None]).prediction_outputs[..., 0]
    last = past[:, -1:].expand_as(future)
    print(
        f"synthetic test windows: MAE {(forecast - future).abs().mean():.4f}, last value {(last - future).abs().mean():.4f}"
    )


if __name__ == "__main__":
    main()
