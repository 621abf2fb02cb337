"""Skeletal-GNN: graph networks on skeletons whose far joints get fewer channels and whose edges follow the motion.

Paper: "Learning Skeletal Graph Neural Networks for Hard 3D Pose Estimation" (Zeng et al., ICCV 2021, arXiv 2108.07181).
No code or weights of the authors were ever published: this is an implementation from the paper and what is public about it.
Its layer is D-HCSF, the dynamic hierarchical channel-squeezing fusion.

What the paper leaves open and how it is settled here:

* The two networks around the layer: residual blocks of two layers for lifting, as LCN and SemGCN have them; AGCN's units for
  actions, which the paper's figure of the layer resembles.
* The learned graph starts as the skeleton with columns that add up to 1; the dynamic one is weighted by one learned number a
  branch that starts at 0.
* Where weights start is not known: Kaiming's normal everywhere, by fan-out for convolutions; by fan-in for the head of the
  lifting network, which would start metres off otherwise.

How it is computed: squeezing maps and fusion are linear, so that their product is taken first, and all branches together are
one product with the features and one with the graphs. Batch norms are folded into them outside of training, exactly. Weights
of pairs are stored and used only for the pairs of a branch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_skeletal_gnn import SkeletalGNNActionConfig, SkeletalGNNConfig, SkeletalGraphConfig
from .input_checks_pose_lifting import (
    PoseLiftingOutput,
    check_keypoints,
    check_lifting_labels,
    refuse_unknown_arguments,
)
from .skeleton_graph_skeletal_gnn import normalize_columns


# Values of a layer (windows, frames, joints, channels) that are computed at once: what a processor's cache holds, or more.
CHUNK_VALUES, GPU_CHUNK_VALUES = 2**20, 2**26


@dataclass
class SkeletalGNNModelOutput(ModelOutput):
    """Output of `SkeletalGNNModel` and `SkeletalGNNActionModel`.

    Args:
        last_hidden_state: (windows, frames, joints, channels); of actions (batch, persons, frames, joints, channels).
        hidden_states: For lifting the features after the first layer and each block, for actions those after each unit, if
            asked for.
        graphs: For each D-HCSF layer the graphs of its branches, (windows, branches, source joints, target joints), of
            actions (batch, persons, branches, source joints, target joints), if asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    graphs: tuple[torch.Tensor, ...] | None = None


@dataclass
class SkeletalGNNForPoseLiftingOutput(PoseLiftingOutput):
    """Output of `SkeletalGNNForPoseLifting`, that of all lifting models with the graphs.

    Args:
        graphs: See `SkeletalGNNModelOutput`; like those of `hidden_states`, the first two axes are batch and windows.
    """

    graphs: tuple[torch.Tensor, ...] | None = None


