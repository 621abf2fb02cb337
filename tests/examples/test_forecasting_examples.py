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


LINEAR_RECIPES = [path for path in sorted((EXAMPLES / "recipes").glob("*.json")) if path.stem != "scinet"]
SCINET_RECIPES = EXAMPLES / "recipes" / "scinet.json"


@pytest.mark.parametrize("path", LINEAR_RECIPES, ids=lambda path: path.stem)
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


def test_scinet_recipes_are_the_published_settings(recipe_module, fixtures):
    """Each of the 62 against what the original's scripts are called with, see the fixtures' README."""
    published = {entry["variant"]: entry for entry in json.loads((fixtures / "scinet" / "variants.json").read_text())}
    assert list(json.loads(SCINET_RECIPES.read_text())["settings"]) == list(published)
    for name, entry in published.items():
        recipe = recipe_module.Recipe(**recipe_module.read_recipe(str(SCINET_RECIPES), name))
        config = recipe.model_config(entry["input_dim"])
        assert (config.context_length, config.prediction_length) == (entry["input_len"], entry["output_len"])
        assert (config.num_stacks, config.num_levels) == (entry["num_stacks"], entry["num_levels"])
        assert (config.hidden_ratio, config.dropout) == (entry["hid_size"], entry["dropout"])
        assert (config.kernel_size, config.groups) == (entry["kernel"], entry["groups"])
        assert config.num_decoder_layers == entry["num_decoder_layer"]
        assert config.use_positional_encoding == entry["positionalE"]
        assert entry["num_stacks"] == 1 or (config.concat_length or 0) == entry["concat_len"]
        assert not config.use_reversible_instance_norm and not config.decompose
        assert (recipe.batch_size, recipe.learning_rate, recipe.epochs) == tuple(
            entry[key] for key in ("batch_size", "lr", "epochs")
        )
        assert recipe.double_precision == (entry["dtype"] == "float64") and recipe.seed == 4321
        assert recipe.schedule == ("solar" if entry.get("lradj") == 2 else "decay")
        if "normalize" not in entry:
            assert config.loss == "mae" and recipe.protocol == ("pems" if name.startswith("pems") else "ltsf")
            assert recipe.paper_protocol == name.startswith("pems")
            continue
        assert (config.loss, recipe.protocol) == ("smooth_l1", "financial")
        assert config.last_step_weight == entry["lastWeight"] and config.last_step_only == entry["single_step"]
        assert recipe.loss_in_units == (entry["normalize"] != 3)
        long = entry["long_term_forecast"]  # always scaled by its first 0.7 rows, which are those of training
        assert recipe.split == ([0.7, 0.1, 0.2] if long else [0.6, 0.2, 0.2])
        assert recipe.normalization == ("standard" if long else "max_abs") and recipe.paper_protocol != long
        assert recipe.selection == ("mse" if long else "last_step")


