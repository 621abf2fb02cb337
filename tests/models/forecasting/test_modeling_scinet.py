import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, pipeline

from hvmodels import SCINetConfig, SCINetFeatureExtractor, SCINetForPrediction, SCINetModel
from hvmodels.conversion.scinet import to_original
from hvmodels.models.forecasting.modeling_scinet import convolve_time, positional_encoding
from tests.modeling_checks import (
    ConfigChecks,
    ModelChecks,
    ProcessorChecks,
    assert_equal,
    seeded,
    with_random_weights,
)


SIZES = {"context_length": 12, "prediction_length": 4, "num_input_channels": 3, "hidden_ratio": 2, "num_levels": 2}
CONFIGS = {
    "one_stack": {},
    "two_stacks": {
        "num_stacks": 2,
        "num_decoder_layers": 2,
        "concat_length": 8,
        "groups": 3,
        "use_positional_encoding": True,
        "use_reversible_instance_norm": True,
    },
    "decompose": {"decompose": True, "use_reversible_instance_norm": True, "moving_average_kernel_size": 5},
}
MORE_CONFIGS = {
    **CONFIGS,
    "even_kernel": {"kernel_size": 4},
    "long_kernel": {"kernel_size": 7, "num_levels": 1, "hidden_ratio": 0.5},
    "three_decoder_layers": {"num_decoder_layers": 3, "context_length": 20},
    "single_step": {"num_stacks": 2, "single_step_output": True},
    "decompose_two_stacks": {"decompose": True, "num_stacks": 2, "use_positional_encoding": True},
    "one_channel": {"num_input_channels": 1, "use_positional_encoding": True},
}


def make_config(name, **changes):
    return SCINetConfig(**{**SIZES, **MORE_CONFIGS[name], **changes})


def make_model(name, **changes):
    return with_random_weights(SCINetForPrediction(make_config(name, **changes)))


@pytest.fixture(params=CONFIGS)
def config(request):
    return make_config(request.param)


def series(config, batch_size=2, dtype=torch.float32):
    return torch.randn(batch_size, config.context_length, config.num_input_channels, dtype=dtype)


class TestSCINetModels(ModelChecks):
    base_class = SCINetModel
    head_classes = (SCINetForPrediction,)

    def make_inputs(self, config, batch_size):
        return {"past_values": series(config, batch_size)}

    def make_labels(self, config, batch_size):
        return {"future_values": torch.randn(batch_size, config.prediction_length, config.num_input_channels)}


