"""Checkpoints of DeciWatch and mmhuman3d: every published configuration, names of files, options, and files that are none."""

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels import DeciWatchFeatureExtractor, DeciWatchForPoseRecovery
from hvmodels.conversion import convert_checkpoint, read_checkpoint
from hvmodels.conversion.deciwatch import convert, convert_state_dict
from hvmodels.keypoint_sets import HUMAN36M17_LEFT_FIRST, JHMDB15, LSP14, SMPL24


FIXTURES = Path(__file__).parents[1] / "fixtures" / "deciwatch"
KEYS = json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))
CASE = FIXTURES / "h36m_3d_n10_q2"
# Joints, numbers of each, width, layers, pre-norm, Q at N = 10, stride in intervals, parameters.
PUBLISHED = {
    "aist_spin_3D": (14, 3, 128, 5, True, 10, 1, 1_700_180),
    "aist_spin_smpl": (24, 6, 128, 5, False, 10, 10, 1_804_576),
    "h36m_fcn_3D": (17, 3, 128, 5, True, 10, 1, 1_709_414),
    "jhmdb_simplepose_2D": (15, 2, 128, 5, False, 1, 1, 1_687_612),
    "pw3d_eft_3D": (14, 3, 12, 5, True, 10, 1, 78_268),
    "pw3d_eft_smpl": (24, 6, 128, 3, False, 10, 10, 1_142_048),
    "pw3d_pare_3D": (14, 3, 32, 5, True, 10, 1, 242_708),
    "pw3d_pare_smpl": (24, 6, 16, 3, False, 10, 10, 79_840),
    "pw3d_spin_3D": (14, 3, 32, 5, True, 10, 1, 242_708),
    "pw3d_spin_smpl": (24, 6, 32, 3, False, 10, 10, 176_288),
}
JOINTS = {17: (HUMAN36M17_LEFT_FIRST, [0]), 14: (LSP14, [2, 3]), 15: (JHMDB15, None), 24: (SMPL24, None)}


def make_weights(name="pw3d_pare_smpl"):
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in KEYS[name].items()}


def test_every_key_list_is_here():
    assert KEYS.keys() == PUBLISHED.keys() | {"mmhuman3d_pw3d_spin_smpl"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name):
    joints, joint_dim, hidden_size, layers, pre_norm, num_intervals, stride, parameters = PUBLISHED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, extractor = convert(make_weights(name), {}, Path(f"checkpoint_i10_q{num_intervals}.pth.tar"))
    config = model.config
    assert (config.num_joints, config.joint_dim, config.hidden_size) == (joints, joint_dim, hidden_size)
    assert (config.encoder_layers, config.decoder_layers, config.pre_norm) == (layers, layers, pre_norm)
    assert (config.sample_interval, config.num_intervals, config.window_stride_intervals) == (
        10,
        num_intervals,
        stride,
    )
    assert (config.memory_mask_type, config.recover_mode) == ("additive", "transformer")
    assert (config.num_attention_heads, config.intermediate_size, config.dropout) == (4, 256, 0.1)
    assert (config.tail, config.short_sequence, config.window_normalization) == ("keep", "replicate", "none")
    assert model.num_parameters() == parameters
    assert not model.training
    names, root = JOINTS[joints]
    assert extractor.keypoint_names == list(names.keypoints)
    assert (extractor.root_indices, extractor.sample_interval) == (root, 10)
    assert extractor.unit == ("metre" if joint_dim == 3 else None)
    assert extractor.normalization == ("image" if joint_dim == 2 else "none")
    assert (extractor.image_scale, extractor.image_offset, extractor.rotation_layout) == (1, 0, "columns")


