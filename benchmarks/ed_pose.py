"""ED-Pose against the original: inference, training step, memory; what `torch.compile` adds; independence of the batch.

    python benchmarks/ed_pose.py --original ED-Pose

The published ResNet-50 configuration for COCO (900 queries, 100 groups), float32, one thread, the same weights on both
sides: random ones of the original's initialisation, with every layer that starts at zero filled, through the package's
converter. Outputs, loss and gradients of the two are compared before anything is timed. Times are CPU seconds, measured
in turn. The original's compiled operator is replaced by its own PyTorch form, which it calls its reference.
"""

import argparse
import importlib
import json
import os
import platform
import re
import runpy
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from timing import cpu_seconds, print_times
from torch import nn


PARTS = ("inference", "training", "memory", "compile", "batch")
INFERENCE_SIZE, TRAINING_SIZE = (480, 640), (320, 416)
NUM_PERSONS = 3


# The original, and what it imports


class Bottleneck(nn.Module):
    """Block of ResNet-50 under torchvision's names."""

    def __init__(self, channels: int, width: int, stride: int, norm: type):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if channels != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), norm(4 * width))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.relu(x)


def resnet50(norm_layer: type, **options) -> nn.Sequential:
    """ResNet-50 without its classifier, with torchvision's names and its initialisation."""
    parts = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        bn1=norm_layer(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    channels = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        blocks = []
        for index in range(depth):
            stride = 2 if stage and not index else 1
            blocks.append(Bottleneck(channels, 64 * 2**stage, stride, norm_layer))
            channels = 256 * 2**stage
        parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    backbone = nn.Sequential(parts)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


class IntermediateLayers(nn.ModuleDict):
    """Run a backbone and keep the maps of some of its parts, as torchvision's `IntermediateLayerGetter` does."""

    def __init__(self, backbone: nn.Sequential, return_layers: dict[str, str]):
        super().__init__(backbone.named_children())
        self.return_layers = return_layers

    def forward(self, x):
        maps = OrderedDict()
        for name, part in self.items():
            x = part(x)
            if name in self.return_layers:
                maps[self.return_layers[name]] = x
        return maps


def add_module(name: str, **contents):
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


def drop_module_stand_ins():
    """Forget the stand-ins once the original holds what it needs: transformers must not take them for the real ones."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("torchvision", "timm", "pycocotools"):
            del sys.modules[name]


def build_original(folder: Path) -> tuple[nn.Module, nn.Module, dict]:
    """Model, criterion and options of the published ResNet-50 configuration for COCO."""

    def box_area(boxes):
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    models = SimpleNamespace(resnet50=resnet50)
    add_module("torchvision", __version__="0.28.0", models=models, _is_tracing=lambda: False)
    add_module("torchvision.models", resnet50=resnet50)
    add_module("torchvision.models._utils", IntermediateLayerGetter=IntermediateLayers)
    add_module("torchvision.ops")
    add_module("torchvision.ops.boxes", box_area=box_area, nms=None)
    add_module("timm")
    add_module("timm.models")
    add_module("timm.models.layers", DropPath=None, to_2tuple=None, trunc_normal_=None)
    add_module("pycocotools")
    add_module("pycocotools.coco", COCO=None)
    add_module("MultiScaleDeformableAttention")
    sys.path.insert(0, str(folder.resolve()))
    attention = importlib.import_module("models.edpose.ops.modules.ms_deform_attn")
    in_pytorch = importlib.import_module("models.edpose.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch

    class Function:
        @staticmethod
        def apply(value, spatial_shapes, level_start_index, locations, weights, im2col_step):
            return in_pytorch(value, spatial_shapes.tolist(), locations, weights)

    attention.MSDeformAttnFunction = Function
    build = importlib.import_module("models.edpose.edpose").build_edpose
    drop_module_stand_ins()
    options = runpy.run_path(str(folder / "config" / "edpose.cfg.py"))
    options = {name: value for name, value in options.items() if not name.startswith("_")}
    torch.manual_seed(0)
    model, criterion, _ = build(SimpleNamespace(**options, device="cpu"))
    return fill(model), criterion, options


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Give everything that starts at zero or one a value, so that it counts in the comparison."""
    for name, parameter in model.named_parameters():
        if re.search(
            r"(sampling_offsets|attention_weights|_embed\.\d+\.layers\.2|bbox_embed\.layers\.2)\.weight", name
        ):
            parameter.normal_(std=0.03)
    for name, buffer in model.named_buffers():
        if re.search(r"(bn\d|downsample\.1)\.weight$", name):
            buffer.uniform_(0.4, 0.8)
        elif re.search(r"(bn\d|downsample\.1)\.bias$", name):
            buffer.normal_(std=0.1)
    return model


def make_targets(seed: int) -> list[dict[str, torch.Tensor]]:
    """Targets of one image in the original's layout, with `NUM_PERSONS` random persons."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    boxes = torch.cat([0.3 + 0.4 * random(NUM_PERSONS, 2), 0.1 + 0.3 * random(NUM_PERSONS, 2)], dim=1)
    corners = boxes[:, None, :2] + (random(NUM_PERSONS, 17, 2) - 0.5) * boxes[:, None, 2:]
    visible = (random(NUM_PERSONS, 17) < 0.8).float()
    return [
        {
            "labels": torch.ones(NUM_PERSONS, dtype=torch.int64),
            "boxes": boxes,
            "keypoints": torch.cat([corners.flatten(1), visible], dim=1),
            "area": 0.6 * boxes[:, 2] * boxes[:, 3],
        }
    ]


def make_image(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """A normalised picture (1, 3, height, width): smooth structures and noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 12, 16, generator=generator)
    image = nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return image + 0.2 * torch.randn(1, 3, *size, generator=generator)


