"""Refinement of poses while they come in: one frame at a time, several tracks, a fixed delay, bounded memory.

    stream = PoseStream(model)                      # or OneEuroFilter(), SavitzkyGolayFilter(), GaussianFilter()
    for poses in frames:                            # {track_id: (joints, dims)}
        for frame, refined in stream.push(poses):   # that of `stream.delay` frames ago
            ...
    for frame, refined in stream.flush():           # the last ones
        ...

What has to be known of later frames makes up the delay, and nothing else does: every frame comes out `stream.delay` pushes
after it went in, once, in order, with all tracks that it has. At the full delay, the default, all frames of a track equal
those that the model or filter gives for the whole track at once. With less, frames are the mean of the windows that have been
seen by then; those without any, such as the first of a track, come from a window that is filled up with the last pose.

A track begins with its first pose. Where it pauses for at most `max_gap` frames, the missing poses lie on the line between
its last and its next one; since only the next one tells that it was a pause, `max_gap` frames are waited for, and are part
of the delay. After a longer pause the track begins anew. A joint that is missing (NaN) is treated likewise; beyond
`max_gap` it stays where it was last, and if it has never been seen, in the middle of the others.
"""

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..models.pose_sequence.windows_pose_sequence import window_starts
from .filters import GaussianFilter, OneEuroFilter, SavitzkyGolayFilter


@dataclass
class _Frame:
    """Poses of one frame.

    Args:
        poses: Pose (joints, dims) by track.
        stack: (tracks, joints, dims) all of them.
        complete: Whether no joint is missing.
    """

    poses: dict[Hashable, np.ndarray]
    stack: np.ndarray | None = None
    complete: bool = True


@dataclass(eq=False)
class _Track:
    """A track on its way.

    Args:
        track_id: Its name outside.
        slot: Its place in the arrays.
        start: Its first frame.
        last: The last frame that it had a pose in; once it has ended, its last frame.
        value: (joints, dims) its last pose, filled.
        seen: Frame in which each joint was seen last, (joints,), -1 for never; or one number for all of them.
        joints: (joints, dims) where that was.
        ended: Whether `last` is its end.
    """

    track_id: Hashable
    slot: int
    start: int
    last: int
    value: np.ndarray | None
    seen: np.ndarray | int
    joints: np.ndarray | None
    ended: bool = False


