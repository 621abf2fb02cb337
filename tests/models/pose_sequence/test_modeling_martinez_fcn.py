import pytest
import torch
from torch.testing import assert_close

from hvmodels import MartinezFCNConfig, MartinezFCNForPoseLifting, MartinezFCNModel
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    with_random_weights,
)


SIZES = {"num_joints": 4, "input_joints": None, "num_output_joints": 5, "hidden_size": 12, "num_hidden_layers": 2}
CONFIGS = {
    "port": {},
    "max norm": {"max_norm": True, "num_hidden_layers": 1},
    "root inside": {"root_index": 2, "in_channels": 3},
}


def make_config(name="port", **options):
    return MartinezFCNConfig(**{**SIZES, **CONFIGS[name], **options})


def make_model(name="port", **options):
    model = with_random_weights(MartinezFCNForPoseLifting(make_config(name, **options)))
    shapes = [getattr(model, f"{kind}_mean").shape for kind in ("keypoint", "position")]
    model.set_statistics(*(draw(shape) for shape in shapes for draw in (torch.randn, torch.rand)))
    return model


@pytest.fixture(params=["max norm", "root inside"])
def config(request):
    return make_config(request.param)


@pytest.mark.usefixtures("seed_of_each_module")
class TestMartinezFCN(ModelChecks):
    base_class = MartinezFCNModel
    head_classes = (MartinezFCNForPoseLifting,)

    def make_inputs(self, config, batch_size):
        return {"keypoints_2d": torch.randn(batch_size, 2, config.num_joints, config.in_channels)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.randn(batch_size, 2, config.num_output_joints, 3)}


class TestConfig(ConfigChecks):
    config_class = MartinezFCNConfig
    config_arguments = {
        "num_joints": 5,
        "in_channels": 3,
        "input_joints": [4, 0, 1],
        "num_output_joints": 6,
        "root_index": 2,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "hidden_dropout_prob": 0,
        "max_norm": True,
        "needs_statistics": True,
    }

    def test_default_is_the_published_model(self):
        """16 joints in and out of a network of 4.29 M parameters; the nose is not read."""
        config = MartinezFCNConfig()
        assert config.input_joints == [joint for joint in range(17) if joint != 9]
        assert config.num_frames == 1
        with torch.device("meta"):
            assert MartinezFCNModel(config).num_parameters() == 4_291_632

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"input_joints": [0, 17]}, "`input_joints` must be different joints from 0 to 16"),
            ({"input_joints": [0, 0]}, "`input_joints` must be different joints"),
            ({"input_joints": []}, "`input_joints` must be different joints"),
            ({"num_output_joints": 1}, "`num_output_joints` must be at least 2"),
            ({"root_index": 17}, "`root_index` must be a joint from 0 to 16"),
            ({"hidden_size": 0}, "`hidden_size` must be at least 1"),
            ({"num_hidden_layers": -1}, "`num_hidden_layers` must be 0 or more"),
            ({"hidden_dropout_prob": 1}, r"`hidden_dropout_prob` must be in \[0, 1\)"),
        ],
        ids=str,
    )
    def test_bad_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            MartinezFCNConfig(**options)


@torch.no_grad()
def plainly(model, pose):
    """(joints, channels) to (joints, 3): the layers of the paper for one frame."""
    network, config = model.martinez_fcn, model.config

    def linear(layer, values):
        weight = layer.weight
        if config.max_norm:
            weight = weight / max(weight.square().sum().sqrt(), 1)
        return weight @ values + layer.bias

    def layer(part, values):
        norm, values = part.norm, linear(part.linear, values)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return torch.relu((values - norm.running_mean) * scale + norm.bias)

    hidden = layer(network.encoder, ((pose[config.input_joints] - model.keypoint_mean) / model.keypoint_std).flatten())
    for block in network.layers:
        hidden = hidden + layer(block.second, layer(block.first, hidden))
    others = linear(network.decoder, hidden).reshape(-1, 3) * model.position_std + model.position_mean
    positions = torch.zeros(config.num_output_joints, 3, dtype=pose.dtype)
    positions[[joint for joint in range(config.num_output_joints) if joint != config.root_index]] = others
    return positions


