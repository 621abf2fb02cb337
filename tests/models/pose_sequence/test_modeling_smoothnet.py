import copy
import io

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hvmodels import SmoothNetConfig, SmoothNetForPoseRefinement, SmoothNetModel
from hvmodels.models.pose_sequence import modeling_smoothnet
from hvmodels.models.pose_sequence.modeling_smoothnet import drop_values
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    with_random_weights,
)


SIZES = {"window_size": 8, "hidden_size": 12, "intermediate_size": 6, "num_hidden_layers": 2}
CONFIGS = {
    "original": {"tail": "drop", "short_sequence": "zeros"},
    "person": {"window_normalization": "person", "window_stride": 3},
    "short output": {"output_size": 5, "num_hidden_layers": 1},
}


def make_config(name="original", **options):
    return SmoothNetConfig(**{**SIZES, **CONFIGS[name], **options})


def make_model(name="original", **options):
    return with_random_weights(SmoothNetForPoseRefinement(make_config(name, **options)))


def refine(model, poses, **inputs):
    with torch.no_grad():
        return model(poses, **inputs)


def plainly(model, poses):
    """What a network without any trick gives for (frames, joints, dims): every window alone, in float64."""
    config, network = model.config, copy.deepcopy(model.smoothnet).double()
    frames, covering = len(poses), {}
    missing = config.window_size - frames
    if missing > 0:
        fill = np.zeros_like(poses[:1]) if config.short_sequence == "zeros" else poses[-1:]
        poses = np.concatenate([poses, fill.repeat(missing, 0)])
        frames = len(poses) if config.short_sequence == "zeros" else frames
    starts = list(range(0, len(poses) - config.window_size + 1, config.window_stride))
    if config.tail == "keep" and starts[-1] + config.window_size < len(poses):
        starts.append(len(poses) - config.window_size)
    for start in starts:
        window = poses[start : start + config.window_size].astype(np.float64)
        offset, scale = 0, 1
        if config.window_normalization == "person":
            offset = window.mean(0)
            sides = (window.max(1) - window.min(1)).max(1)
            scale = max(np.sort(sides)[(len(sides) - 1) // 2], 1e-6)
        hidden = torch.from_numpy((window - offset) / scale).reshape(len(window), -1).T
        slopes = [config.encoder_negative_slope, config.residual_negative_slope]
        hidden = torch.nn.functional.leaky_relu(network.encoder(hidden), slopes[0])
        for layer in network.layers:
            inner = torch.nn.functional.leaky_relu(layer.intermediate(hidden), slopes[1])
            hidden = hidden + torch.nn.functional.leaky_relu(layer.output(inner), slopes[1])
        output = network.decoder(hidden).T.reshape(window.shape).detach().numpy() * scale + offset
        for index, pose in enumerate(output):
            covering.setdefault(start + index, []).append(pose)
    return np.stack([np.mean(covering[frame], axis=0) for frame in range(frames) if frame in covering])


@pytest.fixture(params=CONFIGS)
def config(request):
    return make_config(request.param)


@pytest.mark.usefixtures("seed_of_each_module")
class TestSmoothNet(ModelChecks):
    base_class = SmoothNetModel
    head_classes = (SmoothNetForPoseRefinement,)

    def make_inputs(self, config, batch_size):
        return {"pose_values": torch.randn(batch_size, config.window_size, 3, 2)}

    def make_labels(self, config, batch_size):
        return {"labels": torch.randn(batch_size, config.window_size, 3, 2)}


class TestConfig(ConfigChecks):
    config_class = SmoothNetConfig
    config_arguments = {
        "window_size": 16,
        "output_size": 12,
        "hidden_size": 64,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "hidden_dropout_prob": 0.5,
        "encoder_negative_slope": 0.2,
        "residual_negative_slope": 0.1,
        "position_loss_weight": 0.5,
        "acceleration_loss_weight": 1,
        "window_stride": 4,
        "window_normalization": "person",
        "tail": "drop",
        "short_sequence": "zeros",
    }

    def test_default_is_the_size_of_the_published_model(self):
        with torch.device("meta"):
            assert SmoothNetModel(SmoothNetConfig()).num_parameters() == 691_872

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window_size": 2}, "`window_size` must be at least 3"),
            ({"output_size": 33}, "`output_size` must be from 3 to `window_size`"),
            ({"hidden_size": 0}, "`hidden_size` must be at least 1"),
            ({"num_hidden_layers": -1}, "`num_hidden_layers` must be 0 or more"),
            ({"window_stride": 33}, "frames between windows are lost"),
            ({"hidden_dropout_prob": 1.0}, r"`hidden_dropout_prob` must be in \[0, 1\)"),
            ({"residual_negative_slope": -0.1}, r"`residual_negative_slope` must be in \[0, 1\]"),
            ({"acceleration_loss_weight": float("nan")}, "`acceleration_loss_weight` must be 0 or more"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_bad_values(self, options, message):
        with pytest.raises(ValueError, match=message):
            SmoothNetConfig(**options)

    @pytest.mark.parametrize("name", ["window_normalization", "tail", "short_sequence"])
    def test_bad_choice(self, name):
        with pytest.raises(Exception, match=name):
            SmoothNetConfig(**{name: "else"})


# Sequences


@pytest.mark.parametrize("frames", [1, 5, 8, 9, 20])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("name", ["original", "person"])
@pytest.mark.parametrize("policy", ["as configured", "other"])
def test_sequence(name, stride, frames, policy, monkeypatch):
    monkeypatch.setattr(modeling_smoothnet, "CHUNK_VALUES", 12 * 6 * 2)  # two windows at once
    other = (
        {"tail": "drop", "short_sequence": "zeros"}
        if name == "person"
        else {"tail": "keep", "short_sequence": "replicate"}
    )
    model = make_model(name, window_stride=stride, **(other if policy == "other" else {}))
    poses = torch.randn(frames, 3, 2) + 4
    outputs = refine(model, poses[None])
    expected = plainly(model, poses.numpy())
    assert_close(outputs.refined_poses[0].double().numpy(), expected, atol=2e-6, rtol=1e-6)
    assert outputs.refined_mask.tolist() == [[True] * len(expected)]
    if model.config.tail == "keep" and model.config.short_sequence == "replicate":
        assert len(expected) == frames
    assert (outputs.loss, outputs.window_poses) == (None, None)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("policy", [("keep", "replicate"), ("drop", "zeros")], ids="-".join)
def test_rows_do_not_depend_on_padding(name, policy):
    model = make_model(name, tail=policy[0], short_sequence=policy[1], window_stride=3)
    lengths = [20, 3, 8, 13]
    poses = torch.full((4, 20, 3, 2), float("nan"))
    for row, length in zip(poses, lengths, strict=True):
        row[:length] = torch.randn(length, 3, 2)
    mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    labels = torch.randn(4, 20, 3, 2)
    together = refine(model, poses, pose_mask=mask, labels=labels)
    losses = []
    for index, length in enumerate(lengths):
        alone = refine(model, poses[index, None, :length], labels=labels[index, None, :length])
        frames = int(alone.refined_mask.sum())
        assert_close(together.refined_poses[index, :frames], alone.refined_poses[0, :frames], atol=1e-6, rtol=1e-6)
        assert together.refined_mask[index].tolist() == [True] * frames + [False] * (
            len(together.refined_mask[index]) - frames
        )
        assert not together.refined_poses[index, frames:].any()
        losses += [alone.loss] * len(alone.window_poses)
    assert_close(together.loss, torch.stack(losses).mean())
    assert len(together.window_poses) == len(losses)


def test_every_frame_comes_back_from_a_network_with_a_shorter_output():
    model = make_model("short output")
    for frames in (1, 6, 8, 9, 21):
        poses = torch.randn(1, frames, 3, 2)
        outputs = refine(model, poses)
        assert outputs.refined_poses.shape == poses.shape
        assert outputs.refined_mask.all()
        assert outputs.refined_poses.abs().amin(-1).all()  # none is left at 0
    dropping = make_model("short output", tail="drop")
    assert refine(dropping, torch.randn(1, 21, 3, 2)).refined_poses.shape[1] == 18


def test_unit_and_place_do_not_matter_to_a_normalised_model():
    model = make_model("person")
    poses, labels = torch.randn(1, 20, 5, 2).double(), torch.randn(1, 20, 5, 2).double()
    model.double()
    outputs = refine(model, poses, labels=labels)
    moved = refine(model, 300 * poses + 1000, labels=300 * labels + 1000)
    assert_close(moved.refined_poses, 300 * outputs.refined_poses + 1000)
    assert_close(moved.loss, outputs.loss)


def test_a_point_is_no_division_by_zero():
    outputs = refine(make_model("person"), torch.ones(1, 9, 3, 2))
    assert outputs.refined_poses.isfinite().all()


def test_refine_windows(config, monkeypatch):
    monkeypatch.setattr(modeling_smoothnet, "CHUNK_VALUES", 12 * 6 * 2)
    model = with_random_weights(SmoothNetForPoseRefinement(config))
    windows = torch.randn(5, 8, 3, 2)
    with torch.no_grad():
        assert_close(model.refine_windows(windows), model.smoothnet(windows).window_poses, atol=1e-6, rtol=1e-6)


def test_hidden_states(config):
    model = with_random_weights(SmoothNetModel(config))
    windows = torch.randn(2, 8, 3, 2)
    outputs = refine(model, windows, output_hidden_states=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, 6, 12)] * (1 + config.num_hidden_layers)
    assert_close(outputs.window_poses, refine(model, windows).window_poses)
    assert refine(model, windows).hidden_states is None
    if config.window_normalization == "none":
        decoded = model.decoder(outputs.hidden_states[-1]).transpose(1, 2).reshape(outputs.window_poses.shape)
        assert_close(outputs.window_poses, decoded.detach())


def test_input_is_left_alone(config):
    model = with_random_weights(SmoothNetForPoseRefinement(config))
    poses = torch.randn(2, 20, 3, 2)
    before = poses.clone()
    refine(model, poses)
    model.train()(poses, labels=poses).loss.backward()
    assert_equal(poses, before)


# Training


@pytest.mark.parametrize("name", ["original", "person"])
def test_loss(name):
    model = make_model(name, window_stride=4, position_loss_weight=2.0, acceleration_loss_weight=0.5)
    poses, labels = torch.randn(1, 12, 3, 2), torch.randn(1, 12, 3, 2)
    outputs = refine(model, poses, labels=labels)
    losses = []
    for start in (0, 4):
        error = (refine(model, poses[:, start : start + 8]).refined_poses - labels[:, start : start + 8])[0]
        if name == "person":
            window = poses[0, start : start + 8]
            error = error / (window.amax(1) - window.amin(1)).amax(1).sort().values[3]
        losses.append(2 * error.abs().mean() + 0.5 * error.diff(n=2, dim=0).abs().mean())
    assert_close(outputs.loss, sum(losses) / 2)
    assert outputs.window_poses.shape == (2, 8, 3, 2)


@pytest.mark.parametrize("name", ["original", "person"])
def test_gradients(name, monkeypatch):
    """By finite differences, through parts of few windows, of what users can differentiate."""
    monkeypatch.setattr(modeling_smoothnet, "CHUNK_VALUES", 12 * 4 * 2)
    model = make_model(name).double()
    poses = torch.randn(1, 11, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda poses: model(poses).refined_poses, poses)
    weight = model.smoothnet.layers[0].intermediate.weight
    labels = torch.randn(1, 11, 2, 2, dtype=torch.float64)

    def loss(weight):
        return torch.func.functional_call(
            model, {"smoothnet.layers.0.intermediate.weight": weight}, (poses.detach(),), {"labels": labels}
        ).loss

    assert torch.autograd.gradcheck(loss, weight.detach().requires_grad_())


def test_dropout_is_for_training():
    model = make_model(hidden_dropout_prob=0.5)
    poses = torch.randn(1, 8, 3, 2)
    assert not torch.equal(model.train()(poses).refined_poses, model(poses).refined_poses)
    assert torch.equal(model.eval()(poses).refined_poses, model(poses).refined_poses)


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5])
def test_dropout_of_the_right_share(probability):
    values = torch.full((1001, 301), 2.0)
    dropped = drop_values(values.clone().requires_grad_() * 1, probability)
    zeros = (dropped == 0).double()
    assert zeros.mean().item() == pytest.approx(probability, abs=0.003)
    assert zeros.mean(0).sub(probability).abs().max() < 0.06  # in every column
    assert_close(dropped[dropped != 0].unique(), torch.tensor([2 / (1 - probability)]))
    assert torch.equal(drop_values(values.clone(), 0), values)