class Original:
    """The original, called as its training and evaluation scripts call it."""

    def __init__(self, folder: Path):
        self.model, self.criterion, self.options = build_original(folder)
        self.batch = importlib.import_module("util.misc").nested_tensor_from_tensor_list

    def infer(self, image: torch.Tensor):
        self.model.eval()
        with torch.no_grad():
            return self.model(self.batch(list(image)), make_targets(0))  # it crashes without targets

    def train(self, image: torch.Tensor) -> torch.Tensor:
        self.model.train()
        targets, weights = make_targets(0), self.criterion.weight_dict
        losses = self.criterion(self.model(self.batch(list(image)), targets), targets)
        loss = sum(losses[name] * weights[name] for name in losses if name in weights)
        self.model.zero_grad()
        loss.backward()
        return loss.detach()


class Ours:
    """The same calls of this package."""

    def __init__(self, model: nn.Module):
        self.model = model

    def infer(self, image: torch.Tensor):
        self.model.eval()
        with torch.no_grad():
            return self.model(image)

    def train(self, image: torch.Tensor) -> torch.Tensor:
        self.model.train()
        loss = self.model(image, labels=[to_labels(target) for target in make_targets(0)]).loss
        self.model.zero_grad()
        loss.backward()
        return loss.detach()


def to_labels(target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Targets of the original as `labels`."""
    return {
        "class_labels": target["labels"],
        "boxes": target["boxes"],
        "keypoints": target["keypoints"][:, :34].unflatten(1, (17, 2)),
        "keypoints_visible": target["keypoints"][:, 34:],
        "area": target["area"],
    }


def convert_to_ours(original: Original) -> Ours:
    from hvmodels.conversion.ed_pose import convert

    model, _ = convert(original.model.state_dict(), original.options, Path("random.pth"))
    return Ours(model)


# Measurements


def largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()


def compare_inference(original: Original, ours: Ours):
    image = make_image(INFERENCE_SIZE)
    theirs, mine = original.infer(image), ours.infer(image)
    keypoints = theirs["pred_keypoints"][..., :34].unflatten(-1, (17, 2))
    print(
        f"inference, largest difference: logits {largest_difference(mine.logits, theirs['pred_logits']):.1e}, "
        f"boxes {largest_difference(mine.pred_boxes, theirs['pred_boxes']):.1e}, "
        f"keypoints {largest_difference(mine.pred_keypoints, keypoints):.1e}",
        flush=True,
    )


def compare_training(original: Original, ours: Ours):
    image, losses, norms = make_image(TRAINING_SIZE), [], []
    for side in (original, ours):
        torch.manual_seed(1)  # of the denoising noise
        losses.append(side.train(image))
        gradients = [parameter.grad for parameter in side.model.parameters() if parameter.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm())
        side.model.zero_grad()
    print(
        f"training, loss {losses[0]:.5f} and {losses[1]:.5f} (relative difference "
        f"{abs(losses[1] / losses[0] - 1):.1e}), gradient norm {norms[0]:.4f} and {norms[1]:.4f} "
        f"({abs(norms[1] / norms[0] - 1):.1e})",
        flush=True,
    )


def read_memory(field: str) -> float:
    """MiB of a field of this process's status, Linux."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure_memory(side: str, folder: Path, steps: int = 2):
    """In a process of its own: peak of resident memory over training steps, and how far it is above the start."""
    if side == "original":
        trainer = Original(folder)
    else:
        from hvmodels import EDPoseConfig, EDPoseForPoseEstimation

        torch.manual_seed(0)
        trainer = Ours(EDPoseForPoseEstimation(EDPoseConfig()))
    image, start = make_image(TRAINING_SIZE), read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for _ in range(steps):
        trainer.train(image)
    peak = read_memory("VmHWM")
    print(json.dumps({"peak": peak, "above_start": peak - start}))


def benchmark_memory(folder: Path):
    for side in ("original", "ours"):
        command = [sys.executable, __file__, "--original", str(folder), "--memory-of", side]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        values = json.loads(output.splitlines()[-1])
        print(
            f"training step, peak memory, {side}: {values['peak']:.0f} MiB, "
            f"{values['above_start']:.0f} MiB above the process before it",
            flush=True,
        )


def benchmark_compile(ours: Ours, repeats: int):
    """The compiled model against the eager one; a step compiles the forward pass and its backward pass."""
    image, small = make_image(INFERENCE_SIZE), make_image(TRAINING_SIZE)
    compiled = Ours(torch.compile(ours.model))
    start, cpu_start = time.perf_counter(), time.process_time()
    outputs, expected = compiled.infer(image), ours.infer(image)
    print(
        f"compile, inference: {time.perf_counter() - start:.0f} s ({time.process_time() - cpu_start:.0f} CPU s in this "
        f"process); largest difference: logits {largest_difference(outputs.logits, expected.logits):.1e}, keypoints "
        f"{largest_difference(outputs.pred_keypoints, expected.pred_keypoints):.1e}",
        flush=True,
    )
    contenders = {"eager": lambda: ours.infer(image), "compiled": lambda: compiled.infer(image)}
    print_times("inference", cpu_seconds(contenders, repeats), "eager")
    start = time.perf_counter()
    torch.manual_seed(1)
    loss = compiled.train(small)
    torch.manual_seed(1)
    print(
        f"compile, training step: {time.perf_counter() - start:.0f} s; relative difference of the loss "
        f"{abs(loss / ours.train(small) - 1):.1e}",
        flush=True,
    )
    contenders = {"eager": lambda: ours.train(small), "compiled": lambda: compiled.train(small)}
    print_times("training step", cpu_seconds(contenders, repeats), "eager")


def benchmark_batch(original: Original, ours: Ours):
    """A picture alone, beside one of its size, and padded beside a larger one: how far each pose is from the nearest."""
    (height, width), (below, right) = INFERENCE_SIZE, (64, 96)
    scale = torch.tensor([width, height])
    image, other = make_image(INFERENCE_SIZE), make_image(INFERENCE_SIZE, seed=1)
    larger = make_image((height + below, width + right), seed=1)
    mask = torch.ones(2, height + below, width + right, dtype=torch.bool)
    mask[1, height:], mask[1, :, width:] = False, False
    padded = torch.cat([larger, nn.functional.pad(image, (0, right, 0, below))])

    model = ours.model.eval()
    with torch.no_grad():
        alone = model(image).pred_keypoints[0]
        cases = {
            "beside a picture of its size": model(torch.cat([other, image])),
            "padded beside a larger picture": model(padded, mask),
        }
        model.config.isolate_images = True
        cases["padded beside a larger picture, `isolate_images`"] = model(padded, mask)
        model.config.isolate_images = False
        their_alone = original.infer(image)["pred_keypoints"][0]
        theirs = original.model(original.batch([larger[0], image[0]]), 2 * make_targets(0))["pred_keypoints"][1]
    poses = {name: outputs.pred_keypoints[1] for name, outputs in cases.items()}
    print_distances(poses, alone, scale)
    theirs, their_alone = (keypoints[:, :34].unflatten(-1, (17, 2)) for keypoints in (theirs, their_alone))
    print_distances({"padded beside a larger picture, original": theirs}, their_alone, scale)


def print_distances(poses: dict[str, torch.Tensor], alone: torch.Tensor, scale: torch.Tensor):
    """Of each pose, the mean distance of its keypoints to those of the nearest pose: slots may change places."""
    for name, others in poses.items():
        distances = ((alone[:, None] - others) * scale).norm(dim=-1).mean(-1).amin(1)
        print(f"batch, {name}: median {distances.median():.1e} px, largest {distances.max():.1e} px", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/IDEA-Research/ED-Pose")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=["original", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        return measure_memory(args.memory_of, args.original)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    original = Original(args.original)
    ours = convert_to_ours(original)
    if "inference" in args.parts:
        compare_inference(original, ours)
        image = make_image(INFERENCE_SIZE)
        contenders = {"original": lambda: original.infer(image), "ours": lambda: ours.infer(image)}
        print_times("inference 480x640", cpu_seconds(contenders, args.repeats), "original")
    if "training" in args.parts:
        compare_training(original, ours)
        image = make_image(TRAINING_SIZE)
        contenders = {"original": lambda: original.train(image), "ours": lambda: ours.train(image)}
        print_times("training step 320x416", cpu_seconds(contenders, args.repeats), "original")
    if "memory" in args.parts:
        benchmark_memory(args.original)
    if "batch" in args.parts:
        benchmark_batch(original, ours)
    if "compile" in args.parts:
        benchmark_compile(ours, args.repeats)
    return None


if __name__ == "__main__":
    main()
