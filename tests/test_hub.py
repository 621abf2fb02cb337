"""Publishing and loading again, by the real client of the Hub over HTTP to a Hub in memory.

The client reads its settings at import, so what talks to the Hub runs in fresh processes: one with the package, one that
cannot import it. Each runs a function of this file, which must be self-contained, and returns what it found. A forecaster
goes through everything, classifiers of pictures through what is different for them.
"""

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, Wav2Vec2FeatureExtractor, pipeline

from hvmodels import LTSFLinearConfig, LTSFLinearFeatureExtractor, LTSFLinearForPrediction, LTSFLinearModel
from hvmodels.hub import collect_code, export, load_folder, publish
from tests.local_hub import LocalHub


REPO_ID = "org/nlinear-toy"
TASK = "time-series-forecasting"
CARD = f"""---
library_name: transformers
pipeline_tag: {TASK}
license: apache-2.0
tags:
- hvmodels
---

# NLinear on toy data
"""
CODE = {
    "configuration_ltsf_linear.py",
    "feature_extraction_forecasting.py",
    "feature_extraction_ltsf_linear.py",
    "modeling_ltsf_linear.py",
    "pipeline_time_series_forecasting.py",
    "series_fit_ltsf_linear.py",
}
# Method to repository, and the Hub's tag of their task, which is a task of transformers itself.
CLASSIFIERS = {"aib": "org/aib-toy", "vitkd": "org/vitkd-toy"}
STUDENT = "org/student-toy"
CLASSIFICATION = "image-classification"


def with_package(repo_id, task, card):
    import numpy as np
    import torch
    from huggingface_hub import ModelCard
    from transformers import AutoFeatureExtractor, AutoModel, AutoModelForTimeSeriesPrediction, pipeline

    import hvmodels
    from hvmodels.hub import load_folder, publish

    def build(seed):
        torch.manual_seed(seed)
        return hvmodels.LTSFLinearForPrediction(config).eval()

    def refusal(function, *args, **kwargs):
        try:
            function(*args, **kwargs)
        except Exception as error:
            return [base.__name__ for base in type(error).__mro__] + [str(error)]
        return None

    series = np.random.default_rng(0).normal(size=(200, 2)).cumsum(axis=0)
    config = hvmodels.LTSFLinearConfig(
        variant="nlinear", context_length=24, prediction_length=6, num_input_channels=2, individual=True
    )
    processor = hvmodels.LTSFLinearFeatureExtractor(context_length=24, prediction_length=6).fit(series)
    main, dev = build(0), build(1)
    arguments = {"commit_message": "First weights", "private": True, "tag": "v1.0"}
    commits = {
        "main": publish(main, processor, repo_id, card=card, **arguments).rpartition("/")[2],
        "dev": publish(dev, processor, repo_id, revision="dev").rpartition("/")[2],
    }

    past_values = processor(series)["past_values"]
    loads = {}
    for revision, expected in (
        ({}, main),
        ({"revision": "main"}, main),
        ({"revision": "v1.0"}, main),
        ({"revision": commits["main"]}, main),
        ({"revision": "dev"}, dev),
        ({"revision": commits["dev"]}, dev),
    ):
        loaded = AutoModelForTimeSeriesPrediction.from_pretrained(repo_id, **revision)
        base = AutoModel.from_pretrained(repo_id, **revision)
        feature_extractor = AutoFeatureExtractor.from_pretrained(repo_id, **revision)
        weights, forecast = expected.state_dict(), expected(past_values).prediction_outputs
        loads[str(revision)] = {
            "classes": [type(value).__module__.split(".")[0] for value in (loaded, base, feature_extractor)],
            "weights": weights.keys() == loaded.state_dict().keys()
            and all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items()),
            "forecast": torch.equal(loaded(past_values).prediction_outputs, forecast),
            "base forecast": torch.equal(base(past_values).forecast, forecast),
            "past values": torch.equal(feature_extractor(series)["past_values"], past_values),
        }

    direct = processor.inverse_transform(main(past_values).prediction_outputs)[0]
    pipelines = {
        "model": pipeline(model=repo_id),
        "task and model": pipeline(task, model=repo_id),
        "task, model and trust": pipeline(task, model=repo_id, trust_remote_code=True),
        "model and trust": pipeline(model=repo_id, trust_remote_code=True),
        "load_folder": pipeline(task, **dict(zip(("model", "feature_extractor"), load_folder(repo_id), strict=True))),
    }
    missing_card = refusal(publish, main, processor, "org/never-made", card="absent.md")
    return {
        "commits": commits,
        "loads": loads,
        "modules": {name: type(pipe).__module__ for name, pipe in pipelines.items()},
        "direct": direct.tolist(),
        "forecasts": {name: pipe(series)[["0", "1"]].to_numpy().tolist() for name, pipe in pipelines.items()},
        "fitted": pipelines["model"](series, fit=True)[["0", "1"]].to_numpy().tolist(),
        "card": [ModelCard.load(repo_id).data.to_dict(), ModelCard.load(repo_id).text],
        "refusals": {
            "missing card": missing_card,
            "missing repository": refusal(AutoModel.from_pretrained, "org/never-made"),
            "missing revision": refusal(AutoModel.from_pretrained, repo_id, revision="v2.0"),
            "tag in use": refusal(publish, main, processor, repo_id, tag="v1.0"),
        },
    }


