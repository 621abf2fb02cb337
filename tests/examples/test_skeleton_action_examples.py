"""Training of networks for actions as users run it: alone, on two processes, stopped and resumed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForVideoClassification, pipeline

from hvmodels import SkeletonActionFeatureExtractor
from tests.datasets.test_skeleton_actions import bodies_of, write_skeleton
from tests.examples.launch import ENVIRONMENT, two_processes
from tests.models.pose_sequence.test_skeleton_streams_skeletal_gnn import moving


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "skeleton_actions"
SCRIPTS = ["train_skeleton_actions", "train_skeleton_actions_accelerate"]
NAMES = ["pose_recipe", "optimization", "train_pose_estimation", "action_recipe", *SCRIPTS]
RECIPE = json.loads((EXAMPLES / "recipes" / "bandai_namco.json").read_text())
EXTRACTOR = {**RECIPE["extractor"], "mirrored_labels": [1, 0, 2]}
SMALL = {"hidden_sizes": [4, 4], "strides": [2, 1], "temporal_conv_kernel": 3}


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    path = list(sys.path)
    sys.path.insert(0, str(EXAMPLES))
    importlib.import_module("action_recipe")  # adds the folder of what it shares
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = path
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three actions, that lift the left hand, the right one or none, in three styles."""
    generator, joints, labels, styles = np.random.default_rng(0), [], [], []
    for style in ("calm", "wild", "proud"):
        for label in range(3):
            for _ in range(3):
                poses = moving(20)
                hand = poses[:, 13].copy()
                poses[:, 13] = poses[0, 13]
                if label < 2:
                    poses[:, (13, 16)[label], 2] = hand[:, 2]
                joints.append(1000 * poses + generator.normal(0, 5, poses.shape))
                labels.append(label)
                styles.append(style)
    path = tmp_path_factory.mktemp("data") / "actions.npz"
    np.savez(
        path, joints3d=np.concatenate(joints).astype(np.float32), seq_start=20 * np.arange(27), seq_len=np.full(27, 20),
        label=labels, classes=["lift-left-hand", "lift-right-hand", "stand"], fps=30, style=styles,
    )  # fmt: skip
    return path


def arguments_of(archive, output_dir, **options):
    options = {
        "recipe": EXAMPLES / "recipes" / "bandai_namco.json",
        "train_data": archive,
        "held_out": "proud",
        "one_handed": "",
        "extractor": json.dumps(EXTRACTOR),
        "config": json.dumps({"skeleton": "h36m17", **SMALL}),
        "batch_size": 6,
        "epochs": 2,
        "evaluate_every": 1,
        "output_dir": output_dir,
        **options,
    }
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def run(scripts, script, *arguments):
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    scripts[script].main(list(arguments))


def history(folder):
    return json.loads((folder / "metrics.json").read_text())["history"]


@pytest.fixture(scope="module")
def trained(scripts, archive, tmp_path_factory):
    """Folder of a run of the plain loop."""
    folder = tmp_path_factory.mktemp("run")
    run(scripts, SCRIPTS[1], *arguments_of(archive, folder))
    return folder


def test_trained_model_goes_into_the_pipeline(trained):
    entries = history(trained)
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert all(0 <= entry["accuracy"] <= 1 for entry in entries)
    model = AutoModelForVideoClassification.from_pretrained(trained)
    assert model.config.id2label == {0: "lift-left-hand", 1: "lift-right-hand", 2: "stand"}
    extractor = AutoFeatureExtractor.from_pretrained(trained)
    assert type(extractor) is SkeletonActionFeatureExtractor
    (action,) = pipeline("skeleton-action-recognition", model=str(trained))(moving())
    assert action["label"] in model.config.label2id


def test_trainer_gives_the_same(scripts, archive, trained, tmp_path):
    run(scripts, SCRIPTS[0], *arguments_of(archive, tmp_path))
    for entry, other in zip(history(tmp_path), history(trained), strict=True):
        assert entry == pytest.approx(other, rel=1e-4)


