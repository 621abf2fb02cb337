import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hvmodels import (
    SkeletalGNNActionConfig,
    SkeletalGNNActionModel,
    SkeletalGNNConfig,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
    SkeletalGNNModel,
)
from hvmodels.keypoint_sets import HUMAN36M17, NTU25
from hvmodels.models.pose_sequence import modeling_skeletal_gnn
from hvmodels.models.pose_sequence.modeling_skeletal_gnn import SkeletalGNNGraphConvolution, SkeletalGNNPreTrainedModel
from hvmodels.models.pose_sequence.skeleton_graph_skeletal_gnn import SKELETONS, hop_distances
from tests.modeling_checks import ConfigChecks, ModelChecks, seed_of_each_module, with_random_weights  # noqa: F401


# A cycle of four joints with a tail, so that a path is not always the only one.
LOOP = [[0, 1], [1, 2], [2, 3], [3, 0], [3, 4]]
SMALL = {"skeleton": LOOP, "long_hops": 2, "relation_channels": 3}
LIFTING = {
    "pair": {"hidden_size": 6, "num_hidden_layers": 1, "num_frames": 3, "temporal_kernel": 3},
    "shared": {"weight_sharing": "shared", "mask_dynamic": False, "hidden_size": 6, "num_hidden_layers": 1, "num_frames": 1},
    "node": {"weight_sharing": "node", "pad_dynamic": True, "hidden_size": 5, "num_hidden_layers": 2, "num_frames": 3},
}  # fmt: skip
LIFTING["shared"]["temporal_kernel"] = 1
ACTIONS = {
    "shared": {"hidden_sizes": [6, 6, 8], "strides": [1, 2, 1], "temporal_conv_kernel": 3},
    "pair": {"hidden_sizes": [4, 4], "strides": [1, 1], "weight_sharing": "pair", "mask_dynamic": True, "num_persons": 1},
}  # fmt: skip


def lifting_config(name="pair", **options):
    return SkeletalGNNConfig(**{**SMALL, **LIFTING[name], **options})


def action_config(name="shared", **options):
    return SkeletalGNNActionConfig(**{**SMALL, **ACTIONS[name], "num_labels": 3, **options})


def with_random_statistics(model):
    """Random weights and running statistics, in evaluation mode."""
    with_random_weights(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 2)
    return model


class SkeletalGNNChecks(ModelChecks):
    def run(self, model, batch_size=3, **options):
        """On a copy: products round by where their factors lie in memory, and loaded weights lie elsewhere."""
        return super().run(copy.deepcopy(model), batch_size, **options)

    def test_loss_gives_every_parameter_a_gradient(self, head_class, config, monkeypatch):
        """The weight of the dynamic graph starts at 0, so that the embeddings get a gradient from the second step on."""
        initialize = SkeletalGNNPreTrainedModel._init_graph_convolution

        def with_dynamic_graph(self, module):
            initialize(self, module)
            nn.init.ones_(module.dynamic_scale)

        monkeypatch.setattr(SkeletalGNNPreTrainedModel, "_init_graph_convolution", with_dynamic_graph)
        super().test_loss_gives_every_parameter_a_gradient(head_class, config)


@pytest.mark.usefixtures("seed_of_each_module")
class TestSkeletalGNN(SkeletalGNNChecks):
    base_class = SkeletalGNNModel
    head_classes = (SkeletalGNNForPoseLifting,)

    @pytest.fixture(params=["pair", "node"])
    def config(self, request):
        return lifting_config(request.param)

    def make_inputs(self, config, batch_size):
        return {"keypoints_2d": torch.randn(batch_size, config.num_frames, config.num_joints, 2)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.randn(batch_size, 1, config.num_joints, 3)}


@pytest.mark.usefixtures("seed_of_each_module")
class TestSkeletalGNNAction(SkeletalGNNChecks):
    base_class = SkeletalGNNActionModel
    head_classes = (SkeletalGNNForActionRecognition,)

    @pytest.fixture(params=ACTIONS)
    def config(self, request):
        return action_config(request.param)

    def make_inputs(self, config, batch_size):
        return {"skeleton_values": torch.randn(batch_size, 3, 6, config.num_joints, config.num_persons)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.arange(batch_size) % config.num_labels}


