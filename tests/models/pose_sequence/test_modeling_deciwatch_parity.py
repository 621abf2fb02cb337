"""DeciWatch against values of the original; `tests/fixtures/deciwatch/README.md` says how they were made."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hvmodels.conversion.checkpoints import open_checkpoint, read_checkpoint
from hvmodels.conversion.deciwatch import convert_state_dict
from hvmodels.models.pose_sequence import DeciWatchForPoseRecovery
from hvmodels.models.pose_sequence.modeling_deciwatch import position_code


FIXTURES = Path(__file__).parents[2] / "fixtures" / "deciwatch"
CASES = ("h36m_3d_n10_q2", "jhmdb_2d_n5_q3")
POSES = {"atol": 2e-6, "rtol": 0}
LOSS = {"atol": 0, "rtol": 1e-6}


class Case:
    """A case of the original: our model, options, values, and what its files hold beside the weights."""

    def __init__(self, name):
        self.name, folder = name, FIXTURES / name
        self.options = json.loads((folder / "config.json").read_text())
        self.values = load_file(folder / "io.safetensors")
        self.weights = read_checkpoint(folder / "checkpoint.pth")
        config, self.state_dict = convert_state_dict(self.weights, self.options)
        config.tail, config.short_sequence = "drop", "zeros"
        config._attn_implementation = "eager"
        self.model = DeciWatchForPoseRecovery(config).eval()
        self.model.load_state_dict(self.state_dict)
        self.interval = config.sample_interval

    def poses(self, values):
        """(..., frames, numbers) to (..., frames, joints, dims)."""
        return values.unflatten(-1, (-1, self.model.config.joint_dim))

    def input_sequence(self, index):
        """Sequence as the original's data loader prepares it, (1, frames, joints, dims)."""
        poses = self.poses(self.values[f"input.pred.{index}"])
        if self.options["body_representation"] == "3D":
            poses = poses - poses[:, self.options["KEYPOINT_ROOT"]].mean(1, keepdim=True)
        else:
            poses = poses / self.values[f"input.imgshape.{index}"][[1, 0]]
        return poses[None]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture(params=["eager", "sdpa"])
def model(request, case):
    model = copy.deepcopy(case.model)
    model.set_attn_implementation(request.param)
    return model


def original_gradients(case, model):
    """Gradient and value of each parameter under the original's names."""
    places = {name: torch.full_like(weight, index) for index, (name, weight) in enumerate(case.weights.items())}
    parts = {name: [] for name in places}
    for ours, place in convert_state_dict(places, case.options)[1].items():
        parts[list(places)[int(place.flatten()[0])]].append(model.get_parameter(ours))
    return {
        name: tuple(torch.cat([getattr(part, kind) for part in group]) for kind in ("grad", "data"))
        for name, group in parts.items()
    }


def test_position_code(case):
    config = case.model.config
    code = position_code(config.window_size, config.hidden_size)
    assert_close(code, case.values["output.position_embedding"], atol=1e-6, rtol=0)
    assert_close(case.model.deciwatch.position_code, code, atol=0, rtol=0)


@torch.no_grad()
def test_intermediate_activations(case, model):
    windows = case.poses(case.values["intermediate.input_windows.0"])[:1]
    outputs = model.deciwatch(windows, output_hidden_states=True)
    ours = {
        "encoder_embed": outputs.encoder_hidden_states[0],
        "encoder": outputs.encoder_last_hidden_state,
        "decoder_embed": outputs.decoder_hidden_states[0],
        "decoder": outputs.decoder_last_hidden_state,
    }
    for network, states in (("encoder", outputs.encoder_hidden_states), ("decoder", outputs.decoder_hidden_states)):
        ours |= {f"{network}.layers.{index}": state for index, state in enumerate(states[1:])}
    expected = {
        name.removeprefix("intermediate."): value for name, value in case.values.items() if "intermediate." in name
    }
    assert expected.keys() == ours.keys() | {f"input_windows.{index}" for index in range(3)} | {"interpolated_poses"}
    for name, state in ours.items():
        value = expected[name].transpose(1, 2) if name == "decoder_embed" else expected[name].transpose(0, 1)
        assert_close(state, value, msg=lambda message, name=name: f"{name}: {message}", **POSES)
    interpolated = model.deciwatch.interpolation @ outputs.denoised_poses.flatten(2)
    assert_close(interpolated, expected["interpolated_poses"].transpose(1, 2), **POSES)


