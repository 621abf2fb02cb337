"""CPU time of one D-HCSF layer, and of the networks, beside the layer written out with dense products.

    python benchmarks/skeletal_gnn.py
    python benchmarks/skeletal_gnn.py --batch-size 64 --frames 9 --temporal-kernel 3

Everything runs in one process on one thread, the contenders in turn, with the same weights, in evaluation mode. "dense" is the
layer as its definition reads: squeezing, fusion and norm one after the other, weights of pairs stored for all pairs. The authors
of Skeletal-GNN published no code; the only public re-implementation loops over joints, hops and frames.
"""

import argparse
import os
import platform


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from timing import cpu_seconds, print_times
from torch import nn

from hvmodels import (
    SkeletalGNNActionConfig,
    SkeletalGNNConfig,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
)
from hvmodels.conversion.skeletal_gnn import unpack_layer


def dense_layer(layer, config, features: torch.Tensor):
    """The layer (rows, frames, joints, channels) with einsums over dense tensors, as a function without arguments."""
    weights = unpack_layer(layer.state_dict(), config)

    def run() -> torch.Tensor:
        graph = layer.make_graph(features)
        outputs = []
        for branch in range(config.num_branches):
            weight, bias = (weights[f"branches.{branch}.squeeze.{kind}"] for kind in ("weight", "bias"))
            if config.weight_sharing == "pair":
                sent = torch.einsum("btic,ijoc->btijo", features, weight)
                outputs.append(torch.einsum("btijo,bij->btjo", sent, graph[:, branch]) + bias)
            elif config.weight_sharing == "node":
                collected = torch.einsum("btic,bij->btjc", features, graph[:, branch])
                outputs.append(torch.einsum("btjc,joc->btjo", collected, weight) + bias)
            else:
                collected = torch.einsum("btic,bij->btjc", features, graph[:, branch])
                outputs.append(nn.functional.linear(collected, weight, bias))
        fused = nn.functional.linear(torch.cat(outputs, dim=-1), layer.fusion.weight, layer.fusion.bias)
        return layer.norm(fused.flatten(0, 2)).view(fused.shape)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--temporal-kernel", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    with torch.no_grad():
        for sharing in ("shared", "node", "pair"):
            config = SkeletalGNNConfig(
                weight_sharing=sharing,
                hidden_size=args.channels,
                num_frames=args.frames,
                temporal_kernel=args.temporal_kernel,
            )
            model = SkeletalGNNForPoseLifting(config).eval()
            layer = model.skeletal_gnn.blocks[0].layers[0].convolution
            layer.dynamic_scale.fill_(0.5)
            features = torch.randn(args.batch_size, args.frames, config.num_joints, args.channels)
            contenders = {"dense": dense_layer(layer, config, features), "ours": lambda: layer(features)}  # noqa: B023
            difference = (contenders["dense"]() - contenders["ours"]()).abs().max()
            title = f"layer, {sharing}, batch {args.batch_size}, {args.frames} frames"
            print(f"{title}: largest difference {difference:.1e}")
            print_times(title, cpu_seconds(contenders, args.repeats, warmups=3), reference="dense")
            keypoints = torch.randn(args.batch_size, args.frames, config.num_joints, 2)
            times = cpu_seconds({"ours": lambda: model(keypoints)}, max(3, args.repeats // 4))  # noqa: B023
            print_times(f"lifting network, {sharing}", times, reference="ours")
        action = SkeletalGNNForActionRecognition(SkeletalGNNActionConfig(num_labels=60)).eval()
        values = torch.randn(1, 3, 64, 25, 2)
        times = cpu_seconds({"ours": lambda: action(values)}, max(3, args.repeats // 4))
        print_times("action network of NTU, 1 sample, 64 frames", times, reference="ours")


if __name__ == "__main__":
    main()
