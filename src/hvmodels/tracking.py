"""Persons from one frame to the next: which is which (`PoseTracker`), and where to look for one (`BoxFollower`).

The tracker is online and small: similarity is the mean of OKS and of the IoU of the boxes (the box term alone where there are no
keypoints), persons and tracks are matched one to one so that the sum of it is highest, and between sightings a track moves
on at its velocity. Low-scoring persons can only continue a track, as in ByteTrack (arXiv 2110.06864); boxes are widened
the longer a track was not seen, as in C-BIoU (arXiv 2211.14317), which is what lets every N-th frame do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics.oks import AREA_PER_BOX, object_keypoint_similarity, oks_nms


SLACK_PER_FRAME, MAX_SLACK = 0.03, 0.4
"""A box is widened on each side by this share of its size (the root of its area) for each frame since it was seen."""

MARGIN, CHANGE_PER_FRAME, MAX_CHANGE = 0.15, 0.02, 0.1
"""Of the boxes that are followed: margin about the keypoints, and how fast sides may change and widen out of sight.

Chosen by the mean score of the embedded pose model's persons on three clips, looking at every frame, every second and every
tenth."""
MAX_FRAMES_MOVING = 15
"""For which a person who is out of sight is taken to move on."""
SAME_PERSON = 0.7
"""OKS above which two boxes that are followed have come upon one person."""


@dataclass
class _Track:
    """What is known of a person: in pixels, of the frame it was last seen in."""

    track_id: int
    frame: int
    box: np.ndarray
    keypoints: np.ndarray
    velocity: np.ndarray
    sightings: int = 1

    def box_at(self, frame: int) -> np.ndarray:
        return self.box + np.tile(self.velocity, 2) * (frame - self.frame)

    def keypoints_at(self, frame: int) -> np.ndarray:
        return self.keypoints + self.velocity * (frame - self.frame)

    def see(self, frame: int, box: np.ndarray, keypoints: np.ndarray):
        elapsed = frame - self.frame
        moved = keypoints - self.keypoints
        if np.isfinite(moved).any():
            moved = np.nanmedian(moved, axis=0)
        else:
            moved = (box - self.box).reshape(2, 2).mean(axis=0)
        # Over many frames the mean velocity between says all; from frame to frame jitter is averaged out.
        weight = 1.0 if self.sightings == 1 else 1 - 0.5**elapsed
        self.velocity = (1 - weight) * self.velocity + weight * moved / elapsed
        # A keypoint that is missing now stays where it would be.
        self.keypoints = np.where(np.isnan(keypoints), self.keypoints_at(frame), keypoints)
        self.box, self.frame, self.sightings = box, frame, self.sightings + 1


class PoseTracker:
    """Give the persons of one frame after the other their track's identifier, an integer from 1.

    Args:
        sigmas: OKS standard deviation of each keypoint; without, boxes alone are compared.
        max_gap: Frames that a track may be out of sight for; a person that comes back later is a new one.
        min_similarity: Least mean of OKS and IoU at which a person continues a track, in [0, 1].
        new_track_score: Persons of a lower score may continue a track that no better one continues, and begin none.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        sigmas: Sequence[float] | None = None,
        max_gap: int = 30,
        min_similarity: float = 0.15,
        new_track_score: float = 0.0,
    ):
        if not isinstance(max_gap, int | np.integer) or isinstance(max_gap, bool) or max_gap < 0:
            raise ValueError(f"`max_gap` must be a number of frames from 0 on, got {max_gap!r}.")
        for name, value in (("min_similarity", min_similarity), ("new_track_score", new_track_score)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be a number from 0 to 1, got {value!r}.")
        self.sigmas = None if sigmas is None else np.asarray(sigmas, dtype=np.float64)
        self.max_gap, self.min_similarity, self.new_track_score = max_gap, min_similarity, new_track_score
        self.frame = None
        self._tracks: list[_Track] = []
        self._next_id = 1

    def update(
        self,
        frame: int,
        boxes: np.ndarray,
        keypoints: np.ndarray | None = None,
        scores: np.ndarray | None = None,
    ) -> list[int | None]:
        """The track of each person of a frame.

        Args:
            frame: Its number, greater than that of the last call. Frames between that nobody looked at count as elapsed
                time; where a frame was looked at and nobody found, call with no persons.
            boxes: (persons, 4) as xmin, ymin, xmax, ymax in pixels.
            keypoints: (persons, keypoints, 2) in pixels, NaN where missing.
            scores: (persons,); all 1 if absent.

        Returns:
            An identifier a person; None for one whose score was too low to begin a track.

        Raises:
            ValueError: If the frame's number is not greater than the last, or shapes do not fit.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        count = len(boxes)
        keypoints = np.zeros((count, 0, 2)) if keypoints is None else np.asarray(keypoints, dtype=np.float64)
        scores = np.ones(count) if scores is None else np.asarray(scores, dtype=np.float64)
        if self.frame is not None and frame <= self.frame:
            raise ValueError(f"`frame` must be greater than that of the last call, {self.frame}, got {frame}.")
        if len(keypoints) != count or len(scores) != count:
            raise ValueError(
                f"`boxes`, `keypoints` and `scores` must be of the same persons, got {count}, {len(keypoints)} and "
                f"{len(scores)}."
            )
        if count and not np.isfinite(boxes).all():
            raise ValueError("`boxes` must be finite.")
        joints = {keypoints.shape[1], *(track.keypoints.shape[0] for track in self._tracks)} if count else set()
        if self.sigmas is not None and keypoints.shape[1] and count:
            joints.add(len(self.sigmas))
        if len(joints) > 1:
            raise ValueError(f"`keypoints` must be as many in every frame as `sigmas`, got {sorted(joints)}.")
        self.frame = frame
        self._tracks = [track for track in self._tracks if frame - track.frame - 1 <= self.max_gap]
        ids: list[int | None] = [None] * count
        tracks = list(self._tracks)
        is_sure = scores >= self.new_track_score
        for chosen in (np.flatnonzero(is_sure), np.flatnonzero(~is_sure)):
            similarities = self._similarities(tracks, frame, boxes[chosen], keypoints[chosen])
            matched = []
            for track, person in assign(similarities):
                if similarities[track, person] >= self.min_similarity:
                    index = chosen[person]
                    tracks[track].see(frame, boxes[index], keypoints[index])
                    ids[index] = tracks[track].track_id
                    matched.append(track)
            tracks = [track for index, track in enumerate(tracks) if index not in matched]
        for index in range(count):
            if ids[index] is None and is_sure[index]:
                ids[index] = self._next_id
                self._next_id += 1
                self._tracks.append(_Track(ids[index], frame, boxes[index], keypoints[index], np.zeros(2)))
        return ids

    def _similarities(self, tracks: list[_Track], frame: int, boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """(tracks, persons)."""
        similarities = np.zeros((len(tracks), len(boxes)))
        for row, track in enumerate(tracks):
            slack = min(SLACK_PER_FRAME * (frame - track.frame), MAX_SLACK)
            predicted = track.box_at(frame)
            similarities[row] = _intersection_over_union(_widen(predicted[None], slack), _widen(boxes, slack))
            if self.sigmas is None or not keypoints.shape[1]:
                continue
            expected = track.keypoints_at(frame)
            area = AREA_PER_BOX * (1 + 2 * slack) ** 2 * np.prod(predicted[2:] - predicted[:2])
            for index, person in enumerate(keypoints):
                seen = np.isfinite(person).all(axis=1) & np.isfinite(expected).all(axis=1)
                if seen.any():
                    oks = object_keypoint_similarity(
                        person[None, seen], expected[None, seen], np.array([area]), self.sigmas[seen]
                    )
                    similarities[row, index] = (similarities[row, index] + oks[0, 0]) / 2
        return similarities


@dataclass
class _Followed:
    """A person that is followed: centre and size of the box, in pixels, where it was last seen."""

    frame: int
    centre: np.ndarray
    size: np.ndarray
    velocity: np.ndarray
    sightings: int = 1

    def corners_at(self, frame: int) -> np.ndarray:
        """(4,): moved on, and the wider the longer it was not seen."""
        elapsed = frame - self.frame
        centre = self.centre + self.velocity * min(elapsed, MAX_FRAMES_MOVING)
        half = self.size / 2 * (1 + min(CHANGE_PER_FRAME * max(elapsed - 1, 0), MAX_SLACK))
        return np.concatenate([centre - half, centre + half])


class BoxFollower:
    """Boxes for a model that looks at one person at a time, each from the last pose of its person: no detector is needed.

    A box is the one around the keypoints with a margin of 15 % of the longer side; it grows and shrinks slowly and moves at the person's
    velocity. Whoever is not found is looked for in a box that widens, for `max_gap` frames, and then given up, as is who
    leaves the picture. If two boxes come upon one person, the one of lower score has lost its own.

    Args:
        boxes: (x, y, width, height) in pixels of each person in the first frame.
        size: Width and height of the picture.
        sigmas: OKS standard deviations of the keypoints, by which two are known for one; without, they are not.
        max_gap: Frames.
        min_score: Persons of a lower score are not found.
        frame: Number of the first frame.
        first_id: Identifier of the first person; the others count on.
    """

    def __init__(
        self,
        boxes: Sequence[Sequence[float]],
        size: tuple[int, int],
        sigmas: Sequence[float] | None = None,
        max_gap: int = 30,
        min_score: float = 0.4,
        frame: int = 0,
        first_id: int = 1,
    ):
        self.size, self.sigmas, self.max_gap, self.min_score = np.array(size, dtype=float), sigmas, max_gap, min_score
        self._persons: dict[int, _Followed] = {}
        for track_id, box in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4), start=first_id):
            self._persons[track_id] = _Followed(frame, box[:2] + box[2:] / 2, box[2:], np.zeros(2), sightings=0)

    def boxes_at(self, frame: int) -> dict[int, tuple[float, float, float, float]]:
        """(x, y, width, height) of each person that is still followed, within the picture, by identifier."""
        boxes = {}
        for track_id, person in list(self._persons.items()):
            corners = person.corners_at(frame)
            low, high = np.maximum(corners[:2], 0), np.minimum(corners[2:], self.size)
            is_outside = (high - low < 2).any() or (high - low).prod() < 0.1 * (corners[2:] - corners[:2]).prod()
            if is_outside or frame - person.frame - 1 > self.max_gap:
                del self._persons[track_id]
            else:
                boxes[track_id] = (*low.tolist(), *(high - low).tolist())
        return boxes

    def update(self, frame: int, keypoints: dict[int, np.ndarray], scores: dict[int, float]) -> list[int]:
        """Go on from what was found in the boxes; gives the identifiers of those who were.

        Args:
            frame: Its number; the same again for a closer look at who was found in it.
            keypoints: (keypoints, 2) of each person in pixels, by identifier.
            scores: Of each person, by identifier.
        """
        found = [track_id for track_id in keypoints if scores[track_id] >= self.min_score]
        if self.sigmas is not None and len(found) > 1:
            areas = [AREA_PER_BOX * np.prod(self._persons[track_id].size) for track_id in found]
            kept = oks_nms(
                np.array([keypoints[track_id] for track_id in found]),
                np.array([scores[track_id] for track_id in found]),
                np.array(areas),
                self.sigmas,
                SAME_PERSON,
            )
            found = [found[index] for index in sorted(kept)]
        for track_id in found:
            person, points = self._persons[track_id], keypoints[track_id]
            elapsed = frame - person.frame
            low, high = points.min(axis=0), points.max(axis=0)
            size = high - low + 2 * MARGIN * (high - low).max()
            if person.sightings:  # the first box may be anything
                change = min(CHANGE_PER_FRAME * max(elapsed, 1), MAX_CHANGE)
                size = np.clip(size, person.size * (1 - change), person.size * (1 + change))
            if person.sightings and elapsed:
                weight = 1.0 if person.sightings == 1 else 1 - 0.5**elapsed
                moved = (low + high) / 2 - person.centre
                person.velocity = (1 - weight) * person.velocity + weight * moved / elapsed
            person.centre, person.size = (low + high) / 2, np.maximum(size, 2)
            person.frame, person.sightings = frame, person.sightings + (elapsed > 0 or not person.sightings)
        return found


def _widen(boxes: np.ndarray, slack: float) -> np.ndarray:
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    margin = slack * np.sqrt(size.prod(axis=1, keepdims=True))
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)


def _intersection_over_union(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(boxes,) with a box (1, 4)."""
    overlap = np.minimum(box[:, 2:], boxes[:, 2:]) - np.maximum(box[:, :2], boxes[:, :2])
    overlap = np.maximum(overlap, 0).prod(axis=1)
    areas = [np.maximum(entry[:, 2:] - entry[:, :2], 0).prod(axis=1) for entry in (box, boxes)]
    return overlap / np.maximum(areas[0] + areas[1] - overlap, np.spacing(1))


def assign(similarities: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once, of greatest total similarity (Hungarian method, shortest augmenting paths).

    Args:
        similarities: (rows, columns).

    Returns:
        As many pairs as the shorter side has, by row.
    """
    cost = -np.asarray(similarities, dtype=np.float64)
    if cost.shape[0] > cost.shape[1]:
        return sorted((row, column) for column, row in assign(similarities.T))
    rows, columns = cost.shape
    row_of = np.full(columns, -1)  # row that a column is given to
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    for new_row in range(rows):
        # Dijkstra over reduced costs from the new row to a free column.
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        row, reached, column = new_row, 0.0, -1
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            better = ~done & (through < distance)
            distance[better], before[better] = through[better], column
            column = int(np.where(done, np.inf, distance).argmin())
            done[column], reached = True, distance[column]
            if row_of[column] < 0:
                break
            row = row_of[column]
        final = done.copy()
        final[column] = False
        row_price[new_row] += reached
        row_price[row_of[final]] += reached - distance[final]
        column_price[final] -= reached - distance[final]
        while column >= 0:  # hand the columns on along the path
            previous = before[column]
            row_of[column] = new_row if previous < 0 else row_of[previous]
            column = previous
    return sorted((int(row_of[column]), column) for column in range(columns) if row_of[column] >= 0)


__all__ = ["BoxFollower", "PoseTracker", "assign"]