COMMON = {
    "short_hops": 0,
    "long_hops": 2,
    "squeeze_ratio": 0.25,
    "relation_channels": 8,
    "dynamic_graph": False,
    "normalize_scores": False,
    "pad_dynamic": True,
    "weight_sharing": "node",
    "hidden_dropout_prob": 0.5,
    "negative_slope": 0.1,
}


class TestLiftingConfig(ConfigChecks):
    config_class = SkeletalGNNConfig
    config_arguments = {
        **COMMON,
        "skeleton": LOOP,
        "num_joints": 5,
        "in_channels": 3,
        "temporal_kernel": 5,
        "mask_dynamic": False,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_frames": 3,
    }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"skeleton": "smpl"}, r"`skeleton` must be one of \['h36m17', 'ntu25'\]"),
            ({"skeleton": []}, "at least one edge"),
            ({"skeleton": [[0, 0]]}, "two different joints"),
            ({"skeleton": [[0, 1, 2]]}, "two different joints"),
            ({"skeleton": [[0, -1]]}, "integers from 0"),
            ({"skeleton": [[0, 1.0]]}, "integers from 0"),
            ({"skeleton": [[0, 1], [2, 3]]}, r"no edges lead from joint 0 to \[2, 3\]"),
            ({"num_joints": 16}, "has an edge to joint 16, but `num_joints` is 16"),
            ({"num_joints": 18}, r"no edges lead from joint 1 to \[17\]"),
            ({"long_hops": 9}, "largest distance in the skeleton, which is 8"),
            ({"short_hops": 4}, "got 4 and 3"),
            ({"short_hops": -1}, "got -1 and 3"),
            ({"squeeze_ratio": 0.0}, r"`squeeze_ratio` must be in \(0, 1\]"),
            ({"relation_channels": 0}, "`relation_channels` must be at least 1"),
            ({"mask_dynamic": False}, "it needs `mask_dynamic=True`"),
            ({"pad_dynamic": True, "temporal_kernel": 4}, "`temporal_kernel` must be odd with `pad_dynamic`"),
            ({"num_frames": 1}, "`temporal_kernel` must be at most `num_frames`, which is 1"),
            ({"num_frames": 8}, "`num_frames` must be odd"),
            ({"hidden_size": 0}, "`hidden_size` must be at least 1"),
            ({"num_hidden_layers": -1}, "`num_hidden_layers` must be 0 or more"),
            ({"hidden_dropout_prob": 1}, r"`hidden_dropout_prob` must be in \[0, 1\)"),
            ({"negative_slope": -0.1}, r"`negative_slope` must be in \[0, 1\]"),
        ],
        ids=str,
    )
    def test_bad_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            SkeletalGNNConfig(**options)


class TestActionConfig(ConfigChecks):
    config_class = SkeletalGNNActionConfig
    config_arguments = {
        **COMMON,
        "skeleton": "h36m17",
        "num_joints": 17,
        "in_channels": 9,
        "temporal_kernel": 3,
        "mask_dynamic": True,
        "hidden_sizes": [8, 16],
        "strides": [1, 3],
        "temporal_conv_kernel": 5,
        "num_persons": 1,
    }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hidden_sizes": []}, "`hidden_sizes` must have a positive number"),
            ({"hidden_sizes": [4, 0], "strides": [1, 1]}, "`hidden_sizes` must have a positive number"),
            ({"strides": [1, 2]}, "for each of the 10 units"),
            ({"hidden_sizes": [4], "strides": [0]}, "`strides` must have a positive number"),
            ({"temporal_conv_kernel": 4}, "`temporal_conv_kernel` must be odd"),
            ({"num_persons": 0}, "`num_persons` must be at least 1"),
        ],
        ids=str,
    )
    def test_bad_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            SkeletalGNNActionConfig(**options)


# Graphs


def names_of_edges(edges, keypoints):
    return {frozenset(keypoints.keypoints[joint] for joint in edge) for edge in edges}


def test_skeletons_are_those_of_the_keypoint_sets():
    assert names_of_edges(SKELETONS["h36m17"], HUMAN36M17) == names_of_edges(HUMAN36M17.links, HUMAN36M17)
    # Graph networks on NTU hang the tip of a hand on its thumb.
    tips = {frozenset((f"{side}_hand_tip", f"{side}_thumb")) for side in ("left", "right")}
    hands = {frozenset((f"{side}_hand_tip", f"{side}_hand")) for side in ("left", "right")}
    edges = names_of_edges(SKELETONS["ntu25"], NTU25)
    assert edges - tips | hands == names_of_edges(NTU25.links, NTU25)


