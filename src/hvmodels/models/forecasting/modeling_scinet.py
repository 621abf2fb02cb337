"""SCINet: forecasting by a binary tree that splits a series into even and odd steps and lets the halves interact.

Paper: "SCINet: Time Series Modeling and Forecasting with Sample Convolution and Interaction" (Liu et al., NeurIPS 2022,
arXiv 2106.09305). Original code: github.com/cure-lab/SCINet.

Differences from the original, none of which changes a value by more than rounding:

* The tree is not walked node by node. All nodes of a level have the same shapes, so a level is two batched products for its
  first and two for its second half-step, and the weights of a tree are four stacked tensors. Dropout draws other masks.
* Even and odd halves are put together once, by one transposition of all levels, not step by step.
* A segmented layer of the decoder is one batched product (five equal segments) and one for the last segment.
* The positional encoding is not added in place: the caller's tensor stays as it is.
* Sizes that the original lets crash are refused by the configuration.
* Missing steps may be marked by `past_observed_mask`; each takes the last observed value before it.

Kept from the original: the second convolution of a branch has 3 steps whatever `kernel_size` is; the last
`context_length` % 6 steps that leave a segmented layer are 0; the mean that is taken off a window passes no gradient, its
deviation does.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_scinet import SCINetConfig
from .modeling_ltsf_linear import (
    TemporalLinear,
    apply_temporal_map,
    check_observed_mask,
    fill_unobserved,
    moving_average_counts,
)


OUTPUT_KERNEL_SIZE = 3
LEAKY_SLOPE = 0.01
NUM_SEGMENTS = 6
MAX_TIMESCALE = 10000.0
VARIANCE_EPSILON = 1e-5
AFFINE_EPSILON = 1e-10
SMOOTH_L1_BETA = 1 / 9


@dataclass
class SCINetModelOutput(ModelOutput):
    """Output of `SCINetModel`, in the space of the standardised window.

    Args:
        last_hidden_state: (batch, length, channels), what the last decoder reads: the last tree's output, plus its input
            unless `decompose`. `length` is `context_length`, with two stacks `config.concatenated_length`.
        hidden_states: With `output_hidden_states`, for each stack its input (batch, 1, length, channels), then the output
            of each level (batch, nodes, length / nodes, channels). Node indices are the choices from the root on, even 0
            and odd 1, as binary numbers.
        intermediate_forecast: (batch, prediction_length, channels), the first stack's, with two stacks.
        trend_forecast: (batch, prediction_length, channels), of the moving average, with `decompose`.
        loc: (batch, 1, channels), the mean that was taken off, with `use_reversible_instance_norm`.
        scale: (batch, 1, channels), the deviation that was divided by, likewise.
        trend_loc: As `loc`, of the trend.
        trend_scale: As `scale`, of the trend.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    intermediate_forecast: torch.Tensor | None = None
    trend_forecast: torch.Tensor | None = None
    loc: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    trend_loc: torch.Tensor | None = None
    trend_scale: torch.Tensor | None = None


