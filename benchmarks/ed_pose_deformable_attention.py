"""Multi-scale deformable attention against its usual PyTorch form, at the sizes of ED-Pose.

    python benchmarks/ed_pose_deformable_attention.py

One thread, float32, 8 heads of width 32, 4 levels, 4 points. The usual form samples each level with `grid_sample`, stacks
all samples and sums them under their weights. The encoder's queries are all tokens, and sample around themselves; the
decoder's are boxes anywhere. Times are CPU seconds of the forward and the backward pass, measured in turn, least and
median; memory is what a forward and backward pass adds to the peak of a process of its own. On a CUDA device the Triton
kernels are timed beside `grid_sample`, and their time is compared with that of moving each input and output once.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from hvmodels.models.ed_pose.deformable_attention_ed_pose import attend_by_grid, multi_scale_deformable_attention


HEADS, HEAD_DIM, POINTS, STRIDES = 8, 32, 4, (8, 16, 32, 64)
CASES = {
    "encoder 480x640": ((480, 640), None),
    "encoder 800x1333": ((800, 1333), None),
    "decoder 480x640, 1800 queries": ((480, 640), 1800),
    "decoder 800x1333, 900 queries": ((800, 1333), 900),
    "decoder 800x1333, 1800 queries": ((800, 1333), 1800),
}


def usual_form(value, spatial_shapes, locations, weights):
    """Formula (2) of the paper on whole tensors: sample, stack, weigh, sum."""
    batch, _, heads, head_dim = value.shape
    queries = locations.shape[1]
    levels = value.split([height * width for height, width in spatial_shapes], dim=1)
    samples = []
    for level, (height, width) in enumerate(spatial_shapes):
        feature_map = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(nn.functional.grid_sample(feature_map, grid, align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    output = (torch.stack(samples, dim=3).flatten(3) * weights).sum(-1)
    return output.view(batch, heads * head_dim, queries).transpose(1, 2).contiguous()


def make_inputs(size, queries, dtype=torch.float32, device="cpu"):
    """Value, level sizes, locations, weights and a gradient of the output; made in the same way for each form."""
    generator = torch.Generator().manual_seed(0)
    spatial_shapes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    tokens = sum(height * width for height, width in spatial_shapes)
    if queries is None:
        grids = [
            torch.cartesian_prod((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width).flip(1)
            for height, width in spatial_shapes
        ]
        centres, queries = torch.cat(grids)[:, None, None, None], tokens
        spread = 3 / torch.tensor(spatial_shapes).flip(1)[:, None]
    else:
        centres = torch.rand(queries, 1, 1, 1, 2, generator=generator)
        spread = torch.tensor(0.08)
    points = (1, queries, HEADS, len(STRIDES), POINTS)
    locations = centres + torch.randn(*points, 2, generator=generator) * spread
    weights = torch.randn(*points[:3], len(STRIDES) * POINTS, generator=generator).softmax(-1).view(points)
    value = torch.randn(1, tokens, HEADS, HEAD_DIM, generator=generator)
    grad_output = torch.randn(1, queries, HEADS * HEAD_DIM, generator=generator)
    tensors = [tensor.to(device, dtype) for tensor in (value, weights, grad_output)]
    return tensors[0], spatial_shapes, locations.to(device), tensors[1], tensors[2]


def run(form, inputs):
    """CPU seconds of the forward and of the backward pass, output and gradients."""
    value, spatial_shapes, locations, weights, grad_output = inputs
    tensors = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    start = time.process_time()
    output = form(tensors[0], spatial_shapes, tensors[1], tensors[2])
    middle = time.process_time()
    output.backward(grad_output)
    end = time.process_time()
    return middle - start, end - middle, [output.detach(), *(tensor.grad for tensor in tensors)]


def peak_memory(form, inputs) -> float:
    """MB that a forward and backward pass adds to the peak of a process."""

    def measure(pipe):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(form, inputs)
        pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(sender,))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def compare_on_the_cpu(runs: int):
    forms = {"usual": usual_form, "here": multi_scale_deformable_attention}
    memory = {}  # first of all: later the parent holds freed memory that its children would take
    for case, (size, queries) in CASES.items():
        inputs = make_inputs(size, queries)
        memory[case] = {name: peak_memory(form, inputs) for name, form in forms.items()}
    print("| CPU, 1 thread | form | forward s, least / median | backward s, least / median | peak MB |")
    print("|---|---|---|---|---|")
    for case, (size, queries) in CASES.items():
        inputs = make_inputs(size, queries)
        results = {name: run(form, inputs)[2] for name, form in forms.items()}
        for ours, usual in zip(results["here"], results["usual"], strict=True):
            # A location within rounding of a pixel's edge may fall on either side, with another slope.
            close = (ours - usual).abs() <= 1e-4 * usual.abs().max()
            assert close.float().mean() > 0.9999, "the forms differ"
        times = {name: [] for name in forms}
        for _ in range(runs):
            for name, form in forms.items():
                times[name].append(run(form, inputs)[:2])
        for name, pairs in times.items():
            cells = [f"{min(column):.3f} / {statistics.median(column):.3f}" for column in zip(*pairs, strict=True)]
            print(f"| {case} | {name} | {' | '.join(cells)} | {memory[case][name]:.0f} |", flush=True)


def gpu_milliseconds(function, runs: int) -> float:
    """Median over `runs`, after a warm-up."""
    times = []
    for index in range(runs + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if index >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def compare_on_a_gpu(runs: int):
    buffers = torch.empty(2, 2**28, device="cuda")
    bandwidth = buffers.nbytes / gpu_milliseconds(lambda: buffers[0].copy_(buffers[1]), runs)  # bytes a millisecond
    print(f"\n{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e6:.0f} GB/s")
    print("| case | dtype | form | forward ms | share of the floor | forward + backward ms | share of the floor |")
    print("|---|---|---|---|---|---|---|")
    for case, (size, queries) in CASES.items():
        for dtype in (torch.float32, torch.bfloat16):
            inputs = make_inputs(size, queries, dtype, "cuda")
            moved = sum(tensor.nbytes for tensor in inputs if isinstance(tensor, torch.Tensor))
            for name, form in {"grid_sample": attend_by_grid, "Triton": multi_scale_deformable_attention}.items():
                with torch.no_grad():
                    forward = gpu_milliseconds(lambda f=form, i=inputs: f(*i[:4]), runs)
                both = gpu_milliseconds(lambda f=form, i=inputs: run(f, i), runs)
                # Backward: the four tensors are read again and three gradients written.
                floors = moved / bandwidth, (3 * moved - inputs[-1].nbytes) / bandwidth
                numbers = f"{forward:.3f} | {floors[0] / forward:.0%} | {both:.3f} | {floors[1] / both:.0%}"
                print(f"| {case} | {str(dtype).removeprefix('torch.')} | {name} | {numbers} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each form")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare_on_the_cpu(arguments.runs)
    if torch.cuda.is_available():
        compare_on_a_gpu(arguments.runs)


if __name__ == "__main__":
    main()
