"""Poses over time: tracks of persons in a video or a capture, in memory and in files that need no pickles.

A file is `.npz` or `.json`. The arrays of an `.npz`, where the rows of all tracks lie end to end:

| array | shape | |
| --- | --- | --- |
| `format`, `version` | () | `"hvmodels-pose-sequence"` and 1 |
| `num_frames` | () | frames of the whole sequence |
| `track_ids`, `starts` | (tracks,) | integers (or strings) that name the tracks, and the frame each begins at |
| `offsets` | (tracks + 1,) | rows of track i are `offsets[i]` to `offsets[i + 1]` |
| `keypoints` | (rows, joints, dims) | float32, NaN where a joint is missing |
| `scores` | (rows, joints) | float32 |
| `boxes` | (rows, 4) | float32, xmin, ymin, xmax, ymax in pixels; NaN where there is none |
| `person_scores` | (rows,) | float32, confidence of each person; NaN where there is none |
| `keypoint_names` | (joints,) | strings |
| `frame_rate` | () | frames a second |
| `image_size` | (2,) | width, height |
| `unit` | () | `"pixel"`, `"metre"` or `"millimetre"` |

All from `scores` on are left out where unknown. A `.json` is an object of the same names, with a list `tracks` of objects
of `track_id`, `start`, `keypoints`, `scores`, `boxes` and `person_scores`, and null for NaN.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np


FORMAT = "hvmodels-pose-sequence"
UNITS = ("pixel", "metre", "millimetre")
BOX_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, eq=False)
class PoseTrack:
    """One person over consecutive frames.

    Args:
        track_id: Integer or string that names the track.
        start: Frame of the sequence, from 0, that the first row belongs to.
        keypoints: (frames, joints, dims) of 2 or 3 coordinates, or of rotations of 3 (axis-angle), 4 (quaternion), 6 or 9
            numbers; NaN where a joint is missing. A joint with any coordinate missing is missing as a whole.
        scores: (frames, joints) confidence, None if unknown.
        boxes: (frames, 4) xmin, ymin, xmax, ymax in pixels, NaN where there is none; None if unknown.
        person_scores: (frames,) confidence of the person as a whole, NaN where there is none; None if unknown.

    Raises:
        ValueError: If shapes do not fit or a number is infinite.
        TypeError: If `track_id` is neither integer nor string, or `start` no integer.
    """

    track_id: int | str
    start: int
    keypoints: np.ndarray
    scores: np.ndarray | None = None
    boxes: np.ndarray | None = None
    person_scores: np.ndarray | None = None

    def __post_init__(self):
        track_id = self.track_id.item() if isinstance(self.track_id, np.generic) else self.track_id
        if not isinstance(track_id, int | str) or isinstance(track_id, bool):
            raise TypeError(f"`track_id` must be an integer or a string, got {track_id!r}.")
        object.__setattr__(self, "track_id", track_id)
        object.__setattr__(self, "start", _natural("start", self.start))
        keypoints = _float_array("keypoints", self.keypoints, "(frames, joints, dims)")
        if keypoints.ndim != 3 or keypoints.shape[2] not in (2, 3, 4, 6, 9) or 0 in keypoints.shape:
            raise ValueError(
                f"`keypoints` of track {track_id!r} must be (frames, joints, dims) of at least one frame and joint, with 2 "
                f"or 3 coordinates (or rotations of 3, 4, 6 or 9 numbers), got shape {keypoints.shape}."
            )
        keypoints = np.where(np.isnan(keypoints).any(axis=2, keepdims=True), np.float32(np.nan), keypoints)
        object.__setattr__(self, "keypoints", keypoints)
        expected = {"scores": keypoints.shape[:2], "boxes": (len(keypoints), 4), "person_scores": keypoints.shape[:1]}
        for name, shape in expected.items():
            if (values := getattr(self, name)) is None:
                continue
            values = _float_array(name, values, str(shape))
            if values.shape != shape:
                raise ValueError(
                    f"`{name}` of track {track_id!r} must have shape {shape} to fit `keypoints` {keypoints.shape}, got "
                    f"{values.shape}."
                )
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def end(self) -> int:
        """Frame after the last one."""
        return self.start + len(self)

    @property
    def missing(self) -> np.ndarray:
        """(frames, joints) bool, where a joint is missing."""
        return np.isnan(self.keypoints[..., 0])


@dataclass(frozen=True, eq=False)
class PoseSequence:
    """Tracks of the persons in one video or capture.

    Args:
        tracks: Tracks with different identifiers, all integers or all strings, of the same joints and dims.
        num_frames: Frames of the sequence; None takes the end of the last track.
        keypoint_names: Names of the joints, None if unknown.
        frame_rate: Frames a second, None if unknown.
        image_size: Width and height of the frames in pixels, None if unknown.
        unit: `"pixel"`, `"metre"` or `"millimetre"` of the coordinates; None if unknown, or of rotations.

    Raises:
        ValueError: If the tracks do not fit each other or the rest, or a value is out of range.
        TypeError: If a track is no `PoseTrack`, or identifiers of both kinds are mixed.
    """

    tracks: Sequence[PoseTrack]
    num_frames: int | None = None
    keypoint_names: Sequence[str] | None = None
    frame_rate: float | None = None
    image_size: tuple[int, int] | None = None
    unit: str | None = None

    def __post_init__(self):
        tracks = tuple(self.tracks)
        for track in tracks:
            if not isinstance(track, PoseTrack):
                raise TypeError(f"`tracks` must hold PoseTrack objects, got {type(track).__name__}.")
        ids = [track.track_id for track in tracks]
        if len({type(track_id) for track_id in ids}) > 1:
            raise TypeError(f"`tracks` must have identifiers that are all integers or all strings, got {ids}.")
        if len(set(ids)) < len(ids):
            raise ValueError(f"`tracks` must have different identifiers, got {ids}.")
        shapes = {track.keypoints.shape[1:] for track in tracks}
        if len(shapes) > 1:
            raise ValueError(f"`tracks` must all have the same (joints, dims), got {sorted(shapes)}.")
        end = max((track.end for track in tracks), default=0)
        num_frames = end if self.num_frames is None else _natural("num_frames", self.num_frames)
        if num_frames < end:
            raise ValueError(f"`num_frames` must be at least {end}, where the last track ends, got {num_frames}.")
        names = self.keypoint_names
        if names is not None:
            names = (names,) if isinstance(names, str) else tuple(names)
            if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise ValueError(f"`keypoint_names` must be different strings, got {names}.")
            if shapes and (joints := next(iter(shapes))[0]) != len(names):
                raise ValueError(f"`keypoint_names` must be {joints} names, one a joint, got {len(names)}.")
        frame_rate = self.frame_rate
        if frame_rate is not None:
            if not _is_number(frame_rate) or not 0 < frame_rate < math.inf:
                raise ValueError(f"`frame_rate` must be a positive number of frames a second, got {frame_rate!r}.")
            frame_rate = float(frame_rate)
        image_size = self.image_size
        if image_size is not None:
            image_size = tuple(image_size) if np.iterable(image_size) else (image_size,)
            if len(image_size) != 2 or not all(_is_number(side) and 0 < side < math.inf for side in image_size):
                raise ValueError(
                    f"`image_size` must be a positive width and height in pixels, got {self.image_size!r}."
                )
            image_size = (int(image_size[0]), int(image_size[1]))
        if self.unit not in (None, *UNITS):
            raise ValueError(f"`unit` must be one of {list(UNITS)} or None, got {self.unit!r}.")
        for name, value in (
            ("tracks", tracks),
            ("num_frames", num_frames),
            ("keypoint_names", names),
            ("frame_rate", frame_rate),
            ("image_size", image_size),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.num_frames

    @property
    def track_ids(self) -> list[int | str]:
        """Identifiers in the order of the tracks."""
        return [track.track_id for track in self.tracks]

    def __getitem__(self, track_id: int | str) -> PoseTrack:
        """The track of this identifier."""
        for track in self.tracks:
            if track.track_id == track_id:
                return track
        raise KeyError(f"There is no track {track_id!r}; the sequence has {self.track_ids}.")

    def frames(self) -> Iterator[list[dict[str, Any]]]:
        """Iterate over the frames as pose pipelines give them: a list of persons a frame, in the order of the tracks.

        A person is a dict of `score`, `label`, `box` (`xmin`, `ymin`, `xmax`, `ymax`), `keypoints` (a list of `{"label", "x",
        "y", "score"}`, in 3D also `"z"`) and `track_id`. Without boxes `box` is the one around the keypoints' x and y;
        without scores `score` is the mean of the keypoints that are there, and that of a keypoint 1. A missing keypoint has
        NaN coordinates and score 0; a person with no keypoint at all is not in the list.

        Raises:
            ValueError: If the tracks hold rotations.
        """
        if any(track.keypoints.shape[2] > 3 for track in self.tracks):
            raise ValueError("`frames` needs keypoints of 2 or 3 coordinates; these tracks hold rotations.")
        waiting = sorted(enumerate(self.tracks), key=lambda entry: entry[1].start, reverse=True)
        active = []
        for index in range(self.num_frames):
            while waiting and waiting[-1][1].start <= index:
                active.append(waiting.pop())
            active = sorted((entry for entry in active if entry[1].end > index), key=lambda entry: entry[0])
            rows = ((track, index - track.start) for _, track in active)
            yield [self._person(track, row) for track, row in rows if not np.isnan(track.keypoints[row, :, 0]).all()]

    def _person(self, track: PoseTrack, row: int) -> dict[str, Any]:
        keypoints = track.keypoints[row]
        missing = np.isnan(keypoints[:, 0])
        scores = np.ones(len(keypoints)) if track.scores is None else np.nan_to_num(track.scores[row], nan=1.0)
        scores = np.where(missing, 0.0, scores)
        score = np.nan if track.person_scores is None else track.person_scores[row]
        box = np.full(4, np.nan) if track.boxes is None else track.boxes[row]
        if np.isnan(box).any():
            seen = keypoints[~missing, :2]
            box = np.concatenate([seen.min(axis=0), seen.max(axis=0)])
        names = self.keypoint_names or [f"keypoint_{index}" for index in range(len(keypoints))]
        return {
            "score": float(scores[~missing].mean() if np.isnan(score) else score),
            "label": "person",
            "box": dict(zip(BOX_SIDES, box.tolist(), strict=True)),
            "keypoints": [
                {"label": name, **dict(zip("xyz", keypoint, strict=False)), "score": value}
                for name, keypoint, value in zip(names, keypoints.tolist(), scores.tolist(), strict=True)
            ],
            "track_id": track.track_id,
        }

    @classmethod
    def from_frames(
        cls,
        frames: Iterable[Iterable[dict[str, Any]]],
        *,
        frame_rate: float | None = None,
        image_size: tuple[int, int] | None = None,
        unit: str | None = "pixel",
    ) -> "PoseSequence":
        """Gather tracks from lists of persons, the reverse of `frames`.

        A track lasts from the first frame of its `track_id` to the last one; where it was not seen between, its keypoints
        are NaN. Tracks are in the order in which they appear.

        Args:
            frames: For each frame the persons, dicts as `frames` gives them; `box` and `score` may be absent.
            frame_rate: Frames a second.
            image_size: Width and height in pixels.
            unit: Unit of the coordinates.

        Raises:
            ValueError: If a person has no `track_id`, two persons of a frame have the same, or the keypoints differ from one
                person to the next.
            TypeError: If a frame is no list of dicts.
        """
        rows: dict[int | str, list[tuple]] = {}
        names, num_frames = None, 0
        for index, persons in enumerate(frames):
            num_frames = index + 1
            if isinstance(persons, dict | str) or not np.iterable(persons):
                raise TypeError(
                    f"`frames` must hold a list of persons for each frame, got {persons!r:.80} at {index}."
                )
            for person in persons:
                labels, row = read_person(person, index)
                if person.get("track_id") is None:
                    raise ValueError(
                        f"`frames` has a person without `track_id` at frame {index}; give the detections to a tracker first, "
                        "`hvmodels.datasets.pose_formats.from_pipeline`."
                    )
                names = labels if names is None else names
                if labels != names:
                    raise ValueError(
                        f"`frames` must have the same keypoints for all persons, got {labels} at frame {index} after {names}."
                    )
                track = rows.setdefault(person["track_id"], [])
                if track and track[-1][0] == index:
                    raise ValueError(f"`frames` has two persons of track {person['track_id']!r} in frame {index}.")
                track.append((index, *row))
        tracks = [_track_of_rows(track_id, entries) for track_id, entries in rows.items()]
        if names == [f"keypoint_{index}" for index in range(len(names or ()))]:
            names = None
        return cls(tracks, num_frames, names, frame_rate, image_size, unit)

    def save(self, path: str | PathLike):
        """Write the sequence; the module's docstring says how.

        Args:
            path: File that ends in `.npz` or `.json`.

        Raises:
            ValueError: If it ends otherwise.
            OSError: If it cannot be written.
        """
        path = _checked_suffix(path)
        values = {"format": FORMAT, "version": 1, "num_frames": self.num_frames}
        for name in ("keypoint_names", "frame_rate", "image_size", "unit"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        if path.suffix.lower() == ".json":
            fields = ("keypoints", "scores", "boxes", "person_scores")
            values["tracks"] = [
                {"track_id": track.track_id, "start": track.start}
                | {name: _to_lists(getattr(track, name)) for name in fields if getattr(track, name) is not None}
                for track in self.tracks
            ]
            path.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")
            return
        values["track_ids"] = np.array(self.track_ids, dtype=None if self.tracks else np.int64)
        values["starts"] = np.array([track.start for track in self.tracks], dtype=np.int64)
        values["offsets"] = np.cumsum([0, *(len(track) for track in self.tracks)], dtype=np.int64)
        empty = np.zeros((0, len(self.keypoint_names or ()), 2), dtype=np.float32)
        values["keypoints"] = np.concatenate([track.keypoints for track in self.tracks] or [empty])
        shapes = {"scores": values["keypoints"].shape[1:2], "boxes": (4,), "person_scores": ()}
        for name, shape in shapes.items():
            if any(getattr(track, name) is not None for track in self.tracks):
                unknown = [np.full((len(track), *shape), np.nan, dtype=np.float32) for track in self.tracks]
                given = (getattr(track, name) for track in self.tracks)
                values[name] = np.concatenate([b if a is None else a for a, b in zip(given, unknown, strict=True)])
        with path.open("wb") as file:
            np.savez_compressed(file, **values)

    @classmethod
    def load(cls, path: str | PathLike) -> "PoseSequence":
        """Read a sequence that `save` wrote.

        Args:
            path: File that ends in `.npz` or `.json`.

        Raises:
            ValueError: If there is no such file, or it cannot be read as one.
        """
        path = _checked_suffix(path)
        try:
            values = _read_json(path) if path.suffix.lower() == ".json" else _read_npz(path)
        except FileNotFoundError:
            raise ValueError(f"`path` names {str(path)!r}, which does not exist.") from None
        except (OSError, ValueError, EOFError, RecursionError, zipfile.BadZipFile) as error:
            raise ValueError(f"`path` names {str(path)!r}, which cannot be read: {error}") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(
                f"`path` names {str(path)!r}, which is no pose sequence of this package (`format` is not {FORMAT!r}); "
                "`hvmodels.datasets.pose_formats.read_poses` reads other formats."
            )
        if values.get("version") != 1:
            raise ValueError(f"`path` names {str(path)!r} of version {values.get('version')!r}; this package reads 1.")
        try:
            tracks = _tracks_of_json(values) if "tracks" in values else _tracks_of_npz(values)
            rest = {name: values.get(name) for name in ("keypoint_names", "frame_rate", "image_size", "unit")}
            return cls(tracks, values["num_frames"], **rest)
        except KeyError as error:
            raise ValueError(f"`path` names {str(path)!r}, which lacks {error}.") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"`path` names {str(path)!r}, a damaged pose sequence: {error}") from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _read_npz(path: Path) -> dict[str, Any]:
    """Arrays by name; text and single numbers as Python's own."""
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it is no .npz archive.")
    with archive:
        values = {name: archive[name] for name in archive.files}
    small = ("format", "version", "num_frames", "keypoint_names", "frame_rate", "image_size", "unit")
    return {name: value.tolist() if name in small else value for name, value in values.items()}


