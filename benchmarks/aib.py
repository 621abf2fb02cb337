"""AIB against the original: evaluation with several samples, and a training step, of the three scripts' networks.

    git clone https://github.com/ashleylqx/AIB original
    python benchmarks/aib.py --original original

One thread, random weights and images. The original's tests keep the graph for gradients; they are measured as they are, and
once more without it. What the two give for the same noise is compared before anything is timed, after a training step the
running statistics too. Times are CPU seconds, measured in turn. What the original imports beside PyTorch and NumPy need not be
installed; the VGG-16 that it takes from torchvision is built here.
"""

import argparse
import contextlib
import importlib
import io
import math
import os
import platform
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock


os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import cpu_seconds, print_times
from torch import nn

from hvmodels import AIBForImageClassification
from hvmodels.conversion.aib import convert_state_dict


PARTS = ("evaluation", "training")
# Folder of the script, batch and samples in evaluation, batch in training, side of the images.
NETWORKS = {
    "VGG-32": ("VGG-backbone-32", 16, 4, 16, 32),
    "VGG-32, 20 anchors": ("VGG-backbone-32", 16, 4, 16, 32),
    "WRN-28-10": ("WRN-backbone-32", 16, 4, 2, 32),
    "VGG-16": ("CUB-experiments", 2, 12, 2, 224),
}
BETA, VQ_WEIGHT, COMMITMENT_WEIGHT = 0.01, 0.4, 0.1


class Absent(MagicMock):
    """Stands for a module that the networks do not need."""

    __path__ = ()


ABSENT = (
    "apex", "cifar_dataset", "cv2", "matplotlib", "matplotlib.pyplot", "nested_dict", "progress", "progress.bar", "scipy",
    "scipy.misc", "tensorboardX", "torchnet", "torchnet.engine", "torchvision", "torchvision.models",
    "torchvision.models.resnet", "torchvision.transforms", "tqdm",
)  # fmt: skip


def import_original(folder: Path, name: str) -> ModuleType:
    """A module of one script; those of the others have the same names, so that none is kept."""
    before, path, folder = dict(sys.modules), list(sys.path), str(folder.resolve())
    arguments, sys.argv = sys.argv, ["benchmark"]
    sys.modules.update({absent: Absent() for absent in ABSENT})
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        for loaded in list(sys.modules):
            if loaded in ABSENT or str(getattr(sys.modules[loaded], "__file__", None)).startswith(folder):
                del sys.modules[loaded]
        sys.modules.update({absent: before[absent] for absent in ABSENT if absent in before})
        sys.path[:], sys.argv = path, arguments


def vgg16_features() -> nn.Sequential:
    """`torchvision.models.vgg16().features`."""
    layers, channels = [], 3
    for size, count in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU(inplace=True)]
            channels = size
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def make_pair(original: Path, name: str) -> tuple[nn.Module, AIBForImageClassification]:
    """The original's network and ours with the same weights."""
    torch.manual_seed(0)
    folder = original / NETWORKS[name][0]
    with contextlib.redirect_stdout(io.StringIO()):
        if name == "VGG-32":
            theirs = import_original(folder, "cifar_va").Vgg16_bn_lrn_VANet()
        elif name == "VGG-32, 20 anchors":
            theirs = import_original(folder, "cifar_va").Vgg16_bn_lrn_VANet_QT(qt_num=20, qt_trainable=True)
        elif name == "WRN-28-10":
            network = import_original(folder, "models.cifar.wrn_va").wrn_va
            theirs = network(num_classes=10, depth=28, widen_factor=10, dropRate=0.3, K=512)
        else:
            module = import_original(folder, "model")
            module.models.vgg16 = lambda **options: argparse.Namespace(features=vgg16_features())
            theirs = module.VaNet_vgg(backbone="vgg16")
    config, state_dict = convert_state_dict(theirs.state_dict(), {})
    ours = AIBForImageClassification(config)
    ours.load_state_dict({key: tensor.clone() for key, tensor in state_dict.items()})
    return theirs, ours


