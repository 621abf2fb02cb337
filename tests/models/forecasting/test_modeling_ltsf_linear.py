import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoFeatureExtractor

from hvmodels import LTSFLinearConfig, LTSFLinearFeatureExtractor, LTSFLinearForPrediction, LTSFLinearModel
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    ProcessorChecks,
    assert_equal,
    seeded,
    with_random_weights,
)


VARIANTS = [(variant, individual) for variant in ("linear", "nlinear", "dlinear") for individual in (False, True)]
IDS = [f"{variant}{'-individual' if individual else ''}" for variant, individual in VARIANTS]
SIZES = {"context_length": 12, "prediction_length": 5, "num_input_channels": 3, "moving_average_kernel_size": 5}


@pytest.fixture(params=VARIANTS, ids=IDS)
def config(request):
    variant, individual = request.param
    return LTSFLinearConfig(variant=variant, individual=individual, **SIZES)


def series(config, batch_size=2, dtype=torch.float32):
    shape = (batch_size, config.context_length, config.num_input_channels)
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def random_model(config, **changes):
    """A model with random weights; `changes` to its configuration."""
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    return with_random_weights(LTSFLinearForPrediction(config))


def reference_forecast(model, past_values):
    """The paper's definition, channel by channel: sections 4 and appendix, and the padding of the original code."""
    config, layers = model.config, model.model
    forecasts = []
    for channel in range(past_values.shape[-1]):
        past = past_values[..., channel]

        def apply(layer, past, channel=channel):
            index = (channel,) if config.individual else ()
            return nn.functional.linear(past, layer.weight[index], layer.bias[index])

        if config.variant == "linear":
            forecasts.append(apply(layers.linear, past))
        elif config.variant == "nlinear":
            last = past[:, -1:].detach()
            forecasts.append(apply(layers.linear, past - last) + last)
        else:
            kernel_size = config.moving_average_kernel_size
            edge = (kernel_size - 1) // 2
            padded = torch.cat([past[:, :1].repeat(1, edge), past, past[:, -1:].repeat(1, edge)], dim=1)
            trend = nn.functional.avg_pool1d(padded[:, None], kernel_size, stride=1)[:, 0]
            forecasts.append(apply(layers.linear_seasonal, past - trend) + apply(layers.linear_trend, trend))
    return torch.stack(forecasts, dim=-1)


class TestLTSFLinearModels(ModelChecks):
    base_class = LTSFLinearModel
    head_classes = (LTSFLinearForPrediction,)

    def make_inputs(self, config, batch_size):
        return {"past_values": series(config, batch_size)}

    def make_labels(self, config, batch_size):
        return {"future_values": torch.randn(batch_size, config.prediction_length, config.num_input_channels)}


