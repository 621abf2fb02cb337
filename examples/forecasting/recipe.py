"""A training run of a forecaster: its settings, the data and model they describe, and the test that ends it."""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, PartialState
from original_draws import OriginalShuffle
from torch.utils.data import Sampler
from transformers import HfArgumentParser, PreTrainedConfig, PreTrainedModel

from hvmodels.datasets.forecasting import BENCHMARKS, ForecastingWindows, LongTermForecastingData
from hvmodels.datasets.forecasting_protocols import FinancialForecastingData, PemsForecastingData
from hvmodels.metrics.forecasting import FinancialMetrics, ForecastingMetrics, pems_metrics
from hvmodels.models.forecasting import (
    LTSFLinearConfig,
    LTSFLinearFeatureExtractor,
    LTSFLinearForPrediction,
    SCINetConfig,
    SCINetFeatureExtractor,
    SCINetForPrediction,
)


ForecastingData = LongTermForecastingData | FinancialForecastingData | PemsForecastingData


# First epoch and factor of each stretch, last one first.
SOLAR_SCHEDULE = ((70, 0.01), (40, 0.1), (30, 0.5), (20, 1.0), (10, 10.0), (5, 5.0), (0, 1.0))

# Windows held at a time while validating and testing: this many numbers, but no fewer windows than the minimum.
EVALUATION_SIZE, MIN_EVALUATION_WINDOWS = 2**18, 32


