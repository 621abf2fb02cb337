"""VideoPose3D: 3D poses from 2D poses over time by dilated convolutions.

Paper: "3D human pose estimation in video with temporal convolutions and semi-supervised training" (Pavllo et al., CVPR 2019,
arXiv 1811.11742). Original code: github.com/facebookresearch/VideoPose3D.

Differences from the original:

* One class holds both of its networks. Windows of exactly one receptive field, from which one pose comes, take
  the convolutions with strides, which compute nothing that is thrown away and whose batch statistics are those of
  training; longer sequences take the dilated ones. The weights are the same.
* The asymmetric padding of causal models is that of its scripts, all of it before the sequence. A function of the original
  that computes it otherwise is not used there.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_videopose3d import VideoPose3DConfig
from .cpu_layers_pose_sequence import drop_values, linear
from .input_checks_pose_lifting import (
    PoseLiftingOutput,
    check_keypoints,
    check_lifting_labels,
    refuse_unknown_arguments,
)


@dataclass
class VideoPose3DModelOutput(ModelOutput):
    """Output of `VideoPose3DModel`.

    Args:
        last_hidden_state: (batch, frames - num_frames + 1, hidden_size).
        hidden_states: Activations after the first convolution and after each block, (batch, frames left, hidden_size) each,
            if asked for. Windows of one receptive field leave only the frames that the next layer reads.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class VideoPose3DConvolution(nn.Module):
    """Convolution in time without padding, batch normalisation, ReLU, dropout."""

    def __init__(self, config: VideoPose3DConfig, in_channels: int, width: int, dilation: int = 1):
        super().__init__()
        self.convolution = nn.Conv1d(in_channels, config.hidden_size, width, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(config.hidden_size, momentum=config.batch_norm_momentum)
        self.dropout = config.hidden_dropout_prob

    def forward(self, hidden_states: torch.Tensor, strided: bool = False) -> torch.Tensor:
        """(batch, frames, in_channels) to (batch, frames left, hidden_size); `strided` puts filters end to end."""
        if strided:  # a linear layer of each filter's frames
            weight = self.convolution.weight
            frames = hidden_states.unflatten(1, (-1, weight.shape[2])).flatten(2)
            hidden_states = self._normalize(linear(frames, weight.transpose(1, 2).flatten(1)))
        elif self.convolution.weight.shape[2] == 1 and self.is_plain:
            hidden_states = self._normalize(linear(hidden_states, self.convolution.weight[:, :, 0]))
        else:
            hidden_states = self.norm(self.convolution(hidden_states.transpose(1, 2))).transpose(1, 2)
        if self.training:  # before the activation, which gives the same
            hidden_states = drop_values(hidden_states, self.dropout)
        return nn.functional.relu_(hidden_states)

    def _normalize(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(hidden_states.flatten(0, 1)).unflatten(0, hidden_states.shape[:2])

    @property
    def is_plain(self) -> bool:
        """Whether the convolution is not wrapped by an adapter, so that its weight is all there is to it."""
        return type(self.convolution) is nn.Conv1d


class VideoPose3DBlock(nn.Module):
    """A convolution in time and one of width 1, added to the frames of the input that the output stands for."""

    def __init__(self, config: VideoPose3DConfig, width: int, dilation: int):
        super().__init__()
        reach = (width - 1) * dilation + 1
        sizes = {"width": reach} if config.dense else {"width": width, "dilation": dilation}
        self.temporal = VideoPose3DConvolution(config, config.hidden_size, **sizes)
        self.pointwise = VideoPose3DConvolution(config, config.hidden_size, 1)
        # Frame of a filter, of the dilated one and of the one with strides, that the output stands for.
        self.frame, self.strided_frame = (reach - 1, width - 1) if config.causal else (reach // 2, width // 2)
        self.width = width

    def forward(self, hidden_states: torch.Tensor, strided: bool = False) -> torch.Tensor:
        """(batch, frames, hidden_size) to (batch, frames left, hidden_size)."""
        branch = self.pointwise(self.temporal(hidden_states, strided), strided)
        if strided:
            return hidden_states[:, self.strided_frame :: self.width] + branch
        return hidden_states[:, self.frame : self.frame + branch.shape[1]] + branch


class VideoPose3DPreTrainedModel(PreTrainedModel):
    """Initial weights."""

    config: VideoPose3DConfig
    base_model_prefix = "videopose3d"
    main_input_name = "keypoints_2d"
    input_modalities = ("time",)
    accepts_loss_kwargs = False
    _no_split_modules = ["VideoPose3DBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """PyTorch's: uniform in ±1/sqrt(inputs of a filter), weights and biases; normalisation does nothing."""
        if isinstance(module, nn.Conv1d):
            bound = 1 / math.sqrt(module.in_channels * module.kernel_size[0])
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)

    def set_batch_norm_momentum(self, momentum: float):
        """Set the share of a batch in the running statistics, which the original lowers after every epoch of training.

        Raises:
            ValueError: If it is not in (0, 1].
        """
        if not 0 < momentum <= 1:
            raise ValueError(f"`momentum` must be in (0, 1], got {momentum!r}.")
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = momentum


class VideoPose3DModel(VideoPose3DPreTrainedModel):
    """The convolutions: 2D poses over time in, features of the frames that have their whole window out."""

    def __init__(self, config: VideoPose3DConfig):
        super().__init__(config)
        first, *widths = config.filter_widths
        self.expand = VideoPose3DConvolution(config, config.num_joints * config.in_channels, first)
        dilations = [math.prod(config.filter_widths[: index + 1]) for index in range(len(widths))]
        self.layers = nn.ModuleList(
            VideoPose3DBlock(config, width, dilation) for width, dilation in zip(widths, dilations, strict=True)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution."""
        return self.expand.convolution

    @can_return_tuple
    def forward(
        self, keypoints_2d: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> VideoPose3DModelOutput:
        """Features of 2D poses.

        Args:
            keypoints_2d: (batch, frames, num_joints, in_channels), x and y normalised by the picture's size: its width goes
                from -1 to 1, and y keeps the aspect ratio. At least `config.num_frames` frames.
            output_hidden_states: Whether to give the activations; `config.output_hidden_states` if None.
            kwargs: `return_dict`.

        Raises:
            TypeError: If `keypoints_2d` is not a floating-point tensor, or an argument is unknown.
            ValueError: If its shape does not fit.
        """
        refuse_unknown_arguments(kwargs)
        config = self.config
        check_keypoints(keypoints_2d, config.num_joints, config.in_channels, config.num_frames)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        strided = keypoints_2d.shape[1] == config.num_frames and not config.dense and self._is_plain()
        values = keypoints_2d.to(self.expand.convolution.weight.dtype)
        hidden = self.expand(values.flatten(2), strided)
        all_hidden = (hidden,) if output_hidden_states else None
        for layer in self.layers:
            hidden = layer(hidden, strided)
            if output_hidden_states:
                all_hidden += (hidden,)
        return VideoPose3DModelOutput(last_hidden_state=hidden, hidden_states=all_hidden)

    def _is_plain(self) -> bool:
        return all(part.is_plain for part in self.modules() if isinstance(part, VideoPose3DConvolution))


class VideoPose3DForPoseLifting(VideoPose3DPreTrainedModel):
    """2D poses over time in, 3D poses relative to the pelvis out."""

    def __init__(self, config: VideoPose3DConfig):
        super().__init__(config)
        self.videopose3d = VideoPose3DModel(config)
        self.shrink = nn.Conv1d(config.hidden_size, config.num_output_joints * 3, 1)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """That of the base model."""
        return self.videopose3d.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        keypoints_2d: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> PoseLiftingOutput:
        """Lift 2D poses, and compute the loss if labels are given.

        Args:
            keypoints_2d: As for `VideoPose3DModel`. Pad a sequence by repeating its first and last frame, `num_frames // 2`
                times each, to get a pose for every frame; for a causal model the first one `num_frames - 1` times.
            labels: (batch, frames - num_frames + 1, num_output_joints, 3) true positions in metres, relative to the pelvis.
                The loss is the mean distance to them (MPJPE). For a trajectory the labels are places in the camera's frame, and
                distances are divided by the depth.
            output_hidden_states: As for `VideoPose3DModel`.
            kwargs: `return_dict`.

        Raises:
            TypeError: If an input is not a floating-point tensor, or an argument is unknown.
            ValueError: If shapes do not fit.
        """
        outputs = self.videopose3d(
            keypoints_2d, output_hidden_states=output_hidden_states, **{**kwargs, "return_dict": True}
        )
        positions = self.shrink(outputs.last_hidden_state.transpose(1, 2)).transpose(1, 2).unflatten(2, (-1, 3))
        positions = positions.to(keypoints_2d.dtype)
        loss = None
        if labels is not None:
            check_lifting_labels(labels, positions.shape)
            errors = torch.linalg.vector_norm(positions - labels, dim=-1)
            loss = (errors / labels[..., 2]).mean() if self.config.trajectory else errors.mean()
        return PoseLiftingOutput(loss=loss, positions_3d=positions, hidden_states=outputs.hidden_states)


__all__ = [
    "VideoPose3DForPoseLifting",
    "VideoPose3DModel",
    "VideoPose3DModelOutput",
    "VideoPose3DPreTrainedModel",
]
