"""Videos as frames, and frames as a video, one at a time; PyAV does the work (`pip install hvmodels[video]`)."""

import math
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.utils import logging

from .pipelines.pipeline_pose_estimation import image_files, read_image


VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm",
    ".wmv",
}  # fmt: skip
DEFAULT_FRAME_RATE = 30.0
CAMERA_FORMATS = {"Linux": "v4l2", "Darwin": "avfoundation", "Windows": "dshow"}
logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class VideoFrame:
    """One frame.

    Args:
        index: From 0.
        time: Seconds since the first frame, `index / frame_rate`.
        image: (height, width, 3) uint8, RGB, upright.
    """

    index: int
    time: float
    image: np.ndarray


class VideoReader:
    """Frames of a constant rate; iterate over it for `VideoFrame`s. Made by `read_video`.

    Args:
        name: For messages.
        open_frames: Gives an iterator over images, one a frame of the constant rate.
        size: Width and height of the upright picture.
        frame_rate: Frames a second of what the iteration gives.
        num_frames: How many there are as far as is known beforehand, an estimate for files; None if unknown.
        is_rewindable: Whether the frames can be read again, which those of cameras and iterators cannot.
    """

    def __init__(
        self,
        name: str,
        open_frames: Callable[[], Iterator[np.ndarray]],
        size: tuple[int, int],
        frame_rate: float,
        num_frames: int | None,
        is_rewindable: bool,
    ):
        self.name, self.size, self.frame_rate = name, size, frame_rate
        self.num_frames, self.is_rewindable = num_frames, is_rewindable
        self._open_frames = open_frames

    def __iter__(self) -> Iterator[VideoFrame]:
        """The frames.

        Raises:
            ValueError: If the frames are not of one size, or the data is corrupt; if they cannot be read again.
        """
        open_frames = self._open_frames
        if open_frames is None:
            raise ValueError(f"`video` ({self.name}) can be read once only, and was.")
        if not self.is_rewindable:
            self._open_frames = None
        for index, image in enumerate(open_frames()):
            size = (image.shape[1], image.shape[0])
            if size != self.size:
                raise ValueError(
                    f"`video` ({self.name}) must have frames of one size; frame {index} has {size[0]} x {size[1]} "
                    f"pixels and the first {self.size[0]} x {self.size[1]}."
                )
            yield VideoFrame(index, index / self.frame_rate, image)


def read_video(source: Any, frame_rate: float | None = None) -> VideoReader:
    """Open a video; only one frame at a time is in memory.

    Files are turned upright as their display matrix says. Frames of a file or camera come at a constant rate: the frame
    at time `index / frame_rate` is the last one that had begun by then, give or take half a frame. If the file's rate
    varies, some are so repeated and others left out. Sound, and pixels that are not square, are left aside.

    Args:
        source: Video file or URL; folder of images, by name; list, array (frames, height, width, 3) or iterator of
            images (RGB arrays, PIL images, paths); or a camera, as its number or as PyAV names it: `/dev/video0`
            (Linux), `video=Name` (Windows). Cameras need a PyAV built with its devices, which that of PyPI may lack.
        frame_rate: Frames a second. A file or camera is resampled to it, its own average if absent; of images it is
            what they are taken to have, 30 if absent.

    Raises:
        ImportError: Without PyAV, if it is needed.
        ValueError: If there is no such file, or it is empty, corrupt or without video.
        TypeError: If the source is of another type.
    """
    if frame_rate is not None and not (
        isinstance(frame_rate, int | float | Fraction) and not isinstance(frame_rate, bool) and 0 < frame_rate < 1e4
    ):
        raise ValueError(f"`frame_rate` must be a positive number of frames a second, got {frame_rate!r}.")
    if isinstance(source, VideoReader):
        return source
    if isinstance(source, int) and not isinstance(source, bool):
        return _open_camera(source, frame_rate)
    if isinstance(source, str | PathLike):
        name = str(source)
        if name.startswith(("/dev/video", "video=")):
            return _open_camera(name, frame_rate)
        if "://" not in name:
            if Path(name).is_dir():
                return _open_images(image_files(name), name, frame_rate)
            if not Path(name).exists():
                raise ValueError(f"`video` must be a file, a folder of images, a URL or a camera; {name!r} is none.")
            if Path(name).stat().st_size == 0:
                raise ValueError(f"`video` ({name}) must be a video file; this file is empty.")
        return _open_file(name, frame_rate)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise ValueError(
            f"`video` must be an array (frames, height, width, 3) of uint8, got {source.dtype} of shape {source.shape}."
        )
    if isinstance(source, dict | bytes | Image.Image) or not hasattr(source, "__iter__"):
        raise TypeError(
            "`video` must be a file, a URL, a folder of images, an iterator over images or the number of a camera, got "
            f"{type(source).__name__}."
        )
    return _open_images(source, type(source).__name__, frame_rate)


