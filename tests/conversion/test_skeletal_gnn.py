import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from hvmodels import (
    SkeletalGNNActionConfig,
    SkeletalGNNConfig,
    SkeletalGNNFeatureExtractor,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
    SkeletonActionFeatureExtractor,
)
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.skeletal_gnn import convert_state_dict, pack_layer, plain_state_dict, unpack_layer
from tests.modeling_checks import with_random_weights
from tests.reference_cases import reference_folder


LOOP = [[0, 1], [1, 2], [2, 3], [3, 0], [3, 4]]
SMALL = {"skeleton": LOOP, "long_hops": 2, "relation_channels": 3}
UNITS = {"hidden_sizes": [4, 4, 8], "strides": [1, 1, 2]}
MODELS = {
    "pair": SkeletalGNNForPoseLifting(SkeletalGNNConfig(**SMALL, hidden_size=6, num_hidden_layers=1, num_frames=3)),
    "node": SkeletalGNNForPoseLifting(
        SkeletalGNNConfig(**SMALL, weight_sharing="node", dynamic_graph=False, hidden_size=5, num_hidden_layers=2)
    ),
    "shared": SkeletalGNNForPoseLifting(
        SkeletalGNNConfig(skeleton="h36m17", weight_sharing="shared", squeeze_ratio=1.0, short_hops=0, hidden_size=4)
    ),
    "action": SkeletalGNNForActionRecognition(SkeletalGNNActionConfig(**SMALL, **UNITS, num_labels=3)),
    "action pair": SkeletalGNNForActionRecognition(
        SkeletalGNNActionConfig(**SMALL, **UNITS, num_persons=1, weight_sharing="pair", mask_dynamic=True)
    ),
}
OPTIONS = ("skeleton", "short_hops", "squeeze_ratio", "mask_dynamic", "negative_slope")
NAMES = ["pelvis", "spine", "thorax", "left_shoulder", "left_elbow"]


def options_of(config):
    options = {name: getattr(config, name) for name in OPTIONS}
    if isinstance(config, SkeletalGNNActionConfig):
        sizes = [config.in_channels, *config.hidden_sizes]
        options["stages"] = [list(stage) for stage in zip(sizes[:-1], sizes[1:], config.strides, strict=True)]
    return options


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name):
    model = with_random_weights(MODELS[name])
    plain = plain_state_dict(model.config, model.state_dict())
    config, state_dict = convert_state_dict(plain, {"deep": options_of(model.config)})
    for field in (
        *OPTIONS,
        "long_hops",
        "weight_sharing",
        "dynamic_graph",
        "num_joints",
        "in_channels",
        "hidden_size",
    ):
        assert getattr(config, field) == getattr(model.config, field), field
    assert state_dict.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(state_dict[key], tensor), key


def test_weights_of_pairs_are_dense_with_zeros_between():
    config = MODELS["pair"].config
    layer = with_random_weights(MODELS["pair"]).skeletal_gnn.input_layer.convolution
    plain = unpack_layer(layer.state_dict(), config)
    for branch, mask in enumerate(torch.from_numpy(config.hop_masks)):
        dense = plain[f"branches.{branch}.squeeze.weight"]
        assert dense.shape == (5, 5, layer.branch_channels[branch], 2)
        assert torch.equal(dense.ne(0).all(dim=(2, 3)), mask)
    packed = pack_layer(plain, config)
    assert torch.equal(packed["squeeze_weight.1"], layer.squeeze_weight[1])


def test_file_of_the_lifting_network(tmp_path):
    model = with_random_weights(MODELS["pair"])
    plain = plain_state_dict(model.config, model.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in plain.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**options_of(model.config), "keypoint_names": NAMES}))
    folder = convert_checkpoint(
        "skeletal-gnn", tmp_path / "weights.safetensors", tmp_path / "out", tmp_path / "config.json"
    )
    loaded = SkeletalGNNForPoseLifting.from_pretrained(folder).eval()
    keypoints = torch.randn(2, 5, 5, 2)
    assert_close(loaded(keypoints).positions_3d, model(keypoints).positions_3d)
    processor = SkeletalGNNFeatureExtractor.from_pretrained(folder)
    assert (processor.num_frames, processor.keypoint_names) == (3, NAMES)


