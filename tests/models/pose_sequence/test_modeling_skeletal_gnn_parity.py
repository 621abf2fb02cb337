"""Skeletal-GNN against an independent reference; `tests/fixtures/skeletal_gnn/README.md` says how the values were made."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from hvmodels import (
    SkeletalGNNActionConfig,
    SkeletalGNNConfig,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
)
from hvmodels.conversion.skeletal_gnn import convert_state_dict, pack_layer, plain_state_dict, unpack_layer
from hvmodels.models.pose_sequence.modeling_skeletal_gnn import SkeletalGNNGraphConvolution
from hvmodels.models.pose_sequence.skeleton_graph_skeletal_gnn import (
    SKELETONS,
    hop_distances,
    hop_masks,
    normalize_columns,
)
from tests.reference_cases import reference_case, reference_folder


LAYER_OPTIONS = (
    "short_hops", "long_hops", "squeeze_ratio", "dynamic_graph", "temporal_kernel", "pad_dynamic", "normalize_scores",
    "mask_dynamic", "weight_sharing", "relation_channels", "negative_slope", "num_joints",
)  # fmt: skip
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
DEFAULTS = {
    "pose_t1_pair": SkeletalGNNConfig(num_frames=1, temporal_kernel=1),
    "pose_t9_pair": SkeletalGNNConfig(),
    "pose_t9_shared": SkeletalGNNConfig(weight_sharing="shared"),
    "action_ntu60": SkeletalGNNActionConfig(num_labels=60),
    "action_ntu120": SkeletalGNNActionConfig(num_labels=120),
}


def read(case):
    """Options, values and weights of a case."""
    folder = reference_folder("skeletal_gnn", case)
    return (
        json.loads((folder / "config.json").read_text()),
        load_file(folder / "io.safetensors"),
        load_file(folder / "weights.safetensors"),
    )


def check(actual, expected, tolerance):
    assert_close(actual.double(), expected.double(), atol=tolerance, rtol=tolerance)


def check_gradients(gradients, values, tolerance):
    expected = {name.removeprefix("grad."): value for name, value in values.items() if name.startswith("grad.")}
    assert expected
    for name, value in expected.items():
        check(gradients[name], value, tolerance)


def gradients_of(module):
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@DTYPES
@pytest.mark.parametrize(
    "case",
    [reference_case("skeletal_gnn", f"layer_{name}") for name in ("pair_masked", "shared_dynamic", "node_static")],
)
def test_layer(case, dtype, tolerance):
    options, values, weights = read(case)
    config = SkeletalGNNConfig(
        skeleton={17: "h36m17", 25: "ntu25"}[options["num_joints"]],
        num_frames=9,
        **{name: options[name] for name in LAYER_OPTIONS},
    )
    assert config.branch_channels(options["out_channels"]) == values["output.branch_channels"].tolist()
    layer = SkeletalGNNGraphConvolution(config, options["in_channels"], options["out_channels"])
    layer.load_state_dict({**pack_layer(weights, config), "norm.num_batches_tracked": torch.tensor(0)})
    layer.to(dtype).eval()
    features = values["input.x"].permute(0, 2, 3, 1).to(dtype)
    outputs = layer.convolve(features, layer.make_graph(features)).permute(0, 3, 1, 2)
    check(outputs, values["output.layer"], tolerance)
    activated = nn.functional.leaky_relu(layer(features), options["negative_slope"])
    check(activated.permute(0, 3, 1, 2), values["output.layer_bn_act"], tolerance)
    (outputs * values["input.grad_output"]).sum().backward()
    check_gradients(unpack_layer(gradients_of(layer), config), values, tolerance)
    if config.dynamic_graph:
        graphs = layer.make_dynamic_graph(features).unbind(1)
        for branch, (graph, mask) in enumerate(zip(graphs, layer.hop_mask, strict=True)):
            graph = graph * mask if config.mask_dynamic else graph
            check(graph, values[f"intermediate.branches.{branch}.dynamic_graph"], tolerance)


@DTYPES
@pytest.mark.parametrize(
    "case", [reference_case("skeletal_gnn", name) for name in ("pose_single_frame_pair", "pose_9frames_shared")]
)
def test_lifting(case, dtype, tolerance):
    options, values, weights = read(case)
    config, state_dict = convert_state_dict(weights, options)
    model = SkeletalGNNForPoseLifting(config)
    model.load_state_dict(state_dict)
    model.to(dtype).eval()
    keypoints, labels = values["input.keypoints_2d"].to(dtype), values["input.target"][:, None].to(dtype)
    outputs = model(keypoints, labels=labels, output_hidden_states=True, output_graphs=True)
    check(outputs.positions_3d[:, 0], values["output.positions_3d"], tolerance)
    check(outputs.loss, values["output.loss.l1"], 2e-5)  # stored in float32
    mpjpe = (outputs.positions_3d - labels).norm(dim=-1).mean()
    check(mpjpe, values["output.mpjpe"], tolerance)
    for block in range(config.num_hidden_layers):
        expected = values[f"intermediate.blocks.{block}"].permute(0, 2, 3, 1)
        check(outputs.hidden_states[1 + block][:, 0], expected, tolerance)
    outputs.loss.backward()
    check_gradients(plain_state_dict(config, gradients_of(model)), values, tolerance)


@DTYPES
@pytest.mark.parametrize("case", [reference_case("skeletal_gnn", "action_ntu")])
def test_actions(case, dtype, tolerance):
    options, values, weights = read(case)
    config, state_dict = convert_state_dict(weights, options)
    model = SkeletalGNNForActionRecognition(config)
    model.load_state_dict(state_dict)
    model.to(dtype).eval()
    outputs = model(values["input.x"].to(dtype), labels=values["input.labels"], output_hidden_states=True)
    check(outputs.logits, values["output.logits"], tolerance)
    check(outputs.loss, values["output.loss.cross_entropy"], 2e-5)  # stored in float32
    for unit, features in enumerate(outputs.hidden_states):
        check(features.flatten(0, 1).permute(0, 3, 1, 2), values[f"intermediate.layers.{unit}"], tolerance)
    outputs.loss.backward()
    check_gradients(plain_state_dict(config, gradients_of(model)), values, tolerance)


@pytest.mark.parametrize("case", [reference_case("skeletal_gnn", "hop_graphs")])
def test_hop_graphs(case):
    folder = reference_folder("skeletal_gnn", case)
    values = load_file(folder / "io.safetensors")
    sizes = {"h36m17": (17, 1, 3), "ntu25": (25, 1, 4)}
    for name, (joints, short, long) in sizes.items():
        distances = hop_distances(SKELETONS[name], joints)
        assert torch.equal(torch.from_numpy(distances), values[f"output.{name}.hop_distance"])
        masks = hop_masks(distances, short, long)
        for branch, (mask, start) in enumerate(zip(masks, normalize_columns(masks), strict=True)):
            prefix = f"output.{name}.S{short}.L{long}.branch{branch}"
            assert np.array_equal(mask, values[f"{prefix}.mask"].numpy())
            np.testing.assert_allclose(start, values[f"{prefix}.init"].numpy(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", DEFAULTS)
def test_names_and_shapes_of_the_recommended_configurations(name, shared_data):
    listed = json.loads((shared_data / "parity" / "skeletal_gnn" / f"keys_{name}.json").read_text())
    config = DEFAULTS[name]
    model_class = SkeletalGNNForActionRecognition if name.startswith("action") else SkeletalGNNForPoseLifting
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in model_class(config).state_dict().items()}
    plain = plain_state_dict(config, {key: torch.zeros(shape) for key, shape in shapes.items()})
    assert {key: list(tensor.shape) for key, tensor in plain.items()} == listed
