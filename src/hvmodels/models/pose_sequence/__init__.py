"""Pose sequences: SmoothNet and DeciWatch."""

from .feature_extraction_deciwatch import DeciWatchFeatureExtractor
from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .feature_extraction_smoothnet import SmoothNetFeatureExtractor


__all__ = ["DeciWatchFeatureExtractor", "PoseSequenceFeatureExtractor", "SmoothNetFeatureExtractor"]
