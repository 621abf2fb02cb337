"""From tracked poses to the inputs of a pose-sequence model and back: units, root, rotations, missing joints, frame rate."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from .input_checks_pose_sequence import (
    POSSIBLE_EXTENT,
    check_inside,
    check_pixels,
    check_rotations,
    check_third_number,
    checked_image_size,
    index_list,
    infer_unit,
    is_flat,
    is_integer,
    is_number,
    joint_names,
    number_array,
    per_track,
    person_extent,
    pose_array,
    positive_rate,
    to_numpy,
    track_keys,
)
from .interpolation_pose_sequence import fit_length, interpolate_missing, resample, smooth_trajectory
from .rotations_pose_sequence import (
    ROTATION_FORMATS,
    ROTATION_LAYOUTS,
    continuous_rotations,
    convert_rotations,
)


METRES = {"metre": 1.0, "millimetre": 0.001}
UNITS = ("pixel", *METRES)
ROOT_MODES = ("smooth", "raw", "exclude")
UNSEEN_JOINTS = ("raise", "nan")
SAME_RATE = 0.02  # relative; 29.97 and 30 frames a second are one rate


@dataclass(frozen=True)
class PreparedTrack:
    """What brings the model's result for one track back into the form of its input.

    Args:
        track_id: Key of the track in the input, None if it had none.
        missing: (frames, joints) bool, True where the input had no pose.
        unseen: (joints,) bool, True where a joint was missing in all frames.
        scale: Factors from the input's unit to the model's, one a dimension.
        offset: Summands after the factors, one a dimension.
        root: (frames, 1, dims) what is added back to the result, in the model's unit; None without root handling.
        excluded: (frames, 1, dims) the root joint that the model did not get, in the model's unit; None if it got all.
        frame_rate: Frames a second of the input, None if not resampled.
        rotation_format: Format of the input, None for positions.
        first_rotation: (joints, ...) the first rotation seen of each joint, None for positions.
    """

    track_id: Hashable | None
    missing: np.ndarray
    unseen: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    root: np.ndarray | None = None
    excluded: np.ndarray | None = None
    frame_rate: float | None = None
    rotation_format: str | None = None
    first_rotation: np.ndarray | None = None


class PoseSequenceFeatureExtractor(FeatureExtractionMixin):
    """Turns tracks of poses into `pose_values` and `pose_mask`, and a model's result back into the input's form.

    What a checkpoint was trained on is stored here: units, normalisation, root, joints, frame rate. What the poses at
    hand are is said in the call. Making a window independent of the person's size and place is the model's part
    (`window_normalization="person"` of its configuration), since it goes by windows; such a checkpoint needs neither
    units nor normalisation here.

    ```python
    features = extractor(tracks, scores)
    outputs = model(features["pose_values"], features["pose_mask"])
    results = extractor.post_process_pose_refinement(outputs, features)
    ```

    Args:
        keypoint_names: Joints in the checkpoint's order; None accepts any.
        num_joints: Number of joints the checkpoint reads; None takes that of `keypoint_names`, else accepts any.
        joint_dim: Numbers a joint the checkpoint reads: 2 (image), 3 (space) or 6 (rotations); None accepts any.
        unit: Unit in which the checkpoint reads 3D positions, `"metre"` or `"millimetre"`; None takes them as they are.
        normalization: Of 2D positions. `"image"`: `p / (width, height) * image_scale + image_offset`, for which poses
            must be in pixels and `image_size` given; `"none"`.
        image_scale: See `normalization`. SmoothNet on Human3.6M 2, on Sub-JHMDB 1; DeciWatch 1.
        image_offset: See `normalization`. SmoothNet on Human3.6M -1, on Sub-JHMDB -0.5; DeciWatch 0.
        root_indices: Joints whose mean is the root. It is subtracted from 3D positions in each frame, and added back to
            the result as `root_mode` says. None subtracts nothing.
        root_mode: `"smooth"` adds the root's course smoothed by a Gaussian of 2 frames; `"raw"` as it came in;
            `"exclude"` does as mmpose's `root_index`: the one root joint does not enter the model and comes back as it was,
            the other joints get the root as it came in.
        frame_rate: Frames a second of the training data; None means any. If the call names another rate, poses are
            resampled linearly to this one and the result back; so a model that saw 50 frames a second meets the speeds it
            knows in a video of 25. Rates that differ by less than 2 % count as one.
        rotation_layout: Layout of 6D rotations in the checkpoint and in 6D input, `"columns"` (original) or `"rows"`
            (PyTorch3D), see `rotations_pose_sequence`.
        score_threshold: A joint whose score is not above it counts as missing, like one with a NaN.
        missing_value: A joint whose coordinates all equal this number counts as missing too; None for no such number.
        unseen_joints: What a joint does that is missing in all frames of a track: `"raise"`, or `"nan"`, which gives the
            model the centre of the others in its place (rotations: no rotation) and comes back as NaN.

    Raises:
        ValueError: On an unknown policy or settings that do not fit each other.
    """

    model_input_names = ["pose_values", "pose_mask"]
    output_name = "refined_poses"

    def __init__(
        self,
        keypoint_names: list[str] | None = None,
        num_joints: int | None = None,
        joint_dim: int | None = None,
        unit: Literal["metre", "millimetre"] | None = None,
        normalization: Literal["none", "image"] = "none",
        image_scale: float = 1.0,
        image_offset: float = 0.0,
        root_indices: list[int] | None = None,
        root_mode: Literal["smooth", "raw", "exclude"] = "smooth",
        frame_rate: float | None = None,
        rotation_layout: Literal["columns", "rows"] = "columns",
        score_threshold: float = 0.0,
        missing_value: float | None = None,
        unseen_joints: Literal["raise", "nan"] = "raise",
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, choices in (
            ("normalization", normalization, ("none", "image")),
            ("root_mode", root_mode, ROOT_MODES),
            ("rotation_layout", rotation_layout, ROTATION_LAYOUTS),
            ("unseen_joints", unseen_joints, UNSEEN_JOINTS),
            ("unit", unit, (None, *METRES)),
            ("joint_dim", joint_dim, (None, 2, 3, 6)),
        ):
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
        for name, value in (("image_scale", image_scale), ("image_offset", image_offset)):
            if not is_number(value):
                raise ValueError(f"`{name}` must be a finite number, got {value!r}.")
        if image_scale == 0:
            raise ValueError("`image_scale` must not be 0: it is divided by on the way back.")
        if not is_number(score_threshold):
            raise ValueError(f"`score_threshold` must be a finite number, got {score_threshold!r}.")
        if missing_value is not None and not is_number(missing_value):
            raise ValueError(
                f"`missing_value` must be a finite number such as -1, or None, got {missing_value!r}; NaN always counts "
                "as missing."
            )
        self.keypoint_names = joint_names(keypoint_names)
        if num_joints is not None and (not is_integer(num_joints) or num_joints < 1):
            raise ValueError(f"`num_joints` must be a positive integer or None, got {num_joints!r}.")
        if self.keypoint_names is not None and num_joints not in (None, len(self.keypoint_names)):
            raise ValueError(
                f"`num_joints` is {num_joints}, but `keypoint_names` has {len(self.keypoint_names)}; leave one out."
            )
        self.root_indices = index_list("root_indices", root_indices)
        if root_mode == "exclude" and self.root_indices is not None and len(self.root_indices) != 1:
            raise ValueError(f"`root_mode` 'exclude' needs one joint in `root_indices`, got {self.root_indices}.")
        self.num_joints = num_joints
        self.joint_dim = joint_dim
        self.unit = unit
        self.normalization = normalization
        self.image_scale = image_scale
        self.image_offset = image_offset
        self.root_mode = root_mode
        self.frame_rate = None if frame_rate is None else positive_rate("frame_rate", frame_rate)
        self.rotation_layout = rotation_layout
        self.score_threshold = score_threshold
        self.missing_value = missing_value
        self.unseen_joints = unseen_joints

    def __call__(
        self,
        poses: Any,
        scores: Any = None,
        *,
        frame_indices: Any = None,
        num_frames: Any = None,
        frame_rate: float | None = None,
        image_size: tuple[int, int] | None = None,
        unit: Literal["pixel", "metre", "millimetre"] | None = None,
        rotation_format: Literal["axis_angle", "quaternion", "matrix", "6d"] | None = None,
        keypoint_names: list[str] | None = None,
        track_ids: list | None = None,
        return_tensors: str | TensorType | None = "pt",
    ) -> BatchFeature:
        """Prepare one or several tracks.

        Args:
            poses: One track, an array or tensor (frames, joints, dims); or a list, or a dict {track id: track}, of tracks
                of any lengths. NaN marks a missing joint. Rotations come as `rotation_format` says.
            scores: Confidences (frames, joints), in the same list or dict as `poses`.
            frame_indices: Increasing frame numbers of the poses, if not every frame has one: one list for all tracks, or
                a list or dict of lists as `poses`. Frames between are interpolated and count as missing.
            num_frames: Length of the sequence to which `frame_indices` belong: one number, or a list or dict of
                numbers. None ends it with the last pose.
            frame_rate: Frames a second of the sequence, see the class.
            image_size: (width, height) of the picture in pixels, for `normalization="image"`.
            unit: Unit of the positions. None takes pixels in 2D; in 3D, if the checkpoint wants a unit, the one in which the
                extent of the pose is that of a person.
            rotation_format: `"axis_angle"` (..., 3), `"quaternion"` (..., 4) with w first, `"matrix"` (..., 3, 3) or
                `"6d"` (..., 6), in place of dims. None means positions, unless dims is 6.
            keypoint_names: Joints of the poses in their order, compared with the checkpoint's.
            track_ids: Ids of a list of tracks.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `pose_values` (tracks, frames, joints, dims) float32, shorter tracks padded by 0 at the end; `pose_mask`
            (tracks, frames) bool, False in the padding; `tracks`, a list of `PreparedTrack`, for
            `post_process_pose_refinement`.

        Raises:
            TypeError: If poses or scores hold no numbers.
            ValueError: If shapes, joints, units, indices or ids do not fit, a value is infinite, or a joint was never seen.
        """
        if rotation_format is not None and rotation_format not in ROTATION_FORMATS:
            raise ValueError(f"`rotation_format` must be one of {ROTATION_FORMATS} or None, got {rotation_format!r}.")
        if unit is not None and unit not in UNITS:
            raise ValueError(f"`unit` must be one of {UNITS} or None, got {unit!r}.")
        frame_rate = self._other_rate(frame_rate)
        single = not isinstance(poses, list | tuple | Mapping)
        keys, ids = track_keys(poses, track_ids)
        labels = [""] if single else [f" of track {key!r}" for key in keys]
        arrays = [
            pose_array(item, rotation_format, f"`poses`{label}")
            for item, label in zip(per_track("poses", [poses] if single else poses, keys), labels, strict=True)
        ]
        scores = [scores] * len(keys) if single or scores is None else per_track("scores", scores, keys)
        if rotation_format is None and arrays[0].shape[-1] == 6:
            rotation_format = "6d"
        if len({array.shape[1:] for array in arrays}) > 1:
            shapes = sorted({array.shape[1:] for array in arrays})
            raise ValueError(f"`poses` must have the same joints and dims in all tracks, got {shapes}.")
        seen = [
            self._seen(array, score, rotation_format, label)
            for array, score, label in zip(arrays, scores, labels, strict=True)
        ]
        if rotation_format is None and arrays[0].shape[-1] == 3:
            check_third_number(arrays, seen)
        self._check_joints(arrays[0], rotation_format, keypoint_names)
        indices = self._frame_indices_of(arrays, frame_indices, num_frames, keys, labels, frame_rate)
        scale, offset = self._scale_and_offset(arrays, seen, unit, image_size, rotation_format)

        values, tracks = [], []
        for label, track_id, array, visible, (index, length) in zip(labels, ids, arrays, seen, indices, strict=True):
            prepared, track = self._prepare(
                f"`poses`{label}", track_id, array, visible, index, length, scale, offset, frame_rate, rotation_format
            )
            values.append(prepared)
            tracks.append(track)
        longest = max(map(len, values))
        pose_mask = np.arange(longest) < np.array([[len(value)] for value in values])
        pose_values = np.zeros((len(values), longest, *values[0].shape[1:]), dtype=np.float32)
        for row, value in zip(pose_values, values, strict=True):
            row[: len(value)] = value
        features = BatchFeature({"pose_values": pose_values, "pose_mask": pose_mask}, tensor_type=return_tensors)
        features["tracks"] = tracks
        return features

    def post_process_pose_refinement(self, outputs: Any, features: Mapping) -> list[dict]:
        """A model's result in the form of the input.

        Args:
            outputs: Output of the model with its refined (or recovered) poses (tracks, frames, joints, dims) and their
                `refined_mask` (tracks, frames), None if that is `pose_mask`.
            features: What the call of this extractor returned.

        Returns:
            One dict a track: `poses` (frames, joints, dims) float32 in unit and rotation format of the input; `missing`
            (frames, joints) bool, True where the input had no pose and the result rests on its neighbours; `track_id`, if
            tracks had ids. Where the model was told to drop frames or to return its padding (its `tail` and
            `short_sequence`), so does this.
        """
        refined = to_numpy(outputs[self.output_name]).astype(np.float64)
        mask = outputs.get("refined_mask")
        mask = to_numpy(features["pose_mask"] if mask is None else mask)
        results = []
        for poses, row_mask, track in zip(refined, mask, features["tracks"], strict=True):
            poses = poses[row_mask]
            if track.frame_rate is not None:
                step = self.frame_rate / track.frame_rate
                poses = resample(poses, step, min(len(track.missing), int((len(poses) - 1) / step + 1e-6) + 1))
            result = {"poses": self._restore(poses, track), "missing": fit_length(track.missing, len(poses), True)}
            results.append(result if track.track_id is None else {"track_id": track.track_id, **result})
        return results

    def _prepare(
        self, name, track_id, poses, visible, frame_indices, num_frames, scale, offset, frame_rate, rotation_format
    ):
        """One track in the model's form, and the way back."""
        unseen = ~visible.any(axis=0)
        rooted = self.root_indices is not None and rotation_format is None and poses.shape[-1] == 3
        if unseen.any() and (self.unseen_joints == "raise" or unseen.all()):
            raise ValueError(self._unseen_message(name, unseen))
        if rooted and unseen[self.root_indices].any():
            raise ValueError(
                f"{name} must show the joints of `root_indices`, {self.root_indices}, at least once each."
            )
        first_rotation = fill = None
        if rotation_format is not None:
            identity = convert_rotations(np.eye(3), "matrix", rotation_format, self.rotation_layout)
            poses = np.where(visible.reshape(*visible.shape, *(1,) * identity.ndim), poses, identity)
            first_rotation = poses[visible.argmax(axis=0), np.arange(poses.shape[1])]
            poses = convert_rotations(poses, rotation_format, "6d", self.rotation_layout)
            fill = convert_rotations(np.eye(3), "matrix", "6d", self.rotation_layout)
        missing = np.ones((num_frames, poses.shape[1]), dtype=bool)
        missing[frame_indices] = ~visible
        values = np.zeros((num_frames, *poses.shape[1:]))
        values[frame_indices] = np.where(visible[..., None], poses, 0)
        values = interpolate_missing(values, missing) * scale + offset
        if unseen.any():
            values[:, unseen] = values[:, ~unseen].mean(axis=1, keepdims=True) if fill is None else fill
        root = excluded = None
        if rooted:
            root = values[:, self.root_indices].mean(axis=1, keepdims=True)
            values = values - root
            if self.root_mode == "exclude":
                excluded = root
                values = np.delete(values, self.root_indices, axis=1)
            root = self._root_course(root, frame_rate)
        if frame_rate is not None:
            step = frame_rate / self.frame_rate
            values = resample(values, step, int(np.ceil((num_frames - 1) / step - 1e-6)) + 1)
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must have values that fit into float32; check their unit.")
        track = PreparedTrack(
            track_id, missing, unseen, scale, offset, root, excluded, frame_rate, rotation_format, first_rotation
        )
        return values, track

    def _restore(self, poses: np.ndarray, track: PreparedTrack) -> np.ndarray:
        """Model's poses (frames, joints, dims), at the input's frame rate, in the input's unit and format."""
        if track.root is not None:
            poses = poses + fit_length(track.root, len(poses))
        if track.excluded is not None:
            poses = np.insert(poses, self.root_indices[0], fit_length(track.excluded, len(poses))[:, 0], axis=1)
        poses = (poses - track.offset) / track.scale
        if track.rotation_format is not None:
            poses = convert_rotations(poses, "6d", track.rotation_format, self.rotation_layout)
            poses = continuous_rotations(poses, track.rotation_format, track.first_rotation)
        poses = poses.astype(np.float32)
        poses[:, track.unseen] = np.nan
        return poses

    def _root_course(self, root: np.ndarray, frame_rate: float | None) -> np.ndarray:
        """(frames, 1, dims) of the root that is added back to the result."""
        return smooth_trajectory(root) if self.root_mode == "smooth" else root

    def _check_joints(self, poses, rotation_format, keypoint_names):
        num_joints, dims = poses.shape[1], 6 if rotation_format else poses.shape[-1]
        keypoint_names = joint_names(keypoint_names)
        if keypoint_names is not None and len(keypoint_names) != num_joints:
            raise ValueError(f"`keypoint_names` has {len(keypoint_names)} names, but `poses` has {num_joints} joints.")
        expected = self.num_joints or (None if self.keypoint_names is None else len(self.keypoint_names))
        excluded = self.root_indices is not None and self.root_mode == "exclude" and dims == 3
        if expected not in (None, num_joints):
            names = "" if self.keypoint_names is None else f" ({', '.join(self.keypoint_names)})"
            raise ValueError(
                f"`poses` must have the {expected} joints of the checkpoint{names}, got {num_joints}; convert them "
                "first, e.g. by `hvmodels.keypoint_sets.convert_keypoints`."
            )
        if None not in (keypoint_names, self.keypoint_names) and keypoint_names != self.keypoint_names:
            raise ValueError(
                f"`keypoint_names` must be those of the checkpoint in its order, {self.keypoint_names}, got "
                f"{keypoint_names}; convert the poses first, e.g. by `hvmodels.keypoint_sets.convert_keypoints`."
            )
        if self.joint_dim not in (None, dims):
            kinds = {2: "2D positions", 3: "3D positions", 6: "rotations"}
            raise ValueError(
                f"`poses` must be {kinds[self.joint_dim]} as the checkpoint was trained on, got {kinds[dims]}"
                f"{'; name their `rotation_format`' if self.joint_dim == 6 else ', or choose another checkpoint'}."
            )
        if self.root_indices is not None and dims == 3 and max(self.root_indices) >= num_joints:
            raise ValueError(
                f"`root_indices` must be below the number of joints in `poses`, {num_joints}, got {self.root_indices}."
            )
        if excluded and num_joints < 2:
            raise ValueError("`poses` must have another joint beside the root that `root_mode` 'exclude' leaves out.")

    def _seen(self, poses, scores, rotation_format, label) -> np.ndarray:
        """(frames, joints) bool: which joints the input has."""
        values = poses.reshape(*poses.shape[:2], -1)
        if np.isinf(values).any():
            frame, joint = np.argwhere(np.isinf(values))[0, :2]
            raise ValueError(
                f"`poses`{label} must be finite or NaN (missing), got an infinite value in frame "
                f"{frame}, joint {joint}; mark it as NaN."
            )
        seen = ~np.isnan(values).any(axis=-1)
        if self.missing_value is not None:
            seen &= (values != self.missing_value).any(axis=-1)
        if scores is not None:
            scores = number_array(scores, f"`scores`{label}")
            if scores.shape != poses.shape[:2]:
                raise ValueError(
                    f"`scores`{label} must have shape (frames, joints) = {poses.shape[:2]} as the poses, got {scores.shape}."
                )
            seen &= scores > self.score_threshold
        if rotation_format in ("quaternion", "matrix", "6d"):
            check_rotations(poses, seen, rotation_format, self.rotation_layout, f"`poses`{label}")
        return seen

    def _unseen_message(self, name, unseen):
        joints = np.flatnonzero(unseen).tolist()
        if unseen.all():
            return (
                f"{name} has no joint that is ever seen: all are NaN, or not above `score_threshold` = "
                f"{self.score_threshold}; drop the track."
            )
        labels = joints if self.keypoint_names is None else [self.keypoint_names[joint] for joint in joints]
        return (
            f"{name} has joints that are missing in all frames, {labels}; leave them out of all tracks, or choose "
            "`unseen_joints='nan'`."
        )

    def _other_rate(self, frame_rate: float | None) -> float | None:
        """A frame rate from which poses have to be resampled to the checkpoint's, else None."""
        if frame_rate is None:
            return None
        frame_rate = positive_rate("frame_rate", frame_rate)
        return None if abs(frame_rate / (self.frame_rate or frame_rate) - 1) < SAME_RATE else frame_rate

    def _frame_indices_of(self, arrays, frame_indices, num_frames, keys, labels, frame_rate):
        """(frame indices, number of frames) of each track."""
        shared = frame_indices is None or is_flat(frame_indices)
        all_indices = [frame_indices] * len(keys) if shared else per_track("frame_indices", frame_indices, keys)
        shared = num_frames is None or is_integer(num_frames)
        lengths = [num_frames] * len(keys) if shared else per_track("num_frames", num_frames, keys)
        result = []
        for label, array, indices, length in zip(labels, arrays, all_indices, lengths, strict=True):
            if length is not None and (not is_integer(length) or length < 1):
                raise ValueError(f"`num_frames`{label} must be a positive integer, got {length!r}.")
            if indices is None:
                indices = self._default_frame_indices(len(array), length, frame_rate)
            else:
                indices = index_list("frame_indices", indices)
            if len(indices) != len(array):
                raise ValueError(
                    f"`frame_indices`{label} must have one number for each of the {len(array)} poses, got {len(indices)}."
                )
            if any(after <= before for before, after in pairwise(indices)):
                raise ValueError(f"`frame_indices`{label} must increase and not repeat; sort the poses by time.")
            length = int(length or indices[-1] + 1)
            if indices[-1] >= length:
                raise ValueError(
                    f"`frame_indices`{label} must be below `num_frames` = {length}, got {indices[-1]}; count frames from 0."
                )
            result.append((indices, length))
        return result

    def _default_frame_indices(self, num_poses: int, num_frames: int | None, frame_rate: float | None) -> list[int]:
        if num_frames not in (None, num_poses):
            raise ValueError(
                f"`num_frames` is {num_frames}, but `poses` has {num_poses} frames; pass the `frame_indices` of the poses."
            )
        return list(range(num_poses))

    def _scale_and_offset(self, arrays, seen, unit, image_size, rotation_format):
        """(dims,) each: the model's values are poses * scale + offset."""
        dims = 6 if rotation_format else arrays[0].shape[-1]
        scale, offset = np.ones(dims), np.zeros(dims)
        if dims == 6:
            if unit is not None:
                raise ValueError(f"`unit` must be None for rotations, got {unit!r}.")
            return scale, offset
        if dims == 2:
            normalize = self.normalization == "image"
            if normalize and unit not in (None, "pixel"):
                raise ValueError(
                    f"`unit` must be 'pixel' for 2D poses that are normalised by the image size, got {unit!r}."
                )
            if unit == "pixel" or normalize:
                check_pixels(arrays, seen)
            if not normalize:
                return scale, offset
            size = checked_image_size(image_size)
            check_inside(arrays, seen, size)
            return self.image_scale / size, np.full(2, float(self.image_offset))
        extent = person_extent(arrays, seen)
        if unit is not None and unit in POSSIBLE_EXTENT:
            low, high = POSSIBLE_EXTENT[unit]
            if extent > 0 and not low <= extent <= high:
                raise ValueError(
                    f"`unit` is {unit!r}, but the poses extend over {extent:.4g}, which no person does in that unit; "
                    "check it."
                )
        if self.unit is None:
            return scale, offset
        if unit == "pixel":
            raise ValueError(
                f"`unit` must be 'metre' or 'millimetre' for 3D poses: the checkpoint reads {self.unit}s, which pixels "
                "do not tell."
            )
        if unit is None:
            unit = infer_unit(extent)
        return scale * (METRES[unit] / METRES[self.unit]), offset


__all__ = ["PoseSequenceFeatureExtractor", "PreparedTrack"]