@pytest.mark.parametrize("name", CONFIGS)
def test_every_frame_by_itself(name):
    model = make_model(name, num_joints=6, input_joints=[5, 0, 2]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # norms on both sides of 1
    keypoints = torch.randn(2, 3, 6, model.config.in_channels, dtype=torch.float64)
    with torch.no_grad():
        positions = model(keypoints).positions_3d
    for row in range(2):
        for frame in range(3):
            assert_close(positions[row, frame], plainly(model, keypoints[row, frame]))
    changed = keypoints.clone()
    changed[:, :, [1, 3, 4]] += 1  # joints that are not read
    with torch.no_grad():
        assert_equal(model(changed).positions_3d, positions)


def test_max_norm_leaves_small_matrices_alone():
    torch.manual_seed(0)
    plain, clipped = make_model(), make_model(max_norm=True)
    clipped.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for model in (plain, clipped):
            for parameter in model.parameters():
                parameter.mul_(0.1)
        keypoints = torch.randn(1, 2, 4, 2)
        assert_close(clipped(keypoints).positions_3d, plain(keypoints).positions_3d)


def test_hidden_states():
    model, keypoints = make_model(), torch.randn(2, 3, 4, 2)
    outputs = model(keypoints, output_hidden_states=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, 3, 12)] * 3
    assert_close(outputs.positions_3d, model(keypoints).positions_3d)
    assert model(keypoints).hidden_states is None


# Statistics


def test_statistics_of_training_data(tmp_path):
    model = MartinezFCNForPoseLifting(
        make_config("root inside", num_joints=5, input_joints=[3, 1], needs_statistics=True)
    )
    keypoints, positions = 0.3 * torch.randn(7, 20, 5, 3) + 0.1, torch.randn(140, 5, 3) - 2
    keypoints[..., 1, 2] = 4.0  # never changes
    with pytest.raises(ValueError, match="statistics of the training data are not known"):
        model(keypoints)
    model.fit_statistics(keypoints, positions)
    read, others = keypoints[:, :, [3, 1]].flatten(0, 1), positions[:, [0, 1, 3, 4]]
    assert_close(model.keypoint_mean, read.mean(0))
    expected = read.std(0, correction=0)
    expected[1, 2] = 1
    assert_close(model.keypoint_std, expected)
    assert_close(model.position_mean, others.mean(0))
    assert_close(model.position_std, others.std(0, correction=0))
    model.save_pretrained(tmp_path)
    again = MartinezFCNForPoseLifting.from_pretrained(tmp_path)
    assert not again.config.needs_statistics
    assert_equal(again.eval()(keypoints).positions_3d, model.eval()(keypoints).positions_3d)


def test_loss_is_in_standard_deviations():
    model = make_model()
    keypoints, labels = torch.randn(2, 3, 4, 2), torch.randn(2, 3, 5, 3)
    outputs = model(keypoints, labels=labels)
    error = (outputs.positions_3d - labels)[:, :, 1:] / model.position_std
    assert_close(outputs.loss, error.square().mean())
    labels[:, :, 0] += 5  # the root does not count
    assert_close(model(keypoints, labels=labels).loss, outputs.loss)


def test_dropout_is_for_training():
    model, keypoints = make_model(), torch.randn(4, 3, 4, 2)
    assert not torch.equal(model.train()(keypoints).positions_3d, model(keypoints).positions_3d)
    assert torch.equal(model.eval()(keypoints).positions_3d, model(keypoints).positions_3d)


# Bad inputs


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keypoints_2d": None}, TypeError, "`keypoints_2d` must be a floating-point tensor .*NoneType"),
        ({"keypoints_2d": torch.zeros(4, 2)}, ValueError, r"must have shape \(batch, frames, 4, 2\)"),
        ({"keypoints_2d": torch.zeros(1, 3, 5, 2)}, ValueError, "must have 4 joints of 2 numbers"),
        ({"labels": torch.zeros(1, 3, 4, 3)}, ValueError, r"`labels` must have shape \(1, 3, 5, 3\)"),
        ({"target": torch.zeros(1, 3, 5, 3)}, TypeError, r"Unknown arguments \['target'\]"),
    ],
    ids=range(5),
)
def test_bad_inputs(arguments, error, message):
    with pytest.raises(error, match=message):
        make_model()(**{"keypoints_2d": torch.zeros(1, 3, 4, 2), **arguments})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoint_mean": torch.zeros(4)}, r"`keypoint_mean` must be finite numbers of shape \(4, 2\)"),
        ({"position_mean": torch.full((4, 3), torch.nan)}, "`position_mean` must be finite"),
        ({"position_std": -torch.ones(4, 3)}, "`position_std` must not be negative"),
    ],
    ids=str,
)
def test_bad_statistics(change, message):
    model = make_model()
    statistics = {
        name: getattr(model, name) for name in ("keypoint_mean", "keypoint_std", "position_mean", "position_std")
    }
    before = {name: value.clone() for name, value in statistics.items()}
    with pytest.raises(ValueError, match=message):
        model.set_statistics(**{**statistics, **change})
    assert_equal({name: getattr(model, name) for name in before}, before)
    with pytest.raises(ValueError, match="`keypoints_2d` must have two poses"):
        model.fit_statistics(torch.zeros(1, 4, 2), torch.zeros(1, 5, 3))
    with pytest.raises(ValueError, match=r"`positions_3d` must have shape \(..., 5, 3\)"):
        model.fit_statistics(torch.randn(9, 4, 2), torch.zeros(9, 4, 3))
