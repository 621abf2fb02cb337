"""Pose sequence in, steadier or denser pose sequence out, of the same kind."""

from collections.abc import Hashable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from inspect import signature
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from ..datasets.pose_formats import read_poses
from ..pose_sequences import PoseSequence
from .pose_recovery import DEFAULT_BATCH_SIZE, prepare_poses, restore_poses, track_batches


MISSING = ("fill", "nan")
UNSEEN_JOINTS = ("nan", "raise")


@dataclass
class _Job:
    """One input on its way through the pipeline.

    Args:
        data: The input as it came.
        poses: For each track (frames, joints, dims).
        scores: For each track (frames, joints), None without.
        sequence: The input as a sequence, None of arrays.
        batches: Identifiers of the tracks of each batch.
        prepared: Model inputs of each batch.
    """

    data: Any
    poses: dict[Hashable, Any]
    scores: dict[Hashable, Any] | None = None
    sequence: PoseSequence | None = None
    batches: list[list[Hashable]] = field(default_factory=list)
    prepared: list[Any] = field(default_factory=list)


class PoseRefinementPipeline(Pipeline):
    """Refine tracked poses: `pipeline("pose-refinement", model=...)(poses)`, with SmoothNet or DeciWatch.

    SmoothNet takes the jitter out of poses of every frame. DeciWatch recovers all frames from every N-th one, and looks at
    no others even if it gets them; `pipeline.feature_extractor.frame_indices(num_frames)` says which. Its joints need not
    be those of the input: see `hvmodels.pipelines.pose_recovery`.

    A call takes
        - an array or tensor (frames, joints, dims), one track;
        - a list of such arrays, or a dict of them by track, of any lengths;
        - a `PoseSequence`;
        - what the pose pipelines give for a video, a list of persons a frame, each with `track_id`;
        - a file or folder that `hvmodels.datasets.pose_formats.read_poses` knows.

    Call arguments, all optional:
        scores: For arrays, the confidences (frames, joints), in the same list or dict. A joint of score 0 counts as missing,
            as one that is NaN does.
        keypoint_names: Names of the joints, or a `KeypointSet`, where the input does not name them.
        image_size: (width, height) in pixels, where the input does not say and the model goes by it.
        frame_rate: Frames a second, likewise.
        unit: `"pixel"`, `"metre"` or `"millimetre"`, likewise.
        rotation_format: `"axis_angle"`, `"quaternion"`, `"matrix"` or `"6d"` if the input holds rotations.
        frame_indices: For arrays, the frames of the poses, if not every frame has one.
        num_frames: For arrays, the length that they belong to. DeciWatch needs it alone if the poses are those of
            the frames that it looks at.
        missing: What becomes of joints that the input had none of: `"fill"` keeps what the model made of their
            neighbours in time, with score 0 where the result has scores; `"nan"` takes it out again.
        unseen_joints: A joint that a track never has comes back as NaN (`"nan"`, default), or is an error (`"raise"`).
        track: For files without tracks, see `hvmodels.datasets.pose_formats`.
        batch_size: Tracks at a time, default 16; those of similar length go together.

    Returns:
        The same kind as the input, and a `PoseSequence` for a file: arrays are float32, a tensor is where the input
        was; persons keep whatever else they had, and one who was out of sight between two frames is put in (unless
        `missing="nan"`).
    """

    _load_feature_extractor = True
    _load_processor = _load_image_processor = _load_tokenizer = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "pose_mask" not in signature(self.model.forward).parameters:
            raise ValueError(
                f"`model` must refine poses, such as SmoothNetForPoseRefinement, got {type(self.model).__name__}."
            )
        if not hasattr(self.feature_extractor, "post_process_pose_refinement"):
            raise ValueError(
                f"`feature_extractor` must be that of a pose model, got {type(self.feature_extractor).__name__}."
            )
        of_model, of_extractor = (
            getattr(owner, "sample_interval", None) for owner in (self.model.config, self.feature_extractor)
        )
        if of_model != of_extractor:
            raise ValueError(
                f"`model` and `feature_extractor` must have the same `sample_interval`, got {of_model} and {of_extractor}."
            )

    def _sanitize_parameters(
        self,
        scores=None,
        keypoint_names=None,
        image_size=None,
        frame_rate=None,
        unit=None,
        rotation_format=None,
        frame_indices=None,
        num_frames=None,
        missing=None,
        unseen_joints=None,
        track=None,
        **unknown,
    ):
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; the pipeline takes `scores`, `keypoint_names`, `image_size`, "
                "`frame_rate`, `unit`, `rotation_format`, `frame_indices`, `num_frames`, `missing`, `unseen_joints`, `track` "
                "and `batch_size`."
            )
        for name, value, known in (("missing", missing, MISSING), ("unseen_joints", unseen_joints, UNSEEN_JOINTS)):
            if value not in (None, *known):
                raise ValueError(f"`{name}` must be one of {list(known)}, got {value!r}.")
        preprocess = {
            "scores": scores,
            "keypoint_names": keypoint_names,
            "image_size": image_size,
            "frame_rate": frame_rate,
            "unit": unit,
            "rotation_format": rotation_format,
            "frame_indices": frame_indices,
            "num_frames": num_frames,
            "unseen_joints": unseen_joints,
            "track": track,
        }
        given = {name: value for name, value in preprocess.items() if value is not None}
        return given, {}, {} if missing is None else {"missing": missing}

    def __call__(self, data: Any, batch_size: int | None = None, **kwargs) -> Any:
        """Refine poses, see the class."""
        batch_size = batch_size or self._batch_size or DEFAULT_BATCH_SIZE
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
        scores=None,
        keypoint_names=None,
        track=None,
        frame_indices=None,
        num_frames=None,
        unseen_joints="nan",
        batch_size=DEFAULT_BATCH_SIZE,
        **options,
    ):
        """Read the input and prepare its tracks, batch by batch."""
        timing = {"frame_indices": frame_indices, "num_frames": num_frames}
        of_file = isinstance(data, str | PathLike)
        if track is not None and not of_file:
            raise ValueError("`track` can only be used for files.")
        if of_file:
            known = {"track": track, "keypoint_names": keypoint_names}
            known |= {name: options.get(name) for name in ("frame_rate", "image_size")}
            data = read_poses(data, **{name: value for name, value in known.items() if value is not None})
        job = _read(data, scores, options.get("rotation_format"))
        if job.sequence is not None:
            if any(value is not None for value in timing.values()):
                raise ValueError(
                    "`frame_indices` and `num_frames` are for arrays; a sequence has a row for every frame."
                )
            known = (
                ("frame_rate", "image_size")
                if options.get("rotation_format")
                else ("frame_rate", "image_size", "unit")
            )
            of_sequence = {name: getattr(job.sequence, name) for name in known}
            options = {**of_sequence, **options}
            keypoint_names = job.sequence.keypoint_names if keypoint_names is None else keypoint_names
        feature_extractor = copy(self.feature_extractor)
        feature_extractor.unseen_joints = unseen_joints
        lists = {name: value for name, value in timing.items() if isinstance(value, list | tuple)}
        timing |= {name: dict(enumerate(value)) for name, value in lists.items() if value and np.ndim(value[0]) == 1}
        for batch in track_batches(job.poses, job.scores, **timing, batch_size=batch_size):
            job.batches.append(list(batch["poses"]))
            job.prepared.append(prepare_poses(feature_extractor, **batch, keypoint_names=keypoint_names, **options))
        names = ("pose_values", "pose_mask")
        return {"job": job, "inputs": [{name: prepared.features[name] for name in names} for prepared in job.prepared]}

    def _forward(self, inputs):
        outputs = []
        for batch in inputs["inputs"]:
            output = self.model(pose_values=batch["pose_values"].to(self.model.dtype), pose_mask=batch["pose_mask"])
            name = self.feature_extractor.output_name
            outputs.append({name: output[name].float(), "refined_mask": output["refined_mask"]})
        return {"job": inputs["job"], "outputs": outputs}

    def postprocess(self, result, missing="fill"):
        """The refined poses in the form of the input."""
        job, refined = result["job"], {}
        for batch, prepared, outputs in zip(job.batches, job.prepared, result["outputs"], strict=True):
            results = restore_poses(self.feature_extractor, outputs, prepared)
            for key, track, entry in zip(batch, prepared.features["tracks"], results, strict=True):
                # A model that fills short tracks up with zeros gives those back too.
                poses, was_missing = (entry[name][: len(track.missing)] for name in ("poses", "missing"))
                if missing == "nan":
                    poses[was_missing] = np.nan
                refined[key] = poses, was_missing
        if job.sequence is not None:
            sequence = _with_poses(job.sequence, refined)
            return sequence if isinstance(job.data, PoseSequence) else _persons(job.data, sequence)
        arrays = {key: _like(job.poses[key], refined[key][0]) for key in job.poses}
        if isinstance(job.data, Mapping):
            return arrays
        return list(arrays.values()) if _is_list_of_arrays(job.data) else arrays[0]


