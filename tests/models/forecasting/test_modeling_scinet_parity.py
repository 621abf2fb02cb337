"""SCINet against values of the original code; `tests/fixtures/scinet/README.md` says how they were made."""

import copy
import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import AutoModelForTimeSeriesPrediction

from hvmodels import SCINetConfig, SCINetForPrediction
from hvmodels.conversion import convert_checkpoint, read_checkpoint
from hvmodels.conversion.scinet import convert_state_dict, to_original
from hvmodels.datasets.forecasting import LongTermForecastingData, collate_windows
from hvmodels.datasets.forecasting_protocols import FinancialForecastingData
from hvmodels.metrics.forecasting import FinancialMetrics, evaluate_forecaster
from hvmodels.models.forecasting.modeling_scinet import positional_encoding
from tests.modeling_checks import assert_equal


FIXTURES = Path(__file__).parents[2] / "fixtures" / "scinet"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/checkpoint.pth"))
# Suggested by the fixtures' authors, for values up to 25.
TOLERANCES = {torch.float32: {"atol": 2e-5, "rtol": 1e-6}, torch.float64: {"atol": 1e-10, "rtol": 1e-12}}
GRADIENT_TOLERANCE = {"atol": 1e-6, "rtol": 1e-4}


def read_case(folder):
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")


def convert(folder, output_dir):
    convert_checkpoint("scinet", folder / "checkpoint.pth", output_dir, original_config=folder / "config.json")
    return AutoModelForTimeSeriesPrediction.from_pretrained(output_dir).eval()


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Options, reference tensors and converted model of a synthetic case."""
    options, reference = read_case(FIXTURES / request.param)
    return options, reference, convert(FIXTURES / request.param, tmp_path_factory.mktemp("model") / request.param)


def run(model, reference, **options):
    return model(reference["input.past_values"], future_values=reference["input.future_values"], **options)


def original_gradients(model):
    """Gradients by the original's names."""
    holder = copy.deepcopy(model)
    holder.load_state_dict({name: parameter.grad for name, parameter in model.named_parameters()})
    gradients = to_original(holder)
    del gradients["inv_timescales"]
    return gradients


def test_every_case_is_there():
    assert len(CASES) == 5


def test_configuration(case):
    options, _, model = case
    config = model.config
    assert isinstance(model, SCINetForPrediction)
    expected = {
        "context_length": options["input_len"],
        "prediction_length": options["output_len"],
        "num_input_channels": options["input_dim"],
        "hidden_ratio": options["hid_size"],
        "num_stacks": options["num_stacks"],
        "num_levels": options["num_levels"],
        "num_decoder_layers": options.get("num_decoder_layer", 1),
        "groups": options["groups"],
        "kernel_size": options["kernel"],
        "dropout": options["dropout"],
        "use_positional_encoding": options["positionalE"],
        "use_reversible_instance_norm": options["RIN"],
        "decompose": options["model"] == "SCINet_decompose",
        "loss": options["loss"],
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.concat_length or 0) == options["concat_len"]
    assert model.dtype == getattr(torch, options["dtype"])


def test_weights_there_and_back(case, request):
    _, _, model = case
    checkpoint = read_checkpoint(FIXTURES / request.node.callspec.params["case"] / "checkpoint.pth")
    back = to_original(model)
    assert list(back) == list(checkpoint)
    assert_equal(back, checkpoint)


def test_forward(case):
    options, reference, model = case
    past_values = reference["input.past_values"].clone()
    with torch.no_grad():
        outputs = run(model, {**reference, "input.past_values": past_values})
    tolerance = TOLERANCES[model.dtype]
    assert torch.equal(past_values, reference["input.past_values"])  # the original writes into it
    assert_close(outputs.prediction_outputs, reference["output.prediction"], **tolerance)
    assert_close(outputs.loss, reference["output.loss.total"], **tolerance)
    if options["num_stacks"] == 1:
        assert outputs.intermediate_prediction_outputs is None
    else:
        intermediate = outputs.intermediate_prediction_outputs
        assert_close(intermediate, reference["output.intermediate_prediction"], **tolerance)


