"""Checkpoints of SmoothNet and its ports: every published size, wrappers, and files that are none."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.smoothnet import convert, convert_state_dict


FIXTURES = Path(__file__).parents[1] / "fixtures" / "smoothnet"
CHECKPOINT = FIXTURES / "h36m_2d_w8" / "checkpoint.pth"
KEYS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
# Width, width inside blocks, blocks, dropout, and parameters with windows of 8, 16, 32, 64 frames.
PUBLISHED = {
    "aist_vibe_3D": (512, 128, 5, 0.25, [667_272, 675_472, 691_872, 724_672]),
    "h36m_fcn_3D": (512, 128, 5, 0.25, [667_272, 675_472, 691_872, 724_672]),
    "pw3d_spin_3D": (512, 16, 1, 0.5, [25_624, 33_824, 50_224, 83_024]),
    "mmpose_h36m": (512, 256, 3, 0.5, [797_448, 805_648, 822_048, 854_848]),
    "mmhuman3d_pw3d_spin": (512, 512, 5, 0.1, [2_635_272, 2_643_472, 2_659_872, 2_692_672]),
}


def make_weights(keys="pw3d_spin_3D_w8"):
    return {name: torch.randn(shape) / shape[-1] ** 0.5 for name, shape in KEYS[keys].items()}


@pytest.mark.parametrize("window_size", [8, 16, 32, 64])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name, window_size):
    hidden_size, intermediate_size, num_layers, dropout, counts = PUBLISHED[name]
    weights = make_weights(f"{name}_w{window_size}")
    model, extractor = convert(weights, {"MODEL": {"SLIDE_WINDOW_SIZE": 100}}, Path("checkpoint.pth.tar"))
    config = model.config
    assert config.window_size == config.output_size == window_size
    assert (config.hidden_size, config.intermediate_size) == (hidden_size, intermediate_size)
    assert (config.num_hidden_layers, config.hidden_dropout_prob) == (num_layers, dropout)
    assert (config.tail, config.short_sequence, config.window_normalization) == ("keep", "replicate", "none")
    count = counts[[8, 16, 32, 64].index(window_size)]
    assert model.num_parameters() == sum(tensor.numel() for tensor in weights.values()) == count
    assert not model.training
    assert (extractor.unit, extractor.normalization) == ("metre", "image")
    assert (extractor.image_scale, extractor.image_offset) == (2, -1)
    assert extractor.root_indices == ([0] if name == "mmpose_h36m" else None)
    assert extractor.rotation_layout == ("rows" if name == "mmhuman3d_pw3d_spin" else "columns")
    windows = torch.randn(1, window_size, 1, 2)
    with torch.no_grad():
        assert_close(model(windows).refined_poses, apply(weights, windows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mmpose_h36m", "mmhuman3d_pw3d_spin"])
def test_sizes_of_a_port_under_names_of_the_original(name):
    """The original's own defaults are mmpose's sizes; neither root nor layout of rotations is a port's then."""
    sizes = {"HIDDEN_SIZE": 512, "RES_HIDDEN_SIZE": PUBLISHED[name][1], "NUM_BLOCK": PUBLISHED[name][2]}
    _, extractor = convert(make_weights(f"{name}_w8"), {"MODEL": sizes}, Path("checkpoint.pth.tar"))
    assert (extractor.root_indices, extractor.root_mode, extractor.rotation_layout) == (None, "smooth", "columns")


def test_every_key_list_is_there():
    assert set(KEYS) == {f"{name}_w{window_size}" for name in PUBLISHED for window_size in (8, 16, 32, 64)}


def apply(weights, windows):
    """The network by the names of the original."""

    def layer(name, values):
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def leaky(values, slope):
        return torch.maximum(values, slope * values)

    hidden = leaky(layer("encoder.0", windows.flatten(2).transpose(1, 2)), 0.1)
    for block in range(sum(name.endswith("linear1.weight") for name in weights)):
        inner = leaky(layer(f"res_blocks.{block}.linear1", hidden), 0.2)
        hidden = hidden + leaky(layer(f"res_blocks.{block}.linear2", inner), 0.2)
    return layer("decoder", hidden).transpose(1, 2).reshape(windows.shape)


@pytest.mark.parametrize("layout", ["plain", "state_dict", "module", "smoothnet", "safetensors"])
def test_layouts(layout, tmp_path):
    weights = make_weights()
    path = tmp_path / ("model.safetensors" if layout == "safetensors" else "checkpoint.pth.tar")
    if layout == "safetensors":
        save_file(weights, path)
    else:
        prefix = f"{layout}." if layout in ("module", "smoothnet") else ""
        content = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
        content = {"state_dict": content, "epoch": 69, "performance": None} if layout == "state_dict" else content
        torch.save(content, path)
    convert_checkpoint("smoothnet", path, tmp_path / "model")
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "model")
    windows = torch.randn(2, 8, 3, 2)
    with torch.no_grad():
        assert_close(model(windows).refined_poses, apply(weights, windows))