def _read(data: Any, scores: Any, rotation_format: str | None) -> _Job:
    """The tracks of any input but a file."""
    if isinstance(data, PoseSequence) or _is_frames(data):
        if scores is not None:
            raise ValueError("`scores` are for arrays; a sequence, and persons, have their own.")
        sequence = data if isinstance(data, PoseSequence) else PoseSequence.from_frames(data, unit=None)
        poses = {track.track_id: track.keypoints for track in sequence.tracks}
        if rotation_format == "matrix":
            poses = {key: values.reshape(*values.shape[:2], 3, -1) for key, values in poses.items()}
        has_scores = any(track.scores is not None for track in sequence.tracks)
        scores = {
            track.track_id: np.ones(track.keypoints.shape[:2])
            if track.scores is None
            else np.nan_to_num(track.scores, nan=1)
            for track in sequence.tracks
        }
        return _Job(data, poses, scores if has_scores else None, sequence)
    if isinstance(data, Mapping):
        poses = dict(data)
    elif _is_list_of_arrays(data):
        poses = dict(enumerate(data))
    elif _is_array(data) or isinstance(data, list | tuple):
        return _Job(data, {0: data}, None if scores is None else {0: scores})
    else:
        raise TypeError(
            "`data` must be an array (frames, joints, dims), a list or dict of arrays, a PoseSequence, a list of persons for "
            f"each frame, or a file, got {type(data).__name__}."
        )
    if not poses:
        raise ValueError("`data` must hold at least one track, got none.")
    if scores is not None:
        scores = dict(scores) if isinstance(scores, Mapping) else dict(enumerate(scores))
        if scores.keys() != poses.keys():
            raise ValueError(f"`scores` must be of the tracks of `data`, {list(poses)}, got {list(scores)}.")
    return _Job(data, poses, scores)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or torch.is_tensor(value)


