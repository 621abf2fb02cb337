"""Checkpoints of AIB: every published key list, both layouts of files, and files that are none; ImageNet weights."""

import copy
import gzip
import json
import math
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoModelForImageClassification

from hvmodels import AIBConfig, AIBForImageClassification, AIBImageProcessor
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.aib import ALIASES, _names, convert_state_dict, load_imagenet_weights
from tests.modeling_checks import assert_equal, with_random_weights


FIXTURES = Path(__file__).parents[1] / "fixtures" / "aib"
CHECKPOINT = FIXTURES / "vgg32_qt" / "checkpoint.pth"
KEYS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
# Backbone, labels, size of the code, anchors, parameters without what is there twice or never used.
PUBLISHED = {
    "vgg32_aib_cifar10": ("vgg_cifar", 10, 256, None, 20_040_789),
    "vgg32_aib_cifar100": ("vgg_cifar", 100, 256, None, 20_063_919),
    "vgg32_aib_qt_cifar10": ("vgg_cifar", 10, 256, 20, 20_040_809),
    "vgg32_aib_qt_cifar100": ("vgg_cifar", 100, 256, 50, 20_063_969),
    "wrn28x10_aib_cifar10": ("wide_resnet_cifar", 10, 512, None, 65_004_500),
    "wrn28x10_aib_cifar100": ("wide_resnet_cifar", 100, 512, None, 65_109_260),
    "wrn28x10_aib_qt_cifar10": ("wide_resnet_cifar", 10, 512, 50, 65_004_550),
    "wrn28x10_aib_qt_cifar100": ("wide_resnet_cifar", 100, 512, 20, 65_109_280),
    "cub_vgg16_aib": ("vgg16", 200, 256, None, 17_196_307),
    "cub_vgg16_aib_qt": ("vgg16", 200, 256, 20, 24_275_751),
    "cub_wrn_50_2_aib": ("wide_resnet50", 200, 256, None, 109_990_675),
    "cub_wrn_50_2_aib_qt": ("wide_resnet50", 200, 256, 20, 109_990_695),
}
TINY = {
    "vgg_cifar": {"hidden_sizes": [2, 3, 4, 5]},
    "wide_resnet_cifar": {"hidden_sizes": [16, 16, 32, 64], "depth": 10, "widen_factor": 1, "dropout": 0.3},
    "vgg16": {"hidden_sizes": [2, 3, 4, 5, 6]},
    "wide_resnet50": {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 2, 1, 1], "widen_factor": 2},
}


def make_config(backbone_type, **options):
    return AIBConfig(backbone_type=backbone_type, latent_dim=3, num_labels=4, **{**TINY[backbone_type], **options})


def original_weights(model):
    """A model's weights by the names of the original, with both names of those that have two."""
    names, weights = _names(model.config), {}
    for name, tensor in model.state_dict().items():
        original, ours = next(
            (original, ours) for original, ours in names.items() if name.startswith(ours) or name == ours.rstrip(".")
        )
        weights[original + name[len(ours) :]] = tensor[None] if original == "emb.weight" else tensor
    for alias, first in ALIASES.get(model.config.backbone_type, {}).items():
        weights |= {alias + name[len(first) :]: weights[name] for name in list(weights) if name.startswith(first)}
    return weights


def make_weights(backbone_type="vgg_cifar", **options):
    return original_weights(with_random_weights(AIBForImageClassification(make_config(backbone_type, **options))))


# Published models


