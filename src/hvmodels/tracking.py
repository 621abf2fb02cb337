"""Which person of one frame is which of the next: matching of poses and boxes, with the motion of each carried on.

Online and small: similarity is the mean of OKS and of the IoU of the boxes (the box term alone where there are no
keypoints), persons and tracks are matched one to one so that the sum of it is highest, and between sightings a track moves
on at its velocity. Low-scoring persons can only continue a track, as in ByteTrack (arXiv 2110.06864); boxes are widened
the longer a track was not seen, as in C-BIoU (arXiv 2211.14317), which is what lets every N-th frame do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics.oks import AREA_PER_BOX, object_keypoint_similarity


SLACK_PER_FRAME, MAX_SLACK = 0.03, 0.4
"""A box is widened on each side by this share of its size (the root of its area) for each frame since it was seen."""


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


__all__ = ["PoseTracker", "assign"]