def _tracks_of_json(values: dict[str, Any]) -> list[PoseTrack]:
    fields = ("keypoints", "scores", "boxes", "person_scores")
    return [
        PoseTrack(track["track_id"], track["start"], *(_from_lists(name, track.get(name)) for name in fields))
        for track in values["tracks"]
    ]


def _tracks_of_npz(values: dict[str, Any]) -> list[PoseTrack]:
    track_ids, starts, offsets = (values[name].tolist() for name in ("track_ids", "starts", "offsets"))
    fields = {name: values.get(name) for name in ("keypoints", "scores", "boxes", "person_scores")}
    rows = len(values["keypoints"])
    if not len(track_ids) == len(starts) == len(offsets) - 1 or offsets[0] != 0 or offsets[-1] != rows:
        raise ValueError("`track_ids`, `starts`, `offsets` and `keypoints` do not fit each other.")
    tracks = []
    for track_id, start, first, last in zip(track_ids, starts, offsets[:-1], offsets[1:], strict=True):
        parts = {name: None if value is None else value[first:last] for name, value in fields.items()}
        known = {n: v for n, v in parts.items() if v is not None and (n == "keypoints" or not np.isnan(v).all())}
        tracks.append(PoseTrack(track_id, start, **known))
    return tracks


def read_person(person: Any, index: int) -> tuple[list[str], tuple[list, list[float], list[float], float]]:
    """Read a person as the pose pipelines give it.

    Args:
        person: Dict, see `PoseSequence.frames`.
        index: Frame, for errors.

    Returns:
        The names of the keypoints, and (keypoints, scores of keypoints, box as corners, score), NaN where there is none.

    Raises:
        TypeError: If the person is no dict.
        ValueError: If something is lacking or no number.
    """
    if not isinstance(person, dict):
        raise TypeError(f"`frames` must hold persons that are dicts, got {type(person).__name__} at frame {index}.")
    try:
        labels = [keypoint["label"] for keypoint in person["keypoints"]]
        axes = "xyz" if "z" in person["keypoints"][0] else "xy"
        # Arrays, which are a tenth of as many Python numbers: of a long video all rows wait here.
        keypoints = np.array(
            [[_or_nan(keypoint[axis]) for axis in axes] for keypoint in person["keypoints"]], dtype=np.float32
        )
        scores = np.array([_or_nan(keypoint.get("score")) for keypoint in person["keypoints"]], dtype=np.float32)
        box = person.get("box") or {}
        box = np.array([_or_nan(box[side]) for side in BOX_SIDES] if box else [math.nan] * 4, dtype=np.float32)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            "`frames` must hold persons with `keypoints`, a list of dicts of `label`, `x`, `y` and `score`, and `box`, a "
            f"dict of {', '.join(BOX_SIDES)}; a person of frame {index} has none such: {type(error).__name__} {error}."
        ) from error
    return labels, (keypoints, scores, box, _or_nan(person.get("score")))


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _track_of_rows(track_id: int | str, rows: list[tuple]) -> PoseTrack:
    """A track of rows of frame, keypoints, scores, box and person's score."""
    indices, keypoints, *rest = zip(*rows, strict=True)
    if len({person.shape[1] for person in keypoints}) > 1:
        raise ValueError(
            f"`frames` must have keypoints of the same dims throughout, but track {track_id!r} mixes 2D and 3D."
        )
    values = []
    for given in (keypoints, *rest):
        given = np.asarray(given, dtype=np.float32)
        value = np.full((indices[-1] - indices[0] + 1, *given.shape[1:]), np.nan, dtype=np.float32)
        value[np.array(indices) - indices[0]] = given
        values.append(value)
    keypoints, *rest = values
    return PoseTrack(track_id, indices[0], keypoints, *(None if np.isnan(value).all() else value for value in rest))


def _checked_suffix(path: str | PathLike) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"`path` must end in .npz or .json, got {str(path)!r}.")
    return path


def _to_lists(values: np.ndarray) -> list:
    """Nested lists of the shortest decimals that give the same float32, None for NaN."""
    numbers = values.astype(str).astype(np.float64).astype(object)
    numbers[np.isnan(values)] = None
    return numbers.tolist()


def _from_lists(name: str, values: list | None) -> np.ndarray | None:
    return None if values is None else _float_array(name, values, "numbers, or null where they are missing")


def _float_array(name: str, values: Any, shape: str) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float32)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array {shape}, got {type(values).__name__}: {error}") from error
    if np.isinf(array).any():
        raise ValueError(f"`{name}` must be finite, or NaN where it is missing, got infinite numbers.")
    return array


def _natural(name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer, got {value!r}.")
    if value < 0:
        raise ValueError(f"`{name}` must not be negative, got {value}.")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


__all__ = ["PoseSequence", "PoseTrack"]
