"""Pose sequences: SmoothNet and DeciWatch."""

from .configuration_deciwatch import DeciWatchConfig
from .configuration_smoothnet import SmoothNetConfig
from .feature_extraction_deciwatch import DeciWatchFeatureExtractor
from .feature_extraction_pose_lifting import PoseLiftingFeatureExtractor
from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .feature_extraction_smoothnet import SmoothNetFeatureExtractor
from .modeling_deciwatch import DeciWatchForPoseRecovery, DeciWatchModel
from .modeling_smoothnet import SmoothNetForPoseRefinement, SmoothNetModel


__all__ = [
    "DeciWatchConfig",
    "DeciWatchFeatureExtractor",
    "DeciWatchForPoseRecovery",
    "DeciWatchModel",
    "PoseLiftingFeatureExtractor",
    "PoseSequenceFeatureExtractor",
    "SmoothNetConfig",
    "SmoothNetFeatureExtractor",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
]