def test_mmhuman3d():
    model, extractor = convert(make_weights("mmhuman3d_pw3d_spin_smpl"), {}, Path("deciwatch_interval5_q3.pth.tar"))
    config = model.config
    assert (config.sample_interval, config.num_intervals, config.window_stride_intervals) == (5, 3, 1)
    assert (config.memory_mask_type, config.hidden_size, config.encoder_layers) == ("boolean", 16, 3)
    assert not config.pre_norm
    assert extractor.rotation_layout == "rows"


def test_every_weight_arrives():
    """A number in each entry of the original finds its place, the stacked projections split in three."""
    for name in ("pw3d_pare_smpl", "pw3d_eft_3D"):
        weights = {key: torch.full(shape, float(index)) for index, (key, shape) in enumerate(KEYS[name].items())}
        _, state_dict = convert_state_dict(weights, {"INTERVAL_N": 10, "SLIDE_WINDOW_Q": 10})
        counts = {key: sum(tensor.numel() for tensor in state_dict.values() if tensor.flatten()[0] == index)
                  for index, key in enumerate(weights)}  # fmt: skip
        assert counts == {key: tensor.numel() for key, tensor in weights.items()}
    rows = torch.arange(48.0)
    weights = make_weights() | {"transformer.encoder.layers.1.self_attn.in_proj_bias": rows}
    _, state_dict = convert_state_dict(weights, {"INTERVAL_N": 10, "SLIDE_WINDOW_Q": 10})
    for index, part in enumerate("qkv"):
        bias = state_dict[f"deciwatch.encoder.layers.1.self_attention.{part}_proj.bias"]
        assert_close(bias, rows[16 * index : 16 * (index + 1)])


