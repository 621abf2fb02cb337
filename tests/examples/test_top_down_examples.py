"""The scripts that train top-down models as users run them: alone, on two processes, stopped and resumed, in 3-D."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import nn
from transformers import AutoBackbone, ResNetConfig

from hvmodels.metrics.keypoints import percentage_of_correct_keypoints
from hvmodels.models.rle import RLEConfig, RLEForPoseEstimation
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor
from tests.examples.launch import ENVIRONMENT, two_processes


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "pose_estimation"
RECIPES = EXAMPLES / "recipes" / "top_down"
SCRIPTS = ["train_top_down.py", "train_top_down_accelerate.py"]
NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
BACKBONE = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Sixteen pictures of 48 x 48 with a stick figure of five keypoints, and one frame each of Human3.6M and MPII."""
    folder = tmp_path_factory.mktemp("stick_figures")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(16):
        picture = Image.new("RGB", (48, 48), (90, 110, 90))
        points = 24 + np.array([[0, -16], [-12, -2], [12, -2], [-6, 16], [6, 16]]) + rng.uniform(-5, 5, (5, 2))
        for joint, point in enumerate(points):
            ImageDraw.Draw(picture).line([24, 24, *point], fill=(240, 50 * joint, 250 - 40 * joint), width=3)
        picture.save(folder / "images" / f"{index}.png")
        (left, top), (right, bottom) = points.min(0) - 2, points.max(0) + 2
        images.append({"id": index, "file_name": f"{index}.png", "width": 48, "height": 48})
        annotations.append(
            {
                "id": index, "image_id": index, "category_id": 1, "bbox": [left, top, right - left, bottom - top],
                "keypoints": np.pad(points, ((0, 0), (0, 1)), constant_values=2).ravel().tolist(),
            }
        )  # fmt: skip
    category = {"id": 1, "name": "figure", "keypoints": NAMES}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(content))

    camera = {"R": np.eye(3).tolist(), "t": [0, 0, -4000], "f": [60, 60], "c": [24, 24]}
    world = {"images": [], "annotations": []}
    for index in range(4):
        name = f"s_{(1, 1, 1, 9)[index]:02}_act_02_subact_01_ca_01/{index}.png"
        (folder / "images" / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 48), (20 * index, 99, 30)).save(folder / "images" / name)
        world["images"].append({"id": index, "file_name": name, "width": 48, "height": 48, "cam_param": camera})
        joints = rng.uniform(-700, 700, (17, 3)).tolist()
        world["annotations"].append({"id": index, "keypoints_world": joints, "bbox": [8, 8, 32, 32]})
    (folder / "human36m.json").write_text(json.dumps(world))
    mpii = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [5, 5, 35, 38], "keypoints": [20, 25, 1] * 16}
    content = {"images": images[:1], "annotations": [mpii], "categories": [{"id": 1, "name": "person"}]}
    (folder / "mpii.json").write_text(json.dumps(content))
    return folder


def options(data_folder, output_dir, *extra):
    annotations, images = data_folder / "annotations.json", data_folder / "images"
    config = json.dumps({"backbone_config": BACKBONE})
    return [
        f"--train_annotations={annotations}", f"--train_images={images}", f"--validation_annotations={annotations}",
        f"--validation_images={images}", f"--config={config}", "--image_size", "32", "32", "--augmentation=none",
        "--first_image_size", "24", "24", "--first_epochs=2", "--batch_size=4", "--learning_rate=0.01", "--epochs=8",
        "--drop_epochs", "6", "--evaluate_every=4", "--average_decay=0.5", f"--output_dir={output_dir}", *extra,
    ]  # fmt: skip