def test_distances_around_a_loop():
    assert hop_distances(LOOP, 5).tolist() == [
        [0, 1, 2, 1, 2],
        [1, 0, 1, 2, 3],
        [2, 1, 0, 1, 2],
        [1, 2, 1, 0, 1],
        [2, 3, 2, 1, 0],
    ]


@pytest.mark.parametrize("name", LIFTING)
def test_graphs(name):
    config = lifting_config(name)
    model = with_random_statistics(SkeletalGNNForPoseLifting(config))
    keypoints = torch.randn(2, config.num_frames + 3, 5, 2)
    outputs = model(keypoints, output_graphs=True)
    assert len(outputs.graphs) == 1 + 2 * config.num_hidden_layers
    masks = torch.from_numpy(config.hop_masks)
    for graph in outputs.graphs:
        assert graph.shape == (2, 4, 2, 5, 5)
        assert graph.masked_select(~masks).any() == (not config.mask_dynamic)
        assert graph.masked_select(masks).all()
    assert not torch.equal(outputs.graphs[0][:, 0], outputs.graphs[0][:, 1])  # from the input
    assert_close(outputs.positions_3d, model(keypoints).positions_3d)
    assert model(keypoints).graphs is None


def test_static_graphs_are_the_same_for_all():
    model = with_random_statistics(SkeletalGNNModel(lifting_config(dynamic_graph=False)))
    graph = model(torch.randn(3, 3, 5, 2), output_graphs=True).graphs[0]
    assert graph.shape == (3, 2, 5, 5)
    assert_close(graph, graph[:1].expand_as(graph), atol=0, rtol=0)


# The layer, written joint by joint


def plain_layer(layer, features):
    """Section by section of the paper's layer in float64, without any batching, before the norm: (frames, joints, channels)."""
    masks = layer.hop_mask.bool().numpy()
    graph = layer.make_graph(features[None])[0].detach().numpy()
    weights = layer.squeeze_weight
    outputs, first = [], 0
    for branch, channels in enumerate(layer.branch_channels):
        rows = slice(first, first + channels)
        first += channels
        outputs.append(np.zeros((*features.shape[:2], channels)))
        pairs = {tuple(pair): index for index, pair in enumerate(np.argwhere(masks[branch]).tolist())}
        for source in range(features.shape[1]):
            for target in range(features.shape[1]):
                if layer.weight_sharing == "shared":
                    matrix = weights[rows]
                elif layer.weight_sharing == "node":
                    matrix = weights[target, rows]
                elif (source, target) in pairs:
                    matrix = weights[branch][pairs[source, target]]
                else:
                    continue
                message = features[:, source].numpy() @ matrix.detach().numpy().T
                outputs[-1][:, target] += graph[branch, source, target] * message
    squeezed = torch.from_numpy(np.concatenate(outputs, axis=-1)) + layer.squeeze_bias
    return layer.fusion(squeezed)


@pytest.mark.parametrize("in_channels", [2, 9], ids=["wider", "narrower"])
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("sharing", ["shared", "node", "pair"])
@torch.no_grad()
def test_layer_joint_by_joint(sharing, frames, in_channels):
    config = lifting_config(weight_sharing=sharing, temporal_kernel=1, squeeze_ratio=0.4, short_hops=0)
    layer = with_random_statistics(SkeletalGNNGraphConvolution(config, in_channels, 6)).double()
    assert layer.branch_channels == [6, 2, 1]
    features = torch.randn(3, frames, 5, in_channels, dtype=torch.float64)
    expected = torch.stack([plain_layer(layer, row) for row in features])
    assert_close(layer.convolve(features, layer.make_graph(features)), expected)
    assert_close(layer(features), layer.norm(expected.flatten(0, 2)).view(expected.shape))  # the norm is folded


