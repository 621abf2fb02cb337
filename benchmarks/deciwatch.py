"""DeciWatch against the original: a whole sequence with either stride of its windows, and a training step.

    git clone https://github.com/cure-lab/DeciWatch original
    python benchmarks/deciwatch.py --original original

One thread, random weights of the Human3.6M model (width 128, 5 + 5 layers, 10 frames an interval, 10 intervals a window), 17 joints in 3-D.
The original runs on no current PyTorch, since its integer padding masks are refused; here its attention gets the
arithmetic of PyTorch 1.10, for which it was made. What the two give is compared before anything is timed. Times are CPU seconds,
measured in turn.
"""

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import cpu_seconds, print_times
from torch import nn

from hvmodels import DeciWatchForPoseRecovery
from hvmodels.conversion.deciwatch import convert_state_dict


PARTS = ("sequence", "training")
INTERVAL, NUM_INTERVALS, JOINTS, BATCH = 10, 10, (17, 3), 64
WINDOW = INTERVAL * NUM_INTERVALS + 1


class Attention(nn.MultiheadAttention):
    """PyTorch 1.10's: an integer padding mask is added to the scores, or joined with a boolean mask of pairs."""

    def forward(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None):
        length, batch, size = query.shape
        projected = (
            nn.functional.linear(states, weight, bias).contiguous().view(-1, batch * self.num_heads, self.head_dim)
            for states, weight, bias in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        )
        query, key, value = (states.transpose(0, 1) for states in projected)
        mask = key_padding_mask.view(batch, 1, 1, -1).expand(-1, self.num_heads, -1, -1)
        mask = mask.reshape(batch * self.num_heads, 1, -1)
        if attn_mask is not None:
            mask = attn_mask.logical_or(mask)
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, float("-inf"))
        weights = torch.bmm(query / self.head_dim**0.5, key.transpose(1, 2))
        weights += mask
        weights = nn.functional.dropout(weights.softmax(-1), self.dropout, self.training)
        output = torch.bmm(weights, value).transpose(0, 1).contiguous().view(length, batch, size)
        weights = weights.view(batch, self.num_heads, length, -1).sum(1) / self.num_heads  # which nobody asks for
        return self.out_proj(output), weights


def import_original(folder: Path) -> SimpleNamespace:
    """Network, loss and averaging of the original, with stubs for the body model, which its loss imports."""
    sys.path.insert(0, str(folder.resolve()))
    for name in ("cv2", "lib.models.smpl", "lib.utils.geometry_utils"):
        sys.modules[name] = type(sys)(name)
    sys.modules["lib.models.smpl"].SMPL = None
    model = importlib.import_module("lib.models.deciwatch")
    loss = importlib.import_module("lib.core.loss").DeciWatchLoss(1.0, 5.0, None, False)
    average = importlib.import_module("lib.utils.utils").slide_window_to_sequence
    del sys.modules["cv2"]
    model.nn.MultiheadAttention = Attention
    theirs = model.DeciWatch(
        input_dim=JOINTS[0] * JOINTS[1], sample_interval=INTERVAL, encoder_hidden_dim=128, decoder_hidden_dim=128,
        enc_layers=5, dec_layers=5,
    )  # fmt: skip
    torch.Tensor.cuda = torch.Tensor.cpu  # it asks for a GPU by name
    return SimpleNamespace(model=theirs, loss=loss, average=average)


def make_poses(*shape: int) -> torch.Tensor:
    """A random walk around a random pose, (..., frames, joints, dims) in metres."""
    generator = torch.Generator().manual_seed(0)
    steps = 0.01 * torch.randn(*shape, *JOINTS, generator=generator)
    return 0.5 * torch.randn(JOINTS, generator=generator) + steps.cumsum(-3) / 10 + steps


def benchmark_sequence(theirs: SimpleNamespace, ours: DeciWatchForPoseRecovery, frames: int, repeats: int):
    poses = make_poses(frames)
    theirs.model.eval()
    ours.eval()
    for stride in (1, NUM_INTERVALS):
        step = INTERVAL * stride

        @torch.no_grad()
        def recover_originally(step=step):
            starts = range(0, frames - WINDOW + 1, step)
            windows = torch.stack([poses[start : start + WINDOW].flatten(1) for start in starts])
            recovered, _ = theirs.model(windows, "cpu")
            return theirs.average(recovered, step, WINDOW)

        def recover(mask_type: str, stride=stride) -> Callable:
            @torch.no_grad()
            def run():
                ours.config.window_stride_intervals, ours.config.memory_mask_type = stride, mask_type
                return ours(poses[None]).recovered_poses[0]

            return run

        original, result = recover_originally(), recover("additive")().flatten(1)
        # Behind the last whole window there is nothing to compare with, and one more window changes the mean before.
        sure = (len(original) - WINDOW) // step * step
        difference = (original - result[: len(original)])[:sure].abs().max()
        print(
            f"windows {step} frames apart, largest difference {difference:.1e} of values up to {original.abs().max():.1f}",
            flush=True,
        )
        contenders = {
            "original": recover_originally,
            "ours": recover("additive"),
            "ours, boolean mask, which gives other results": recover("boolean"),
        }
        times = cpu_seconds(contenders, repeats, warmups=0)
        print_times(f"{frames} frames, windows {step} frames apart", times)
        ours.config.memory_mask_type = "additive"


def benchmark_training(theirs: SimpleNamespace, ours: DeciWatchForPoseRecovery, repeats: int):
    poses, labels = (make_poses(BATCH, WINDOW) + shift for shift in (0, 0.1))

    def lose_originally():
        recovered, denoised = theirs.model(poses.flatten(2), "cpu")
        masks = theirs.model.encoder_mask, theirs.model.decoder_mask
        return theirs.loss(recovered, denoised, labels.flatten(2), *masks)

    def lose():
        return ours(poses, labels=labels).loss

    losses = (lose_originally, lose)
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True) for model in (theirs.model, ours)]

    def step(place: int) -> Callable:
        def run():
            optimizers[place].zero_grad()
            losses[place]().backward()
            optimizers[place].step()

        return run

    for model in (theirs.model, ours):
        model.eval()
    difference = abs(lose_originally().item() / lose().item() - 1)
    print(f"loss without dropout, relative difference {difference:.1e}", flush=True)
    for model in (theirs.model, ours):
        model.train()
    times = cpu_seconds({"original": step(0), "ours": step(1)}, repeats, warmups=1)
    print_times(f"training step of {BATCH} windows", times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/cure-lab/DeciWatch")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    torch.manual_seed(0)
    theirs = import_original(args.original)
    options = {"INTERVAL_N": INTERVAL, "SLIDE_WINDOW_Q": NUM_INTERVALS}
    config, state_dict = convert_state_dict(theirs.model.state_dict(), options)
    ours = DeciWatchForPoseRecovery(config)
    ours.load_state_dict(state_dict)
    if "sequence" in args.parts:
        benchmark_sequence(theirs, ours, args.frames, args.repeats)
    if "training" in args.parts:
        benchmark_training(theirs, ours, args.repeats)


if __name__ == "__main__":
    main()
