"""Forecasters: the LTSF-Linear family."""

from .configuration_ltsf_linear import LTSFLinearConfig
from .feature_extraction_forecasting import ForecastingFeatureExtractor, TimeSeries, read_series
from .feature_extraction_ltsf_linear import LTSFLinearFeatureExtractor
from .modeling_ltsf_linear import LTSFLinearForPrediction, LTSFLinearModel, LTSFLinearPreTrainedModel


__all__ = [
    "ForecastingFeatureExtractor",
    "LTSFLinearConfig",
    "LTSFLinearFeatureExtractor",
    "LTSFLinearForPrediction",
    "LTSFLinearModel",
    "LTSFLinearPreTrainedModel",
    "TimeSeries",
    "read_series",
]
