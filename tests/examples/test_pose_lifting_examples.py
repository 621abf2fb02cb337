"""Training of lifting models as users run it: alone, on two processes, stopped and resumed; and its evaluation."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

import hvmodels  # noqa: F401
from tests.datasets.test_human36m_archives import make_persons
from tests.datasets.test_human36m_archives import write as write_human36m
from tests.datasets.test_pose_lifting import write_archive
from tests.examples.launch import ENVIRONMENT, two_processes


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "pose_lifting"
SCRIPTS = ["train_pose_lifting", "train_pose_lifting_accelerate"]
NAMES = [
    "pose_recipe", "optimization", "train_pose_estimation", "pose_lifting_recipe", *SCRIPTS, "evaluate_pose_lifting",
]  # fmt: skip
CONFIGS = {
    "skeletal-gnn": {"num_frames": 3, "temporal_kernel": 1, "hidden_size": 8, "num_hidden_layers": 1, "relation_channels": 4},
    "videopose3d": {"filter_widths": [3], "hidden_size": 16, "hidden_dropout_prob": 0.1},
    "martinez-fcn": {"hidden_size": 16, "num_hidden_layers": 1, "hidden_dropout_prob": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    path = list(sys.path)
    sys.path.insert(0, str(EXAMPLES))
    importlib.import_module("pose_lifting_recipe")  # adds the folder of what it shares
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = path
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(scripts):
    """Run a script in this process."""

    def call(script, *arguments):
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        scripts[script].main(list(arguments))
        AcceleratorState._reset_state(reset_partial_state=True)

    return call


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("motion") / "train.npz")


def options(archive, output_dir, *extra, method="skeletal-gnn"):
    return [
        f"--train_data={archive}", "--held_out=True", f"--method={method}", f"--config={json.dumps(CONFIGS[method])}",
        "--batch_size=30", "--epochs=16", "--evaluate_every=8", "--learning_rate=0.01", "--warmup_steps=3", "--schedule=exponential",
        f"--output_dir={output_dir}", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(run, archive, tmp_path_factory):
    """Folder of an undisturbed run of each script."""
    folders = {script: tmp_path_factory.mktemp("run") / "output" for script in SCRIPTS}
    for script, folder in folders.items():
        run(script, *options(archive, folder))
    return folders


def report_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_runs_learn_and_agree(runs, archive):
    first, second = (runs[script] for script in SCRIPTS)
    history = report_of(first)["history"]
    assert [entry["epoch"] for entry in history] == [8, 16]
    assert history[1]["learning_rate"] == pytest.approx(0.01 * 0.95**16)
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert history == report_of(second)["history"]
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=0, atol=0)
    # Better than a pose that is always the same and looks nowhere: joints are 0.45 m from the pelvis.
    assert history[1]["MPJPE true 2D"] < 300
    assert history[1]["MPJPE detected 2D"] < 300
    lifter = pipeline("pose-lifting", model=str(first))
    assert lifter.feature_extractor.num_frames == lifter.model.config.num_frames == 3
    assert lifter.feature_extractor.focal_length == pytest.approx(1.145)


@pytest.mark.parametrize("script", SCRIPTS)
def test_resumed_run_equals_undisturbed(script, run, runs, archive, tmp_path):
    folder = tmp_path / "output"
    run(script, *options(archive, folder, "--epochs=8"))
    run(script, *options(archive, folder, "--resume"))
    assert report_of(folder)["history"] == report_of(runs[script])["history"]
    torch.testing.assert_close(weights_of(folder), weights_of(runs[script]), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"`--resume` needs the recipe of the run .*batch_size"):
        run(script, *options(archive, folder, "--resume", "--batch_size=20"))


def test_cosine_schedule(scripts):
    recipe = scripts["pose_lifting_recipe"].PoseLiftingRecipe(learning_rate=0.1, epochs=4, warmup_steps=4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    scheduler, rates = recipe.make_scheduler(optimizer, steps_per_epoch=5), []
    for _ in range(20):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    cosine = 0.1 * (0.5 + 0.5 * np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(rates, cosine * np.minimum(1, np.arange(1, 21) / 5))
    assert scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)


def test_two_processes(run, archive, tmp_path):
    """Take the same frames as one, but draw other cameras, and normalise by halves of batches."""
    few = ("--epochs=4", "--evaluate_every=4")
    run(SCRIPTS[1], *options(archive, tmp_path / "one", *few))
    script = str(EXAMPLES / f"{SCRIPTS[1]}.py")
    command = [sys.executable, *two_processes(), script, *options(archive, tmp_path / "two", *few)]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, timeout=600)
    one, two = (report_of(tmp_path / name) for name in ("one", "two"))
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    ((one,), (two,)) = one["history"], two["history"]
    for name in ("epoch", "learning_rate"):
        assert two[name] == one[name]
    for name in ("train_loss", "MPJPE true 2D", "MPJPE detected 2D"):
        assert two[name] == pytest.approx(one[name], rel=0.3), name


@pytest.mark.parametrize("method", ["videopose3d", "martinez-fcn"])
def test_other_methods_start_from_a_model(method, run, archive, tmp_path):
    run(SCRIPTS[1], *options(archive, tmp_path / "first", "--epochs=2", "--evaluate_every=2", method=method))
    arguments = [o for o in options(archive, tmp_path / "second", method=method) if not o.startswith("--config")]
    run(
        SCRIPTS[1],
        *arguments,
        f"--model={tmp_path / 'first'}",
        "--epochs=2",
        "--evaluate_every=2",
        "--learning_rate=1e-9",
    )
    first, second = (report_of(tmp_path / name)["history"][-1] for name in ("first", "second"))
    assert second["MPJPE true 2D"] == pytest.approx(first["MPJPE true 2D"], rel=0.2)
    if method == "martinez-fcn":
        statistics = weights_of(tmp_path / "first")
        assert 0.1 < statistics["position_std"].max() < 1  # metres, of the samples


def test_evaluation(scripts, runs, archive, tmp_path, capsys):
    model = str(runs[SCRIPTS[0]])
    scripts["evaluate_pose_lifting"].main([str(archive), "--models", model, "--json", str(tmp_path / "errors.json")])
    figures = json.loads((tmp_path / "errors.json").read_text())
    assert list(figures) == [f"{model}, true 2D", f"{model}, detected 2D"]
    errors = figures[f"{model}, true 2D"]
    assert f"{model}, true 2D: MPJPE {errors['MPJPE']:.1f}" in capsys.readouterr().out
    assert errors["MPJPE of 16 joints"] == pytest.approx(errors["MPJPE"] * 17 / 16)
    assert errors["PA-MPJPE"] < errors["N-MPJPE"] <= errors["MPJPE"] <= errors["hardest 5 %"]
    assert set(errors["by action"]) == {"walk", "wave"}
    # By hand: the held-out sequences are those of the subject 02 and the one of an unknown subject.
    recipe = scripts["pose_lifting_recipe"]
    sequences = recipe.read_lifting_sequences(archive)
    lifter = pipeline("pose-lifting", model=model)
    poses = [recipe.lift_sequence(sequence, lifter.model, lifter.feature_extractor) for sequence in sequences]
    of_frames = [np.linalg.norm(a - b.positions, axis=2).mean(1) for a, b in zip(poses, sequences, strict=True)]
    assert errors["MPJPE"] == pytest.approx(1000 * np.concatenate(of_frames).mean(), rel=1e-5)
    held_out = 1000 * np.concatenate([of_frames[0], of_frames[2]]).mean()
    assert report_of(runs[SCRIPTS[0]])["history"][-1]["MPJPE true 2D"] == pytest.approx(held_out, rel=1e-5)


@pytest.fixture(scope="module")
def human36m(tmp_path_factory):
    """Human3.6M's two archives, of other persons."""
    return write_human36m(tmp_path_factory.mktemp("human36m"), make_persons())


