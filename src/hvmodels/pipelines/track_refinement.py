"""Between what was found in a video and what is handed out: recovery of the frames nobody looked at, and smoothing."""

from contextlib import suppress
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction, PreTrainedModel

from ..pose_sequences import PoseSequence, PoseTrack
from ..smoothing.filters import GaussianFilter, OneEuroFilter, SavitzkyGolayFilter
from .pose_recovery import refine_tracks


FILTERS = {"one-euro": OneEuroFilter, "savitzky-golay": SavitzkyGolayFilter, "gaussian": GaussianFilter}
DEFAULT_SMOOTHER, DEFAULT_RECOVERER = "smoothnet-any-pose", "deciwatch-2d"


def load_refiner(name: str, refiner: Any, device: torch.device | str = "cpu") -> Any:
    """What smooths or recovers.

    Args:
        name: Of the argument, for messages: `"smooth"` or `"recover"`.
        refiner: Name of a filter (`smooth` only), of an embedded model, or a model's folder or repository; an object with
            `filter` (`smooth` only); a `(model, feature_extractor)`; None.
        device: Where to put a model that is loaded here.

    Returns:
        None, a filter, or a `(model, feature_extractor)`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the model cannot be loaded, or is not of the kind.
    """
    from ..methods import default_model

    if refiner is None:
        return None
    if name == "smooth" and hasattr(refiner, "filter"):
        return refiner
    if isinstance(refiner, str | PathLike):
        refiner = str(refiner)
        if name == "smooth" and refiner in FILTERS:
            return FILTERS[refiner]()
        folder = refiner
        with suppress(ValueError):  # it is none of the package's own
            folder = default_model(refiner)
        try:
            refiner = (
                AutoModelForTimeSeriesPrediction.from_pretrained(folder).to(device).eval(),
                AutoFeatureExtractor.from_pretrained(folder, unseen_joints="nan"),
            )
        except (OSError, ValueError, KeyError) as error:
            kinds = f"{', '.join(FILTERS)}, " if name == "smooth" else ""
            raise ValueError(
                f"`{name}` must be {kinds}a model's folder or repository, or None; {str(folder)!r} cannot be loaded: "
                f"{str(error).splitlines()[0]}"
            ) from error
    is_pair = isinstance(refiner, tuple | list) and len(refiner) == 2 and isinstance(refiner[0], PreTrainedModel)
    if not is_pair:
        raise TypeError(
            f"`{name}` must be a name or folder, a `(model, feature_extractor)`, "
            f"{'an object with `filter`, ' if name == 'smooth' else ''}or None, got {type(refiner).__name__}."
        )
    if (name == "recover") != hasattr(refiner[1], "sample_interval"):
        wanted = "DeciWatch" if name == "recover" else "SmoothNet"
        raise ValueError(f"`{name}` must be a model such as {wanted}, got {type(refiner[0]).__name__}.")
    return tuple(refiner)


def smooth_sequence(sequence: PoseSequence, smoother: Any) -> PoseSequence:
    """The sequence smoothed; poses bridge the frames in which a track was not seen, where scores are 0.

    Args:
        sequence: Tracks in pixels.
        smoother: See `load_refiner`.
    """
    if smoother is None or not sequence.tracks:
        return sequence
    if hasattr(smoother, "filter"):
        smoothed = [_filter(track, smoother) for track in sequence.tracks]
    else:
        model, feature_extractor = smoother
        results = refine_tracks(
            model,
            feature_extractor,
            {track.track_id: track.keypoints for track in sequence.tracks},
            {track.track_id: _scores(track) for track in sequence.tracks},
            keypoint_names=sequence.keypoint_names,
            frame_rate=sequence.frame_rate,
            image_size=sequence.image_size,
            unit=sequence.unit,
        )
        smoothed = [result["poses"] for result in results]
    tracks = []
    for track, keypoints in zip(sequence.tracks, smoothed, strict=True):
        rows = np.arange(len(track))
        boxes = None if track.boxes is None else _interpolate(rows, np.ones(len(rows), bool), track.boxes)
        scores = {"scores": _scores(track)}
        if track.person_scores is not None:
            scores["person_scores"] = np.nan_to_num(track.person_scores)
        tracks.append(replace(track, keypoints=keypoints, boxes=boxes, **scores))
    return replace(sequence, tracks=tracks)


