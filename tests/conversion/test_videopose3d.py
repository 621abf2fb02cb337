"""Checkpoints of VideoPose3D: every published architecture, what pickles beside the weights hold, and files that are none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels import VideoPose3DConfig, VideoPose3DForPoseLifting
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.videopose3d import convert, convert_state_dict
from hvmodels.keypoint_sets import COCO17, HUMAN36M17


FIXTURES = Path(__file__).parents[1] / "fixtures" / "videopose3d"
CHECKPOINT = FIXTURES / "arc33_causal" / "checkpoint.bin"
KEYS = json.loads((FIXTURES / "keys.json").read_text())
PUBLISHED = {
    "arc_111_ch1024": [1, 1, 1],
    "arc_333_ch1024": [3, 3, 3],
    "arc_3333_ch1024": [3, 3, 3, 3],
    "arc_33333_ch1024": [3, 3, 3, 3, 3],
}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def make_weights(widths=(3, 3), channels=6, joints=5, outputs=4, dense=False):
    """Random weights by the original's names."""
    weights = {"expand_conv.weight": torch.randn(channels, joints * 2, widths[0])}
    norms, reach = ["expand_bn"], widths[0]
    for block, width in enumerate(widths[1:]):
        kernel = (width - 1) * reach + 1 if dense else width
        weights[f"layers_conv.{2 * block}.weight"] = torch.randn(channels, channels, kernel)
        weights[f"layers_conv.{2 * block + 1}.weight"] = torch.randn(channels, channels, 1)
        norms += [f"layers_bn.{2 * block}", f"layers_bn.{2 * block + 1}"]
        reach *= width
    for norm in norms:
        weights |= {f"{norm}.{kind}": torch.rand(channels) for kind in BATCH_NORM}
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    weights |= {"shrink.weight": torch.randn(outputs * 3, channels, 1), "shrink.bias": torch.randn(outputs * 3)}
    return weights


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """By names and shapes alone."""
    weights = {
        key: torch.empty(shape, dtype=torch.int64 if key.endswith("tracked") else torch.float32, device="meta")
        for key, shape in KEYS[name].items()
    }
    config, state_dict = convert_state_dict(weights, {})
    assert config.filter_widths == PUBLISHED[name]
    defaults = VideoPose3DConfig(filter_widths=PUBLISHED[name])
    assert config.to_dict() == defaults.to_dict()
    with torch.device("meta"):
        expected = VideoPose3DForPoseLifting(defaults).state_dict()
    assert {key: value.shape for key, value in state_dict.items()} == {
        key: value.shape for key, value in expected.items()
    }


def test_every_key_list_is_there():
    assert set(KEYS) == set(PUBLISHED)


def test_every_weight_has_its_place():
    weights = make_weights(widths=(3, 1, 5))
    model, _ = convert(weights, {}, Path("checkpoint.bin"))
    assert model.config.filter_widths == [3, 1, 5]
    network = model.videopose3d
    places = {"expand_conv": network.expand.convolution, "expand_bn": network.expand.norm, "shrink": model.shrink}
    for block, layer in enumerate(network.layers):
        for number, part in enumerate((layer.temporal, layer.pointwise), 2 * block):
            places |= {f"layers_conv.{number}": part.convolution, f"layers_bn.{number}": part.norm}
    found = {f"{name}.{key}": value for name, module in places.items() for key, value in module.state_dict().items()}
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name], value), name
    assert not model.training


@pytest.mark.parametrize(
    ("options", "dense"), [({}, True), ({"dense": True}, True), ({"dense": False}, False)], ids=str
)
def test_dense_models(options, dense):
    weights = make_weights(widths=(3, 3, 3), dense=True)
    if options:
        config, _ = convert_state_dict(weights, options)
    else:
        with pytest.warns(UserWarning, match="taken for a dense model"):
            config, _ = convert_state_dict(weights, options)
    assert (config.dense, config.filter_widths) == (dense, [3, 3, 3] if dense else [3, 7, 19])


def test_options(tmp_path):
    torch.save({"model_pos": make_weights(joints=4)}, tmp_path / "checkpoint.bin")
    options = {"causal": True, "dropout": 0.1, "in_features": 4, "architecture": "3,3,3,3,3", "channels": 99}
    convert_checkpoint("videopose3d", tmp_path / "checkpoint.bin", tmp_path / "model", options)
    config = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "model").config
    assert (config.causal, config.hidden_dropout_prob, config.num_joints, config.in_channels) == (True, 0.1, 2, 4)
    assert (config.filter_widths, config.hidden_size) == ([3, 3], 6)


