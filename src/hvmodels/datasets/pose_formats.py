"""Poses of other software as pose sequences, and back.

Results in memory, frame by frame: `from_ultralytics`, `from_rtmlib`, `from_mediapipe`, `from_transformers`, `from_pipeline`.
Files: `read_openpose`, `read_alphapose`, `read_coco`, or `read_poses`, which recognises them; `write_openpose`,
`write_alphapose`, `write_coco`. Everything is in pixels unless said otherwise.

Who is who, the argument `track` of all readers: None takes the identifiers that the results have (and leaves out the
persons without one), or gives the persons to `hvmodels.tracking` if none has any; `"tracker"` does that in any case;
`"single"` takes one person for granted. A keypoint at exactly (0, 0) is missing, as most of these programs mean it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..keypoint_sets import (
    COCO17,
    CROWDPOSE14,
    MPII16,
    OPENPOSE25,
    KeypointSet,
    canonical_name,
    conversion_matrix,
    convert_keypoints,
    find_keypoint_set,
)
from ..pose_sequences import BOX_SIDES, PoseSequence, read_person
from ..tracking import PoseTracker


_FACE_AND_HANDS = tuple(
    f"{part}_{index}"
    for part, count in (("face", 68), ("left_hand", 21), ("right_hand", 21))
    for index in range(count)
)
_TOES = ("big_toe", "small_toe", "heel")
HALPE26 = (
    *COCO17.keypoints,
    "head_top",
    "neck",
    "pelvis",
    *(f"{side}_{toe}" for toe in _TOES for side in ("left", "right")),
)
WHOLE_BODY133 = (
    *COCO17.keypoints,
    *(f"{side}_{toe}" for side in ("left", "right") for toe in _TOES),
    *_FACE_AND_HANDS,
)
OPENPOSE18 = (*OPENPOSE25.keypoints[:8], *OPENPOSE25.keypoints[9:19])
OPENPOSE15 = ("head_top", *OPENPOSE25.keypoints[1:8], *OPENPOSE25.keypoints[9:15], "chest")

# By number of keypoints, what the programs mean.
_NAMES = {
    14: CROWDPOSE14.keypoints,
    16: MPII16.keypoints,
    17: COCO17.keypoints,
    26: HALPE26,
    133: WHOLE_BODY133,
    136: (*HALPE26, *_FACE_AND_HANDS),
}
_OPENPOSE_NAMES = {15: OPENPOSE15, 18: OPENPOSE18, 25: OPENPOSE25.keypoints}

# MediaPipe's landmarks that are COCO's keypoints.
_MEDIAPIPE_TO_COCO = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
_TRACKS = (None, "tracker", "single")
_MAX_EMPTY_SHARE = 1000  # frames for each frame with a person, beyond which numbers are taken for something else


def from_ultralytics(
    results: Iterable[Any],
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    keypoint_names: Sequence[str] | None = None,
) -> PoseSequence:
    """Results of ultralytics' pose models, one a frame: `model.track(video, stream=True)` or `model(video, stream=True)`.

    Args:
        results: Objects with `keypoints` (`xy`, `conf`), `boxes` (`xyxy`, `conf`, `id`) and `orig_shape`.
        track: See the module.
        frame_rate: Frames a second.
        keypoint_names: Names of the keypoints; None goes by their number, 17 are COCO's.

    Raises:
        TypeError: If a result has no keypoints, so is not of a pose model.
        ValueError: If the keypoints do not fit.
    """
    sizes = []

    def frames() -> Iterator[list[dict]]:
        for index, result in enumerate(results):
            if getattr(result, "keypoints", None) is None:
                raise TypeError(
                    f"`results` must come from a pose model of ultralytics, got {type(result).__name__} without keypoints "
                    f"at frame {index}."
                )
            sizes.append(getattr(result, "orig_shape", None))
            boxes = result.boxes
            count = 0 if boxes is None else len(_numpy(boxes.xyxy))
            ids = None if not count or boxes.id is None else _numpy(boxes.id).astype(int).tolist()
            conf = result.keypoints.conf
            yield _persons(
                f"frame {index} of `results`",
                _numpy(result.keypoints.xy) if count else (),
                _numpy(conf) if count and conf is not None else None,
                boxes=_numpy(boxes.xyxy) if count else None,
                person_scores=_numpy(boxes.conf) if count else None,
                track_ids=ids,
                names=keypoint_names,
            )

    sequence = _gather(frames(), track, frame_rate)
    size = next((tuple(size[1::-1]) for size in sizes if size is not None), None)
    return replace(sequence, image_size=size)


def from_rtmlib(
    results: Iterable[tuple[Any, Any]],
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    keypoint_names: Sequence[str] | None = None,
) -> PoseSequence:
    """Results of rtmlib, one a frame: `[body(frame) for frame in video]`.

    Args:
        results: Pairs of keypoints (persons, keypoints, 2) and scores (persons, keypoints).
        track: See the module.
        frame_rate: Frames a second.
        image_size: Width and height in pixels.
        keypoint_names: Names of the keypoints; None goes by their number: COCO's 17, Halpe's 26, COCO-WholeBody's 133.

    Raises:
        TypeError: If a result is no such pair.
        ValueError: If the arrays do not fit.
    """

    def frames() -> Iterator[list[dict]]:
        for index, result in enumerate(results):
            if not isinstance(result, tuple | list) or len(result) != 2:
                raise TypeError(f"`results` must hold pairs of keypoints and scores, got {result!r:.80} at {index}.")
            yield _persons(f"frame {index} of `results`", *result, names=keypoint_names)

    return _gather(frames(), track, frame_rate, image_size)


def from_mediapipe(
    results: Iterable[Any],
    image_size: tuple[int, int],
    *,
    world: bool = False,
    track: str | None = None,
    frame_rate: float | None = None,
) -> PoseSequence:
    """Results of MediaPipe's pose landmarkers, one a frame, as COCO's 17 keypoints.

    Args:
        results: Objects with `pose_landmarks` (and `pose_world_landmarks`), those of `mediapipe.tasks` for several persons or
            of the older `mediapipe.solutions` for one; or the landmarks alone, arrays (33, 2 to 5) or (persons, 33, 2 to
            5) of x, y, z, visibility, presence, or None for a frame without a person.
        image_size: Width and height in pixels, by which the landmarks are normalised.
        world: Take the world landmarks: three coordinates in metres, around the middle of the hips.
        track: See the module.
        frame_rate: Frames a second.

    Raises:
        ValueError: If a person has not 33 landmarks, or the landmarks are not normalised.
    """
    size = PoseSequence([], image_size=image_size).image_size  # checked
    if size is None:
        raise ValueError("`image_size` must be the width and height by which the landmarks were normalised, got None.")

    def frames() -> Iterator[list[dict]]:
        for index, result in enumerate(results):
            where = f"frame {index} of `results`"
            landmarks = [_landmarks(person, where) for person in _mediapipe_persons(result, world)]
            if not landmarks:
                yield []
                continue
            values = np.stack(landmarks)[:, _MEDIAPIPE_TO_COCO]
            if not world and np.nanmax(np.abs(values[..., :2])) > 10:
                raise ValueError(
                    f"{where} must have landmarks normalised by width and height, about from 0 to 1, got "
                    f"{np.nanmax(np.abs(values[..., :2])):.4g}; pixels are for `from_rtmlib`."
                )
            keypoints = values[..., :3] if world else values[..., :2] * size
            scores = values[..., 3] if values.shape[-1] > 3 else None
            yield _persons(where, keypoints, scores, names=COCO17.keypoints)

    return _gather(frames(), track, frame_rate, size, "metre" if world else "pixel")


def _mediapipe_persons(result: Any, world: bool) -> list:
    """Landmarks of each person of a result of any of MediaPipe's kinds."""
    name = "pose_world_landmarks" if world else "pose_landmarks"
    landmarks = getattr(result, name, result)
    if landmarks is None:
        return []
    if hasattr(landmarks, "landmark"):
        return [landmarks.landmark]
    if isinstance(landmarks, np.ndarray) and landmarks.ndim == 2:
        return [landmarks]
    if isinstance(landmarks, str | dict) or not np.iterable(landmarks):
        raise TypeError(f"`results` must hold results of MediaPipe or arrays, got {type(result).__name__}.")
    return list(landmarks)


