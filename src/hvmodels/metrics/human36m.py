"""Evaluation of Human3.6M: MPJPE and PA-MPJPE in millimetres, over all frames, by axis and by action."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cameras import PinholeCamera
from .pose_sequence import joint_errors, root_relative


NUM_EVALUATED = 17
"""The first 17 joints count, the root with its error of 0 among them; the thorax, which the data set lacks, does not."""


class Human36MEvaluator:
    """Errors of predicted poses, each given as pixels and depths, against the poses in the camera's frame.

        evaluator = Human36MEvaluator(data.joints, data.cameras, data.actions)
        for index, pose in ...:
            evaluator.update(index, pose)
        evaluator.compute()["MPJPE"]

    Processes that share the frames each fill an evaluator and gather `evaluator.predictions`, a dict by frame; a frame
    that was seen twice counts once. The true depth of the root places a pose, as it does in the papers.

    Args:
        joints: (frames, joints, 3) true joints in the camera's frame, millimetres; 17 joints or more.
        cameras: One camera a frame.
        actions: Name of each frame's action, None to leave out the table by action.
        root_index: Joint that depths are relative to.

    Raises:
        ValueError: If numbers of frames differ or there is no frame.
    """

    def __init__(
        self,
        joints: Any,
        cameras: Sequence[PinholeCamera],
        actions: Sequence[str] | None = None,
        root_index: int = 0,
    ):
        self.joints = np.asarray(joints, dtype=np.float64)
        if self.joints.ndim != 3 or self.joints.shape[1] < NUM_EVALUATED or self.joints.shape[2] != 3:
            raise ValueError(
                f"`joints` must have shape (frames, {NUM_EVALUATED} or more, 3), got {self.joints.shape}."
            )
        if not len(self.joints):
            raise ValueError("`joints` must have one frame at least, got none.")
        for name, values in (("cameras", cameras), ("actions", actions)):
            if values is not None and len(values) != len(self.joints):
                raise ValueError(
                    f"`{name}` must have one entry for each of {len(self.joints)} frames, got {len(values)}."
                )
        self.cameras = list(cameras)
        self.actions = None if actions is None else list(actions)
        self.root_index = root_index
        self.predictions: dict[int, np.ndarray] = {}

    def update(self, index: int, keypoints: Any):
        """Take the prediction for one frame, in place of an earlier one.

        Args:
            index: Of the frame.
            keypoints: (joints, 3): x and y in pixels of the picture, depth relative to the root in millimetres.

        Raises:
            ValueError: If there is no such frame, the shape differs, or a value is not finite.
        """
        index = int(index)
        if not 0 <= index < len(self.joints):
            raise ValueError(f"`index` must be a frame from 0 to {len(self.joints) - 1}, got {index}.")
        keypoints = keypoints.detach().cpu().double() if hasattr(keypoints, "detach") else keypoints
        keypoints = np.asarray(keypoints, dtype=np.float64)
        if keypoints.shape != self.joints.shape[1:]:
            raise ValueError(f"`keypoints` must have shape {self.joints.shape[1:]}, got {keypoints.shape}.")
        if not np.isfinite(keypoints).all():
            raise ValueError(f"`keypoints` of frame {index} must be finite, got NaN or infinite values.")
        self.predictions[index] = keypoints

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and true poses relative to the root, each (frames, 17, 3) in millimetres.

        Raises:
            ValueError: If frames have no prediction.
        """
        missing = sorted(set(range(len(self.joints))) - set(self.predictions))
        if missing:
            raise ValueError(
                f"Predictions for {len(missing)} of {len(self.joints)} frames are missing, such as {missing[0]}."
            )
        predicted = []
        for index, camera in enumerate(self.cameras):
            keypoints = self.predictions[index]
            predicted.append(
                camera.unproject(keypoints[:, :2], keypoints[:, 2] + self.joints[index, self.root_index, 2])
            )
        poses = (root_relative(pose, self.root_index) for pose in (np.stack(predicted), self.joints))
        predicted, true = (pose[:, :NUM_EVALUATED] for pose in poses)
        return predicted, true

    def compute(self) -> dict[str, float]:
        """Errors in millimetres.

        Returns:
            `MPJPE`, `PA-MPJPE`, `MPJPE_x`, `MPJPE_y`, `MPJPE_z` (mean absolute error along each axis of the camera), and
            `MPJPE_<action>` for each action that has frames.
        """
        predicted, true = self.poses()
        errors = joint_errors(predicted, true)
        result = {"MPJPE": errors.mean(), "PA-MPJPE": joint_errors(predicted, true, align=True).mean()}
        for axis, error in zip("xyz", np.abs(predicted - true).mean(axis=(0, 1)), strict=True):
            result[f"MPJPE_{axis}"] = error
        if self.actions is not None:
            actions = np.array(self.actions)
            for action in dict.fromkeys(self.actions):
                result[f"MPJPE_{action}"] = errors[actions == action].mean()
        return {name: float(value) for name, value in result.items()}


__all__ = ["Human36MEvaluator"]
