"""Checkpoints of the fully connected baseline: the published size, statistics from files beside them, files that are none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForTimeSeriesPrediction

from hvmodels import MartinezFCNConfig, MartinezFCNModel
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.martinez_fcn import convert, convert_state_dict


FIXTURES = Path(__file__).parents[1] / "fixtures" / "martinez_fcn"
CHECKPOINT = FIXTURES / "size40_stage3" / "checkpoint.pth.tar"
(NAME,), (KEYS,) = zip(*json.loads((FIXTURES / "keys.json").read_text()).items(), strict=True)
READ = [joint for joint in range(17) if joint != 9]
pytestmark = pytest.mark.filterwarnings("ignore:.*comes without the statistics")


def make_weights(size=6, inputs=16, outputs=16, blocks=1):
    """Random weights by the original's names."""
    layers = {"": (inputs * 2, size)} | {f"linear_stages.{block}.": (size, size) for block in range(blocks)}
    weights = {"w2.weight": torch.randn(outputs * 3, size), "w2.bias": torch.randn(outputs * 3)}
    for stage, (before, after) in layers.items():
        for number in (1, 2) if stage else (1,):
            weights |= {
                f"{stage}w{number}.weight": torch.randn(after, before),
                f"{stage}w{number}.bias": torch.randn(after),
            }
            norm = f"{stage}batch_norm{number}"
            weights |= {
                f"{norm}.{kind}": torch.rand(after) for kind in ("weight", "bias", "running_mean", "running_var")
            }
            weights[f"{norm}.num_batches_tracked"] = torch.tensor(5)
    return weights


def make_statistics(seed=0):
    """Means and deviations of all 32 joints, as the original stores them."""
    random = np.random.default_rng(seed)
    used = {2: [2 * joint + axis for joint in MOVING if joint != 14 for axis in range(2)]}
    used[3] = [3 * joint + axis for joint in MOVING[1:] for axis in range(3)]
    return {
        f"stat_{dims}d": {
            "mean": random.normal(size=32 * dims) * 100 + (500 if dims == 2 else 0),
            "std": random.uniform(50, 200, 32 * dims),
            "dim_use": np.array(used[dims]),
        }
        for dims in (2, 3)
    }


MOVING = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)


def test_published_size():
    weights = {
        key: torch.empty(shape, dtype=torch.int64 if key.endswith("tracked") else torch.float32, device="meta")
        for key, shape in KEYS.items()
    }
    config, state_dict = convert_state_dict(weights, {})
    assert config.to_dict() == MartinezFCNConfig(needs_statistics=True).to_dict()
    with torch.device("meta"):
        expected = MartinezFCNModel(config).state_dict()
    assert {key: value.shape for key, value in state_dict.items()} == {
        f"martinez_fcn.{key}": value.shape for key, value in expected.items()
    }


def test_every_weight_has_its_place():
    weights = make_weights(blocks=2)
    model, _ = convert(weights, {}, Path("ckpt_best.pth.tar"))
    network = model.martinez_fcn
    places = {"w1": network.encoder.linear, "batch_norm1": network.encoder.norm, "w2": network.decoder}
    for block, layer in enumerate(network.layers):
        for number, part in enumerate((layer.first, layer.second), 1):
            places |= {
                f"linear_stages.{block}.w{number}": part.linear,
                f"linear_stages.{block}.batch_norm{number}": part.norm,
            }
    found = {f"{name}.{key}": value for name, module in places.items() for key, value in module.state_dict().items()}
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name], value), name
    assert not model.training


