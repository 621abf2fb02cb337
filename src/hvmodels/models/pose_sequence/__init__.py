"""Pose sequences: SmoothNet and DeciWatch."""

from .configuration_smoothnet import SmoothNetConfig
from .feature_extraction_deciwatch import DeciWatchFeatureExtractor
from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .feature_extraction_smoothnet import SmoothNetFeatureExtractor
from .modeling_smoothnet import SmoothNetForPoseRefinement, SmoothNetModel


__all__ = [
    "DeciWatchFeatureExtractor",
    "PoseSequenceFeatureExtractor",
    "SmoothNetConfig",
    "SmoothNetFeatureExtractor",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
]
