"""The training scripts as users run them: alone, on two processes, and killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

import hvmodels  # noqa: F401
from tests.examples.launch import ENVIRONMENT, two_processes


pd = pytest.importorskip("pandas")
pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "forecasting"
SCRIPTS = ["train_forecasting.py", "train_forecasting_accelerate.py"]
# Complete state of an epoch, in the order of writing: the file that each script resumes from.
STATES = {SCRIPTS[0]: "checkpoint-*/trainer_state.json", SCRIPTS[1]: "training_state.pt"}
OPTIONS = [
    "--context-length=48", "--prediction-length=24", "--moving_average_kernel_size=7", "--batch_size=8",
    "--learning_rate=0.01", "--epochs=20", "--patience=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory):
    rng, steps = np.random.default_rng(0), np.arange(600)
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=600, freq="h")})
    for index, period in enumerate((24, 12, 36)):
        table[f"channel {index}"] = np.sin(2 * np.pi * steps / period) * 3 + rng.normal(size=600) * 0.3 + index
    path = tmp_path_factory.mktemp("data") / "series.csv"
    table.to_csv(path, index=False)
    return path


def start(script, csv_file, output_dir, *options, launcher=()):
    command = [sys.executable, *launcher, str(EXAMPLES / script), f"--data={csv_file}", f"--output_dir={output_dir}"]
    return subprocess.Popen(
        [*command, *OPTIONS, *options],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def runs(csv_file, tmp_path_factory):
    """Folder of an undisturbed run of each script."""
    folders = {script: tmp_path_factory.mktemp("run") for script in SCRIPTS}
    for process in [start(script, csv_file, folder) for script, folder in folders.items()]:
        assert "test: mse" in finish(process)
    return folders


@pytest.mark.parametrize("script", SCRIPTS)
def test_run_learns_and_saves(script, runs, csv_file):
    report = json.loads((runs[script] / "metrics.json").read_text())
    losses = [entry["train_loss"] for entry in report["history"]]
    assert report["epochs"] == len(losses) and losses[-1] < 0.5 * losses[0]
    rates = [entry["learning_rate"] for entry in report["history"][:4]]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025])
    assert report["test"]["num_windows"] == 120 - 24 + 1
    assert report["test_drop_last"]["num_windows"] == 96
    assert 0 < report["test"]["mse"] < 0.2 and report["test"]["mae"] < 0.4

    model = AutoModelForTimeSeriesPrediction.from_pretrained(runs[script])
    extractor = AutoFeatureExtractor.from_pretrained(runs[script])
    table = pd.read_csv(csv_file)
    inputs = extractor(table[:-24])
    with torch.no_grad():
        outputs = model(inputs["past_values"]).prediction_outputs
    forecast = extractor.inverse_transform(outputs[0])
    assert np.abs(forecast - table.iloc[-24:, 1:].to_numpy()).mean() < 0.5


def test_both_scripts_agree(runs):
    first, second = (json.loads((runs[script] / "metrics.json").read_text()) for script in SCRIPTS)
    assert first["best_epoch"] == second["best_epoch"] and first["recipe"] == second["recipe"]
    torch.testing.assert_close(*(load_file(runs[script] / "model.safetensors") for script in SCRIPTS))


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_equal_one(script, runs, csv_file, tmp_path):
    finish(start(script, csv_file, tmp_path, launcher=two_processes()))
    weights = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(weights, load_file(runs[script] / "model.safetensors"), rtol=0, atol=1e-5)
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (runs[script], tmp_path))
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert one["test"]["mse"] == pytest.approx(two["test"]["mse"], rel=1e-4)
    assert one["history"][-1]["train_loss"] == pytest.approx(two["history"][-1]["train_loss"], rel=1e-4)


def test_killed_runs_resume_exactly(runs, csv_file, tmp_path):
    killed = {script: start(script, csv_file, tmp_path / script) for script in SCRIPTS}
    waiting = dict(killed)
    while waiting:
        for script, process in list(waiting.items()):
            if list((tmp_path / script).glob(STATES[script])) or process.poll() is not None:
                process.kill()
                waiting.pop(script)
        time.sleep(0.01)
    for script, process in killed.items():
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (tmp_path / script / "metrics.json").exists()

    for process in [start(script, csv_file, tmp_path / script, "--resume") for script in SCRIPTS]:
        finish(process)
    for script in SCRIPTS:
        folders = (tmp_path / script, runs[script])
        torch.testing.assert_close(*(load_file(folder / "model.safetensors") for folder in folders), rtol=0, atol=0)
        resumed, undisturbed = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
        assert resumed["history"] == undisturbed["history"] and resumed["test"] == undisturbed["test"]


@pytest.fixture
def recipe_module(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import recipe

    return recipe


@pytest.mark.parametrize("path", sorted((EXAMPLES / "recipes").glob("*.json")), ids=lambda path: path.stem)
def test_recipe_files(path, recipe_module):
    content = json.loads(path.read_text())
    assert content["dataset"] == path.stem
    for setting, changes in {None: {}, **content["settings"]}.items():
        values = {**content, **changes}
        contexts = values["context_length"] if isinstance(values["context_length"], list) else [None]
        for horizon in values["prediction_length"]:
            for context in contexts:
                recipe = recipe_module.Recipe(**recipe_module.read_recipe(str(path), setting, horizon, context))
                config = recipe.model_config(num_input_channels=3)
                assert config.prediction_length == horizon and config.individual == (setting == "individual")
                assert context in (None, config.context_length)


def test_arguments(recipe_module, tmp_path):
    path = str(EXAMPLES / "recipes" / "exchange_rate.json")
    parse = recipe_module.parse_arguments
    recipe, _ = parse("", ["--recipe", path, "--prediction-length", "336", "--variant", "nlinear", "--seed", "7"])
    assert (recipe.batch_size, recipe.prediction_length, recipe.variant, recipe.seed) == (32, 336, "nlinear", 7)
    recipe, _ = parse("", ["--recipe", path, "--setting", "first_release", "--prediction_length", "720"])
    assert (recipe.learning_rate, recipe.weight_init) == (0.005, "average")
    recipe, _ = parse("", ["--data", "my.csv", "--prediction-length", "24"])
    assert (recipe.data, recipe.prediction_length, recipe.dataset) == ("my.csv", 24, None)

    with pytest.raises(ValueError, match="`setting` must be one of"):
        parse("", ["--recipe", path, "--setting", "best"])
    with pytest.raises(ValueError, match="not for 100"):
        parse("", ["--recipe", path, "--prediction-length", "100"])
    with pytest.raises(ValueError, match="needs `--recipe`"):
        parse("", ["--setting", "individual"])
    with pytest.raises(ValueError, match="--data"):
        recipe_module.Recipe().load_data()
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        recipe_module.Recipe(batch_size=0)
    with pytest.raises(ValueError, match="`learning_rate` must be positive"):
        recipe_module.Recipe(learning_rate=0.0)
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        recipe_module.Recipe(dataset="ETTh3")
    (tmp_path / "own.json").write_text(json.dumps({"learning_rat": 0.1}))
    with pytest.raises(ValueError, match="unknown keys"):
        parse("", ["--recipe", str(tmp_path / "own.json")])


def test_output_folder_is_not_mixed_up(recipe_module, tmp_path):
    recipe_module.claim_output_dir(recipe_module.Recipe(), tmp_path, resume=False)
    recipe_module.claim_output_dir(recipe_module.Recipe(epochs=12), tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds a run"):
        recipe_module.claim_output_dir(recipe_module.Recipe(), tmp_path, resume=False)
    with pytest.raises(ValueError, match="learning_rate"):
        recipe_module.claim_output_dir(recipe_module.Recipe(learning_rate=0.1), tmp_path, resume=True)


def test_first_seed_draws_as_the_original(recipe_module, csv_file):
    """Weights and shuffle equal those of layers and loaders made in the original's order."""
    recipe = recipe_module.Recipe(data=str(csv_file), context_length=48, prediction_length=24)
    data = recipe.load_data()
    model, shuffle = recipe.build_model(data)

    torch.manual_seed(recipe.seed)
    seasonal, trend = (torch.nn.Linear(48, 24) for _ in range(2))
    indices = list(range(len(data.train)))
    loaders = [torch.utils.data.DataLoader(indices, shuffle=shuffled) for shuffled in (True, True, False)]
    orders = [[[int(index) for index in loader] for loader in loaders] for _ in range(3)]
    torch.testing.assert_close(model.model.linear_seasonal.weight, seasonal.weight, rtol=0, atol=0)
    torch.testing.assert_close(model.model.linear_trend.bias, trend.bias, rtol=0, atol=0)
    for epoch, (training, _, _) in enumerate(orders):
        assert shuffle.order(epoch).tolist() == training
