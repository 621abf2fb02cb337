"""VideoPose3D gives what its original gives, through the converter."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.videopose3d import convert_state_dict
from hvmodels.models.pose_sequence.feature_extraction_pose_lifting import flip_poses, pad_windows
from tests.reference_cases import reference_case, reference_folder


TOLERANCE = {"atol": 2e-6, "rtol": 2e-6}
CASES = [reference_case("videopose3d", name) for name in ("arc333", "arc33_causal")]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder, output = reference_folder("videopose3d", request.param), tmp_path_factory.mktemp("videopose3d") / "model"
    options = json.loads((folder / "config.json").read_text())
    convert_checkpoint("videopose3d", folder / "checkpoint.bin", output, {"causal": options["causal"]})
    model = AutoModelForTimeSeriesPrediction.from_pretrained(output).eval()
    return options, load_file(folder / "io.safetensors"), model, AutoFeatureExtractor.from_pretrained(output)


def test_configuration(case):
    options, values, model, extractor = case
    config = model.config
    assert config.filter_widths == options["filter_widths"]
    assert (config.num_joints, config.in_channels) == (options["num_joints_in"], options["in_features"])
    assert (config.num_output_joints, config.hidden_size) == (options["num_joints_out"], options["channels"])
    assert (config.causal, config.dense, config.trajectory) == (options["causal"], False, False)
    assert config.hidden_dropout_prob == options["dropout"]
    assert config.num_frames == extractor.num_frames == int(values["output.receptive_field"])
    assert extractor.causal == options["causal"]


@torch.no_grad()
def test_a_long_clip(case):
    _, values, model, _ = case
    positions = model(values["input.keypoints_2d"]).positions_3d
    assert_close(positions, values["output.positions_3d"], **TOLERANCE)


def test_windows_loss_and_gradients(case, request):
    _, values, model, _ = case
    outputs = model(values["input.window"], labels=values["input.window_target"])
    assert_close(outputs.positions_3d, values["output.window_3d"], **TOLERANCE)
    assert_close(outputs.loss, values["output.loss"], **TOLERANCE)
    model.zero_grad()
    outputs.loss.backward()
    folder = reference_folder("videopose3d", request.node.callspec.params["case"])
    # Each gradient under our name of its weight.
    gradients = {name.removeprefix("grad."): value for name, value in values.items() if name.startswith("grad.")}
    weights = torch.load(folder / "checkpoint.bin", weights_only=False)["model_pos"]  # a file of this repository
    _, renamed = convert_state_dict({name: gradients.get(name, weight) for name, weight in weights.items()}, {})
    ours = {
        name: value for name, value in renamed.items() if any(value is gradient for gradient in gradients.values())
    }
    parameters = dict(model.named_parameters())
    assert len(ours) == len(gradients) == 3
    for name, gradient in ours.items():
        assert_close(parameters[name].grad, gradient, **TOLERANCE)


@torch.no_grad()
def test_a_sequence_with_padding_and_flip_test(case):
    """Every frame of a short clip; the original pads a causal model's clip before its first frame only."""
    options, values, model, extractor = case
    sequence, frames = values["input.sequence"], model.config.num_frames
    pad, shift = int(values["output.pad"]), int(values["output.causal_shift"])
    padded = pad_windows(sequence.numpy(), frames, options["causal"])
    assert len(padded) == len(sequence) + 2 * pad
    assert (padded[: pad + shift + 1] == sequence[0].numpy()).all()
    pair = torch.stack([torch.from_numpy(x) for x in (padded, flip_poses(padded, extractor.flip_permutation))])
    assert_close(pair, values["intermediate.padded_pair"], **TOLERANCE)
    straight, mirrored = model(pair).positions_3d.numpy()
    mean = (straight + flip_poses(mirrored, extractor.flip_permutation)) / 2
    assert_close(torch.from_numpy(mean), values["output.sequence_tta"], **TOLERANCE)
