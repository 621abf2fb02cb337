"""Feature extractor of the LTSF-Linear family."""

from .feature_extraction_forecasting import ForecastingFeatureExtractor


class LTSFLinearFeatureExtractor(ForecastingFeatureExtractor):
    """Feature extractor of `LTSFLinearForPrediction`; see `ForecastingFeatureExtractor` for arguments and methods."""


__all__ = ["LTSFLinearFeatureExtractor"]
