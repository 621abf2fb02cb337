"""Train Linear, NLinear and DLinear on ETTh1, ETTh2 and exchange_rate and compare with the paper and the original code.

`published_results.csv` holds the figures compared with: `paper_*` from arXiv 2205.13504 (tables 2 and 9; one run whose
loader left out the last partial test batch) and `original_*` from running the original code, github.com/cure-lab/LTSF-Linear
at commit 0c11366, on a CPU with seed 2021: over all test windows and with the last partial batch left out.
`dlinear_first_release` is the original's first DLinear with the settings of its first scripts.
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import mean, pstdev

from accelerate import Accelerator
from recipe import Recipe, evaluate, read_recipe
from train_forecasting_accelerate import train


FOLDER = Path(__file__).parent
DATASETS = ("ETTh1", "ETTh2", "exchange_rate")
MODELS = {
    "linear": ("linear", None),
    "nlinear": ("nlinear", None),
    "dlinear": ("dlinear", None),
    "dlinear_first_release": ("dlinear", "first_release"),
}
SEED = 2021  # of the original's runs
TOLERANCE = 0.015
PRINTED_DIGIT = 1e-4
HEADER = (
    "| data | P | model | paper | original, drop_last | ours, drop_last | original, all windows | ours, seed 2021 "
    "| ours, all windows | flag |"
)


def run(recipe: Recipe, accelerator: Accelerator) -> dict[str, float]:
    data = recipe.load_data()
    model, history = train(recipe, data, accelerator)
    metrics = evaluate(model, data.test, recipe.batch_size)
    figures = {f"{name}_{key}": metrics[name][key] for name in ("test", "test_drop_last") for key in ("mse", "mae")}
    best = min(history, key=lambda entry: entry["validation_error"])["epoch"]
    return {"seed": recipe.seed, "epochs": len(history), "best_epoch": best, **figures}


def flag(model: str, runs: list[dict], published: dict[str, str]) -> str:
    """Nothing if the original's run lies within 1.5 % of the mean (Linear, NLinear) or within the seeds (DLinear)."""
    for name, prefix in (("test", "original"), ("test_drop_last", "original_drop_last")):
        if not published[f"{prefix}_mse"]:
            continue
        ours, theirs = {entry["seed"]: entry[f"{name}_mse"] for entry in runs}, float(published[f"{prefix}_mse"])
        if model in ("linear", "nlinear"):
            difference = mean(ours.values()) / theirs - 1
            same = f" (seed {SEED}: {ours[SEED] / theirs - 1:+.1%})" if SEED in ours else ""
            return f"mean {difference:+.1%}{same}" if abs(difference) > TOLERANCE else ""
        lowest, highest = min(ours.values()), max(ours.values())
        within = lowest - PRINTED_DIGIT <= theirs <= highest + PRINTED_DIGIT
        return "" if within else f"seeds {lowest:.4f} to {highest:.4f}"
    return ""


def row(published: dict[str, str], runs: list[dict]) -> str:
    def theirs(prefix):
        return f"{published[prefix + '_mse']} / {published[prefix + '_mae']}" if published[prefix + "_mse"] else ""

    def ours(name):
        figures = [[entry[f"{name}_{key}"] for entry in runs] for key in ("mse", "mae")]
        return " / ".join(f"{mean(values):.4f} ± {pstdev(values):.4f}" for values in figures)

    same = [f"{entry['test_mse']:.4f} / {entry['test_mae']:.4f}" for entry in runs if entry["seed"] == SEED]
    cells = [
        published["dataset"],
        published["prediction_length"],
        published["model"].replace("_", " "),
        theirs("paper"),
        theirs("original_drop_last"),
        ours("test_drop_last"),
        theirs("original"),
        *(same or [""]),
        ours("test"),
        flag(published["model"], runs, published),
    ]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder of ETTh1.csv, ETTh2.csv, exchange_rate.csv"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/ltsf_linear"), help="runs.json and table.md")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[2021, 2022, 2023])
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    runs_file = options.output_dir / "runs.json"
    finished = json.loads(runs_file.read_text()) if runs_file.exists() else {}
    accelerator = Accelerator(mixed_precision="no")
    lines = [HEADER, "|" + " --- |" * (HEADER.count("|") - 1)]
    with (FOLDER / "published_results.csv").open() as file:
        table = [entry for entry in csv.DictReader(file) if entry["dataset"] in options.datasets]
    for published in table:
        dataset, horizon, model = (published[name] for name in ("dataset", "prediction_length", "model"))
        variant, setting = MODELS[model]
        values = read_recipe(str(FOLDER / "recipes" / f"{dataset}.json"), setting, int(horizon))
        values |= {"data": str(options.data_dir / f"{dataset}.csv"), "variant": variant}
        runs = []
        for seed in options.seeds:
            name = f"{dataset} {horizon} {model} {seed}"
            if name not in finished:
                finished[name] = run(Recipe(**values, seed=seed), accelerator)
                runs_file.write_text(json.dumps(finished, indent=2) + "\n")
            runs.append(finished[name])
        lines.append(row(published, runs))
        print(lines[-1], flush=True)
    (options.output_dir / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
