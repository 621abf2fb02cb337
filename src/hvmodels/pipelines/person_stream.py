"""Persons of one frame after the other, smoothed while they come in."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..pose_sequences import BOX_SIDES
from ..smoothing.filters import SavitzkyGolayFilter
from ..smoothing.streaming import PoseStream


class PersonStream:
    """Lists of persons in, lists of persons out, `delay` frames later, with memory for as many frames.

    Iterate over it; each frame comes out once and in order. Where a track was not looked for, or not found, for at most
    `max_gap` frames, its pose is bridged by a straight line and smoothed; its keypoints keep their last scores in the one
    case and have score 0 in the other.

    Args:
        frames: For each frame the persons with their `track_id`, as the pose pipelines give them; None where nobody looked.
        smoother: A filter, which works in units of the size of the first person; a model such as SmoothNet; None.
        delay: See `PoseStream`; None for the full delay.
        max_gap: Longest pause of a track that is bridged, in frames, part of the delay.

    Raises:
        TypeError: If `smoother` is none of these.
        ValueError: If `delay` or `max_gap` does not fit.
    """

    def __init__(
        self,
        frames: Iterable[Sequence[Mapping[str, Any]] | None],
        smoother: Any = None,
        delay: int | None = None,
        max_gap: int = 0,
    ):
        nothing = SavitzkyGolayFilter(window_size=1, order=0)
        self._stream = PoseStream(nothing if smoother is None else smoother, delay=delay, max_gap=max_gap)
        self._frames, self._scale = frames, None if hasattr(smoother, "filter") else 1.0
        self._known: deque[tuple[bool, dict[Hashable, Mapping]]] = deque()
        self._last: dict[Hashable, tuple[Mapping, np.ndarray]] = {}

    @property
    def delay(self) -> int:
        """Frames that a result comes after its frame."""
        return self._stream.delay

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The persons of each frame."""
        for persons in self._frames:
            named = {person["track_id"]: person for person in persons or ()}
            self._known.append((persons is not None, named))
            for _, refined in self._stream.push({track_id: self._pose(person) for track_id, person in named.items()}):
                yield self._persons(refined)
        for _, refined in self._stream.flush():
            yield self._persons(refined)

    def _pose(self, person: Mapping[str, Any]) -> np.ndarray:
        """(keypoints, 2), NaN where missing, in the stream's unit."""
        points = [
            (point["x"], point["y"]) if point["score"] > 0 else (np.nan, np.nan) for point in person["keypoints"]
        ]
        pose = np.array(points, dtype=np.float64)
        if self._scale is None and np.isfinite(pose).any():
            self._scale = max(float((np.nanmax(pose, axis=0) - np.nanmin(pose, axis=0)).max()), 1e-6)
        return pose / (self._scale or 1.0)

    def _persons(self, refined: Mapping[Hashable, np.ndarray]) -> list[dict[str, Any]]:
        was_looked_at, known = self._known.popleft()
        persons = []
        for track_id, pose in refined.items():
            pose = pose * (self._scale or 1.0)
            if track_id in known:
                person = known[track_id]
            else:
                last, last_pose = self._last[track_id]
                x, y = (pose - last_pose).mean(axis=0).tolist()
                moved = [last["box"][side] + shift for side, shift in zip(BOX_SIDES, (x, y, x, y), strict=True)]
                person = {**last, "box": dict(zip(BOX_SIDES, moved, strict=True))}
                if was_looked_at:
                    person["score"] = 0.0
                    person["keypoints"] = [{**point, "score": 0.0} for point in last["keypoints"]]
            keypoints = [
                {**point, "x": x, "y": y} for point, (x, y) in zip(person["keypoints"], pose.tolist(), strict=True)
            ]
            persons.append({**person, "keypoints": keypoints})
            self._last[track_id] = (person, pose)
        self._last = {track_id: entry for track_id, entry in self._last.items() if track_id in refined}
        return persons


__all__ = ["PersonStream"]
