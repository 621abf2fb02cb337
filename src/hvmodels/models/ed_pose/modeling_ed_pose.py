"""ED-Pose: people and their keypoints in one pass, as sets of boxes, without heatmaps and suppression.

Paper: "Explicit Box Detection Unifies End-to-End Multi-Person Pose Estimation" (Yang et al., ICLR 2023,
arXiv 2302.01593). Original code: github.com/IDEA-Research/ED-Pose.

Differences from the original, none of which changes a value by more than rounding:

* The decoder attends within groups and among boxes, without a mask over all pairs of queries; nothing depends on labels
  at inference.
* Each head exists once. Heads are evaluated where their result is used: proposal boxes for the chosen tokens only, no
  refinement after the last layer, predictions of earlier layers in training only.
* Frozen batch norm is folded into the convolutions.
* The number of denoising queries is free, and they may be switched off; the original's decoder knows only 100.
* Any number of keypoints.

Kept on purpose: the clamp of the inverse sigmoid at 1e-3; the layer norm of the decoder's states for the predictions but
not for refinement; gradients of a layer's loss into the references of the layer before; keypoint sizes and their
embedding, which steer attention only and get a gradient of zero.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .backbone_ed_pose import EDPoseFrozenBatchNorm2d, build_backbone
from .configuration_ed_pose import NUM_GROUP_NORM_GROUPS, EDPoseConfig
from .decoder_ed_pose import (
    EDPoseClassHead,
    EDPoseDecoder,
    EDPoseFeedForward,
    EDPosePredictionMLP,
    EDPoseSelfAttention,
    sine_encoding,
)
from .deformable_attention_ed_pose import EDPoseMultiscaleDeformableAttention, init_deformable_attention
from .denoising_ed_pose import DenoisingQueries, make_denoising_queries
from .loss_ed_pose import compute_loss


PROPOSAL_SIZE = 0.05
PROPOSAL_MARGIN = 0.01
PRIOR_PROBABILITY = 0.01


@dataclass
class EDPoseModelOutput(ModelOutput):
    """Output of `EDPoseModel`; coordinates are relative to each image without its padding.

    Args:
        last_hidden_state: (batch, queries, d_model), states of the last decoder layer through its layer norm. Queries are
            the denoising queries, if any, then `num_groups` groups of a box and its keypoints.
        intermediate_hidden_states: The same for each layer; layers that see people only have `num_queries` queries.
        intermediate_reference_points: Boxes (batch, queries, 4), cx, cy, w, h, with which each layer began.
        encoder_last_hidden_state: (batch, tokens, d_model), all levels, finest first, row by row.
        enc_outputs_class: (batch, num_queries, num_labels) logits of the proposals that became queries.
        enc_outputs_coord: (batch, num_queries, 4) boxes of these proposals.
        encoder_hidden_states: Tokens before and after each encoder layer, with `output_hidden_states`.
        decoder_hidden_states: Queries before the first and after each decoder layer, with `output_hidden_states`.
    """

    last_hidden_state: torch.Tensor | None = None
    intermediate_hidden_states: tuple[torch.Tensor, ...] | None = None
    intermediate_reference_points: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    enc_outputs_class: torch.Tensor | None = None
    enc_outputs_coord: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class EDPoseForPoseEstimationOutput(ModelOutput):
    """Output of `EDPoseForPoseEstimation`; coordinates are relative to each image without its padding.

    Args:
        loss: Scalar, with `labels`.
        loss_dict: The parts of the loss before weighting, with `labels`.
        logits: (batch, num_groups, num_labels); class 1 is a person, class 0 is never a target.
        pred_boxes: (batch, num_groups, 4), cx, cy, w, h in [0, 1].
        pred_keypoints: (batch, num_groups, num_keypoints, 2), x, y in [0, 1].
        auxiliary_outputs: `logits`, `pred_boxes` and `pred_keypoints` (None where layers see people only) of the earlier
            decoder layers, with `labels` or on demand.
        enc_outputs_class: (batch, num_queries, num_labels) logits of the proposals that became queries.
        enc_outputs_coord: (batch, num_queries, 4) boxes of these proposals.
        denoising_outputs: `logits` and `pred_boxes` of the denoising queries for each decoder layer, in training.
        denoising_targets: `class_labels` and `boxes` they should give.
        last_hidden_state: See `EDPoseModelOutput`.
        encoder_last_hidden_state: See `EDPoseModelOutput`.
        encoder_hidden_states: See `EDPoseModelOutput`.
        decoder_hidden_states: See `EDPoseModelOutput`.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    pred_keypoints: torch.Tensor | None = None
    auxiliary_outputs: list[dict[str, torch.Tensor | None]] | None = None
    enc_outputs_class: torch.Tensor | None = None
    enc_outputs_coord: torch.Tensor | None = None
    denoising_outputs: list[dict[str, torch.Tensor]] | None = None
    denoising_targets: dict[str, torch.Tensor] | None = None
    last_hidden_state: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class FeatureLevels:
    """Feature maps as one sequence of tokens: levels finest first, each row by row.

    Args:
        tokens: (batch, tokens, d_model).
        spatial_shapes: (height, width) of each level.
        valid: Mask (batch, height, width) of each level, True on the image; None without padding.
    """

    tokens: torch.Tensor
    spatial_shapes: list[tuple[int, int]]
    valid: list[torch.Tensor] | None

    @property
    def padding_mask(self) -> torch.Tensor | None:
        """(batch, tokens), True on padding."""
        return None if self.valid is None else ~torch.cat([valid.flatten(1) for valid in self.valid], dim=1)

    @property
    def valid_sizes(self) -> torch.Tensor | None:
        """(batch, levels, 2) width and height of the image on each level, counted in the first row and column."""
        if self.valid is None:
            return None
        sizes = [torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], dim=-1) for valid in self.valid]
        return torch.stack(sizes, dim=1).float()

    @property
    def valid_ratios(self) -> torch.Tensor | None:
        """(batch, levels, 2) share of the width and height of each level that the image fills."""
        if self.valid is None:
            return None
        edges = [(valid[:, 0].float(), valid[:, :, 0].float()) for valid in self.valid]
        return torch.stack([torch.stack([row.mean(1), column.mean(1)], dim=-1) for row, column in edges], dim=1)

    def positions(self, num_features: int, temperatures: tuple[float, float]) -> torch.Tensor:
        """Sine encoding (batch or 1, tokens, num_features) of the row, then the column of each token.

        Both are counted from 1 to the size of the image, as shares of a turn.
        """
        encodings, half = [], num_features // 2
        for level, (height, width) in enumerate(self.spatial_shapes):
            if self.valid is None:
                rows, columns = (
                    torch.arange(1, size + 1, dtype=torch.float32, device=self.tokens.device)
                    for size in (height, width)
                )
                rows, columns = rows / (height + 1e-6), columns / (width + 1e-6)
                rows = sine_encoding(rows, half, temperatures[0])[:, None].expand(-1, width, -1)
                columns = sine_encoding(columns, half, temperatures[1])[None].expand(height, -1, -1)
                encodings.append(torch.cat([rows, columns], dim=-1).flatten(0, 1)[None])
            else:
                valid = self.valid[level]
                rows, columns = valid.cumsum(1, dtype=torch.float32), valid.cumsum(2, dtype=torch.float32)
                rows, columns = rows / (rows[:, -1:] + 1e-6), columns / (columns[:, :, -1:] + 1e-6)
                encoding = [sine_encoding(rows, half, temperatures[0]), sine_encoding(columns, half, temperatures[1])]
                encodings.append(torch.cat(encoding, dim=-1).flatten(1, 2))
        return torch.cat(encodings, dim=1)

    def centers(self) -> list[torch.Tensor]:
        """Centre x, y of each token of each level, (batch or 1, tokens of the level, 2), relative to the image."""
        valid_sizes, centers = self.valid_sizes, []
        for level, (height, width) in enumerate(self.spatial_shapes):
            rows, columns = (
                torch.arange(size, dtype=torch.float32, device=self.tokens.device) + 0.5 for size in (height, width)
            )
            grid = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
            sizes = grid.new_tensor([[width, height]]) if valid_sizes is None else valid_sizes[:, level]
            centers.append(grid / sizes[:, None])
        return centers


