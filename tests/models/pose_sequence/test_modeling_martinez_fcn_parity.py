"""The fully connected baseline gives what its original gives, through the converter."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForTimeSeriesPrediction

from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.martinez_fcn import convert_state_dict
from tests.reference_cases import reference_case, reference_folder


TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
CASES = [reference_case("martinez_fcn", name) for name in ("size40_stage3", "size64_stage2")]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder, output = reference_folder("martinez_fcn", request.param), tmp_path_factory.mktemp("martinez_fcn") / "model"
    with pytest.warns(UserWarning, match="comes without the statistics"):
        convert_checkpoint("martinez-fcn", folder / "checkpoint.pth.tar", output, folder / "config.json")
    options = json.loads((folder / "config.json").read_text())
    return options, load_file(folder / "io.safetensors"), output


def test_network(case):
    options, values, folder = case
    model = AutoModel.from_pretrained(folder).eval()
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (options["linear_size"], options["num_stage"])
    assert model.config.hidden_dropout_prob == options["p_dropout"]
    poses = values["input.pose_2d"].unflatten(1, (1, 16, 2))
    with torch.no_grad():
        outputs = model(poses, output_hidden_states=True)
    assert_close(outputs.normalized_positions.flatten(1), values["output.pose_3d"], **TOLERANCE)
    for state, name in zip(outputs.hidden_states, ("stem", "stage0"), strict=False):
        assert_close(state[:, 0], values[f"intermediate.{name}"], **TOLERANCE)


def test_loss_and_gradients_of_the_head(case, request):
    """With a mean of 0 and a deviation of 1 the head is the network; the nose is not read, and the root not learned."""
    _, values, folder = case
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder).eval()
    with pytest.raises(ValueError, match="statistics of the training data are not known"):
        model(torch.zeros(1, 1, 17, 2))
    shapes = [(16, 2), (16, 3)]
    model.set_statistics(*(fill(shape) for shape in shapes for fill in (torch.zeros, torch.ones)))
    keypoints = torch.full((len(values["input.pose_2d"]), 1, 17, 2), 7.0)
    labels = torch.full((len(keypoints), 1, 17, 3), 7.0)
    keypoints[:, 0, [*range(9), *range(10, 17)]] = values["input.pose_2d"].unflatten(1, (16, 2))
    labels[:, 0, 1:] = values["input.target"].unflatten(1, (16, 3))
    outputs = model(keypoints, labels=labels)
    assert_close(outputs.positions_3d[:, 0, 1:].flatten(1), values["output.pose_3d"], **TOLERANCE)
    assert not outputs.positions_3d[:, :, 0].any()
    assert_close(outputs.loss, values["output.loss"], **TOLERANCE)
    outputs.loss.backward()
    checkpoint = reference_folder("martinez_fcn", request.node.callspec.params["case"]) / "checkpoint.pth.tar"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    gradients = {name.removeprefix("grad."): value for name, value in values.items() if name.startswith("grad.")}
    _, renamed = convert_state_dict({name: gradients.get(name, weight) for name, weight in weights.items()}, {})
    ours = {
        name: value for name, value in renamed.items() if any(value is gradient for gradient in gradients.values())
    }
    parameters = dict(model.named_parameters())
    assert len(ours) == len(gradients) == 2
    for name, gradient in ours.items():
        assert_close(parameters[name].grad, gradient, **TOLERANCE)
