"""Persons in space over time in, what they do out."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.utils import ModelOutput

from ..datasets.skeleton_actions import read_ntu_skeleton
from ..keypoint_sets import NTU25
from ..pose_sequences import PoseSequence


DEFAULT_BATCH_SIZE = 32
# Frames up to which a recording of unknown frame rate counts as one action.
LONGEST_WITHOUT_RATE = 300
NTU_FRAME_RATE = 30.0


@dataclass(frozen=True, eq=False)
class _Window:
    """A part of a track, or of several persons together.

    Args:
        track_id: Key of the track, None for all persons of a file.
        start: First frame of the recording.
        poses: (frames, joints, 3), or (persons, frames, joints, 3).
    """

    track_id: Hashable | None
    start: int
    poses: np.ndarray

    @property
    def end(self) -> int:
        """Frame after the last."""
        return self.start + self.poses.shape[-3]


class SkeletonActionRecognitionPipeline(Pipeline):
    """Name the actions of persons: `pipeline("skeleton-action-recognition")(poses)`, with Skeletal-GNN.

    A call takes
        - a `PoseSequence` in 3D, such as `pipeline("pose-lifting")` gives;
        - an array or tensor (frames, joints, 3), one person; a list of such arrays, or a dict of them by track;
        - a `.skeleton` file of NTU RGB+D.

    Each person is taken by itself, but for files and models of several persons. A long recording is cut into windows of
    `window_seconds`, each half a window behind the last; the last one ends with the recording. Joints of other sets become the
    model's; missing ones are drawn from frame to frame, and windows in which nobody was seen are left out.

    Call arguments, all optional:
        keypoint_names: Joints of the input where it does not name them: a `KeypointSet`, its name such as `"human36m17"`,
            or names. Without, they are taken for the model's.
        frame_rate: Frames a second, where the input does not say.
        unit: `"metre"` or `"millimetre"`, where the input does not say.
        up: Axis that points up, `"z"`, `"y"`, `"-y"` (as cameras see it) or `"-z"`; by default it is found by shoulders and
            hips.
        window_seconds: Length of a window, by default the feature extractor's; `math.inf` takes recordings as a whole.
        top_k: Actions to give for each window, default 5.
        threshold: Least score of the best action; windows below are left out. Default 0.
        batch_size: Windows at a time, default 32.

    Returns:
        A list of dicts, track by track and in the order of time: `track_id` (0, 1, ... for a list; None for a file whose persons
        belong together), `start_frame` and `end_frame` (behind the last), `start` and `end` in seconds (None without frame
        rate), `label` and `score` of the best action, and `actions`, a list of `{"label", "score"}`, best first.
    """

    _load_feature_extractor = True
    _load_processor = _load_image_processor = _load_tokenizer = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "skeleton_values" not in signature(self.model.forward).parameters:
            raise ValueError(
                "`model` must name actions of skeletons, such as SkeletalGNNForActionRecognition, got "
                f"{type(self.model).__name__}."
            )
        extractor = self.feature_extractor
        if not hasattr(extractor, "post_process_action_recognition"):
            raise ValueError(
                f"`feature_extractor` must be SkeletonActionFeatureExtractor, got {type(extractor).__name__}."
            )
        config = self.model.config
        pairs = {
            "num_persons": (config.num_persons, extractor.num_persons),
            "num_joints": (config.num_joints, len(extractor.keypoint_names)),
            "in_channels": (config.in_channels, 3 * len(extractor.streams)),
        }
        for name, (of_model, of_extractor) in pairs.items():
            if of_model != of_extractor:
                raise ValueError(
                    f"`model` and `feature_extractor` must have the same `{name}`, got {of_model} and {of_extractor}."
                )

    def _sanitize_parameters(
        self,
        keypoint_names=None,
        frame_rate=None,
        unit=None,
        up=None,
        window_seconds=None,
        top_k=None,
        threshold=None,
        **unknown,
    ):
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; the pipeline takes `keypoint_names`, `frame_rate`, `unit`, `up`, "
                "`window_seconds`, `top_k`, `threshold` and `batch_size`."
            )
        for name, value in (("frame_rate", frame_rate), ("window_seconds", window_seconds)):
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"`top_k` must be a positive integer, got {top_k!r}.")
        if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
            raise ValueError(f"`threshold` must be from 0 to 1, got {threshold!r}.")
        preprocess = {
            "keypoint_names": keypoint_names,
            "frame_rate": frame_rate,
            "unit": unit,
            "up": up,
            "window_seconds": window_seconds,
        }
        postprocess = {"top_k": top_k, "threshold": threshold}
        return (
            {name: value for name, value in preprocess.items() if value is not None},
            {},
            {name: value for name, value in postprocess.items() if value is not None},
        )

    def __call__(self, data: Any, batch_size: int | None = None, **kwargs) -> list[dict[str, Any]]:
        """Name actions, see the class."""
        if batch_size is None:
            batch_size = self._batch_size or DEFAULT_BATCH_SIZE
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a positive integer, got {batch_size!r}.")
        given = self._sanitize_parameters(**kwargs)
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        preprocess, forward, postprocess = (
            {**defaults, **values} for defaults, values in zip(own, given, strict=True)
        )
        return self.run_single(data, {**preprocess, "batch_size": batch_size}, forward, postprocess)

    def preprocess(
        self,
        data,
        keypoint_names=None,
        frame_rate=None,
        unit=None,
        window_seconds=None,
        batch_size=DEFAULT_BATCH_SIZE,
        **options,
    ):
        """Read the input, cut it into windows and prepare them, batch by batch."""
        recordings, known = self._read(data)
        frame_rate = frame_rate or known.get("frame_rate")
        unit = unit or known.get("unit") or "metre"
        keypoint_names = known.get("keypoint_names") if keypoint_names is None else keypoint_names
        options |= {"unit": unit, "keypoint_names": keypoint_names}
        seconds = window_seconds or self.feature_extractor.window_seconds
        windows = []
        for recording in recordings:
            seen = ~np.isnan(recording.poses).any(axis=-1).all(axis=-1)  # (..., frames)
            filled = replace(recording, poses=self.feature_extractor.fill_missing(recording.poses))
            windows += [
                window
                for window in _cut(filled, frame_rate, seconds)
                if seen[..., window.start - recording.start : window.end - recording.start].any()
            ]
        batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
        inputs = [
            self.feature_extractor([window.poses for window in batch], **options)["skeleton_values"]
            for batch in batches
        ]
        return {"windows": windows, "frame_rate": frame_rate, "inputs": inputs}

    def _forward(self, inputs):
        logits = [
            self.model(skeleton_values=values.to(self.model.dtype)).logits.float() for values in inputs["inputs"]
        ]
        return {**inputs, "logits": logits}

    def postprocess(self, result, top_k=5, threshold=0.0):
        """The actions of each window."""
        if not result["windows"]:
            return []
        names, process = self.model.config.id2label, self.feature_extractor.post_process_action_recognition
        named = [row for logits in result["logits"] for row in process(ModelOutput(logits=logits), names, top_k)]
        rate, actions = result["frame_rate"], []
        for window, found in zip(result["windows"], named, strict=True):
            if found[0]["score"] < threshold:
                continue
            start, end = ((frame / rate if rate else None) for frame in (window.start, window.end))
            actions.append(
                {
                    "track_id": window.track_id,
                    "start_frame": window.start,
                    "end_frame": window.end,
                    "start": start,
                    "end": end,
                    **found[0],
                    "actions": found,
                }
            )
        return actions

    def _read(self, data: Any) -> tuple[list[_Window], dict[str, Any]]:
        """Each recording as one window, and what the input says of itself."""
        if isinstance(data, str | PathLike):
            if Path(data).suffix.lower() != ".skeleton":
                raise ValueError(
                    f"`data` {str(data)!r} must be a `.skeleton` file of NTU RGB+D; open others first, such as by "
                    "`PoseSequence.load`."
                )
            bodies = read_ntu_skeleton(data, self.feature_extractor.num_persons)
            known = {"frame_rate": NTU_FRAME_RATE, "keypoint_names": NTU25, "unit": "metre"}
            return [_Window(None, 0, bodies if len(bodies) > 1 else bodies[0])], known
        if isinstance(data, PoseSequence):
            if any(track.keypoints.shape[2] != 3 for track in data.tracks) or data.unit == "pixel":
                raise ValueError(
                    "`data` must have 3D poses; lift 2D poses first, by `pipeline('pose-lifting')`. It has "
                    f"{sorted({track.keypoints.shape[2] for track in data.tracks})} coordinates a joint and unit {data.unit!r}."
                )
            names = ("frame_rate", "keypoint_names", "unit")
            known = {name: getattr(data, name) for name in names if getattr(data, name) is not None}
            return [_Window(track.track_id, track.start, track.keypoints) for track in data.tracks], known
        arrays = {0: data} if isinstance(data, np.ndarray) or torch.is_tensor(data) else data
        if isinstance(arrays, list | tuple):
            arrays = dict(enumerate(arrays))
        arrays = dict(arrays) if isinstance(arrays, Mapping) else {}
        if not arrays or not all(isinstance(value, np.ndarray) or torch.is_tensor(value) for value in arrays.values()):
            raise TypeError(
                "`data` must be a PoseSequence, an array (frames, joints, 3), a list or dict of arrays, or a file, got "
                f"{type(data).__name__}."
            )
        recordings = []
        for key, value in arrays.items():
            poses = value.detach().cpu().numpy() if torch.is_tensor(value) else value
            if poses.ndim != 3 or poses.shape[2] != 3 or 0 in poses.shape:
                hint = "; lift 2D poses first, by `pipeline('pose-lifting')`" if poses.shape[-1:] == (2,) else ""
                raise ValueError(f"`data` must have shape (frames, joints, 3), got {poses.shape} of {key!r}{hint}.")
            if poses.dtype.kind not in "fiu":
                raise TypeError(f"`data` must be an array of real numbers, got dtype {poses.dtype} of {key!r}.")
            recordings.append(_Window(key, 0, poses.astype(np.float32)))
        return recordings, {}


def _cut(recording: _Window, frame_rate: float | None, seconds: float) -> list[_Window]:
    """Windows of a recording, each half a window behind the last."""
    poses, frames = recording.poses, recording.poses.shape[-3]
    length = frames
    if frame_rate is not None and not math.isinf(seconds):
        length = min(frames, max(1, round(seconds * frame_rate)))
    elif frame_rate is None and not math.isinf(seconds) and frames > LONGEST_WITHOUT_RATE:
        raise ValueError(
            f"`frame_rate` must be given to cut {frames} frames into windows of {seconds} seconds; or take them as one action by "
            "`window_seconds=math.inf`."
        )
    starts = [*range(0, frames - length, max(1, length // 2)), frames - length]
    return [
        _Window(recording.track_id, recording.start + start, poses[..., start : start + length, :, :])
        for start in starts
    ]


__all__ = ["SkeletonActionRecognitionPipeline"]
