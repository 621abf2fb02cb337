"""The fully connected baseline: the 3D pose of one frame from its 2D pose by linear layers.

Paper: "A simple yet effective baseline for 3d human pose estimation" (Martinez et al., ICCV 2017, arXiv 1705.03098). Original
code: github.com/una-dinosauria/3d-pose-baseline (TensorFlow), and github.com/weigq/3d_pose_baseline_pytorch, its port,
whose checkpoints are converted.

Differences from the original:

* `MartinezFCNModel` is the original's network, between numbers that are normalised by the mean and the standard deviation of each
  coordinate over the training data. `MartinezFCNForPoseLifting` keeps these statistics as buffers, stored with the weights, and
  goes from normalised places in the picture to metres.
* Statistics are of places in the picture normalised by its size, not of pixels, so that a model serves any size of picture.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_martinez_fcn import MartinezFCNConfig
from .cpu_layers_pose_sequence import drop_values, linear
from .input_checks_pose_lifting import (
    PoseLiftingOutput,
    check_keypoints,
    check_lifting_labels,
    refuse_unknown_arguments,
)


STATISTICS = ("keypoint_mean", "keypoint_std", "position_mean", "position_std")


@dataclass
class MartinezFCNModelOutput(ModelOutput):
    """Output of `MartinezFCNModel`.

    Args:
        normalized_positions: (batch, frames, num_output_joints - 1, 3), in standard deviations from the mean.
        hidden_states: Activations after the first layer and after each block, (batch, frames, hidden_size) each, if asked
            for.
    """

    normalized_positions: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class MartinezFCNLinear(nn.Linear):
    """Linear layer, whose matrix is shrunk to a Frobenius norm of at most 1 with `max_norm`."""

    def __init__(self, in_features: int, out_features: int, max_norm: bool):
        super().__init__(in_features, out_features)
        self.max_norm = max_norm

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(rows, in_features) to (rows, out_features)."""
        weight = self.weight / self.weight.norm().clamp(min=1) if self.max_norm else self.weight
        return linear(values, weight, self.bias)


class MartinezFCNLayer(nn.Module):
    """Linear layer, batch normalisation, ReLU, dropout."""

    def __init__(self, config: MartinezFCNConfig, in_features: int):
        super().__init__()
        self.linear = MartinezFCNLinear(in_features, config.hidden_size, config.max_norm)
        self.norm = nn.BatchNorm1d(config.hidden_size)
        self.dropout = config.hidden_dropout_prob

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(rows, in_features) to (rows, hidden_size)."""
        hidden_states = self.norm(self.linear(hidden_states))
        if self.training:  # before the activation, which gives the same
            hidden_states = drop_values(hidden_states, self.dropout)
        return nn.functional.relu_(hidden_states)


class MartinezFCNBlock(nn.Module):
    """Two layers, added to the input."""

    def __init__(self, config: MartinezFCNConfig):
        super().__init__()
        self.first = MartinezFCNLayer(config, config.hidden_size)
        self.second = MartinezFCNLayer(config, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(rows, hidden_size) to the same."""
        return hidden_states + self.second(self.first(hidden_states))


class MartinezFCNPreTrainedModel(PreTrainedModel):
    """Initial weights."""

    config: MartinezFCNConfig
    base_model_prefix = "martinez_fcn"
    main_input_name = "keypoints_2d"
    input_modalities = ("time",)
    accepts_loss_kwargs = False
    _no_split_modules = ["MartinezFCNBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Kaiming's for weights, PyTorch's uniform one for biases; normalisation and statistics do nothing."""
        if isinstance(module, nn.Linear):
            init.kaiming_normal_(module.weight)
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, MartinezFCNForPoseLifting):
            for name in STATISTICS:
                (init.zeros_ if name.endswith("mean") else init.ones_)(getattr(module, name))


