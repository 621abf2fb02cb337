"""The four networks of AIB, each in three parts: features, the head of the attention map, the encoder behind the map.

Batch norms are folded into the convolution before them outside of training, where that spares work; residual sums and
ReLUs overwrite their input.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from .configuration_aib import AIBConfig


# Pixels that an image must have on each side, so that no map vanishes.
MINIMUM_SIDES = {"vgg_cifar": 32, "wide_resnet_cifar": 1, "vgg16": 16, "wide_resnet50": 1}


class AIBNetworks(NamedTuple):
    """Parts of a network, with random weights.

    Args:
        backbone: Images (batch, channels, height, width) to features (batch, feature_channels, h, w).
        attention_head: Features to the logits of the mean map, (batch, 1, h, w).
        encoder: Features to one vector, (batch, encoder_channels).
        feature_channels: Channels of the features.
        encoder_channels: Size of the vector.
    """

    backbone: nn.Module
    attention_head: nn.Module
    encoder: nn.Module
    feature_channels: int
    encoder_channels: int


def fold_batch_norm(convolution: nn.Conv2d, normalization: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution that equals the given one followed by the batch norm's running statistics."""
    scale = normalization.weight.float() * (normalization.running_var.float() + normalization.eps).rsqrt()
    shift = -normalization.running_mean.float()
    if convolution.bias is not None:
        shift = shift + convolution.bias.float()
    shift = normalization.bias.float() + shift * scale
    dtype = convolution.weight.dtype
    return convolution.weight * scale.to(dtype)[:, None, None, None], shift.to(dtype)


class AIBConvolution(nn.Module):
    """Convolution, batch norm and ReLU; zeros around the map keep its size at a stride of 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = False,
        relu: bool = True,
    ):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
        self.normalization = nn.BatchNorm2d(out_channels)
        self.relu = relu

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height / stride, width / stride)."""
        convolution = self.convolution
        positions = len(hidden_states) * hidden_states.shape[2] * hidden_states.shape[3] // convolution.stride[0] ** 2
        # Folding costs a pass over the weight, and spares one over the output: whichever is smaller.
        if self.training or positions < convolution.weight[0].numel():
            hidden_states = self.normalization(convolution(hidden_states))
        else:
            weight, bias = fold_batch_norm(convolution, self.normalization)
            hidden_states = nn.functional.conv2d(hidden_states, weight, bias, convolution.stride, convolution.padding)
        return hidden_states.relu_() if self.relu else hidden_states


class AIBWideBlock(nn.Module):
    """Two convolutions, each after batch norm and ReLU, with a shortcut.

    Where the number of channels changes, the shortcut starts behind the first batch norm and ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        super().__init__()
        self.normalization = nn.BatchNorm2d(in_channels)
        self.input = AIBConvolution(in_channels, out_channels, stride=stride)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height / stride, width / stride)."""
        activated = self.normalization(hidden_states).relu_()
        residual = hidden_states if self.shortcut is None else self.shortcut(activated)
        return self.output(self.dropout(self.input(activated))).add_(residual)


class AIBBottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 pixels with a shortcut, as in torchvision: the middle one has the stride."""

    def __init__(self, in_channels: int, out_channels: int, inner_channels: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            AIBConvolution(in_channels, inner_channels, 1),
            AIBConvolution(inner_channels, inner_channels, 3, stride),
            AIBConvolution(inner_channels, out_channels, 1, relu=False),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = AIBConvolution(in_channels, out_channels, 1, stride, relu=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height / stride, width / stride)."""
        return self.layers(hidden_states).add_(self.shortcut(hidden_states)).relu_()


class AIBMeanPool(nn.Module):
    """Mean over all positions."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to (batch, channels)."""
        return hidden_states.mean((2, 3))


def convolution_head(channels: int, hidden_layers: int = 0) -> nn.Sequential:
    """Head of an attention map for any feature map: `hidden_layers` convolutions with ReLU, and one to a single channel.

    Args:
        channels: Of the features.
        hidden_layers: Number of convolutions before the last one.
    """
    layers = []
    for _ in range(hidden_layers):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))


