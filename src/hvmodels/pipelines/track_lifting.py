"""From the tracks of a video to the persons in space, and to what they do."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, pipeline

from ..keypoint_sets import find_keypoint_set
from ..pose_sequences import PoseSequence, PoseTrack
from ..visualization.pose_3d import place_persons


ACTION_SECONDS = 4.0  # of a piece of a track that is given a label
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


def lift_sequence(sequence: PoseSequence, lifter: Pipeline | None) -> PoseSequence | None:
    """The persons in space, in the camera's axes; NaN for those who lack joints in all frames.

    Args:
        sequence: Tracks in pixels.
        lifter: See `load_pipeline`.
    """
    if lifter is None:
        return None
    if not sequence.tracks:
        return PoseSequence((), len(sequence), None, sequence.frame_rate, sequence.image_size, "metre")
    return lifter(sequence, axes="camera", unseen_joints="nan")


def in_the_picture(lifted: PoseSequence, sequence: PoseSequence) -> PoseSequence:
    """The persons in space where the picture shows them, if their joints are known well enough to tell."""
    if find_keypoint_set(sequence.keypoint_names or ()) is None or find_keypoint_set(lifted.keypoint_names or ()) is None:
        return lifted
    return place_persons(lifted, sequence)


def recognize_actions(lifted: PoseSequence | None, recognizer: Pipeline | None) -> list[dict[str, Any]] | None:
    """What the persons do, piece by piece of their tracks; pieces of one action after the other are one.

    Args:
        lifted: Persons in space, in the camera's axes.
        recognizer: See `load_pipeline`.

    Returns:
        Dicts of `track_id`, `start`, `end` (the frame behind the last), `label` and `score`, the mean of the pieces'; in the
        order of tracks and time.
    """
    if recognizer is None:
        return None
    pieces = [piece for track in lifted.tracks for piece in _pieces(track, lifted.frame_rate or DEFAULT_FRAME_RATE)]
    if not pieces:
        return []
    tracks = [PoseTrack(index, 0, piece.keypoints, piece.scores) for index, piece in enumerate(pieces)]
    found = recognizer(PoseSequence(tracks, None, lifted.keypoint_names, lifted.frame_rate, unit=lifted.unit))
    actions = []
    for piece, best in zip(pieces, map(_best, found), strict=True):
        last = actions[-1] if actions else None
        if last and (last["track_id"], last["label"], last["end"]) == (piece.track_id, best["label"], piece.start):
            frames = last["end"] - last["start"]
            last["score"] = (last["score"] * frames + best["score"] * len(piece)) / (frames + len(piece))
            last["end"] = piece.end
        else:
            actions.append({"track_id": piece.track_id, "start": piece.start, "end": piece.end, **best})
    return actions


def _pieces(track: PoseTrack, frame_rate: float) -> Iterator[PoseTrack]:
    """Parts of a track of about so many seconds; none where a joint is missing, as in those that could not be lifted."""
    if track.missing.any():
        return
    bounds = np.linspace(0, len(track), max(1, round(len(track) / (ACTION_SECONDS * frame_rate))) + 1).round().astype(int)
    for first, last in pairwise(bounds.tolist()):
        scores = None if track.scores is None else track.scores[first:last]
        yield PoseTrack(track.track_id, track.start + first, track.keypoints[first:last], scores)


def _best(labels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Label and score of the likeliest action."""
    best = max(labels, key=lambda label: label["score"])
    return {"label": best["label"], "score": float(best["score"])}


__all__ = ["in_the_picture", "lift_sequence", "load_pipeline", "recognize_actions"]