def test_resumed_run_gives_the_same(scripts, archive, trained, tmp_path):
    recipe = scripts["action_recipe"]
    arguments = arguments_of(archive, tmp_path)
    settings, _ = scripts["pose_recipe"].parse_arguments("", arguments, recipe.ActionRecipe)
    measure, calls = scripts[SCRIPTS[1]].ActionRecipe.make_run, []

    def stopped(self, data, output_dir):
        made = measure(self, data, output_dir)
        evaluate = made.evaluate

        def once(*values, **entry):
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return evaluate(*values, **entry)

        made.evaluate = once
        return made

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(recipe.ActionRecipe, "make_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(scripts, SCRIPTS[1], *arguments)
    assert settings.epochs == 2
    run(scripts, SCRIPTS[1], *arguments, "--resume", "True")
    assert history(tmp_path) == history(trained)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, trained))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_two_processes(archive, trained, tmp_path):
    command = [sys.executable, *two_processes(), str(EXAMPLES / f"{SCRIPTS[1]}.py"), *arguments_of(archive, tmp_path)]
    process = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    # Norms see half a batch each, so that only the beginning is about the same.
    assert history(tmp_path)[0]["train_loss"] == pytest.approx(history(trained)[0]["train_loss"], rel=0.3)
    assert json.loads((tmp_path / "metrics.json").read_text())["num_processes"] == 2


def test_ntu_files(scripts, tmp_path):
    for person in (1, 2, 3):
        for action in (1, 2):
            name = f"S001C001P{person:03}R001A{action:03}.skeleton"
            write_skeleton(tmp_path / name, bodies_of(action, frames=70, seed=person))
    recipe = scripts["action_recipe"]
    path = EXAMPLES / "recipes" / "ntu_ctr.json"
    arguments = ["--recipe", path, "--setting", "60_xsub_bone", "--train_data", tmp_path, "--batch_size", 4]
    settings, _ = scripts["pose_recipe"].parse_arguments("", [str(part) for part in arguments], recipe.ActionRecipe)
    data = settings.load_data()
    assert (len(data.train), len(data.validation), len(data.classes)) == (4, 2, 60)
    assert data.train[0]["skeleton_values"].shape == (3, 64, 25, 2)
    settings.config = {"skeleton": "ntu25", **SMALL}
    model = settings.build_model(data)
    from accelerate import Accelerator

    assert set(recipe.evaluate(data.validation, model, Accelerator(cpu=True))) >= {"accuracy", "balanced_accuracy"}


def test_schedules(scripts):
    recipe_class = scripts["action_recipe"].ActionRecipe
    parameter = [torch.nn.Parameter(torch.zeros(2, 2))]

    def rates(**options):
        recipe = recipe_class(learning_rate=1.0, **options)
        optimizer = torch.optim.SGD(parameter, 1.0)
        scheduler = recipe.make_scheduler(optimizer, 2)
        factors = []
        for _ in range(8):
            factors.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return factors

    assert rates(drop_epochs="1,3") == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert rates(drop_epochs="", warmup_epochs=2) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    cosine = rates(schedule="cosine", epochs=4)
    assert cosine[0] == 1
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[4] == pytest.approx(0.5)


def test_rare_actions_are_repeated(scripts, archive):
    from hvmodels.datasets.skeleton_actions import ActionSequence

    repeat = scripts["action_recipe"].repeat_rare
    sequences = [ActionSequence(np.zeros((1, 1, 17, 3)), label) for label in [0] * 8 + [1] * 2]
    assert len(repeat(sequences, 0.0)) == 10
    assert len(repeat(sequences, 0.5)) == 12
    assert len(repeat(sequences, 1.0)) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_data": None}, "`train_data` must name"),
        ({"split": "ntu60-xsub"}, "`split` is for the files of NTU"),
        ({"data": "ntu"}, "`split` is for the files of NTU"),
        ({"held_out": "a", "validation_data": "b.npz"}, "in place of `validation_data`"),
        ({"held_out": "absent"}, r"\['absent'\] are none"),
        ({"augmentation": {"mirror": 1}, "one_handed": "bye"}, r"\['bye'\] are not"),
        ({"augmentation": {"noise": 1}}, r"unknown fields \['noise'\]"),
        ({"batch_size": 1000}, "`batch_size` must be at most"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"learning_rate": -1.0}, "`learning_rate` must be 0 or more"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings(scripts, archive, options, message):
    with pytest.raises(ValueError, match=message):
        scripts["action_recipe"].ActionRecipe(
            **{"train_data": str(archive), "extractor": EXTRACTOR, "unit": "millimetre", **options}
        ).load_data()