def test_every_key_list_is_there():
    assert set(KEYS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name):
    """Names and shapes; the tensors hold one number each, whatever their size, and are told apart by it."""
    backbone_type, num_labels, latent_dim, anchors, count = PUBLISHED[name]
    numbers, weights = {}, {}
    for key, shape in KEYS[name].items():
        key = key.removeprefix("module.")
        first = next(
            (
                first + key[len(alias) :]
                for alias, first in ALIASES.get(backbone_type, {}).items()
                if key.startswith(alias)
            ),
            key,
        )
        weights[key] = torch.tensor(float(numbers.setdefault(first, len(numbers)))).expand(shape)
    config, state_dict = convert_state_dict(weights, {})
    with torch.device("meta"):
        expected = AIBForImageClassification(config).state_dict()
    assert {key: tensor.shape for key, tensor in state_dict.items()} == {key: t.shape for key, t in expected.items()}
    found = [tensor.flatten()[0].item() for tensor in state_dict.values()]
    unused = {number for key, number in numbers.items() if key.startswith("tmp_layer.")}
    assert sorted(found) == sorted(set(numbers.values()) - unused)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(tensor.numel() for key, tensor in state_dict.items() if not key.endswith(buffers)) == count
    assert (config.backbone_type, config.num_labels, config.latent_dim) == (backbone_type, num_labels, latent_dim)
    assert (config.num_anchors if config.use_quantization else None) == anchors
    reference = AIBConfig(backbone_type=backbone_type, use_quantization=anchors is not None)
    for field in ("hidden_sizes", "depth", "depths", "widen_factor", "dropout", "attention_hidden_layers", "beta"):
        assert getattr(config, field) == getattr(reference, field), field
    assert config.train_anchors is (not name.startswith("cub"))
    labels = {"10": "airplane", "00": "LABEL_0" if name.startswith("cub") else "apple"}
    assert config.id2label[0] == (labels["10"] if num_labels == 10 else labels["00"])


# Files


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("use_quantization", [False, True])
@pytest.mark.parametrize("backbone_type", TINY)
def test_layouts_of_the_scripts(backbone_type, use_quantization, prefix, tmp_path):
    model = with_random_weights(
        AIBForImageClassification(make_config(backbone_type, use_quantization=use_quantization))
    )
    weights = {prefix + name: tensor for name, tensor in original_weights(model).items()}
    if backbone_type == "wide_resnet_cifar":
        content = {
            "epoch": 3,
            "state_dict": weights,
            "acc": 0.5,
            "best_acc": 0.5,
            "optimizer": {"state": {}},
            "amp": {},
        }
    else:
        arguments = Namespace(va_beta=0.02, beta=0.0 if backbone_type == "vgg_cifar" else 0.02, num_avg=5, K=7)
        content = {"epoch": 3, "args": arguments, "model_states": {"net": weights}, "optim_states": {"optim": {}}}
    if backbone_type == "wide_resnet50":
        weights[f"{prefix}tmp_layer.0.conv1.weight"] = torch.ones(1)
        content["model_states"]["net_ema"] = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save(content, tmp_path / "checkpoint.tar")
    convert_checkpoint("aib", tmp_path / "checkpoint.tar", tmp_path / "output")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "output")
    assert_equal(loaded.state_dict(), model.state_dict())
    has_options = backbone_type != "wide_resnet_cifar"
    assert (loaded.config.beta, loaded.config.num_samples_eval) == ((0.02, 5) if has_options else (0.01, 4))
    processor = AIBImageProcessor.from_pretrained(tmp_path / "output")
    is_cub = backbone_type in ("vgg16", "wide_resnet50")
    assert processor.output_size == ((224, 224) if is_cub else (32, 32))
    assert (processor.size["height"], processor.crop_padding) == ((256, 0) if is_cub else (32, 4))
    assert processor.image_mean[0] == {"vgg_cifar": 0.5071, "wide_resnet_cifar": 0.4914}.get(backbone_type, 0.485)
    if backbone_type == "wide_resnet50":
        average = {"checkpoint_entry": "net_ema"}
        convert_checkpoint("aib", tmp_path / "checkpoint.tar", tmp_path / "average", average)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "average")
        assert not any(weight.any() for weight in loaded.parameters())


def test_options():
    weights = make_weights("wide_resnet_cifar", use_quantization=True)
    options = {"drop": 0.1, "va_beta": 0.5, "vq_coef": 0.2, "comit_coef": 0.3, "qt_trainable": False, "num_avg": 12}
    config, _ = convert_state_dict(weights, {**options, "dataset": "SVHN"})
    assert (config.dropout, config.beta, config.vq_weight, config.commitment_weight) == (0.1, 0.5, 0.2, 0.3)
    assert (config.train_anchors, config.num_samples_eval) == (False, 12)
    config, _ = convert_state_dict(make_weights("vgg16"), {"beta": 0.3, "num_avg": 0})
    assert (config.beta, config.num_samples_eval) == (0.3, 12)


def test_svhn(tmp_path):
    convert_checkpoint("aib", CHECKPOINT, tmp_path / "svhn", {"dataset": "SVHN"})
    assert list(AIBImageProcessor.from_pretrained(tmp_path / "svhn").image_mean) == [0.5] * 3
    assert AIBConfig.from_pretrained(tmp_path / "svhn").id2label[0] == "LABEL_0"
    convert_checkpoint("aib", CHECKPOINT, tmp_path / "cifar")
    assert AIBConfig.from_pretrained(tmp_path / "cifar").id2label[0] == "airplane"


