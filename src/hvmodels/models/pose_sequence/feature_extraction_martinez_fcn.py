"""Feature extractor of the fully connected baseline."""

from .feature_extraction_pose_lifting import PoseLiftingFeatureExtractor


class MartinezFCNFeatureExtractor(PoseLiftingFeatureExtractor):
    """Feature extractor of `MartinezFCNForPoseLifting`; see `PoseLiftingFeatureExtractor` for arguments and methods.

    The model sees one frame. It leaves out joints by itself, and normalises by the statistics that it holds.
    """


__all__ = ["MartinezFCNFeatureExtractor"]
