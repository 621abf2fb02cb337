import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import pipeline

from hvmodels import AIBAttention, AIBConfig, AIBForImageClassification, AIBImageProcessor, AIBModel
from hvmodels.models.aib import build_networks, convolution_head
from hvmodels.models.aib.attention_aib import nearest_anchors
from hvmodels.models.aib.modeling_aib import divergence_from_standard_normal
from hvmodels.models.aib.networks_aib import AIBConvolution
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    with_random_weights,
)


pytestmark = pytest.mark.usefixtures("seed_of_each_module")


CONFIGS = {
    "vgg_cifar": {"hidden_sizes": [4, 4, 6, 8], "latent_dim": 5},
    "vgg_cifar_quantized": {
        "hidden_sizes": [4, 4, 8, 16],
        "latent_dim": 8,
        "use_quantization": True,
        "num_anchors": 4,
    },
    "wide_resnet_cifar": {
        "backbone_type": "wide_resnet_cifar",
        "hidden_sizes": [4, 4, 6, 8],
        "depth": 10,
        "widen_factor": 1,
        "dropout": 0.1,
        "latent_dim": 5,
        "use_quantization": True,
        "num_anchors": 4,
    },
    "vgg16": {
        "backbone_type": "vgg16",
        "hidden_sizes": [4, 4, 6, 6, 8],
        "latent_dim": 4,
        "use_quantization": True,
        "num_anchors": 5,
        "train_anchors": True,
    },
    "wide_resnet50": {
        "backbone_type": "wide_resnet50",
        "hidden_sizes": [8, 8, 12, 16],
        "depths": [1, 2, 1, 1],
        "latent_dim": 4,
    },
}
# The published networks: classes, and parameters without (and with) quantisation, in units.
PUBLISHED = {
    "vgg_cifar": (10, 20_040_789, 20_040_809),
    "wide_resnet_cifar": (100, 65_109_260, 65_109_280),
    "vgg16": (200, 17_196_307, 24_275_751),
    "wide_resnet50": (200, 109_990_675, 109_990_695),
}


def make_config(name, **options):
    return AIBConfig(**{"num_labels": 3, "stochastic_eval": False, **copy.deepcopy(CONFIGS[name]), **options})


def make_model(name, **options):
    return with_random_weights(AIBForImageClassification(make_config(name, **options)))


@pytest.fixture(params=["vgg_cifar_quantized", "wide_resnet50"])
def config(request):
    return make_config(request.param)


class TestAIB(ModelChecks):
    base_class = AIBModel
    head_classes = (AIBForImageClassification,)

    def make_inputs(self, config, batch_size):
        return {"pixel_values": torch.randn(batch_size, 3, 32, 32)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.arange(batch_size) % config.num_labels}


