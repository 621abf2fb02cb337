"""2D poses in, the same persons in space out."""

from collections.abc import Hashable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from inspect import signature
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.utils import ModelOutput

from ..cameras import PinholeCamera
from ..datasets.pose_formats import from_pipeline, read_poses
from ..pose_sequences import PoseSequence, PoseTrack
from .pose_recovery import DEFAULT_BATCH_SIZE, track_batches


WINDOWS_AT_A_TIME = 8192
UNSEEN_JOINTS = ("raise", "nan")


@dataclass
class _Job:
    """One input on its way through the pipeline.

    Args:
        keypoints: 2D poses of each track.
        scores: Their confidences, None without.
        known: What the result has from the input, by the names of `PoseSequence`.
        tracks: Tracks of the input, if it was no array.
        keypoint_names: Joints of the input, None if it does not say.
        batches: Identifiers of the tracks and the features of each batch.
    """

    keypoints: dict[Hashable, Any]
    scores: dict[Hashable, Any] | None = None
    known: dict[str, Any] = field(default_factory=dict)
    tracks: dict[Hashable, PoseTrack] = field(default_factory=dict)
    keypoint_names: Any = None
    batches: list[tuple[list[Hashable], Any]] = field(default_factory=list)


class PoseLiftingPipeline(Pipeline):
    """Lift 2D poses to 3D: `pipeline("pose-lifting")(poses)`, with Skeletal-GNN, VideoPose3D or the baseline of Martinez et al.

    A call takes
        - a `PoseSequence` in pixels;
        - an array or tensor (frames, joints, 2), one track, or (frames, joints, 3) with the scores as third number; a list
          of such arrays, or a dict of them by track, of any lengths;
        - what the pose pipelines give: the persons of one image; or for a video a list of persons a frame, who are
          tracked unless they have a `track_id`;
        - a file or folder that `hvmodels.datasets.pose_formats.read_poses` knows.

    Every frame is lifted. Where a model sees several, the first and last frame are repeated; so is a single image, who for a
    model of nine frames stands still. Joints of other sets become the model's, and missing ones are drawn from frame to
    frame, see the feature extractor.

    Call arguments, all optional:
        scores: For arrays, the confidences (frames, joints), in the same list or dict.
        keypoint_names: Joints of the input where it does not name them: a `KeypointSet`, its name such as `"coco17"`, or
            names. Without, they are taken for the model's.
        image_size: (width, height) in pixels, where the input does not say. It is needed unless there is a `camera`.
        frame_rate: Frames a second, where the input does not say; the result has it.
        camera: `hvmodels.cameras.PinholeCamera` that saw the poses, for its intrinsics; with `axes="world"` also for
            its rotation.
        axes: `"camera"` (default): x to the right, y down, z away. `"upright"`: x to the right, y away, z up, if the camera
            was held level. `"world"`: of the world in which `camera` stands.
        flip_test: Whether the mean with the mirror image's result is taken; by default as the model was made for.
        unseen_joints: A track that lacks one of the model's joints in all frames is an error (`"raise"`, default), or comes
            back as NaN (`"nan"`).
        batch_size: Tracks at a time, default 16.

    Returns:
        A `PoseSequence` of the same tracks and frames in metres, each pose relative to its pelvis, with the joints of the
        model. Scores are those of the input, 0 where a joint was missing; boxes, frame rate and image size are kept.
    """

    _load_feature_extractor = True
    _load_processor = _load_image_processor = _load_tokenizer = _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "keypoints_2d" not in signature(self.model.forward).parameters:
            raise ValueError(
                f"`model` must lift poses, such as VideoPose3DForPoseLifting, got {type(self.model).__name__}."
            )
        if not hasattr(self.feature_extractor, "post_process_pose_lifting"):
            raise ValueError(
                f"`feature_extractor` must be that of a lifting model, got {type(self.feature_extractor).__name__}."
            )
        for name in ("num_frames", "causal"):
            of_model, of_extractor = getattr(self.model.config, name, False), getattr(self.feature_extractor, name)
            if of_model != of_extractor:
                raise ValueError(
                    f"`model` and `feature_extractor` must have the same `{name}`, got {of_model} and {of_extractor}."
                )

    def _sanitize_parameters(
        self,
        scores=None,
        keypoint_names=None,
        image_size=None,
        frame_rate=None,
        camera=None,
        axes=None,
        flip_test=None,
        unseen_joints=None,
        **unknown,
    ):
        if unknown:
            raise TypeError(
                f"Unknown arguments {sorted(unknown)}; the pipeline takes `scores`, `keypoint_names`, `image_size`, "
                "`frame_rate`, `camera`, `axes`, `flip_test`, `unseen_joints` and `batch_size`."
            )
        if unseen_joints not in (None, *UNSEEN_JOINTS):
            raise ValueError(f"`unseen_joints` must be one of {list(UNSEEN_JOINTS)}, got {unseen_joints!r}.")
        if camera is not None and not isinstance(camera, PinholeCamera):
            raise TypeError(f"`camera` must be a PinholeCamera, got {type(camera).__name__}.")
        if axes == "world" and camera is None:
            raise ValueError("`camera` must be given for `axes='world'`, whose rotation it tells.")
        preprocess = {
            "scores": scores,
            "keypoint_names": keypoint_names,
            "image_size": image_size,
            "frame_rate": frame_rate,
            "camera": camera,
            "flip_test": flip_test,
            "unseen_joints": unseen_joints,
        }
        given = {name: value for name, value in preprocess.items() if value is not None}
        postprocess = {} if axes is None else {"axes": axes}
        if axes == "world":
            postprocess["camera"] = camera
        return given, {}, postprocess

    def __call__(self, data: Any, batch_size: int | None = None, **kwargs) -> PoseSequence:
        """Lift poses, see the class."""
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
        image_size=None,
        frame_rate=None,
        unseen_joints=None,
        batch_size=DEFAULT_BATCH_SIZE,
        **options,
    ):
        """Read the input and prepare its tracks, batch by batch."""
        job = _read(data, scores, {"image_size": image_size, "frame_rate": frame_rate})
        options |= {"image_size": job.known.get("image_size"), "keypoint_names": keypoint_names or job.keypoint_names}
        feature_extractor = copy(self.feature_extractor)
        feature_extractor.unseen_joints = unseen_joints or feature_extractor.unseen_joints
        for batch in track_batches(job.keypoints, job.scores, batch_size=batch_size):
            features = feature_extractor(batch["poses"], batch["scores"], **options)
            job.batches.append((list(batch["poses"]), features))
        return {"job": job, "inputs": [features["keypoints_2d"] for _, features in job.batches]}

    def _forward(self, inputs):
        outputs = [self._positions(keypoints.to(self.model.dtype)) for keypoints in inputs["inputs"]]
        return {"job": inputs["job"], "outputs": outputs}

    def _positions(self, keypoints: torch.Tensor) -> torch.Tensor:
        """(tracks, frames, joints, 3); so many windows at a time, since some models copy every window."""
        size = self.feature_extractor.num_frames
        step = max(1, WINDOWS_AT_A_TIME // len(keypoints))
        parts = [
            self.model(keypoints_2d=keypoints[:, first : first + step + size - 1]).positions_3d.float()
            for first in range(0, keypoints.shape[1] - size + 1, step)
        ]
        return torch.cat(parts, dim=1)

    def postprocess(self, result, axes="camera", camera=None):
        """The persons in space."""
        job, lifted = result["job"], {}
        for (track_ids, features), positions in zip(job.batches, result["outputs"], strict=True):
            outputs = ModelOutput(positions_3d=positions)
            poses = self.feature_extractor.post_process_pose_lifting(outputs, features, axes=axes, camera=camera)
            lifted |= dict(zip(track_ids, poses, strict=True))
        tracks = []
        for track_id in job.keypoints:
            poses, missing = lifted[track_id]["poses"], lifted[track_id]["missing"]
            scores = lifted[track_id].get("scores")
            if scores is None and missing.any():
                scores = np.where(missing, 0.0, 1.0)
            track = job.tracks.get(track_id)
            tracks.append(
                PoseTrack(track_id, 0, poses, scores)
                if track is None
                else replace(track, keypoints=poses, scores=scores)
            )
        return PoseSequence(
            tracks, keypoint_names=self.feature_extractor.output_keypoint_names, unit="metre", **job.known
        )


def _read(data: Any, scores: Any, known: dict[str, Any]) -> _Job:
    """The tracks of any input."""
    known = {name: value for name, value in known.items() if value is not None}
    arrays = _arrays(data)
    if arrays is not None:
        if scores is not None and not isinstance(scores, list | tuple | Mapping):
            scores = [scores]
        scores = dict(enumerate(scores)) if isinstance(scores, list | tuple) else scores
        if scores is not None and scores.keys() != arrays.keys():
            raise ValueError(f"`scores` must be of the tracks of `data`, {list(arrays)}, got {list(scores)}.")
        return _Job(arrays, scores, known)
    if scores is not None:
        raise ValueError("`scores` are for arrays; a sequence, and persons, have their own.")
    if isinstance(data, str | PathLike):
        data = read_poses(data, **known)
    elif isinstance(data, list | tuple):
        data = from_pipeline([data] if data and isinstance(data[0], Mapping) else data, **known)
    if not isinstance(data, PoseSequence):
        raise TypeError(
            "`data` must be a PoseSequence, an array (frames, joints, 2), a list or dict of arrays, persons of an image or of "
            f"each frame of a video, or a file, got {type(data).__name__}."
        )
    if data.unit not in (None, "pixel") or any(track.keypoints.shape[2] != 2 for track in data.tracks):
        dims = sorted({track.keypoints.shape[2] for track in data.tracks})
        raise ValueError(
            f"`data` must have 2D poses in pixels, got unit {data.unit!r} and {dims} coordinates a joint."
        )
    names = ("num_frames", "frame_rate", "image_size")
    tracks = {track.track_id: track for track in data.tracks}
    return _Job(
        {track_id: track.keypoints for track_id, track in tracks.items()},
        # Every track of a batch has scores, or none; those of one without are 1.
        {track_id: _track_scores(track) for track_id, track in tracks.items()}
        if any(track.scores is not None for track in data.tracks)
        else None,
        {name: getattr(data, name) for name in names} | known,
        tracks,
        data.keypoint_names,
    )


def _track_scores(track: PoseTrack) -> np.ndarray:
    return np.ones(track.keypoints.shape[:2]) if track.scores is None else np.nan_to_num(track.scores, nan=1.0)


def _arrays(data: Any) -> dict[Hashable, Any] | None:
    """Arrays by track, None if there are none in the data."""
    if isinstance(data, np.ndarray) or torch.is_tensor(data):
        return {0: data}
    values = list(data.values()) if isinstance(data, Mapping) else data
    if not isinstance(values, list | tuple) or not values:
        return None
    if not all(isinstance(value, np.ndarray) or torch.is_tensor(value) for value in values):
        return None
    return dict(data) if isinstance(data, Mapping) else dict(enumerate(data))


__all__ = ["PoseLiftingPipeline"]
