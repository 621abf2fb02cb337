"""The pose training scripts as users run them: alone, on two processes, stopped and resumed, with other keypoints."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import AutoBackbone, AutoModelForPoseEstimation, ResNetConfig, SwinConfig

import hvmodels  # noqa: F401
from hvmodels import EDPoseConfig, EDPoseImageProcessor
from hvmodels.metrics.keypoints import KeypointEvaluator
from tests.examples.launch import ENVIRONMENT, two_processes


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "pose_estimation"
SCRIPTS = ["train_pose_estimation.py", "train_pose_estimation_accelerate.py"]
NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
LINKS = [(0, 1), (0, 2), (0, 3), (0, 4)]
CONFIG = {
    "backbone_config": {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
        "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
    },
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_box_decoder_layers": 1, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_n_points": 2,
    "decoder_n_points": 2, "num_feature_levels": 3, "num_queries": 8, "num_groups": 4, "num_denoising": 0,
}  # fmt: skip
# Persons of each picture. All but the empty one have one size: padding would make results depend on the batch.
PERSONS = [1, 2, 1, 0, 2, 1]


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Six pictures of 64 x 64 or 80 pixels with stick figures of five keypoints."""
    folder = tmp_path_factory.mktemp("stick_figures")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index, persons in enumerate(PERSONS):
        width, height = 64, 64 if persons else 80
        picture = Image.new("RGB", (width, height), (90, 110, 90))
        draw = ImageDraw.Draw(picture)
        for person in range(persons):
            center = np.array([16 + 32 * person, height / 2]) + rng.uniform(-4, 4, 2)
            points = center + np.array([[0, -14], [-9, -2], [9, -2], [-6, 14], [6, 14]]) + rng.uniform(-2, 2, (5, 2))
            for first, second in LINKS:
                draw.line([*points[first], *points[second]], fill=(240, 220, 40 * second), width=2)
            (left, top), (right, bottom) = points.min(0) - 2, points.max(0) + 2
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": index + 10, "category_id": 1, "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top) * 0.6,
                    "num_keypoints": 5, "keypoints": np.pad(points, ((0, 0), (0, 1)), constant_values=2).ravel().tolist(),
                }
            )  # fmt: skip
        picture.save(folder / "images" / f"{index}.png")
        images.append({"id": index + 10, "file_name": f"{index}.png", "width": width, "height": height})
    category = {"id": 1, "name": "figure", "keypoints": NAMES, "skeleton": (np.array(LINKS) + 1).tolist()}
    category["sigmas"] = [0.5] * 5  # so wide that a few steps reach some precision
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def options(data_folder, output_dir, *extra):
    annotations, images = data_folder / "annotations.json", data_folder / "images"
    return [
        f"--train-annotations={annotations}", f"--train-images={images}", f"--validation-annotations={annotations}",
        f"--validation-images={images}", f"--config={json.dumps(CONFIG)}", "--image-size=64", "--augment=False",
        "--batch-size=4", "--learning-rate=0.004", "--backbone-learning-rate=0.004", "--average-decay=0.5",
        "--epochs=8", "--drop-epoch=5", "--evaluate-every=4", "--evaluation-batch-size=1", f"--output-dir={output_dir}", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    names = ["pose_recipe", "optimization", *(script.removesuffix(".py") for script in SCRIPTS)]
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


def report_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_run_learns_and_saves(script, runs, data_folder):
    report = report_of(runs[script])
    first, last = report["history"]
    assert (first["epoch"], last["epoch"]) == (4, 8)
    assert (first["learning_rate"], last["learning_rate"]) == pytest.approx((0.004, 0.0004))
    assert last["train_loss"] < 0.9 * first["train_loss"]
    assert report["best"] == max(report["history"], key=lambda entry: (entry["AP"], entry["epoch"]))
    assert report["best"]["AP"] > 0 and json.loads((runs[script] / "recipe.json").read_text()) == report["recipe"]

    model = AutoModelForPoseEstimation.from_pretrained(runs[script]).eval()
    processor = EDPoseImageProcessor.from_pretrained(runs[script])
    assert model.config.keypoint_names == NAMES and model.config.keypoint_flip_pairs == [[1, 2], [3, 4]]
    assert model.config.keypoint_sigmas == [0.5] * 5 and model.config.id2label == {0: "N/A", 1: "figure"}
    evaluator = KeypointEvaluator(data_folder / "annotations.json", [0.5] * 5)
    for image_id, entry in evaluator.images.items():
        image = Image.open(data_folder / "images" / entry["file_name"])
        with torch.no_grad():
            outputs = model(processor(image, return_tensors="pt")["pixel_values"])
        (persons,) = processor.post_process_pose_estimation(outputs, target_sizes=[(image.height, image.width)])
        evaluator.update(image_id, persons)
    assert evaluator.compute()["AP"] == pytest.approx(report["best"]["AP"], abs=1e-6)


def test_both_scripts_agree(runs):
    first, second = (report_of(runs[script]) for script in SCRIPTS)
    assert first["recipe"] == second["recipe"] and first["history"] == second["history"]
    weights = [load_file(runs[script] / "model.safetensors") for script in SCRIPTS]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_equal_one(script, runs, data_folder, tmp_path):
    subprocess.run(
        [sys.executable, *two_processes(), str(EXAMPLES / script), *options(data_folder, tmp_path)],
        env={**os.environ, **ENVIRONMENT},
        check=True,
        timeout=600,
    )
    one, two = report_of(runs[script]), report_of(tmp_path)
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert len(two["history"]) == len(one["history"])
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3)
    weights = [load_file(folder / "model.safetensors") for folder in (runs[script], tmp_path)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_resumed_run_equals_undisturbed(script, train, runs, data_folder, tmp_path):
    train(script, *options(data_folder, tmp_path / "output", "--epochs=4"))
    assert [entry["epoch"] for entry in report_of(tmp_path / "output")["history"]] == [4]
    train(script, *options(data_folder, tmp_path / "output", "--resume"))
    assert report_of(tmp_path / "output") == report_of(runs[script])
    weights = [load_file(folder / "model.safetensors") for folder in (runs[script], tmp_path / "output")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_accumulated_steps_equal_whole_ones(script, train, data_folder, tmp_path):
    """With as many persons in each part, so that all are divided by the same number."""
    content = json.loads((data_folder / "annotations.json").read_text())
    single = [10 + index for index, persons in enumerate(PERSONS) if persons == 1]
    content["images"] = [image for image in content["images"] if image["id"] in single]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in single]
    (tmp_path / "single.json").write_text(json.dumps(content))
    weights = []
    for parts in (1, 2):
        folder = tmp_path / str(parts)
        extra = [f"--train-annotations={tmp_path / 'single.json'}", f"--accumulation-steps={parts}", "--epochs=2"]
        train(script, *options(data_folder, folder, *extra, "--batch-size=2", "--evaluate-every=2"))
        weights.append(load_file(folder / "model.safetensors"))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_half_precision_augmentation_and_denoising(script, train, data_folder, tmp_path):
    config = json.dumps({**CONFIG, "num_denoising": 5})
    extra = ["--mixed-precision=bf16", "--augment=True", "--train-sizes", "48", "64", "--max-image-size=96"]
    extra += [f"--config={config}", "--epochs=1", "--evaluate-every=1", "--average-decay=0", "--group-by-shape=True"]
    train(script, *options(data_folder, tmp_path / "output", *extra))
    assert np.isfinite(report_of(tmp_path / "output")["best"]["train_loss"])
    weights = load_file(tmp_path / "output" / "model.safetensors").values()
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights)


