"""The package as such: what importing it does, and that every declared method can be reached."""

import subprocess
import sys

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import hvmodels
from hvmodels import METHODS, TASKS
from hvmodels.methods import method_of


IMPORT = """
import socket
import sys

import torch
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, PreTrainedModel
import transformers.pipelines

def refuse(*arguments, **options):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
before = {name.partition(".")[0] for name in sys.modules}
state = torch.get_rng_state()
import hvmodels
assert torch.equal(torch.get_rng_state(), state), "random numbers were drawn"
print(sorted({name.partition(".")[0] for name in sys.modules} - before))
"""


def test_import_brings_in_nothing_else():
    """Neither pandas nor matplotlib, av, datasets or scipy: only what transformers' registration needs anyway."""
    process = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "['hvmodels']\n"


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_reached_by_their_auto_classes(name, tmp_path, request):
    method = METHODS[name]
    if method.image_processor is not None:
        request.getfixturevalue("auto_image_processor")
    assert method.name == name
    assert method_of(method.config.model_type) is method
    config = method.config()
    config.save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is method.config
    for auto_name, cls in method.auto_classes.items():
        auto_class = getattr(transformers, auto_name)
        if issubclass(cls, transformers.PreTrainedModel):
            assert type(auto_class.from_config(config)) is cls
        elif cls is not method.config:
            cls().save_pretrained(tmp_path / auto_name)
            assert type(auto_class.from_pretrained(tmp_path / auto_name)) is cls
    if method.converter is not None:
        assert callable(method.load_converter())
    assert method.task is None or TASKS[method.task].auto_model in method.heads


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_pipelines(name, request):
    task = TASKS[name]
    for tag in (name, task.hub_tag):
        found, entry, _ = PIPELINE_REGISTRY.check_task(tag)
        if tag == "image-classification":  # transformers' own task stays its own
            assert found == tag and entry["impl"] is not task.pipeline
            assert issubclass(task.pipeline, transformers.ImageClassificationPipeline)
        else:
            assert entry["impl"] is task.pipeline
        assert entry["pt"] == (getattr(transformers, task.auto_model),)
    if task.auto_model in ("AutoModelForPoseEstimation", "AutoModelForImageClassification"):
        request.getfixturevalue("auto_image_processor")
    assert task.default_model is None or type(transformers.pipeline(name)) is task.pipeline


def test_public_names():
    assert len(set(hvmodels.__all__)) == len(hvmodels.__all__) > 0
    for name in hvmodels.__all__:
        assert getattr(hvmodels, name) is not None


def test_unknown_model_type():
    with pytest.raises(ValueError, match=r"`model_type` must be one of \['ltsf_linear'.*\], got 'bert'"):
        method_of("bert")


def test_embedded_models_have_a_folder():
    for name, task in TASKS.items():
        if task.default_model is not None:
            folder = hvmodels.default_model(name)
            assert transformers.AutoConfig.from_pretrained(folder).model_type
            assert folder == hvmodels.default_model(folder.rpartition("/")[2])


@pytest.mark.parametrize("name", ["nothing", "", "assets", "../assets/rle-lite0-halpe19"])
def test_unknown_embedded_model(name):
    with pytest.raises(ValueError, match="`name` must be a task with an embedded model"):
        hvmodels.default_model(name)
