"""Poses in space: as a figure, as a video beside the picture, and as a page in which they are turned by hand.

A person is blue on its left, orange on its right and green between. Everything is drawn in a frame with x to the right, y away
and z up; `axes` says in which one the poses are given.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..keypoint_sets import HUMAN36M17, convert_keypoints, find_keypoint_set
from ..pose_sequences import PoseSequence
from ..smoothing.filters import GaussianFilter
from ..video import VideoReader, VideoWriter
from .pose_video import TrackDrawer
from .poses import SIDE_COLOURS, side_of


AXES = ("camera", "upright")
METRES = {"metre": 1.0, "millimetre": 0.001}
SPACING = 1.2  # metres between persons who have no places
LEAST_REACH = (0.7, 1.0)  # metres that are seen around the middle at least, sideways and upwards
FOLLOWING_SECONDS = 0.7  # for which the eye's path is smoothed
DEFAULT_FRAME_RATE = 30.0
TILE = 0.5  # metres
DISTANCE = 3.5  # of the eye from the middle, in radii of what is seen
BACKGROUND, GRID, SHADOW, TEXT = (250, 250, 250), (222, 226, 230), (200, 205, 211), (40, 44, 52)
DEFAULT_FOCAL_LENGTH = 1.15  # widths of the picture: 47 degrees, as of Human3.6M's cameras
VIEWER, VIEWER_DATA = "pose_3d_viewer.html", "/* poses */ null"


@dataclass(frozen=True)
class _Scene:
    """Persons upright in metres.

    Args:
        tracks: First frame and (frames, joints, 3) of each person, NaN where it is out of sight.
        links: Pairs of joints to join.
        sides: `"left"` or `"right"` of each link; None for one that joins both.
        middles: (frames, 3) of all persons, where the eye looks; it goes along with them, a little late.
        reach: Around that, of what is to be seen, sideways and upwards.
        ground: Height of the lowest feet.
    """

    tracks: dict[int | str, tuple[int, np.ndarray]]
    links: list[tuple[int, int]]
    sides: list[str | None]
    middles: np.ndarray
    reach: tuple[float, float]
    ground: float

    @property
    def radius(self) -> float:
        """The larger reach."""
        return max(self.reach)

    def scale(self, width: float, height: float) -> float:
        """Pixels of a metre in the middle of a picture."""
        return 0.45 * min(width / self.reach[0], height / self.reach[1])

    def persons(self, frame: int) -> list[np.ndarray]:
        """(joints, 3) of everybody in a frame."""
        rows = ((poses, frame - start) for start, poses in self.tracks.values())
        return [poses[row] for poses, row in rows if 0 <= row < len(poses)]


def _read_scene(sequence: PoseSequence, links: Iterable[tuple[int, int]] | None, axes: str) -> _Scene:
    if axes not in AXES:
        raise ValueError(f"`axes` must be one of {list(AXES)}, got {axes!r}.")
    if not isinstance(sequence, PoseSequence):
        raise TypeError(f"`sequence` must be a PoseSequence, got {type(sequence).__name__}.")
    dims = {track.keypoints.shape[2] for track in sequence.tracks}
    if dims - {3} or sequence.unit not in METRES:
        raise ValueError(
            f"`sequence` must have poses in space, in metres or millimetres, got {sorted(dims)} coordinates a joint and the "
            f"unit {sequence.unit!r}; `pipeline('pose-lifting')` makes them of 2D poses."
        )
    if not sequence.tracks:
        return _Scene({}, [], [], np.zeros((len(sequence), 3)), LEAST_REACH, -LEAST_REACH[1])
    joints = sequence.tracks[0].keypoints.shape[1]
    names = list(sequence.keypoint_names or (f"keypoint_{index}" for index in range(joints)))
    if links is None:
        known = find_keypoint_set(names)
        if known is None:
            raise ValueError("`links` must be given: pairs of joints to join, since the joints are of no known set.")
        links = known.links
    links = [tuple(link) for link in links]
    for link in links:
        if len(link) != 2 or not all(0 <= index < joints for index in link):
            raise ValueError(f"`links` must join joints 0 to {joints - 1}, got {link}.")
    # A limb belongs to a side if neither of its ends is on the other.
    ends = [{side_of(names[index]) for index in link} - {None} for link in links]
    sides = [found.pop() if len(found) == 1 else None for found in ends]
    tracks = {}
    for track in sequence.tracks:
        poses = track.keypoints.astype(np.float64) * METRES[sequence.unit]
        if axes == "camera":
            poses = np.stack([poses[..., 0], poses[..., 2], -poses[..., 1]], axis=-1)
        if track.scores is not None:  # out of sight
            poses[(track.scores <= 0).all(axis=1)] = np.nan
        tracks[track.track_id] = (track.start, poses)
    if len(tracks) > 1 and all(_is_relative(poses) for _, poses in tracks.values()):
        places = SPACING * (np.arange(len(tracks)) - (len(tracks) - 1) / 2)
        tracks = {
            track_id: (start, poses + np.array([place, 0, 0]))
            for (track_id, (start, poses)), place in zip(tracks.items(), places, strict=True)
        }
    middles = _follow([(start, poses) for start, poses in tracks.values()], len(sequence), sequence.frame_rate)
    around = [poses - middles[start : start + len(poses), None] for start, poses in tracks.values()]
    half = 1.1 * np.nan_to_num(np.nanpercentile(np.abs(np.concatenate(around)), 99, axis=(0, 1)))
    reach = (max(LEAST_REACH[0], float(half[:2].max())), max(LEAST_REACH[1], float(half[2])))
    heights = np.concatenate([poses[..., 2].ravel() for _, poses in tracks.values()])
    return _Scene(tracks, links, sides, middles, reach, float(np.nan_to_num(np.nanpercentile(heights, 1))))


def _follow(tracks: list[tuple[int, np.ndarray]], num_frames: int, frame_rate: float | None) -> np.ndarray:
    """(frames, 3) middle of the boxes around the persons of each frame, smoothed; still where nobody is seen."""
    low, high = np.full((num_frames, 3), np.inf), np.full((num_frames, 3), -np.inf)
    for start, poses in tracks:
        rows = slice(start, start + len(poses))
        low[rows] = np.fmin(low[rows], np.where(np.isnan(poses), np.inf, poses).min(axis=1))
        high[rows] = np.fmax(high[rows], np.where(np.isnan(poses), -np.inf, poses).max(axis=1))
    frames = np.flatnonzero(np.isfinite(low[:, 0]))
    if not len(frames):
        return np.zeros((num_frames, 3))
    middles = (low[frames] + high[frames]) / 2
    middles = np.stack([np.interp(np.arange(num_frames), frames, values) for values in middles.T], axis=1)
    # Without the straight way, since the filter takes a sequence for turning back at its ends.
    way = np.linspace(middles[0], middles[-1], num_frames)
    return way + GaussianFilter(FOLLOWING_SECONDS * (frame_rate or DEFAULT_FRAME_RATE)).filter(middles - way)


def _is_relative(poses: np.ndarray) -> bool:
    """Whether a joint is at the origin in all frames, as the pelvis of what a lifting model gives."""
    return bool((np.nanmax(np.abs(poses), axis=(0, 2), initial=0) < 1e-4).any())


def place_persons(
    lifted: PoseSequence, poses: PoseSequence, focal_length: float = DEFAULT_FOCAL_LENGTH
) -> PoseSequence:
    """Put persons, whose poses in space are relative to their pelvis, where the picture shows them.

    A person is as far away, the same in all frames, as makes its pose as large as it is seen in most of them. This rests on
    the pose's own size and on the opening angle of the camera, both of which are guesses, and who comes nearer does not do
    so here: good for looking, not for measuring.

    Args:
        lifted: Of `pipeline("pose-lifting")`, in the camera's axes and in metres.
        poses: What was lifted, in pixels, with `image_size`.
        focal_length: Of the camera, in widths of the picture.

    Returns:
        `lifted` with the camera at the origin.

    Raises:
        ValueError: If the two are not of the same tracks, frames and units, or a joint set is unknown.
    """
    if lifted.unit != "metre" or poses.unit != "pixel" or poses.image_size is None:
        raise ValueError(
            "`lifted` must be in metres, and `poses` in pixels of an `image_size`, got the units "
            f"{lifted.unit!r} and {poses.unit!r} and the size {poses.image_size}."
        )
    spans = [[(track.track_id, track.start, track.end) for track in sequence.tracks] for sequence in (lifted, poses)]
    if spans[0] != spans[1]:
        raise ValueError("`lifted` and `poses` must have the same tracks, over the same frames.")
    known = [find_keypoint_set(sequence.keypoint_names or ()) for sequence in (lifted, poses)]
    if None in known:
        raise ValueError("`lifted` and `poses` must have joints of a known set, see `hvmodels.keypoint_sets`.")
    centre = np.array(poses.image_size) / 2
    tracks = []
    for track, seen in zip(lifted.tracks, poses.tracks, strict=True):
        space = convert_keypoints(track.keypoints.astype(np.float64), known[0], HUMAN36M17)
        plane = convert_keypoints(seen.keypoints.astype(np.float64), known[1], HUMAN36M17)
        is_known = ~(np.isnan(space[..., :1]) | np.isnan(plane[..., :1]))
        usable = is_known[:, :, 0].sum(axis=1) > 1
        if not usable.any():
            tracks.append(replace(track, keypoints=np.full_like(track.keypoints, np.nan)))
            continue
        space_middle, space_size = _middle_and_size(space[..., :2], is_known)
        plane_middle, plane_size = _middle_and_size(plane, is_known)
        scale = float(np.median((space_size / np.maximum(plane_size, 1e-6))[usable]))  # metres a pixel
        sideways = (plane_middle - centre) * scale - space_middle
        rows, frames = np.arange(len(track)), np.flatnonzero(usable)
        place = np.stack([np.interp(rows, frames, values[usable]) for values in sideways.T], axis=1)
        depth = np.full(len(track), focal_length * poses.image_size[0] * scale)
        tracks.append(
            replace(track, keypoints=track.keypoints + np.column_stack([place, depth]).astype(np.float32)[:, None])
        )
    return replace(lifted, tracks=tracks)


def _middle_and_size(points: np.ndarray, is_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (frames, dims) of the known points (frames, joints, dims), and their root mean squared distance from it."""
    counts = np.maximum(is_known.sum(axis=1), 1)
    points = np.where(is_known, points, 0)
    middle = points.sum(axis=1) / counts
    squares = (np.where(is_known, points - middle[:, None], 0) ** 2).sum(axis=(1, 2))
    return middle, np.sqrt(squares / counts[:, 0])