def without_package(repo_id, task):
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "hvmodels":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    try:
        import hvmodels  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("hvmodels can be imported")

    import numpy as np
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForTimeSeriesPrediction, pipeline

    series = np.random.default_rng(0).normal(size=(200, 2)).cumsum(axis=0)
    auto_classes = (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForTimeSeriesPrediction)
    loaded = [auto_class.from_pretrained(repo_id, trust_remote_code=True) for auto_class in auto_classes]
    _, feature_extractor, base, model = loaded
    past_values = feature_extractor(series)["past_values"]
    direct = feature_extractor.inverse_transform(model(past_values).prediction_outputs)[0]
    from_base = feature_extractor.inverse_transform(base(past_values).forecast)[0]
    pipelines = {
        "model": pipeline(model=repo_id, trust_remote_code=True),
        "task and model": pipeline(task, model=repo_id, trust_remote_code=True),
        "again": pipeline(model=repo_id, trust_remote_code=True),
        "revision": pipeline(model=repo_id, revision="v1.0", trust_remote_code=True),
    }
    try:
        pipeline(model=repo_id, trust_remote_code=False)
        refusal = None
    except ValueError as error:
        refusal = str(error)
    return {
        "modules": [type(value).__module__ for value in (*loaded, *pipelines.values())],
        "forecasts": {
            "model head": direct.tolist(),
            "base model": from_base.tolist(),
            **{name: pipe(series)[["0", "1"]].to_numpy().tolist() for name, pipe in pipelines.items()},
        },
        "fitted": pipelines["model"](series, fit=True)[["0", "1"]].to_numpy().tolist(),
        "refusal": refusal,
        "imported": "hvmodels" in sys.modules,
    }


