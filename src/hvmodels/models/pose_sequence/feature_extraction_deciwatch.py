"""Feature extractor of DeciWatch, and the frames on which a detector has to run for it."""

import numpy as np

from .feature_extraction_pose_sequence import PoseSequenceFeatureExtractor
from .input_checks_pose_sequence import is_integer
from .interpolation_pose_sequence import interpolate_missing


class DeciWatchFeatureExtractor(PoseSequenceFeatureExtractor):
    """Feature extractor of `DeciWatchForPoseRecovery`; see `PoseSequenceFeatureExtractor` for the other arguments.

    The model looks at every `sample_interval`-th frame and at the last one. Poses come for those frames only,
    `extractor(poses, num_frames=...)`; for any others, `extractor(poses, frame_indices=..., num_frames=...)`, from which the
    frames the model looks at are interpolated; or for all frames. `missing` of the result is True in every frame without a
    pose. The root that is added back is linear between the frames the model looks at, before `root_mode` smooths it.

    The model mixes joints: give `num_joints` or `keypoint_names`, and `joint_dim`, to have poses of others refused.

    Args:
        sample_interval: Frames from one pose to the next, as in the model's configuration, at the `frame_rate` of the
            training data.
        **kwargs: See `PoseSequenceFeatureExtractor`; `root_mode` "exclude" is not for DeciWatch.
    """

    output_name = "recovered_poses"

    def __init__(self, sample_interval: int = 10, **kwargs):
        super().__init__(**kwargs)
        if not is_integer(sample_interval) or sample_interval < 1:
            raise ValueError(f"`sample_interval` must be a positive integer, got {sample_interval!r}.")
        if self.root_mode == "exclude":
            raise ValueError("`root_mode` must be 'smooth' or 'raw' for DeciWatch, which reads all joints.")
        self.sample_interval = sample_interval

    def frame_indices(self, num_frames: int, frame_rate: float | None = None) -> list[int]:
        """Frames on which a detector has to run: 0, N, 2 N, ... and the last one.

        Args:
            num_frames: Length of the sequence.
            frame_rate: Its frames a second. If it differs from the checkpoint's `frame_rate`, N changes with it, and
                the nearest frames are taken.
        """
        if not is_integer(num_frames) or num_frames < 1:
            raise ValueError(f"`num_frames` must be a positive integer, got {num_frames!r}.")
        frame_rate = self._other_rate(frame_rate)
        interval = self.sample_interval * (1.0 if frame_rate is None else frame_rate / self.frame_rate)
        steps = np.arange(int((num_frames - 1) / interval + 1e-6) + 1)
        indices = np.rint(steps * interval).astype(np.int64)
        return sorted({*np.minimum(indices, num_frames - 1).tolist(), int(num_frames) - 1})

    def _default_frame_indices(self, num_poses: int, num_frames: int | None, frame_rate: float | None) -> list[int]:
        if num_frames not in (None, num_poses):
            indices = self.frame_indices(num_frames, frame_rate)
            if len(indices) == num_poses:
                return indices
        return super()._default_frame_indices(num_poses, num_frames, frame_rate)

    def _root_course(self, root: np.ndarray, frame_rate: float | None) -> np.ndarray:
        unsampled = np.ones((len(root), 1), dtype=bool)
        unsampled[self.frame_indices(len(root), frame_rate)] = False
        return super()._root_course(interpolate_missing(root, unsampled), frame_rate)


__all__ = ["DeciWatchFeatureExtractor"]
