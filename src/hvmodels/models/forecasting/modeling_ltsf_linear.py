"""Linear, NLinear and DLinear: long-term forecasting by one affine map from past to future.

Paper: "Are Transformers Effective for Time Series Forecasting?" (Zeng et al., AAAI 2023, arXiv 2205.13504), section 4.
Original code: github.com/cure-lab/LTSF-Linear.

Differences from the original, none of which changes a value by more than rounding:

* DLinear's two maps and its moving average are folded into one map before the product: with the moving average as a
  matrix A, `W_seasonal (x - A x) + W_trend A x = (W_seasonal + (W_trend - W_seasonal) A) x`.
* Maps of single channels (`individual`) are one stacked parameter and one batched product, not a list of layers.
* The window of the moving average is read from the configuration; the original has the option and ignores it.
* Missing steps may be marked by `past_observed_mask`; each takes the last observed value before it.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_ltsf_linear import LTSFLinearConfig
from .feature_extraction_forecasting import ForecastingFeatureExtractor, TimeSeries
from .series_fit_ltsf_linear import SeriesFit, fit_series, infer_period, required_rows


@dataclass
class LTSFLinearModelOutput(ModelOutput):
    """Output of `LTSFLinearModel`.

    Args:
        forecast: (batch, prediction_length, channels), every input channel, in the units of the input.
    """

    forecast: torch.Tensor | None = None


@dataclass
class LTSFLinearForPredictionOutput(ModelOutput):
    """Output of `LTSFLinearForPrediction`.

    Args:
        loss: Scalar mean squared error, if `future_values` was given.
        prediction_outputs: (batch, prediction_length, predicted channels), in the units of the input.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None


def moving_average_counts(length: int, kernel_size: int) -> torch.Tensor:
    """How often each step (column) counts in the window around each step (row), (length, length).

    Divided by `kernel_size` it is the moving average whose edges repeat the first and the last value. Whole numbers
    survive a change of dtype; 1 / kernel_size would not.
    """
    offsets = torch.arange(kernel_size) - kernel_size // 2
    columns = (torch.arange(length)[:, None] + offsets).clamp(0, length - 1)
    return torch.zeros(length, length).scatter_add_(1, columns, torch.ones(columns.shape))


def check_observed_mask(observed_mask: torch.Tensor, shape: torch.Size):
    """Refuse a mask that does not fit the past values of this shape.

    Raises:
        TypeError: If it is no tensor of True and False, or of 1 and 0.
        ValueError: If its shape is another one.
    """
    if not torch.is_tensor(observed_mask) or observed_mask.is_complex():
        raise TypeError("`past_observed_mask` must be a tensor of True and False, or of 1 and 0.")
    if observed_mask.shape != shape:
        raise ValueError(
            f"`past_observed_mask` must have the shape of `past_values`, {tuple(shape)}, got {tuple(observed_mask.shape)}."
        )


def fill_unobserved(values: torch.Tensor, observed_mask: torch.Tensor) -> torch.Tensor:
    """Replace unobserved steps by the last observed value before them, leading ones by the first observed value.

    Args:
        values: (batch, time, channels); unobserved entries may hold anything, NaN included.
        observed_mask: Same shape, True or 1 where observed. A channel with no observed step becomes 0.
    """
    observed = observed_mask.bool()
    steps = torch.arange(values.shape[1], device=values.device)[:, None]
    last_observed = torch.where(observed, steps, -1).cummax(dim=1).values
    first_observed = observed.int().argmax(dim=1, keepdim=True)
    filled = values.gather(1, torch.where(last_observed < 0, first_observed, last_observed))
    return filled.masked_fill(~observed.any(dim=1, keepdim=True), 0.0)