@pytest.mark.parametrize(
    ("backbone_type", "options"),
    [
        ("wide_resnet_cifar", {"hidden_sizes": [4, 5, 6, 7], "depth": 16}),
        ("wide_resnet_cifar", {"widen_factor": 3}),
        ("wide_resnet50", {"depths": [2, 1, 2, 3], "widen_factor": 1}),
        ("wide_resnet50", {"widen_factor": 1.5}),
        ("vgg16", {"attention_hidden_layers": 3, "num_channels": 1}),
        ("vgg_cifar", {"attention_hidden_layers": 2}),
    ],
)
def test_sizes_come_from_the_tensors(backbone_type, options):
    expected = make_config(backbone_type, **options)
    config, _ = convert_state_dict(make_weights(backbone_type, **options), {})
    for field in ("hidden_sizes", "depth", "depths", "widen_factor", "attention_hidden_layers", "num_channels"):
        assert getattr(config, field) == getattr(expected, field), field


def test_half_precision(tmp_path):
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in make_weights().items()
    }
    torch.save(weights, tmp_path / "half.pth")
    convert_checkpoint("aib", tmp_path / "half.pth", tmp_path / "output")
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "output").dtype == torch.float16


# Files that are none


def broken(**changes):
    """A state dict with entries replaced, or left out where the value is None."""
    weights = {**make_weights("wide_resnet_cifar", use_quantization=True), **changes}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


