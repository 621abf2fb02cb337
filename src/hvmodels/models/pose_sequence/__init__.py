"""Pose sequences: SmoothNet and DeciWatch."""

from .configuration_deciwatch import DeciWatchConfig
from .modeling_deciwatch import DeciWatchForPoseRecovery, DeciWatchModel


__all__ = ["DeciWatchConfig", "DeciWatchForPoseRecovery", "DeciWatchModel"]
