"""Reading and windowing of data sets; no models."""
