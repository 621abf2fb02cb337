"""Configurations of Skeletal-GNN: its network for lifting and its network for actions."""

import math
from typing import Literal

import numpy as np
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .skeleton_graph_skeletal_gnn import hop_distances, hop_masks, skeleton_edges


@strict
class SkeletalGraphConfig(PreTrainedConfig):
    """What both networks of Skeletal-GNN have in common: the skeleton and the layer on it.

    Args:
        skeleton: `"h36m17"`, `"ntu25"`, or a list of undirected edges [joint, joint] from 0 that connect all joints.
        num_joints: Joints of the skeleton; None counts them.
        in_channels: Numbers a joint and frame that the network reads.
        short_hops: S: pairs of joints up to this distance share the first branch.
        long_hops: L: each distance from S + 1 to L has a branch of its own.
        squeeze_ratio: d: a branch of distance k has the share d^(k - S) of the output channels, at least one.
        relation_channels: C_h: channels of the two embeddings that the dynamic graph compares; None takes a quarter of a
            layer's output channels.
        temporal_kernel: F: frames that the embeddings see at once.
        dynamic_graph: Whether a graph predicted from the input is added to the learned one.
        normalize_scores: Whether the scores are divided by the number of values compared before tanh.
        pad_dynamic: Whether the embeddings get zeros at both ends in time, which needs an odd `temporal_kernel`.
        mask_dynamic: Whether the dynamic graph is kept only between the pairs of its branch.
        weight_sharing: Of the squeezing maps. `"shared"`: one a branch; `"node"`: one a branch and target joint; `"pair"`:
            one a pair of joints, which needs `mask_dynamic`.
        hidden_dropout_prob: Share of the activations dropped in training.
        negative_slope: Slope below 0 of the activation after each layer.

    Raises:
        ValueError: If values do not fit each other.
    """

    skeleton: str | list | tuple = "h36m17"
    num_joints: int | None = None
    in_channels: int = 2
    short_hops: int = 1
    long_hops: int = 3
    squeeze_ratio: float | int = 0.5
    relation_channels: int | None = 16
    temporal_kernel: int = 1
    dynamic_graph: bool = True
    normalize_scores: bool = True
    pad_dynamic: bool = False
    mask_dynamic: bool = True
    weight_sharing: Literal["shared", "node", "pair"] = "pair"
    hidden_dropout_prob: float | int = 0.0
    negative_slope: float | int = 0.2

    def __post_init__(self, **kwargs):
        edges = skeleton_edges(self.skeleton)
        if not isinstance(self.skeleton, str):
            self.skeleton = edges  # as JSON gives it back
        if self.num_joints is None:
            self.num_joints = 1 + max(max(edge) for edge in edges)
        self.validate_values()  # here too, so that construction raises a plain ValueError
        super().__post_init__(**kwargs)

    @property
    def hop_masks(self) -> np.ndarray:
        """(branches, joints, joints) bool, the pairs of joints of each branch."""
        distances = hop_distances(skeleton_edges(self.skeleton), self.num_joints)
        return hop_masks(distances, self.short_hops, self.long_hops)

    @property
    def num_branches(self) -> int:
        """Branches of a layer."""
        return 1 + self.long_hops - self.short_hops

    def branch_channels(self, out_channels: int) -> list[int]:
        """Channels of each branch of a layer with this many output channels."""
        return [max(1, math.floor(out_channels * self.squeeze_ratio**hop)) for hop in range(self.num_branches)]

    def validate_values(self):
        """Check that values fit each other."""
        for name in ("num_joints", "in_channels", "temporal_kernel"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.relation_channels is not None and self.relation_channels < 1:
            raise ValueError(f"`relation_channels` must be at least 1, or None, got {self.relation_channels}.")
        diameter = int(hop_distances(skeleton_edges(self.skeleton), self.num_joints).max())
        if not 0 <= self.short_hops <= self.long_hops <= diameter:
            raise ValueError(
                "`short_hops` and `long_hops` must be 0 <= short_hops <= long_hops <= the largest distance in the skeleton, "
                f"which is {diameter}; got {self.short_hops} and {self.long_hops}."
            )
        if not 0 < self.squeeze_ratio <= 1:
            raise ValueError(f"`squeeze_ratio` must be in (0, 1], got {self.squeeze_ratio}.")
        if self.pad_dynamic and self.temporal_kernel % 2 == 0:
            raise ValueError(
                f"`temporal_kernel` must be odd with `pad_dynamic`, whose zeros are the same at both ends; got "
                f"{self.temporal_kernel}."
            )
        if self.weight_sharing == "pair" and self.dynamic_graph and not self.mask_dynamic:
            raise ValueError(
                "`weight_sharing` 'pair' has weights only for the pairs of a branch: it needs `mask_dynamic=True`, or "
                "`dynamic_graph=False`."
            )
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"`hidden_dropout_prob` must be in [0, 1), got {self.hidden_dropout_prob}.")
        if not 0 <= self.negative_slope <= 1:
            raise ValueError(f"`negative_slope` must be in [0, 1], got {self.negative_slope}.")


