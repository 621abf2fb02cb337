"""Configuration of the LTSF-Linear family."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class LTSFLinearConfig(PreTrainedConfig):
    """Configuration of a Linear, NLinear or DLinear forecaster (arXiv 2205.13504, section 4).

    Args:
        variant: `"linear"`, one affine map from the past to the future of a channel; `"nlinear"`, the same on the
            differences to the last past value; `"dlinear"`, one map for the moving average and one for the rest.
        context_length: Number of past time steps the model reads.
        prediction_length: Number of future time steps it predicts.
        num_input_channels: Number of channels (variables). It binds only with `individual`: shared weights forecast
            any number of channels, each by itself.
        individual: One map for each channel (the paper's "-I" variants) instead of one for all.
        moving_average_kernel_size: Odd window of the moving average, in time steps; used by `"dlinear"` only.
        weight_init: `"default"`, uniform in ±1/sqrt(context_length); `"average"`, every weight 1/context_length, as
            in the first release of DLinear and in Time-Series-Library.
        prediction_channel_indices: Channels that are predicted and trained, all if None; `[-1]` is the original's
            `features="MS"`.

    Raises:
        ValueError: On lengths below 1, an even moving average, or channel indices out of range.
    """

    model_type = "ltsf_linear"

    variant: Literal["linear", "nlinear", "dlinear"] = "dlinear"
    context_length: int = 336
    prediction_length: int = 96
    num_input_channels: int = 1
    individual: bool = False
    moving_average_kernel_size: int = 25
    weight_init: Literal["default", "average"] = "default"
    prediction_channel_indices: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs):
        self.validate_sizes()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Check that sizes fit each other."""
        for name in ("context_length", "prediction_length", "num_input_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.moving_average_kernel_size < 1 or self.moving_average_kernel_size % 2 == 0:
            raise ValueError(
                "`moving_average_kernel_size` must be odd and positive (an even window has no centre and would shorten "
                f"the series), got {self.moving_average_kernel_size}; use {self.moving_average_kernel_size + 1}."
            )
        if self.prediction_channel_indices is not None:
            count, indices = self.num_input_channels, self.prediction_channel_indices
            if not indices or not all(-count <= index < count for index in indices):
                raise ValueError(
                    f"`prediction_channel_indices` must name at least one channel in [{-count}, {count}) "
                    f"(`num_input_channels` is {count}), got {list(indices)}."
                )


__all__ = ["LTSFLinearConfig"]