class EDPoseInputProjections(nn.Module):
    """Bring the backbone's maps to one width, and make smaller levels from the last of them.

    Args:
        channels: Channels of the backbone's maps.
        num_levels: Number of levels in all.
        width: Channels of the levels.
    """

    def __init__(self, channels: list[int], num_levels: int, width: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channel, width, kernel_size=1) for channel in channels)
        for extra in range(num_levels - len(channels)):
            channel = width if extra else channels[-1]
            self.convolutions.append(nn.Conv2d(channel, width, kernel_size=3, stride=2, padding=1))
        self.norms = nn.ModuleList(nn.GroupNorm(NUM_GROUP_NORM_GROUPS, width) for _ in range(num_levels))

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Maps of the backbone to maps of all levels."""
        levels = []
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if index < len(feature_maps):
                source = feature_maps[index]
            else:
                source = feature_maps[-1] if index == len(feature_maps) else levels[-1]
            # PyTorch's group norm loses two digits on maps in the memory format `channels_last`.
            levels.append(norm(convolution(source).contiguous()))
        return levels


class EDPoseEncoderLayer(GradientCheckpointingLayer):
    """Deformable attention of the tokens to each other, feed-forward block."""

    def __init__(self, config: EDPoseConfig):
        super().__init__()
        self.self_attn = EDPoseMultiscaleDeformableAttention(
            config.d_model, config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points
        )
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = EDPoseFeedForward(config.d_model, config.encoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position: torch.Tensor,
        reference_points: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Update the tokens.

        Args:
            hidden_states: (batch, tokens, d_model).
            position: Same shape, or a batch of 1.
            reference_points: (batch, tokens, levels, 2) x, y in units of the padded levels.
            spatial_shapes: (height, width) of each level.
            padding_mask: (batch, tokens), True on padding.
        """
        queries = hidden_states + position
        attended = self.self_attn(queries, hidden_states, reference_points, spatial_shapes, padding_mask)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        return self.final_layer_norm(hidden_states + self.feed_forward(hidden_states))


