"""Train students by their labels, by KD, ViTKD, NKD and ViTKD with NKD, with several seeds, and tabulate their accuracy.

Runs that are finished are not repeated, so the same command goes on where it was stopped, and several processes may take
different seeds into one folder; the last one writes the whole table.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import run_distillation
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from distillation_recipe import DistillationRecipe, evaluate, write_json
from transformers import AutoImageProcessor, AutoModelForImageClassification


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs share

from pose_recipe import METRICS_FILE, read_recipe

from hvmodels.datasets.image_classification import read_labelled_images


METHODS = {
    "alone": "student alone",
    "kd": "KD",
    "vitkd": "ViTKD",
    "nkd": "NKD",
    "vitkd_nkd": "ViTKD + NKD",
}
METRICS = ("accuracy", "balanced_accuracy")


def train(method: str, seed: int, folder: Path, options: argparse.Namespace):
    """Train a student unless it is there, and evaluate it on every split."""
    recipe = DistillationRecipe(**read_recipe(options.recipe, method, DistillationRecipe))
    if (folder / "splits.json").exists():
        return
    arguments = [
        "--recipe", options.recipe, "--setting", method, "--seed", str(seed), "--output_dir", str(folder),
        "--train_data", options.train_data, "--validation_data", options.validation_data, *options.further,
    ]  # fmt: skip
    if method != "alone":
        arguments += ["--teacher", options.teacher]
    if (folder / "recipe.json").exists():
        arguments.append("--resume")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    run_distillation.main(arguments)
    write_json(evaluate_splits(folder, recipe, options), folder / "splits.json")


def evaluate_splits(model_folder: str | Path, recipe: DistillationRecipe, options: argparse.Namespace) -> dict:
    """Accuracies of a model on the validation and the test images."""
    model = AutoModelForImageClassification.from_pretrained(model_folder)
    processor = AutoImageProcessor.from_pretrained(model_folder)
    found = {}
    for split in ("validation", "test"):
        images = read_labelled_images(getattr(options, f"{split}_data"))
        found[split] = evaluate(recipe, images, processor, model, Accelerator())
    return found


def tabulate(output_dir: Path, seeds: list[int]) -> dict:
    """Mean and standard deviation over the seeds, of each method of which all runs are there."""
    table = {}
    for method in METHODS:
        files = [output_dir / f"{method}_{seed}" / "splits.json" for seed in seeds]
        if not all(file.exists() for file in files):
            continue
        runs = [json.loads(file.read_text()) for file in files]
        table[method] = {
            split: {
                metric: {
                    "mean": float(np.mean([run[split][metric] for run in runs])),
                    "std": float(np.std([run[split][metric] for run in runs], ddof=1)) if len(runs) > 1 else 0.0,
                    "runs": [run[split][metric] for run in runs],
                }
                for metric in METRICS
            }
            for split in ("validation", "test")
        }
    return table


def markdown(table: dict) -> str:
    """The table in percent."""
    lines = ["| | validation accuracy | balanced | test accuracy | balanced |", "|---|---|---|---|---|"]
    for method, splits in table.items():
        cells = [
            f"{100 * splits[split][metric]['mean']:.1f} ± {100 * splits[split][metric]['std']:.1f}"
            for split in ("validation", "test")
            for metric in METRICS
        ]
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(output_dir: Path, seeds: list[int], table: dict, path: Path):
    """Validation accuracy by epoch, the mean over the seeds and their range."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for method in table:
        histories = [
            json.loads((output_dir / f"{method}_{seed}" / METRICS_FILE).read_text())["history"] for seed in seeds
        ]
        epochs = [entry["epoch"] for entry in histories[0]]
        values = 100 * np.array([[entry["accuracy"] for entry in history] for history in histories])
        (line,) = axes.plot(epochs, values.mean(0), marker=".", label=METHODS[method])
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default=str(Path(__file__).parent / "recipes" / "clothing.json"))
    parser.add_argument("--teacher", required=True, help="Folder of the teacher.")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}_data", required=True, help=f"The {split} images, as for run_distillation.py.")
    parser.add_argument("--output_dir", default="outputs/compare_distillation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train_seeds", type=int, nargs="*", help="Those that this process trains; all if not given.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options, options.further = parser.parse_known_args(arguments)
    output_dir = Path(options.output_dir)
    for seed in options.seeds if options.train_seeds is None else options.train_seeds:
        for method in options.methods:
            train(method, seed, output_dir / f"{method}_{seed}", options)
    recipe = DistillationRecipe(**read_recipe(options.recipe, None, DistillationRecipe))
    table = tabulate(output_dir, options.seeds)
    teacher = evaluate_splits(options.teacher, recipe, options)
    write_json({"teacher": teacher, "students": table}, output_dir / "comparison.json")
    print("teacher:", ", ".join(f"{split} {100 * teacher[split]['accuracy']:.1f} %" for split in teacher))
    print(markdown(table), flush=True)
    if table:
        plot(output_dir, options.seeds, table, output_dir / "comparison.png")


if __name__ == "__main__":
    main()
