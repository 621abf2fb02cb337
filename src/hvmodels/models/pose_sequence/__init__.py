"""Pose sequences: SmoothNet, DeciWatch and Skeletal-GNN."""

from .configuration_deciwatch import DeciWatchConfig
from .configuration_skeletal_gnn import SkeletalGNNActionConfig, SkeletalGNNConfig
from .configuration_smoothnet import SmoothNetConfig
from .feature_extraction_deciwatch import DeciWatchFeatureExtractor
from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .feature_extraction_smoothnet import SmoothNetFeatureExtractor
from .modeling_deciwatch import DeciWatchForPoseRecovery, DeciWatchModel
from .modeling_skeletal_gnn import (
    SkeletalGNNActionModel,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
    SkeletalGNNModel,
)
from .modeling_smoothnet import SmoothNetForPoseRefinement, SmoothNetModel


__all__ = [
    "DeciWatchConfig",
    "DeciWatchFeatureExtractor",
    "DeciWatchForPoseRecovery",
    "DeciWatchModel",
    "PoseSequenceFeatureExtractor",
    "SkeletalGNNActionConfig",
    "SkeletalGNNActionModel",
    "SkeletalGNNConfig",
    "SkeletalGNNForActionRecognition",
    "SkeletalGNNForPoseLifting",
    "SkeletalGNNModel",
    "SmoothNetConfig",
    "SmoothNetFeatureExtractor",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
]
