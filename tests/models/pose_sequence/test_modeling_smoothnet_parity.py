"""SmoothNet against values of the original code; `tests/fixtures/smoothnet/README.md` says how they were made."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels import SmoothNetFeatureExtractor, SmoothNetForPoseRefinement
from hvmodels.conversion import convert_checkpoint
from hvmodels.models.pose_sequence.windows_pose_sequence import overlap_average, take_windows, window_starts
from tests.reference_cases import reference_case, reference_folder


CASES = [reference_case("smoothnet", name) for name in ("h36m_2d_w8", "h36m_3d_w32")]
TOLERANCE = {"atol": 5e-7, "rtol": 1e-6}
ORIGINAL = {"tail": "drop", "short_sequence": "zeros"}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Options, reference tensors, converted model and extractor."""
    folder, output = reference_folder("smoothnet", request.param), tmp_path_factory.mktemp("model") / request.param
    convert_checkpoint("smoothnet", folder / "checkpoint.pth", output, folder / "config.json")
    model = AutoModelForTimeSeriesPrediction.from_pretrained(output, **ORIGINAL).eval()
    options = json.loads((folder / "config.json").read_text())
    return options, load_file(folder / "io.safetensors"), model, AutoFeatureExtractor.from_pretrained(output)


def extract(case, index):
    """Input sequence (1, frames, joints, dims), normalised."""
    options, values, _, extractor = case
    poses = values[f"input.pred.{index}"].unflatten(1, (options["num_joints"], options["joint_dim"]))
    if options["joint_dim"] == 2:
        return extractor(poses, image_size=(1000, 1000))
    return extractor(poses, unit="metre")


def with_stride(model, stride):
    model = copy.deepcopy(model)
    model.config.window_stride = stride
    return model


def test_configuration(case):
    options, _, model, extractor = case
    config, sizes = model.config, options["MODEL"]
    assert type(model) is SmoothNetForPoseRefinement
    assert type(extractor) is SmoothNetFeatureExtractor
    assert config.window_size == config.output_size == sizes["SLIDE_WINDOW_SIZE"]
    assert config.hidden_size == sizes["HIDDEN_SIZE"]
    assert config.intermediate_size == sizes["RES_HIDDEN_SIZE"]
    assert config.num_hidden_layers == sizes["NUM_BLOCK"]
    assert config.hidden_dropout_prob == sizes["DROPOUT"]
    assert config.position_loss_weight == options["LOSS"]["W_POS"]
    assert config.acceleration_loss_weight == options["LOSS"]["W_ACCEL"]


@pytest.mark.parametrize("index", range(3))
def test_windows(case, index):
    _, values, model, _ = case
    poses, expected = extract(case, index)["pose_values"], values[f"intermediate.input_windows.{index}"]
    size = model.config.window_size
    if poses.shape[1] >= size:
        windows = take_windows(poses[0], window_starts(poses.shape[1], size), size)
    else:
        windows = torch.cat([poses, poses.new_zeros(1, size - poses.shape[1], *poses.shape[2:])], dim=1)
    assert_close(windows.flatten(2), expected, **TOLERANCE)
    with torch.no_grad():
        outputs = model.smoothnet(windows, output_hidden_states=True)
    assert_close(outputs.window_poses.flatten(2), values[f"output.windows.{index}"], **TOLERANCE)
    assert_close(model.refine_windows(windows).flatten(2), values[f"output.windows.{index}"], **TOLERANCE)
    if index == 0:
        names = ["encoder", *(f"res_blocks.{block}" for block in range(model.config.num_hidden_layers))]
        assert len(names) == len(outputs.hidden_states)
        for name, hidden_states in zip(names, outputs.hidden_states, strict=True):
            assert_close(hidden_states[:1], values[f"intermediate.{name}"], **TOLERANCE)