@pytest.mark.parametrize(
    ("options", "config", "extractor"),
    [
        ({"MODEL": {"DROPOUT": 0.3}}, {"hidden_dropout_prob": 0.3}, {}),
        ({"dropout": 0}, {"hidden_dropout_prob": 0}, {}),
        (
            {"LOSS": {"W_ACCEL": 1, "W_POS": 0.5}},
            {"position_loss_weight": 0.5, "acceleration_loss_weight": 1},
            {},
        ),
        ({"EVALUATE": {"SLIDE_WINDOW_STEP_SIZE": 4}}, {"window_stride": 4}, {}),
        ({"dataset_name": "jhmdb"}, {}, {"image_scale": 1, "image_offset": -0.5}),
        ({"DATASET_NAME": "jhmdb"}, {}, {"image_scale": 1, "image_offset": -0.5}),
        ({"root_index": 14}, {}, {"root_indices": [14], "root_mode": "exclude"}),
        ({"filter_cfg": {"root_index": None}}, {}, {"root_indices": None, "root_mode": "smooth"}),
    ],
    ids=str,
)
def test_options(options, config, extractor, tmp_path):
    torch.save(make_weights(), tmp_path / "checkpoint.pth")
    convert_checkpoint("smoothnet", tmp_path / "checkpoint.pth", tmp_path / "model", options)
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "model").config
    for name, value in config.items():
        assert getattr(loaded, name) == value
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    for name, value in extractor.items():
        assert getattr(loaded, name) == value


@pytest.mark.parametrize(
    "options",
    [
        {"DROPOUT": "0.5"},
        {"DROPOUT": 1.0},
        {"W_POS": -1},
        {"SLIDE_WINDOW_STEP_SIZE": 0},
        {"SLIDE_WINDOW_STEP_SIZE": 1.5},
        {"SLIDE_WINDOW_STEP_SIZE": 9},
        {"root_index": -1},
        {"root_index": True},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"`(original_config|hidden_dropout_prob|window_stride)`"):
        convert(make_weights(), options, Path("checkpoint.pth"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_dtype_is_kept(dtype):
    weights = {name: tensor.to(dtype) for name, tensor in make_weights().items()}
    model, _ = convert(weights, {}, Path("checkpoint.pth"))
    assert model.dtype == dtype
    assert torch.equal(model.smoothnet.decoder.weight, weights["decoder.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("encoder.0.bias"), "not complete: 'smoothnet.encoder.bias'"),
        (lambda weights: weights.pop("encoder.0.weight"), "must be of SmoothNet, with a matrix"),
        (lambda weights: weights.update({"backbone.weight": torch.ones(1)}), r"'backbone.weight'\] are not known"),
        (lambda weights: weights.update({"smoothnet.decoder.bias": torch.ones(8)}), "or there twice"),
        (lambda weights: weights.update({"decoder.bias": torch.ones(9)}), r"has the shape \(9,\)"),
        (lambda weights: weights.update({"decoder.weight": torch.ones(9, 512)}), "`output_size` must be from 3"),
        (lambda weights: weights.update({"decoder.weight": torch.ones(8)}), "with a matrix"),
        (lambda weights: weights.update({"decoder.bias": torch.ones(8).double()}), "the same floating-point dtype"),
        (
            lambda weights: weights.update(
                {name.replace("blocks.0", "blocks.2"): value for name, value in weights.items() if "blocks" in name}
            ),
            "not complete: 'smoothnet.layers.1",
        ),
        (lambda weights: weights.update({"res_blocks.1.linear2.bias": torch.ones(512)}), "blocks are missing before"),
    ],
    ids=range(10),
)
def test_weights_that_do_not_fit(change, message):
    weights = make_weights()
    change(weights)
    with pytest.raises(ValueError, match=message):
        convert_state_dict(weights, {})


class Opens:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_hostile_or_cut_off(tmp_path):
    victim = tmp_path / "victim"
    torch.save({"performance": Opens(victim), "state_dict": make_weights()}, tmp_path / "hostile.pth")
    content = CHECKPOINT.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").touch()
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(ValueError, match=r"holds more than weights|cannot be read"):
            convert_checkpoint("smoothnet", path, tmp_path / "model")
    assert not victim.exists()
    assert not (tmp_path / "model").exists()


def test_checkpoint_of_another_method(tmp_path):
    shutil.copy(FIXTURES.parent / "dlinear" / "dlinear_shared" / "checkpoint.pth", tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="`checkpoint` must be of SmoothNet"):
        convert_checkpoint("smoothnet", tmp_path / "checkpoint.pth", tmp_path / "model")