def make_recipe(scripts, data_folder, **changes):
    values = {
        "train_annotations": [str(data_folder / "annotations.json")], "train_images": [str(data_folder / "images")],
        "batch_size": 4, "config": dict(CONFIG),
    }  # fmt: skip
    return scripts["pose_recipe"].Recipe(**{**values, **changes})


def test_every_picture_is_in_one_share(scripts, data_folder):
    recipe = make_recipe(scripts, data_folder, accumulation_steps=2, batch_size=4, augment=False)
    data = recipe.load_data()
    _, processor = recipe.build_model(data)
    shares = [recipe.training_loader(data, processor, 2, index).batch_sampler for index in range(2)]
    whole = make_recipe(scripts, data_folder, augment=False).training_loader(data, processor, 1, 0).batch_sampler
    orders = []
    for epoch in range(3):
        for sampler in (*shares, whole):
            sampler.set_epoch(epoch)
        (batch,) = list(whole)
        assert sorted(index for share in shares for part in share for index in part) == sorted(batch)
        orders.append(tuple(batch))
    assert len(set(orders)) > 1
    with pytest.raises(ValueError, match="multiple of processes"):
        recipe.training_loader(data, processor, 3, 0)


def test_start_from_a_pretrained_model(scripts, runs, data_folder, tmp_path):
    """All weights are taken over; of other keypoints only those that do not depend on their number."""
    folder = runs[SCRIPTS[0]]
    recipe = make_recipe(scripts, data_folder, model=str(folder), config=None, image_size=[48])
    model, processor = recipe.build_model(recipe.load_data())
    weights = load_file(folder / "model.safetensors")
    torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
    assert processor.size == {"shortest_edge": 48, "longest_edge": 1333}

    content = json.loads((data_folder / "annotations.json").read_text())
    for item in content["annotations"]:
        item["keypoints"], item["num_keypoints"] = item["keypoints"][:9], 3
    content["categories"][0] |= {"name": "half", "keypoints": NAMES[:3], "skeleton": [[1, 2]], "sigmas": [0.1] * 3}
    (tmp_path / "half.json").write_text(json.dumps(content))
    recipe = make_recipe(
        scripts, data_folder, model=str(folder), config=None, train_annotations=[str(tmp_path / "half.json")]
    )
    model, processor = recipe.build_model(recipe.load_data())
    assert model.config.num_keypoints == processor.num_keypoints == 3
    assert model.config.id2label[1] == "half" and model.config.keypoint_links == [[0, 1]]
    changed = {name for name, value in model.state_dict().items() if value.shape != weights[name].shape}
    assert changed == {f"model.decoder.keypoint_{kind}embedding.weight" for kind in ("", "size_")}
    for name, value in model.state_dict().items():
        if name not in changed:
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_pretrained_backbone(kind, scripts, data_folder, tmp_path):
    if kind == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic")
    else:
        config = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, num_labels=5)
    config.out_features = ["stage4"]
    source = AutoBackbone.from_config(config)
    with torch.no_grad():
        for value in source.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    source.save_pretrained(tmp_path)
    values = {name: value for name, value in CONFIG.items() if name != "backbone_config"}
    values["backbone_config"] = {"out_features": ["stage3", "stage4"]}
    recipe = make_recipe(scripts, data_folder, backbone=str(tmp_path), config=values)
    model, _ = recipe.build_model(recipe.load_data())
    assert model.config.backbone_config.out_features == ["stage3", "stage4"]
    assert model.config.backbone_config.num_labels == 2
    weights, loaded = source.state_dict(), model.model.backbone.state_dict()
    for name, value in loaded.items():
        if "hidden_states_norms.stage3" in name:  # not in the source, whose last stage alone was read
            torch.testing.assert_close(value, torch.full_like(value, float(name.endswith("weight"))))
        else:
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("path", sorted((EXAMPLES / "recipes").glob("*.json")), ids=lambda path: path.stem)
def test_recipe_files(path, scripts):
    read, content = scripts["pose_recipe"].read_recipe, json.loads(path.read_text())
    for setting in (None, *content.get("settings", ())):
        recipe = scripts["pose_recipe"].Recipe(**read(str(path), setting))
        crowdpose = path.stem == "crowdpose"
        assert (recipe.epochs, recipe.drop_epoch) == ((80, 75) if crowdpose else (60, 55))
        assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.batch_size) == (1e-4, 1e-5, 16)
        assert (recipe.max_grad_norm, recipe.weight_decay, recipe.average_decay) == (0.1, 1e-4, 0.9997)
        assert recipe.evaluation == ("crowdpose" if crowdpose else "coco") and recipe.augment
        stages = recipe.config.get("backbone_config", {}).get("out_features", ["stage2", "stage3", "stage4"])
        kind = "resnet" if setting is None else "swin"
        backbone = {**recipe.config.get("backbone_config", {}), "model_type": kind, "out_features": stages}
        config = EDPoseConfig(**{**recipe.config, "backbone_config": backbone})
        assert config.num_keypoints == len(scripts["pose_recipe"].read_keypoint_set(recipe.keypoints))
        assert config.num_feature_levels == len(stages) + 1
        assert config.expansion_head == ("first" if crowdpose else "last")