def _is_list_of_arrays(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_array(item) for item in value)


def _is_frames(value: Any) -> bool:
    """Whether this is a list of persons for each frame; in doubt, without any person, it is."""
    if not isinstance(value, list | tuple) or not value:
        return False
    if any(isinstance(item, Mapping) for item in value):
        raise TypeError("`data` must be a list with a list of persons for each frame, got a list of dicts.")
    return all(isinstance(item, list | tuple) and all(isinstance(person, dict) for person in item) for item in value)


def _like(source: Any, poses: np.ndarray) -> Any:
    return torch.from_numpy(poses).to(source.device) if torch.is_tensor(source) else poses


def _with_poses(sequence: PoseSequence, refined: dict[Hashable, tuple[np.ndarray, np.ndarray]]) -> PoseSequence:
    """The sequence with refined keypoints, and score 0 where they are filled in."""
    tracks = []
    for track in sequence.tracks:
        poses, missing = refined[track.track_id]
        scores = np.ones(missing.shape) if track.scores is None else track.scores[: len(poses)]
        has_scores = track.scores is not None or missing.any()
        parts = {name: getattr(track, name) for name in ("boxes", "person_scores")}
        parts = {name: None if value is None else value[: len(poses)] for name, value in parts.items()}
        keypoints = poses.reshape(*poses.shape[:2], -1)
        scores = np.where(missing, 0, scores) if has_scores else None
        tracks.append(replace(track, keypoints=keypoints, scores=scores, **parts))
    return replace(sequence, tracks=tracks)


def _persons(frames: list[list[dict]], sequence: PoseSequence) -> list[list[dict]]:
    """The persons of each frame with refined keypoints and whatever else they had; behind them those put in."""
    results = []
    for given, refined in zip(frames, sequence.frames(), strict=True):
        of_track = {person["track_id"]: person for person in refined}
        persons = []
        for person in given:
            new = of_track.pop(person["track_id"], None)
            if new is not None:
                pairs = zip(person["keypoints"], new["keypoints"], strict=True)
                person = {**person, "keypoints": [{**old, **moved} for old, moved in pairs]}
            persons.append(person)
        results.append([*persons, *of_track.values()])
    return results


__all__ = ["PoseRefinementPipeline"]