def option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class Recipe:
    """Settings of one run; each is a key of a recipe file and a command-line option, which wins."""

    data: str | None = option(None, "CSV file, one row a time step; the first text column holds the dates.")
    dataset: str | None = option(None, "Published data set whose split is used, e.g. ETTh1; none for your own data.")
    split: list[float] = field(
        default_factory=lambda: [0.7, 0.1, 0.2],
        metadata={"help": "Fractions of training, validation and test rows of your own data."},
    )
    features: Literal["M", "S", "MS"] = option("M", "All columns, only the target, or all columns to the last one.")
    target: str | None = option(None, "Column of `features` S, by default the last one.")
    missing_values: Literal["raise", "forward_fill", "interpolate"] = option(
        "raise", "What to do with missing values."
    )
    protocol: Literal["ltsf", "financial", "pems"] = option("ltsf", "How the data are cut, scaled and tested.")
    normalization: Literal["max_abs", "standard"] = option("max_abs", "Scaling of the financial protocol.")
    paper_protocol: bool = option(
        False, "Financial and PEMS: scale by test rows too, as the published tables; else by the training rows."
    )
    variant: Literal["linear", "nlinear", "dlinear", "scinet"] = option("dlinear", "Model.")
    individual: bool = option(False, "One map for each channel (the paper's -I variants).")
    context_length: int = option(336, "Past steps the model reads.")
    prediction_length: int = option(96, "Future steps it predicts.")
    moving_average_kernel_size: int = option(25, "Odd window of DLinear's moving average.")
    weight_init: Literal["default", "average"] = option("default", "Uniform, or 1/context_length (first DLinear).")
    hidden_ratio: float = option(1, "SCINet: channels inside a branch for each input channel.")
    num_stacks: int = option(1, "SCINet: trees, 1 or 2.")
    num_levels: int = option(3, "SCINet: levels of a tree.")
    kernel_size: int = option(5, "SCINet: steps of a branch's first convolution.")
    groups: int = option(1, "SCINet: groups of channels that are kept apart.")
    dropout: float = option(0.5, "SCINet: probability of a hidden value to be dropped.")
    num_decoder_layers: int = option(1, "SCINet: layers of the first decoder.")
    concat_length: int | None = option(None, "SCINet: past steps that the second tree reads, by default all.")
    use_positional_encoding: bool = option(False, "SCINet: add sines and cosines of time.")
    use_reversible_instance_norm: bool = option(False, "SCINet: standardise each window by itself (RIN).")
    loss: Literal["mae", "mse", "smooth_l1"] = option("mae", "SCINet: loss; the linear models have mse.")
    last_step_weight: float = option(1.0, "SCINet: weight of the last step in the loss.")
    last_step_only: bool = option(False, "SCINet: train the forecast by its last step only.")
    loss_in_units: bool = option(False, "SCINet: take the loss in the data's units.")
    double_precision: bool = option(False, "Train in float64 (`protocol` ltsf).")
    selection: Literal["loss", "last_step", "mse", "mae"] = option(
        "loss",
        "Validation error that picks the best epoch: the loss, the error of the last step relative to its spread "
        "(financial), the mean squared error, or the mean absolute error in the data's units.",
    )
    batch_size: int = option(32, "Windows a step, over all processes together.")
    learning_rate: float = option(1e-3, "Of Adam.")
    weight_decay: float = option(0.0, "Of Adam.")
    schedule: Literal["halve", "decay", "solar"] = option(
        "halve",
        "Learning rate: halved after each epoch from the second on; times 0.95 after each epoch; or raised tenfold over "
        "ten epochs and lowered later.",
    )
    epochs: int = option(10, "At most this many passes over the training windows.")
    patience: int = option(3, "Stop after this many epochs without a better validation error.")
    seed: int = option(2021, "Of weights, shuffles and dropout.")
    original_draws: bool = option(
        False, "SCINet: draw shuffles and dropout as its original code does from the same seed, see original_draws.py."
    )

    def __post_init__(self):
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if self.dataset is not None and self.dataset not in BENCHMARKS:
            raise ValueError(f"`dataset` must be one of {sorted(BENCHMARKS)}, got {self.dataset!r}.")
        if self.variant != "scinet" and (self.protocol != "ltsf" or self.loss_in_units):
            raise ValueError(
                "`protocol` and `loss_in_units` are for `variant` scinet; the linear models have ltsf only."
            )
        if self.features == "MS" and self.variant == "scinet":
            raise ValueError("`features` MS is not for scinet, which predicts all columns; choose M or S.")
        if self.features != "M" and self.protocol != "ltsf":
            raise ValueError(f"`features` must be M with `protocol` {self.protocol}, got {self.features}.")
        if self.selection == "last_step" and self.protocol != "financial":
            raise ValueError("`selection` last_step needs `protocol` financial.")
        if self.original_draws and (self.variant != "scinet" or self.protocol == "pems"):
            raise ValueError("`original_draws` is for `variant` scinet with `protocol` ltsf or financial.")
        if self.variant != "scinet":
            self.model_config(num_input_channels=1)

    def model_config(self, num_input_channels: int) -> PreTrainedConfig:
        if self.variant == "scinet":
            names = {entry.name for entry in fields(SCINetConfig)} & {entry.name for entry in fields(self)}
            return SCINetConfig(num_input_channels=num_input_channels, **{name: getattr(self, name) for name in names})
        return LTSFLinearConfig(
            variant=self.variant,
            context_length=self.context_length,
            prediction_length=self.prediction_length,
            num_input_channels=num_input_channels,
            individual=self.individual,
            moving_average_kernel_size=self.moving_average_kernel_size,
            weight_init=self.weight_init,
            prediction_channel_indices=[-1] if self.features == "MS" else None,
        )

    def load_data(self) -> ForecastingData:
        if self.data is None:
            raise ValueError("`data` must name a CSV file: `--data my.csv`.")
        lengths = (self.context_length, self.prediction_length)
        options = {
            "missing_values": self.missing_values,
            "feature_extractor_class": SCINetFeatureExtractor
            if self.variant == "scinet"
            else LTSFLinearFeatureExtractor,
        }
        if self.protocol == "financial":
            data = FinancialForecastingData(
                self.data,
                *lengths,
                normalization=self.normalization,
                statistics="all" if self.paper_protocol else "train",
                split=tuple(self.split),
                **options,
            )
        elif self.protocol == "pems":
            data = PemsForecastingData(
                self.data, *lengths, statistics="split" if self.paper_protocol else "train", **options
            )
        else:
            dtype = torch.float64 if self.double_precision else torch.float32
            options |= {"features": self.features, "target": self.target, "dtype": dtype}
            if self.dataset is None:
                data = LongTermForecastingData(self.data, *lengths, split=tuple(self.split), **options)
            else:
                data = LongTermForecastingData.from_benchmark(self.data, *lengths, name=self.dataset, **options)
        data.feature_extractor.missing_values = self.missing_values
        if data.validation is None or data.test is None:
            raise ValueError(f"`split` must leave validation and test rows, got {self.split}.")
        if len(data.train) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training windows, {len(data.train)}, "
                f"got {self.batch_size}."
            )
        self.model_config(len(data.series.columns))
        return data

    @property
    def keeps_partial_batch(self) -> bool:
        """Whether the last windows of a shuffle make a smaller batch, as the original's financial code has it."""
        return self.original_draws and self.protocol == "financial"

    def build_model(self, data: ForecastingData) -> tuple[PreTrainedModel, "EpochShuffle | OriginalShuffle"]:
        """The model and the order of its training windows; those of linear models as the original draws them."""
        torch.manual_seed(self.seed)
        config = self.model_config(len(data.series.columns))
        model = (SCINetForPrediction if self.variant == "scinet" else LTSFLinearForPrediction)(config)
        if self.variant == "dlinear" and self.weight_init == "average":
            # The first release drew a third layer, which it never used.
            torch.empty(self.prediction_length, self.context_length + 1).uniform_()
        model = model.double() if self.double_precision else model
        if self.original_draws:
            validation_windows = None if self.protocol == "financial" else len(data.validation)
            return model, OriginalShuffle(model, len(data.train), validation_windows, self.batch_size)
        return model, EpochShuffle(len(data.train), self.epochs)

    def build_optimizer(self, model: PreTrainedModel) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def learning_rate_factor(self, epoch: int) -> float:
        """Factor of the learning rate; epochs count from 0."""
        if self.schedule == "decay":
            return 0.95**epoch
        if self.schedule == "solar":
            return next(factor for start, factor in SOLAR_SCHEDULE if epoch >= start)
        return 0.5 ** max(epoch - 1, 0)

    def loss_arguments(self, data: ForecastingData) -> dict[str, torch.Tensor]:
        """What the model gets besides a batch to compute its loss."""
        return {"loss_scale": torch.tensor(data.feature_extractor.scale)} if self.loss_in_units else {}


