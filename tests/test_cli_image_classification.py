import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from hvmodels import AIBConfig, AIBForImageClassification, AIBImageProcessor, AttentionImageClassificationPipeline, cli
from hvmodels.cli import EXAMPLE_GARMENT, app


pytestmark = pytest.mark.usefixtures("auto_image_processor")
NAMES = ["a.jpg", "b.png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = AIBConfig(hidden_sizes=[4, 4, 6, 8], latent_dim=5, num_labels=7, num_samples_eval=3)
    folder = tmp_path_factory.mktemp("model")
    AIBForImageClassification(config).save_pretrained(folder)
    AIBImageProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        Image.fromarray(random.integers(0, 256, (40 + 10 * index, 64, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def classify(model, image, **options):
    model, processor = AIBForImageClassification.from_pretrained(model), AIBImageProcessor()
    return AttentionImageClassificationPipeline(model=model, image_processor=processor)(str(image), **options)


def test_predict_an_image(model, images, tmp_path):
    """The model tells the task."""
    output, plot = tmp_path / "new" / "out.json", tmp_path / "new" / "out.png"
    options = ["--top-k", 2, "--num-samples", 4, "--seed", 1, "--output", output, "--plot", plot]
    printed = run("predict", images / "b.png", "--model", model, *options)
    expected = classify(model, images / "b.png", top_k=2, num_samples=4, seed=1, attention=True)
    assert json.loads(output.read_text()) == {"b.png": expected["predictions"]}
    np.testing.assert_array_equal(np.asarray(Image.open(plot)), np.asarray(expected["overlay"]))
    best = expected["predictions"][0]
    assert f"b.png: {best['label']} {best['score']:.2f} ± {best['score_std']:.2f}, LABEL_" in printed
    assert f"Wrote {plot}" in printed and f"Wrote {output}" in printed


def test_predict_a_folder(model, images, tmp_path):
    printed = run("predict", images, "--task", "image-classification", "--model", model, "--plot", tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == NAMES
    assert [line.split(":")[0] for line in printed.splitlines()][:2] == NAMES
    with pytest.raises(ValueError, match="`--plot` must be a folder"):
        run("predict", images, "--model", model, "--plot", tmp_path / "one.png")


def test_predict_the_default_model_on_the_example_picture(model, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(cli, "default_model", {"attention-image-classification": model}.get)
    plot = tmp_path / "out.png"
    printed = run("predict", "--task", "attention-image-classification", "--plot", plot).splitlines()
    assert "drawn by a program" in printed[0] and printed[1].startswith("drawn_t_shirt.jpg: LABEL_")
    with Image.open(plot) as drawn, Image.open(files("hvmodels") / EXAMPLE_GARMENT) as picture:
        assert drawn.size == picture.size


def test_predict_by_a_model_of_transformers(images, tmp_path):
    """Its labels, but no map."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = ViTConfig(**sizes, image_size=32, patch_size=16, id2label={0: "shirt", 1: "skirt"})
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    for options in ([], ["--task", "image-classification"]):
        printed = run("predict", images / "a.jpg", "--model", tmp_path, *options)
        assert printed.startswith(("a.jpg: shirt 0.", "a.jpg: skirt 0.")) and "±" not in printed
    with pytest.raises(
        ValueError, match="`attention` cannot be given: ViTForImageClassification has no attention map"
    ):
        run("predict", images / "a.jpg", "--model", tmp_path, "--plot", tmp_path / "out.png")


def test_predict_refuses(model, images):
    with pytest.raises(ValueError, match="--boxes cannot be used for attention-image-classification"):
        run("predict", images / "a.jpg", "--model", model, "--boxes", "1,1,5,5")
    with pytest.raises(ValueError, match="--seed cannot be used for pose-estimation"):
        run("predict", images / "a.jpg", "--task", "pose-estimation", "--seed", 1)
