"""Pose sequences: SmoothNet and DeciWatch."""

from .configuration_smoothnet import SmoothNetConfig
from .modeling_smoothnet import SmoothNetForPoseRefinement, SmoothNetModel


__all__ = [
    "SmoothNetConfig",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
]