class PoseStream:
    """Takes poses frame by frame, gives refined ones `delay` frames later.

    The cost of a frame and the memory do not grow with the length of the stream: there is room for the frames of one
    window, times the most tracks that there were at once. All tracks are refined in one call.

    A model takes poses as its processor gives them; those with `window_normalization="person"` take any unit and place.
    DeciWatch looks at every `sample_interval`-th frame of a track, counted from its first, and only there poses are needed.

    Args:
        smoother: A model of pose refinement (SmoothNet, DeciWatch; base model or with its head) or a filter of
            `hvmodels.smoothing.filters`.
        delay: Frames that a result comes after its pose, from `max_gap` to the full delay. None for the full delay:
            `window_size - 1` for models (with a stride over `sample_interval` so much more, that being 1 for SmoothNet) and
            Savitzky-Golay, reach of the weights for the Gaussian, 0 for One-Euro, and `max_gap` on top.
        max_gap: Longest pause of a track that is filled, in frames.
        stride: Frames from one window of a model to the next, for DeciWatch a multiple of `sample_interval`;
            `config.window_stride` if None. The cost falls with it.

    Raises:
        TypeError: If `smoother` is none of these.
        ValueError: If a number does not fit, or the model is in training mode.
    """

    def __init__(self, smoother: Any, *, delay: int | None = None, max_gap: int = 0, stride: int | None = None):
        if max_gap < 0:
            raise ValueError(f"`max_gap` must be 0 or more frames, got {max_gap!r}.")
        if isinstance(smoother, torch.nn.Module) and hasattr(smoother, "refine_windows"):
            self._engine = _WindowEngine(smoother, stride)
        elif isinstance(smoother, OneEuroFilter | SavitzkyGolayFilter | GaussianFilter):
            if stride is not None:
                raise ValueError(f"`stride` is for models, and {type(smoother).__name__} has none; leave it out.")
            self._engine = _OneEuroEngine(smoother) if isinstance(smoother, OneEuroFilter) else _FilterEngine(smoother)
        else:
            raise TypeError(
                "`smoother` must be a model of pose refinement (with `refine_windows`) or a filter of "
                f"`hvmodels.smoothing.filters`, got {type(smoother).__name__}."
            )
        full = self._engine.full_delay + max_gap
        delay = full if delay is None else delay
        if not max_gap <= delay <= full:
            raise ValueError(
                f"`delay` must be from {max_gap} (`max_gap`) to {full}, where the result is that of the whole track, got "
                f"{delay!r}."
            )
        self.delay, self.max_gap = delay, max_gap
        self._reset()

    def _reset(self):
        self._pushed = self._processed = self._emitted = 0  # numbers of frames
        self._queue: deque[_Frame] = deque()  # frames that wait for the end of pauses
        self._shape: tuple[int, int] | None = None
        self._tracks: dict[Hashable, _Track] = {}
        self._ended: list[_Track] = []  # with frames to come

    def push(self, poses: Mapping[Hashable, Any]) -> list[tuple[int, dict[Hashable, np.ndarray]]]:
        """Take the poses of the next frame.

        Args:
            poses: Pose (joints, dims) of each track in this frame, array or tensor, NaN for missing joints; empty for none.
                All of a stream have one shape.

        Returns:
            At most one frame that is final: its number, counted from 0, and the refined pose (joints, dims) of each track
            in it, in the float type of the stream's first pose.

        Raises:
            TypeError: If `poses` is no dict.
            ValueError: If a pose has another shape than the first one, or infinite values.
        """
        if not isinstance(poses, Mapping):
            raise TypeError(f"`poses` must be a dict of poses by track id, got {type(poses).__name__}.")
        self._queue.append(self._read(poses))
        self._pushed += 1
        if len(self._queue) > self.max_gap:
            self._process()
        return self._emit(self._pushed - self.delay)

    def flush(self) -> list[tuple[int, dict[Hashable, np.ndarray]]]:
        """End all tracks, and give the frames that are left. The stream is then as new."""
        frames = []
        while self._queue:
            self._process()
            frames += self._emit(self._processed - (self.delay - self.max_gap))
        for track in self._tracks.values():
            track.last = self._processed - 1  # also where DeciWatch needed no pose any more
        self._end(list(self._tracks.values()))
        frames += self._emit(self._pushed)
        self._reset()
        return frames

    def _read(self, poses: Mapping[Hashable, Any]) -> _Frame:
        if not poses:
            return _Frame({})
        arrays = [
            pose.detach().cpu().numpy() if hasattr(pose, "detach") else np.asarray(pose) for pose in poses.values()
        ]
        if self._shape is None:
            first = arrays[0]
            if first.ndim != 2 or 0 in first.shape:
                raise ValueError(f"`poses` must hold poses of shape (joints, dims), got {first.shape}.")
            self._engine.check_shape(first.shape)
            self._dtype = first.dtype if np.issubdtype(first.dtype, np.floating) else np.dtype(np.float64)
            self._shape = first.shape
            self._engine.allocate(self._shape)
        for track_id, array in zip(poses, arrays, strict=True):
            if array.shape != self._shape:
                raise ValueError(
                    f"`poses` must all have the shape of the stream's first pose, {self._shape}, got {array.shape} for "
                    f"track {track_id!r}."
                )
        stack = np.array(arrays, dtype=self._engine.dtype)
        rows = dict(zip(poses, stack, strict=True))
        if np.isfinite(stack).all():
            return _Frame(rows, stack)
        if np.isinf(stack).any():
            raise ValueError("`poses` must be finite, or NaN for missing joints, got infinite values.")
        stack[np.isnan(stack).any(axis=2)] = np.nan
        # A pose without any joint is none.
        return _Frame({name: pose for name, pose in rows.items() if not np.isnan(pose).all()}, complete=False)

    def _process(self):
        """Take the oldest frame of the queue; those behind it tell how pauses go on."""
        frame, entry = self._processed, self._queue.popleft()
        given = entry.poses
        self._processed += 1
        tracks, ended = [], []
        for track_id, track in self._tracks.items():
            pose, complete = given.get(track_id), entry.complete
            if pose is not None:
                track.last = frame
            elif (frame - track.start) % self._engine.step == 0:
                if not any(track_id in later.poses for later in self._queue):
                    ended.append(track)
                    continue
                pose, complete = np.full(self._shape, np.nan, self._engine.dtype), False
            if pose is not None:
                self._keep(track, pose, frame, complete)
            tracks.append(track)
        self._end(ended)
        for track_id, pose in given.items():
            if track_id not in self._tracks:
                track = self._begin(track_id, frame)
                self._keep(track, pose, frame, entry.complete)
                tracks.append(track)
        if tracks:
            as_given = entry.stack is not None and [track.track_id for track in tracks] == list(given)
            self._engine.add(frame, tracks, entry.stack if as_given else np.stack([track.value for track in tracks]))

    def _begin(self, track_id: Hashable, frame: int) -> _Track:
        slots = {track.slot for track in (*self._tracks.values(), *self._ended)}
        slot = next(slot for slot in range(len(slots) + 1) if slot not in slots)
        self._engine.reserve(slot + 1)
        track = _Track(track_id, slot, frame, frame, None, -1, None)
        self._tracks[track_id] = track
        return track

    def _keep(self, track: _Track, pose: np.ndarray, frame: int, complete: bool):
        """Make the pose the last one of the track, with its missing joints filled."""
        missing = None if complete else np.isnan(pose[:, 0])
        if complete or not missing.any():
            track.value = track.joints = pose
            track.seen = frame
            return
        seen = np.array(np.broadcast_to(track.seen, missing.shape))
        joints = np.zeros_like(pose) if track.joints is None else track.joints.copy()
        filled, unknown = pose.copy(), []
        for joint in np.flatnonzero(missing):
            ahead, place = self._next_seen(track.track_id, joint)
            before = seen[joint]
            if ahead and before >= 0:
                share = (frame - before) / (frame + ahead - before)
                filled[joint] = (1 - share) * joints[joint] + share * place
            elif ahead:
                filled[joint] = place
            elif before >= 0:
                filled[joint] = joints[joint]
            else:
                unknown.append(joint)
        filled[unknown] = np.delete(filled, unknown, axis=0).mean(axis=0)
        joints[~missing], seen[~missing] = pose[~missing], frame
        track.value, track.joints, track.seen = filled, joints, seen

    def _next_seen(self, track_id: Hashable, joint: int) -> tuple[int, np.ndarray | None]:
        """In how many frames a joint is seen next, and where; 0 if not soon enough."""
        for ahead, entry in enumerate(self._queue, start=1):
            pose = entry.poses.get(track_id)
            if pose is not None and not np.isnan(pose[joint, 0]):
                return ahead, pose[joint]
        return 0, None

    def _end(self, tracks: list[_Track]):
        for track in tracks:
            track.ended = True
            del self._tracks[track.track_id]
        # Frames that came out already need no result.
        tracks = [track for track in tracks if track.last >= self._emitted]
        if tracks:
            self._engine.end(tracks)
            self._ended += tracks

    def _emit(self, stop: int) -> list[tuple[int, dict[Hashable, np.ndarray]]]:
        frames = []
        for frame in range(self._emitted, stop):
            tracks = [track for track in self._ended if track.start <= frame]
            tracks += [track for track in self._tracks.values() if track.start <= frame]
            refined = {}
            if tracks:
                values = self._engine.result(frame, tracks).astype(self._dtype, copy=False)
                refined = {track.track_id: value for track, value in zip(tracks, values, strict=True)}
            frames.append((frame, refined))
            self._emitted = frame + 1
            self._ended = [track for track in self._ended if track.last > frame]
        return frames


