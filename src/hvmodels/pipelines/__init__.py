"""Pipelines: from what users have to what they want, by a model and its processor."""

from .pipeline_attention_image_classification import AttentionImageClassificationPipeline
from .pipeline_pose_estimation import PoseEstimationPipeline
from .pipeline_pose_lifting import PoseLiftingPipeline
from .pipeline_pose_refinement import PoseRefinementPipeline
from .pipeline_skeleton_action_recognition import SkeletonActionRecognitionPipeline
from .pipeline_time_series_forecasting import TimeSeriesForecastingPipeline
from .pipeline_video_pose_estimation import VideoPoseEstimationPipeline


__all__ = [
    "AttentionImageClassificationPipeline",
    "PoseEstimationPipeline",
    "PoseLiftingPipeline",
    "PoseRefinementPipeline",
    "SkeletonActionRecognitionPipeline",
    "TimeSeriesForecastingPipeline",
    "VideoPoseEstimationPipeline",
]