@dataclass
class SCINetForPredictionOutput(ModelOutput):
    """Output of `SCINetForPrediction`.

    Args:
        loss: Scalar, the losses of all stacks, if `future_values` was given.
        prediction_outputs: (batch, prediction_length, channels), in the units of the input; one step with
            `single_step_output`.
        intermediate_prediction_outputs: (batch, prediction_length, channels), the first of two stacks', likewise.
        hidden_states: As in `SCINetModelOutput`.
        loc: (batch, 1, channels), mean of each window, with `use_reversible_instance_norm`.
        scale: (batch, 1, channels), its deviation, likewise.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    intermediate_prediction_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    loc: torch.Tensor | None = None
    scale: torch.Tensor | None = None


def time_windows(series: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """What each step of a convolution reads, (convolutions, channels, time, batch) to (convolutions, read, steps * batch)."""
    count, channels, time, batch = series.shape
    steps = time - kernel_size + 1
    if torch.is_tensor(steps):  # in a trace, for ONNX, where `unfold` is known for sizes that can be inferred only
        windows = torch.stack([series[:, :, step : step + steps] for step in range(kernel_size)], dim=2)
    else:
        windows = series.unfold(2, kernel_size, 1).permute(0, 1, 4, 2, 3)
    return windows.reshape(count, channels * kernel_size, steps * batch)


def split_kernel(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """(convolutions, out channels, channels * kernel) to (convolutions, kernel * out channels, channels)."""
    count, outputs, _ = weight.shape
    return weight.reshape(count, outputs, channels, -1).permute(0, 3, 1, 2).reshape(count, -1, channels)


class TimeConvolution(torch.autograd.Function):
    """`convolve_time` with its gradient; what can be made again from the input is not kept."""

    @staticmethod
    def forward(ctx, series: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kernel_size: int) -> torch.Tensor:
        """See `convolve_time`."""
        ctx.save_for_backward(series, weight)
        ctx.kernel_size = kernel_size
        return multiply_windows(series, weight, bias, kernel_size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of series, weight and bias."""
        series, weight = ctx.saved_tensors
        kernel_size, (count, channels, time, batch) = ctx.kernel_size, series.shape
        outputs, columns = gradient.shape[1:]
        starts, of_series = range(0, kernel_size * batch, batch), None
        if outputs < channels:
            of_products = gradient.new_zeros(count, kernel_size, outputs, time * batch)
            for step, start in enumerate(starts):
                of_products[:, step, :, start : start + columns] = gradient
            of_products = of_products.flatten(1, 2)
            of_weight = torch.bmm(of_products, series.flatten(2).transpose(1, 2))
            of_weight = of_weight.view(count, kernel_size, outputs, channels).permute(0, 2, 3, 1).flatten(2)
            if ctx.needs_input_grad[0]:
                of_series = torch.bmm(split_kernel(weight, channels).transpose(1, 2), of_products).view(series.shape)
        else:
            of_weight = torch.bmm(gradient, time_windows(series, kernel_size).transpose(1, 2))
            if ctx.needs_input_grad[0]:
                of_windows = torch.bmm(weight.transpose(1, 2), gradient)
                of_windows = of_windows.view(count, channels, kernel_size, columns)
                of_series = gradient.new_zeros(count, channels, time * batch)
                for step, start in enumerate(starts):
                    of_series[:, :, start : start + columns] += of_windows[:, :, step]
                of_series = of_series.view(series.shape)
        return of_series, of_weight, gradient.sum(2, keepdim=True), None


