"""Conversion of RLE: the original's layouts, mmpose's old and new one, both backbones, and files that do not fit."""

import gzip
import json
import pickle
import re
import warnings
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from hvmodels import RLEForPoseEstimation
from hvmodels.conversion import convert_checkpoint, read_checkpoint
from hvmodels.conversion.rle import convert, convert_state_dict
from hvmodels.keypoint_sets import HUMAN36M18, MPII16
from hvmodels.methods import METHODS
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor
from tests.reference_cases import needs_reference, reference_folder


FOLDER = Path(__file__).parents[1] / "fixtures" / "rle"
COCO, H36M, MMPOSE = (reference_folder("rle", f"{name}_bottleneck_tiny") for name in ("coco2d", "h36m3d", "mmpose2d"))
NEEDS_H36M = needs_reference("rle", "h36m3d_bottleneck_tiny")
KEYS = json.loads(gzip.decompress((FOLDER / "keys.json.gz").read_bytes()))
TYPES = METHODS["rle"].checkpoint_types


def read(folder):
    """Weights, options and reference values of a case."""
    weights = read_checkpoint(folder / "checkpoint.pth", TYPES)
    return weights, json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def to_legacy(weights):
    """Names of mmpose 0.x."""
    return OrderedDict(
        (re.sub(r"^head\.", "keypoint_head.", name).replace(".loss_module.", ".loss."), tensor)
        for name, tensor in weights.items()
    )


@pytest.mark.parametrize("folder", [COCO, pytest.param(H36M, marks=NEEDS_H36M)], ids=["2d", "3d"])
def test_original_gives_its_own_outputs(folder, tmp_path):
    _, _, values = read(folder)
    convert_checkpoint("rle", folder / "checkpoint.pth", tmp_path / "model", folder / "config.json")
    model = RLEForPoseEstimation.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        plain, merged = (model(values["input.pixel_values"], flip_test=flip) for flip in (False, True))
    for outputs, name in ((plain, "eval"), (merged, "flip_merged")):
        assert_close(outputs.keypoints, values[f"output.{name}.pred_jts"], atol=1e-6, rtol=0)
        assert_close(outputs.sigmas, values[f"output.{name}.sigma"], atol=1e-6, rtol=0)
        assert_close(outputs.scores, values[f"output.{name}.maxvals"][..., 0], atol=1e-6, rtol=0)
    processor = RLEImageProcessor.from_pretrained(tmp_path / "model")
    size = json.loads((folder / "config.json").read_text())["DATA_PRESET"]["IMAGE_SIZE"]
    assert (processor.size["height"], processor.size["width"]) == tuple(size)
    assert processor.image_mean == pytest.approx((0.406, 0.457, 0.480))
    is_3d = folder == H36M
    assert processor.image_std == pytest.approx((0.225, 0.224, 0.229) if is_3d else (1, 1, 1))
    assert processor.box_padding == (1.0 if is_3d else 1.25)
    assert model.config.sigma_epsilon == (1e-9 if is_3d else 0)
    assert model.config.root_index == (0 if is_3d else None)


@pytest.mark.parametrize("folder", [COCO, pytest.param(H36M, marks=NEEDS_H36M), MMPOSE], ids=["2d", "3d", "mmpose"])
def test_flow_comes_along(folder):
    """The loss of training needs every weight of it."""
    weights, options, values = read(folder)
    model, _ = convert(weights, options, folder / "checkpoint.pth")
    if folder == MMPOSE:
        labels, label_weights = values["input.keypoint_labels"] - 0.5, values["input.keypoint_weights"]
        expected = values["output.loss_eval_bn"]
    else:
        names = [name for name in values if re.fullmatch(r"input\.train\.target_uvd?", name)]
        shape = values["output.train.pred_jts"].shape
        labels, label_weights = values[names[0]].view(shape), values[f"{names[0]}_weight"].view(shape)
        expected = values["output.train.loss"]
        model.train()
    loss = model(values["input.pixel_values"], labels=labels, label_weights=label_weights).loss
    assert_close(loss.reshape(1), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["1.x", "0.x"])