def test_keypoint_sets(scripts, data_folder, tmp_path):
    read = scripts["pose_recipe"].read_keypoint_set
    assert read("crowdpose14").keypoints[-1] == "neck"
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"keypoints": NAMES, "sigmas": [0.1] * 5, "links": LINKS}))
    keypoint_set = read(str(path))
    assert keypoint_set.flip_pairs == ((1, 2), (3, 4)) and keypoint_set.sigmas == (0.1,) * 5
    path.write_text(json.dumps({"keypoints": NAMES, "sigmas": [0.1] * 5, "flip_pairs": [[3, 4]]}))
    assert read(str(path)).flip_pairs == ((3, 4),)
    data = make_recipe(scripts, data_folder, keypoints=str(path)).load_data()
    assert data.keypoint_set.sigmas == (0.1,) * 5
    path.write_text(json.dumps({"names": NAMES}))
    with pytest.raises(ValueError, match="`keypoints` must name one of"):
        read(str(path))
    with pytest.raises(ValueError, match="`keypoints` must be a JSON object"):
        read("coco18")

    content = json.loads((data_folder / "annotations.json").read_text())
    del content["categories"][0]["sigmas"]
    (tmp_path / "plain.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no OKS sigmas"):
        make_recipe(scripts, data_folder, train_annotations=[str(tmp_path / "plain.json")]).load_data()
    two = {"train_annotations": [str(data_folder / "annotations.json"), str(tmp_path / "plain.json")]}
    data = make_recipe(scripts, data_folder, **two).load_data()
    assert len(data.train) == 10 and data.keypoint_set.sigmas == (0.5,) * 5