def multiply_windows(series: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """`convolve_time` without its gradient: whichever of inputs and outputs are fewer is what is spread over the kernel."""
    count, channels, time, batch = series.shape
    outputs = weight.shape[1]
    if outputs >= channels:
        return torch.baddbmm(bias, weight, time_windows(series, kernel_size))
    products = torch.bmm(split_kernel(weight, channels), series.flatten(2))
    products = products.view(count, kernel_size, outputs, time * batch)
    columns = (time - kernel_size + 1) * batch
    convolved = bias + products[:, 0, :, :columns]
    for step in range(1, kernel_size):
        convolved += products[:, step, :, step * batch : step * batch + columns]
    return convolved


def convolve_time(series: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Many convolutions over time at once, without padding, as batched products.

    Args:
        series: (convolutions, channels, time, batch).
        weight: (convolutions, out channels, channels * kernel).
        bias: (convolutions, out channels, 1).
        kernel_size: Steps that an output reads.

    Returns:
        (convolutions, out channels, (time - kernel + 1) * batch).
    """
    if torch.is_grad_enabled():
        return TimeConvolution.apply(series, weight, bias, kernel_size)
    return multiply_windows(series, weight, bias, kernel_size)


def positional_encoding(length: int, channels: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Sines, then cosines of the steps of time, (length, channels); the last cosine is left out if channels are odd.

    The frequencies are rounded to float32 in any case, as in the original.
    """
    count = (channels + 1) // 2
    exponents = torch.arange(count, dtype=torch.float32, device=device)
    frequencies = torch.exp(exponents * -(math.log(MAX_TIMESCALE) / max(count - 1, 1)))
    dtype = torch.promote_types(dtype, torch.float32)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies.to(dtype)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :channels]


class SCINetTree(nn.Module):
    """All blocks of one stack.

    Weights are stacked over branches: for each level first the branches phi (reads the even half) and psi (odd) of all its
    nodes, then U (reads what phi scaled) and P; groups innermost.
    """

    def __init__(self, config: SCINetConfig):
        super().__init__()
        self.num_levels, self.groups, self.kernel_size = config.num_levels, config.groups, config.kernel_size
        self.dropout = nn.Dropout(config.dropout)
        overhang = config.kernel_size - 1
        self.padding = (overhang // 2 + 1, overhang - overhang // 2 + 1)
        channels, hidden = config.num_input_channels // config.groups, config.hidden_channels // config.groups
        count = 4 * (2**config.num_levels - 1) * config.groups
        self.input_weight = nn.Parameter(torch.empty(count, hidden, channels * config.kernel_size))
        self.input_bias = nn.Parameter(torch.empty(count, hidden, 1))
        self.output_weight = nn.Parameter(torch.empty(count, channels, hidden * OUTPUT_KERNEL_SIZE))
        self.output_bias = nn.Parameter(torch.empty(count, channels, 1))

    def weights(self) -> tuple[nn.Parameter, ...]:
        """Weight and bias of the first, then of the second convolution."""
        return self.input_weight, self.input_bias, self.output_weight, self.output_bias

    def blocks_in_order_of_creation(self, node: int = 0, level: int = 0) -> Iterator[tuple[int, int]]:
        """(level, node) of the blocks as the original builds them: a block, its odd subtree, its even subtree."""
        yield level, node
        if level + 1 < self.num_levels:
            for child in (2 * node + 1, 2 * node):
                yield from self.blocks_in_order_of_creation(child, level + 1)

    def branch_slices(self, level: int, node: int) -> dict[str, slice]:
        """Where the stacked weights of a node's four branches are, by the original's names of the branches."""
        first, groups = 4 * (2**level - 1), self.groups
        starts = {
            "phi": first + 2 * node,
            "psi": first + 2 * node + 1,
            "U": first + 2 * (2**level + node),
            "P": first + 2 * (2**level + node) + 1,
        }
        return {name: slice(start * groups, (start + 1) * groups) for name, start in starts.items()}

    def forward(self, series: torch.Tensor, states: list[torch.Tensor] | None = None) -> torch.Tensor:
        """(batch, time, channels) to the same shape.

        Args:
            series: The series.
            states: List that gets the output of each level, (batch, nodes, time / nodes, channels).
        """
        batch, time, channels = series.shape
        sizes = [2**level * 2 * self.groups for level in range(self.num_levels) for _ in range(2)]
        branches = list(zip(*(weight.split(sizes) for weight in self.weights()), strict=True))
        nodes = series.permute(2, 1, 0).unsqueeze(0)  # (nodes, channels, time, batch)
        for scaling, updating in zip(branches[::2], branches[1::2], strict=True):
            nodes = self._level(nodes, scaling, updating)
            if states is not None:
                states.append(nodes.permute(3, 0, 2, 1))
                nodes = states[-1].permute(1, 3, 2, 0)  # the state itself, so that gradients reach it
        # Of a step's number, the root's choice is the lowest bit.
        leaves = nodes.view(*[2] * self.num_levels, channels, time // 2**self.num_levels, batch)
        last = self.num_levels
        ordered = leaves.permute(last + 1, *reversed(range(last)), last, last + 2)
        return ordered.reshape(time, channels, batch).permute(2, 0, 1)

    def _level(
        self, nodes: torch.Tensor, scaling: tuple[torch.Tensor, ...], updating: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """(nodes, channels, time, batch) to twice the nodes and half the time."""
        even, odd = nodes[:, :, ::2], nodes[:, :, 1::2]
        even_scale, odd_scale = self._branches(torch.stack((even, odd), 1), scaling).exp().unbind(1)
        odd, even = odd * even_scale, even * odd_scale
        even_update, odd_update = self._branches(torch.stack((odd, even), 1), updating).unbind(1)
        return torch.stack((even + even_update, odd - odd_update), 1).flatten(0, 1)

    def _branches(self, halves: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Two branches for each node, (nodes, 2, channels, time, batch) to the same shape."""
        input_weight, input_bias, output_weight, output_bias = weights
        time, batch = halves.shape[3:]
        padded = nn.functional.pad(halves.flatten(0, 2), (0, 0, *self.padding), mode="replicate")
        grouped = padded.view(len(input_weight), -1, padded.shape[1], batch)
        hidden = convolve_time(grouped, input_weight, input_bias, self.kernel_size)
        hidden = nn.functional.leaky_relu_(hidden, LEAKY_SLOPE)
        hidden = self.dropout(hidden.view(*hidden.shape[:2], time + OUTPUT_KERNEL_SIZE - 1, batch))
        return torch.tanh(convolve_time(hidden, output_weight, output_bias, OUTPUT_KERNEL_SIZE)).view(halves.shape)


class SCINetDecoder(nn.Module):
    """Linear maps over time, shared by all channels: segmented layers with bias, if any, then one map from all steps."""

    def __init__(self, in_length: int, out_length: int, num_layers: int = 1):
        super().__init__()
        self.num_segmented_layers = num_layers - 1
        self.weight = nn.Parameter(torch.empty(out_length, in_length))
        self.bias = None
        if self.num_segmented_layers:
            self.bias = nn.Parameter(torch.empty(out_length))
            # A segment's map reads past its end into the next one, but for the last where the series ends earlier.
            self.segment_length, reach = in_length // NUM_SEGMENTS, in_length // 4
            last_reach = min(reach, in_length - (NUM_SEGMENTS - 1) * self.segment_length)
            sizes = (self.num_segmented_layers, NUM_SEGMENTS, self.segment_length)
            self.segment_weight = nn.Parameter(torch.empty(sizes[0], NUM_SEGMENTS - 1, sizes[2], reach))
            self.last_segment_weight = nn.Parameter(torch.empty(sizes[0], sizes[2], last_reach))
            self.segment_bias = nn.Parameter(torch.empty(*sizes, 1))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """(batch, in_length, channels) to (batch, out_length, channels)."""
        batch, _, channels = series.shape
        steps = series.permute(1, 2, 0).flatten(1)
        for layer in range(self.num_segmented_layers):
            steps = self._segmented_layer(steps, layer)
        decoded = self.weight @ steps if self.bias is None else torch.addmm(self.bias[:, None], self.weight, steps)
        return decoded.view(len(self.weight), channels, batch).permute(2, 0, 1)

    def _segmented_layer(self, steps: torch.Tensor, layer: int) -> torch.Tensor:
        """(in_length, columns) to the same shape."""
        weight, last_weight = self.segment_weight[layer], self.last_segment_weight[layer]
        bias, length, reach = self.segment_bias[layer], self.segment_length, weight.shape[2]
        starts = range(0, (NUM_SEGMENTS - 1) * length, length)
        read = torch.stack([steps[start : start + reach] for start in starts])
        segments = torch.baddbmm(bias[:-1], weight, read).flatten(0, 1)
        last_start = (NUM_SEGMENTS - 1) * length
        last_segment = torch.addmm(bias[-1], last_weight, steps[last_start : last_start + last_weight.shape[1]])
        rest = steps.new_zeros(len(steps) - NUM_SEGMENTS * length, steps.shape[1])
        return torch.cat([segments, last_segment, rest])


class ReversibleInstanceNorm(nn.Module):
    """Standardises each window and channel by its own mean and deviation, followed by an affine map, and undoes both."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))

    def forward(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(batch, time, channels) to the standardised series, its mean and its deviation (batch, 1, channels)."""
        loc = series.mean(1, keepdim=True).detach()
        centred = series - loc
        scale = torch.sqrt(centred.var(1, correction=0, keepdim=True) + VARIANCE_EPSILON)
        return centred / scale * self.weight + self.bias, loc, scale

    def reverse(self, series: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """A standardised series (batch, any time, channels) back to units of the input."""
        return (series - self.bias) / (self.weight + AFFINE_EPSILON) * scale + loc


class SCINetPreTrainedModel(PreTrainedModel):
    """Initialisation and checks of SCINet."""

    config: SCINetConfig
    base_model_prefix = "model"
    main_input_name = "past_values"
    input_modalities = ("time",)
    accepts_loss_kwargs = False
    _no_split_modules = ["SCINetTree", "SCINetDecoder"]

    @staticmethod
    def _refuse_unknown(arguments: dict):
        """Options that all transformers models take mean nothing here; anything else is a misspelt argument."""
        if arguments and (unknown := arguments.keys() - TransformersKwargs.__annotations__.keys()):
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; `forward` takes `past_values`, `past_observed_mask`, "
                "`output_hidden_states` and, with a head, `future_values` and `loss_scale`."
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Uniform in ±1/sqrt(inputs), weights and biases, in the order in which the original draws its random numbers.

        Numbers are drawn and copied part by part, so that no second copy of a large model is made.
        """
        if all(_is_loaded(parameter) for parameter in module.parameters(recurse=False)):
            return  # nothing to fill, or loaded from a file: leave the random state alone
        if isinstance(module, SCINetTree):
            for level, node in module.blocks_in_order_of_creation():
                slices = module.branch_slices(level, node)
                for name in ("P", "U", "phi", "psi"):
                    self._draw_branch(module, slices[name])
        elif isinstance(module, SCINetDecoder):
            self._draw_decoder(module)
        elif isinstance(module, TemporalLinear):
            _fill(module.weight, ..., _draw(module.weight.shape, module.weight.shape[1], module.weight))
            _draw(
                module.bias.shape, module.weight.shape[1], module.bias
            )  # the original draws biases and sets them to 0
            _fill(module.bias, ..., 0.0)
        elif isinstance(module, ReversibleInstanceNorm):
            _fill(module.weight, ..., 1.0)
            _fill(module.bias, ..., 0.0)

    def _draw_branch(self, tree: SCINetTree, branch: slice):
        for weight, bias in ((tree.input_weight, tree.input_bias), (tree.output_weight, tree.output_bias)):
            inputs = weight.shape[2]
            _fill(weight, branch, _draw(weight[branch].shape, inputs, weight))
            _fill(bias, branch, _draw(bias[branch].shape, inputs, bias))

    def _draw_decoder(self, decoder: SCINetDecoder):
        weight, inputs = decoder.weight, decoder.weight.shape[1]
        drawn = _draw(weight.shape, inputs, weight)
        if decoder.num_segmented_layers:
            drawn = _draw(weight.shape, inputs, weight)  # the original draws a first layer and replaces it
            _fill(decoder.bias, ..., _draw(decoder.bias.shape, inputs, decoder.bias))
        _fill(weight, ..., drawn)
        for layer in range(decoder.num_segmented_layers):
            for segment in range(NUM_SEGMENTS):
                weight, index = decoder.segment_weight, (layer, segment)
                if segment == NUM_SEGMENTS - 1:
                    weight, index = decoder.last_segment_weight, (layer,)
                inputs = weight.shape[-1]
                _fill(weight, index, _draw(weight[index].shape, inputs, weight))
                bias, index = decoder.segment_bias, (layer, segment)
                _fill(bias, index, _draw(bias[index].shape, inputs, bias))


def _is_loaded(parameter: torch.Tensor) -> bool:
    return getattr(parameter, "_is_hf_initialized", False)


def _draw(shape: tuple[int, ...], num_inputs: int, like: torch.Tensor) -> torch.Tensor:
    bound = 1 / math.sqrt(num_inputs)
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(-bound, bound)


def _fill(parameter: torch.Tensor, index, value: torch.Tensor | float):
    if not _is_loaded(parameter):
        parameter[index] = value


class SCINetModel(SCINetPreTrainedModel):
    """The trees, with everything up to the last decoder."""

    def __init__(self, config: SCINetConfig):
        super().__init__(config)
        # Read at every call; attributes of a configuration are slow to read.
        self.context_length, self.num_channels = config.context_length, config.num_input_channels
        self.num_past_steps = config.concat_length or config.context_length
        self.use_positional_encoding, self.decompose = config.use_positional_encoding, config.decompose
        if config.decompose:
            self.trend_layer = TemporalLinear(config.context_length, config.context_length)
            self.trend_decoder = TemporalLinear(config.context_length, config.prediction_length)
        self.trees = nn.ModuleList(SCINetTree(config) for _ in range(config.num_stacks))
        self.intermediate_decoder = None
        if config.num_stacks == 2:
            self.intermediate_decoder = SCINetDecoder(
                config.context_length, config.prediction_length, config.num_decoder_layers
            )
        normalized = config.use_reversible_instance_norm
        self.norm = ReversibleInstanceNorm(config.num_input_channels) if normalized else None
        self.trend_norm = (
            ReversibleInstanceNorm(config.num_input_channels) if normalized and config.decompose else None
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that reads the series."""
        return self.trees[0]

    @can_return_tuple
    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> SCINetModelOutput:
        """Run the trees.

        Args:
            past_values: (batch, context_length, channels), standardised as in training, oldest step first.
            past_observed_mask: Same shape, True or 1 where `past_values` was observed, None if everywhere.
                A missing step takes the last observed value before it, a leading one the first observed value.
            output_hidden_states: Whether to give the states of all levels; `config.output_hidden_states` if None.

        Raises:
            TypeError: If `past_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If a shape does not fit the configuration.
        """
        self._refuse_unknown(kwargs)
        return SCINetModelOutput(**self.run(past_values, past_observed_mask, output_hidden_states))

    def run(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> dict[str, torch.Tensor | tuple[torch.Tensor, ...]]:
        """The values that `forward` wraps, by their names."""
        self._check_inputs(past_values, past_observed_mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        series, outputs = past_values.to(self.trees[0].input_weight.dtype), {}
        if past_observed_mask is not None:
            series = fill_unobserved(series, past_observed_mask)
        if self.decompose:
            series, trend = self._decompose(series)
            if self.trend_norm is not None:
                trend, outputs["trend_loc"], outputs["trend_scale"] = self.trend_norm(trend)
            outputs["trend_forecast"] = self.trend_decoder(self.trend_layer(trend))
        elif self.use_positional_encoding:
            series = self._encode_positions(series)
        if self.norm is not None:
            series, outputs["loc"], outputs["scale"] = self.norm(series)
        if self.decompose and self.use_positional_encoding:
            series = self._encode_positions(series)
        states = [] if output_hidden_states else None
        last_hidden_state = self._stack(0, series, states)
        if self.intermediate_decoder is not None:
            forecast = self.intermediate_decoder(last_hidden_state)
            joined = torch.cat([series[:, -self.num_past_steps :], forecast], dim=1)
            last_hidden_state = self._stack(1, joined, states)
            outputs["intermediate_forecast"] = forecast
        outputs["last_hidden_state"] = last_hidden_state
        if states is not None:
            outputs["hidden_states"] = tuple(states)
        return outputs

    def _stack(self, index: int, series: torch.Tensor, states: list[torch.Tensor] | None) -> torch.Tensor:
        if states is not None:
            states.append(series.unsqueeze(1))
            series = states[-1].squeeze(1)
        output = self.trees[index](series, states)
        return output if self.decompose else output + series

    def _encode_positions(self, series: torch.Tensor) -> torch.Tensor:
        encoding = positional_encoding(*series.shape[1:], series.dtype, series.device)
        return series + encoding.to(series.dtype)

    def _decompose(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rest and moving average."""
        kernel_size = self.config.moving_average_kernel_size
        counts = moving_average_counts(self.context_length, kernel_size).to(series)
        trend = apply_temporal_map(series / kernel_size, counts, counts.new_zeros(()))
        return series - trend, trend

    def _check_inputs(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None):
        expected = f"(batch, {self.context_length}, {self.num_channels})"
        if not torch.is_tensor(past_values) or not past_values.is_floating_point():
            kind = past_values.dtype if torch.is_tensor(past_values) else type(past_values).__name__
            raise TypeError(f"`past_values` must be a floating-point tensor {expected}, got {kind}.")
        shape = past_values.shape
        if len(shape) != 3 or shape[1] != self.context_length or shape[2] != self.num_channels:
            raise ValueError(
                f"`past_values` must have shape {expected}, `context_length` steps of `num_input_channels` channels, got "
                f"{tuple(shape)}."
            )
        if shape[0] == 0:
            raise ValueError(f"`past_values` must have shape {expected} with at least one series, got {tuple(shape)}.")
        if past_observed_mask is not None:
            check_observed_mask(past_observed_mask, shape)


class SCINetForPrediction(SCINetPreTrainedModel):
    """SCINet with its last decoder and its losses."""

    def __init__(self, config: SCINetConfig):
        super().__init__(config)
        self.model = SCINetModel(config)
        length = config.prediction_length
        if config.num_stacks == 1:
            self.decoder = SCINetDecoder(config.context_length, length, config.num_decoder_layers)
        else:
            self.decoder = SCINetDecoder(config.concatenated_length, 1 if config.single_step_output else length)
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
        loss_scale: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> SCINetForPredictionOutput:
        """Forecast, and compare with the future if it is given.

        Args:
            past_values: (batch, context_length, channels), standardised as in training, oldest step first.
            past_observed_mask: Same shape, True or 1 where observed; see `SCINetModel.forward`.
            future_values: (batch, prediction_length, channels), targets in the same units.
            loss_scale: (channels,) or (batch, channels), by which forecasts and targets are multiplied in the loss: the
                `scale` of a feature extractor, for a loss in the units of the data.
            output_hidden_states: Whether to give the states of all levels; `config.output_hidden_states` if None.

        Raises:
            TypeError: If `past_values` or `future_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If a shape does not fit the configuration.
        """
        self._refuse_unknown(kwargs)
        outputs = self.model.run(past_values, past_observed_mask, output_hidden_states)
        prediction = self.decoder(outputs["last_hidden_state"])
        intermediate, trend = outputs.get("intermediate_forecast"), outputs.get("trend_forecast")
        if self.model.norm is not None:
            prediction = self.model.norm.reverse(prediction, outputs["loc"], outputs["scale"])
            if intermediate is not None:
                intermediate = self.model.norm.reverse(intermediate, outputs["loc"], outputs["scale"])
            if trend is not None:
                trend = self.model.trend_norm.reverse(trend, outputs["trend_loc"], outputs["trend_scale"])
        if trend is not None:
            prediction = prediction + trend[:, -prediction.shape[1] :]
        loss = None
        if future_values is not None:
            loss = self._loss(prediction, intermediate, future_values, loss_scale)
        return SCINetForPredictionOutput(
            loss=loss,
            prediction_outputs=prediction,
            intermediate_prediction_outputs=intermediate,
            hidden_states=outputs.get("hidden_states"),
            loc=outputs.get("loc"),
            scale=outputs.get("scale"),
        )

    def _loss(
        self,
        prediction: torch.Tensor,
        intermediate: torch.Tensor | None,
        targets: torch.Tensor,
        loss_scale: torch.Tensor | None,
    ) -> torch.Tensor:
        """Sum of the losses of all forecasts."""
        if not torch.is_tensor(targets) or not targets.is_floating_point():
            kind = targets.dtype if torch.is_tensor(targets) else type(targets).__name__
            raise TypeError(f"`future_values` must be a floating-point tensor, got {kind}.")
        expected = (len(prediction), self.config.prediction_length, prediction.shape[2])
        if targets.shape != expected:
            raise ValueError(
                f"`future_values` must have shape {expected} (batch, prediction_length, channels), got "
                f"{tuple(targets.shape)}."
            )
        targets = targets.to(prediction.dtype)
        if loss_scale is not None:
            loss_scale = self._check_loss_scale(loss_scale, prediction)
            prediction, targets = prediction * loss_scale, targets * loss_scale
            intermediate = None if intermediate is None else intermediate * loss_scale
        if self.config.last_step_only or self.config.single_step_output:
            loss = self._criterion(prediction[:, -1:], targets[:, -1:])
        else:
            loss = self._weighted_criterion(prediction, targets)
        if intermediate is None:
            return loss
        if self.config.last_step_only:
            return loss + self._criterion(intermediate, targets) / self.config.prediction_length
        return loss + self._weighted_criterion(intermediate, targets)

    def _weighted_criterion(self, prediction: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weight = self.config.last_step_weight
        if weight == 1 or targets.shape[1] == 1:
            return self._criterion(prediction, targets)
        last = self._criterion(prediction[:, -1:], targets[:, -1:])
        return self._criterion(prediction[:, :-1], targets[:, :-1]) + weight * last

    def _criterion(self, prediction: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.config.loss == "smooth_l1":
            return nn.functional.smooth_l1_loss(prediction, targets, beta=SMOOTH_L1_BETA)
        return {"mae": nn.functional.l1_loss, "mse": nn.functional.mse_loss}[self.config.loss](prediction, targets)

    @staticmethod
    def _check_loss_scale(loss_scale: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        shapes = [(prediction.shape[2],), (len(prediction), prediction.shape[2])]
        if not torch.is_tensor(loss_scale) or tuple(loss_scale.shape) not in shapes:
            found = tuple(loss_scale.shape) if torch.is_tensor(loss_scale) else type(loss_scale).__name__
            raise ValueError(f"`loss_scale` must be a tensor of shape {shapes[0]} or {shapes[1]}, got {found}.")
        return loss_scale.to(prediction).unsqueeze(-2)


__all__ = ["SCINetForPrediction", "SCINetModel", "SCINetPreTrainedModel"]