class _Engine(ABC):
    """Buffers of the last frames of all tracks, by slot, and by frame modulo `ring` on the last axis.

    A frame's result may need `full_delay` later ones. Poses are needed in every `step`-th frame of a track.
    """

    dtype = np.float64
    step = 1

    def __init__(self, full_delay: int, ring: int):
        self.full_delay, self.ring = full_delay, ring

    def check_shape(self, shape: tuple[int, int]):  # noqa: B027, filters take any
        """Refuse poses that a model is not made for."""

    def allocate(self, shape: tuple[int, int]):
        """Begin with no track."""
        self.buffers = {name: np.zeros((0, *size), self.dtype) for name, size in self.buffer_shapes(shape).items()}

    @abstractmethod
    def buffer_shapes(self, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Shape of what a track needs."""

    def reserve(self, slots: int):
        """Make room for so many tracks at once."""
        for name, buffer in self.buffers.items():
            if slots > len(buffer):
                more = np.zeros((max(len(buffer), 4), *buffer.shape[1:]), self.dtype)
                self.buffers[name] = np.concatenate([buffer, more])

    @abstractmethod
    def add(self, frame: int, tracks: list[_Track], poses: np.ndarray):
        """Take the poses (tracks, joints, dims) of a frame."""

    def end(self, tracks: list[_Track]):  # noqa: B027, filters need no notice
        """Take notice that tracks have ended."""

    @abstractmethod
    def result(self, frame: int, tracks: list[_Track]) -> np.ndarray:
        """Refined poses (tracks, joints, dims) of a frame from what is known by now."""


def _slots(tracks: list[_Track]) -> np.ndarray:
    return np.array([track.slot for track in tracks])


def _rows(slots: np.ndarray) -> np.ndarray | slice:
    """The same as an index; a slice, which copies nothing, where slots are in order."""
    in_order = slots[0] + len(slots) - 1 == slots[-1] and (np.diff(slots) == 1).all()
    return slice(slots[0], slots[-1] + 1) if in_order else slots


class _OneEuroEngine(_Engine):
    """One-Euro: the result of a frame follows from the state after the frame before."""

    def __init__(self, one_euro: OneEuroFilter):
        super().__init__(full_delay=0, ring=1)
        self.one_euro = one_euro

    def buffer_shapes(self, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        return {"filtered": shape, "speed": shape}

    def add(self, frame: int, tracks: list[_Track], poses: np.ndarray):
        filtered, speed = self.buffers["filtered"], self.buffers["speed"]
        for track, pose in zip(tracks, poses, strict=True):
            if track.start == frame:
                filtered[track.slot], speed[track.slot] = pose, 0
        rows = _rows(_slots(tracks))
        _, (filtered[rows], speed[rows]) = self.one_euro.filter_from(poses[None], (filtered[rows], speed[rows]))

    def result(self, frame: int, tracks: list[_Track]) -> np.ndarray:
        return self.buffers["filtered"][_slots(tracks)]


class _FilterEngine(_Engine):
    """A filter with a finite reach: filters what is within reach of a frame."""

    def __init__(self, pose_filter: SavitzkyGolayFilter | GaussianFilter):
        if pose_filter.lookahead is None:
            raise ValueError("`smoother` must not filter in blocks; leave `block_size` out for a stream.")
        super().__init__(pose_filter.lookahead, pose_filter.history + pose_filter.lookahead + 1)
        self.pose_filter = pose_filter

    def buffer_shapes(self, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        return {"poses": (*shape, self.ring)}

    def add(self, frame: int, tracks: list[_Track], poses: np.ndarray):
        self.frame = frame
        self.buffers["poses"][_slots(tracks), ..., frame % self.ring] = poses

    def result(self, frame: int, tracks: list[_Track]) -> np.ndarray:
        result = np.empty((len(tracks), *self.buffers["poses"].shape[1:-1]))
        groups = defaultdict(list)  # those that have the same frames
        for index, track in enumerate(tracks):
            last = track.last if track.ended else self.frame
            groups[max(track.start, frame - self.pose_filter.history), last].append(index)
        for (first, last), members in groups.items():
            places = np.arange(first, last + 1) % self.ring
            poses = self.buffers["poses"][_slots([tracks[index] for index in members])][..., places]
            result[members] = self.pose_filter.filter(np.moveaxis(poses, -1, 0))[frame - first]
        return result


class _WindowEngine(_Engine):
    """A model: sums of its windows, which are refined as soon as their last frame is there.

    Poses and extents are kept twice, one ring behind the other, so that every window is a slice.
    """

    dtype = np.float32

    def __init__(self, model: torch.nn.Module, stride: int | None):
        if model.training:
            raise ValueError("`smoother` must be in evaluation mode; call `model.eval()` first.")
        config = model.config
        self.model, self.network, self.window = model, model.base_model, config.window_size
        self.is_deciwatch = config.model_type == "deciwatch"
        self.given = config.window_size if self.is_deciwatch else config.output_size
        self.step = config.sample_interval if self.is_deciwatch else 1
        self.stride = config.window_stride if stride is None else stride
        if not 1 <= self.stride <= self.given or self.stride % self.step:
            raise ValueError(
                f"`stride` must be from 1 to {self.given} frames"
                + (f" and a multiple of `sample_interval`, {self.step}," if self.step > 1 else ",")
                + f" got {self.stride}."
            )
        # With a stride the last window begins where the track's end wants it, and that only shows when a pose is missing.
        super().__init__(self.window - 1 + (self.step if self.stride > self.step else 0), self.window + self.step)

    def check_shape(self, shape: tuple[int, int]):
        config = self.model.config
        if self.is_deciwatch and shape != (config.num_joints, config.joint_dim):
            raise ValueError(
                f"`poses` must have the shape that the model is made for, ({config.num_joints}, {config.joint_dim}), got "
                f"{shape}."
            )

    def buffer_shapes(self, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        ring = self.ring
        return {"poses": (*shape, 2 * ring), "extents": (2 * ring,), "sums": (*shape, ring), "counts": (ring,)}

    def add(self, frame: int, tracks: list[_Track], poses: np.ndarray):
        self.frame = frame
        slots, place = _slots(tracks), frame % self.ring
        rows = _rows(slots)
        extents = (poses.max(axis=1) - poses.min(axis=1)).max(axis=1)
        for copy in (place, place + self.ring):
            self.buffers["poses"][rows, ..., copy] = poses
            self.buffers["extents"][rows, copy] = extents
        self.buffers["sums"][rows, ..., place] = 0
        self.buffers["counts"][rows, place] = 0
        ages = frame - self.window + 1 - np.array([track.start for track in tracks])
        due = (ages >= 0) & (ages % self.stride == 0)
        if due.any():
            slots = slots[due]
            rows, stop = _rows(slots), place + self.ring + 1
            refined = self.refine(
                self.buffers["poses"][rows, ..., stop - self.window : stop],
                self.buffers["extents"][rows, stop - self.window : stop],
            )
            self.sum_up(rows, stop - self.window, refined)

    def end(self, tracks: list[_Track]):
        """Refine the windows that reach over the end of a track, or end with it beside the stride."""
        windows = []
        for track in tracks:
            length = track.last - track.start + 1
            if self.is_deciwatch:  # up to the next pose that would be needed
                span = -(-(length - 1) // self.step) * self.step + 1
            else:  # so far that all frames come out
                span = length + self.window - self.given
            starts = window_starts(max(span, self.window), self.window, self.stride)
            windows += [(track, start) for start in starts if start + self.window > length or start % self.stride]
        if not windows:
            return
        slots = _slots([track for track, _ in windows])
        firsts = np.array([track.start + start for track, start in windows])
        lasts = np.array([track.last for track, _ in windows])
        for slot, first, last, refined in zip(
            slots, firsts, lasts, self.refine_filled(slots, firsts, lasts), strict=True
        ):
            self.sum_up(slot, first, refined[..., : last - first + 1])

    def sum_up(self, rows: np.ndarray | slice | int, first: int, refined: np.ndarray):
        """Add refined poses (..., joints, dims, frames) from a frame on."""
        start, frames = first % self.ring, refined.shape[-1]
        head = min(self.ring - start, frames)  # up to the end of the ring; the rest goes to its beginning
        for places, part in (
            (slice(start, start + head), refined[..., :head]),
            (slice(frames - head), refined[..., head:]),
        ):
            self.buffers["sums"][rows, ..., places] += part
            self.buffers["counts"][rows, places] += 1

    def result(self, frame: int, tracks: list[_Track]) -> np.ndarray:
        slots, place = _slots(tracks), frame % self.ring
        counts = self.buffers["counts"][slots, place]
        result = self.buffers["sums"][slots, ..., place] / np.maximum(counts, 1)[:, None, None]
        bare = np.flatnonzero(counts == 0)
        if len(bare):
            lasts = np.array([tracks[index].last if tracks[index].ended else self.frame for index in bare])
            starts = np.array([tracks[index].start for index in bare])
            firsts = np.maximum(lasts - self.window + 1 - starts, 0) // self.step * self.step + starts
            beyond = np.maximum(frame - firsts - self.given + 1, 0)
            firsts += -(-beyond // self.step) * self.step
            refined = self.refine_filled(slots[bare], firsts, lasts)
            result[bare] = refined[np.arange(len(bare)), ..., frame - firsts]
        return result

    def refine_filled(self, slots: np.ndarray, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
        """Windows by first frame, in which the pose of a last frame goes on, refined: (windows, joints, dims, frames)."""
        places = np.minimum(firsts[:, None] + np.arange(self.window), lasts[:, None]) % self.ring
        windows = np.moveaxis(self.buffers["poses"][slots[:, None], ..., places], 1, -1)
        return self.refine(windows, self.buffers["extents"][slots[:, None], places])

    def refine(self, windows: np.ndarray, extents: np.ndarray) -> np.ndarray:
        """Refined windows (windows, joints, dims, frames); `extents` (windows, frames) are those of the poses."""
        device, network = self.model.device, self.network
        with torch.inference_mode():
            poses = torch.from_numpy(windows).to(device)
            if self.is_deciwatch:
                refined = network.refine_windows(poses.movedim(-1, 1).to(network.dtype)).movedim(1, -1)
            else:
                normalize = network.config.window_normalization == "person"
                scales = network.scales(torch.from_numpy(extents).to(device)) if normalize else None
                refined = network.refine_channels(poses.flatten(1, 2), scales).unflatten(1, poses.shape[1:3])
            return refined.float().cpu().numpy()


__all__ = ["PoseStream"]
