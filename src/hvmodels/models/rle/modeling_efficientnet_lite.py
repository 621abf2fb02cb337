"""EfficientNet-Lite: a small convolutional backbone for mobile processors.

An EfficientNet (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as released in TensorFlow's
repository `tpu`. Padding is TensorFlow's: as much right and below as left and above, or one more.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .configuration_efficientnet_lite import EfficientNetLiteConfig
from .convolution_rle import fold_batch_norm


class EfficientNetLiteConvolution(nn.Module):
    """Convolution with TensorFlow's padding, batch norm and, if any, ReLU6."""

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        has_activation: bool = True,
    ):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels, config.batch_norm_eps, config.batch_norm_momentum)
        self.has_activation = has_activation

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, ceil(height / stride), ceil(width / stride))."""
        weight, shift = self.convolution.weight, None
        if not self.training:
            weight, shift = fold_batch_norm(weight, self.normalization)
        kernel_size, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        (top, bottom), (left, right) = (
            _same_padding(size, kernel_size, stride) for size in (hidden_states.shape[-2], hidden_states.shape[-1])
        )
        if (top, left) != (bottom, right):
            hidden_states = nn.functional.pad(hidden_states, (left, right, top, bottom))
            top = left = 0
        hidden_states = nn.functional.conv2d(
            hidden_states, weight, shift, stride, (top, left), groups=self.convolution.groups
        )
        if self.training:
            hidden_states = self.normalization(hidden_states)
        return nn.functional.relu6(hidden_states, inplace=True) if self.has_activation else hidden_states


def _same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class EfficientNetLiteBlock(nn.Module):
    """Inverted residual: widen, convolve each channel, narrow; added to its input where the shapes agree."""

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
    ):
        super().__init__()
        channels = in_channels * expand_ratio
        self.expansion = (
            nn.Identity() if expand_ratio == 1 else EfficientNetLiteConvolution(config, in_channels, channels, 1)
        )
        self.depthwise = EfficientNetLiteConvolution(config, channels, channels, kernel_size, stride, groups=channels)
        self.projection = EfficientNetLiteConvolution(config, channels, out_channels, 1, has_activation=False)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height / stride, width / stride)."""
        result = self.projection(self.depthwise(self.expansion(hidden_states)))
        return result + hidden_states if self.is_residual else result


class EfficientNetLiteModel(PreTrainedModel):
    """EfficientNet-Lite without classifier."""

    config: EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.stem = EfficientNetLiteConvolution(config, config.num_channels, config.stem_channels, 3, stride=2)
        blocks, channels = [], config.stem_channels
        stages = zip(
            config.hidden_sizes, config.depths, config.kernel_sizes, config.strides, config.expand_ratios, strict=True
        )
        for hidden_size, depth, kernel_size, stride, expand_ratio in stages:
            for index in range(depth):
                blocks.append(
                    EfficientNetLiteBlock(
                        config, channels, hidden_size, kernel_size, stride if index == 0 else 1, expand_ratio
                    )
                )
                channels = hidden_size
        self.blocks = nn.ModuleList(blocks)
        self.head = EfficientNetLiteConvolution(config, channels, config.hidden_size, 1)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution."""
        return self.stem.convolution

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Compute the last feature map.

        Args:
            pixel_values: (batch, num_channels, height, width), normalised.
            kwargs: `return_dict`.

        Returns:
            `last_hidden_state` (batch, hidden_size, height / 32, width / 32) and its mean `pooler_output`
            (batch, hidden_size).
        """
        # In this layout depthwise convolutions are a third faster on the CPU.
        hidden_states = self.stem(pixel_values.to(self.dtype, memory_format=torch.channels_last))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        hidden_states = self.head(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean(dim=(2, 3))
        )


__all__ = ["EfficientNetLiteModel"]
