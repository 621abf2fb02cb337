"""The scripts of distillation as users run them: alone, on two processes, stopped and resumed, and the comparison."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification

from hvmodels.models.vitkd import ViTKDConfig, ViTKDImageProcessor
from tests.examples.launch import ENVIRONMENT, two_processes


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "image_classification"
RECIPES = EXAMPLES / "recipes"
SCRIPTS = ["run_distillation.py", "run_distillation_accelerate.py"]
STUDENT = {
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
COLOURS = {"blue": (30, 60, 220), "green": (40, 190, 50), "red": (220, 40, 40)}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Pictures of three colours for training and validation, and a teacher that has not learned anything."""
    folder = tmp_path_factory.mktemp("colours")
    (folder / "other" / "class").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "other" / "class" / "0.png")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 3)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(colour, 40, (20, 18, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    torch.manual_seed(1)
    labels = dict(enumerate(COLOURS))
    config = ViTConfig(image_size=16, **{**STUDENT, "hidden_size": 24}, id2label=labels)
    ViTForImageClassification(config).save_pretrained(folder / "teacher")
    ViTKDImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False).save_as_vit(folder / "teacher")
    return folder


def options(data_folder, output_dir, *extra):
    return [
        f"--train_data={data_folder / 'train'}", f"--validation_data={data_folder / 'validation'}",
        f"--student_config={json.dumps(STUDENT)}", f"--teacher={data_folder / 'teacher'}", "--image_size", "16", "16",
        "--resize=0", "--area_range", "0.5", "1.0", "--num_operations=0", "--batch_size=4", "--learning_rate=0.01",
        "--epochs=6", "--warmup_epochs=1", "--evaluate_every=2", "--average_momentum=0.5", "--log_every=3",
        f"--output_dir={output_dir}", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    names = ["distillation_recipe", *(script.removesuffix(".py") for script in SCRIPTS), "compare_distillation"]
    names += ["train_clothing_teacher", "pose_recipe", "optimization", "train_pose_estimation"]
    kept = list(sys.path)
    sys.path.insert(0, str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = kept
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


def weights_of(folder):
    """Without the bias of keys: softmax does not see it, so its gradient is rounding, of which Adam makes steps."""
    return {name: w for name, w in load_file(folder / "model.safetensors").items() if not name.endswith("key.bias")}


def test_run_learns_and_saves_a_plain_student(runs, data_folder):
    history = history_of(runs[SCRIPTS[0]])
    assert [entry["epoch"] for entry in history] == [2, 4, 6]
    first, last = history[0], history[-1]
    assert last["task_loss"] < first["task_loss"] - 0.1 and last["accuracy"] > 0.8
    terms = [last[name] for name in ("task_loss", "mimic_loss", "generation_loss", "logit_loss")]
    assert min(terms) > 0 and sum(terms) == pytest.approx(last["train_loss"], rel=1e-4)
    config = json.loads((runs[SCRIPTS[0]] / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"] and config["id2label"]["2"] == "red"
    processor = json.loads((runs[SCRIPTS[0]] / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "ViTImageProcessor" and processor["size"] == {
        "height": 16,
        "width": 16,
    }


def test_both_scripts_agree(runs):
    first, second = (runs[script] for script in SCRIPTS)
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=0, atol=0)
    assert history_of(first) == history_of(second)


@pytest.mark.parametrize(("script", "extra"), [(SCRIPTS[0], ["--save_every=4"]), (SCRIPTS[1], [])])
def test_killed_run_resumes_to_the_same_weights(
    script, extra, train, runs, scripts, data_folder, tmp_path, monkeypatch
):
    means = sys.modules["hvmodels.distillation"].LossTermMeans
    update, calls = means.update, []

    def fail(self, outputs):
        calls.append(self)
        if len(calls) == 2 * 11:  # two collections take in each of the steps, of which an epoch has three
            raise KeyboardInterrupt
        update(self, outputs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(means, "update", fail)
        train(script, *options(data_folder, tmp_path, *extra))
    train(script, *options(data_folder, tmp_path, "--resume", *extra))
    torch.testing.assert_close(weights_of(tmp_path), weights_of(runs[script]), rtol=0, atol=0)
    assert history_of(tmp_path)[-1]["accuracy"] == history_of(runs[script])[-1]["accuracy"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_equal_one(script, runs, data_folder, tmp_path):
    command = [sys.executable, *two_processes(), str(EXAMPLES / script), *options(data_folder, tmp_path)]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, timeout=600)
    assert json.loads((tmp_path / "metrics.json").read_text())["num_processes"] == 2
    one, two = history_of(runs[script]), history_of(tmp_path)
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(weights_of(tmp_path), weights_of(runs[script]), rtol=0, atol=1e-4)


def test_comparison(scripts, data_folder, tmp_path, capsys, auto_image_processor):
    pytest.importorskip("matplotlib")
    settings = json.loads((RECIPES / "clothing.json").read_text())["settings"]
    recipe = {"student_config": STUDENT, "image_size": [16, 16], "resize": 0, "epochs": 2, "warmup_epochs": 1,
              "batch_size": 4, "evaluate_every": 1, "settings": settings}  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    splits = [f"--{split}_data={data_folder / folder}" for split, folder in
              (("train", "train"), ("validation", "validation"), ("test", "validation"))]  # fmt: skip
    arguments = [f"--recipe={tmp_path / 'recipe.json'}", f"--teacher={data_folder / 'teacher'}", *splits,
                 f"--output_dir={tmp_path / 'runs'}", "--methods", "alone", "vitkd_nkd", "--seeds", "3"]  # fmt: skip
    scripts["compare_distillation"].main(arguments)
    assert "| ViTKD + NKD | " in capsys.readouterr().out and (tmp_path / "runs" / "comparison.png").is_file()
    table = json.loads((tmp_path / "runs" / "comparison.json").read_text())
    assert set(table["students"]) == {"alone", "vitkd_nkd"} and set(table["teacher"]) == {"validation", "test"}
    found = table["students"]["vitkd_nkd"]["validation"]["accuracy"]["mean"]
    assert found == history_of(tmp_path / "runs" / "vitkd_nkd_3")[-1]["accuracy"]


def test_teacher_of_the_clothing_set(scripts, data_folder, tmp_path):
    splits = [f"--{split}_data={data_folder / split}" for split in ("train", "validation")]
    script = scripts["train_clothing_teacher"]
    script.main([*splits, f"--output_dir={tmp_path}", "--epochs=7", "--batch_size=4"])
    first, last = json.loads((tmp_path / "metrics.json").read_text())["history"]
    assert (first["epoch"], last["epoch"]) == (5, 7) and last["accuracy"] > 0.5
    model = ViTForImageClassification.from_pretrained(tmp_path)
    assert model.config.id2label == dict(enumerate(COLOURS))
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 64, "width": 64}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_recipe_files(path, scripts):
    read, recipe_class = scripts["pose_recipe"].read_recipe, scripts["distillation_recipe"].DistillationRecipe
    settings = json.loads(path.read_text()).get("settings", {})
    for setting in settings or (None,):
        recipe = recipe_class(**read(str(path), setting, recipe_class))
        given = {"student_config": {"model_type": "vit", **recipe.student_config}, **(recipe.distillation or {})}
        if setting == "alone":
            given |= scripts["run_distillation_accelerate"].WITHOUT_TEACHER
        elif given.get("logit_loss") != "uskd":
            given["teacher_config"] = {"model_type": "vit"}
        config = ViTKDConfig(**given)
        if path.stem.startswith("imagenet"):
            values = (recipe.learning_rate, recipe.min_learning_rate, recipe.weight_decay, recipe.max_grad_norm)
            assert values == (1e-3, 1e-5, 0.05, 5.0) and (recipe.epochs, recipe.warmup_epochs) == (300, 20)
            assert recipe.batch_size == 1024 and recipe.image_size == [224, 224] and recipe.resize == 256
            weights = (0, 0) if config.logit_loss == "uskd" else (3e-5, 3e-6)
            assert (config.label_smoothing, config.mimic_weight, config.generation_weight) == (0.1, *weights)
            assert (config.mask_ratio, config.nkd_temperature, config.nkd_gamma) == (0.5, 1, 1)
            assert (recipe.average_momentum == 4e-5) == (setting == "deit-l3_distill_deit-b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"save_every": -1}, "`save_every` must not be negative"),
        ({"image_size": [16]}, "`image_size` must be height and width"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"student": "folder"}, "One of `student` and `student_config`"),
    ],
)
def test_bad_settings_are_named(changes, message, scripts):
    with pytest.raises(ValueError, match=message):
        scripts["distillation_recipe"].DistillationRecipe(**{"student_config": dict(STUDENT), **changes})


def test_data_that_does_not_fit_is_named(scripts, data_folder):
    make = scripts["distillation_recipe"].DistillationRecipe
    values = {"student_config": dict(STUDENT), "train_data": str(data_folder / "train"), "batch_size": 4}
    for changes, message in (
        ({"train_data": None}, "must name the images to train on"),
        ({"batch_size": 13}, "`batch_size` must be at most the number of training images 12"),
        ({"validation_data": str(data_folder / "other")}, "`validation_data` has the classes"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**{**values, **changes}).load_data()