@torch.no_grad()
def test_dynamic_graph():
    for pad, normalize in ((False, True), (True, False)):
        config = lifting_config(pad_dynamic=pad, normalize_scores=normalize)
        layer = with_random_statistics(SkeletalGNNGraphConvolution(config, 2, 6)).double()
        features = torch.randn(4, 5, 5, 2, dtype=torch.float64)
        images = features.permute(0, 3, 1, 2)  # channels, frames, joints
        theta, phi = (
            torch.stack([
                nn.functional.conv2d(images, weight.permute(0, 2, 1)[..., None], bias, padding=(int(pad), 0))
                for weight, bias in zip(layer.relation_weight[part], layer.relation_bias[part], strict=True)
            ])
            for part in (0, 1)
        )  # fmt: skip
        scores = torch.einsum("kbcti,kbctj->bkij", theta, phi)
        if normalize:
            scores = scores / (3 * theta.shape[3])
        assert_close(layer.make_dynamic_graph(features), torch.tanh(scores))


def test_dynamic_graph_starts_without_weight():
    model = SkeletalGNNForPoseLifting(lifting_config())
    assert not model.skeletal_gnn.input_layer.convolution.dynamic_scale.any()


@pytest.mark.parametrize("name", LIFTING)
def test_folded_norms_equal_those_of_training(name):
    """With the batch's own statistics as the fixed ones, evaluation gives what training gives."""
    config = lifting_config(name)
    model = with_random_weights(SkeletalGNNForPoseLifting(config)).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0
    keypoints = torch.randn(6, config.num_frames, 5, 2, dtype=torch.float64)
    expected = model(keypoints).positions_3d
    count = 6 * config.num_frames * 5
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var *= (count - 1) / count  # running statistics are unbiased, a batch's are not
    assert_close(model.eval()(keypoints).positions_3d, expected)


# Lifting


@pytest.mark.parametrize("name", LIFTING)
@torch.no_grad()
def test_each_full_window_gives_its_middle_pose(name, monkeypatch):
    config = lifting_config(name)
    model = with_random_statistics(SkeletalGNNForPoseLifting(config))
    keypoints = torch.randn(2, 7, 5, 2)
    together = model(keypoints).positions_3d
    assert together.shape == (2, 8 - config.num_frames, 5, 3)
    for start in range(together.shape[1]):
        alone = model(keypoints[:, start : start + config.num_frames]).positions_3d
        assert_close(together[:, start : start + 1], alone, atol=1e-6, rtol=1e-6)
    monkeypatch.setattr(modeling_skeletal_gnn, "CHUNK_VALUES", 1)  # window by window
    assert_close(model(keypoints).positions_3d, together, atol=1e-6, rtol=1e-6)


def test_lifting_loss_is_the_mean_absolute_error():
    model = with_random_statistics(SkeletalGNNForPoseLifting(lifting_config()))
    keypoints, labels = torch.randn(2, 6, 5, 2), torch.randn(2, 4, 5, 3)
    outputs = model(keypoints, labels=labels)
    assert_close(outputs.loss, (outputs.positions_3d - labels).abs().mean())


@pytest.mark.parametrize("name", LIFTING)
def test_hidden_states(name):
    config = lifting_config(name)
    model = with_random_statistics(SkeletalGNNForPoseLifting(config))
    keypoints = torch.randn(2, config.num_frames + 1, 5, 2)
    outputs = model(keypoints, output_hidden_states=True)
    shape = (2, 2, config.num_frames, 5, config.hidden_size)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [shape] * (1 + config.num_hidden_layers)
    last = outputs.hidden_states[-1]
    assert_close(model.head(last.transpose(2, 3).flatten(3)), outputs.positions_3d)
    assert model(keypoints).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(keypoints).hidden_states) == 1 + config.num_hidden_layers


