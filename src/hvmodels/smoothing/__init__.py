"""Smoothing of pose sequences: plain filters, and streams that take one frame at a time."""