def _landmarks(person: Any, where: str) -> np.ndarray:
    """(33, 2 to 5) of one person."""
    if len(person) and hasattr(person[0], "x"):
        person = [(mark.x, mark.y, mark.z, _or_one(getattr(mark, "visibility", None))) for mark in person]
    values = _floats(person, where)
    if values.ndim != 2 or len(values) != 33 or not 2 <= values.shape[1] <= 5:
        raise ValueError(f"{where} must have MediaPipe's 33 landmarks a person, got an array of shape {values.shape}.")
    return values


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def from_transformers(
    results: Iterable[Iterable[dict[str, Any]]],
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    keypoint_names: Sequence[str] | None = None,
) -> PoseSequence:
    """What `post_process_pose_estimation` of ViTPose and other top-down models of transformers gives, a list a frame.

    Boxes are not taken: ViTPose's are not those that it was given.

    Args:
        results: For each frame dicts of `keypoints` (keypoints, 2), `scores` and, if a threshold left some keypoints out,
            `labels`, the index of each.
        track: See the module.
        frame_rate: Frames a second.
        image_size: Width and height in pixels.
        keypoint_names: Names in the order of the model, `[model.config.id2label[i] for i in ...]`; None is COCO's 17.

    Raises:
        TypeError: If a frame is no list of dicts.
        ValueError: If keypoints, scores and labels do not fit.
    """
    names = list(COCO17.keypoints if keypoint_names is None else keypoint_names)

    def frames() -> Iterator[list[dict]]:
        for index, persons in enumerate(results):
            where = f"frame {index} of `results`"
            persons = _list_of_dicts(persons, where)
            keypoints = np.full((len(persons), len(names), 2), np.nan, dtype=np.float32)
            scores = np.zeros((len(persons), len(names)), dtype=np.float32)
            for row, person in enumerate(persons):
                try:
                    values = [_numpy(person["keypoints"])[:, :2], _numpy(person["scores"]).reshape(-1)]
                    labels = _numpy(person.get("labels", np.arange(len(values[0])))).astype(int)
                    if "labels" not in person and len(values[0]) != len(names):
                        raise ValueError(f"{len(values[0])} keypoints without `labels`")
                    keypoints[row, labels], scores[row, labels] = values
                except (KeyError, IndexError, ValueError, TypeError) as error:
                    raise ValueError(
                        f"{where} must have `keypoints` (keypoints, 2), `scores` and `labels` of {len(names)} keypoints (see "
                        f"`keypoint_names`), got {type(error).__name__}: {error}."
                    ) from error
            yield _persons(where, keypoints, scores, names=names)

    return _gather(frames(), track, frame_rate, image_size)