@pytest.mark.parametrize("case", ["ett_stack1", "decompose_stack1_rin"], indirect=True)
def test_float32(case):
    _, reference, model = case
    with torch.no_grad():
        prediction = copy.deepcopy(model).float()(reference["input.past_values"]).prediction_outputs
    assert_close(prediction, reference["output.prediction_float32"], **TOLERANCES[torch.float32])


@pytest.mark.parametrize("case", ["ett_stack1", "pems_pe_decoder2", "stack2_rin"], indirect=True)
def test_intermediate_values(case):
    options, reference, model = case
    tolerance = TOLERANCES[model.dtype]
    with torch.no_grad():
        outputs = model.model(reference["input.past_values"], output_hidden_states=True)
    states, levels = outputs.hidden_states, options["num_levels"]
    assert len(states) == options["num_stacks"] * (levels + 1)
    assert_close(states[1][:, 0], reference["intermediate.blocks1.root_level.even"], **tolerance)
    assert_close(states[1][:, 1], reference["intermediate.blocks1.root_level.odd"], **tolerance)
    tree = outputs.last_hidden_state - states[-levels - 1][:, 0]
    assert_close(tree, reference[f"intermediate.blocks{options['num_stacks']}"], **tolerance)
    if options["positionalE"]:
        channels, expected = options["input_dim"], reference["intermediate.position_encoding"][0]
        encoding = positional_encoding(options["input_len"], channels, torch.float32, torch.device("cpu"))
        assert_close(encoding, expected[:, :channels], **tolerance)


def test_gradients(case):
    options, reference, converted = case
    model = copy.deepcopy(converted)
    run(model, reference).loss.backward()
    gradients = original_gradients(model)
    assert gradients.keys() == options["grad_norms"].keys()
    for name, norm in options["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-7), name
    selection = [name.removeprefix("grad.") for name in reference if name.startswith("grad.")]
    assert selection
    for name in selection:
        assert_close(gradients[name], reference[f"grad.{name}"], **GRADIENT_TOLERANCE)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_forward_after_a_step(case, optimizer):
    options, reference, converted = case
    model = copy.deepcopy(converted)
    run(model, reference).loss.backward()
    if optimizer == "sgd":
        torch.optim.SGD(model.parameters(), lr=0.05).step()
        tolerance = TOLERANCES[model.dtype]
    else:
        torch.optim.Adam(model.parameters(), lr=options["lr"], weight_decay=options["weight_decay"]).step()
        tolerance = {"atol": 5e-3, "rtol": 1e-6}
    with torch.no_grad():
        prediction = run(model, reference).prediction_outputs
    assert_close(prediction, reference[f"output.prediction_after_{optimizer}"], **tolerance)
    assert (prediction - reference["output.prediction"]).abs().max() > 1e-2


# Every branch of the financial script's loss


@pytest.mark.parametrize("scaled", [True, False], ids=["normalize2", "normalize3"])
@pytest.mark.parametrize(
    ("branch", "options"),
    [
        ("single_step", {"last_step_only": True}),
        ("multi_step.lastWeight1.0", {}),
        ("multi_step.lastWeight0.5", {"last_step_weight": 0.5}),
    ],
)
def test_financial_losses(branch, options, scaled):
    _, reference = read_case(FIXTURES / "losses_financial")
    prediction, intermediate, target = (reference[f"input.{name}"] for name in ("forecast", "mid", "target"))
    config = SCINetConfig(
        context_length=8,
        prediction_length=prediction.shape[1],
        num_input_channels=prediction.shape[2],
        num_stacks=2,
        num_levels=2,
        loss="smooth_l1",
        **options,
    )
    model, scale = SCINetForPrediction(config), reference["input.scale"] if scaled else None
    name = f"output.normalize{2 if scaled else 3}.{branch}"
    final, total = (model._loss(prediction, other, target, scale) for other in (None, intermediate))
    assert_close(final, reference[f"{name}.final"][0], atol=1e-6, rtol=1e-5)
    assert_close(total - final, reference[f"{name}.mid"][0], atol=1e-6, rtol=1e-5)


# All published settings


VARIANTS = json.loads((FIXTURES / "variants.json").read_text())


@pytest.fixture(scope="module")
def keys():
    return json.loads(gzip.decompress((FIXTURES / "keys.json.gz").read_bytes()))


def test_every_setting_is_there(keys):
    assert len(VARIANTS) == len(keys) == 62
    assert {variant["variant"] for variant in VARIANTS} == keys.keys()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant["variant"])