class MartinezFCNModel(MartinezFCNPreTrainedModel):
    """The network: normalised 2D poses in, normalised 3D poses without the root out, each frame by itself."""

    def __init__(self, config: MartinezFCNConfig):
        super().__init__(config)
        self.encoder = MartinezFCNLayer(config, len(config.input_joints) * config.in_channels)
        self.layers = nn.ModuleList(MartinezFCNBlock(config) for _ in range(config.num_hidden_layers))
        self.decoder = MartinezFCNLinear(config.hidden_size, (config.num_output_joints - 1) * 3, config.max_norm)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first linear layer."""
        return self.encoder.linear

    @can_return_tuple
    def forward(
        self, keypoints_2d: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> MartinezFCNModelOutput:
        """Lift normalised poses.

        Args:
            keypoints_2d: (batch, frames, len(input_joints), in_channels) of the joints in `config.input_joints`, each number in
                standard deviations from its mean. The original's rows of numbers are one frame each.
            output_hidden_states: Whether to give the activations; `config.output_hidden_states` if None.
            kwargs: `return_dict`.

        Raises:
            TypeError: If `keypoints_2d` is not a floating-point tensor, or an argument is unknown.
            ValueError: If its shape does not fit.
        """
        refuse_unknown_arguments(kwargs)
        check_keypoints(keypoints_2d, len(self.config.input_joints), self.config.in_channels, self.config.num_frames)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        windows = keypoints_2d.shape[:2]
        values = keypoints_2d.to(self.encoder.linear.weight.dtype)
        hidden = self.encoder(values.flatten(2).flatten(0, 1))
        all_hidden = (hidden.unflatten(0, windows),) if output_hidden_states else None
        for layer in self.layers:
            hidden = layer(hidden)
            if output_hidden_states:
                all_hidden += (hidden.unflatten(0, windows),)
        positions = self.decoder(hidden).unflatten(0, windows).unflatten(2, (-1, 3))
        return MartinezFCNModelOutput(normalized_positions=positions, hidden_states=all_hidden)


class MartinezFCNForPoseLifting(MartinezFCNPreTrainedModel):
    """2D poses in, 3D poses relative to the pelvis out, each frame by itself.

    Buffers: `keypoint_mean` and `keypoint_std` (len(input_joints), in_channels), of places in the picture normalised by its
    size; `position_mean` and `position_std` (num_output_joints - 1, 3), metres. A new model has 0 and 1 in them, see
    `fit_statistics`.
    """

    def __init__(self, config: MartinezFCNConfig):
        super().__init__(config)
        self.martinez_fcn = MartinezFCNModel(config)
        shapes = {
            "keypoint": (len(config.input_joints), config.in_channels),
            "position": (config.num_output_joints - 1, 3),
        }
        for name in STATISTICS:
            shape = shapes[name.split("_")[0]]
            self.register_buffer(name, torch.zeros(shape) if name.endswith("mean") else torch.ones(shape))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """That of the base model."""
        return self.martinez_fcn.get_input_embeddings()

    @torch.no_grad()
    def fit_statistics(self, keypoints_2d: torch.Tensor, positions_3d: torch.Tensor):
        """Take the mean and the standard deviation of each coordinate from training data, before training starts.

        Args:
            keypoints_2d: (..., num_joints, in_channels), normalised by the picture's size, as in `forward`.
            positions_3d: (..., num_output_joints, 3), metres, relative to the root.

        Raises:
            ValueError: If shapes do not fit, a value is not finite, or there are not two poses.
        """
        roots = [joint for joint in range(self.config.num_output_joints) if joint != self.config.root_index]
        expected = {
            "keypoints_2d": (
                keypoints_2d,
                (self.config.num_joints, self.config.in_channels),
                self.config.input_joints,
            ),
            "positions_3d": (positions_3d, (self.config.num_output_joints, 3), roots),
        }
        statistics = []
        for name, (values, shape, joints) in expected.items():
            values = torch.as_tensor(values, dtype=torch.float64)
            if values.ndim < 3 or tuple(values.shape[-2:]) != shape:
                raise ValueError(f"`{name}` must have shape (..., {shape[0]}, {shape[1]}), got {tuple(values.shape)}.")
            values = values[..., joints, :].flatten(0, -3)
            if len(values) < 2 or not values.isfinite().all():
                raise ValueError(f"`{name}` must have two poses at least, and finite values only.")
            statistics += [values.mean(0), values.std(0, correction=0)]
        self.set_statistics(*statistics)

    @torch.no_grad()
    def set_statistics(
        self,
        keypoint_mean: torch.Tensor,
        keypoint_std: torch.Tensor,
        position_mean: torch.Tensor,
        position_std: torch.Tensor,
    ):
        """Set the mean and the standard deviation of each coordinate, in the shapes of the buffers.

        A coordinate that never changes has a deviation of 0 and is taken off its mean only.

        Raises:
            ValueError: If a shape does not fit, a value is not finite or a deviation is negative.
        """
        given = (keypoint_mean, keypoint_std, position_mean, position_std)
        checked = []
        for name, values in zip(STATISTICS, given, strict=True):
            buffer, values = getattr(self, name), torch.as_tensor(values, dtype=torch.float64)
            if values.shape != buffer.shape or not values.isfinite().all():
                raise ValueError(
                    f"`{name}` must be finite numbers of shape {tuple(buffer.shape)}, got {tuple(values.shape)}."
                )
            if name.endswith("std"):
                if (values < 0).any():
                    raise ValueError(f"`{name}` must not be negative, got {values.min().item()}.")
                values = torch.where(values > 0, values, torch.ones_like(values))
            checked.append(values)
        for name, values in zip(STATISTICS, checked, strict=True):
            getattr(self, name).copy_(values)
        self.config.needs_statistics = False

    @can_return_tuple
    def forward(
        self,
        keypoints_2d: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> PoseLiftingOutput:
        """Lift 2D poses, and compute the loss if labels are given.

        Args:
            keypoints_2d: (batch, frames, num_joints, in_channels), x and y normalised by the picture's size: its width goes
                from -1 to 1, and y keeps the aspect ratio.
            labels: (batch, frames, num_output_joints, 3) true positions in metres, relative to the root. The loss is the mean
                squared error in standard deviations, of all joints but the root.
            output_hidden_states: As for `MartinezFCNModel`.
            kwargs: `return_dict`.

        Raises:
            TypeError: If an input is not a floating-point tensor, or an argument is unknown.
            ValueError: If shapes do not fit, or the statistics are not known.
        """
        config = self.config
        if config.needs_statistics:
            raise ValueError(
                "The statistics of the training data are not known, without which the network's numbers mean no metres: call "
                "`set_statistics` or `fit_statistics`, or give `stat_2d` and `stat_3d` when the checkpoint is converted."
            )
        check_keypoints(keypoints_2d, config.num_joints, config.in_channels, config.num_frames)
        normalized = (keypoints_2d[:, :, config.input_joints] - self.keypoint_mean) / self.keypoint_std
        outputs = self.martinez_fcn(
            normalized, output_hidden_states=output_hidden_states, **{**kwargs, "return_dict": True}
        )
        others = (outputs.normalized_positions * self.position_std + self.position_mean).to(keypoints_2d.dtype)
        before, after = others[:, :, : config.root_index], others[:, :, config.root_index :]
        positions = torch.cat([before, torch.zeros_like(others[:, :, :1]), after], dim=2)
        loss = None
        if labels is not None:
            check_lifting_labels(labels, positions.shape)
            true = torch.cat([labels[:, :, : config.root_index], labels[:, :, config.root_index + 1 :]], dim=2)
            true = (true - self.position_mean) / self.position_std
            loss = nn.functional.mse_loss(outputs.normalized_positions, true)
        return PoseLiftingOutput(loss=loss, positions_3d=positions, hidden_states=outputs.hidden_states)


__all__ = [
    "MartinezFCNForPoseLifting",
    "MartinezFCNModel",
    "MartinezFCNModelOutput",
    "MartinezFCNPreTrainedModel",
]
