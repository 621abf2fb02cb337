"""The attention of AIB: one sampled map that amplifies a feature map, with or without quantised scores."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput


@dataclass
class AIBAttentionOutput(ModelOutput):
    """Output of `AIBAttention`.

    Args:
        attended_features: (samples * batch, channels, h, w), the features plus their product with each map; row
            `sample * batch + image`.
        attention_maps: (batch, samples, h, w), the sampled scores before quantisation.
        quantized_attention_maps: (batch, samples, h, w), the nearest anchors; None without anchors.
        vq_losses: (batch,), mean squared distance of the anchors to their scores; gradients reach the anchors only.
        commitment_losses: (batch,), the same number; gradients reach the scores only.
    """

    attended_features: torch.Tensor | None = None
    attention_maps: torch.Tensor | None = None
    quantized_attention_maps: torch.Tensor | None = None
    vq_losses: torch.Tensor | None = None
    commitment_losses: torch.Tensor | None = None


def standard_normal(
    shape: tuple[int, int, int],
    like: torch.Tensor,
    noise: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    name: str = "noise",
) -> torch.Tensor:
    """Given or drawn noise.

    Args:
        shape: (samples, rows, values).
        like: Tensor with the device and dtype of the result.
        noise: Given noise of that shape, for one sample also (rows, values); drawn if None.
        generator: Of any device; that of the device's global state if None.
        name: Argument of `noise`, for messages.

    Raises:
        ValueError: If the given noise has another shape or is not finite.
    """
    if noise is None:
        device = like.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=device).to(like)
    shapes = [shape] if shape[0] > 1 else [shape, shape[1:]]
    if tuple(noise.shape) not in shapes:
        raise ValueError(
            f"`{name}` must have the shape {' or '.join(map(str, shapes))} for {shape[0]} samples, got "
            f"{tuple(noise.shape)}."
        )
    if not noise.is_floating_point() or not noise.isfinite().all():
        raise ValueError(f"`{name}` must hold finite floating-point numbers.")
    return noise.reshape(shape).to(like)


def nearest_anchors(scores: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Index of the anchor that is nearest to each score; of two that are equally near, the lower index.

    Args:
        scores: Of any shape.
        anchors: (anchors,), in any order.
    """
    ordered, order = anchors.sort(stable=True)
    # Of equal anchors, the one that comes first.
    order = order[torch.searchsorted(ordered, ordered)]
    above = torch.searchsorted(ordered, scores.contiguous()).clamp_(max=len(anchors) - 1)
    below = (above - 1).clamp_(min=0)
    to_above, to_below = (scores - ordered[above]).square(), (scores - ordered[below]).square()
    above, below = order[above], order[below]
    return torch.where((to_below < to_above) | ((to_below == to_above) & (below < above)), below, above)


class AIBAttention(nn.Module):
    """Residual attention with one stochastic map, for feature maps of any network.

    Args:
        head: Module from features (batch, channels, h, w) to the logits of the mean map (batch, 1, h, w), such as
            `convolution_head(channels)`.
        num_anchors: Number of values that scores may take, at first evenly spaced from 0 to 1; None for all values.
        train_anchors: Whether the anchors are a parameter; else they are a buffer of the same name.
        std_offset: Subtracted from the predicted spreads before the softplus, so that maps start almost certain.
    """

    def __init__(
        self,
        head: nn.Module,
        num_anchors: int | None = None,
        train_anchors: bool = True,
        std_offset: float = 5.0,
    ):
        super().__init__()
        self.mean_head = head
        self.spread_head = nn.Conv2d(1, 1, 3, padding=1)
        self.std_offset = std_offset
        # `from_pretrained` of transformers makes `linspace` give a tensor on the CPU; `empty` stays on the meta device.
        anchors = None if num_anchors is None else torch.empty(num_anchors).copy_(torch.linspace(0, 1, num_anchors))
        if anchors is not None and train_anchors:
            self.anchors = nn.Parameter(anchors)
        else:
            self.register_buffer("anchors", anchors)

    def forward(
        self,
        features: torch.Tensor,
        num_samples: int = 1,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        stochastic: bool = True,
    ) -> AIBAttentionOutput:
        """Sample maps and amplify the features by them.

        Args:
            features: (batch, channels, h, w).
            num_samples: Maps for each image.
            noise: (num_samples, batch, h * w), for one sample also (batch, h * w), standard normal; drawn if None.
            generator: For the noise that is drawn.
            stochastic: False takes the mean map, once for each sample.

        Raises:
            ValueError: If the noise does not fit.
        """
        batch, _, height, width = features.shape
        mean = self.mean_head(features).sigmoid()
        scores = mean.expand(num_samples, batch, 1, height, width)
        if stochastic:
            noise = standard_normal((num_samples, batch, height * width), mean, noise, generator, "attention_noise")
            # The spread is predicted from the mean map, not from the features.
            std = nn.functional.softplus(self.spread_head(mean) - self.std_offset)
            scores = mean + noise.view_as(scores) * std
        output = AIBAttentionOutput(attention_maps=scores[:, :, 0].transpose(0, 1))
        if self.anchors is not None:
            anchors = self.anchors[nearest_anchors(scores, self.anchors)]
            output.vq_losses = (anchors - scores.detach()).square().mean((0, 2, 3, 4))
            output.commitment_losses = (scores - anchors.detach()).square().mean((0, 2, 3, 4))
            scores = scores + (anchors - scores).detach()  # gradients pass to the scores as if nothing had happened
            output.quantized_attention_maps = scores[:, :, 0].transpose(0, 1)
        output.attended_features = torch.addcmul(features, features, scores).flatten(0, 1)
        return output


__all__ = ["AIBAttention", "AIBAttentionOutput", "nearest_anchors", "standard_normal"]
