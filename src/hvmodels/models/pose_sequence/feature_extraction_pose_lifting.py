"""From 2D poses in pixels to the input of a model that lifts them to 3D, and from its result to poses in space."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from ...cameras import PinholeCamera, normalize_screen_coordinates
from ...keypoint_sets import (
    HUMAN36M17,
    KEYPOINT_SETS,
    KeypointSet,
    canonical_name,
    conversion_matrix,
    convert_keypoints,
    find_keypoint_set,
    flip_permutation,
    infer_flip_pairs,
)
from .input_checks_pose_sequence import (
    check_inside,
    check_pixels,
    checked_image_size,
    is_integer,
    is_number,
    joint_names,
    number_array,
    per_track,
    pose_array,
    to_numpy,
    track_keys,
)
from .interpolation_pose_sequence import interpolate_missing


LIFTING_UNITS = ("pixel", "screen")
AXES = ("camera", "world", "upright")
UNSEEN_JOINTS = ("raise", "nan")
LARGEST_SCREEN_COORDINATE = 3.0
# How much longer the bones are, all together, if joints of a person stand in another order than is said.
WRONG_ORDER = 1.3
CHECKED_FRAMES = 64


@dataclass(frozen=True)
class LiftingTrack:
    """What is known of one track beside the model's input.

    Args:
        track_id: Key of the track in the input, None if it had none.
        missing: (frames, joints) bool, where the model's joint was put together from other frames.
        scores: (frames, joints) confidence, 0 where missing; None if the input had none.
        complete: Whether every joint was seen in some frame; else there is nothing to lift.
    """

    track_id: Hashable | None
    missing: np.ndarray
    scores: np.ndarray | None = None
    complete: bool = True


def pad_windows(keypoints: np.ndarray, num_frames: int, causal: bool = False) -> np.ndarray:
    """Repeat the first and the last frame so that every frame has a full window.

    Args:
        keypoints: (..., frames, joints, dims).
        num_frames: Frames of a window, odd unless `causal`.
        causal: Whether a window ends with its own frame, so that only the first one is repeated.

    Returns:
        (..., frames + num_frames - 1, joints, dims).
    """
    before, after = (num_frames - 1, 0) if causal else (num_frames // 2, (num_frames - 1) // 2)
    padding = [(0, 0)] * (keypoints.ndim - 3) + [(before, after), (0, 0), (0, 0)]
    return np.pad(keypoints, padding, mode="edge")


def flip_poses(poses: np.ndarray, permutation: np.ndarray) -> np.ndarray:
    """The mirror image: x of (..., joints, dims) turned round, left and right joints exchanged.

    Args:
        poses: In normalised screen coordinates or metres, with x = 0 in the middle.
        permutation: (joints,) joint of the pose for each joint of its mirror image.
    """
    flipped = poses[..., permutation, :].copy()
    flipped[..., 0] *= -1
    return flipped


class PoseLiftingFeatureExtractor(FeatureExtractionMixin):
    """Turns tracks of 2D poses into `keypoints_2d`, and what a lifting model makes of them into poses in space.

    ```python
    features = extractor(keypoints, scores, image_size=(1920, 1080), keypoint_names="coco17")
    outputs = model(features["keypoints_2d"])
    poses = extractor.post_process_pose_lifting(outputs, features)[0]["poses"]  # (frames, 17, 3), metres
    ```

    The steps, for each track: joints that are NaN, at exactly (0, 0) or of a score below `score_threshold` are drawn
    straight between the frames where they were seen; joints of another set become the model's by
    `keypoint_sets.convert_keypoints`; pixels become shares of the picture's width; the first and last frame are repeated until
    every frame has a full window, so that a single frame may go to a model of many; with the flip test the mirror image
    is a second row of the batch.

    Without a camera the picture is taken for one of the training data's opening angle. With one, poses are moved to where the
    training camera would have seen them.

    Args:
        num_frames: Frames of the model's window, as its configuration says.
        causal: Whether a window ends with the frame it is for; else it is the middle one.
        keypoint_names: Joints of the model in its order, Human3.6M's 17 by default.
        root_index: Joint of the result that the model's positions are relative to; None for places in the camera's frame.
        flip_test: Whether the mean of a pose and of its unflipped mirror image is taken, at twice the work.
        score_threshold: Least score of a joint that counts as seen.
        focal_length: Of the training cameras, in widths of the picture; None if they differ or it is not known. Human3.6M's
            is 1.145.
        unseen_joints: What becomes of a track that does not tell one of the model's joints in any frame: an error (`"raise"`),
            or poses that are all NaN (`"nan"`).
        allow_upside_down: Whether persons who stand on their head in nearly all frames are lifted; else they are an
            error, since most often y points up.
        output_keypoint_names: Joints of the result, for a model that reads other ones; those of `keypoint_names` if None.

    Raises:
        ValueError: On settings out of range.
    """

    model_input_names = ["keypoints_2d"]

    def __init__(
        self,
        num_frames: int = 1,
        causal: bool = False,
        keypoint_names: list[str] | None = None,
        root_index: int | None = 0,
        flip_test: bool = True,
        score_threshold: float = 0.2,
        focal_length: float | None = None,
        unseen_joints: Literal["raise", "nan"] = "raise",
        allow_upside_down: bool = False,
        output_keypoint_names: list[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not is_integer(num_frames) or num_frames < 1:
            raise ValueError(f"`num_frames` must be a positive integer, got {num_frames!r}.")
        if not causal and num_frames % 2 == 0:
            raise ValueError(
                f"`num_frames` must be odd unless `causal`, so that there is a middle frame, got {num_frames}."
            )
        if not is_number(score_threshold):
            raise ValueError(f"`score_threshold` must be a finite number, got {score_threshold!r}.")
        if focal_length is not None and (not is_number(focal_length) or focal_length <= 0):
            raise ValueError(f"`focal_length` must be a positive number of picture widths, got {focal_length!r}.")
        if unseen_joints not in UNSEEN_JOINTS:
            raise ValueError(f"`unseen_joints` must be one of {UNSEEN_JOINTS}, got {unseen_joints!r}.")
        self.keypoint_names = joint_names(keypoint_names) or list(HUMAN36M17.keypoints)
        self.output_keypoint_names = joint_names(output_keypoint_names) or list(self.keypoint_names)
        count = len(self.output_keypoint_names)
        if root_index is not None and (not is_integer(root_index) or not 0 <= root_index < count):
            raise ValueError(
                f"`root_index` must be one of the {count} joints of the result, or None, got {root_index!r}."
            )
        self.num_frames = num_frames
        self.causal = causal
        self.root_index = root_index
        self.flip_test = flip_test
        self.score_threshold = score_threshold
        self.focal_length = focal_length
        self.unseen_joints = unseen_joints
        self.allow_upside_down = allow_upside_down

    @property
    def flip_permutation(self) -> np.ndarray:
        """(joints,) joint of a 2D pose for each joint of its mirror image."""
        return flip_permutation(len(self.keypoint_names), infer_flip_pairs(self.keypoint_names))

    @property
    def output_flip_permutation(self) -> np.ndarray:
        """(joints,) joint of a 3D pose for each joint of its mirror image."""
        return flip_permutation(len(self.output_keypoint_names), infer_flip_pairs(self.output_keypoint_names))

    def __call__(
        self,
        keypoints: Any,
        scores: Any = None,
        *,
        image_size: tuple[int, int] | None = None,
        keypoint_names: Any = None,
        unit: Literal["pixel", "screen"] = "pixel",
        camera: PinholeCamera | None = None,
        flip_test: bool | None = None,
        track_ids: list | None = None,
        return_tensors: str | TensorType | None = "pt",
    ) -> BatchFeature:
        """Prepare one or several tracks.

        Args:
            keypoints: One track, an array or tensor (frames, joints, 2), or (frames, joints, 3) with the scores; or a list,
                or a dict {track id: track}, of tracks of any lengths. NaN marks a missing joint.
            scores: Confidences (frames, joints), in the same list or dict as `keypoints`.
            image_size: (width, height) of the picture in pixels; needed for pixels without a `camera`.
            keypoint_names: Joints of the input: a `KeypointSet`, its name such as `"coco17"`, or names in any spelling.
                None takes them for the model's.
            unit: `"pixel"`, y down; or `"screen"`, normalised already as `normalize_screen_coordinates` does it.
            camera: Intrinsics of the camera, in pixels, and its lens' distortion if it is a `DistortedCamera`; they need the
                checkpoint's `focal_length`.
            flip_test: In place of the extractor's own.
            track_ids: Ids of a list of tracks.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `keypoints_2d` (tracks, frames + num_frames - 1, joints, 2) float32, shorter tracks lengthened by their last
            pose; with the flip test (2 tracks, ...), the mirror images behind the others. `tracks`, a list of
            `LiftingTrack`, for `post_process_pose_lifting`.

        Raises:
            TypeError: If keypoints or scores hold no numbers.
            ValueError: If shapes, joints, unit, picture or camera do not fit, joints seem to be in another order or upside
                down, a value is infinite, or the input does not tell one of the model's joints.
        """
        if unit not in LIFTING_UNITS:
            raise ValueError(f"`unit` must be one of {LIFTING_UNITS}, got {unit!r}.")
        flip_test = self.flip_test if flip_test is None else flip_test
        single = not isinstance(keypoints, list | tuple | Mapping)
        keys, ids = track_keys(keypoints, track_ids, "keypoints")
        labels = [""] if single else [f" of track {key!r}" for key in keys]
        tracks = [keypoints] if single else per_track("keypoints", keypoints, keys, of="keypoints")
        scores = (
            [scores] * len(keys) if single or scores is None else per_track("scores", scores, keys, of="keypoints")
        )
        source = self._source(keypoint_names, tracks[0])
        arrays, all_scores, seen = [], [], []
        for track, given, label in zip(tracks, scores, labels, strict=True):
            array, score = self._read(track, given, source, unit, label)
            visible = ~np.isnan(array).any(axis=-1)
            if score is not None:
                visible &= score >= self.score_threshold
            arrays.append(array)
            all_scores.append(score)
            seen.append(visible)
        if self.unseen_joints == "raise" and not any(visible.any() for visible in seen):
            raise ValueError(
                "`keypoints` must show at least one joint; all are NaN, (0, 0) or of a score below `score_threshold` = "
                f"{self.score_threshold}."
            )
        normalize = self._normalization(arrays, seen, unit, image_size, camera)
        values, prepared = [], []
        for array, score, visible, track_id, label in zip(arrays, all_scores, seen, ids, labels, strict=True):
            pose, missing, score, complete = self._convert(array, score, visible, source, label)
            values.append(normalize(pose).astype(np.float32) if complete else np.zeros_like(pose, dtype=np.float32))
            prepared.append(LiftingTrack(track_id, missing, score, complete))
        longest = max(map(len, values))
        values = [np.pad(value, [(0, longest - len(value)), (0, 0), (0, 0)], mode="edge") for value in values]
        batch = np.stack(values)
        if flip_test:
            batch = np.concatenate([batch, flip_poses(batch, self.flip_permutation)])
        features = BatchFeature(
            {"keypoints_2d": pad_windows(batch, self.num_frames, self.causal)}, tensor_type=return_tensors
        )
        features["tracks"] = prepared
        return features

    def post_process_pose_lifting(
        self,
        outputs: Any,
        features: Mapping,
        axes: Literal["camera", "world", "upright"] = "camera",
        camera: PinholeCamera | None = None,
        unit: Literal["metre", "millimetre"] = "metre",
    ) -> list[dict]:
        """Poses in space of each track.

        Args:
            outputs: Output of the model with `positions_3d` (batch, frames, joints, 3).
            features: What the call of this extractor returned.
            axes: `"camera"`: x to the right, y down, z away from it. `"world"`: those of the world in which `camera` stands.
                `"upright"`: x to the right, y away, z up, if the camera was held level.
            camera: Its `rotation` leads to the world.
            unit: Unit of the result.

        Returns:
            One dict a track: `poses` (frames, joints, 3) float32, relative to the root, which is at 0 whatever the model gives
            for it; `missing` (frames, joints) bool, where a joint was not seen in its frame and the result rests on its neighbours in time; `scores`
            (frames, joints), if the input had any; `track_id`, if tracks had ids.

        Raises:
            ValueError: If `axes`, `camera` and `unit` do not fit, or the output is not that of these features.
        """
        if axes not in AXES:
            raise ValueError(f"`axes` must be one of {AXES}, got {axes!r}.")
        if (axes == "world") != (camera is not None):
            raise ValueError("`camera` must be given for `axes='world'`, whose rotation it tells, and only then.")
        if unit not in ("metre", "millimetre"):
            raise ValueError(f"`unit` must be 'metre' or 'millimetre', got {unit!r}.")
        tracks = features["tracks"]
        positions = to_numpy(outputs["positions_3d"]).astype(np.float64)
        longest = max(len(track.missing) for track in tracks)
        if len(positions) not in (len(tracks), 2 * len(tracks)) or positions.shape[1] != longest:
            raise ValueError(
                f"`outputs` must have `positions_3d` of {len(tracks)} tracks (twice as many with the flip test) and {longest} "
                f"frames, got shape {positions.shape}; does the model have `num_frames` = {self.num_frames}?"
            )
        if positions.shape[2:] != (len(self.output_keypoint_names), 3):
            raise ValueError(
                f"`outputs` must have `positions_3d` of the {len(self.output_keypoint_names)} joints of "
                f"`output_keypoint_names`, got shape {positions.shape}."
            )
        if len(positions) > len(tracks):
            straight, mirrored = np.split(positions, 2)
            positions = (straight + flip_poses(mirrored, self.output_flip_permutation)) / 2
        if self.root_index is not None:
            positions[:, :, self.root_index] = 0
        if axes == "upright":
            positions = np.stack([positions[..., 0], positions[..., 2], -positions[..., 1]], axis=-1)
        elif axes == "world":
            positions = camera.to_world(positions) - (0 if self.root_index is None else camera.position)
        if unit == "millimetre":
            positions = positions * 1000
        results = []
        for poses, track in zip(positions, tracks, strict=True):
            poses = poses[: len(track.missing)].astype(np.float32)
            result = {"poses": poses if track.complete else np.full_like(poses, np.nan), "missing": track.missing}
            if track.scores is not None:
                result["scores"] = track.scores
            results.append(result if track.track_id is None else {"track_id": track.track_id, **result})
        return results

    def _source(self, keypoint_names: Any, track: Any) -> KeypointSet:
        """The joints of the input."""
        own = find_keypoint_set(self.keypoint_names) or KeypointSet.from_names(self.keypoint_names)
        if isinstance(keypoint_names, KeypointSet):
            return keypoint_names
        if isinstance(keypoint_names, str):
            if keypoint_names not in KEYPOINT_SETS:
                raise ValueError(f"`keypoint_names` must be one of {sorted(KEYPOINT_SETS)}, got {keypoint_names!r}.")
            return KEYPOINT_SETS[keypoint_names]
        if keypoint_names is not None:
            names = [canonical_name(name) for name in joint_names(keypoint_names)]
            return find_keypoint_set(names) or KeypointSet.from_names(names)
        shape = np.shape(track) if not hasattr(track, "shape") else tuple(track.shape)
        if len(shape) == 3 and shape[1] != len(own):
            known = [name for name, known in KEYPOINT_SETS.items() if len(known) == shape[1]]
            hint = f"{' or '.join(map(repr, known))} has {shape[1]}" if known else "a list of their names"
            raise ValueError(
                f"`keypoint_names` must say which {shape[1]} joints `keypoints` has, since the model reads {len(own)}: "
                f"{hint}."
            )
        return own

    def _read(self, track, given, source, unit, label) -> tuple[np.ndarray, np.ndarray | None]:
        """Keypoints (frames, joints, 2), NaN where missing, and scores (frames, joints) of one track."""
        name = f"`keypoints`{label}"
        array = pose_array(track, None, name)
        if array.shape[-1] not in (2, 3):
            raise ValueError(f"{name} must have 2 coordinates a joint, or 3 with the score, got {array.shape[-1]}.")
        if array.shape[1] != len(source):
            raise ValueError(
                f"{name} must have the {len(source)} joints of {source.name!r} ({', '.join(source.keypoints)}), got "
                f"{array.shape[1]}."
            )
        score = None if given is None else number_array(given, f"`scores`{label}")
        if array.shape[-1] == 3:
            if score is not None:
                raise ValueError(f"`scores`{label} were given, and {name} has a third number too; leave one out.")
            array, score = array[..., :2], array[..., 2]
            if np.nanmax(np.abs(score), initial=0) > 100 or np.nanmin(score, initial=0) < 0:
                raise ValueError(
                    f"{name} must have a score as the third number of a joint, got values from {np.nanmin(score):.3g} to "
                    f"{np.nanmax(score):.3g}: 3D poses cannot be lifted."
                )
        if score is not None and score.shape != array.shape[:2]:
            raise ValueError(
                f"`scores`{label} must have shape (frames, joints) = {array.shape[:2]} as the keypoints, got {score.shape}."
            )
        if np.isinf(array).any():
            frame, joint = np.argwhere(np.isinf(array))[0, :2]
            raise ValueError(
                f"{name} must be finite or NaN (missing), got an infinite value in frame {frame}, joint {joint}."
            )
        if unit == "pixel":
            array = np.where((array == 0).all(axis=-1, keepdims=True), np.nan, array)
        return array, score

    def _normalization(self, arrays, seen, unit, image_size, camera):
        """What brings keypoints to the model's coordinates."""
        if unit == "screen":
            if camera is not None:
                raise ValueError("`camera` needs keypoints in pixels, got `unit='screen'`.")
            largest = max(np.abs(array[visible]).max(initial=0) for array, visible in zip(arrays, seen, strict=True))
            if largest > LARGEST_SCREEN_COORDINATE:
                raise ValueError(
                    f"`keypoints` must be normalised (`unit='screen'`), x from -1 to 1 in the picture, got {largest:.4g}; "
                    "are they pixels?"
                )
            return lambda keypoints: keypoints
        check_pixels(arrays, seen, "keypoints")
        if image_size is not None or camera is None:
            if image_size is None:
                raise ValueError(
                    "`image_size` = (width, height) in pixels must be given: the model reads keypoints as shares of the "
                    "picture's width. A `camera` (focal length and principal point) does instead."
                )
            size = checked_image_size(image_size)
            check_inside(arrays, seen, size, "keypoints")
        if camera is None:
            return lambda keypoints: normalize_screen_coordinates(keypoints, size)
        if self.focal_length is None:
            raise ValueError(
                "`camera` cannot be used: the checkpoint does not say the `focal_length` of the cameras it was trained with; "
                "pass `image_size` alone."
            )
        return lambda keypoints: (
            camera.unproject(keypoints, np.ones(keypoints.shape[:-1]))[..., :2] * (2 * self.focal_length)
        )

    def _convert(self, array, score, visible, source, label):
        """One track's poses with the model's joints, which of them were missing, their scores, and whether all are told."""
        name = f"`keypoints`{label}"
        never = ~visible.any(axis=0)
        filled = interpolate_missing(np.where(visible[..., None], array, 0.0), ~visible)
        filled[:, never] = np.nan
        self._check_order(filled, source, name)
        poses = convert_keypoints(filled, source, self.keypoint_names)
        lacking = np.isnan(poses[..., 0]).any(axis=0)
        complete = not lacking.any()
        if not complete and self.unseen_joints == "raise":
            joints = [joint for joint, lacks in zip(self.keypoint_names, lacking, strict=True) if lacks]
            unseen = [joint for joint, lacks in zip(source.keypoints, never, strict=True) if lacks]
            why = f", since {unseen} are missing in all frames" if unseen else ""
            raise ValueError(
                f"{name} must tell all joints of the model in some frame; {joints} cannot be had from the joints of "
                f"{source.name!r}{why}."
            )
        if not complete:
            missing = np.ones((len(poses), len(self.output_keypoint_names)), dtype=bool)
            return poses, missing, None if score is None else np.zeros(missing.shape, dtype=np.float32), False
        if not self.allow_upside_down:
            self._check_upright(poses, name)
        weights, _ = conversion_matrix(source, self.output_keypoint_names, ~never)
        # A joint that only the model tells rests on all of them.
        weights[~weights.any(axis=1)] = ~never
        parts = (weights != 0).astype(np.float64)
        missing = (~visible).astype(np.float64) @ parts.T > 0
        if score is not None:
            shares = np.abs(weights) / np.abs(weights).sum(axis=1, keepdims=True)
            score = np.where(missing, 0.0, np.nan_to_num(score) @ shares.T).astype(np.float32)
        return poses, missing, score, True

    def _check_order(self, poses: np.ndarray, source: KeypointSet, name: str):
        """ValueError if the joints make a far shorter skeleton in the order of another set of the same size."""
        rivals = [known for known in KEYPOINT_SETS.values() if len(known) == len(source) and known.name != source.name]
        poses = poses[:: max(1, len(poses) // CHECKED_FRAMES)]
        length = _skeleton_length(poses, source)
        shortest = min(rivals, key=lambda rival: _skeleton_length(poses, rival), default=None)
        if shortest is not None and np.isfinite(length) and length > WRONG_ORDER * _skeleton_length(poses, shortest):
            raise ValueError(
                f"{name} must have its joints in the order of {source.name!r}, but they look like those of "
                f"{shortest.name!r}; pass `keypoint_names={shortest.name!r}`, or put them in order."
            )

    def _check_upright(self, poses: np.ndarray, name: str):
        """ValueError if nearly all poses stand on their head."""
        rows = [
            self.keypoint_names.index(joint) for joint in ("head", "thorax", "pelvis") if joint in self.keypoint_names
        ]
        ankles = [index for index, joint in enumerate(self.keypoint_names) if joint in ("left_ankle", "right_ankle")]
        if len(rows) < 3 or len(ankles) < 2:
            return
        heights = np.concatenate([poses[:, rows, 1], poses[:, ankles, 1].mean(axis=1, keepdims=True)], axis=1)
        if (np.diff(heights, axis=1) < 0).all(axis=1).mean() > 0.9:
            raise ValueError(
                f"{name} must have y pointing down, as pixels do, but heads are below hips and hips below ankles; turn y round "
                "(`height - y`), or, for persons who do stand on their heads, set `allow_upside_down=True`."
            )


def _skeleton_length(poses: np.ndarray, keypoint_set: KeypointSet) -> float:
    """Mean length of all bones of Human3.6M together, were the joints those of this set; infinite if it has not all."""
    bones = [(joint, parent) for joint, parent in enumerate(HUMAN36M17.parents) if parent >= 0]
    joints = convert_keypoints(poses, keypoint_set, HUMAN36M17)
    children, parents = np.array(bones).T
    length = np.linalg.norm(joints[:, children] - joints[:, parents], axis=-1).sum(axis=1).mean()
    return float(np.inf if np.isnan(length) else length)


__all__ = ["LiftingTrack", "PoseLiftingFeatureExtractor", "flip_poses", "pad_windows"]
