"""Videos in, poses over time out: find the persons, follow them, fill in the frames between, smooth, lift, draw."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..keypoint_sets import find_keypoint_set
from ..pose_sequences import BOX_SIDES, PoseSequence
from ..tracking import BoxFollower, PoseTracker
from ..video import VideoFrame, VideoReader, VideoWriter, read_video
from ..visualization.pose_3d import write_lifted_video, write_pose_page
from ..visualization.pose_video import LAYOUTS, write_pose_video
from .person_boxes import read_boxes
from .person_search import MotionMap, find_person_box
from .person_stream import PersonStream
from .pipeline_pose_estimation import PoseEstimationPipeline
from .track_lifting import in_the_picture, lift_sequence, load_pipeline, recognize_actions
from .track_refinement import DEFAULT_RECOVERER, DEFAULT_SMOOTHER, load_refiner, recover_sequence, smooth_sequence


MIN_SCORE = 0.4
SPOOL_QUALITY = 10


@dataclass(frozen=True, eq=False)
class VideoPoseSequence(PoseSequence):
    """Tracks of the persons in a video.

    Args:
        num_detected_frames: Frames in which persons were looked for; the poses of the others come from these.
        lifted: The same persons in space, in metres relative to their pelvis and in the camera's axes, if asked for.
        actions: What they do, if asked for, as `pipeline("skeleton-action-recognition")` has it: windows of each track with
            `track_id`, `start_frame`, `end_frame`, `label` and `score`.
    """

    num_detected_frames: int | None = None
    lifted: PoseSequence | None = None
    actions: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class VideoOptions:
    """Options of a call beside those of the pose pipeline; `VideoPoseEstimationPipeline` says what they are."""

    frame_rate: float | None = None
    interval: int = 1
    recover: Any = "default"
    smooth: Any = "default"
    boxes: Any = None
    poses: Any = None
    max_gap: int | None = None
    lift: Any = None
    actions: Any = None
    output: str | PathLike | None = None
    output_video: str | PathLike | None = None
    output_3d: str | PathLike | None = None
    output_page: str | PathLike | None = None
    layout: str = "overlay"
    trails: int = 0
    keypoint_threshold: float = 0.0
    progress: bool | None = None

    def __post_init__(self):
        for name, least in (("interval", 1), ("max_gap", 0), ("trails", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(f"`{name}` must be an integer from {least} on, got {value!r}.")
        if self.layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {list(LAYOUTS)}, got {self.layout!r}.")
        suffixes = {"output": (".npz", ".json"), "output_3d": (".npz", ".json"), "output_page": (".html", ".htm")}
        for name, allowed in suffixes.items():
            path = getattr(self, name)
            if path is not None and Path(path).suffix.lower() not in allowed:
                raise ValueError(f"`{name}` must end in {' or '.join(allowed)}, got {str(path)!r}.")
            if path is not None and name != "output" and not (self.lift or self.actions):
                raise ValueError(f"`{name}` needs `lift`, which tells the poses in space.")
        if self.boxes is not None and self.poses is not None:
            raise ValueError("`boxes` and `poses` were both given; pass one of them.")


class VideoPoseEstimationPipeline(PoseEstimationPipeline):
    """Find the persons in a video, follow them and their keypoints: `pipeline("video-pose-estimation")("walk.mp4")`.

    A call takes whatever `hvmodels.video.read_video` does: a video file, a folder of frames, an iterator of images, a
    camera. Of the video's length only the poses take memory, some 3 KB a person and frame.

    Persons come from:
        - a one-stage model, in every frame that is looked at;
        - a top-down model with a `detector`, likewise;
        - a top-down model without: the persons in `boxes` of the first frame are followed, the box of the next frame
          being that of the last pose, moved on. Without `boxes` one person is searched for, by trying boxes of several
          sizes all over the picture, mostly where something moves (`person_search`), once a second as long as nobody
          is found; it may well be the wrong one. Nobody who comes in later is found.
        - `poses`, detections that are there already. The model is not used then.

    Call arguments beside those of `pipeline("pose-estimation")`, all optional, here or once and for all in
    `pipeline(...)`:
        boxes: Boxes of the persons in the first frame, (x, y, width, height) in pixels, for top-down models.
        poses: For each frame the persons, as the pose pipeline gives them (a list or iterator), or a `PoseSequence`.
            Persons with a `track_id` keep it, others are tracked.
        interval: Look for persons in every so many frames only (and in the last one); default 1.
        recover: What tells the poses of the frames between: a DeciWatch, as name or folder or as `(model,
            feature_extractor)`; by default the embedded "deciwatch-2d". None draws straight lines.
        smooth: What smooths the result: a SmoothNet in the same forms, "one-euro", "savitzky-golay", "gaussian" or an
            object of `hvmodels.smoothing.filters`, which work in units of the person's size; None for nothing. By default
            the embedded "smoothnet-any-pose" where every frame is looked at; DeciWatch is smooth by itself.
        frame_rate: Resample the video to so many frames a second; for images, what they have (default 30).
        max_gap: Frames for which a person may be out of sight and still be the same; default one second.
        lift: Lift the poses to 3D, and smooth them there again: a `pipeline("pose-lifting")`, a model's folder or repository, or True for the embedded
            one. Default None.
        actions: Tell what persons do, from their poses in space (with the embedded lifter unless `lift` is another): a
            `pipeline("skeleton-action-recognition")`, a model's folder or repository, or True. Default None.
        output: File for the poses, .npz or .json; see `hvmodels.pose_sequences`.
        output_video: File for the video with the poses drawn into it (.mp4, H.264, without sound); with `lift` the persons
            in space are beside it.
        output_3d: File for the poses in space, .npz or .json.
        output_page: File for a page (.html) in which the persons in space can be turned; it needs no network.
        layout: Of that video, `"overlay"` (default) or `"side_by_side"` with the original.
        trails: Frames for which persons leave a trail in it; default 0.
        keypoint_threshold: Draw only keypoints of a higher score; default 0.
        progress: Whether to show a progress bar; default on a terminal only.
        threshold: Least score of a person. Default 0.4 for those who are followed, else that of the pose pipeline.

    Returns:
        A `VideoPoseSequence`: the tracks, `num_detected_frames`, `lifted` and `actions`. Where a person was out of sight for a while, the
        scores of the keypoints are 0.
    """

    def __init__(self, *args, **kwargs):
        names = {field.name for field in fields(VideoOptions)}
        self._video_options = {name: kwargs.pop(name) for name in names & set(kwargs)}
        VideoOptions(**self._video_options)
        super().__init__(*args, **kwargs)

    def __call__(self, video: Any, **options: Any) -> VideoPoseSequence:
        """Estimate the poses in a video, see the class."""
        options, pose_options = self._read_options(options)
        reader = read_video(video, options.frame_rate)
        looked_at = 0

        def persons_of_frames() -> Iterator[list[dict]]:
            nonlocal looked_at
            for _, persons in self._observe(frames, finder, options.interval):
                looked_at += persons is not None
                yield persons or []

        with ExitStack() as stack:
            frames: Iterable[VideoFrame] = reader
            if options.output_video is not None:
                _check_output_video(options.output_video, reader)
                if not reader.is_rewindable:
                    folder = stack.enter_context(tempfile.TemporaryDirectory())
                    spool = Path(folder) / "frames.mp4"
                    frames = _spool(reader, spool)
            finder = self._finder(reader, options, pose_options)
            bar = tqdm(
                persons_of_frames(),
                total=reader.num_frames,
                unit="frame",
                disable=None if options.progress is None else not options.progress,
            )
            sequence = PoseSequence.from_frames(bar, frame_rate=reader.frame_rate, image_size=reader.size)
            sequence = self._refine(sequence, options, looked_at)
            if options.output is not None:
                Path(options.output).parent.mkdir(parents=True, exist_ok=True)
                sequence.save(options.output)
            if options.output_3d is not None:
                Path(options.output_3d).parent.mkdir(parents=True, exist_ok=True)
                sequence.lifted.save(options.output_3d)
            placed = None if sequence.lifted is None else in_the_picture(sequence.lifted, sequence)
            if options.output_page is not None:
                write_pose_page(
                    options.output_page, placed, actions=sequence.actions or (), title=Path(reader.name).name
                )
            if options.output_video is not None:
                drawing = {"layout": options.layout, "trails": options.trails}
                drawing["keypoint_threshold"] = options.keypoint_threshold
                readable = reader if reader.is_rewindable else _unspool(spool, reader)
                links = self._links(sequence.keypoint_names)
                if placed is None:
                    write_pose_video(options.output_video, readable, sequence, links, **drawing)
                else:
                    write_lifted_video(
                        options.output_video, readable, sequence, placed, links, sequence.actions or (), **drawing
                    )
        return sequence

    def stream(self, video: Any, delay: int | None = None, **options: Any) -> PersonStream:
        """The persons of each frame while the video is read, for cameras and videos without end.

            persons_of_frames = estimator.stream(0, smooth="one-euro")  # a camera
            for persons in persons_of_frames:  # of the frame `persons_of_frames.delay` frames ago
                ...

        Args:
            video: See the class.
            delay: Frames that the persons come after their frame, if less than the full delay of the smoother: 31 for the
                embedded SmoothNet, none for "one-euro"; and `interval - 1` on top.
            options: As of a call, except those that write files. Frames between those that are looked at lie on straight
                lines, which the smoother bends; DeciWatch (`recover`) needs the whole video.

        Returns:
            An iterable over lists of persons as of `pipeline("pose-estimation")`, with `track_id`; it has `delay`.

        Raises:
            ValueError: If an option is for calls only, or out of range.
        """
        for name in ("output", "output_video", "output_3d", "output_page", "recover", "lift", "actions"):
            if options.get(name) is not None:
                raise ValueError(f"`{name}` cannot be used with `stream`.")
        given = {**options, "recover": None, "lift": None, "actions": None, "output_3d": None, "output_page": None}
        options, pose_options = self._read_options(given)
        reader = read_video(video, options.frame_rate)
        finder = self._finder(reader, options, pose_options)
        smoother = options.smooth[0] if isinstance(options.smooth, tuple) else options.smooth
        persons_of_frames = (persons for _, persons in self._observe(reader, finder, options.interval))
        return PersonStream(persons_of_frames, smoother, delay, options.interval - 1)

    def _read_options(self, given: dict[str, Any]) -> tuple[VideoOptions, dict[str, Any]]:
        names = {field.name for field in fields(VideoOptions)}
        own = {name: value for name, value in given.items() if name in names}
        rest = {name: value for name, value in given.items() if name not in names}
        options = VideoOptions(**{**self._video_options, **own})
        recover, smooth = options.recover, options.smooth
        if recover == "default":
            recover = DEFAULT_RECOVERER if options.interval > 1 else None
        if smooth == "default":
            smooth = None if recover is not None else DEFAULT_SMOOTHER
        options = replace(
            options,
            recover=load_refiner("recover", recover, self.device),
            smooth=load_refiner("smooth", smooth, self.device),
            lift=load_pipeline("lift", "pose-lifting", options.lift or bool(options.actions), self.device),
            actions=load_pipeline("actions", "skeleton-action-recognition", options.actions, self.device),
        )
        self._sanitize_parameters(**{name: value for name, value in rest.items() if name != "batch_size"})
        return options, rest

    def _observe(
        self, frames: Iterable[VideoFrame], finder: "_Finder", interval: int
    ) -> Iterator[tuple[int, list[dict] | None]]:
        """The number of every frame in order, and its persons, None where nobody looked for them."""
        unseen = None
        for frame in frames:
            if unseen is not None:
                yield unseen.index, None
            unseen = None
            if frame.index % interval == 0:
                yield frame.index, finder.find(frame)
            else:
                unseen = frame
        if unseen is not None:
            yield unseen.index, finder.find(unseen)

    def _finder(self, reader: VideoReader, options: VideoOptions, pose_options: dict[str, Any]) -> "_Finder":
        max_gap = round(reader.frame_rate) if options.max_gap is None else options.max_gap
        max_gap = max(max_gap, options.interval)
        estimate = super().__call__
        if options.poses is not None:
            return _GivenPoses(options.poses, max_gap, self.keypoint_names, self.keypoint_sigmas)
        tracker = PoseTracker(self.keypoint_sigmas, max_gap)
        has_detector = pose_options.get("detector", self._preprocess_params.get("detector")) is not None
        if options.boxes is not None and has_detector:
            raise ValueError("`boxes` and `detector` were both given; pass one of them.")
        if options.boxes is not None and not self.is_top_down:
            raise ValueError(
                f"`boxes` cannot be used: {type(self.model).__name__} finds the persons itself, in the whole picture."
            )
        if has_detector or not self.is_top_down:
            return _Detection(lambda image: estimate(image, **pose_options), tracker)
        boxes = options.boxes
        if boxes is not None:
            boxes = [box.xywh for box in read_boxes(boxes, reader.size)]
        min_score = pose_options.pop("threshold", self._postprocess_params.get("threshold", MIN_SCORE))
        pose_options = {"threshold": 0.0, **pose_options}
        return _Following(
            lambda image, boxes: estimate(image, boxes=boxes, **pose_options),
            boxes,
            reader,
            options.interval,
            {"sigmas": self.keypoint_sigmas, "max_gap": max_gap, "min_score": min_score},
        )

    def _links(self, keypoint_names: Sequence[str] | None) -> Sequence[tuple[int, int]] | None:
        """Of the model's keypoints, or of given ones."""
        if list(keypoint_names or ()) == (self.keypoint_names or []):
            return self.keypoint_links
        known = find_keypoint_set(keypoint_names or ())
        return None if known is None else known.links

    def _refine(self, sequence: PoseSequence, options: VideoOptions, looked_at: int) -> VideoPoseSequence:
        sequence = recover_sequence(sequence, options.recover, options.interval)
        sequence = smooth_sequence(sequence, options.smooth)
        lifted = lift_sequence(sequence, options.lift, options.smooth)
        return VideoPoseSequence(
            sequence.tracks,
            sequence.num_frames,
            sequence.keypoint_names or self.keypoint_names,
            sequence.frame_rate,
            sequence.image_size,
            sequence.unit,
            num_detected_frames=looked_at,
            lifted=lifted,
            actions=recognize_actions(lifted, options.actions),
        )


