"""Backbone of ED-Pose: any transformers backbone, with the batch norm of a ResNet frozen."""

import torch
from torch import nn
from transformers import AutoBackbone, PreTrainedConfig
from transformers.activations import ACT2FN


class EDPoseFrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics, scale and shift are buffers: `(x - mean) / sqrt(variance + 1e-5) * weight + bias`."""

    eps = 1e-5

    def __init__(self, num_features: int):
        super().__init__()
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm as `x * scale + shift`."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class EDPoseFrozenConvolution(nn.Module):
    """A convolution with its frozen norm and activation, in place of a layer of transformers' ResNet.

    The norm is folded into the weight of the convolution, which spares a pass over the feature map and, in training,
    the memory for it. The names of parameters and buffers are those of the layer that it replaces.

    Args:
        layer: A layer with a `convolution` without bias, a `normalization` and, if any, an `activation`.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.convolution = layer.convolution
        with torch.device(layer.convolution.weight.device):
            self.normalization = EDPoseFrozenBatchNorm2d(layer.normalization.num_features)
        self.activation = getattr(layer, "activation", None) or nn.Identity()
        if isinstance(self.activation, type(ACT2FN["relu"])):
            self.activation = nn.ReLU(inplace=True)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same with the channels and the stride of the convolution."""
        scale, shift = self.normalization.scale_and_shift()
        convolution = self.convolution
        weight = convolution.weight * scale[:, None, None, None]
        hidden_states = nn.functional.conv2d(
            hidden_states,
            weight,
            shift,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )
        return self.activation(hidden_states)


def freeze_batch_norm(module: nn.Module):
    """Replace every layer with a convolution and a batch norm below `module` by `EDPoseFrozenConvolution`."""
    for name, child in module.named_children():
        if isinstance(getattr(child, "normalization", None), nn.BatchNorm2d):
            setattr(module, name, EDPoseFrozenConvolution(child))
        else:
            freeze_batch_norm(child)


def freeze_parameters(module: nn.Module):
    """Turn every parameter below `module` into a buffer.

    `requires_grad=False` would not outlive `from_pretrained`, which makes new parameters.
    """
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            delattr(child, name)
            child.register_buffer(name, parameter.detach())


def build_backbone(config: PreTrainedConfig) -> nn.Module:
    """A backbone with random weights.

    Of a ResNet the batch norm, the stem and the first stage are frozen: they are buffers. A Swin loses the norm after its last
    stage, which feature maps do not pass: each has a norm of its own.

    Args:
        config: `backbone_config` of the model.
    """
    backbone = AutoBackbone.from_config(config)
    if config.model_type == "resnet":
        freeze_batch_norm(backbone)
        freeze_parameters(backbone.embedder)
        freeze_parameters(backbone.encoder.stages[0])
    elif config.model_type == "swin":
        backbone.swin.layernorm = nn.Identity()
    return backbone


__all__ = ["EDPoseFrozenBatchNorm2d", "EDPoseFrozenConvolution", "build_backbone"]
