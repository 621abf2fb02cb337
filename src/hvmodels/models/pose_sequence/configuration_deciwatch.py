"""Configuration of DeciWatch."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class DeciWatchConfig(PreTrainedConfig):
    """Configuration of DeciWatch (arXiv 2203.08713); the defaults are the published model for Human3.6M in 3-D.

    Args:
        num_joints: Joints of a pose.
        joint_dim: Numbers a joint: 2 or 3 coordinates, or 6 for a rotation.
        sample_interval: Frames from one seen pose to the next, the paper's N. Poses between them are not read.
        num_intervals: Intervals of a window, the paper's Q; a window has `sample_interval * num_intervals + 1` frames.
        hidden_size: Width of both networks; even, and a multiple of `num_attention_heads`.
        encoder_layers: Layers of the network that denoises the seen poses.
        decoder_layers: Layers of the network that recovers the poses between them.
        num_attention_heads: Heads of each attention.
        intermediate_size: Width inside the feed-forward networks.
        dropout: Share of activations and attention weights dropped in training.
        pre_norm: Layer norms in front of attention and feed-forward networks instead of behind the sums.
        memory_mask_type: What the decoder does with the frames of the encoder that were not seen. `"additive"`, as in the
            original, adds 1 to their attention scores; `"boolean"`, as in mmhuman3d, leaves them out, which is faster.
            The two give different results, and weights do not tell which one they were trained with.
        recover_mode: `"transformer"`, or `"interpolation"`: straight lines between the denoised poses, without decoder.
        denoise_loss_weight: Weight of the loss of the seen poses.
        recover_loss_weight: Weight of the loss of all poses, the paper's lambda.
        window_stride_intervals: Intervals from the start of one window of a sequence to the next, at most `num_intervals`.
            Poses are the mean of all windows that hold them.
        window_normalization: `"person"` moves the poses of each window by their mean over the seen frames and all joints, and
            divides them by the size of the person, the median over the seen frames of the largest side of the box around
            all joints, and undoes both behind the network; `"none"` leaves them as they are, as the original does.
        tail: What becomes of the frames behind the last whole window of a sequence. `"keep"` repeats the last pose up to the
            next seen frame, adds a window that ends there and cuts the result; `"drop"` cuts these frames off, as the
            original does.
        short_sequence: How a sequence shorter than a window is filled up: `"replicate"` with its last pose, and the result is cut;
            `"zeros"` with zeros, and the whole window is returned, as the original does.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "deciwatch"
    attribute_map = {"num_hidden_layers": "encoder_layers"}

    num_joints: int = 17
    joint_dim: Literal[2, 3, 6] = 3
    sample_interval: int = 10
    num_intervals: int = 10
    hidden_size: int = 128
    encoder_layers: int = 5
    decoder_layers: int = 5
    num_attention_heads: int = 4
    intermediate_size: int = 256
    dropout: float | int = 0.1
    pre_norm: bool = True
    memory_mask_type: Literal["additive", "boolean"] = "additive"
    recover_mode: Literal["transformer", "interpolation"] = "transformer"
    denoise_loss_weight: float | int = 1.0
    recover_loss_weight: float | int = 5.0
    window_stride_intervals: int = 1
    window_normalization: Literal["none", "person"] = "none"
    tail: Literal["keep", "drop"] = "keep"
    short_sequence: Literal["replicate", "zeros"] = "replicate"

    def __post_init__(self, **kwargs):
        self.validate_values()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def pose_dim(self) -> int:
        """Numbers of a pose."""
        return self.num_joints * self.joint_dim

    @property
    def window_size(self) -> int:
        """Frames of a window."""
        return self.sample_interval * self.num_intervals + 1

    @property
    def window_stride(self) -> int:
        """Frames from the start of one window to the next."""
        return self.sample_interval * self.window_stride_intervals

    def validate_values(self):
        """Check that values fit each other."""
        for name in (
            "num_joints",
            "sample_interval",
            "num_intervals",
            "hidden_size",
            "encoder_layers",
            "decoder_layers",
            "num_attention_heads",
            "intermediate_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % 2 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` must be even and a multiple of `num_attention_heads` ({self.num_attention_heads}), got "
                f"{self.hidden_size}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}.")
        for name in ("denoise_loss_weight", "recover_loss_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        if not 1 <= self.window_stride_intervals <= self.num_intervals:
            raise ValueError(
                "`window_stride_intervals` must be from 1 to `num_intervals`, so that windows leave no frame out; got "
                f"{self.window_stride_intervals} of {self.num_intervals}."
            )


__all__ = ["DeciWatchConfig"]
