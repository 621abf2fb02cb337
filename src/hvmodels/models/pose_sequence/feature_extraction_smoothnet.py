"""Feature extractor of SmoothNet."""

from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor


class SmoothNetFeatureExtractor(PoseSequenceFeatureExtractor):
    """Feature extractor of `SmoothNetForPoseRefinement`; see `PoseSequenceFeatureExtractor` for arguments and methods.

    SmoothNet reads every coordinate alone, so that one checkpoint takes any joints, in 2D, 3D or rotations: what is said of
    units, image size and root applies to the poses that have them. The released checkpoints read metres, and 2D poses
    normalised by the image size.
    """


__all__ = ["SmoothNetFeatureExtractor"]