@torch.no_grad()
@pytest.mark.parametrize("index", range(3))
def test_windows(case, model, index):
    windows = case.poses(case.values[f"intermediate.input_windows.{index}"])
    outputs = model.deciwatch(windows)
    expected = case.poses(case.values[f"output.recover_windows.{index}"])
    assert_close(outputs.recovered_poses, expected, **POSES)
    assert_close(model.refine_windows(windows), expected, **POSES)
    denoised = case.poses(case.values[f"output.denoise_windows.{index}"])
    assert_close(outputs.denoised_poses, denoised[:, :: case.interval], **POSES)
    # The original's values of frames that were not seen, which mean nothing, are there too.
    every_frame = case.poses(model.deciwatch.encoder_head(outputs.encoder_last_hidden_state))
    every_frame[:, :: case.interval] += windows[:, :: case.interval]
    assert_close(every_frame, denoised, **POSES)


@torch.no_grad()
@pytest.mark.parametrize("mask_type", ["additive", "boolean"])
@pytest.mark.parametrize("index", range(3))
def test_sequences(case, model, index, mask_type):
    prefix = "output" if mask_type == "additive" else "output_boolmask"
    sequence = case.input_sequence(index)
    assert_close(
        sequence[0, : model.config.window_size].flatten(1),
        case.values[f"intermediate.input_windows.{index}"][0, : sequence.shape[1]],
        **POSES,
    )
    model.config.memory_mask_type = mask_type
    steps = {"": 1, **{f".stepq{step}": step for step in case.options["extra_step_q"]}}
    for suffix, step in steps.items():
        model.config.window_stride_intervals = step
        outputs = model(sequence)
        expected = case.poses(case.values[f"{prefix}.recover_sequence{suffix}.{index}"])
        assert_close(outputs.recovered_poses[0], expected, **POSES)
        assert outputs.refined_mask.all()
        if not suffix and mask_type == "additive":
            expected = case.poses(case.values[f"output.denoise_sequence.{index}"])
            assert_close(outputs.denoised_poses[0], expected[:: case.interval], **POSES)


def test_the_two_masks_differ(case):
    differences = [
        (case.values[f"output.recover_sequence.{index}"] - case.values[f"output_boolmask.recover_sequence.{index}"])
        .abs()
        .max()
        for index in range(3)
    ]
    assert min(differences) > 1e-3


def test_training_step(case, model):
    """Dropout is off in the fixtures: evaluation mode with gradients."""
    inputs, labels = (case.poses(case.values[f"input.train_{name}"]) for name in ("pred", "gt"))
    outputs = model(inputs, labels=labels)
    assert_close(outputs.loss, case.values["output.loss.total"], **LOSS)
    assert_close(outputs.recovered_poses, case.poses(case.values["output.train_recover"]), **POSES)
    expected = case.poses(case.values["output.train_denoise"])[:, :: case.interval]
    assert_close(outputs.denoised_poses, expected, **POSES)
    for part, other in (("denoise", "recover"), ("recover", "denoise")):
        weights = {f"{part}_loss_weight": 1.0, f"{other}_loss_weight": 0.0}
        alone = copy.deepcopy(model)
        for name, weight in weights.items():
            setattr(alone.config, name, weight)
        assert_close(alone(inputs, labels=labels).loss.detach(), case.values[f"output.loss.{part}"], **LOSS)

    outputs.loss.backward()
    gradients = {name[5:]: value for name, value in case.values.items() if name.startswith("grad.")}
    ours = original_gradients(case, model)
    assert len(gradients) >= 7
    for name, expected in gradients.items():
        assert_close(ours[name][0], expected, atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_loss_with_a_boolean_mask(case, model):
    inputs, labels = (case.poses(case.values[f"input.train_{name}"]) for name in ("pred", "gt"))
    model.config.memory_mask_type = "boolean"
    outputs = model(inputs, labels=labels)
    assert_close(outputs.loss.detach(), case.values["output_boolmask.loss.total"], **LOSS)
    expected = case.poses(case.values["output_boolmask.train_recover"])
    assert_close(outputs.recovered_poses.detach(), expected, **POSES)


def test_optimizer_step(case, model, shared_data):
    """Adam with amsgrad from the state that the whole checkpoint holds."""
    checkpoint = open_checkpoint(shared_data / "parity" / "deciwatch" / case.name / "checkpoint.pth")
    inputs, labels = (case.poses(case.values[f"input.train_{name}"]) for name in ("pred", "gt"))
    model(inputs, labels=labels).loss.backward()
    ours = original_gradients(case, model)
    weights = [torch.nn.Parameter(ours[name][1].clone()) for name in case.weights]
    for weight, name in zip(weights, case.weights, strict=True):
        weight.grad = ours[name][0].clone()
    optimizer = torch.optim.Adam(weights, amsgrad=True)
    optimizer.load_state_dict(checkpoint["optimizer"])
    optimizer.step()
    steps = {name[18:]: value for name, value in case.values.items() if name.startswith("output.after_step.")}
    assert steps
    for weight, name in zip(weights, case.weights, strict=True):
        if name in steps:
            assert_close(weight.detach(), steps[name], atol=2e-6, rtol=0)