class _Finder(ABC):
    """Finds the persons of one frame after the other."""

    @abstractmethod
    def find(self, frame: VideoFrame) -> list[dict]:
        """Persons as of the pose pipeline, with `track_id`."""


class _Detection(_Finder):
    """Persons of each frame by itself, and a tracker."""

    def __init__(self, estimate: Any, tracker: PoseTracker):
        self.estimate, self.tracker = estimate, tracker

    def find(self, frame: VideoFrame) -> list[dict]:
        return _track(self.tracker, frame.index, self.estimate(frame.image))


class _GivenPoses(_Finder):
    """Persons that somebody else found, one list a frame."""

    def __init__(self, poses: Any, max_gap: int, keypoint_names: list[str] | None, sigmas: Sequence[float] | None):
        if not isinstance(poses, PoseSequence) and (isinstance(poses, str | Mapping) or not np.iterable(poses)):
            raise TypeError(
                "`poses` must be a PoseSequence or have a list of persons for each frame, got "
                f"{type(poses).__name__}; `hvmodels.datasets.pose_formats.read_poses` reads files of other programs."
            )
        self.frames = enumerate(poses.frames() if isinstance(poses, PoseSequence) else poses)
        self.max_gap, self.tracker, self.count = max_gap, None, 0
        self.sigmas = {tuple(keypoint_names or ()): sigmas}

    def find(self, frame: VideoFrame) -> list[dict]:
        for index, persons in self.frames:
            self.count = index + 1
            if index == frame.index:
                if all(isinstance(person, Mapping) and "track_id" in person for person in persons):
                    return persons
                if self.tracker is None:
                    self.tracker = PoseTracker(self._sigmas(persons[0]), self.max_gap)
                return _track(self.tracker, index, persons)
        raise ValueError(f"`poses` must have a list of persons for each frame; there are {self.count} only.")

    def _sigmas(self, person: Any) -> Sequence[float] | None:
        """Of the keypoints as they are, which need not be the model's; None, for boxes alone, if unknown."""
        with suppress(KeyError, TypeError):
            names = tuple(point["label"] for point in person["keypoints"])
            known = find_keypoint_set(names)
            return self.sigmas.get(names, None if known is None else known.sigmas)
        return None


