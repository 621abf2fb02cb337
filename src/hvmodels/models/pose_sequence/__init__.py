"""Pose sequences: SmoothNet and DeciWatch refine, VideoPose3D, Martinez' and Skeletal-GNN lift, the last also names actions."""

from .configuration_deciwatch import DeciWatchConfig
from .configuration_martinez_fcn import MartinezFCNConfig
from .configuration_skeletal_gnn import SkeletalGNNActionConfig, SkeletalGNNConfig
from .configuration_smoothnet import SmoothNetConfig
from .configuration_videopose3d import VideoPose3DConfig
from .feature_extraction_deciwatch import DeciWatchFeatureExtractor
from .feature_extraction_martinez_fcn import MartinezFCNFeatureExtractor
from .feature_extraction_pose_lifting import PoseLiftingFeatureExtractor
from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .feature_extraction_skeletal_gnn import SkeletalGNNFeatureExtractor
from .feature_extraction_skeleton_action import SkeletonActionFeatureExtractor
from .feature_extraction_smoothnet import SmoothNetFeatureExtractor
from .feature_extraction_videopose3d import VideoPose3DFeatureExtractor
from .modeling_deciwatch import DeciWatchForPoseRecovery, DeciWatchModel
from .modeling_martinez_fcn import MartinezFCNForPoseLifting, MartinezFCNModel
from .modeling_skeletal_gnn import (
    SkeletalGNNActionModel,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
    SkeletalGNNModel,
)
from .modeling_smoothnet import SmoothNetForPoseRefinement, SmoothNetModel
from .modeling_videopose3d import VideoPose3DForPoseLifting, VideoPose3DModel


__all__ = [
    "DeciWatchConfig",
    "DeciWatchFeatureExtractor",
    "DeciWatchForPoseRecovery",
    "DeciWatchModel",
    "MartinezFCNConfig",
    "MartinezFCNFeatureExtractor",
    "MartinezFCNForPoseLifting",
    "MartinezFCNModel",
    "PoseLiftingFeatureExtractor",
    "PoseSequenceFeatureExtractor",
    "SkeletalGNNActionConfig",
    "SkeletalGNNActionModel",
    "SkeletalGNNConfig",
    "SkeletalGNNFeatureExtractor",
    "SkeletalGNNForActionRecognition",
    "SkeletalGNNForPoseLifting",
    "SkeletalGNNModel",
    "SkeletonActionFeatureExtractor",
    "SmoothNetConfig",
    "SmoothNetFeatureExtractor",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
    "VideoPose3DConfig",
    "VideoPose3DFeatureExtractor",
    "VideoPose3DForPoseLifting",
    "VideoPose3DModel",
]