class Hostile:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"a.weight": torch.ones(2)}, {}, "`checkpoint` must be of AIB"),
        ({}, {}, "must hold a state dict"),
        (3, {}, "must hold a state dict"),
        ({"model_states": {"net": {}}}, {}, "must hold a state dict"),
        ({"model_states": {}}, {}, "has no weights under 'net'"),
        (
            {"model_states": {"net": {"a": torch.ones(1)}}},
            {"checkpoint_entry": "net_ema"},
            "no weights under 'net_ema'",
        ),
        (lambda: broken(**{"encode.5.weight": None}), {}, "'encode.5.weight' is missing"),
        (lambda: broken(**{"decode.1.bias": None}), {}, "1 weights are missing"),
        (lambda: broken(**{"bn_att3.weight": None, "att_module_mu.6.weight": None}), {}, "1 weights are missing"),
        (lambda: broken(**{"encode.5.weight": torch.ones(7, 64)}), {}, "even number of rows, got 7"),
        (lambda: broken(**{"encode.5.weight": torch.ones(6, 63)}), {}, "has the shape"),
        (lambda: broken(**{"encode.5.weight": torch.ones(6)}), {}, "must have 2 dimensions"),
        (lambda: broken(**{"conv1.weight": torch.ones(16, 3, 3)}), {}, "must have 4 dimensions"),
        (lambda: broken(**{"decode.1.weight": torch.ones(0, 3)}), {}, "dimensions that are not empty"),
        (lambda: broken(**{"emb.weight": torch.ones(2, 3)}), {}, "'emb.weight' must have one row"),
        (lambda: broken(**{"extra.weight": torch.ones(1)}), {}, r"1 have no place, such as \['extra.weight'\]"),
        (lambda: broken(**{"tmp_layer.0.weight": torch.ones(1)}), {}, "1 have no place"),
        (lambda: broken(**{"block1.layer.7.conv1.weight": torch.ones(1)}), {}, "weights are missing"),
        (lambda: broken(**{"att_module_mu.1.bias": torch.ones(64)}), {}, "are one tensor in AIB, but differ"),
        (lambda: broken(**{"bn1.bias": torch.ones(64) * math.nan}), {}, "NaN or infinite"),
        (
            lambda: broken(**{"bn1.bias": torch.ones(64).double(), "encode.1.bias": None}),
            {},
            "the same floating-point",
        ),
        (lambda: broken(**{"module.conv1.weight": torch.ones(1)}), {}, "twice, with and without"),
        (lambda: broken(**{"conv1.weight": "text"}), {}, "must hold only tensors"),
        (broken, {"drop": 1.5}, "`dropout` must be a rate"),
        (broken, {"drop": "0.3"}, "`drop` must be a number"),
        (broken, {"va_beta": -1}, "`va_beta` must be a number of 0 or more"),
        (broken, {"vq_coef": math.inf}, "`vq_coef` must be a number"),
        (broken, {"comit_coef": True}, "`comit_coef` must be a number"),
        (broken, {"qt_trainable": "yes"}, "`qt_trainable` must be true or false"),
        (broken, {"num_avg": 2.5}, "`num_avg` must be a whole number"),
        ({"state_dict": {"a": torch.ones(1)}, "x": Hostile()}, {}, "holds more than weights"),
        (b"no checkpoint", {}, "`checkpoint`"),
        (None, {}, "must be a file"),
    ],
)
def test_refuses(content, options, message, tmp_path, capfd):
    path = tmp_path / "checkpoint.tar"
    content = content() if callable(content) else content
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("aib", path, tmp_path / "output", options)
    assert not (tmp_path / "output").exists()
    assert "never be printed" not in capfd.readouterr().out


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_refuses_a_truncated_file(share, tmp_path):
    whole = CHECKPOINT.read_bytes()
    (tmp_path / "checkpoint.tar").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="`checkpoint`"):
        convert_checkpoint("aib", tmp_path / "checkpoint.tar", tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_refuses_other_backbones_channels():
    weights = make_weights("wide_resnet50")
    for name in [name for name in weights if name.startswith(("layer4.0.conv3", "encode.0.0.conv3"))]:
        weights[name] = torch.ones(14, *weights[name].shape[1:])
    with pytest.raises(ValueError, match="multiples of 4 channels"):
        convert_state_dict(weights, {})


# ImageNet weights


def imagenet_weights(model, classifier):
    """The features of a model as a classifier of torchvision or timm holds them, with other values."""
    weights = {
        name: torch.full_like(tensor, 3)
        for name, tensor in original_weights(model).items()
        if name.startswith(("features.", "conv1.", "bn1.", "layer"))
    }
    return {**weights, **{name: torch.ones(2, 2) for name in classifier}}


@pytest.mark.parametrize(
    ("backbone_type", "classifier"),
    [
        ("vgg16", ["classifier.0.weight", "classifier.6.bias"]),
        ("vgg16", ["pre_logits.fc1.weight", "head.fc.weight"]),
        ("wide_resnet50", ["fc.weight", "fc.bias"]),
    ],
)
def test_imagenet_weights(backbone_type, classifier, tmp_path):
    model = with_random_weights(AIBForImageClassification(make_config(backbone_type)))
    before = copy.deepcopy(model.state_dict())
    save_file(imagenet_weights(model, classifier), tmp_path / "imagenet.safetensors")
    assert load_imagenet_weights(model, tmp_path / "imagenet.safetensors") is model
    taken = ("aib.backbone.", "aib.encoder.") if backbone_type == "wide_resnet50" else ("aib.backbone.",)
    for name, tensor in model.state_dict().items():
        assert_close(tensor, torch.full_like(tensor, 3) if name.startswith(taken) else before[name])


def test_imagenet_weights_refuse(tmp_path):
    model = AIBForImageClassification(make_config("vgg16"))
    weights = imagenet_weights(model, ["classifier.0.weight"])
    bad = {
        "missing": {name: tensor for name, tensor in weights.items() if name != "features.2.bias"},
        "shape": {**weights, "features.0.weight": torch.ones(3, 3, 3, 3)},
        "unknown": {**weights, "features.1.running_mean": torch.ones(2)},
        "another": {"layer1.0.conv1.weight": torch.ones(2)},
    }
    before = copy.deepcopy(model.state_dict())
    for name, content in bad.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match="must be torchvision's or timm's classifier for 'vgg16'"):
            load_imagenet_weights(model, tmp_path / f"{name}.safetensors")
    assert_equal(model.state_dict(), before)
    with pytest.raises(ValueError, match="`model` must have the `backbone_type` 'vgg16' or 'wide_resnet50'"):
        load_imagenet_weights(AIBForImageClassification(make_config("vgg_cifar")), tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="must be a file"):
        load_imagenet_weights(model, tmp_path / "absent.pth")


def test_output_folder_stays_as_it_was(tmp_path):
    shutil.copy(CHECKPOINT, tmp_path / "file")
    with pytest.raises(ValueError, match="must be absent or an empty folder"):
        convert_checkpoint("aib", CHECKPOINT, tmp_path)
