import pytest
import torch
from torch.testing import assert_close

from hvmodels import VideoPose3DConfig, VideoPose3DForPoseLifting, VideoPose3DModel
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    with_random_weights,
)


SIZES = {"num_joints": 5, "num_output_joints": 4, "filter_widths": (3, 3), "hidden_size": 12}
CONFIGS = {
    "middle": {},
    "causal": {"causal": True},
    "dense": {"dense": True},
    "uneven": {"filter_widths": (1, 5, 3), "in_channels": 3},
    "trajectory": {"num_output_joints": 1, "trajectory": True},
}


def make_config(name="middle", **options):
    return VideoPose3DConfig(**{**SIZES, **CONFIGS[name], **options})


def make_model(name="middle", **options):
    model = with_random_weights(VideoPose3DForPoseLifting(make_config(name, **options)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@torch.no_grad()
def lift(model, keypoints):
    return model(keypoints).positions_3d


@pytest.fixture(params=["uneven", "trajectory"])
def config(request):
    return make_config(request.param)


@pytest.mark.usefixtures("seed_of_each_module")
class TestVideoPose3D(ModelChecks):
    base_class = VideoPose3DModel
    head_classes = (VideoPose3DForPoseLifting,)

    def make_inputs(self, config, batch_size):
        return {"keypoints_2d": torch.randn(batch_size, config.num_frames + 4, config.num_joints, config.in_channels)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.rand(batch_size, 5, config.num_output_joints, 3) + 3}

    def test_default_configuration_builds(self, model_class):
        with torch.device("meta"):
            assert model_class(model_class.config_class()).num_parameters() > 0


class TestConfig(ConfigChecks):
    config_class = VideoPose3DConfig
    config_arguments = {
        "num_joints": 5,
        "in_channels": 3,
        "num_output_joints": 1,
        "filter_widths": [3, 5],
        "hidden_size": 64,
        "hidden_dropout_prob": 0,
        "causal": True,
        "dense": True,
        "batch_norm_momentum": 0.01,
        "trajectory": True,
    }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"filter_widths": (3, 4)}, "`filter_widths` must be one or more odd numbers"),
            ({"filter_widths": ()}, "`filter_widths` must be one or more odd numbers"),
            ({"filter_widths": (3, -1)}, "`filter_widths` must be one or more odd numbers"),
            ({"hidden_size": 0}, "`hidden_size` must be at least 1"),
            ({"num_joints": 0}, "`num_joints` must be at least 1"),
            ({"hidden_dropout_prob": 1.0}, r"`hidden_dropout_prob` must be in \[0, 1\)"),
            ({"batch_norm_momentum": 0}, r"`batch_norm_momentum` must be in \(0, 1\]"),
            ({"trajectory": True}, "`num_output_joints` must be 1 with `trajectory`"),
        ],
        ids=str,
    )
    def test_bad_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            VideoPose3DConfig(**options)

    @pytest.mark.parametrize(
        ("widths", "frames", "count"),
        [((3, 3, 3, 3, 3), 243, 16_952_371), ((3, 3, 3, 3), 81, 12_753_971), ((1, 1, 1), 1, 4_291_635)],
        ids=str,
    )
    def test_published_sizes(self, widths, frames, count):
        """Frames and parameters; those of 243 frames are 16.95 M in the paper."""
        with torch.device("meta"):
            model = VideoPose3DForPoseLifting(VideoPose3DConfig(filter_widths=widths))
        assert model.config.num_frames == frames
        assert model.num_parameters() == count


# Windows