def recover_sequence(sequence: PoseSequence, recoverer: Any, interval: int) -> PoseSequence:
    """The sequence with poses in the frames that nobody looked at.

    Boxes and scores are drawn straight between those that were looked at; a track that was not found in one of these has
    score 0 there.

    Args:
        sequence: Tracks with NaN where nobody looked, or nothing was found.
        recoverer: A DeciWatch with its feature extractor, see `load_refiner`; None draws the poses straight as well. Its
            own interval may be another: the time between two frames that were looked at is then taken for that.
        interval: Frames from one that was looked at to the next; the last frame of the sequence was looked at too.
    """
    if interval == 1 or not sequence.tracks:
        return sequence
    tracks = []
    for track in sequence.tracks:
        rows = np.arange(len(track))
        found, frames = ~track.missing.all(axis=1), rows + track.start
        is_looked_at = (frames % interval == 0) | (frames == sequence.num_frames - 1)
        if recoverer is None or found.sum() == 1:
            keypoints = _interpolate(rows, found, track.keypoints)
        else:
            keypoints = _recover(sequence, track, np.flatnonzero(is_looked_at), recoverer)
        boxes = None if track.boxes is None else _interpolate(rows, found, track.boxes)
        scores = {}
        for name in ("scores", "person_scores"):
            if (value := getattr(track, name)) is not None:
                scores[name] = _interpolate(rows, is_looked_at, np.nan_to_num(value))
        tracks.append(replace(track, keypoints=keypoints, boxes=boxes, **scores))
    return replace(sequence, tracks=tracks)


def _recover(sequence: PoseSequence, track: PoseTrack, looked_at: np.ndarray, recoverer: tuple) -> np.ndarray:
    """(frames, joints, 2) of one track; `looked_at` are the rows which are.

    The model has its own interval from one of these to the next. Time is stretched to it, also before the last frame of a
    video, which comes whenever it does.
    """
    model, feature_extractor = recoverer
    frames = feature_extractor.sample_interval * np.arange(len(looked_at))
    found = ~track.missing[looked_at].all(axis=1)
    rows = looked_at[found]
    (result,) = refine_tracks(
        model,
        feature_extractor,
        {track.track_id: track.keypoints[rows]},
        {track.track_id: _scores(track)[rows]},
        keypoint_names=sequence.keypoint_names,
        frame_indices=frames[found].tolist(),
        num_frames=int(frames[-1]) + 1,
        image_size=sequence.image_size,
        unit=sequence.unit,
    )
    poses, times = result["poses"], np.interp(np.arange(len(track)), looked_at, frames)
    return _interpolate(np.arange(len(poses)), np.ones(len(poses), bool), poses, times)


def _filter(track: PoseTrack, smoother: Any) -> np.ndarray:
    """(frames, joints, dims), filtered in units of the person's size, in which a filter's settings do not depend on pixels."""
    seen = np.where((_scores(track) > 0)[..., None], track.keypoints, np.nan)
    poses = _interpolate(np.arange(len(track)), np.ones(len(track), bool), seen).astype(np.float64)
    never = np.isnan(poses)
    if never.all():
        return track.keypoints
    extents = np.nanmax(poses, axis=1) - np.nanmin(poses, axis=1)
    scale = max(float(np.median(extents.max(axis=1))), 1e-6)
    filtered = smoother.filter(np.nan_to_num(poses) / scale) * scale
    return np.where(never, np.nan, filtered)


def _scores(track: PoseTrack) -> np.ndarray:
    """(frames, joints), 0 where a joint is missing."""
    scores = np.ones(track.keypoints.shape[:2]) if track.scores is None else np.nan_to_num(track.scores)
    return np.where(track.missing, 0, scores)


def _interpolate(rows: np.ndarray, known: np.ndarray, values: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
    """Each number of (rows, ...) drawn straight between the rows in which it is known, `at` the rows or other times."""
    at = rows if at is None else at
    columns = values.reshape(len(rows), -1)
    drawn = np.full((len(at), columns.shape[1]), np.nan, dtype=np.float32)
    for column in range(columns.shape[1]):
        own = known & ~np.isnan(columns[:, column])
        if own.any():
            drawn[:, column] = np.interp(at, rows[own], columns[own, column])
    return drawn.reshape(len(at), *values.shape[1:])


__all__ = ["FILTERS", "load_refiner", "recover_sequence", "smooth_sequence"]
