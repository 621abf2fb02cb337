"""Videos with the poses drawn into them: skeleton, box, number and path of each track. Pillow draws, PyAV writes."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..pose_sequences import PoseSequence
from ..video import VideoReader, VideoWriter
from .poses import draw_poses, person_colour


LAYOUTS = ("overlay", "side_by_side")


class TrackDrawer:
    """Draw the persons of one frame after the other, with the path that each has come.

    Args:
        links: Pairs of keypoints to join.
        layout: `"overlay"` draws into the frame; `"side_by_side"` puts the original to the left of that.
        trails: Frames for which the middle of a person's box leaves a trail; 0 for none.
        keypoint_threshold: Draw only keypoints of a higher score; 0 leaves out those that are a guess.

    Raises:
        ValueError: If the layout is unknown.
    """

    def __init__(
        self,
        links: Iterable[tuple[int, int]] | None = None,
        layout: str = "overlay",
        trails: int = 0,
        keypoint_threshold: float = 0.0,
    ):
        if layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
        self.links, self.layout, self.trails = list(links or ()), layout, trails
        self.keypoint_threshold = keypoint_threshold
        self._trails: dict[int | str, deque] = {}
        self._frame = 0

    def draw(self, image: np.ndarray | Image.Image, persons: Sequence[Mapping[str, Any]]) -> Image.Image:
        """The picture of one frame.

        Args:
            image: RGB, upright.
            persons: As the pose pipelines give them, with `track_id`. Nothing is drawn of a person without a keypoint
                above the threshold.
        """
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        shown = [
            person
            for person in persons
            if any(point["score"] > self.keypoint_threshold for point in person["keypoints"])
        ]
        drawn = image.copy()
        if self.trails:
            self._draw_trails(ImageDraw.Draw(drawn), shown, max(1, round(0.004 * max(image.size))))
        if shown:
            shown = [{**person, "keypoints": [_drawable(point) for point in person["keypoints"]]} for person in shown]
            drawn = draw_poses(drawn, shown, self.links, keypoint_threshold=self.keypoint_threshold)
        if self.layout == "overlay":
            return drawn
        both = Image.new("RGB", (2 * image.width, image.height))
        both.paste(image, (0, 0))
        both.paste(drawn, (image.width, 0))
        return both

    def _draw_trails(self, draw: ImageDraw.ImageDraw, persons: Sequence[Mapping[str, Any]], width: int):
        self._frame += 1
        for person in persons:
            box = person["box"]
            middle = ((box["xmin"] + box["xmax"]) / 2, (box["ymin"] + box["ymax"]) / 2)
            self._trails.setdefault(person["track_id"], deque()).append((self._frame, middle))
        for track_id, trail in list(self._trails.items()):
            while trail and trail[0][0] <= self._frame - self.trails:
                trail.popleft()
            if not trail:
                del self._trails[track_id]
            elif len(trail) > 1:
                draw.line([point for _, point in trail], fill=person_colour(track_id), width=width, joint="curve")


def _drawable(point: Mapping[str, Any]) -> Mapping[str, Any]:
    """A keypoint that is missing is nowhere; it gets a place where drawing leaves it out by its score."""
    return point if np.isfinite(point["x"]) else {**point, "x": 0.0, "y": 0.0, "score": -1.0}


def draw_video(
    video: VideoReader, sequence: PoseSequence, links: Iterable[tuple[int, int]] | None = None, **options: Any
) -> Iterator[Image.Image]:
    """The frames of a video with the poses drawn into them, one at a time.

    Args:
        video: Made by `hvmodels.video.read_video`; must be one that can be read again.
        sequence: Its poses in pixels.
        links: Pairs of keypoints to join.
        options: See `TrackDrawer`.
    """
    drawer = TrackDrawer(links, **options)
    for frame, persons in zip(video, sequence.frames(), strict=True):
        yield drawer.draw(frame.image, persons)


def write_pose_video(
    path: str | PathLike,
    video: VideoReader,
    sequence: PoseSequence,
    links: Iterable[tuple[int, int]] | None = None,
    **options: Any,
):
    """Write a video (H.264) with the poses drawn into it; arguments as of `draw_video`, errors as of `VideoWriter`.

    Args:
        path: File to write.
        video: See `draw_video`.
        sequence: See `draw_video`.
        links: See `draw_video`.
        options: See `TrackDrawer`.
    """
    with VideoWriter(path, video.frame_rate) as writer:
        for image in draw_video(video, sequence, links, **options):
            writer.write(image)


__all__ = ["LAYOUTS", "TrackDrawer", "draw_video", "write_pose_video"]