def classifiers_with_package(repo_ids, student_id, task, card):
    import numpy as np
    import torch
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, pipeline

    import hvmodels
    from hvmodels.hub import publish

    def classifier(width):
        sizes = {"hidden_size": width, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 2}
        return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3))

    def logits(model, processor):
        with torch.no_grad():
            return model.eval()(processor(picture, return_tensors="pt")["pixel_values"]).logits.tolist()

    torch.manual_seed(0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    config = hvmodels.AIBConfig(hidden_sizes=[4, 4, 8, 8], latent_dim=4, num_labels=3, stochastic_eval=False)
    settings = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    models = {
        "aib": (hvmodels.AIBForImageClassification(config), hvmodels.AIBImageProcessor()),
        "vitkd": (
            hvmodels.ViTKDForImageClassification.from_pair(classifier(8), classifier(12)),
            hvmodels.ViTKDImageProcessor(**settings),
        ),
    }
    found = {}
    for name, (model, processor) in models.items():
        publish(model, processor, repo_ids[name], card=card)
        loaded = pipeline(task, model=repo_ids[name])
        found[name] = {
            "logits": logits(model, processor),
            "loaded logits": logits(loaded.model, loaded.image_processor),
            "classes": [type(value).__module__.partition(".")[0] for value in (loaded.model, loaded.image_processor)],
            "answer": loaded(picture),
        }
    model, processor = models["vitkd"]
    uploads = [
        model.push_student_to_hub(student_id, processor, private=True, commit_message="First student"),
        model.push_student_to_hub(student_id),
    ]
    return {**found, "student": {"commits": [url.rpartition("/")[2] for url in uploads], **found["vitkd"]}}


def classifiers_without_package(repo_ids, student_id, task):
    import sys

    sys.modules["hvmodels"] = None  # every import of it fails

    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

    def module(value):
        return type(value).__module__.partition(".")[0]

    def logits(model, processor):
        with torch.no_grad():
            return model(processor(picture, return_tensors="pt")["pixel_values"]).logits.tolist()

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    found = {}
    for name, repo_id in repo_ids.items():
        auto_classes = (AutoConfig, AutoModel, AutoImageProcessor, AutoModelForImageClassification)
        loaded = [auto_class.from_pretrained(repo_id, trust_remote_code=True) for auto_class in auto_classes]
        named = pipeline(task, model=repo_id, trust_remote_code=True)
        unnamed = pipeline(model=repo_id, trust_remote_code=True)
        _, _, processor, model = loaded
        found[name] = {
            "modules": [module(value) for value in (*loaded, named.model, named.image_processor, unnamed.model)],
            "logits": logits(model, processor),
            "answers": [named(picture), unnamed(picture)],
            "pipeline": type(unnamed).__name__,
        }
        try:
            AutoModelForImageClassification.from_pretrained(repo_id, trust_remote_code=False)
        except ValueError as error:
            found[name]["refusal"] = str(error)
    attention = pipeline(model=repo_ids["aib"], trust_remote_code=True)(picture, attention=True)["attention"]
    found["aib"]["attention"] = [list(attention.shape), str(attention.dtype)]

    model = AutoModelForImageClassification.from_pretrained(repo_ids["vitkd"], trust_remote_code=True)
    model.attach_teacher(AutoModelForImageClassification.from_config(model.config.teacher_config))
    loss = model(torch.zeros(2, 3, 32, 32), labels=torch.tensor([0, 2])).loss
    loss.backward()
    found["vitkd"]["trained"] = bool(loss.isfinite()) and model.student.classifier.weight.grad.abs().sum().item() > 0

    student = pipeline(task, model=student_id)
    found["student"] = {
        "classes": [type(student.model).__name__, module(student.model), module(student.image_processor)],
        "logits": logits(student.model, student.image_processor),
        "answers": [student(picture)],
    }
    return found


def run(function, environment, folder, *arguments):
    """What a function of this file returns in a fresh process."""
    code = (
        f"import json\n{inspect.getsource(function)}\n"
        f"result = {function.__name__}(*{arguments!r})\nopen('result.json', 'w').write(json.dumps(result))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "result.json").read_text())


def assert_same_answer(answer, logits):
    """An answer of a pipeline is the softmax of logits."""
    scores = {result["label"]: result["score"] for result in answer}
    expected = torch.tensor(logits)[0].softmax(0).tolist()
    assert scores == pytest.approx({f"LABEL_{index}": score for index, score in enumerate(expected)}, abs=1e-6)


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("with_package")
    card = folder / "card.md"
    card.write_text(CARD)
    return run(with_package, hub.environment(folder / "cache"), folder, REPO_ID, TASK, str(card))


@pytest.fixture(scope="module")
def trusted(hub, published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_package")
    return run(without_package, hub.environment(folder / "cache"), folder, REPO_ID, TASK)


@pytest.fixture(scope="module")
def published_classifiers(hub, auto_image_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers_with_package")
    card = folder / "card.md"
    card.write_text(CARD.replace(TASK, CLASSIFICATION))
    arguments = (CLASSIFIERS, STUDENT, CLASSIFICATION, str(card))
    return run(classifiers_with_package, hub.environment(folder / "cache"), folder, *arguments)


@pytest.fixture(scope="module")
def trusted_classifiers(hub, published_classifiers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers_without_package")
    arguments = (CLASSIFIERS, STUDENT, CLASSIFICATION)
    return run(classifiers_without_package, hub.environment(folder / "cache"), folder, *arguments)


@pytest.fixture
def model():
    return LTSFLinearForPrediction(LTSFLinearConfig(context_length=8, prediction_length=4, num_input_channels=2))


@pytest.fixture
def processor():
    return LTSFLinearFeatureExtractor(context_length=8, prediction_length=4, standardization="none")


def test_publish_is_one_commit_with_everything(hub, published):
    repo = hub.repos[REPO_ID]
    files = repo["trees"][published["commits"]["main"]]
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        *CODE,
    }
    assert repo["visibility"] == "private"
    assert repo["messages"][:3] == ["initial commit", "First weights", "Upload LTSFLinearForPrediction"]
    assert repo["refs"]["v1.0"] == published["commits"]["main"]
    assert repo["refs"]["dev"] == published["commits"]["dev"] != repo["refs"]["main"]


def test_code_on_the_hub_is_that_of_the_package(hub, published):
    files = hub.repos[REPO_ID]["trees"][published["commits"]["main"]]
    folders = ("models.forecasting", "pipelines")
    for name in CODE:
        folder = folders[name.startswith("pipeline_")]
        module = import_module(f"hvmodels.{folder}.{name.removesuffix('.py')}")
        assert files[name].decode() == inspect.getsource(module)


def test_card_comes_back_and_stays_without_a_new_one(hub, published):
    data, text = published["card"]
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": TASK,
        "license": "apache-2.0",
        "tags": ["hvmodels"],
    }
    assert text.strip() == "# NLinear on toy data"
    assert hub.repos[REPO_ID]["trees"][published["commits"]["dev"]]["README.md"].decode() == CARD


def test_reload_by_auto_classes_and_revision_is_exact(published):
    assert len(published["loads"]) == 6
    for revision, load in published["loads"].items():
        assert load.pop("classes") == ["hvmodels"] * 3, revision
        assert load == dict.fromkeys(("weights", "forecast", "base forecast", "past values"), True), revision


def test_pipeline_with_the_package_needs_no_trust(published):
    assert set(published["modules"].values()) == {"hvmodels.pipelines.pipeline_time_series_forecasting"}
    for name, forecast in published["forecasts"].items():
        np.testing.assert_array_equal(forecast, published["direct"], err_msg=name)


def test_errors_of_the_hub_pass_through(hub, published):
    refusals = published["refusals"]
    assert "OSError" in refusals["missing repository"] and "org/never-made" in refusals["missing repository"][-1]
    assert "OSError" in refusals["missing revision"] and "v2.0" in refusals["missing revision"][-1]
    assert "HfHubHTTPError" in refusals["tag in use"]
    assert "ValueError" in refusals["missing card"] and "`card` must be the file" in refusals["missing card"][-1]
    assert REPO_ID in hub.repos and "org/never-made" not in hub.repos


def test_trusted_code_without_the_package_forecasts_the_same(published, trusted):
    assert not trusted["imported"]
    assert {name.partition(".")[0] for name in trusted["modules"]} == {"transformers_modules"}
    for name, forecast in trusted["forecasts"].items():
        np.testing.assert_array_equal(forecast, published["direct"], err_msg=name)
    np.testing.assert_allclose(trusted["fitted"], published["fitted"], rtol=1e-9)


def test_no_code_is_run_without_trust(trusted):
    assert "trust_remote_code=True" in trusted["refusal"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_published_classifiers_come_back(name, published_classifiers):
    found = published_classifiers[name]
    assert found["classes"] == ["hvmodels"] * 2
    assert found["loaded logits"] == found["logits"]
    assert_same_answer(found["answer"], found["logits"])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_trusted_code_without_the_package_classifies_the_same(name, published_classifiers, trusted_classifiers):
    found, expected = trusted_classifiers[name], published_classifiers[name]
    assert set(found["modules"]) == {"transformers_modules"}
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=1e-6)
    for answer in found["answers"]:
        assert_same_answer(answer, expected["logits"])
    assert "trust_remote_code=True" in found["refusal"]


def test_trusted_code_shows_the_attention(trusted_classifiers):
    assert trusted_classifiers["aib"]["pipeline"] == "AttentionImageClassificationPipeline"
    assert trusted_classifiers["aib"]["attention"] == [[40, 60], "float32"]


def test_trusted_code_distils(trusted_classifiers):
    assert trusted_classifiers["vitkd"]["trained"]


def test_pushed_student_needs_no_package(hub, published_classifiers, trusted_classifiers):
    student, repo = trusted_classifiers["student"], hub.repos[STUDENT]
    first, second = published_classifiers["student"]["commits"]
    assert repo["visibility"] == "private"
    assert repo["messages"] == ["initial commit", "First student", "Upload student"]
    assert repo["refs"]["main"] == second != first
    files = {".gitattributes", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert set(repo["trees"][first]) == set(repo["trees"][second]) == files
    assert not any(b"vitkd" in repo["trees"][second][name].lower() for name in files)
    assert student["classes"] == ["ViTForImageClassification", "transformers", "transformers"]
    np.testing.assert_allclose(student["logits"], published_classifiers["vitkd"]["logits"], rtol=0, atol=1e-6)
    assert_same_answer(student["answers"][0], published_classifiers["vitkd"]["logits"])


def test_export_folder_loads_as_saved(model, processor, tmp_path):
    card = tmp_path / "card.md"
    card.write_text(CARD)
    export(model, processor, tmp_path / "a" / "b", card)
    loaded, loaded_processor = load_folder(tmp_path / "a" / "b")
    assert type(loaded) is LTSFLinearForPrediction and type(loaded_processor) is LTSFLinearFeatureExtractor
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    assert (tmp_path / "a" / "b" / "README.md").read_text() == CARD
    config = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert config["custom_pipelines"] == {
        TASK: {
            "impl": "pipeline_time_series_forecasting.TimeSeriesForecastingPipeline",
            "pt": ["AutoModelForTimeSeriesPrediction"],
            "type": "multimodal",
        }
    }


def test_base_model_is_offered_as_base_model_only(model, processor, tmp_path):
    export(model.model, processor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel"}
    assert "custom_pipelines" not in config
    assert type(load_folder(tmp_path)[0]) is LTSFLinearModel


def test_export_leaves_later_saves_plain(model, processor, tmp_path):
    export(model, processor, tmp_path / "exported")
    model.save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    files = {path.name: path for path in (tmp_path / "plain").iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    for name in ("config.json", "preprocessor_config.json"):
        assert not {"auto_map", "custom_pipelines"} & json.loads(files[name].read_text()).keys()


def test_saved_pipeline_loads_without_trust(model, processor, tmp_path):
    # transformers enters the pipeline's code in the configuration, which alone would make it demand trust.
    pipeline(TASK, model=model, feature_extractor=processor).save_pretrained(tmp_path)
    series = np.random.default_rng(0).normal(size=(8, 2))
    forecast = pipeline(TASK, model=str(tmp_path))(series)[["0", "1"]].to_numpy()
    expected = model(processor(series)["past_values"]).prediction_outputs[0]
    np.testing.assert_array_equal(forecast, processor.inverse_transform(expected, None, np.zeros(2), np.ones(2)))


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "org/na me", "org/double--dash", "org/" + "x" * 97, None])
def test_bad_repo_id(model, processor, repo_id):
    with pytest.raises(ValueError, match=r"`repo_id` must be 'name' or 'namespace/name'"):
        publish(model, processor, repo_id)


def test_processor_and_model_must_belong_together(model, processor, tmp_path):
    with pytest.raises(ValueError, match=r"`processor` must be .*LTSFLinearFeatureExtractor, got Wav2Vec2Feature"):
        publish(model, Wav2Vec2FeatureExtractor(), REPO_ID)
    with pytest.raises(ValueError, match=r"`processor` must be .*, got NoneType"):
        export(model, None, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"`model_type` must be one of \['ltsf_linear'.*'bert'"):
        bert = BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4, vocab_size=4)
        export(BertModel(bert), processor, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"`model` must be .*LTSFLinearForPrediction, got Subclass"):
        export(type("Subclass", (LTSFLinearForPrediction,), {})(model.config), processor, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_load_folder_without_a_model(model, processor, tmp_path):
    export(model, processor, tmp_path)
    with pytest.raises(ValueError, match=r"`folder` must hold a model saved by hvmodels, got '.*absent'"):
        load_folder(tmp_path / "absent")

    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    saved_config, saved_weights = config.read_text(), load_file(weights)
    for changed in ('{"model_type": "bert"}', '{"model_type": "ltsf_linear"}', "{}", "{"):
        config.write_text(changed)
        with pytest.raises(ValueError, match=r"`folder` must hold a model saved by hvmodels"):
            load_folder(tmp_path)
    config.write_text(saved_config)

    lost = min(saved_weights)
    save_file({name: weight for name, weight in saved_weights.items() if name != lost}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{lost}.* missing"):
        load_folder(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"`folder` must hold"):
        load_folder(tmp_path)
    save_file(saved_weights, weights, {"format": "pt"})
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"`folder` must hold"):
        load_folder(tmp_path)


@pytest.fixture
def toy_package(tmp_path, monkeypatch):
    """Writes files below a package and gives the classes named in them; nothing stays imported."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files):
        for name, source in files.items():
            path = tmp_path / "toy_package" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (path.parent, tmp_path / "toy_package"):
                (folder / "__init__.py").touch()
            path.write_text(source)
        return import_module("toy_package.models.modeling_toy").Toy

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("toy_package"):
            del sys.modules[name]


def test_code_of_other_folders_travels_flat(toy_package):
    modeling = (
        "import math\nfrom os import path\n\nfrom .layers import layer\nfrom ..metrics.keypoints import (\n    oks,\n)\n\n\n"
        'class Toy:\n    text = "from ..metrics.keypoints import"\n'
    )
    toy = toy_package(
        {
            "models/modeling_toy.py": modeling,
            "models/layers.py": "layer = 1\n\n\ndef late():\n    from ..metrics.boxes import area\n\n    return area\n",
            "metrics/keypoints.py": "from .boxes import area as oks\n",
            "metrics/boxes.py": "area = 1\n",
        }
    )
    assert collect_code([toy, toy]) == {
        "modeling_toy.py": modeling.replace("from ..metrics.keypoints import (", "from .keypoints import ("),
        "layers.py": "layer = 1\n\n\ndef late():\n    from .boxes import area\n\n    return area\n",
        "keypoints.py": "from .boxes import area as oks\n",
        "boxes.py": "area = 1\n",
    }


def test_two_files_of_one_name_do_not_travel(toy_package):
    files = {"models/modeling_toy.py": "from ..a.ops import one\nfrom ..b.ops import two\n\n\nclass Toy: ...\n"}
    toy = toy_package({**files, "a/ops.py": "one = 1\n", "b/ops.py": "two = 2\n"})
    with pytest.raises(ValueError, match=r"need different names, but .*ops\.py and .*ops\.py"):
        collect_code([toy])


@pytest.mark.parametrize(
    "line",
    [
        "from . import layers",
        "from .. import metrics",
        "from ..metrics import oks",
        "import toy_package.metrics",
        "from toy_package.metrics import oks",
    ],
)
def test_imports_that_cannot_travel(toy_package, line):
    files = {"models/layers.py": "", "metrics/__init__.py": "", "metrics/keypoints.py": ""}
    toy = toy_package({**files, "models/modeling_toy.py": f"class Toy: ...\n\n\ndef late():\n    {line}\n"})
    with pytest.raises(ValueError, match=f"modeling_toy, line 5: `{line}` would fail"):
        collect_code([toy])
