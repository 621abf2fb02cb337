"""Feature extractor of VideoPose3D."""

from .feature_extraction_pose_lifting import PoseLiftingFeatureExtractor


class VideoPose3DFeatureExtractor(PoseLiftingFeatureExtractor):
    """Feature extractor of `VideoPose3DForPoseLifting`; see `PoseLiftingFeatureExtractor` for arguments and methods.

    `num_frames` and `causal` are those of the model's configuration. The published models take the flip test.
    """


__all__ = ["VideoPose3DFeatureExtractor"]