class TestSCINetConfig(ConfigChecks):
    config_class = SCINetConfig
    config_arguments = {
        "context_length": 96,
        "prediction_length": 48,
        "num_input_channels": 8,
        "hidden_ratio": 0.5,
        "num_stacks": 2,
        "num_levels": 4,
        "kernel_size": 3,
        "groups": 2,
        "dropout": 0.25,
        "num_decoder_layers": 2,
        "concat_length": 32,
        "use_positional_encoding": True,
        "use_reversible_instance_norm": True,
        "single_step_output": True,
        "moving_average_kernel_size": 9,
        "loss": "smooth_l1",
        "last_step_weight": 0.5,
        "last_step_only": True,
    }

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"context_length": 50}, r"multiple of 2\^`num_levels` = 8.* \[48, 56\].* `num_levels` = 1 at most"),
            ({"context_length": 4}, r"The nearest are \[8\]"),
            ({"num_stacks": 2, "prediction_length": 20}, r"48 \+ 20 = 68 .*; `concat_length` = 44 fits"),
            ({"num_stacks": 2, "concat_length": 21}, r"21 \+ 24 = 45 .* `concat_length` = 16 or 24 fits"),
            ({"concat_length": 49}, r"`concat_length` must be in \[0, `context_length` = 48\]"),
            ({"groups": 2}, r"must divide `num_input_channels` \(7\)"),
            ({"groups": 7, "hidden_ratio": 0.5}, r"int\(`num_input_channels` \* `hidden_ratio`\) = 3; got 7"),
            ({"hidden_ratio": 0.1}, "at least 1/7"),
            ({"num_decoder_layers": 2, "context_length": 4, "num_levels": 1}, "at least 6"),
            ({"num_decoder_layers": 2, "decompose": True}, "must be 1 with `decompose`"),
            ({"single_step_output": True}, "needs `num_stacks` = 2"),
            ({"moving_average_kernel_size": 24}, "use 25"),
            ({"dropout": 1.0}, r"must be in \[0, 1\)"),
            ({"last_step_weight": -1.0}, "0 or more"),
            ({"num_levels": 0}, "`num_levels` must be at least 1"),
        ],
    )
    def test_values_that_do_not_fit(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SCINetConfig(**arguments)

    @pytest.mark.parametrize("arguments", [{"num_stacks": 3}, {"loss": "huber"}, {"context_length": "48"}])
    def test_wrong_types(self, arguments):
        with pytest.raises(Exception, match=next(iter(arguments))):
            SCINetConfig(**arguments)


class TestSCINetFeatureExtractor(ProcessorChecks):
    processor_class = SCINetFeatureExtractor
    auto_class = AutoFeatureExtractor
    processor_arguments = {
        "context_length": 20,
        "prediction_length": 7,
        "columns": ["a"],
        "mean": [0.1],
        "scale": [2.0],
    }


# The paper's recursion, node by node, with the original's names of the weights


def reference_branch(weights, name, half, config):
    pad = config.kernel_size - 1
    padded = nn.functional.pad(half, (pad // 2 + 1, pad - pad // 2 + 1), mode="replicate")
    hidden = nn.functional.conv1d(padded, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"], groups=config.groups)
    hidden = nn.functional.leaky_relu(hidden, 0.01)
    return torch.tanh(
        nn.functional.conv1d(hidden, weights[f"{name}.4.weight"], weights[f"{name}.4.bias"], groups=config.groups)
    )


def reference_tree(weights, prefix, values, level, config):
    even, odd = values[:, ::2].mT, values[:, 1::2].mT
    phi, psi, p, u = (f"{prefix}workingblock.interact.level.{name}" for name in ("phi", "psi", "P", "U"))
    d = odd * reference_branch(weights, phi, even, config).exp()
    c = even * reference_branch(weights, psi, odd, config).exp()
    even = (c + reference_branch(weights, u, d, config)).mT
    odd = (d - reference_branch(weights, p, c, config)).mT
    if level:
        even = reference_tree(weights, f"{prefix}SCINet_Tree_even.", even, level - 1, config)
        odd = reference_tree(weights, f"{prefix}SCINet_Tree_odd.", odd, level - 1, config)
    return torch.stack((even, odd), 2).flatten(1, 2)


def reference_decoder(weights, values, config):
    if config.num_decoder_layers == 1:
        return weights["projection1.weight"][..., 0] @ values
    rows, length, reach = values.mT, config.context_length // 6, config.context_length // 4
    for layer in range(config.num_decoder_layers - 1):
        decoded = torch.zeros_like(rows)
        for segment in range(6):
            start, name = segment * length, f"div_projection.{layer}.{segment}"
            read = rows[..., start : start + reach]
            decoded[..., start : start + length] = nn.functional.linear(
                read, weights[f"{name}.weight"], weights[f"{name}.bias"]
            )
        rows = decoded
    return nn.functional.linear(rows, weights["projection1.weight"], weights["projection1.bias"]).mT


def reference_forecast(model, values):
    """Sheet 2 of the paper and its code, in float64."""
    config, weights = model.config, to_original(model)
    trend = None
    encoding = positional_encoding(*values.shape[1:], values.dtype, values.device)
    if config.decompose:
        edge = config.moving_average_kernel_size // 2
        padded = nn.functional.pad(values.mT, (edge, edge), mode="replicate")
        trend = nn.functional.avg_pool1d(padded, config.moving_average_kernel_size, stride=1).mT
        values = values - trend
    elif config.use_positional_encoding:
        values = values + encoding

    def normalize(values, suffix):
        mean, deviation = values.mean(1, keepdim=True), (values.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        weight, bias = weights[f"affine_weight{suffix}"], weights[f"affine_bias{suffix}"]
        reverse = lambda forecast: (forecast - bias) / (weight + 1e-10) * deviation + mean  # noqa: E731
        return (values - mean) / deviation * weight + bias, reverse

    reverse = reverse_trend = lambda forecast: forecast
    if config.use_reversible_instance_norm:
        values, reverse = normalize(values, "")
        if trend is not None:
            trend, reverse_trend = normalize(trend, "2")
    if config.decompose and config.use_positional_encoding:
        values = values + encoding
    residual = 0 if config.decompose else 1
    tree = reference_tree(weights, "blocks1.SCINet_Tree.", values, config.num_levels - 1, config)
    forecast, intermediate = reference_decoder(weights, tree + residual * values, config), None
    if config.num_stacks == 2:
        intermediate = forecast
        joined = torch.cat([values[:, -(config.concat_length or config.context_length) :], forecast], 1)
        tree = reference_tree(weights, "blocks2.SCINet_Tree.", joined, config.num_levels - 1, config)
        forecast = weights["projection2.weight"][..., 0] @ (tree + residual * joined)
        intermediate = reverse(intermediate)
    forecast = reverse(forecast)
    if trend is not None:
        for name in ("trend", "trend_dec"):
            trend = nn.functional.linear(trend.mT, weights[f"{name}.weight"], weights[f"{name}.bias"]).mT
        forecast = forecast + reverse_trend(trend)
    return forecast, intermediate


@pytest.mark.parametrize("name", MORE_CONFIGS)
def test_forecast_equals_the_recursion(name):
    model = make_model(name).double()
    past_values = series(model.config, 3, torch.float64)
    before = past_values.clone()
    outputs = model(past_values)
    forecast, intermediate = reference_forecast(model, past_values)
    assert outputs.prediction_outputs.dtype == torch.float64
    assert torch.equal(past_values, before)
    assert_close(outputs.prediction_outputs, forecast, atol=1e-10, rtol=1e-10)
    if intermediate is not None:
        assert_close(outputs.intermediate_prediction_outputs, intermediate, atol=1e-10, rtol=1e-10)
    with torch.no_grad():  # another path
        assert_close(model(past_values).prediction_outputs, forecast, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("outputs", [4, 2])
def test_gradient_of_the_convolution(outputs):
    shapes = [(2, 3, 6, 2), (2, outputs, 9), (2, outputs, 1)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *tensors: convolve_time(*tensors, 3), tensors)
    expected = nn.functional.conv1d(
        tensors[0].permute(3, 0, 1, 2).flatten(1, 2),
        tensors[1].view(2 * outputs, 3, 3),
        tensors[2].flatten(),
        groups=2,
    )
    convolved = convolve_time(*tensors, 3).view(2, outputs, 4, 2).permute(3, 0, 1, 2).flatten(1, 2)
    assert_close(convolved, expected, atol=1e-12, rtol=1e-12)


def test_positional_encoding_rounds_frequencies_to_float32():
    encoding = positional_encoding(50, 5, torch.float64, torch.device("cpu"))
    frequencies = torch.exp(torch.arange(3, dtype=torch.float32) * -(np.log(10000.0) / 2)).double()
    angles = torch.arange(50, dtype=torch.float64)[:, None] * frequencies
    assert_close(encoding, torch.cat([angles.sin(), angles.cos()[:, :2]], 1), atol=1e-15, rtol=0)


# Initial weights


def draw_originals_layers(config):
    """What the original's constructor draws, by its names: layers one by one, in its order."""
    layers = {}

    def build_tree(prefix, level):
        for branch in ("P", "U", "phi", "psi"):
            for layer, sizes in (
                (1, (config.num_input_channels, config.hidden_channels, config.kernel_size)),
                (4, (config.hidden_channels, config.num_input_channels, 3)),
            ):
                name = f"{prefix}workingblock.interact.level.{branch}.{layer}"
                layers[name] = nn.Conv1d(*sizes, groups=config.groups)
        if level:
            build_tree(f"{prefix}SCINet_Tree_odd.", level - 1)
            build_tree(f"{prefix}SCINet_Tree_even.", level - 1)

    length, horizon = config.context_length, config.prediction_length
    if config.decompose:
        layers["trend"], layers["trend_dec"] = nn.Linear(length, length), nn.Linear(length, horizon)
        for name in ("trend", "trend_dec"):
            nn.init.zeros_(layers[name].bias)
    for stack in range(config.num_stacks):
        build_tree(f"blocks{stack + 1}.SCINet_Tree.", config.num_levels - 1)
    layers["projection1"] = nn.Conv1d(length, horizon, 1, bias=False)
    if config.num_decoder_layers > 1:
        layers["projection1"] = nn.Linear(length, horizon)
        for layer in range(config.num_decoder_layers - 1):
            for segment in range(6):
                read = min(length // 4, length - segment * (length // 6))
                layers[f"div_projection.{layer}.{segment}"] = nn.Linear(read, length // 6)
    if config.num_stacks == 2:
        layers["projection2"] = nn.Conv1d(config.concatenated_length, horizon, 1, bias=False)
    return nn.ModuleDict({name.replace(".", "/"): layer for name, layer in layers.items()})


def test_initial_weights_are_those_of_the_original(config):
    weights = to_original(seeded(lambda: SCINetForPrediction(config)))
    expected = seeded(lambda: draw_originals_layers(config)).state_dict()
    for name, weight in expected.items():
        assert torch.equal(weights.pop(name.replace("/", ".")), weight), name
    assert set(weights) <= {"inv_timescales", "affine_weight", "affine_bias", "affine_weight2", "affine_bias2"}


def test_loading_leaves_the_random_state_alone(config, tmp_path):
    SCINetForPrediction(config).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    SCINetForPrediction.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


# Outputs


def test_hidden_states(config):
    model = SCINetForPrediction(config)
    outputs = model(series(config), output_hidden_states=True)
    levels = config.num_levels + 1
    assert len(outputs.hidden_states) == levels * config.num_stacks
    lengths = [config.context_length, config.concatenated_length]
    for index, state in enumerate(outputs.hidden_states):
        if state.requires_grad:  # not the series itself
            state.retain_grad()
        nodes = 2 ** (index % levels)
        assert state.shape == (2, nodes, lengths[index // levels] // nodes, 3)
    outputs.prediction_outputs.sum().backward()
    assert all(state.grad.any() for state in outputs.hidden_states if state.requires_grad)
    assert model(series(config)).hidden_states is None
    model.config.output_hidden_states = True
    assert model(series(config)).hidden_states is not None


def test_location_and_scale_of_the_window():
    model = make_model("two_stacks", use_positional_encoding=False)
    past_values = series(model.config)
    outputs = model(past_values)
    assert_close(outputs.loc, past_values.mean(1, keepdim=True))
    assert_close(outputs.scale, (past_values.var(1, correction=0, keepdim=True) + 1e-5).sqrt())
    other = make_model("one_stack")(past_values)
    assert other.loc is None
    assert other.scale is None


def test_missing_steps_take_the_last_observed_value(config):
    model, past_values = with_random_weights(SCINetForPrediction(config)), series(config)
    mask, filled = torch.ones_like(past_values), past_values.clone()
    mask[0, 3:5, 1], filled[0, 3:5, 1] = 0, past_values[0, 2, 1]
    missing = past_values.masked_fill(mask == 0, float("nan"))
    forecast = model(missing, past_observed_mask=mask).prediction_outputs
    assert_equal(forecast, model(filled).prediction_outputs)


def test_dropout_acts_in_training_only():
    model = make_model("one_stack")
    past_values = series(model.config)
    assert torch.equal(model(past_values).prediction_outputs, model(past_values).prediction_outputs)
    model.train()
    assert not torch.equal(model(past_values).prediction_outputs, model(past_values).prediction_outputs)


# Losses; those of the original's financial script are in the parity tests


def test_loss_of_one_and_two_stacks():
    for name, criterion in (("one_stack", "mae"), ("two_stacks", "mse"), ("single_step", "mse")):
        model = make_model(name, loss=criterion)
        past_values, targets = series(model.config), torch.randn(2, 4, 3)
        outputs = model(past_values, future_values=targets)
        mean = {"mae": lambda error: error.abs().mean(), "mse": lambda error: error.square().mean()}[criterion]
        expected = mean(outputs.prediction_outputs - targets[:, -outputs.prediction_outputs.shape[1] :])
        if outputs.intermediate_prediction_outputs is not None:
            expected = expected + mean(outputs.intermediate_prediction_outputs - targets)
        assert_close(outputs.loss, expected)


def test_loss_scale_puts_the_loss_into_units_of_the_data():
    model = make_model("two_stacks")
    past_values, targets, scale = series(model.config), torch.randn(2, 4, 3), torch.tensor([1.0, 10.0, 0.1])
    outputs = model(past_values, future_values=targets, loss_scale=scale)
    errors = (outputs.prediction_outputs - targets, outputs.intermediate_prediction_outputs - targets)
    assert_close(outputs.loss, sum((error * scale).abs().mean() for error in errors))
    by_row = model(past_values, future_values=targets, loss_scale=scale.expand(2, 3)).loss
    assert_close(by_row, outputs.loss)


def test_training_learns():
    config = make_config("one_stack", dropout=0.0)
    model = seeded(lambda: SCINetForPrediction(config)).train()
    steps = torch.arange(16)[:, None] * torch.tensor([0.5, 1.0, 1.5])
    windows = torch.sin(steps + torch.rand(16, 1, 1) * 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = model(windows[:, :12], future_values=windows[:, 12:]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# Wrong inputs


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"past_values": torch.zeros(2, 11, 3)}, ValueError, r"\(batch, 12, 3\).* got \(2, 11, 3\)"),
        ({"past_values": torch.zeros(2, 12, 4)}, ValueError, r"got \(2, 12, 4\)"),
        ({"past_values": torch.zeros(12, 3)}, ValueError, r"got \(12, 3\)"),
        ({"past_values": torch.zeros(0, 12, 3)}, ValueError, "at least one series"),
        ({"past_values": torch.zeros(2, 12, 3).long()}, TypeError, "floating-point"),
        ({"past_values": [[1.0]]}, TypeError, "floating-point"),
        ({"past_observed_mask": torch.ones(2, 12)}, ValueError, "`past_observed_mask` must have the shape"),
        ({"future_values": torch.zeros(2, 3, 3)}, ValueError, r"`future_values` must have shape \(2, 4, 3\)"),
        ({"future_values": [1.0]}, TypeError, "`future_values`"),
        ({"future_values": torch.zeros(2, 4, 3), "loss_scale": torch.ones(4)}, ValueError, "`loss_scale`"),
        ({"futures": torch.zeros(2, 4, 3)}, TypeError, r"Unknown arguments \['futures'\]"),
    ],
)
def test_wrong_inputs(arguments, error, message):
    with pytest.raises(error, match=message):
        make_model("one_stack")(**{"past_values": torch.zeros(2, 12, 3), **arguments})


# Use


def test_compiles_without_graph_breaks():
    model = make_model("two_stacks", num_levels=1)
    past_values, targets = series(model.config), torch.randn(2, 4, 3)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected, outputs = (each(past_values, future_values=targets) for each in (model, compiled))
    assert_close(outputs.prediction_outputs, expected.prediction_outputs)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(each.loss, parameters) for each in (expected, outputs)]
    assert_close(gradients[1], gradients[0])


class ForecastOnly(nn.Module):
    """A model that gives a tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, past_values):
        return self.model(past_values, return_dict=True).prediction_outputs


def test_onnx_with_another_batch_size(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_model("two_stacks")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks of the inputs' shapes are left out of the trace, on purpose
        torch.onnx.export(
            ForecastOnly(model).eval(),
            (series(model.config, 2),),
            tmp_path / "model.onnx",
            input_names=["past_values"],
            output_names=["prediction_outputs"],
            dynamic_axes={"past_values": {0: "batch"}, "prediction_outputs": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        for batch_size in (1, 5):
            past_values = series(model.config, batch_size)
            (forecast,) = session.run(None, {"past_values": past_values.numpy()})
            expected = model(past_values).prediction_outputs
            assert_close(torch.from_numpy(forecast), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pipeline(dtype):
    model = make_model("two_stacks").to(dtype)
    history = np.random.default_rng(0).normal(size=(80, 3)).cumsum(0)
    extractor = SCINetFeatureExtractor(12, 4).fit(history, 60)
    forecaster = pipeline("time-series-forecasting", model=model, feature_extractor=extractor)
    frame = forecaster(history, interval=0.8)
    scaled = extractor(history)["past_values"].to(dtype)
    expected = extractor.inverse_transform(model(scaled).prediction_outputs[0])
    np.testing.assert_allclose(frame[["0", "1", "2"]].to_numpy(), expected, rtol=1e-5, atol=1e-5)
    assert (frame["1_lower"] < frame["1_upper"]).all()
    backtest = forecaster.backtest(history)
    assert backtest.forecasts.shape == (80 - 16 + 1, 4, 3)
    assert copy.copy(backtest.report) == {"winner": "pretrained"}


def test_pipeline_refuses_a_model_of_the_last_step_only():
    sizes = {"context_length": 12, "prediction_length": 4, "num_stacks": 2, "num_levels": 2, "concat_length": 0}
    model = SCINetForPrediction(SCINetConfig(**sizes, single_step_output=True))
    with pytest.raises(ValueError, match="last step only"):
        pipeline("time-series-forecasting", model=model, feature_extractor=SCINetFeatureExtractor(12, 4))
