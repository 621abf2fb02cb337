"""DeciWatch: poses of every frame from the poses of every N-th frame.

Paper: "DeciWatch: A Simple Baseline for 10x Efficient 2D and 3D Pose Estimation" (Zeng et al., ECCV 2022, arXiv 2203.08713).
A transformer encoder denoises the seen poses (section 3.2); between these, poses are interpolated, embedded by a convolution
and recovered by a transformer decoder (section 3.3).

Deliberate differences from the original (github.com/cure-lab/DeciWatch), none of which changes a value by more than rounding:

- the encoder projects keys and values of the seen frames only, since no other frame may be attended to; where these are
  few, the projections of queries and outputs are applied to them instead of to the many frames that attend;
- the interpolation is one matrix, which is folded into the convolution behind it;
- position code, masks and matrices are buffers, and windows are cut from the seen poses, of which none is copied;
- denoised poses are returned for the seen frames only; for the others the original's have no meaning;
- where the decoder leaves unseen frames out (`memory_mask_type="boolean"`), or is not run, they do not pass the encoder.

The original hands its decoder an integer padding mask, which PyTorch 1.9 to 1.11 adds to the attention scores: frames that
were not seen are not left out but preferred by 1. Published weights were trained so, hence `memory_mask_type="additive"`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithCrossAttentions
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_deciwatch import DeciWatchConfig
from .windows_pose_sequence import overlap_average, resize_sequence, take_windows, window_starts


CONSTANTS = ("position_code", "encoder_bias", "memory_bias", "interpolation", "embedding")
KERNEL_SIZE = 5
TEMPERATURE = 10000
SMALLEST_SIZE = 1e-6
# Windows that pass the network together without gradients: few, so that their activations stay in the cache of a core.
WINDOWS_AT_ONCE = {"cpu": 8}
MOST_WINDOWS_AT_ONCE = 1024


@dataclass
class DeciWatchModelOutput(ModelOutput):
    """Windows as the network gives them.

    Args:
        recovered_poses: (windows, window_size, joints, dims), in the unit of the input.
        denoised_poses: (windows, num_intervals + 1, joints, dims), the seen frames.
        encoder_last_hidden_state: (windows, frames, hidden_size); frames are `window_size`, or only the seen ones where the
            decoder leaves the others out.
        decoder_last_hidden_state: (windows, window_size, hidden_size), None without decoder.
        encoder_hidden_states: Embeddings, then the output of each layer.
        encoder_attentions: (windows, heads, frames, num_intervals + 1) of each layer.
        decoder_hidden_states: Embeddings, then the output of each layer.
        decoder_attentions: (windows, heads, window_size, window_size) of each layer.
        cross_attentions: (windows, heads, window_size, frames) of each layer.
    """

    recovered_poses: torch.Tensor | None = None
    denoised_poses: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    decoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class DeciWatchPoseRecoveryOutput(ModelOutput):
    """Whole sequences.

    Args:
        loss: Weighted sum of both losses, with labels.
        recovered_poses: (batch, frames, joints, dims), in the unit of the input; 0 where `refined_mask` is False.
        denoised_poses: (batch, samples, joints, dims) of the frames 0, N, 2N, ...; the last one stands for the last frame of
            a track that does not end with a seen one.
        refined_mask: (batch, frames), True where there is a result.
    """

    loss: torch.Tensor | None = None
    recovered_poses: torch.Tensor | None = None
    denoised_poses: torch.Tensor | None = None
    refined_mask: torch.Tensor | None = None


def position_code(length: int, size: int) -> torch.Tensor:
    """Sines and cosines of the frame, (length, size); the wavelengths differ from the usual ones, as in the original."""
    angles = torch.arange(length, dtype=torch.float32) / (length - 1 + 1e-6) * (2 * math.pi)
    # The exponent runs up to 2, not 1.
    wavelengths = TEMPERATURE ** (2 * torch.arange(size // 2, dtype=torch.float32) / (size // 2))
    angles = angles[:, None] / wavelengths
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def interpolation_matrix(interval: int, num_intervals: int) -> torch.Tensor:
    """(interval * num_intervals + 1, num_intervals + 1): seen poses to the straight lines between them."""
    frames = torch.arange(interval * num_intervals + 1, dtype=torch.float32)
    distances = (frames[:, None] - torch.arange(num_intervals + 1, dtype=torch.float32) * interval).abs()
    return (1 - distances / interval).clamp(min=0)


def window_constants(config: DeciWatchConfig) -> dict[str, torch.Tensor]:
    """What does not depend on the poses.

    Returns:
        `position_code` (frames, hidden_size); `encoder_bias` (frames, samples), which bars a frame from attending to itself;
        `memory_bias` (1, frames), 1 where a frame is not seen; `interpolation` (frames, samples); `embedding` (frames,
        samples * 5), which maps what each sample adds to each place of the convolution's kernel to the frames.
    """
    interval, samples = config.sample_interval, config.num_intervals + 1
    frames = torch.arange(config.window_size)
    interpolation = interpolation_matrix(interval, config.num_intervals)
    padded = nn.functional.pad(interpolation, (0, 0, KERNEL_SIZE // 2, KERNEL_SIZE // 2))
    return {
        "position_code": position_code(config.window_size, config.hidden_size),
        "encoder_bias": torch.zeros(config.window_size, samples).masked_fill(
            frames[:, None] == torch.arange(samples) * interval, -math.inf
        ),
        "memory_bias": (frames % interval != 0).float()[None],
        "interpolation": interpolation,
        "embedding": padded.unfold(0, KERNEL_SIZE, 1).flatten(1),
    }


def person_frame(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a person is and how large, from the seen poses of windows.

    Args:
        samples: (windows, samples, joints, dims).

    Returns:
        Mean over samples and joints (windows, 1, 1, dims), and the median over the samples of the largest side of the box
        around all joints (windows, 1, 1, 1).
    """
    samples = samples.to(torch.promote_types(samples.dtype, torch.float32))
    sizes = (samples.amax(2) - samples.amin(2)).amax(-1)
    size = sizes.median(1).values.clamp(min=SMALLEST_SIZE)
    return samples.mean((1, 2), keepdim=True), size[:, None, None, None]


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention as products and a softmax: (batch, heads, queries, dim) to (batch, queries, heads, dim), and weights."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(
        query.dtype
    )
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class DeciWatchProjection(nn.Linear):
    """A layer of an attention.

    Args:
        size: Inputs and outputs.
        gain: Factor of the initial weights.
    """

    def __init__(self, size: int, gain: float = 1.0):
        super().__init__(size, size)
        self.gain = gain