@strict
class SkeletalGNNConfig(SkeletalGraphConfig):
    """Configuration of Skeletal-GNN for 2D-to-3D lifting (arXiv 2108.07181), with the fields of `SkeletalGraphConfig`.

    The paper's own sizes are not public; the defaults are this package's, with a matrix a pair and nine frames.

    Args:
        hidden_size: Channels of each layer.
        num_hidden_layers: Residual blocks of two layers.
        num_frames: T: frames of a window, 1 or another odd number. The result is the pose of the middle one.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "skeletal_gnn"

    temporal_kernel: int = 3
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_frames: int = 9

    def validate_values(self):
        """Check that values fit each other."""
        super().validate_values()
        if self.hidden_size < 1:
            raise ValueError(f"`hidden_size` must be at least 1, got {self.hidden_size}.")
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` must be 0 or more, got {self.num_hidden_layers}.")
        if self.num_frames < 1 or self.num_frames % 2 == 0:
            raise ValueError(f"`num_frames` must be odd, since the middle frame is lifted; got {self.num_frames}.")
        if self.dynamic_graph and not self.pad_dynamic and self.temporal_kernel > self.num_frames:
            raise ValueError(
                f"`temporal_kernel` must be at most `num_frames`, which is {self.num_frames}, without `pad_dynamic`; got "
                f"{self.temporal_kernel}."
            )


@strict
class SkeletalGNNActionConfig(SkeletalGraphConfig):
    """Configuration of Skeletal-GNN for actions (arXiv 2108.07181), with the fields of `SkeletalGraphConfig`.

    The defaults are the sizes of AGCN's network, which the paper's figure of the layer points to; `id2label` names the
    actions.

    Args:
        hidden_sizes: Output channels of each unit.
        strides: Step in time of each unit.
        temporal_conv_kernel: Frames that the convolution in time of each unit sees, odd.
        num_persons: Persons of a sample.

    Raises:
        ValueError: If values do not fit each other.
    """

    model_type = "skeletal_gnn_action"

    skeleton: str | list | tuple = "ntu25"
    in_channels: int = 3
    relation_channels: int | None = None
    mask_dynamic: bool = False
    weight_sharing: Literal["shared", "node", "pair"] = "shared"
    negative_slope: float | int = 0.0
    hidden_sizes: list[int] | tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
    strides: list[int] | tuple[int, ...] = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
    temporal_conv_kernel: int = 9
    num_persons: int = 2

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.hidden_sizes, self.strides = list(self.hidden_sizes), list(self.strides)

    @property
    def hidden_size(self) -> int:
        """Channels of the last unit."""
        return self.hidden_sizes[-1]

    @property
    def num_hidden_layers(self) -> int:
        """Number of units."""
        return len(self.hidden_sizes)

    def validate_values(self):
        """Check that values fit each other."""
        super().validate_values()
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"`hidden_sizes` must have a positive number for each unit, got {self.hidden_sizes}.")
        if len(self.strides) != len(self.hidden_sizes) or min(self.strides) < 1:
            raise ValueError(
                f"`strides` must have a positive number for each of the {len(self.hidden_sizes)} units of `hidden_sizes`, "
                f"got {self.strides}."
            )
        if self.temporal_conv_kernel < 1 or self.temporal_conv_kernel % 2 == 0:
            raise ValueError(f"`temporal_conv_kernel` must be odd, got {self.temporal_conv_kernel}.")
        if self.num_persons < 1:
            raise ValueError(f"`num_persons` must be at least 1, got {self.num_persons}.")


__all__ = ["SkeletalGNNActionConfig", "SkeletalGNNConfig", "SkeletalGraphConfig"]
