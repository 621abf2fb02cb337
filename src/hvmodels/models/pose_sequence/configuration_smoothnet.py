"""Configuration of SmoothNet."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class SmoothNetConfig(PreTrainedConfig):
    """Configuration of SmoothNet (arXiv 2112.13715); the defaults are the published large models with 32 frames.

    Args:
        window_size: Frames that the network sees at once.
        output_size: Frames that it gives, the first of the window; `window_size` if None.
        hidden_size: Width of the network.
        intermediate_size: Width inside its residual blocks.
        num_hidden_layers: Number of residual blocks.
        hidden_dropout_prob: Share of the values inside the blocks that training sets to 0.
        encoder_negative_slope: Slope below 0 of the activation after the first layer.
        residual_negative_slope: Slope below 0 of the activations in the blocks.
        position_loss_weight: Weight of the mean absolute error.
        acceleration_loss_weight: Weight of the mean absolute error of second differences in time.
        window_stride: Frames from one window to the next. Every frame is the mean of the windows that cover it; a larger stride is
            faster and less accurate.
        window_normalization: `"none"`, or `"person"`: the mean of each channel over the window is subtracted, and all
            are divided by the size of the person, the median over the frames of the longest side of the box around the
            joints; the result is put back. The network is then free of unit and place, and so is the loss.
        tail: `"keep"`: every frame comes back. `"drop"`: frames at the end that no window with the stride reaches are cut off, as in the
            original.
        short_sequence: `"replicate"`: a sequence shorter than the window is lengthened by its last pose, and the result cut back.
            `"zeros"`: it is lengthened by zeros, and `window_size` frames come back, as in the original.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "smoothnet"

    window_size: int = 32
    output_size: int | None = None
    hidden_size: int = 512
    intermediate_size: int = 128
    num_hidden_layers: int = 5
    hidden_dropout_prob: float | int = 0.25
    encoder_negative_slope: float | int = 0.1
    residual_negative_slope: float | int = 0.2
    position_loss_weight: float | int = 1.0
    acceleration_loss_weight: float | int = 0.1
    window_stride: int = 1
    window_normalization: Literal["none", "person"] = "none"
    tail: Literal["keep", "drop"] = "keep"
    short_sequence: Literal["replicate", "zeros"] = "replicate"

    def __post_init__(self, **kwargs):
        if self.output_size is None:
            self.output_size = self.window_size
        self.validate_values()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    def validate_values(self):
        """Check that values fit each other."""
        for name in ("hidden_size", "intermediate_size", "window_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` must be 0 or more, got {self.num_hidden_layers}.")
        if self.window_size < 3:
            raise ValueError(f"`window_size` must be at least 3 frames, got {self.window_size}.")
        if not 3 <= self.output_size <= self.window_size:
            raise ValueError(
                f"`output_size` must be from 3 to `window_size`, which is {self.window_size}, got {self.output_size}."
            )
        if self.window_stride > self.output_size:
            raise ValueError(
                f"`window_stride` must be at most `output_size`, which is {self.output_size}, or frames between windows "
                f"are lost; got {self.window_stride}."
            )
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"`hidden_dropout_prob` must be in [0, 1), got {self.hidden_dropout_prob}.")
        for name in ("encoder_negative_slope", "residual_negative_slope"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        for name in ("position_loss_weight", "acceleration_loss_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")


__all__ = ["SmoothNetConfig"]