class DeciWatchAttention(nn.Module):
    """Multi-head attention; queries and keys get the position code, values do not."""

    def __init__(self, config: DeciWatchConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        # The original fills queries, keys and values as one matrix, which makes their weights smaller.
        self.q_proj, self.k_proj, self.v_proj = (
            DeciWatchProjection(config.hidden_size, gain=math.sqrt(0.5)) for _ in range(3)
        )
        self.o_proj = DeciWatchProjection(config.hidden_size)

    def forward(
        self,
        query_states: torch.Tensor,
        key_states: torch.Tensor,
        query_position: torch.Tensor,
        key_position: torch.Tensor,
        attention_bias: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(windows, queries, hidden_size) and (windows, keys, hidden_size) to the first shape, and weights if eager.

        Args:
            query_states: States that attend.
            key_states: States that are attended to.
            query_position: (queries, hidden_size).
            key_position: (keys, hidden_size).
            attention_bias: Added to the scores, (queries or 1, keys).
        """
        queries, keys = len(query_position), len(key_position)
        few_keys = keys < queries and keys * self.num_heads <= self.config.hidden_size
        if few_keys and self.config._attn_implementation == "sdpa":
            return self._attend_to_few(query_states + query_position, key_states, key_position, attention_bias), None
        query, key, value = (
            project(states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project, states in (
                (self.q_proj, query_states + query_position),
                (self.k_proj, key_states + key_position),
                (self.v_proj, key_states),
            )
        )
        if attention_bias is not None:
            attention_bias = attention_bias.expand(1, 1, queries, keys)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_bias, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.flatten(2)), weights

    def _attend_to_few(
        self,
        query_states: torch.Tensor,
        key_states: torch.Tensor,
        key_position: torch.Tensor,
        attention_bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """The same with the projections of queries and of the output applied to the keys and values, which are fewer."""
        shape = (self.num_heads, self.head_dim)
        key, value = (
            project(states).unflatten(-1, shape)
            for project, states in ((self.k_proj, key_states + key_position), (self.v_proj, key_states))
        )
        key = key * self.scaling
        constant = (key * self.q_proj.bias.view(shape)).sum(-1).transpose(1, 2)[..., None]
        key = torch.einsum("bkhd,hdc->bhkc", key, self.q_proj.weight.unflatten(0, shape)).flatten(1, 2)
        value = torch.einsum("bkhd,chd->bhkc", value, self.o_proj.weight.unflatten(1, shape)).flatten(1, 2)
        # (windows, heads, keys, queries): a softmax over few entries is fast only if they do not lie side by side.
        scores = (key @ query_states.transpose(1, 2)).unflatten(1, (self.num_heads, -1)) + constant
        if attention_bias is not None:
            scores = scores + attention_bias.T
        weights = nn.functional.dropout(scores.softmax(2), self.config.dropout, self.training)
        return weights.flatten(1, 2).transpose(1, 2) @ value + self.o_proj.bias


class DeciWatchFeedForward(nn.Module):
    """Two layers with a leaky ReLU."""

    def __init__(self, config: DeciWatchConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(windows, frames, hidden_size) to the same."""
        return self.fc2(self.dropout(nn.functional.leaky_relu_(self.fc1(hidden_states))))


class DeciWatchEncoderLayer(GradientCheckpointingLayer):
    """All frames attend to the seen ones, none to itself."""

    def __init__(self, config: DeciWatchConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = DeciWatchAttention(config)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = DeciWatchFeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position: torch.Tensor,
        attention_bias: torch.Tensor,
        interval: int,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """(windows, frames, hidden_size) to the same; every `interval`-th frame is seen."""

        def attend(states: torch.Tensor) -> torch.Tensor:
            keys = states[:, ::interval]
            return self.dropout(
                self.self_attention(states, keys, position, position[::interval], attention_bias, **kwargs)[0]
            )

        if self.pre_norm:
            hidden_states = hidden_states + attend(self.self_attention_norm(hidden_states))
            update = self.feed_forward(self.feed_forward_norm(hidden_states))
            return hidden_states + self.dropout(update)
        hidden_states = self.self_attention_norm(hidden_states + attend(hidden_states))
        return self.feed_forward_norm(hidden_states + self.dropout(self.feed_forward(hidden_states)))


class DeciWatchDecoderLayer(GradientCheckpointingLayer):
    """All frames attend to each other, then to those of the encoder."""

    def __init__(self, config: DeciWatchConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = DeciWatchAttention(config)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        self.cross_attention = DeciWatchAttention(config)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = DeciWatchFeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        position: torch.Tensor,
        memory_position: torch.Tensor,
        memory_bias: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """(windows, window_size, hidden_size) and memory (windows, frames, hidden_size) to the first shape."""

        def attend(states: torch.Tensor) -> torch.Tensor:
            return self.dropout(self.self_attention(states, states, position, position, **kwargs)[0])

        def attend_to_memory(states: torch.Tensor) -> torch.Tensor:
            update, _ = self.cross_attention(states, memory, position, memory_position, memory_bias, **kwargs)
            return self.dropout(update)

        if self.pre_norm:
            hidden_states = hidden_states + attend(self.self_attention_norm(hidden_states))
            hidden_states = hidden_states + attend_to_memory(self.cross_attention_norm(hidden_states))
            update = self.feed_forward(self.feed_forward_norm(hidden_states))
            return hidden_states + self.dropout(update)
        hidden_states = self.self_attention_norm(hidden_states + attend(hidden_states))
        hidden_states = self.cross_attention_norm(hidden_states + attend_to_memory(hidden_states))
        return self.feed_forward_norm(hidden_states + self.dropout(self.feed_forward(hidden_states)))


class DeciWatchPreTrainedModel(PreTrainedModel):
    """Initial weights, and what transformers has to know of the models."""

    config: DeciWatchConfig
    base_model_prefix = "deciwatch"
    main_input_name = "pose_values"
    input_modalities = ("time",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["DeciWatchEncoderLayer", "DeciWatchDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Xavier-uniform weights, as in the original, and PyTorch's own biases and norms."""
        if isinstance(module, DeciWatchProjection):
            init.xavier_uniform_(module.weight, gain=module.gain)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv1d):
            init.xavier_uniform_(module.weight)
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, DeciWatchModel):
            for name, value in window_constants(module.config).items():
                init.copy_(getattr(module, name), value)

    def _check_poses(self, name: str, poses: torch.Tensor):
        """Refuse anything but floating-point (batch, frames, joints, dims) of the configuration."""
        if not torch.is_tensor(poses) or not poses.is_floating_point():
            kind = poses.dtype if torch.is_tensor(poses) else type(poses).__name__
            raise TypeError(f"`{name}` must be a floating-point tensor (batch, frames, joints, dims), got {kind}.")
        shape = (self.config.num_joints, self.config.joint_dim)
        if poses.ndim != 4 or poses.shape[2:] != shape or 0 in poses.shape:
            raise ValueError(
                f"`{name}` must have shape (batch, frames, {shape[0]}, {shape[1]}), at least one frame of `num_joints` joints "
                f"and `joint_dim` numbers, got {tuple(poses.shape)}."
            )


class DeciWatchEncoder(DeciWatchPreTrainedModel):
    """The layers that denoise the seen poses."""

    _can_record_outputs = {"hidden_states": DeciWatchEncoderLayer, "attentions": DeciWatchAttention}

    def __init__(self, config: DeciWatchConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([DeciWatchEncoderLayer(config) for _ in range(config.encoder_layers)])
        self.layer_norm = nn.LayerNorm(config.hidden_size) if config.pre_norm else nn.Identity()
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        hidden_states: torch.Tensor,
        position: torch.Tensor,
        attention_bias: torch.Tensor,
        interval: int,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """(windows, frames, hidden_size) to the same; every `interval`-th frame is seen."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, position, attention_bias, interval, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states))


class DeciWatchDecoder(DeciWatchPreTrainedModel):
    """The layers that recover the poses between the seen ones."""

    _can_record_outputs = {
        "hidden_states": DeciWatchDecoderLayer,
        "attentions": OutputRecorder(DeciWatchAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(DeciWatchAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: DeciWatchConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([DeciWatchDecoderLayer(config) for _ in range(config.decoder_layers)])
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        position: torch.Tensor,
        memory_position: torch.Tensor,
        memory_bias: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        """(windows, window_size, hidden_size) and memory (windows, frames, hidden_size) to the first shape."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, memory, position, memory_position, memory_bias, **kwargs)
        return BaseModelOutputWithCrossAttentions(last_hidden_state=self.layer_norm(hidden_states))


class DeciWatchModel(DeciWatchPreTrainedModel):
    """Both networks on windows of one length."""

    def __init__(self, config: DeciWatchConfig):
        super().__init__(config)
        self.encoder_embedding = nn.Linear(config.pose_dim, config.hidden_size)
        self.encoder = DeciWatchEncoder(config)
        self.encoder_head = nn.Linear(config.hidden_size, config.pose_dim)
        self.decoder_embedding = nn.Conv1d(config.pose_dim, config.hidden_size, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.decoder = DeciWatchDecoder(config)
        self.decoder_head = nn.Linear(config.hidden_size, config.pose_dim)
        for name, value in window_constants(config).items():
            self.register_buffer(name, value, persistent=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that embeds the seen poses."""
        return self.encoder_embedding

    @can_return_tuple
    def forward(self, pose_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> DeciWatchModelOutput:
        """Recover windows.

        Args:
            pose_values: (windows, window_size, joints, dims), of which the frames 0, N, 2N, ... are read.

        Raises:
            TypeError: If `pose_values` is not a floating-point tensor.
            ValueError: If its shape does not fit the configuration.
        """
        self._check_windows(pose_values)
        return self.recover(pose_values[:, :: self.config.sample_interval], **kwargs)

    def recover(self, samples: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> DeciWatchModelOutput:
        """The same from the seen poses alone, (windows, num_intervals + 1, joints, dims)."""
        config = self.config
        if config.window_normalization == "person":
            center, size = person_frame(samples)
            samples = (samples - center) / size
        # Poses stay in their own precision outside of the network.
        poses = samples.flatten(2).to(self.encoder_embedding.weight.dtype)
        skips_unseen = config.memory_mask_type == "boolean" or config.recover_mode == "interpolation"

        hidden_states = self.encoder_embedding(poses)
        code, bias, memory_bias, interpolation, embedding = (
            getattr(self, name).to(hidden_states.dtype) for name in CONSTANTS
        )
        interval, position = config.sample_interval, code
        if skips_unseen:
            position, bias, interval = position[::interval], bias[::interval], 1
        else:
            # Unseen poses count as 0, so that their embedding is the bias.
            unseen = self.encoder_embedding.bias.expand(len(poses), config.num_intervals, interval - 1, -1)
            seen = hidden_states[:, :-1, None]
            hidden_states = torch.cat([torch.cat([seen, unseen], 2).flatten(1, 2), hidden_states[:, -1:]], 1)
        kwargs["return_dict"] = True  # in the networks, whatever the configuration says
        encoded = self.encoder(hidden_states, position, bias, interval, **kwargs)
        memory = encoded.last_hidden_state
        denoised = self.encoder_head(memory[:, ::interval]) + poses

        recovered = interpolation @ denoised
        decoded = BaseModelOutputWithCrossAttentions()
        if config.recover_mode == "transformer":
            weight = self.decoder_embedding.weight.permute(1, 0, 2).flatten(1)
            places = (denoised @ weight).unflatten(-1, (-1, KERNEL_SIZE)).transpose(2, 3)
            hidden_states = embedding @ places.flatten(1, 2) + self.decoder_embedding.bias
            decoded = self.decoder(
                hidden_states, memory, code, position, None if skips_unseen else memory_bias, **kwargs
            )
            recovered = recovered + self.decoder_head(decoded.last_hidden_state)

        recovered, denoised = (
            poses.unflatten(-1, (-1, config.joint_dim)).to(samples.dtype) for poses in (recovered, denoised)
        )
        if config.window_normalization == "person":
            recovered, denoised = (poses * size + center for poses in (recovered, denoised))
        return DeciWatchModelOutput(
            recovered_poses=recovered,
            denoised_poses=denoised,
            encoder_last_hidden_state=memory,
            decoder_last_hidden_state=decoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    def recover_in_parts(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Recovered and denoised poses of any number of windows; without gradients a few at a time.

        Args:
            samples: (windows, num_intervals + 1, joints, dims).
        """
        count = len(samples)
        if not torch.is_grad_enabled():
            count = WINDOWS_AT_ONCE.get(samples.device.type, MOST_WINDOWS_AT_ONCE)
        parts = [self.recover(part) for part in samples.split(max(count, 1))]
        if len(parts) == 1:
            return parts[0].recovered_poses, parts[0].denoised_poses
        return (
            torch.cat([part.recovered_poses for part in parts]),
            torch.cat([part.denoised_poses for part in parts]),
        )

    def refine_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """Recovered poses of windows (windows, window_size, joints, dims), of which every N-th frame is read.

        Raises:
            TypeError: If `windows` is not a floating-point tensor.
            ValueError: If its shape does not fit.
        """
        self._check_windows(windows)
        return self.recover_in_parts(windows[:, :: self.config.sample_interval])[0]

    def _check_windows(self, windows: torch.Tensor):
        self._check_poses("pose_values", windows)
        if windows.shape[1] != self.config.window_size:
            raise ValueError(
                f"`pose_values` must have the {self.config.window_size} frames of a window, `sample_interval * num_intervals "
                f"+ 1`, got {windows.shape[1]}; `DeciWatchForPoseRecovery` takes sequences of any length."
            )


class DeciWatchForPoseRecovery(DeciWatchPreTrainedModel):
    """DeciWatch on sequences of any length, cut into overlapping windows whose mean is taken."""

    def __init__(self, config: DeciWatchConfig):
        super().__init__(config)
        self.deciwatch = DeciWatchModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that embeds the seen poses."""
        return self.deciwatch.encoder_embedding

    def refine_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """Recovered poses of windows (windows, window_size, joints, dims), of which every N-th frame is read."""
        return self.deciwatch.refine_windows(windows)

    @can_return_tuple
    def forward(
        self,
        pose_values: torch.Tensor,
        pose_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DeciWatchPoseRecoveryOutput:
        """Recover the poses of every frame, and compare them with `labels`.

        Args:
            pose_values: (batch, frames, joints, dims), one track a row, of which the frames 0, N, 2N, ... and the last one of
                a track are read.
            pose_mask: (batch, frames), True for frames of the track, which come first; all if None.
            labels: The right poses, of the shape of `pose_values`. The loss is the mean over windows of
                `denoise_loss_weight` times the mean distance of seen poses plus `recover_loss_weight` times that of all
                poses, each coordinate for itself; with `window_normalization="person"` in sizes of the person.

        Raises:
            TypeError: If poses are not floating-point tensors, or the mask is not boolean.
            ValueError: If shapes do not fit, or the mask has frames behind padding or a row without frames.
        """
        config = self.config
        self._check_poses("pose_values", pose_values)
        batch, frames = pose_values.shape[:2]
        if labels is not None:
            self._check_poses("labels", labels)
            if labels.shape != pose_values.shape:
                raise ValueError(
                    f"`labels` must have the shape of `pose_values`, {tuple(pose_values.shape)}, got {tuple(labels.shape)}."
                )
        lengths = [frames] * batch if pose_mask is None else self._read_mask(pose_mask, (batch, frames))

        tracks, losses, counts = [], [], []
        for length in sorted(set(lengths)):
            rows = [row for row, other in enumerate(lengths) if other == length]
            # Frames come first, so that the tracks of one length are cut as one sequence.
            poses, targets = (
                None
                if values is None
                else (values if len(rows) == batch else values[rows])[:, :length].transpose(0, 1)
                for values in (pose_values, labels)
            )
            recovered, denoised, group_loss, count = self._recover_tracks(poses, targets)
            tracks.append((rows, recovered.transpose(0, 1), denoised.transpose(0, 1)))
            losses.append(group_loss)
            counts.append(count)
        loss = None
        if labels is not None:
            loss = sum(part * (count / sum(counts)) for part, count in zip(losses, counts, strict=True))

        _, recovered, denoised = tracks[-1]  # the longest
        num_frames = max(recovered.shape[1], frames if config.tail == "keep" else 0)
        mask = torch.ones(batch, num_frames, dtype=torch.bool, device=recovered.device)
        if len(tracks) > 1 or recovered.shape[1] < num_frames:
            recovered = recovered.new_zeros(batch, num_frames, *recovered.shape[2:])
            denoised = denoised.new_zeros(batch, *denoised.shape[1:])
            for rows, *values in tracks:
                for whole, part in zip((recovered, denoised), values, strict=True):
                    whole[rows, : part.shape[1]] = part
                mask[rows, values[0].shape[1] :] = False
        return DeciWatchPoseRecoveryOutput(
            loss=loss, recovered_poses=recovered, denoised_poses=denoised, refined_mask=mask
        )

    @staticmethod
    def _read_mask(pose_mask: torch.Tensor, shape: tuple[int, int]) -> list[int]:
        """Length of each track."""
        if not torch.is_tensor(pose_mask) or pose_mask.dtype != torch.bool:
            kind = pose_mask.dtype if torch.is_tensor(pose_mask) else type(pose_mask).__name__
            raise TypeError(f"`pose_mask` must be a boolean tensor (batch, frames), got {kind}.")
        if pose_mask.shape != shape:
            raise ValueError(f"`pose_mask` must have shape {shape} (batch, frames), got {tuple(pose_mask.shape)}.")
        if not pose_mask[:, 0].all() or (pose_mask[:, 1:] > pose_mask[:, :-1]).any():
            raise ValueError(
                "`pose_mask` must be True for the first frames of each row, at least one, and False behind them: padding "
                "comes last. Fill gaps inside a track before; the feature extractor does."
            )
        return pose_mask.sum(1).tolist()

    def _recover_tracks(
        self, poses: torch.Tensor, targets: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int]:
        """Tracks of one length.

        Args:
            poses: (frames, tracks, joints, dims).
            targets: The right ones, or None.

        Returns:
            Recovered and denoised poses (frames, tracks, joints, dims), the loss or None, and the number of windows.
        """
        config, length = self.config, len(poses)
        interval, window_size = config.sample_interval, config.window_size
        fill = config.short_sequence if length < window_size else "replicate"
        total = max(length, window_size)
        if config.tail == "keep":
            total = max(window_size, -(-(length - 1) // interval) * interval + 1)
        starts = window_starts(total, window_size, config.window_stride, config.tail)
        sample_starts = [start // interval for start in starts]
        samples = resize_sequence(poses, total, fill)[::interval]

        def cut(values: torch.Tensor, first: list[int], size: int) -> torch.Tensor:
            """(frames, tracks, ...) to (tracks * windows, size, ...)."""
            return take_windows(values, first, size).movedim(2, 0).flatten(0, 1)

        def join(windows: torch.Tensor, first: list[int]) -> torch.Tensor:
            """(tracks * windows, size, ...) to (frames, tracks, ...)."""
            windows = windows.unflatten(0, (-1, len(first))).movedim(0, 2)
            return windows[0] if len(first) == 1 else overlap_average(windows, first, first[-1] + windows.shape[1])

        windows = cut(samples, sample_starts, config.num_intervals + 1)
        recovered, denoised = self.deciwatch.recover_in_parts(windows)
        loss = None
        if targets is not None:
            targets = cut(resize_sequence(targets, total, fill), starts, window_size)
            size = person_frame(windows)[1] if config.window_normalization == "person" else 1
            loss = config.denoise_loss_weight * ((denoised - targets[:, ::interval]) / size).abs().mean()
            loss = loss + config.recover_loss_weight * ((recovered - targets) / size).abs().mean()
        recovered = join(recovered, starts)
        if fill == "replicate":
            recovered = recovered[:length]
        return recovered, join(denoised, sample_starts), loss, len(windows)


__all__ = [
    "DeciWatchForPoseRecovery",
    "DeciWatchModel",
    "DeciWatchModelOutput",
    "DeciWatchPoseRecoveryOutput",
    "DeciWatchPreTrainedModel",
]
