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
    SkeletalGNNActionConfig,
    SkeletalGNNActionModel,
    SkeletalGNNConfig,
    SkeletalGNNForActionRecognition,
    SkeletalGNNForPoseLifting,
    SkeletalGNNModel,
    SmoothNetConfig,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
    SmoothNetModel,
)
from .models.rle import EfficientNetLiteConfig, RLEConfig, RLEForPoseEstimation, RLEImageProcessor, RLELoss, RLEModel
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
    "SkeletalGNNActionConfig",
    "SkeletalGNNActionModel",
    "SkeletalGNNConfig",
    "SkeletalGNNForActionRecognition",
    "SkeletalGNNForPoseLifting",
    "SkeletalGNNModel",
    "SmoothNetConfig",
    "SmoothNetFeatureExtractor",
    "SmoothNetForPoseRefinement",
    "SmoothNetModel",
    "TimeSeries",
    "TimeSeriesForecastingPipeline",
    "VideoPoseEstimationPipeline",
    "default_model",
    "read_series",
]
