"""LTSF-Linear against the original: forward, training step, individual mode, merged inference, whole training runs.

    python benchmarks/ltsf_linear.py --original LTSF-Linear --data ETTh1.csv

Everything runs in one process on one thread, original and ours in turn. Start-up (imports) is not counted.
"""

import argparse
import contextlib
import importlib
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")
# PyTorch's own switch: large tensors on large pages, for both sides.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from accelerate import Accelerator

from hvmodels import LTSFLinearConfig, LTSFLinearForPrediction


sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "forecasting"))

import train_forecasting
import train_forecasting_accelerate
from recipe import Recipe, finish_run


VARIANTS = {"Linear": "linear", "NLinear": "nlinear", "DLinear": "dlinear"}
# (model, individual, channels, batch, horizon)
WORKLOADS = [
    *((model, False, 7, 32, 96) for model in VARIANTS),
    *((model, False, 7, 32, 720) for model in VARIANTS),
    ("DLinear", False, 321, 16, 96),
    ("NLinear", True, 321, 16, 96),
    ("DLinear", True, 321, 16, 96),
]


def cpu_milliseconds(contenders: dict[str, Callable], repeats: int) -> dict[str, tuple[float, float]]:
    """Minimum and median CPU time of each contender, measured in turn."""
    times = {name: [] for name in contenders}
    for run in contenders.values():
        run(), run()
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def print_row(title: str, times: dict[str, tuple[float, float]], reference: str):
    (low, middle) = times[reference]
    cells = "; ".join(
        f"{name} {minimum:.2f} ({median:.2f}) ms, {low / minimum:.2f}x ({middle / median:.2f}x)"
        for name, (minimum, median) in times.items()
    )
    print(f"{title}: {cells}", flush=True)


def benchmark_steps(repeats: int):
    print("\nForward and training step (forward, backward, Adam): minimum (median)")
    for model, individual, channels, batch, horizon in WORKLOADS:
        options = SimpleNamespace(seq_len=336, pred_len=horizon, enc_in=channels, individual=individual)
        theirs = importlib.import_module(f"models.{model}").Model(options)
        config = LTSFLinearConfig(
            variant=VARIANTS[model], prediction_length=horizon, num_input_channels=channels, individual=individual
        )
        ours = LTSFLinearForPrediction(config)
        # Each side gets batches in the memory order in which its own data path delivers them.
        window = torch.randn(batch, channels, 336 + horizon).transpose(1, 2)
        past, future = window[:, :336], window[:, 336:]
        their_past, their_future = past.contiguous(), future.contiguous()
        their_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-4)
        our_optimizer = torch.optim.Adam(ours.parameters(), lr=1e-4, fused=True)

        def their_gradients(theirs=theirs, past=their_past, future=their_future):
            theirs.zero_grad()
            torch.nn.functional.mse_loss(theirs(past), future).backward()

        def our_gradients(ours=ours, past=past, future=future):
            ours.zero_grad()
            ours(past, future_values=future).loss.backward()

        def their_step(gradients=their_gradients, optimizer=their_optimizer):
            gradients(), optimizer.step()

        def our_step(gradients=our_gradients, optimizer=our_optimizer):
            gradients(), optimizer.step()

        title = f"{model}{'-I' if individual else ''} C={channels} B={batch} P={horizon}"
        with torch.no_grad():
            forward = {
                "original": lambda theirs=theirs, past=their_past: theirs(past),
                "ours": lambda ours=ours, past=past: ours(past),
            }
            print_row(f"{title}, forward", cpu_milliseconds(forward, repeats), "original")
        gradients = {"original": their_gradients, "ours": our_gradients}
        print_row(f"{title}, forward + backward", cpu_milliseconds(gradients, repeats), "original")
        print_row(
            f"{title}, training step",
            cpu_milliseconds({"original": their_step, "ours": our_step}, repeats),
            "original",
        )


