import copy
import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import ResNetConfig, SwinConfig

from hvmodels import EDPoseConfig, EDPoseForPoseEstimation, EDPoseModel
from hvmodels.keypoint_sets import COCO17, CROWDPOSE14
from hvmodels.models.ed_pose.decoder_ed_pose import clamped_inverse_sigmoid, sine_encoding
from hvmodels.models.ed_pose.modeling_ed_pose import FeatureLevels
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    first_row,
    seed_of_each_module,  # noqa: F401
    seeded,
)


pytestmark = pytest.mark.usefixtures("seed_of_each_module")


RESNET = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 3,
    "drop_path_rate": 0.0,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_box_decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_n_points": 2,
    "decoder_n_points": 3,
    "num_queries": 12,
    "num_groups": 5,
    "num_denoising": 7,
}
CONFIGS = {
    "resnet": {"backbone_config": RESNET, "num_keypoints": 17},
    "swin": {"backbone_config": SWIN, "num_keypoints": 14, "expansion_head": "first", "num_feature_levels": 5},
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return EDPoseConfig(**SIZES, **copy.deepcopy(CONFIGS[request.param]))


def make_images(batch_size, height=60, width=70):
    """Images that fill the batch to different extents."""
    pixel_values = torch.randn(batch_size, 3, height, width)
    pixel_mask = torch.ones(batch_size, height, width, dtype=torch.int64)
    for image in range(1, batch_size):
        pixel_mask[image, height - 9 * image :] = 0
        pixel_mask[image, :, width - 5 * image :] = 0
    return {"pixel_values": pixel_values * pixel_mask[:, None], "pixel_mask": pixel_mask}


def make_persons(config, count):
    centers, sizes = torch.rand(count, 2) * 0.6 + 0.2, torch.rand(count, 2) * 0.2 + 0.1
    boxes = torch.cat([centers, sizes], dim=-1)
    keypoints = centers[:, None] + (torch.rand(count, config.num_keypoints, 2) - 0.5) * sizes[:, None]
    return {
        "class_labels": torch.ones(count, dtype=torch.int64),
        "boxes": boxes,
        "keypoints": keypoints,
        "keypoints_visible": (torch.rand(count, config.num_keypoints) < 0.8).float(),
        "area": sizes.prod(-1),
    }


def make_labels(config, *counts):
    return [make_persons(config, count) for count in counts]


def random_model(model_class, config):
    """Weights about as large as those of a trained model: nothing vanishes, and nothing saturates."""
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            base = 1.0 if parameter.ndim == 1 and (parameter == 1).all() else 0.0
            parameter.copy_(base + scale * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("normalization.weight", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


class TestEDPoseModels(ModelChecks):
    base_class = EDPoseModel
    head_classes = (EDPoseForPoseEstimation,)

    def make_inputs(self, config, batch_size):
        return make_images(batch_size)

    def make_labels(self, config, batch_size):
        return {"labels": make_labels(config, *range(batch_size))}

    def test_loss_gives_every_parameter_a_gradient(self, head_class, config):
        model = random_model(head_class, config).train()
        outputs = model(**self.make_inputs(config, 3), **self.make_labels(config, 3))
        assert next(iter(outputs)) == "loss"
        assert outputs.loss.ndim == 0
        assert outputs.loss > 0
        outputs.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # Sizes of keypoints reach no loss: references are detached between layers. As in the original.
            assert parameter.grad.any() == ("keypoint_size" not in name), name

    def test_rows_of_a_batch_are_independent(self, model_class, config):
        model = random_model(model_class, config).double()
        inputs = self.make_inputs(config, 4)
        with torch.no_grad():
            together, alone = model(**inputs), model(**first_row(inputs))
        assert_close(dict(alone), first_row(together), atol=1e-6, rtol=1e-6)

    def test_pickle(self, model_class, config):
        if config.backbone_config.model_type == "swin":
            pytest.skip("transformers hooks into its Swin in a way that cannot be pickled")
        super().test_pickle(model_class, config)

    def test_mismatched_size(self, model_class, config, tmp_path):
        if config.backbone_config.model_type == "swin":
            pytest.skip("transformers writes its Swin under other names than it reports")
        super().test_mismatched_size(model_class, config, tmp_path)


class TestEDPoseConfig(ConfigChecks):
    config_class = EDPoseConfig
    config_arguments = {
        **SIZES,
        "num_feature_levels": 5,
        "num_keypoints": 3,
        "expansion_head": "first",
        "positional_embedding_temperature": [20.0, 10.0],
        "inverse_sigmoid_eps": 1e-5,
        "label_noise_ratio": 0.25,
        "box_noise_scale": 0.1,
        "denoising_label_size": 10,
        "keypoint_sigmas": [0.1, 0.2, 0.3],
        "keypoint_names": ["a", "b", "c"],
        "keypoint_flip_pairs": [[0, 2]],
        "keypoint_links": [[0, 1], [1, 2]],
        "auxiliary_loss": False,
        "class_cost": 1.5,
        "dn_class_loss_coefficient": 0.1,
        "focal_gamma": 1.5,
    }

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"encoder_layers": 0}, "`encoder_layers` must be at least 1, got 0"),
            ({"decoder_layers": 2}, r"`decoder_layers` \(2\) must be more than"),
            ({"d_model": 250}, "must be a multiple of `encoder_attention_heads`"),
            ({"d_model": 40}, "must be a multiple of 32"),
            ({"num_queries": 50}, r"`num_queries` \(50\) must be at least `num_groups` \(100\)"),
            ({"num_denoising": -1}, "must be 0"),
            ({"inverse_sigmoid_eps": 0.0}, "between 0 and 0.5"),
            ({"label_noise_ratio": 2}, "between 0 and 1"),
            ({"positional_embedding_temperature": [20, 20, 20]}, "or two for height and width"),
            ({"num_feature_levels": 2}, "at least the number of stages"),
            ({"backbone_config": {"model_type": "resnet50"}}, "must name a model of transformers"),
            ({"keypoint_sigmas": [0.1]}, "must have `num_keypoints` = 17 entries, got 1"),
            ({"keypoint_sigmas": [0.0] * 17}, "must be positive"),
            ({"keypoint_flip_pairs": [[0, 17]]}, r"indices in \[0, 17\)"),
            ({"keypoint_flip_pairs": [[0, 1], [1, 2]]}, "must name each keypoint once"),
            ({"keypoint_links": [[1, 2, 3]]}, "must be pairs"),
        ],
    )
    def test_values_that_do_not_fit(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            EDPoseConfig(**arguments)

    @pytest.mark.parametrize("arguments", [{"d_model": "256"}, {"expansion_head": "middle"}, {"num_queries": 900.0}])
    def test_wrong_types(self, arguments):
        with pytest.raises(Exception, match=next(iter(arguments))):
            EDPoseConfig(**arguments)

    def test_defaults_are_the_published_model(self):
        config = EDPoseConfig()
        assert isinstance(config.backbone_config, ResNetConfig)
        assert config.backbone_config.depths == (3, 4, 6, 3)
        assert config.backbone_config.out_features == ["stage2", "stage3", "stage4"]
        assert config.id2label == {0: "N/A", 1: "person"}
        assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (256, 6, 8)

    def test_backbone_config_of_any_form(self):
        for backbone in (SWIN, SwinConfig.from_dict(SWIN)):
            config = EDPoseConfig(backbone_config=backbone)
            assert isinstance(config.backbone_config, SwinConfig)
            assert config.backbone_config.embed_dim == 8

    @pytest.mark.parametrize("keypoint_set", [COCO17, CROWDPOSE14], ids=lambda keypoint_set: keypoint_set.name)
    def test_keypoint_sets_are_those_of_the_package(self, keypoint_set):
        config = EDPoseConfig(num_keypoints=len(keypoint_set))
        assert config.keypoint_names == list(keypoint_set.keypoints)
        assert config.keypoint_sigmas == list(keypoint_set.sigmas)
        assert config.keypoint_flip_pairs == [list(pair) for pair in keypoint_set.flip_pairs]
        assert config.keypoint_links == [list(link) for link in keypoint_set.links]

    def test_other_keypoints_are_unknown(self):
        config = EDPoseConfig(num_keypoints=5)
        assert config.keypoint_names is config.keypoint_sigmas is config.keypoint_links is None


# Initial weights


def test_initial_weights(config):
    model = EDPoseForPoseEstimation(config)
    decoder = model.model.decoder
    for head in (*decoder.class_heads, model.model.proposal_class_head):
        assert_close(head.bias.sigmoid(), torch.full_like(head.bias, 0.01))
        assert 0 < head.weight.abs().max() <= 1 / 32**0.5
    for head in (*decoder.box_heads, *decoder.keypoint_heads, model.model.proposal_box_head):
        assert not any(parameter.any() for parameter in head.layers[-1].parameters())
        assert all(parameter.any() for parameter in head.layers[0].parameters())
    assert all(parameter.any() for parameter in decoder.keypoint_size_head.parameters())
    attention = decoder.layers[0].self_attn
    bound = (6 / (32 + 3 * 32)) ** 0.5
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        assert 0.9 * bound < projection.weight.abs().max() <= bound
        assert not projection.bias.any()
    cross_attention = decoder.layers[0].encoder_attn
    assert not cross_attention.sampling_offsets.weight.any()
    assert cross_attention.sampling_offsets.bias.any()
    bound = (6 / (32 + 24)) ** 0.5
    assert 0.9 * bound < model.model.encoder_layers[0].feed_forward.fc1.weight.abs().max() <= bound
    assert abs(model.label_embedding.weight.std() - 1) < 0.1
    for convolution in model.model.input_projections.convolutions:
        assert not convolution.bias.any()


def test_heads_do_not_start_equal(config):
    decoder = EDPoseModel(config).decoder  # one seed a module here, so look at what a real construction gives
    assert decoder.class_heads[0].weight is not decoder.class_heads[1].weight


def test_fresh_weights_when_a_head_is_replaced(tmp_path):
    config = EDPoseConfig(**SIZES, **copy.deepcopy(CONFIGS["resnet"]))
    random_model(EDPoseForPoseEstimation, config).save_pretrained(tmp_path)
    model = EDPoseForPoseEstimation.from_pretrained(
        tmp_path, num_keypoints=5, keypoint_sigmas=[0.1] * 5, keypoint_names=None, keypoint_flip_pairs=None,
        keypoint_links=None, num_labels=3, ignore_mismatched_sizes=True,
    )  # fmt: skip
    head, fresh = (
        model.model.decoder.class_heads[0],
        EDPoseForPoseEstimation(model.config).model.decoder.class_heads[0],
    )
    assert_equal(head.state_dict(), fresh.state_dict())
    assert model.model.decoder.keypoint_embedding.weight.shape == (5, 32)


def test_frozen_part_of_resnet_stays_frozen(tmp_path):
    constructed = EDPoseForPoseEstimation(EDPoseConfig(**SIZES, backbone_config=copy.deepcopy(RESNET)))
    constructed.save_pretrained(tmp_path)
    for model in (constructed, EDPoseForPoseEstimation.from_pretrained(tmp_path)):
        backbone = model.model.backbone
        names = {name for name, _ in backbone.named_parameters()}
        assert names
        assert not any(name.startswith(("embedder.", "encoder.stages.0.")) for name in names)
        assert not any("normalization" in name for name in names)
        before = copy.deepcopy(backbone.state_dict())
        model.train()
        model(**make_images(2), labels=make_labels(model.config, 1, 2)).loss.backward()
        assert_equal(backbone.state_dict(), before)


# Values


@pytest.mark.parametrize("stage", [1, 4])
def test_frozen_norm_equals_batch_norm(stage):
    from transformers import ResNetBackbone

    config = ResNetConfig.from_dict({**RESNET, "out_features": [f"stage{stage}"]})
    plain = random_model(ResNetBackbone, config).double()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    model = EDPoseModel(EDPoseConfig(**SIZES, backbone_config=config)).double()
    state_dict = {name: value for name, value in plain.state_dict().items() if "num_batches" not in name}
    model.backbone.load_state_dict(state_dict)
    images = torch.randn(2, 3, 50, 41, dtype=torch.float64)
    (expected,), (actual,) = plain(images).feature_maps, model.backbone(images).feature_maps
    assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def test_inverse_sigmoid():
    values = torch.tensor([-1.0, 0.0, 5e-4, 0.5, 0.9996, 1.0, 2.0], dtype=torch.float64)
    expected = []
    for value in values.tolist():
        value = min(max(value, 0), 1)
        expected.append(torch.log(torch.tensor(max(value, 1e-3) / max(1 - value, 1e-3), dtype=torch.float64)))
    assert_close(clamped_inverse_sigmoid(values, 1e-3), torch.stack(expected))


def test_sine_encoding():
    encoding = sine_encoding(torch.tensor([0.25]), 4, 100)
    angles = [0.5 * torch.pi, 0.05 * torch.pi]
    expected = [value for angle in angles for value in (torch.tensor(angle).sin(), torch.tensor(angle).cos())]
    assert_close(encoding[0], torch.stack(expected))


def test_without_a_mask_equals_a_mask_of_ones(config):
    model, images = random_model(EDPoseForPoseEstimation, config), make_images(1)
    with torch.no_grad():
        masked = model(images["pixel_values"], torch.ones(1, 60, 70), output_hidden_states=True)
        plain = model(images["pixel_values"], output_hidden_states=True)
    assert_close(dict(plain), dict(masked), atol=1e-5, rtol=1e-5)


def test_positions_without_a_mask_equal_those_with_one():
    tokens, shapes = torch.zeros(2, 29, 8), [(5, 4), (3, 3)]
    valid = [torch.ones(2, *shape, dtype=torch.bool) for shape in shapes]
    masked, plain = FeatureLevels(tokens, shapes, valid), FeatureLevels(tokens, shapes, None)
    assert_close(plain.positions(8, (20, 10)).expand(2, -1, -1), masked.positions(8, (20, 10)))
    for one, other in zip(plain.centers(), masked.centers(), strict=True):
        assert_close(one.expand(2, -1, -1), other)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_padding_has_no_influence_on_others(config, dtype):
    """The picture alone, padded to the size of the batch, and in the batch: the same poses to 1e-4 pixels."""
    model, images = random_model(EDPoseForPoseEstimation, config), make_images(3)
    images["pixel_mask"] = images["pixel_mask"].to(dtype)
    with torch.no_grad():
        together = model(**images)
        for image in range(3):
            alone = model(**{name: value[image : image + 1] for name, value in images.items()})
            for name in ("pred_keypoints", "pred_boxes"):
                assert (alone[name][0] - together[name][image]).abs().max() * 70 < 1e-4
            assert_close(alone.logits[0], together.logits[image], atol=1e-5, rtol=1e-5)


def test_outputs(config):
    model = random_model(EDPoseForPoseEstimation, config)
    with torch.no_grad():
        outputs = model(**make_images(2), output_hidden_states=True, output_auxiliary=True)
    keypoints, layers = config.num_keypoints, config.decoder_layers
    assert outputs.logits.shape == (2, 5, 2)
    assert outputs.pred_boxes.shape == (2, 5, 4)
    assert outputs.pred_keypoints.shape == (2, 5, keypoints, 2)
    assert outputs.last_hidden_state.shape == (2, 5 * (keypoints + 1), 32)
    assert outputs.enc_outputs_class.shape == (2, 12, 2)
    assert outputs.enc_outputs_coord.shape == (2, 12, 4)
    assert len(outputs.encoder_hidden_states) == config.encoder_layers + 1
    assert_equal(outputs.encoder_hidden_states[-1], outputs.encoder_last_hidden_state)
    assert len(outputs.decoder_hidden_states) == layers + 1
    assert [len(state[0]) for state in outputs.decoder_hidden_states] == [12] * 2 + [5 * (keypoints + 1)] * 2
    assert [auxiliary["pred_keypoints"] is None for auxiliary in outputs.auxiliary_outputs] == [True, False]
    assert outputs.loss is outputs.denoising_outputs is None
    for name in ("pred_boxes", "pred_keypoints"):
        assert 0 <= outputs[name].min() <= outputs[name].max() <= 1


def test_output_hidden_states_by_configuration(config):
    config.output_hidden_states = True
    model = EDPoseForPoseEstimation(config).eval()
    with torch.no_grad():
        outputs = model(**make_images(1))
        assert outputs.encoder_hidden_states is not None
        assert model(**make_images(1), output_hidden_states=False).encoder_hidden_states is None


def test_gradient_reaches_the_first_hidden_states(config):
    model = random_model(EDPoseForPoseEstimation, config)
    outputs = model(**make_images(1), output_hidden_states=True)
    states = [outputs.encoder_hidden_states[0], outputs.decoder_hidden_states[1]]
    for gradient in torch.autograd.grad(outputs.pred_keypoints.sum(), states):
        assert gradient.any()


# Training


def test_checkpointing_changes_nothing(config):
    inputs, labels = make_images(2), make_labels(config, 2, 1)
    gradients = []
    for options in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        model = random_model_of_one_seed(config).double().train()
        if options is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        torch.manual_seed(1)
        model(**inputs, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for other in gradients[1:]:
        assert_close(other, gradients[0], atol=1e-6, rtol=1e-6)


def random_model_of_one_seed(config):
    return seeded(lambda: random_model(EDPoseForPoseEstimation, config))


def test_images_without_persons(config):
    model = random_model(EDPoseForPoseEstimation, config).train()
    outputs = model(**make_images(2), labels=make_labels(config, 0, 0))
    assert outputs.loss.isfinite()
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_loss_in_evaluation_has_no_denoising(config):
    model, images, labels = random_model_of_one_seed(config), make_images(2), make_labels(config, 2, 1)
    with torch.no_grad():
        outputs, again = model(**images, labels=labels), model(**images, labels=labels)
        plain = model(**images)
    assert_equal(outputs.loss, again.loss)
    assert outputs.denoising_outputs is None
    assert not any(name.startswith("dn_") for name in outputs.loss_dict)
    assert_equal(outputs.logits, plain.logits)


def test_denoising_queries_change_no_prediction(config):
    model, images, labels = random_model_of_one_seed(config).train(), make_images(2), make_labels(config, 3, 2)
    with_denoising = model(**images, labels=labels)
    model.config.num_denoising = 0
    without = model(**images, labels=labels)
    for name in ("logits", "pred_boxes", "pred_keypoints", "enc_outputs_coord"):
        assert_close(with_denoising[name], without[name], atol=1e-5, rtol=1e-5)
    assert len(with_denoising.denoising_outputs) == config.decoder_layers
    assert with_denoising.denoising_outputs[0]["pred_boxes"].shape == (2, 7, 4)
    assert without.denoising_outputs is None


def test_runs_repeat(config):
    model, images, labels = random_model_of_one_seed(config).train(), make_images(2), make_labels(config, 3, 2)
    losses = [seeded(lambda: model(**images, labels=labels)).loss for _ in range(2)]
    assert_equal(*losses)


def test_denoising_off_needs_no_label_embedding(config, tmp_path):
    model = random_model(EDPoseForPoseEstimation, config)
    model.save_pretrained(tmp_path)
    loaded, info = EDPoseForPoseEstimation.from_pretrained(tmp_path, num_denoising=0, output_loading_info=True)
    assert loaded.label_embedding is None
    assert not info["missing_keys"]
    loaded.train()(**make_images(2), labels=make_labels(config, 1, 2)).loss.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_without_auxiliary_loss(config):
    config.auxiliary_loss = False
    model = random_model(EDPoseForPoseEstimation, config)
    outputs = model(**make_images(2), labels=make_labels(config, 1, 2))
    assert outputs.auxiliary_outputs is None
    assert "loss_ce" in outputs.loss_dict
    assert "loss_ce_0" not in outputs.loss_dict


def test_training_finds_a_person():
    config = EDPoseConfig(**SIZES, **copy.deepcopy(CONFIGS["resnet"]))
    model = EDPoseForPoseEstimation(config).train()
    images, labels = make_images(1, 70, 70), make_labels(config, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = model(**images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# Inputs that do not fit


@pytest.fixture(scope="module")
def small_model():
    return EDPoseForPoseEstimation(EDPoseConfig(**SIZES, backbone_config=copy.deepcopy(RESNET))).eval()


@pytest.mark.parametrize("shape", [(3, 60, 70), (1, 1, 60, 70), (1, 60, 70, 3)])
def test_wrong_shapes(small_model, shape):
    with pytest.raises(ValueError, match=r"`pixel_values` must have shape \(batch, 3, height, width\)"):
        small_model(torch.zeros(shape))


def test_wrong_mask(small_model):
    with pytest.raises(ValueError, match=r"`pixel_mask` must have shape .* \(1, 60, 70\), got \(1, 70, 60\)"):
        small_model(torch.zeros(1, 3, 60, 70), torch.ones(1, 70, 60))


@pytest.mark.parametrize("pixel_values", [torch.zeros(1, 3, 9, 9, dtype=torch.uint8), [[0.0]]], ids=["uint8", "list"])
def test_wrong_type(small_model, pixel_values):
    with pytest.raises(TypeError, match="`pixel_values` must be a floating-point tensor"):
        small_model(pixel_values)


def test_image_too_small():
    sizes = {**SIZES, "num_queries": 500}
    model = EDPoseModel(EDPoseConfig(**sizes, backbone_config=copy.deepcopy(RESNET)))
    with pytest.raises(ValueError, match=r"`pixel_values` has 119 tokens an image, .* `num_queries` = 500"):
        model(torch.zeros(1, 3, 66, 70))


def test_unknown_arguments(small_model):
    for model in (small_model, small_model.model):
        with pytest.raises(TypeError, match="mask_pixels"):
            model(torch.zeros(1, 3, 60, 70), mask_pixels=None)


def test_wrong_labels(small_model):
    images, config = make_images(2), small_model.config
    with pytest.raises(ValueError, match="`labels` must have one dict for each of 2 images, got 1"):
        small_model(**images, labels=make_labels(config, 1))
    with pytest.raises(TypeError, match="`labels` must be a list of one dict an image, got dict"):
        small_model(**images, labels=make_persons(config, 1))
    with pytest.raises(ValueError, match=r"`labels\[1\]` lacks \['area'\]"):
        small_model(**images, labels=[make_persons(config, 1), {k: v for k, v in make_persons(config, 1).items() if k != "area"}])  # fmt: skip


def test_training_needs_sigmas():
    config = EDPoseConfig(**SIZES, backbone_config=copy.deepcopy(RESNET), num_keypoints=5)
    model = EDPoseForPoseEstimation(config)
    assert model.eval()(**make_images(1)).pred_keypoints.shape == (1, 5, 5, 2)
    with pytest.raises(ValueError, match="keypoint_sigmas"):
        model.train()(**make_images(1), labels=make_labels(config, 1))
    config.keypoint_sigmas = [0.1] * 5
    assert model(**make_images(1), labels=make_labels(config, 1)).loss > 0


# Compilation and code on the Hub


def test_compiles_in_one_graph(small_model):
    images = make_images(1)
    explanation = torch._dynamo.explain(small_model)(**images)
    assert explanation.graph_break_count == 0


def test_forward_arguments():
    arguments = list(inspect.signature(EDPoseForPoseEstimation.forward).parameters)
    assert arguments[1:4] == ["pixel_values", "pixel_mask", "labels"]


LOAD_WITHOUT_PACKAGE = """
import json, sys, torch
sys.modules["hvmodels"] = None
from transformers import AutoModelForPoseEstimation, AutoModel
torch.set_num_threads(1)
model = AutoModelForPoseEstimation.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    outputs = model(torch.linspace(-1, 1, 3 * 60 * 70).view(1, 3, 60, 70))
print(json.dumps([type(model).__name__, outputs.pred_keypoints.flatten().tolist()]))
"""


@pytest.mark.parametrize("kind", CONFIGS)
def test_exported_folder_loads_without_the_package(kind, tmp_path):
    from hvmodels.hub import export
    from hvmodels.models.ed_pose import EDPoseImageProcessor

    config = EDPoseConfig(**SIZES, **copy.deepcopy(CONFIGS[kind]))
    model = random_model(EDPoseForPoseEstimation, config)
    export(model, EDPoseImageProcessor(), tmp_path / "model")
    result = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_PACKAGE, str(tmp_path / "model")],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    name, keypoints = json.loads(result.stdout.splitlines()[-1])
    assert name == "EDPoseForPoseEstimation"
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 3 * 60 * 70).view(1, 3, 60, 70)).pred_keypoints.flatten()
    assert_close(torch.tensor(keypoints), expected, atol=2e-5, rtol=0)