def test_mmpose_gives_its_own_outputs(layout, tmp_path):
    weights, _, values = read(MMPOSE)
    path = MMPOSE / "checkpoint.pth"
    if layout == "0.x":
        path = tmp_path / "old.pth"
        content = {"meta": {"epoch": 210, "mmcv_version": "1.4.0"}, "state_dict": to_legacy(weights)}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    convert_checkpoint("rle", path, tmp_path / "model", MMPOSE / "config.json")
    model = RLEForPoseEstimation.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        outputs = model(values["input.pixel_values"])
        merged = model(values["input.pixel_values"], flip_test=True)
        model.config.flip_shift = 0.0
        unshifted = model(values["input.pixel_values"], flip_test=True)
    assert_close(outputs.keypoints + 0.5, values["output.head"][..., :2], atol=2e-6, rtol=0)
    assert_close(outputs.sigmas, values["output.head"][..., 2:].sigmoid(), atol=1e-6, rtol=0)
    size = torch.tensor([64, 96])
    for result, name in ((outputs, "plain"), (merged, "flip_shift"), (unshifted, "flip_noshift")):
        pixels = (result.keypoints.double() + 0.5) * size
        assert_close(pixels, values[f"output.predict_{name}.keypoints_input_space"], atol=1e-4, rtol=0)
        assert_close(result.scores.double(), values[f"output.predict_{name}.keypoint_scores"], atol=1e-6, rtol=0)
    processor = RLEImageProcessor.from_pretrained(tmp_path / "model")
    assert processor.drop_outside is True
    assert 255 * np.array(processor.image_mean) == pytest.approx([123.675, 116.28, 103.53])
    assert 255 * np.array(processor.image_std) == pytest.approx([58.395, 57.12, 57.375])
    assert (processor.size["height"], processor.size["width"]) == (96, 64)
    assert convert_state_dict(weights, {"test_cfg": {"shift_coords": False}})[0].flip_shift == 0


def test_old_file_of_mmpose(shared_data):
    """The file that mmpose 0.x wrote gives the same model."""
    old = read_checkpoint(shared_data / "parity/rle/mmpose2d_bottleneck_tiny/checkpoint_legacy_v0.pth", TYPES)
    (config, state), (new_config, new_state) = (convert_state_dict(weights, {}) for weights in (old, read(MMPOSE)[0]))
    assert config.to_dict() == new_config.to_dict()
    assert_close(state, new_state, atol=0, rtol=0)