class EDPosePreTrainedModel(PreTrainedModel):
    """Initialisation and common settings of ED-Pose."""

    config: EDPoseConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["EDPoseEncoderLayer", "EDPoseDecoderLayer"]

    @staticmethod
    def _refuse_unknown(arguments: dict):
        """Options that all transformers models take mean nothing here; anything else is a misspelt argument."""
        if unknown := arguments.keys() - TransformersKwargs.__annotations__.keys():
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; `forward` takes `pixel_values`, `pixel_mask` and, with a head, "
                "`labels`."
            )

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False):
        """Pass modules without tensors of their own to `_init_weights` too: blocks know what their layers are for."""
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Fill the layers of `module` as the original does."""
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)  # PyTorch's default
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
            if isinstance(module, EDPoseClassHead):
                init.constant_(module.bias, math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY)))
        elif isinstance(module, nn.Conv2d):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, EDPoseFrozenBatchNorm2d):
            for name, buffer in module.named_buffers():
                (init.ones_ if name in ("weight", "running_var") else init.zeros_)(buffer)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, EDPosePredictionMLP):
            init.zeros_(module.layers[-1].weight)
            init.zeros_(module.layers[-1].bias)
        elif isinstance(module, EDPoseMultiscaleDeformableAttention):
            init_deformable_attention(module)
        elif isinstance(module, EDPoseSelfAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                # The original's query, key and value weights are one matrix of three times the height.
                init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
                init.zeros_(projection.bias)
            init.xavier_uniform_(module.o_proj.weight)
            init.zeros_(module.o_proj.bias)
        elif isinstance(module, EDPoseFeedForward):
            init.xavier_uniform_(module.fc1.weight)
            init.xavier_uniform_(module.fc2.weight)
        elif isinstance(module, EDPoseDecoder):
            for part in (
                *module.reference_point_head.layers,
                module.keypoint_embedding,
                module.keypoint_size_embedding,
            ):
                init.xavier_uniform_(part.weight)
        elif isinstance(module, EDPoseModel):
            init.xavier_uniform_(module.proposal_projection.weight)
            init.normal_(module.level_embedding)


class EDPoseModel(EDPosePreTrainedModel):
    """Backbone, encoder, choice of queries and decoder.

    The heads are part of the decoder, which refines and chooses its queries by them.
    """

    def __init__(self, config: EDPoseConfig):
        super().__init__(config)
        width = config.d_model
        self.backbone = build_backbone(config.backbone_config)
        self.input_projections = EDPoseInputProjections(self.backbone.channels, config.num_feature_levels, width)
        self.level_embedding = nn.Parameter(torch.empty(config.num_feature_levels, width))
        self.encoder_layers = nn.ModuleList(EDPoseEncoderLayer(config) for _ in range(config.encoder_layers))
        self.proposal_projection = nn.Linear(width, width)
        self.proposal_norm = nn.LayerNorm(width)
        self.proposal_class_head = EDPoseClassHead(width, config.num_labels)
        self.proposal_box_head = EDPosePredictionMLP(width, width, width, 4)
        self.decoder = EDPoseDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The backbone, which reads the image."""
        return self.backbone

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        denoising_queries: DenoisingQueries | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> EDPoseModelOutput:
        """Encode images and decode groups of a box and its keypoints.

        Args:
            pixel_values: (batch, 3, height, width), normalised RGB, zero on padding to the right and below.
            pixel_mask: (batch, height, width), True or 1 on the image, False or 0 on padding; None without padding.
            denoising_queries: Further queries for training, see `make_denoising_queries`.
            output_hidden_states: Whether to return the states of all layers; None for the configuration's choice.

        Raises:
            TypeError: If `pixel_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If a shape does not fit, or the images are too small for `num_queries`.
        """
        self._refuse_unknown(kwargs)
        self._check_inputs(pixel_values, pixel_mask)
        config = self.config
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        levels = self.extract_levels(pixel_values, pixel_mask)
        tokens, spatial_shapes, padding_mask = levels.tokens, levels.spatial_shapes, levels.padding_mask
        centers = levels.centers()
        valid_ratios = levels.valid_ratios
        reference_points = torch.cat(centers, dim=1)[:, :, None]
        if padding_mask is None:
            reference_points = reference_points.expand(tokens.shape[0], -1, len(spatial_shapes), -1)
        else:
            reference_points = reference_points * valid_ratios[:, None]

        position = levels.positions(config.d_model, config.position_temperatures).to(tokens.dtype)
        level_sizes = [height * width for height, width in spatial_shapes]
        position = torch.cat(
            [part + self.level_embedding[level] for level, part in enumerate(position.split(level_sizes, dim=1))],
            dim=1,
        )
        encoder_states = [tokens]
        for layer in self.encoder_layers:
            tokens = layer(tokens, position, reference_points, spatial_shapes, padding_mask)
            encoder_states.append(tokens)

        content, logits, reference_logits = self.choose_queries(tokens, centers, padding_mask)
        states = self.decoder(
            content.detach(),
            reference_logits.detach(),
            tokens,
            spatial_shapes,
            padding_mask,
            valid_ratios,
            denoising_queries,
        )
        return EDPoseModelOutput(
            last_hidden_state=states.normalized[-1],
            intermediate_hidden_states=states.normalized,
            intermediate_reference_points=states.references,
            encoder_last_hidden_state=tokens,
            enc_outputs_class=logits,
            enc_outputs_coord=reference_logits.sigmoid(),
            encoder_hidden_states=tuple(encoder_states) if output_hidden_states else None,
            decoder_hidden_states=states.raw if output_hidden_states else None,
        )

    def extract_levels(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> FeatureLevels:
        """Feature pyramid of the images; arguments as in `forward`."""
        valid = None
        if self.config.isolate_images and pixel_mask is not None:
            maps, valid = self._isolated_maps(pixel_values, pixel_mask)
        else:
            maps = self._maps(pixel_values)
        spatial_shapes = [(level.shape[2], level.shape[3]) for level in maps]
        if pixel_mask is not None and valid is None:
            mask = pixel_mask[None].float()
            valid = [nn.functional.interpolate(mask, size=shape)[0].bool() for shape in spatial_shapes]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        return FeatureLevels(tokens, spatial_shapes, valid)

    def _maps(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Maps of all levels, finest first."""
        return self.input_projections(self.backbone(pixel_values.to(self.dtype)).feature_maps)

    def _isolated_maps(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Maps of all levels, each image's made without its padding, and their masks, True on the image."""
        rows, columns = pixel_mask.bool().any(2).sum(1).tolist(), pixel_mask.bool().any(1).sum(1).tolist()
        images = [
            self._maps(pixels[None, :, :height, :width])
            for pixels, height, width in zip(pixel_values, rows, columns, strict=True)
        ]
        maps, valid = [], []
        for levels in zip(*images, strict=True):
            height, width = (max(level.shape[axis] for level in levels) for axis in (2, 3))
            padding = [(0, width - level.shape[3], 0, height - level.shape[2]) for level in levels]
            pairs = list(zip(levels, padding, strict=True))
            maps.append(torch.cat([nn.functional.pad(level, pad) for level, pad in pairs]))
            ones = [torch.ones_like(level[:, 0], dtype=torch.bool) for level in levels]
            valid.append(torch.cat([nn.functional.pad(one, pad) for one, pad in zip(ones, padding, strict=True)]))
        return maps, valid

    def choose_queries(
        self, memory: torch.Tensor, centers: list[torch.Tensor], padding_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose the tokens that most look like people.

        Args:
            memory: (batch, tokens, d_model).
            centers: Of each level, see `FeatureLevels.centers`.
            padding_mask: (batch, tokens), True on padding.

        Returns:
            Content (batch, num_queries, d_model), class logits (batch, num_queries, num_labels) and boxes before the
            sigmoid (batch, num_queries, 4), from the highest score down.
        """
        boxes = torch.cat(
            [
                nn.functional.pad(center, (0, 2), value=PROPOSAL_SIZE * 2.0**level)
                for level, center in enumerate(centers)
            ],
            dim=1,
        )
        valid = ((boxes > PROPOSAL_MARGIN) & (boxes < 1 - PROPOSAL_MARGIN)).all(-1, keepdim=True)
        if padding_mask is not None:
            valid = valid & ~padding_mask[..., None]
        proposals = torch.where(valid, torch.log(boxes / (1 - boxes)), torch.inf).expand(memory.shape[0], -1, -1)
        if memory.shape[1] < self.config.num_queries:
            raise ValueError(
                f"`pixel_values` has {memory.shape[1]} tokens an image, fewer than `num_queries` = "
                f"{self.config.num_queries}; use larger images."
            )
        memory = memory.masked_fill(~valid, 0.0)
        with torch.no_grad():  # a token that is not chosen needs no gradient
            scores = self.proposal_class_head(self.proposal_norm(self.proposal_projection(memory))).amax(-1)
            chosen = scores.topk(self.config.num_queries, dim=1).indices[..., None]
        memory = memory.gather(1, chosen.expand(-1, -1, memory.shape[-1]))
        proposals = proposals.gather(1, chosen.expand(-1, -1, 4))
        content = self.proposal_norm(self.proposal_projection(memory))
        reference_logits = self.proposal_box_head(content) + proposals
        return content, self.proposal_class_head(content), reference_logits

    def _check_inputs(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None):
        if not torch.is_tensor(pixel_values) or not pixel_values.is_floating_point():
            kind = pixel_values.dtype if torch.is_tensor(pixel_values) else type(pixel_values).__name__
            raise TypeError(f"`pixel_values` must be a floating-point tensor, got {kind}; use `EDPoseImageProcessor`.")
        shape = tuple(pixel_values.shape)
        if pixel_values.ndim != 4 or shape[1] != self.config.backbone_config.num_channels:
            raise ValueError(
                f"`pixel_values` must have shape (batch, {self.config.backbone_config.num_channels}, height, width), "
                f"got {shape}."
            )
        if pixel_mask is not None and tuple(pixel_mask.shape) != (shape[0], *shape[2:]):
            raise ValueError(
                f"`pixel_mask` must have shape (batch, height, width) = {(shape[0], *shape[2:])}, got "
                f"{tuple(pixel_mask.shape)}."
            )


class EDPoseForPoseEstimation(EDPosePreTrainedModel):
    """ED-Pose with its predictions, denoising queries and loss."""

    _keys_to_ignore_on_load_unexpected = [r"^label_embedding\."]

    def __init__(self, config: EDPoseConfig):
        super().__init__(config)
        self.model = EDPoseModel(config)
        self.label_embedding = None
        if config.num_denoising:
            self.label_embedding = nn.Embedding(config.denoising_label_size + 1, config.d_model)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The backbone, which reads the image."""
        return self.model.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        denoising_queries: DenoisingQueries | None = None,
        output_auxiliary: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> EDPoseForPoseEstimationOutput:
        """Find people and their keypoints, and compare them with `labels` if they are given.

        Args:
            pixel_values: (batch, 3, height, width), normalised RGB, zero on padding to the right and below.
            pixel_mask: (batch, height, width), True or 1 on the image, False or 0 on padding; None without padding.
            labels: One dict an image: `class_labels` (n,), `boxes` (n, 4), `keypoints` (n, num_keypoints, 2),
                `keypoints_visible` (n, num_keypoints) and `area` (n,), relative to the image without padding. n may be 0.
            denoising_queries: Queries to use in place of those drawn from `labels` in training mode.
            output_auxiliary: Whether to return predictions of the earlier decoder layers; None for only with `labels`.
            output_hidden_states: Whether to return the states of all layers; None for the configuration's choice.

        Raises:
            TypeError: If `pixel_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If a shape does not fit, or labels are not possible.
        """
        config, decoder = self.config, self.model.decoder
        if labels is not None:
            self._check_labels(labels, pixel_values)
            if denoising_queries is None and self.training and config.num_denoising:
                denoising_queries = make_denoising_queries(labels, config, self.label_embedding)
        outputs = self.model(
            pixel_values,
            pixel_mask,
            denoising_queries=denoising_queries,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        if output_auxiliary is None:
            output_auxiliary = labels is not None and config.auxiliary_loss
        num_denoising = 0 if denoising_queries is None else denoising_queries.content.shape[1]
        num_layers = config.decoder_layers
        predictions = [
            decoder.predict(
                index,
                outputs.intermediate_hidden_states[index],
                outputs.intermediate_reference_points[index],
                num_denoising,
            )
            for index in range(0 if output_auxiliary else num_layers - 1, num_layers)
        ]
        fields = {
            **predictions[-1][0],
            "auxiliary_outputs": [matching for matching, _ in predictions[:-1]] if output_auxiliary else None,
            "enc_outputs_class": outputs.enc_outputs_class,
            "enc_outputs_coord": outputs.enc_outputs_coord,
            "denoising_outputs": [denoising for _, denoising in predictions] if num_denoising else None,
            "denoising_targets": denoising_queries.targets if num_denoising else None,
        }
        loss, loss_dict = (None, None) if labels is None else compute_loss(fields, labels, config)
        return EDPoseForPoseEstimationOutput(
            loss=loss,
            loss_dict=loss_dict,
            **fields,
            last_hidden_state=outputs.last_hidden_state,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            decoder_hidden_states=outputs.decoder_hidden_states,
        )

    def _check_labels(self, labels: list[dict[str, torch.Tensor]], pixel_values: torch.Tensor):
        if not isinstance(labels, list | tuple) or not all(isinstance(label, dict) for label in labels):
            raise TypeError(f"`labels` must be a list of one dict an image, got {type(labels).__name__}.")
        if len(labels) != len(pixel_values):
            raise ValueError(f"`labels` must have one dict for each of {len(pixel_values)} images, got {len(labels)}.")


__all__ = ["EDPoseForPoseEstimation", "EDPoseModel", "EDPosePreTrainedModel"]
