"""Feature extractor of SCINet."""

from .feature_extraction_forecasting import ForecastingFeatureExtractor


class SCINetFeatureExtractor(ForecastingFeatureExtractor):
    """Feature extractor of `SCINetForPrediction`; see `ForecastingFeatureExtractor` for arguments and methods."""


__all__ = ["SCINetFeatureExtractor"]
