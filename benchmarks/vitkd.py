"""ViTKD against the original: the loss on features, NKD, and whole training steps.

    git clone https://github.com/yzd-v/cls_KD original
    python benchmarks/vitkd.py --original original

One thread, random weights, features of DeiT-III-small and DeiT-tiny at 224 pixels. The original's loss modules are imported as
they are, with a stand-in for the registry of mmcls. In whole steps both have the same models of transformers, so that the losses
and the way to the features make the difference: the original's losses get `hidden_states`. What the two give is compared before anything
is timed. Times are CPU seconds, measured in turn.
"""

import argparse
import importlib.util
import os
import platform
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from timing import cpu_seconds, print_times
from transformers import ViTForImageClassification

from hvmodels import ViTKDConfig, ViTKDForImageClassification
from hvmodels.models.vitkd import ViTKDLoss, label_loss, nkd_loss


PARTS = ("features", "nkd", "training")
STUDENT, TEACHER, GRID, CLASSES = 192, 384, (14, 14), 1000


def import_original(folder: Path) -> SimpleNamespace:
    """Loss classes of the original."""
    registry = ModuleType("mmcls.registry")
    registry.MODELS = SimpleNamespace(register_module=lambda: lambda cls: cls)
    sys.modules |= {"mmcls": ModuleType("mmcls"), "mmcls.registry": registry}
    modules = {}
    for name in ("vitkd", "nkd"):
        path = folder / "mmcls" / "models" / "dis_losses" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"original_{name}", path)
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return SimpleNamespace(vitkd=modules["vitkd"].ViTKDLoss, nkd=modules["nkd"].NKDLoss)


def copy_weights(theirs: torch.nn.Module, ours: ViTKDLoss):
    """Give the original's loss the weights of ours."""
    names = {"mimic_aligners": "align2", "generation_aligner": "align", "generator.0": "generation.0"}
    names |= {"generator.1": "generation.2"}
    state_dict = {}
    for name, value in ours.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state_dict[name] = value
    theirs.load_state_dict(state_dict)


def benchmark_features(original: SimpleNamespace, batch_sizes: list[int], repeats: int):
    torch.manual_seed(0)
    ours = ViTKDLoss(STUDENT, TEACHER)
    theirs = original.vitkd("vitkd", True, STUDENT, TEACHER)
    copy_weights(theirs, ours)
    tokens = GRID[0] * GRID[1]
    for batch_size in batch_sizes:
        student = [torch.randn(batch_size, *shape, STUDENT) for shape in ((2, tokens), (tokens,))]
        teacher = [torch.randn(batch_size, *shape, TEACHER) for shape in ((2, tokens), (tokens,))]

        def run_originally(student=student, teacher=teacher):
            torch.manual_seed(0)
            loss = theirs([value.requires_grad_() for value in student], teacher)
            loss.backward()
            return loss.item()

        def run(student=student, teacher=teacher):
            torch.manual_seed(0)
            shallow, deep = (value.requires_grad_().unflatten(-2, GRID) for value in student)
            taught_shallow, taught_deep = (value.unflatten(-2, GRID) for value in teacher)
            output = ours(shallow.unbind(1), taught_shallow.unbind(1), deep, taught_deep)
            loss = output.mimic_loss + output.generation_loss
            loss.backward()
            return loss.item()

        print(f"loss on features, difference {abs(run_originally() - run()):.1e}")
        times = cpu_seconds({"original": run_originally, "ours": run}, repeats)
        print_times(f"loss on features, forward and backward, batch {batch_size}", times)


def benchmark_nkd(original: SimpleNamespace, batch_sizes: list[int], repeats: int):
    theirs = original.nkd("nkd", True, 1.0, 1.0)
    for batch_size in batch_sizes:
        student, teacher = (2 * torch.randn(batch_size, CLASSES) for _ in range(2))
        labels = torch.randint(CLASSES, (batch_size,))
        student.requires_grad_()

        def run_originally(arguments=(student, teacher, labels)):
            theirs(*arguments).backward()

        def run(arguments=(student, teacher, labels)):
            nkd_loss(*arguments, 1.0, 1.0).backward()

        difference = theirs(student, teacher, labels) - nkd_loss(student, teacher, labels, 1.0, 1.0)
        print(f"NKD, difference {difference.abs():.1e}")
        times = cpu_seconds({"original": run_originally, "ours": run}, 10 * repeats)
        print_times(f"NKD, forward and backward, batch {batch_size}", times)


def benchmark_training(original: SimpleNamespace, batch_sizes: list[int], repeats: int):
    torch.manual_seed(0)
    config = ViTKDConfig()
    teacher = ViTForImageClassification(config.teacher_config).eval()
    model = ViTKDForImageClassification.from_pair(ViTForImageClassification(config.student_config), teacher).train()
    student = ViTForImageClassification(config.student_config).train()
    student.load_state_dict(model.student.state_dict())
    vitkd, nkd = original.vitkd("vitkd", True, STUDENT, TEACHER), original.nkd("nkd", True, 1.0, 1.0)
    copy_weights(vitkd, model.distiller)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = [
        torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
        for parameters in ([*student.parameters(), *vitkd.parameters()], trained)
    ]
    for batch_size in batch_sizes:
        pixel_values, labels = torch.randn(batch_size, 3, 224, 224), torch.randint(CLASSES, (batch_size,))

        def features(network, pixel_values=pixel_values):
            outputs = network(pixel_values, output_hidden_states=True)
            hidden_states = outputs.hidden_states
            deep = network.vit.layernorm(hidden_states[-1])[:, 1:]
            return (torch.stack([hidden_states[block][:, 1:] for block in (1, 2)], dim=1), deep), outputs.logits

        def step_originally(labels=labels, features=features):
            student_features, student_logits = features(student)
            with torch.no_grad():
                teacher_features, teacher_logits = features(teacher)
            loss = label_loss(student_logits, labels) + vitkd(student_features, teacher_features)
            return take_step(loss + nkd(student_logits, teacher_logits, labels), optimizers[0])

        def step(pixel_values=pixel_values, labels=labels):
            return take_step(model(pixel_values, labels).loss, optimizers[1])

        times = cpu_seconds({"original": step_originally, "ours": step}, repeats)
        print_times(f"training step, DeiT-III-small to DeiT-tiny, batch {batch_size}", times)


def take_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Backward and update."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="clone of github.com/yzd-v/cls_KD")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 16, 64], help="of the losses")
    parser.add_argument("--step-batch-sizes", type=int, nargs="+", default=[16], help="of training steps")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    original = import_original(args.original)
    if "features" in args.parts:
        benchmark_features(original, args.batch_sizes, args.repeats)
    if "nkd" in args.parts:
        benchmark_nkd(original, args.batch_sizes, args.repeats)
    if "training" in args.parts:
        benchmark_training(original, args.step_batch_sizes, args.repeats)


if __name__ == "__main__":
    main()
