"""Filters of pose sequences against those of mmpose, and streams of poses, a frame at a time.

    git clone --branch 0.x https://github.com/open-mmlab/mmpose original
    python benchmarks/pose_filters.py --original original

One thread, 17 joints in 3D. The filters of mmpose need SciPy beside the package's own requirements; they are loaded without
the rest of mmpose. What the two give is compared before anything is timed. Times are CPU seconds, measured in turn. `--parts
streams` needs no original.
"""

import argparse
import importlib
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import cpu_seconds, print_times

from hvmodels import SmoothNetConfig, SmoothNetForPoseRefinement, default_model
from hvmodels.smoothing.filters import GaussianFilter, OneEuroFilter, SavitzkyGolayFilter
from hvmodels.smoothing.streaming import PoseStream


PARTS = ("filters", "streams")
FRAMES, JOINTS, TRACKS = 10_000, 17, 10


def import_original(folder: Path) -> SimpleNamespace:
    """The three filters of mmpose; its registry, which needs mmcv, is left out."""
    package = "mmpose_filters"
    modules = {"": {}, ".builder": {"FILTERS": SimpleNamespace(register_module=lambda **_: lambda kind: kind)}}
    for name, content in modules.items():
        module = ModuleType(package + name)
        module.__path__ = [str(folder / "mmpose" / "core" / "post_processing" / "temporal_filters")]
        vars(module).update(content)
        sys.modules[package + name] = module
    one_euro, savitzky_golay, gaussian = (
        importlib.import_module(f"{package}.{name}_filter") for name in ("one_euro", "savizky_golay", "gaussian")
    )
    return SimpleNamespace(
        one_euro=one_euro.OneEuroFilter,
        savitzky_golay=savitzky_golay.SavizkyGolayFilter,
        gaussian=gaussian.GaussianFilter,
    )


def make_poses(*shape: int) -> np.ndarray:
    """A random walk with jitter, (frames, ..., joints, dims) float32."""
    random = np.random.default_rng(0)
    walk = random.normal(size=shape).cumsum(axis=0) * 0.01
    return (walk + random.normal(size=shape) * 0.02).astype(np.float32)


def benchmark_filters(original: SimpleNamespace, repeats: int):
    poses = make_poses(FRAMES, JOINTS, 3)
    for name, theirs, ours in (
        ("One-Euro", original.one_euro, OneEuroFilter(0.004, 0.7)),
        ("Savitzky-Golay", original.savitzky_golay, SavitzkyGolayFilter(11, 2, short_sequence="pad")),
        ("median and Gaussian", original.gaussian, GaussianFilter(4, median_size=11, median_padding="zero")),
    ):
        # A filter of mmpose keeps its state, so that each call takes a new one.
        contenders = {"original": lambda theirs=theirs: theirs()(poses), "ours": lambda ours=ours: ours.filter(poses)}
        results = [run() for run in contenders.values()]
        print(f"{name}, largest difference {np.abs(results[0] - results[1]).max():.1e}")
        print_times(f"{name} of {FRAMES} frames, {JOINTS} joints in 3D", cpu_seconds(contenders, repeats))


def time_stream(stream: PoseStream, poses: np.ndarray, block: int = 20) -> list[float]:
    """CPU seconds of a frame, in blocks, after the buffers are full."""
    frames = [dict(enumerate(pose)) for pose in poses]
    warmup, times = stream.delay + 2 * block, []
    for frame in frames[:warmup]:
        stream.push(frame)
    for start in range(warmup, len(frames) - block + 1, block):
        begin = time.process_time()
        for frame in frames[start : start + block]:
            stream.push(frame)
        times.append((time.process_time() - begin) / block)
    return times


def benchmark_streams(repeats: int):
    torch.manual_seed(0)
    embedded = SmoothNetForPoseRefinement.from_pretrained(default_model("smoothnet-any-pose"))
    published = {
        "published, 512/128/5, 32 frames": SmoothNetConfig(),
        "published for 3DPW, 512/16/1, 32 frames": SmoothNetConfig(intermediate_size=16, num_hidden_layers=1),
    }
    config = embedded.config
    sizes = f"{config.hidden_size}/{config.intermediate_size}/{config.num_hidden_layers}, {config.window_size} frames"
    smoothers = {
        f"SmoothNet (embedded, {sizes})": (embedded, {}),
        f"SmoothNet (embedded, {sizes}), stride 2": (embedded, {"stride": 2}),
        **{
            f"SmoothNet ({name}), stride {stride}": (SmoothNetForPoseRefinement(config).eval(), {"stride": stride})
            for name, config in published.items()
            for stride in (1, 16)
        },
        "One-Euro": (OneEuroFilter(), {}),
        "Savitzky-Golay, 11 frames": (SavitzkyGolayFilter(11, 2), {}),
        "Gaussian, sigma 2": (GaussianFilter(2), {}),
        "median 9, Gaussian, sigma 2": (GaussianFilter(2, median_size=9), {}),
    }
    for dims in (2, 3):
        poses = make_poses(200 + 20 * repeats, TRACKS, JOINTS, dims)
        for name, (smoother, options) in smoothers.items():
            stream = PoseStream(smoother, **options)
            times = time_stream(stream, poses)
            print(
                f"stream of {TRACKS} tracks in {dims}D, {name}, delay {stream.delay}: minimum {1000 * min(times):.2f} ms, "
                f"median {1000 * statistics.median(times):.2f} ms a frame",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, help="clone of github.com/open-mmlab/mmpose, branch 0.x")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    if "filters" in args.parts and args.original is None:
        parser.error("`--original` is needed to compare filters; `--parts streams` goes without.")
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    if "filters" in args.parts:
        benchmark_filters(import_original(args.original), args.repeats)
    if "streams" in args.parts:
        benchmark_streams(args.repeats)


if __name__ == "__main__":
    main()