def test_fused_layers_equal_plain_ones(monkeypatch):
    model, poses = make_model("person"), torch.randn(1, 20, 3, 2)
    fused = refine(model, poses).refined_poses
    monkeypatch.setattr(modeling_smoothnet, "can_fuse", lambda *arguments: False)
    assert_close(refine(model, poses).refined_poses, fused, atol=1e-6, rtol=1e-6)


def test_autocast():
    model, poses = make_model("person"), torch.randn(1, 20, 3, 2) + 500
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = refine(model, poses)
    assert outputs.refined_poses.dtype == torch.float32
    assert_close(outputs.refined_poses, refine(model, poses).refined_poses, atol=0.05, rtol=0)


# Compilation and export


def test_compiled():
    model = make_model("person")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    poses, labels = torch.randn(2, 20, 3, 2), torch.randn(2, 20, 3, 2)
    assert_close(refine(compiled, poses).refined_poses, refine(model, poses).refined_poses, atol=1e-6, rtol=1e-6)
    assert_close(compiled(poses, labels=labels).loss, model(poses, labels=labels).loss)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["original", "person"])
@torch.no_grad()
def test_onnx_of_the_network(name):
    """At numbers of windows and joints that the export has not seen."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, file = make_model(name).smoothnet, io.BytesIO()
    wrapper = torch.nn.ModuleDict({"model": model}).eval()
    wrapper.forward = lambda windows: model(windows).window_poses
    axes = {0: "windows", 2: "joints"}
    torch.onnx.export(
        wrapper, (torch.randn(3, 8, 4, 2),), file, dynamo=False, input_names=["windows"], output_names=["refined"],
        dynamic_axes={"windows": axes, "refined": axes},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for shape in ((3, 8, 4, 2), (7, 8, 4, 2), (1, 8, 9, 2)):
        windows = torch.randn(shape)
        (refined,) = session.run(None, {"windows": windows.numpy()})
        assert_close(torch.from_numpy(refined), model(windows).window_poses, atol=1e-6, rtol=1e-5)


# Bad inputs


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"pose_values": np.zeros((1, 9, 3, 2), "f")}, TypeError, "must be a floating-point tensor"),
        ({"pose_values": torch.zeros(1, 9, 3, 2, dtype=torch.long)}, TypeError, "got torch.int64"),
        ({"pose_values": torch.zeros(9, 3, 2)}, ValueError, r"`pose_values` must have shape \(batch, frames"),
        ({"pose_values": torch.zeros(1, 0, 3, 2)}, ValueError, "no axis of length 0"),
        ({"labels": torch.zeros(1, 8, 3, 2)}, ValueError, "`labels` must have the shape of `pose_values`"),
        ({"labels": torch.zeros(1, 9, 6)}, ValueError, "`labels` must have shape"),
        ({"pose_mask": torch.ones(1, 9)}, TypeError, "`pose_mask` must be a boolean tensor"),
        ({"pose_mask": torch.ones(9, dtype=torch.bool)}, ValueError, r"`pose_mask` must have shape \(1, 9\)"),
        ({"pose_mask": torch.zeros(1, 9, dtype=torch.bool)}, ValueError, "at least one"),
        ({"pose_mask": torch.arange(9)[None] != 4}, ValueError, "padding comes last"),
        ({"pose_mask": torch.arange(9)[None] > 4}, ValueError, "padding comes last"),
        ({"mask": torch.ones(1, 9)}, TypeError, r"Unknown arguments \['mask'\]"),
    ],
    ids=lambda value: "",
)
def test_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        make_model()(**{"pose_values": torch.zeros(1, 9, 3, 2), **inputs})


def test_windows_of_another_length():
    model = make_model()
    for call in (model.smoothnet, model.refine_windows):
        with pytest.raises(ValueError, match="must have the 8 frames of `window_size`, got 9"):
            call(torch.zeros(2, 9, 3, 2))
