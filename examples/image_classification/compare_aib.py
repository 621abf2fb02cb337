"""Train AIB and the same network without attention and sampling, by several seeds each, and compare them on test images."""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from aib_recipe import AIBRecipe, ImageDataset, PlainForImageClassification, evaluate
from pose_recipe import read_recipe, write_json

from hvmodels.models.aib import AIBForImageClassification


FOLDER = Path(__file__).parent
VARIANTS = {"aib": AIBForImageClassification, "plain": PlainForImageClassification}
TITLES = {"aib": "VGG with AIB", "plain": "the same VGG without"}


def find_split(folder: Path, split: str) -> str:
    """Folder of class folders, or Parquet file."""
    return str(folder / split if (folder / split).is_dir() else folder / f"{split}.parquet")


def train(variant: str, seed: int, options: argparse.Namespace, extra: list[str]) -> Path:
    """Folder of a run, which is trained unless it is there."""
    folder = options.output_dir / f"{variant}-{seed}"
    recipe = read_recipe(options.recipe, recipe_class=AIBRecipe)
    epochs = int(next((value.partition("=")[2] for value in extra if value.startswith("--epochs=")), recipe["epochs"]))
    if not is_complete(folder, epochs):
        data = [f"--{split}_data={find_split(options.data, split)}" for split in ("train", "validation")]
        arguments = [f"--recipe={options.recipe}", *data, f"--attention={variant == 'aib'}", f"--seed={seed}", *extra]
        resume = ["--resume"] if (folder / "recipe.json").exists() else []
        command = [sys.executable, FOLDER / "train_aib.py", *arguments, f"--output_dir={folder}", *resume]
        subprocess.run(command, check=True)
    return folder


def is_complete(folder: Path, epochs: int) -> bool:
    path = folder / "metrics.json"
    return path.exists() and json.loads(path.read_text())["history"][-1]["epoch"] == epochs


def test_run(variant: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Figures of a run on validation and test images."""
    report = json.loads((folder / "metrics.json").read_text())
    recipe = AIBRecipe(**report["recipe"])
    model = VARIANTS[variant].from_pretrained(folder)
    dataset = ImageDataset(recipe.read_images(find_split(options.data, "test"), "test"))
    measured = {
        "validation": report["history"][-1],
        "test": evaluate(recipe, dataset, recipe.image_processor(), model, Accelerator()),
    }
    return {
        f"{split}_{name}": figures[name]
        for split, figures in measured.items()
        for name in ("accuracy", "balanced_accuracy")
    }


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="Folder of train, validation and test, each a folder of class folders or a .parquet file.",
    )
    parser.add_argument("--recipe", default=str(FOLDER / "recipes" / "aib" / "clothing.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/aib_clothing"))
    options, extra = parser.parse_known_args(arguments)
    runs = {variant: [] for variant in VARIANTS}
    for seed in options.seeds:
        for variant in VARIANTS:
            folder = train(variant, seed, options, extra)
            runs[variant].append({"seed": seed, **test_run(variant, folder, options)})
    write_json(runs, options.output_dir / "comparison.json")
    names = ("validation_accuracy", "validation_balanced_accuracy", "test_accuracy", "test_balanced_accuracy")
    print("| | " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("| --- |" + " --- |" * len(names))
    for variant, figures in runs.items():
        cells = []
        for name in names:
            values = [100 * figure[name] for figure in figures]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        print(f"| {TITLES[variant]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