@dataclass
class SkeletalGNNForActionRecognitionOutput(ModelOutput):
    """Output of `SkeletalGNNForActionRecognition`.

    Args:
        loss: Scalar, with `labels`: cross-entropy.
        logits: (batch, num_labels).
        hidden_states: See `SkeletalGNNModelOutput`.
        graphs: Same.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    graphs: tuple[torch.Tensor, ...] | None = None


def fold_norm(weight: torch.Tensor, bias: torch.Tensor, norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (outputs, ...) and bias (..., outputs) that do what a layer and a norm with fixed statistics do in turn."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), (bias - norm.running_mean) * scale + norm.bias


def _unflatten(tensors: Sequence[torch.Tensor] | None, shape: tuple[int, int]) -> tuple[torch.Tensor, ...] | None:
    """Give each tensor two axes in place of the first."""
    return None if tensors is None else tuple(tensor.unflatten(0, shape) for tensor in tensors)


def normalize(features: torch.Tensor, norm: nn.BatchNorm1d) -> torch.Tensor:
    """Batch norm over all axes of (..., channels) but the last."""
    return norm(features.flatten(0, -2)).view(features.shape)


class SkeletalGNNGraphConvolution(nn.Module):
    """One D-HCSF layer and its batch norm, without activation: section 2.2 of the method's description in `docs`.

    Branch 0 collects from joints up to `short_hops` away, every further one from those at exactly one distance.
    """

    def __init__(self, config: SkeletalGraphConfig, in_channels: int, out_channels: int):
        super().__init__()
        masks, joints = config.hop_masks, config.num_joints
        self.in_channels, self.out_channels = in_channels, out_channels
        self.branch_channels = config.branch_channels(out_channels)
        self.weight_sharing, self.dynamic = config.weight_sharing, config.dynamic_graph
        squeezed = sum(self.branch_channels)

        self.static_graph = nn.Parameter(torch.empty(masks.shape))
        self.register_buffer("hop_mask", torch.tensor(masks, dtype=torch.get_default_dtype()), persistent=False)
        if self.dynamic:
            self.relation_channels = config.relation_channels or max(1, out_channels // 4)
            self.temporal_kernel, self.pad_dynamic = config.temporal_kernel, config.pad_dynamic
            self.normalize_scores, self.mask_dynamic = config.normalize_scores, config.mask_dynamic
            embedded = (2, len(masks), self.relation_channels)  # theta and phi
            self.relation_weight = nn.Parameter(torch.empty(*embedded, self.temporal_kernel, in_channels))
            self.relation_bias = nn.Parameter(torch.empty(embedded))
            self.dynamic_scale = nn.Parameter(torch.empty(len(masks)))  # alpha

        if self.weight_sharing == "pair":
            counts = masks.sum(axis=(1, 2)).tolist()
            self.squeeze_weight = nn.ParameterList(
                torch.empty(count, channels, in_channels)
                for count, channels in zip(counts, self.branch_channels, strict=True)
            )
            self.pair_counts = counts
            # Branch, source joint and target joint of each weight.
            self.register_buffer("pairs", torch.tensor(np.stack(masks.nonzero())), persistent=False)
        else:
            copies = (joints,) if self.weight_sharing == "node" else ()
            self.squeeze_weight = nn.Parameter(torch.empty(*copies, squeezed, in_channels))
        bias = (squeezed,) if self.weight_sharing == "shared" else (joints, squeezed)
        self.squeeze_bias = nn.Parameter(torch.empty(bias))
        self.fusion = nn.Linear(squeezed, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, features: torch.Tensor, graphs: list | None = None) -> torch.Tensor:
        """Collect, squeeze, fuse and normalise.

        Args:
            features: (rows, frames, joints, in_channels).
            graphs: List that gets the graphs of this layer.

        Returns:
            (rows, frames, joints, out_channels).
        """
        graph = self.make_graph(features)
        if graphs is not None:
            graphs.append(graph.expand(len(features), -1, -1, -1))
        if self.norm.training:
            return normalize(self.convolve(features, graph), self.norm)
        return self.convolve(features, graph, self.norm)

    def make_graph(self, features: torch.Tensor) -> torch.Tensor:
        """The graphs of all branches for features (rows, frames, joints, in_channels).

        Returns:
            (rows, branches, source joints, target joints); one row for all without dynamic graph.
        """
        static = (self.static_graph * self.hop_mask)[None]
        if not self.dynamic:
            return static
        dynamic = self.make_dynamic_graph(features)
        if self.mask_dynamic:
            dynamic = dynamic * self.hop_mask
        return torch.addcmul(static, dynamic, self.dynamic_scale[:, None, None])

    def make_dynamic_graph(self, features: torch.Tensor) -> torch.Tensor:
        """O: tanh of the similarity of joints in the embeddings theta and phi, (rows, branches, joints, joints)."""
        if self.pad_dynamic:
            margin = (self.temporal_kernel - 1) // 2
            features = nn.functional.pad(features, (0, 0, 0, 0, margin, margin))
        count = features.shape[1] - self.temporal_kernel + 1
        if self.temporal_kernel > 1:
            features = torch.cat([features[:, start : start + count] for start in range(self.temporal_kernel)], dim=-1)
        weight = self.relation_weight.flatten(3).flatten(0, 2)
        embedded = nn.functional.linear(features, weight, self.relation_bias.flatten())
        embedded = embedded.unflatten(3, self.relation_bias.shape)
        theta = embedded[..., 0, :, :].permute(0, 3, 2, 1, 4).flatten(3)  # rows, branches, joints, frames x channels
        phi = embedded[..., 1, :, :].permute(0, 3, 1, 4, 2).flatten(2, 3)
        scores = theta @ phi
        if self.normalize_scores:
            scores = scores / theta.shape[-1]
        return torch.tanh(scores)

    def convolve(
        self, features: torch.Tensor, graph: torch.Tensor, norm: nn.BatchNorm1d | None = None
    ) -> torch.Tensor:
        """The layer for given graphs (rows or 1, branches, joints, joints), with a norm of fixed statistics folded in."""
        fusion, bias = (
            self.fusion.weight,
            nn.functional.linear(self.squeeze_bias, self.fusion.weight, self.fusion.bias),
        )
        if norm is not None:
            fusion, bias = fold_norm(fusion, bias, norm)
        shape = features.shape[:3]
        rows = features.flatten(0, 1)
        if self.weight_sharing == "pair":
            outputs = self._by_pairs(rows, graph, shape[1], fusion)
        elif self.weight_sharing == "shared" and self.in_channels >= self.out_channels:
            # (rows, joints x branches, out_channels), then one product with the graphs, which adds the branches up.
            mapped = nn.functional.linear(rows, self._fused_maps(fusion).flatten(0, 1))
            into = _each_frame(graph.permute(0, 3, 2, 1).flatten(2), shape[1])
            outputs = into @ mapped.view(len(rows), -1, self.out_channels)
        else:
            into = _each_frame(graph.permute(0, 3, 1, 2).flatten(1, 2), shape[1])
            collected = (into @ rows).view(*rows.shape[:2], -1)  # branches x in_channels
            maps = self._fused_maps(fusion).transpose(-3, -2).flatten(-2)
            if self.weight_sharing == "shared":
                outputs = nn.functional.linear(collected, maps)
            else:
                outputs = torch.bmm(collected.transpose(0, 1), maps.transpose(1, 2)).transpose(0, 1)
        return outputs.unflatten(0, shape[:2]) + bias

    def _fused_maps(self, fusion: torch.Tensor) -> torch.Tensor:
        """Squeezing and fusion of each branch as one map, (branches, out_channels, in_channels), a joint before if by joint."""
        squeezing = self.squeeze_weight.split(self.branch_channels, dim=-2)
        fusing = fusion.split(self.branch_channels, dim=1)
        return torch.stack([fuse @ squeeze for fuse, squeeze in zip(fusing, squeezing, strict=True)], dim=-3)

    def _by_pairs(self, rows: torch.Tensor, graph: torch.Tensor, frames: int, fusion: torch.Tensor) -> torch.Tensor:
        """Every pair of joints by its own map: (rows, joints, in_channels) to (rows, joints, out_channels)."""
        branches, sources, targets = self.pairs
        edges = graph[:, branches, sources, targets].t()  # (pairs, rows)
        edges = edges.repeat_interleave(frames, dim=1) if len(graph) > 1 else edges
        sent = rows.transpose(0, 1).index_select(0, sources)
        parts = (sent, edges[..., None], targets)
        squeezed = []
        for weight, features, edge, target in zip(
            self.squeeze_weight, *(part.split(self.pair_counts) for part in parts), strict=True
        ):
            messages = torch.bmm(features, weight.transpose(1, 2)) * edge
            empty = messages.new_zeros(rows.shape[1], *messages.shape[1:])
            squeezed.append(empty.index_add(0, target, messages))
        return nn.functional.linear(torch.cat(squeezed, dim=-1), fusion).transpose(0, 1)


def _each_frame(graph: torch.Tensor, frames: int) -> torch.Tensor:
    """Graphs (rows, ...) once for each frame of a row; a single one serves all."""
    return graph.repeat_interleave(frames, dim=0) if len(graph) > 1 and frames > 1 else graph


class SkeletalGNNLayer(nn.Module):
    """D-HCSF, batch norm, activation and dropout."""

    def __init__(self, config: SkeletalGNNConfig, in_channels: int):
        super().__init__()
        self.convolution = SkeletalGNNGraphConvolution(config, in_channels, config.hidden_size)
        self.negative_slope, self.dropout = config.negative_slope, config.hidden_dropout_prob

    def forward(self, features: torch.Tensor, graphs: list | None = None) -> torch.Tensor:
        """(windows, frames, joints, in_channels) to (windows, frames, joints, hidden_size)."""
        features = nn.functional.leaky_relu_(self.convolution(features, graphs), self.negative_slope)
        return nn.functional.dropout(features, self.dropout, self.training)


class SkeletalGNNBlock(nn.Module):
    """Two layers, added to the input."""

    def __init__(self, config: SkeletalGNNConfig):
        super().__init__()
        self.layers = nn.ModuleList(SkeletalGNNLayer(config, config.hidden_size) for _ in range(2))

    def forward(self, features: torch.Tensor, graphs: list | None = None) -> torch.Tensor:
        """(windows, frames, joints, hidden_size) to the same."""
        branch = features
        for layer in self.layers:
            branch = layer(branch, graphs)
        return features + branch


class SkeletalGNNTemporalConvolution(nn.Module):
    """Convolution over the frames of each joint and its batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1):
        super().__init__()
        self.convolution = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, frames, joints, in_channels) to (rows, frames / stride, joints, out_channels)."""
        weight, bias = self.convolution.weight, self.convolution.bias
        if not self.norm.training:
            weight, bias = fold_norm(weight, bias, self.norm)
        stride, padding = self.convolution.stride[0], self.convolution.padding[0]
        if weight.shape[2] == 1:
            outputs = nn.functional.linear(features[:, ::stride], weight[..., 0], bias)
        else:
            outputs = nn.functional.conv2d(
                features.permute(0, 3, 1, 2), weight[..., None], bias, (stride, 1), (padding, 0)
            ).permute(0, 2, 3, 1)  # fmt: skip
        return normalize(outputs, self.norm) if self.norm.training else outputs


class SkeletalGNNActionLayer(nn.Module):
    """AGCN's unit with D-HCSF for its graph convolution, then a convolution in time, each with a residual."""

    def __init__(self, config: SkeletalGNNActionConfig, index: int):
        super().__init__()
        in_channels = config.hidden_sizes[index - 1] if index else config.in_channels
        out_channels, stride = config.hidden_sizes[index], config.strides[index]
        self.graph_convolution = SkeletalGNNGraphConvolution(config, in_channels, out_channels)
        self.shortcut = self.residual = None
        if in_channels != out_channels:
            self.shortcut = SkeletalGNNTemporalConvolution(in_channels, out_channels)
        self.temporal_convolution = SkeletalGNNTemporalConvolution(
            out_channels, out_channels, config.temporal_conv_kernel, stride
        )
        self.has_residual = index > 0
        if self.has_residual and (in_channels != out_channels or stride > 1):
            self.residual = SkeletalGNNTemporalConvolution(in_channels, out_channels, stride=stride)
        self.negative_slope, self.dropout = config.negative_slope, config.hidden_dropout_prob

    def forward(self, features: torch.Tensor, graphs: list | None = None) -> torch.Tensor:
        """(rows, frames, joints, in_channels) to (rows, frames / stride, joints, out_channels)."""
        shortcut = features if self.shortcut is None else self.shortcut(features)
        hidden = self.graph_convolution(features, graphs) + shortcut
        hidden = nn.functional.leaky_relu_(hidden, self.negative_slope)
        hidden = self.temporal_convolution(nn.functional.dropout(hidden, self.dropout, self.training))
        if self.has_residual:
            hidden = hidden + (features if self.residual is None else self.residual(features))
        return nn.functional.relu_(hidden)