class TemporalLinear(nn.Module):
    """Affine map along time: one weight (out, in) for all channels, or one a channel, stacked (channels, out, in)."""

    def __init__(self, in_length: int, out_length: int, num_channels: int | None = None):
        super().__init__()
        channels = () if num_channels is None else (num_channels,)
        self.weight = nn.Parameter(torch.empty(*channels, out_length, in_length))
        self.bias = nn.Parameter(torch.empty(*channels, out_length))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, in, channels) to (batch, out, channels)."""
        return apply_temporal_map(series, self.weight, self.bias)


def apply_temporal_map(series: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(batch, in, channels) to (batch, out, channels) by a shared or stacked weight and bias."""
    if weight.ndim == 3:
        return torch.baddbmm(bias[..., None], weight, series.permute(2, 1, 0)).permute(2, 1, 0)
    batch, length, channels = series.shape
    rows = series.transpose(1, 2).reshape(batch * channels, length)
    return nn.functional.linear(rows, weight, bias).view(batch, channels, -1).transpose(1, 2)


class LTSFLinearPreTrainedModel(PreTrainedModel):
    """Initialisation and common settings of the LTSF-Linear family."""

    config: LTSFLinearConfig
    base_model_prefix = "model"
    main_input_name = "past_values"
    input_modalities = ("time",)
    accepts_loss_kwargs = False
    _no_split_modules = ["LTSFLinearModel"]

    @staticmethod
    def _refuse_unknown(arguments: dict):
        """Options that all transformers models take mean nothing here; anything else is a misspelt argument."""
        if arguments and (unknown := arguments.keys() - TransformersKwargs.__annotations__.keys()):
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; `forward` takes `past_values`, `past_observed_mask` and, with a "
                "head, `future_values`."
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Fill the maps in the order in which the original draws its random numbers.

        transformers passes only modules that own a tensor: the single map of Linear and NLinear comes by itself, the
        two of DLinear, whose draws alternate, with the model that owns the moving average.
        """
        if not isinstance(module, LTSFLinearModel if self.config.variant == "dlinear" else TemporalLinear):
            return
        layers = [module]
        if self.config.variant == "dlinear":
            layers = [module.linear_seasonal, module.linear_trend]
            counts = moving_average_counts(self.config.context_length, self.config.moving_average_kernel_size)
            init.copy_(module.moving_average_counts, counts)
        if all(
            getattr(parameter, "_is_hf_initialized", False) for layer in layers for parameter in layer.parameters()
        ):
            return  # loaded from a file: leave the random state alone
        bound = 1 / math.sqrt(self.config.context_length)
        weights, biases = ([torch.empty_like(getattr(layer, name)) for layer in layers] for name in ("weight", "bias"))
        for channel in range(self.config.num_input_channels if self.config.individual else 1):
            for weight, bias in zip(weights, biases, strict=True):
                (weight[channel] if weight.ndim == 3 else weight).uniform_(-bound, bound)
                (bias[channel] if bias.ndim == 2 else bias).uniform_(-bound, bound)
        for layer, weight, bias in zip(layers, weights, biases, strict=True):
            if self.config.weight_init == "average":
                weight.fill_(1 / self.config.context_length)
            init.copy_(layer.weight, weight)
            init.copy_(layer.bias, bias)


class LTSFLinearModel(LTSFLinearPreTrainedModel):
    """The linear map(s) without loss and channel selection.

    The forecast is affine in the past, and no information flows between channels.
    """

    def __init__(self, config: LTSFLinearConfig):
        super().__init__(config)
        # Read at every call; attributes of a configuration are slow to read.
        self.variant, self.individual, self.context_length = config.variant, config.individual, config.context_length
        sizes = (
            config.context_length,
            config.prediction_length,
            config.num_input_channels if config.individual else None,
        )
        if config.variant == "dlinear":
            self.linear_seasonal = TemporalLinear(*sizes)
            self.linear_trend = TemporalLinear(*sizes)
            counts = moving_average_counts(config.context_length, config.moving_average_kernel_size)
            self.register_buffer("moving_average_counts", counts, persistent=False)
        else:
            self.linear = TemporalLinear(*sizes)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that reads the series."""
        return self.linear_seasonal if self.variant == "dlinear" else self.linear

    def decompose(self, past_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split (batch, context_length, channels) into seasonal part and trend (moving average), same shapes.

        Raises:
            TypeError: If `past_values` is not a floating-point tensor.
            ValueError: If the variant is not `"dlinear"`, or the shape does not fit.
        """
        if self.variant != "dlinear":
            raise ValueError(f"`decompose` needs the variant 'dlinear'; this model is '{self.variant}'.")
        self._check_inputs(past_values)
        scaled, counts = past_values / self.config.moving_average_kernel_size, self.moving_average_counts
        trend = apply_temporal_map(scaled, counts, counts.new_zeros(()))
        return past_values - trend, trend

    def merged_map(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the one affine map that equals the model, in the precision of its weights."""
        if self.variant == "linear":
            return self.linear.weight, self.linear.bias
        if self.variant == "nlinear":
            weight = self.linear.weight.clone()
            weight[..., -1] += 1 - self.linear.weight.sum(-1)
            return weight, self.linear.bias
        seasonal, trend = self.linear_seasonal, self.linear_trend
        difference = (trend.weight - seasonal.weight) / self.config.moving_average_kernel_size
        weight = seasonal.weight + difference @ self.moving_average_counts
        return weight, seasonal.bias + trend.bias

    @can_return_tuple
    def forward(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None, **kwargs
    ) -> LTSFLinearModelOutput:
        """Forecast every channel.

        Args:
            past_values: (batch, context_length, channels), standardised or not, oldest step first.
            past_observed_mask: Same shape, True or 1 where `past_values` was observed, None if everywhere.
                A missing step takes the last observed value before it, a leading one the first observed value.

        Raises:
            TypeError: If `past_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If a shape does not fit the configuration.
        """
        self._refuse_unknown(kwargs)
        return LTSFLinearModelOutput(forecast=self.forecast(past_values, past_observed_mask))

    def forecast(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The tensor that `forward` wraps, (batch, prediction_length, channels)."""
        self._check_inputs(past_values, past_observed_mask)
        past_values = past_values.to(self.get_input_embeddings().weight.dtype)
        if past_observed_mask is not None:
            past_values = fill_unobserved(past_values, past_observed_mask)
        if self.variant == "linear":
            return self.linear(past_values)
        if self.variant == "nlinear":
            last = past_values[:, -1:].detach()
            return self.linear(past_values - last) + last
        if self.individual:
            # Folding would cost a matrix product for each channel; smoothing the input is one for all of them.
            seasonal, trend = self.decompose(past_values)
            return self.linear_seasonal(seasonal) + self.linear_trend(trend)
        return apply_temporal_map(past_values, *self.merged_map())

    def _check_inputs(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None):
        if not torch.is_tensor(past_values) or not past_values.is_floating_point():
            kind = past_values.dtype if torch.is_tensor(past_values) else type(past_values).__name__
            raise TypeError(f"`past_values` must be a floating-point tensor {self._expected_shape()}, got {kind}.")
        shape = past_values.shape
        if len(shape) != 3:
            raise ValueError(
                f"`past_values` must have shape {self._expected_shape()}, got {tuple(shape)}; "
                "add the missing batch or channel axis."
            )
        if shape[1] != self.context_length:
            raise ValueError(
                f"`past_values` must hold `context_length` = {self.context_length} time steps, shape "
                f"{self._expected_shape()}, got {tuple(shape)}; pass the last {self.context_length} steps."
            )
        if shape[0] == 0 or shape[2] == 0:
            raise ValueError(
                f"`past_values` must have shape {self._expected_shape()} with at least one series and one channel, "
                f"got {tuple(shape)}."
            )
        if self.individual and shape[2] != self.config.num_input_channels:
            raise ValueError(
                f"`past_values` must have shape {self._expected_shape()}, got {tuple(shape)}; this model was built for "
                f"{self.config.num_input_channels} channels in a fixed order."
            )
        if past_observed_mask is not None:
            check_observed_mask(past_observed_mask, shape)

    def _expected_shape(self) -> str:
        channels = self.config.num_input_channels if self.individual else "channels"
        return f"(batch, {self.context_length}, {channels})"


class LTSFLinearForPrediction(LTSFLinearPreTrainedModel):
    """LTSF-Linear with the mean-squared-error loss and the choice of predicted channels."""

    def __init__(self, config: LTSFLinearConfig):
        super().__init__(config)
        self.model = LTSFLinearModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that reads the series."""
        return self.model.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        **kwargs,
    ) -> LTSFLinearForPredictionOutput:
        """Forecast, and compare with the future if it is given.

        Args:
            past_values: (batch, context_length, channels), standardised as in training, oldest step first.
            past_observed_mask: Same shape, True or 1 where observed; see `LTSFLinearModel.forward`.
            future_values: (batch, prediction_length, channels), targets in the same units; with
                `prediction_channel_indices` either all channels or only the predicted ones.

        Raises:
            TypeError: If `past_values` or `future_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If a shape does not fit the configuration.
        """
        self._refuse_unknown(kwargs)
        forecast = self.model.forecast(past_values, past_observed_mask)
        indices = self.config.prediction_channel_indices
        predictions = forecast if indices is None else forecast[..., list(indices)]
        loss = None
        if future_values is not None:
            targets = self._select_targets(future_values, forecast.shape, predictions.shape)
            loss = nn.functional.mse_loss(predictions, targets.to(predictions.dtype))
        return LTSFLinearForPredictionOutput(loss=loss, prediction_outputs=predictions)

    def _select_targets(
        self, future_values: torch.Tensor, all_channels: torch.Size, predicted_channels: torch.Size
    ) -> torch.Tensor:
        if not torch.is_tensor(future_values) or not future_values.is_floating_point():
            kind = future_values.dtype if torch.is_tensor(future_values) else type(future_values).__name__
            raise TypeError(f"`future_values` must be a floating-point tensor, got {kind}.")
        indices = self.config.prediction_channel_indices
        if future_values.shape == all_channels:
            return future_values if indices is None else future_values[..., list(indices)]
        if future_values.shape == predicted_channels:
            return future_values
        raise ValueError(
            f"`future_values` must have shape {tuple(all_channels)} (batch, prediction_length, channels), "
            f"got {tuple(future_values.shape)}."
        )

    @torch.no_grad()
    def merge(self) -> "LTSFLinearForPrediction":
        """Return the variant `"linear"` that equals this model: one map, computed in float64, for deployment."""
        config = self.config.__class__.from_dict({**self.config.to_dict(), "variant": "linear"})
        merged = self.__class__(config).to(device=self.device, dtype=self.dtype).eval()
        source = self.__class__(self.config).to(device=self.device, dtype=torch.float64)
        source.load_state_dict(self.state_dict())
        weight, bias = source.model.merged_map()
        merged.model.linear.weight.copy_(weight)
        merged.model.linear.bias.copy_(bias)
        return merged

    def fit_to_series(
        self,
        feature_extractor: ForecastingFeatureExtractor,
        series: TimeSeries,
        prediction_length: int,
        period: int | None = None,
    ) -> SeriesFit:
        """Fit a new model to one series in closed form, with a backtest; see `fit_series`. This model is unchanged."""
        return fit_series(self, feature_extractor, series, prediction_length, period)

    def rows_to_fit(self, series: TimeSeries, prediction_length: int, period: int | None = None) -> int:
        """Fewest rows of history that `fit_to_series` needs."""
        return required_rows(prediction_length, infer_period(series) if period is None else period)


__all__ = ["LTSFLinearForPrediction", "LTSFLinearModel", "LTSFLinearPreTrainedModel"]
