"""From the tracks of a video to the persons in space, and to what they do."""

from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from transformers import Pipeline, pipeline

from ..keypoint_sets import find_keypoint_set
from ..pose_sequences import PoseSequence
from ..visualization.pose_3d import place_persons


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
    if (
        find_keypoint_set(sequence.keypoint_names or ()) is None
        or find_keypoint_set(lifted.keypoint_names or ()) is None
    ):
        return lifted
    return place_persons(lifted, sequence)


def recognize_actions(lifted: PoseSequence | None, recognizer: Pipeline | None) -> list[dict[str, Any]] | None:
    """What the persons do, as `pipeline("skeleton-action-recognition")` has it; nothing of those who were not lifted.

    Args:
        lifted: Persons in space, in the camera's axes.
        recognizer: See `load_pipeline`.
    """
    if recognizer is None:
        return None
    tracks = [track for track in lifted.tracks if not track.missing.any()]
    return recognizer(replace(lifted, tracks=tracks), up="-y") if tracks else []


__all__ = ["in_the_picture", "lift_sequence", "load_pipeline", "recognize_actions"]
