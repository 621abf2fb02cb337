"""hvmodels: research methods on human vision and forecasting as Hugging Face models.

`import hvmodels` registers every model, processor and pipeline with the Auto classes of transformers.
"""

from .methods import METHODS, TASKS, default_model, register
from .models.ed_pose import EDPoseConfig, EDPoseForPoseEstimation, EDPoseImageProcessor, EDPoseModel
from .models.forecasting import (
    LTSFLinearConfig,
    LTSFLinearFeatureExtractor,
    LTSFLinearForPrediction,
    LTSFLinearModel,
    SCINetConfig,
    SCINetFeatureExtractor,
    SCINetForPrediction,
    SCINetModel,
    TimeSeries,
    read_series,
)
from .models.pose_sequence import (
    DeciWatchConfig,
    DeciWatchFeatureExtractor,
    DeciWatchForPoseRecovery,
    DeciWatchModel,
    MartinezFCNConfig,
    MartinezFCNForPoseLifting,
    MartinezFCNModel,
    SmoothNetConfig,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
    SmoothNetModel,
    VideoPose3DConfig,
    VideoPose3DForPoseLifting,
    VideoPose3DModel,
)
from .models.rle import EfficientNetLiteConfig, RLEConfig, RLEForPoseEstimation, RLEImageProcessor, RLELoss, RLEModel
from .models.vitkd import ViTKDConfig, ViTKDForImageClassification, ViTKDImageProcessor, ViTKDModel
from .pipelines import (
    PoseEstimationPipeline,
    PoseRefinementPipeline,
    TimeSeriesForecastingPipeline,
    VideoPoseEstimationPipeline,
)
from .pose_sequences import PoseSequence, PoseTrack


__version__ = "0.1.0"

register()

__all__ = [
    "METHODS",
    "TASKS",
    "DeciWatchConfig",
    "DeciWatchFeatureExtractor",
    "DeciWatchForPoseRecovery",
    "DeciWatchModel",
    "EDPoseConfig",
    "EDPoseForPoseEstimation",
    "EDPoseImageProcessor",
    "EDPoseModel",
    "EfficientNetLiteConfig",
    "LTSFLinearConfig",
    "LTSFLinearFeatureExtractor",
    "LTSFLinearForPrediction",
    "LTSFLinearModel",
    "MartinezFCNConfig",
    "MartinezFCNForPoseLifting",
    "MartinezFCNModel",
    "PoseEstimationPipeline",
    "PoseRefinementPipeline",
    "PoseSequence",
    "PoseTrack",
    "RLEConfig",
    "RLEForPoseEstimation",
    "RLEImageProcessor",
    "RLELoss",
    "RLEModel",
    "SCINetConfig",
    "SCINetFeatureExtractor",
    "SCINetForPrediction",
    "SCINetModel",
    "SmoothNetConfig",
    "SmoothNetFeatureExtractor",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
    "TimeSeries",
    "TimeSeriesForecastingPipeline",
    "ViTKDConfig",
    "ViTKDForImageClassification",
    "ViTKDImageProcessor",
    "ViTKDModel",
    "VideoPose3DConfig",
    "VideoPose3DForPoseLifting",
    "VideoPose3DModel",
    "VideoPoseEstimationPipeline",
    "default_model",
    "read_series",
]
