"""AIB against values of the original; `tests/fixtures/aib/README.md` says how they were made."""

import copy
import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForImageClassification

from hvmodels import AIBConfig, AIBForImageClassification, AIBImageProcessor
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.aib import convert, convert_state_dict
from hvmodels.metrics.classification import top_k_accuracies
from hvmodels.models.aib import learning_rate_factor, parameter_groups, update_average
from tests.modeling_checks import assert_equal
from tests.reference_cases import reference_case, reference_folder


FIXTURES = Path(__file__).parents[2] / "fixtures" / "aib"
KEYS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
CASES = ("vgg32", "vgg32_qt", "wrn32", "wrn32_qt", "cub_vgg16", "cub_vgg16_qt", "cub_wrn50")
FULL_CASES = {
    "fullsize_seeded_vgg32_cifar10": ("vgg32_aib_cifar10", 32),
    "fullsize_seeded_wrn28x10_cifar100": ("wrn28x10_aib_cifar100", 32),
    "fullsize_seeded_cub_vgg16": ("cub_vgg16_aib", 224),
}
EXACT = {"atol": 1e-5, "rtol": 1e-5}
LOSSES = {
    "class_loss": "class_loss",
    "info_loss": "info_loss",
    "vq_loss": "vq_loss",
    "commit_loss": "commitment_loss",
    "total": "loss",
}


def read_case(name):
    folder = reference_folder("aib", name)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def convert_case(name, output_dir, **options):
    """The case's checkpoint through the public converter and `from_pretrained`; and its values."""
    convert_checkpoint("aib", reference_folder("aib", name) / "checkpoint.pth", output_dir, options)
    model, loading = AutoModelForImageClassification.from_pretrained(output_dir, output_loading_info=True)
    assert type(model) is AIBForImageClassification
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval(), load_file(reference_folder("aib", name) / "io.safetensors")


@pytest.fixture(scope="module", params=[reference_case("aib", name) for name in CASES])
def case(request, tmp_path_factory):
    model, values = convert_case(request.param, tmp_path_factory.mktemp("aib") / "model", drop=0.0)
    return request.param, model, values


def run(model, values, run, labels=True):
    return model(
        values["input.pixel_values"],
        labels=values["input.labels"] if labels else None,
        attention_noise=values[f"input.{run}.noise_attention"],
        latent_noise=values[f"input.{run}.noise_latent"],
    )


def by_sample(maps):
    """Maps in the original's layout, (samples, batch, positions)."""
    return maps.flatten(2).transpose(0, 1)


def assert_losses(outputs, values, prefix):
    for name, ours in LOSSES.items():
        expected = values.get(f"{prefix}.loss.{name}")
        if expected is None:
            assert getattr(outputs, ours) is None
        else:
            assert_close(getattr(outputs, ours), expected, **EXACT)


def test_evaluation(case):
    name, model, values = case
    names = [key.split(".")[1] for key in values if key.startswith("output.eval") and key.endswith("loss.total")]
    assert len(names) == 2
    for samples in names:
        with torch.no_grad():
            outputs = run(model, values, samples)
        assert_close(outputs.logits, values[f"output.{samples}.logits"], **EXACT)
        assert_close(by_sample(outputs.attention_maps), values[f"output.{samples}.attention"], **EXACT)
        assert (outputs.quantized_attention_maps is not None) is name.endswith("_qt")
        if name.endswith("_qt"):
            expected = values[f"output.{samples}.attention_quantized"]
            assert_close(by_sample(outputs.quantized_attention_maps), expected, **EXACT)
        assert_losses(outputs, values, f"output.{samples}")


def test_intermediate_values(case):
    _, model, values = case
    with torch.no_grad():
        outputs = run(model.aib, values, "eval1", labels=None) if False else model.aib(
            values["input.pixel_values"],
            attention_noise=values["input.eval1.noise_attention"],
            latent_noise=values["input.eval1.noise_latent"],
        )
    if "intermediate.eval1.features_before_attention" in values:
        expected = values["intermediate.eval1.features_before_attention"]
        assert_close(outputs.last_hidden_state, expected, **EXACT)
    statistics = values["intermediate.eval1.latent_statistics"]
    mean, spread = statistics.chunk(2, dim=1)
    assert_close(outputs.latent_mean[:, 0], mean, **EXACT)
    assert_close(outputs.latent_std[:, 0], nn.functional.softplus(spread - 5), **EXACT)
    mean_map = model.aib.attention(outputs.last_hidden_state, stochastic=False).attention_maps
    assert_close(mean_map, values["intermediate.eval1.attention_mean"], **EXACT)