def original_loss(ours: AIBForImageClassification, outputs: tuple, labels: torch.Tensor) -> torch.Tensor:
    """Loss of the script from what its network returns in training."""
    logits, *rest = outputs
    if ours.config.backbone_type == "vgg16":
        rest = rest[1:]  # the logits, twice; the divergence follows twice too
    loss = nn.functional.cross_entropy(logits, labels).div(math.log(2))
    loss = loss + BETA * ours.config.info_loss_scale * rest[0].mean().div(math.log(2))
    if ours.config.use_quantization:
        loss = loss + VQ_WEIGHT * rest[1] + COMMITMENT_WEIGHT * rest[2]
    return loss


def make_inputs(batch: int, side: int, ours: AIBForImageClassification) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(ours.config.num_labels, (batch,), generator=generator)
    return torch.randn(batch, 3, side, side, generator=generator), labels


def benchmark_evaluation(original: Path, names: list[str], repeats: int):
    for name in names:
        theirs, ours = (model.eval() for model in make_pair(original, name))
        _, batch, samples, _, side = NETWORKS[name]
        pixel_values, labels = make_inputs(batch, side, ours)

        def test_originally(theirs=theirs, ours=ours, pixel_values=pixel_values, labels=labels, samples=samples):
            outputs = theirs(pixel_values, samples)
            return outputs[0], original_loss(ours, outputs, labels)

        @torch.no_grad()
        def test_without_graph(test_originally=test_originally):
            return test_originally()

        @torch.no_grad()
        def test(ours=ours, pixel_values=pixel_values, labels=labels, samples=samples):
            outputs = ours(pixel_values, labels=labels, num_samples=samples)
            return outputs.logits, outputs.loss

        results = []
        for run in (test_without_graph, test):
            torch.manual_seed(2)  # one seed, the same noise
            results.append(run())
        differences = [((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*results, strict=True)]
        print(
            f"{name}: largest relative difference of logits {differences[0]:.1e}, of the loss {differences[1]:.1e}",
            flush=True,
        )
        contenders = {"original": test_originally, "original, no_grad": test_without_graph, "ours": test}
        title = f"evaluation of {batch} images of {side} pixels, {samples} samples, {name}"
        print_times(title, cpu_seconds(contenders, repeats))


def benchmark_training(original: Path, names: list[str], repeats: int):
    for name in names:
        theirs, ours = (model.train() for model in make_pair(original, name))
        _, _, _, batch, side = NETWORKS[name]
        pixel_values, labels = make_inputs(batch, side, ours)
        optimizers = [
            torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.5, 0.999))
            if name == "VGG-16"
            else torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
            for model in (theirs, ours)
        ]

        def step_originally(theirs=theirs, ours=ours, pixels=pixel_values, labels=labels, optimizer=optimizers[0]):
            return _step(original_loss(ours, theirs(pixels, 1), labels), optimizer)

        def step(ours=ours, pixels=pixel_values, labels=labels, optimizer=optimizers[1]):
            return _step(ours(pixels, labels=labels).loss, optimizer)

        losses = []
        for run in (step_originally, step):
            torch.manual_seed(2)
            losses.append(run())
        _, state_dict = convert_state_dict(theirs.state_dict(), {})
        statistics = [
            (state_dict[key] - tensor).abs().max().item()
            for key, tensor in ours.state_dict().items()
            if key.endswith(("running_mean", "running_var"))
        ]
        largest = f", largest difference of running statistics {max(statistics):.1e}" if statistics else ""
        print(f"{name}: losses of the first step {losses[0]:.6f} and {losses[1]:.6f}{largest}", flush=True)
        contenders = {"original": step_originally, "ours": step}
        print_times(f"training step of {batch} images, {name}", cpu_seconds(contenders, repeats, warmups=0))


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/ashleylqx/AIB")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, NumPy {np.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, 1 thread"
    )
    if "evaluation" in args.parts:
        benchmark_evaluation(args.original, args.networks, args.repeats)
    if "training" in args.parts:
        benchmark_training(args.original, args.networks, args.repeats)


if __name__ == "__main__":
    main()
