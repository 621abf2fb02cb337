"""Configuration of VideoPose3D."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class VideoPose3DConfig(PreTrainedConfig):
    """Configuration of VideoPose3D (arXiv 1811.11742); the defaults are the published model of 243 frames.

    Args:
        num_joints: Joints of the input.
        in_channels: Numbers of a joint of the input.
        num_output_joints: Joints of the output.
        filter_widths: Widths of the convolutions in time, odd. Their product is the receptive field, and each is dilated by
            the product of those before it.
        hidden_size: Channels of the convolutions.
        hidden_dropout_prob: Share of the activations that training sets to 0.
        causal: Whether a pose depends on its own frame and earlier ones only, for use in real time; else its frame is the
            middle of the window.
        dense: Whether convolutions are as wide as the dilated ones but without gaps, an ablation of the paper.
        batch_norm_momentum: Share of a batch in the running statistics at the start of training.
        trajectory: Whether the output is the place of the root in the camera's frame, `num_output_joints` being 1, with
            a loss weighted by one over the depth; the network beside the other in semi-supervised training.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "videopose3d"

    num_joints: int = 17
    in_channels: int = 2
    num_output_joints: int = 17
    filter_widths: list[int] | tuple[int, ...] = (3, 3, 3, 3, 3)
    hidden_size: int = 1024
    hidden_dropout_prob: float | int = 0.25
    causal: bool = False
    dense: bool = False
    batch_norm_momentum: float | int = 0.1
    trajectory: bool = False

    def __post_init__(self, **kwargs):
        self.filter_widths = list(self.filter_widths)
        self.validate_values()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def num_frames(self) -> int:
        """Frames that one pose depends on, the receptive field."""
        return math.prod(self.filter_widths)

    def validate_values(self):
        """Check that values fit each other."""
        for name in ("num_joints", "in_channels", "num_output_joints", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not self.filter_widths or not all(width > 0 and width % 2 for width in self.filter_widths):
            raise ValueError(f"`filter_widths` must be one or more odd numbers, got {self.filter_widths}.")
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"`hidden_dropout_prob` must be in [0, 1), got {self.hidden_dropout_prob}.")
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(f"`batch_norm_momentum` must be in (0, 1], got {self.batch_norm_momentum}.")
        if self.trajectory and self.num_output_joints != 1:
            raise ValueError(
                f"`num_output_joints` must be 1 with `trajectory`, the root alone, got {self.num_output_joints}."
            )


__all__ = ["VideoPose3DConfig"]