@pytest.mark.parametrize(
    ("options", "name", "joints"),
    [
        ({}, "pretrained_h36m_cpn.bin", HUMAN36M17),
        ({}, "pretrained_h36m_detectron_coco.bin", COCO17),
        ({"keypoints": "detectron_pt_coco"}, "epoch_80.bin", COCO17),
        ({"keypoints": "cpn_ft_h36m_dbb"}, "not_coco.bin", HUMAN36M17),
    ],
)
def test_joints_of_the_detections(options, name, joints):
    _, extractor = convert(make_weights(joints=17, outputs=17), options, Path(name))
    assert tuple(extractor.keypoint_names) == joints.keypoints
    assert tuple(extractor.output_keypoint_names) == HUMAN36M17.keypoints
    assert (extractor.num_frames, extractor.causal, extractor.flip_test) == (9, False, True)


def test_joints_of_another_data_set():
    """HumanEva's 15: nothing says which are left and right, so no flip test."""
    _, extractor = convert(make_weights(joints=15, outputs=15), {}, Path("pretrained_humaneva15_detectron.bin"))
    assert len(extractor.keypoint_names) == len(extractor.output_keypoint_names) == 15
    assert not extractor.flip_test


@pytest.mark.parametrize(
    "options",
    [
        {"causal": "yes"},
        {"dense": 1},
        {"dropout": "0.25"},
        {"dropout": 1.0},
        {"in_features": 3},
        {"in_features": 0},
        {"keypoints": 17},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"`(original_config|hidden_dropout_prob)`"):
        convert(make_weights(), options, Path("checkpoint.bin"))


def test_dense_option_without_dense_widths():
    with pytest.raises(ValueError, match=r"`dense` is true, but widths \[3, 5\] are of no dense model"):
        convert_state_dict(make_weights(widths=(3, 5)), {"dense": True})


def test_trajectory_of_a_semi_supervised_checkpoint(tmp_path):
    pose, trajectory = make_weights(joints=17, outputs=17), make_weights(joints=17, outputs=1)
    content = {"epoch": 3, "model_pos": pose, "model_traj": trajectory, "random_state_semi": np.random.RandomState(0)}
    torch.save(content, tmp_path / "checkpoint.bin")
    for entry, weights in ((None, pose), ("model_traj", trajectory)):
        options = {} if entry is None else {"checkpoint_entry": entry}
        convert_checkpoint("videopose3d", tmp_path / "checkpoint.bin", tmp_path / f"model {entry}", options)
        model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / f"model {entry}")
        assert torch.equal(model.shrink.weight, weights["shrink.weight"])
        assert model.config.trajectory == (entry == "model_traj")
        extractor = AutoFeatureExtractor.from_pretrained(tmp_path / f"model {entry}")
        assert extractor.root_index == (None if entry == "model_traj" else 0)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has no weights under 'model_traj'"):
        convert_checkpoint(
            "videopose3d", tmp_path / "other.safetensors", tmp_path / "none", {"checkpoint_entry": "model_traj"}
        )


@pytest.mark.parametrize("layout", ["plain", "module", "safetensors", "legacy", "without counts"])
def test_layouts(layout, tmp_path):
    weights = make_weights()
    path = tmp_path / ("model.safetensors" if layout == "safetensors" else "checkpoint.bin")
    if layout == "safetensors":
        save_file(weights, path)
    else:
        prefix = "module." if layout == "module" else ""
        content = {f"{prefix}{name}": value for name, value in weights.items()}
        if layout == "without counts":  # PyTorch before 0.4.1
            content = {name: value for name, value in content.items() if not name.endswith("tracked")}
        if layout in ("legacy", "without counts"):
            state = np.random.RandomState(3)
            content = {
                "epoch": 80,
                "lr": 1e-5,
                "random_state": state,
                "optimizer": {},
                "model_pos": content,
                "model_traj": None,
            }
        torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    convert_checkpoint("videopose3d", path, tmp_path / "model")
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "model")
    assert torch.equal(model.videopose3d.layers[0].temporal.convolution.weight, weights["layers_conv.0.weight"])
    assert model.shrink.bias.equal(weights["shrink.bias"])
    assert int(model.videopose3d.expand.norm.num_batches_tracked) == (0 if layout == "without counts" else 7)