def _at_constant_rate(
    frames: Iterator[tuple[float | None, np.ndarray]], frame_rate: float, own_rate: float
) -> Iterator[np.ndarray]:
    """One image a tick of `frame_rate`, of frames (time, image); those without a time take a tick each.

    The image is the last that began by then, or up to half a tick or half a frame of the frames' own average rate later,
    whichever is less, so that jitter of the times does no harm.
    """
    tolerance = 0.5 * min(1.0, frame_rate / own_rate)
    tick, waiting, start = 0, None, None
    for time, image in frames:
        if time is None:
            yield image
            continue
        start = time if start is None else start
        first_tick = math.ceil((time - start) * frame_rate - tolerance)
        while waiting is not None and tick < first_tick:
            yield waiting
            tick += 1
        waiting = image
    if waiting is not None:
        yield waiting


def _open_images(source: Iterable, name: str, frame_rate: float | None) -> VideoReader:
    is_rewindable = hasattr(source, "__len__")
    images = iter(source)
    first = next(images, None)
    if first is None:
        raise ValueError(f"`video` ({name}) must have at least one frame, got none.")
    size = read_image(first).size

    def frames() -> Iterator[np.ndarray]:
        for image in source if is_rewindable else chain([first], images):
            try:
                yield np.asarray(read_image(image))
            except (TypeError, ValueError) as error:
                raise type(error)(f"`video` ({name}) has a frame that is no image: {error}") from error

    num_frames = len(source) if is_rewindable else None
    return VideoReader(name, frames, size, float(frame_rate or DEFAULT_FRAME_RATE), num_frames, is_rewindable)


def _open_file(name: str, frame_rate: float | None) -> VideoReader:
    av = _import_av()
    with _open_container(name) as container:
        stream = _video_stream(container, name)
        own_rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE)
        rate = float(frame_rate or own_rate)
        if stream.duration:
            num_frames = round(float(stream.duration * stream.time_base) * rate)
        else:
            num_frames = round(container.duration / av.time_base * rate) if container.duration else None
    first = next(_decode(name), None)
    if first is None:
        raise ValueError(f"`video` ({name}) must have at least one frame, got none.")
    size = (first[1].shape[1], first[1].shape[0])

    def frames() -> Iterator[np.ndarray]:
        return _at_constant_rate(_decode(name), rate, own_rate)

    return VideoReader(name, frames, size, rate, num_frames and max(num_frames, 1), True)


def _open_camera(camera: int | str, frame_rate: float | None) -> VideoReader:
    system = platform.system()
    device = CAMERA_FORMATS.get(system)
    address = f"/dev/video{camera}" if isinstance(camera, int) and system == "Linux" else str(camera)
    container = _open_container(address, format=device)
    stream = _video_stream(container, address)
    images = _read_frames(container, stream, address)
    first = next(images, None)
    if first is None:
        raise ValueError(f"`video` ({address}) must be a camera that gives frames, got none.")
    size = (first[1].shape[1], first[1].shape[0])
    own_rate = float(stream.average_rate or DEFAULT_FRAME_RATE)
    rate = float(frame_rate or own_rate)

    def frames() -> Iterator[np.ndarray]:
        return _at_constant_rate(chain([first], images), rate, own_rate)

    return VideoReader(address, frames, size, rate, None, False)


def _open_container(name: str, **options: Any) -> Any:
    av = _import_av()
    try:
        return av.open(name, **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"`video` ({name}) cannot be read as a video: {error}") from error