def test_file_of_the_network_for_actions(tmp_path):
    config = SkeletalGNNActionConfig(hidden_sizes=[4, 4], strides=[1, 2], num_labels=3)
    model = with_random_weights(SkeletalGNNForActionRecognition(config))
    plain = plain_state_dict(config, model.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in plain.items()}, tmp_path / "weights.safetensors")
    options = {"stages": [[3, 4, 1], [4, 4, 2]], "num_frames": 20}
    folder = convert_checkpoint("skeletal-gnn-action", tmp_path / "weights.safetensors", tmp_path / "out", options)
    loaded = SkeletalGNNForActionRecognition.from_pretrained(folder).eval()
    values = torch.randn(2, 3, 20, 25, 2)
    assert_close(loaded(values).logits, model(values).logits)
    processor = SkeletonActionFeatureExtractor.from_pretrained(folder)
    assert (processor.num_frames, processor.num_persons, processor.normalization) == (20, 2, "agcn")


def test_reference_layer_is_packed_by_one_gather():
    folder = reference_folder("skeletal_gnn", "layer_pair_masked")
    weights = load_file(folder / "weights.safetensors")
    config = SkeletalGNNConfig(squeeze_ratio=0.25, num_frames=3, temporal_kernel=1)
    packed = pack_layer(weights, config)
    assert [packed[f"squeeze_weight.{branch}"].shape[0] for branch in range(3)] == [49, 38, 44]
    assert packed.keys() >= {"static_graph", "relation_weight", "relation_bias", "dynamic_scale", "squeeze_bias"}


def changed(name, **changes):
    """Plain weights of a model with entries replaced, or removed by None."""
    plain = {**plain_state_dict(MODELS[name].config, MODELS[name].state_dict()), **changes}
    return {key: tensor for key, tensor in plain.items() if tensor is not None}


@pytest.mark.parametrize(
    ("name", "changes", "options", "message"),
    [
        ("pair", {"head.weight": None}, {}, "with 3 axes in 'head.weight', got nothing"),
        ("pair", {"other": torch.ones(1)}, {}, "'other' is not known"),
        ("pair", {"input_layer.branches.0.alpha": None}, {}, r"there is no 'input_layer.branches.0.alpha'"),
        ("pair", {"blocks.0.1.norm.weight": None}, {}, r"there is no 'blocks.0.1.norm.weight'"),
        ("pair", {"input_layer.extra": torch.ones(1)}, {}, r"no place for: \['extra'\]"),
        ("pair", {"input_layer.fusion.weight": torch.ones(6, 6)}, {}, r"have the shape \(6, 6\)"),
        ("pair", {}, {"squeeze_ratio": 1.0}, "have the shape"),
        ("pair", {}, {"skeleton": None}, "`original_config` must have the edges of the 5 joints"),
        ("pair", {}, {"mask_dynamic": False}, "needs `mask_dynamic=True`"),
        ("action", {}, {"stages": None}, "must have `stages`"),
        ("action", {"data_bn.weight": torch.ones(31)}, {}, "must be a multiple of 5 joints with 3 channels"),
        ("action", {"layers.2.fc": torch.ones(1)}, {}, "'layers.2.fc' is not known"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_bad_checkpoints(name, changes, options, message):
    options = {**options_of(MODELS[name].config), **options}
    options = {key: value for key, value in options.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert_state_dict(changed(name, **changes), options)


def test_other_relation_channels_in_each_layer():
    weights = changed("action")
    name = "layers.1.gcn.branches.0.theta.weight"
    with pytest.raises(ValueError, match="`relation_channels` must be at least 1"):
        convert_state_dict({**weights, name: torch.ones(2, 4, 1)}, options_of(MODELS["action"].config))