def test_random_state_of_old_numpy(tmp_path):
    """Files of 2018 name another function of NumPy."""

    class OldState:
        def __reduce__(self):
            return getattr(np.random, "__RandomState_ctor"), (), ("MT19937", np.arange(624, dtype="u4"), 624, 0, 0.0)

    torch.save({"random_state": OldState(), "model_pos": make_weights()}, tmp_path / "checkpoint.bin")
    convert_checkpoint("videopose3d", tmp_path / "checkpoint.bin", tmp_path / "model")


def test_fixture_keeps_nothing_but_weights(tmp_path):
    """The checkpoint of the original holds NumPy's random state, which is not brought to life."""
    before = np.random.get_state()[1].copy()
    convert_checkpoint("videopose3d", CHECKPOINT, tmp_path / "model", {"causal": True})
    assert np.array_equal(np.random.get_state()[1], before)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert (extractor.num_frames, extractor.causal) == (9, True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_dtype_is_kept(dtype):
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in make_weights().items()}
    model, _ = convert(weights, {}, Path("checkpoint.bin"))
    assert model.dtype == dtype
    assert_close(model.shrink.bias.detach(), weights["shrink.bias"], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("expand_bn.bias"), r"weights \['videopose3d.expand.norm.bias'\] are missing"),
        (lambda weights: weights.pop("expand_conv.weight"), "must be of VideoPose3D, with a convolution"),
        (lambda weights: weights.pop("shrink.weight"), "must be of VideoPose3D, with a convolution"),
        (lambda weights: weights.update({"backbone.weight": torch.ones(1)}), r"'backbone.weight'\] are not known"),
        (lambda weights: weights.update({"layers_conv.x.weight": torch.ones(1)}), "are not known"),
        (lambda weights: weights.update({"layers_conv.4.weight": torch.ones(6, 6, 3)}), "blocks are missing"),
        (lambda weights: weights.update({"layers_bn.5.bias": torch.ones(6)}), "have no place"),
        (lambda weights: weights.update({"layers_conv.0.weight": torch.ones(6, 6, 4)}), "must have odd widths"),
        (lambda weights: weights.update({"layers_conv.1.weight": torch.ones(6, 6, 3)}), r"has the shape \(6, 6, 3\)"),
        (lambda weights: weights.update({"expand_conv.weight": torch.ones(6, 10)}), "with a convolution"),
        (
            lambda weights: weights.update({"expand_conv.weight": torch.ones(6, 9, 3)}),
            "`in_features` must be a divisor",
        ),
        (lambda weights: weights.update({"shrink.weight": torch.ones(13, 6, 1)}), "3 numbers a joint, got 13"),
        (lambda weights: weights.update({"shrink.bias": torch.ones(12).double()}), "same floating-point dtype"),
        (lambda weights: weights.update({"expand_bn.num_batches_tracked": torch.tensor(1.5)}), "must be an integer"),
    ],
    ids=range(14),
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
    torch.save({"random_state": Opens(victim), "model_pos": make_weights()}, tmp_path / "hostile.bin")
    content = CHECKPOINT.read_bytes()
    for share in (2, 3, 10):
        (tmp_path / f"cut{share}.bin").write_bytes(content[: len(content) // share])
    (tmp_path / "empty.bin").touch()
    torch.save({"model_pos": {**make_weights(), "shrink.bias": torch.full((12,), torch.nan)}}, tmp_path / "nan.bin")
    torch.save({"model_pos": None, "model_traj": None}, tmp_path / "none.bin")
    for path in sorted(tmp_path.glob("*.bin")):
        with pytest.raises(ValueError, match=r"holds more than weights|cannot be read|NaN or infinite|only tensors"):
            convert_checkpoint("videopose3d", path, tmp_path / "model")
    assert not victim.exists()
    assert not (tmp_path / "model").exists()


def test_checkpoint_of_another_method(tmp_path):
    other = FIXTURES.parent / "martinez_fcn" / "size40_stage3" / "checkpoint.pth.tar"
    with pytest.raises(ValueError, match="`checkpoint` must be of VideoPose3D"):
        convert_checkpoint("videopose3d", other, tmp_path / "model")
