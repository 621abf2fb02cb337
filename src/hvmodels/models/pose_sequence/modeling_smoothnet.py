"""SmoothNet: refinement of the poses of a tracked person by a network that sees each coordinate over time, and nothing else.

Paper: "SmoothNet: A Plug-and-Play Network for Refining Human Poses in Videos" (Zeng et al., ECCV 2022, arXiv 2112.13715).
Original code: github.com/cure-lab/SmoothNet; ports in mmpose 0.x and mmhuman3d.

Differences from the original:

* A sequence of any length is one call. Windows are cut, refined a few at a time, so that activations stay in the cache of the
  processor, and added up at once; no value changes by more than rounding.
* Every frame comes back: one more window ends with the last frame where a stride leaves some over, and a sequence shorter than
  the window is lengthened by its last pose. `tail="drop"` and `short_sequence="zeros"` do as the original.
* `window_normalization="person"` makes a network free of unit and place; published models have `"none"`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_smoothnet import SmoothNetConfig
from .cpu_layers_pose_sequence import can_fuse, drop_values, fused_linear
from .windows_pose_sequence import count_windows, window_starts


# Values of one hidden layer that are computed at once: as many as a processor's cache holds, or a part of a GPU's memory.
CHUNK_VALUES, GPU_CHUNK_VALUES = 2**19, 2**26


@dataclass
class SmoothNetModelOutput(ModelOutput):
    """Output of `SmoothNetModel`.

    Args:
        window_poses: (windows, output_size, joints, dims), in the unit of the input.
        hidden_states: Activations after the first layer and after each block, (windows, joints * dims, hidden_size) each, if
            asked for.
    """

    window_poses: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class SmoothNetForPoseRefinementOutput(ModelOutput):
    """Output of `SmoothNetForPoseRefinement`.

    Args:
        loss: Scalar, with `labels`.
        refined_poses: (batch, frames, joints, dims), in the unit of the input, 0 where `refined_mask` is False.
        refined_mask: (batch, frames) bool, the frames that belong to a track.
        window_poses: (windows of all tracks in turn, output_size, joints, dims), with `labels`.
    """

    loss: torch.Tensor | None = None
    refined_poses: torch.Tensor | None = None
    refined_mask: torch.Tensor | None = None
    window_poses: torch.Tensor | None = None


def channels_first(poses: torch.Tensor) -> torch.Tensor:
    """(batch, frames, joints, dims) to (batch, joints * dims, frames)."""
    return poses.flatten(2).transpose(1, 2).contiguous()


def linear_leaky_relu(values: torch.Tensor, layer: nn.Linear, negative_slope: float, fuse: bool) -> torch.Tensor:
    """Linear layer and leaky ReLU; `fuse` lets oneDNN do both in one pass."""
    if fuse and type(layer) is nn.Linear:  # not wrapped by an adapter
        return fused_linear(values, layer.weight, layer.bias, negative_slope)
    return nn.functional.leaky_relu_(layer(values), negative_slope)


class SmoothNetBlock(nn.Module):
    """Two linear layers with activations, added to the input."""

    def __init__(self, config: SmoothNetConfig):
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout, self.negative_slope = config.hidden_dropout_prob, config.residual_negative_slope

    def forward(self, hidden_states: torch.Tensor, fuse: bool = False, overwrite: bool = False) -> torch.Tensor:
        """(rows, hidden_size) to the same; `overwrite` writes into the input, `fuse` as in `linear_leaky_relu`."""
        branch = hidden_states
        for layer in (self.intermediate, self.output):
            if self.training:
                branch = nn.functional.leaky_relu_(drop_values(layer(branch), self.dropout), self.negative_slope)
            else:
                branch = linear_leaky_relu(branch, layer, self.negative_slope, fuse)
        return hidden_states.add_(branch) if overwrite else hidden_states + branch


class SmoothNetPreTrainedModel(PreTrainedModel):
    """Initial weights and checks of inputs."""

    config: SmoothNetConfig
    base_model_prefix = "smoothnet"
    main_input_name = "pose_values"
    input_modalities = ("time",)
    accepts_loss_kwargs = False
    _no_split_modules = ["SmoothNetBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Uniform in ±1/sqrt(inputs), weights and biases."""
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)

    @staticmethod
    def _refuse_unknown(arguments: dict):
        """Options that all transformers models take mean nothing here; anything else is a misspelt argument."""
        if arguments and (unknown := arguments.keys() - TransformersKwargs.__annotations__.keys() - {"return_dict"}):
            raise TypeError(f"Unknown arguments {sorted(unknown)}.")

    @staticmethod
    def _check_poses(name: str, poses: torch.Tensor, expected: str):
        if not torch.is_tensor(poses) or not poses.is_floating_point():
            kind = poses.dtype if torch.is_tensor(poses) else type(poses).__name__
            raise TypeError(f"`{name}` must be a floating-point tensor {expected}, got {kind}.")
        if poses.ndim != 4 or 0 in poses.shape:
            raise ValueError(
                f"`{name}` must have shape {expected}, with no axis of length 0, got {tuple(poses.shape)}."
            )