def test_keys_of_published_settings(variant, keys):
    shapes = keys[variant["variant"]]
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert len(weights) == variant["num_entries"]
    config, state_dict = convert_state_dict(weights, variant)
    expected = {
        "context_length": variant["input_len"],
        "prediction_length": variant["output_len"],
        "num_input_channels": variant["input_dim"],
        "hidden_ratio": variant["hid_size"],
        "num_stacks": variant["num_stacks"],
        "num_levels": variant["num_levels"],
        "num_decoder_layers": variant["num_decoder_layer"],
        "groups": variant["groups"],
        "kernel_size": variant["kernel"],
        "dropout": variant["dropout"],
        "use_positional_encoding": variant["positionalE"],
        "last_step_weight": variant.get("lastWeight", 1.0),
        "last_step_only": bool(variant.get("single_step", 0)),
    }
    assert {name: getattr(config, name) for name in expected} == expected
    if config.num_stacks == 2:
        assert (config.concat_length or 0) == variant["concat_len"]
    with torch.device("meta"):
        model = SCINetForPrediction(config)
    assert {name: tensor.shape for name, tensor in state_dict.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert model.num_parameters() == variant["num_parameters"]
    back = to_original(model)
    assert {name: list(tensor.shape) for name, tensor in back.items()} == shapes


# Models that the original trained, on the data they were trained for


def find_trained(shared_data, name, data):
    folder = shared_data / "parity" / "scinet" / name
    file = shared_data / "data" / "long_term_forecasting" / data
    for path in (folder, file):
        if not path.exists():
            pytest.skip(f"needs {path.relative_to(shared_data.parent)}")
    return folder, *read_case(folder), file


def test_trained_on_etth1(shared_data, tmp_path):
    folder, options, reference, csv = find_trained(shared_data, "trained_etth1_m24", "ETTh1.csv")
    model = convert(folder, tmp_path / "model")
    assert model.dtype == torch.float64
    data = LongTermForecastingData.from_benchmark(csv, options["input_len"], options["output_len"])

    def forecast(past_values):
        return model(past_values).prediction_outputs

    with torch.no_grad():
        for suffix in ("", "_last"):
            expected = reference[f"output.prediction{suffix}"]
            assert_close(forecast(reference[f"input.past_values{suffix}"]), expected, **TOLERANCES[torch.float64])
    expected = options["expected_test_metrics"]
    metrics = evaluate_forecaster(forecast, data.test)
    assert metrics["num_windows"] == expected["num_windows"]
    dropped = evaluate_forecaster(
        forecast, data.test, drop_last_batch_size=expected["original_loader_drop_last"]["batch_size"]
    )
    for found, wanted in ((metrics, expected["all_windows"]), (dropped, expected["original_loader_drop_last"])):
        for name in ("mse", "mae", "rmse", "corr"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-6), name
        assert found["mape"] == pytest.approx(
            wanted["mape"], rel=1e-5
        )  # windows are float32, and targets may be near 0


def test_trained_on_exchange_rates(shared_data, tmp_path):
    folder, options, reference, file = find_trained(shared_data, "trained_exchange_h3", "exchange_rate.txt.gz")
    model = convert(folder, tmp_path / "model")
    assert model.config.loss == "smooth_l1"
    assert model.config.last_step_weight == 0.5
    data = FinancialForecastingData(file, options["window_size"], options["horizon"])
    with torch.no_grad():
        prediction = model(reference["input.past_values"]).prediction_outputs
    assert_close(prediction, reference["output.prediction"], **TOLERANCES[torch.float32])
    scale = data.feature_extractor.scale
    for windows, split in ((data.validation, "valid"), (data.test, "test")):
        metrics = FinancialMetrics(scale, data.rse_denominator, data.rae_denominator)
        for batch in DataLoader(windows, 512, collate_fn=collate_windows):
            with torch.no_grad():
                metrics.update(model(batch["past_values"]).prediction_outputs, batch["future_values"])
        found = metrics.compute()
        for name, expected in options["expected_metrics"][split].items():
            assert found[name] == pytest.approx(expected, rel=1e-4), (split, name)