def plot_poses_3d(
    sequence: PoseSequence,
    frames: Sequence[int] | None = None,
    links: Iterable[tuple[int, int]] | None = None,
    axes: Literal["camera", "upright"] = "camera",
    azimuth: float = 30.0,
    elevation: float = 10.0,
) -> Any:
    """Draw some frames of poses in space side by side.

    Args:
        sequence: Poses in metres or millimetres.
        frames: Which ones; None for five, evenly spread.
        links: Pairs of joints to join; None for those of the known set.
        axes: In which the poses are: `"camera"`, y down and z away, or `"upright"`, z up.
        azimuth: Degrees by which the eye goes round the persons to the right, from where the camera is.
        elevation: Degrees by which it looks down.

    Returns:
        `matplotlib.figure.Figure`; save it with `figure.savefig(path)`.

    Raises:
        ValueError: If the poses are not in space, or a frame is out of range.
        ImportError: Without matplotlib.
    """
    scene = _read_scene(sequence, links, axes)
    if frames is None:
        frames = np.unique(np.linspace(0, len(sequence) - 1, 5).round().astype(int)).tolist()
    frames = list(frames)
    if not frames or not all(0 <= frame < len(sequence) for frame in frames):
        raise ValueError(f"`frames` must be one or more of the frames 0 to {len(sequence) - 1}, got {frames}.")
    pyplot = _pyplot()
    figure = pyplot.figure(figsize=(3.2 * len(frames), 3.4), layout="constrained")
    for position, frame in enumerate(frames):
        axis = figure.add_subplot(1, len(frames), position + 1, projection="3d")
        for person in scene.persons(frame):
            for (start, end), side in zip(scene.links, scene.sides, strict=True):
                colour = np.array(SIDE_COLOURS[side]) / 255
                axis.plot(*person[[start, end]].T, color=colour, linewidth=2.5, solid_capstyle="round")
        axis.set_title(f"frame {frame}", fontsize=9)
        for set_limits, middle in zip(
            (axis.set_xlim, axis.set_ylim, axis.set_zlim), scene.middles[frame], strict=True
        ):
            set_limits(middle - scene.radius, middle + scene.radius)
        axis.set_box_aspect((1, 1, 1))
        axis.view_init(elev=elevation, azim=azimuth - 90)
        for values in (axis.xaxis, axis.yaxis, axis.zaxis):
            values.set_major_locator(pyplot.MultipleLocator(1.0))
            values.set_tick_params(labelsize=6)
    return figure


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg", force=False)
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install hvmodels[viz]`.") from error
    return pyplot


class SpaceDrawer:
    """Draw the persons of one frame in space, on a tiled ground; Pillow alone is needed.

    Args:
        sequence: Poses in metres or millimetres.
        links: Pairs of joints to join; None for those of the known set.
        axes: In which the poses are: `"camera"`, y down and z away, or `"upright"`, z up.
        size: (width, height) of the picture in pixels.
        azimuth: Degrees by which the eye goes round the persons to the right, from where the camera is.
        elevation: Degrees by which it looks down.
        turn: Degrees by which it goes on in a second.

    Raises:
        ValueError: If the poses are not in space, or joints of no known set have no links.
    """

    def __init__(
        self,
        sequence: PoseSequence,
        links: Iterable[tuple[int, int]] | None = None,
        axes: Literal["camera", "upright"] = "camera",
        size: tuple[int, int] = (480, 480),
        azimuth: float = 30.0,
        elevation: float = 10.0,
        turn: float = 0.0,
    ):
        self.scene = _read_scene(sequence, links, axes)
        self.frame_rate = sequence.frame_rate or DEFAULT_FRAME_RATE
        self.size, self.azimuth, self.elevation, self.turn = size, azimuth, elevation, turn
        self._factor = 2  # Pillow draws without smoothing, so that a larger canvas is drawn and scaled down

    def draw(self, frame: int, text: str | None = None) -> Image.Image:
        """The picture of one frame.

        Args:
            frame: Its number.
            text: What is written above, a line or more.
        """
        width, height = (side * self._factor for side in self.size)
        canvas = Image.new("RGB", (width, height), BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        azimuth = math.radians(self.azimuth + self.turn * frame / self.frame_rate)
        project = partial(self._project, self.scene.middles[frame], azimuth, width, height)
        self._draw_ground(draw, frame, project)
        line_width = max(2, round(0.011 * min(width, height)))
        bones = []
        for person in self.scene.persons(frame):
            shadow, _ = project(np.column_stack([person[:, :2], np.full(len(person), self.scene.ground)]))
            for link in self.scene.links:
                if np.isfinite(shadow[list(link)]).all():
                    draw.line([tuple(shadow[index]) for index in link], fill=SHADOW, width=line_width)
            points, depths = project(person)
            for (start, end), side in zip(self.scene.links, self.scene.sides, strict=True):
                if np.isfinite(depths[[start, end]]).all():
                    bones.append((depths[[start, end]].mean(), points[start], points[end], SIDE_COLOURS[side]))
        for depth, start, end, colour in sorted(bones, key=lambda bone: -bone[0]):
            # What is behind is paler.
            share = float(np.clip(0.35 + 0.35 * depth / self.scene.radius, 0, 0.6))
            colour = tuple(
                round((1 - share) * own + share * other) for own, other in zip(colour, BACKGROUND, strict=True)
            )
            draw.line([tuple(start), tuple(end)], fill=colour, width=line_width)
            for x, y in (start, end):
                radius = line_width / 2
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        if text:
            font = ImageFont.load_default(max(20, round(0.045 * min(width, height))))
            draw.multiline_text((0.03 * width, 0.03 * width), text, font=font, fill=TEXT)
        return canvas.resize(self.size, Image.Resampling.BOX)

    def _draw_ground(self, draw: ImageDraw.ImageDraw, frame: int, project: Callable):
        count = math.ceil(self.scene.radius / TILE)
        nearest, reach = np.round(self.scene.middles[frame, :2] / TILE) * TILE, count * TILE
        for step in range(-count, count + 1):
            for start, end in (
                ((step * TILE, -reach), (step * TILE, reach)),
                ((-reach, step * TILE), (reach, step * TILE)),
            ):
                points, _ = project(np.array([[*(nearest + place), self.scene.ground] for place in (start, end)]))
                draw.line([tuple(point) for point in points], fill=GRID, width=self._factor)

    def _project(
        self, middle: np.ndarray, azimuth: float, width: int, height: int, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places (points, 2) in the picture, and depths behind the middle."""
        x, y, z = (points - middle).T
        x, y = x * math.cos(azimuth) + y * math.sin(azimuth), y * math.cos(azimuth) - x * math.sin(azimuth)
        elevation = math.radians(self.elevation)
        depth, up = (
            y * math.cos(elevation) - z * math.sin(elevation),
            y * math.sin(elevation) + z * math.cos(elevation),
        )
        distance = DISTANCE * self.scene.radius
        scale = self.scene.scale(width, height) * distance / np.maximum(distance + depth, 0.2 * distance)
        return np.stack([width / 2 + x * scale, height / 2 - up * scale], axis=-1), depth


def draw_lifted_video(
    video: VideoReader,
    poses: PoseSequence,
    lifted: PoseSequence,
    links: Iterable[tuple[int, int]] | None = None,
    actions: Sequence[Mapping[str, Any]] = (),
    axes: Literal["camera", "upright"] = "camera",
    azimuth: float = 30.0,
    elevation: float = 10.0,
    turn: float = 0.0,
    **options: Any,
) -> Iterator[Image.Image]:
    """The frames of a video with the poses drawn into them, and beside them the poses in space.

    Args:
        video: Made by `hvmodels.video.read_video`; must be one that can be read again.
        poses: Its poses in pixels.
        lifted: The same in space.
        links: Pairs of keypoints of `poses` to join.
        actions: What persons do, as `pipeline("skeleton-action-recognition")` tells it; written above.
        axes: See `SpaceDrawer`.
        azimuth: See `SpaceDrawer`.
        elevation: See `SpaceDrawer`.
        turn: See `SpaceDrawer`.
        options: See `pose_video.TrackDrawer`.

    Raises:
        ValueError: See `SpaceDrawer`.
    """
    width, height = video.size
    size = (min(max(width, height // 2), round(0.9 * height)), height)
    space = SpaceDrawer(lifted, None, axes, size, azimuth, elevation, turn)
    drawer, segments = TrackDrawer(links, **options), _segments(actions)
    for frame, persons in zip(video, poses.frames(), strict=True):
        drawn = drawer.draw(frame.image, persons)
        both = Image.new("RGB", (drawn.width + size[0], height), BACKGROUND)
        both.paste(drawn, (0, 0))
        both.paste(space.draw(frame.index, _caption(segments, frame.index)), (drawn.width, 0))
        yield both


def _segments(actions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One action of a person at a time: of windows that overlap, that with the nearest middle."""
    by_track: dict[Any, list] = {}
    for action in actions:
        by_track.setdefault(action["track_id"], []).append(action)
    segments = []
    for track_id, windows in by_track.items():
        windows = sorted(windows, key=lambda window: window["start_frame"] + window["end_frame"])
        middles = [(window["start_frame"] + window["end_frame"]) / 2 for window in windows]
        between = [math.ceil((first + second) / 2) for first, second in pairwise(middles)]
        for window, after, before in zip(windows, [0, *between], [*between, math.inf], strict=True):
            segments.append(
                {
                    "id": track_id,
                    "start": max(window["start_frame"], after),
                    "end": min(window["end_frame"], before),
                    "label": str(window["label"]),
                    "score": float(window["score"]),
                }
            )
    return segments


def _caption(segments: Iterable[Mapping[str, Any]], frame: int) -> str:
    return "\n".join(
        f"{segment['id']}: {segment['label']} {segment['score']:.2f}"
        for segment in segments
        if segment["start"] <= frame < segment["end"]
    )


def write_lifted_video(path: str | PathLike, video: VideoReader, *args: Any, **options: Any):
    """Write such a video (H.264).

    Args:
        path: File to write.
        video: See `draw_lifted_video`.
        args: Its other arguments.
        options: Likewise.
    """
    with VideoWriter(path, video.frame_rate) as writer:
        for image in draw_lifted_video(video, *args, **options):
            writer.write(image)


def write_pose_page(
    path: str | PathLike,
    sequence: PoseSequence,
    links: Iterable[tuple[int, int]] | None = None,
    axes: Literal["camera", "upright"] = "camera",
    actions: Sequence[Mapping[str, Any]] = (),
    title: str = "Poses in space",
):
    """Write an HTML page that plays poses in space and lets them be turned and zoomed: one file, no network.

    Args:
        path: File to write, .html.
        sequence: Poses in metres or millimetres.
        links: Pairs of joints to join; None for those of the known set.
        axes: In which the poses are: `"camera"`, y down and z away, or `"upright"`, z up.
        actions: See `draw_lifted_video`.
        title: Of the page.

    Raises:
        ValueError: If the file ends otherwise, or the poses are not in space.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`path` must end in .html, got {str(path)!r}.")
    scene = _read_scene(sequence, links, axes)
    side_numbers = {"left": 0, "right": 1, None: 2}
    data = {
        "title": title,
        "frameRate": sequence.frame_rate or DEFAULT_FRAME_RATE,
        "numFrames": len(sequence),
        "links": [[*link, side_numbers[side]] for link, side in zip(scene.links, scene.sides, strict=True)],
        "colours": [SIDE_COLOURS[side] for side in side_numbers],
        "middles": scene.middles.round(3).tolist(),
        "reach": [round(value, 3) for value in scene.reach],
        "ground": round(scene.ground, 3),
        "persons": [
            {"id": track_id, "start": start, "millimetres": _to_millimetres(poses)}
            for track_id, (start, poses) in scene.tracks.items()
        ],
        "actions": _segments(actions),
    }
    # "<" is written as an escape, so that no name ends the script.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = (files(__package__) / VIEWER).read_text(encoding="utf-8").replace(VIEWER_DATA, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _to_millimetres(poses: np.ndarray) -> list[list[int | None]]:
    """One list of x, y, z, x, ... a frame, None where a joint is missing."""
    rows = np.nan_to_num(poses.reshape(len(poses), -1) * 1000).round().astype(int).astype(object)
    rows[np.isnan(poses.reshape(len(poses), -1))] = None
    return rows.tolist()


__all__ = [
    "SpaceDrawer",
    "draw_lifted_video",
    "place_persons",
    "plot_poses_3d",
    "write_lifted_video",
    "write_pose_page",
]