class SmoothNetModel(SmoothNetPreTrainedModel):
    """The network: windows in, windows out; each channel (one coordinate of one joint) by itself with the same weights."""

    def __init__(self, config: SmoothNetConfig):
        super().__init__(config)
        self.encoder = nn.Linear(config.window_size, config.hidden_size)
        self.layers = nn.ModuleList(SmoothNetBlock(config) for _ in range(config.num_hidden_layers))
        self.decoder = nn.Linear(config.hidden_size, config.output_size)
        self.negative_slope = config.encoder_negative_slope
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer."""
        return self.encoder

    @can_return_tuple
    def forward(
        self, pose_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> SmoothNetModelOutput:
        """Refine windows.

        Args:
            pose_values: (windows, window_size, joints, dims).
            output_hidden_states: Whether to give the activations; `config.output_hidden_states` if None.
            kwargs: `return_dict`.

        Raises:
            TypeError: If `pose_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If its shape does not fit.
        """
        self._refuse_unknown(kwargs)
        self._check_windows(pose_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        channels = channels_first(pose_values)
        hidden_states = [] if output_hidden_states else None
        refined = self.refine_channels(channels, self._scales(channels, pose_values.shape[3]), hidden_states)
        return SmoothNetModelOutput(
            window_poses=refined.transpose(1, 2).unflatten(2, pose_values.shape[2:]),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )

    def refine_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (windows, window_size, joints, dims) to (windows, output_size, joints, dims), as `forward`, by parts.

        Raises:
            TypeError: If `windows` is not a floating-point tensor.
            ValueError: If its shape does not fit.
        """
        self._check_windows(windows)
        channels = channels_first(windows)
        scales = self._scales(channels, windows.shape[3])
        parts = self.chunks(len(windows), channels.shape[1], windows.device)
        refined = [self.refine_channels(channels[part], None if scales is None else scales[part]) for part in parts]
        return torch.cat(refined).transpose(1, 2).unflatten(2, windows.shape[2:])

    def refine_channels(
        self, windows: torch.Tensor, scales: torch.Tensor | None = None, hidden_states: list | None = None
    ) -> torch.Tensor:
        """Normalise, apply the network, undo the normalisation.

        Args:
            windows: (windows, channels, window_size).
            scales: (windows,), size of the person in each; None without normalisation.
            hidden_states: List that gets the activations.

        Returns:
            (windows, channels, output_size).
        """
        values = windows
        if scales is not None:
            values = values.to(scales.dtype)
            means, scales = values.mean(2, keepdim=True), scales[:, None, None]
            values = (values - means) / scales
        values = values.flatten(0, 1).to(self.encoder.weight.dtype)
        fuse = can_fuse(values, self.encoder)
        # Inference needs no activation twice.
        overwrite = hidden_states is None and not torch.is_grad_enabled()
        hidden = linear_leaky_relu(values, self.encoder, self.negative_slope, fuse)
        for layer in self.layers:
            if hidden_states is not None:
                hidden_states.append(hidden.unflatten(0, windows.shape[:2]))
            hidden = layer(hidden, fuse, overwrite)
        if hidden_states is not None:
            hidden_states.append(hidden.unflatten(0, windows.shape[:2]))
        refined = self.decoder(hidden).unflatten(0, windows.shape[:2])
        return (refined if scales is None else refined * scales + means).to(windows.dtype)

    def extents(self, channels: torch.Tensor, dims: int) -> torch.Tensor | None:
        """Longest side of the box around all joints, (..., joints * dims, frames) to (..., frames); None without normalisation."""
        if self.config.window_normalization == "none":
            return None
        joints = channels.to(torch.promote_types(channels.dtype, torch.float32)).unflatten(-2, (-1, dims))
        return (joints.amax(-3) - joints.amin(-3)).amax(-2)

    @staticmethod
    def scales(extents: torch.Tensor) -> torch.Tensor:
        """Size of the person in windows, (windows, window_size) extents to (windows,)."""
        # The median, of two the lower one, by an operation that ONNX has.
        return extents.topk(extents.shape[-1] // 2 + 1).values[..., -1].clamp(min=1e-6)

    def _scales(self, channels: torch.Tensor, dims: int) -> torch.Tensor | None:
        extents = self.extents(channels, dims)
        return None if extents is None else self.scales(extents)

    def chunks(self, num_windows: int, num_channels: int, device: torch.device) -> Iterator[slice]:
        """Parts of so many windows that are worth computing at once."""
        values = CHUNK_VALUES if device.type == "cpu" else GPU_CHUNK_VALUES
        size = max(values // (self.config.hidden_size * num_channels), 1)
        if torch.compiler.is_compiling():
            size = num_windows  # a compiled graph has no loop
        return (slice(start, start + size) for start in range(0, num_windows, size))

    def _check_windows(self, windows: torch.Tensor):
        size = self.config.window_size
        self._check_poses("pose_values", windows, f"(windows, {size}, joints, dims)")
        if windows.shape[1] != size:
            raise ValueError(
                f"`pose_values` must have the {size} frames of `window_size`, got {windows.shape[1]}; "
                "`SmoothNetForPoseRefinement` takes sequences of any length."
            )


class SmoothNetForPoseRefinement(SmoothNetPreTrainedModel):
    """Sequences of any length in, refined sequences out: every frame is the mean of the windows that cover it."""

    def __init__(self, config: SmoothNetConfig):
        super().__init__(config)
        self.smoothnet = SmoothNetModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """That of the base model."""
        return self.smoothnet.get_input_embeddings()

    def refine_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """That of the base model."""
        return self.smoothnet.refine_windows(windows)

    @can_return_tuple
    def forward(
        self,
        pose_values: torch.Tensor,
        pose_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SmoothNetForPoseRefinementOutput:
        """Refine tracks, and compute the loss if labels are given.

        Args:
            pose_values: (batch, frames, joints, dims), one track a row.
            pose_mask: (batch, frames) bool, True for the frames of the track, which come first; all if None. A row gives the
                same with and without padding.
            labels: True poses, as `pose_values`. The loss is the mean over all windows.
            kwargs: `return_dict`.

        Raises:
            TypeError: If poses are not floating-point tensors, the mask is not boolean, or an argument is unknown.
            ValueError: If shapes do not fit, or the mask has frames after padding or a row without frames.
        """
        self._refuse_unknown(kwargs)
        self._check_inputs(pose_values, pose_mask, labels)
        (batch, frames, *joints), device = pose_values.shape, pose_values.device
        lengths = [frames] * batch if pose_mask is None else self._read_mask(pose_mask)
        plans = {length: self._plan(length) for length in set(lengths)}
        spans, starts, refined_lengths = zip(*(plans[length] for length in lengths), strict=True)
        span, num_refined = max(spans), max(refined_lengths)
        rows = torch.arange(batch).repeat_interleave(torch.tensor([len(row) for row in starts])).to(device)
        starts = torch.cat(starts).to(device)
        lengths, refined_lengths = (torch.tensor(values, device=device) for values in (lengths, refined_lengths))

        channels = channels_first(self._extend(pose_values, lengths, span))
        windows, scales = self._windows(channels), None
        extents = self.smoothnet.extents(channels, joints[-1])
        if extents is not None:
            scales = self.smoothnet.scales(extents.unfold(1, self.config.window_size, 1)[rows, starts])
        # All tracks in one row of frames.
        first, offsets = rows * span + starts, torch.arange(self.config.output_size, device=device)
        dtype = torch.promote_types(pose_values.dtype, torch.float32)
        total = torch.zeros(batch * span, windows.shape[2], dtype=dtype, device=device)
        kept = []
        for part in self.smoothnet.chunks(len(rows), windows.shape[2], device):
            refined = self.smoothnet.refine_channels(
                windows[rows[part], starts[part]], None if scales is None else scales[part]
            ).transpose(1, 2)
            total.index_add_(0, (first[part, None] + offsets).flatten(), refined.flatten(0, 1).to(dtype))
            if labels is not None:
                kept.append(refined)
        counts = count_windows(first, self.config.output_size, batch * span, device).clamp(min=1)
        refined_poses = (total / counts[:, None]).to(pose_values.dtype).unflatten(0, (batch, span))[:, :num_refined]
        refined_mask = torch.arange(num_refined, device=device) < refined_lengths[:, None]
        refined_poses = refined_poses.masked_fill(~refined_mask[..., None], 0).unflatten(2, joints)
        if labels is None:
            return SmoothNetForPoseRefinementOutput(refined_poses=refined_poses, refined_mask=refined_mask)
        window_poses = torch.cat(kept)
        targets = self._windows(channels_first(self._extend(labels, lengths, span)))[rows, starts].transpose(1, 2)
        return SmoothNetForPoseRefinementOutput(
            loss=self._loss(window_poses, targets, scales),
            refined_poses=refined_poses,
            refined_mask=refined_mask,
            window_poses=window_poses.unflatten(2, joints),
        )

    def _plan(self, length: int) -> tuple[int, torch.Tensor, int]:
        """Frames that a track of a length is lengthened to, starts of its windows, and frames that come back."""
        config = self.config
        if length < config.window_size and config.short_sequence == "zeros":
            length = config.window_size
        # Windows that give only their first frames have to reach beyond the last one.
        missing = config.window_size - config.output_size if config.tail == "keep" else 0
        span = max(length + missing, config.window_size)
        starts = window_starts(span, config.window_size, config.window_stride, config.tail)
        return span, torch.tensor(starts), min(starts[-1] + config.output_size, length)

    def _extend(self, poses: torch.Tensor, lengths: torch.Tensor, span: int) -> torch.Tensor:
        """Continue tracks (batch, frames, ...) to (batch, span, ...) with their last pose, or short ones with zeros."""
        frames, lengths = torch.arange(span, device=poses.device), lengths[:, None]
        rows = torch.arange(len(poses), device=poses.device)[:, None]
        extended = poses[rows, torch.minimum(frames, lengths - 1)]
        if self.config.short_sequence == "zeros":
            empty = (frames >= lengths) & (lengths < self.config.window_size)
            extended = extended.masked_fill(empty[..., None, None], 0)
        return extended

    def _windows(self, channels: torch.Tensor) -> torch.Tensor:
        """All windows of (batch, channels, frames) as a view (batch, first frames, channels, window_size)."""
        return channels.unfold(2, self.config.window_size, 1).transpose(1, 2)

    def _loss(self, refined: torch.Tensor, targets: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        """Weighted errors of position and acceleration of windows (windows, frames, channels), per size of the person."""
        errors = refined - targets[:, : refined.shape[1]].to(refined.dtype)
        if scales is not None:
            errors = errors / scales[:, None, None]
        accelerations = errors[:, :-2] - 2 * errors[:, 1:-1] + errors[:, 2:]
        position_loss, acceleration_loss = errors.abs().mean(), accelerations.abs().mean()
        config = self.config
        return config.position_loss_weight * position_loss + config.acceleration_loss_weight * acceleration_loss

    def _check_inputs(self, pose_values: torch.Tensor, pose_mask: torch.Tensor | None, labels: torch.Tensor | None):
        self._check_poses("pose_values", pose_values, "(batch, frames, joints, dims)")
        if pose_mask is not None:
            if not torch.is_tensor(pose_mask) or pose_mask.dtype != torch.bool:
                kind = pose_mask.dtype if torch.is_tensor(pose_mask) else type(pose_mask).__name__
                raise TypeError(f"`pose_mask` must be a boolean tensor (batch, frames), got {kind}.")
            if pose_mask.shape != pose_values.shape[:2]:
                raise ValueError(
                    f"`pose_mask` must have shape {tuple(pose_values.shape[:2])} (batch, frames), got "
                    f"{tuple(pose_mask.shape)}."
                )
        if labels is not None:
            self._check_poses("labels", labels, "(batch, frames, joints, dims)")
            if labels.shape != pose_values.shape:
                raise ValueError(
                    f"`labels` must have the shape of `pose_values`, {tuple(pose_values.shape)}, got {tuple(labels.shape)}."
                )

    @staticmethod
    def _read_mask(pose_mask: torch.Tensor) -> list[int]:
        """Length of each track."""
        lengths = pose_mask.sum(1)
        frames = torch.arange(pose_mask.shape[1], device=pose_mask.device)
        if not torch.equal(pose_mask, frames < lengths[:, None]) or not lengths.all():
            raise ValueError(
                "`pose_mask` must be True for the first frames of each row, at least one, and False after them: padding comes "
                "last. Fill gaps inside a track before; the feature extractor does."
            )
        return lengths.tolist()


__all__ = [
    "SmoothNetForPoseRefinement",
    "SmoothNetForPoseRefinementOutput",
    "SmoothNetModel",
    "SmoothNetModelOutput",
    "SmoothNetPreTrainedModel",
]
