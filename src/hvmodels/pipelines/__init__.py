"""Pipelines: from what users have to what they want, by a model and its processor."""

from .pipeline_time_series_forecasting import TimeSeriesForecastingPipeline


__all__ = ["TimeSeriesForecastingPipeline"]
