"""Checkpoints of SCINet: what tensors do not tell, and files that do not fit. Values are in the parity tests."""

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

from hvmodels import SCINetConfig, SCINetFeatureExtractor, SCINetForPrediction
from hvmodels.conversion import convert_checkpoint
from hvmodels.conversion.scinet import convert_state_dict, to_original
from tests.modeling_checks import assert_equal, with_random_weights


SIZES = {"context_length": 12, "prediction_length": 4, "num_input_channels": 3, "hidden_ratio": 2, "num_levels": 2}
ETT_FOLDER = "SCINet_ETTh1_ftM_sl12_ll4_pl4_lr0.003_bs8_hid2.0_s1_l2_dp0.25_invFalse_itr0"


def make_model(**options):
    return with_random_weights(SCINetForPrediction(SCINetConfig(**{**SIZES, **options})))


@pytest.fixture
def weights():
    return to_original(make_model())


@pytest.mark.parametrize(
    ("folder", "file", "expected"),
    [
        (ETT_FOLDER, "checkpoint.pth", {"dropout": 0.25, "use_positional_encoding": False, "loss": "mae"}),
        (ETT_FOLDER, "ETTh124.bin", {"dropout": 0.25}),
        ("checkpoints", "PEMS0812.bin", {"dropout": 0.5, "use_positional_encoding": True, "loss": "mae"}),
        ("checkpoints", "PEMS0412.bin", {"dropout": 0.0, "use_positional_encoding": True}),
        ("run", "exchange_rate24.bin", {"dropout": 0.5, "use_positional_encoding": False, "loss": "smooth_l1"}),
        ("run", "exchange_rate96.bin", {"dropout": 0.0, "loss": "smooth_l1"}),
        ("run", "traffic24.bin", {"dropout": 0.5}),
        ("run", "traffic96.bin", {"dropout": 0.25}),
        ("run", "solar_AL3.bin", {"dropout": 0.25}),
        ("run", "model.bin", {"dropout": 0.5, "use_positional_encoding": False, "loss": "mae"}),
    ],
)
def test_names_of_files_tell_the_published_setting(weights, folder, file, expected, tmp_path):
    config, _ = convert_state_dict(weights, {}, tmp_path / folder / file)
    assert {name: getattr(config, name) for name in expected} == expected


def test_options_win_over_names(weights, tmp_path):
    options = {"dropout": 0.1, "positionalEcoding": False, "loss": "mse", "lastWeight": 0.5, "single_step": 1}
    config, _ = convert_state_dict(weights, {"args": options}, tmp_path / "PEMS0812.bin")
    assert (config.dropout, config.use_positional_encoding, config.loss) == (0.1, False, "mse")
    assert (config.last_step_weight, config.last_step_only) == (0.5, True)


@pytest.mark.parametrize("layout", ["bare", "wrapped", "parallel"])
def test_layouts(weights, layout, tmp_path):
    content = {f"module.{name}": tensor for name, tensor in weights.items()} if layout == "parallel" else weights
    content = {"epoch": 3, "lr": 0.001, "model": content} if layout == "wrapped" else content
    torch.save(content, tmp_path / "checkpoint.pth")
    convert_checkpoint("scinet", tmp_path / "checkpoint.pth", tmp_path / "converted")
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "converted")
    assert_equal(to_original(model), weights)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert type(extractor) is SCINetFeatureExtractor
    assert (extractor.context_length, extractor.prediction_length) == (12, 4)
    with pytest.raises(ValueError, match="`fit"):
        extractor([[1.0, 2.0, 3.0]] * 12)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_ratio": 0.4, "num_input_channels": 7},
        {"kernel_size": 4, "groups": 3},
        {"num_stacks": 2, "single_step_output": True},
        {"num_stacks": 2, "concat_length": 8, "num_decoder_layers": 3, "use_reversible_instance_norm": True},
        {"decompose": True, "use_reversible_instance_norm": True, "num_stacks": 2},
        {"num_levels": 1, "num_input_channels": 1},
    ],
    ids=str,
)
def test_there_and_back(options):
    model = make_model(**options)
    config, state_dict = convert_state_dict(to_original(model), {})
    assert_equal(state_dict, dict(model.state_dict()))
    for name in SIZES.keys() | options.keys() - {"hidden_ratio"}:
        if name != "hidden_ratio":
            assert getattr(config, name) == getattr(model.config, name), name
    assert config.hidden_channels == model.config.hidden_channels


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


BIAS = "blocks1.SCINet_Tree.SCINet_Tree_odd.workingblock.interact.level.U.4.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: without(weights, BIAS), r"weights \['blocks1.*U\.4\.bias'\] are missing"),
        (lambda weights: {**weights, "extra": torch.ones(1)}, r"\['extra'\] have no place"),
        (lambda weights: {**weights, BIAS: torch.ones(4)}, r"has the shape \(4,\).* ask for \(3,\)"),
        (lambda weights: {**weights, BIAS: torch.ones(3).double()}, "same floating-point dtype"),
        (lambda weights: without(weights, "projection1.weight"), "'projection1.weight'"),
        (lambda weights: {**weights, "projection1.weight": torch.ones(4, 13, 1)}, "sizes that do not fit each other"),
        (lambda weights: {"enc_embedding.weight": torch.ones(3)}, "must be of cure-lab/SCINet.* Time-Series-Library"),
    ],
    ids=["missing", "surplus", "shape", "dtype", "no_decoder", "length", "port"],
)
def test_checkpoints_that_do_not_fit(weights, change, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict(change(weights), {})


@pytest.mark.parametrize("options", [{"dropout": "0.5"}, {"lastWeight": None}, {"loss": 3}], ids=str)
def test_options_that_do_not_fit(weights, options):
    with pytest.raises(ValueError, match=f"`original_config`: `{next(iter(options))}`"):
        convert_state_dict(weights, options)