class TestConfig(ConfigChecks):
    config_class = AIBConfig
    config_arguments = {
        "backbone_type": "wide_resnet_cifar",
        "image_size": 64,
        "num_channels": 1,
        "hidden_sizes": [8, 8, 16, 32],
        "depth": 16,
        "widen_factor": 2,
        "dropout": 0.2,
        "latent_dim": 8,
        "num_samples_train": 2,
        "num_samples_eval": 3,
        "stochastic_eval": False,
        "std_offset": 4.0,
        "beta": 0.1,
        "info_loss_scale": 2.0,
        "kl_sigma": "direct",
        "use_quantization": True,
        "num_anchors": 7,
        "vq_weight": 0.2,
        "commitment_weight": 0.3,
        "train_anchors": False,
    }

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_defaults_are_the_published_networks(self, name):
        num_labels, plain, quantized = PUBLISHED[name]
        for use_quantization, count in ((False, plain), (True, quantized)):
            config = AIBConfig(backbone_type=name, num_labels=num_labels, use_quantization=use_quantization)
            with torch.device("meta"):
                model = AIBForImageClassification(config)
            # Anchors that are not trained are no parameter here.
            frozen = config.num_anchors if use_quantization and not config.train_anchors else 0
            assert model.num_parameters() + frozen == count
        is_cub = name in ("vgg16", "wide_resnet50")
        assert (config.image_size, config.num_samples_eval) == ((224, 12) if is_cub else (32, 4))
        assert config.train_anchors is not is_cub
        assert config.info_loss_scale == (0.5 if name == "vgg_cifar" else 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_size": 0}, "`image_size` must be 1 or more"),
            ({"num_channels": 0}, "`num_channels` must be 1 or more"),
            ({"latent_dim": -1}, "`latent_dim` must be 1 or more"),
            ({"num_samples_train": 0}, "`num_samples_train` must be 1 or more"),
            ({"num_samples_eval": 0}, "`num_samples_eval` must be 1 or more"),
            ({"num_anchors": 0}, "`num_anchors` must be 1 or more"),
            ({"beta": -0.1}, "`beta` must be a finite number"),
            ({"beta": float("nan")}, "`beta` must be a finite number"),
            ({"vq_weight": float("inf")}, "`vq_weight` must be a finite number"),
            ({"commitment_weight": -1}, "`commitment_weight` must be a finite number"),
            ({"std_offset": -1}, "`std_offset` must be a finite number"),
            ({"hidden_sizes": [4, 4, 4]}, "`hidden_sizes` must be 4 positive numbers"),
            ({"hidden_sizes": [4, 4, 4, 0]}, "`hidden_sizes` must be 4 positive numbers"),
            ({"backbone_type": "vgg16", "hidden_sizes": [4] * 4}, "`hidden_sizes` must be 5 positive numbers"),
            ({"depths": [1, 1, 1, 1]}, "`depths` must be None"),
            ({"depth": 28}, "`depth` must be None"),
            ({"backbone_type": "wide_resnet_cifar", "depth": 27}, r"`depth` must be 6 n \+ 4"),
            ({"backbone_type": "wide_resnet_cifar", "depth": 4}, r"`depth` must be 6 n \+ 4"),
            ({"backbone_type": "wide_resnet_cifar", "widen_factor": 0}, "`widen_factor` must be a positive number"),
            ({"widen_factor": 2}, "`widen_factor` must be 1"),
            ({"dropout": 0.3}, "`dropout` must be a rate"),
            ({"backbone_type": "wide_resnet_cifar", "dropout": 1.0}, "`dropout` must be a rate"),
            ({"attention_hidden_layers": -1}, "`attention_hidden_layers` must be 0 or more"),
            (
                {"backbone_type": "wide_resnet50", "attention_hidden_layers": 1},
                "`attention_hidden_layers` must be 0 or more",
            ),
            (
                {"backbone_type": "wide_resnet50", "hidden_sizes": [8, 8, 8, 6]},
                "`hidden_sizes` must be multiples of 4",
            ),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            AIBConfig(**arguments)

    @pytest.mark.parametrize("arguments", [{"backbone_type": "resnet"}, {"kl_sigma": "log"}, {"beta": "0.1"}])
    def test_refuses_types_and_choices(self, arguments):
        with pytest.raises(Exception, match=next(iter(arguments))):
            AIBConfig(**arguments)


# Sampling


def test_noise_is_drawn_as_in_the_original():
    """One seed: first the noise of the maps, then that of the codes."""
    model = make_model("vgg_cifar", stochastic_eval=True, num_samples_eval=2)
    pixel_values = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.manual_seed(7)
        drawn = model(pixel_values)
        torch.manual_seed(7)
        attention_noise, latent_noise = torch.randn(2, 3, 256), torch.randn(2, 6, 5)
        given = model(pixel_values, attention_noise=attention_noise, latent_noise=latent_noise)
        by_generator = model(pixel_values, generator=torch.Generator().manual_seed(7))
    assert_equal(dict(drawn), dict(given))
    assert_equal(dict(drawn), dict(by_generator))
    assert drawn.attention_maps.shape == (3, 2, 16, 16)


def test_samples_are_the_codes_of_each_map():
    """Row by row: `sample * batch + image` of the noise, and the mean over codes and maps."""
    model = make_model("vgg_cifar")
    pixel_values, samples, batch = torch.randn(2, 3, 32, 32), 3, 2
    attention_noise, latent_noise = torch.randn(samples, batch, 256), torch.randn(samples, samples * batch, 5)
    with torch.no_grad():
        outputs = model(pixel_values, attention_noise=attention_noise, latent_noise=latent_noise)
        base = model.aib(pixel_values, attention_noise=attention_noise, latent_noise=latent_noise)
        for sample in range(samples):
            for image in range(batch):
                row = sample * batch + image
                alone = model.aib(
                    pixel_values[image, None],
                    attention_noise=attention_noise[sample, image, None],
                    latent_noise=latent_noise[0, row, None],
                )
                mean, std = alone.latent_mean[0, 0], alone.latent_std[0, 0]
                assert_close(outputs.attention_maps[image, sample], alone.attention_maps[0, 0])
                assert_close(outputs.latent_mean[image, sample], mean)
                codes = mean + std * latent_noise[:, row]
                assert_close(base.latents[image, sample], codes)
                hidden = model.decoder.hidden(codes).relu()
                assert_close(outputs.sample_logits[image, sample], model.decoder.classifier(hidden).mean(0))
    assert_close(outputs.logits, outputs.sample_logits.mean(1))


def test_means_do_not_depend_on_chance_or_samples():
    model = make_model("vgg16")
    pixel_values = torch.randn(2, 3, 32, 32)
    zeros = {"attention_noise": torch.zeros(2, 4), "latent_noise": torch.zeros(2, 4)}
    with torch.no_grad():
        outputs, by_zeros = model(pixel_values), model(pixel_values, **zeros)
        assert not torch.equal(model(pixel_values, num_samples=1).logits, outputs.logits)
    assert outputs.attention_maps.shape == (2, 1, 2, 2)
    assert_close(dict(outputs), dict(by_zeros))
    assert ((outputs.attention_maps > 0) & (outputs.attention_maps < 1)).all()


def test_number_of_samples():
    model = make_model("wide_resnet50", stochastic_eval=True, num_samples_train=2, num_samples_eval=3)
    pixel_values = torch.randn(2, 3, 32, 32)

    def count(**options):
        with torch.no_grad():
            return model(pixel_values, **options).sample_logits.shape[1]

    assert (count(), count(num_samples=5), count(latent_noise=torch.randn(2, 4))) == (3, 5, 1)
    assert count(attention_noise=torch.randn(4, 2, 4)) == 4
    model.train()
    assert count() == 2


def test_training_samples_even_where_evaluation_does_not():
    model = make_model("wide_resnet_cifar", dropout=0.0).train()
    pixel_values = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(pixel_values).attention_maps, model(pixel_values).attention_maps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_samples_the_same_noise(dtype):
    model = make_model("vgg16")
    pixel_values = torch.randn(2, 3, 32, 32)
    options = {"generator": torch.Generator(), "num_samples": 2}
    with torch.no_grad():
        options["generator"].manual_seed(0)
        expected = model(pixel_values, **options).latent_mean
        options["generator"].manual_seed(0)
        outputs = model.to(dtype)(pixel_values, **options)
    assert outputs.latent_mean.dtype == dtype
    assert_close(outputs.latent_mean.float(), expected, atol=0.05, rtol=0.05)


# Any size


@pytest.mark.parametrize(
    ("name", "size", "feature_map"),
    [
        ("vgg_cifar", (96, 64), (48, 32)),
        ("wide_resnet_cifar", (40, 57), (20, 29)),
        ("vgg16", (50, 35), (3, 2)),
        ("wide_resnet50", (50, 35), (4, 3)),
        ("wide_resnet50", (1, 1), (1, 1)),
        ("vgg_cifar", (32, 32), (16, 16)),
    ],
)
def test_maps_have_the_size_of_the_features(name, size, feature_map):
    model = make_model(name)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, *size), num_samples=2)
    assert outputs.attention_maps.shape == (1, 2, *feature_map)
    assert outputs.logits.shape == (1, 3)
    assert outputs.logits.isfinite().all()