class _Following(_Finder):
    """Persons of the first frame and, by boxes from their last poses, of the others."""

    def __init__(
        self, estimate: Any, boxes: list | None, reader: VideoReader, interval: int, follower_options: dict[str, Any]
    ):
        self.estimate, self.reader, self.interval, self.options = estimate, reader, interval, follower_options
        self.follower = None if boxes is None else BoxFollower(boxes, reader.size, **follower_options)
        self.motion = MotionMap() if boxes is None else None
        self.next_search, self.next_id = 0, 1

    def find(self, frame: VideoFrame) -> list[dict]:
        boxes = {} if self.follower is None else self.follower.boxes_at(frame.index)
        if not boxes and self.motion is not None:
            boxes = self._search(frame)
        persons = self._look(frame, boxes)
        if self.interval > 1 and persons:
            # The boxes were wide, and where persons may have gone; now they are known to be.
            closer = self._look(
                frame, {i: box for i, box in self.follower.boxes_at(frame.index).items() if i in persons}
            )
            persons |= {i: person for i, person in closer.items() if person["score"] >= persons[i]["score"]}
        return [{**person, "track_id": track_id} for track_id, person in persons.items()]

    def _look(self, frame: VideoFrame, boxes: dict[int, tuple]) -> dict[int, dict]:
        """The persons who are found in the boxes."""
        if not boxes:
            return {}
        persons = dict(zip(boxes, self._persons(frame.image, list(boxes.values())), strict=True))
        keypoints = {track_id: _keypoints(person) for track_id, person in persons.items()}
        scores = {track_id: person["score"] for track_id, person in persons.items()}
        return {track_id: persons[track_id] for track_id in self.follower.update(frame.index, keypoints, scores)}

    def _search(self, frame: VideoFrame) -> dict[int, tuple]:
        """The box of a person, once a second."""
        if frame.index == 0 and self.reader.is_rewindable:
            for ahead in islice(self.reader, 0, round(self.reader.frame_rate), 3):
                self.motion.add(ahead.image)
        else:
            self.motion.add(frame.image)
        if frame.index < self.next_search:
            return {}
        self.next_search = frame.index + round(self.reader.frame_rate)
        box = find_person_box(self._arrays, frame.image, self.motion, self.options["min_score"])
        if box is None:
            return {}
        self.follower = BoxFollower([box], self.reader.size, frame=frame.index, first_id=self.next_id, **self.options)
        self.next_id += 1
        return self.follower.boxes_at(frame.index)

    def _persons(self, image: np.ndarray, boxes: list[tuple]) -> list[dict]:
        """In the order of the boxes, which they carry; the pipeline gives them by score."""
        by_box = {tuple(person["box"][side] for side in BOX_SIDES): person for person in self.estimate(image, boxes)}
        return [by_box[x, y, x + width, y + height] for x, y, width, height in boxes]

    def _arrays(self, image: np.ndarray, boxes: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        persons = self._persons(image, boxes)
        return np.array([_keypoints(person) for person in persons]), np.array([person["score"] for person in persons])


def _keypoints(person: Mapping[str, Any]) -> np.ndarray:
    """(keypoints, 2), NaN where missing."""
    points = [(np.nan if point["x"] is None else point["x"], point["y"]) for point in person["keypoints"]]
    return np.array(points, dtype=np.float64)


def _track(tracker: PoseTracker, frame: int, persons: list[dict]) -> list[dict]:
    """The persons of a frame with their `track_id`; those who begin no track are left out."""
    try:
        keypoints = np.array([_keypoints(person) for person in persons]) if persons else None
        boxes = [_box(person) for person in persons]
        scores = [person.get("score", 1.0) for person in persons]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            "`poses` must have for each frame a list of persons with `keypoints`, a list of dicts of `label`, `x`, `y` and "
            f"`score`, all with the same ones; those of frame {frame} are none such: {type(error).__name__} {error}."
        ) from error
    ids = tracker.update(frame, boxes, keypoints, scores)
    return [
        {**person, "track_id": track_id} for person, track_id in zip(persons, ids, strict=True) if track_id is not None
    ]


