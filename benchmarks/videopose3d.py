"""VideoPose3D against the original, and the fully connected baseline: sequences and training steps.

    git clone https://github.com/facebookresearch/VideoPose3D original
    python benchmarks/videopose3d.py --original original

One thread, random weights of the published sizes, 17 joints. The original trains its network with strided convolutions on windows
of one receptive field. What the two give is compared before anything is timed. Times are CPU seconds, measured in turn. The
baseline of Martinez et al. is timed beside plain PyTorch layers of its sizes, the original's arithmetic.
"""

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path
from types import ModuleType


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import cpu_seconds, print_times
from torch import nn

from hvmodels import MartinezFCNConfig, MartinezFCNModel, VideoPose3DForPoseLifting
from hvmodels.conversion.martinez_fcn import convert_state_dict as convert_fcn
from hvmodels.conversion.videopose3d import convert_state_dict


PARTS = ("sequence", "training", "fcn")
WIDTHS = [3, 3, 3, 3, 3]
JOINTS, FRAMES, FCN_BATCH = 17, 500, 1024


def make_pair(original: ModuleType, name: str) -> tuple[nn.Module, VideoPose3DForPoseLifting]:
    """A network of the original and ours with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(original, name)(JOINTS, 2, JOINTS, WIDTHS)
    config, state_dict = convert_state_dict(theirs.state_dict(), {})
    ours = VideoPose3DForPoseLifting(config)
    ours.load_state_dict(state_dict)
    return theirs, ours


def benchmark_sequence(original: ModuleType, repeats: int):
    theirs, ours = (model.eval() for model in make_pair(original, "TemporalModel"))
    for sequences in (1, 2):  # the flip test lifts two
        keypoints = torch.randn(sequences, FRAMES + ours.config.num_frames - 1, JOINTS, 2)

        @torch.no_grad()
        def lift_originally(keypoints=keypoints):
            return theirs(keypoints)

        @torch.no_grad()
        def lift(keypoints=keypoints):
            return ours(keypoints).positions_3d

        print(f"largest difference {(lift_originally() - lift()).abs().max():.1e}", flush=True)
        title = f"{sequences} x {FRAMES} frames, network of {ours.config.num_frames}"
        print_times(title, cpu_seconds({"original": lift_originally, "ours": lift}, repeats))


def benchmark_training(original: ModuleType, batch: int, repeats: int):
    theirs, ours = make_pair(original, "TemporalModelOptimized1f")
    keypoints, labels = torch.randn(batch, ours.config.num_frames, JOINTS, 2), torch.randn(batch, 1, JOINTS, 3)

    def loss_originally():
        return (theirs(keypoints) - labels).norm(dim=-1).mean()

    def loss():
        return ours(keypoints, labels=labels).loss

    for model in (theirs, ours):
        model.eval()
    print(f"losses without dropout {loss_originally():.6f} and {loss():.6f}")
    contenders = {}
    for name, model, compute in (("original", theirs.train(), loss_originally), ("ours", ours.train(), loss)):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
        contenders[name] = lambda optimizer=optimizer, compute=compute: _step(compute(), optimizer)
    print_times(
        f"training step of {batch} windows of {ours.config.num_frames} frames", cpu_seconds(contenders, repeats)
    )


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class PlainFCN(nn.Module):
    """The layers of the paper, by the names of its port to PyTorch."""

    def __init__(self, size: int = 1024, blocks: int = 2):
        super().__init__()
        self.w1, self.batch_norm1, self.w2 = nn.Linear(32, size), nn.BatchNorm1d(size), nn.Linear(size, 48)
        self.linear_stages = nn.ModuleList(
            nn.ModuleDict(
                {f"{kind}{number}": make() for number in (1, 2) for kind, make in
                 (("w", lambda: nn.Linear(size, size)), ("batch_norm", lambda: nn.BatchNorm1d(size)))}
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.dropout = nn.Dropout(0.5)

    def forward(self, poses: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.batch_norm1(self.w1(poses)).relu_())
        for stage in self.linear_stages:
            inner = self.dropout(stage["batch_norm1"](stage["w1"](hidden)).relu_())
            hidden = hidden + self.dropout(stage["batch_norm2"](stage["w2"](inner)).relu_())
        return self.w2(hidden)


def benchmark_fcn(repeats: int):
    torch.manual_seed(0)
    plain, ours = PlainFCN(), MartinezFCNModel(MartinezFCNConfig())
    _, state_dict = convert_fcn(plain.state_dict(), {})
    ours.load_state_dict({name.removeprefix("martinez_fcn."): value for name, value in state_dict.items()})
    poses, labels = torch.randn(FCN_BATCH, 32), torch.randn(FCN_BATCH, 48)
    frames = poses.view(1, FCN_BATCH, 16, 2)

    @torch.no_grad()
    def lift_plainly():
        return plain(poses)

    @torch.no_grad()
    def lift():
        return ours(frames).normalized_positions

    for model in (plain, ours):
        model.eval()
    print(f"largest difference {(lift_plainly() - lift().flatten(2)[0]).abs().max():.1e}", flush=True)
    title = f"{FCN_BATCH} frames, fully connected baseline"
    print_times(title, cpu_seconds({"plain layers": lift_plainly, "ours": lift}, 3 * repeats), "plain layers")
    losses = {
        "plain layers": lambda: nn.functional.mse_loss(plain(poses), labels),
        "ours": lambda: nn.functional.mse_loss(ours(frames).normalized_positions.flatten(2)[0], labels),
    }
    contenders = {}
    for (name, compute), model in zip(losses.items(), (plain.train(), ours.train()), strict=True):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        contenders[name] = lambda optimizer=optimizer, compute=compute: _step(compute(), optimizer)
    print_times(f"training step of {title}", cpu_seconds(contenders, 3 * repeats), "plain layers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, help="clone of github.com/facebookresearch/VideoPose3D")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--batch", type=int, default=64, help="windows of a training step; the paper's is 1024")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    if args.original is None and set(args.parts) != {"fcn"}:
        parser.error("--original is needed for all parts but fcn")
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    if args.original is not None:
        sys.path.insert(0, str(args.original.resolve()))
        original = importlib.import_module("common.model")
    if "sequence" in args.parts:
        benchmark_sequence(original, args.repeats)
    if "training" in args.parts:
        benchmark_training(original, args.batch, args.repeats)
    if "fcn" in args.parts:
        benchmark_fcn(args.repeats)


if __name__ == "__main__":
    main()