# Quantisation


def by_distances(scores, anchors):
    """The original's way: the smallest squared distance to all anchors, the first of equal ones."""
    return (scores[..., None] - anchors).square().min(-1).indices


@pytest.mark.parametrize(
    "anchors",
    [
        torch.linspace(0, 1, 20),
        torch.tensor([0.75, 0.25, 0.5, 0.0, 1.0]),
        torch.tensor([0.5, 0.25, 0.5, 0.25]),
        torch.tensor([0.5]),
    ],
    ids=["ascending", "unsorted", "repeated", "single"],
)
def test_nearest_anchors(anchors):
    edges = torch.cat([anchors, (anchors[:, None] + anchors).flatten() / 2])  # ties among them
    scores = torch.cat([edges, torch.randn(5000), torch.rand(5000)])
    assert_equal(nearest_anchors(scores, anchors), by_distances(scores, anchors))


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_score_in_the_middle_takes_the_lower_index(order):
    anchors = torch.tensor([0.25, 0.75] if order == "ascending" else [0.75, 0.25])
    assert nearest_anchors(torch.tensor([[0.5]]), anchors).tolist() == [[0]]


def test_quantisation_losses_and_gradients():
    attention = AIBAttention(convolution_head(4), num_anchors=3)
    features = torch.randn(2, 4, 3, 5)
    outputs = attention(features, num_samples=2)
    scores, quantized = outputs.attention_maps, outputs.quantized_attention_maps
    values = attention.anchors[by_distances(scores, attention.anchors)]
    assert_close(quantized, values)
    assert_close(outputs.vq_losses, (values - scores).square().mean((1, 2, 3)))
    assert_equal(outputs.vq_losses, outputs.commitment_losses)
    head = list(attention.mean_head.parameters())
    anchors = torch.autograd.grad(outputs.vq_losses.sum(), attention.anchors, retain_graph=True)[0]
    assert anchors.any()
    unused = torch.autograd.grad(outputs.vq_losses.sum(), head, retain_graph=True, allow_unused=True)
    assert unused == (None, None)
    assert torch.autograd.grad(outputs.commitment_losses.sum(), head, retain_graph=True)[0].any()
    # Straight through: weights have the gradients that they have without anchors, and no anchor has one.
    gradient, noise = torch.randn(4, 4, 3, 5), torch.randn(2, 2, 15)
    plain = copy.deepcopy(attention)
    plain.anchors = None
    gradients = [
        torch.autograd.grad(module(features, 2, noise).attended_features, module.mean_head[0].weight, gradient)[0]
        for module in (attention, plain)
    ]
    assert_close(*gradients)
    attended = attention(features, 2, noise).attended_features
    assert torch.autograd.grad(attended, attention.anchors, gradient, allow_unused=True) == (None,)