class TestLTSFLinearConfig(ConfigChecks):
    config_class = LTSFLinearConfig
    config_arguments = {
        "variant": "nlinear",
        "context_length": 20,
        "prediction_length": 7,
        "num_input_channels": 4,
        "individual": True,
        "moving_average_kernel_size": 9,
        "weight_init": "average",
        "prediction_channel_indices": [0, -1],
    }

    def test_defaults_are_the_published_settings(self):
        """Section 5.1 of the paper: look-back 336, shortest horizon 96; the original's window is always 25."""
        config = LTSFLinearConfig()
        assert (config.variant, config.individual, config.weight_init) == ("dlinear", False, "default")
        assert (config.context_length, config.prediction_length, config.moving_average_kernel_size) == (336, 96, 25)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"context_length": 0}, "`context_length` must be at least 1, got 0"),
            ({"prediction_length": -1}, "`prediction_length` must be at least 1"),
            ({"num_input_channels": 0}, "`num_input_channels` must be at least 1"),
            ({"moving_average_kernel_size": 24}, "must be odd .* use 25"),
            ({"moving_average_kernel_size": -1}, "must be odd and positive"),
            ({"prediction_channel_indices": []}, "at least one channel"),
            ({"prediction_channel_indices": [1]}, r"\[-1, 1\)"),
            ({"prediction_channel_indices": [-4], "num_input_channels": 3}, r"\[-3, 3\)"),
        ],
    )
    def test_values_that_do_not_fit(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            LTSFLinearConfig(**arguments)

    def test_smallest_values_and_outermost_channels(self):
        config = LTSFLinearConfig(
            context_length=1,
            prediction_length=1,
            num_input_channels=3,
            moving_average_kernel_size=1,
            prediction_channel_indices=[-3, 2],
        )
        assert LTSFLinearForPrediction(config)(torch.zeros(1, 1, 3)).prediction_outputs.shape == (1, 1, 2)

    @pytest.mark.parametrize("arguments", [{"variant": "rlinear"}, {"context_length": "12"}, {"weight_init": "zeros"}])
    def test_wrong_types(self, arguments):
        with pytest.raises(Exception, match=next(iter(arguments))):
            LTSFLinearConfig(**arguments)


class TestLTSFLinearFeatureExtractor(ProcessorChecks):
    processor_class = LTSFLinearFeatureExtractor
    auto_class = AutoFeatureExtractor
    processor_arguments = {
        "context_length": 20,
        "prediction_length": 7,
        "columns": ["a", "b"],
        "timestamp_column": "date",
        "frequency": "h",
        "standardization": "none",
        "mean": [0.1, 1 / 3],
        "scale": [2.5, 1e-7],
        "missing_values": "interpolate",
        "pad_short_context": True,
    }


# Initial weights


@pytest.mark.parametrize("weight_init", ["default", "average"])
def test_initial_weights_are_those_of_the_original(config, weight_init):
    config.weight_init = weight_init
    model = seeded(lambda: LTSFLinearForPrediction(config)).model
    names = ["linear_seasonal", "linear_trend"] if config.variant == "dlinear" else ["linear"]
    torch.manual_seed(0)
    # The original builds its layers one by one: for each channel, the seasonal and then the trend layer.
    layers = [
        {name: nn.Linear(config.context_length, config.prediction_length) for name in names}
        for _ in range(config.num_input_channels if config.individual else 1)
    ]
    for name in names:
        weight = torch.stack([channel[name].weight for channel in layers]).detach()
        bias = torch.stack([channel[name].bias for channel in layers]).detach()
        if weight_init == "average":
            weight = torch.full_like(weight, 1 / config.context_length)
        layer = getattr(model, name)
        assert_equal(layer.weight.detach(), weight if config.individual else weight[0])
        assert_equal(layer.bias.detach(), bias if config.individual else bias[0])


def test_loading_leaves_the_random_state_alone(config, tmp_path):
    random_model(config).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    LTSFLinearForPrediction.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


# Values


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
def test_forecast_equals_the_definition(config, dtype, tolerance):
    model, past_values = random_model(config).to(dtype), series(config, dtype=dtype)
    forecast = model(past_values).prediction_outputs
    assert forecast.shape == (2, config.prediction_length, config.num_input_channels)
    assert_close(forecast, reference_forecast(model, past_values), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel_size", [1, 3, 25, 31])
@pytest.mark.parametrize("context_length", [1, 2, 7, 40])
@pytest.mark.parametrize("individual", [False, True])
def test_moving_average_of_any_window_and_context(kernel_size, context_length, individual):
    config = LTSFLinearConfig(
        variant="dlinear",
        context_length=context_length,
        prediction_length=4,
        num_input_channels=2,
        individual=individual,
        moving_average_kernel_size=kernel_size,
    )
    model, past_values = random_model(config), series(config)
    seasonal, trend = model.model.decompose(past_values)
    edge = kernel_size // 2
    padded = nn.functional.pad(past_values.transpose(1, 2), (edge, edge), mode="replicate")
    expected = nn.functional.avg_pool1d(padded, kernel_size, stride=1).transpose(1, 2)
    assert_close(trend, expected, atol=1e-5, rtol=1e-5)
    assert_close(seasonal, past_values - expected, atol=1e-5, rtol=1e-5)
    assert_close(model(past_values).prediction_outputs, reference_forecast(model, past_values), atol=1e-5, rtol=1e-5)


def test_decompose_needs_dlinear():
    with pytest.raises(ValueError, match="'dlinear'; this model is 'linear'"):
        LTSFLinearModel(LTSFLinearConfig(variant="linear", **SIZES)).decompose(torch.zeros(1, 12, 3))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
def test_merge_equals_the_model(config, dtype, tolerance):
    model, past_values = random_model(config, prediction_channel_indices=[2, 0]).to(dtype), series(config, dtype=dtype)
    before = copy.deepcopy(model.state_dict())
    merged = model.merge()
    assert merged.config.variant == "linear"
    assert merged.dtype == dtype
    assert set(merged.state_dict()) == {"model.linear.weight", "model.linear.bias"}
    assert_close(
        merged(past_values).prediction_outputs, model(past_values).prediction_outputs, atol=tolerance, rtol=tolerance
    )
    assert_equal(model.state_dict(), before)


def test_merged_model_can_be_saved(config, tmp_path):
    merged = random_model(config).merge()
    merged.save_pretrained(tmp_path)
    assert_equal(LTSFLinearForPrediction.from_pretrained(tmp_path).state_dict(), merged.state_dict())


def test_channels_are_independent(config):
    model, past_values = random_model(config), series(config)
    changed = past_values.clone()
    changed[..., 1] += torch.randn(2, config.context_length)
    forecast, other = model(past_values).prediction_outputs, model(changed).prediction_outputs
    assert_equal(other[..., [0, 2]], forecast[..., [0, 2]])
    assert (other[..., 1] - forecast[..., 1]).abs().max() > 1e-2


@pytest.mark.parametrize("variant", ["linear", "nlinear", "dlinear"])
def test_shared_weights_forecast_any_number_of_channels(variant):
    config = LTSFLinearConfig(variant=variant, **SIZES)
    model, past_values = random_model(config), torch.randn(2, config.context_length, 11)
    assert_close(model(past_values).prediction_outputs, reference_forecast(model, past_values), atol=1e-5, rtol=1e-5)


# Gradients and training


def test_gradients_equal_those_of_the_definition(config):
    model = random_model(config).double()
    past_values = series(config, dtype=torch.float64).requires_grad_()
    future_values = torch.randn(2, config.prediction_length, 3, dtype=torch.float64)
    tensors = [past_values, *model.parameters()]
    ours = torch.autograd.grad(model(past_values, future_values=future_values).loss, tensors)
    loss = ((reference_forecast(model, past_values) - future_values) ** 2).mean()
    assert_close(ours, torch.autograd.grad(loss, tensors), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("individual", [False, True])
def test_last_column_of_nlinear_is_never_trained(individual):
    config = LTSFLinearConfig(variant="nlinear", individual=individual, **SIZES)
    model = random_model(config)
    model(series(config), future_values=torch.randn(2, 5, 3)).loss.backward()
    gradient = model.model.linear.weight.grad
    assert not gradient[..., -1].any()
    assert gradient[..., :-1].abs().min() > 0


def test_training_learns_a_linear_rule(config):
    model = LTSFLinearForPrediction(config)
    truth = random_model(config)
    past_values = series(config, 64)
    with torch.no_grad():
        future_values = truth(past_values).prediction_outputs
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss = model(past_values, future_values=future_values).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


# Channels that are predicted


def test_prediction_channel_indices(config):
    past_values, future_values = series(config), torch.randn(2, config.prediction_length, 3)
    all_channels = random_model(config)
    some = LTSFLinearForPrediction(LTSFLinearConfig.from_dict(config.to_dict(), prediction_channel_indices=[2, -3]))
    some.load_state_dict(all_channels.state_dict())
    expected = all_channels(past_values).prediction_outputs[..., [2, 0]]
    outputs = some(past_values, future_values=future_values)
    assert_equal(outputs.prediction_outputs, expected)
    assert_close(outputs.loss, ((expected - future_values[..., [2, 0]]) ** 2).mean())
    # Targets that hold the predicted channels only are taken as they are.
    assert_equal(some(past_values, future_values=future_values[..., [2, 0]]).loss, outputs.loss)


def test_all_channels_in_another_order(config):
    past_values, future_values = series(config), torch.randn(2, config.prediction_length, 3)
    model = random_model(config)
    expected = model(past_values, future_values=future_values)
    model.config.prediction_channel_indices = [2, 0, 1]
    outputs = model(past_values, future_values=future_values)
    assert_equal(outputs.prediction_outputs, expected.prediction_outputs[..., [2, 0, 1]])
    assert_close(outputs.loss, expected.loss)


# Missing values


def fill(values, observed):
    """Forward fill, step by step: a leading gap takes the first observed value, an empty channel 0."""
    filled = values.clone()
    for row in range(values.shape[0]):
        for channel in range(values.shape[2]):
            steps = observed[row, :, channel].nonzero().flatten().tolist()
            for step in range(values.shape[1]):
                earlier = [other for other in steps if other <= step]
                source = earlier[-1] if earlier else (steps or [None])[0]
                filled[row, step, channel] = 0 if source is None else values[row, source, channel]
    return filled


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_unobserved_values_are_filled_forward(config, mask_dtype):
    model, past_values = random_model(config), series(config, 4)
    observed = torch.rand_like(past_values) < 0.5
    observed[0, :4, 0] = False  # a leading gap
    observed[0, 4, 0] = True
    observed[1, :, 1] = False  # a channel without any value
    observed[2] = True
    observed[3, 5:, 2] = False  # a trailing gap, which hides the last value that NLinear subtracts
    observed[3, 4, 2] = True
    expected = model(fill(past_values, observed)).prediction_outputs
    for junk in (0.0, 1e6, float("nan"), float("inf")):
        masked = torch.where(observed, past_values, junk)
        outputs = model(masked, past_observed_mask=observed.to(mask_dtype))
        assert_equal(outputs.prediction_outputs, expected)
    assert (model(past_values).prediction_outputs - expected).abs().max() > 1e-2


def test_mask_of_ones_changes_nothing(config):
    model, past_values = random_model(config), series(config)
    masked = model(past_values, past_observed_mask=torch.ones_like(past_values))
    assert_equal(masked.prediction_outputs, model(past_values).prediction_outputs)


def test_unobserved_values_get_no_gradient(config):
    model, past_values = random_model(config), series(config).requires_grad_()
    observed = torch.rand_like(past_values) < 0.5
    model(past_values, past_observed_mask=observed).prediction_outputs.sum().backward()
    assert not past_values.grad[~observed].any()


# Inputs that do not fit


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((12, 3), "add the missing batch or channel axis"),
        ((2, 13, 3), "`context_length` = 12 time steps.* pass the last 12 steps"),
        ((2, 12, 4), "built for 3 channels"),
        ((2, 12, 0), "must have shape"),
    ],
)
def test_wrong_shapes(shape, message):
    model = LTSFLinearForPrediction(LTSFLinearConfig(individual=True, **SIZES))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_wrong_mask_and_targets(config):
    model, past_values = LTSFLinearForPrediction(config), series(config)
    with pytest.raises(ValueError, match="`past_observed_mask` must have the shape"):
        model(past_values, past_observed_mask=torch.ones(2, 12, 1))
    with pytest.raises(ValueError, match=r"`future_values` must have shape \(2, 5, 3\)"):
        model(past_values, future_values=torch.zeros(2, 6, 3))
    with pytest.raises(TypeError, match="`future_values` must be a floating-point tensor"):
        model(past_values, future_values=torch.zeros(2, 5, 3, dtype=torch.int64))


def test_unknown_arguments(config):
    for model in (LTSFLinearModel(config), LTSFLinearForPrediction(config)):
        with pytest.raises(TypeError, match="past_mask"):
            model(series(config), past_mask=None)


@pytest.mark.parametrize("past_values", [torch.zeros(2, 12, 3, dtype=torch.int64), [[[0.0]]]], ids=["int", "list"])
def test_wrong_input_type(past_values):
    with pytest.raises(TypeError, match="`past_values` must be a floating-point tensor"):
        LTSFLinearForPrediction(LTSFLinearConfig(**SIZES))(past_values)
