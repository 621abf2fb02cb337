"""SCINet against the original on every published setting: forecast, training step, largest difference of the forecasts.

    python benchmarks/scinet.py --original SCINet
    python benchmarks/scinet.py --original SCINet --settings etth1_M_24 --batch-sizes 8

Everything runs in one process on one thread, original and ours in turn, with the same weights. Where a setting's batch would
take more than `--most-multiplications` a forecast, a smaller one is taken and printed.
"""

import argparse
import gc
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
# PyTorch's own switch: large tensors on large pages, for both sides.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from hvmodels import SCINetForPrediction
from hvmodels.conversion.scinet import convert_state_dict


SETTINGS = Path(__file__).parents[1] / "tests" / "fixtures" / "scinet" / "variants.json"
ARGUMENTS = (
    "output_len", "input_len", "input_dim", "hid_size", "num_stacks", "num_levels", "num_decoder_layer", "concat_len",
    "groups", "kernel", "dropout", "positionalE",
)  # fmt: skip


def cpu_milliseconds(contenders: dict[str, Callable], repeats: int) -> dict[str, tuple[float, float]]:
    """Minimum and median CPU time of each contender, measured in turn."""
    times = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def describe(times: dict[str, tuple[float, float]]) -> str:
    low, middle = times["original"]
    cells = [f"{name} {minimum:.2f} ({median:.2f}) ms" for name, (minimum, median) in times.items()]
    minimum, median = times["ours"]
    return f"{', '.join(cells)}, {low / minimum:.2f}x ({middle / median:.2f}x)"


def multiplications(setting: dict) -> float:
    """Of a forecast of one series, in the trees."""
    hidden = int(setting["input_dim"] * setting["hid_size"])
    a_step = setting["input_dim"] * hidden * (setting["kernel"] + 3) / setting["groups"]
    return 2 * setting["input_len"] * setting["num_levels"] * setting["num_stacks"] * a_step


def benchmark(setting: dict, batch_size: int, least_repeats: int, seconds: float):
    module = importlib.import_module("models.SCINet")
    dtype = getattr(torch, setting["dtype"])
    torch.manual_seed(0)
    theirs = module.SCINet(**{name: setting[name] for name in ARGUMENTS}).to(dtype)
    config, weights = convert_state_dict(theirs.state_dict(), setting)
    ours = SCINetForPrediction(config).to(dtype)
    ours.load_state_dict(weights)
    del weights
    past = torch.randn(batch_size, config.context_length, config.num_input_channels, dtype=dtype)
    future = torch.randn(batch_size, config.prediction_length, config.num_input_channels, dtype=dtype)

    def their_forecast():
        with torch.no_grad():
            outputs = theirs(past.clone())  # it may write into its input
        return outputs[0] if config.num_stacks == 2 else outputs

    def our_forecast():
        with torch.no_grad():
            return ours(past).prediction_outputs

    their_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-5)
    our_optimizer = torch.optim.Adam(ours.parameters(), lr=1e-5, fused=True)

    def their_step():
        theirs.zero_grad()
        outputs = theirs(past.clone())
        forecasts = outputs if config.num_stacks == 2 else (outputs,)
        sum(torch.nn.functional.l1_loss(forecast, future) for forecast in forecasts).backward()
        their_optimizer.step()

    def our_step():
        ours.zero_grad()
        ours(past, future_values=future).loss.backward()
        our_optimizer.step()

    theirs.eval(), ours.eval()
    difference = (their_forecast() - our_forecast()).abs().max().item()
    start = time.process_time()
    their_forecast()
    repeats = min(max(least_repeats, int(seconds / (time.process_time() - start) / 8)), 50)
    forecast = cpu_milliseconds({"original": their_forecast, "ours": our_forecast}, repeats)
    theirs.train(), ours.train()
    step = cpu_milliseconds({"original": their_step, "ours": our_step}, repeats)
    print(f"{setting['variant']}, batch {batch_size} (published {setting['batch_size']}), difference {difference:.1e}")
    print(f"  forecast       {describe(forecast)}")
    print(f"  training step  {describe(step)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/cure-lab/SCINet")
    parser.add_argument("--settings", nargs="+", help="names of published settings; all by default")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="in place of the published one")
    parser.add_argument("--most-multiplications", type=float, default=4e9)
    parser.add_argument("--repeats", type=int, default=3, help="least number; short settings are repeated more often")
    parser.add_argument("--seconds", type=float, default=4.0, help="about what the repeats of a setting may take")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.Tensor.cuda = lambda tensor, *arguments, **options: tensor  # the original's decoder asks for a GPU
    sys.path.insert(0, str(args.original.resolve()))
    settings = json.loads(SETTINGS.read_text())
    names = [setting["variant"] for setting in settings]
    for name in args.settings or ():
        if name not in names:
            parser.error(f"--settings must be of {names}, got {name!r}")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    print("CPU time, minimum (median)")
    for setting in settings:
        if args.settings and setting["variant"] not in args.settings:
            continue
        for batch_size in args.batch_sizes or [setting["batch_size"]]:
            fitting = int(args.most_multiplications / multiplications(setting))
            benchmark(setting, max(1, min(batch_size, fitting)), args.repeats, args.seconds)
            gc.collect()


if __name__ == "__main__":
    main()
