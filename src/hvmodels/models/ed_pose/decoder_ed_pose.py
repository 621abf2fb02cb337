"""Decoder of ED-Pose: first people, then people with their keypoints."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_ed_pose import EDPoseConfig
from .deformable_attention_ed_pose import EDPoseMultiscaleDeformableAttention
from .denoising_ed_pose import DenoisingQueries, clamped_inverse_sigmoid, denoising_attention_mask


REFERENCE_TEMPERATURE = 10000


def sine_encoding(positions: torch.Tensor, num_features: int, temperature: float) -> torch.Tensor:
    """Sines and cosines in turn, (..., num_features), of `positions` (...), angles in units of full turns."""
    exponents = torch.arange(num_features // 2, dtype=torch.float32, device=positions.device) * (2 / num_features)
    angles = positions[..., None] * (2 * math.pi) / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class EDPoseMLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        sizes: Widths from input to output.
    """

    def __init__(self, *sizes: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., sizes[0]) to (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            hidden_states = nn.functional.relu(layer(hidden_states))
        return self.layers[-1](hidden_states)


class EDPosePredictionMLP(EDPoseMLP):
    """Three-layer head that starts by predicting zeros, for boxes and keypoints."""


class EDPoseClassHead(nn.Linear):
    """Class logits that start at a probability of 0.01."""


class EDPoseFeedForward(nn.Module):
    """Two linear layers with ReLU between them."""

    def __init__(self, d_model: int, ffn_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., d_model) to the same shape."""
        return self.fc2(nn.functional.relu(self.fc1(hidden_states), inplace=True))


class EDPoseSelfAttention(nn.Module):
    """Self-attention of the decoder's queries, in the blocks that may see each other only.

    The queries are, in this order, denoising queries (if any) and matching queries. Matching queries see no denoising
    query. While they are people they all see each other. Later they are groups of a box query and its keypoint queries:
    a query sees its own group, and a box query also the other box queries.

    Args:
        d_model: Width of the queries.
        num_heads: Number of heads.
    """

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.scaling = (d_model // num_heads) ** -0.5
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.o_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position: torch.Tensor,
        group_size: int | None = None,
        denoising_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            hidden_states: (batch, queries, d_model).
            position: Same shape, added for queries and keys.
            group_size: Queries of a group, None before there are groups.
            denoising_mask: (batch, 1, denoising queries, queries), True where a denoising query sees a query.
        """
        with_position = hidden_states + position
        query, key, value = (
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, states in (
                (self.q_proj, with_position),
                (self.k_proj, with_position),
                (self.v_proj, hidden_states),
            )
        )
        if denoising_mask is None:
            output = self._attend_matching(query, key, value, group_size)
        else:
            start = denoising_mask.shape[2]
            parts = (tensor[:, :, start:] for tensor in (query, key, value))
            denoising = scaled_dot_product_attention(query[:, :, :start], key, value, attn_mask=denoising_mask)
            output = torch.cat([denoising, self._attend_matching(*parts, group_size)], dim=2)
        return self.o_proj(output.transpose(1, 2).flatten(2))

    def _attend_matching(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group_size: int | None
    ) -> torch.Tensor:
        """(batch, heads, queries, head_dim) of the matching queries."""
        if group_size is None:
            return scaled_dot_product_attention(query, key, value)
        query, key, value = (tensor.unflatten(2, (-1, group_size)) for tensor in (query * self.scaling, key, value))
        scores = query @ key.transpose(-1, -2)  # (batch, heads, groups, group_size, group_size)
        # A box query shares one softmax between its group and the other boxes; its own box is in the group already.
        box_scores = query[:, :, :, 0] @ key[:, :, :, 0].transpose(-1, -2)
        groups = torch.arange(box_scores.shape[-1], device=query.device)
        own = groups == groups[:, None]  # not `torch.eye`, which onnxruntime lacks for booleans
        box_scores = torch.cat([scores[:, :, :, 0], box_scores.masked_fill(own, -torch.inf)], dim=-1)
        box_weights = box_scores.softmax(-1)
        weights = scores[:, :, :, 1:].softmax(-1)
        weights = torch.cat([box_weights[..., None, :group_size], weights], dim=-2)
        output = weights @ value
        from_boxes = box_weights[..., group_size:] @ value[:, :, :, 0]
        output = torch.cat([output[:, :, :, :1] + from_boxes[:, :, :, None], output[:, :, :, 1:]], dim=-2)
        return output.flatten(2, 3)


class EDPoseDecoderLayer(GradientCheckpointingLayer):
    """Self-attention of the queries, deformable attention to the image, feed-forward block."""

    def __init__(self, config: EDPoseConfig):
        super().__init__()
        self.self_attn = EDPoseSelfAttention(config.d_model, config.decoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = EDPoseMultiscaleDeformableAttention(
            config.d_model, config.decoder_attention_heads, config.num_feature_levels, config.decoder_n_points
        )
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = EDPoseFeedForward(config.d_model, config.decoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position: torch.Tensor,
        memory: torch.Tensor,
        value: torch.Tensor,
        reference_points: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        group_size: int | None = None,
        denoising_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Update the queries.

        Args:
            hidden_states: (batch, queries, d_model).
            position: Same shape.
            memory: Encoded image (batch, tokens, d_model).
            value: `memory` projected for this layer.
            reference_points: (batch, queries, levels, 4), in units of the padded levels.
            spatial_shapes: (height, width) of each level.
            group_size: See `EDPoseSelfAttention`.
            denoising_mask: See `EDPoseSelfAttention`.
        """
        attended = self.self_attn(hidden_states, position, group_size, denoising_mask)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        attended = self.encoder_attn(hidden_states + position, memory, reference_points, spatial_shapes, value=value)
        hidden_states = self.encoder_attn_layer_norm(hidden_states + attended)
        return self.final_layer_norm(hidden_states + self.feed_forward(hidden_states))


@dataclass
class DecoderStates:
    """What the decoder gives for each layer, to be read by `EDPoseDecoder.predict`.

    Args:
        raw: Queries before the first and after each layer, (batch, queries, d_model).
        normalized: Those after each layer through the final layer norm.
        references: Boxes, (batch, queries, 4) in [0, 1], with which each layer began; gradients flow to the layer
            that made them.
    """

    raw: tuple[torch.Tensor, ...]
    normalized: tuple[torch.Tensor, ...]
    references: tuple[torch.Tensor, ...]


class EDPoseDecoder(nn.Module):
    """Decoder with the heads that refine, expand and read out its queries."""

    def __init__(self, config: EDPoseConfig):
        super().__init__()
        self.config = config
        self.num_box_layers = config.num_box_decoder_layers
        width, num_layers = config.d_model, config.decoder_layers
        num_keypoint_layers = num_layers - self.num_box_layers
        self.layers = nn.ModuleList(EDPoseDecoderLayer(config) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(width)
        self.reference_point_head = EDPoseMLP(2 * width, width, width)
        self.keypoint_embedding = nn.Embedding(config.num_keypoints, width)
        self.keypoint_size_embedding = nn.Embedding(config.num_keypoints, 2)
        self.class_heads = nn.ModuleList(EDPoseClassHead(width, config.num_labels) for _ in range(num_layers))
        self.box_heads = nn.ModuleList(EDPosePredictionMLP(width, width, width, 4) for _ in range(num_layers))
        self.keypoint_heads = nn.ModuleList(
            EDPosePredictionMLP(width, width, width, 2)
            for _ in range(num_keypoint_layers + (config.expansion_head == "last"))
        )
        self.keypoint_size_head = EDPoseMLP(width, width, width, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        reference_logits: torch.Tensor,
        memory: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: torch.Tensor | None = None,
        valid_ratios: torch.Tensor | None = None,
        denoising: DenoisingQueries | None = None,
    ) -> DecoderStates:
        """Run all layers.

        Args:
            hidden_states: (batch, num_queries, d_model), one query a candidate.
            reference_logits: (batch, num_queries, 4), cx, cy, w, h before the sigmoid.
            memory: Encoded image (batch, tokens, d_model).
            spatial_shapes: (height, width) of each level.
            padding_mask: (batch, tokens), True on padding, None without padding.
            valid_ratios: (batch, levels, 2), real share of the width and height of each level, None without padding.
            denoising: Denoising queries to put in front.
        """
        num_denoising = 0
        if denoising is not None:
            num_denoising = denoising.content.shape[1]
            hidden_states = torch.cat([denoising.content.to(hidden_states.dtype), hidden_states], dim=1)
            reference_logits = torch.cat([denoising.reference_logits, reference_logits], dim=1)
        values = self.project_values(memory, padding_mask)
        references = reference_logits.sigmoid()
        raw, normalized, all_references = [hidden_states], [], [references]
        group_size = denoising_mask = None
        for index, layer in enumerate(self.layers):
            if denoising is not None and index in (0, self.num_box_layers):
                num_matching = hidden_states.shape[1] - num_denoising
                denoising_mask = denoising_attention_mask(denoising.chunk_ids, num_matching)
            inputs = references.detach()[:, :, None]
            if valid_ratios is not None:
                inputs = inputs * valid_ratios.repeat(1, 1, 2)[:, None]
            else:
                inputs = inputs.expand(-1, -1, len(spatial_shapes), -1)
            # The original embeds the box as a share of the finest padded level, which depends on the batch.
            embedded = references.detach() if self.config.isolate_images else inputs[:, :, 0]
            hidden_states = layer(
                hidden_states,
                self.embed_references(embedded, hidden_states.dtype),
                memory,
                values[index],
                inputs,
                spatial_shapes,
                group_size,
                denoising_mask,
            )
            raw.append(hidden_states)
            normalized.append(self.layer_norm(hidden_states))
            if index == len(self.layers) - 1:
                break  # references after the last layer have no use
            references = self.refine(index, hidden_states, references.detach(), num_denoising)
            if index == self.num_box_layers - 1:
                hidden_states, references = self.expand(index, hidden_states, references, num_denoising)
                group_size = self.config.num_keypoints + 1
            all_references.append(references)
        return DecoderStates(tuple(raw), tuple(normalized), tuple(all_references))

    def project_values(self, memory: torch.Tensor, padding_mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The image as each layer's cross-attention sees it, by one product for all layers."""
        projections = [layer.encoder_attn.value_proj for layer in self.layers]
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        values = nn.functional.linear(memory, weight, bias)
        if padding_mask is not None:
            values = values.masked_fill(padding_mask[..., None], 0.0)
        return values.chunk(len(projections), dim=-1)

    def embed_references(self, references: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Position (batch, queries, d_model) of boxes (batch, queries, 4)."""
        y_x_w_h = torch.cat([references[..., [1, 0]], references[..., 2:]], dim=-1)
        encoding = sine_encoding(y_x_w_h, self.config.d_model // 2, REFERENCE_TEMPERATURE).flatten(-2)
        return self.reference_point_head(encoding.to(dtype))

    def refine(
        self, index: int, hidden_states: torch.Tensor, references: torch.Tensor, num_denoising: int
    ) -> torch.Tensor:
        """References (batch, queries, 4) after layer `index`, from its raw states and the references before it."""
        logits = clamped_inverse_sigmoid(references, self.config.inverse_sigmoid_eps)
        if index < self.num_box_layers:
            return (self.box_heads[index](hidden_states) + logits).sigmoid()
        boxes, keypoints = self.split_groups(hidden_states, num_denoising)
        box_logits, keypoint_logits = self.split_groups(logits, num_denoising)
        boxes = (self.box_heads[index](boxes) + box_logits).sigmoid()
        changes = torch.cat(
            [self.keypoint_heads[index - self.num_box_layers](keypoints), self.keypoint_size_head(keypoints)], dim=-1
        )
        keypoints = (changes + keypoint_logits).sigmoid()
        return self.join_groups(boxes, keypoints, num_denoising)

    def expand(
        self, index: int, hidden_states: torch.Tensor, references: torch.Tensor, num_denoising: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the best people of box layer `index` and give each its keypoint queries."""
        config = self.config
        people, boxes = hidden_states[:, num_denoising:], references[:, num_denoising:]
        scores = self.class_heads[index](people).amax(-1)
        best = scores.topk(config.num_groups, dim=1).indices[..., None]
        people = people.gather(1, best.expand(-1, -1, people.shape[-1]))
        boxes = boxes.gather(1, best.expand(-1, -1, 4))
        keypoints = people[:, :, None] + self.keypoint_embedding.weight
        head = self.keypoint_heads[-1 if config.expansion_head == "last" else 0]
        logits = clamped_inverse_sigmoid(boxes[:, :, None, :2], config.inverse_sigmoid_eps)
        centers = (head(keypoints) + logits).sigmoid()
        sizes = self.keypoint_size_embedding.weight.to(boxes.dtype).sigmoid() * boxes[:, :, None, 2:]
        keypoint_boxes = torch.cat([centers, sizes], dim=-1)
        people = torch.cat([hidden_states[:, :num_denoising], people], dim=1)
        boxes = torch.cat([references[:, :num_denoising], boxes], dim=1)
        return (
            self.join_groups(people, keypoints, num_denoising),
            self.join_groups(boxes, keypoint_boxes, num_denoising),
        )

    def split_groups(self, queries: torch.Tensor, num_denoising: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Box queries (batch, denoising + groups, ...) and keypoint queries (batch, groups, keypoints, ...)."""
        groups = queries[:, num_denoising:].unflatten(1, (-1, self.config.num_keypoints + 1))
        boxes = groups[:, :, 0]
        if num_denoising:
            boxes = torch.cat([queries[:, :num_denoising], boxes], dim=1)
        return boxes, groups[:, :, 1:]

    def join_groups(self, boxes: torch.Tensor, keypoints: torch.Tensor, num_denoising: int) -> torch.Tensor:
        """The inverse of `split_groups`."""
        groups = torch.cat([boxes[:, num_denoising:, None], keypoints], dim=2).flatten(1, 2)
        return torch.cat([boxes[:, :num_denoising], groups], dim=1) if num_denoising else groups

    def predict(
        self, index: int, hidden_states: torch.Tensor, references: torch.Tensor, num_denoising: int = 0
    ) -> tuple[dict[str, torch.Tensor | None], dict[str, torch.Tensor] | None]:
        """What layer `index` says.

        Args:
            index: The layer.
            hidden_states: Its normalised states (batch, queries, d_model).
            references: The references with which it began, (batch, queries, 4).
            num_denoising: Number of denoising queries in front.

        Returns:
            `logits`, `pred_boxes`, `pred_keypoints` (None for layers that see people only) of the matching queries, and
            `logits`, `pred_boxes` of the denoising queries (None if there are none).
        """
        reference_logits = clamped_inverse_sigmoid(references, self.config.inverse_sigmoid_eps)
        pred_keypoints = None
        if index >= self.num_box_layers:
            hidden_states, keypoints = self.split_groups(hidden_states, num_denoising)
            reference_logits, keypoint_logits = self.split_groups(reference_logits, num_denoising)
            changes = self.keypoint_heads[index - self.num_box_layers](keypoints)
            pred_keypoints = (changes + keypoint_logits[..., :2]).sigmoid()
        logits = self.class_heads[index](hidden_states)
        boxes = (self.box_heads[index](hidden_states) + reference_logits).sigmoid()
        matching = {
            "logits": logits[:, num_denoising:],
            "pred_boxes": boxes[:, num_denoising:],
            "pred_keypoints": pred_keypoints,
        }
        if not num_denoising:
            return matching, None
        return matching, {"logits": logits[:, :num_denoising], "pred_boxes": boxes[:, :num_denoising]}


__all__ = ["EDPoseDecoder", "EDPoseDecoderLayer", "EDPoseSelfAttention", "sine_encoding"]
