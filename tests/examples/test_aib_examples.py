"""The scripts that train AIB as users run them: alone, on two processes, stopped and resumed, against the plain network."""

import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from hvmodels.metrics.classification import top_k_accuracies
from hvmodels.models.aib import AIBConfig, AIBForImageClassification, AIBImageProcessor
from tests.examples.launch import ENVIRONMENT, two_processes
from tests.reference_cases import needs_reference, reference_folder


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "image_classification"
SHARED = EXAMPLES.parent / "pose_estimation"
RECIPES = EXAMPLES / "recipes" / "aib"
SCRIPTS = ["train_aib.py", "train_aib_accelerate.py"]
QUANTIZED = {
    "hidden_sizes": [4, 4, 6, 8], "latent_dim": 4, "use_quantization": True, "num_anchors": 5, "num_samples_eval": 2,
}  # fmt: skip
# Neither has statistics of a batch in training, with norms that are frozen.
NORMLESS = {
    "train_aib.py": ["--norms=frozen", f"--config={json.dumps(QUANTIZED)}"],
    "train_aib_accelerate.py": [
        "--norms=batch",
        f"--config={json.dumps({'backbone_type': 'vgg16', 'hidden_sizes': [4, 4, 4, 6, 6], 'latent_dim': 4})}",
    ],
}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Blue squares and red discs on noise."""
    folder, random = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    rows, columns = np.indices((32, 32)) - 15.5
    shapes = {
        "disc": (np.hypot(rows, columns) < 9, (220, 30, 40)),
        "square": (abs(rows) + abs(columns) < 14, (30, 40, 220)),
    }
    for split in ("train", "validation", "test"):
        for name, (inside, colour) in shapes.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = random.integers(60, 160, (32, 32, 3), dtype=np.uint8)
                pixels[inside] = colour
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def options(data_folder, output_dir, *extra):
    return [
        f"--train_data={data_folder / 'train'}", f"--validation_data={data_folder / 'validation'}",
        f"--config={json.dumps(QUANTIZED)}", "--batch_size=8", "--learning_rate=0.05", "--epochs=20", "--drop_epochs", "15",
        "--drop_factor=0.1", "--evaluate_every=10", "--evaluation_batch_size=5", "--average_decay=0.5", "--padding=2",
        f"--output_dir={output_dir}", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    names = ["pose_recipe", "optimization", "train_pose_estimation", "top_down_recipe", "train_top_down"]
    names += [
        "train_top_down_accelerate",
        "aib_recipe",
        "train_aib",
        "train_aib_accelerate",
        "compare_aib",
        "show_attention",
    ]
    sys.path[:0] = [str(EXAMPLES), str(SHARED)]
    yield {name: importlib.import_module(name) for name in reversed(names)}
    for folder in (EXAMPLES, SHARED):
        sys.path.remove(str(folder))
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def train(scripts):
    """Run a script in this process."""

    def run(script, *arguments):
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        scripts[script.removesuffix(".py")].main(list(arguments))
        AcceleratorState._reset_state(reset_partial_state=True)

    return run


@pytest.fixture(scope="module")
def runs(train, data_folder, tmp_path_factory):
    """Folder of an undisturbed run of each script."""
    folders = {script: tmp_path_factory.mktemp("run") / "output" for script in SCRIPTS}
    for script, folder in folders.items():
        train(script, *options(data_folder, folder))
    return folders


def history_of(folder):
    """Without the times, which differ from run to run."""
    history = json.loads((folder / "metrics.json").read_text())["history"]
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in history]


@pytest.mark.parametrize("script", SCRIPTS)
def test_run_learns_and_saves(script, runs, scripts, data_folder):
    first, last = history_of(runs[script])
    assert (first["epoch"], last["epoch"]) == (10, 20)
    assert (first["learning_rate"], last["learning_rate"]) == pytest.approx((0.05, 0.005))
    assert last["train_loss"] < first["train_loss"] and last["accuracy"] == last["balanced_accuracy"] > 0.8

    model = AIBForImageClassification.from_pretrained(runs[script]).eval()
    assert model.config.id2label == {0: "disc", 1: "square"} and model.config.label2id == {"disc": 0, "square": 1}
    processor = AIBImageProcessor.from_pretrained(runs[script])
    paths = sorted((data_folder / "validation").glob("*/*.png"))
    pixel_values = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    seed = scripts["aib_recipe"].EVALUATION_SEED
    with torch.no_grad():
        logits = [
            model(pixel_values[start : start + 5], generator=torch.Generator().manual_seed(seed + start)).logits
            for start in range(0, 16, 5)
        ]
    assert top_k_accuracies(torch.cat(logits), [0] * 8 + [1] * 8, (1,))[1] == last["accuracy"]


def test_both_scripts_agree(runs):
    first, second = (runs[script] for script in SCRIPTS)
    assert json.loads((first / "recipe.json").read_text()) == json.loads((second / "recipe.json").read_text())
    assert history_of(first) == history_of(second)
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_resumed_run_equals_undisturbed(script, train, runs, data_folder, tmp_path):
    train(script, *options(data_folder, tmp_path / "output", "--epochs=10"))
    train(script, *options(data_folder, tmp_path / "output", "--resume"))
    assert history_of(tmp_path / "output") == history_of(runs[script])
    weights = [load_file(folder / "model.safetensors") for folder in (runs[script], tmp_path / "output")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_resumed_run_repeats_dropout(train, data_folder, tmp_path):
    config = {"backbone_type": "wide_resnet_cifar", "hidden_sizes": [4, 4, 6, 8], "depth": 10, "widen_factor": 1}
    arguments = [f"--config={json.dumps({**config, 'latent_dim': 4})}", "--evaluate_every=1"]
    weights = []
    for script in SCRIPTS:
        for resumed in (False, True):
            folder = tmp_path / f"{script}-{resumed}"
            if resumed:
                train(script, *options(data_folder, folder, *arguments, "--epochs=1"))
            train(script, *options(data_folder, folder, *arguments, "--epochs=2", *(["--resume"] if resumed else [])))
            weights.append(load_file(folder / "model.safetensors"))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0, atol=0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_equal_one(script, train, data_folder, tmp_path):
    """Without statistics of a batch, since each process has its own; images and noise are the same."""
    for name in ("one", "two"):
        arguments = options(data_folder, tmp_path / name, *NORMLESS[script], "--epochs=3")
        if name == "one":
            train(script, *arguments)
        else:
            command = [sys.executable, *two_processes(), str(EXAMPLES / script), *arguments]
            subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, timeout=600)
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["num_processes"] == 2
    one, two = (history_of(tmp_path / name)[-1] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


def test_comparison_with_the_plain_network(scripts, train, data_folder, tmp_path, monkeypatch, capsys):
    compare = scripts["compare_aib"]
    commands = []

    def run(command, check):
        commands.append(command)
        train(Path(command[1]).name, *map(str, command[2:]))

    monkeypatch.setattr(compare.subprocess, "run", run)
    sizes = {"hidden_sizes": [4, 4, 6, 8], "latent_dim": 4, "stochastic_eval": False}
    arguments = [
        f"--data={data_folder}",
        f"--output_dir={tmp_path}",
        "--seeds",
        "0",
        "1",
        "--epochs=2",
        "--batch_size=8",
    ]
    arguments += [f"--config={json.dumps(sizes)}", "--resize", "32", "32", "--mixed_precision=no"]
    compare.main(arguments)
    runs = json.loads((tmp_path / "comparison.json").read_text())
    assert {name: [entry["seed"] for entry in entries] for name, entries in runs.items()} == {
        "aib": [0, 1],
        "plain": [0, 1],
    }
    assert len(commands) == 4 and all(0 <= entry["test_accuracy"] <= 1 for entry in runs["plain"])
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table[0].startswith("| | validation accuracy |") and table[2].startswith("| VGG with AIB | ")
    assert all(" ± " in line for line in table[2:])
    compare.main(arguments)  # what is there is not trained again
    assert len(commands) == 4 and json.loads((tmp_path / "comparison.json").read_text()) == runs
    plain = load_file(tmp_path / "plain-0" / "model.safetensors")
    aib = load_file(tmp_path / "aib-0" / "model.safetensors")
    without = {name.removeprefix("aib.") for name in aib if "attention" not in name and "statistics" not in name}
    assert without == {name for name in plain if "projection" not in name}


def test_attention_is_drawn_and_measured(scripts, runs, data_folder, tmp_path, capsys):
    output = tmp_path / "new" / "maps.png"
    data = data_folder / "validation"
    scripts["show_attention"].main(["--model", str(runs[SCRIPTS[0]]), "--data", str(data), "--output", str(output)])
    printed = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    shares = {
        name: float(value) for name, value in printed.items() if name.startswith(("accuracy with", "images with"))
    }
    assert len(shares) == 4 and all(0 <= value <= 1 for value in shares.values())
    assert -1 <= float(printed["correlation of score and brightness in an image"]) <= 1
    assert Image.open(output).width > 4 * 2 * 96


def make_recipe(scripts, *names):
    path, *setting = names
    values = scripts["pose_recipe"].read_recipe(
        str(RECIPES / path), *setting, recipe_class=scripts["aib_recipe"].AIBRecipe
    )
    return scripts["aib_recipe"].AIBRecipe(**values)


PUBLISHED = [
    (("vgg_cifar.json",), None, 256),
    (("vgg_cifar.json", "cifar10-qt"), 20, 256),
    (("vgg_cifar.json", "cifar100-qt"), 50, 256),
    (("wide_resnet_cifar.json",), None, 512),
    (("wide_resnet_cifar.json", "cifar10-qt"), 50, 512),
    (("wide_resnet_cifar.json", "cifar100-qt"), 20, 512),
    (("cub.json",), None, 256),
    (("cub.json", "vgg16-qt"), 20, 256),
    (("cub.json", "wide-resnet50"), None, 256),
    (("cub.json", "wide-resnet50-qt"), 20, 256),
]


@pytest.mark.parametrize(("names", "anchors", "latent_dim"), PUBLISHED)
def test_recipes_are_those_of_the_published_models(scripts, names, anchors, latent_dim):
    recipe = make_recipe(scripts, *names)
    config = AIBConfig(**recipe.config)
    assert config.latent_dim == latent_dim and config.beta == 0.01
    assert (config.num_anchors if config.use_quantization else None) == anchors
    is_cub = names[0] == "cub.json"
    assert recipe.image_processor().output_size == ((224, 224) if is_cub else (32, 32)) == (config.image_size,) * 2
    assert (recipe.epochs, recipe.batch_size) == (200, 16 if is_cub else 128)
    with torch.device("meta"):
        model = AIBForImageClassification(config)
    groups = recipe.make_optimizer(model).param_groups
    trained = anchors is not None and not is_cub  # the anchors of CUB stay where they are
    assert len(groups) == 1 + trained
    if trained:
        assert groups[1]["lr"] == pytest.approx(1e-4 * groups[0]["lr"])
        assert [parameter.shape for parameter in groups[1]["params"]] == [(anchors,)]
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())


@needs_reference("aib", "recipe")
@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("vgg_cifar.json",), "vgg32_lr_0.01"),
        (("vgg_cifar.json", "cifar10-qt"), "vgg32_lr_0.001"),
        (("wide_resnet_cifar.json",), "wrn32_lr_0.1"),
        (("cub.json",), "cub_lr"),
    ],
)
def test_learning_rates_are_those_of_the_original(scripts, names, key):
    recipe = make_recipe(scripts, *names)
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    attention = nn.ParameterDict({"anchors": parameters[1]})
    model = nn.ModuleDict({"other": nn.ParameterDict({"weight": parameters[0]}), "attention": attention})
    optimizer = recipe.make_optimizer(model)
    scheduler = recipe.make_scheduler(optimizer, steps_per_epoch=2)
    expected = load_file(reference_folder("aib", "recipe") / "io.safetensors")
    rates, of_anchors = [], []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        of_anchors.append(optimizer.param_groups[1]["lr"])
        for _ in range(2):
            optimizer.step()
            scheduler.step()
    np.testing.assert_allclose(rates, expected[f"output.{key}"], rtol=1e-5)
    if key.startswith("vgg32"):
        anchor_key = f"output.{key.replace('lr_', 'lr_anchor_group_')}"
        np.testing.assert_allclose(of_anchors, expected[anchor_key], rtol=1e-5)


@needs_reference("aib", "recipe")
def test_moving_average_is_that_of_the_original(scripts):
    values = load_file(reference_folder("aib", "recipe") / "io.safetensors")
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))

    def load(prefix):
        network.load_state_dict({name: values[f"{prefix}.{name}"] for name in network.state_dict()})

    average = make_recipe(scripts, "cub.json").make_average()
    load("input.ema.start")
    average.start(network)
    for step in range(3):
        load(f"input.ema.step{step}")
        average.update(network)
        assert len(average.averages) == 6  # weights and statistics, no counter
        for name, value in average.averages.items():
            torch.testing.assert_close(value, values[f"output.ema.step{step}.{name}"], rtol=1e-5, atol=1e-6)


@needs_reference("aib", "recipe")
def test_accuracies_are_those_of_the_original():
    values = load_file(reference_folder("aib", "recipe") / "io.safetensors")
    found = top_k_accuracies(values["input.metric.logits"], values["input.metric.labels"], (1, 3, 5))
    np.testing.assert_allclose(
        [100 * value for value in found.values()], values["output.metric.accuracy_top1_3_5"], rtol=1e-5
    )


def test_cifar_and_cub_are_read(scripts, tmp_path):
    recipe_class = scripts["aib_recipe"].AIBRecipe
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear"]}))
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [0, 1, 1, 0]}))
    sizes = {"hidden_sizes": [4, 4, 6, 8], "latent_dim": 5, "num_samples_train": 2}
    folder = str(tmp_path)
    recipe = recipe_class(format="cifar", train_data=folder, validation_data=folder, batch_size=2, config=sizes)
    data = recipe.load_data()
    model = recipe.build_model(data)
    batches = list(recipe.training_loader(data, 1, 0))
    assert len(batches) == 2 and batches[0]["pixel_values"].shape == (2, 3, 32, 32)
    assert batches[0]["attention_noise"].shape == (2, 2, 256) and batches[0]["latent_noise"].shape == (2, 4, 5)
    assert torch.isfinite(model(**batches[0]).loss) and len(data.validation) == 4

    Image.fromarray(pixels.reshape(64, 64, 3)).save(tmp_path / "bird.png")
    (tmp_path / "list.txt").write_text("bird.png 0 10 20 30.4 40\nbird.png 0 0 0 64 64\n")
    options = {"resize": [40, 40], "crop_size": [32, 32], "padding": 0, "config": {**sizes, "num_samples_train": 1}}
    recipe = recipe_class(format="cub", train_data=f"{folder}/list.txt", images=folder, batch_size=2, **options)
    data = recipe.load_data()
    assert data.train[0]["image"].size == (30, 40) and data.processor.output_size == (32, 32)
    recipe.build_model(data)
    first, second = (next(iter(recipe.training_loader(data, 2, index)))["pixel_values"] for index in (0, 1))
    whole = next(iter(recipe.training_loader(data, 1, 0)))["pixel_values"]
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=0)
    data.train.set_epoch(1)
    assert not torch.equal(next(iter(recipe.training_loader(data, 1, 0)))["pixel_values"], whole)


def test_synchronized_norms_keep_their_names(scripts, data_folder):
    recipe = scripts["aib_recipe"].AIBRecipe(
        train_data=str(data_folder / "train"), batch_size=8, config=QUANTIZED, norms="synchronized"
    )
    model = recipe.build_model(recipe.load_data())
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model.state_dict().keys() == AIBForImageClassification(model.config).state_dict().keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0}, "`learning_rate` must be positive"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"average_decay": 1}, "`average_decay` must be at least 0 and below 1"),
        ({"resize": [32]}, "`resize` must be height and width"),
        ({"drop_every": 2, "drop_epochs": [1]}, "`drop_every` must be 0 or more, and 0 beside `drop_epochs`"),
        ({"model": "a", "config": {}}, "`model` brings its configuration and weights"),
        ({"attention": False, "model": "a"}, "Without `attention` training starts from scratch"),
    ],
)
def test_bad_settings(scripts, values, message):
    with pytest.raises(ValueError, match=message):
        scripts["aib_recipe"].AIBRecipe(**values)


def test_bad_data(scripts, data_folder, tmp_path):
    recipe_class, path = scripts["aib_recipe"].AIBRecipe, str(data_folder / "train")
    with pytest.raises(ValueError, match="`train_data` must name the data"):
        recipe_class().load_data()
    with pytest.raises(ValueError, match="`batch_size` must be at most the number of training images, 16, got 17"):
        recipe_class(train_data=path, batch_size=17).load_data()
    with pytest.raises(ValueError, match="`images` must name the folder of CUB's images"):
        recipe_class(format="cub", train_data=path).load_data()
    (tmp_path / "other").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "a.png")
    with pytest.raises(ValueError, match="`validation_data` must have the classes"):
        recipe_class(train_data=path, validation_data=str(tmp_path), batch_size=4).load_data()
    with pytest.raises(ValueError, match=r"unknown fields \['depths_of_layers'\]"):
        recipe = recipe_class(train_data=path, batch_size=4, config={"depths_of_layers": 3})
        recipe.build_model(recipe.load_data())
