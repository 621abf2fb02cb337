import pytest
import torch
from torch.testing import assert_close

from hvmodels.models.pose_sequence import DeciWatchConfig, DeciWatchForPoseRecovery, DeciWatchModel
from hvmodels.models.pose_sequence.modeling_deciwatch import WINDOWS_AT_ONCE, interpolation_matrix, person_frame
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    assert_equal,
    seed_of_each_module,  # noqa: F401
    seeded,
    with_random_weights,
)


pytestmark = pytest.mark.usefixtures("seed_of_each_module")


SIZES = {"num_joints": 3, "sample_interval": 4, "num_intervals": 3, "hidden_size": 8, "num_attention_heads": 2}
SIZES |= {"encoder_layers": 2, "decoder_layers": 2, "intermediate_size": 12}
CONFIGS = {
    "3d": {},
    "post_norm": {"pre_norm": False, "joint_dim": 2, "memory_mask_type": "boolean", "window_normalization": "person"},
    "every_frame": {"sample_interval": 1, "num_intervals": 12},
}


def make_config(name="3d", **options):
    return DeciWatchConfig(**{**SIZES, **CONFIGS[name], **options})


def make_model(name="3d", model_class=DeciWatchForPoseRecovery, **options):
    """A model in double precision, so that comparisons are sharp."""
    return seeded(lambda: with_random_weights(model_class(make_config(name, **options)))).double()


def make_poses(config, *shape):
    return torch.randn(*shape, config.num_joints, config.joint_dim, dtype=torch.float64)


@pytest.fixture(params=["3d"])
def config(request):
    return make_config(request.param)


class TestDeciWatch(ModelChecks):
    base_class = DeciWatchModel
    head_classes = (DeciWatchForPoseRecovery,)

    def make_inputs(self, config, batch_size):
        return {"pose_values": torch.randn(batch_size, config.window_size, config.num_joints, config.joint_dim)}

    def make_labels(self, config, batch_size):
        return {"labels": self.make_inputs(config, batch_size)["pose_values"]}


