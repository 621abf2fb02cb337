import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel, pipeline

from hvmodels import EfficientNetLiteConfig, RLEConfig, RLEForPoseEstimation, RLEImageProcessor, RLEModel
from hvmodels.hub import export
from hvmodels.keypoint_sets import COCO17
from hvmodels.models.rle import EfficientNetLiteModel
from hvmodels.models.rle.convolution_rle import FoldingConvolution
from hvmodels.models.rle.modeling_rle import RLECoordinateHead
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    seeded,
    with_random_weights,
)


pytestmark = pytest.mark.usefixtures("seed_of_each_module")


RESNET = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage4"],
}
LITE = {
    "model_type": "efficientnet_lite",
    "stem_channels": 4,
    "hidden_sizes": [4, 8, 8],
    "depths": [1, 2, 1],
    "kernel_sizes": [3, 5, 3],
    "strides": [1, 2, 2],
    "expand_ratios": [1, 2, 2],
    "hidden_size": 24,
}
MOBILENET = {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "min_depth": 4, "depth_divisible_by": 4}
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
}
CONFIGS = {
    "resnet": {"backbone_config": RESNET},
    "resnet3d": {"backbone_config": RESNET, "num_labels": 18, "keypoint_dim": 3, "sigma_epsilon": 1e-9},
    "mmpose": {"backbone_config": RESNET, "loss_formulation": "mmpose", "normalize_features": False},
    "lite": {"backbone_config": LITE, "num_labels": 5, "flip_pairs": [[0, 1]]},
}


def make_config(name, **options):
    return RLEConfig(**copy.deepcopy(CONFIGS[name]), **options)


def make_model(name, **options):
    return with_random_weights(RLEForPoseEstimation(make_config(name, **options)))


@pytest.fixture(params=CONFIGS)
def config(request):
    return make_config(request.param)


class TestRLE(ModelChecks):
    base_class = RLEModel
    head_classes = (RLEForPoseEstimation,)

    def make_inputs(self, config, batch_size):
        return {"pixel_values": torch.randn(batch_size, 3, 64, 64)}

    def make_labels(self, config, batch_size):
        shape = (batch_size, config.num_keypoints, config.keypoint_dim)
        weights = torch.ones(shape)
        weights[0, :, 2:] = 0  # in 3-D some keypoints have no depth, so that both flows learn
        return {"labels": torch.randn(shape) * 0.3, "label_weights": weights}


