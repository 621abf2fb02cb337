"""Reading and writing of videos; the videos are written here, by PyAV or by the writer under test."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from hvmodels.video import VideoWriter, read_video


av = pytest.importorskip("av")

LEVELS = [30, 60, 90, 120, 150, 180, 210]


def frame(level, size=(32, 24), corner=True):
    """Grey of a level that tells the frame, with a white upper left corner that tells what is up."""
    image = np.full((size[1], size[0], 3), level, np.uint8)
    if corner:
        image[: size[1] // 2, : size[0] // 2] = 255
    return image


def write(path, levels=LEVELS, size=(32, 24), rate=10, pts=None, rotation=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": "5"}
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index, level in enumerate(levels):
            picture = av.VideoFrame.from_ndarray(frame(level, size), format="rgb24")
            if pts is not None:
                picture.pts, picture.time_base = pts[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def levels_of(reader):
    """The grey of each frame, as its number in LEVELS."""
    return [int(np.abs(np.array(LEVELS) - item.image[-4:, -4:].mean()).argmin()) for item in reader]


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def test_reads_a_file_twice(tmp_path):
    reader = read_video(write(tmp_path / "a.mp4"))
    assert (reader.size, reader.frame_rate, reader.num_frames, reader.is_rewindable) == ((32, 24), 10.0, 7, True)
    assert levels_of(reader) == levels_of(reader) == list(range(7))
    frames = list(reader)
    assert [item.index for item in frames] == list(range(7))
    assert [item.time for item in frames] == [index / 10 for index in range(7)]
    assert frames[0].image.dtype == np.uint8 and np.abs(frames[3].image.astype(int) - frame(120)).mean() < 4
    assert read_video(reader) is reader


def test_of_one_frame(tmp_path):
    reader = read_video(write(tmp_path / "a.mp4", [90]))
    assert levels_of(reader) == [2] and reader.num_frames == 1


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_is_turned_upright(tmp_path, rotation):
    """A quarter turn of the display matrix exchanges the sides, and the corner is where the viewer sees it."""
    path = tmp_path / "a.mp4"
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a display matrix")
    reader = read_video(write(path, rotation=rotation))
    assert reader.size == ((32, 24) if rotation == 180 else (24, 32))
    (image, *_) = [item.image for item in reader]
    expected = np.rot90(frame(30), rotation // 90)
    assert image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 4


def test_variable_rate_becomes_constant(tmp_path):
    """Frames at 0, 100, 200 ms, then a pause of 300 ms, then two within one tick: one is repeated, one left out."""
    path = write(tmp_path / "a.mkv", pts=[0, 100, 200, 500, 600, 640, 700])
    assert levels_of(read_video(path, frame_rate=10)) == [0, 1, 2, 2, 2, 3, 5, 6]
    reader = read_video(path)
    assert len(list(reader)) == pytest.approx(0.7 * reader.frame_rate, abs=1.5)
    assert levels_of(read_video(path, frame_rate=5)) == [0, 2, 2, 5, 6]  # ticks 0, 200, 400, 600 ms, and the end


def test_jitter_of_time_stamps_does_no_harm(tmp_path):
    path = write(tmp_path / "a.mkv", pts=[3, 98, 207, 301, 395, 504, 600])
    assert levels_of(read_video(path, frame_rate=10)) == list(range(7))


def test_images(tmp_path):
    arrays = [frame(level) for level in LEVELS]
    for index, image in enumerate(arrays):
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    (tmp_path / "notes.txt").write_text("no image")
    for source in (tmp_path, str(tmp_path), arrays, np.stack(arrays), [Image.fromarray(image) for image in arrays]):
        reader = read_video(source, frame_rate=5)
        assert (reader.size, reader.frame_rate, reader.num_frames, reader.is_rewindable) == ((32, 24), 5.0, 7, True)
        assert levels_of(reader) == levels_of(reader) == list(range(7))
        np.testing.assert_array_equal(next(iter(reader)).image, arrays[0])
    reader = read_video(image for image in arrays)
    assert (reader.frame_rate, reader.num_frames, reader.is_rewindable) == (30.0, None, False)
    assert levels_of(reader) == list(range(7))
    with pytest.raises(ValueError, match="can be read once only"):
        next(iter(reader))


def test_an_iterator_is_read_as_it_is_used():
    taken = []

    def images():
        for level in LEVELS:
            taken.append(level)
            yield frame(level)

    frames = iter(read_video(images()))
    next(frames), next(frames)
    assert taken == LEVELS[:2]


def test_refuses_files(tmp_path):
    with pytest.raises(ValueError, match=r"`video` must be a file, .*missing\.mp4' is none"):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.mp4\) must be a video file; this file is empty"):
        read_video(tmp_path / "empty.mp4")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(ValueError, match=r"noise\.mp4\) cannot be read as a video"):
        read_video(tmp_path / "noise.mp4")
    whole = write(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.mp4\) cannot be read as a video"):
        read_video(tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match=r"must have a video stream; there is audio only"):
        read_video(write_sound(tmp_path / "sound.mp4"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="without images"):
        read_video(tmp_path / "folder")


def test_corrupt_data_is_an_error_not_a_hang(tmp_path):
    path = write(tmp_path / "a.mkv", levels=LEVELS * 8)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = np.random.default_rng(0).bytes(len(data) - len(data) // 2)
    path.write_bytes(bytes(data))
    try:
        count = len(list(read_video(path)))
    except ValueError as error:
        assert "corrupt after" in str(error) or "cannot be read" in str(error)
    else:
        assert 0 < count < 56


def test_a_file_that_is_cut_off_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("hvmodels.video.logger.warning", said.append)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:  # the index is before the frames
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(40):
            noise = np.random.randint(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    try:
        count = len(list(read_video(path)))
    except ValueError as error:
        assert "corrupt after" in str(error)
    else:
        assert 0 < count < 40 and said == [f"`video` ({path}) ends after {count} of 40 frames; the file is cut off."]


def test_refuses_images(tmp_path):
    for index, size in enumerate([(32, 24), (32, 24), (30, 24)]):
        Image.fromarray(frame(90, size)).save(tmp_path / f"{index}.png")
    with pytest.raises(ValueError, match=r"frame 2 has 30 x 24 pixels and the first 32 x 24"):
        list(read_video(tmp_path))
    with pytest.raises(ValueError, match="must have at least one frame"):
        read_video([])
    with pytest.raises(ValueError, match="must have at least one frame"):
        read_video(iter(()))
    with pytest.raises(TypeError, match=r"has a frame that is no image: `image` must be a PIL image"):
        list(read_video([frame(30), 3]))
    with pytest.raises(ValueError, match=r"must be an array \(frames, height, width, 3\)"):
        read_video(frame(30))
    for source in (None, 2.5, Image.new("RGB", (4, 4)), True):
        with pytest.raises(TypeError, match="`video` must be a file"):
            read_video(source)
    for rate in (0, -1, "fast", float("nan"), True):
        with pytest.raises(ValueError, match="`frame_rate` must be a positive number"):
            read_video([frame(30)], frame_rate=rate)


def test_refuses_a_camera_that_is_not_there():
    with pytest.raises(ValueError, match="cannot be read as a video"):
        read_video(63)


@pytest.mark.parametrize("size", [(32, 24), (33, 25)], ids=["even", "odd"])
def test_writes(tmp_path, size):
    path = tmp_path / "new" / "out.mp4"
    with VideoWriter(path, frame_rate=12.5) as writer:
        for level in LEVELS:
            writer.write(Image.fromarray(frame(level, size)))
    reader = read_video(path)
    assert reader.frame_rate == 12.5 and reader.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert levels_of(reader) == list(range(7))
    for item, level in zip(reader, LEVELS, strict=True):
        assert np.abs(item.image[: size[1], : size[0]].astype(int) - frame(level, size)).mean() < 8
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_nothing_is_left_of_a_failed_video(tmp_path):
    path = tmp_path / "out.mp4"
    message = r"must have the size of the first frame, \(32, 24\), got \(24, 32\)"
    with pytest.raises(ValueError, match=message), VideoWriter(path) as writer:
        writer.write(frame(30))
        writer.write(frame(30, (24, 32)))
    assert not path.exists()
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(path):
        pass
    assert not path.exists()


def test_refuses_to_write(tmp_path):
    with pytest.raises(ValueError, match=r"must be named \.mp4"):
        VideoWriter(tmp_path / "out.gif")
    with pytest.raises(ValueError, match="`frame_rate` must be a positive number"):
        VideoWriter(tmp_path / "out.mp4", frame_rate=0)


def test_without_pyav(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install hvmodels\[video\]"):
        read_video(path)
    with pytest.raises(ImportError, match=r"pip install hvmodels\[video\]"):
        VideoWriter(tmp_path / "b.mp4")
    assert levels_of(read_video([frame(level) for level in LEVELS])) == list(range(7))


def test_reads_the_clips(shared_data):
    reader = read_video(shared_data / "data" / "videos" / "two_people.mp4")
    assert reader.size == (408, 720) and reader.frame_rate == 30 and len(list(reader)) == reader.num_frames == 50