@pytest.mark.parametrize("index", range(3))
def test_sequences(case, index):
    options, values, model, extractor = case
    features = extract(case, index)
    for stride in options["slide_window_step_sizes"]:
        step = "" if stride == 1 else f".step{stride}"
        expected = values[f"output.sequence{step}.{index}"]
        with torch.no_grad():
            outputs = with_stride(model, stride)(features["pose_values"], features["pose_mask"])
        assert_close(outputs.refined_poses[0].flatten(1), expected, **TOLERANCE)
        assert outputs.refined_mask.tolist() == [[True] * len(expected)]
        poses = extractor.post_process_pose_refinement(outputs, features)[0]["poses"]
        if options["joint_dim"] == 2:
            pixels = values[f"output.sequence_pixels{step}.{index}"]
            assert_close(torch.as_tensor(poses), pixels, atol=3e-4, rtol=0)
        else:
            assert_close(torch.as_tensor(poses).flatten(1), expected, **TOLERANCE)


def test_mean_of_windows(case):
    options, values, model, _ = case
    for stride in options["slide_window_step_sizes"]:
        expected = values[f"output.sequence{'' if stride == 1 else f'.step{stride}'}.0"]
        starts = window_starts(len(values["output.sequence.0"]), model.config.window_size, stride, "drop")
        windows = values["output.windows.0"][starts]
        assert_close(overlap_average(windows, starts, len(expected)), expected, **TOLERANCE)


def test_loss_gradients_and_one_adam_step(case, request):
    options, values, converted, _ = case
    model = copy.deepcopy(converted)
    joints = (options["num_joints"], options["joint_dim"])
    poses, labels = (values[f"input.train_{name}"].unflatten(2, joints) for name in ("pred", "gt"))
    outputs = model(poses, labels=labels)
    assert_close(outputs.window_poses.flatten(2), values["output.train_pred"], **TOLERANCE)
    assert_close(outputs.refined_poses.flatten(2), values["output.train_pred"], **TOLERANCE)
    assert_close(outputs.loss, values["output.loss.total"], **TOLERANCE)
    for name in ("position", "acceleration"):
        model.config.position_loss_weight, model.config.acceleration_loss_weight = (
            float(name == part) for part in ("position", "acceleration")
        )
        assert_close(model(poses, labels=labels).loss, values[f"output.loss.{name}"], **TOLERANCE)

    outputs.loss.backward()
    parameters = dict(model.named_parameters())
    folder = reference_folder("smoothnet", request.node.callspec.params["case"])
    checkpoint = torch.load(folder / "checkpoint.pth", weights_only=True)
    names, state_dict = checkpoint["state_dict"], converted.state_dict()
    ours = {
        name: next(key for key, ours in state_dict.items() if torch.equal(ours, tensor))
        for name, tensor in names.items()
    }
    gradients = {name.removeprefix("grad."): value for name, value in values.items() if name.startswith("grad.")}
    assert len(gradients) == 6
    for name, expected in gradients.items():
        assert_close(parameters[ours[name]].grad, expected, **TOLERANCE)

    optimizer = torch.optim.Adam([parameters[ours[name]] for name in names], lr=options["TRAIN"]["LR"], amsgrad=True)
    optimizer.load_state_dict(checkpoint["optimizer"])
    optimizer.step()
    stepped = {name: value for name, value in values.items() if name.startswith("output.after_step.")}
    assert len(stepped) == 2
    for name, expected in stepped.items():
        name = ours[name.removeprefix("output.after_step.")]
        assert_close(parameters[name], expected, **TOLERANCE)
        assert not torch.equal(parameters[name], converted.state_dict()[name])


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("case", CASES[1:], indirect=True)
def test_port_of_mmpose(case, index):
    """The root stays as it was, the other joints are refined relative to it; too short sequences come back as they were."""
    options, values, model, _ = case
    expected = values[f"output.mmpose_port.{index}"]
    poses = values[f"input.pred.{index}"].unflatten(1, (17, 3))
    if len(poses) < model.config.window_size:
        assert_close(expected, poses, **TOLERANCE)  # ours refines it
        return
    extractor = SmoothNetFeatureExtractor(
        unit="metre", root_indices=[options["mmpose_port_root_index"]], root_mode="exclude"
    )
    features = extractor(poses, unit="metre")
    with torch.no_grad():
        outputs = model(features["pose_values"], features["pose_mask"])
    refined = extractor.post_process_pose_refinement(outputs, features)[0]["poses"]
    assert_close(torch.as_tensor(refined), expected, **TOLERANCE)