def _video_stream(container: Any, name: str) -> Any:
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise ValueError(f"`video` ({name}) must have a video stream; there is {kinds} only.")
    return streams[0]


def _decode(name: str) -> Iterator[tuple[float | None, np.ndarray]]:
    with _open_container(name) as container:
        stream = _video_stream(container, name)
        stream.thread_type = "AUTO"
        count = 0
        for item in _read_frames(container, stream, name):
            count += 1
            yield item
        if count < stream.frames:
            logger.warning(f"`video` ({name}) ends after {count} of {stream.frames} frames; the file is cut off.")


def _read_frames(container: Any, stream: Any, name: str) -> Iterator[tuple[float | None, np.ndarray]]:
    """(time, upright RGB image) of each frame."""
    av = _import_av()
    count = 0
    try:
        for frame in container.decode(stream):
            image = frame.to_ndarray(format="rgb24")
            quarter_turns = round(frame.rotation / 90) % 4  # counterclockwise
            yield frame.time, np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
            count += 1
    except av.error.FFmpegError as error:
        raise ValueError(f"`video` ({name}) is corrupt after {count} frames: {error}") from error


class VideoWriter:
    """An H.264 video (MP4, yuv420p), which every player shows, of frames that are given one at a time.

    H.264 of this kind has even sides only: of an odd width or height the last column or row is repeated once.

        with VideoWriter("out.mp4", frame_rate=30) as writer:
            writer.write(image)

    Args:
        path: File to write; its folder is made. Nothing is left of it if the `with` block fails.
        frame_rate: Frames a second.
        quality: x264's constant rate factor: 0 is lossless, 23 usual, 51 the worst.

    Raises:
        ImportError: Without PyAV.
        ValueError: If the file's name does not end in .mp4, .m4v, .mov or .mkv; if PyAV has no H.264 encoder.
    """

    def __init__(self, path: str | PathLike, frame_rate: float = DEFAULT_FRAME_RATE, quality: int = 20):
        av = _import_av()
        self.path = Path(path)
        if self.path.suffix.lower() not in (".mp4", ".m4v", ".mov", ".mkv"):
            raise ValueError(f"A video to write must be named .mp4, .m4v, .mov or .mkv, got {str(path)!r}.")
        if not frame_rate > 0:
            raise ValueError(f"`frame_rate` must be a positive number of frames a second, got {frame_rate!r}.")
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.size = None
        self._container = av.open(str(self.path), "w")
        try:
            self._stream = self._container.add_stream("libx264", rate=self.frame_rate)
        except (ValueError, av.error.FFmpegError) as error:
            self._container.close()
            self.path.unlink(missing_ok=True)
            raise ValueError("This build of PyAV has no H.264 encoder (libx264); that of PyPI has one.") from error
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(quality), "preset": "veryfast"}

    def write(self, image: np.ndarray | Image.Image):
        """Add a frame: RGB, (height, width, 3) uint8 or PIL image, all of one size.

        Raises:
            ValueError: If it has another size than the first.
        """
        import av

        image = np.asarray(image)
        size = (image.shape[1], image.shape[0])
        if self.size is None:
            self.size = size
            self._stream.width, self._stream.height = (side + side % 2 for side in size)
        if size != self.size:
            raise ValueError(f"`image` must have the size of the first frame, {self.size}, got {size}.")
        if size[0] % 2 or size[1] % 2:
            image = np.pad(image, ((0, size[1] % 2), (0, size[0] % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self):
        """Write what is left; a video needs at least one frame.

        Raises:
            ValueError: If no frame was written; no file is left then.
        """
        if self.size is None:
            self._discard()
            raise ValueError(f"A video needs at least one frame; none was written to {str(self.path)!r}.")
        self._container.mux(self._stream.encode())
        self._container.close()

    def _discard(self):
        self._container.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type | None, *_):
        if kind is None:
            self.close()
        else:
            self._discard()


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("Videos need PyAV: `pip install hvmodels[video]`.") from error
    return av


__all__ = ["VIDEO_SUFFIXES", "VideoFrame", "VideoReader", "VideoWriter", "read_video"]