def options_3d(data_folder, output_dir):
    images = f"{data_folder / 'images'}"
    config = json.dumps({"backbone_config": BACKBONE, "keypoint_dim": 3, "sigma_epsilon": 1e-9})
    return [
        "--recipe", str(RECIPES / "rle_human36m.json"), f"--train_annotations={data_folder / 'human36m.json'}",
        f"--validation_annotations={data_folder / 'human36m.json'}", f"--mpii_annotations={data_folder / 'mpii.json'}",
        f"--train_images={images}", f"--validation_images={images}", f"--mpii_images={images}", "--batch_size=2",
        "--image_size", "32", "32", f"--config={config}", "--epochs=2", f"--output_dir={output_dir}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    names = ["pose_recipe", "optimization", "train_pose_estimation", "top_down_recipe"]
    names += [*(script.removesuffix(".py") for script in SCRIPTS), "evaluate_top_down"]
    sys.path.insert(0, str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(EXAMPLES))
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
def test_run_learns_and_saves(script, runs, data_folder):
    first, last = history_of(runs[script])
    assert (first["epoch"], last["epoch"]) == (4, 8)
    assert (first["learning_rate"], last["learning_rate"]) == pytest.approx((0.01, 0.001))
    assert last["train_loss"] < first["train_loss"] - 3 and last["PCK@0.2"] > 0.5

    model = RLEForPoseEstimation.from_pretrained(runs[script]).eval()
    processor = RLEImageProcessor.from_pretrained(runs[script])
    assert model.config.keypoint_names == NAMES and model.config.flip_pairs == [[1, 2], [3, 4]]
    annotations = json.loads((data_folder / "annotations.json").read_text())["annotations"]
    images = [Image.open(data_folder / "images" / f"{index}.png") for index in range(16)]
    boxes = [[[left, top, width - 1, height - 1]] for left, top, width, height in (a["bbox"] for a in annotations)]
    with torch.no_grad():
        outputs = model(processor(images, boxes=boxes, return_tensors="pt")["pixel_values"])
    poses = processor.post_process_pose_estimation(outputs, boxes)
    predicted = np.stack([np.asarray(persons[0]["keypoints"]) for persons in poses])
    targets = np.array([a["keypoints"] for a in annotations]).reshape(16, 5, 3)
    sides = np.array(boxes)[:, 0, 2:].max(axis=1)
    pck = percentage_of_correct_keypoints(predicted, targets[..., :2], targets[..., 2], sides, 0.2)
    assert pck == pytest.approx(last["PCK@0.2"], abs=1e-9)


def test_evaluation_by_one_command(runs, scripts, data_folder, tmp_path):
    """Figures are those of training, the confidence is fitted and stored, pictures are drawn."""
    pytest.importorskip("matplotlib")
    shutil.copytree(runs[SCRIPTS[0]], tmp_path / "model")
    files = [str(data_folder / "annotations.json"), "--images", str(data_folder / "images")]
    fit = ["--fit_annotations", files[0], "--fit_images", files[2]]
    arguments = ["--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "report"), "--annotations", *files]
    scripts["evaluate_top_down"].main([*arguments, *fit, "--overlays", "3"])
    report = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    last = history_of(runs[SCRIPTS[0]])[-1]
    for name in ("PCK@0.1", "PCK@0.2"):
        assert report["annotations"][name] == pytest.approx(last[name], abs=1e-9)
        assert report["fit"][name] == pytest.approx(last[name], abs=1e-9)
    config = RLEConfig.from_pretrained(tmp_path / "model")
    assert config.confidence_coefficients == pytest.approx(report["fit"]["coefficients"])
    assert 0 <= report["annotations"]["expected calibration error"] < 0.5
    assert len(report["annotations"]["error by decile of sigma"]) == 10
    assert list(report["annotations"]["PCK@0.1 by keypoint"]) == NAMES
    drawn = {path.name for path in (tmp_path / "report").iterdir()}
    assert drawn == {"evaluation.json", "reliability.png", "annotations.jpg"} | {
        f"annotations_{index}.jpg" for index in (0, 8, 15)
    }
    plain, shown = (Image.open(path) for path in (data_folder / "images/8.png", tmp_path / "report/annotations_8.jpg"))
    assert np.abs(np.asarray(plain, dtype=float) - np.asarray(shown, dtype=float)).max() > 100
    with pytest.raises(ValueError, match="one place for each"):
        scripts["evaluate_top_down"].main([*arguments, "--annotations", "a", "b"])


def test_both_scripts_agree(runs):
    first, second = (runs[script] for script in SCRIPTS)
    assert json.loads((first / "recipe.json").read_text()) == json.loads((second / "recipe.json").read_text())
    assert history_of(first) == history_of(second)
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_resumed_run_equals_undisturbed(script, train, runs, data_folder, tmp_path):
    train(script, *options(data_folder, tmp_path / "output", "--epochs=4"))
    train(script, *options(data_folder, tmp_path / "output", "--resume"))
    assert history_of(tmp_path / "output") == history_of(runs[script])
    weights = [load_file(folder / "model.safetensors") for folder in (runs[script], tmp_path / "output")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.fixture(scope="module")
def frozen(train, data_folder, tmp_path_factory):
    """A run of each script with a frozen backbone, and its first half."""
    folder = tmp_path_factory.mktemp("frozen")
    for script in SCRIPTS:
        train(script, *options(data_folder, folder / script, "--frozen", "embedder", "encoder", "--epochs=4"))
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_frozen_modules_stay(script, frozen, scripts, data_folder):
    recipe = make_recipe(scripts, data_folder, config={"backbone_config": BACKBONE}, seed=123123)
    start, trained = (
        recipe.build_model(recipe.load_data()).state_dict(),
        load_file(frozen / script / "model.safetensors"),
    )
    changed = {name.split(".")[0] for name, value in trained.items() if not torch.equal(value, start[name])}
    assert changed == {"coordinate_head", "sigma_head", "criterion"}  # no weights and no statistics of the backbone


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_equal_one(script, frozen, data_folder, tmp_path):
    """With a frozen backbone, whose norms do not depend on the share of a batch; stopped and resumed."""
    arguments = [str(EXAMPLES / script), *options(data_folder, tmp_path, "--frozen", "embedder", "encoder")]
    for extra in (["--epochs=2", "--evaluate_every=2"], ["--epochs=4", "--evaluate_every=2", "--resume"]):
        command = [sys.executable, *two_processes(), *arguments, *extra]
        subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, timeout=600)
    assert json.loads((tmp_path / "metrics.json").read_text())["num_processes"] == 2
    one, two = history_of(frozen / script), history_of(tmp_path)
    assert [entry["epoch"] for entry in two] == [2, 4]
    for name in ("PCK@0.1", "PCK@0.2", "learning_rate"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=1e-3)
    weights = [load_file(folder / "model.safetensors") for folder in (frozen / script, tmp_path)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_three_dimensions_with_mpii(script, train, data_folder, tmp_path, monkeypatch, scripts):
    norms = []
    clip = scripts["optimization"].TensorClipping.clip

    def record(self, model):
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= 1000
        clip(self, model)
        norms.extend(
            float(parameter.grad.norm())
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and "criterion" not in name  # the flow's tensors stack several
        )

    monkeypatch.setattr(scripts["optimization"].TensorClipping, "clip", record)
    monkeypatch.setattr(scripts["top_down_recipe"], "load_backbone", lambda model, path: None)
    train(script, *options_3d(data_folder, tmp_path / "output"))
    assert max(norms) == pytest.approx(35, rel=1e-4) and np.sum(np.isclose(norms, 35, rtol=1e-4)) > 20
    history = history_of(tmp_path / "output")
    assert [entry["epoch"] for entry in history] == [1, 2]
    assert 100 < history[-1]["MPJPE"] < 3000 and history[-1]["PA-MPJPE"] <= history[-1]["MPJPE"]
    model = RLEForPoseEstimation.from_pretrained(tmp_path / "output")
    assert model.config.keypoint_dim == 3 and model.config.num_keypoints == 18 and model.config.root_index == 0
    processor = RLEImageProcessor.from_pretrained(tmp_path / "output")
    assert processor.box_padding == 1.0 and list(processor.image_std) == [0.225, 0.224, 0.229]


def test_clipping_and_trainer(scripts):
    clipping_class = scripts["optimization"].TensorClipping
    module = nn.Linear(3, 2)
    module.weight.grad, module.bias.grad = torch.full((2, 3), 10.0), torch.full((2,), 0.1)
    clipping_class(5.0).clip(module)
    assert module.weight.grad.norm() == pytest.approx(5.0, rel=1e-4)
    torch.testing.assert_close(module.bias.grad, torch.full((2,), 0.1))
    with pytest.raises(ValueError, match="`max_norm` must be positive"):
        clipping_class(0.0)

    class Arguments:
        max_grad_norm = 1.0

    with pytest.raises(ValueError, match="`max_grad_norm` must be 0"):
        clipping_class(5.0).on_train_begin(Arguments(), None, None)


def make_recipe(scripts, data_folder, **changes):
    values = {
        "train_annotations": str(data_folder / "annotations.json"), "train_images": str(data_folder / "images"),
        "batch_size": 4, "config": {"backbone_config": BACKBONE}, "augmentation": "none",
    }  # fmt: skip
    return scripts["top_down_recipe"].TopDownRecipe(**{**values, **changes})


def test_shares_hold_each_person_once(scripts):
    share = scripts["top_down_recipe"].ShuffledShare
    whole, *parts = [share(10, 4, 7, count, index) for count, index in ((1, 0), (2, 0), (2, 1))]
    orders = []
    for epoch in range(3):
        for sampler in (whole, *parts):
            sampler.set_epoch(epoch)
        for batch, first, second in zip(whole, *parts, strict=True):
            assert len(batch) == 4 and sorted(first + second) == sorted(batch)
        orders.append([index for batch in whole for index in batch])
        assert len(set(orders[-1])) == 8
    assert orders[0] != orders[1] != orders[2]
    with pytest.raises(ValueError, match="multiple of the processes"):
        share(10, 4, 7, 3, 0)


def test_l1_baseline_trains_the_coordinates_alone(scripts, data_folder):
    recipe = make_recipe(scripts, data_folder, config={"backbone_config": BACKBONE, "loss_formulation": "l1"})
    model = recipe.build_model(recipe.load_data())
    loss = model(torch.zeros(2, 3, 32, 32), labels=torch.ones(2, 5, 2)).loss
    loss.backward()
    lacking = {name for name, value in model.named_parameters() if value.grad is None and value.requires_grad}
    assert not lacking and not model.sigma_head.weight.requires_grad  # or several processes would wait for gradients


def test_pretrained_backbones(scripts, data_folder, tmp_path):
    source = AutoBackbone.from_config(ResNetConfig(**{k: v for k, v in BACKBONE.items() if k != "model_type"}))
    source.save_pretrained(tmp_path / "resnet")
    recipe = make_recipe(scripts, data_folder, backbone=str(tmp_path / "resnet"), seed=5)
    loaded = recipe.build_model(recipe.load_data()).rle.backbone.state_dict()
    torch.testing.assert_close(dict(loaded), dict(source.state_dict()), rtol=0, atol=0)

    config = {"backbone_config": {"model_type": "efficientnet_lite", "hidden_sizes": [8, 8], "depths": [1, 1],
              "kernel_sizes": [3, 3], "strides": [1, 2], "expand_ratios": [1, 2], "hidden_size": 16,
              "stem_channels": 8}}  # fmt: skip
    model = make_recipe(scripts, data_folder, config=config, seed=1).build_model(recipe.load_data())
    names = {"stem.convolution": "_conv_stem", "stem.normalization": "_bn0", "head.convolution": "_conv_head",
             "head.normalization": "_bn1", "expansion.convolution": "_expand_conv", "expansion.normalization": "_bn0",
             "depthwise.convolution": "_depthwise_conv", "depthwise.normalization": "_bn1",
             "projection.convolution": "_project_conv", "projection.normalization": "_bn2"}  # fmt: skip
    port = {"_fc.weight": torch.zeros(2, 2)}
    for name, value in model.rle.backbone.state_dict().items():
        new = name.replace("blocks.", "_blocks.")
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        port[new] = value
    torch.save(port, tmp_path / "lite.pth")
    recipe = make_recipe(scripts, data_folder, config=config, seed=2, backbone=str(tmp_path / "lite.pth"))
    loaded = recipe.build_model(recipe.load_data()).rle.backbone.state_dict()
    torch.testing.assert_close(dict(loaded), dict(model.rle.backbone.state_dict()), rtol=0, atol=0)
    del port["_conv_stem.weight"]
    torch.save(port, tmp_path / "lite.pth")
    with pytest.raises(ValueError, match=r"lacks \['stem.convolution.weight'\]"):
        recipe.build_model(recipe.load_data())


def test_start_from_a_trained_model(scripts, runs, data_folder):
    recipe = make_recipe(scripts, data_folder, model=str(runs[SCRIPTS[0]]), config=None)
    weights = load_file(runs[SCRIPTS[0]] / "model.safetensors")
    torch.testing.assert_close(dict(recipe.build_model(recipe.load_data()).state_dict()), weights, rtol=0, atol=0)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_recipe_files(path, scripts):
    read, recipe_class = scripts["pose_recipe"].read_recipe, scripts["top_down_recipe"].TopDownRecipe
    for setting in (None, *json.loads(path.read_text()).get("settings", ())):
        recipe = recipe_class(**read(str(path), setting, recipe_class))
        config = RLEConfig(**(recipe.config or {}))
        if path.stem == "default_pose":
            assert recipe.hold_out == 300
            assert recipe.image_size == ([96, 96] if setting == "comparison" else [160, 160])
            assert (recipe.config is None) == (setting == "second-cycle")
            continue
        is_mmpose, is_3d = "mmpose" in path.stem, "human36m" in path.stem
        rate = 5e-4 if setting is not None else 1e-3
        assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adam", rate, 0.0)
        assert recipe.drop_epochs == ([90, 120] if is_3d else [170, 200])
        assert recipe.epochs == (200 if is_3d else 210 if is_mmpose else 270)
        assert recipe.batch_size == (128 if is_3d else 512 if is_mmpose else 256)
        assert recipe.max_tensor_norm == (35 if is_3d else 0) and recipe.warmup_steps == (500 if is_mmpose else 0)
        assert config.loss_formulation == ("mmpose" if is_mmpose else "original")
        assert config.normalize_features != is_mmpose and config.keypoint_dim == (3 if is_3d else 2)
        assert config.backbone_config.model_type == "resnet" and not config.backbone_config.downsample_in_bottleneck


def test_schedule(scripts, data_folder):
    values = {"drop_epochs": [2, 3], "epochs": 4, "learning_rate": 1.0}
    rates = {}
    for name, changes in {
        "steps": {}, "warm": {"warmup_steps": 4}, "cosine": {"schedule": "cosine"}
    }.items():  # fmt: skip
        recipe = make_recipe(scripts, data_folder, **values, **changes)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        scheduler, rates[name] = recipe.make_scheduler(optimizer, 4), []
        for _ in range(16):
            rates[name].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    assert rates["steps"] == pytest.approx([1.0] * 8 + [0.1] * 4 + [0.01] * 4)
    assert rates["warm"] == pytest.approx([0.001, 0.25075, 0.5005, 0.75025, *rates["steps"][4:]])
    assert rates["cosine"] == pytest.approx([(1 + np.cos(np.pi * step / 16)) / 2 for step in range(16)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"average_decay": 1.0}, "`average_decay`"),
        ({"image_size": [64]}, "`image_size` must be height and width"),
        ({"first_epochs": 3}, "`first_epochs` needs `first_image_size`"),
        ({"model": "folder"}, "leave out `config`"),
    ],
)
def test_bad_settings_are_named(changes, message, scripts, data_folder):
    with pytest.raises(ValueError, match=message):
        make_recipe(scripts, data_folder, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": None}, "must name the data to train on"),
        ({"validation_images": "folder"}, "must be given together"),
        ({"hold_out": 13}, "`batch_size` must be at most the number of training persons 3"),
        ({"augmentation": "human36m"}, "does not fit `data` 'coco'"),
    ],
)
def test_data_that_does_not_fit_is_named(changes, message, scripts, data_folder):
    with pytest.raises(ValueError, match=message):
        make_recipe(scripts, data_folder, **changes).load_data()


def test_held_out_persons_are_not_trained_on(scripts, data_folder):
    data = make_recipe(scripts, data_folder, hold_out=5).load_data()
    assert len(data.train) == 16 and list(data.subset.indices) == list(range(11))