def from_pipeline(
    results: Iterable[Iterable[dict[str, Any]]],
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    unit: str | None = "pixel",
) -> PoseSequence:
    """What the pose pipelines of this package give for the frames of a video: a list of persons a frame.

    Args:
        results: For each frame persons, see `PoseSequence.frames`.
        track: See the module.
        frame_rate: Frames a second.
        image_size: Width and height in pixels.
        unit: Unit of the coordinates.

    Raises:
        TypeError: If a frame is no list of dicts.
        ValueError: If a person lacks something.
    """
    frames = (_list_of_dicts(persons, f"frame {index} of `results`") for index, persons in enumerate(results))
    return _gather(frames, track, frame_rate, image_size, unit)


def read_openpose(
    folder: str | PathLike,
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    keypoint_names: Sequence[str] | None = None,
) -> PoseSequence:
    """The folder of OpenPose's `--write_json`, one file a frame, `<name>_<number>_keypoints.json`.

    The numbers are those of the frames, the smallest that of the first one; a number without a file is an empty frame.

    Args:
        folder: Folder, or one file.
        track: See the module; OpenPose's own `person_id` counts if it is not -1.
        frame_rate: Frames a second.
        image_size: Width and height in pixels.
        keypoint_names: Names of the keypoints; None goes by their number: BODY_25, COCO (18) or MPI (15).

    Raises:
        ValueError: If there are no such files, one cannot be read, the keypoints are ragged, of unknown number, or not in
            pixels.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not files:
        raise ValueError(
            f"`folder` must hold OpenPose's JSON files, one a frame, and {str(folder)!r} has no .json file."
        )
    files = [file for file in files if file.stem.endswith("_keypoints")] or files
    numbers = [re.search(r"(\d+)(_keypoints)?$", file.stem) for file in files]
    if len(files) > 1 and not all(numbers):
        raise ValueError(
            f"`folder` must hold files whose names end in the number of the frame, '<name>_<number>_keypoints.json', got "
            f"{files[numbers.index(None)].name!r}."
        )
    numbers = [int(number[1]) for number in numbers] if all(numbers) else [0]
    if len(set(numbers)) < len(files):
        raise ValueError(f"`folder` {str(folder)!r} holds several files of one frame; it must be of one video.")
    frames: dict[int, list[dict]] = {}
    for number, file in zip(numbers, files, strict=True):
        data = _read_json(file)
        if not isinstance(data, dict) or not isinstance(data.get("people"), list):
            raise ValueError(f"`folder` holds {file.name!r}, which is no file of OpenPose: it has no list 'people'.")
        frames[number - min(numbers)] = _openpose_persons(data["people"], file.name, keypoint_names)
    points = [
        abs(point[axis])
        for person in chain.from_iterable(frames.values())
        for point in person["keypoints"]
        for axis in "xy"
        if point[axis] == point[axis]
    ]
    if points and max(points) <= 2:
        raise ValueError(
            f"`folder` {str(folder)!r} holds normalised coordinates (--keypoint_scale 3 or 4), at most {max(points):.4g}; "
            "they must be in pixels (--keypoint_scale 0)."
        )
    return _gather(_dense(frames, max(frames) + 1, "file names"), track, frame_rate, image_size)


def _openpose_persons(people: list, where: str, names: Sequence[str] | None) -> list[dict]:
    found = []
    for person in people:
        if not isinstance(person, dict):
            raise ValueError(f"{where} must hold a list 'people' of objects, got {type(person).__name__} in it.")
        values = _triples(person.get("pose_keypoints_2d"), f"'pose_keypoints_2d' of {where}")
        if not len(values):
            continue  # a face or hands alone
        track_id = np.reshape(person.get("person_id", -1), -1).tolist()[0]
        ids = None if track_id in (-1, None) else [int(track_id)]
        found += _persons(
            where, values[None, :, :2], values[None, :, 2], track_ids=ids, names=names, names_of=_OPENPOSE_NAMES
        )
    return found


def read_alphapose(
    path: str | PathLike,
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    keypoint_names: Sequence[str] | None = None,
    frame_ids: Sequence[str] | None = None,
) -> PoseSequence:
    """AlphaPose's result file: a list of `image_id`, `keypoints`, `score`, `box` (x, y, width, height) and `idx`.

    Args:
        path: JSON file.
        track: See the module; `idx` is the identifier.
        frame_rate: Frames a second.
        image_size: Width and height in pixels.
        keypoint_names: Names of the keypoints; None goes by their number: COCO's 17, Halpe's 26 or 136, 133, MPII's 16.
        frame_ids: The `image_id` of each frame in order. None takes the number that `image_id` ends in for the frame, from
            0, as AlphaPose writes `12.jpg` for a video; frames after the last person are then not known.

    Raises:
        ValueError: If the file cannot be read or is of another format, the keypoints are ragged or of unknown number, or
            `image_id` names no frame.
    """
    return _read_results(path, track, frame_rate, image_size, keypoint_names, frame_ids)


def read_coco(
    path: str | PathLike,
    *,
    track: str | None = None,
    frame_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    keypoint_names: Sequence[str] | None = None,
    frame_ids: Sequence[int] | None = None,
) -> PoseSequence:
    """COCO's keypoint results: a list of `image_id`, `keypoints`, `score` and, if there, `bbox` and `track_id`.

    Args:
        path: JSON file.
        track: See the module.
        frame_rate: Frames a second.
        image_size: Width and height in pixels.
        keypoint_names: Names of the keypoints; None goes by their number: COCO's 17, CrowdPose's 14, MPII's 16, Halpe's
            26 or 136, COCO-WholeBody's 133.
        frame_ids: The `image_id` of each frame in order; None takes `image_id` for the number of the frame, from 0.

    Raises:
        ValueError: As `read_alphapose`.
    """
    return _read_results(path, track, frame_rate, image_size, keypoint_names, frame_ids)


def _read_results(
    path: str | PathLike,
    track: str | None,
    frame_rate: float | None,
    image_size: tuple[int, int] | None,
    keypoint_names: Sequence[str] | None,
    frame_ids: Sequence | None,
) -> PoseSequence:
    """COCO's results and AlphaPose's, which differ in the names of box and track."""
    data = _read_json(path)
    if isinstance(data, dict) and "annotations" in data:
        raise ValueError(f"`path` {str(path)!r} is an annotation file of COCO, no list of results.")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise ValueError(f"`path` {str(path)!r} must be a list of results, objects of 'image_id' and 'keypoints'.")
    index_of = None if frame_ids is None else {image_id: index for index, image_id in enumerate(frame_ids)}
    frames: dict[int, list[dict]] = {}
    for position, entry in enumerate(data):
        where = f"result {position} of {str(path)!r}"
        if lacking := {"image_id", "keypoints"} - entry.keys():
            raise ValueError(f"{where} lacks {sorted(lacking)}.")
        frame = _frame_number(entry["image_id"], where) if index_of is None else index_of.get(entry["image_id"])
        if frame is None:
            raise ValueError(f"{where} has `image_id` {entry['image_id']!r}, which is not among `frame_ids`.")
        values = _triples(entry["keypoints"], f"'keypoints' of {where}")
        box = entry.get("bbox", entry.get("box"))
        if box is not None:
            box = _floats(box, f"the box of {where}")
            if box.shape != (4,):
                raise ValueError(f"The box of {where} must be x, y, width, height, got {box.tolist()}.")
            box = np.concatenate([box[:2], box[:2] + box[2:]])[None]
        track_id = np.reshape(entry.get("track_id", entry.get("idx")), -1).tolist()
        ids = [int(track_id[0])] if len(track_id) == 1 and _is_number(track_id[0]) else None
        score = entry.get("score")
        frames.setdefault(frame, []).extend(
            _persons(
                where,
                values[None, :, :2],
                values[None, :, 2],
                boxes=box,
                person_scores=None if score is None else np.reshape(_floats(score, f"'score' of {where}"), -1),
                track_ids=ids,
                names=keypoint_names,
            )
        )
    count = max(frames, default=-1) + 1 if frame_ids is None else len(frame_ids)
    return _gather(_dense(frames, count, "`image_id`"), track, frame_rate, image_size)


def _frame_number(image_id: Any, where: str) -> int:
    if isinstance(image_id, int) and not isinstance(image_id, bool) and image_id >= 0:
        return image_id
    number = re.search(r"(\d+)$", Path(image_id).stem) if isinstance(image_id, str) else None
    if number is None:
        raise ValueError(
            f"{where} must have an `image_id` that is or ends in the number of the frame, got {image_id!r}; else pass "
            "`frame_ids`, the `image_id` of each frame in order."
        )
    return int(number[1])


def _dense(frames: dict[int, list[dict]], count: int, source: str) -> list[list[dict]]:
    """A list of persons for every frame."""
    if count > _MAX_EMPTY_SHARE * max(len(frames), 1):
        raise ValueError(
            f"The {source} give {count} frames with persons in {len(frames)} of them, so they are no numbers of frames; pass "
            "`frame_ids`, or rename the files."
        )
    return [frames.get(index, []) for index in range(count)]


def read_poses(path: str | PathLike, format: str | None = None, **options: Any) -> PoseSequence:
    """Read poses from a file or folder of any format that the package knows.

    Args:
        path: `.npz` or `.json` of `PoseSequence.save`, results of COCO or AlphaPose, a file or folder of OpenPose.
        format: `"pose-sequence"`, `"coco"`, `"alphapose"` or `"openpose"`; None recognises it.
        options: Of the format's reader, `track`, `frame_rate`, `image_size` and so on.

    Raises:
        ValueError: If the path is of no known format, or cannot be read.
    """
    readers = {"coco": read_coco, "alphapose": read_alphapose, "openpose": read_openpose, "pose-sequence": _read_own}
    if format is not None and format not in readers:
        raise ValueError(f"`format` must be one of {list(readers)} or None, got {format!r}.")
    return readers[format or _recognise(Path(path))](path, **options)


def _recognise(path: Path) -> str:
    if path.is_dir():
        return "openpose"
    if path.suffix.lower() == ".npz":
        return "pose-sequence"
    data = _read_json(path)
    if isinstance(data, dict) and isinstance(data.get("people"), list):
        return "openpose"
    if isinstance(data, dict) and "format" in data:
        return "pose-sequence"
    if isinstance(data, list) and all(isinstance(entry, dict) for entry in data):
        return (
            "alphapose" if any("idx" in entry or isinstance(entry.get("image_id"), str) for entry in data) else "coco"
        )
    raise ValueError(
        f"`path` {str(path)!r} is of no format that the package knows: a pose sequence, results (not annotations) of COCO or "
        "AlphaPose, or a file or folder of OpenPose."
    )


def _read_own(path: Path, **options: Any) -> PoseSequence:
    """A pose sequence, with what the options say in place of what it says."""
    if unknown := options.keys() - {"frame_rate", "image_size", "keypoint_names"}:
        raise TypeError(f"{sorted(unknown)} cannot be used with a pose sequence, whose tracks are known.")
    return replace(PoseSequence.load(path), **{name: value for name, value in options.items() if value is not None})


def write_openpose(sequence: PoseSequence, folder: str | PathLike, name: str = "frame"):
    """Write OpenPose's JSON files, one a frame, `<name>_<number>_keypoints.json`, with the track as `person_id`.

    Keypoints of OpenPose's BODY_25 or COCO model are written as they are, others converted to BODY_25, where those that
    the sequence does not have are 0, as OpenPose writes what it does not find.

    Args:
        sequence: Two-dimensional, with keypoint names and integer identifiers.
        folder: Made if needed.
        name: Begin of the file names.

    Raises:
        ValueError: If the sequence is of other dims, or has no names or no integers for identifiers.
        OSError: If the folder cannot be written.
    """
    _check_writable(sequence)
    if sequence.keypoint_names not in (OPENPOSE25.keypoints, OPENPOSE18):
        sequence = convert_sequence(sequence, OPENPOSE25)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index, persons in enumerate(sequence.frames()):
        people = [
            {"person_id": [person["track_id"]], "pose_keypoints_2d": _flat_keypoints(person)} for person in persons
        ]
        text = json.dumps({"version": 1.3, "people": people}, allow_nan=False)
        (folder / f"{name}_{index:012d}_keypoints.json").write_text(text, encoding="utf-8")


def write_alphapose(sequence: PoseSequence, path: str | PathLike):
    """Write AlphaPose's result file, with `idx` for the track and `<frame>.jpg` for the image.

    The keypoints are written as they are; AlphaPose's readers know COCO's 17 and Halpe's 26 and 136 by their number, so use
    `convert_sequence` first where the sequence has others.

    Args:
        sequence: Two-dimensional, with integer identifiers.
        path: JSON file.

    Raises:
        ValueError: If the sequence is of other dims, or has no integers for identifiers.
        OSError: If the file cannot be written.
    """
    _write_results(sequence, path, [f"{index}.jpg" for index in range(len(sequence))], "box", "idx")


def write_coco(sequence: PoseSequence, path: str | PathLike, image_ids: Sequence[int] | None = None):
    """Write COCO's keypoint results, with `track_id` beside what COCO knows.

    The keypoints are written as they are, see `convert_sequence`.

    Args:
        sequence: Two-dimensional, with integer identifiers.
        path: JSON file.
        image_ids: The `image_id` of each frame; None is its index.

    Raises:
        ValueError: If the sequence is of other dims, has no integers for identifiers, or there are not as many `image_ids`
            as frames.
        OSError: If the file cannot be written.
    """
    image_ids = list(range(len(sequence)) if image_ids is None else image_ids)
    if len(image_ids) != len(sequence):
        raise ValueError(f"`image_ids` must be {len(sequence)} numbers, one a frame, got {len(image_ids)}.")
    _write_results(sequence, path, image_ids, "bbox", "track_id")


def _write_results(sequence: PoseSequence, path: str | PathLike, image_ids: list, box_key: str, track_key: str):
    _check_writable(sequence)
    results = []
    for image_id, persons in zip(image_ids, sequence.frames(), strict=True):
        for person in persons:
            left, top, right, bottom = (person["box"][side] for side in BOX_SIDES)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": _flat_keypoints(person),
                    "score": person["score"],
                    box_key: [left, top, right - left, bottom - top],
                    track_key: person["track_id"],
                }
            )
    Path(path).write_text(json.dumps(results, allow_nan=False), encoding="utf-8")


def _check_writable(sequence: PoseSequence):
    if any(track.keypoints.shape[2] != 2 for track in sequence.tracks):
        raise ValueError(
            "`sequence` must have keypoints of 2 dims for this format; `PoseSequence.save` writes others."
        )
    if not all(isinstance(track_id, int) for track_id in sequence.track_ids):
        raise ValueError(
            f"`sequence` must have integers for track identifiers in this format, got {sequence.track_ids}."
        )


def _flat_keypoints(person: dict[str, Any]) -> list[float]:
    """x, y, score of each keypoint end to end, 0 where it is missing."""
    values = [[point["x"], point["y"], point["score"]] for point in person["keypoints"]]
    return [0.0 if value != value else value for value in chain.from_iterable(values)]


def convert_sequence(sequence: PoseSequence, target: KeypointSet | Sequence[str]) -> PoseSequence:
    """The sequence with the keypoints of another set, see `hvmodels.keypoint_sets.conversion_matrix`.

    A keypoint's score is the mean of those that it was made of, weighted by the sizes of their weights.

    Args:
        sequence: Sequence of coordinates with keypoint names.
        target: Set, or names.

    Raises:
        ValueError: If the sequence has no names, or holds rotations.
    """
    if sequence.keypoint_names is None:
        raise ValueError("`sequence` must have `keypoint_names` to be converted, got None.")
    if any(track.keypoints.shape[2] > 3 for track in sequence.tracks):
        raise ValueError("`sequence` must hold coordinates to be converted, and it holds rotations.")
    names = target.keypoints if isinstance(target, KeypointSet) else tuple(target)
    tracks = []
    for track in sequence.tracks:
        weights, _ = conversion_matrix(sequence.keypoint_names, target, ~track.missing.all(axis=0))
        shares = np.abs(weights) / np.maximum(np.abs(weights).sum(axis=1, keepdims=True), 1e-9)
        keypoints = convert_keypoints(track.keypoints, sequence.keypoint_names, target)
        scores = None if track.scores is None else np.where(np.isnan(keypoints[..., 0]), 0, track.scores @ shares.T)
        tracks.append(replace(track, keypoints=keypoints, scores=scores))
    return replace(sequence, tracks=tracks, keypoint_names=names)


def _gather(
    frames: Iterable[list[dict]],
    track: str | None,
    frame_rate: float | None,
    image_size: tuple[int, int] | None = None,
    unit: str | None = "pixel",
) -> PoseSequence:
    """The sequence of persons that may have a `track_id`, by the rule that the module's docstring states."""
    if track not in _TRACKS:
        raise ValueError(f"`track` must be one of {list(_TRACKS)}, got {track!r}.")
    frames = _seen_persons(frames)
    has_track = [person.get("track_id") is not None for person in chain.from_iterable(frames)]
    if track == "single":
        frames = [[{**person, "track_id": 0} for person in _at_most_one(p, i)] for i, p in enumerate(frames)]
    elif track == "tracker" or not any(has_track):
        frames = _track(frames, frame_rate)
    else:
        frames = [[person for person in persons if person.get("track_id") is not None] for persons in frames]
    return PoseSequence.from_frames(frames, frame_rate=frame_rate, image_size=image_size, unit=unit)