def options_of_human36m(human36m, *extra):
    positions, keypoints = human36m
    return [
        f"--train_data={positions}", f"--keypoints={keypoints}", "--method=videopose3d", "--warmup_steps=0",
        f"--config={json.dumps(CONFIGS['videopose3d'])}", "--batch_size=240", "--epochs=4", "--evaluate_every=2",
        "--schedule=exponential", "--amsgrad=True", "--batch_norm_momentum_end=0.001", *extra,
    ]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_human36m(script, run, scripts, human36m, tmp_path, monkeypatch, capsys):
    """Subjects 1, 5, 6, 7, 8 in windows as they stand; the momentum of batch norms falls, also over an interruption."""
    momenta = []
    model_class = scripts["pose_lifting_recipe"].VideoPose3DForPoseLifting
    original = model_class.set_batch_norm_momentum

    def note(self, momentum):
        momenta.append(momentum)
        original(self, momentum)

    monkeypatch.setattr(model_class, "set_batch_norm_momentum", note)
    folder = tmp_path / "output"
    run(script, *options_of_human36m(human36m, f"--output_dir={folder}"))
    history = report_of(folder)["history"]
    assert [entry["epoch"] for entry in history] == [2, 4]
    assert history[1]["learning_rate"] == pytest.approx(1e-3 * 0.95**4)
    assert momenta == pytest.approx([0.1 * 0.01 ** (epoch / 4) for epoch in range(4)])  # 2 steps an epoch
    lifter = pipeline("pose-lifting", model=str(folder))
    assert lifter.feature_extractor.focal_length == pytest.approx(1.1473, abs=1e-4)
    momenta.clear()
    run(script, *options_of_human36m(human36m, f"--output_dir={tmp_path / 'half'}", "--epochs=2"))
    run(script, *options_of_human36m(human36m, f"--output_dir={tmp_path / 'half'}", "--resume"))
    assert momenta == pytest.approx([0.1, 0.01**0.5 * 0.1, 0.1 * 0.01**0.5, 0.1 * 0.01**0.75])
    capsys.readouterr()
    positions, keypoints = map(str, human36m)
    scripts["evaluate_pose_lifting"].main([positions, "--keypoints", keypoints, "--models", str(folder)])
    assert "mean over actions" in capsys.readouterr().out


