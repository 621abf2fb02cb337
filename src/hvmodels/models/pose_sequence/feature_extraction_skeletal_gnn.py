"""Feature extractor of Skeletal-GNN's lifting network."""

from .feature_extraction_pose_lifting import PoseLiftingFeatureExtractor


class SkeletalGNNFeatureExtractor(PoseLiftingFeatureExtractor):
    """Feature extractor of `SkeletalGNNForPoseLifting`; see `PoseLiftingFeatureExtractor` for arguments and methods."""


__all__ = ["SkeletalGNNFeatureExtractor"]