def test_frozen_anchors(tmp_path):
    """Also after loading, and from a model that trained them."""
    trained = make_model("vgg16")
    trained.aib.attention.anchors.data += 0.1
    trained.save_pretrained(tmp_path)
    model = AIBForImageClassification.from_pretrained(tmp_path, train_anchors=False).train()
    anchors = model.aib.attention.anchors
    assert_equal(anchors, trained.aib.attention.anchors.data)
    assert "aib.attention.anchors" not in dict(model.named_parameters())
    outputs = model(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1]))
    outputs.loss.backward()
    assert not anchors.requires_grad
    assert outputs.vq_loss > 0


# Losses


def test_loss_is_the_sum_of_its_terms():
    model = make_model("vgg16", beta=0.3, info_loss_scale=0.5, vq_weight=2.0, commitment_weight=3.0)
    outputs = model(torch.randn(4, 3, 32, 32), labels=torch.tensor([0, 2, 1, 1]), num_samples=2)
    logits = outputs.logits
    assert_close(outputs.class_loss * math.log(2), nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1, 1])))
    prior = torch.distributions.Normal(0, 1)
    codes = torch.distributions.Normal(outputs.latent_mean, outputs.latent_std.exp())
    divergence = torch.distributions.kl_divergence(codes, prior).sum(-1).mean()
    assert_close(outputs.info_loss, 0.5 * divergence / math.log(2))
    terms = outputs.class_loss + 0.3 * outputs.info_loss + 2 * outputs.vq_loss + 3 * outputs.commitment_loss
    assert_close(outputs.loss, terms)


@pytest.mark.parametrize("kl_sigma", ["exp", "direct"])
def test_divergence(kl_sigma):
    mean, std = torch.randn(50, 4, dtype=torch.float64), torch.rand(50, 4, dtype=torch.float64) * 3 + 1e-3
    sigma = std.exp() if kl_sigma == "exp" else std
    normals = (torch.distributions.Normal(mean, sigma), torch.distributions.Normal(0.0, 1.0))
    expected = torch.distributions.kl_divergence(*normals).sum(-1)
    assert_close(divergence_from_standard_normal(mean, std, kl_sigma), expected)