def _seen_persons(frames: Iterable[list[dict]]) -> list[list[dict]]:
    """The persons of whom any keypoint is there, after a look at whether all have the same ones."""
    names, seen = None, []
    for index, persons in enumerate(frames):
        seen.append([])
        for person in persons:
            labels, (keypoints, *_) = read_person(person, index)
            names = names or labels
            if labels != names:
                raise ValueError(
                    f"All persons must have the same keypoints, but one of frame {index} has {len(labels)}, {labels}, after "
                    f"{len(names)}, {names}."
                )
            if np.isfinite(keypoints).all(axis=1).any():
                seen[-1].append(person)
    return seen


def _track(frames: list[list[dict]], frame_rate: float | None) -> list[list[dict]]:
    """The persons with a `track_id` of the package's tracker, whose tracks outlast a second of absence."""
    tracker, tracked = None, []
    for index, persons in enumerate(frames):
        read = [read_person(person, index) for person in persons]
        keypoints = [np.array(keypoints)[:, :2] for _, (keypoints, *_) in read]
        boxes = [box for _, (_, _, box, _) in read]
        boxes = [_box_around(k) if np.isnan(box).any() else box for k, box in zip(keypoints, boxes, strict=True)]
        if tracker is None and read:
            tracker = PoseTracker(_sigmas(read[0][0]), max_gap=round(frame_rate or 30))
        if tracker is None:
            tracked.append([])
            continue
        ids = tracker.update(index, np.array(boxes), np.array(keypoints) if read else None)
        tracked.append([{**person, "track_id": track_id} for person, track_id in zip(persons, ids, strict=True)])
    return tracked


