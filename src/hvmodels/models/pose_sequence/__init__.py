"""Pose sequences: SmoothNet and DeciWatch."""

from .configuration_deciwatch import DeciWatchConfig
from .feature_extraction_deciwatch import DeciWatchFeatureExtractor
from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .feature_extraction_smoothnet import SmoothNetFeatureExtractor
from .modeling_deciwatch import DeciWatchForPoseRecovery, DeciWatchModel


__all__ = [
    "DeciWatchConfig",
    "DeciWatchFeatureExtractor",
    "DeciWatchForPoseRecovery",
    "DeciWatchModel",
    "PoseSequenceFeatureExtractor",
    "SmoothNetFeatureExtractor",
]