def test_arguments(scripts, data_folder, tmp_path):
    recipes = EXAMPLES / "recipes"
    parse, recipe_class = scripts["pose_recipe"].parse_arguments, scripts["pose_recipe"].Recipe
    recipe, run = parse("", ["--recipe", str(recipes / "coco.json"), "--setting", "swinl-5scale", "--seed", "7"])
    assert (recipe.seed, recipe.config["num_feature_levels"], run.resume) == (7, 5, False)
    with pytest.raises(ValueError, match="`setting` must be one of"):
        parse("", ["--recipe", str(recipes / "coco.json"), "--setting", "best"])
    with pytest.raises(ValueError, match="needs `--recipe`"):
        parse("", ["--setting", "swinl"])
    (tmp_path / "own.json").write_text(json.dumps({"learning_rat": 0.1}))
    with pytest.raises(ValueError, match="unknown keys"):
        parse("", ["--recipe", str(tmp_path / "own.json")])
    for changes, message in [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"average_decay": 1.0}, "`average_decay`"),
        ({"image_size": [64, 64, 3]}, "`image_size` must be"),
        ({"evaluation": "mpii"}, "`evaluation` must be one of"),
        ({"model": "folder", "config": "{}"}, "leave out `config`"),
        ({"config": "nowhere.json"}, "`config` must be a JSON object"),
        ({"train_annotations": ["a", "b", "c"], "train_images": ["a", "b"]}, "`train_images` must name one folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            recipe_class(**changes)
    for changes, message in [
        ({"train_images": []}, "must name the data to train on"),
        ({"validation_images": "folder"}, "must be given together"),
        ({"batch_size": 6}, "`batch_size` must be at most"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_recipe(scripts, data_folder, **changes).load_data()
    recipe = make_recipe(scripts, data_folder, config={"d_modell": 32})
    with pytest.raises(ValueError, match="unknown fields"):
        recipe.build_model(recipe.load_data())


def test_output_folder_is_not_mixed_up(scripts, tmp_path):
    claim, recipe_class = scripts["pose_recipe"].claim_output_dir, scripts["pose_recipe"].Recipe
    claim(recipe_class(), tmp_path, resume=False)
    claim(recipe_class(epochs=70), tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds a run"):
        claim(recipe_class(), tmp_path, resume=False)
    with pytest.raises(ValueError, match="learning_rate"):
        claim(recipe_class(learning_rate=0.1), tmp_path, resume=True)
