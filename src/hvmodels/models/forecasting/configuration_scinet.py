"""Configuration of SCINet."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class SCINetConfig(PreTrainedConfig):
    """Configuration of a SCINet forecaster (arXiv 2106.09305); the defaults are the published ETTh1 48 -> 24 model.

    Args:
        context_length: Number of past time steps the model reads, a multiple of 2^`num_levels`.
        prediction_length: Number of future time steps it predicts.
        num_input_channels: Number of channels (variables), all of which are predicted.
        hidden_ratio: Channels inside a branch for each input channel; their number is rounded down.
        num_stacks: 1, or 2: the second tree reads the past and the first one's forecast.
        num_levels: Depth of the binary tree, 2^`num_levels` - 1 blocks.
        kernel_size: Time steps of the first convolution of a branch; the second always has 3.
        groups: Groups of channels that the convolutions keep apart.
        dropout: Probability of a hidden value of a branch to be dropped.
        num_decoder_layers: Layers of the first stack's decoder: overlapping segments but for the last, which is one
            linear map over time.
        concat_length: Past time steps that the second stack reads, all if None or 0.
        use_positional_encoding: Add sines and cosines of time to the input.
        use_reversible_instance_norm: Standardise each window by its own mean and deviation, and undo it in the forecast.
        single_step_output: The second stack predicts the last step only.
        decompose: Forecast the moving average by linear maps and only the rest by the tree.
        moving_average_kernel_size: Odd window of the moving average, in time steps, with `decompose`.
        loss: `"mae"`, `"mse"`, or `"smooth_l1"` with beta 1/9.
        last_step_weight: Weight of the last step in the loss. If it is not 1, the loss is the mean over all steps but the
            last plus this times the mean over the last.
        last_step_only: Train the forecast by its last step only; an intermediate forecast is trained by all steps, divided
            by their number.

    Raises:
        ValueError: On sizes that do not fit each other; the message names the nearest that do.
    """

    model_type = "scinet"

    context_length: int = 48
    prediction_length: int = 24
    num_input_channels: int = 7
    hidden_ratio: float | int = 4
    num_stacks: Literal[1, 2] = 1
    num_levels: int = 3
    kernel_size: int = 5
    groups: int = 1
    dropout: float | int = 0.5
    num_decoder_layers: int = 1
    concat_length: int | None = None
    use_positional_encoding: bool = False
    use_reversible_instance_norm: bool = False
    single_step_output: bool = False
    decompose: bool = False
    moving_average_kernel_size: int = 25
    loss: Literal["mae", "mse", "smooth_l1"] = "mae"
    last_step_weight: float | int = 1.0
    last_step_only: bool = False

    def __post_init__(self, **kwargs):
        self.validate_sizes()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def hidden_channels(self) -> int:
        """Channels inside a branch."""
        return int(self.num_input_channels * self.hidden_ratio)

    @property
    def concatenated_length(self) -> int:
        """Time steps that the second stack reads."""
        return (self.concat_length or self.context_length) + self.prediction_length

    def validate_sizes(self):
        """Check that sizes fit each other."""
        for name in (
            "context_length",
            "prediction_length",
            "num_input_channels",
            "num_levels",
            "kernel_size",
            "groups",
            "num_decoder_layers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}.")
        if not self.last_step_weight >= 0:
            raise ValueError(f"`last_step_weight` must be 0 or more, got {self.last_step_weight}.")
        if self.moving_average_kernel_size < 1 or self.moving_average_kernel_size % 2 == 0:
            raise ValueError(
                f"`moving_average_kernel_size` must be odd and positive, got {self.moving_average_kernel_size}; use "
                f"{self.moving_average_kernel_size + 1}."
            )
        self._validate_lengths()
        self._validate_channels()

    def _validate_lengths(self):
        step = 2**self.num_levels
        if self.context_length % step:
            raise ValueError(
                f"`context_length` must be a multiple of 2^`num_levels` = {step}, since every level halves the series; "
                f"got {self.context_length}. The nearest are {_nearest_multiples(self.context_length, step)}; or take "
                f"`num_levels` = {_halvings(self.context_length)} at most."
            )
        if self.num_decoder_layers > 1 and self.context_length < 6:
            raise ValueError(
                "`context_length` must be at least 6 with `num_decoder_layers` > 1, which cut it into 6 segments; got "
                f"{self.context_length}."
            )
        if self.concat_length is not None and not 0 <= self.concat_length <= self.context_length:
            raise ValueError(
                f"`concat_length` must be in [0, `context_length` = {self.context_length}], or None, got "
                f"{self.concat_length}."
            )
        if self.decompose and self.num_decoder_layers > 1:
            raise ValueError(
                f"`num_decoder_layers` must be 1 with `decompose`, which has no such decoder; got "
                f"{self.num_decoder_layers}."
            )
        if self.num_stacks == 1:
            if self.single_step_output:
                raise ValueError("`single_step_output` needs `num_stacks` = 2: it is an option of the second stack.")
            return
        if self.concatenated_length % step:
            past = self.concat_length or self.context_length
            fitting = [
                length - self.prediction_length
                for length in _nearest_multiples(self.concatenated_length, step)
                if 0 < length - self.prediction_length <= self.context_length
            ]
            raise ValueError(
                f"With `num_stacks` = 2, `concat_length` + `prediction_length` = {past} + {self.prediction_length} = "
                f"{self.concatenated_length} must be a multiple of 2^`num_levels` = {step}; "
                + (f"`concat_length` = {' or '.join(map(str, fitting))} fits." if fitting else "change one of them.")
            )

    def _validate_channels(self):
        channels = self.num_input_channels
        if not self.hidden_channels >= 1:
            raise ValueError(
                f"`hidden_ratio` must give a branch at least one channel, at least 1/{channels} here; got "
                f"{self.hidden_ratio}."
            )
        if channels % self.groups or self.hidden_channels % self.groups:
            raise ValueError(
                f"`groups` must divide `num_input_channels` ({channels}) and the channels of a branch, "
                f"int(`num_input_channels` * `hidden_ratio`) = {self.hidden_channels}; got {self.groups}."
            )


def _nearest_multiples(length: int, step: int) -> list[int]:
    """The multiples of `step` right below and above `length`, without 0."""
    below = length // step * step
    return [multiple for multiple in (below, below + step) if multiple]


def _halvings(length: int) -> int:
    """How often a length can be halved."""
    return (length & -length).bit_length() - 1


__all__ = ["SCINetConfig"]
