"""SmoothNet against the original: a whole sequence, a training step, one new frame of several tracks.

    git clone https://github.com/cure-lab/SmoothNet original
    python benchmarks/smoothnet.py --original original

One thread, random weights, 17 joints in 3D. The original builds windows with its data set class and averages with its own
function. What the two give is compared before anything is timed. Times are CPU seconds, measured in turn.
"""

import argparse
import importlib
import os
import platform
import statistics
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import cpu_seconds, print_times

from hvmodels import SmoothNetForPoseRefinement, default_model
from hvmodels.conversion.smoothnet import convert_state_dict
from hvmodels.smoothing.streaming import PoseStream


PARTS = ("sequence", "training", "streaming")
# Window, width, width inside blocks, blocks.
SIZES = {"large": (32, 512, 128, 5), "large, window 8": (8, 512, 128, 5), "small": (32, 512, 16, 1)}
JOINTS, BATCH, TRACKS = (17, 3), 128, 10


def import_original(folder: Path) -> SimpleNamespace:
    """Network, loss, data set and averaging of the original."""
    sys.path.insert(0, str(folder.resolve()))
    return SimpleNamespace(
        network=importlib.import_module("lib.models.smoothnet").SmoothNet,
        loss=importlib.import_module("lib.core.loss").SmoothNetLoss(w_accel=0.1, w_pos=1.0),
        dataset=importlib.import_module("lib.dataset.h36m_dataset").H36MDataset,
        average=importlib.import_module("lib.utils.utils").slide_window_to_sequence,
    )


def make_pair(original: SimpleNamespace, name: str) -> tuple[torch.nn.Module, SmoothNetForPoseRefinement]:
    """The original's network and ours with the same weights."""
    window_size, *sizes = SIZES[name]
    torch.manual_seed(0)
    theirs = original.network(window_size, window_size, *sizes, dropout=0.25)
    config, state_dict = convert_state_dict(theirs.state_dict(), {"dropout": 0.25})
    ours = SmoothNetForPoseRefinement(config)
    ours.load_state_dict(state_dict)
    return theirs, ours


def make_poses(frames: int) -> torch.Tensor:
    """A random walk around a random pose, (frames, joints, dims) in metres."""
    generator = torch.Generator().manual_seed(0)
    steps = 0.01 * torch.randn(frames, *JOINTS, generator=generator)
    return 0.5 * torch.randn(JOINTS, generator=generator) + steps.cumsum(0) / 10 + steps


def benchmark_sequence(original: SimpleNamespace, frames: int, repeats: int):
    poses = make_poses(frames)
    for name, (window_size, *_) in SIZES.items():
        theirs, ours = (model.eval() for model in make_pair(original, name))
        # Only what `get_test_data` reads; empty ground truth, so that its windows take no time.
        dataset = object.__new__(original.dataset)
        dataset.__dict__.update(
            return_type="3D", slide_window_size=window_size, evaluate_slide_window_step=1,
            ground_truth_data_imgname=[range(frames)], detected_data_imgname=[range(frames)],
            ground_truth_data_joints_3d=[np.empty((frames, 0), "f")],
            detected_data_joints_3d=[poses.flatten(1).numpy()],
        )  # fmt: skip

        @torch.no_grad()
        def refine_originally(dataset=dataset, theirs=theirs, window_size=window_size):
            windows = torch.from_numpy(dataset.get_test_data(0)["pred"]).permute(0, 2, 1)
            return original.average(theirs(windows).permute(0, 2, 1), 1, window_size)

        @torch.no_grad()
        def refine(ours=ours):
            return ours(poses[None]).refined_poses[0]

        @torch.no_grad()
        def refine_normalised(ours=ours):
            ours.config.window_normalization = "person"
            refined = ours(poses[None]).refined_poses[0]
            ours.config.window_normalization = "none"
            return refined

        difference = (refine_originally() - refine().flatten(1)).abs().max()
        print(f"{name}: largest difference {difference:.1e}", flush=True)
        contenders = {"original": refine_originally, "ours": refine, "ours, normalised by person": refine_normalised}
        print_times(f"{frames} frames, {name}", cpu_seconds(contenders, repeats, warmups=0))


def benchmark_training(original: SimpleNamespace, repeats: int):
    for name, (window_size, *_) in SIZES.items():
        theirs, ours = (model.train() for model in make_pair(original, name))
        poses, labels = (
            make_poses(BATCH * window_size).view(BATCH, window_size, *JOINTS) + shift for shift in (0, 0.1)
        )
        optimizers = [torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True) for model in (theirs, ours)]

        def step_originally(theirs=theirs, poses=poses, labels=labels, optimizer=optimizers[0]):
            refined = theirs(poses.flatten(2).permute(0, 2, 1)).permute(0, 2, 1)
            return _step(original.loss(refined, labels.flatten(2)), optimizer)

        def step(ours=ours, poses=poses, labels=labels, optimizer=optimizers[1]):
            return _step(ours(poses, labels=labels).loss, optimizer)

        for model in (theirs, ours):
            model.eval()
        print(f"{name}: losses without dropout {step_originally():.6f} and {step():.6f}")
        for model in (theirs, ours):
            model.train()
        contenders = {"original": step_originally, "ours": step}
        print_times(f"training step of {BATCH} windows, {name}", cpu_seconds(contenders, repeats))


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def benchmark_streaming(original: SimpleNamespace, repeats: int):
    """One new frame of each track; the original has no streaming, its network gets the last windows of all tracks."""
    default = SmoothNetForPoseRefinement.from_pretrained(default_model("smoothnet-any-pose")).eval()
    for dims in (2, 3):
        stream = PoseStream(default)
        frames = make_poses(400)[..., :dims].numpy()

        def push_all(stream=stream, frames=frames):
            for pose in frames:
                stream.push({track: pose + track for track in range(TRACKS)})

        push_all()
        times = [seconds / len(frames) for seconds in cpu_seconds({"": push_all}, repeats)[""]]
        title = f"a frame of {TRACKS} tracks in {dims}D, embedded model, delay of {stream.delay} frames"
        print(
            f"{title}: minimum {1000 * min(times):.2f} ms, median {1000 * statistics.median(times):.2f} ms", flush=True
        )
    for name, (window_size, *_) in SIZES.items():
        theirs, ours = (model.eval() for model in make_pair(original, name))
        windows = make_poses(TRACKS * window_size).view(TRACKS, window_size, *JOINTS)

        @torch.no_grad()
        def refine_originally(theirs=theirs, windows=windows):
            return theirs(windows.flatten(2).permute(0, 2, 1))

        @torch.no_grad()
        def refine(ours=ours, windows=windows):
            return ours.refine_windows(windows)

        stream = PoseStream(ours)
        frame = {track: windows[track, 0].numpy() for track in range(TRACKS)}
        for _ in range(window_size):
            stream.push(frame)
        contenders = {"original": refine_originally, "ours": refine, "ours, stream": partial(stream.push, frame)}
        print_times(f"one new window of {TRACKS} tracks, {name}", cpu_seconds(contenders, 10 * repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/cure-lab/SmoothNet")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    original = import_original(args.original)
    if "sequence" in args.parts:
        benchmark_sequence(original, args.frames, args.repeats)
    if "training" in args.parts:
        benchmark_training(original, args.repeats)
    if "streaming" in args.parts:
        benchmark_streaming(original, args.repeats)


if __name__ == "__main__":
    main()
