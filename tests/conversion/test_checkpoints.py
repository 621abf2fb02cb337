"""Reading foreign checkpoints, and writing the converted model whole or not at all."""

import argparse
import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForTimeSeriesPrediction

from hvmodels import LTSFLinearFeatureExtractor, LTSFLinearForPrediction, LTSFLinearModel
from hvmodels.conversion import convert_checkpoint, read_checkpoint
from hvmodels.conversion.checkpoints import read_original_config, read_python_config, stored_options


WEIGHTS = OrderedDict({"Linear.weight": torch.arange(32.0).reshape(4, 8), "Linear.bias": torch.arange(4.0)})
OPTIONS = {"model": "NLinear"}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(WEIGHTS, path)
    return path


def assert_weights(actual):
    assert list(actual) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert torch.equal(actual[name], tensor)
        assert actual[name].dtype == tensor.dtype


# Reading


def parallel(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        dict(WEIGHTS),
        parallel(WEIGHTS),
        {"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": WEIGHTS, "epoch": 3},
        {"model_state_dict": parallel(WEIGHTS), "loss": torch.tensor(float("nan"))},
        {"state_dict": {"model": parallel(WEIGHTS)}},
        {name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()},
    ],
    ids=["plain", "dict", "parallel", "state_dict", "model", "parallel-in-wrapper", "two-wrappers", "parameters"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrappers_and_prefixes_are_taken_off(content, zipped, tmp_path):
    torch.save(content, tmp_path / "checkpoint.pt", _use_new_zipfile_serialization=zipped)
    assert_weights(read_checkpoint(tmp_path / "checkpoint.pt"))
    assert_weights(read_checkpoint(str(tmp_path / "checkpoint.pt")))


def test_safetensors(tmp_path):
    save_file(dict(WEIGHTS), tmp_path / "checkpoint.safetensors")
    weights = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert_weights({name: weights[name] for name in WEIGHTS})
    assert len(weights) == len(WEIGHTS)


def test_tensors_come_to_the_cpu_without_gradients_of_the_file(tmp_path):
    torch.save({"w": torch.ones(2, requires_grad=True), "steps": torch.tensor(7)}, tmp_path / "checkpoint.pt")
    weights = read_checkpoint(tmp_path / "checkpoint.pt")
    assert weights["w"].device.type == "cpu"
    assert weights["steps"].item() == 7


def test_types_are_opened_only_if_they_are_allowed(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(model="DLinear")}, path)
    with pytest.raises(ValueError, match=r"holds more than weights \(argparse.Namespace\)"):
        read_checkpoint(path)
    assert_weights(read_checkpoint(path, allowed_types=[argparse.Namespace]))
    with pytest.raises(ValueError, match="holds more than weights"):  # allowed for one call, not from then on
        read_checkpoint(path)


def test_original_config(tmp_path):
    (tmp_path / "options.json").write_text(json.dumps({"model": "Linear", "größe": 1}), encoding="utf-8")
    assert read_original_config(None) == {}
    assert read_original_config(OPTIONS) == OPTIONS
    assert read_original_config(tmp_path / "options.json") == {"model": "Linear", "größe": 1}
    assert read_original_config(str(tmp_path / "options.json")) == {"model": "Linear", "größe": 1}


# Writing


@pytest.mark.parametrize("output", ["absent", "empty", "nested"])
def test_folder_loads_through_the_auto_classes(output, checkpoint, tmp_path):
    folder = tmp_path / {"nested": "a/b/model"}.get(output, "model")
    if output == "empty":
        folder.mkdir()
    assert convert_checkpoint("ltsf-linear", str(checkpoint), str(folder), OPTIONS) == folder
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    assert type(model) is LTSFLinearForPrediction
    assert torch.equal(model.model.linear.weight, WEIGHTS["Linear.weight"])
    assert torch.equal(model.model.linear.bias, WEIGHTS["Linear.bias"])
    assert type(AutoModel.from_pretrained(folder)) is LTSFLinearModel
    assert AutoConfig.from_pretrained(folder).variant == "nlinear"
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert type(extractor) is LTSFLinearFeatureExtractor
    assert (extractor.context_length, extractor.prediction_length) == (8, 4)
    with pytest.raises(ValueError, match="no `mean` and `scale`; call `fit"):  # checkpoints hold no scaler
        extractor(torch.zeros(8))
    (tmp_path / "other").mkdir()
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode  # not that of a temporary folder


def test_a_second_conversion_does_not_overwrite(checkpoint, tmp_path):
    convert_checkpoint("ltsf-linear", checkpoint, tmp_path / "model", OPTIONS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(ValueError, match=r"`output_dir` .* must be absent or an empty folder"):
        convert_checkpoint("ltsf-linear", checkpoint, tmp_path / "model", {"model": "Linear"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("failing", [LTSFLinearForPrediction, LTSFLinearFeatureExtractor])
@pytest.mark.parametrize("exists", [False, True], ids=["absent", "empty"])
def test_a_failure_while_saving_leaves_nothing(error, failing, exists, checkpoint, tmp_path, monkeypatch):
    save, output = failing.save_pretrained, tmp_path / "output"

    def save_and_fail(self, folder):
        save(self, folder)
        raise error

    if exists:
        output.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(failing, "save_pretrained", save_and_fail)
        with pytest.raises(type(error)):
            convert_checkpoint("ltsf-linear", checkpoint, output, OPTIONS)
    assert output.exists() == exists
    assert {path.name for path in tmp_path.rglob("*")} == {"checkpoint.pth"} | ({"output"} if exists else set())
    convert_checkpoint("ltsf-linear", checkpoint, output, OPTIONS)
    assert (output / "model.safetensors").is_file()


# Options


def test_python_text_is_read_and_not_run(tmp_path):
    victim = tmp_path / "victim"
    text = f"""
import os
model = dict(type='DeiT', arch=dict(num_heads=3, drop=-1e-3), sizes=(1, [2, None]), **dict(depth=2))
names = dict({{'a': True}}, b='x')
pipeline = [dict(scale=256), {{'crop': 224}}]
lr = 1e-3
called = dict(value=os.system('touch {victim}'))
other = open({str(victim)!r}, 'w')
unknown = lr
"""
    assert read_python_config(text) == {
        "model": {"type": "DeiT", "arch": {"num_heads": 3, "drop": -1e-3}, "sizes": (1, [2, None]), "depth": 2},
        "names": {"a": True, "b": "x"},
        "pipeline": [{"scale": 256}, {"crop": 224}],
        "lr": 1e-3,
    }
    assert not victim.exists()


@pytest.mark.parametrize("text", [None, 3, "", "model = dict(", "\0", "(" * 10_000, "x = " + "-" * 10_000 + "1"])
def test_text_that_is_no_configuration(text):
    assert read_python_config(text) == {}


def test_options_of_mmengine():
    content = {"meta": {"cfg": "lr = 1", "dataset_meta": {"classes": ("a", "b")}}, "args": {"width": 3}}
    assert stored_options(content) == {"config_text": "lr = 1", "class_names": ("a", "b"), "width": 3}
    assert stored_options({"meta": {"config": "lr = 1", "CLASSES": ["a"]}}) == {
        "config_text": "lr = 1",
        "class_names": ["a"],
    }
    assert stored_options({"meta": 3}) == stored_options([]) == {}