class TestConfig(ConfigChecks):
    config_class = RLEConfig
    config_arguments = {
        "keypoint_dim": 3,
        "root_index": 2,
        "normalize_features": False,
        "sigma_epsilon": 1e-9,
        "num_flow_layers": 4,
        "flow_hidden_size": 32,
        "loss_formulation": "mmpose",
        "base_distribution": "gaussian",
        "use_residual": False,
        "flip_pairs": [[0, 1]],
        "flip_shift": 0.0,
        "flip_swaps_sigmas": False,
        "depth_scale": 1000.0,
        "keypoint_sigmas": [0.1] * 17,
        "keypoint_links": [[0, 1]],
        "confidence_coefficients": [-3.0, -1.5],
        "confidence_radius": 0.2,
    }

    def test_defaults_are_the_published_coco_model(self):
        config = RLEConfig()
        assert config.keypoint_names == list(COCO17.keypoints)
        assert config.flip_pairs == [list(pair) for pair in COCO17.flip_pairs]
        assert config.keypoint_links == [list(pair) for pair in COCO17.links]
        assert config.keypoint_sigmas == list(COCO17.sigmas)
        assert config.flip_permutation == COCO17.flip_permutation.tolist()
        model = RLEForPoseEstimation(config)
        assert model.num_parameters() == 23_701_148  # as the original's
        assert sum(parameter.numel() for parameter in model.criterion.parameters()) == 53_784

    def test_size_of_the_published_3d_model(self):
        config = RLEConfig(keypoint_dim=3, num_labels=18)
        assert config.root_index == 0
        with torch.device("meta"):
            assert RLEForPoseEstimation(config).num_parameters() == 23_838_440

    def test_other_keypoints_have_no_defaults(self):
        config = RLEConfig(num_labels=5)
        assert (config.flip_pairs, config.keypoint_sigmas, config.keypoint_links) == (None, None, None)

    def test_names_are_in_the_order_of_their_numbers(self):
        """Numbers sorted as text, "10" before "2", are a valid file too."""
        names = RLEConfig().keypoint_names
        shuffled = {str(index): names[index] for index in sorted(range(17), key=str)}
        config = RLEConfig.from_dict({**RLEConfig().to_dict(), "id2label": shuffled})
        assert config.keypoint_names == names

    @pytest.mark.parametrize("backbone", [RESNET, LITE, MOBILENET], ids=lambda backbone: backbone["model_type"])
    def test_backbone_survives_saving(self, backbone, tmp_path):
        RLEConfig(backbone_config=backbone).save_pretrained(tmp_path)
        assert (
            json.loads((tmp_path / "config.json").read_text())["backbone_config"]["model_type"]
            == backbone["model_type"]
        )
        loaded = RLEConfig.from_pretrained(tmp_path).backbone_config
        assert {name: getattr(loaded, name) for name in backbone if name != "out_features"} == {
            name: value for name, value in backbone.items() if name != "out_features"
        }

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"backbone_config": {"model_type": "nothing"}}, "`backbone_config` must name a model"),
            ({"backbone_config": {}}, "`backbone_config` must name a model"),
            ({"num_flow_layers": 0}, "`num_flow_layers` must be positive"),
            ({"flow_hidden_size": 0}, "`flow_hidden_size` must be positive"),
            ({"depth_scale": 0}, "`depth_scale` must be positive"),
            ({"confidence_radius": float("nan")}, "`confidence_radius` must be positive"),
            ({"sigma_epsilon": -1}, "`sigma_epsilon` must be 0 or more"),
            ({"flip_shift": -1}, "`flip_shift` must be 0 or more"),
            ({"base_distribution": "gaussian"}, "`base_distribution` 'gaussian' needs"),
            ({"confidence_coefficients": [1.0]}, "`confidence_coefficients` must be"),
            ({"root_index": 17}, "`root_index` must be a keypoint"),
            ({"keypoint_sigmas": [0.1]}, "`keypoint_sigmas` must be 17 positive numbers"),
            ({"keypoint_sigmas": [0.0] * 17}, "`keypoint_sigmas` must be 17 positive numbers"),
            ({"flip_pairs": [[0, 17]]}, "`flip_pairs` must be pairs of keypoint indices"),
            ({"flip_pairs": [[0, 1], [1, 2]]}, "`flip_pairs` must name each keypoint once"),
            ({"keypoint_links": [[0]]}, "`keypoint_links` must be pairs"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            RLEConfig(**arguments)

    @pytest.mark.parametrize("arguments", [{"keypoint_dim": 4}, {"loss_formulation": "l2"}, {"flip_shift": "1"}])
    def test_refuses_types_and_choices(self, arguments):
        name = next(iter(arguments))
        with pytest.raises(Exception, match=name):
            RLEConfig(**arguments)


class TestEfficientNetLiteConfig:
    def test_defaults_are_lite0(self):
        model = EfficientNetLiteModel(EfficientNetLiteConfig())
        assert model.num_parameters() == 4_652_008 - 1_281_000  # the published size without its classifier
        with torch.no_grad():
            assert model.eval()(torch.zeros(1, 3, 160, 128)).last_hidden_state.shape == (1, 1280, 5, 4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"depths": [1, 2]}, "must have one entry a stage"),
            ({"strides": [1, 2, 2, 2, 1, 2, 0]}, "`strides` must be positive"),
            ({"hidden_size": 0}, "`hidden_size` must be positive"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            EfficientNetLiteConfig(**arguments)


def test_backbones_of_transformers():
    for backbone, channels in ((MOBILENET, 1280), (VIT, 16), ({**RESNET, "layer_type": "basic"}, 16)):
        model = RLEForPoseEstimation(RLEConfig(backbone_config=backbone)).eval()
        outputs = model(torch.randn(2, 3, 64, 64))
        assert model.coordinate_head.in_features == channels
        assert outputs.keypoints.shape == (2, 17, 2)


@pytest.mark.parametrize("size", [(64, 48), (63, 50), (33, 41)])
def test_padding_of_efficientnet_lite_is_tensorflows(size):
    """One more row and column right and below than left and above where the padding is odd."""
    config = EfficientNetLiteConfig(**{**LITE, "kernel_sizes": [5, 5, 3], "strides": [2, 2, 2]})
    model = with_random_weights(EfficientNetLiteModel(config))
    hidden_states = torch.randn(2, 3, *size)
    shapes = []
    for layer in (model.stem, *(block.depthwise for block in model.blocks)):
        kernel_size, stride = layer.convolution.kernel_size[0], layer.convolution.stride[0]
        entering = torch.randn(1, layer.convolution.in_channels, *hidden_states.shape[2:])
        if layer is not model.stem:
            entering = torch.randn(1, layer.convolution.in_channels, *shapes[-1])
        height, width = entering.shape[2:]
        total = [max((-(-length // stride) - 1) * stride + kernel_size - length, 0) for length in (height, width)]
        padded = nn.functional.pad(
            entering, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        )
        expected = nn.functional.conv2d(
            padded, layer.convolution.weight, stride=stride, groups=layer.convolution.groups
        )
        expected = nn.functional.relu6(layer.normalization(expected))
        result = layer(entering)
        assert result.shape[2:] == (-(-height // stride), -(-width // stride))
        assert_close(result, expected, atol=1e-5, rtol=1e-5)
        shapes.append(result.shape[2:])


@pytest.mark.parametrize("name", ["resnet", "lite"])
def test_folded_batch_norm_equals_batch_norm(name):
    """Outside of training the batch norm is part of the convolution; in training it is not, and learns its statistics."""
    model = make_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    pixel_values = torch.randn(2, 3, 64, 64)
    folded = model(pixel_values).keypoints
    for module in model.modules():
        if hasattr(module, "normalization"):
            module.training = True  # the layer takes its long way; its batch norm stays in evaluation
    unfolded = model(pixel_values).keypoints
    assert_close(folded, unfolded, atol=1e-5, rtol=1e-5)
    assert name != "resnet" or any(isinstance(module, FoldingConvolution) for module in model.modules())


def test_channels_last_gives_the_same():
    model = make_model("lite")
    pixel_values = torch.randn(2, 3, 64, 64)
    expected = model(pixel_values).keypoints
    model = model.to(memory_format=torch.channels_last)
    assert_close(model(pixel_values.to(memory_format=torch.channels_last)).keypoints, expected, atol=1e-5, rtol=1e-5)


def test_coordinate_head_survives_features_of_zero():
    head = RLECoordinateHead(4, 6, normalize_features=True)
    assert_equal(head(torch.zeros(2, 4)), head.bias.expand(2, 6))


def test_scores_and_confidences():
    model = make_model("resnet", confidence_coefficients=[-2.0, -1.5])
    outputs = model(torch.randn(2, 3, 64, 64))
    assert_equal(outputs.scores, 1 - outputs.sigmas.mean(-1))
    assert_close(outputs.confidences, torch.sigmoid(-2.0 - 1.5 * outputs.sigmas.mean(-1).log()))
    assert make_model("resnet")(torch.randn(1, 3, 64, 64)).confidences is None


def test_depth_is_relative_to_the_root_outside_of_training():
    model = make_model("resnet3d")
    pixel_values = torch.randn(2, 3, 64, 64)
    depth = model(pixel_values).keypoints[..., 2]
    assert_equal(depth[:, 0], torch.zeros(2))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    absolute = model(pixel_values).keypoints[..., 2]
    assert absolute[:, 0].abs().min() > 0
    assert_close(depth, absolute - absolute[:, :1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("swaps", [False, True])
@pytest.mark.parametrize("name", ["resnet", "resnet3d"])
def test_flip_test(name, swaps):
    pairs = [[1, 2], [4, 3]]
    model = make_model(name, flip_pairs=pairs, flip_shift=2.0, flip_swaps_sigmas=swaps)
    pixel_values = torch.randn(2, 3, 64, 48)
    plain, mirrored = model(pixel_values), model(pixel_values.flip(-1))
    merged = model(pixel_values, flip_test=True)
    order = [0, 2, 1, 4, 3, *range(5, model.config.num_keypoints)]
    back = mirrored.keypoints[:, order].clone()
    back[..., 0] = -back[..., 0] - 2 / 48
    assert_close(merged.keypoints, (plain.keypoints + back) / 2, atol=1e-5, rtol=1e-5)
    sigmas = mirrored.sigmas[:, order] if swaps else mirrored.sigmas
    assert_close(merged.sigmas, (plain.sigmas + sigmas) / 2)
    assert_close(merged.scores, (plain.scores + mirrored.scores[:, order]) / 2)


def test_a_mirrored_crop_gives_mirrored_results_with_the_flip_test():
    model = make_model("resnet", flip_shift=0.0)
    pixel_values = torch.randn(2, 3, 64, 48)
    one, other = model(pixel_values, flip_test=True), model(pixel_values.flip(-1), flip_test=True)
    order = model.config.flip_permutation
    assert_close(one.keypoints * torch.tensor([-1.0, 1.0]), other.keypoints[:, order], atol=1e-5, rtol=1e-5)
    assert_close(one.sigmas, other.sigmas[:, order], atol=1e-5, rtol=1e-5)


def test_refuses():
    model = make_model("resnet")
    pixel_values, labels = torch.randn(2, 3, 64, 48), torch.zeros(2, 17, 2)
    with pytest.raises(ValueError, match="`pixel_values` must have shape"):
        model(pixel_values[0])
    with pytest.raises(ValueError, match="`flip_test` must be False"):
        model(pixel_values, labels=labels, flip_test=True)
    with pytest.raises(ValueError, match="`labels` must be given"):
        model(pixel_values, label_weights=torch.ones(2, 17))
    with pytest.raises(ValueError, match="`labels` must have the shape"):
        model(pixel_values, labels=labels[:1])
    with pytest.raises(ValueError, match="`flip_pairs` must name"):
        make_model("resnet", num_labels=5)(pixel_values, flip_test=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_and_loss_are_float32_in_half_precision(dtype):
    """A flow in half precision overflows; the same model in float32, from the same features, gives the same loss."""
    model = make_model("resnet")
    pixel_values, labels = torch.randn(2, 3, 64, 64), torch.randn(2, 17, 2)
    half = copy.deepcopy(model).to(dtype)
    outputs = half(pixel_values.to(dtype), labels=labels.to(dtype))
    assert outputs.keypoints.dtype == outputs.sigmas.dtype == outputs.loss.dtype == torch.float32
    assert outputs.loss.isfinite()
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters() if parameter.grad is not None)
    assert_close(outputs.loss, model(pixel_values, labels=labels).loss, rtol=0.05, atol=0)


def test_autocast_leaves_heads_and_loss_in_float32():
    model = make_model("resnet")
    pixel_values, labels = torch.randn(2, 3, 64, 64), torch.randn(2, 17, 2)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixel_values, labels=labels)
    assert outputs.last_hidden_state.dtype == torch.bfloat16
    assert outputs.keypoints.dtype == outputs.loss.dtype == torch.float32


def test_auto_model_loads_the_backbone_of_a_head(tmp_path):
    model = make_model("lite")
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), model.rle.state_dict())


def test_loads_without_the_flow(tmp_path):
    """A checkpoint for inference may lack it; predictions are the same, and the flow starts anew."""
    model = make_model("resnet")
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("criterion.")}
    model.save_pretrained(tmp_path, state_dict=kept)
    loaded, info = RLEForPoseEstimation.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {name for name in model.state_dict() if name.startswith("criterion.")}
    pixel_values = torch.randn(1, 3, 64, 48)
    assert_close(loaded.eval()(pixel_values).keypoints, model(pixel_values).keypoints)
    assert all(parameter.isfinite().all() for parameter in loaded.criterion.parameters())


@pytest.mark.parametrize("formulation", ["original", "mmpose"])
def test_initial_weights(formulation):
    """Original: Xavier with gain 0.01 in the heads, PyTorch's default in the flow; mmpose: normal, and Xavier 0.01."""
    model = seeded(lambda: RLEForPoseEstimation(RLEConfig(loss_formulation=formulation)))
    weight, bias = model.coordinate_head.weight, model.coordinate_head.bias
    flow = model.criterion.flow.hidden_weight
    if formulation == "original":
        bound = 0.01 * (6 / (2048 + 34)) ** 0.5
        assert 0.99 * bound < weight.abs().max() <= bound
        assert 0.8 * 2048**-0.5 < bias.abs().max() <= 2048**-0.5
        assert 0.99 / 8 < flow.abs().max() <= 1 / 8
    else:
        assert_close(weight.std(), torch.tensor(0.01), rtol=0.02, atol=0)
        assert not bias.any()
        bound = 0.01 * (6 / 128) ** 0.5
        assert 0.99 * bound < flow.abs().max() <= bound * (1 + 1e-6)


LOAD_WITHOUT_PACKAGE = """
import json, sys
import numpy as np
import torch
sys.modules["hvmodels"] = None
from transformers import AutoImageProcessor, AutoModelForPoseEstimation, pipeline
torch.set_num_threads(1)
model = AutoModelForPoseEstimation.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
estimator = pipeline(model=sys.argv[1], trust_remote_code=True)
picture = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
box = [10, 5, 40, 50]
with torch.no_grad():
    keypoints = model(**{"pixel_values": processor(picture, boxes=[[box]], return_tensors="pt")["pixel_values"]}).keypoints
person = estimator(picture, boxes=[box])[0]
print(json.dumps([type(model).__name__, keypoints.flatten().tolist(), person]))
"""


@pytest.mark.usefixtures("auto_image_processor")
@pytest.mark.parametrize("name", ["lite", "resnet3d"])
def test_exported_folder_loads_without_the_package(name, tmp_path):
    model = make_model(name, confidence_coefficients=[-2.0, -1.0])
    processor = RLEImageProcessor(size={"height": 64, "width": 64})
    export(model, processor, tmp_path / "model")
    result = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_PACKAGE, str(tmp_path / "model")],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    class_name, keypoints, person = json.loads(result.stdout.splitlines()[-1])
    assert class_name == "RLEForPoseEstimation"
    picture, box = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3), [10, 5, 40, 50]
    with torch.no_grad():
        expected = model(processor(picture, boxes=[[box]], return_tensors="pt")["pixel_values"]).keypoints
    assert_close(torch.tensor(keypoints), expected.flatten(), atol=2e-5, rtol=0)
    estimator = pipeline("pose-estimation", model=model, image_processor=processor)
    here = estimator(picture, boxes=[box])[0]
    assert person["box"] == here["box"] and person["score"] == pytest.approx(here["score"], abs=1e-5)
    for theirs, ours in zip(person["keypoints"], here["keypoints"], strict=True):
        assert theirs["label"] == ours["label"] and set(theirs) == set(ours) >= {"sigma", "confidence"}
        assert theirs["x"] == pytest.approx(ours["x"], abs=1e-2)


def test_compiles_in_one_graph():
    """The inference pass, with the flip test."""
    explanation = torch._dynamo.explain(make_model("lite"))(torch.randn(1, 3, 64, 64), flip_test=True)
    assert explanation.graph_break_count == 0
