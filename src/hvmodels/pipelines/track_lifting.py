"""From the tracks of a video to the persons in space, and to what they do."""

from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, pipeline

from ..keypoint_sets import find_keypoint_set
from ..pose_sequences import PoseSequence, PoseTrack
from ..visualization.pose_3d import place_persons
from .track_refinement import DEFAULT_SMOOTHER, load_refiner, smooth_sequence


LEAST_SECONDS = 0.5  # of a person in sight, to tell an action
DEFAULT_FRAME_RATE = 30.0


def load_pipeline(name: str, task: str, given: Any, device: torch.device | str = "cpu") -> Pipeline | None:
    """The pipeline of another task that a call asks for.

    Args:
        name: Of the argument, for messages.
        task: The task.
        given: A pipeline of it, a model's folder or repository, True for the embedded model, None or False for none.
        device: Where to put a model that is loaded here.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the pipeline is of another task, or the model cannot be loaded.
    """
    if given is None or given is False:
        return None
    if isinstance(given, Pipeline):
        if given.task != task:
            raise ValueError(f"`{name}` must be a pipeline of the task {task!r}, got one of {given.task!r}.")
        return given
    if given is not True and not isinstance(given, str | PathLike):
        raise TypeError(
            f"`{name}` must be a pipeline({task!r}), a model's folder or repository, or True for the embedded model, got "
            f"{type(given).__name__}."
        )
    try:
        return pipeline(task, model=None if given is True else str(given), device=device)
    except (OSError, ValueError, KeyError) as error:
        found = "the embedded model" if given is True else repr(str(given))
        raise ValueError(f"`{name}`: {found} cannot be loaded for {task!r}: {str(error).splitlines()[0]}") from error


def lift_sequence(sequence: PoseSequence, lifter: Pipeline | None, smoother: Any = None) -> PoseSequence | None:
    """The persons in space, in the camera's axes; NaN for those who lack joints in all frames.

    What is left of the jitter of 2D poses is largest in the depths, so that the result is smoothed again: by the same filter,
    or by the embedded SmoothNet, which knows poses of any kind, where a network smoothed the 2D poses.

    Args:
        sequence: Tracks in pixels.
        lifter: See `load_pipeline`.
        smoother: What smoothed the tracks, see `track_refinement.load_refiner`; None for nothing.
    """
    if lifter is None:
        return None
    if not sequence.tracks:
        return PoseSequence((), len(sequence), None, sequence.frame_rate, sequence.image_size, "metre")
    lifted = lifter(sequence, axes="camera", unseen_joints="nan")
    if smoother is None:
        return lifted
    if not hasattr(smoother, "filter"):
        smoother = load_refiner("smooth", DEFAULT_SMOOTHER, lifter.device)
    root = lifter.feature_extractor.root_index
    seen = [track for track in lifted.tracks if not track.missing.any()]
    smoothed = {
        track.track_id: track.keypoints for track in smooth_sequence(replace(lifted, tracks=seen), smoother).tracks
    }
    tracks = [
        replace(track, keypoints=smoothed[track.track_id] - smoothed[track.track_id][:, root, None])
        if track.track_id in smoothed
        else track
        for track in lifted.tracks
    ]
    return replace(lifted, tracks=tracks)


def in_the_picture(lifted: PoseSequence, sequence: PoseSequence) -> PoseSequence:
    """The persons in space where the picture shows them, if their joints are known well enough to tell."""
    if (
        find_keypoint_set(sequence.keypoint_names or ()) is None
        or find_keypoint_set(lifted.keypoint_names or ()) is None
    ):
        return lifted
    return place_persons(lifted, sequence)


def recognize_actions(lifted: PoseSequence | None, recognizer: Pipeline | None) -> list[dict[str, Any]] | None:
    """What the persons do, as `pipeline("skeleton-action-recognition")` has it, as long as they are in sight.

    Nothing is said of those who were not lifted, or are seen for less than half a second.

    Args:
        lifted: Persons in space, in the camera's axes.
        recognizer: See `load_pipeline`.
    """
    if recognizer is None:
        return None
    least = max(1, round(LEAST_SECONDS * (lifted.frame_rate or DEFAULT_FRAME_RATE)))
    runs = [run for track in lifted.tracks for run in _runs_in_sight(track) if len(run) >= least]
    if not runs:
        return []
    tracks = [replace(run, track_id=index) for index, run in enumerate(runs)]
    actions = recognizer(replace(lifted, tracks=tracks), up="-y")
    return [{**action, "track_id": runs[action["track_id"]].track_id} for action in actions]


def _runs_in_sight(track: PoseTrack) -> Iterator[PoseTrack]:
    """The parts of a track in which some joint has a score above 0; none if a joint was not lifted."""
    if track.missing.any():
        return
    in_sight = np.ones(len(track), bool) if track.scores is None else (track.scores > 0).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], in_sight, [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2).tolist():
        parts = {name: getattr(track, name) for name in ("scores", "boxes", "person_scores")}
        parts = {name: None if values is None else values[first:last] for name, values in parts.items()}
        yield PoseTrack(track.track_id, track.start + first, track.keypoints[first:last], **parts)


__all__ = ["in_the_picture", "lift_sequence", "load_pipeline", "recognize_actions"]