def filled(keys, seed=0):
    """Random weights by names and shapes, constants as published."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, shape in keys.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith(".mask"):
            rows = [[0, 0, 1], [1, 1, 0]] if shape[1] == 3 else [[0, 1], [1, 0]]
            weights[name] = torch.tensor([rows[layer % 2] for layer in range(shape[0])], dtype=torch.float32)
        elif name.endswith(".loc"):
            weights[name] = torch.zeros(shape)
        elif name.endswith(".cov"):
            weights[name] = torch.eye(shape[0])
        elif len(shape) < 2:
            weights[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            weights[name] = torch.randn(shape, generator=generator) / np.prod(shape[1:]) ** 0.5
    return weights


@pytest.mark.parametrize("name", KEYS)
def test_every_entry_of_the_published_checkpoints_has_its_place(name):
    constants = ("mask", "loc", "cov", "num_batches_tracked")
    weights = filled({key: shape for key, shape in KEYS[name].items() if key.endswith(constants)})
    weights |= {key: torch.empty(shape, device="meta") for key, shape in KEYS[name].items() if key not in weights}
    config, state_dict = convert_state_dict(weights, {})
    with torch.device("meta"):
        expected = RLEForPoseEstimation(config).state_dict()
    expected = {key: tensor for key, tensor in expected.items() if not key.endswith("num_batches_tracked")}
    assert {key: tensor.shape for key, tensor in state_dict.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    assert config.num_keypoints == {"h36m": 18}.get(name[:4], 16 if "mpii" in name else 17)
    if config.backbone_config.model_type == "resnet":
        depth = int(re.search(r"res(\d+)", name)[1])
        assert 3 * sum(config.backbone_config.depths) + 2 == depth
    keypoint_set = {18: HUMAN36M18, 16: MPII16}.get(config.num_keypoints)
    if keypoint_set is not None:
        assert config.keypoint_names == list(keypoint_set.keypoints)
        assert tuple(map(tuple, config.flip_pairs)) == keypoint_set.flip_pairs
    sizes = sum(np.prod(shape) for key, shape in KEYS[name].items() if not key.endswith(constants))
    if name.startswith("mmpose"):
        assert sum(tensor.numel() for tensor in state_dict.values()) == sizes
    parameters = sum(tensor.numel() for key, tensor in expected.items() if "running" not in key)
    published = {"coco2d": 23_701_148, "h36m_m": 23_838_440}.get(name[:6])
    assert published in (None, parameters)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("model.pth", {}, (256, 192)),
        ("td-reg_res152_rle-8xb64-210e_coco-384x288-e3c4ab1d.pth", {}, (384, 288)),
        ("model-384x288.pth", {"DATA_PRESET": {"IMAGE_SIZE": [320, 256]}}, (320, 256)),
        ("model.pth", {"codec": {"input_size": (288, 384)}}, (384, 288)),
    ],
)
def test_size_of_the_crops(name, options, size):
    _, processor = convert(read(MMPOSE)[0], options, Path(name))
    assert (processor.size["height"], processor.size["width"]) == size


def test_size_and_names_of_mpii_and_of_unknown_keypoints():
    weights = read(MMPOSE)[0]
    mpii = {**weights, "head.fc.weight": weights["head.fc.weight"][:64], "head.fc.bias": weights["head.fc.bias"][:64]}
    model, processor = convert(mpii, {}, Path("model.pth"))
    assert (processor.size["height"], processor.size["width"]) == (256, 256)
    assert model.config.keypoint_names == list(MPII16.keypoints)
    five = {**weights, "head.fc.weight": weights["head.fc.weight"][:20], "head.fc.bias": weights["head.fc.bias"][:20]}
    config, _ = convert_state_dict(five, {"joint_pairs": [[0, 1], [3, 4]]})
    assert config.keypoint_names == [f"keypoint_{index}" for index in range(5)]
    assert config.flip_permutation == [1, 0, 2, 4, 3]


def test_options_that_tensors_do_not_tell():
    weights = read(COCO)[0]
    assert convert_state_dict(weights, {})[0].flip_shift == 1
    assert convert_state_dict(weights, {"TEST": {"FLIP_SHIFT": False}})[0].flip_shift == 4
    config, _ = convert_state_dict(read(MMPOSE)[0], {"loss": {"residual": False, "q_distribution": "gaussian"}})
    assert (config.use_residual, config.base_distribution) == (False, "gaussian")


class BasicResNet(nn.Module):
    """A ResNet of basic blocks with torchvision's names, written here to compare with."""

    def __init__(self, width, depths):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = nn.ModuleList()
            for block in range(depth):
                outputs, stride = width * 2**stage, 2 if stage and not block else 1
                layer = nn.Module()
                layer.conv1, layer.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
                layer.conv2, layer.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
                if stride > 1 or inputs != outputs:
                    convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                    layer.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
                blocks.append(layer)
                inputs = outputs
            setattr(self, f"layer{stage + 1}", blocks)

    def forward(self, hidden):
        hidden = nn.functional.max_pool2d(self.bn1(self.conv1(hidden)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            for layer in getattr(self, f"layer{stage}"):
                shortcut = layer.downsample(hidden) if hasattr(layer, "downsample") else hidden
                inner = layer.bn2(layer.conv2(layer.bn1(layer.conv1(hidden)).relu()))
                hidden = (inner + shortcut).relu()
        return hidden


class MobileNet(nn.Module):
    """A MobileNetV2 with mmpose's names: symmetric padding, ReLU6, PyTorch's batch norm."""

    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, factor):
        super().__init__()

        def width(channels):
            rounded = max(8, int(channels * factor + 4) // 8 * 8)
            return rounded + 8 * (rounded < 0.9 * channels * factor)

        def unit(inputs, outputs, kernel=1, stride=1, groups=1):
            layer = nn.Module()
            layer.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
            layer.bn = nn.BatchNorm2d(outputs)
            return layer

        inputs = width(32)
        self.conv1 = unit(3, inputs, 3, 2)
        for number, (expansion, channels, depth, stride) in enumerate(self.stages, 1):
            blocks = nn.ModuleList()
            for block in range(depth):
                hidden, outputs = inputs * expansion, width(channels)
                layer = nn.Module()
                units = [unit(inputs, hidden)] if expansion > 1 else []
                units += [unit(hidden, hidden, 3, 1 if block else stride, hidden), unit(hidden, outputs)]
                layer.conv, layer.residual = nn.ModuleList(units), (block or stride == 1) and inputs == outputs
                blocks.append(layer)
                inputs = outputs
            setattr(self, f"layer{number}", blocks)
        self.conv2 = unit(inputs, int(1280 * max(factor, 1)))

    def forward(self, hidden):
        def apply(layer, values):
            return layer.bn(layer.conv(values))

        hidden = nn.functional.relu6(apply(self.conv1, hidden))
        for number in range(1, 8):
            for layer in getattr(self, f"layer{number}"):
                inner = hidden
                for step in layer.conv[:-1]:
                    inner = nn.functional.relu6(apply(step, inner))
                inner = apply(layer.conv[-1], inner)
                hidden = hidden + inner if layer.residual else inner
        return nn.functional.relu6(apply(self.conv2, hidden))


def randomise(module):
    """Random statistics and affine weights for every batch norm."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            for tensor in (layer.running_var, layer.weight):
                nn.init.uniform_(tensor, 0.7, 1.3)
            nn.init.normal_(layer.bias, std=0.1)
    return module.eval()


def assert_same_features(backbone, channels, width=64):
    """mmpose's model with this backbone, converted, gives its features."""
    flow = {name: tensor for name, tensor in read(MMPOSE)[0].items() if name.startswith("head.loss_module.")}
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    weights |= flow | {"head.fc.weight": torch.randn(68, channels) / 10, "head.fc.bias": torch.randn(68)}
    model, _ = convert(weights, {}, Path("model.pth"))
    images = torch.randn(2, 3, 96, width)
    with torch.no_grad():
        features, outputs = backbone(images), model(images)
        head = features.mean(dim=(2, 3)) @ weights["head.fc.weight"].T + weights["head.fc.bias"]
    assert_close(outputs.last_hidden_state, features, atol=1e-5, rtol=1e-4)
    assert_close(outputs.keypoints + 0.5, head.view(2, 17, 4)[..., :2], atol=1e-5, rtol=1e-4)
    assert_close(outputs.sigmas, head.view(2, 17, 4)[..., 2:].sigmoid(), atol=1e-5, rtol=1e-4)
    return model.config.backbone_config


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.4])
def test_mobilenet_gives_the_same_features(factor):
    # Odd sizes show a difference of the padding.
    config = assert_same_features(randomise(MobileNet(factor)), int(1280 * max(factor, 1)), width=74)
    assert (config.depth_multiplier, config.tf_padding, config.layer_norm_eps) == (factor, False, 1e-5)


