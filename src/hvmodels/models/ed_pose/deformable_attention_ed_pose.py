"""Multi-scale deformable attention: each query reads a few points of every feature level.

Paper: "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (Zhu et al., ICLR 2021, arXiv
2010.04159), section 4.1, as ED-Pose uses it in its encoder and for the cross-attention of its decoder.
"""

import math

import torch
from torch import nn
from transformers import initialization as init


def multi_scale_deformable_attention(
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of bilinear samples of all levels.

    A location is sampled at `location * size - 0.5` pixels of its level; what lies outside the level counts as zero.

    Args:
        value: (batch, tokens, heads, head_dim), the levels one after the other, each row-major.
        spatial_shapes: (height, width) of each level.
        sampling_locations: (batch, queries, heads, levels, points, 2) as x, y, in [0, 1] of each level's map.
        attention_weights: (batch, queries, heads, levels, points).

    Returns:
        (batch, queries, heads * head_dim).
    """
    batch, _, heads, head_dim = value.shape
    queries = sampling_locations.shape[1]
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in spatial_shapes], dim=2)
    grids = (2 * sampling_locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights = attention_weights.permute(3, 0, 2, 1, 4).flatten(1, 2)
    output = 0
    for level, (height, width) in enumerate(spatial_shapes):
        samples = nn.functional.grid_sample(
            maps[level].reshape(-1, head_dim, height, width), grids[level], mode="bilinear", align_corners=False
        )
        output = output + (samples * weights[level][:, None]).sum(-1)
    return output.view(batch, heads * head_dim, queries).transpose(1, 2)


class EDPoseMultiscaleDeformableAttention(nn.Module):
    """Multi-scale deformable attention with its four projections.

    Args:
        embed_dim: Width of queries and values.
        num_heads: Heads; must divide `embed_dim`.
        n_levels: Feature levels that `value_states` holds.
        n_points: Points that a head samples on each level.
    """

    def __init__(self, embed_dim: int, num_heads: int, n_levels: int, n_points: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"`embed_dim` ({embed_dim}) must be a multiple of `num_heads` ({num_heads}).")
        self.num_heads = num_heads
        self.n_levels = n_levels
        self.n_points = n_points
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * n_levels * n_points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        init_deformable_attention(self)

    def project_value(self, value_states: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Project `value_states` (batch, tokens, embed_dim); padded tokens become zero, bias included."""
        value = self.value_proj(value_states)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        return value

    def forward(
        self,
        hidden_states: torch.Tensor,
        value_states: torch.Tensor,
        reference_points: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from the queries to the feature maps.

        Args:
            hidden_states: Queries, position added, (batch, queries, embed_dim).
            value_states: Feature tokens (batch, tokens, embed_dim), the levels one after the other. Not read if
                `value` is given.
            reference_points: (batch, queries, levels, 2) x, y, or (batch, queries, levels, 4) x, y, width, height, in
                [0, 1] of each padded level: already multiplied by the valid ratios.
            spatial_shapes: (height, width) of each level.
            padding_mask: (batch, tokens), True on padding. Not read if `value` is given.
            value: What `project_value` gives, for callers that project the values of several layers at once.

        Returns:
            (batch, queries, embed_dim).
        """
        batch, queries, embed_dim = hidden_states.shape
        if value is None:
            value = self.project_value(value_states, padding_mask)
        value = value.view(batch, -1, self.num_heads, embed_dim // self.num_heads)
        points = (batch, queries, self.num_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(hidden_states).view(*points, 2)
        weights = self.attention_weights(hidden_states).view(*points[:3], -1).softmax(-1).view(points)
        reference_points = reference_points[:, :, None, :, None]
        if reference_points.shape[-1] == 4:
            sizes = reference_points[..., 2:] * (0.5 / self.n_points)
        else:
            sizes = 1 / offsets.new_tensor([(width, height) for height, width in spatial_shapes])[:, None]
        locations = reference_points[..., :2] + offsets * sizes
        return self.output_proj(multi_scale_deformable_attention(value, spatial_shapes, locations, weights))


@torch.no_grad()
def init_deformable_attention(module: EDPoseMultiscaleDeformableAttention):
    """Start from equal weights on points along `num_heads` directions, the n-th at n pixels or n/points half boxes.

    Weights that came from a checkpoint are left alone, so that `_init_weights` may call it on any module.
    """
    angles = torch.arange(module.num_heads, dtype=torch.float32, device="cpu") * (2 * math.pi / module.num_heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    steps = torch.arange(1, module.n_points + 1, dtype=torch.float32, device="cpu")
    offsets = (directions[:, None, None] * steps[:, None]).expand(-1, module.n_levels, -1, -1)
    init.zeros_(module.sampling_offsets.weight)
    init.copy_(module.sampling_offsets.bias, offsets.flatten())
    init.zeros_(module.attention_weights.weight)
    init.zeros_(module.attention_weights.bias)
    for projection in (module.value_proj, module.output_proj):
        init.xavier_uniform_(projection.weight)
        init.zeros_(projection.bias)


__all__ = ["EDPoseMultiscaleDeformableAttention", "init_deformable_attention", "multi_scale_deformable_attention"]