def test_training_step(case):
    """Losses, gradients and running statistics."""
    name, model, values = case
    model = copy.deepcopy(model).train()
    anchors = model.aib.attention.anchors
    if anchors is not None:
        assert anchors.requires_grad is (name != "cub_vgg16_qt")
    # The original's names of weights and statistics, by converting tensors that carry their place.
    names = original_names(name)
    outputs = run(model, values, "train")
    assert_close(outputs.logits, values["output.train.logits"], **EXACT)
    assert_losses(outputs, values, "output.train")
    outputs.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert_close(norm, values["output.train.grad_norm_all_params"], atol=0, rtol=1e-4)
    seen = 0
    for key, expected in values.items():
        if key.startswith("grad."):
            gradient = gradients[names[key.removeprefix("grad.")]].reshape(expected.shape)
            assert_close(gradient, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4, msg=key)
            seen += 1
        elif key.startswith("output.train.after."):
            statistics = model.state_dict()[names[key.removeprefix("output.train.after.")]]
            assert_close(statistics, expected, **EXACT)
            seen += 1
    assert seen >= 6


def original_names(case):
    """Names of the original to ours, found through the converter."""
    content = torch.load(reference_folder("aib", case) / "checkpoint.pth", weights_only=False)
    weights = content["state_dict"] if "state_dict" in content else content["model_states"]["net"]
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    names, by_storage = {}, {}
    for name in weights:
        # Aliases share their value.
        by_storage.setdefault((weights[name].data_ptr(), weights[name].shape), []).append(name)
    for group in by_storage.values():
        for name in group:
            marked = {key: torch.zeros_like(tensor) for key, tensor in weights.items()}
            for alias in group:
                marked[alias] = torch.ones_like(marked[alias])
            _, state_dict = convert_state_dict(marked, {})
            found = [ours for ours, tensor in state_dict.items() if tensor.any()]
            if found:
                names[name] = found[0]
    return names


@pytest.mark.parametrize(
    "name", [reference_case("aib", name) for name in ("cub_vgg16", "cub_vgg16_qt", "cub_wrn50")]
)
def test_averaged_network(name, tmp_path):
    model, values = convert_case(name, tmp_path / "model", checkpoint_entry="net_ema")
    with torch.no_grad():
        outputs = run(model, values, "eval1")
    assert_close(outputs.logits, values["output.eval1_ema.logits"], **EXACT)
    assert_close(by_sample(outputs.attention_maps), values["output.eval1_ema.attention"], **EXACT)


@pytest.mark.parametrize("name", [reference_case("aib", name) for name in CASES])
def test_pixels_of_the_cases(name):
    config, values = read_case(name)
    size = {"height": config["image_size"], "width": config["image_size"]}
    processor = AIBImageProcessor(size=size, image_mean=config["image_mean"], image_std=config["image_std"])
    batch = processor(values["input.images_rgb_uint8"], return_tensors="pt")
    assert_close(batch["pixel_values"], values["input.pixel_values"], **EXACT)


def weights_by_rule(keys, base_seed):
    """Weights of the rule in `config.json`."""
    weights = {}
    for key, shape in KEYS[keys].items():
        key = key.removeprefix("module.")
        random = np.random.RandomState((zlib.crc32(key.encode()) + base_seed) % 2**32)
        z = torch.from_numpy(random.standard_normal(shape).astype(np.float32)) if shape else torch.zeros(())
        if key.endswith("running_mean"):
            value = 0.1 * z
        elif key.endswith("running_var"):
            value = 1 + 0.2 * z.abs()
        elif key.endswith("num_batches_tracked"):
            value = torch.zeros((), dtype=torch.int64)
        elif len(shape) == 1 and key.endswith("weight"):
            value = 1 + 0.1 * z
        elif key.endswith("bias"):
            value = 0.02 * z
        else:
            value = z / np.float32(np.sqrt(np.prod(shape[1:])))
        weights[key] = value
    # Second names of a tensor have the value of the first; only those of the wide ResNet occur here.
    aliases = {"att_module_mu.0.": "att_block3.", "encode.0.": "block3.", "encode.1.": "bn1."}
    aliases |= {"att_module_mu.1.": "bn_att.", "att_module_mu.2.": "att_conv.", "att_module_mu.3.": "bn_att2."}
    aliases |= {"att_module_mu.5.": "att_conv3.", "att_module_mu.6.": "bn_att3."}
    if keys.startswith("wrn"):
        for alias, first in aliases.items():
            for key in [key for key in weights if key.startswith(alias)]:
                weights[key] = weights[first + key[len(alias) :]]
    return weights