class EpochShuffle(Sampler):
    """Order of the training windows in each epoch, drawn once: a resumed run needs no random state.

    The LTSF-Linear code draws five seeds an epoch (a loader's base seed and a shuffle for training and for validation, a
    base seed for the test); the second is the training shuffle's. The first, free here, is that of dropout.
    """

    def __init__(self, num_windows: int, epochs: int):
        self.num_windows, self.epoch = num_windows, 0
        self.seeds = torch.empty(epochs, 5, dtype=torch.int64).random_()[:, :2].tolist()

    def __len__(self) -> int:
        return self.num_windows

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def order(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.num_windows, generator=torch.Generator().manual_seed(self.seeds[epoch][1]))

    def start_epoch(self, epoch: int) -> torch.Tensor:
        """Seed the epoch's dropout, another one in each process, and give its order."""
        torch.manual_seed(self.seeds[epoch][0] + PartialState().process_index)
        return self.order(epoch)

    def end_epoch(self) -> None:
        """All validation windows count."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.start_epoch(self.epoch).tolist())


def evaluation_batches(windows: ForecastingWindows, indices: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    channels, length = windows.values.shape[1], windows.context_length + windows.prediction_length
    for part in indices.split(max(EVALUATION_SIZE // (channels * length), MIN_EVALUATION_WINDOWS)):
        yield windows.__getitems__(part)


@torch.inference_mode()
def validation_error(
    recipe: Recipe,
    model: PreTrainedModel,
    data: ForecastingData,
    accelerator: Accelerator,
    indices: torch.Tensor | None = None,
) -> float:
    """What `recipe.selection` names, over all windows or those of `indices`, shared by the processes."""
    windows, scale = data.validation, torch.tensor(validation_scale(recipe, data), device=accelerator.device)
    indices = torch.arange(len(windows)) if indices is None else indices
    share = indices[accelerator.process_index :: accelerator.num_processes]
    arguments = {name: value.to(accelerator.device) for name, value in recipe.loss_arguments(data).items()}
    total = 0.0
    for batch in evaluation_batches(windows, share):
        batch = {name: value.to(model.device) for name, value in batch.items()}
        outputs = model(**batch, **arguments)
        if recipe.selection == "loss":
            mean = outputs.loss
        else:
            error = outputs.prediction_outputs.double() - batch["future_values"]
            mean = {
                "last_step": (error[:, -1] * scale) ** 2,
                "mse": error**2,
                "mae": (error * scale).abs(),
            }[recipe.selection].mean()
        total += mean.item() * len(batch["past_values"])
    total = accelerator.reduce(torch.tensor(total, device=accelerator.device)).item()
    if not math.isfinite(total):
        raise ValueError("Training diverged: the validation error is not finite. Lower `learning_rate`.")
    if recipe.selection == "last_step":
        return math.sqrt(total / len(indices)) / data.rse_denominator
    return total / len(indices)


def validation_scale(recipe: Recipe, data: ForecastingData) -> list[float]:
    return list(data.scalers["validation"][1]) if recipe.protocol == "pems" else data.feature_extractor.scale


@torch.inference_mode()
def evaluate(model: PreTrainedModel, windows: ForecastingWindows, batch_size: int) -> dict[str, dict | None]:
    """Metrics over all windows, and without the last partial batch as in the papers' tables (None if none is full)."""
    metrics, indices, dropped = ForecastingMetrics(), torch.arange(len(windows)), None
    channels = None if model.config.model_type == "scinet" else model.config.prediction_channel_indices
    full = len(windows) - len(windows) % batch_size
    for part in (indices[:full], indices[full:]):
        for batch in evaluation_batches(windows, part) if len(part) else ():
            targets = batch["future_values"] if channels is None else batch["future_values"][..., list(channels)]
            metrics.update(model(batch["past_values"].to(model.device)).prediction_outputs, targets)
        dropped = metrics.compute() if full and dropped is None else dropped
    return {"test": metrics.compute(), "test_drop_last": dropped}