def benchmark_merged(repeats: int):
    print("\nMerged inference against one matrix product (nn.functional.linear on the transposed series)")
    for batch, channels, horizon in ((32, 7, 96), (32, 7, 720), (16, 321, 96)):
        model = LTSFLinearForPrediction(LTSFLinearConfig(prediction_length=horizon)).merge()
        weight, bias = model.model.linear.weight, model.model.linear.bias
        past = torch.randn(batch, 336, channels)
        with torch.inference_mode():
            contenders = {
                "product": lambda past=past, weight=weight, bias=bias: torch.nn.functional.linear(
                    past.transpose(1, 2), weight, bias
                ).transpose(1, 2),
                "merged": lambda model=model, past=past: model(past).prediction_outputs,
            }
            print_row(f"C={channels} B={batch} P={horizon}", cpu_milliseconds(contenders, 10 * repeats), "product")


def original_training(data: Path, model: str, epochs: int, folder: Path) -> float:
    """CPU seconds of the original's training and test; its plots, which are no part of the method, are left out."""
    np.Inf = np.inf  # the original was written for NumPy 1
    experiment = importlib.import_module("exp.exp_main")
    experiment.visual = lambda *arguments, **options: None
    args = SimpleNamespace(
        is_training=1, train_only=False, model_id="bench", model=model, data="ETTh1", root_path=str(data.parent),
        data_path=data.name, features="M", target="OT", freq="h", checkpoints=str(folder / "checkpoints"), seq_len=336,
        label_len=48, pred_len=96, individual=False, enc_in=7, embed="timeF", moving_avg=25, num_workers=0, itr=1,
        train_epochs=epochs, batch_size=32, patience=epochs + 1, learning_rate=0.005, loss="mse", lradj="type1",
        use_amp=False, use_gpu=False, gpu=0, use_multi_gpu=False, devices="0", test_flop=False, output_attention=False,
    )  # fmt: skip
    torch.manual_seed(2021)
    start, here = time.process_time(), Path.cwd()
    os.chdir(folder)  # it writes results into the working folder
    try:
        run = experiment.Exp_Main(args)
        run.train("bench")
        run.test("bench")
    finally:
        os.chdir(here)
    return time.process_time() - start


def lean_training(data: Path, variant: str, epochs: int, folder: Path) -> float:
    """CPU seconds of our plain Accelerate loop, reading, test and saving included."""
    recipe = Recipe(
        data=str(data), dataset="ETTh1", variant=variant, learning_rate=0.005, epochs=epochs, patience=epochs + 1
    )
    start = time.process_time()
    windows = recipe.load_data()
    folder.mkdir()
    model, history = train_forecasting_accelerate.train(recipe, windows, Accelerator(cpu=True), folder / "state.pt")
    finish_run(recipe, windows, model, history, folder)
    return time.process_time() - start


def trainer_training(data: Path, variant: str, epochs: int, folder: Path) -> float:
    """CPU seconds of our Trainer script, likewise."""
    start = time.process_time()
    train_forecasting.main(
        f"--data {data} --dataset ETTh1 --variant {variant} --learning-rate 0.005 --epochs {epochs} "
        f"--patience {epochs + 1} --output-dir {folder}".split()
    )
    return time.process_time() - start


def benchmark_training(data: Path, epochs: int, repeats: int):
    print(f"\nTraining ETTh1 336->96, {epochs} epochs with validation, and test: CPU seconds, minimum of {repeats}")
    for model, variant in VARIANTS.items():
        seconds = {"original": [], "lean loop": [], "Trainer": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
                folder = Path(name)
                seconds["original"].append(original_training(data, model, epochs, folder))
                seconds["lean loop"].append(lean_training(data, variant, epochs, folder / "lean"))
                seconds["Trainer"].append(trainer_training(data, variant, epochs, folder / "trainer"))
        best = {name: min(values) for name, values in seconds.items()}
        cells = "; ".join(f"{name} {value:.2f} s, {best['original'] / value:.2f}x" for name, value in best.items())
        print(f"{model}: {cells}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/cure-lab/LTSF-Linear")
    parser.add_argument("--data", type=Path, help="ETTh1.csv; without it the training runs are left out")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--training-repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.original.resolve()))
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    benchmark_steps(args.repeats)
    benchmark_merged(args.repeats)
    if args.data is not None:
        benchmark_training(args.data.resolve(), args.epochs, args.training_repeats)


if __name__ == "__main__":
    main()
