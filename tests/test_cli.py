"""The command `hvmodels`, run in this process by its entry point; one run as a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline
from transformers.utils import logging

from hvmodels import (
    METHODS,
    LTSFLinearConfig,
    LTSFLinearFeatureExtractor,
    LTSFLinearForPrediction,
    SCINetConfig,
    SCINetFeatureExtractor,
    SCINetForPrediction,
    cli,
    hub,
)
from hvmodels.datasets.forecasting import LongTermForecastingData
from hvmodels.metrics.forecasting import evaluate_forecaster


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; gives exit status, lines of stdout and lines of stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hvmodels", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main()
        captured = capsys.readouterr()
        return exit.value.code or 0, captured.out.splitlines(), captured.err.splitlines()

    verbosity = logging.get_verbosity()
    yield run
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


def monthly(num_rows=120, start="2015-01-01"):
    time = np.arange(num_rows)
    noise = np.random.default_rng(0).standard_normal((num_rows, 2))
    values = 100 + time[:, None] + 10 * np.sin(time * np.pi / 6)[:, None] + noise
    frame = pd.DataFrame(values, columns=["sales", "visits"])
    frame.insert(0, "date", pd.date_range(start, periods=num_rows, freq="MS"))
    return frame


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "sales.csv"
    monthly().to_csv(path, index=False)
    return path


def make_model(**options):
    torch.manual_seed(0)
    sizes = {"context_length": 12, "prediction_length": 4, "num_input_channels": 2}
    return LTSFLinearForPrediction(LTSFLinearConfig(variant="nlinear", **sizes, **options)).eval()


def save_model(folder, data=None, **options):
    make_model(**options).save_pretrained(folder)
    LTSFLinearFeatureExtractor(12, 4).fit(monthly() if data is None else data).save_pretrained(folder)
    return folder


def assert_error(result, *words):
    """Nothing on stdout, one line on stderr that begins with `error:` and has the words, status 2."""
    status, out, err = result
    assert (status, out, len(err)) == (2, [], 1), result
    assert err[0].startswith("error: ")
    assert [word for word in words if word not in err[0]] == [], err[0]


# list, info


def test_list(run):
    status, out, err = run("list")
    assert (status, err) == (0, [])
    assert [line.split()[0] for line in out] == list(METHODS)
    assert "DLinear" in out[0] and "[time-series-forecasting]" in out[0] and "arXiv 2205.13504" in out[0]


def test_info_of_a_method(run):
    status, out, err = run("info", "ltsf-linear")
    assert (status, err) == (0, [])
    assert "paper: https://arxiv.org/abs/2205.13504" in out
    assert "original code: https://github.com/cure-lab/LTSF-Linear" in out
    assert "pipeline: time-series-forecasting" in out
    assert "AutoModelForTimeSeriesPrediction: LTSFLinearForPrediction" in out
    assert "AutoFeatureExtractor: LTSFLinearFeatureExtractor" in out


def test_info_of_a_folder(run, tmp_path):
    status, out, err = run("info", save_model(tmp_path / "model"))
    assert (status, err) == (0, [])
    assert {"method: ltsf-linear", "variant: nlinear", "context_length: 12", "prediction_length: 4"} <= set(out)


def test_info_of_what_is_none(run, tmp_path):
    assert_error(run("info", tmp_path), "`target`", "'ltsf-linear'", "model folder")
    assert_error(run("info", "nobody/nothing"), "`target`", "nobody/nothing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert_error(run("info", tmp_path), "`model_type`", "'ltsf_linear'", "'bert'")
    (tmp_path / "config.json").write_text('{"model_type": "ltsf_linear", "context_length": "12"}')
    assert_error(run("info", tmp_path), "context_length", "int", "'12'")


# predict


def test_predict_embedded_example(run, tmp_path):
    status, out, err = run(
        "predict", "--output", tmp_path / "a" / "forecast.csv", "--plot", tmp_path / "b" / "plot.png"
    )
    assert (status, err) == (0, [])
    assert out[0].startswith("Embedded example: monthly airline passengers")
    assert any(line.startswith("Forecast by ") and "backtest windows" in line and "period 12" in line for line in out)
    assert out[-2:] == [f"Wrote {tmp_path / 'a' / 'forecast.csv'}", f"Wrote {tmp_path / 'b' / 'plot.png'}"]
    forecast = pd.read_csv(tmp_path / "a" / "forecast.csv", parse_dates=["date"])
    assert list(forecast.columns) == ["date", "passengers", "passengers_lower", "passengers_upper"]
    assert list(forecast["date"]) == list(pd.date_range("1961-01-01", periods=24, freq="MS"))
    assert (forecast["passengers_lower"] < forecast["passengers"]).all()
    assert (forecast["passengers"] < forecast["passengers_upper"]).all()
    assert (tmp_path / "b" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_predict_own_csv_equals_the_pipeline(run, csv, tmp_path):
    options = ["--prediction-length", 6, "--interval", 0.8, "--period", 12]
    status, out, _ = run("predict", csv, *options, "--output", tmp_path / "forecast.csv")
    assert status == 0
    assert not any("Embedded" in line for line in out)
    expected = pipeline("time-series-forecasting")(str(csv), prediction_length=6, interval=0.8, period=12)
    written = pd.read_csv(tmp_path / "forecast.csv", parse_dates=["date"])
    assert list(written.columns) == list(expected.columns)
    np.testing.assert_allclose(written.iloc[:, 1:], expected.iloc[:, 1:], rtol=1e-9)
    assert list(written["date"]) == list(pd.date_range("2025-01-01", periods=6, freq="MS"))


def test_predict_with_a_saved_model(run, csv, tmp_path):
    folder = save_model(tmp_path / "model")
    status, out, err = run("predict", csv, "--model", folder, "--output", tmp_path / "forecast.csv")
    assert (status, err) == (0, [])
    assert "Forecast by the pretrained model." in out
    expected = pipeline("time-series-forecasting", model=str(folder))(str(csv))
    written = pd.read_csv(tmp_path / "forecast.csv")
    np.testing.assert_allclose(written[["sales", "visits"]], expected[["sales", "visits"]], rtol=1e-9)
    assert len(written) == 4


def test_default_interval_is_left_out_where_the_history_is_short(run, tmp_path):
    monthly(30).to_csv(tmp_path / "short.csv", index=False)
    status, out, err = run("predict", tmp_path / "short.csv", "--output", tmp_path / "forecast.csv")
    assert (status, err) == (0, [])
    assert out[0].startswith("No intervals: ") and "got 30" in out[0]
    assert list(pd.read_csv(tmp_path / "forecast.csv").columns) == ["date", "sales", "visits"]
    assert_error(run("predict", tmp_path / "short.csv", "--interval", 0.8), "`interval`", "got 30")


def test_predict_missing_values(run, tmp_path):
    frame = monthly()
    frame.loc[50, "visits"] = np.nan
    frame.drop(index=[70, 71]).to_csv(tmp_path / "gaps.csv", index=False)
    options = ["--prediction-length", 3, "--output", tmp_path / "forecast.csv"]
    assert_error(run("predict", tmp_path / "gaps.csv", *options), "`data` lacks 2", "2020-11-01", "`missing_values=")
    assert not (tmp_path / "forecast.csv").exists()
    for policy in ("forward_fill", "interpolate"):
        plot = tmp_path / f"{policy}.svg"
        status, _, err = run("predict", tmp_path / "gaps.csv", *options, "--missing-values", policy, "--plot", plot)
        assert (status, err) == (0, [])
        assert not pd.read_csv(tmp_path / "forecast.csv").isna().any(axis=None)
        assert "<svg" in plot.read_text()
    assert_error(run("predict", tmp_path / "gaps.csv", "--missing-values", "drop"), "`missing_values`", "'drop'")


def test_predict_errors(run, csv, tmp_path):
    assert_error(run("predict", tmp_path / "absent.csv"), "`data`", "absent.csv", "does not exist")
    (tmp_path / "text.csv").write_text("city,country\nRome,Italy\nOslo,Norway\n")
    assert_error(run("predict", tmp_path / "text.csv"), "'city' of `data`", "dates")
    assert_error(run("predict", csv, "--interval", 1.5), "`interval`", "between 0 and 1")
    assert_error(run("predict", csv, "--prediction-length", 0), "`prediction_length`", "positive integer")
    assert_error(run("predict", csv, "--period", 500), "`period`", "120 rows")
    assert_error(run("predict", csv, "--model", tmp_path / "absent"), "absent")
    folder = save_model(tmp_path / "other", monthly().drop(columns="visits").assign(orders=1.0, visits=2.0))
    assert_error(run("predict", csv, "--model", folder), "`data` lacks the columns ['orders']")


@pytest.mark.parametrize(
    ("winner", "words"),
    [
        ("linear", ["the linear model fitted to this series", "31 backtest windows", "0.100 (linear)", "0.200 (sea"]),
        ("seasonal_naive", ["the seasonal-naive forecast", "period 12"]),
    ],
)
def test_report(winner, words):
    report = {"winner": winner, "linear_mae": 0.1, "seasonal_naive_mae": 0.2, "period": 12, "backtest_windows": 31}
    sentence = cli.describe_report(report)
    assert [word for word in words if word not in sentence] == []
    assert cli.describe_report({"winner": "pretrained"}) == "Forecast by the pretrained model."


# convert


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"Linear.weight": torch.randn(4, 12), "Linear.bias": torch.randn(4)}, path)
    return path


def test_convert(run, checkpoint, tmp_path):
    (tmp_path / "original.json").write_text('{"model": "NLinear", "enc_in": 2}')
    output = tmp_path / "output"
    result = run("convert", "ltsf-linear", checkpoint, output, "--original-config", tmp_path / "original.json")
    assert result == (0, [f"Wrote {output}"], [])
    model, processor = hub.load_folder(output)
    assert (model.config.variant, model.config.num_input_channels) == ("nlinear", 2)
    assert torch.equal(model.model.linear.weight, torch.load(checkpoint)["Linear.weight"])
    assert processor.context_length == 12


def test_convert_errors_leave_nothing(run, checkpoint, tmp_path):
    output = tmp_path / "output"
    assert_error(run("convert", "ltsf-linear", checkpoint, output), "`original_config`", "`model`")
    assert_error(run("convert", "dlinear", checkpoint, output), "`method`", "'ltsf-linear'")
    assert_error(run("convert", "ltsf-linear", tmp_path / "absent.pth", output), "`checkpoint`", "absent.pth")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert_error(run("convert", "ltsf-linear", checkpoint, output), "`checkpoint`", "cannot be read")
    torch.save(torch.nn.Linear(2, 2), checkpoint)
    assert_error(run("convert", "ltsf-linear", checkpoint, output), "`checkpoint`", "more than weights")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pth"}


# evaluate


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluate(split, run, csv, tmp_path):
    folder = save_model(tmp_path / "model")
    status, out, err = run("evaluate", folder, csv, "--split", split)
    assert (status, err) == (0, [])
    model, _ = hub.load_folder(folder)
    windows = getattr(LongTermForecastingData(csv, 12, 4), split)
    expected = evaluate_forecaster(lambda past_values: model(past_values).prediction_outputs, windows)
    assert json.loads("\n".join(out)) == pytest.approx(expected)
    assert expected["num_windows"] == {"train": 84 - 15, "validation": 12 - 3, "test": 24 - 3}[split]


def test_evaluate_scinet(run, csv, tmp_path):
    config = SCINetConfig(context_length=12, prediction_length=4, num_input_channels=2, num_levels=2)
    model = SCINetForPrediction(config).eval()
    model.save_pretrained(tmp_path / "model")
    SCINetFeatureExtractor(12, 4).save_pretrained(tmp_path / "model")
    status, out, err = run("evaluate", tmp_path / "model", csv)
    assert (status, err) == (0, [])
    windows = LongTermForecastingData(csv, 12, 4).test
    expected = evaluate_forecaster(lambda past_values: model(past_values).prediction_outputs, windows)
    assert json.loads("\n".join(out)) == pytest.approx(expected)
    assert_error(run("evaluate", tmp_path / "model", csv, "--features", "MS"), "`features` MS", "every channel")


def test_evaluate_features_and_drop_last(run, csv, tmp_path):
    def evaluate(folder, *options):
        return json.loads("\n".join(run("evaluate", folder, csv, *options)[1]))

    all_channels = save_model(tmp_path / "all")
    last_channel = save_model(tmp_path / "last", prediction_channel_indices=[-1])  # the same weights
    every, dropped = evaluate(all_channels), evaluate(all_channels, "--drop-last", 8)
    assert (every["num_windows"], dropped["num_windows"]) == (21, 16)
    sales = evaluate(all_channels, "--features", "S", "--target", "sales")
    visits = evaluate(all_channels, "--features", "S")
    assert sales["mae"] != visits["mae"]
    assert every["mae"] == pytest.approx((sales["mae"] + visits["mae"]) / 2)
    assert evaluate(last_channel, "--features", "MS") == pytest.approx(visits)


def test_evaluate_errors(run, csv, tmp_path):
    folder = save_model(tmp_path / "model")
    assert_error(run("evaluate", tmp_path / "absent", csv), "`folder`", "absent")
    assert_error(run("evaluate", folder, tmp_path / "absent.csv"), "absent.csv", "does not exist")
    assert_error(run("evaluate", folder, csv, "--split", "valid"), "`split`", "validation", "'valid'")
    assert_error(run("evaluate", folder, csv, "--features", "X"), "`features`", "'MS'")
    assert_error(run("evaluate", folder, csv, "--features", "S", "--target", "OT"), "`target`", "'OT'")
    assert_error(run("evaluate", folder, csv, "--features", "MS"), "`features`", "`prediction_channel_indices`")
    monthly(30).to_csv(tmp_path / "short.csv", index=False)
    assert_error(run("evaluate", folder, tmp_path / "short.csv"), "= 16 rows, got 15")
    status, _, err = run("evaluate", folder, csv, "--drop-last", 0)
    assert status == 2 and any("--drop-last" in line for line in err)


# push


def test_push(run, tmp_path, monkeypatch):
    calls = []

    def publish(model, processor, repo_id, **options):
        calls.append((type(model), processor.context_length, repo_id, options))
        return "https://the.hub/commit/1"

    monkeypatch.setattr(hub, "publish", publish)
    folder = save_model(tmp_path / "model")
    assert run("push", folder, "org/name") == (0, ["https://the.hub/commit/1"], [])
    card = tmp_path / "card.md"
    result = run("push", folder, "org/name", "--card", card, "--private", "--tag", "v1.0")
    assert result == (0, ["https://the.hub/commit/1"], [])
    assert calls == [
        (LTSFLinearForPrediction, 12, "org/name", {"card": None, "private": False, "tag": None}),
        (LTSFLinearForPrediction, 12, "org/name", {"card": card, "private": True, "tag": "v1.0"}),
    ]


def test_push_errors(run, tmp_path):
    assert_error(run("push", tmp_path, "org/name"), "`folder`", "model saved by hvmodels")
    folder = save_model(tmp_path / "model")
    assert_error(run("push", folder, "a/b/c"), "`repo_id`", "'a/b/c'")
    assert_error(run("push", folder, "org/name", "--card", tmp_path / "absent.md"), "absent.md")


# The command as such


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["convert", "ltsf-linear"], ["predict", "--unknown"], ["predict", "--interval", "wide"]]
)
def test_usage_errors(arguments, run):
    status, out, err = run(*arguments)
    assert (status, out) == (2, [])
    assert any("Usage" in line for line in err)
    assert not any("Traceback" in line for line in err)


def test_help_names_every_command(run):
    status, out, _ = run("--help")
    assert status == 0
    for command in ("list", "info", "predict", "convert", "evaluate", "push"):
        assert any(command in line.split() for line in out)


def test_in_a_process_of_its_own(checkpoint, tmp_path):
    """As users run it, with nothing but the errors on stderr."""
    (tmp_path / "original.json").write_text('{"model": "Linear"}')
    convert = ["convert", "ltsf-linear", "checkpoint.pth", "output", "--original-config", "original.json"]
    code = """
import sys
from hvmodels.cli import main
for command in COMMANDS:
    sys.argv = ["hvmodels", *command]
    try:
        main()
    except SystemExit as exit:
        print("status", exit.code)
"""
    code = code.replace("COMMANDS", repr([["list"], convert, convert]))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    listed, out = lines[: len(METHODS)], lines[len(METHODS) :]
    assert [line.split()[0] for line in listed] == list(METHODS)
    assert out == ["status 0", f"Wrote {Path('output')}", "status 0", "status 2"]
    assert process.stderr.startswith("error: `output_dir` 'output' must be absent or an empty folder")
    assert process.stderr.count("\n") == 1
    assert (tmp_path / "output" / "model.safetensors").is_file()