def test_recipes_can_be_read(scripts):
    recipe = scripts["pose_lifting_recipe"].PoseLiftingRecipe
    paths = sorted((EXAMPLES / "recipes").glob("*.json"))
    assert paths
    for path in paths:
        content = json.loads(path.read_text())
        for setting in (None, *content.get("settings", {})):
            made = recipe(**scripts["pose_recipe"].read_recipe(str(path), setting, recipe))
            assert made.model_config().num_frames >= 1
            assert {field.name for field in fields(recipe)} > set(content) - {"note", "settings"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`train_data` must name the data"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batch_size": 1000}, "`batch_size` must be at most the number of frames, 90"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"learning_rate_decay": 2.0}, "`learning_rate_decay` must be above 0"),
        ({"warmup_steps": -1}, "`warmup_steps` must not be negative"),
        ({"config": {"depth": 3}}, r"`config` has fields that SkeletalGNNConfig lacks: \['depth'\]"),
        ({"augmentation": "{\"turn\": 3}"}, r"`augmentation` has fields that LiftingAugmentation lacks: \['turn'\]"),
        ({"config": {}, "model": "x"}, "leave out `config`"),
        ({"validation_data": "x", "held_out": True}, "leave out `validation_data`"),
        ({"keypoints": "x"}, "`keypoints` brings Human3.6M's own subjects"),
        ({"batch_norm_momentum_end": 0.0}, "`batch_norm_momentum_end` must be in"),
        ({"batch_norm_momentum_end": 0.01}, "`batch_norm_momentum_end` is for videopose3d"),
        ({"held_out_subjects": ["02", "07"]}, "`held_out_subjects` must leave some sequences"),
    ],
)  # fmt: skip
def test_refuses(scripts, archive, settings, message):
    values = {"config": CONFIGS["skeletal-gnn"], "held_out": "validation_data" not in settings, **settings}
    values = {"train_data": None if not settings else str(archive), **values}
    with pytest.raises(ValueError, match=message):
        scripts["pose_lifting_recipe"].PoseLiftingRecipe(**values).load_data()