@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (3, 4, 6, 3)], ids=["18", "34"])
def test_basic_blocks_give_the_same_features(depths):
    config = assert_same_features(randomise(BasicResNet(8, depths)), 64)
    assert (config.layer_type, tuple(config.depths)) == ("basic", depths)


def test_mobilenet_of_other_shapes():
    backbone = MobileNet(1.0).state_dict()
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    weights |= {"head.fc.weight": torch.zeros(68, 1280), "head.fc.bias": torch.zeros(68)}
    for name in list(weights):
        if name.startswith("backbone.layer6.2."):
            del weights[name]
    with pytest.raises(ValueError, match="a MobileNetV2 must have"):
        convert_state_dict(weights, {})


@pytest.mark.parametrize("folder", [COCO, pytest.param(H36M, marks=NEEDS_H36M), MMPOSE], ids=["2d", "3d", "mmpose"])
def test_without_flow(folder):
    weights, options, values = read(folder)
    bare = {name: tensor for name, tensor in weights.items() if "flow" not in name}
    with pytest.warns(UserWarning, match="has no flow, which only training needs"):
        model, _ = convert(bare, options, folder / "checkpoint.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole, _ = convert(weights, options, folder / "checkpoint.pth")
    with torch.no_grad():
        results = [each(values["input.pixel_values"]).keypoints for each in (model, whole)]
    assert torch.equal(*results)
    assert all(parameter.isfinite().all() for parameter in model.criterion.parameters())
    assert all(parameter.abs().max() < 10 for parameter in model.criterion.parameters())


def test_half_precision(tmp_path):
    weights, options, _ = read(MMPOSE)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    torch.save({"state_dict": half}, tmp_path / "weights.pth")
    convert_checkpoint("rle", tmp_path / "weights.pth", tmp_path / "model", options)
    assert RLEForPoseEstimation.from_pretrained(tmp_path / "model", dtype="auto").dtype == torch.float16


def drop(prefix):
    def change(weights):
        for name in [name for name in weights if name.startswith(prefix)]:
            del weights[name]

    return change


@pytest.mark.parametrize(
    ("folder", "change", "message"),
    [
        (COCO, lambda w: w.update({"fcs.0.weight": torch.zeros(1)}), r"\['fcs.0.weight'\] are not known"),
        (COCO, drop("fc_sigma.linear.bias"), r"\['sigma_head.bias'\] are missing"),
        (COCO, drop("fc_coord"), "'fc_coord.linear.weight' is missing"),
        (COCO, drop("preact.conv1"), "'preact.conv1.weight' is missing"),
        (COCO, drop("preact.layer2.0."), "blocks of stage 2 are missing|'preact.layer2.0.conv3.weight' is missing"),
        (COCO, drop("preact.layer2.1.bn2.bias"), r"layers.1.layer.1.normalization.bias'\] are missing"),
        (COCO, lambda w: w.update({"preact.layer1.99999999.conv1.weight": torch.zeros(1)}), "blocks of stage 1 are missing"),
        (COCO, lambda w: w.update({"flow.s.99999999.0.weight": torch.zeros(64, 2)}), "'flow' must have a network s and t"),
        (COCO, drop("flow.t.3.2.bias"), "'flow' must have a network s and t"),
        (COCO, drop("flow.s.3."), "'flow' must have a network s and t"),
        (COCO, lambda w: w.update({"flow.mask": 1 - w["flow.mask"]}), "'flow.mask' must be the constant"),
        (COCO, lambda w: w.update({"flow.mask": torch.tensor(1.0)}), "'flow.mask' must be the constant"),
        (MMPOSE, lambda w: w.update({"head.loss_module.flow_model.loc": torch.ones(2)}), "'flow.loc' must be the constant"),
        (COCO, lambda w: w.update({"fc_sigma.linear.bias": torch.ones(33)}), r"shape \(33,\), but .* ask for \(34,\)"),
        (COCO, lambda w: w.update({"fc_sigma.linear.bias": torch.ones(34).double()}), "same floating-point dtype"),
        (COCO, lambda w: w.update({"fc_coord.linear.weight": torch.ones(33, 96)}), "must have 2 rows a keypoint"),
        (COCO, lambda w: w.update({"fc_coord.linear.weight": torch.ones(34)}), "2 dimensions that are not empty"),
        pytest.param(H36M, drop("flow2d.s"), "must have a network s and t", marks=NEEDS_H36M),
        pytest.param(H36M, drop("flow2d"), r"are missing", marks=NEEDS_H36M),
        (MMPOSE, lambda w: w.update({"head.fc.weight": torch.ones(66, 128)}), "must have 4 rows a keypoint"),
        (MMPOSE, lambda w: w.update({"keypoint_head.fc.bias": w["head.fc.bias"]}), "twice, by mmpose's old and new name"),
        (MMPOSE, lambda w: w.update({"head.extra.weight": torch.ones(1)}), r"\['head.extra.weight'\] are not known"),
        (MMPOSE, lambda w: w.update({"head.fc.bias": torch.full((68,), torch.nan)}), "NaN or infinite"),
        (COCO, lambda w: [w.clear(), w.update(weight=torch.ones(2))], "is missing"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(folder, change, message, tmp_path):
    weights, options, _ = read(folder)
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("rle", tmp_path / "weights.pth", tmp_path / "model", options)
    assert not (tmp_path / "model").exists()


def test_harmless_extras_of_mmpose(tmp_path):
    weights, options, _ = read(MMPOSE)
    more = {**weights, "data_preprocessor.mean": torch.zeros(3, 1, 1), "data_preprocessor.std": torch.ones(3, 1, 1)}
    assert_close(convert_state_dict(more, options)[1], convert_state_dict(weights, options)[1], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"IMAGE_SIZE": [256]}, "`IMAGE_SIZE` must be two positive integers"),
        ({"IMAGE_SIZE": [256, -1]}, "`IMAGE_SIZE` must be two positive integers"),
        ({"IMAGE_SIZE": "256x192"}, "`IMAGE_SIZE` must be two positive integers"),
        ({"input_size": None}, "`input_size` must be two positive integers"),
        ({"shift_coords": "no"}, "`shift_coords` must be true or false"),
        ({"q_distribution": "cauchy"}, "`q_distribution` must be 'laplace' or 'gaussian'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        convert(read(MMPOSE)[0], options, Path("model.pth"))


class Opens:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_hostile_or_cut_off(tmp_path):
    victim = tmp_path / "victim"
    weights = read(COCO)[0]
    torch.save({"meta": Opens(victim), "state_dict": weights}, tmp_path / "hostile.pth")
    torch.save(
        {"meta": np.array([Opens(victim)], dtype=object), "state_dict": weights},
        tmp_path / "array.pth",
        _use_new_zipfile_serialization=False,
    )
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Opens(victim), protocol=2))
    for name, source in (("cut", COCO), ("cut_legacy", MMPOSE)):
        content = (source / "checkpoint.pth").read_bytes()
        (tmp_path / f"{name}.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").touch()
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(ValueError, match=r"holds more than weights|cannot be read"):
            convert_checkpoint("rle", path, tmp_path / "model")
    assert not victim.exists()
    assert not (tmp_path / "model").exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_arrays_need_the_method(tmp_path):
    with pytest.raises(ValueError, match="holds more than weights"):
        read_checkpoint(MMPOSE / "checkpoint.pth")
    assert len(read_checkpoint(MMPOSE / "checkpoint.pth", TYPES)) == 197


def filled_by_rule(keys, seed):
    """Weights of the published sizes, as `rule.json` says."""
    weights = {}
    for name, shape in keys.items():
        random = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        if name.endswith(".mask"):
            rows = [[0, 0, 1], [1, 1, 0]] if shape[1] == 3 else [[0, 1], [1, 0]]
            weights[name] = torch.tensor([rows[layer % 2] for layer in range(shape[0])], dtype=torch.float32)
            continue
        uniform = name.endswith("running_var") or (
            name.startswith("preact.") and name.endswith(".weight") and len(shape) != 4
        )
        values = random.random_sample(shape) if uniform else random.standard_normal(shape)
        if uniform:
            values = (0.5 + values) * (0.25 if ".bn3." in name and name.endswith(".weight") else 1)
        elif len(shape) == 4:
            values = values * np.sqrt(2 / np.prod(shape[1:]))
        elif len(shape) == 2 and name.startswith("fc_coord"):
            values = 0.3 * values
        elif len(shape) == 2:
            values = values / np.sqrt(shape[1]) * (0.2 if name.startswith("fc_sigma") else 1)
        else:
            values = 0.1 * values
        weights[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return weights


@pytest.mark.parametrize(
    ("case", "keys"),
    [("full_coco2d_res50_rule", "coco2d_res50_256x192"), ("full_h36m3d_res50_rule", "h36m_mpii3d_res50_256x256")],
    ids=["2d", "3d"],
)
def test_published_sizes_give_the_outputs_of_the_original(case, keys):
    options = json.loads((FOLDER / case / "config.json").read_text())
    values = load_file(FOLDER / case / "io.safetensors")
    seed = json.loads((FOLDER / case / "rule.json").read_text())["seed"]
    model, processor = convert(filled_by_rule(KEYS[keys], seed), options, Path("model.pth"))
    height, width = options["DATA_PRESET"]["IMAGE_SIZE"]
    assert (processor.size["height"], processor.size["width"]) == (height, width)
    random = np.random.RandomState(seed + 1)
    images = random.standard_normal((options["batch"], 3, height, width)) * 0.3
    images = torch.from_numpy(images.astype(np.float32))
    with torch.no_grad():
        for name, flip in (("eval", False), ("flip_merged", True)):
            outputs = model(images, flip_test=flip)
            assert_close(outputs.keypoints, values[f"output.{name}.pred_jts"], atol=2e-6, rtol=0)
            assert_close(outputs.sigmas, values[f"output.{name}.sigma"], atol=2e-6, rtol=0)
            assert_close(outputs.scores, values[f"output.{name}.maxvals"][..., 0], atol=2e-6, rtol=0)
