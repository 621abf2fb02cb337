"""ED-Pose: end-to-end multi-person pose estimation."""

from .configuration_ed_pose import EDPoseConfig
from .image_processing_ed_pose import EDPoseImageProcessor
from .modeling_ed_pose import EDPoseForPoseEstimation, EDPoseModel, EDPosePreTrainedModel


__all__ = [
    "EDPoseConfig",
    "EDPoseForPoseEstimation",
    "EDPoseImageProcessor",
    "EDPoseModel",
    "EDPosePreTrainedModel",
]