class SkeletalGNNPreTrainedModel(PreTrainedModel):
    """Initial weights and checks of inputs."""

    config: SkeletalGraphConfig
    base_model_prefix = "skeletal_gnn"
    input_modalities = ("time",)
    accepts_loss_kwargs = False
    _no_split_modules = ["SkeletalGNNBlock", "SkeletalGNNActionLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)  # batch norms
        if isinstance(module, SkeletalGNNGraphConvolution):
            self._init_graph_convolution(module)
        elif isinstance(module, nn.Conv1d):
            init.normal_(module.weight, std=math.sqrt(2 / (module.out_channels * module.kernel_size[0])))
        elif isinstance(module, nn.Linear):  # fusions, and the head for lifting
            init.normal_(module.weight, std=math.sqrt(2 / module.in_features))

    def _init_graph_convolution(self, module: SkeletalGNNGraphConvolution):
        masks = self.config.hop_masks
        init.copy_(module.hop_mask, torch.from_numpy(masks))
        init.copy_(module.static_graph, torch.from_numpy(normalize_columns(masks)))
        if module.dynamic:
            fan_out = module.relation_channels * module.temporal_kernel
            init.normal_(module.relation_weight, std=math.sqrt(2 / fan_out))
            init.zeros_(module.relation_bias)
            init.zeros_(module.dynamic_scale)
        paired = module.weight_sharing == "pair"
        if paired:
            init.copy_(module.pairs, torch.from_numpy(np.stack(masks.nonzero())))
        for weight in module.squeeze_weight if paired else (module.squeeze_weight,):
            init.normal_(weight, std=math.sqrt(2 / module.in_channels))
        init.zeros_(module.squeeze_bias)


class SkeletalGNNModel(SkeletalGNNPreTrainedModel):
    """The lifting network without its head: windows of 2D poses to features."""

    config: SkeletalGNNConfig
    main_input_name = "keypoints_2d"

    def __init__(self, config: SkeletalGNNConfig):
        super().__init__(config)
        self.input_layer = SkeletalGNNLayer(config, config.in_channels)
        self.blocks = nn.ModuleList(SkeletalGNNBlock(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer."""
        return self.input_layer

    @can_return_tuple
    def forward(
        self,
        keypoints_2d: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_graphs: bool = False,
        **kwargs,
    ) -> SkeletalGNNModelOutput:
        """Features of windows.

        Args:
            keypoints_2d: (windows, num_frames, joints, in_channels), screen-normalised: x / width * 2 - 1 and
                y / width * 2 - height / width.
            output_hidden_states: Whether to give the features after each block; `config.output_hidden_states` if None.
            output_graphs: Whether to give the graphs of each layer.
            kwargs: `return_dict`.

        Raises:
            TypeError: If `keypoints_2d` is not a floating-point tensor, or an argument is unknown.
            ValueError: If its shape does not fit.
        """
        refuse_unknown_arguments(kwargs)
        config = self.config
        check_keypoints(keypoints_2d, config.num_joints, config.in_channels, config.num_frames)
        if keypoints_2d.shape[1] > config.num_frames:
            raise ValueError(
                f"`keypoints_2d` must be windows of {config.num_frames} frames (`num_frames`), got {keypoints_2d.shape[1]}; "
                "`SkeletalGNNForPoseLifting` takes longer sequences."
            )
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        graphs = [] if output_graphs else None
        hidden_states = [self.input_layer(keypoints_2d.to(self.dtype), graphs)]
        for block in self.blocks:
            hidden_states.append(block(hidden_states[-1], graphs))
            if not output_hidden_states:
                del hidden_states[0]
        return SkeletalGNNModelOutput(
            last_hidden_state=hidden_states[-1],
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            graphs=tuple(graphs) if output_graphs else None,
        )


class SkeletalGNNForPoseLifting(SkeletalGNNPreTrainedModel):
    """2D poses over time to 3D poses: one for each full window of `config.num_frames`, that of its middle frame."""

    config: SkeletalGNNConfig
    main_input_name = "keypoints_2d"

    def __init__(self, config: SkeletalGNNConfig):
        super().__init__(config)
        self.skeletal_gnn = SkeletalGNNModel(config)
        self.head = nn.Linear(config.num_frames * config.hidden_size, 3)  # all frames of a joint at once
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer."""
        return self.skeletal_gnn.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        keypoints_2d: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_graphs: bool = False,
        **kwargs,
    ) -> SkeletalGNNForPoseLiftingOutput:
        """Lift sequences.

        Args:
            keypoints_2d: (batch, frames, joints, 2), screen-normalised: x / width * 2 - 1 and y / width * 2 - height / width. A
                sequence of f frames lengthened by (num_frames - 1) / 2 copies of its first and of its last pose gives f poses;
                the feature extractor does that.
            labels: (batch, frames - num_frames + 1, joints, 3) metres in camera axes relative to the pelvis, whose own row is
                0. Gives the loss.
            output_hidden_states: Whether to give the features after each block; `config.output_hidden_states` if None.
            output_graphs: Whether to give the graphs of each layer.
            kwargs: `return_dict`.

        Raises:
            TypeError: If an argument is not a floating-point tensor, or unknown.
            ValueError: If a shape does not fit, or a sequence is shorter than a window.
        """
        refuse_unknown_arguments(kwargs)
        config = self.config
        check_keypoints(keypoints_2d, config.num_joints, config.in_channels, config.num_frames)
        count = keypoints_2d.shape[1] - config.num_frames + 1
        if labels is not None:
            check_lifting_labels(labels, (len(keypoints_2d), count, config.num_joints, 3))
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        windows = keypoints_2d.unfold(1, config.num_frames, 1).permute(0, 1, 4, 2, 3).flatten(0, 1)
        options = {"output_hidden_states": output_hidden_states, "output_graphs": output_graphs, "return_dict": True}
        # Norms of a batch in training, and what users asked to see, are of all windows together.
        whole = self.training or output_hidden_states or output_graphs
        parts = [windows] if whole else windows.split(self._chunk_size(windows.device))
        positions = []
        for part in parts:
            outputs = self.skeletal_gnn(part, **options)
            positions.append(self.head(outputs.last_hidden_state.transpose(1, 2).flatten(2)))
        of_sequence = (len(keypoints_2d), count)
        positions_3d = torch.cat(positions).unflatten(0, of_sequence)
        loss = None if labels is None else nn.functional.l1_loss(positions_3d, labels.to(positions_3d.dtype))
        return SkeletalGNNForPoseLiftingOutput(
            loss=loss,
            positions_3d=positions_3d,
            hidden_states=_unflatten(outputs.hidden_states, of_sequence),
            graphs=_unflatten(outputs.graphs, of_sequence),
        )

    def _chunk_size(self, device: torch.device) -> int:
        """Windows that are lifted at once."""
        values = CHUNK_VALUES if device.type == "cpu" else GPU_CHUNK_VALUES
        config = self.config
        return max(1, values // (config.num_frames * config.num_joints * config.hidden_size))


class SkeletalGNNActionModel(SkeletalGNNPreTrainedModel):
    """The network for actions without its classifier: skeletons to features."""

    config: SkeletalGNNActionConfig
    main_input_name = "skeleton_values"

    def __init__(self, config: SkeletalGNNActionConfig):
        super().__init__(config)
        self.input_norm = nn.BatchNorm1d(config.num_persons * config.num_joints * config.in_channels)
        self.layers = nn.ModuleList(SkeletalGNNActionLayer(config, index) for index in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first unit."""
        return self.layers[0]

    @can_return_tuple
    def forward(
        self,
        skeleton_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_graphs: bool = False,
        **kwargs,
    ) -> SkeletalGNNModelOutput:
        """Features of samples.

        Args:
            skeleton_values: (batch, in_channels, frames, joints, persons), 0 where a person is absent.
            output_hidden_states: Whether to give the features after each unit; `config.output_hidden_states` if None.
            output_graphs: Whether to give the graphs of each layer.
            kwargs: `return_dict`.

        Raises:
            TypeError: If `skeleton_values` is not a floating-point tensor, or an argument is unknown.
            ValueError: If its shape does not fit, or it has too few frames.
        """
        refuse_unknown_arguments(kwargs)
        self._check_skeletons(skeleton_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        values = skeleton_values.to(self.dtype).permute(0, 2, 4, 3, 1)  # batch, frames, persons, joints, channels
        values = normalize(values.flatten(2), self.input_norm).view(values.shape)
        features = values.transpose(1, 2).flatten(0, 1)
        hidden_states = [] if output_hidden_states else None
        graphs = [] if output_graphs else None
        for layer in self.layers:
            features = layer(features, graphs)
            if output_hidden_states:
                hidden_states.append(features)
        persons = (len(skeleton_values), self.config.num_persons)
        return SkeletalGNNModelOutput(
            last_hidden_state=features.unflatten(0, persons),
            hidden_states=_unflatten(hidden_states, persons),
            graphs=_unflatten(graphs, persons),
        )

    def _check_skeletons(self, values: torch.Tensor):
        config = self.config
        expected = f"(batch, {config.in_channels}, frames, {config.num_joints}, {config.num_persons})"
        if not torch.is_tensor(values) or not values.is_floating_point():
            kind = values.dtype if torch.is_tensor(values) else type(values).__name__
            raise TypeError(f"`skeleton_values` must be a floating-point tensor {expected}, got {kind}.")
        sizes = (config.in_channels, config.num_joints, config.num_persons)
        if values.ndim != 5 or 0 in values.shape or (values.shape[1], *values.shape[3:]) != sizes:
            raise ValueError(
                f"`skeleton_values` must have shape {expected}, channels, joints and persons as in the configuration, got "
                f"{tuple(values.shape)}."
            )
        if config.dynamic_graph and not config.pad_dynamic:
            frames = values.shape[2]
            for stride in config.strides[:-1]:
                frames = -(-frames // stride)
            if frames < config.temporal_kernel:
                raise ValueError(
                    f"`skeleton_values` must have more frames than {values.shape[2]}: the last unit sees {frames} of them and "
                    f"compares joints over `temporal_kernel` = {config.temporal_kernel}."
                )


class SkeletalGNNForActionRecognition(SkeletalGNNPreTrainedModel):
    """Skeletons over time to actions."""

    config: SkeletalGNNActionConfig
    main_input_name = "skeleton_values"

    def __init__(self, config: SkeletalGNNActionConfig):
        super().__init__(config)
        self.skeletal_gnn = SkeletalGNNActionModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self.classifier:
            init.normal_(module.weight, std=math.sqrt(2 / self.config.num_labels))

    def get_input_embeddings(self) -> nn.Module:
        """The first unit."""
        return self.skeletal_gnn.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        skeleton_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_graphs: bool = False,
        **kwargs,
    ) -> SkeletalGNNForActionRecognitionOutput:
        """Scores of the actions.

        Args:
            skeleton_values: (batch, in_channels, frames, joints, persons), 0 where a person is absent.
            labels: (batch,) integers below `num_labels`. Gives the loss.
            output_hidden_states: Whether to give the features after each unit; `config.output_hidden_states` if None.
            output_graphs: Whether to give the graphs of each layer.
            kwargs: `return_dict`.

        Raises:
            TypeError: If an argument has the wrong type, or is unknown.
            ValueError: If a shape does not fit.
        """
        refuse_unknown_arguments(kwargs)
        if labels is not None:
            if not torch.is_tensor(labels) or labels.dtype not in (torch.int64, torch.int32):
                kind = labels.dtype if torch.is_tensor(labels) else type(labels).__name__
                raise TypeError(f"`labels` must be a tensor of integers (batch,), got {kind}.")
            if labels.shape != skeleton_values.shape[:1]:
                raise ValueError(
                    f"`labels` must have shape {tuple(skeleton_values.shape[:1])} (batch,), got {tuple(labels.shape)}."
                )
        options = {"output_hidden_states": output_hidden_states, "output_graphs": output_graphs, "return_dict": True}
        outputs = self.skeletal_gnn(skeleton_values, **options)
        logits = self.classifier(outputs.last_hidden_state.mean((1, 2, 3)))
        return SkeletalGNNForActionRecognitionOutput(
            loss=None if labels is None else nn.functional.cross_entropy(logits, labels.long()),
            logits=logits,
            hidden_states=outputs.hidden_states,
            graphs=outputs.graphs,
        )


__all__ = [
    "SkeletalGNNActionModel",
    "SkeletalGNNForActionRecognition",
    "SkeletalGNNForActionRecognitionOutput",
    "SkeletalGNNForPoseLifting",
    "SkeletalGNNForPoseLiftingOutput",
    "SkeletalGNNGraphConvolution",
    "SkeletalGNNModel",
    "SkeletalGNNModelOutput",
    "SkeletalGNNPreTrainedModel",
]