def _box_around(keypoints: np.ndarray) -> np.ndarray:
    return np.concatenate([np.nanmin(keypoints, axis=0), np.nanmax(keypoints, axis=0)])


def _sigmas(names: Sequence[str]) -> Sequence[float]:
    """OKS sigmas of the set, or COCO's of the keypoints of the same name and the median of those for others."""
    known = find_keypoint_set(names)
    if known is not None and known.sigmas is not None:
        return known.sigmas
    of_coco = dict(zip(COCO17.keypoints, COCO17.sigmas, strict=True))
    return [of_coco.get(canonical_name(name), float(np.median(COCO17.sigmas))) for name in names]


def _at_most_one(persons: list[dict], index: int) -> list[dict]:
    if len(persons) > 1:
        raise ValueError(f'`track="single"` needs at most one person a frame, but frame {index} has {len(persons)}.')
    return persons


def _persons(
    where: str,
    keypoints: Any,
    scores: Any = None,
    *,
    boxes: np.ndarray | None = None,
    person_scores: np.ndarray | None = None,
    track_ids: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    names_of: dict[int, tuple[str, ...]] = _NAMES,
) -> list[dict]:
    """Persons as the pose pipelines give them.

    Args:
        where: What to call the frame in errors.
        keypoints: (persons, keypoints, 2 or 3), NaN or both 0 where missing.
        scores: (persons, keypoints).
        boxes: (persons, 4) corners.
        person_scores: (persons,).
        track_ids: (persons,).
        names: Names of the keypoints, None goes by their number.
        names_of: Names by number.
    """
    keypoints = _floats(_numpy(keypoints), where)
    if not len(keypoints):
        return []
    if keypoints.ndim != 3 or keypoints.shape[2] not in (2, 3):
        raise ValueError(f"{where} must have keypoints (persons, keypoints, 2 or 3), got shape {keypoints.shape}.")
    count = keypoints.shape[1]
    if names is None and count not in names_of:
        raise ValueError(
            f"{where} has {count} keypoints a person, and the package knows {sorted(names_of)} by number; pass "
            "`keypoint_names`."
        )
    names = names_of[count] if names is None else names
    if len(names) != count:
        raise ValueError(f"{where} has {count} keypoints a person, and `keypoint_names` has {len(names)}.")
    scores = np.ones(keypoints.shape[:2]) if scores is None else _floats(_numpy(scores), where)
    scores = scores.reshape(scores.shape[:2])
    expected = {"scores": scores, "boxes": boxes, "scores of persons": person_scores, "track identifiers": track_ids}
    for name, values in expected.items():
        if values is not None and (len(values) != len(keypoints) or (name == "scores" and scores.shape[1] != count)):
            raise ValueError(
                f"{where} must have as many {name} as keypoints, {keypoints.shape[:2]}, got {np.shape(values)}."
            )
    missing = (keypoints == 0).all(axis=-1) if keypoints.shape[2] == 2 else np.zeros(scores.shape, dtype=bool)
    keypoints = np.where(missing[..., None], np.nan, keypoints)
    persons = []
    for index in range(len(keypoints)):
        rows = zip(names, keypoints[index].tolist(), scores[index].tolist(), strict=True)
        person = {"keypoints": [{"label": n, **dict(zip("xyz", p, strict=False)), "score": s} for n, p, s in rows]}
        person["label"] = "person"
        if boxes is not None:
            person["box"] = dict(zip(BOX_SIDES, boxes[index].tolist(), strict=True))
        if person_scores is not None:
            person["score"] = float(person_scores[index])
        if track_ids is not None:
            person["track_id"] = track_ids[index]
        persons.append(person)
    return persons


