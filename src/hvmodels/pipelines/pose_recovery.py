"""Tracks of poses through a refining model, SmoothNet or DeciWatch, whatever joints the tracks have.

DeciWatch knows one set of joints. Tracks of another set are converted to it (`hvmodels.keypoint_sets`) and what comes back
is converted again. A joint that converts exactly is the model's. Any other (an eye, a toe) is drawn straight between the
frames that the model looks at, and moved as the model moved the joint next to it: by the difference between that joint as
the model gives it and as it would be, drawn straight likewise. The joint next to it is the model's joint with the smallest
median distance.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..keypoint_sets import KeypointSet, canonical_name, conversion_matrix, convert_keypoints


DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True)
class ConvertedTrack:
    """A track before and after conversion to the model's joints.

    Args:
        poses: (poses, joints, dims), NaN where missing.
        converted: (poses, model joints, dims), the same of the model's joints.
        frame_indices: (poses,) frame of each pose.
        sampled: Frames that the model looks at, of those of the whole track.
    """

    poses: np.ndarray
    converted: np.ndarray
    frame_indices: np.ndarray
    sampled: np.ndarray


@dataclass(frozen=True)
class PreparedPoses:
    """Inputs of a model and the way back.

    Args:
        features: What the feature extractor gave, with `pose_values` and `pose_mask`.
        to_input: Weights (joints, model joints) of the joints that convert exactly; None if nothing was converted.
        exact: (joints,) bool, which those are.
        tracks: The converted tracks.
    """

    features: Mapping
    to_input: np.ndarray | None = None
    exact: np.ndarray | None = None
    tracks: tuple[ConvertedTrack, ...] = ()


def prepare_poses(
    feature_extractor: Any,
    poses: Mapping[Hashable, Any],
    scores: Mapping[Hashable, Any] | None = None,
    *,
    keypoint_names: Sequence[str] | KeypointSet | None = None,
    frame_indices: Any = None,
    num_frames: Any = None,
    frame_rate: float | None = None,
    **options: Any,
) -> PreparedPoses:
    """Model inputs of tracks of any joints.

    Args:
        feature_extractor: SmoothNet's or DeciWatch's.
        poses: For each track (frames, joints, dims), NaN where missing.
        scores: For each track (frames, joints).
        keypoint_names: Names of the joints, or a set; None takes them for the model's.
        frame_indices: Frames of the poses, if not every frame has one: one list for all tracks, or a dict of lists.
        num_frames: Length that `frame_indices` belong to, a number or a dict of numbers.
        frame_rate: Frames a second.
        options: Of the feature extractor, `image_size`, `unit`, `rotation_format`.

    Raises:
        ValueError: If the feature extractor refuses the poses, or the joints do not tell all of the model's.
    """
    timing = {"frame_indices": frame_indices, "num_frames": num_frames, "frame_rate": frame_rate}
    own_names = getattr(feature_extractor, "keypoint_names", None)
    same = [canonical_name(name) for name in own_names or ()] == [
        canonical_name(name) for name in _names(keypoint_names)
    ]
    samples_frames = hasattr(feature_extractor, "frame_indices")
    if None in (own_names, keypoint_names) or same or not samples_frames or options.get("rotation_format"):
        return PreparedPoses(feature_extractor(poses, scores, **timing, **options))

    weights, _ = conversion_matrix(keypoint_names, own_names)
    if lacking := [name for name, row in zip(own_names, weights, strict=True) if not row.any()]:
        raise ValueError(
            f"`keypoint_names` must tell all joints of the model; {lacking} cannot be had from {list(_names(keypoint_names))}."
        )
    to_input, exact = conversion_matrix(own_names, keypoint_names)
    tracks = {}
    for track_id, values in poses.items():
        values = _array(values, f"`poses` of track {track_id!r}", len(weights[0]))
        if scores is not None:
            given = np.asarray(scores[track_id], dtype=np.float64)
            if given.shape != values.shape[:2]:
                raise ValueError(
                    f"`scores` of track {track_id!r} must have shape {values.shape[:2]} as the poses, got {given.shape}."
                )
            values[~(given > feature_extractor.score_threshold)] = np.nan
        values[np.isnan(values).any(axis=2)] = np.nan
        indices = frame_indices[track_id] if isinstance(frame_indices, Mapping) else frame_indices
        length = num_frames[track_id] if isinstance(num_frames, Mapping) else num_frames
        if indices is None and length in (None, len(values)):
            indices, length = range(len(values)), len(values)
        elif indices is None:
            indices = feature_extractor.frame_indices(length, frame_rate)
        indices = np.asarray(indices)
        sampled = np.array(feature_extractor.frame_indices(int(length or indices[-1] + 1), frame_rate))
        converted = convert_keypoints(values, keypoint_names, own_names)
        tracks[track_id] = ConvertedTrack(values, converted, indices, sampled)
    features = feature_extractor(
        {track_id: track.converted for track_id, track in tracks.items()}, **timing, **options
    )
    return PreparedPoses(features, to_input * exact[:, None], exact, tuple(tracks.values()))


def restore_poses(feature_extractor: Any, outputs: Any, prepared: PreparedPoses) -> list[dict[str, Any]]:
    """What the model gave, with the joints that were given to `prepare_poses`.

    Args:
        feature_extractor: As in `prepare_poses`.
        outputs: Of the model.
        prepared: What `prepare_poses` returned.

    Returns:
        A dict a track: `track_id`, `poses` (frames, joints, dims) float32 in unit and format of the input, and `missing`
        (frames, joints) bool, where the input had none.
    """
    results = feature_extractor.post_process_pose_refinement(outputs, prepared.features)
    if prepared.to_input is None:
        return results
    return [
        {**result, **_restore(result["poses"].astype(np.float64), track, prepared.to_input, prepared.exact)}
        for result, track in zip(results, prepared.tracks, strict=True)
    ]


def _restore(
    refined: np.ndarray, track: ConvertedTrack, to_input: np.ndarray, exact: np.ndarray
) -> dict[str, np.ndarray]:
    num_frames = len(refined)
    poses = to_input @ np.nan_to_num(refined)
    poses[np.isnan(refined[..., 0]).astype(np.float64) @ (to_input != 0).T > 0] = np.nan
    rest = np.flatnonzero(~exact)
    if len(rest):
        moved = refined - _straight(track, track.converted, num_frames)
        distances = np.linalg.norm(track.poses[:, rest, None] - track.converted[:, None], axis=-1)
        never = np.isnan(distances).all(axis=0)  # seen together
        distances[:, never] = np.inf
        nearest = np.nanmedian(distances, axis=0).argmin(axis=1)
        poses[:, rest] = _straight(track, track.poses[:, rest], num_frames) + np.nan_to_num(moved[:, nearest])
    missing = np.ones((num_frames, len(exact)), dtype=bool)
    shown = track.frame_indices < num_frames
    missing[track.frame_indices[shown]] = np.isnan(track.poses[shown, :, 0])
    return {"poses": poses.astype(np.float32), "missing": missing}


def _straight(track: ConvertedTrack, values: np.ndarray, num_frames: int) -> np.ndarray:
    """(num_frames, joints, dims) drawn straight between the frames that the model looks at; NaN for a joint never seen.

    Args:
        track: Where the values belong.
        values: (poses, joints, dims), NaN where missing.
        num_frames: Length.
    """
    drawn = np.full((num_frames, *values.shape[1:]), np.nan)
    for joint in range(values.shape[1]):
        seen = ~np.isnan(values[:, joint, 0])
        for dim in range(values.shape[2]) if seen.any() else ():
            at_sampled = np.interp(track.sampled, track.frame_indices[seen], values[seen, joint, dim])
            drawn[:, joint, dim] = np.interp(np.arange(num_frames), track.sampled, at_sampled)
    return drawn


def track_batches(
    poses: Mapping[Hashable, Any],
    scores: Mapping[Hashable, Any] | None = None,
    frame_indices: Any = None,
    num_frames: Any = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Iterator[dict[str, Any]]:
    """Tracks that go together, since padding costs time and memory: the longest at most twice the shortest.

    Args:
        poses: See `prepare_poses`, as the others.
        scores: For each track.
        frame_indices: For all tracks or each.
        num_frames: For all tracks or each.
        batch_size: Tracks at most.

    Yields:
        The arguments of `prepare_poses`, by name.
    """
    lengths = {
        key: len(track) if hasattr(track, "__len__") and getattr(track, "ndim", 1) else 0
        for key, track in poses.items()
    }
    batches: list[list[Hashable]] = []
    for key in sorted(lengths, key=lengths.get):
        if batches and len(batches[-1]) < batch_size and lengths[key] <= 2 * lengths[batches[-1][0]]:
            batches[-1].append(key)
        else:
            batches.append([key])
    arguments = {"poses": poses, "scores": scores, "frame_indices": frame_indices, "num_frames": num_frames}
    for batch in batches:
        yield {
            name: {key: value[key] for key in batch} if isinstance(value, Mapping) else value
            for name, value in arguments.items()
        }


@torch.no_grad()
def refine_tracks(
    model: Any,
    feature_extractor: Any,
    poses: Mapping[Hashable, Any],
    scores: Mapping[Hashable, Any] | None = None,
    *,
    frame_indices: Any = None,
    num_frames: Any = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Refine or recover tracks in one go; the pipeline `pose-refinement` is for files and other inputs.

    Args:
        model: `SmoothNetForPoseRefinement` or `DeciWatchForPoseRecovery`, in evaluation mode.
        feature_extractor: Its feature extractor.
        poses: For each track (frames, joints, dims), NaN where missing.
        scores: For each track (frames, joints).
        frame_indices: See `prepare_poses`.
        num_frames: See `prepare_poses`.
        options: See `prepare_poses`.

    Returns:
        See `restore_poses`, in the order of the tracks.
    """
    results = {}
    for batch in track_batches(poses, scores, frame_indices, num_frames):
        prepared = prepare_poses(feature_extractor, **batch, **options)
        values = prepared.features["pose_values"].to(model.device, model.dtype)
        outputs = model(pose_values=values, pose_mask=prepared.features["pose_mask"].to(model.device))
        results |= dict(zip(batch["poses"], restore_poses(feature_extractor, outputs, prepared), strict=True))
    return [results[key] for key in poses]


def _names(keypoints: Sequence[str] | KeypointSet | None) -> Sequence[str]:
    return keypoints.keypoints if isinstance(keypoints, KeypointSet) else keypoints or ()


def _array(values: Any, name: str, num_joints: int) -> np.ndarray:
    values = values.detach().cpu().float().numpy() if hasattr(values, "detach") else values
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a rectangular array of numbers: {error}") from error
    if array.ndim != 3 or array.shape[1] != num_joints or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape (frames, {num_joints}, dims), as there are {num_joints} `keypoint_names`, got "
            f"{array.shape}."
        )
    return array


__all__ = ["DEFAULT_BATCH_SIZE", "PreparedPoses", "prepare_poses", "refine_tracks", "restore_poses", "track_batches"]