def plainly(model, window):
    """The pose of one window, the definition of the paper frame by frame: (num_frames, joints, channels) to (joints, 3)."""
    config, network = model.config, model.videopose3d

    def layer(part, values):
        norm = part.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return torch.relu((values - norm.running_mean) * scale + norm.bias)

    def reach(part, at, frames, dilation):
        """Convolution whose output stands for frame `at` of a dict of frames."""
        weight = part.convolution.weight
        taps = range(weight.shape[2])
        offset = len(taps) - 1 if config.causal else len(taps) // 2
        return layer(part, sum(weight[:, :, tap] @ frames[at + (tap - offset) * dilation] for tap in taps))

    frames = dict(enumerate(window.flatten(1)))

    def everywhere(part, frames, dilation):
        weight = part.convolution.weight
        span = (weight.shape[2] - 1) * dilation
        before = span if config.causal else span // 2
        inside = [at for at in frames if at - before in frames and at - before + span in frames]
        return {at: reach(part, at, frames, dilation) for at in inside}

    frames, dilation = everywhere(network.expand, frames, 1), config.filter_widths[0]
    for block, width in zip(network.layers, config.filter_widths[1:], strict=True):
        branch = everywhere(block.temporal, frames, 1 if config.dense else dilation)
        branch = everywhere(block.pointwise, branch, 1)
        frames = {at: frames[at] + values for at, values in branch.items()}
        dilation *= width
    ((at, values),) = frames.items()
    assert at == (config.num_frames - 1 if config.causal else config.num_frames // 2)
    return (model.shrink.weight[:, :, 0] @ values + model.shrink.bias).reshape(-1, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_window_has_its_pose(name):
    model = make_model(name).double()
    frames = model.config.num_frames
    keypoints = torch.randn(2, frames + 3, model.config.num_joints, model.config.in_channels, dtype=torch.float64)
    positions = lift(model, keypoints)
    assert positions.shape == (2, 4, model.config.num_output_joints, 3)
    for start in range(4):
        window = keypoints[:, start : start + frames]
        assert_close(positions[0, start], plainly(model, window[0]).detach())
        assert_close(lift(model, window), positions[:, start : start + 1])  # with strides


@pytest.mark.parametrize("name", ["middle", "causal", "uneven"])
def test_training_on_windows_takes_the_statistics_of_strided_convolutions(name):
    """In training, activations that no pose depends on are not computed, so they are not in the batch's statistics."""
    model = make_model(name, hidden_dropout_prob=0).train()
    config, counts = model.config, []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
    model(torch.randn(7, config.num_frames, config.num_joints, config.in_channels))
    expected, left = [], config.num_frames
    for index, width in enumerate(config.filter_widths):
        left //= width
        expected += [7 * left] * (1 if index == 0 else 2)
    assert counts == expected
    assert counts[-1] == 7


@pytest.mark.parametrize("place", ["temporal", "pointwise"])
def test_adapters_are_not_passed_by(place):
    """A convolution that is wrapped, as fine-tuning libraries do it, is called as it is."""

    class Doubled(torch.nn.Module):
        def __init__(self, convolution):
            super().__init__()
            self.convolution, self.weight = convolution, convolution.weight

        def forward(self, values):
            return 2 * self.convolution(values)

    model, keypoints = make_model("causal"), torch.randn(2, 9, 5, 2)
    part = getattr(model.videopose3d.layers[0], place)
    with torch.no_grad():
        part.convolution.weight.mul_(2)
        expected = lift(model, keypoints)
        part.convolution.weight.div_(2)
    part.convolution = Doubled(part.convolution)
    assert_close(lift(model, keypoints), expected, atol=1e-5, rtol=1e-5)


def test_a_causal_pose_ignores_later_frames():
    model = make_model("causal")
    keypoints = torch.randn(1, 12, 5, 2)
    changed = keypoints.clone()
    changed[:, 10:] += 1
    before, after = lift(model, keypoints), lift(model, changed)
    assert_equal(after[:, :2], before[:, :2])  # windows that end at frames 8 and 9
    assert not torch.equal(after[:, 2], before[:, 2])


@pytest.mark.parametrize("name", ["causal", "uneven", "trajectory"])
def test_hidden_states(name):
    model = make_model(name)
    config = model.config
    keypoints = torch.randn(2, config.num_frames, config.num_joints, config.in_channels)
    outputs = model(keypoints, output_hidden_states=True)
    assert [tuple(state.shape[::2]) for state in outputs.hidden_states] == [(2, 12)] * len(config.filter_widths)
    last = outputs.hidden_states[-1]
    assert_close(last, model.videopose3d(keypoints).last_hidden_state)
    assert_close(model.shrink(last.transpose(1, 2)).transpose(1, 2).flatten(2), outputs.positions_3d.flatten(2))
    assert model(keypoints).hidden_states is None


# Training


def test_loss():
    model = make_model()
    keypoints, labels = torch.randn(2, 11, 5, 2), torch.randn(2, 3, 4, 3)
    outputs = model(keypoints, labels=labels)
    assert_close(outputs.loss, (outputs.positions_3d - labels).square().sum(-1).sqrt().mean())


def test_loss_of_a_trajectory_is_by_depth():
    model = make_model("trajectory")
    keypoints, labels = torch.randn(2, 11, 5, 2), torch.rand(2, 3, 1, 3) + 2
    outputs = model(keypoints, labels=labels)
    errors = (outputs.positions_3d - labels).square().sum(-1).sqrt()
    assert_close(outputs.loss, (errors / labels[..., 2]).mean())


def test_batch_norm_momentum():
    model = make_model(batch_norm_momentum=0.3)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert [norm.momentum for norm in norms] == [0.3] * 3
    model.set_batch_norm_momentum(0.001)
    assert [norm.momentum for norm in norms] == [0.001] * 3
    with pytest.raises(ValueError, match=r"`momentum` must be in \(0, 1\]"):
        model.set_batch_norm_momentum(0)


def test_dropout_is_for_training():
    model, keypoints = make_model(hidden_dropout_prob=0.5), torch.randn(2, 9, 5, 2)
    assert not torch.equal(model.train()(keypoints).positions_3d, model(keypoints).positions_3d)
    assert torch.equal(lift(model.eval(), keypoints), lift(model, keypoints))


def test_input_is_left_alone():
    model, keypoints = make_model(), torch.randn(2, 11, 5, 2)
    before = keypoints.clone()
    lift(model, keypoints)
    model.train()(keypoints).positions_3d.sum().backward()
    assert_equal(keypoints, before)


def test_compiled():
    model, keypoints = make_model(), torch.randn(2, 11, 5, 2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(lift(compiled, keypoints), lift(model, keypoints))


# Bad inputs


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keypoints_2d": [[0.0]]}, TypeError, "`keypoints_2d` must be a floating-point tensor .*list"),
        ({"keypoints_2d": torch.zeros(1, 9, 5, 2).long()}, TypeError, "floating-point tensor .*int64"),
        ({"keypoints_2d": torch.zeros(9, 5, 2)}, ValueError, "add the axis of the batch"),
        ({"keypoints_2d": torch.zeros(0, 9, 5, 2)}, ValueError, "no axis of length 0"),
        ({"keypoints_2d": torch.zeros(1, 9, 6, 2)}, ValueError, "must have 5 joints of 2 numbers"),
        ({"keypoints_2d": torch.zeros(1, 9, 5, 3)}, ValueError, "must have 5 joints of 2 numbers"),
        ({"keypoints_2d": torch.zeros(1, 8, 5, 2)}, ValueError, r"at least the 9 frames .*`num_frames`.*got 8"),
        ({"labels": torch.zeros(1, 9, 4, 3)}, ValueError, r"`labels` must have shape \(1, 1, 4, 3\)"),
        ({"labels": [1.0]}, TypeError, "`labels` must be a floating-point tensor"),
        ({"label": torch.zeros(1, 1, 4, 3)}, TypeError, r"Unknown arguments \['label'\]"),
    ],
    ids=range(10),
)
def test_bad_inputs(arguments, error, message):
    with pytest.raises(error, match=message):
        make_model()(**{"keypoints_2d": torch.zeros(1, 9, 5, 2), **arguments})