def _triples(values: Any, where: str) -> np.ndarray:
    """(keypoints, 3) of x, y, score end to end."""
    if not isinstance(values, list):
        raise ValueError(f"{where} must be a list of numbers x, y, score, got {type(values).__name__}.")
    array = _floats(values, where)
    if array.ndim != 1 or len(array) % 3:
        raise ValueError(f"{where} must be a list of numbers x, y, score, got shape {array.shape}, no multiple of 3.")
    return array.reshape(-1, 3)


def _numpy(values: Any) -> Any:
    """An array of a tensor on any device, anything else as it is."""
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else values


def _floats(values: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must hold numbers of one shape: {error}") from error
    if np.isinf(array).any():
        raise ValueError(f"{where} must hold finite numbers, got infinite ones.")
    return array


def _list_of_dicts(persons: Any, where: str) -> list[dict]:
    if isinstance(persons, dict | str) or not np.iterable(persons):
        raise TypeError(f"{where} must be a list of persons, got {type(persons).__name__}.")
    persons = list(persons)
    for person in persons:
        if not isinstance(person, dict):
            raise TypeError(f"{where} must be a list of persons that are dicts, got {type(person).__name__}.")
    return persons


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_json(path: str | PathLike) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"`path` names {str(path)!r}, which does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"`path` names {str(path)!r}, which cannot be read as JSON: {error}") from error


__all__ = [
    "convert_sequence",
    "from_mediapipe",
    "from_pipeline",
    "from_rtmlib",
    "from_transformers",
    "from_ultralytics",
    "read_alphapose",
    "read_coco",
    "read_openpose",
    "read_poses",
    "write_alphapose",
    "write_coco",
    "write_openpose",
]
