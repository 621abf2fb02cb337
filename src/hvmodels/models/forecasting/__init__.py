"""Forecasters: the LTSF-Linear family and SCINet."""

from .configuration_ltsf_linear import LTSFLinearConfig
from .configuration_scinet import SCINetConfig
from .feature_extraction_forecasting import ForecastingFeatureExtractor, TimeSeries, read_series
from .feature_extraction_ltsf_linear import LTSFLinearFeatureExtractor
from .feature_extraction_scinet import SCINetFeatureExtractor
from .modeling_ltsf_linear import LTSFLinearForPrediction, LTSFLinearModel, LTSFLinearPreTrainedModel
from .modeling_scinet import SCINetForPrediction, SCINetModel, SCINetPreTrainedModel


__all__ = [
    "ForecastingFeatureExtractor",
    "LTSFLinearConfig",
    "LTSFLinearFeatureExtractor",
    "LTSFLinearForPrediction",
    "LTSFLinearModel",
    "LTSFLinearPreTrainedModel",
    "SCINetConfig",
    "SCINetFeatureExtractor",
    "SCINetForPrediction",
    "SCINetModel",
    "SCINetPreTrainedModel",
    "TimeSeries",
    "read_series",
]