@torch.inference_mode()
def evaluate_by_protocol(recipe: Recipe, model: PreTrainedModel, data: ForecastingData) -> dict[str, dict | None]:
    """Test metrics of the recipe's protocol."""
    if recipe.protocol == "ltsf":
        return evaluate(model, data.test, recipe.batch_size)
    pairs = (
        (model(batch["past_values"].to(model.device)).prediction_outputs, batch["future_values"])
        for batch in evaluation_batches(data.test, torch.arange(len(data.test)))
    )
    if recipe.protocol == "financial":
        metrics = FinancialMetrics(data.feature_extractor.scale, data.rse_denominator, data.rae_denominator)
        for predictions, targets in pairs:
            metrics.update(predictions, targets)
        return {"test": metrics.compute()}
    mean, scale = map(torch.tensor, data.scalers["test"])
    predictions, targets = (torch.cat(parts).double().cpu() * scale + mean for parts in zip(*pairs, strict=True))
    return {"test": {"num_windows": len(targets), **pems_metrics(predictions, targets)}}


PRINTED_METRICS = {
    "ltsf": ("mse", "mae"),
    "financial": ("rse", "rae", "corr", "mse", "mae"),
    "pems": ("mae", "rmse", "mape"),
}


def finish_run(
    recipe: Recipe,
    data: ForecastingData,
    model: PreTrainedModel,
    history: list[dict[str, float]],
    output_dir: Path,
) -> dict[str, Any]:
    """Test the best weights; print and save the metrics, and save model and feature extractor."""
    best = min(history, key=lambda epoch: epoch["validation_error"])["epoch"]
    report = {
        "recipe": asdict(recipe),
        "num_processes": PartialState().num_processes,
        "epochs": len(history),
        "best_epoch": best,
        "history": history,
        **evaluate_by_protocol(recipe, model, data),
    }
    model.save_pretrained(output_dir)
    data.feature_extractor.save_pretrained(output_dir)
    for name in ("test", "test_drop_last"):
        if report.get(name) is not None:
            metrics = ", ".join(f"{key} {report[name][key]:.5f}" for key in PRINTED_METRICS[recipe.protocol])
            print(f"{name}: {metrics} over {report[name]['num_windows']} windows")
            report[name] = {key: value if math.isfinite(value) else None for key, value in report[name].items()}
    (output_dir / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def claim_output_dir(recipe: Recipe, output_dir: Path, resume: bool):
    """Note the recipe in the folder, so that a run neither overwrites nor continues a different one.

    Raises:
        ValueError: If the folder holds a run that is not to be resumed, or one with another recipe.
    """
    path = output_dir / "recipe.json"
    if path.exists():
        if not resume:
            raise ValueError(f"`output_dir` = {str(output_dir)!r} holds a run; add `--resume` or name another folder.")
        old, new = json.loads(path.read_text()), asdict(recipe)
        changed = [name for name in new if old.get(name) != new[name] and name not in ("data", "epochs")]
        if changed:
            raise ValueError(f"`--resume` needs the recipe of the run in {str(output_dir)!r}; {changed} differ.")
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def read_recipe(
    path: str, setting: str | None = None, prediction_length: int | None = None, context_length: int | None = None
) -> dict[str, Any]:
    """Values of a recipe file for one horizon.

    A list holds the published choices of a length, the first one the default; a dictionary holds a value for each
    `prediction_length`. A named entry of `settings` replaces values of the file. `note` is for readers.

    Raises:
        ValueError: On an unknown setting or key, or a horizon for which a value is missing.
    """
    values = json.loads(Path(path).read_text())
    settings = values.pop("settings", {})
    if setting is not None:
        if setting not in settings:
            raise ValueError(f"`setting` must be one of {sorted(settings)} of {path}, got {setting!r}.")
        values |= settings[setting]
    values.pop("note", None)
    if unknown := set(values) - {entry.name for entry in fields(Recipe)}:
        raise ValueError(f"{path} has the unknown keys {sorted(unknown)}.")
    for name, given in (("prediction_length", prediction_length), ("context_length", context_length)):
        choices = values.get(name)
        if given is not None:
            values[name] = given
        elif isinstance(choices, list):
            values[name] = choices[0]
    horizon = str(values.get("prediction_length", Recipe.prediction_length))
    for name, value in values.items():
        if isinstance(value, dict):
            if horizon not in value:
                raise ValueError(f"{path} gives `{name}` for the horizons {list(value)}, not for {horizon}.")
            values[name] = value[horizon]
    return values


@dataclass
class RunOptions:
    recipe: str | None = option(None, "JSON file of settings, see recipes/; the other options win over it.")
    setting: str | None = option(None, "Named entry of the file's `settings`, e.g. individual.")
    output_dir: str = option("outputs/forecasting", "Folder of the model, metrics and training state.")
    resume: bool = option(False, "Go on with the run in `output_dir`.")


def parse_arguments(description: str, arguments: list[str] | None = None) -> tuple[Recipe, RunOptions]:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe")
    early.add_argument("--setting")
    for name in ("prediction", "context"):
        early.add_argument(f"--{name}-length", f"--{name}_length", type=int)
    chosen, _ = early.parse_known_args(arguments)
    if chosen.setting is not None and chosen.recipe is None:
        raise ValueError("`--setting` needs `--recipe`.")
    parser = HfArgumentParser([Recipe, RunOptions], description=description)
    if chosen.recipe is not None:
        path, *rest = vars(chosen).values()
        parser.set_defaults(**read_recipe(path, *rest))
    return parser.parse_args_into_dataclasses(arguments)
