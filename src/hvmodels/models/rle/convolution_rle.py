"""Convolutions whose batch norm is folded into their weight outside of training, which spares a pass over the map."""

import torch
from torch import nn
from transformers.activations import ACT2FN


def fold_batch_norm(weight: torch.Tensor, normalization: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution that equals the one of `weight`, without bias, followed by the batch norm.

    Args:
        weight: (out_channels, in_channels, height, width).
        normalization: Its running statistics are used.
    """
    scale = normalization.weight.float() * (normalization.running_var.float() + normalization.eps).rsqrt()
    shift = normalization.bias.float() - normalization.running_mean.float() * scale
    return weight * scale.to(weight.dtype)[:, None, None, None], shift.to(weight.dtype)


class FoldingConvolution(nn.Module):
    """Takes the place of a layer of transformers' ResNet, with the same names of parameters and buffers.

    Args:
        layer: A layer with a `convolution` without bias, a `normalization` and, if any, an `activation`.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.convolution = layer.convolution
        self.normalization = layer.normalization
        self.activation = _in_place(getattr(layer, "activation", None) or nn.Identity())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same with the channels and the stride of the convolution."""
        convolution = self.convolution
        if self.training:
            return self.activation(self.normalization(convolution(hidden_states)))
        weight, shift = fold_batch_norm(convolution.weight, self.normalization)
        return self.activation(
            nn.functional.conv2d(hidden_states, weight, shift, convolution.stride, convolution.padding)
        )


def _in_place(activation: nn.Module) -> nn.Module:
    return nn.ReLU(inplace=True) if isinstance(activation, type(ACT2FN["relu"])) else activation


def replace_convolutions(module: nn.Module):
    """Replace every layer with a convolution and a batch norm below `module` by `FoldingConvolution`.

    ReLUs below it, those after a residual sum among them, overwrite their input.
    """
    for name, child in module.named_children():
        setattr(module, name, _in_place(child))
        if isinstance(getattr(child, "normalization", None), nn.BatchNorm2d):
            setattr(module, name, FoldingConvolution(child))
        else:
            replace_convolutions(child)


__all__ = ["FoldingConvolution", "fold_batch_norm", "replace_convolutions"]