@pytest.mark.parametrize("kind", ["mapping", "json", "files"])
def test_statistics_make_metres_of_pixels(kind, tmp_path):
    """By the original's own arithmetic: pixels to z-scores, the network, z-scores to millimetres."""
    weights, statistics = make_weights(), make_statistics()
    torch.save({"epoch": 9, "err": np.float64(45.5), "state_dict": weights}, tmp_path / "ckpt_best.pth.tar")
    options = {**statistics, "image_height": 1002}
    if kind == "files":
        for name, values in statistics.items():
            torch.save(values, tmp_path / f"{name}.pth.tar")
            options[name] = str(tmp_path / f"{name}.pth.tar")
    elif kind == "json":
        plain = {name: {key: value.tolist() for key, value in values.items()} for name, values in statistics.items()}
        (tmp_path / "options.json").write_text(json.dumps({**options, **plain}))
        options = tmp_path / "options.json"
    convert_checkpoint("martinez-fcn", tmp_path / "ckpt_best.pth.tar", tmp_path / "model", options)
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "model").eval()
    assert not model.config.needs_statistics

    pixels = np.random.default_rng(1).uniform(100, 900, (3, 17, 2))
    two, three = ({key: values[key][values["dim_use"]] for key in ("mean", "std")} for values in statistics.values())
    scores = torch.from_numpy((pixels[:, READ].reshape(3, 32) - two["mean"]) / two["std"])
    with torch.no_grad():
        raw = model.martinez_fcn.double()(scores.reshape(3, 1, 16, 2)).normalized_positions
    expected = raw.reshape(3, 48).numpy() * three["std"] + three["mean"]
    screen = torch.from_numpy(pixels / 1000 * 2 - [1, 1.002])
    with torch.no_grad():
        positions = model.double()(screen[:, None]).positions_3d
    assert_close(positions[:, 0, 1:].flatten(1), torch.from_numpy(expected / 1000), atol=1e-5, rtol=1e-5)
    assert not positions[:, :, 0].any()


def test_sizes_of_other_joint_sets():
    config, _ = convert_state_dict(make_weights(inputs=17, outputs=13, blocks=0), {"p_dropout": 0.1})
    assert (config.num_joints, config.input_joints, config.num_output_joints) == (17, list(range(17)), 14)
    assert (config.num_hidden_layers, config.hidden_dropout_prob) == (0, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stat_2d": None}, "must have both `stat_2d` and `stat_3d`, got 'stat_3d' alone"),
        ({"stat_2d": {"mean": [0.0]}}, "`stat_2d` must be a file or mapping"),
        (
            {"stat_3d": {"mean": np.zeros(96), "std": np.ones(96), "dim_use": np.arange(12)}},
            "`stat_3d` must have one `mean`",
        ),
        (
            {"stat_3d": {"mean": np.zeros(9), "std": np.ones(9), "dim_use": np.arange(48)}},
            "`stat_3d` must have one `mean`",
        ),
        ({"stat_3d": {"mean": np.zeros(48), "std": -np.ones(48)}}, "`position_std` must not be negative"),
        ({"stat_2d": "absent.pth.tar"}, "must be a file"),
        ({"image_width": 0}, "`image_width` and `image_height` must be positive"),
        ({"p_dropout": "0.5"}, "`p_dropout` must be a number"),
    ],
    ids=range(8),
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        convert(make_weights(), {**make_statistics(), **change}, Path("ckpt_best.pth.tar"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("w1.bias"), r"weights \['martinez_fcn.encoder.linear.bias'\] are missing"),
        (lambda weights: weights.pop("w1.weight"), "must be of the fully connected baseline, with a matrix"),
        (lambda weights: weights.update({"w3.weight": torch.ones(1)}), r"'w3.weight'\] are not known"),
        (lambda weights: weights.update({"linear_stages.2.w1.bias": torch.ones(6)}), "blocks are missing"),
        (lambda weights: weights.update({"w2.weight": torch.ones(47, 6)}), "put out 3, got 32 and 47"),
        (lambda weights: weights.update({"w1.weight": torch.ones(6, 33)}), "must read 2 numbers a joint"),
        (lambda weights: weights.update({"w2.bias": torch.ones(9)}), r"has the shape \(9,\)"),
        (lambda weights: weights.update({"w2.bias": torch.ones(48).half()}), "same floating-point dtype"),
    ],
    ids=range(8),
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
    torch.save({"err": Opens(victim), "state_dict": make_weights()}, tmp_path / "hostile.tar")
    content = CHECKPOINT.read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    for path in sorted(tmp_path.glob("*.tar")):
        with pytest.raises(ValueError, match=r"holds more than weights|cannot be read"):
            convert_checkpoint("martinez-fcn", path, tmp_path / "model")
    torch.save({"mean": Opens(victim)}, tmp_path / "stat_2d.pth.tar")
    with pytest.raises(ValueError, match="holds more than weights"):
        convert(make_weights(), {**make_statistics(), "stat_2d": str(tmp_path / "stat_2d.pth.tar")}, CHECKPOINT)
    assert not victim.exists()
    assert not (tmp_path / "model").exists()


def test_checkpoint_of_another_method(tmp_path):
    other = FIXTURES.parent / "videopose3d" / "arc33_causal" / "checkpoint.bin"
    with pytest.raises(ValueError, match="holds more than weights"):  # a random state, which this method has none of
        convert_checkpoint("martinez-fcn", other, tmp_path / "model")