def test_divergence_of_a_vanishing_spread():
    std = torch.tensor([[0.0, 1e-30, 1e-4]], requires_grad=True)
    for kl_sigma in ("exp", "direct"):
        divergence = divergence_from_standard_normal(torch.zeros(1, 3), std, kl_sigma)
        assert divergence.isfinite().all()
        assert torch.autograd.grad(divergence.sum(), std)[0].isfinite().all()
    # To the second order in the spread; a difference of exponentials would be all rounding.
    assert_close(divergence_from_standard_normal(torch.zeros(1, 1), std[:, 2:], "exp"), torch.tensor([1e-8]))


def test_losses_come_with_labels_only():
    outputs = make_model("vgg16")(torch.randn(2, 3, 32, 32))
    assert outputs.loss is outputs.class_loss is outputs.vq_loss is None
    assert make_model("vgg_cifar")(torch.randn(2, 3, 32, 32)).quantized_attention_maps is None


# Speed-ups that change nothing


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [2, 32])
def test_folded_batch_norm(bias, size):
    """Folded for the larger map, not for the smaller one: both as in training with the same statistics."""
    layer = with_random_weights(AIBConvolution(3, 5, stride=2, bias=bias))
    layer.normalization.running_mean.normal_()
    layer.normalization.running_var.uniform_(0.5, 2)
    hidden_states = torch.randn(2, 3, size, size)
    expected = layer.normalization(layer.convolution(hidden_states)).relu()
    assert_close(layer(hidden_states), expected, atol=1e-5, rtol=1e-5)


def test_evaluation_has_gradients():
    """Of pixels and weights, although sums and ReLUs overwrite their input."""
    for name in CONFIGS:
        model = make_model(name)
        pixel_values = torch.randn(2, 3, 32, 32, requires_grad=True)
        model(pixel_values, labels=torch.tensor([0, 1]), num_samples=2).loss.backward()
        assert pixel_values.grad.any(), name
        assert all(weight.grad.isfinite().all() for weight in model.parameters()), name


# Initial weights


def test_initial_weights_are_those_of_the_script():
    vgg = AIBForImageClassification(AIBConfig(hidden_sizes=[8, 16, 64, 64], latent_dim=64))
    convolution, batch_norm = vgg.aib.encoder[1].convolution, vgg.aib.encoder[1].normalization
    bound = math.sqrt(2) * math.sqrt(6 / (9 * 64 + 9 * 64))
    assert 0.98 * bound < convolution.weight.abs().max() <= bound
    assert_close(convolution.weight.std().item(), bound / math.sqrt(3), atol=0, rtol=0.02)
    assert not convolution.bias.any()
    assert 0 <= batch_norm.weight.min() < 0.1
    assert 0.9 < batch_norm.weight.max() <= 1
    assert not vgg.decoder.classifier.bias.any()

    config = AIBConfig(backbone_type="wide_resnet_cifar", depth=10, widen_factor=2, num_labels=10)
    wide = AIBForImageClassification(config)
    convolution = wide.aib.encoder[0].output
    assert_close(convolution.weight.std().item(), math.sqrt(2 / (9 * 128)), atol=0, rtol=0.02)
    assert (wide.aib.encoder[0].normalization.weight == 1).all()
    assert wide.aib.attention.spread_head.bias.abs() <= 1 / 3
    assert not wide.aib.statistics.bias.any()
    bound = 1 / math.sqrt(128)
    assert 0.98 * bound < wide.aib.statistics.weight.abs().max() <= bound
    assert_equal(AIBModel(make_config("vgg16", num_anchors=20)).attention.anchors.detach(), torch.linspace(0, 1, 20))


# Parts in use elsewhere