def _box(person: Mapping[str, Any]) -> list[float]:
    if person.get("box"):
        return [person["box"][side] for side in BOX_SIDES]
    keypoints = _keypoints(person)
    return [*np.nanmin(keypoints, axis=0), *np.nanmax(keypoints, axis=0)]


def _check_output_video(path: str | PathLike, reader: VideoReader):
    if Path(path).exists() and Path(reader.name).exists() and Path(path).samefile(reader.name):
        raise ValueError(f"`output_video` must be another file than the video that is read, got {str(path)!r}.")


def _spool(frames: Iterable[VideoFrame], path: Path) -> Iterator[VideoFrame]:
    """Frames as they come, and into a file from which they can be read again: an iterator's are gone afterwards."""
    with VideoWriter(path, quality=SPOOL_QUALITY) as writer:
        for frame in frames:
            writer.write(frame.image)
            yield frame


def _unspool(path: Path, reader: VideoReader) -> VideoReader:
    spooled, (width, height) = read_video(path), reader.size

    def frames() -> Iterator[np.ndarray]:
        for frame in spooled:
            yield frame.image[:height, :width]

    return VideoReader(reader.name, frames, reader.size, reader.frame_rate, spooled.num_frames, True)


__all__ = ["VideoPoseEstimationPipeline", "VideoPoseSequence"]
