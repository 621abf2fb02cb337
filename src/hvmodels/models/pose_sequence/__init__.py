"""Pose sequences: SmoothNet and DeciWatch."""
