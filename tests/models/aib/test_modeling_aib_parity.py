"""AIB against values of the original; `tests/fixtures/aib/README.md` says how they were made."""

import copy
import gzip
import json
import zlib
from argparse import Namespace
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
from hvmodels.conversion.aib import ALIASES, _backbone_type, convert, convert_state_dict
from hvmodels.conversion.checkpoints import open_checkpoint, take_weights
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
    assert model.config.train_anchors is (not name.startswith("cub"))
    return model.eval(), load_file(reference_folder("aib", name) / "io.safetensors")


@pytest.fixture(scope="module", params=[reference_case("aib", name) for name in CASES])
def case(request, tmp_path_factory):
    model, values = convert_case(request.param, tmp_path_factory.mktemp("aib") / "model", drop=0.0)
    return request.param, model, values


def run(model, values, run):
    return model(
        values["input.pixel_values"],
        labels=values["input.labels"],
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
        outputs = model.aib(
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
    model, names = copy.deepcopy(model).train(), original_names(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    of_first_norm = {}
    first_norm = next((module for module in model.modules() if isinstance(module, nn.BatchNorm2d)), None)
    if first_norm is not None:
        first_norm.register_forward_pre_hook(lambda module, inputs: of_first_norm.update(inputs=inputs[0].detach()))
    outputs = run(model, values, "train")
    assert_close(outputs.logits, values["output.train.logits"], **EXACT)
    assert_losses(outputs, values, "output.train")
    outputs.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert_close(norm, values["output.train.grad_norm_all_params"], atol=0, rtol=1e-4)
    stored = [key for key in values if key.startswith("grad.")]
    assert len(stored) >= 6
    for key in stored:
        # What stands before a batch norm has no gradient but rounding.
        tolerance = {"atol": 1e-4 * values[key].abs().max().item() + 1e-6, "rtol": 1e-4}
        gradient = gradients[names[key.removeprefix("grad.")]].reshape(values[key].shape)
        assert_close(gradient, values[key], **tolerance, msg=key)
    for key in [key for key in values if key.startswith("output.train.after.")]:
        # These were stored as the checkpoint has them, that is without the step.
        assert_close(before[names[key.removeprefix("output.train.after.")]], values[key], **EXACT)
    if first_norm is not None:
        key = next(key for key, module in model.named_modules() if module is first_norm)
        variance, mean = torch.var_mean(of_first_norm["inputs"], (0, 2, 3))
        assert_close(first_norm.running_mean, 0.9 * before[f"{key}.running_mean"] + 0.1 * mean, **EXACT)
        assert_close(first_norm.running_var, 0.9 * before[f"{key}.running_var"] + 0.1 * variance, **EXACT)
        counts = {key: count for key, count in model.state_dict().items() if key.endswith("num_batches_tracked")}
        assert all(count == before[key] + 1 for key, count in counts.items())


def original_names(case):
    """Names of the original to ours, found by converting tensors that hold the number of their name."""
    content = open_checkpoint(reference_folder("aib", case) / "checkpoint.pth", [Namespace])
    weights = take_weights(content, case)
    aliases = ALIASES.get(_backbone_type(weights), {})
    marked, numbers = {}, {}
    for name, tensor in weights.items():
        first = next((first + name[len(alias) :] for alias, first in aliases.items() if name.startswith(alias)), name)
        marked[name] = torch.full(tensor.shape, float(numbers.setdefault(first, len(numbers))))
    _, state_dict = convert_state_dict(marked, {})
    ours = {int(tensor.flatten()[0]): name for name, tensor in state_dict.items()}
    return {name: ours[number] for name, number in numbers.items() if number in ours}


@pytest.mark.parametrize("name", [reference_case("aib", name) for name in ("cub_vgg16", "cub_vgg16_qt", "cub_wrn50")])
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
    """Weights of the rule in `config.json`; second names of a tensor have the value of the first."""
    aliases = ALIASES["wide_resnet_cifar"] if keys.startswith("wrn") else {}
    weights = {}
    for key, shape in KEYS[keys].items():
        key = key.removeprefix("module.")
        if key.startswith(tuple(aliases)):
            continue
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
    seconds = {
        alias + key[len(first) :]: tensor
        for alias, first in aliases.items()
        for key, tensor in weights.items()
        if key.startswith(first)
    }
    return weights | seconds


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
    assert len(only["params"]) == len(list(frozen.parameters())) == len(others["params"])


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