def test_learning_rates(recipe_module):
    def factors(schedule, epochs):
        recipe = recipe_module.Recipe(schedule=schedule)
        return [recipe.learning_rate_factor(epoch) for epoch in epochs]

    assert factors("halve", range(4)) == [1, 1, 0.5, 0.25]
    assert factors("decay", range(3)) == pytest.approx([1, 0.95, 0.9025])
    epochs = (0, 4, 5, 9, 10, 19, 20, 30, 40, 69, 70, 99)
    assert factors("solar", epochs) == [1, 1, 5, 5, 10, 10, 1, 0.5, 0.1, 0.1, 0.01, 0.01]


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
    for options, message in (
        ({"protocol": "pems"}, "are for `variant` scinet"),
        ({"loss_in_units": True}, "are for `variant` scinet"),
        ({"variant": "scinet", "features": "MS"}, "choose M or S"),
        ({"variant": "scinet", "protocol": "pems", "features": "S"}, "must be M with"),
        ({"variant": "scinet", "selection": "last_step"}, "needs `protocol` financial"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_module.Recipe(**options)
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


SCINET = {
    "variant": "scinet",
    "num_levels": 2,
    "context_length": 12,
    "prediction_length": 4,
    "epochs": 3,
    "seed": 4321,
}
PROTOCOLS = {
    "ltsf": {"double_precision": True, "schedule": "decay"},
    "financial": {
        "split": [0.6, 0.2, 0.2], "loss": "smooth_l1", "loss_in_units": True, "last_step_weight": 0.5,
        "selection": "last_step", "paper_protocol": True, "num_stacks": 2,
    },
    "pems": {"selection": "mae", "weight_decay": 1e-5, "use_positional_encoding": True},
}  # fmt: skip


@pytest.fixture
def scinet_run(recipe_module, csv_file, monkeypatch):
    """Runs a script's `main` for a recipe of SCINet in this process; gives the folder."""

    def run(script, folder, protocol, *options):
        import train_forecasting
        import train_forecasting_accelerate

        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        folder.mkdir(exist_ok=True)
        recipe = folder.parent / f"{protocol}.json"
        recipe.write_text(json.dumps({**SCINET, "protocol": protocol, "batch_size": 64, **PROTOCOLS[protocol]}))
        main = {SCRIPTS[0]: train_forecasting, SCRIPTS[1]: train_forecasting_accelerate}[script].main
        main([f"--recipe={recipe}", f"--data={csv_file}", f"--output_dir={folder}", *options])
        return folder

    return run


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scinet_learns_by_every_protocol(protocol, scinet_run, tmp_path):
    folder = scinet_run(SCRIPTS[1], tmp_path / "run", protocol, "--learning_rate=0.01")
    report = json.loads((folder / "metrics.json").read_text())
    losses = [entry["train_loss"] for entry in report["history"]]
    errors = [entry["validation_error"] for entry in report["history"]]
    assert losses[-1] < losses[0] and report["best_epoch"] == 1 + errors.index(min(errors))
    names = {"ltsf": {"mse", "mae", "corr"}, "financial": {"rse", "rae", "corr"}, "pems": {"mae", "rmse", "mape"}}
    assert names[protocol] <= set(report["test"]) and report["test"]["num_windows"] > 0
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    assert model.dtype == (torch.float64 if protocol == "ltsf" else torch.float32)
    past = AutoFeatureExtractor.from_pretrained(folder)(csv_rows(3, 12))["past_values"]
    assert torch.isfinite(model(past).prediction_outputs).all()


def csv_rows(channels, rows):
    return pd.DataFrame(np.ones((rows, channels)), columns=[f"channel {index}" for index in range(channels)])


@pytest.mark.parametrize(
    ("script", "options"), [(SCRIPTS[0], []), (SCRIPTS[1], []), (SCRIPTS[1], ["--original_draws"])]
)
def test_scinet_resumes_exactly(script, options, scinet_run, tmp_path):
    """Dropout included: its masks depend on seed, epoch and process only, or on a random state that is kept."""
    whole = scinet_run(script, tmp_path / "whole", "financial", *options)
    scinet_run(script, tmp_path / "parts", "financial", "--epochs=1", *options)
    (tmp_path / "parts" / "metrics.json").unlink()
    parts = scinet_run(script, tmp_path / "parts", "financial", "--resume", *options)
    torch.testing.assert_close(*(load_file(folder / "model.safetensors") for folder in (whole, parts)), rtol=0, atol=0)
    reports = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, parts)]
    assert reports[0]["history"] == reports[1]["history"] and reports[0]["test"] == reports[1]["test"]


def test_original_draws_repeat_the_original(recipe_module, shared_data):
    """The loss of the 100th step that the original's code prints for ETTh1 48 to 24 with `--RIN True` on a CPU."""
    values = recipe_module.read_recipe(str(SCINET_RECIPES), "etth1_M_24")
    values |= {"data": str(shared_data / "data" / "long_term_forecasting" / "ETTh1.csv"), "original_draws": True}
    recipe = recipe_module.Recipe(**values, use_reversible_instance_norm=True)
    data = recipe.load_data()
    model, shuffle = recipe.build_model(data)
    optimizer = recipe.build_optimizer(model)
    model.train()
    for indices in shuffle.start_epoch(0).split(recipe.batch_size)[:100]:
        loss = model(**data.train.__getitems__(indices)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() == pytest.approx(0.3647595, abs=6e-8)


def test_original_draws_where_they_cannot_be(recipe_module, scinet_run, tmp_path):
    with pytest.raises(ValueError, match="needs the plain loop"):
        scinet_run(SCRIPTS[0], tmp_path / "run", "ltsf", "--original_draws")
    for options in ({}, {"variant": "scinet", "protocol": "pems"}):
        with pytest.raises(ValueError, match="`original_draws` is for"):
            recipe_module.Recipe(original_draws=True, **options)
