"""RLE: top-down regression of keypoints with learned deviations."""

from .configuration_efficientnet_lite import EfficientNetLiteConfig
from .configuration_rle import RLEConfig
from .image_processing_rle import RLEImageProcessor
from .loss_rle import RealNVP, RLELoss, clip_gradients_by_tensor
from .modeling_efficientnet_lite import EfficientNetLiteModel
from .modeling_rle import RLEForPoseEstimation, RLEModel, RLEPoseEstimatorOutput


__all__ = [
    "EfficientNetLiteConfig",
    "EfficientNetLiteModel",
    "RLEConfig",
    "RLEForPoseEstimation",
    "RLEImageProcessor",
    "RLELoss",
    "RLEModel",
    "RLEPoseEstimatorOutput",
    "RealNVP",
    "clip_gradients_by_tensor",
]