def _vgg_cifar(config: AIBConfig) -> AIBNetworks:
    first, second, third, fourth = config.hidden_sizes

    def block(*channels: int) -> list[nn.Module]:
        pairs = pairwise(channels)
        return [AIBConvolution(inputs, outputs, bias=True) for inputs, outputs in pairs]

    def pool() -> nn.Module:
        return nn.MaxPool2d(2)

    backbone = nn.Sequential(
        *block(config.num_channels, first, first),
        *block(first, second, second),
        *block(second, third, third, third),
        pool(),
    )
    encoder = nn.Sequential(
        *(*block(third, fourth, fourth, fourth), pool()),
        *(*block(fourth, fourth, fourth, fourth), pool()),
        *(*block(fourth, fourth), pool()),
        *(*block(fourth, fourth), pool()),
        nn.Conv2d(fourth, fourth, 1),
        nn.ReLU(inplace=True),
        AIBMeanPool(),  # of one position for images of 32 pixels, where the original has no pooling
    )
    head = convolution_head(third, config.attention_hidden_layers)
    return AIBNetworks(backbone, head, encoder, third, fourth)


def _wide_resnet_cifar(config: AIBConfig) -> AIBNetworks:
    stem = config.hidden_sizes[0]
    first, second, third = (round(size * config.widen_factor) for size in config.hidden_sizes[1:])

    def stage(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        blocks = [AIBWideBlock(in_channels, out_channels, stride, config.dropout)]
        while len(blocks) < (config.depth - 4) // 6:
            blocks.append(AIBWideBlock(out_channels, out_channels, 1, config.dropout))
        return blocks

    backbone = nn.Sequential(
        nn.Conv2d(config.num_channels, stem, 3, padding=1, bias=False),
        *stage(stem, first, 1),
        *stage(first, second, 2),
    )
    encoder = nn.Sequential(*stage(second, third, 2), nn.BatchNorm2d(third), nn.ReLU(inplace=True), AIBMeanPool())
    # As in the original: as many channels as labels, and no ReLU behind the first batch norm.
    labels = config.num_labels
    head = nn.Sequential(
        *stage(second, third, 1),
        nn.BatchNorm2d(third),
        AIBConvolution(third, labels, 1),
        AIBConvolution(labels, 1, relu=False),
    )
    return AIBNetworks(backbone, head, encoder, second, third)


def _vgg16(config: AIBConfig) -> AIBNetworks:
    layers, channels = [], config.num_channels
    for size, convolutions in zip(config.hidden_sizes, (2, 2, 3, 3, 3), strict=True):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU(inplace=True)]
            channels = size
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten())
    head = convolution_head(channels, config.attention_hidden_layers)
    return AIBNetworks(nn.Sequential(*layers), head, encoder, channels, 9 * channels)


def _wide_resnet50(config: AIBConfig) -> AIBNetworks:
    def stage(index: int, stride: int) -> list[nn.Module]:
        out_channels = config.hidden_sizes[index]
        in_channels = config.hidden_sizes[index - 1] if index else stem
        inner_channels = int(out_channels // 4 * config.widen_factor)
        blocks = [AIBBottleneck(in_channels, out_channels, inner_channels, stride)]
        while len(blocks) < config.depths[index]:
            blocks.append(AIBBottleneck(out_channels, out_channels, inner_channels, 1))
        return blocks

    stem = config.hidden_sizes[0] // 4
    backbone = nn.Sequential(
        AIBConvolution(config.num_channels, stem, 7, stride=2),
        nn.MaxPool2d(3, stride=2, padding=1),
        *stage(0, 1),
        *stage(1, 2),
        *stage(2, 2),
    )
    channels = config.hidden_sizes[3]
    head = nn.Sequential(*stage(3, 1), nn.Conv2d(channels, 1, 3, padding=1))
    encoder = nn.Sequential(*stage(3, 2), AIBMeanPool())
    return AIBNetworks(backbone, head, encoder, config.hidden_sizes[2], channels)


BUILDERS = {
    "vgg_cifar": _vgg_cifar,
    "wide_resnet_cifar": _wide_resnet_cifar,
    "vgg16": _vgg16,
    "wide_resnet50": _wide_resnet50,
}


def build_networks(config: AIBConfig) -> AIBNetworks:
    """The parts of the network of `config.backbone_type`.

    A classifier of the same network without attention and without a bottleneck is
    `nn.Sequential(networks.backbone, networks.encoder, nn.Linear(networks.encoder_channels, classes))`.
    """
    return BUILDERS[config.backbone_type](config)


__all__ = ["AIBNetworks", "build_networks", "convolution_head"]