@pytest.mark.parametrize("name", LIFTING)
def test_learns_one_pose(name):
    """That gradients lead somewhere: a few steps on two windows."""
    torch.manual_seed(0)
    config = lifting_config(name)
    model = SkeletalGNNForPoseLifting(config).train()
    keypoints, labels = torch.randn(8, config.num_frames, 5, 2), torch.randn(8, 1, 5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(keypoints, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_compiled():
    model = with_random_statistics(SkeletalGNNForPoseLifting(lifting_config()))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    keypoints = torch.randn(2, 5, 5, 2)
    assert_close(compiled(keypoints).positions_3d, model(keypoints).positions_3d, atol=1e-6, rtol=1e-6)


# Actions


@torch.no_grad()
def test_persons_share_all_but_the_input_norm():
    model = with_random_statistics(SkeletalGNNForActionRecognition(action_config()))
    norm = model.skeletal_gnn.input_norm
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.view(2, -1)[1] = tensor.view(2, -1)[0]
    values = torch.randn(2, 3, 6, 5, 2)
    assert_close(model(values.flip(-1)).logits, model(values).logits, atol=1e-6, rtol=1e-6)
    for person in (0, 1):
        moved = values.clone()
        moved[..., person] += 1
        assert (model(moved).logits - model(values).logits).abs().max() > 1e-5


def test_action_hidden_states_and_graphs():
    config = action_config()
    model = with_random_statistics(SkeletalGNNForActionRecognition(config))
    outputs = model(torch.randn(2, 3, 7, 5, 2), output_hidden_states=True, output_graphs=True)
    shapes = [(2, 2, 7, 5, 6), (2, 2, 4, 5, 6), (2, 2, 4, 5, 8)]
    assert [tuple(state.shape) for state in outputs.hidden_states] == shapes
    assert [tuple(graph.shape) for graph in outputs.graphs] == [(2, 2, 2, 5, 5)] * 3


def test_any_number_of_frames():
    model = with_random_statistics(SkeletalGNNForActionRecognition(action_config()))
    for frames in (1, 4, 33):
        assert model(torch.randn(1, 3, frames, 5, 2)).logits.shape == (1, 3)


# Bad inputs


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"keypoints_2d": np.zeros((1, 3, 5, 2), "f")}, TypeError, "`keypoints_2d` must be a floating-point tensor"),
        ({"keypoints_2d": torch.zeros(1, 3, 5, 2).long()}, TypeError, "got torch.int64"),
        ({"keypoints_2d": torch.zeros(3, 5, 2)}, ValueError, r"got \(3, 5, 2\); add the axis of the batch"),
        ({"keypoints_2d": torch.zeros(1, 3, 4, 2)}, ValueError, "must have 5 joints of 2 numbers"),
        ({"keypoints_2d": torch.zeros(1, 3, 5, 3)}, ValueError, "must have 5 joints of 2 numbers"),
        ({"keypoints_2d": torch.zeros(0, 3, 5, 2)}, ValueError, "no axis of length 0"),
        ({"keypoints_2d": torch.zeros(1, 2, 5, 2)}, ValueError, "at least the 3 frames"),
        ({"labels": torch.zeros(1, 5, 3)}, ValueError, r"`labels` must .*1, 1, 5, 3"),
        ({"labels": torch.zeros(1, 1, 5, 3).long()}, TypeError, "`labels` must be a floating-point tensor"),
        ({"mask": None}, TypeError, r"Unknown arguments \['mask'\]"),
    ],
    ids=lambda value: "",
)
def test_bad_lifting_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        SkeletalGNNForPoseLifting(lifting_config())(**{"keypoints_2d": torch.zeros(1, 3, 5, 2), **inputs})


def test_base_model_takes_windows():
    with pytest.raises(ValueError, match="must be windows of 3 frames"):
        SkeletalGNNModel(lifting_config())(torch.zeros(1, 4, 5, 2))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"skeleton_values": [1.0]}, TypeError, "`skeleton_values` must be a floating-point tensor"),
        ({"skeleton_values": torch.zeros(1, 3, 6, 5)}, ValueError, r"got \(1, 3, 6, 5\)"),
        ({"skeleton_values": torch.zeros(1, 3, 6, 5, 1)}, ValueError, r"shape \(batch, 3, frames, 5, 2\)"),
        ({"labels": torch.zeros(1)}, TypeError, "`labels` must be a tensor of integers"),
        ({"labels": torch.zeros(2).long()}, ValueError, r"`labels` must have shape \(1,\)"),
        ({"attention_mask": None}, TypeError, "Unknown arguments"),
    ],
    ids=lambda value: "",
)
def test_bad_action_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        SkeletalGNNForActionRecognition(action_config())(**{"skeleton_values": torch.zeros(1, 3, 6, 5, 2), **inputs})


def test_too_few_frames_for_the_dynamic_graph():
    model = SkeletalGNNActionModel(action_config(temporal_kernel=3))
    with pytest.raises(ValueError, match="the last unit sees 2 of them"):
        model(torch.zeros(1, 3, 4, 5, 2))
    assert model(torch.zeros(1, 3, 5, 5, 2)).last_hidden_state.shape[2] == 3