def test_attention_on_features_of_another_network():
    features = torch.randn(2, 12, 7, 5, requires_grad=True)
    attention = AIBAttention(convolution_head(12, hidden_layers=1), num_anchors=4, std_offset=0.0)
    generator = torch.Generator().manual_seed(0)
    outputs = attention(features, num_samples=3, generator=generator)
    maps = outputs.quantized_attention_maps.transpose(0, 1)[:, :, None]
    assert_close(outputs.attended_features, (features + features * maps).flatten(0, 1))
    outputs.attended_features.sum().backward()
    assert features.grad.any()
    assert attention.spread_head.weight.grad.any()
    mean = attention(features, stochastic=False).attention_maps
    noise = torch.randn(2, 35)
    std = nn.functional.softplus(attention.spread_head(mean))
    assert_close(attention(features, noise=noise).attention_maps, mean + std * noise.view(2, 1, 7, 5))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_network_without_attention(name):
    networks = build_networks(make_config(name))
    plain = nn.Sequential(networks.backbone, networks.encoder, nn.Linear(networks.encoder_channels, 3))
    assert plain(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert networks.attention_head(torch.randn(2, networks.feature_channels, 4, 6)).shape == (2, 1, 4, 6)


@pytest.mark.usefixtures("auto_image_processor")
def test_pipeline(tmp_path):
    model = make_model("vgg_cifar", num_labels=4)
    model.save_pretrained(tmp_path)
    AIBImageProcessor().save_pretrained(tmp_path)
    classifier = pipeline("image-classification", model=str(tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    inputs = AIBImageProcessor()(image, return_tensors="pt")
    with torch.no_grad():
        scores = model(**inputs).logits.softmax(-1)[0]
    results = classifier(image, top_k=4)
    assert [result["label"] for result in results] == [f"LABEL_{index}" for index in scores.argsort(descending=True)]
    assert_close([result["score"] for result in results], scores.sort(descending=True).values.tolist())
    together = classifier([image, image[:, ::-1].copy()], batch_size=2, top_k=4)
    assert_close([result["score"] for result in together[0]], [result["score"] for result in results])


# Bad inputs


def images(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixel_values": images(3, 32, 32)}, r"`pixel_values` must have the shape \(batch, 3"),
        ({"pixel_values": images(2, 1, 32, 32)}, r"`pixel_values` must have the shape \(batch, 3"),
        ({"pixel_values": images(2, 32, 32, 3)}, r"`pixel_values` must have the shape \(batch, 3"),
        ({"pixel_values": images(0, 3, 32, 32)}, "without empty axes"),
        ({"pixel_values": images(2, 3, 0, 32)}, "without empty axes"),
        ({"pixel_values": images(2, 3, 31, 32)}, "sides of 32 pixels or more for 'vgg_cifar', got 31 x 32"),
        ({"pixel_values": images(2, 3, 1, 1)}, "sides of 32 pixels or more"),
        ({"num_samples": 0}, "`num_samples` must be a whole number of 1 or more, got 0"),
        ({"num_samples": -1}, "`num_samples` must be a whole number"),
        ({"num_samples": 2.0}, "`num_samples` must be a whole number"),
        ({"num_samples": True}, "`num_samples` must be a whole number"),
        ({"attention_noise": images(2, 255)}, "`attention_noise` must have the shape"),
        ({"attention_noise": images(2, 16, 16)}, r"`attention_noise` must have the shape \(2, 2, 256\)"),
        ({"attention_noise": images(3, 2, 256), "num_samples": 2}, "`attention_noise` must have the shape"),
        ({"attention_noise": images(2, 256), "num_samples": 2}, "`attention_noise` must have the shape"),
        ({"attention_noise": images(2, 256) * math.nan}, "`attention_noise` must hold finite"),
        ({"attention_noise": images(2, 256).long()}, "`attention_noise` must hold finite"),
        ({"latent_noise": images(2, 6)}, "`latent_noise` must have the shape"),
        ({"latent_noise": images(2, 2, 5)}, r"`latent_noise` must have the shape \(2, 4, 5\)"),
        ({"latent_noise": images(2, 5) + math.inf}, "`latent_noise` must hold finite"),
        (
            {"latent_noise": images(1, 2, 5), "attention_noise": images(2, 2, 256)},
            "`latent_noise` must have the shape",
        ),
        ({"labels": torch.tensor([0])}, r"`labels` must be \(2,\) class indices"),
        ({"labels": torch.tensor([[0], [1]])}, r"`labels` must be \(2,\) class indices"),
        ({"labels": torch.tensor([0.0, 1.0])}, r"`labels` must be \(2,\) class indices"),
        ({"labels": torch.tensor([True, False])}, r"`labels` must be \(2,\) class indices"),
        ({"labels": torch.tensor([0, 3])}, "`labels` must be from 0 to 2, got 0 to 3"),
        ({"labels": torch.tensor([-100, 1])}, "`labels` must be from 0 to 2, got -100 to 1"),
    ],
)
def test_refuses(inputs, message):
    model = make_model("vgg_cifar")
    with pytest.raises(ValueError, match=message):
        model(**{"pixel_values": torch.zeros(2, 3, 32, 32), **inputs})