@pytest.mark.parametrize("layout", ["trainer", "plain", "module", "safetensors"])
def test_files(layout, tmp_path):
    weights = read_checkpoint(CASE / "checkpoint.pth")
    path = CASE / "checkpoint.pth"
    if layout == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(weights, path)
    elif layout != "trainer":
        path = tmp_path / "checkpoint.pth.tar"
        torch.save({("module." if layout == "module" else "") + name: value for name, value in weights.items()}, path)
    convert_checkpoint("deciwatch", path, tmp_path / "model", original_config=CASE / "config.json")
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "model").eval()
    assert type(model) is DeciWatchForPoseRecovery
    values = load_file(CASE / "io.safetensors")
    with torch.no_grad():
        recovered = model.refine_windows(values["intermediate.input_windows.0"].unflatten(-1, (17, 3)))
    assert_close(recovered.flatten(2), values["output.recover_windows.0"], atol=2e-6, rtol=0)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert type(extractor) is DeciWatchFeatureExtractor
    assert (extractor.unit, extractor.root_indices) == ("metre", [0])


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"MODEL": {"INTERVAL_N": 5, "SLIDE_WINDOW_Q": 20}}, "checkpoint_i3_q33.pth.tar", (5, 20, "additive")),
        ({"SAMPLE_INTERVAL": 5, "MODEL": {"SLIDE_WINDOW_Q": 20}}, "model.pth", (5, 20, "additive")),
        ({"MODEL": {"SLIDE_WINDOW_Q": 7}}, "checkpoint_i3_q33.pth.tar", (3, 7, "additive")),
        ({}, "checkpoint_i1_q100.pth.tar", (1, 100, "additive")),
        ({}, "i15_q6.pth", (15, 6, "additive")),
        ({}, "deciwatch_interval10_q2-abc.pth.tar", (10, 2, "boolean")),
        ({"speed_up_cfg": {"interval": 5, "slide_window_q": 1}}, "model.pth", (5, 1, "boolean")),
        ({"memory_mask_type": "additive"}, "deciwatch_interval10_q2.pth.tar", (10, 2, "additive")),
        ({"memory_mask_type": "boolean"}, "checkpoint_i10_q10.pth.tar", (10, 10, "boolean")),
    ],
    ids=str,
)
def test_windows_and_masks(options, name, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config, _ = convert_state_dict(make_weights(), options, Path(name))
    assert (config.sample_interval, config.num_intervals, config.memory_mask_type) == expected


@pytest.mark.parametrize(("weights", "num_intervals"), [("pw3d_pare_smpl", 10), ("jhmdb_simplepose_2D", 1)])
def test_unknown_frames_are_the_published_ones(weights, num_intervals):
    with pytest.warns(UserWarning, match=f"10 frames an interval and {num_intervals} intervals"):
        config, _ = convert_state_dict(make_weights(weights), {}, Path("checkpoint.pth.tar"))
    assert (config.sample_interval, config.num_intervals) == (10, num_intervals)


def test_options():
    options = {
        "MODEL": {"ENCODER_HEAD": 2, "DROPOUT": 0.2, "DECODER": "tradition_interp", "SLIDE_WINDOW_Q": 5},
        "LOSS": {"LAMADA": 2.5, "W_DENOISE": 0.5},
        "EVALUATE": {"SLIDE_WINDOW_STEP_Q": 3},
        "SAMPLE_INTERVAL": 20,
        "BODY_REPRESENTATION": "3D",
        "KEYPOINT_ROOT": [1],
    }
    model, extractor = convert(make_weights(), options, Path("checkpoint.pth.tar"))
    config = model.config
    assert (config.num_attention_heads, config.dropout, config.recover_mode) == (2, 0.2, "interpolation")
    assert (config.recover_loss_weight, config.denoise_loss_weight, config.window_stride_intervals) == (2.5, 0.5, 3)
    assert (config.num_joints, config.joint_dim) == (48, 3)
    assert (extractor.num_joints, extractor.keypoint_names, extractor.root_indices) == (48, None, [1])


@pytest.mark.parametrize(
    ("options", "root"),
    [
        ({"EVALUATE": {"ROOT_RELATIVE": False}, "KEYPOINT_ROOT": [1]}, None),
        ({"EVALUATE": {"ROOT_RELATIVE": True}}, [2, 3]),
        ({"DATASET_NAME": "h36m", "DATASET": {"PW3D": {"KEYPOINT_ROOT": [5]}, "H36M": {"KEYPOINT_ROOT": [6]}}}, [6]),
    ],
    ids=str,
)
def test_root(options, root):
    assert convert(make_weights("pw3d_eft_3D"), options, Path("checkpoint_i10_q10.pth"))[1].root_indices == root


def test_axis_angles_of_smpl():
    """`USE_6D_SMPL` off: 3 numbers a joint, which are no positions."""
    options = {"BODY_REPRESENTATION": "smpl", "TRAIN": {"USE_6D_SMPL": False}}
    model, extractor = convert(make_weights(), options, Path("checkpoint_i10_q10.pth"))
    assert (model.config.num_joints, model.config.joint_dim) == (48, 3)
    assert (extractor.unit, extractor.root_indices) == (None, None)
    poses = np.random.default_rng(0).normal(size=(3, 48, 3)).astype(np.float32)
    np.testing.assert_array_equal(extractor(poses)["pose_values"][0], poses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ENCODER_HEAD": 3}, "`hidden_size` must be even and a multiple"),
        ({"ENCODER_HEAD": "4"}, "`ENCODER_HEAD` must be a positive integer"),
        ({"INTERVAL_N": 0}, "`INTERVAL_N` must be a positive integer"),
        ({"slide_window_q": True}, "`slide_window_q` must be a positive integer"),
        ({"DROPOUT": -1}, "`DROPOUT` must be a number"),
        ({"DECODER": "lstm"}, "`DECODER` must be one of"),
        ({"memory_mask_type": "integer"}, "`memory_mask_type` must be one of"),
        ({"BODY_REPRESENTATION": "4D"}, "`BODY_REPRESENTATION` must be one of"),
        ({"SLIDE_WINDOW_STEP_Q": 11}, "`window_stride_intervals` must be from 1"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        convert(make_weights(), options, Path("checkpoint_i10_q10.pth.tar"))


def test_poses_of_no_published_model():
    weights = make_weights()
    for name in ("encoder_embed.weight", "encoder_joints_embed.weight", "encoder_joints_embed.bias",
                 "decoder_embed.weight", "decoder_joints_embed.weight", "decoder_joints_embed.bias"):  # fmt: skip
        tensor = weights[f"transformer.{name}"]
        axis = 1 if name.endswith("embed.weight") and "joints" not in name else 0
        weights[f"transformer.{name}"] = tensor.narrow(axis, 0, 50).contiguous()
    path = Path("checkpoint_i10_q10.pth")
    with pytest.raises(ValueError, match="must say `body_representation`"):
        convert(weights, {}, path)
    with pytest.raises(ValueError, match="50 numbers a pose are no multiple of 3"):
        convert(weights, {"BODY_REPRESENTATION": "3D"}, path)
    model, extractor = convert(weights, {"body_representation": "2D"}, path)
    assert (model.config.num_joints, extractor.num_joints, extractor.normalization) == (25, 25, "image")


def drop(prefix):
    def change(weights):
        for name in [name for name in weights if name.startswith(f"transformer.{prefix}")]:
            del weights[name]

    return change


def put(name, tensor):
    return lambda weights: weights.update({f"transformer.{name}": tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("extra.weight", torch.zeros(1)), r"\['transformer.extra.weight'\] are not known"),
        (lambda weights: weights.update({"encoder_embed.weight": torch.zeros(1)}), "are not known"),
        (drop("encoder_embed.weight"), "encoder_embedding.weight' of 2 dimensions; got none"),
        (put("encoder_embed.weight", torch.zeros(0, 144)), "of 2 dimensions"),
        (drop("decoder_embed.bias"), r"\['deciwatch.decoder_embedding.bias'\] are missing"),
        (drop("encoder.layers.1."), "layers of the encoder are missing"),
        (drop("decoder.layers."), "layers of the decoder are missing"),
        (drop("decoder.layers.1.multihead_attn.in_proj_weight"), "are missing"),
        (put("encoder.layers.0.norm3.weight", torch.zeros(16)), "are not known"),
        (put("encoder.layers.0.multihead_attn.in_proj_bias", torch.zeros(48)), "are not known"),
        (put("encoder.layers.0.self_attn.bias_k", torch.zeros(48)), "have no place"),
        (put("encoder.norm.weight", torch.zeros(16)), r"\['deciwatch.encoder.layer_norm.bias'\] are missing"),
        (put("encoder.layers.0.self_attn.in_proj_bias", torch.zeros(47)), "must stack queries, keys and values"),
        (put("encoder.layers.0.self_attn.in_proj_bias", torch.zeros(51)), r"shape \(17,\), but .* ask for \(16,\)"),
        (put("decoder_embed.weight", torch.zeros(16, 144, 3)), r"ask for \(16, 144, 5\)"),
        (put("decoder_embed.bias", torch.zeros(16).double()), "same floating-point dtype"),
        (put("decoder_embed.bias", torch.full((16,), torch.nan)), "NaN or infinite"),
        (lambda weights: [weights.clear(), weights.update(weight=torch.ones(2))], "are not known"),
    ],
)
def test_weights_that_do_not_fit(change, message, tmp_path):
    weights = make_weights()
    change(weights)
    torch.save(weights, tmp_path / "checkpoint_i10_q10.pth.tar")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("deciwatch", tmp_path / "checkpoint_i10_q10.pth.tar", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_half_precision(tmp_path):
    torch.save({name: tensor.half() for name, tensor in make_weights().items()}, tmp_path / "i10_q10.pth")
    convert_checkpoint("deciwatch", tmp_path / "i10_q10.pth", tmp_path / "model")
    assert DeciWatchForPoseRecovery.from_pretrained(tmp_path / "model").dtype == torch.float16