@pytest.mark.parametrize("name", [reference_case("aib", name) for name in FULL_CASES])
def test_full_size(name):
    config, values = read_case(name)
    keys, side = FULL_CASES[name]
    seed, batch = config["base_seed"], config["batch"]
    weights = weights_by_rule(keys, seed)
    for key, (total, squares) in config["checksums_sum_and_sum_of_squares"].items():
        found = weights[key].double()
        assert_close([found.sum().item(), found.square().sum().item()], [total, squares], atol=1e-6, rtol=1e-6)
    model, _ = convert(weights, {}, Path(name))

    def draw(offset, *shape):
        return torch.from_numpy(np.random.RandomState(seed + offset).standard_normal(shape).astype(np.float32))

    pixel_values = draw(0, batch, 3, side, side)
    names = [key.split(".")[1] for key in values if key.endswith("loss.total")]
    for samples in names:
        count = int(samples.removeprefix("eval"))
        positions, size = values[f"output.{samples}.attention"].shape[-1], model.config.latent_dim
        shapes = ((batch, positions), (batch, size))
        if count > 1:
            shapes = ((count, batch, positions), (count, count * batch, size))
        with torch.no_grad():
            outputs = model(
                pixel_values,
                labels=values["input.labels"],
                attention_noise=draw(1, *shapes[0]),
                latent_noise=draw(2, *shapes[1]),
            )
        assert_close(outputs.logits, values[f"output.{samples}.logits"], **EXACT)
        assert_close(by_sample(outputs.attention_maps), values[f"output.{samples}.attention"], **EXACT)
        assert_losses(outputs, values, f"output.{samples}")


# The recipe


@pytest.fixture(scope="module")
def recipe():
    return read_case("recipe")[1]


@pytest.mark.parametrize(
    ("key", "backbone_type"),
    [
        ("vgg32_lr_0.01", "vgg_cifar"),
        ("vgg32_lr_0.001", "vgg_cifar"),
        ("vgg32_lr_0.05", "vgg_cifar"),
        ("vgg32_lr_0.1", "vgg_cifar"),
        ("vgg32_lr_anchor_group_0.01", "vgg_cifar"),
        ("vgg32_lr_anchor_group_0.001", "vgg_cifar"),
        ("vgg32_lr_anchor_group_0.05", "vgg_cifar"),
        ("vgg32_lr_anchor_group_0.1", "vgg_cifar"),
        ("wrn32_lr_0.1", "wide_resnet_cifar"),
        ("cub_lr", "vgg16"),
        ("cub_lr", "wide_resnet50"),
    ],
)
def test_learning_rates(recipe, key, backbone_type):
    """Through the optimizer and scheduler that a training loop has."""
    learning_rate = float(key.rpartition("_")[2]) if key != "cub_lr" else 1e-4
    config = AIBConfig(hidden_sizes=[2, 2, 2, 2], latent_dim=2, use_quantization=True)
    model = AIBForImageClassification(config)
    optimizer = torch.optim.SGD(parameter_groups(model, learning_rate), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: learning_rate_factor(backbone_type, epoch, learning_rate)
    )
    rates = []
    for _ in range(200):
        rates.append(scheduler.get_last_lr()["anchor" in key])
        optimizer.step()
        scheduler.step()
    assert_close(torch.tensor(rates, dtype=torch.float64), recipe[f"output.{key}"], atol=0, rtol=1e-9)


def test_parameter_groups():
    config = {"backbone_type": "vgg16", "hidden_sizes": [2] * 5, "latent_dim": 2, "use_quantization": True}
    trained = AIBForImageClassification(AIBConfig(**config, train_anchors=True))
    others, anchors = parameter_groups(trained, 0.1, anchor_ratio=0.5)
    assert anchors["params"] == [trained.aib.attention.anchors]
    assert (others["lr"], anchors["lr"]) == (0.1, 0.05)
    assert len(others["params"]) == len(list(trained.parameters())) - 1
    frozen = AIBForImageClassification(AIBConfig(**config))
    (only,) = parameter_groups(frozen, 0.1)
    assert len(only["params"]) == len(list(frozen.parameters())) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("vgg_cifar", -1), "`epoch` must be 0 or more"), (("resnet", 0), "`backbone_type` must be 'vgg_cifar'")],
)
def test_learning_rate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_rate_factor(*arguments)


def test_average_of_weights(recipe):
    def state(prefix):
        return {key.removeprefix(prefix): value for key, value in recipe.items() if key.startswith(prefix)}

    average, model = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    average.load_state_dict(state("input.ema.start."))
    for step in range(3):
        model.load_state_dict(state(f"input.ema.step{step}."))
        update_average(average, model)
        expected = state(f"output.ema.step{step}.")
        assert set(expected) == set(average.state_dict())
        assert_close(dict(average.state_dict()), expected, atol=1e-7, rtol=1e-6)
        assert_equal(average[1].num_batches_tracked, expected["1.num_batches_tracked"])


def test_top_k_accuracy(recipe):
    accuracies = top_k_accuracies(recipe["input.metric.logits"], recipe["input.metric.labels"], ks=(1, 3, 5))
    expected = recipe["output.metric.accuracy_top1_3_5"].tolist()
    assert [100 * accuracies[k] for k in (1, 3, 5)] == pytest.approx(expected, abs=1e-5)