class TestConfig(ConfigChecks):
    config_class = DeciWatchConfig
    config_arguments = {
        "num_joints": 15,
        "joint_dim": 2,
        "sample_interval": 5,
        "num_intervals": 4,
        "hidden_size": 24,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "dropout": 0.2,
        "pre_norm": False,
        "memory_mask_type": "boolean",
        "recover_mode": "interpolation",
        "denoise_loss_weight": 0.5,
        "recover_loss_weight": 2,
        "window_stride_intervals": 4,
        "window_normalization": "person",
        "tail": "drop",
        "short_sequence": "zeros",
    }

    def test_defaults_are_the_published_human36m_model(self):
        config = DeciWatchConfig()
        assert (config.pose_dim, config.window_size, config.window_stride) == (51, 101, 10)
        with torch.device("meta"):
            assert DeciWatchForPoseRecovery(config).num_parameters() == 1_709_414

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_joints": 0}, "`num_joints` must be at least 1"),
            ({"sample_interval": 0}, "`sample_interval` must be at least 1"),
            ({"num_intervals": 0}, "`num_intervals` must be at least 1"),
            ({"decoder_layers": 0}, "`decoder_layers` must be at least 1"),
            ({"hidden_size": 126}, "`hidden_size` must be even and a multiple of `num_attention_heads`"),
            ({"hidden_size": 15, "num_attention_heads": 3}, "`hidden_size` must be even"),
            ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
            ({"recover_loss_weight": -1}, "`recover_loss_weight` must be 0 or more"),
            ({"denoise_loss_weight": float("nan")}, "`denoise_loss_weight` must be 0 or more"),
            ({"window_stride_intervals": 11}, "`window_stride_intervals` must be from 1 to `num_intervals`"),
            ({"window_stride_intervals": 0}, "`window_stride_intervals` must be from 1 to `num_intervals`"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            DeciWatchConfig(**arguments)

    @pytest.mark.parametrize("arguments", [{"joint_dim": 4}, {"memory_mask_type": "integer"}, {"tail": "raw"}])
    def test_refuses_choices(self, arguments):
        name = next(iter(arguments))
        with pytest.raises(Exception, match=name):
            DeciWatchConfig(**arguments)


def test_initial_weights():
    """Xavier-uniform over the stacked projections, as the original fills them."""
    model = DeciWatchModel(make_config(hidden_size=64, intermediate_size=64, num_joints=20))
    attention = model.decoder.layers[1].cross_attention
    bounds = {
        attention.q_proj: (6 / (4 * 64)) ** 0.5,
        attention.v_proj: (6 / (4 * 64)) ** 0.5,
        attention.o_proj: (6 / (2 * 64)) ** 0.5,
        model.encoder_embedding: (6 / (60 + 64)) ** 0.5,
        model.decoder_embedding: (6 / (5 * (60 + 64))) ** 0.5,
    }
    for layer, bound in bounds.items():
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert not any(project.bias.any() for project in (attention.q_proj, attention.k_proj, attention.o_proj))
    assert 0.9 / 8 < model.decoder_head.bias.abs().max() <= 1 / 8


# Windows


@torch.no_grad()
def test_frames_between_the_seen_ones_are_not_read():
    model = make_model()
    windows = make_poses(model.config, 2, 13)
    other = torch.full_like(windows, torch.nan)
    other[:, ::4] = windows[:, ::4]
    assert_equal(model.deciwatch(other).recovered_poses, model.deciwatch(windows).recovered_poses)
    assert_equal(model(other).recovered_poses, model(windows).recovered_poses)


@torch.no_grad()
@pytest.mark.parametrize("hidden_size", [6, 8])
@pytest.mark.parametrize("name", CONFIGS)
def test_attention_backends(name, hidden_size):
    """With 8 channels for 2 heads and 4 seen frames, projections move from queries to keys; with 6 they do not."""
    model = make_model(name, hidden_size=hidden_size)
    windows = make_poses(model.config, 2, model.config.window_size)
    results = []
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        results.append(dict(model.deciwatch(windows)))
    assert results[0].keys() == results[1].keys()
    assert_close(*results, atol=1e-10, rtol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("mask_type", ["additive", "boolean"])
def test_hidden_states_and_attentions(mask_type):
    model = make_model(model_class=DeciWatchModel, memory_mask_type=mask_type)
    model.set_attn_implementation("eager")
    outputs = model(make_poses(model.config, 2, 13), output_hidden_states=True, output_attentions=True)
    frames = 13 if mask_type == "additive" else 4
    for states, size in ((outputs.encoder_hidden_states, frames), (outputs.decoder_hidden_states, 13)):
        assert [state.shape for state in states] == [(2, size, 8)] * 3
    assert_close(model.encoder.layer_norm(outputs.encoder_hidden_states[-1]), outputs.encoder_last_hidden_state)
    assert_close(model.decoder.layer_norm(outputs.decoder_hidden_states[-1]), outputs.decoder_last_hidden_state)
    shapes = {"encoder": (2, 2, frames, 4), "decoder": (2, 2, 13, 13), "cross": (2, 2, 13, frames)}
    for kind, shape in shapes.items():
        weights = outputs[f"{kind}_attentions"]
        assert [weight.shape for weight in weights] == [shape] * 2
        assert_close(torch.stack(weights).sum(-1), torch.ones(2, *shape[:-1], dtype=torch.float64), atol=1e-6, rtol=0)
    seen = outputs.encoder_attentions[0][:, :, :: 4 if mask_type == "additive" else 1]
    assert_equal(seen.diagonal(dim1=2, dim2=3), torch.zeros(2, 2, 4, dtype=torch.float64))
    assert seen.sum() > 0
    without = model(make_poses(model.config, 2, 13))
    assert without.encoder_hidden_states is without.cross_attentions is None


@torch.no_grad()
def test_additive_mask_prefers_unseen_frames():
    """Their scores are larger by 1, and nothing is left out."""
    model = make_model(model_class=DeciWatchModel)
    model.set_attn_implementation("eager")
    windows = make_poses(model.config, 1, 13)
    weights = model(windows, output_attentions=True).cross_attentions[0]
    model.memory_bias.zero_()
    plain = model(windows, output_attentions=True).cross_attentions[0]
    expected = plain * torch.where(torch.arange(13) % 4 == 0, 1, torch.e)
    assert_close(weights, expected / expected.sum(-1, keepdim=True), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_interpolation_is_that_of_the_denoised_poses():
    model = make_model(recover_mode="interpolation")
    outputs = model(make_poses(model.config, 2, 13))
    denoised = outputs.denoised_poses
    for frame in range(13):
        share = frame % 4 / 4
        expected = (1 - share) * denoised[:, frame // 4] + share * denoised[:, min(frame // 4 + 1, 3)]
        assert_close(outputs.recovered_poses[:, frame], expected)
    assert model.deciwatch(make_poses(model.config, 1, 13)).decoder_last_hidden_state is None
    with_decoder = make_model()
    windows = make_poses(model.config, 2, 13)
    assert_close(model(windows).denoised_poses, with_decoder(windows).denoised_poses, atol=1e-6, rtol=1e-6)


def test_interpolation_matrix():
    matrix = interpolation_matrix(5, 3)
    expected = torch.nn.functional.interpolate(torch.eye(4)[None], size=16, mode="linear", align_corners=True)[0].T
    assert_close(matrix, expected)
    assert_equal(matrix[::5], torch.eye(4))


@torch.no_grad()
def test_embedding_is_the_convolution_of_the_interpolation(config):
    model = with_random_weights(DeciWatchModel(config))
    windows = torch.randn(2, config.window_size, config.num_joints, config.joint_dim)
    outputs = model(windows, output_hidden_states=True)
    denoised = outputs.denoised_poses
    if config.window_normalization == "person":
        center, size = person_frame(windows[:, :: config.sample_interval])
        denoised = (denoised - center) / size
    interpolated = (model.interpolation @ denoised.flatten(2)).transpose(1, 2)
    expected = model.decoder_embedding(interpolated).transpose(1, 2)
    assert_close(outputs.decoder_hidden_states[0], expected, atol=1e-5, rtol=1e-5)


# Person size


def test_person_frame():
    samples = torch.zeros(1, 4, 3, 2)
    samples[0, :, 1, 0] = torch.tensor([3.0, 5.0, 4.0, 9.0])  # sizes; the middle ones are 4 and 5
    samples[0, :, 2, 1] = -2.0
    center, size = person_frame(samples)
    assert_equal(size, torch.full((1, 1, 1, 1), 4.0))
    assert_equal(center.flatten(), torch.tensor([21 / 12, -8 / 12]))
    assert_equal(person_frame(torch.ones(1, 2, 3, 2))[1].flatten(), torch.tensor([1e-6]))


@torch.no_grad()
def test_person_size_is_taken_off_and_put_back():
    model = make_model(window_normalization="person")
    windows = make_poses(model.config, 2, 13)
    outputs = model.deciwatch(windows)
    center, size = person_frame(windows[:, ::4])
    model.config.window_normalization = "none"
    plain = model.deciwatch((windows - center) / size)
    assert_close(outputs.recovered_poses, plain.recovered_poses * size + center)
    assert_close(outputs.denoised_poses, plain.denoised_poses * size + center)


@torch.no_grad()
def test_units_and_places_do_not_matter_with_person_size():
    model = make_model(window_normalization="person")
    sequence, labels = make_poses(model.config, 2, 30), make_poses(model.config, 2, 30)
    place = torch.tensor([300.0, -20.0, 5.0])
    metres, millimetres = model(sequence, labels=labels), model(1000 * sequence + place, labels=1000 * labels + place)
    assert_close(millimetres.recovered_poses, 1000 * metres.recovered_poses + place, atol=1e-6, rtol=1e-9)
    assert_close(millimetres.loss, metres.loss)


# Sequences


def recover_slowly(model, sequence):
    """One window at a time, poses (frames, joints, dims)."""
    config, length = model.config, len(sequence)
    window, interval = config.window_size, config.sample_interval
    total = max(length, window)
    if config.tail == "keep":
        while (total - 1) % interval:
            total += 1
    zeros = length < window and config.short_sequence == "zeros"
    fill = torch.zeros_like(sequence[-1]) if zeros else sequence[-1]
    poses = torch.stack([*sequence, *[fill] * (total - length)])
    starts = [start for start in range(0, total, config.window_stride) if start + window <= total]
    if config.tail == "keep" and starts[-1] + window < total:
        starts.append(total - window)
    values, counts = torch.zeros_like(poses), torch.zeros(total, 1, 1)
    for start in starts:
        values[start : start + window] += model.deciwatch(poses[None, start : start + window]).recovered_poses[0]
        counts[start : start + window] += 1
    covered = starts[-1] + window
    return (values / counts)[: covered if zeros else min(covered, length)], starts, poses


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("length", [1, 13, 14, 38])
@pytest.mark.parametrize(("tail", "short"), [("keep", "replicate"), ("drop", "zeros"), ("keep", "zeros")])
def test_sequences_are_the_mean_of_their_windows(length, stride, tail, short):
    options = {"tail": tail, "short_sequence": short, "window_stride_intervals": stride}
    model = make_model(window_normalization="person", encoder_layers=1, decoder_layers=1, **options)
    sequence = make_poses(model.config, 2, length)
    outputs = model(sequence)
    for row in range(2):
        expected, _, _ = recover_slowly(model, sequence[row])
        assert_close(outputs.recovered_poses[row], expected, atol=1e-6, rtol=1e-6)
    if tail == "keep" and not (short == "zeros" and length < 13):
        assert outputs.recovered_poses.shape == sequence.shape
    assert outputs.refined_mask.shape == outputs.recovered_poses.shape[:2]
    assert outputs.refined_mask.all()
    assert torch.equal(outputs.recovered_poses, model(sequence, labels=sequence).recovered_poses)


@torch.no_grad()
@pytest.mark.parametrize("windows_at_once", [1, 4])
def test_parts_make_no_difference(windows_at_once, monkeypatch):
    model = make_model()
    sequence = make_poses(model.config, 2, 60)
    expected = dict(model(sequence))
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", windows_at_once)
    assert_close(dict(model(sequence)), expected)
    windows = make_poses(model.config, 5, 13)
    assert_close(model.refine_windows(windows), model.deciwatch(windows).recovered_poses)


@torch.no_grad()
@pytest.mark.parametrize("tail", ["keep", "drop"])
def test_padding_makes_no_difference(tail):
    model = make_model("post_norm", tail=tail)
    lengths = torch.tensor([30, 3, 17, 30, 18])
    sequence = make_poses(model.config, 5, 33)
    mask = torch.arange(33) < lengths[:, None]
    outputs = model(torch.where(mask[..., None, None], sequence, torch.nan), pose_mask=mask)
    assert outputs.recovered_poses.shape[1] == (33 if tail == "keep" else 29)
    for row, length in enumerate(lengths):
        alone = model(sequence[row : row + 1, :length])
        size = alone.recovered_poses.shape[1]
        assert outputs.refined_mask[row].sum() == size
        assert outputs.refined_mask[row, :size].all()
        assert_close(outputs.recovered_poses[row, :size], alone.recovered_poses[0])
        assert not outputs.recovered_poses[row, size:].any()
        samples = alone.denoised_poses.shape[1]
        assert_close(outputs.denoised_poses[row, :samples], alone.denoised_poses[0])
        assert not outputs.denoised_poses[row, samples:].any()


# Training


@pytest.mark.parametrize("normalization", ["none", "person"])
def test_loss_is_the_mean_over_windows(normalization):
    model = make_model(window_normalization=normalization, denoise_loss_weight=2.0, recover_loss_weight=3.0)
    lengths = [30, 13, 9]
    sequence, labels = make_poses(model.config, 3, 30), make_poses(model.config, 3, 30)
    losses = []
    for row, length in enumerate(lengths):
        _, starts, poses = recover_slowly(model, sequence[row, :length])
        right = torch.cat([labels[row, :length], labels[row, length - 1 :][:1].expand(len(poses) - length, -1, -1)])
        for start in starts:
            window, target = poses[None, start : start + 13], right[None, start : start + 13]
            outputs = model.deciwatch(window)
            size = person_frame(window[:, ::4])[1] if normalization == "person" else 1
            denoise = ((outputs.denoised_poses - target[:, ::4]) / size).abs().mean()
            losses.append(2 * denoise + 3 * ((outputs.recovered_poses - target) / size).abs().mean())
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    assert_close(model(sequence, mask, labels).loss, torch.stack(losses).mean(), atol=1e-6, rtol=1e-6)
    assert model(sequence, mask).loss is None


def test_dropout_is_for_training_only():
    model = make_model(dropout=0.5)
    windows = make_poses(model.config, 1, 13)
    assert_equal(model(windows).recovered_poses, model(windows).recovered_poses)
    model.train()
    assert not torch.equal(model(windows).recovered_poses, model(windows).recovered_poses)


@pytest.mark.parametrize(("name", "use_reentrant"), [("3d", False), ("post_norm", True)])
def test_checkpointing_changes_nothing(name, use_reentrant):
    config = make_config(name)
    gradients = []
    for checkpointing in (False, True):
        model = seeded(lambda: with_random_weights(DeciWatchForPoseRecovery(config))).double().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        model(make_poses(config, 2, 30), labels=make_poses(config, 2, 30)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_close(*gradients, atol=1e-9, rtol=1e-9)


def test_gradients_reach_the_seen_poses():
    model = make_model(window_normalization="person")
    poses = make_poses(model.config, 1, 25).requires_grad_()
    model(poses).recovered_poses[0, 0].sum().backward()
    read = poses.grad[0].flatten(1).any(1)
    assert read[:13:4].all()
    assert read.sum() == 4


# Errors


def test_refuses():
    model = make_model()
    poses, mask = make_poses(model.config, 2, 20), torch.ones(2, 20, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"`pose_values` must be a floating-point tensor .*, got list"):
        model(poses.tolist())
    with pytest.raises(TypeError, match=r"`pose_values` must be a floating-point tensor .*, got torch.int64"):
        model(poses.long())
    for wrong in (poses[0], poses[:, :, :2], poses[..., :2], poses[:, :0], poses[:0]):
        with pytest.raises(ValueError, match=r"`pose_values` must have shape \(batch, frames, 3, 3\)"):
            model(wrong)
    with pytest.raises(ValueError, match="`labels` must have the shape of `pose_values`"):
        model(poses, labels=poses[:, 1:])
    with pytest.raises(TypeError, match="`pose_mask` must be a boolean tensor"):
        model(poses, mask.long())
    with pytest.raises(ValueError, match=r"`pose_mask` must have shape \(2, 20\)"):
        model(poses, mask[:, 1:])
    for hole in ((0, 0), (1, 5)):
        wrong = mask.clone()
        wrong[hole] = False
        with pytest.raises(ValueError, match="`pose_mask` must be True for the first frames"):
            model(poses, wrong)
    with pytest.raises(ValueError, match="`pose_mask` must be True for the first frames"):
        model(poses, mask & False)
    for call in (model.deciwatch, model.refine_windows):
        with pytest.raises(ValueError, match="`pose_values` must have the 13 frames of a window"):
            call(poses)
